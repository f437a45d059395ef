"""Ranges that the owner takes away under fire, and puts something else in their place.

Four kinds of memory, five ways to go. What matters is what happens *after* the call that takes it away returned: no byte of
what is mapped there then may come from the peer, no byte of the old memory, wherever it is now, may change any more.

=========  =========================================  ====================================================
kind       what it is                                 how the device reaches it
=========  =========================================  ====================================================
owned      `unpinned.empty`                           a mapping of its own
shared     a memfd, MAP_SHARED                        an alias: a second mapping of the same memory
file       a file, MAP_SHARED                         an alias
private    MAP_PRIVATE | MAP_ANONYMOUS, any heap      at its own address (foreign: no other way exists)
=========  =========================================  ====================================================

Of private memory a copy that was under way when the range was replaced can land in the replacement: Linux tells user space of
an unmap after the fact. That is counted apart.
"""

from __future__ import annotations

import os
import time
from contextlib import AbstractContextManager

import numpy as np

from unpinned import verbs as v
from unpinned.demo import actions, files
from unpinned.demo import contents as C
from unpinned.demo.channel import Channel
from unpinned.demo.ledger import GONE, LIVE, SLOTS, STRIKING, Ledger
from unpinned.demo.links import ACCESS, REMOTE, Link
from unpinned.demo.targets import FIRE, ROLES, SHOT_BYTES
from unpinned.host.owned import empty

SIZE = 1 << 20
HALF = SIZE // 2
KINDS = ("owned", "shared", "file", "private")
STRIKES = ("unmap", "replace", "move", "protect", "shrink")
SHOTS = 48
"""A range is struck when so many requests have hit it, or after FIRE_S."""
FIRE_S = 0.25
ANSWER_S = 30.0


def rounds(notified: bool) -> list[tuple[str, str]]:
    """Every (kind, strike) that means something: rights of our own mappings come from the table, not from mprotect; only a
    file can shrink; and where nobody tells the device of an unmap, it cannot know of one."""
    only: dict[str, tuple[str, ...]] = {"protect": ("private",), "shrink": ("file",)}
    strikes = STRIKES if notified else ("protect", "shrink")
    return [(kind, strike) for strike in strikes for kind in only.get(strike, KINDS)]


class Filler:
    """What is mapped in place of what went: words that say so."""

    def __init__(self) -> None:
        self.words = np.empty(SIZE // C.WORD_BYTES, np.int64)
        C.fill(self.words, C.word(C.Tag.OTHER))
        self.fd = os.memfd_create("unpinned-demo-filler", os.MFD_CLOEXEC)
        os.write(self.fd, self.words.tobytes())

    def strays(self, address: int) -> int:
        """Blocks of a request's size at *address* that are not as they were filled."""
        changed = actions.words_at(address, SIZE) != self.words
        return int(changed.reshape(-1, SHOT_BYTES // C.WORD_BYTES).any(1).sum())

    def close(self) -> None:
        os.close(self.fd)


class Victim:
    """One range: registered, then struck."""

    def __init__(self, number: int, kind: str, strike: str, pd: v.PD, filler: Filler) -> None:
        self.number, self.kind, self.strike, self.filler = number, kind, strike, filler
        self._fd = -1
        self._array: np.ndarray | None = None
        if kind == "owned":
            self._array = empty(SIZE, np.uint8)
            self.base = self._array.ctypes.data
        elif kind == "private":
            self.base = actions.map_private(SIZE)
        else:
            self._fd = os.memfd_create("unpinned-demo-victim", os.MFD_CLOEXEC) if kind == "shared" else files.temporary(SIZE)
            os.ftruncate(self._fd, SIZE)
            self.base = actions.map_file(self._fd, SIZE)
        C.fill(actions.words_at(self.base, HALF), C.word(C.Tag.VICTIM, number))
        self.mr = v.MR(pd, SIZE if self._array is None else self._array, ACCESS, None if self._array is not None else self.base)
        self._target = actions.map_private(SIZE) if strike == "move" else 0
        self._seen: tuple[int, np.ndarray] | None = None

    def go(self) -> None:
        """Take the range away; on return it is gone."""
        if self.strike == "unmap":
            actions.unmap(self.base, SIZE)
            actions.occupy(self.base, SIZE, self.filler.fd)
        elif self.strike == "replace":
            actions.replace(self.base, SIZE, self.filler.fd)
        elif self.strike == "move":
            actions.move(self.base, SIZE, self._target)
            actions.occupy(self.base, SIZE, self.filler.fd)
        elif self.strike == "protect":
            actions.protect(self.base, SIZE, actions.PROT_READ)
        else:
            os.ftruncate(self._fd, 0)

    def remember(self) -> None:
        """Keep what the old memory holds right after it went, where there is a way to look at it."""
        place = self._old_place()
        if place:
            self._seen = place, actions.words_at(place, SIZE).copy()

    def _old_place(self) -> int:
        """Where the memory that went can still be seen; 0: nowhere."""
        if self.strike == "shrink":
            return 0
        if self.kind != "private":
            mapping = self.mr.region.mapping
            return 0 if mapping is None else mapping.table_base
        return {"move": self._target, "protect": self.base}.get(self.strike, 0)

    def strays(self) -> int:
        """Blocks that changed though nobody may have changed them."""
        count = 0
        if self.strike in ("unmap", "replace", "move"):
            count += self.filler.strays(self.base)
        if self._seen is not None:
            place, before = self._seen
            changed = actions.words_at(place, SIZE) != before
            count += int(changed.reshape(-1, SHOT_BYTES // C.WORD_BYTES).any(1).sum())
        return count

    def close(self) -> None:
        """Give everything back."""
        self.mr.close()
        if self._target:
            actions.unmap(self._target, SIZE)
        if self._array is None:
            actions.unmap(self.base, SIZE)
        self._array = None  # its last reference: what lies at its addresses (the filler) goes with it
        if self._fd >= 0:
            os.close(self._fd)


class Range:
    """Where victims are shot at: one at a time, together with the peer at the other end of *peer*."""

    def __init__(self, pd: v.PD, cq: v.CQ, peer: Channel, ledger: Ledger) -> None:
        self.pd, self.cq, self.peer, self.ledger = pd, cq, peer, ledger
        self.filler = Filler()
        self.number = 0
        self.shots = 0
        self.errors = 0
        self.unexpected: list[str] = []

    def round(self, kind: str, strike: str, alone: AbstractContextManager[object]) -> None:
        """One victim, from registration to the end; *alone* is entered while addresses are empty for a moment, when
        another thread's allocation could take them."""
        self.number += 1
        slot = self.number % SLOTS
        victim = Victim(self.number, kind, strike, self.pd, self.filler)
        links = [Link(self.pd, self.cq, 1) for _ in ROLES]
        try:
            self.ledger.set_shots(slot, 0)
            self.ledger.set_slot(slot, LIVE)
            self._connect(victim, links)
            self._fire(slot)
            with alone:
                self._strike(victim, slot)
            self._probe(victim)
        finally:
            for link in links:
                link.close()
            victim.close()

    def _connect(self, victim: Victim, links: list[Link]) -> None:
        self.peer.send(
            target=victim.number, address=victim.base, rkey=victim.mr.rkey, half=HALF, foreign=victim.kind == "private",
            readable_after=victim.strike == "protect", links=[link.info() for link in links],
        )  # fmt: skip
        answer = self.peer.expect(ANSWER_S, "the peer's links")
        for link, info in zip(links, answer["links"]):
            link.connect(info, REMOTE)
        self.peer.send(do="fire")

    def _fire(self, slot: int) -> None:
        """Wait until the peer has found its range."""
        deadline = time.monotonic() + FIRE_S
        while self.ledger.shots(slot) < SHOTS and time.monotonic() < deadline:
            time.sleep(0.001)

    def _strike(self, victim: Victim, slot: int) -> None:
        began = time.monotonic_ns()
        self.ledger.set_slot(slot, STRIKING)
        victim.go()
        self.ledger.set_slot(slot, GONE)
        self.ledger.note(victim.strike, began)
        victim.remember()

    def _probe(self, victim: Victim) -> None:
        """Have the peer look once more, and look ourselves."""
        self.peer.send(do="probe")
        answer = self.peer.expect(ANSWER_S, f"the end of range {victim.number}")
        self.shots += answer["shots"]
        self.errors += answer["errors"]
        least = 1 if victim.strike == "protect" else 2  # the probes; what was under way may have ended well
        if answer["errors"] < least:
            self.unexpected.append(f"range {victim.number} ({victim.kind}, {victim.strike}): {answer['errors']} errors")
        self.peer.send(do="close")
        foreign = victim.kind == "private" and victim.strike != "protect"
        self.ledger["stray_writes_foreign" if foreign else "stray_writes"] += victim.strays()

    def close(self) -> None:
        self.filler.close()


assert SIZE % (FIRE * SHOT_BYTES) == 0
