"""Memory regions: any buffer, three kinds of memory, rights, advice, pinning, what is not there."""

import errno
import mmap
import os
import threading
from contextlib import ExitStack

import numpy as np
import pytest

from support import mmu
from support.memory import MAP_FIXED_NOREPLACE, behind, mapped, view
from support.python import run_python
from support.verbs import ALL, nonzero, pair
from unpinned import verbs as v
from unpinned.host import engine_words as E
from unpinned.host import system
from unpinned.host.lock import lock, unlock
from unpinned.host.owned import empty
from unpinned.host.userfaultfd import Userfaultfd

pytestmark = [pytest.mark.system, pytest.mark.compiled_only]
READ = v.IBV_ACCESS_REMOTE_READ | v.IBV_ACCESS_ON_DEMAND
PAGE = mmap.PAGESIZE


@pytest.fixture
def pd(no_leaks):
    with v.Context() as context, v.PD(context) as domain:
        yield domain


def kinds():
    yield "bytearray", bytearray(10_000), "foreign"
    yield "array", np.zeros(10_000, "u1"), "foreign"
    yield "dates", np.zeros(100, "M8[s]"), "foreign"
    yield "mmap", mmap.mmap(-1, 3 * PAGE), "alias"
    yield "private", mmap.mmap(-1, 3 * PAGE, flags=mmap.MAP_PRIVATE), "foreign"
    yield "owned", empty(10_000, "u1"), "owned"


@pytest.mark.parametrize(("name", "buffer", "kind"), list(kinds()))
def test_any_buffer_can_be_registered(pd, name, buffer, kind):
    with v.MR(pd, buffer) as mr:
        size = memoryview(buffer).nbytes if name != "dates" else buffer.nbytes
        assert (mr.length, mr.kind, mr.unnotified) == (size, kind, "")
        assert mr.lkey == mr.rkey != 0
        mr.write(b"12345", offset=20)
        assert mr.read(5, 20) == b"12345"
        if name != "dates":
            assert bytes(memoryview(buffer)[20:25]) == b"12345"


@pytest.mark.parametrize("kind", ["foreign", "alias", "owned"])
def test_what_the_peer_writes_is_in_the_buffer(kind):
    make = {"foreign": np.zeros, "owned": empty, "alias": lambda n, t: np.frombuffer(mmap.mmap(-1, n), t)}[kind]
    buffer = make(1 << 20, "u1")
    with pair() as (a, b), v.MR(b.pd, buffer, ALL) as mr:
        assert mr.kind == kind
        a.mr.write(b"x" * 50_000)
        a.remote(v.IBV_WR_RDMA_WRITE, mr, 0, 123, 50_000)
        a.wait()
        assert bytes(buffer[123:50_123]) == b"x" * 50_000 and not buffer[50_123:].any() and not buffer[:123].any()
        assert mr.counters["pages_in"] >= 12 and mr.counters["faults_failed"] == 0


def test_a_buffer_is_kept_alive_until_the_region_is_closed(pd):
    source = bytearray(PAGE)
    mr = v.MR(pd, source)
    with pytest.raises(BufferError):
        source.extend(b"x")
    mr.close()
    source.extend(b"x")
    shared = mmap.mmap(-1, PAGE)
    with v.MR(pd, shared), pytest.raises(BufferError):
        shared.close()
    shared.close()


def test_registering_costs_nothing_and_pins_nothing(pd):
    size = 64 << 30
    array = empty(size, "u1")
    with v.MR(pd, array, ALL) as mr:
        assert mr.resident_bytes() == 0
        status = dict(line.split(":", 1) for line in open("/proc/self/status").read().splitlines())
        assert status["VmLck"].split()[0] == "0" and status["VmPin"].split()[0] == "0"


def test_read_only_buffers(pd):
    frozen = np.arange(100)
    frozen.flags.writeable = False
    with v.MR(pd, frozen) as mr:
        assert mr.access == v.IBV_ACCESS_ON_DEMAND
    with pytest.raises(PermissionError, match="read-only"):
        v.MR(pd, b"constant", ALL)


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"length": 0}, "length"),
        ({"length": -5}, "length"),
        ({"length": "text"}, "length"),
        ({"length": 10, "access": v.IBV_ACCESS_REMOTE_WRITE}, "access"),
        ({"length": 10, "access": v.IBV_ACCESS_ZERO_BASED | READ}, "access 0x20"),
        ({"length": np.arange(10)[::2]}, "length"),
        ({"length": np.array([{}])}, "length: an array of dtype object holds Python objects"),
        ({"length": bytearray(9), "address": 4096}, "address"),
        ({"length": b"1234", "implicit": True}, "implicit: .* no buffer"),
        ({"length": None, "implicit": True}, "length: a length or a buffer is needed, not NoneType"),
        ({"access": READ, "implicit": True}, "unsafe"),
        ({"access": v.IBV_ACCESS_LOCAL_WRITE, "implicit": True}, "access"),
    ],
)
def test_errors_name_the_argument(pd, arguments, name):
    with pytest.raises((OSError, TypeError), match=name):
        v.MR(pd, **arguments)


def test_an_address_that_is_not_mapped_is_efault(pd):
    base = system.map_anonymous(4 * PAGE)
    with v.MR(pd, 4 * PAGE, address=base) as mr:
        mr.write(b"abc", offset=PAGE)
    system.unmap(base, 4 * PAGE)
    nowhere = 1 << 40  # not base: another thread's allocator may have taken that by now
    with pytest.raises(OSError, match="mapped") as caught:
        v.MR(pd, 4 * PAGE, address=nowhere)
    assert caught.value.errno == errno.EFAULT


def test_memory_that_was_unmapped_is_an_access_error_and_never_the_next_mapping():
    base = system.map_anonymous(16 * PAGE)
    with pair() as (a, b):
        mr = v.MR(b.pd, 16 * PAGE, ALL, address=base)
        a.remote(v.IBV_WR_RDMA_WRITE, mr, 0, 0, 64)
        a.wait()
        system.unmap(base + 4 * PAGE, PAGE)
        a.remote(v.IBV_WR_RDMA_READ, mr, 0, 0, 4 * PAGE)
        a.wait()
        a.remote(v.IBV_WR_RDMA_READ, mr, 0, 3 * PAGE, 2 * PAGE)
        a.wait(v.IBV_WC_REM_ACCESS_ERR)
        assert mr.counters["invalidations_unmap"] == 1 and mr.counters["revoked"] == 1
        with pytest.raises(OSError) as caught:
            mr.read(10, 4 * PAGE)
        assert caught.value.errno == errno.EFAULT
        mr.close()
    system.unmap(base, 4 * PAGE)
    system.unmap(base + 5 * PAGE, 11 * PAGE)


def test_memory_that_comes_where_other_memory_goes_is_not_revoked_for_it(monkeypatch):
    """An unmapping is told late: by then something else may be mapped there, and registered by another thread."""
    with pair() as (a, b), ExitStack() as stack:
        base = mmu.map_anew(1 << 16, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        old = stack.enter_context(v.MR(b.pd, 1 << 16, ALL, address=base))
        notifier, asked = b.context.device.notifier, threading.Event()
        lock(notifier.g, E.G_LOCK)  # it comes no further than this
        try:
            with behind(lambda: system.unmap(base, 1 << 16)):
                while not notifier.source.changing():
                    pass
                wait = notifier.await_quiet
                monkeypatch.setattr(notifier, "await_quiet", lambda: (asked.set(), wait()))
                mmu.map_at(base, 1 << 16, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_FIXED_NOREPLACE)
                made: list[v.MR] = []

                def register() -> None:
                    made.append(v.MR(b.pd, 1 << 16, ALL, address=base))

                with behind(register):
                    assert asked.wait(10)
                    unlock(notifier.g, E.G_LOCK)
        except BaseException:
            unlock(notifier.g, E.G_LOCK)
            raise
        new = stack.enter_context(made[0])
        a.remote(v.IBV_WR_RDMA_READ, new, 0, 0, 4096)
        a.wait()
        assert (old.counters["revoked"], new.counters["revoked"]) == (1, 0)
        system.unmap(base, 1 << 16)


def test_advice_brings_pages_in(pd):
    array = empty(8 << 20, "u1")
    with v.MR(pd, array, ALL) as mr:
        half = v.SGE(mr.buf, 4 << 20, mr.lkey)
        flush = v.IBV_ADVISE_MR_FLAG_FLUSH
        assert pd.advise_mr(v.IBV_ADVISE_MR_ADVICE_PREFETCH_NO_FAULT, flush, [half]) == 0
        pd.advise_mr(v.IBV_ADVISE_MR_ADVICE_PREFETCH, flush, [half])
        assert mr.resident_bytes() == 0  # nothing is there, and reading makes nothing
        array[: 4 << 20] = 1
        pd.advise_mr(v.IBV_ADVISE_MR_ADVICE_PREFETCH, flush, [half])
        assert mr.resident_bytes() == 4 << 20
        pd.advise_mr(v.IBV_ADVISE_MR_ADVICE_PREFETCH_WRITE, flush, [v.SGE(mr.buf, 8 << 20, mr.lkey)])
        assert mr.resident_bytes() == 8 << 20
        assert mr.counters["prefetches"] >= 3, nonzero(mr.counters)


def test_advice_is_checked(pd):
    base = system.map_anonymous(4 * PAGE)
    with v.MR(pd, 4 * PAGE, address=base) as mr, v.MR(pd, bytes(100)) as frozen:
        flush, prefetch = v.IBV_ADVISE_MR_FLAG_FLUSH, v.IBV_ADVISE_MR_ADVICE_PREFETCH
        with pytest.raises(FileNotFoundError, match=r"sg_list\[1\]"):
            pd.advise_mr(prefetch, 0, [v.SGE(mr.buf, 1, mr.lkey), v.SGE(mr.buf, 1, mr.lkey ^ 1)])
        with pytest.raises(ValueError, match=r"sg_list\[0\]"):
            pd.advise_mr(prefetch, 0, [v.SGE(mr.buf + 1, 4 * PAGE, mr.lkey)])
        with pytest.raises(PermissionError, match="may not be written"):
            pd.advise_mr(v.IBV_ADVISE_MR_ADVICE_PREFETCH_WRITE, 0, [v.SGE(frozen.buf, 1, frozen.lkey)])
        with pytest.raises(ValueError, match="flags"):
            pd.advise_mr(prefetch, 2, [])
        system.unmap(base + PAGE, PAGE)
        with pytest.raises(OSError) as caught:
            pd.advise_mr(prefetch, flush, [v.SGE(mr.buf, 4 * PAGE, mr.lkey)])
        assert caught.value.errno == errno.EFAULT
    for page in (0, 2, 3):
        system.unmap(base + page * PAGE, PAGE)


def test_an_implicit_region_is_all_memory():
    buffers = [np.full(5000, i, "u1") for i in range(3)]
    with pair() as (a, b):
        whole = v.MR(b.pd, implicit=True, access=ALL, unsafe=True)
        local = v.MR(a.pd, implicit=True)
        assert whole.kind == "implicit" and whole.unnotified
        for i, buffer in enumerate(buffers):
            landing = np.zeros(5000, "u1")
            wr = v.SendWR(opcode=v.IBV_WR_RDMA_READ, sg=v.SGE(landing.ctypes.data, 5000, local.lkey))
            wr.set_wr_rdma(whole.rkey, buffer.ctypes.data)
            a.qp.post_send(wr)
            a.wait()
            assert (landing == i).all()
        wr.set_wr_rdma(whole.rkey, 8)
        a.qp.post_send(wr)
        a.wait(v.IBV_WC_REM_ACCESS_ERR)


def test_an_implicit_region_may_have_memory_of_its_own_beside():
    with pair() as (a, b):
        whole = v.MR(b.pd, 5000, ALL, implicit=True, unsafe=True)
        assert whole.kind == "implicit" and whole.buf and not whole.read(5000).strip(b"\0")
        a.mr.write(b"x" * 5000)
        a.remote(v.IBV_WR_RDMA_WRITE, whole, 0, 100, 4900)
        a.wait()
        assert whole.read(5000) == bytes(100) + b"x" * 4900
        assert whole.covers(whole.buf, 5000) and whole.covers(a.mr.buf, 1)


def test_a_pinned_region_is_locked_and_works():
    with pair() as (a, b), v.MR(b.pd, empty(1 << 20, "u1"), ALL & ~v.IBV_ACCESS_ON_DEMAND) as mr:
        assert not mr.on_demand and mr.resident_bytes() == 1 << 20
        assert "VmLck:\t    1024 kB" in open("/proc/self/status").read()
        a.mr.write("pinned")
        a.remote(v.IBV_WR_RDMA_WRITE, mr, 0, 100, 6)
        a.wait()
        assert mr.read(6, 100) == b"pinned" and mr.counters["faults_write"] == 0
    assert "VmLck:\t       0 kB" in open("/proc/self/status").read()


def test_past_the_memlock_limit_the_error_names_it():
    code = """
import ctypes, resource
from unpinned import verbs as v
resource.setrlimit(resource.RLIMIT_MEMLOCK, (65536, 65536))
header, data = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
assert ctypes.CDLL(None).syscall(126 if "x86" in __import__("platform").machine() else 91, header, data) == 0  # no capabilities
with v.Context() as context, v.PD(context) as pd:
    small = v.MR(pd, 4096, v.IBV_ACCESS_LOCAL_WRITE)
    try:
        v.MR(pd, 1 << 20, v.IBV_ACCESS_LOCAL_WRITE)
    except OSError as error:
        print(error.errno, error)
    v.MR(pd, 1 << 20)
"""
    printed = run_python(code)
    assert "RLIMIT_MEMLOCK" in printed and "65536" in printed and int(printed.split()[0]) in (errno.ENOMEM, errno.EPERM)


def test_a_range_that_somebody_else_watches_works_unnotified():
    base = system.map_anonymous(8 * PAGE)
    theirs = Userfaultfd.open()
    try:
        assert theirs.register(base, base + 8 * PAGE) == ""
        with pair() as (a, b):
            mr = v.MR(b.pd, 8 * PAGE, ALL, address=base)
            assert "another userfaultfd" in mr.unnotified
            a.mr.write("still works")
            a.remote(v.IBV_WR_RDMA_WRITE, mr, 0, PAGE, 11)
            a.wait()
            assert mr.read(11, PAGE) == b"still works"
            mr.close()
    finally:
        theirs.close()
    system.unmap(base, 8 * PAGE)


def test_a_file_is_served_through_a_mapping_of_our_own(tmp_path):
    path = tmp_path / "data"
    path.write_bytes(bytes(range(256)) * 64)
    with pair() as (a, b), v.FileMR(b.pd, path, READ, offset=100, length=10_000) as mr:
        assert (mr.kind, mr.length, mr.unnotified) == ("file", 10_000, "")
        a.remote(v.IBV_WR_RDMA_READ, mr, 0, 5, 300)
        a.wait()
        assert a.mr.read(300) == (bytes(range(256)) * 3)[105:405]
        os.truncate(path, 4096)
        a.remote(v.IBV_WR_RDMA_READ, mr, 0, 9000, 300)
        a.wait(v.IBV_WC_REM_ACCESS_ERR)


def test_a_region_over_a_mapping(pd, tmp_path):
    from unpinned.host.memory import map_file

    path = tmp_path / "data"
    path.write_bytes(b"x" * 100)
    with pytest.raises(PermissionError):
        v.MR(pd, map_file(path, False), ALL)
    with v.MR(pd, map_file(path, True), ALL) as mr:
        mr.write(b"yes", offset=97)
    assert path.read_bytes()[-4:] == b"xyes"


def test_a_region_changes_its_memory_its_rights_and_its_domain_under_its_key():
    old, new = np.full(PAGE, 1, "u1"), np.full(2 * PAGE, 2, "u1")
    with pair() as (a, b), v.MR(b.pd, old, ALL) as mr:
        key = mr.rkey

        def read(status=v.IBV_WC_SUCCESS):
            a.remote(v.IBV_WR_RDMA_READ, (mr.buf, key), 0, 0, 8)
            a.wait(status)
            return a.mr.read(8)

        assert read() == bytes([1] * 8)
        mr.rereg(v.IBV_REREG_MR_CHANGE_TRANSLATION, addr=new.ctypes.data, length=new.nbytes)
        assert (mr.buf, mr.length, mr.rkey) == (new.ctypes.data, new.nbytes, key)
        assert read() == bytes([2] * 8)
        with pytest.raises(OSError, match=r"not all of") as refusal:
            mr.rereg(v.IBV_REREG_MR_CHANGE_TRANSLATION, addr=PAGE, length=PAGE)
        assert refusal.value.errno == errno.EFAULT and read() == bytes([2] * 8)  # it is as it was
        with v.PD(b.context) as other:
            mr.rereg(v.IBV_REREG_MR_CHANGE_PD, pd=other)
            assert mr.pd is other
            mr.rereg(v.IBV_REREG_MR_CHANGE_PD, pd=b.pd)
        assert not mr.closed and read() == bytes([2] * 8)  # it did not close with the domain that it had left
        mr.rereg(v.IBV_REREG_MR_CHANGE_ACCESS, access=v.IBV_ACCESS_LOCAL_WRITE | v.IBV_ACCESS_ON_DEMAND)
        read(v.IBV_WC_REM_ACCESS_ERR)


def test_a_region_in_another_domain_than_the_queue_pair_s_is_refused():
    with pair() as (a, b), v.MR(b.pd, 64, ALL) as mr, v.PD(b.context) as other:
        mr.rereg(v.IBV_REREG_MR_CHANGE_PD, pd=other)
        a.remote(v.IBV_WR_RDMA_READ, mr, 0, 0, 8)
        a.wait(v.IBV_WC_REM_ACCESS_ERR)


def test_what_cannot_be_changed_is_refused(pd, tmp_path):
    array = np.zeros(64, "u1")
    array.flags.writeable = False
    with v.MR(pd, array) as mr, v.MR(pd, implicit=True) as everything, v.Context() as context, v.PD(context) as foreign:
        with pytest.raises(v.ArgumentError, match="^.*flags"):
            mr.rereg(8)
        with pytest.raises(TypeError, match="^pd"):
            mr.rereg(v.IBV_REREG_MR_CHANGE_PD)
        with pytest.raises(v.ArgumentError, match="another device"):
            mr.rereg(v.IBV_REREG_MR_CHANGE_PD, pd=foreign)
        with pytest.raises(PermissionError, match="read-only"):
            mr.rereg(v.IBV_REREG_MR_CHANGE_ACCESS, access=v.IBV_ACCESS_LOCAL_WRITE | v.IBV_ACCESS_ON_DEMAND)
        with pytest.raises(OSError, match="implicit") as refusal:
            everything.rereg(v.IBV_REREG_MR_CHANGE_ACCESS, access=v.IBV_ACCESS_ON_DEMAND)
        assert refusal.value.errno == errno.EOPNOTSUPP and not mr.closed


def test_of_the_optional_access_flags_those_that_nobody_knows_are_ignored(pd):
    """As verbs has it, so that a program may ask for what newer devices do; any other is refused."""
    for bit in range(32):
        flag = 1 << bit
        if flag & v.IBV_ACCESS_OPTIONAL_RANGE:
            v.MR(pd, 4096, ALL | flag).close()
        elif bit > 8 and flag != v.ACCESS_REMOTE_INVALIDATE:
            with pytest.raises(OSError, match=f"access {flag:#x}") as refusal:
                v.MR(pd, 4096, ALL | flag)
            assert refusal.value.errno == errno.EOPNOTSUPP


@pytest.mark.parametrize("hidden", [0, 1])
def test_shared_memory_with_pages_that_nobody_may_read_is_no_more_than_the_application_s(no_leaks, hidden):
    """An alias would have the rights of the first page for all of it."""
    with mapped(2, shared=True) as base:
        view(base, 2 * PAGE)[:] = 7
        mmu.protect(base + hidden * PAGE, PAGE, 0)
        access = v.IBV_ACCESS_ON_DEMAND | v.IBV_ACCESS_REMOTE_READ
        for refused in (True, False):
            with pair() as (a, b), v.MR(b.pd, 2 * PAGE, access, address=base) as mr:
                a.remote(v.IBV_WR_RDMA_READ, mr, 0, (1 - hidden) * PAGE, 8)
                a.wait()
                a.remote(v.IBV_WR_RDMA_READ, mr, 8, hidden * PAGE, 8)
                a.wait(v.IBV_WC_REM_ACCESS_ERR if refused else v.IBV_WC_SUCCESS)
                assert a.mr.read(16, 0) == b"\7" * 8 + (b"\0" if refused else b"\7") * 8
            mmu.protect(base + hidden * PAGE, PAGE, mmap.PROT_READ)


def test_a_closed_region_opens_nothing():
    with pair() as (a, b):
        mr = v.MR(b.pd, 4096, ALL)
        target = mr.buf, mr.rkey
        keep = empty(4096, "u1")
        mr.close()
        mr.close()
        assert mr.closed and keep is not None
        with pytest.raises(OSError, match="memory region is closed"):
            mr.read(1)
        a.remote(v.IBV_WR_RDMA_READ, target, 0, 0, 8)
        a.wait(v.IBV_WC_REM_ACCESS_ERR)
