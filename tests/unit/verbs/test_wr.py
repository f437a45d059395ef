"""Work requests keep themselves packed as the device's queue entries."""

import socket

import numpy as np
import pytest

from unpinned.hca import layout as L
from unpinned.verbs import SGE, ArgumentError, RecvWR, SendWR
from unpinned.verbs import enums as e
from unpinned.verbs.wr import refuse_circle


def test_a_send_request_is_an_entry_of_the_queue():
    wr = SendWR(2**64 - 1, e.IBV_WR_RDMA_WRITE_WITH_IMM, imm_data=socket.htonl(5), sg=[SGE(1 << 63, 10, 7), SGE(16, 20, 8)])
    wr.set_wr_rdma(0xFFFFFFFF, 2**64 - 8)
    words = wr._words.tolist()
    assert words[L.W_ID] == -1 and wr.wr_id == 2**64 - 1
    assert words[L.W_OPCODE] == L.WR_RDMA_WRITE_WITH_IMM
    assert words[L.W_FLAGS] == L.SEND_SIGNALED
    assert words[L.W_LENGTH] == 30 and words[L.W_NSGE] == 2
    assert words[L.W_IMM] == 5 and wr.imm_data == socket.htonl(5)
    assert words[L.W_RVA] == -8 and wr.rdma_remote_addr == 2**64 - 8
    assert words[L.W_RKEY] == wr.rdma_rkey == 0xFFFFFFFF
    assert words[L.W_SGE : L.W_SGE + 6] == [-(1 << 63), 10, 7, 16, 20, 8]


def test_a_receive_request_is_an_entry_of_the_queue():
    wr = RecvWR(3, sg=SGE(64, 100, 9))
    assert wr._words[[L.R_ID, L.R_LENGTH, L.R_NSGE]].tolist() == [3, 100, 1]
    assert wr._words[L.R_SGE : L.R_SGE + 3].tolist() == [64, 100, 9]


def test_num_sge_takes_that_many_of_the_list():
    assert SendWR(num_sge=1, sg=[SGE(0, 1, 0), SGE(0, 2, 0)])._words[L.W_LENGTH] == 1
    assert SendWR().num_sge == 0


def test_the_opcode_says_what_the_immediate_is_even_if_it_is_set_last():
    wr = SendWR(imm_data=0x01020304)
    wr.opcode = e.IBV_WR_SEND_WITH_INV
    assert wr._words[L.W_IMM] == 0x01020304
    wr.opcode = e.IBV_WR_SEND_WITH_IMM
    assert wr._words[L.W_IMM] == socket.ntohl(0x01020304)


def test_the_key_to_invalidate_is_in_our_byte_order():
    wr = SendWR(opcode=e.IBV_WR_SEND_WITH_INV, imm_data=0x01020304)
    assert wr._words[L.W_IMM] == 0x01020304 == wr.invalidate_rkey
    wr.invalidate_rkey = 5
    assert wr._words[L.W_IMM] == 5


def test_atomics():
    wr = SendWR(opcode=e.IBV_WR_ATOMIC_CMP_AND_SWP, sg=SGE(0, 8, 1))
    wr.set_wr_atomic(1, 16, 2**64 - 1, -2)
    assert wr._words[[L.W_COMPARE, L.W_SWAP]].tolist() == [-1, -2]
    wr.check()
    with pytest.raises(ArgumentError, match="addr"):
        wr.set_wr_atomic(1, 12, 0)
    wr.sg_list = [SGE(0, 4, 1)]
    with pytest.raises(ArgumentError, match="sg"):
        wr.check()


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: SGE(-1, 0, 0), "addr"),
        (lambda: SGE(0, 1 << 32, 0), "length"),
        (lambda: SGE(0, 0, 1 << 32), "lkey"),
        (lambda: SendWR(wr_id=1 << 64), "wr_id"),
        (lambda: SendWR(imm_data=-1), "imm_data"),
        (lambda: SendWR(num_sge=2, sg=[SGE(0, 0, 0)]), "num_sge"),
        (lambda: SendWR(sg=[SGE(0, 1 << 31, 0), SGE(0, 1, 0)]), "sg"),
        (lambda: SendWR(sg=[SGE(0, 1, 0)] * 17), "sg"),
        (lambda: RecvWR(wr_id="x"), "wr_id"),
        (lambda: RecvWR(sg=[1]), r"sg\[0\]"),
        (lambda: SendWR(sg=5), "^sg: SGEs are needed, not int"),
        (lambda: SendWR(opcode=e.IBV_WR_LOCAL_INV), "opcode 7"),
        (lambda: SendWR(send_flags=e.IBV_SEND_IP_CSUM), "send_flags"),
    ],
)
def test_errors_name_the_argument(make, name):
    with pytest.raises((OSError, TypeError), match=name):
        make()


def test_bad_wr_becomes_the_request_that_was_not_posted():
    first, bad = SendWR(7, sg=SGE(8, 9, 10), imm_data=3), SendWR()
    bad.become(first)
    assert (bad.wr_id, bad.num_sge, bad.imm_data) == (7, 1, 3)
    receive, bad_receive = RecvWR(8, next_wr=RecvWR(9)), RecvWR()
    bad_receive.become(receive)
    assert bad_receive.wr_id == 8 and bad_receive.next_wr is receive.next_wr


def test_a_piece_reads_its_memory():
    array = np.arange(100, dtype="u1")
    assert SGE(array.ctypes.data + 10, 20, 0).read(3, 5) == bytes([15, 16, 17])
    with pytest.raises(ArgumentError, match="length"):
        SGE(array.ctypes.data, 20, 0).read(21)


@pytest.mark.parametrize("made", [SendWR, RecvWR])
def test_a_chain_that_leads_back_into_itself_is_refused(made: type) -> None:
    last = made(3)
    first = made(1, next_wr=made(2, next_wr=last))
    refuse_circle(first)
    for target in (first, first.next_wr, last):
        last.next_wr = target
        with pytest.raises(ArgumentError, match="next_wr: the chain"):
            refuse_circle(first)
