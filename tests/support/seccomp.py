"""A real seccomp filter: from `refuse` on, the kernel refuses this process the calls that a container's profile would.

There is no way back, so a test installs it in a process of its own, before that has threads (they inherit it).
"""

from __future__ import annotations

import ctypes
import errno
import platform
import struct

from support import Missing

# Numbers of asm/unistd_64.h and of asm-generic/unistd.h.
_COLUMN = {"x86_64": 0, "aarch64": 1}
_CALLS = {
    "ioctl": (16, 29),
    "madvise": (28, 233),
    "sched_setattr": (314, 274),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "memfd_create": (319, 279),
    "userfaultfd": (323, 282),
}
_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 38, 22, 2
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_LOAD, _IF_EQUAL, _RETURN = 0x20, 0x15, 0x06  # BPF_LD|BPF_W|BPF_ABS, BPF_JMP|BPF_JEQ|BPF_K, BPF_RET|BPF_K
_NUMBER, _SECOND_ARGUMENT = 0, 24  # offsets in struct seccomp_data; of the argument the low half


def refuse(*calls: str, error: int = errno.EPERM, ioctls: tuple[int, ...] = (), advices: tuple[int, ...] = ()) -> None:
    """Let these system calls, these requests of ioctl and these advices of madvise fail with *error*, for good."""
    column = _COLUMN.get(platform.machine())
    if column is None:
        raise Missing(f"no system call numbers for {platform.machine()}")
    program = [_instruction(_LOAD, _NUMBER)]
    for call in calls:
        program += [_instruction(_IF_EQUAL, _CALLS[call][column], 0, 1), _instruction(_RETURN, _ERRNO | error)]
    for call, offset, values in (("ioctl", _SECOND_ARGUMENT, ioctls), ("madvise", _SECOND_ARGUMENT + 8, advices)):
        for value in values:
            program += [
                _instruction(_LOAD, _NUMBER),
                _instruction(_IF_EQUAL, _CALLS[call][column], 0, 3),
                _instruction(_LOAD, offset),
                _instruction(_IF_EQUAL, value, 0, 1),
                _instruction(_RETURN, _ERRNO | error),
            ]
    program.append(_instruction(_RETURN, _ALLOW))
    code = ctypes.create_string_buffer(b"".join(program))
    filter_ = ctypes.create_string_buffer(struct.pack("=H6xQ", len(program), ctypes.addressof(code)))  # struct sock_fprog
    libc = ctypes.CDLL(None, use_errno=True)
    zero = ctypes.c_ulong(0)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, ctypes.c_ulong(1), zero, zero, zero) or libc.prctl(
        _PR_SET_SECCOMP, ctypes.c_ulong(_SECCOMP_MODE_FILTER), ctypes.byref(filter_), zero, zero
    ):
        raise Missing(f"no seccomp filter can be installed here: errno {ctypes.get_errno()}")


def _instruction(code: int, operand: int, then: int = 0, otherwise: int = 0) -> bytes:
    """struct sock_filter."""
    return struct.pack("=HBBI", code, then, otherwise, operand)
