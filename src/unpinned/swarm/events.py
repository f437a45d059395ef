"""What happens next: a binary heap of (time, order, event). Two events of one time come in the order of their making."""

from __future__ import annotations

from unpinned.compiled import kernel
from unpinned.swarm import layout as S


@kernel
def fail(w, violation, host, x, y):
    """Note the first thing that is wrong; the schedule ends with this step."""
    if w[S.W_VERDICT] == 0:
        w[S.W_VERDICT] = violation
        w[S.W_HOST_AT] = host
        w[S.W_X] = x
        w[S.W_Y] = y
    return 0


@kernel
def trace(w, kind, host, x, y, z, v):
    """A line for the trace, if one is kept."""
    if w[S.W_TRACE] == 0 or w[S.W_TRACE_COUNT] >= w[S.W_TRACE_DEPTH]:
        return 0
    t = w[S.W_TRACE] + w[S.W_TRACE_COUNT] * S.TRACE_WORDS
    w[S.W_TRACE_COUNT] += 1
    w[t + S.TR_TIME] = w[S.W_NOW]
    w[t + S.TR_KIND] = kind
    w[t + S.TR_HOST] = host
    w[t + S.TR_A] = x
    w[t + S.TR_B] = y
    w[t + S.TR_C] = z
    w[t + S.TR_D] = v
    return 0


@kernel
def push(w, when, kind, x, y):
    """Something happens at ``when`` (not before now)."""
    n = w[S.W_HEAP_COUNT]
    if n >= w[S.W_HEAP_DEPTH]:
        return fail(w, S.VIOLATION_WORLD, 0, 1, n)
    base = w[S.W_HEAP]
    order = w[S.W_ORDER]
    w[S.W_ORDER] = order + 1
    w[S.W_HEAP_COUNT] = n + 1
    when = max(when, w[S.W_NOW])
    while n > 0:
        up = base + ((n - 1) >> 1) * S.HEAP_WORDS
        if w[up] <= when:
            break
        at = base + n * S.HEAP_WORDS
        w[at] = w[up]
        w[at + 1] = w[up + 1]
        w[at + 2] = w[up + 2]
        n = (n - 1) >> 1
    at = base + n * S.HEAP_WORDS
    w[at] = when
    w[at + 1] = order
    w[at + 2] = kind | x << 8 | y << 24
    return 0


@kernel
def earlier(w, x, y):
    return w[x] < w[y] or (w[x] == w[y] and w[x + 1] < w[y + 1])


@kernel
def pop(w):
    """Take the next event into the header, and move the clock: 1, or 0 when there is none."""
    n = w[S.W_HEAP_COUNT]
    if n == 0:
        return 0
    base = w[S.W_HEAP]
    w[S.W_NOW] = w[base]
    what = w[base + 2]
    w[S.W_EVENT_KIND] = what & 0xFF
    w[S.W_EVENT_A] = (what >> 8) & 0xFFFF
    w[S.W_EVENT_B] = what >> 24
    n -= 1
    w[S.W_HEAP_COUNT] = n
    last = base + n * S.HEAP_WORDS
    at = 0
    while True:
        child = 2 * at + 1
        if child >= n:
            break
        if child + 1 < n and earlier(w, base + (child + 1) * S.HEAP_WORDS, base + child * S.HEAP_WORDS):
            child += 1
        if not earlier(w, base + child * S.HEAP_WORDS, last):
            break
        for k in range(S.HEAP_WORDS):
            w[base + at * S.HEAP_WORDS + k] = w[base + child * S.HEAP_WORDS + k]
        at = child
    for k in range(S.HEAP_WORDS):
        w[base + at * S.HEAP_WORDS + k] = w[last + k]
    return 1


@kernel
def wake(w, host, when):
    """The host's driver has something to do at ``when``."""
    at = w[S.W_HOST] + host * S.HOST_WORDS
    due = w[at + S.HO_ROUND_AT]
    when = max(when, w[S.W_NOW] + 1)
    if due == 0 or when < due:
        w[at + S.HO_ROUND_AT] = when
        push(w, when, S.EV_ROUND, host, 0)
    return 0
