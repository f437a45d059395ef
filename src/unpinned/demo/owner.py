"""The owner: a process that serves memory and does to it what processes do, without asking anybody.

Its main thread takes orders and, in the storm, mistreats the memory; a second one keeps the ledger; a third one, now and then,
spins in Python and never lets go of the GIL by itself. None of them is needed for the peer's reads and writes.
"""

from __future__ import annotations

import os
import random
import threading
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from unpinned import verbs as v
from unpinned.demo import actions
from unpinned.demo import contents as C
from unpinned.demo.channel import Channel, Message
from unpinned.demo.ledger import Ledger
from unpinned.demo.links import ACCESS, READ_ONLY, REMOTE, Link
from unpinned.demo.places import ARRAY, CHUNK_BYTES, FILE, PRIVATE, RESERVED, STEPPED, TAGS, Place, zones
from unpinned.demo.victims import Range, rounds
from unpinned.host.owned import empty
from unpinned.paging import layout as P

SAMPLE_S = 0.1
RESERVED_BYTES = tuple(gib << 30 for gib in (64, 16, 4, 1))
"""How much address space is registered untouched: the first that the system grants."""
SPIN_S, REST_S = 1.5, 1.5
"""In the storm, Python spins for so long, then rests."""
CHILD_S = 0.3


class Owner:
    """Follows the conductor's orders (`_ORDERS`), one at a time."""

    def __init__(self, conductor: Channel, peer: Channel, ledger: Ledger) -> None:
        self.conductor, self.peer, self.ledger = conductor, peer, ledger
        self.context = v.Context()
        self.pd = v.PD(self.context)
        self.cq = v.CQ(self.context, 1024)
        self.links: list[Link] = []
        self.regions: dict[str, v.MR] = {}
        self.addresses: dict[str, int] = {}
        self.private_bytes = 0
        self.random = random.Random(5)
        self.children: list[int] = []
        self.notes: set[str] = set()
        self.problems: list[str] = []
        self.busy = threading.Lock()
        """Held while addresses are empty for a moment, and while the ledger is written (which allocates)."""
        self.stop = threading.Event()
        self.spinning = False

    def run(self) -> None:
        """Until the conductor says so, or is gone."""
        try:
            while (message := self.conductor.receive(3600.0)) is not None and message["do"] != "end":
                self.conductor.send(**self._ORDERS[message["do"]](self, message))
        finally:
            self.stop.set()
            self.spinning = False
            self._reap(0.0)
            self.context.close()

    # ---- orders ------------------------------------------------------------------------------------------------------

    def serve(self, message: Message) -> dict[str, Any]:
        """Register everything and tell the peer."""
        if message.get("record"):
            self.context.device.record(message["record"])
        places = [
            self._serve_file(message["path"]),
            self._serve_array(message["array_bytes"]),
            self._serve_private(message["private_bytes"]),
        ]
        places.append(self._serve_reserved())
        theirs = self.peer.expect(600.0, "the peer")
        self.links = [Link(self.pd, self.cq, 1) for _ in theirs["links"]]
        for link, info in zip(self.links, theirs["links"]):
            link.connect(info, REMOTE)
        self.peer.send(places=[place.as_dict() for place in places], links=[link.info() for link in self.links])
        self.ledger["registered_bytes"] = sum(place.size_bytes for place in places[:-1])
        threading.Thread(target=self._keep_ledger, name="ledger", daemon=True).start()
        return {
            "address": self.context.address,
            "register_us": self.register_us,
            "reserved_bytes": places[-1].size_bytes,
            "regions_bytes": sum(place.size_bytes for place in places),
            "served_bytes": sum(place.size_bytes for place in places[:-1]),
        }

    def _serve_file(self, path: str) -> Place:
        region = self.regions[FILE] = v.FileMR(self.pd, path, READ_ONLY)
        return Place(FILE, region.buf, region.rkey, region.length)

    def _serve_array(self, size: int) -> Place:
        self.array = empty(size, np.uint8)
        return self._serve_zones(ARRAY, v.MR(self.pd, self.array, ACCESS))

    def _serve_private(self, size: int) -> Place:
        address = actions.map_private(size)
        return self._serve_zones(PRIVATE, v.MR(self.pd, size, ACCESS, address))

    def _serve_zones(self, name: str, region: v.MR) -> Place:
        self.regions[name] = region
        read_bytes, write_bytes = zones(name, region.length)
        C.fill(actions.words_at(region.buf, read_bytes), C.word(TAGS[name]))
        return Place(name, region.buf, region.rkey, region.length, read_bytes, write_bytes)

    def _serve_reserved(self) -> Place:
        """Address space that nobody has touched, as much as the system grants; the registration is timed."""
        for size in RESERVED_BYTES:
            try:
                address = actions.map_private(size)
                break
            except OSError:
                continue
        began = time.perf_counter_ns()
        region = self.regions[RESERVED] = v.MR(self.pd, size, READ_ONLY, address)
        self.register_us = (time.perf_counter_ns() - began) / 1e3
        return Place(RESERVED, region.buf, region.rkey, region.length)

    def spin(self, message: Message) -> dict[str, Any]:
        """Python, busy with itself."""
        began, deadline = time.monotonic_ns(), time.monotonic() + message["seconds"]
        while time.monotonic() < deadline:
            pass
        self.ledger.note("Python spins", began)
        return {}

    def forget_file(self, message: Message) -> dict[str, Any]:
        """Let the kernel take back what the reads of the file brought in."""
        self._page_out_file(1.0)
        return {}

    def storm(self, message: Message) -> dict[str, Any]:
        """One thing after another, for a while."""
        deadline = time.monotonic() + message["seconds"]
        spinner = threading.Thread(target=self._spin_and_rest, args=(deadline,), name="spinner", daemon=True)
        spinner.start()
        targets = Range(self.pd, self.cq, self.peer, self.ledger)
        deeds: list[Callable[[], None]] = [self._discard, self._protect, self._page_out, self._fork, self._forget]
        refused = self.regions[PRIVATE].unnotified
        if refused:
            self.notes.add(f"no notice of unmaps ({refused}): the owner did not unmap, replace or move")
        rest: list[Callable[[], None]] = []
        while time.monotonic() < deadline:
            if not rest:
                strikes = [self._struck(targets, kind, strike) for kind, strike in rounds(not refused)]
                rest = [*strikes, *deeds, *deeds]
                self.random.shuffle(rest)
            rest.pop()()
            self._reap()
        self.peer.send(do="over")
        targets.close()
        spinner.join()
        self._reap(5.0)
        self.problems += targets.unexpected
        return {"ranges": targets.number, "range_errors": targets.errors, "range_shots": targets.shots}

    def check(self, message: Message) -> dict[str, Any]:
        """Is everything in memory what the peer, or we, have last written there?"""
        verified = 0
        for name, generations in zip((ARRAY, PRIVATE), message["generations"]):
            verified += self._check_zones(name, generations)
        for sums in message["sums"]:
            place = zones(ARRAY, self.regions[ARRAY].length)[1]
            found = actions.words_at(self.regions[ARRAY].buf + place, 8 * len(sums))
            wrong = int((found != np.array(sums, np.int64)).sum())
            self._stray(wrong, f"{wrong} counters of the array are not the sums of what was added")
            verified += 8 * len(sums)
        return {"bytes_verified": verified, "problems": self.problems, "notes": sorted(self.notes), "counters": self._counters()}

    def _check_zones(self, name: str, generations: list[int]) -> int:
        region = self.regions[name]
        read_bytes, write_bytes = zones(name, region.length)
        for chunk in range(read_bytes // CHUNK_BYTES):
            step = self.ledger.step(STEPPED[name], chunk)
            offset = chunk * CHUNK_BYTES
            words = actions.words_at(region.buf + offset, CHUNK_BYTES)
            if not C.matches(words, C.word(TAGS[name], step // 3, offset // C.WORD_BYTES)):
                self._stray(1, f"chunk {chunk} of the {name} is not what its owner wrote")
        piece_bytes = (write_bytes - read_bytes) // max(len(generations), 1)
        for piece, generation in enumerate(generations):
            offset = read_bytes + piece * piece_bytes
            words = actions.words_at(region.buf + offset, piece_bytes)
            right = (C.matches(words, C.word(C.Tag.PEER, generation, offset // C.WORD_BYTES)) if generation
                     else not words.any())  # fmt: skip
            self._stray(int(not right), f"piece {piece} of the {name} is not what the peer wrote last")
        return write_bytes if generations else read_bytes

    def _stray(self, count: int, problem: str) -> None:
        if count:
            self.ledger["stray_writes"] += count
            self.problems.append(problem)

    _ORDERS: dict[str, Callable[[Owner, Message], dict[str, Any]]] = {
        "serve": serve, "spin": spin, "forget file": forget_file, "storm": storm, "check": check,
    }  # fmt: skip

    # ---- what the owner does to its memory ---------------------------------------------------------------------------

    def _struck(self, targets: Range, kind: str, strike: str) -> Callable[[], None]:
        def strike_one() -> None:
            targets.round(kind, strike, self.busy)

        return strike_one

    def _chunks(self, name: str, most: int) -> tuple[int, int]:
        """A few chunks of what the owner may change of a region: (first, how many)."""
        whole = zones(name, self.regions[name].length)[0] // CHUNK_BYTES
        count = self.random.randint(1, min(most, whole))
        return self.random.randrange(whole - count + 1), count

    def _discard(self) -> None:
        """Throw chunks away, look for a moment as if they were empty, fill them anew."""
        name = self.random.choice([ARRAY, PRIVATE])
        first, count = self._chunks(name, 4)
        region, ledger, number = self.regions[name], self.ledger, STEPPED[name]
        chunks = range(first, first + count)
        steps = {chunk: ledger.step(number, chunk) for chunk in chunks}
        for chunk in chunks:
            ledger.set_step(number, chunk, steps[chunk] + 1)
        began = time.monotonic_ns()
        actions.discard(region.buf + first * CHUNK_BYTES, count * CHUNK_BYTES, shared=name == ARRAY)
        ledger.note("discard", began)
        for chunk in chunks:
            ledger.set_step(number, chunk, steps[chunk] + 2)
        time.sleep(0.003)
        for chunk in chunks:
            at = chunk * CHUNK_BYTES
            words = actions.words_at(region.buf + at, CHUNK_BYTES)
            C.fill(words, C.word(TAGS[name], steps[chunk] // 3 + 1, at // C.WORD_BYTES))
            ledger.set_step(number, chunk, steps[chunk] + 3)

    def _protect(self) -> None:
        """Take all rights to our own mapping of chunks that the device reaches through its own; give them back."""
        first, count = self._chunks(ARRAY, 8)
        address, length = self.regions[ARRAY].buf + first * CHUNK_BYTES, count * CHUNK_BYTES
        began = time.monotonic_ns()
        actions.protect(address, length, actions.PROT_NONE)
        time.sleep(0.002)
        actions.protect(address, length, actions.PROT_READ_WRITE)
        self.ledger.note("protect", began)

    def _forget(self) -> None:
        """Drop page table entries of the array; its content stays, being shared memory."""
        first, count = self._chunks(ARRAY, 16)
        began = time.monotonic_ns()
        actions.forget(self.regions[ARRAY].buf + first * CHUNK_BYTES, count * CHUNK_BYTES)
        self.ledger.note("discard", began)

    def _page_out(self) -> None:
        """Have pages reclaimed: of the file always, of private memory where there is swap to put them."""
        self._page_out_file(self.random.uniform(0.02, 0.2))
        region = self.regions[PRIVATE]
        if actions.swap_free_bytes() < 2 * region.length:
            self.notes.add("no swap space: private memory was not swapped out, file pages were reclaimed")
            return
        began = time.monotonic_ns()
        actions.page_out(region.buf, region.length)
        self.ledger.note("page out", began)
        self.notes.add("private memory was swapped out and in again")

    def _page_out_file(self, part: float) -> None:
        """What memory pressure would do to pages that only the device has mapped."""
        mapping = self.regions[FILE].region.mapping
        assert mapping is not None
        low, high = mapping.pages
        length = max(int((high - low) * part) // actions.PAGE, 1) * actions.PAGE
        start = low + self.random.randrange((high - low - length) // actions.PAGE + 1) * actions.PAGE
        began = time.monotonic_ns()
        actions.page_out(start, length)
        self.ledger.note("page out", began)

    def _fork(self) -> None:
        """A child, as a pool of workers would have: it lives a while, and its copy of private memory may not change."""
        if len(self.children) > 2:
            return
        region = self.regions[PRIVATE]
        read_bytes, write_bytes = zones(PRIVATE, region.length)
        began = time.monotonic_ns()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # it does nothing that a thread could have left undone
            child = os.fork()
        if child == 0:
            os._exit(_child(region.buf + read_bytes, write_bytes - read_bytes))
        self.ledger.note("fork", began)
        self.children.append(child)

    def _reap(self, patience_s: float | None = None) -> None:
        """See how children ended; with *patience_s*, wait so long for those that live."""
        deadline = time.monotonic() + (patience_s or 0.0)
        while self.children:
            for child in list(self.children):
                pid, status = os.waitpid(child, os.WNOHANG)
                if pid:
                    self.children.remove(child)
                    self._stray(int(status != 0), "a forked child saw its copy of private memory change")
            if patience_s is None or time.monotonic() >= deadline:
                return
            time.sleep(0.01)

    def _spin_and_rest(self, deadline: float) -> None:
        while time.monotonic() < deadline and not self.stop.is_set():
            began, until = time.monotonic_ns(), min(time.monotonic() + SPIN_S, deadline)
            while time.monotonic() < until:
                pass
            self.ledger.note("Python spins", began)
            self.stop.wait(max(min(REST_S, deadline - time.monotonic()), 0.0))

    # ---- the ledger --------------------------------------------------------------------------------------------------

    def _keep_ledger(self) -> None:
        """Write down, ten times a second, what the device counts and what is resident."""
        most = 0
        while not self.stop.wait(SAMPLE_S):
            with self.busy:
                totals = P.view(self.context.device.p, "totals")[0]
                self.ledger["faults"] = int(totals["faults_read"] + totals["faults_write"])
                self.ledger["pages_in"], self.ledger["flushes"] = int(totals["pages_in"]), int(totals["flushes"])
                self.ledger.set_invalidations(totals["invalidations"].tolist())
                resident = {name: region.resident_bytes() for name, region in self.regions.items()}
            for name, size in zip((FILE, ARRAY, PRIVATE, "other"), [*list(resident.values())[:3], resident[RESERVED]]):
                self.ledger[f"resident_{name}_bytes"] = size
            most = max(most, sum(resident.values()))
            self.ledger["resident_max_bytes"] = most
            self.ledger["samples"] += 1

    def _counters(self) -> dict[str, int]:
        return {name: count for name, count in self.context.counters().items() if count}


def _child(address: int, length: int) -> int:
    """A forked child: 0 when private memory stays what it was at the fork, whatever the parent and the device do."""
    before = actions.words_at(address, length).copy()
    time.sleep(CHILD_S)
    return int(not np.array_equal(before, actions.words_at(address, length)))
