"""What a policy costs: workloads over the real paging kernels, in virtual time.

* `layout`     every word of the block `s`: the modelled host, its actors, what is measured.
* `memory`     the host's page table, frames and held frames; `held` is what a deferral costs.
* `hca`        a device's own side: translation cache, streams of accesses, fault service, flush engine.
* `host`       the CPU side: operations that change the page table, and the reclaim daemon.
* `events`     the one loop: whose turn it is.
* `profiles`, `policies`, `workloads`   what is varied, as data.
* `traces`     recordings as workloads.
* `simulate`   one run: build the blocks, go, read the counters. `sweep` many runs, in parallel.
* `report`, `charts`, `table`   what a person sees.
* `replay`     a recording through the model.

The protocol is `unpinned.paging`'s, compiled once and the same that runs live; nothing of it is written here. The host is a
thin one made for speed (free lists, one word a page): page-level semantics of Linux's mm, no scheduler that owns every
choice. Exhaustive exploration is `unpinned.check`.
"""
