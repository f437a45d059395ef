"""Floor 1: the secondary page table, its faults and its invalidations. Pure: no socket, thread, clock, random or
syscall.

* `layout`    every word of the block `p`, as constants; `create` and record views.
* `table`     the radix tree: translate, install, zap.
* `dma`       descriptors of copies: "translated", "copied" and "completed" are three separate steps.
* `notifier`  the one owner of the collision protocol: invalidations, deferral, flushes.
* `flushes`   what deferral owes, and the one flush that pays for many; `collisions` who collides with whom.
* `faults`    a miss, brought in step by step, bounded in retries.
* `regions`   bounds, revoked extents and counters of memory regions.
* `causes`    who changes the CPU's page table, and what may then be skipped, deferred or refused.
* `policy`    cause -> verdict as data, with the capabilities of each world.
* `audit`     is a block consistent? For tests and the model.

May import NumPy, numba through `unpinned.compiled`, and nothing above. Promises upward: every function is a step that
does bounded work, is called by whoever holds the device's lock, and returns a status; wherever a thread can lose a
race, there are two functions. The live world and the model call the same ones.
"""

from unpinned.paging.layout import Block, create, view

__all__ = ["Block", "create", "view"]
