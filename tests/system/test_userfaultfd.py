"""What the kernel really tells a watcher, for every kind of memory and every action."""

import errno
import os
import select
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from support.memory import (
    MADV_DONTNEED,
    MADV_PAGEOUT,
    MADV_REMOVE,
    MREMAP_DONTUNMAP,
    MREMAP_MAYMOVE,
    PAGE,
    behind,
    mapped,
    memfd,
    move,
    protect,
    view,
)
from support.python import run_python
from unpinned.host import layout as L
from unpinned.host import system
from unpinned.host.copies import copy_scratch, execute
from unpinned.host.memory import Kind, map_buffer
from unpinned.host.pagemap import close_scratch, scan_scratch
from unpinned.host.userfaultfd import Userfaultfd, notify_scratch, pending, read_events
from unpinned.host.vmas import procmap_query_works, vmas
from unpinned.host.zeros import note_untouched
from unpinned.paging import layout as P
from unpinned.paging.dma import dma_issue, dma_reset

pytestmark = pytest.mark.system
PAGES = 16
Event = tuple[int, int, int, int]


@pytest.fixture
def source() -> Iterator[Userfaultfd]:
    try:
        opened = Userfaultfd.open()
    except OSError as error:
        pytest.skip(str(error))
    yield opened
    opened.close()
    opened.close()


@pytest.fixture(params=["private", "anonymous shared", "memfd", "private file", "shared file"])
def memory(request: pytest.FixtureRequest, source: Userfaultfd, tmp_path: Path) -> Iterator[int]:
    """A populated, watched range of each kind. Comes after `source`, which must be closed last."""
    with ExitStack() as stack:
        fd = -1
        if request.param == "memfd":
            fd = stack.enter_context(memfd(PAGES))
        elif "file" in request.param:
            (tmp_path / "data").write_bytes(bytes(PAGES * PAGE))
            fd = os.open(tmp_path / "data", os.O_RDWR)
            stack.callback(os.close, fd)
        address = stack.enter_context(mapped(PAGES, shared="private" not in request.param, fd=fd))
        view(address, PAGES * PAGE)[:] = 1
        assert source.register(address, address + PAGES * PAGE) == ""
        yield address
        source.forget(address, address + PAGES * PAGE)


def wait_until_readable(source: Userfaultfd) -> bool:
    """Whether an event has come within ten seconds; it is not read."""
    return bool(select.select([source.fd], [], [], 10)[0])


def wait_for(source: Userfaultfd, count: int) -> list[Event]:
    """The next *count* events, in order."""
    s = notify_scratch()
    found: list[Event] = []
    while len(found) < count:
        assert select.select([source.fd], [], [], 10)[0], f"no event after {found}"
        got = read_events(source.fd, s)
        found += [tuple(int(x) for x in s[4 * i : 4 * i + 4]) for i in range(got)]  # type: ignore[misc]
    return found


def events_of(source: Userfaultfd, count: int, action: Callable[[], object]) -> list[Event]:
    """The events that *action* raises: it runs in a thread and returns when they are read."""
    with behind(action):
        found = wait_for(source, count)
    assert read_events(source.fd, notify_scratch()) == 0
    return found


def silent(source: Userfaultfd, action: Callable[[], object]) -> None:
    action()
    assert read_events(source.fd, notify_scratch()) == 0


def test_munmap(source: Userfaultfd, memory: int) -> None:
    start, end = memory + 2 * PAGE, memory + 5 * PAGE
    found = events_of(source, 1, lambda: system.unmap(start, end - start))
    assert found == [(L.EVENT_UNMAP, start, end, 0)]


def test_munmap_of_more_than_is_watched(source: Userfaultfd, memory: int) -> None:
    source.unregister(memory, memory + PAGES * PAGE)
    assert source.register(memory + PAGE, memory + 3 * PAGE) == ""
    found = events_of(source, 1, lambda: system.unmap(memory, PAGES * PAGE))
    assert found[0][0] == L.EVENT_UNMAP
    assert found[0][1] <= memory + PAGE and memory + 3 * PAGE <= found[0][2]


def test_discard(source: Userfaultfd, memory: int) -> None:
    start = memory + PAGE
    found = events_of(source, 1, lambda: system.advise(start, 2 * PAGE, MADV_DONTNEED))
    assert found == [(L.EVENT_REMOVE, start, start + 2 * PAGE, 0)]


def test_remove(source: Userfaultfd) -> None:
    with memfd(PAGES) as fd, mapped(PAGES, shared=True, fd=fd) as address:
        view(address, PAGES * PAGE)[:] = 1
        source.register(address, address + PAGES * PAGE)
        found = events_of(source, 1, lambda: system.advise(address, PAGE, MADV_REMOVE))
        assert found == [(L.EVENT_REMOVE, address, address + PAGE, 0)]
        assert view(address, 1)[0] == 0
        source.unregister(address, address + PAGES * PAGE)


def test_mremap_moves(source: Userfaultfd, memory: int) -> None:
    with mapped(64) as target:
        found = events_of(source, 2, lambda: move(memory, PAGES * PAGE, PAGES * PAGE, MREMAP_MAYMOVE | 2, target))
        remap = next(event for event in found if event[0] == L.EVENT_REMAP)
        assert remap == (L.EVENT_REMAP, memory, memory + PAGES * PAGE, target)
        assert (L.EVENT_UNMAP, memory, memory + PAGES * PAGE, 0) in found
        # The new place is watched too, until it is forgotten.
        assert events_of(source, 1, lambda: system.advise(target, PAGE, MADV_DONTNEED))[0][1] == target
        assert source.forget(target, target + PAGES * PAGE)
        silent(source, lambda: system.advise(target, PAGE, MADV_DONTNEED))


def test_mremap_shrinks(source: Userfaultfd, memory: int) -> None:
    found = events_of(source, 1, lambda: move(memory, PAGES * PAGE, 4 * PAGE))
    assert found == [(L.EVENT_UNMAP, memory + 4 * PAGE, memory + PAGES * PAGE, 0)]


def test_mremap_that_leaves_the_old_place_mapped(source: Userfaultfd) -> None:
    with mapped(PAGES) as address:
        source.register(address, address + PAGES * PAGE)
        moved: list[int] = []
        flags = MREMAP_MAYMOVE | MREMAP_DONTUNMAP
        found = events_of(source, 1, lambda: moved.append(move(address, PAGES * PAGE, PAGES * PAGE, flags)))
        assert found == [(L.EVENT_REMAP, address, address + PAGES * PAGE, moved[0])]
        for place in (address, moved[0]):
            assert source.forget(place, place + PAGES * PAGE)
        system.unmap(moved[0], PAGES * PAGE)


def test_what_raises_no_event(source: Userfaultfd, memory: int) -> None:
    silent(source, lambda: system.advise(memory, PAGE, MADV_PAGEOUT))
    silent(source, lambda: protect(memory, PAGE, 1))
    silent(source, lambda: protect(memory, PAGE, 3))
    view(memory, PAGES * PAGE)[:] = 2  # writes go through: nothing is protected


def test_growing_in_place_is_silent_and_watched(source: Userfaultfd) -> None:
    with mapped(PAGES) as address:
        end = address + PAGES * PAGE
        source.register(address, end)
        silent(source, lambda: move(address, PAGES * PAGE, 2 * PAGES * PAGE, 0))
        assert events_of(source, 1, lambda: system.unmap(end, PAGE))[0] == (L.EVENT_UNMAP, end, end + PAGE, 0)
        source.unregister(address, end)
        assert source.forget(end + PAGE, end + PAGES * PAGE), "the tail that grew was watched"
        system.unmap(end, PAGES * PAGE)


def test_the_caller_sleeps_until_the_event_is_read(source: Userfaultfd, memory: int) -> None:
    assert not pending(source.fd)
    with behind(lambda: system.unmap(memory, PAGE)) as thread:
        assert select.select([source.fd], [], [], 10)[0]
        assert pending(source.fd)
        assert thread.is_alive()
        assert read_events(source.fd, notify_scratch()) == 1
    assert not pending(source.fd)


def test_copies_beside_an_unread_change_are_counted_as_at_risk(source: Userfaultfd) -> None:
    p = P.create(levels=1, bits=1, leaves=1, regions=0, dma=8, faults=0)
    s = copy_scratch()
    s[L.COPY_UFFD] = source.fd
    arena = np.arange(64, dtype=np.uint8)
    with mapped(PAGES) as address, mapped(PAGES) as other:
        assert source.register(other, other + PAGE) == ""

        def copy(length: int, path: int, op: int = P.OP_WRITE) -> int:
            dma_issue(p, address, length, op, 0, path, 1)
            assert execute(p, arena, s) == 0 and dma_reset(p) == 0
            return int(s[L.COPY_AT_RISK])

        assert copy(8, P.PATH_FOREIGN) == 0
        with behind(lambda: system.unmap(other, PAGE)):
            assert wait_until_readable(source)
            assert copy(16, P.PATH_PROCESS_VM) == 0, "our own mapping: nothing can stray"
            assert copy(32, P.PATH_FOREIGN) == 32
            assert copy(8, P.PATH_PROCESS_VM, P.OP_FETCH_ADD) == 32
            assert copy(8, P.PATH_FOREIGN, P.OP_FETCH_ADD) == 40
            assert wait_for(source, 1)[0][0] == L.EVENT_UNMAP
        assert copy(8, P.PATH_FOREIGN, P.OP_FETCH_ADD) == copy(8, P.PATH_FOREIGN) == 40
        assert view(address, 32).tolist() == list(range(32))


def test_zeros_of_what_was_never_touched_beside_an_unread_change_are_at_risk_too(source: Userfaultfd) -> None:
    if not procmap_query_works():
        pytest.skip("needs Linux 6.11 (PROCMAP_QUERY)")
    p = P.create(levels=1, bits=1, leaves=1, regions=0, dma=8, faults=0)
    s, scans = copy_scratch(), scan_scratch(L.MODE_IOCTL)
    scans[L.SCAN_MAPS] = os.open("/proc/self/maps", os.O_RDONLY | os.O_CLOEXEC)
    s[L.COPY_UFFD], s[L.COPY_SCAN] = source.fd, scans.ctypes.data
    arena = np.ones(PAGE, np.uint8)
    with mapped(PAGES) as address, mapped(PAGES) as other:
        assert source.register(other, other + PAGE) == ""

        def read() -> tuple[int, int]:
            note_untouched(s, address, address + PAGE)
            dma_issue(p, address, 64, P.OP_READ, 0, P.PATH_FOREIGN, 1)
            assert execute(p, arena, s) == 0 and dma_reset(p) == 0 and not arena[:64].any()
            return int(s[L.COPY_AT_RISK]), int(s[L.COPY_CALLS])

        assert read() == (0, 0)
        with behind(lambda: system.unmap(other, PAGE)):
            assert wait_until_readable(source)
            assert read() == (64, 1)
            assert wait_for(source, 1)[0][0] == L.EVENT_UNMAP
    close_scratch(scans)


def test_one_call_reads_what_is_queued(source: Userfaultfd) -> None:
    with ExitStack() as stack:
        places = [stack.enter_context(mapped(1)) for _ in range(5)]
        for place in places:
            view(place, PAGE)[:] = 1
            source.register(place, place + PAGE)
        for place in places:
            stack.enter_context(behind(lambda place=place: system.unmap(place, PAGE)))
        found = wait_for(source, 5)
        assert sorted(event[1] for event in found) == sorted(places)


def test_closing_wakes_whoever_waits(source: Userfaultfd, memory: int) -> None:
    with behind(lambda: system.unmap(memory, PAGE)):
        assert select.select([source.fd], [], [], 10)[0]
        source.close()


# --- refusals ------------------------------------------------------------------------------------------------------


def test_a_range_that_another_one_watches(source: Userfaultfd, memory: int) -> None:
    other = Userfaultfd.open()
    try:
        assert "another userfaultfd" in other.register(memory, memory + PAGE)
    finally:
        other.close()
    events_of(source, 1, lambda: system.unmap(memory, PAGE))


def test_a_mapping_that_another_one_watches_works_unnotified(source: Userfaultfd) -> None:
    with mapped(PAGES) as address:
        source.register(address, address + PAGE)
        other = Userfaultfd.open()
        mapping = map_buffer(address, PAGES * PAGE, True)
        assert "another userfaultfd" in mapping.watch(other)
        assert mapping.unnotified
        mapping.close()
        other.close()
        source.unregister(address, address + PAGE)


def test_a_shared_mapping_of_a_file_opened_read_only(source: Userfaultfd, tmp_path: Path) -> None:
    (tmp_path / "data").write_bytes(bytes(PAGES * PAGE))
    array = np.memmap(tmp_path / "data", np.uint8, "r")
    mapping = map_buffer(array.ctypes.data, array.nbytes, False, array)
    assert "read-only" in mapping.watch(source)
    assert mapping.kind is Kind.ALIAS
    mapping.close()
    copy = np.memmap(tmp_path / "data", np.uint8, "c")
    mapping = map_buffer(copy.ctypes.data, copy.nbytes, True, copy)
    assert mapping.watch(source) == ""
    mapping.close()


def test_what_is_not_mapped(source: Userfaultfd) -> None:
    with mapped(3) as address:
        system.unmap(address + PAGE, PAGE)
        assert source.register(address + PAGE, address + 2 * PAGE) != ""
        assert not source.forget(address + PAGE, address + 2 * PAGE)


# --- counting ------------------------------------------------------------------------------------------------------


def test_overlapping_registrations_are_counted(source: Userfaultfd) -> None:
    with mapped(PAGES) as address:
        view(address, PAGES * PAGE)[:] = 1
        whole, part = map_buffer(address, PAGES * PAGE, True), map_buffer(address + PAGE, 10, True)
        assert whole.watch(source) == part.watch(source) == ""
        whole.close()
        silent(source, lambda: system.advise(address, PAGE, MADV_DONTNEED))
        events_of(source, 1, lambda: system.advise(address + PAGE, PAGE, MADV_DONTNEED))
        part.close()
        silent(source, lambda: system.advise(address, PAGES * PAGE, MADV_DONTNEED))


def test_an_alias_of_watched_memory_is_not_watched(source: Userfaultfd) -> None:
    with mapped(PAGES, shared=True) as address:
        first = map_buffer(address, PAGES * PAGE, True)
        assert first.watch(source) == ""
        second = []
        with behind(lambda: second.append(map_buffer(address, PAGES * PAGE, True))):
            ((kind, start, end, _),) = wait_for(source, 1)
        assert (kind, start, end - start) == (L.EVENT_REMAP, address, 0), "an alias is a move of nothing"
        assert second[0].watch(source) == ""
        silent(source, second[0].close)
        events_of(source, 1, lambda: system.advise(address, PAGE, MADV_DONTNEED))
        silent(source, first.close)


# --- fork ----------------------------------------------------------------------------------------------------------


def test_a_child_that_closes_at_once_leaves_no_trace() -> None:
    code = """
import os, threading
from unpinned.host import system
from unpinned.host.userfaultfd import Userfaultfd
source = Userfaultfd.open()
os.register_at_fork(after_in_child=source.close)
address = system.map_anonymous(1 << 16)
assert source.register(address, address + (1 << 16)) == ''
hold, release = os.pipe()
pid = os.fork()
if pid == 0:
    os.close(release)
    system.unmap(address, 1 << 16)      # not watched here: no reader, no wait
    os.read(hold, 1)
    os._exit(0)
source.close()
system.unmap(address, 1 << 16)          # the child lives, and holds nothing
os.close(release)
print(os.waitpid(pid, 0)[1])
"""
    assert run_python(code) == "0\n"


def test_a_child_that_keeps_it_makes_the_parent_wait_for_it() -> None:
    """The reason for the rule above; if this ever fails, the rule may go."""
    code = """
import os, select, threading
from unpinned.host import system
from unpinned.host.userfaultfd import Userfaultfd
source = Userfaultfd.open()
address = system.map_anonymous(1 << 16)
assert source.register(address, address + (1 << 16)) == ''
hold, release = os.pipe()
pid = os.fork()
if pid == 0:
    os.close(release)
    os.read(hold, 1)
    os._exit(0)
source.close()
thread = threading.Thread(target=system.unmap, args=(address, 1 << 16))
thread.start()
thread.join(0.3)
print(thread.is_alive())
os.close(release)
os.waitpid(pid, 0)
thread.join()
"""
    assert run_python(code) == "True\n"


def test_opening_leaves_no_descriptor_behind() -> None:
    before = sorted(os.listdir("/proc/self/fd"))
    for _ in range(10):
        Userfaultfd.open().close()
    assert sorted(os.listdir("/proc/self/fd")) == before


def test_read_events_of_a_closed_descriptor() -> None:
    assert read_events(-1, notify_scratch()) == -errno.EBADF
    with mapped(1) as address:
        assert vmas(address, address + PAGE)
