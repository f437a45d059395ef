"""What a key opens: every small request against every state of two pages, through the transport's own functions.

No interleaving here, so no search: all combinations are tried. A region of 16 bytes lies over pages of 4 bytes, so that an atomic,
always aligned to its 8 bytes, spans two pages, as it never does live. Each answer of hca/regions.py and of the responder's atomics is
compared with what the rules at the top of those files say:

* a request outside its region, without its right, under another domain's key or an unknown one opens nothing;
* what is on demand is a hit when every page that the request touches is there with the right, and only then;
* what is pinned is a hit whatever the page table holds: no fault ever begins for it;
* neither changes with what the same step, or the one before, has looked up (H_SEEN);
* a descriptor covers exactly what was looked up.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any, Final

import numpy as np

from unpinned.check.trace import Event, Trace
from unpinned.hca import block, setup
from unpinned.hca import layout as L
from unpinned.hca.device import finish
from unpinned.hca.fetches import atomic_request
from unpinned.hca.regions import DENIED, HIT, MISS, authorize, describe, lookup
from unpinned.hca.verdicts import PARKED
from unpinned.paging import layout as P
from unpinned.paging.regions import region_open
from unpinned.paging.table import change_range, install
from unpinned.wire import headers as W
from unpinned.wire import opcodes as O
from unpinned.wire.bytes import put32, put64

PAGE_SHIFT: Final = 2
START, LENGTH = 8, 16
ON_DEMAND, PINNED, FOREIGN, UNKNOWN = 0x11, 0x22, 0x33, 0x44
PD, OTHER_PD = 1, 2
ABSENT, READ, WRITE, STALE = range(4)
PAGES: Final = range(START >> PAGE_SHIFT, (START + LENGTH) >> PAGE_SHIFT)
BEFORE: Final = ("", "READ", "WRITE", "STEP")
"""What came before a request: nothing; a READ or WRITE of the region's first page, in the same step; or a step that found all pages
there, of which the request finds what it finds.
"""


@dataclass(frozen=True)
class Request:
    """One request: what is asked for, what the pages of the region are (ABSENT, READ, WRITE, STALE), and what came BEFORE."""

    kind: str  #: READ, WRITE or ATOMIC
    key: int
    va: int
    length: int
    pages: tuple[int, ...]
    before: str = ""

    def __str__(self) -> str:
        states = " ".join(("absent", "read", "write", "stale")[page] for page in self.pages)
        after = {"": "", "STEP": ", after a step that found all"}.get(self.before, f", after a {self.before} in the same step")
        return f"{self.kind} key {self.key:#x} bytes [{self.va}, {self.va + self.length}), pages {states}{after}"


def requests() -> Iterator[Request]:
    """All of them: some ten thousand."""
    keys = (ON_DEMAND, PINNED, FOREIGN, UNKNOWN)
    for kind, key, va, length in product(("READ", "WRITE"), keys, range(4, 25, 4), (1, 4, 5, 8, 16)):
        for pages in product((ABSENT, READ, WRITE), repeat=len(PAGES)) if key == ON_DEMAND else [(0,) * len(PAGES)]:
            for before in BEFORE:
                yield Request(kind, key, va, length, pages, before)
    for key, va in product(keys, (8, 16)):
        for pages in product((ABSENT, READ, WRITE, STALE), repeat=len(PAGES)):
            for before in BEFORE:
                yield Request("ATOMIC", key, va, 8, pages, before)


def violations() -> Iterator[tuple[Request, str]]:
    """Every request whose answer is not what the rules say, with a sentence."""
    for request in requests():
        wrong = judge(request)
        if wrong:
            yield request, wrong


def judge(request: Request) -> str:
    """What is wrong with the answer to one request; "" if nothing is."""
    return _atomic(request) if request.kind == "ATOMIC" else _plain(request)


def make_trace(request: Request, wrong: str, mutant: str) -> Trace:
    """The trace of one wrong answer: a single step."""
    world: dict[str, Any] = {"request": asdict(request), "mutant": mutant}
    event = Event("wire", f"{request}", "device", wrong.removeprefix(f"{request}: "), "bad")
    facts = (("region", f"bytes [{START}, {START + LENGTH}), pages of {1 << PAGE_SHIFT} bytes"), ("mutant", mutant))
    return Trace(
        f"mutant {mutant}", "KEYS", "a key opens its region's bytes, with its rights, and nothing else", world, (0,),
        ("wire", "device"), (event,), command=f"unpinned check --mutant {mutant}", facts=facts,
    )  # fmt: skip


# --- what the rules say --------------------------------------------------------------------------------------------------


def expected(request: Request) -> int:
    """HIT, MISS or DENIED."""
    inside = START <= request.va and request.va + request.length <= START + LENGTH
    if request.key not in (ON_DEMAND, PINNED) or not inside:
        return DENIED
    if request.key == PINNED:
        return HIT
    first, last = request.va >> PAGE_SHIFT, (request.va + request.length - 1) >> PAGE_SHIFT
    states = [request.pages[page - PAGES[0]] for page in range(first, last + 1)]
    usable = (WRITE,) if request.kind != "READ" else (READ, WRITE)
    return HIT if all(state in usable for state in states) else MISS


# --- what the code does --------------------------------------------------------------------------------------------------


class _Device:
    """A device with three regions: on demand, pinned, and another domain's; over the same bytes."""

    def __init__(self) -> None:
        self.h, size = block.create(qps=4, mrs=4, cqs=4, waiting=4, packets=8, burst=2, ring_words=1 << 12)
        self.b = np.zeros(size, np.uint8)
        self.p = P.create(levels=1, bits=4, leaves=1, page_shift=PAGE_SHIFT, regions=3, dma=4, faults=2)
        tables = setup.Tables(self.h, self.p)
        for region, (key, pd) in enumerate(((ON_DEMAND, PD), (PINNED, PD), (FOREIGN, OTHER_PD))):
            region_open(self.p, region, START, START + LENGTH, 0)
            setup.add_mr(
                tables, pd=pd, key=key, start=START, length=LENGTH, access=15, delta=0, path=0, pinned=key == PINNED,
                region=region,
            )  # fmt: skip
        self.q = setup.add_qp(
            tables, random=1, pd=PD, send_cq=0, recv_cq=0, sends=1, recvs=1, send_sges=1, recv_sges=1, sig_all=False
        )
        self.h[self.q + L.QP_ACCESS] = 15
        self._clean = self.h.copy(), self.p.copy()

    def reset(self, pages: tuple[int, ...]) -> None:
        """As new, with these pages in the table."""
        self.h[:], self.p[:] = self._clean
        self.lay(pages)

    def lay(self, pages: tuple[int, ...]) -> None:
        """These pages, and no others, in the table."""
        change_range(self.p, START, START + LENGTH, 0, 0)
        for page, state in zip(PAGES, pages):
            start, end = page << PAGE_SHIFT, (page + 1) << PAGE_SHIFT
            if state != ABSENT:
                install(self.p, start, end, P.PRESENT | (0 if state == READ else P.WRITE), 0)
            if state == STALE:
                change_range(self.p, start, end, -1, P.STALE)


_devices: list[_Device] = []


def _device(request: Request) -> _Device:
    """The device as the request finds it."""
    if not _devices:
        _devices.append(_Device())
    device = _devices[0]
    device.reset((WRITE,) * len(PAGES) if request.before == "STEP" else request.pages)
    if request.before:
        mr = authorize(device.h, PD, ON_DEMAND, START, 1 << PAGE_SHIFT, L.ACCESS_REMOTE_READ)
        lookup(device.h, device.p, mr, START, 1 << PAGE_SHIFT, int(request.before != "READ"), 0)
    if request.before == "STEP":
        device.lay(request.pages)
        finish(device.h, device.p, 0)
    return device


def _plain(request: Request) -> str:
    device = _device(request)
    h, p = device.h, device.p
    write = request.kind == "WRITE"
    access = L.ACCESS_REMOTE_WRITE if write else L.ACCESS_REMOTE_READ
    mr = authorize(h, PD, request.key, request.va, request.length, access)
    found = int(lookup(h, p, mr, request.va, request.length, int(write), 0)) if mr else DENIED
    wrong = _compare(request, found)
    if wrong or found != HIT:
        return wrong
    describe(h, p, mr, request.va, request.length, P.OP_WRITE if write else P.OP_READ, 0, 0)
    return _covers(p, request)


def _atomic(request: Request) -> str:
    device = _device(request)
    h, p, b = device.h, device.p, device.b
    b[0] = O.RC_FETCH_ADD
    put64(b, O.BTH_BYTES + W.ATOMICETH_VA, request.va)
    put32(b, O.BTH_BYTES + W.ATOMICETH_RKEY, request.key)
    status = atomic_request(h, p, b, device.q, 0, 0, 0)
    if status == PARKED:
        found = MISS
    else:
        found = DENIED if h[device.q + L.QP_STATE] == L.QPS_ERR else HIT
    return _compare(request, found) or (_covers(p, request) if found == HIT else "")


def _compare(request: Request, found: int) -> str:
    names = {HIT: "a hit", MISS: "a fault", DENIED: "refused"}
    right = expected(request)
    return "" if found == right else f"{request}: {names[found]}, and should be {names[right]}"


def _covers(p: P.Block, request: Request) -> str:
    covered = int(p[p[P.DMA] + P.DMA_VA]), int(p[p[P.DMA] + P.DMA_LENGTH])
    if p[P.DMA_LIVE] == 1 and covered == (request.va, request.length):
        return ""
    return f"{request}: the copy covers {covered[1]} bytes from {covered[0]}"
