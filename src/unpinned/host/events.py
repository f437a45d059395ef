"""Events on descriptors: the device writes them, whoever waits takes them.

A channel's descriptor announces an armed completion queue, a context's an asynchronous event of one of its queues. What is owed
stands in the records (CQ_EVENT, QP_EVENT), a bit for each kind; for asynchronous events what was told and not taken yet, too
(CQ_ASYNC, QP_ASYNC). So nothing needs a queue that could overflow, and a descriptor's count is bounded.
"""

from __future__ import annotations

from unpinned.compiled import kernel
from unpinned.compiled.libc import eventfd_write
from unpinned.compiled.views import words_at
from unpinned.hca import layout as L
from unpinned.hca.completions import paid
from unpinned.host import engine_words as E
from unpinned.host.lock import lock, lock_for_step, unlock


@kernel
def tell_descriptors(e, h):
    """Write the event descriptors of channels (armed completion queues) and contexts (asynchronous events)."""
    lock_for_step(e)
    for i in range(h[L.H_CQ_LIVE]):
        cq = h[L.H_CQ_BASE] + i * L.CQ_WORDS
        owed = paid(h, cq + L.CQ_EVENT)
        if owed & L.TELL_COMPLETION and h[cq + L.CQ_FD] >= 0:
            eventfd_write(h[cq + L.CQ_FD], 1)
        tell_context(h, cq + L.CQ_ASYNC, owed & L.TELL_OVERRUN, h[cq + L.CQ_ASYNC_FD])
    for i in range(h[L.H_QP_LIVE]):
        q = h[L.H_QP_BASE] + i * L.QP_WORDS
        tell_context(h, q + L.QP_ASYNC, paid(h, q + L.QP_EVENT), h[q + L.QP_ASYNC_FD])
    unlock(e, E.E_LOCK)
    return 0


@kernel
def tell_context(h, told, events, fd):
    """Write a context's descriptor, once for each kind of event that is new."""
    new = events & ~h[told]
    if fd >= 0:
        h[told] |= new
        while new:
            eventfd_write(fd, 1)
            new &= new - 1
    return 0


@kernel
def take_event(e, word):
    """Take one asynchronous event of a record, whose CQ_ASYNC or QP_ASYNC is at ``word``: EVENT_*, TELL_OVERRUN, or 0."""
    h = words_at(e[E.E_H], e[E.E_H + 1])
    lock(e, E.E_LOCK)
    event = h[word] & -h[word]
    h[word] -= event
    unlock(e, E.E_LOCK)
    return event


@kernel
def forget_descriptor(e, fd):
    """No asynchronous event is written to ``fd`` from here on."""
    h = words_at(e[E.E_H], e[E.E_H + 1])
    lock(e, E.E_LOCK)
    for i in range(h[L.H_CQ_LIVE]):
        cq = h[L.H_CQ_BASE] + i * L.CQ_WORDS
        if h[cq + L.CQ_ASYNC_FD] == fd:
            h[cq + L.CQ_ASYNC_FD] = -1
    for i in range(h[L.H_QP_LIVE]):
        q = h[L.H_QP_BASE] + i * L.QP_WORDS
        if h[q + L.QP_ASYNC_FD] == fd:
            h[q + L.QP_ASYNC_FD] = -1
    unlock(e, E.E_LOCK)
    return 0
