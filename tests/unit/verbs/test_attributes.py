import pytest

from unpinned.hca.setup import timeout_ns
from unpinned.verbs import PeerInfo, QPAttr, QPInitAttr
from unpinned.verbs import enums as e
from unpinned.verbs.attributes import PARK_FOREIGN_NS, PARK_FOREVER_NS, check_init, park_ns


@pytest.mark.parametrize(
    "name", ["port_num", "path_mtu", "rq_psn", "sq_psn", "dest_qp_num", "min_rnr_timer", "timeout", "retry_cnt", "rnr_retry"]
)
def test_an_attribute_out_of_range_is_named(name):
    for value in (-1, 1 << 24):
        with pytest.raises(ValueError, match=name):
            QPAttr(**{name: value})
    with pytest.raises(TypeError, match=name):
        QPAttr(**{name: None})


def test_a_foreign_peer_is_kept_waiting_for_8_ms_at_most():
    for timeout in range(32):
        assert park_ns(timeout, False) == min(timeout_ns(timeout) // 4 or PARK_FOREVER_NS, PARK_FOREIGN_NS)
    assert park_ns(10, False) == 4096 * 1024 // 4
    assert park_ns(18, True) == 4096 * 2**18 // 4
    assert park_ns(0, True) == PARK_FOREVER_NS


@pytest.mark.parametrize("kind", ["UC", "UD", "RAW_PACKET", "XRC_SEND"])
def test_other_types_are_not_supported_by_name(kind):
    with pytest.raises(OSError, match=f"qp_type {kind}: not supported"):
        check_init(QPInitAttr(qp_type=getattr(e, f"IBV_QPT_{kind}")))


def test_a_shared_receive_queue_is_not_supported_by_name():
    with pytest.raises(OSError, match="shared receive queues: not supported"):
        check_init(QPInitAttr(srq=object()))


def test_queues_are_needed():
    with pytest.raises(TypeError, match="scq: a CQ is needed"):
        check_init(QPInitAttr())


def test_peer_info_travels_as_plain_numbers():
    info = PeerInfo("::1", 4791, 17, 99, e.IBV_MTU_4096)
    assert PeerInfo(**info.as_dict()) == info
