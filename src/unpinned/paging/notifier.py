"""stub"""
from unpinned.compiled import kernel
from unpinned.paging import layout as P
from unpinned.paging.layout import Block


@kernel
def invalidate_start(p: Block, start: int, end: int, cause: int, may_sleep: int, now: int) -> int:
    """The CPU's page table is about to change over ``[start, end)``, for `cause`; -> a verdict.

    DONE      the device is out of the range. Ticket in p[TICKET]; call invalidate_finish when the change is made.
    WAIT      the same, once invalidate_poll(p, p[TICKET]) says DONE: do not change anything before. Only if may_sleep.
    DEFERRED  make the change, but hold the frame until obligation p[OBLIGATION] is flushed. Ticket as for DONE.
    REFUSED   nothing has changed, no ticket: the page stays with its owner.
    FULL      nothing has changed, no ticket record is free: finish another one first.
    PROTOCOL  an empty range or an unknown cause.
    """
    return P.DONE


@kernel
def invalidate_poll(p: Block, ticket: int) -> int:
    """-> DONE when the device is out of the ticket's range, else WAIT (copies in flight, or a flush owed); PROTOCOL."""
    return P.DONE


@kernel
def invalidate_finish(p: Block, ticket: int, now: int) -> int:
    """The change is made; faults may go on. -> DONE, or PROTOCOL (unknown ticket, or still WAIT) with nothing changed."""
    return P.DONE


@kernel
def flush_due(p: Block, now: int) -> int:
    """1 when a flush should begin now: somebody waits for it, or a deferral has reached its bound in pages or time."""
    return 0


@kernel
def flush_begin(p: Block, now: int) -> int:
    """Begin one flush for everything owed so far; -> how many records it covers, or PROTOCOL when one is running."""
    return 0


@kernel
def flush_end(p: Block, now: int) -> int:
    """The device's flush is over; -> DONE, WAIT when a copy over a deferred range is still in flight (call again), PROTOCOL."""
    return P.DONE


@kernel
def flush_deadline(p: Block) -> int:
    """When the oldest deferral must be flushed (ns of the caller's clock), or NONE."""
    return -1


@kernel
def obligation_done(p: Block, token: int) -> int:
    """1 when the frames held for `token` may go, 0 while they may not, PROTOCOL for a token that is not held."""
    return 0


@kernel
def obligation_end(p: Block, token: int) -> int:
    """The host has let go of the frames: free the record; -> DONE or PROTOCOL (not flushed yet, or not held)."""
    return P.DONE
