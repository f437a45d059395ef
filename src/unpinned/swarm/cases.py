"""One schedule from Python: a case is a seed, a shape, and what is left out; playing it twice gives the same, bit for bit."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from unpinned.swarm import engine, image, trace
from unpinned.swarm import layout as S
from unpinned.swarm.image import Image, Shape
from unpinned.swarm.settings import SETTINGS, demand

FORMAT = "unpinned swarm case 1"
TRACE = 60_000  # records
KINDS = {
    "operations": S.MASK_OPS, "notices": S.MASK_NOTICES, "packets": S.MASK_TOUCHES, "slow pages": S.MASK_SLOW,
    "stores": S.MASK_STORES, "death": S.MASK_DEATH,
}  # fmt: skip
SEED_MAX = 1 << 62


class CaseError(ValueError):
    """What was to be replayed is no case: names the field and the reason."""


@dataclass(frozen=True)
class Case:
    """A schedule.

    Args:
        seed: everything follows from it. hosts, connections: the shape.
        without: by kind (see KINDS), the numbers of what is left out. settings: what the seed does not decide.
    """

    seed: int
    hosts: int = 2
    connections: int = 2
    without: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    settings: Mapping[str, int] = field(default_factory=dict)

    @property
    def shape(self) -> Shape:
        return Shape(self.hosts, self.connections)

    def minus(self, kind: str, numbers: tuple[int, ...]) -> Case:
        """The same with more left out."""
        mine = tuple(sorted({*self.without.get(kind, ()), *numbers}))
        return replace(self, without={**self.without, kind: mine})

    def to_json(self) -> str:
        """The text that `loads` reads back."""
        return json.dumps({"format": FORMAT, **asdict(self)}, indent=2) + "\n"

    @classmethod
    def loads(cls, text: str) -> Case:
        """Read a case. Raises CaseError naming the field."""
        try:
            data: Any = json.loads(text)
        except ValueError as error:
            raise CaseError(f"a case is JSON: {error}") from None
        if not isinstance(data, dict) or data.pop("format", None) != FORMAT:
            raise CaseError(f"format: expected {FORMAT!r}")
        unknown = sorted(set(data) - set(cls.__dataclass_fields__))
        if unknown or "seed" not in data:
            raise CaseError(f"{unknown[0]}: no such field" if unknown else "seed: missing")
        try:
            demand_seed(data["seed"])
            data["settings"] = demand(data.get("settings", {}))
            for kind, numbers in data.get("without", {}).items():
                if kind not in KINDS or not all(isinstance(n, int) and 0 <= n < S.MASK_BITS for n in numbers):
                    raise CaseError(f"without.{kind}: expected numbers below {S.MASK_BITS} of {', '.join(KINDS)}")
            data["without"] = {kind: tuple(numbers) for kind, numbers in data.get("without", {}).items()}
            case = cls(**data)
            _ = case.shape
        except (TypeError, AttributeError, ValueError) as error:
            raise error if isinstance(error, CaseError) else CaseError(str(error)) from None
        return case


@dataclass
class Outcome:
    """What became of a schedule."""

    case: Case
    verdict: int
    """0, or a VIOLATION_*."""
    host: int
    x: int
    y: int
    time_ns: int
    events: int
    statistics: dict[str, int]
    counts: dict[str, int]
    """How many there were of each kind that can be left out."""
    fingerprint: str
    """Of the whole world as it was left."""
    trace: list[str]

    @property
    def text(self) -> str:
        """What was found, in a line."""
        if not self.verdict:
            return f"every invariant held for {self.events} steps"
        return (
            f"{S.VIOLATIONS[self.verdict]} (host {self.host}, at {self.time_ns / 1000:.3f} us, step {self.events}, "
            f"details {self.x} {self.y})"
        )


@functools.lru_cache(maxsize=8)
def _image(shape: Shape, traced: int) -> Image:
    return image.build(shape, trace=traced)


def demand_seed(seed: object) -> int:
    """The seed, if it is one. Raises ValueError."""
    if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < SEED_MAX:
        raise ValueError(f"seed={seed!r}: must be an integer from 0 to 2**62 - 1")
    return seed


def overrides(settings: Mapping[str, int]) -> image.Words:
    """The words that `engine.run` takes for settings that the seed is not to decide. Raises SettingError."""
    c = np.full(S.HEADER_WORDS - S.W_CONFIG, S.NEVER, np.int64)
    for name, value in demand(settings).items():
        c[SETTINGS[name].word - S.W_CONFIG] = value
    return c


def set_masks(world: Image, without: Mapping[str, tuple[int, ...]]) -> None:
    """Write what is left out into a world."""
    masks = world.w[world.masks]
    masks[:] = 0
    for kind, numbers in without.items():
        for number in numbers:
            masks[KINDS[kind] * S.MASK_WORDS + (number >> 5)] |= 1 << (number & 31)


def play(case: Case, *, traced: bool = False) -> Outcome:
    """Run one schedule."""
    world = _image(case.shape, TRACE if traced else 0)
    set_masks(world, case.without)
    t = np.zeros(S.STAT_WORDS, np.int64)
    engine.run(world.w, world.b, world.template, overrides(case.settings), t, case.seed, 1)
    outcome = read(case, world, t)
    if traced:
        outcome.trace = list(trace.lines(world.w[world.trace], int(world.w[S.W_TRACE_COUNT])))
    return outcome


def read(case: Case, world: Image, t: image.Words) -> Outcome:
    """What is left in a world after its schedule."""
    w = world.w
    counts = {
        "operations": int(w[S.W_DIRECTIONS]) * S.OPS, "notices": int(w[S.W_NOTICE_COUNT]), "packets": int(w[S.W_TOUCHED]),
        "slow pages": int(w[S.W_SLOWED]), "stores": int(w[S.W_STORES]), "death": 1,
    }  # fmt: skip
    return Outcome(
        case, int(w[S.W_VERDICT]), int(w[S.W_HOST_AT]), int(w[S.W_X]), int(w[S.W_Y]), int(w[S.W_NOW]), int(w[S.W_EVENTS]),
        {name: int(t[at]) for name, at in S.STATISTICS.items()}, counts, fingerprint(world), [],
    )  # fmt: skip


def fingerprint(world: Image) -> str:
    """Of everything in a world: its words, but for the trace's and raw addresses, and its memory in use."""
    words = world.w.copy()
    words[[S.W_TRACE, S.W_TRACE_DEPTH, S.W_TRACE_COUNT, S.W_NET_BYTES]] = 0
    digest = hashlib.sha256(words[: int(words[S.W_SOURCE_WORDS])].tobytes())
    for host in range(int(words[S.W_HOSTS])):
        at = int(words[S.W_HOST]) + host * S.HOST_WORDS
        shadow, frames = int(words[at + S.HO_SHADOW]), int(words[at + S.HO_BYTES])
        digest.update(world.b[shadow : shadow + int(words[at + S.HO_PAGES]) * S.PAGE].tobytes())
        for frame in range(int(words[at + S.HO_FRAMES])):
            if words[words[at + S.HO_FRAME] + frame * S.FRAME_WORDS + S.FR_STATE]:  # a free one holds what it held
                digest.update(world.b[frames + frame * S.PAGE : frames + (frame + 1) * S.PAGE].tobytes())
    return digest.hexdigest()[:16]
