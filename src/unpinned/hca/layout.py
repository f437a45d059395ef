"""The words of the HCA: every record of the device block ``h``, declared once.

One block per device, ``int64[:]``; the header says where each table starts and how deep it is, so the
geometry is data and one compilation serves every size.  A record is reached as ``h[q + L.QP_EPSN]`` where
``q`` is the index of the record's first word.  Owner of every word not marked otherwise: whoever holds the
device lock.  PSNs are *extended*: they count up without bound and are masked to 24 bits on the wire only, so
that no comparison can be confused by a wrap.

Units: times in ns, lengths in bytes, PSNs and windows in packets, addresses as signed 64-bit integers.
"""

from __future__ import annotations

from typing import Final

import numpy as np

PSN_MASK: Final = 0xFFFFFF
LENGTH_MAX: Final = 1 << 31  # longest message, bytes (IBTA: 2^31)
SGE_MAX: Final = 16
READ_RING: Final = 16  # outstanding READ/atomic requests of one QP, both ways
RECV_BURSTS: Final = 4  # datagram bursts (GRO) taken from the socket at once
BURST_BYTES: Final = 1 << 16
PACKET_BYTES: Final = 4352  # a 4096-byte payload with the longest headers and the ICRC
TEMPLATE_BYTES: Final = 128

# ---- header ------------------------------------------------------------------------------------------------
H_MAGIC: Final = 0
H_WORDS: Final = 1  # length of the whole block, words
H_QP_BASE: Final = 2
H_QP_COUNT: Final = 3  # capacity
H_MR_BASE: Final = 4
H_MR_COUNT: Final = 5
H_KEY_BASE: Final = 6  # open-addressed table of (key, region index + 1)
H_KEY_MASK: Final = 7
H_CQ_BASE: Final = 8
H_CQ_COUNT: Final = 9
H_READY_BASE: Final = 10  # ring of QP indices that have something to do
H_READY_MASK: Final = 11
H_READY_HEAD: Final = 12
H_READY_TAIL: Final = 13
H_PACKET_BASE: Final = 14  # packets of the current receive burst
H_PACKET_DEPTH: Final = 15
H_PACKET_COUNT: Final = 16
H_PACKET_NEXT: Final = 17  # first packet that receive has not judged yet
H_TX_BASE: Final = 18  # packets of the current transmit burst
H_TX_DEPTH: Final = 19
H_TX_COUNT: Final = 20
H_TX_BYTES: Final = 21  # arena bytes the burst uses so far
H_ACT_BASE: Final = 22  # what to do when the copies of the burst are done
H_ACT_DEPTH: Final = 23
H_ACT_COUNT: Final = 24
H_POOL_BASE: Final = 25  # packets that wait behind a parked request
H_POOL_COUNT: Final = 26
H_POOL_FREE: Final = 27  # head of the free list, -1 when empty
H_POOL_LIMIT: Final = 28  # packets one QP may keep waiting, each direction
H_POOL_USED: Final = 29
H_RX_ARENA: Final = 30  # byte offsets in the arena b
H_TX_ARENA: Final = 31
H_POOL_ARENA: Final = 32
H_RX_TEMPLATE: Final = 33
H_TX_TEMPLATE: Final = 34
H_NEXT_TIMER: Final = 35  # no deadline lies before this, ns
H_WINDOW: Final = 36  # bytes that all QPs together may have in flight
H_INFLIGHT: Final = 37
H_READ_CHUNK: Final = 38  # bytes one READ request asks for at most
H_FAULT_NS: Final = 39  # moving average of the time a fault takes
H_STARVED: Final = 40  # 1: a QP waits for a free fault slot
H_EVENTS: Final = 41  # number of CQs and QPs with a notification to deliver
H_TX_BURST: Final = 42  # packets one QP may send before the next has its turn
H_QP_LIVE: Final = 43  # one past the highest QP in use
H_ERROR_EVENTS: Final = 44  # QPs that went to error, ever
H_COMPLETIONS: Final = 45  # completions, ever
H_CQ_LIVE: Final = 46  # one past the highest CQ in use
H_MR_LIVE: Final = 47  # one past the highest region record in use
H_FREE: Final = 48  # first word the control plane may allocate rings from
H_SEEN: Final = 49  # the region record of which this step has found [H_SEEN_START, H_SEEN_END) usable; 0: of none yet
H_SEEN_START: Final = 50  # table addresses
H_SEEN_END: Final = 51
H_SEEN_WRITE: Final = 52  # 1: for writing, too
H_SPARE: Final = 53  # bytes beyond the window for READs of QPs with nothing in flight, as long as the socket's buffer holds the answers
H_COUNTERS: Final = 64

# ---- counters, at H_COUNTERS ---------------------------------------------------------------------------------
C_RX_PACKETS: Final = 64
C_RX_BYTES: Final = 65
C_TX_PACKETS: Final = 66
C_TX_BYTES: Final = 67
C_BAD_ICRC: Final = 68
C_BAD_LENGTH: Final = 69
C_BAD_OPCODE: Final = 70
C_BAD_QPN: Final = 71
C_BAD_STATE: Final = 72
C_BAD_ADDRESS: Final = 73
C_BAD_HEADER: Final = 74  # version, P_Key, pad count
C_OUT_OF_SEQUENCE: Final = 75
C_DUPLICATE: Final = 76
C_DUPLICATE_ATOMIC: Final = 77
C_DUPLICATE_PARKED: Final = 78
C_NAK_SEQUENCE: Final = 79
C_NAK_INVALID: Final = 80
C_NAK_ACCESS: Final = 81
C_NAK_OPERATION: Final = 82
C_RNR_NAK: Final = 83  # sent because no receive was posted
C_RNR_NAK_FAULT: Final = 84  # sent because a page takes too long
C_RNR_RECEIVED: Final = 85
C_NAK_RECEIVED: Final = 86
C_TIMEOUTS: Final = 87
C_RETRANSMITTED: Final = 88  # packets sent again
C_PARKED: Final = 89
C_POOL_DROPS: Final = 90
C_BAD_RESPONSE: Final = 91
C_CQ_OVERRUN: Final = 92
C_ACKS_SENT: Final = 93
C_IMPLIED_NAK: Final = 94
C_SEND_ERRORS: Final = 96
C_TRUNCATED: Final = 97
C_AHEAD: Final = 98  # faults begun for READs that wait behind a parked one
C_STOOD_STILL: Final = 99  # retransmission timers looked at so late that this device had stood still: they run once more
HEADER_WORDS: Final = 128

COUNTERS: Final[dict[str, int]] = {
    name[2:].lower(): value for name, value in sorted(globals().items()) if name.startswith("C_")
}

# ---- memory region -------------------------------------------------------------------------------------------
MR_STATE: Final = 0  # 0 free, 1 valid, 2 revoked
MR_PD: Final = 1
MR_KEY: Final = 2  # lkey and rkey
MR_START: Final = 3  # application's virtual address
MR_LENGTH: Final = 4
MR_ACCESS: Final = 5
MR_DELTA: Final = 6  # table address - application's address
MR_PATH: Final = 7  # DMA_PATH of the copies
MR_PINNED: Final = 8  # 1: the page table is not consulted
MR_REGION: Final = 9  # slot of the region's counters in the paging block
MR_HOLES: Final = 10  # 1: some extents were revoked
MR_IMPLICIT: Final = 11  # 1: the whole address space, whatever it holds
MR_WORDS: Final = 12

ACCESS_LOCAL_WRITE: Final = 1
ACCESS_REMOTE_WRITE: Final = 2
ACCESS_REMOTE_READ: Final = 4
ACCESS_REMOTE_ATOMIC: Final = 8
ACCESS_REMOTE_INVALIDATE: Final = 1 << 30  # ours: SEND WITH INVALIDATE may revoke the key

# ---- completion queue ----------------------------------------------------------------------------------------
CQ_STATE: Final = 0  # 0 free, 1 valid, 2 overrun
CQ_RING: Final = 1  # index of the first completion
CQ_MASK: Final = 2
CQ_HEAD: Final = 3  # consumer
CQ_TAIL: Final = 4  # producer; read with acquire by pollers
CQ_ARMED: Final = 5  # 0 no, 1 next completion, 2 next solicited
CQ_EVENT: Final = 6  # what the engine owes the descriptors: TELL_*
CQ_FD: Final = 7  # eventfd of the completion channel or -1
CQ_ASYNC_FD: Final = 8  # eventfd of the context or -1
CQ_ASYNC: Final = 9  # TELL_OVERRUN: told on CQ_ASYNC_FD, and not taken yet
CQ_WORDS: Final = 12

TELL_COMPLETION: Final = 1  # on CQ_FD
TELL_OVERRUN: Final = 2  # on CQ_ASYNC_FD

E_ID: Final = 0
E_STATUS: Final = 1
E_OPCODE: Final = 2
E_LENGTH: Final = 3
E_QPN: Final = 4
E_IMM: Final = 5
E_FLAGS: Final = 6
E_SRC_QP: Final = 7
CQE_WORDS: Final = 8

# ---- work requests -------------------------------------------------------------------------------------------
W_ID: Final = 0
W_OPCODE: Final = 1
W_FLAGS: Final = 2
W_LENGTH: Final = 3
W_RVA: Final = 4
W_RKEY: Final = 5
W_IMM: Final = 6  # immediate data, or the key to invalidate
W_COMPARE: Final = 7  # or the addend
W_SWAP: Final = 8
W_FIRST: Final = 9  # first PSN, once started
W_PACKETS: Final = 10  # PSNs it takes
W_NSGE: Final = 11
W_SGE: Final = 12  # then SGE_WORDS each
SGE_WORDS: Final = 3  # address, length, lkey

R_ID: Final = 0
R_LENGTH: Final = 1
R_NSGE: Final = 2
R_SGE: Final = 4

SEND_FENCE: Final = 1
SEND_SIGNALED: Final = 2
SEND_SOLICITED: Final = 4

WR_RDMA_WRITE: Final = 0
WR_RDMA_WRITE_WITH_IMM: Final = 1
WR_SEND: Final = 2
WR_SEND_WITH_IMM: Final = 3
WR_RDMA_READ: Final = 4
WR_ATOMIC_CMP_AND_SWP: Final = 5
WR_ATOMIC_FETCH_AND_ADD: Final = 6
WR_LOCAL_INV: Final = 7
WR_SEND_WITH_INV: Final = 9

WC_SEND: Final = 0
WC_RDMA_WRITE: Final = 1
WC_RDMA_READ: Final = 2
WC_COMP_SWAP: Final = 3
WC_FETCH_ADD: Final = 4
WC_LOCAL_INV: Final = 6
WC_RECV: Final = 128
WC_RECV_RDMA_WITH_IMM: Final = 129
WC_WITH_IMM: Final = 2  # wc_flags
WC_WITH_INV: Final = 8

WC_SUCCESS: Final = 0
WC_LOC_LEN_ERR: Final = 1
WC_LOC_QP_OP_ERR: Final = 2
WC_LOC_PROT_ERR: Final = 4
WC_WR_FLUSH_ERR: Final = 5
WC_BAD_RESP_ERR: Final = 7
WC_REM_INV_REQ_ERR: Final = 9
WC_REM_ACCESS_ERR: Final = 10
WC_REM_OP_ERR: Final = 11
WC_RETRY_EXC_ERR: Final = 12
WC_RNR_RETRY_EXC_ERR: Final = 13
WC_FATAL_ERR: Final = 19

# ---- queue pair ----------------------------------------------------------------------------------------------
QPS_FREE: Final = -1
QPS_RESET: Final = 0
QPS_INIT: Final = 1
QPS_RTR: Final = 2
QPS_RTS: Final = 3
QPS_SQD: Final = 4
QPS_SQE: Final = 5
QPS_ERR: Final = 6

QP_STATE: Final = 0
QP_NUMBER: Final = 1
QP_PD: Final = 2
QP_DEST: Final = 3  # peer's QP number
QP_PEER_HI: Final = 4  # peer's address as two words of an IPv6 (or mapped IPv4) address
QP_PEER_LO: Final = 5
QP_PEER_PORT: Final = 6
QP_MTU: Final = 7
QP_ACCESS: Final = 8
QP_SEND_CQ: Final = 9  # index of the record
QP_RECV_CQ: Final = 10
QP_SIG_ALL: Final = 11
QP_QUEUED: Final = 12  # stands in the ready ring
QP_LAST_ID: Final = 13  # IPv4 identification of the last datagram, -1 before; written by the driver
QP_SQ_RING: Final = 14
QP_SQ_MASK: Final = 15
QP_SQ_STRIDE: Final = 16
QP_RQ_RING: Final = 17
QP_RQ_MASK: Final = 18
QP_RQ_STRIDE: Final = 19
# requester
QP_SQ_TAIL: Final = 20  # producer, counts up
QP_SQ_HEAD: Final = 21  # oldest request without a completion
QP_SQ_NEXT: Final = 22  # request whose packets go out
QP_SQ_PACKET: Final = 23  # next packet of it
QP_SEND_PSN: Final = 24  # next PSN to send
QP_UNA: Final = 25  # oldest PSN without an acknowledgement
QP_DONE: Final = 26  # PSNs below are acknowledged and copied
QP_MAX_PSN: Final = 27  # highest PSN ever sent: below it is a retransmission
QP_CWND: Final = 28  # packets that may be in flight
QP_CWND_MAX: Final = 29
QP_ACKED: Final = 30  # packets acknowledged since the window grew
QP_TIMEOUT_NS: Final = 31  # 0: never
QP_RETRY_MAX: Final = 32
QP_RETRIES: Final = 33  # left
QP_RNR_MAX: Final = 34  # 7: for ever
QP_RNR_RETRIES: Final = 35
QP_DEADLINE: Final = 36  # retransmission timer, 0 when off
QP_RNR_UNTIL: Final = 37  # nothing is sent before, 0 when off
QP_RD_MAX: Final = 38  # max_rd_atomic
QP_RD_HEAD: Final = 39
QP_RD_TAIL: Final = 40
QP_SEND_FAULT: Final = 41  # slot + 1 of the fault the send side waits for, below 0: the range of one that failed
QP_LAND_FAULT: Final = 42  # the same for responses that land
QP_LAND_HEAD: Final = 43  # responses waiting, pool indices
QP_LAND_TAIL: Final = 44
QP_LAND_COUNT: Final = 45
QP_SEND_ERROR: Final = 46  # WC status that ends the request at SQ_HEAD
QP_RECOVERING: Final = 47  # answers lost below this PSN have been asked for again
# responder
QP_EPSN: Final = 48
QP_MSN: Final = 49
QP_RESP_OP: Final = 50  # message under way: 0 none, 1 SEND, 2 WRITE
QP_RESP_VA: Final = 51
QP_RESP_LEFT: Final = 52
QP_RESP_KEY: Final = 53  # key of the region that the WRITE goes to
QP_RESP_LENGTH: Final = 54  # bytes of the message so far
QP_RQ_TAIL: Final = 55
QP_RQ_HEAD: Final = 56  # oldest receive without a completion
QP_BUSY: Final = 57  # 0, or what the responder is doing (BUSY_*)
QP_READ_PSN: Final = 58  # next response
QP_READ_END: Final = 59  # PSN after the last one (of an atomic too)
QP_READ_VA: Final = 60
QP_READ_LEFT: Final = 61
QP_READ_FIRST: Final = 62  # PSN of its first response (of an atomic too)
QP_PARK_FAULT: Final = 63  # slot + 1 of the fault the responder waits for, below 0: the range of one that failed
QP_PARK_UNTIL: Final = 64
QP_PARK_NS: Final = 65  # longest park
QP_PARK_SINCE: Final = 66
QP_PEND_HEAD: Final = 67
QP_PEND_TAIL: Final = 68
QP_PEND_COUNT: Final = 69
QP_REPLY: Final = 70  # 0 none, 1 ACK, 2 NAK, 3 atomic response
QP_REPLY_PSN: Final = 71
QP_REPLY_SYNDROME: Final = 72
QP_NAKED: Final = 73  # a NAK is out; packets ahead are dropped in silence
QP_MIN_RNR: Final = 74  # timer code
QP_AT_TAIL: Final = 75  # duplicate-atomics ring
QP_DEST_RD_MAX: Final = 76  # max_dest_rd_atomic
QP_REPLY_MSN: Final = 77
QP_ASKED: Final = 78  # requester: the last PSN sent that will be answered by itself
QP_RQ_NEXT: Final = 79  # receive that the next SEND goes to
QP_ERROR: Final = 80  # WC status or NAK syndrome that ended it
QP_STARVED: Final = 81  # waits for a free fault slot
QP_READ_AGAIN: Final = 82  # 1: the READ under way repeats one that was answered before
QP_READ_LIVE: Final = 83  # READ/atomic requests of the peer that wait
QP_NOT_READY: Final = 84  # syndrome of the RNR NAK that is owed beside QP_REPLY, or 0
QP_NOT_READY_PSN: Final = 85
QP_READ_KEY: Final = 86
QP_ATOMIC_VALUE: Final = 87  # of the response that is owed
QP_PEND_NEXT: Final = 88  # PSN that the waiting queue takes next
QP_PEND_GAP: Final = 89  # GAP_*: what was dropped behind the waiting queue
QP_LAND_GAP: Final = 90  # 1: an answer behind the landing queue was dropped
QP_EXCUSED: Final = 91  # 1: the retransmission timer runs once more, for we had stood still
QP_RD_START: Final = 92  # READ_RING starts, ends, atomic PSNs, atomic values
QP_RD_END: Final = QP_RD_START + READ_RING
QP_AT_PSN: Final = QP_RD_END + READ_RING
QP_AT_VALUE: Final = QP_AT_PSN + READ_RING
QP_KEPT_FIRST: Final = QP_AT_VALUE + READ_RING  # a READ that a repeated request has interrupted: as QP_READ_FIRST ...
QP_KEPT_PSN: Final = QP_KEPT_FIRST + 1
QP_KEPT_END: Final = QP_KEPT_FIRST + 2  # 0: there is none
QP_KEPT_VA: Final = QP_KEPT_FIRST + 3
QP_KEPT_LEFT: Final = QP_KEPT_FIRST + 4
QP_KEPT_KEY: Final = QP_KEPT_FIRST + 5
QP_KEPT_AGAIN: Final = QP_KEPT_FIRST + 6
QP_PEND_LOST: Final = QP_KEPT_FIRST + 7  # GAP_NEW: one past the highest PSN that was dropped
QP_ANSWERED: Final = QP_KEPT_FIRST + 8  # one past the highest PSN of a READ response ever sent
QP_EVENT: Final = QP_KEPT_FIRST + 9  # EVENT_*: what the engine owes QP_ASYNC_FD
QP_ASYNC: Final = QP_KEPT_FIRST + 10  # EVENT_*: told there, and not taken yet
QP_ASYNC_FD: Final = QP_KEPT_FIRST + 11  # eventfd of the context or -1
QP_ESTABLISHED: Final = QP_KEPT_FIRST + 12  # 1: a request came before the state was RTS, and that was told
QP_DRAIN: Final = QP_KEPT_FIRST + 13  # 1: who put it into SQD wants to be told when all that had begun is done
QP_CHUNK: Final = QP_KEPT_FIRST + 14  # packets: boundaries between READs that may be asked for again are multiples of it; 0: none
QP_FOREIGN: Final = QP_KEPT_FIRST + 15  # 1: the peer may be anything: a READ that is repeated is repeated alone
QP_WORDS: Final = QP_KEPT_FIRST + 16

EVENT_FATAL: Final = 1  # an error that no completion tells
EVENT_REQUEST: Final = 2  # the peer sent what is no valid request
EVENT_ACCESS: Final = 4  # the peer asked for what it may not have
EVENT_ESTABLISHED: Final = 8
EVENT_DRAINED: Final = 16

GAP_NEW: Final = 1  # something never seen, below QP_PEND_LOST: asked for by a NAK of the expected PSN, unless a copy of it came
GAP_AGAIN: Final = 2  # something sent again, QP_PEND_NEXT: nobody is asked for it by a NAK of the expected PSN

BUSY_READ: Final = 1
BUSY_ATOMIC: Final = 2
REPLY_ACK: Final = 1
REPLY_NAK: Final = 2
REPLY_ATOMIC: Final = 3

SYNDROME_ACK: Final = 0x1F  # credits 31: not counted
SYNDROME_RNR: Final = 0x20
NAK_SEQUENCE: Final = 0x60
NAK_INVALID: Final = 0x61
NAK_ACCESS: Final = 0x62
NAK_OPERATION: Final = 0x63

# ---- a received packet, waiting packet, packet to send, deferred action ------------------------------------------
K_OFFSET: Final = 0
K_LENGTH: Final = 1  # from the BTH on, without the ICRC
K_SRC_HI: Final = 2
K_SRC_LO: Final = 3
K_PORT: Final = 4
PACKET_WORDS: Final = 8  # a line of the cache

POOL_NEXT: Final = 0
POOL_LENGTH: Final = 1
POOL_AHEAD: Final = 2  # 1: its page has been looked for while it waits
POOL_WORDS: Final = 3

T_OFFSET: Final = 0
T_LENGTH: Final = 1  # with the ICRC; 0 when its copy failed
T_QP: Final = 2
T_FIRST: Final = 3  # DMA descriptors [first, end)
T_END: Final = 4
T_SIDE: Final = 5  # 0 requester, 1 responder, 2 nothing to copy
T_PSN: Final = 6
T_AGAIN: Final = 7  # of a READ response that was sent before: where its READ ends, PSN; else 0
TX_WORDS: Final = 8

A_KIND: Final = 0
A_QP: Final = 1
A_FIRST: Final = 2  # DMA descriptors [first, end)
A_END: Final = 3
A_PSN: Final = 4
A_FLAGS: Final = 5
A_POOL: Final = 6  # pool packet to give back + 1
A_IMM: Final = 7
A_MSN: Final = 8  # messages taken so far
A_LENGTH: Final = 9  # bytes of the message; with ACT_FAIL the WC status of the receive at the head, or 0
ACT_WORDS: Final = 10

ACT_REQUEST: Final = 1  # a request's payload: acknowledge, complete a receive
ACT_ATOMIC: Final = 2
ACT_RESPONSE: Final = 3  # the requester's progress up to A_PSN
ACT_FAIL: Final = 4  # the QP ends here: A_FLAGS is the syndrome, or -(WC status) of the request at A_PSN
ACT_REPLY: Final = 5  # nothing but an answer: A_FLAGS is the syndrome
AF_ACK: Final = 1
AF_CQE: Final = 2
AF_IMM: Final = 4
AF_INV: Final = 8
AF_SOLICITED: Final = 16
AF_RDMA: Final = 32

MAGIC: Final = 0x756E70696E6E6564  # "unpinned"


def _record(prefix: str, words: int) -> np.dtype:
    """The NumPy view of a record: its named words, in order, all native int64."""
    names = [""] * words
    for name, value in globals().items():
        field = name[len(prefix):]
        if name.startswith(prefix) and isinstance(value, int) and field not in {"WORDS"} and value < words:
            names[value] = names[value] or field.lower()
    return np.dtype([(name or f"word{i}", "<i8") for i, name in enumerate(names)])


QP: Final = _record("QP_", QP_WORDS)
MR: Final = _record("MR_", MR_WORDS)
CQ: Final = _record("CQ_", CQ_WORDS)
CQE: Final = _record("E_", CQE_WORDS)

assert QP.itemsize == 8 * QP_WORDS and MR.itemsize == 8 * MR_WORDS and CQE.itemsize == 8 * CQE_WORDS
assert len(set(COUNTERS.values())) == len(COUNTERS) and max(COUNTERS.values()) < HEADER_WORDS
