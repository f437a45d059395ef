"""Floor 0: how this project compiles, and the only place that touches raw addresses, LLVM or libc.

* `kernel`      the one decorator: a Python function becomes machine code that runs without the GIL.
* `cache`       where compiled code is kept, and the rule that says when it is stale.
* `twinned`     intrinsics that know their plain-Python twin, all of them in `interpreted`.
* `atomics`     acquire, release and read-modify-write on ``int64[:]`` arrays.
* `intrinsics`  raw loads, stores and copies by address.
* `arena`       big-endian numbers in a byte array.
* `crc32`       CRC-32, as fast as the CPU allows.
* `libc`        the system calls that kernels make; a failure comes back as ``-errno``.
* `build`       compiles every entry point ahead of time, in as many processes as there are cores.

Imports nothing from the rest of the project. With ``NUMBA_DISABLE_JIT=1`` everything here is plain Python
with the same names and meanings so that all floors above can be run, traced and covered.
"""

from unpinned.compiled.decorator import INTERPRETED, inlined_kernel, kernel

__all__ = ["INTERPRETED", "inlined_kernel", "kernel"]
