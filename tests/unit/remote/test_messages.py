"""The set-up protocol: what is read back is what was written, and nothing that is sent costs more than its bound."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unpinned.remote import messages as M
from unpinned.remote.errors import ProtocolError

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=10,
)
messages = st.dictionaries(st.text(max_size=8), json_values, max_size=5)


@given(st.lists(messages, max_size=4), st.lists(st.integers(1, 30), min_size=1))
def test_messages_survive_any_cutting(sent, cuts):
    stream = b"".join(map(M.encode, sent))
    reader, got, at, i = M.Reader(1 << 16), [], 0, 0
    while at < len(stream):
        step = cuts[i % len(cuts)]
        got += reader.feed(stream[at : at + step])
        at, i = at + step, i + 1
    assert got == sent


@given(st.binary(max_size=300))
def test_any_bytes_are_messages_or_a_protocol_error(data):
    try:
        for message in M.Reader(200).feed(data):
            assert isinstance(message, dict)
    except ProtocolError:
        pass


@pytest.mark.parametrize(
    "body", [b"[" * 50_000, b"{" * 50_000, b"1" * 50_000, b'{"a":NaN}', b'{"a":Infinity}', b"[]", b"3", b"\xff", b"", b'{"a":']
)
def test_what_is_no_message_is_refused(body):
    with pytest.raises(ProtocolError):
        M.decode(body)


def test_a_long_message_is_refused_before_it_is_read():
    reader = M.Reader(100)
    with pytest.raises(ProtocolError, match="1195725856 bytes"):
        reader.feed(b"GET / HTTP/1.1\r\n\r\n")


def test_a_proof_is_good_for_its_token_role_and_nonces_only():
    first, second = M.nonce(), M.nonce()
    proof = M.proof("secret", "client", first, second)
    assert M.proves(proof, "secret", "client", first, second)
    assert not M.proves(proof, "secret", "server", first, second)
    assert not M.proves(proof, "secret", "client", second, first)
    assert not M.proves(proof, "Secret", "client", first, second)
    for junk in (None, 3, [], "", "\ud800", proof.upper(), proof[:-1]):
        assert not M.proves(junk, "secret", "client", first, second)


@pytest.mark.parametrize("value", [None, "3", 3.0, True, -1, 11, [3]])
def test_numbers_are_numbers_within_bounds(value):
    with pytest.raises(ProtocolError, match="^n: "):
        M.number({"n": value}, "n", 0, 10)
    with pytest.raises(ProtocolError, match="^n: "):
        M.numbers({"n": [value]}, "n", 0, 10, 5)


def test_versions_must_match():
    M.check_version({"unpinned": M.VERSION})
    for message in ({}, {"unpinned": 99}, {"unpinned": "x"}, {"unpinned": json.loads("1e999")}):
        with pytest.raises(ProtocolError, match="version|no unpinned"):
            M.check_version(message)
