"""The block ``w``: one world, every word of it. Bytes (packets, frames, arenas) are in the array ``b`` beside it.

Header, then tables whose bases and lengths stand in the header; the device and paging blocks of each host lie inside ``w`` too,
so a world is copied, kept and compared as two arrays. Words from W_CONFIG on are drawn from the seed by `engine.configure`.
Times in ns of virtual time, lengths in bytes, pages by number, frames by index of their host.
"""

from __future__ import annotations

from typing import Final

PAGE_SHIFT: Final = 9  # small pages: a message of a few kilobytes crosses several
PAGE: Final = 1 << PAGE_SHIFT
FIRST_PAGE: Final = 8  # table addresses begin here, so that 0 is no address
SLOT_PAGES: Final = 6
SLOT_BYTES: Final = SLOT_PAGES * PAGE  # a place for one message
SLOTS: Final = 3  # places of one direction at each end; the last one at the sender is pinned
OPS: Final = 24  # most operations of one direction
NOTICES: Final = 48
MASK_WORDS: Final = 16
MASK_BITS: Final = 32 * MASK_WORDS
PACKET: Final = 1152  # a payload of 1,024 with the longest headers
DMA_PAGES: Final = 4  # pages that one copy may touch
SNAP_PAGES: Final = 24  # pages that one scan or chunk may touch
NEVER: Final = 1 << 62

# ---- header --------------------------------------------------------------------------------------------------------
W_SEED: Final = 0
W_NOW: Final = 1
W_VERDICT: Final = 2  # 0, or a VIOLATION_*
W_HOST_AT: Final = 3  # where it was found
W_X: Final = 4  # its details
W_Y: Final = 5
W_EVENTS: Final = 6  # steps so far
W_EVENT_LIMIT: Final = 7
W_HOSTS: Final = 8
W_HOST: Final = 9
W_DIRECTIONS: Final = 10
W_DIRECTION: Final = 11
W_OP: Final = 12
W_SLOT: Final = 13
W_HEAP: Final = 14
W_HEAP_COUNT: Final = 15
W_HEAP_DEPTH: Final = 16
W_ORDER: Final = 17  # events ever scheduled
W_NET: Final = 18
W_NET_DEPTH: Final = 19
W_NET_FREE: Final = 20  # list of free packet slots, -1 at its end
W_NET_BYTES: Final = 21  # offset of the packet slots in b
W_NOTICE: Final = 22
W_NOTICE_COUNT: Final = 23  # notices begun so far
W_NOTICE_OPEN: Final = 24  # of them, not ended
W_POLICIES: Final = 25  # tables to choose from
W_POLICY_COUNT: Final = 26
W_TRACE: Final = 27  # trace records, or 0
W_TRACE_DEPTH: Final = 28
W_TRACE_COUNT: Final = 29
W_RNG: Final = 30
W_EVENT_KIND: Final = 31  # the event under way
W_EVENT_A: Final = 32
W_EVENT_B: Final = 33
W_OPS_LEFT: Final = 34  # operations without a completion
W_LOST: Final = 35  # packets lost so far
W_TOUCHED: Final = 36  # packets with a fate of their own so far
W_SLOWED: Final = 37  # slow populations so far
W_STORES: Final = 38  # stores of the CPU so far
W_NEXT_NOTICE: Final = 39  # step at which the next notice begins
W_NEXT_STORE: Final = 40
W_DEATH: Final = 41  # step at which a host dies, or NEVER
W_FLOWS: Final = 42  # last arrival by source host * hosts + target host
W_MASKS: Final = 43  # MASK_* bit sets of what is left out
W_SOURCE_WORDS: Final = 44  # length of the world (the template's and ours)
W_RATE_BASE: Final = 45
W_CHECKED: Final = 46  # bytes compared
W_SKIPPED: Final = 47  # bytes that a discard made incomparable
W_END: Final = 48  # when the last operation completed
W_TIMEOUTS: Final = 49  # transport timeouts
W_PACKETS: Final = 50
W_COPIES: Final = 51
W_HARMED: Final = 52  # packets lost, or overtaken: for go-back-N the same

W_CONFIG: Final = 64
C_MTU: Final = 64
C_TIMEOUT: Final = 65  # verbs code
C_PARK_NS: Final = 66
C_LOSS: Final = 67  # in 65,536ths of the packets
C_REPEAT: Final = 68
C_LATE: Final = 69
C_TOUCH_LIMIT: Final = 70  # packets that may be touched at all
C_DELAY_NS: Final = 71
C_JITTER_NS: Final = 72
C_ROUND_NS: Final = 73
C_COPY_NS: Final = 74
C_MINOR_NS: Final = 75
C_MAJOR_NS: Final = 76
C_SLOW: Final = 77  # in 256ths of the populations
C_SLOW_NS: Final = 78
C_FLUSH_NS: Final = 79
C_POLICY: Final = 80
C_OPS: Final = 81  # operations of each direction
C_MIX: Final = 82  # which mix of operations
C_GAP: Final = 83  # steps between notices, on average; 0: none
C_STORE_GAP: Final = 84
C_STRICT: Final = 85  # 1: an error completion needs a reason of its own
C_UNMAPS: Final = 86  # 1: pages may go for good
C_BY_SCAN: Final = 87  # present means writable
C_WORKERS: Final = 88
C_PROFILE: Final = 89  # PROFILE_*
C_RNR_TIMER: Final = 90  # of the imitated adapter
C_REREAD_NS: Final = 91  # after how long it asks for a dropped response again, 0: at the timeout
C_THINK_NS: Final = 92  # between two posts
C_LENGTH: Final = 93  # longest message
C_RETRY: Final = 94
C_RNR_RETRY: Final = 95
C_SERIAL: Final = 96  # 1: one fault of a host at a time
C_FIXED: Final = 97  # 1: roomy buffers, lengths as given, every operation at the same place
HEADER_WORDS: Final = 128

PROFILE_OURS: Final = 0
PROFILE_ADAPTER: Final = 1

# ---- statistics of a run of schedules: the array ``t`` --------------------------------------------------------------
T_SCHEDULES: Final = 0
T_EVENTS: Final = 1
T_OPS: Final = 2
T_PACKETS: Final = 3
T_LOST: Final = 4
T_FAULTS: Final = 5
T_NOTICES: Final = 6
T_REFUSED: Final = 7
T_DEFERRED: Final = 8
T_RNR: Final = 9
T_TIMEOUTS: Final = 10
T_RETRANSMITTED: Final = 11
T_CHECKED: Final = 12
T_SKIPPED: Final = 13
T_ERRORS: Final = 14  # operations that ended in an error, with a reason
T_DEATHS: Final = 15
T_FLUSHES: Final = 16
T_PARKED: Final = 17
T_COPIES: Final = 18
T_VIRTUAL_NS: Final = 19
T_IMPLIED: Final = 20
T_RETRIES: Final = 21
T_WAITS: Final = 22
T_EVICTIONS: Final = 23
T_DROPS: Final = 24
T_CAUSES: Final = 32  # invalidations by cause
STAT_WORDS: Final = 48
STATISTICS: Final = {
    name[2:].lower(): value for name, value in sorted(globals().items()) if name.startswith("T_") and name != "T_CAUSES"
}

# ---- a host ---------------------------------------------------------------------------------------------------------
HO_ALIVE: Final = 0
HO_H: Final = 1  # its device block
HO_H_WORDS: Final = 2
HO_P: Final = 3  # its paging block
HO_P_WORDS: Final = 4
HO_B: Final = 5  # its arena in b
HO_B_BYTES: Final = 6
HO_PHASE: Final = 7  # 0 idle, 1 copying
HO_ROUND_AT: Final = 8  # when its next round is due, 0: none
HO_INBOX: Final = 9  # ring of packet slots
HO_INBOX_MASK: Final = 10
HO_INBOX_HEAD: Final = 11
HO_INBOX_TAIL: Final = 12
HO_PAGE: Final = 13
HO_PAGES: Final = 14
HO_FRAME: Final = 15
HO_FRAMES: Final = 16
HO_TLB: Final = 17  # what the device has cached: frame + 1 by page
HO_CAPTURE: Final = 18  # frames of each copy under way
HO_SNAP: Final = 19  # what scans and workers saw
HO_BYTES: Final = 20  # frames in b
HO_SWAP: Final = 21  # swap slots in b, by page
HO_SHADOW: Final = 22  # what memory must hold, in b, by page
HO_CQ: Final = 23
HO_KEY: Final = 24
HO_KEY_PINNED: Final = 25
HO_BUSY: Final = 26  # workers at work
HO_COPIED: Final = 27  # copies of the batch done so far
HO_TOKENS: Final = 28  # users of each obligation
HO_FLUSH_AT: Final = 29  # 0, or when a flush event is due
HO_SHARED: Final = 30  # address of the cell that all may add to
HO_SHARED_SUM: Final = 31
HO_SHARED_OPEN: Final = 32  # 1: an addition may or may not have happened
HO_EXCUSED: Final = 33  # 1: its memory went away for good at some time
HO_FAULTS_AT: Final = 34  # the imitated adapter: until when its firmware serves faults
HOST_WORDS: Final = 40

# ---- a page of a host -----------------------------------------------------------------------------------------------
PG_STATE: Final = 0
PG_FRAME: Final = 1
PG_WRITE: Final = 2
PG_LOST: Final = 3  # when its contents were last thrown away
PG_SLOT: Final = 4  # the place it belongs to, + 1
PG_PINNED: Final = 5
PAGE_WORDS: Final = 6
GONE: Final = 0  # not mapped
ZERO: Final = 1  # never touched, or discarded
PRESENT: Final = 2
SWAPPED: Final = 3
SWAPPING: Final = 4  # its frame is held for an obligation; swap gets its contents then

# ---- a frame --------------------------------------------------------------------------------------------------------
FR_STATE: Final = 0  # 0 free, else FRAME_*
FR_PAGE: Final = 1
FR_AGE: Final = 2  # how often it was freed
FR_SUM: Final = 3  # FRAME_CHILD: what it must still hold
FRAME_WORDS: Final = 4
FRAME_MAPPED: Final = 1
FRAME_HELD: Final = 2  # an obligation's
FRAME_CHILD: Final = 3  # another process has it now

# ---- a direction of a connection: 2 c and 2 c + 1 are the two of connection c ---------------------------------------
DR_FROM: Final = 0  # hosts
DR_TO: Final = 1
DR_QP: Final = 2  # record of the QP at DR_FROM
DR_PEER: Final = 3  # and at DR_TO
DR_COUNT: Final = 4  # operations planned
DR_NEXT: Final = 5  # next to be posted
DR_DONE: Final = 6  # next to complete
DR_EXECUTED: Final = 7  # next to be executed at DR_TO
DR_LANDED: Final = 8  # next whose answer lands at DR_FROM
DR_RECV_NEXT: Final = 9  # next to get its receive posted
DR_RECV_DONE: Final = 10  # next to complete its receive
DR_BROKEN: Final = 11  # an operation failed
DR_CELL: Final = 12  # address of its own cell at DR_TO
DR_VALUE: Final = 13  # what the cell holds once all that completed is executed
DR_OPEN: Final = 14  # 1: nobody knows what the cell holds
DR_POSTED: Final = 15  # posts ever
DR_RECV_DUE: Final = 16  # receives to be posted by now
DR_SLOT: Final = 17  # first place at DR_FROM; those at DR_TO follow
DR_DAMMED: Final = 18  # the imitated adapter: PSNs below are not sent again by themselves
DR_TRIES: Final = 19  # posts that found their places in use, in a row
DR_REREAD: Final = 20  # the imitated adapter: when it asks again for a dropped response, 0: not
DR_DUE: Final = 21  # what its timer is at before the device looks at it: 0, or DUE_*
DIRECTION_WORDS: Final = 24
DUE_FREE: Final = 1  # nothing holds it back
DUE_HELD: Final = 2  # its oldest request is parked at the peer, or waits for its RNR timer
DUE_UNHEARD: Final = 3  # its peer's queue pair has ended, or the peer is dead

# ---- an operation ---------------------------------------------------------------------------------------------------
OP_STATE: Final = 0
OP_KIND: Final = 1  # a WR_* opcode
OP_LENGTH: Final = 2
OP_LOCAL: Final = 3
OP_REMOTE: Final = 4
OP_LOCAL_SLOT: Final = 5
OP_REMOTE_SLOT: Final = 6
OP_SINCE: Final = 7
OP_EXECUTED: Final = 8  # bytes at the target
OP_LANDED: Final = 9  # bytes of its answer
OP_TAG: Final = 10
OP_RECEIVED: Final = 11
OP_X0: Final = 12
OP_X1: Final = 13
OP_STATUS: Final = 14
OP_END: Final = 15
OP_VALUE: Final = 16  # what an atomic found when it was executed
OP_WORDS: Final = 18
UNPOSTED: Final = 0
POSTED: Final = 1
ENDED: Final = 2
LEFT_OUT: Final = 3

# ---- a place in memory ----------------------------------------------------------------------------------------------
SL_VA: Final = 0
SL_HOST: Final = 1
SL_DIRECTION: Final = 2
SL_ROLE: Final = 3
SL_WRITERS: Final = 4  # operations under way that write here
SL_READERS: Final = 5
SL_UNKNOWN: Final = 6  # 1: what failed may have written here
SLOT_WORDS: Final = 8
ROLE_LOCAL: Final = 0
ROLE_TARGET: Final = 1
ROLE_CELL: Final = 2
ROLE_SHARED: Final = 3

# ---- a packet on the wire -------------------------------------------------------------------------------------------
NT_NEXT: Final = 0
NT_LENGTH: Final = 1
NT_FROM: Final = 2
NET_WORDS: Final = 4

# ---- an invalidation ------------------------------------------------------------------------------------------------
NO_HOST: Final = 0
NO_START: Final = 1  # page numbers
NO_END: Final = 2
NO_CAUSE: Final = 3
NO_SLEEP: Final = 4
NO_STATE: Final = 5
NO_TICKET: Final = 6
NO_TOKEN: Final = 7
NO_VERDICT: Final = 8
NO_TRIES: Final = 9
NO_FRAMES: Final = 10  # how many are held
NO_POLLS: Final = 11
NO_LIST: Final = 12
NOTICE_WORDS: Final = NO_LIST + 2 * SLOT_PAGES
NO_BEGINS: Final = 0
NO_WAITS: Final = 1
NO_CHANGES: Final = 2
NO_FINISHES: Final = 3
NO_HOLDS: Final = 4
NO_RETURNS: Final = 5  # the address is mapped again
NO_OVER: Final = 6

# ---- events: kind | a << 8 | b << 24 --------------------------------------------------------------------------------
EV_ROUND: Final = 1  # host
EV_COPY: Final = 2  # host
EV_PACKET: Final = 3  # host, packet slot
EV_SCAN: Final = 4  # host, fault
EV_POPULATE: Final = 5
EV_COMMIT: Final = 6
EV_NOTICE: Final = 7  # notice
EV_FLUSH: Final = 8  # host
EV_POST: Final = 9  # direction
EV_RECEIVE: Final = 10  # direction
EV_STORE: Final = 11
EV_DEATH: Final = 12
HEAP_WORDS: Final = 3

# ---- trace records --------------------------------------------------------------------------------------------------
TR_TIME: Final = 0
TR_KIND: Final = 1
TR_HOST: Final = 2
TR_A: Final = 3
TR_B: Final = 4
TR_C: Final = 5
TR_D: Final = 6
TRACE_WORDS: Final = 8

# ---- what may be left out -------------------------------------------------------------------------------------------
MASK_OPS: Final = 0
MASK_NOTICES: Final = 1
MASK_TOUCHES: Final = 2
MASK_SLOW: Final = 3
MASK_STORES: Final = 4
MASK_DEATH: Final = 5
MASKS: Final = 6

# ---- what may go wrong ----------------------------------------------------------------------------------------------
VIOLATION_I1: Final = 1
VIOLATION_I2: Final = 2
VIOLATION_I3: Final = 3
VIOLATION_I4: Final = 4
VIOLATION_I5: Final = 5
VIOLATION_I6: Final = 6
VIOLATION_I7: Final = 7
VIOLATION_I8: Final = 8
VIOLATION_I9: Final = 9
VIOLATION_I10: Final = 10
VIOLATION_DATA: Final = 11
VIOLATION_ERROR: Final = 12
VIOLATION_ORDER: Final = 13
VIOLATION_LEAK: Final = 14
VIOLATION_WORLD: Final = 15  # the world itself ran out of something

VIOLATIONS: Final = {
    VIOLATION_I1: "I1: a copy on a frame that was freed or is another page's",
    VIOLATION_I2: "I2: a device write where the CPU could not write",
    VIOLATION_I3: "I3: an old translation used past its point",
    VIOLATION_I4: "I4: acknowledged, but not in memory",
    VIOLATION_I5: "I5: writes of one message out of ascending order",
    VIOLATION_I6: "I6: no progress",
    VIOLATION_I7: "I7: executed twice, or never",
    VIOLATION_I8: "I8: a step left the protocol open",
    VIOLATION_I9: "I9: a transport timeout that no loss explains",
    VIOLATION_I10: "I10: a refusal that changed something",
    VIOLATION_DATA: "memory does not hold what it must",
    VIOLATION_ERROR: "an operation failed without a reason",
    VIOLATION_ORDER: "completions out of order",
    VIOLATION_LEAK: "something is held when nothing is under way",
    VIOLATION_WORLD: "the modelled world ran out of room",
}

assert len(STATISTICS) == len(set(STATISTICS.values())) and max(STATISTICS.values()) < STAT_WORDS
