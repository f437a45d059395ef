"""Buffers of any kind, and memory that is not there."""

import array
import errno
import mmap

import numpy as np
import pytest

from unpinned.host import system
from unpinned.verbs.errors import ArgumentError
from unpinned.verbs.memory import buffer_of, bytes_of, peek, poke


@pytest.mark.parametrize(
    "source",
    [
        bytearray(range(100)),
        memoryview(bytearray(range(100))),
        np.arange(100, dtype="u1"),
        np.arange(100, dtype="u1").reshape(10, 10, order="F"),
        array.array("B", range(100)),
    ],
    ids=["bytearray", "memoryview", "array", "fortran", "array.array"],
)
def test_any_contiguous_buffer(source):
    found = buffer_of(source)
    assert (found.length, found.readonly) == (100, False)
    assert sorted(peek(found.address, 100)) == list(range(100))


def test_types_that_the_buffer_protocol_does_not_know():
    times = np.zeros(4, "M8[s]")
    assert buffer_of(times).length == 32
    assert buffer_of(np.zeros(3, [("a", "i4"), ("b", "f8")])).length == 36
    assert bytes(bytes_of("data", times)) == bytes(32)
    assert bytes_of("data", np.array(7, "m8[s]")).nbytes == 8
    with pytest.raises(ArgumentError, match="data: .* holds Python objects"):
        bytes_of("data", np.array([object()]))


def test_read_only_buffers_say_so():
    assert buffer_of(b"abc").readonly
    frozen = np.arange(3)
    frozen.flags.writeable = False
    assert buffer_of(frozen).readonly


def test_a_buffer_is_kept_in_place():
    source = bytearray(10)
    found = buffer_of(source)
    with pytest.raises(BufferError):
        source.extend(b"more")
    del found
    source.extend(b"more")


def test_empty_buffers():
    assert not bytes_of("data", np.zeros((0, 3)))
    assert buffer_of(b"").length == 0
    assert buffer_of(np.zeros(0)).length == 0


@pytest.mark.parametrize("source", [np.arange(10)[::2], np.array([object()]), memoryview(bytearray(10))[::2]])
def test_what_cannot_be_registered_is_refused(source):
    with pytest.raises(ValueError, match="length"):
        buffer_of(source)
    with pytest.raises(TypeError, match="length"):
        buffer_of("text")


def test_memory_that_is_gone_is_an_error_not_a_signal():
    base = system.map_anonymous(2 * mmap.PAGESIZE)
    poke(base + 10, b"hello")
    assert peek(base + 10, 5) == b"hello" and peek(base, 0) == b""
    system.unmap(base, 2 * mmap.PAGESIZE)
    for touch in (lambda: peek(base, 5), lambda: poke(base, b"12345")):
        with pytest.raises(OSError, match="5 bytes at") as caught:
            touch()
        assert caught.value.errno == errno.EFAULT
