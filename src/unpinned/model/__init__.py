"""Floor 3, the modelled side: a kernel's memory management, HCAs and a scheduler that owns every choice.

* `layout`      every word of the block `w`: a whole world, with the paging blocks of its devices in it.
* `machine`     frames, slots, page-table entries: what the kernel's mm does in one step.
* `operations`  munmap, reclaim, fork, copy-on-write ...: steps in the real kernel's order, raising notifications;
  `locks` how they begin, `changes` what they do to page-table entries.
* `adapter`     how the machine calls the live paging steps: start, wait, finish, flush, obligations.
* `device`      the HCA's side: translation cache, wire requests, driver; `copies` what a copy touches, and whether it may;
  `worker` who brings pages in for its faults.
* `properties`  the invariants as they apply here; `canonical`, `symmetry`: equal situations are equal words; `automorphisms`: what
  a world does not tell apart; `page_names`: all that names a page.
* `interleavings` all of them, in compiled code; `search` what Python calls.
* `fairness` the livelocks in them, `livelock` one as a trace; `group`: who is whose image, where things are exchanged.
* `world`       small worlds as data; `narration` a step in words.

May import NumPy, numba through `unpinned.compiled`, `paging`, `hca` and `wire`; not `host` or above. The protocol is not
written a second time here: every decision about a page is taken by the compiled functions that also run live.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unpinned.model.narration import Step
    from unpinned.model.search import Limits, ReplayError, Result, estimate, explore, replay
    from unpinned.model.world import Op, Request, World, WorldError

__all__ = [
    "Limits",
    "Op",
    "ReplayError",
    "Request",
    "Result",
    "Step",
    "World",
    "WorldError",
    "estimate",
    "explore",
    "replay",
]

_HOMES = {"Step": "narration", "Op": "world", "Request": "world", "World": "world", "WorldError": "world"}


def __getattr__(name: str) -> Any:
    """Public names are fetched on first use: the swarm and the study need the machine, not the explorer."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES.get(name, 'search')}"), name)
