"""The live world: Linux memory, Linux datagrams and the threads of the device.

* `layout`       scratch words that its kernels work in.
* `copies`       `execute`: DMA descriptors become copies; the only place that touches a region's bytes.
* `pagemap`      which pages are there, and bringing them in.
* `userfaultfd`  the notifier's source: what the process does to its own mappings.
* `vmas`         what the kernel says about an address range (/proc/self/maps).
* `memory`       how a buffer or a file is reached: owned, aliased, foreign or a file's own mapping.
* `owned`        arrays on sealed memory of our own, mapped twice; `system` the calls below, `ranges` what is counted.
* `udp`          the socket; `datagrams` its kernels.
* `capabilities` what this kernel and container allow, tried out.
* `engine`       the threads that drive paging and hca.

Imports paging, wire, hca and compiled. Promises upward: no signal, no crash and no stray byte through memory that is
ours or aliased; a copy at an address that is gone is an errno. Whoever runs these kernels needs no GIL.
"""
