"""Each kind of memory is recognised, reached at the same bytes, and let go of."""

import ctypes
import errno
import mmap
import os
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from support.memory import PAGE, mapped, memfd, move, protect, view
from unpinned.host import owned, system
from unpinned.host.memory import Kind, Mapping, map_buffer, map_file
from unpinned.host.vmas import covered, vmas
from unpinned.paging import layout as P


def locked_kib() -> int:
    return int(re.search(r"VmLck:\s*(\d+)", Path("/proc/self/status").read_text())[1])


def is_mapped(address: int) -> bool:
    start = system.page_floor(address)
    return covered(vmas(start, start + PAGE), start, start + PAGE)


def of_array(array: np.ndarray, writable: bool = True) -> Mapping:
    return map_buffer(array.ctypes.data, array.nbytes, writable, array)


def check_reached(mapping: Mapping) -> None:
    """What the application writes is seen where the device looks, from the first byte to the last."""
    for offset in (0, mapping.length - 1):
        ctypes.memset(mapping.address + offset, 0x5A, 1)
        assert ctypes.string_at(mapping.table_base + offset, 1) == b"\x5a"
        if mapping.writable and mapping.path == P.PATH_DIRECT:
            ctypes.memset(mapping.table_base + offset, 0x33, 1)
            assert ctypes.string_at(mapping.address + offset, 1) == b"\x33"


@pytest.mark.parametrize("size", [1, 100, PAGE, 1 << 22])
def test_private_memory_is_foreign(size: int) -> None:
    array = np.zeros(size, np.uint8)
    mapping = of_array(array)
    assert (mapping.kind, mapping.path) == (Kind.FOREIGN, P.PATH_FOREIGN)
    assert mapping.table_base == mapping.address == array.ctypes.data
    ((start, end),) = mapping.notify
    assert start % PAGE == end % PAGE == 0
    assert start <= array.ctypes.data < array.ctypes.data + size <= end
    mapping.close()
    array[:] = 1  # still there


def test_the_buffer_lives_as_long_as_the_mapping() -> None:
    class Owner:
        pass

    import weakref

    owner = Owner()
    alive = weakref.ref(owner)
    array = np.zeros(10)
    mapping = map_buffer(array.ctypes.data, array.nbytes, True, owner)
    del owner
    assert alive() is not None
    mapping.close()
    assert alive() is None


def test_owned_memory_and_a_slice_of_it() -> None:
    array = owned.empty((64, PAGE), np.uint8)
    for part in (array, array[10:20], array[3, 100:200]):
        mapping = of_array(part)
        assert (mapping.kind, mapping.path) == (Kind.OWNED, P.PATH_DIRECT)
        assert mapping.table_base != mapping.address
        check_reached(mapping)
        mapping.close()


def test_owned_memory_outlives_its_array_while_it_is_mapped() -> None:
    array = owned.empty(PAGE, np.uint8)
    address = array.ctypes.data
    mapping = map_buffer(address, PAGE, True)
    table = mapping.table_base
    del array
    assert is_mapped(address) and is_mapped(table)
    mapping.close()
    assert not is_mapped(table)


def test_owned_memory_that_was_moved_is_still_known() -> None:
    array = owned.empty(4 * PAGE, np.uint8)
    array[:] = 8
    address = array.ctypes.data
    other = move(address, 0, 4 * PAGE)
    mapping = map_buffer(other + PAGE, PAGE, True, array)
    assert mapping.kind is Kind.OWNED
    check_reached(mapping)
    mapping.close()
    system.unmap(other, 4 * PAGE)


def test_something_else_at_an_owned_address_is_not_taken_for_owned() -> None:
    array = owned.empty(4 * PAGE, np.uint8)
    address = array.ctypes.data
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | system.MAP_FIXED
    assert system._mmap(address, PAGE, 3, flags, -1, 0) == address
    mapping = map_buffer(address, PAGE, True, array)
    assert mapping.kind is Kind.FOREIGN
    mapping.close()
    mapping = map_buffer(address, 2 * PAGE, True, array)
    assert mapping.kind is Kind.FOREIGN, "half of it is not ours"
    mapping.close()


def test_shared_anonymous_memory_is_aliased_and_direct() -> None:
    with mapped(8, shared=True) as address:
        mapping = map_buffer(address + 100, 7 * PAGE, True)
        assert (mapping.kind, mapping.path) == (Kind.ALIAS, P.PATH_DIRECT)
        check_reached(mapping)
        table = mapping.table_base
        mapping.close()
        assert not is_mapped(table)
        mapping.close()


def test_shared_anonymous_memory_grown_past_its_end_is_not_direct() -> None:
    with mapped(4, shared=True) as address:
        assert move(address, 4 * PAGE, 8 * PAGE, 0) == address  # the file behind it still has four pages
        mapping = map_buffer(address, 8 * PAGE, True)
        assert (mapping.kind, mapping.path) == (Kind.ALIAS, P.PATH_PROCESS_VM)
        mapping.close()
        mapping = map_buffer(address, 4 * PAGE, True)
        assert mapping.path == P.PATH_DIRECT
        mapping.close()
        system.unmap(address + 4 * PAGE, 4 * PAGE)


@pytest.mark.parametrize("sealed", [False, True])
def test_a_memfd_is_direct_only_when_it_cannot_shrink(sealed: bool) -> None:
    with memfd(4, sealed=sealed) as fd, mapped(4, shared=True, fd=fd) as address:
        mapping = map_buffer(address, 4 * PAGE, True)
        assert (mapping.kind, mapping.path) == (Kind.ALIAS, P.PATH_DIRECT if sealed else P.PATH_PROCESS_VM)
        check_reached(mapping)
        mapping.close()


def test_a_sealed_memfd_mapped_past_its_end_is_not_direct() -> None:
    with memfd(2, sealed=True) as fd, mapped(4, shared=True, fd=fd) as address:
        assert map_buffer(address, 4 * PAGE, True).path == P.PATH_PROCESS_VM
        assert map_buffer(address, 2 * PAGE, True).path == P.PATH_DIRECT


def test_a_sealed_memfd_that_is_read_only_here() -> None:
    with memfd(2, sealed=True) as fd, mapped(2, shared=True, fd=fd) as address:
        protect(address, PAGE, 1)
        assert map_buffer(address, 2 * PAGE, False).path == P.PATH_DIRECT
        with pytest.raises(OSError, match="read-only") as caught:
            map_buffer(address, 2 * PAGE, True)
        assert caught.value.errno == errno.EACCES
        protect(address, PAGE, 0)
        assert map_buffer(address, 2 * PAGE, False).kind == Kind.FOREIGN


def test_what_takes_a_sealed_memfd_s_place_while_it_is_registered_is_not_direct(monkeypatch: pytest.MonkeyPatch) -> None:
    with memfd(2, sealed=True) as fd, memfd(2) as other, mapped(2, shared=True, fd=fd) as address:

        def aliasing(start: int, length: int, plain: Callable[[int, int], system.Call] = system.aliasing) -> system.Call:
            system.map_shared(other, length, True, at=start)
            return plain(start, length)

        monkeypatch.setattr(system, "aliasing", aliasing)
        mapping = map_buffer(address, 2 * PAGE, True)
        assert (mapping.kind, mapping.path) == (Kind.ALIAS, P.PATH_PROCESS_VM)
        mapping.close()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "data"
    path.write_bytes(bytes(range(256)) * 40)
    return path


@pytest.mark.parametrize(
    ("mode", "writable", "kind"),
    [("r+", True, Kind.ALIAS), ("r", False, Kind.ALIAS), ("c", True, Kind.FOREIGN)],
)
def test_memmaps(file: Path, mode: str, writable: bool, kind: Kind) -> None:
    array = np.memmap(file, np.uint8, mode)  # type: ignore[call-overload]
    mapping = of_array(array, writable)
    assert (mapping.kind, mapping.path) == (kind, P.PATH_FOREIGN if kind is Kind.FOREIGN else P.PATH_PROCESS_VM)
    assert ctypes.string_at(mapping.table_base + 300, 4) == bytes([44, 45, 46, 47])
    mapping.close()


def test_a_read_only_memmap_takes_no_writes(file: Path) -> None:
    with pytest.raises(PermissionError, match="read-only"):
        of_array(np.memmap(file, np.uint8, "r"), True)


def test_a_range_over_mappings_of_several_kinds_is_foreign() -> None:
    with memfd(4) as fd, mapped(8) as address:
        assert system.map_shared(fd, 4 * PAGE, True, at=address + 2 * PAGE) == address + 2 * PAGE
        mapping = map_buffer(address, 8 * PAGE, True)
        assert (mapping.kind, mapping.path) == (Kind.FOREIGN, P.PATH_FOREIGN)
        mapping.close()


def test_a_range_over_two_files_that_touch_is_foreign() -> None:
    with memfd(2) as one, memfd(2) as two, mapped(4) as address:
        system.map_shared(one, 2 * PAGE, True, at=address)
        system.map_shared(two, 2 * PAGE, True, at=address + 2 * PAGE)
        assert map_buffer(address, 4 * PAGE, True).kind is Kind.FOREIGN
        assert map_buffer(address, 2 * PAGE, True).kind is Kind.ALIAS


def test_holes_are_refused() -> None:
    with mapped(4) as address:
        system.unmap(address + 2 * PAGE, PAGE)
        with pytest.raises(OSError, match="not all of") as caught:
            map_buffer(address, 4 * PAGE, True)
        assert caught.value.errno == errno.EFAULT


@pytest.mark.parametrize(("address", "length"), [(PAGE, -1), (-PAGE, 10), (1 << 60, 10)])
def test_ranges_that_cannot_be(address: int, length: int) -> None:
    with pytest.raises(OSError, match="no such range"):
        map_buffer(address, length, True)


def test_nothing_is_always_there() -> None:
    mapping = map_buffer(12345, 0, True)
    assert mapping.notify == []
    mapping.lock()
    mapping.close()


# --- files ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("offset", [0, 5, PAGE, PAGE + 1])
def test_a_file_is_mapped_by_us(file: Path, offset: int) -> None:
    content = file.read_bytes()
    mapping = map_file(file, False, offset)
    assert (mapping.kind, mapping.path) == (Kind.FILE, P.PATH_PROCESS_VM)
    assert mapping.length == len(content) - offset
    assert ctypes.string_at(mapping.table_base, mapping.length) == content[offset:]
    assert mapping.notify == []
    mapping.close()
    assert not is_mapped(mapping.table_base)


def test_writing_through_a_file_mapping(file: Path) -> None:
    mapping = map_file(file, True, 10, 20)
    assert mapping.length == 20
    ctypes.memset(mapping.table_base, 0xEE, 1)
    mapping.close()
    assert file.read_bytes()[9:12] == bytes([9, 0xEE, 11])


def test_what_is_no_file_is_refused(file: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "empty").touch()
    for path, code in (
        (tmp_path, errno.EINVAL),
        (tmp_path / "none", errno.ENOENT),
        (tmp_path / "fifo", errno.EINVAL),
        (tmp_path / "empty", errno.EINVAL),
    ):
        with pytest.raises(OSError) as caught:
            map_file(path, False)
        assert caught.value.errno == code
        assert str(path) in str(caught.value)
    size = file.stat().st_size
    for offset, length in ((0, size + 1), (size, None), (-1, 5), (0, 0)):
        with pytest.raises(OSError, match="bytes, not"):
            map_file(file, False, offset, length)


# --- locking -------------------------------------------------------------------------------------------------------


def test_overlapping_locks_are_counted() -> None:
    with mapped(16) as address:
        before = locked_kib()
        whole, part = map_buffer(address, 16 * PAGE, True), map_buffer(address + 4 * PAGE, 4 * PAGE, True)
        whole.lock()
        whole.lock()
        part.lock()
        assert locked_kib() - before == 64
        whole.close()
        assert locked_kib() - before == 16
        part.unlock()
        assert locked_kib() == before
        part.close()


def test_drop_gives_pages_back_and_keeps_the_bytes() -> None:
    from unpinned.host.pagemap import close_scratch, resident, scan_scratch

    array = owned.empty(16 * PAGE, np.uint8)
    array[:] = 3
    mapping = of_array(array)
    assert set(ctypes.string_at(mapping.table_base, 16 * PAGE)) == {3}
    s = scan_scratch()
    assert resident(*mapping.pages, s) == 16 * PAGE
    mapping.drop()
    assert resident(*mapping.pages, s) == 0
    assert (array == 3).all()
    private = np.full(1 << 20, 7, np.uint8)
    foreign = of_array(private)
    foreign.drop()
    assert (private == 7).all()
    close_scratch(s)
    assert view(mapping.table_base, 1)[0] == 3
    mapping.close()
