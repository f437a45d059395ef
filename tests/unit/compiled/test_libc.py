"""System calls from kernels: results, and errors as negative numbers."""

import errno
import os
import select
import socket
import struct
import threading
import time

import numpy as np
import pytest

from unpinned.compiled import libc

FIONREAD = 0x541B
MADV_DONTNEED = 4


@pytest.fixture
def pipe():
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)


@pytest.fixture
def sockets():
    pair = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    yield pair
    for end in pair:
        end.close()


def words(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def message(buffer: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A struct mmsghdr for one iovec, and the iovec (keep it alive)."""
    iovec = words(buffer.ctypes.data, buffer.nbytes)
    return words(0, 0, iovec.ctypes.data, 1, 0, 0, 0, 0), iovec


def test_read_write_and_errors(pipe) -> None:
    reader, writer = pipe
    data = np.frombuffer(b"hello", np.uint8).copy()
    assert libc.sys_write(writer, data.ctypes.data, 5) == 5
    assert libc.sys_ioctl(reader, FIONREAD, (count := words(0)).ctypes.data) == 0 and count[0] == 5
    into = np.zeros(8, np.uint8)
    assert libc.sys_read(reader, into.ctypes.data, 8) == 5 and into.tobytes() == b"hello\0\0\0"
    assert libc.sys_read(10**6, into.ctypes.data, 8) == -errno.EBADF
    assert libc.sys_madvise(1, 4096, MADV_DONTNEED) == -errno.EINVAL
    assert libc.sys_call(10**5, 0, 0, 0, 0, 0, 0) == -errno.ENOSYS


def test_poll(pipe) -> None:
    reader, writer = pipe
    assert libc.poll1(reader, 0) == 0
    os.write(writer, b"x")
    assert libc.poll1(reader, -1) == select.POLLIN
    assert libc.poll1(10**6, 0) == select.POLLNVAL


def test_epoll_and_eventfd() -> None:
    epoll, event = libc.sys_epoll_create(), os.eventfd(0, os.EFD_NONBLOCK)
    try:
        assert libc.sys_epoll_ctl(epoll, libc.EPOLL_CTL_ADD, event, libc.EPOLLIN, 1 << 40 | 7) == 0
        assert libc.sys_epoll_wait(epoll, 0) == -errno.EAGAIN
        assert libc.eventfd_read(event) == -errno.EAGAIN
        assert libc.eventfd_write(event, 3) == 8 and libc.eventfd_write(event, 4) == 8
        assert libc.sys_epoll_wait(epoll, -1) == 1 << 40 | 7
        assert libc.eventfd_read(event) == 7
        assert libc.sys_epoll_ctl(epoll, libc.EPOLL_CTL_ADD, event, libc.EPOLLIN, 0) == -errno.EEXIST
    finally:
        os.close(epoll)
        os.close(event)


def test_messages(sockets) -> None:
    left, right = sockets
    out, into = np.arange(100, dtype=np.uint8), np.zeros(200, np.uint8)
    (header, kept), (target, also_kept) = message(out), message(into)
    assert libc.sys_sendmsg(left.fileno(), header.ctypes.data, 0) == 100
    assert libc.sys_recvmsg(right.fileno(), target.ctypes.data, 0) == 100 and (into[:100] == out).all()
    assert libc.sys_sendmmsg(left.fileno(), header.ctypes.data, 1, 0) == 1
    assert libc.sys_recvmmsg(right.fileno(), target.ctypes.data, 1, 0) == 1
    assert struct.unpack_from("<I", target.tobytes(), 56) == (100,)
    assert libc.sys_recvmsg(right.fileno(), target.ctypes.data, socket.MSG_DONTWAIT) == -errno.EAGAIN
    del kept, also_kept


def test_process_vm_on_ourselves() -> None:
    source, target = np.arange(64, dtype=np.uint8), np.zeros(64, np.uint8)
    local, remote = words(target.ctypes.data, 64), words(source.ctypes.data, 64)
    pid = libc.sys_getpid()
    assert pid == os.getpid()
    assert libc.sys_process_vm_readv(pid, local.ctypes.data, 1, remote.ctypes.data, 1) == 64
    assert (target == source).all()
    source[:] = 9
    local, remote = remote, local
    assert libc.sys_process_vm_writev(pid, local.ctypes.data, 1, remote.ctypes.data, 1) == 64
    assert (target == 9).all()
    remote[0] = 4096  # below every mapping
    assert libc.sys_process_vm_writev(pid, local.ctypes.data, 1, remote.ctypes.data, 1) == -errno.EFAULT


def test_clock() -> None:
    before = time.monotonic_ns()
    now = libc.monotonic_ns()
    assert before <= now <= time.monotonic_ns()


def test_futex_without_anybody() -> None:
    word = words(-1 << 32 | 5)  # only the low 32 bits count
    assert libc.futex_wait(word.ctypes.data, 4, -1) == -errno.EAGAIN
    assert libc.futex_wait(word.ctypes.data, 5, 1000) == -errno.ETIMEDOUT
    assert libc.futex_wake(word.ctypes.data, 1) == 0
    assert libc.sys_sched_yield() == 0


def test_a_futex_sleeper_holds_no_gil_and_is_woken() -> None:
    word = words(1)
    libc.futex_wait(word.ctypes.data, 0, 0)  # compile
    woken: list[int] = []
    thread = threading.Thread(target=lambda: woken.append(libc.futex_wait(word.ctypes.data, 1, -1)))
    thread.start()
    while libc.futex_wake(word.ctypes.data, 1) == 0:  # until it sleeps
        time.sleep(0)
    thread.join()
    assert woken == [0]
