import pytest
from hypothesis import given
from hypothesis import strategies as st

from unpinned.host.udp import words_address
from unpinned.verbs import GID, AHAttr, ArgumentError, GlobalRoute


def test_an_ipv4_address_is_a_mapped_gid():
    gid = GID("127.0.0.1")
    assert gid.gid == "0000:0000:0000:0000:0000:ffff:7f00:0001"
    assert str(gid.address) == "127.0.0.1"
    assert GID("::ffff:127.0.0.1") == gid and hash(GID(gid.raw)) == hash(gid)


@given(st.binary(min_size=16, max_size=16))
def test_bytes_text_and_words_are_the_same_gid(raw):
    gid = GID(raw)
    assert GID(gid.gid) == gid == GID(gid)
    assert gid.raw == raw
    assert words_address(*gid.words) == gid.address


@pytest.mark.parametrize("text", ["", "1.2.3", "nonsense", b"123"])
def test_nonsense_is_refused_by_name(text):
    with pytest.raises(ArgumentError, match="gid"):
        GID(text)


def test_a_roce_address_is_global():
    with pytest.raises(ArgumentError, match="ah_attr"):
        _ = AHAttr(dlid=3).dgid
    with pytest.raises(ArgumentError, match="gr"):
        AHAttr(is_global=1)
    with pytest.raises(ArgumentError, match="port_num"):
        AHAttr(port_num=2)
    assert AHAttr(is_global=1, gr=GlobalRoute(dgid=GID("::1"))).dgid == GID("::1")
