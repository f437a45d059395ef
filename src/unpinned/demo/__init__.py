"""The demonstration: real memory is read, written and added to over the wire while its owner does to it what processes do.

Three processes. The *conductor* (`conductor`, the command itself: no compiler, no device) starts an *owner* (`owner`), who
serves memory and mistreats it (`actions`, `victims`), and a *peer* (`peer`, `traffic`), who uses it and checks every byte
(`contents`). They share one page of counters (`ledger`) and talk in lines of JSON (`channel`). Then come `report` and
`picture` (drawn on a `canvas`).

May import `verbs` and what lies below it; only `cli` imports it. It promises that nothing outlives the command: no process, no
temporary file.
"""
