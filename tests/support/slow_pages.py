"""Pages that take as long as the test likes: behind a userfaultfd of its own, which kernel threads of a fault wait for too."""

from __future__ import annotations

import ctypes
import fcntl
import os
import select
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from unpinned.compiled.libc import SYS_USERFAULTFD
from unpinned.host.userfaultfd import UFFDIO_API, UFFDIO_REGISTER

from . import Missing, need_root

UFFDIO_COPY = 0xC028AA03
REGISTER_MODE_MISSING = 1
EVENT_PAGEFAULT = 0x12
PAGE = 4096


class SlowPages:
    """Who touches a page of the range that is not there waits until `release`, then finds it full of *byte*."""

    def __init__(self, fd: int, byte: int) -> None:
        self.fd = fd
        self.touched = threading.Event()
        """Somebody waits."""
        self._content = ctypes.create_string_buffer(bytes([byte]) * (2 * PAGE), 2 * PAGE)
        self._go = threading.Event()
        self._done, self._end = os.pipe()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def release(self, after_s: float = 0.0) -> threading.Timer | None:
        """Let go of those who wait and will wait, now or in a while."""
        if after_s:
            timer = threading.Timer(after_s, self._go.set)
            timer.start()
            return timer
        self._go.set()
        return None

    def hold(self) -> None:
        """Let pages be slow again."""
        self._go.clear()
        self.touched.clear()

    @property
    def released(self) -> bool:
        return self._go.is_set()

    def _serve(self) -> None:
        while self._done not in select.select([self.fd, self._done], [], [])[0]:
            try:
                message = os.read(self.fd, 32)
            except BlockingIOError:
                continue
            if message[0] == EVENT_PAGEFAULT:
                self.touched.set()
                self._go.wait()
                self._copy(struct.unpack_from("=Q", message, 16)[0] & -PAGE)

    def _copy(self, page: int) -> None:
        source = -(-ctypes.addressof(self._content) & -PAGE)
        try:
            fcntl.ioctl(self.fd, UFFDIO_COPY, bytearray(struct.pack("=QQQQq", page, source, PAGE, 0, 0)))
        except FileExistsError:
            pass  # two waited for it

    def close(self) -> None:
        self._go.set()
        os.close(self._end)
        self._thread.join(10)
        for fd in (self.fd, self._done):
            os.close(fd)


@contextmanager
def slow_pages(address: int, length: int, byte: int) -> Iterator[SlowPages]:
    """Make the missing pages of [address, address + length) slow."""
    need_root()
    fd = ctypes.CDLL(None, use_errno=True).syscall(
        ctypes.c_long(SYS_USERFAULTFD), ctypes.c_int(os.O_CLOEXEC | os.O_NONBLOCK)
    )
    if fd < 0:
        raise Missing(f"no userfaultfd for kernel faults: {os.strerror(ctypes.get_errno())}")
    fcntl.ioctl(fd, UFFDIO_API, bytearray(struct.pack("=QQQ", 0xAA, 0, 0)))
    fcntl.ioctl(fd, UFFDIO_REGISTER, bytearray(struct.pack("=QQQQ", address, length, REGISTER_MODE_MISSING, 0)))
    pages = SlowPages(fd, byte)
    try:
        yield pages
    finally:
        pages.close()
