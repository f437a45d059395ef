"""Who drives the device: the background thread, or a caller that waits for its own completion.

Whoever holds the role (E_DRIVING) runs bursts. The background thread has it while nobody polls; a caller of ``poll``
takes it over, so a blocking READ costs no hand-over between threads. A driver with nothing to do looks for E_SPIN_NS
longer and then sleeps in ppoll on the socket and an event descriptor, role given back. Whoever makes work for the
device (``post``, a fault worker) drives one burst itself if the role is free, and ends the sleeper's sleep if not.

The look is worth its time only while the peer runs meanwhile. Where both share a core, or answers take longer, it only
keeps the peer from running, so after a few in vain it is left out, and tried anew now and then. (Two ends that sleep make
each other slow: the try is long enough to find the answer of a peer that was asleep.)

A wake-up cannot be lost: the sleeper gives the role back, says that it sleeps, and only then looks once more
whether there is work; who makes work first makes it, then looks for the role and the sleeper. The event descriptor
wakes one sleeper for certain, so of the pollers only one sleeps on it (E_RESTING), the others on E_PROGRESS, which moves
when completions came and when one of them leaves; and the background thread, woken while there are pollers, passes the
wake-up on.
"""

from __future__ import annotations

from unpinned.compiled import kernel
from unpinned.compiled.atomics import compare_exchange, exchange, fetch_add, load_acquire, store_release
from unpinned.compiled.intrinsics import address_of, stack_words, store64
from unpinned.compiled.libc import EINTR, SYS_PPOLL, eventfd_read, futex_wait, futex_wake, monotonic_ns, sys_call
from unpinned.compiled.views import bytes_at, words_at
from unpinned.hca import layout as L
from unpinned.hca.completions import take
from unpinned.hca.device import next_turn
from unpinned.hca.qp import flush
from unpinned.hca.ready import make_ready
from unpinned.host import engine_words as E
from unpinned.host import layout as H
from unpinned.host.burst import burst
from unpinned.host.lock import ALL, lock, unlock
from unpinned.host.wake import kick
from unpinned.paging import layout as P

POLLIN = 1 << 32
SECOND = 1_000_000_000
PAUSE_NS = 200_000  # how long the background thread leaves the driving to pollers that come and go
ROLE_WAIT_NS = 1_000_000
REST_NS = 50_000_000  # how long a poller relies on another one without looking itself
BLIND_NS = 1_000_000  # how long a driver that cannot sleep on its descriptors does not look at them
SPINS_IN_VAIN = 4  # so many looks in vain, and the next ones are left out
SPIN_TRY = 32  # of so many that would be left out, one is tried, twice as long
SOON, TOLD = 1, 2  # E_PAUSED


@kernel
def take_role(e):
    return compare_exchange(e, E.E_DRIVING, 0, 1) == 0


@kernel
def give_role(e):
    """Stop driving; somebody who waits for the role may have it."""
    store_release(e, E.E_DRIVING, 0)
    if load_acquire(e, E.E_WAITING) > 0:
        call(e)
    return 0


@kernel
def call(e):
    """Every poller looks again."""
    fetch_add(e, E.E_PROGRESS, 1)
    futex_wake(address_of(e) + 8 * E.E_PROGRESS, ALL)
    return 0


@kernel
def rest(e, h, p, u, cq, limit_ns):
    """A poller with nothing to do: sleep for all pollers, or, where one does that already, until it has done something."""
    if exchange(e, E.E_RESTING, 1) == 0:
        sleep(e, h, p, u, limit_ns)
        exchange(e, E.E_RESTING, 0)
        return 0
    fetch_add(e, E.E_RESTERS, 1)
    seen = load_acquire(e, E.E_PROGRESS)
    if h[cq + L.CQ_TAIL] == h[cq + L.CQ_HEAD] and load_acquire(e, E.E_RESTING):
        futex_wait(address_of(e) + 8 * E.E_PROGRESS, seen & 0xFFFFFFFF, min(limit_ns, REST_NS))
    fetch_add(e, E.E_RESTERS, -1)
    return 0


@kernel
def sleep(e, h, p, u, limit_ns):
    """Sleep until a datagram, a kick, the next deadline or ``limit_ns``; the role must be free."""
    fetch_add(e, E.E_SLEEPING, 1)
    now = monotonic_ns()
    wait = min(next_turn(h, now) - now, limit_ns)
    if wait > 0 and p[P.SCAN_LENGTH] == 0 and load_acquire(e, E.E_STOP) == 0:
        fds = stack_words(4)
        store64(fds, u[H.U_FD] | POLLIN)
        store64(fds + 8, e[E.E_WAKE_FD] | POLLIN)
        store64(fds + 16, wait // SECOND)
        store64(fds + 24, wait % SECOND)
        woken = sys_call(SYS_PPOLL, fds, 2, fds + 16, 0, 8, 0)
        if woken < 0 and woken != -EINTR:  # RLIMIT_NOFILE below 2: who may not poll looks now and then
            futex_wait(address_of(e) + 8 * E.E_STOP, 0, min(wait, BLIND_NS))
        e[E.E_SLEEPS] += 1
    fetch_add(e, E.E_SLEEPING, -1)
    eventfd_read(e[E.E_WAKE_FD])
    return 0


@kernel
def drive(e, h, p, b, u, c, m, solver, cq, quiet_ns):
    """Run bursts until ``cq`` has a completion (0: any time) or nothing moved for ``quiet_ns``. The role is held.

    Of ``quiet_ns`` nothing is spun where that has not paid lately.
    """
    spins = quiet_ns > 0
    if spins:
        quiet_ns = min(quiet_ns, spin_ns(e))
    spun = 0
    last = monotonic_ns()
    while load_acquire(e, E.E_STOP) == 0:
        moved = burst(e, h, p, b, u, c, m, solver)
        if moved and spun:
            e[E.E_SPIN_MISSES] = 0
            spun = 0
        if cq and h[cq + L.CQ_TAIL] != h[cq + L.CQ_HEAD] and h[L.H_TX_COUNT] == 0:
            return 1
        if moved:
            last = monotonic_ns()
            if cq == 0 and load_acquire(e, E.E_POLLERS) > 0:
                return 0
        elif monotonic_ns() - last > quiet_ns:
            if spins:
                e[E.E_SPIN_MISSES] += 1
            return 0
        else:
            spun = 1
    return 0


@kernel
def spin_ns(e):
    """How long an idle driver should look for work: not at all after looks in vain, except for one longer try in many."""
    misses = e[E.E_SPIN_MISSES]
    if misses < SPINS_IN_VAIN:
        return e[E.E_SPIN_NS]
    return 2 * e[E.E_SPIN_NS] if misses % SPIN_TRY == 0 else 0


@kernel
def pause(e, how, limit_ns):
    """The background thread's wait for `kick`. TOLD: a poller that leaves, or stops sleeping for good, will kick."""
    exchange(e, E.E_PAUSED, how)
    if how == SOON or load_acquire(e, E.E_POLLERS) > 0:
        futex_wait(address_of(e) + 8 * E.E_PAUSED, how, limit_ns)
    store_release(e, E.E_PAUSED, 0)
    return 0


@kernel
def firmware(e, h, p, b, u, c, m, solver):
    """The background thread, until E_STOP."""
    slept = -1
    while load_acquire(e, E.E_STOP) == 0:
        if load_acquire(e, E.E_POLLERS) > 0 or monotonic_ns() - e[E.E_LAST_POLL] < PAUSE_NS:
            if load_acquire(e, E.E_SLEEPING) > 0 and e[E.E_SLEEPS] == slept:  # a poller has been asleep since we last looked
                pause(e, TOLD, SECOND)
            else:
                slept = e[E.E_SLEEPS]
                pause(e, SOON, PAUSE_NS)
            continue
        if not take_role(e):
            pause(e, SOON, ROLE_WAIT_NS)
            continue
        drive(e, h, p, b, u, c, m, solver, 0, 2 * e[E.E_SPIN_NS])
        give_role(e)
        if load_acquire(e, E.E_POLLERS) == 0:
            sleep(e, h, p, u, SECOND)
            if load_acquire(e, E.E_POLLERS) > 0:
                kick(e)  # what woke us was perhaps meant for the poller that sleeps beside us
    return 0


@kernel
def poll(e, h, p, b, u, c, m, solver, cq, limit, timeout_ns, out):
    """Take up to ``limit`` completions of ``cq`` into ``out``, waiting at most ``timeout_ns``; how many."""
    fetch_add(e, E.E_POLLERS, 1)
    began = monotonic_ns()
    got = 0
    while True:
        seen = load_acquire(e, E.E_PROGRESS)  # before the look at the queue: whatever comes later moves it
        if h[cq + L.CQ_TAIL] != h[cq + L.CQ_HEAD]:
            lock(e, E.E_LOCK)
            got = take(h, cq, out, limit)
            unlock(e, E.E_LOCK)
        left = timeout_ns - (monotonic_ns() - began)
        if got or load_acquire(e, E.E_STOP):
            break
        if take_role(e):
            drive(e, h, p, b, u, c, m, solver, cq, min(2 * e[E.E_SPIN_NS], max(left, 0)))
            give_role(e)
            if left <= 0:
                if h[cq + L.CQ_TAIL] != h[cq + L.CQ_HEAD]:
                    continue
                break
            if h[cq + L.CQ_TAIL] == h[cq + L.CQ_HEAD]:
                rest(e, h, p, u, cq, left)
        elif left <= 0:
            break
        else:
            fetch_add(e, E.E_WAITING, 1)
            kick(e)
            if load_acquire(e, E.E_DRIVING):
                futex_wait(address_of(e) + 8 * E.E_PROGRESS, seen & 0xFFFFFFFF, min(left, ROLE_WAIT_NS))
            fetch_add(e, E.E_WAITING, -1)
    e[E.E_LAST_POLL] = monotonic_ns()
    if fetch_add(e, E.E_POLLERS, -1) > 1:
        if load_acquire(e, E.E_RESTERS) > 0:
            call(e)  # one of them sleeps for the others from now on
    elif load_acquire(e, E.E_PAUSED) == TOLD:
        futex_wake(address_of(e) + 8 * E.E_PAUSED, 1)
    return got


@kernel
def post(e, h, q, receive, count, work):
    """Copy ``count`` staged work requests to the QP's queue: how many fitted; -1 when the QP is gone, and its rings perhaps another's.

    Each is staged in ``work`` at the queue's stride.
    """
    lock(e, E.E_LOCK)
    if h[q + L.QP_STATE] == L.QPS_FREE:
        unlock(e, E.E_LOCK)
        return -1
    done = 0
    ring = q + (L.QP_RQ_RING if receive else L.QP_SQ_RING)
    head = q + (L.QP_RQ_HEAD if receive else L.QP_SQ_HEAD)
    tail = q + (L.QP_RQ_TAIL if receive else L.QP_SQ_TAIL)
    stride = h[ring + 2]
    while done < count and h[tail] - h[head] <= h[ring + 1]:
        w = h[ring] + (h[tail] & h[ring + 1]) * stride
        for i in range(stride):
            h[w + i] = work[done * stride + i]
        h[tail] += 1
        done += 1
    if h[q + L.QP_STATE] == L.QPS_ERR:
        flush(h, q)
    elif not receive:
        make_ready(h, q)
    unlock(e, E.E_LOCK)
    return done


@kernel
def enter(e, mode, x, y, z, work):
    """The one way from Python into the engine (MODE_*); ``work`` is the caller's scratch."""
    fetch_add(e, E.E_THREADS, 1)
    h = words_at(e[E.E_H], e[E.E_H + 1])
    p = words_at(e[E.E_P], e[E.E_P + 1])
    b = bytes_at(e[E.E_B], e[E.E_B + 1])
    u = words_at(e[E.E_UDP], e[E.E_UDP + 1])
    c = words_at(e[E.E_COPY], e[E.E_COPY + 1])
    m = words_at(e[E.E_SCAN], e[E.E_SCAN + 1])
    solver = words_at(e[E.E_SOLVER], e[E.E_SOLVER + 1])
    result = 0
    drives = mode == E.MODE_DRIVE
    if mode == E.MODE_POST:
        result = post(e, h, x, y & 1, z, work)
        drives = y == 0
    if mode == E.MODE_FIRMWARE:
        firmware(e, h, p, b, u, c, m, solver)
    elif mode == E.MODE_POLL:
        result = poll(e, h, p, b, u, c, m, solver, x, y, z, work)
    elif drives:
        if take_role(e):
            drive(e, h, p, b, u, c, m, solver, 0, 0)
            give_role(e)
            # A caller that polls will take the answer itself, and the background thread looks again within PAUSE_NS.
            if load_acquire(e, E.E_SLEEPING) > 0 or monotonic_ns() - e[E.E_LAST_POLL] > PAUSE_NS:
                kick(e)
        elif load_acquire(e, E.E_SLEEPING) > 0:
            kick(e)
    fetch_add(e, E.E_THREADS, -1)
    return result
