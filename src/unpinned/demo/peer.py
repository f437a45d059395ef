"""The peer: a process that uses the owner's memory over the wire, and checks every byte of it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unpinned import verbs as v
from unpinned.demo.channel import Channel, Message
from unpinned.demo.ledger import Ledger
from unpinned.demo.links import ACCESS, READ, SLOT_BITS, Link, completions
from unpinned.demo.places import ARRAY, FILE, PRIVATE, RESERVED, Place, file_expectation, stepped_expectation
from unpinned.demo.targets import Gallery
from unpinned.demo.traffic import Add, Desk, Gather, Look, Scan, Stream, Write
from unpinned.host.owned import empty

MIB = 1 << 20
LANDING_BYTES = 96 * MIB
LAP_BYTES = 64 * MIB
"""Bandwidth is measured in laps of so much, each checked after its clock has stopped."""
LAP_DEPTH = 16
LINKS = ("scan", "gather", "look", "look private", "write", "write private", "add", "lap", "look once")
PATIENCE_S = 20.0
"""Nothing on loopback takes so long: it is a bug, or the machine stands still."""


class Peer:
    """Follows the conductor's orders (`_ORDERS`), one at a time."""

    def __init__(self, conductor: Channel, owner: Channel, ledger: Ledger) -> None:
        self.conductor, self.owner, self.ledger = conductor, owner, ledger
        self.context = v.Context()
        self.pd = v.PD(self.context)
        self.cq = v.CQ(self.context, 8192)
        self.memory: NDArray[np.uint8] = empty(LANDING_BYTES, np.uint8)
        self.landing = v.MR(self.pd, self.memory, ACCESS)
        self.desk = Desk(ledger, self.landing, self.memory)
        self.links = {name: Link(self.pd, self.cq, 256, number) for number, name in enumerate(LINKS)}
        self.out = completions(16)  # few: between them, the owner is listened to
        self.places: dict[str, Place] = {}
        self.writes: list[Write] = []
        self.adds: list[Add] = []

    def run(self) -> None:
        """Until the conductor says so, or is gone."""
        with self.context:
            while (message := self.conductor.receive(3600.0)) is not None and message["do"] != "end":
                self.conductor.send(**self._ORDERS[message["do"]](self, message))

    # ---- orders ------------------------------------------------------------------------------------------------------

    def meet(self, message: Message) -> dict[str, Any]:
        """Learn what is served, and connect."""
        self.owner.send(links=[link.info() for link in self.links.values()])
        answer = self.owner.expect(600.0, "the owner's regions")
        self.places = {place["name"]: Place(**place) for place in answer["places"]}
        for link, info in zip(self.links.values(), answer["links"]):
            link.connect(info)
        self.expectation = file_expectation(message["path"], message["made"])
        return {"address": self.context.address}

    def scan(self, message: Message) -> dict[str, Any]:
        """Read the file from its start, for a while."""
        self.desk.release()
        stream = Scan(self.desk, self.links["scan"], self.places[FILE], self.expectation, 8, MIB)
        self._pump([stream], message["seconds"])
        return {}

    def speed(self, message: Message) -> dict[str, Any]:
        """Bandwidth of hot memory: laps over the array's beginning."""
        place, link = self.places[ARRAY], self.links["lap"]
        lap = min(LAP_BYTES, place.read_bytes)
        self.desk.release()
        self.desk.claim(lap)
        deadline, spent, moved = time.monotonic() + message["seconds"], 0, 0
        while not moved or time.monotonic() < deadline:
            steps = [self.ledger.step(0, chunk) for chunk in range(lap // MIB)]
            spent += self._lap(link, place, lap)
            moved += lap
            for chunk, step in enumerate(steps):
                found = self.memory[chunk * MIB : (chunk + 1) * MIB]
                self.desk.judge(stepped_expectation(place, self.ledger, found, chunk * MIB, step), MIB, "reading the array")
            self.ledger["reads"] += lap // MIB
        return {"gbps": moved / spent, "bytes": moved}

    def _lap(self, link: Link, place: Place, lap: int) -> int:
        """Read *lap* bytes, LAP_DEPTH requests of 1 MiB at a time; how many ns it took."""
        began = time.perf_counter_ns()
        posted = done = 0
        while done < lap:
            while posted < lap and posted - done < LAP_DEPTH * MIB:
                link.post(READ, 0, self.landing.buf + posted, self.landing.lkey, place.address + posted, place.rkey, MIB)
                posted += MIB
            got = self._wait(self.out)
            done += got * MIB
            self.desk.arrived(got * MIB)
        return time.perf_counter_ns() - began

    def latency(self, message: Message) -> dict[str, Any]:
        """READs of 4 KiB one at a time: of a hot page, and of pages that nobody has ever touched; in turns, so that whatever
        else the machine does meets both alike."""
        place, reserved = self.places[ARRAY], self.places[RESERVED]
        self.desk.release()
        self.desk.claim(4096)
        look = self._looker()
        hot, fault = [], []
        for page in np.random.default_rng(4).permutation(reserved.size_bytes >> 16)[: message["faults"]].tolist():
            hot += [look(place.address, place.rkey) for _ in range(message["hot_each"])]
            fault.append(look(reserved.address + (page << 16), reserved.rkey))
            self.desk.judge("not zero" if self.memory[:4096].any() else "", 4096, "reading untouched memory")
        return {"hot": quantiles(hot), "fault": quantiles(fault)}

    def _looker(self) -> Callable[[int, int], float]:
        """A function that READs a page and says how many microseconds that took."""
        link, page, one = self.links["look once"], self.memory[:4096], completions(1)
        piece = v.SGE(self.landing.buf, 4096, self.landing.lkey)
        request = v.SendWR(link.number << SLOT_BITS, READ, sg=piece)

        def look(address: int, rkey: int) -> float:
            request.set_wr_rdma(rkey, address)
            page[:8] = 0xEE
            began = time.perf_counter_ns()
            link.qp.post_send(request)
            self._wait(one)
            took = time.perf_counter_ns() - began
            self.desk.arrived(4096)
            return took / 1e3

        return look

    def storm(self, message: Message) -> dict[str, Any]:
        """Everything at once, while the owner does its worst."""
        self.desk.release()
        array, private, file = self.places[ARRAY], self.places[PRIVATE], self.places[FILE]
        self.writes = [
            Write(self.desk, self.links["write"], array, 4, MIB // 4),
            Write(self.desk, self.links["write private"], private, 4, MIB // 4),
        ]
        self.adds = [Add(self.desk, self.links["add"], array, 8)]
        streams: list[Stream] = [
            Scan(self.desk, self.links["scan"], file, self.expectation, 6, MIB),
            Gather(self.desk, self.links["gather"], file, self.expectation, 128),
            Look(self.desk, self.links["look"], array, 4, MIB // 4),
            Look(self.desk, self.links["look private"], private, 4, MIB // 4),
            *self.writes,
            *self.adds,
        ]
        gallery = Gallery(self.desk, self.owner, self.pd, self.cq, len(LINKS))
        self._pump(streams, message["seconds"], gallery)
        return {}

    def account(self, message: Message) -> dict[str, Any]:
        """What the owner must find in its memory now."""
        return {
            "complaints": self.desk.complaints,
            "generations": [write.generations for write in self.writes],
            "sums": [add.sums for add in self.adds],
            "counters": {name: count for name, count in self.context.counters().items() if count},
        }

    _ORDERS: dict[str, Callable[[Peer, Message], dict[str, Any]]] = {
        "meet": meet, "scan": scan, "speed": speed, "latency": latency, "storm": storm, "account": account,
    }  # fmt: skip

    # ---- the loop ----------------------------------------------------------------------------------------------------

    def _wait(self, out: NDArray[Any]) -> int:
        """Completions into *out*, all successes; how many. OSError when one failed or none came."""
        got = self.cq.poll_into(out, PATIENCE_S)
        if not got:
            raise TimeoutError(f"no completion in {PATIENCE_S:g} s")
        for status in out["status"][:got].tolist():
            if status:
                raise v.CompletionError(status, what="reading")
        return got

    def _pump(self, streams: Sequence[Stream], seconds: float, gallery: Gallery | None = None) -> None:
        """Keep *streams* going for *seconds*, then let them end; with a *gallery*, until the owner has closed it."""
        handlers = {stream.link.number: stream for stream in streams}
        for stream in streams:
            stream.start()
        deadline, moved = time.monotonic() + seconds, time.monotonic()
        while True:
            now = time.monotonic()
            if now >= deadline:
                for stream in streams:
                    stream.stopping = True
                if not any(stream.busy > 0 and not stream.dead for stream in streams) and (gallery is None or gallery.over):
                    return
            got = self.cq.poll_into(self.out, 0.002)
            if got:
                moved = now
            elif now - moved > PATIENCE_S:
                waiting = [stream.name for stream in streams if stream.busy > 0 and not stream.dead]
                raise TimeoutError(f"nothing happened for {PATIENCE_S:g} s; waiting: {', '.join(waiting) or 'the owner'}")
            for number, status in zip(self.out["wr_id"][:got].tolist(), self.out["status"][:got].tolist()):
                link, slot = number >> SLOT_BITS, number & (1 << SLOT_BITS) - 1
                if link in handlers:
                    handlers[link].completed(slot, status)
                elif gallery is not None:
                    gallery.completed(link, slot, status)
            if gallery is not None:
                gallery.listen()


def quantiles(times: Sequence[float]) -> dict[str, float]:
    """Median, 99th percentile and least of *times*."""
    ordered = sorted(times)
    return {"p50": ordered[len(ordered) // 2], "p99": ordered[math.ceil(0.99 * len(ordered)) - 1], "min": ordered[0]}
