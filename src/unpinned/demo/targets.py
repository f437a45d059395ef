"""The peer's side of ranges that go away: full fire on them until they are gone, and a look afterwards.

A range has two halves, one to be read, one to be written. What is right depends on what the ledger said *before* a request was
posted: while the range was there, a READ brings its words or a Remote Access Error; once it is gone, both must fail. Bytes of
whatever was mapped in its place may never come.
"""

from __future__ import annotations

from unpinned import verbs as v
from unpinned.demo import contents as C
from unpinned.demo.channel import Channel, Message
from unpinned.demo.ledger import GONE, SLOTS
from unpinned.demo.links import READ, WRITE, Link
from unpinned.demo.traffic import Desk

FIRE = 8
"""Requests of each kind that are under way at a range."""
SHOT_BYTES = 32 << 10
ROLES = ("read", "write", "probe read", "probe write")
"""A range's links: an error ends one, so what is asked after the end has its own."""


class Target:
    """One range, and the four links that aim at it."""

    def __init__(self, message: Message, links: list[Link], desk: Desk, landing: int) -> None:
        self.id: int = message["target"]
        self.address: int = message["address"]
        self.rkey: int = message["rkey"]
        self.half: int = message["half"]
        self.foreign: bool = message["foreign"]
        self.readable_after: bool = message["readable_after"]
        self.slot = self.id % SLOTS
        self.links, self.desk, self.landing = links, desk, landing
        self.asked: dict[tuple[int, int], tuple[int, int]] = {}
        self.dead = [False] * len(ROLES)
        self.firing = True
        self.waiting = 0
        self.errors = 0
        self.shots = 0

    def fire(self) -> None:
        """Begin."""
        for role in (0, 1):
            for slot in range(FIRE):
                self._shoot(role, slot)

    def probe(self) -> None:
        """The range is gone: one READ and one WRITE that must both be told so."""
        self.firing = False
        for role in (2, 3):
            self._shoot(role, 0)

    def idle(self) -> bool:
        return self.waiting == 0

    def _shoot(self, role: int, slot: int) -> None:
        reads = role % 2 == 0
        base = 0 if reads else self.half
        offset = base + (self.shots * SHOT_BYTES) % self.half
        self.shots += 1
        local = self.landing + (role * FIRE + slot) * SHOT_BYTES
        if not reads:
            words = self.desk.memory[local : local + SHOT_BYTES].view("i8")
            C.fill(words, C.word(C.Tag.PEER, self.shots, offset // C.WORD_BYTES))
        self.asked[role, slot] = self.desk.ledger.slot(self.slot), offset
        self.waiting += 1
        landing = self.desk.landing
        opcode = READ if reads else WRITE
        self.links[role].post(opcode, slot, landing.buf + local, landing.lkey, self.address + offset, self.rkey, SHOT_BYTES)

    def completed(self, role: int, slot: int, status: int) -> None:
        """A shot ended."""
        self.waiting -= 1
        self.desk.ledger.set_shots(self.slot, self.desk.ledger.shots(self.slot) + 1)
        if status != v.IBV_WC_SUCCESS:
            if not self.dead[role]:
                self._error(status)
            self.dead[role] = True
            return
        self.desk.arrived(SHOT_BYTES)
        before, offset = self.asked[role, slot]
        if role % 2 == 0:
            self._check(role, slot, offset, before)
        elif before == GONE:
            self.desk.ledger["late_writes"] += 1
            self.desk.complain(f"a write to range {self.id} was acknowledged after the range was gone")
        if role < 2 and self.firing and not self.dead[role]:
            self._shoot(role, slot)

    def _error(self, status: int) -> None:
        if status == v.IBV_WC_REM_ACCESS_ERR:
            self.errors += 1
            self.desk.ledger["access_errors"] += 1
        else:
            self.desk.ledger["other_errors"] += 1
            self.desk.complain(f"range {self.id}: {v.wc_status_to_str(status)}, not a remote access error")

    def _check(self, role: int, slot: int, offset: int, before: int) -> None:
        ledger = self.desk.ledger
        ledger["bytes_verified"] += SHOT_BYTES
        local = self.landing + (role * FIRE + slot) * SHOT_BYTES
        words = self.desk.memory[local : local + SHOT_BYTES].view("i8")
        if before == GONE and not self.readable_after:
            ledger["stale_reads"] += 1
            self.desk.complain(f"a read of range {self.id} was answered after the range was gone")
        elif not C.matches(words, C.word(C.Tag.VICTIM, self.id, offset // C.WORD_BYTES)):
            ledger["stale_reads_foreign" if self.foreign else "stale_reads"] += 1
            at = int(C.wrong(words, [C.word(C.Tag.VICTIM, self.id, offset // C.WORD_BYTES)])[0])
            self.desk.complain(f"range {self.id} ({'foreign' if self.foreign else 'ours'}): {C.describe(int(words[at]))}")


class Gallery:
    """All targets of the peer: follows what the owner announces over its channel."""

    def __init__(self, desk: Desk, channel: Channel, pd: v.PD, cq: v.CQ, first_link: int) -> None:
        self.desk, self.channel, self.pd, self.cq = desk, channel, pd, cq
        self.next_link = first_link  # numbers are never used twice: a closed link's completions may still come
        self.landing = desk.claim(len(ROLES) * FIRE * SHOT_BYTES)
        self.target: Target | None = None
        self.links: list[Link] = []
        self.over = False

    def listen(self) -> None:
        """Take the owner's messages, if there are any."""
        while (message := self.channel.receive(0)) is not None:
            self._follow(message)

    def _follow(self, message: Message) -> None:
        if "target" in message:
            self.links = [Link(self.pd, self.cq, FIRE, self.next_link + role) for role in range(len(ROLES))]
            self.next_link += len(ROLES)
            self.target = Target(message, self.links, self.desk, self.landing)
            for link, info in zip(self.links, message["links"]):
                link.connect(info)
            self.channel.send(links=[link.info() for link in self.links])
        elif message["do"] == "over":
            self.over = True
        elif self.target is not None:
            {"fire": self.target.fire, "probe": self.target.probe, "close": self._close}[message["do"]]()

    def completed(self, number: int, slot: int, status: int) -> None:
        """A completion that is no stream's."""
        if self.target is not None and self.links and number >= self.links[0].number:
            self.target.completed(number - self.links[0].number, slot, status)
            if not self.target.firing and self.target.idle():
                self.channel.send(errors=self.target.errors, shots=self.target.shots)

    def _close(self) -> None:
        for link in self.links:
            link.close()
        self.links, self.target = [], None
