"""The four questions of 2011 about pageable memory for an RDMA device, answered from `check` and `study`.

* `evidence`  runs what an answer rests on: explored cells, traces, runs in virtual time.
* `text`      the answers as Markdown. Every figure in it comes from the evidence, none is typed.

May import `check`, `study` and what is below them.
"""
