"""Arrays on memory of our own."""

import gc

import numpy as np
import pytest

from support.python import run_python
from unpinned.host import owned, system
from unpinned.host.vmas import vmas


@pytest.mark.parametrize("shape", [1, (3,), (5, 7), (2, 3, 4)])
@pytest.mark.parametrize("dtype", ["f4", "i8", "u1", "S5", [("a", "i2"), ("b", "f8")]])
def test_shape_and_dtype(shape: int | tuple[int, ...], dtype: object) -> None:
    array = owned.empty(shape, dtype)  # type: ignore[arg-type]
    like = np.zeros(shape, dtype)  # type: ignore[call-overload]
    assert array.shape == like.shape and array.dtype == like.dtype
    assert (array == like).all()
    assert array.flags.writeable and array.flags.c_contiguous


def test_nothing_needs_no_memory() -> None:
    assert owned.empty((0, 4), "f4").shape == (0, 4)


def test_objects_are_refused_by_name() -> None:
    with pytest.raises(TypeError, match="object"):
        owned.empty(3, object)


def test_more_than_there_is_memory() -> None:
    array = owned.empty(1 << 40, np.uint8)
    array[-1] = 1
    assert array[-1] == 1 and array[0] == 0


@pytest.mark.parametrize("huge", [False, True])
def test_large_ones_start_on_a_huge_page(huge: bool) -> None:
    array = owned.empty(4 << 20, np.uint8, huge=huge)
    assert array.ctypes.data % system.HUGE == 0


def test_it_lives_as_long_as_any_view_of_it_and_no_longer() -> None:
    array = owned.empty(1 << 20, np.uint8)
    array[:] = 5
    address = array.ctypes.data
    part = memoryview(array[100:200])
    blocks = len(owned._blocks)
    del array
    gc.collect()
    assert part[0] == 5
    assert len(owned._blocks) == blocks
    part.release()
    del part
    gc.collect()
    assert len(owned._blocks) == blocks - 1
    assert all(not vma.name.startswith("/memfd:unpinned") for vma in vmas(address, address + 1))


def test_arrays_that_live_at_exit_or_in_cycles_do_no_harm() -> None:
    code = """
import atexit, gc, numpy as np
from unpinned.host import owned
kept = owned.empty(1000)
class Cycle: pass
cycle = Cycle(); cycle.me = cycle; cycle.array = owned.empty(1000)
del cycle
def late():
    kept[:] = 1
    print(kept.sum())
atexit.register(late)
"""
    assert run_python(code) == "1000.0\n"


def test_a_forked_child_shares_the_array_but_not_the_device_mapping() -> None:
    code = """
import ctypes, os
import numpy as np
from unpinned.host import owned
from unpinned.host.memory import Kind, map_buffer
from unpinned.host.vmas import vmas
from unpinned.paging import layout as P
array = owned.empty(4096, 'u1')
mapping = map_buffer(array.ctypes.data, 4096, True, array)
assert mapping.kind is Kind.OWNED
pid = os.fork()
if pid == 0:
    assert vmas(mapping.table_base, mapping.table_base + 1) == []
    array[0] = 9
    other = map_buffer(array.ctypes.data, 4096, True, array)
    assert other.kind is Kind.ALIAS and other.path == P.PATH_DIRECT
    other.close(); mapping.close()
    del array, mapping
    os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
assert ctypes.string_at(mapping.table_base, 1) == b'\\x09'
print('parent')
"""
    assert run_python(code) == "parent\n"


def test_a_forked_child_keeps_no_memory_of_arrays_that_are_gone() -> None:
    """Neither does a child of the child close what is not its own."""
    code = """
import os
import numpy as np
from unpinned.host import owned
def memory_files():
    links = [f"/proc/self/fd/{name}" for name in os.listdir("/proc/self/fd")]
    return [os.readlink(link) for link in links if os.path.islink(link) and "memfd:" in os.readlink(link)]
array = owned.empty(4096, 'u1')
assert memory_files() == ["/memfd:unpinned (deleted)"]
if os.fork() == 0:
    assert memory_files() == []
    own = owned.empty(4096, 'u1')
    if os.fork() == 0:
        assert memory_files() == []
        other = os.memfd_create("other")
        del array, own
        os.fstat(other)
        os._exit(0)
    assert os.wait()[1] == 0 and len(memory_files()) == 1
    del array
    assert len(memory_files()) == 1
    own[:] = 1
    os._exit(0)
assert os.wait()[1] == 0 and len(memory_files()) == 1
del array
assert memory_files() == []
print('parent')
"""
    assert run_python(code) == "parent\n"


@pytest.mark.parametrize(
    ("shape", "error"), [("a", TypeError), (1.5, TypeError), ((2, "3"), TypeError), (-1, ValueError), ((-2, -3), ValueError)]
)
def test_a_wrong_shape_is_named(shape, error):
    with pytest.raises(error, match="^shape: "):
        owned.empty(shape)


def test_a_shape_may_be_any_sequence():
    assert owned.empty([2, np.int64(3)], "i4").shape == (2, 3) and owned.empty(np.int64(3)).shape == (3,)
