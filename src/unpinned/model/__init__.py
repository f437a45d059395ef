"""Floor 3, the modelled side: a kernel's memory management, HCAs and a scheduler that owns every choice.

* `layout`      every word of the block `w`: a whole world, with the paging blocks of its devices in it.
* `machine`     frames, slots, page-table entries: what the kernel's mm does in one step.
* `operations`  munmap, reclaim, fork, copy-on-write ...: steps in the real kernel's order, raising notifications.
* `adapter`     how the machine calls the live paging steps: start, wait, finish, flush, obligations.
* `device`      the HCA's side: translation cache, wire requests, driver and worker of its faults, its flush.
* `properties`  the invariants as they apply here; `canonical` equal situations are equal words; `explore` every interleaving.

May import NumPy, numba through `unpinned.compiled`, `paging`, `hca` and `wire`; not `host` or above. The protocol is not
written a second time here: every decision about a page is taken by the compiled functions that also run live.
"""
