"""A container that refuses system calls, by a real seccomp filter: what can be had still works, the rest is refused in a sentence
that names the call, and `unpinned doctor` tells the same.
"""

import contextlib
import errno
import io
import mmap
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import unpinned
from support import Missing, seccomp
from support.forked import Forked, Line
from support.memory import mapped
from support.verbs import ALL, End, connect
from unpinned import cli
from unpinned import verbs as v
from unpinned.host import capabilities, memory, system
from unpinned.host.pagemap import MADV_POPULATE_READ, MADV_POPULATE_WRITE, PAGEMAP_SCAN
from unpinned.host.userfaultfd import UFFDIO_API, UFFDIO_REGISTER, USERFAULTFD_IOC_NEW
from unpinned.host.vmas import PROCMAP_QUERY

pytestmark = [pytest.mark.system, pytest.mark.compiled_only]
SIZE = 1 << 16
NO_COPIES = "process_vm_readv: EPERM, .*seccomp.*only memory of unpinned.empty"


def refused(body: Callable[[], None], *calls: str, **more: object) -> None:
    """Run *body* in a process that is refused these calls; what it asserts, the test asserts."""

    def child(line: Line) -> None:
        try:
            seccomp.refuse(*calls, **more)
        except Missing as missing:
            line.answer(str(missing))
            return
        line.answer("")
        body()

    process = Forked(child)
    missing = process.answer()
    try:
        if missing:
            pytest.skip(missing)
    finally:
        process.close()


def lacks(name: str, text: str) -> None:
    """`doctor` has this facility as missing, and says why."""
    found = capabilities.probe(name)
    assert not found.available and text in found.detail, found


def transfer(*buffers: object) -> list[str]:
    """A WRITE and a READ between two regions on each of these; why they are unnotified."""
    reasons = []
    for buffer in buffers:
        one, other = End.open(SIZE), End.open(buffer, ALL)
        connect(one, other)
        data = np.random.default_rng(1).bytes(5000)
        one.mr.region.mapping.owner[0][:5000] = np.frombuffer(data, np.uint8)
        one.remote(v.IBV_WR_RDMA_WRITE, other.mr, 0, 3000, 5000)
        one.wait()
        one.remote(v.IBV_WR_RDMA_READ, other.mr, 20_000, 3000, 5000)
        one.wait()
        one.atomic(other.mr, 16, add=5)
        one.wait()
        assert bytes(one.mr.region.mapping.owner[0][20_000:25_000]) == data
        reasons.append(other.mr.unnotified)
        one.context.close()
        other.context.close()
    return reasons


def every_kind() -> list[object]:
    return [np.zeros(SIZE, np.uint8), SIZE, mmap.mmap(-1, SIZE)]


def test_no_process_vm(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.arange(1000))

    def body() -> None:
        with v.Context() as context:
            pd = v.PD(context)
            for register in (lambda: v.MR(pd, np.zeros(SIZE, np.uint8)), lambda: v.FileMR(pd, tmp_path / "x.npy"),
                             lambda: v.MR(pd, implicit=True)):  # fmt: skip
                with pytest.raises(PermissionError, match=NO_COPIES):
                    register()
            with pytest.raises(PermissionError, match=f"array 'x'.*{NO_COPIES}"):
                unpinned.serve({"x": str(tmp_path / "x.npy")})
        assert transfer(SIZE, mmap.mmap(-1, SIZE)) == ["", ""]
        array = unpinned.empty(1000, np.int64)
        array[:] = range(1000)
        with unpinned.serve({"x": array}) as server, unpinned.connect(server.address) as client:
            assert (client["x"][:] == array).all()
        lacks("process_vm", "process_vm_readv: EPERM")
        with contextlib.redirect_stdout(io.StringIO()) as said:
            assert cli.main(["doctor"]) == 0
        words = " ".join(said.getvalue().split())
        assert "NO process_vm process_vm_readv: EPERM" in words and "costs: private memory and files cannot be registered" in words
        assert "Everything works" not in words

    refused(body, "process_vm_readv", "process_vm_writev")


def test_no_process_vm_for_writing() -> None:
    def body() -> None:
        with v.Context() as context, pytest.raises(OSError, match="process_vm_writev: ENOSYS"):
            v.MR(v.PD(context), np.zeros(SIZE, np.uint8))
        lacks("process_vm", "process_vm_writev: ENOSYS")

    refused(body, "process_vm_writev", error=errno.ENOSYS)


@pytest.mark.parametrize(
    ("calls", "ioctls", "named"),
    [
        (["userfaultfd"], (USERFAULTFD_IOC_NEW,), "userfaultfd: EPERM"),
        ([], (UFFDIO_API,), "UFFDIO_API: EPERM"),
        ([], (UFFDIO_REGISTER,), "UFFDIO_REGISTER: EPERM"),
    ],
    ids=["system call", "api", "register"],
)
def test_no_events(calls: list[str], ioctls: tuple[int, ...], named: str) -> None:
    """All of it works unnotified; memory that goes away is an error at the next copy."""

    def body() -> None:
        assert all(named in reason for reason in transfer(*every_kind()))
        lacks("unmap events", named)
        with mapped(16) as place:
            one, other = End.open(SIZE), End.open(1 << 12)
            connect(one, other)
            mr = v.MR(other.pd, SIZE, ALL, address=place)
            one.remote(v.IBV_WR_RDMA_READ, mr, 0, 0, SIZE)
            one.wait()
            system.unmap(place, SIZE)
            one.remote(v.IBV_WR_RDMA_READ, mr, 0, 0, SIZE)
            one.wait(v.IBV_WC_REM_ACCESS_ERR)

    refused(body, *calls, ioctls=ioctls)


def test_no_memfd() -> None:
    def body() -> None:
        memory._anonymous_device.cache_clear()
        with pytest.raises(PermissionError, match="memfd_create: EPERM, .*seccomp"):
            unpinned.empty(10)
        with v.Context() as context:
            pd = v.PD(context)
            with v.MR(pd, np.zeros(SIZE, np.uint8)) as mr:
                mr.write(b"abc")
                assert mr.read(3) == b"abc"
            with v.MR(pd, mmap.mmap(-1, SIZE)) as mr:
                assert mr.kind == "alias"
        with unpinned.serve({"x": np.arange(1000)}):
            pass
        lacks("sealed memory", "memfd_create: EPERM")

    refused(body, "memfd_create")


def test_an_older_kernel() -> None:
    """Without PAGEMAP_SCAN, PROCMAP_QUERY (ENOTTY) and short scheduler slices."""

    def body() -> None:
        assert transfer(*every_kind()) == ["", "", ""]
        lacks("PAGEMAP_SCAN", os.strerror(errno.ENOTTY))
        lacks("PROCMAP_QUERY", os.strerror(errno.ENOTTY))

    refused(body, "sched_setattr", error=errno.ENOTTY, ioctls=(PAGEMAP_SCAN, PROCMAP_QUERY))


@pytest.mark.parametrize("error", [errno.EINVAL, errno.EPERM, errno.ENOSYS], ids=lambda error: errno.errorcode[error])
def test_no_populate(error: int) -> None:
    """EINVAL: an older kernel. What `doctor` says of it is so: faults bring in pages one by one."""

    def body() -> None:
        assert transfer(*every_kind()) == ["", "", ""]
        lacks("populate", os.strerror(error))

    refused(body, error=error, advices=(MADV_POPULATE_READ, MADV_POPULATE_WRITE))
