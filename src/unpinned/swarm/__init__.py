"""The swarm: whole stacks in virtual time, every choice drawn from a seed, every invariant looked at after every step.

Two to eight HCAs, each with the transport and the paging that run live (`hca`, `paging`: the same compiled functions, in the
order in which `host.burst` calls them), a memory, a kernel that takes pages away for every cause, fault workers that are slow,
and a wire that delays, loses, repeats and reorders. A *schedule* is what follows from one seed; `engine.run` runs a range of
them without returning to Python, about a millisecond each.

* `layout`    every word of a world (block ``w``), declared once; `image` builds the world that schedules start from
* `chance`    where choices come from: (seed, concern, index), so that leaving one out leaves the others as they are
* `events`    what happens next
* `hosts`     one device's driver: rounds, copies, timers
* `memory`    frames, page-table entries, swap; the copies, and whether each was allowed (I1, I2, I3)
* `pagers`    scans and fault workers; `notices` invalidations and flushes (I8, I10)
* `network`   the wire; `workload` what is posted; `judges` whether the answers are right (I4, I5, I7)
* `adapter`   what today's adapters do with a fault, for the comparison; `engine` the loop (I6, I9)
* `cases`     one schedule from Python: run, trace, shrink, keep; `jobs` what a campaign calls

It imports hca, paging, wire, compiled and campaign, never the live world.
"""
