"""The world that schedules start from: hosts, connections, memory. Plain Python, once for each shape.

The world's arrays are laid out as [header | tables | each host's blocks | masks | trace]; what lies before the masks is copied
anew for every seed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from unpinned.hca import block, setup
from unpinned.hca import layout as L
from unpinned.paging import layout as P
from unpinned.paging import regions
from unpinned.paging.policy import POLICIES
from unpinned.swarm import layout as S

Words = NDArray[np.int64]
Bytes = NDArray[np.uint8]

SAFE_POLICIES = ("zap_everything", "by_cause", "by_cause_batching")
DEPTH = 8  # of send and receive queues
INBOX = 512
NET = 1024
HEAP = 2048
EVENT_LIMIT = 200_000  # a connection: 64 between two hosts, whose tables have a few nodes, have needed 8.3 million
ACCESS = L.ACCESS_LOCAL_WRITE | L.ACCESS_REMOTE_WRITE | L.ACCESS_REMOTE_READ | L.ACCESS_REMOTE_ATOMIC
HOSTS = (2, 8)
CONNECTIONS = (1, 64)


@dataclass(frozen=True)
class Shape:
    """How many hosts, how many connections; these go round between neighbours, then between all."""

    hosts: int = 2
    connections: int = 2

    def __post_init__(self) -> None:
        if not HOSTS[0] <= self.hosts <= HOSTS[1]:
            raise ValueError(f"hosts={self.hosts}: must be between {HOSTS[0]} and {HOSTS[1]}")
        if not CONNECTIONS[0] <= self.connections <= CONNECTIONS[1]:
            raise ValueError(f"connections={self.connections}: must be between {CONNECTIONS[0]} and {CONNECTIONS[1]}")

    def pairs(self) -> list[tuple[int, int]]:
        """The two hosts of each connection."""
        every = [(i, (i + step) % self.hosts) for step in range(1, self.hosts) for i in range(self.hosts)]
        return [every[k % len(every)] for k in range(self.connections)]


@dataclass
class Image:
    """A template, and an array pair to play in."""

    shape: Shape
    template: Words
    w: Words
    b: Bytes
    masks: slice
    trace: slice


class _Allocator:
    """Hands out ranges of one array, then makes it."""

    def __init__(self, first: int, align: int) -> None:
        self.used, self.align = first, align

    def take(self, size: int) -> int:
        at = self.used
        self.used += -(-size // self.align) * self.align
        return at


@dataclass
class _Host:
    """What one host consists of while it is made."""

    h: Words
    p: Words
    tables: setup.Tables
    arena: int
    pages: list[list[int]]  # [state, frame, write, lost, slot, pinned]
    pinned: list[list[int]]
    cq: int = 0
    key: int = 0
    key_pinned: int = 0
    shared: int = 0


def _geometry(pages: int) -> tuple[int, int]:
    """Levels and bits of a table for so many pages."""
    levels, bits = 2, 4
    while 1 << (levels * bits) < pages:
        bits += 1
    return levels, bits


def build(shape: Shape, *, trace: int = 0) -> Image:
    """Make the template and a world of its size.

    Args:
        shape: hosts and connections. trace: room for so many trace records.
    """
    pairs = shape.pairs()
    places: list[list[tuple[int, int, int]]] = [[] for _ in range(shape.hosts)]  # (direction, role, index) by host
    cells: list[list[int]] = [[] for _ in range(shape.hosts)]
    for c, (x, z) in enumerate(pairs):
        for d, (source, target) in enumerate(((x, z), (z, x))):
            places[source] += [(2 * c + d, S.ROLE_LOCAL, i) for i in range(S.SLOTS)]
            places[target] += [(2 * c + d, S.ROLE_TARGET, i) for i in range(S.SLOTS)]
            cells[target].append(2 * c + d)
    words, data = _Allocator(S.HEADER_WORDS, 8), _Allocator(0, 64)
    hosts = [_make_host(places[i], len(cells[i])) for i in range(shape.hosts)]
    world = np.zeros(S.HEADER_WORDS, np.int64)

    def table(word: int, size: int) -> int:
        world[word] = words.take(size)
        return int(world[word])

    directions = 2 * len(pairs)
    world[S.W_HOSTS], world[S.W_DIRECTIONS] = shape.hosts, directions
    table(S.W_HOST, shape.hosts * S.HOST_WORDS)
    table(S.W_DIRECTION, directions * S.DIRECTION_WORDS)
    table(S.W_OP, directions * S.OPS * S.OP_WORDS)
    table(S.W_SLOT, directions * 2 * S.SLOTS * S.SLOT_WORDS)
    table(S.W_NOTICE, S.NOTICES * S.NOTICE_WORDS)
    table(S.W_FLOWS, shape.hosts**2)
    policies = [np.zeros(P.CAUSES * P.POLICY_WORDS, np.int64) for _ in SAFE_POLICIES]
    table(S.W_POLICIES, sum(row.size for row in policies))
    world[S.W_POLICY_COUNT] = len(policies)
    depth = NET * max(1, len(pairs) // 4)
    table(S.W_NET, depth * S.NET_WORDS)
    world[S.W_NET_DEPTH] = depth
    world[S.W_NET_BYTES] = data.take(depth * S.PACKET)
    rows = [_host_tables(host, words, data, depth) for host in hosts]
    # The heap needs no copy: it is empty at the start.
    copied = words.used
    world[S.W_HEAP], world[S.W_HEAP_DEPTH] = words.take(4 * depth * S.HEAP_WORDS), 4 * depth
    world[S.W_MASKS] = words.take(S.MASKS * S.MASK_WORDS)
    traced = words.take(max(1, trace) * S.TRACE_WORDS)
    world[S.W_TRACE_DEPTH] = trace
    world[S.W_SOURCE_WORDS], world[S.W_EVENT_LIMIT] = copied, EVENT_LIMIT * len(pairs)

    t = np.zeros(copied, np.int64)
    t[: S.HEADER_WORDS] = world
    for i, name in enumerate(SAFE_POLICIES):
        POLICIES[name].write(hosts[0].p)
        at = int(world[S.W_POLICIES]) + i * P.CAUSES * P.POLICY_WORDS
        t[at : at + P.CAUSES * P.POLICY_WORDS] = hosts[0].p[P.POLICY : P.POLICY + P.CAUSES * P.POLICY_WORDS]
    net = t[world[S.W_NET] : world[S.W_NET] + depth * S.NET_WORDS].reshape(depth, S.NET_WORDS)
    net[:, S.NT_NEXT] = np.arange(1, depth + 1)
    net[-1, S.NT_NEXT] = -1
    qps = _connect(hosts, pairs)
    for i, (host, row) in enumerate(zip(hosts, rows)):
        _write_host(t, i, host, row)
    _write_places(t, hosts, pairs, qps)
    w = np.zeros(words.used, np.int64)
    w[S.W_SOURCE_WORDS], w[S.W_EVENT_LIMIT] = copied, t[S.W_EVENT_LIMIT]
    w[S.W_TRACE] = traced if trace else 0
    masks = int(world[S.W_MASKS])
    return Image(
        shape, t, w, np.zeros(data.used + 64, np.uint8),
        slice(masks, masks + S.MASKS * S.MASK_WORDS), slice(traced, traced + trace * S.TRACE_WORDS),
    )  # fmt: skip


def _make_host(places: list[tuple[int, int, int]], cells: int) -> _Host:
    """Device and paging blocks for so many places; pages that may come and go first, the pinned ones behind them."""
    h, arena = block.create(
        qps=max(4, len(places) // S.SLOTS + 2), mrs=4, cqs=1, waiting=64, waiting_per_qp=32, packets=16, burst=16,
        ring_words=(len(places) // S.SLOTS + 1) * (DEPTH * 32 + DEPTH * 16) + 4096 * max(1, len(places) // 12),
        window_bytes=1 << 16, read_chunk_bytes=1 << 13,
    )  # fmt: skip
    loose = [p for p in places if not (p[1] == S.ROLE_LOCAL and p[2] == S.SLOTS - 1)]
    fixed = [p for p in places if p[1] == S.ROLE_LOCAL and p[2] == S.SLOTS - 1]
    count = S.FIRST_PAGE + len(places) * S.SLOT_PAGES + cells + 2
    levels, bits = _geometry(count + 1)
    p = P.create(
        levels=levels, bits=bits, leaves=2 + (count >> bits) + 2, page_shift=S.PAGE_SHIFT, regions=2, active=6, deferrals=6,
        provisional=0, revoked=4, dma=96, faults=12,
    )  # fmt: skip
    p[P.HUGE] = 0
    p[P.FAULT_MAX_BYTES] = 16 * S.PAGE
    pages = [[S.ZERO, 0, 0, 0, place, 0] for place in _slots(loose)]
    pages += [[S.ZERO, 0, 0, 0, 0, 0] for _ in range(cells + 1)]
    pinned = [[S.PRESENT, 0, 1, 0, place, 1] for place in _slots(fixed)]
    return _Host(h, p, setup.Tables(h, p), arena, pages, pinned)


def _slots(places: list[tuple[int, int, int]]) -> list[int]:
    """For each page of some places, the place's number + 1."""
    return [(2 * d + role) * S.SLOTS + i + 1 for d, role, i in places for _ in range(S.SLOT_PAGES)]


def _host_tables(host: _Host, words: _Allocator, data: _Allocator, depth: int) -> dict[int, int]:
    """Take the room of one host; its record's words."""
    pages = len(host.pages) + len(host.pinned)
    frames = pages + len(host.pages) // 2 + 16
    return {
        S.HO_ALIVE: 1,
        S.HO_H: words.take(host.h.size), S.HO_H_WORDS: host.h.size,
        S.HO_P: words.take(host.p.size), S.HO_P_WORDS: host.p.size,
        S.HO_B: data.take(host.arena), S.HO_B_BYTES: host.arena,
        S.HO_INBOX: words.take(depth), S.HO_INBOX_MASK: depth - 1,
        S.HO_PAGE: words.take(pages * S.PAGE_WORDS), S.HO_PAGES: pages,
        S.HO_FRAME: words.take(frames * S.FRAME_WORDS), S.HO_FRAMES: frames,
        S.HO_TLB: words.take(pages),
        S.HO_CAPTURE: words.take(int(host.p[P.DMA_CAPACITY]) * S.DMA_PAGES),
        S.HO_SNAP: words.take(int(host.p[P.FAULT_CAPACITY]) * (S.SNAP_PAGES + 1)),
        S.HO_TOKENS: words.take(int(host.p[P.DEFERRAL_CAPACITY])),
        S.HO_BYTES: data.take(frames * S.PAGE), S.HO_SWAP: data.take(pages * S.PAGE), S.HO_SHADOW: data.take(pages * S.PAGE),
    }  # fmt: skip


def _connect(hosts: list[_Host], pairs: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Regions, completion queues and connected queue pairs; the two records of each connection."""
    for i, host in enumerate(hosts):
        start = S.FIRST_PAGE << S.PAGE_SHIFT
        length = (len(host.pages) + len(host.pinned)) << S.PAGE_SHIFT
        regions.region_open(host.p, 0, start, start + length, 0)
        host.cq = setup.add_cq(host.tables, 2 * DEPTH * (len(hosts[0].pages) // S.SLOT_PAGES + 8))
        host.key, host.key_pinned = 0x100 + 16 * i, 0x101 + 16 * i
        for key, pinned in ((host.key, False), (host.key_pinned, True)):
            assert setup.add_mr(
                host.tables,
                pd=1,
                key=key,
                start=start,
                length=length,
                access=ACCESS,
                delta=0,
                path=0,
                pinned=pinned,
                region=0,
            )
    made = []
    for x, z in pairs:
        ends = [
            setup.add_qp(
                hosts[i].tables, random=5, pd=1, send_cq=hosts[i].cq, recv_cq=hosts[i].cq, sends=DEPTH, recvs=DEPTH, send_sges=2,
                recv_sges=1, sig_all=True,
            )
            for i in (x, z)
        ]  # fmt: skip
        for i, q, other, r in ((x, ends[0], z, ends[1]), (z, ends[1], x, ends[0])):
            number = int(hosts[other].h[r + L.QP_NUMBER])
            setup.to_rtr(hosts[i].tables, q, setup.Path(number, 0, other + 1, 0, access=ACCESS))
            setup.to_rts(hosts[i].tables, q, setup.Sending(0))
        made.append((ends[0], ends[1]))
    return made


def _write_host(t: Words, index: int, host: _Host, row: dict[int, int]) -> None:
    at = int(t[S.W_HOST]) + index * S.HOST_WORDS
    for word, value in row.items():
        t[at + word] = value
    t[at + S.HO_CQ], t[at + S.HO_KEY], t[at + S.HO_KEY_PINNED] = host.cq, host.key, host.key_pinned
    t[at + S.HO_SHARED] = (S.FIRST_PAGE + len(host.pages) - 1) << S.PAGE_SHIFT
    t[row[S.HO_H] : row[S.HO_H] + host.h.size] = host.h
    t[row[S.HO_P] : row[S.HO_P] + host.p.size] = host.p
    for i, page in enumerate(host.pages + host.pinned):
        g = row[S.HO_PAGE] + i * S.PAGE_WORDS
        t[g : g + S.PAGE_WORDS] = page
        if page[S.PG_PINNED]:
            frame = i - len(host.pages)
            t[g + S.PG_FRAME] = frame
            f = row[S.HO_FRAME] + frame * S.FRAME_WORDS
            t[f + S.FR_STATE], t[f + S.FR_PAGE] = S.FRAME_MAPPED, S.FIRST_PAGE + i


def _write_places(t: Words, hosts: list[_Host], pairs: list[tuple[int, int]], qps: list[tuple[int, int]]) -> None:
    """Directions, and where their places are."""
    cell = [len(host.pages) - 1 for host in hosts]  # the shared one; each direction's own lies before it
    for c, (pair, ends) in enumerate(zip(pairs, qps)):
        for side in (0, 1):
            d = 2 * c + side
            at = int(t[S.W_DIRECTION]) + d * S.DIRECTION_WORDS
            source, target = pair[side], pair[1 - side]
            cell[target] -= 1
            t[at + S.DR_FROM], t[at + S.DR_TO] = source, target
            t[at + S.DR_QP], t[at + S.DR_PEER] = ends[side], ends[1 - side]
            t[at + S.DR_CELL] = ((S.FIRST_PAGE + cell[target]) << S.PAGE_SHIFT) + 64
            t[at + S.DR_SLOT] = 2 * d * S.SLOTS
    for i, host in enumerate(hosts):
        seen = set()
        for k, page in enumerate(host.pages + host.pinned):
            slot = page[S.PG_SLOT] - 1
            if slot < 0 or slot in seen:
                continue
            seen.add(slot)
            s = int(t[S.W_SLOT]) + slot * S.SLOT_WORDS
            t[s + S.SL_VA] = (S.FIRST_PAGE + k) << S.PAGE_SHIFT
            t[s + S.SL_HOST], t[s + S.SL_DIRECTION] = i, slot // (2 * S.SLOTS)
            t[s + S.SL_ROLE] = slot // S.SLOTS % 2
