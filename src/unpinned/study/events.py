"""The one loop of virtual time: the actor whose moment is next takes its step, until a bound of the run is reached."""

from __future__ import annotations

from unpinned.compiled import kernel
from unpinned.compiled.views import words_at
from unpinned.paging import layout as P
from unpinned.paging.table import install
from unpinned.study import layout as S
from unpinned.study.hca import (
    flush_step,
    look_at_device,
    next_request,
    scanner_step,
    shared_page,
    stream_step,
    tag,
    worker_populate,
)
from unpinned.study.host import cpu_step, daemon_step
from unpinned.study.memory import account, page_in, table_at
from unpinned.study.operations import ENDED_ALL, NOTHING, operate, operation_step


@kernel
def earliest(s, first, last):
    """Of actors [first, last), as words of WHEN, the one with the earliest moment; the lowest of equals."""
    best = first
    least = s[first]
    for at in range(first + 1, last):
        when = s[at]
        if when < least:
            best = at
            least = when
    return best


@kernel
def worker_step(s, x, actor, now):
    """A worker's pages are there; what is copy-on-write among them is copied first, with its own invalidation."""
    a = s[S.ACTORS] + actor * S.ACTOR_WORDS
    went = NOTHING
    if s[a + S.A_PHASE]:
        went = operation_step(s, actor, now)
        if went != ENDED_ALL:
            return went
    page = shared_page(s, actor)
    if page >= 0:
        operate(s, actor, S.DO_COW, P.CAUSE_COW, page, 1, now)
        return went
    return max(went, worker_populate(s, x, actor, now))


@kernel
def look_at_operations(s, now):
    """Something moved: operations that wait for devices, and touches that wait for a flush, look again."""
    for actor in range(s[S.ACTOR_COUNT]):
        if s[s[S.WHEN] + actor] == S.NEVER:
            a = s[S.ACTORS] + actor * S.ACTOR_WORDS
            if s[a + S.A_PHASE] or s[a + S.A_STATE] == S.TOUCHING or s[a + S.A_STATE] == S.NEXT:
                s[s[S.WHEN] + actor] = now
    return 0


@kernel
def begin(s, x):
    """The world before its first moment: what is resident, what the devices know of it, each stream's first request."""
    for page in range(s[S.PAGES]):
        if page < s[S.FILL] or s[s[S.PTE] + page] & S.PTE_PRESENT:
            page_in(s, page, S.PTE_WRITE)
        else:
            s[s[S.PTE] + page] = S.PTE_MAPPED
    if s[S.FILL_INSTALLED]:
        for device in range(s[S.DEVICES]):
            p = words_at(table_at(s, device), s[S.TABLE_WORDS])
            install(p, 0, s[S.FILL] << S.PAGE_SHIFT, P.PRESENT | P.WRITE, 0)
            tag(s, p, 0, s[S.FILL])
    s[S.FILL] = -1
    for actor in range(s[S.ACTOR_COUNT]):
        if s[s[S.ACTORS] + actor * S.ACTOR_WORDS + S.A_KIND] == S.KIND_STREAM:
            next_request(s, x, actor, s[S.STREAMS_FROM] + 97 * actor)  # not all in one moment
    return 0


@kernel
def other_step(s, x, y, actor, now):
    """The step of an actor that is no stream; -> as `operations.operation_step`."""
    kind = s[s[S.ACTORS] + actor * S.ACTOR_WORDS + S.A_KIND]
    if kind == S.KIND_SCANNER:
        return scanner_step(s, x, actor, now)
    if kind == S.KIND_WORKER:
        return worker_step(s, x, actor, now)
    if kind == S.KIND_FLUSH:
        return flush_step(s, x, actor, now)
    if kind == S.KIND_CPU:
        return cpu_step(s, y, actor, now)
    return daemon_step(s, actor, now)


@kernel
def run(s, x, y, budget):
    """Take up to `budget` steps. x: the accesses, y: the scripts. 1 when the run has ended, 0 when there is more to do."""
    if s[S.FILL] >= 0:
        begin(s, x)
    streams = s[S.WHEN] + s[S.DEVICES] * s[S.STREAMS]
    last = s[S.WHEN] + s[S.ACTOR_COUNT]
    other = earliest(s, streams, last)
    for _ in range(budget):
        at = earliest(s, s[S.WHEN], streams) if streams > s[S.WHEN] else other
        if s[other] < s[at]:
            at = other
        actor = at - s[S.WHEN]
        now = s[at]
        if now >= s[S.STOP_NS] or s[S.M_PAGES] >= s[S.STOP_ACCESSES]:
            s[S.NOW] = min(max(now, s[S.NOW]), s[S.STOP_NS])
            account(s, s[S.NOW])
            return 1
        s[S.NOW] = now
        s[S.EVENTS] += 1
        went = stream_step(s, x, actor, now) if at < streams else other_step(s, x, y, actor, now)
        if went != NOTHING:
            for device in range(s[S.DEVICES]):
                look_at_device(s, device, now)
        if went == ENDED_ALL:
            look_at_operations(s, now)
        if went != NOTHING or at >= streams:  # a request that hits moves nobody else
            other = earliest(s, streams, last)
        if s[S.STOP_OPS] and s[S.SCRIPTS_ENDED] >= s[S.STOP_OPS]:
            account(s, s[S.NOW])
            return 1
    return 0
