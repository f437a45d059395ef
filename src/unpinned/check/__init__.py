"""`unpinned check`: every interleaving of small worlds, for every cause, verdict and notifier mode.

* `worlds`    the small worlds, as data.
* `matrix`    cause x verdict x notifier mode -> SAFE, BOUNDED or UNSAFE; `search` explores it on all cores.
* `explain`   what the invariants, modes and verdicts say.
* `trace`     a counterexample: actors, steps, what changed. `replay` makes one and runs a kept one again; `picture` says what
  every place holds; `diagram` and `page` draw it.
* `mutants`   seeded defects; `mutate` puts them into a copy of the sources, `kills` and `worker` explore it.

May import `model` and everything below it; never host, verbs or remote.
"""
