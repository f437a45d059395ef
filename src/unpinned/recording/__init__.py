"""Recordings of what a device did: accesses per page and direction, faults, invalidations with their cause, times.

* `layout`  the words of a record and of the ring.
* `ring`    a bounded ring that kernels of any thread put records into; what finds no room is counted, nobody waits.
* `file`    the compact file: header, compressed blocks with checksums, an end that says it is whole.
* `chrome`  the same as a timeline for Perfetto and chrome://tracing.

Imports `compiled` and `paging`; the host records, the study replays.
"""
