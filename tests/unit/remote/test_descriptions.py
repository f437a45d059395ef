"""What is said about an array arrives as it was, and nothing else gets through."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from unpinned.remote.addresses import Address, is_loopback, parse_address, parse_index, parse_place
from unpinned.remote.descriptions import Description, from_message, unshareable
from unpinned.remote.errors import ProtocolError, RemoteAccessError, as_text

DTYPES = st.one_of(
    hnp.scalar_dtypes(), hnp.array_dtypes(hnp.scalar_dtypes(), max_size=3),
    st.just(np.dtype({"names": ["a", "b"], "formats": ["i1", "f8"], "offsets": [0, 8], "itemsize": 24})),
)  # fmt: skip


@given(DTYPES, st.lists(st.integers(0, 9), max_size=4), st.sampled_from("CF"), st.booleans())
def test_a_description_survives_the_way(dtype, shape, order, writable):
    if unshareable(dtype):
        return
    sent = Description("x", tuple(shape), dtype, order, writable, 4096, 77)
    got = from_message(json.loads(json.dumps(sent.to_message())))
    assert got == sent
    if all(shape):
        assert got.strides == np.zeros(shape, dtype, order).strides


GOOD = Description("x", (2, 3), np.dtype("f4")).to_message()


@pytest.mark.parametrize(
    "change",
    [
        {"name": 3}, {"shape": "2"}, {"shape": [-1]}, {"shape": [1 << 60]}, {"shape": [1 << 40, 1 << 40]}, {"shape": [1] * 99},
        {"dtype": "O"}, {"dtype": "nonsense"}, {"dtype": [["a", "O"]]}, {"dtype": [["a"]]}, {"dtype": 7}, {"dtype": "V0"},
        {"dtype": [["a", "f4", [1 << 60]]]}, {"dtype": "S1000000"}, {"dtype": {"names": ["a"]}}, {"dtype": "(2,3)f4"},
        {"address": -1}, {"rkey": 1 << 33}, {"address": None},
    ],
)  # fmt: skip
def test_a_description_that_cannot_be_is_refused(change):
    with pytest.raises(ProtocolError):
        from_message({**GOOD, **change})


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [("node7", "node7", 4791), ("node7:5", "node7", 5), ("::1", "::1", 4791), ("[::1]:99", "::1", 99), ("1.2.3.4", "1.2.3.4", 4791)],
)
def test_addresses(text, host, port):
    assert parse_address(text) == Address(host, port)
    assert parse_address(str(parse_address(text))) == Address(host, port)


@pytest.mark.parametrize("text", ["", ":5", "a:b", "a:0", "a:70000", "a:5/b", "[::1]:x"])
def test_what_is_no_address(text):
    with pytest.raises(ValueError, match="no address"):
        parse_address(text)


@pytest.mark.parametrize(
    ("text", "index"),
    [("3", (3,)), ("1:2,::-1", (slice(1, 2), slice(None, None, -1))), ("...,[1, 2]", (..., [1, 2])), ("[]", ([],)), ("3, ", (3,))],
)
def test_indices(text, index):
    assert parse_index(text) == index
    assert parse_place(f"h:1/x.y[{text}]").index == index


@pytest.mark.parametrize("text", ["h/", "h", "h/x[", "h/x[a]", "h/x[1:2:3:4]", "h/x[1]]", "h/[3]", "h/x[,]", "h/x[1,,2]", "h/x[,1]"])
def test_what_names_no_array(text):
    with pytest.raises(ValueError, match="names no array|no index"):
        parse_place(text)


def test_loopback_is_where_nobody_else_can_reach():
    assert is_loopback("127.9.8.7") and is_loopback("::1") and is_loopback("localhost")
    assert not is_loopback("192.0.2.1")
    with pytest.raises(OSError, match="no address"):
        is_loopback("no.such.host.invalid")


def test_errors_say_what_was_asked_for():
    error = RemoteAccessError("x", as_text((3, slice(1, None), ..., np.arange(100))), "it is gone")
    assert str(error) == "x[3, 1:, ..., [0, 1, 2, 3, ...]]: it is gone"
    assert isinstance(error, OSError) and error.errno
