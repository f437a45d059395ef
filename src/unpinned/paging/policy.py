"""Policies: cause -> verdict, as data. Kernels read the table in the block without the GIL; users write their own.

A policy in a file is TOML (or the same as JSON). A cause that is not named gets the default, NOW::

    name = "patient"
    default = "NOW"

    [causes]
    PROTECT = "DOWNGRADE"
    RECLAIM = "DEFER 512 pages 1 ms"
    MIGRATE = "REFUSE_IF_BUSY"

Three things can be wrong with one, and all are told apart. *Impossible* in any world (a deferral without a bound, the
refusal of an exit): PolicyError. More than a world can *honour* (`validate`): PolicyError, with the reason. *Unsafe*
(`unsafe`): legal, so that the model can show what goes wrong, and named as such.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from unpinned.paging import layout as P
from unpinned.paging.causes import MEANINGS, Cause, Point, Verdict
from unpinned.paging.layout import Block

_UNITS_NS: Final = {"ns": 1, "us": 1_000, "ms": 1_000_000, "s": 1_000_000_000}


class PolicyError(ValueError):
    """A policy that cannot be: names the cause, the verdict and the reason."""


@dataclass(frozen=True)
class Row:
    """What to do about one cause. `max_pages`, `max_ns`: the bounds of a deferral, else 0."""

    verdict: Verdict = Verdict.NOW
    max_pages: int = 0
    max_ns: int = 0

    @property
    def point(self) -> Point:
        """Past it, the old translation is never used."""
        return Point.FLUSH if self.verdict is Verdict.DEFER else Point.START

    def __str__(self) -> str:
        return f"DEFER {self.max_pages} pages {self.max_ns} ns" if self.verdict is Verdict.DEFER else self.verdict.name

    @classmethod
    def parse(cls, text: str) -> Row:
        """Read ``NOW``, ``DOWNGRADE``, ``REFUSE_IF_BUSY`` or ``DEFER n pages t ns|us|ms|s``.

        >>> Row.parse("DEFER 512 pages 1 ms")
        Row(verdict=<Verdict.DEFER: 3>, max_pages=512, max_ns=1000000)
        """
        words = text.replace("(", " ").replace(")", " ").replace(",", " ").split()
        if len(words) == 1 and words[0] in Verdict.__members__:
            return cls(Verdict[words[0]])
        if len(words) == 5 and words[0] == "DEFER" and words[2] == "pages" and words[4] in _UNITS_NS:
            if words[1].isdecimal() and words[3].isdecimal():
                return cls(Verdict.DEFER, int(words[1]), int(words[3]) * _UNITS_NS[words[4]])
        raise PolicyError(
            f"verdict {text!r}: expected NOW, DOWNGRADE, REFUSE_IF_BUSY or 'DEFER <n> pages <t> ns|us|ms|s'"
        )


@dataclass(frozen=True)
class World:
    """Which verdicts a world can honour for which cause, and why not the others."""

    name: str
    verdicts: Mapping[Cause, frozenset[Verdict]]
    reasons: Mapping[Cause, str]


_EXIT: Final = "an exiting process cannot be refused, and nobody is left to keep an obligation"
_LATE: Final = (
    "the event comes when Linux has decided already: it can be neither refused nor put off, and no frame can be held"
)
_SILENT: Final = "Linux raises nothing for it in user space, and handles it below us"

#: The model raises every cause, and its host can keep every obligation.
MODEL: Final = World(
    "model",
    {c: frozenset(Verdict) if c is not Cause.RELEASE else frozenset({Verdict.NOW}) for c in Cause},
    {Cause.RELEASE: _EXIT},
)
#: Linux in user space: UNMAP, REMAP, DISCARD and RELEASE are raised, RECLAIM is observed; all NOW.
LIVE: Final = World(
    "live",
    {c: frozenset({Verdict.NOW}) for c in Cause},
    dict.fromkeys(Cause, _SILENT)
    | dict.fromkeys((Cause.UNMAP, Cause.REMAP, Cause.DISCARD, Cause.RECLAIM, Cause.UNKNOWN), _LATE)
    | {Cause.RELEASE: _EXIT},
)


@dataclass(frozen=True)
class Policy:
    """A verdict for every cause. Impossible rows are refused when it is made."""

    name: str
    rows: Mapping[Cause, Row] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "rows", {cause: self.rows.get(cause, Row()) for cause in Cause})
        for cause, row in self.rows.items():
            _require_bounds(cause.name, row)
            if cause is Cause.RELEASE and row.verdict is not Verdict.NOW:
                raise PolicyError(f"RELEASE: {row}: {_EXIT}")

    def validate(self, world: World) -> Policy:
        """This policy, if `world` can honour all of it. Raises PolicyError naming cause, verdict and reason."""
        for cause, row in self.rows.items():
            if row.verdict not in world.verdicts[cause]:
                able = ", ".join(v.name for v in sorted(world.verdicts[cause]))
                reason = world.reasons.get(cause, "it has no such verdict")
                raise PolicyError(
                    f"{cause.name}: the {world.name} world cannot {row.verdict.name} (only {able}): {reason}"
                )
        return self

    def unsafe(self) -> dict[Cause, str]:
        """The rows that no host can make safe, each with the obligation that it breaks."""
        return {
            cause: MEANINGS[cause].obligation
            for cause, row in self.rows.items()
            if (row.verdict is Verdict.DEFER and not MEANINGS[cause].deferrable)
            or (row.verdict is Verdict.DOWNGRADE and not MEANINGS[cause].downgradable)
            or (row.verdict is Verdict.REFUSE_IF_BUSY and not MEANINGS[cause].refusable)
        }

    # --- words, text ---

    def write(self, p: Block) -> None:
        """Put the table into a block. Between two steps only: the caller holds the lock."""
        table = p[P.POLICY : P.POLICY + P.CAUSES * P.POLICY_WORDS].view(P.POLICY_DTYPE)
        for cause, row in self.rows.items():
            table[cause] = (row.verdict, row.max_pages, row.max_ns, row.point)

    @classmethod
    def read(cls, p: Block, name: str = "block") -> Policy:
        """The table of a block."""
        table = p[P.POLICY : P.POLICY + P.CAUSES * P.POLICY_WORDS].view(P.POLICY_DTYPE)
        words = {c: [int(word) for word in table[c].tolist()] for c in Cause}
        return cls(name, {c: Row(Verdict(verdict), pages, ns) for c, (verdict, pages, ns, _) in words.items()})

    def to_json(self) -> str:
        """The text that `loads` reads back."""
        return json.dumps({"name": self.name, "causes": {c.name: str(row) for c, row in self.rows.items()}}, indent=2)

    @classmethod
    def loads(cls, text: str) -> Policy:
        """Read TOML, or JSON if it begins with a brace. Raises PolicyError naming the field."""
        try:
            data: Any = json.loads(text) if text.lstrip().startswith("{") else tomllib.loads(text)
        except (json.JSONDecodeError, tomllib.TOMLDecodeError) as error:
            raise PolicyError(f"a policy is TOML or JSON: {error}") from None
        unknown = sorted(set(data) - {"name", "default", "causes"})
        if unknown:
            raise PolicyError(f"{unknown[0]}: unknown field (name, default, causes)")
        causes = data.get("causes", {})
        if not isinstance(causes, dict):
            raise PolicyError('causes: expected a table of CAUSE = "verdict"')
        for name in causes:
            if name not in Cause.__members__:
                raise PolicyError(f"causes.{name}: no such cause ({', '.join(Cause.__members__)})")
        if not isinstance(data.get("name", ""), str):
            raise PolicyError(f"name: expected a text in quotes, got {data['name']!r}")
        default = _parse("default", data.get("default", "NOW"))
        rows: dict[Cause, Row] = {c: default for c in Cause if c != Cause.RELEASE}
        rows |= {Cause[name]: _parse(f"causes.{name}", verdict) for name, verdict in causes.items()}
        return cls(data.get("name", "unnamed"), rows)


def _parse(name: str, verdict: object) -> Row:
    if not isinstance(verdict, str):
        raise PolicyError(f"{name}: expected a verdict in quotes, got {verdict!r}")
    try:
        row = Row.parse(verdict)
    except PolicyError as error:
        raise PolicyError(f"{name}: {error}") from None
    _require_bounds(name, row)
    return row


def _require_bounds(name: str, row: Row) -> None:
    """Raises PolicyError unless a deferral is bounded, and nothing else is."""
    if row.verdict is Verdict.DEFER and not (row.max_pages > 0 and row.max_ns > 0):
        raise PolicyError(f"{name}: {row}: a deferral needs a bound in pages and one in time, both > 0")
    if row.verdict is not Verdict.DEFER and (row.max_pages or row.max_ns):
        raise PolicyError(f"{name}: {row.verdict.name}: max_pages and max_ns belong to DEFER only")
    if max(row.max_pages, row.max_ns) > 1 << 40:
        raise PolicyError(f"{name}: {row}: a bound above 2**40 is none")


def _batch(*causes: Cause) -> dict[Cause, Row]:
    return {cause: Row(Verdict.DEFER, 512, 1_000_000) for cause in causes}


_BY_CAUSE: Final = {
    Cause.PROTECT: Row(Verdict.DOWNGRADE),
    Cause.SOFT_DIRTY: Row(Verdict.DOWNGRADE),
    Cause.RECLAIM: Row(Verdict.REFUSE_IF_BUSY),
    Cause.MIGRATE: Row(Verdict.REFUSE_IF_BUSY),
    Cause.MERGE: Row(Verdict.REFUSE_IF_BUSY),
}

#: Ready-made policies. `blind_batching` does not look at the cause and is unsafe; it is here to be refuted.
POLICIES: Final[dict[str, Policy]] = {
    policy.name: policy
    for policy in (
        Policy("zap_everything"),
        Policy("by_cause", _BY_CAUSE),
        Policy("by_cause_batching", _BY_CAUSE | _batch(Cause.UNMAP, Cause.REMAP, Cause.DISCARD, Cause.RECLAIM)),
        Policy("blind_batching", _batch(*(c for c in Cause if c is not Cause.RELEASE))),
    )
}


def live_policy() -> Policy:
    """What the live world runs: everything NOW, for by then Linux has decided (see `LIVE`)."""
    return POLICIES["zap_everything"].validate(LIVE)
