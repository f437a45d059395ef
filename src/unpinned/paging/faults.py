"""stub"""
from unpinned.compiled import kernel
from unpinned.paging import layout as P
from unpinned.paging.layout import Block


@kernel
def fault_begin(p: Block, start: int, end: int, need_write: int, token: int, region: int, now: int) -> int:
    """A request over ``[start, end)`` missed: open a fault, or join one that is bringing the range in.

    -> the slot (a word index: ``p[slot + P.FAULT_STATE]``), NONE when no slot is free, OUTSIDE when `start` is not in the
    region or the range is revoked. The range is cut to the region and to p[FAULT_MAX_BYTES], and may read ahead.
    token NONE: a prefetch; its slot frees itself. Otherwise the caller owes one fault_end. region NONE: no bounds.
    """
    return -1


@kernel
def fault_take(p: Block, state: int) -> int:
    """Take the oldest slot in `state` (FAULT_SCAN -> FAULT_SCANNING, FAULT_QUEUED -> FAULT_RUNNING); -> slot or NONE."""
    return -1


@kernel
def fault_scanned(p: Block, slot: int, upto: int, now: int) -> int:
    """The driver looked, without the lock: ``[FAULT_CURSOR, upto)`` is resident. Install it and go on.

    -> COMMITTED (state is now FAULT_DONE, or FAULT_QUEUED from FAULT_CURSOR on), RETRY (armed for another scan), WAITING, EXHAUSTED,
    OVER (nobody waits any more, the slot is free), PROTOCOL.
    """
    return P.COMMITTED


@kernel
def fault_chunk(p: Block, slot: int) -> int:
    """Begin the next chunk of a RUNNING fault: -> 1 and ``[FAULT_CURSOR, FAULT_CHUNK_END)`` to populate (for write if
    p[slot + FAULT_WRITE]); 0: leave the slot alone (done, waiting, failed or over)."""
    return 0


@kernel
def fault_commit(p: Block, slot: int, err: int, now: int) -> int:
    """The world populated the chunk (err 0) or could not (errno). Install it unless a colliding invalidation came between.

    -> COMMITTED, RETRY (call fault_chunk again), WAITING, FAILED, EXHAUSTED, OVER, PROTOCOL. After any of them the worker calls fault_chunk
    again, or stops when that returns 0.
    """
    return P.COMMITTED


@kernel
def fault_poll(p: Block) -> int:
    """Re-arm every fault in FAULT_WAIT whose collision is over; -> how many (invalidate_finish and flush_end do it themselves)."""
    return 0


@kernel
def fault_end(p: Block, slot: int) -> int:
    """One waiter is done with the slot (resumed, NAKed or gone); -> DONE (freed), BUSY (others wait, or it is being worked on and
    frees itself), PROTOCOL."""
    return P.DONE
