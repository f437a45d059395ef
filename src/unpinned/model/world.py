"""Small worlds as data: what is mapped, who does what, how notifications are raised; and the block that is made of it.

A world is small enough for every interleaving: at most 7 pages and 7 frames, 8 threads and requests, 2 devices. Its state is packed
into at most 2 KiB. What cannot be is refused with the field and the reason.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Final

import numpy as np

from unpinned.model import layout as M
from unpinned.model.layout import Block
from unpinned.paging import create, view
from unpinned.paging import layout as P
from unpinned.paging.policy import MODEL, POLICIES, Policy

PAGES_MAX: Final = 7
FRAMES_MAX: Final = 7
STATE_BYTES_MAX: Final = 2048
REPEATS_MAX: Final = 100
REQUESTS: Final = ("WRITE", "READ", "PREFETCH")
_BOUNDS: Final = (("faults", 1, 3), ("active", 1, 4), ("dma", 1, 4), ("deferrals", 0, 3), ("retries", 0, 8), ("chunk", 1, PAGES_MAX))
_ARGUMENTS: Final = {"WRITE": 255, "MAP": M.VMA_MAPPED | M.VMA_WRITE, "REPLACE": M.VMA_MAPPED | M.VMA_WRITE, "PROTECT": 1, "RECLAIM": 1}
"""What an operation's argument may be at most; who moves or merges names a page, the others have none."""


class WorldError(ValueError):
    """A world or limit that cannot be: names the field and the reason."""


@dataclass(frozen=True)
class Op:
    """One line of a thread's script: pages ``[start, end)``; end 0: start + 1. arg: see layout.OP_*."""

    name: str
    start: int = 0
    end: int = 0
    arg: int = 0
    process: int = 0

    def __str__(self) -> str:
        pages = f"{self.start}" if self.end <= self.start + 1 else f"{self.start}-{self.end - 1}"
        tail = f" {self.arg}" if self.arg else ""
        return f"{self.name} {pages}{tail}" + (" (child)" if self.process else "")


@dataclass(frozen=True)
class Request:
    """One wire request, READ, WRITE or PREFETCH, over pages ``[start, end)``; issued ``1 + repeat`` times (-1: for ever)."""

    name: str
    start: int = 0
    end: int = 0
    device: int = 0
    repeat: int = 0

    def __str__(self) -> str:
        pages = f"{self.start}" if self.end <= self.start + 1 else f"{self.start}-{self.end - 1}"
        return f"{self.name} {pages}" + (f" (device {self.device})" if self.device else "")


@dataclass(frozen=True)
class World:
    """A small world. See the fields' comments; times are ordinal, so bounds in time may be reached at any moment."""

    name: str = "world"
    pages: int = 2
    frames: int = 3
    slots: int = 1  #: blocks of swap; a file's pages have one more each
    devices: int = 1
    tlb: bool = True  #: the devices cache translations, which must be flushed
    device: str = "hca"  #: hca, vm or alias: layout.KINDS
    threads: tuple[tuple[Op, ...], ...] = ()
    requests: tuple[Request, ...] = ()
    touched: tuple[int, ...] = (0,)  #: pages that are resident, writable and dirty at the beginning
    mapped: tuple[int, ...] | None = None  #: pages that have a mapping; None: all but those that something is moved to
    readonly: tuple[int, ...] = ()  #: pages whose mapping allows no writes
    file: bool = False  #: pages of a shared file instead of private anonymous memory
    policy: Policy = field(default_factory=lambda: POLICIES["zap_everything"])
    mode: str = "exact"  #: layout.MODES
    keep: bool = True  #: the host keeps the obligations of deferral
    loops: tuple[int, ...] = ()  #: threads that begin their script again, for ever
    retries: int = 1  #: collisions that a fault survives
    chunk: int = 1  #: pages of the first chunk of a fault
    faults: int = 1  #: fault slots, invalidations, deferrals, descriptors per device
    active: int = 2
    deferrals: int = 1
    dma: int = 1
    region: tuple[int, int] | None = None  #: pages that wire requests may touch; None: all

    def __post_init__(self) -> None:
        """Raises WorldError."""

        def demand(true: bool, name: str, reason: str) -> None:
            if not true:
                raise WorldError(f"{name}: {reason} (world {self.name!r})")

        for each in fields(self):
            if each.type == "int":
                demand(type(getattr(self, each.name)) is int, each.name, f"{getattr(self, each.name)!r}: must be an integer")
        demand(1 <= self.pages <= PAGES_MAX, "pages", f"{self.pages}: must be between 1 and {PAGES_MAX}")
        demand(1 <= self.frames <= FRAMES_MAX, "frames", f"{self.frames}: must be between 1 and {FRAMES_MAX}")
        demand(0 <= self.slots <= 7, "slots", f"{self.slots}: must be between 0 and 7")
        demand(1 <= self.devices <= 2, "devices", f"{self.devices}: must be 1 or 2")
        demand(self.device in M.KINDS, "device", f"{self.device!r}: must be one of {', '.join(M.KINDS)}")
        demand(self.mode in M.MODES, "mode", f"{self.mode!r}: must be one of {', '.join(M.MODES)}")
        demand(not (self.tlb and self.device != "hca"), "tlb", "only an HCA has translations of its own")
        demand(
            self.device != "alias" or self.file, "file", "an alias needs an object that can be mapped twice: file=True"
        )
        demand(len(self.threads) <= 6 and len(self.requests) <= 6, "threads", "at most 6 threads and 6 requests")
        demand(len(self.touched) <= self.frames, "touched", "more resident pages than frames")
        demand(len(set(self.touched)) == len(self.touched), "touched", "a page twice")
        for page in self.mapped or ():
            demand(0 <= page < self.pages, "mapped", f"page {page}: not inside {self.pages} pages")
        first, last = self.region or (0, self.pages)
        demand(0 <= first < last <= self.pages, "region", f"{self.region}: not inside {self.pages} pages")
        for name in ("touched", "readonly"):
            for page in getattr(self, name):
                demand(page in self.mapping, name, f"page {page} is not mapped")
        for t in self.loops:
            demand(0 <= t < len(self.threads), "loops", f"{t}: there are {len(self.threads)} threads")
        for name, least, most in _BOUNDS:
            value = getattr(self, name)
            demand(least <= value <= most, name, f"{value}: must be between {least} and {most}")
        for op in (op for script in self.threads for op in script):
            demand(op.name in M.OPS[1:-1], "threads", f"{op.name!r}: no such operation ({', '.join(M.OPS[1:-1])})")
            last = max(op.end, op.start + 1)
            demand(0 <= op.start < last <= self.pages, "threads", f"{op}: not inside {self.pages} pages")
            demand(op.name != "MERGE" or not self.file, "threads", f"{op}: only private memory is merged, and this is a file's")
            single = op.name in ("RECLAIM", "MIGRATE", "MERGE")
            demand(
                not single or last == op.start + 1, "threads", f"{op}: takes one page; a range is several operations"
            )
            target = op.arg + last - op.start if op.name == "REMAP" else op.arg + 1 if op.name == "MERGE" else 0
            demand(
                0 <= op.arg and target <= self.pages, "threads", f"{op}: its target is not inside {self.pages} pages"
            )
            most = _ARGUMENTS.get(op.name, 0 if target == 0 else PAGES_MAX)
            demand(op.arg <= most, "threads", f"{op}: its argument must be at most {most}")
            demand(op.process in (0, 1), "threads", f"{op}: process must be 0 or 1")
            demand(not op.process or self.forks, "threads", f"{op}: nobody forks")
        for request in self.requests:
            last = max(request.end, request.start + 1)
            demand(request.name in REQUESTS, "requests", f"{request.name!r}: {', '.join(REQUESTS)}")
            demand(0 <= request.start < last <= self.pages, "requests", f"{request}: not inside {self.pages} pages")
            demand(0 <= request.device < self.devices, "requests", f"{request}: no such device")
            demand(-1 <= request.repeat <= REPEATS_MAX, "requests", f"{request}: repeat {request.repeat}: -1 (for ever) to {REPEATS_MAX}")
        self.policy.validate(MODEL)

    @property
    def forks(self) -> bool:
        return any(op.name == "FORK" for script in self.threads for op in script)

    @property
    def mapping(self) -> set[int]:
        """The pages that have a mapping at the beginning."""
        moves = [op for script in self.threads for op in script if op.name == "REMAP"]
        targets = {op.arg + i for op in moves for i in range(max(1, op.end - op.start))}
        return set(range(self.pages)) - targets if self.mapped is None else set(self.mapped)

    def content(self, page: int) -> int:
        """What a resident page contains at the beginning: all the same where pages are merged, else a value of its own."""
        return 30 if any(op.name == "MERGE" for script in self.threads for op in script) else 30 + page

    def writes(self, t: int, line: int) -> int:
        """What a WRITE of thread t writes."""
        return self.threads[t][line].arg or 1 + 3 * t + line

    def carries(self, r: int) -> int:
        """What request r carries, if it is a WRITE."""
        return 20 + r

    def build(self) -> Block:
        """The first state."""
        ops = [op for script in self.threads for op in script]
        block = create(
            levels=1, bits=max(1, (self.pages - 1).bit_length()), leaves=1, page_shift=0, regions=1, active=self.active,
            deferrals=self.deferrals, provisional=0, revoked=0, dma=self.dma, faults=self.faults,
        )  # fmt: skip
        block[P.TLB] = self.tlb
        block[P.FAULT_MAX_BYTES], block[P.CHUNK_BYTES], block[P.READ_AHEAD_BYTES] = self.pages, self.chunk, 0
        block[P.RETRIES_MAX] = self.retries
        aged = any(op.name == "RECLAIM" and op.arg for op in ops)
        block[P.TRACK] = P.ACCESSED * aged | P.CACHED * self.tlb
        self.policy.write(block)
        region = view(block, "regions")[0]
        region["open"], region["next"], block[P.REGION_COUNT] = 1, P.NONE, 1
        region["start"], region["end"] = self.region or (0, self.pages)
        scripts = []
        for t, script in enumerate(self.threads):
            values = [self.writes(t, i) if op.name == "WRITE" else op.arg for i, op in enumerate(script)]
            values = [
                value or M.VMA_MAPPED | M.VMA_WRITE if op.name in ("MAP", "REPLACE") else value
                for op, value in zip(script, values)
            ]
            scripts.append(
                [
                    (M.OPS.index(op.name), op.start, max(op.end, op.start + 1), value, op.process)
                    for op, value in zip(script, values)
                ]
            )
        orders = [
            (1 + REQUESTS.index(r.name), r.start, max(r.end, r.start + 1), r.device, self.carries(i), r.repeat)
            for i, r in enumerate(self.requests)
        ]
        w = M.create(
            pages=self.pages, frames=self.frames, slots=self.slots + self.pages * self.file,
            processes=1 + self.forks, scripts=scripts, orders=orders, blocks=[block] * self.devices,
            mode=M.MODES.index(self.mode), keep=self.keep, kind=M.KINDS.index(self.device),
            loops=sum(1 << t for t in self.loops), region=self.region,
        )  # fmt: skip
        self._populate(w)
        return w

    def _populate(self, w: Block) -> None:
        """The mapping, with the id 1, and the pages that are resident. In plain Python: nothing is compiled for it."""
        flags = M.VMA_MAPPED | M.VMA_FILE * self.file | 1 << M.VMA_SHIFT
        w[w[M.W_STATE] + M.X_NEXT_ID] = 1
        for page in range(self.pages):
            vma, slot = int(w[M.W_VMA]) + page * M.VMA_WORDS, int(w[M.W_SLOT]) + (page + 1) * M.SLOT_WORDS
            if page in self.mapping:
                w[vma + M.V_FLAGS] = flags | (M.VMA_WRITE if page not in self.readonly else 0)
            if self.file:
                w[vma + M.V_SLOT], w[slot + M.S_FILE], w[slot + M.S_REFS] = page + 1, 1, 1
        for frame, page in enumerate(self.touched, 1):
            value = self.content(page)
            f = int(w[M.W_FRAME] + frame * w[M.W_FRAME_WORDS])
            w[f + M.F_FLAGS], w[f + M.F_MAPS], w[f + M.F_CONTENT] = M.FRAME_USED, 1, value
            if self.file:
                w[f + M.F_SLOT] = page + 1
                w[w[M.W_SLOT] + (page + 1) * M.SLOT_WORDS + M.S_FRAME] = frame
            bits = M.PTE_DIRTY | M.PTE_SOFT_DIRTY | M.PTE_WRITE if page not in self.readonly else M.PTE_DIRTY
            w[w[M.W_PTE] + page] = frame << M.PTE_SHIFT | M.PTE_PRESENT | bits
            w[w[M.W_TRUTH] + page] = value


def state_words(w: Block) -> Block:
    """Indices of the words that can change, padded to a multiple of four with a word that is always zero."""
    constant = [int(w[M.W_FRAME]) + i for i in range(int(w[M.W_FRAME_WORDS]))]
    constant += [int(w[M.W_SLOT]) + i for i in range(M.SLOT_WORDS)]
    for d in range(int(w[M.W_DEVICES])):
        at = int(w[M.W_DEVICE] + d * w[M.W_DEVICE_WORDS])
        constant += [at + M.D_OFFSET, at + M.D_ADDRESS, at + M.D_LENGTH]
    index = sorted(set(range(int(w[M.W_STATE]), int(w[M.W_BLOCKS]))) - set(constant))
    for d in range(int(w[M.W_DEVICES])):
        at = int(w[w[M.W_DEVICE] + d * w[M.W_DEVICE_WORDS] + M.D_OFFSET])
        index += range(at + P.NODES_LIVE, at + P.POLICY)
        index += range(at + int(w[at + P.ACTIVE]), at + int(w[at + P.COUNTERS]))
    index += [int(w[M.W_FRAME])] * (-len(index) % 4)
    if 2 * len(index) > STATE_BYTES_MAX:
        raise WorldError(f"pages, frames, devices: a state of {2 * len(index)} bytes; at most {STATE_BYTES_MAX}")
    return np.array(index, np.int64)
