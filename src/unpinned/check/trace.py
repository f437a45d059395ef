"""A counterexample as plain data: who did what, step by step, what it changed, and how to run it again.

A `Trace` is made by the explorer's replay (see `replay.py`) and drawn three ways: `table` here, `diagram.svg` as a
sequence diagram, `page.html` as one file to look at and to send around. It is kept as JSON; `loads` refuses what is
not a whole trace of ours and says what was expected.

`path` is the exact list of the explorer's action codes from the initial world; together with `world` it is the
counterexample. The events are there for people, and are compared when it is replayed.
"""

from __future__ import annotations

import json
import textwrap
from dataclasses import asdict, dataclass, field
from typing import Any, Final

FORMAT: Final = "unpinned trace 1"
WIDTH: Final = 79
SPAN_TONES: Final = {"invalidation": "host", "copy": "copy", "flush": "flush", "parked": "fault", "fault": "fault"}


class TraceError(ValueError):
    """Not a trace: truncated, of another format, or of another version; says what was expected."""


@dataclass(frozen=True)
class Cell:
    """What one place holds after a step. `frame`: the frame's number, which is its colour; -1: none."""

    text: str = ""
    frame: int = -1
    dim: bool = False  #: there, but not to be used (stale, not present)


@dataclass(frozen=True)
class Event:
    """One step of one actor.

    `to`: the lane that is asked or told, if any; `answer`: what it said. `begins`/`ends` name spans on the actor's (or
    `to`'s) lifeline, such as a copy in flight. `changes`: the state's differences, a short phrase each. `state`: what
    every place holds afterwards, in the order of the trace's `places`.
    """

    lane: str
    text: str
    to: str = ""
    answer: str = ""
    tone: str = ""  #: host, device, fault, copy, flush or bad: its colour
    begins: tuple[str, ...] = ()
    ends: tuple[str, ...] = ()
    changes: tuple[str, ...] = ()
    state: tuple[Cell, ...] = ()


@dataclass(frozen=True)
class Span:
    """A period on a lane, by event numbers: `first` to `last` (-1: it lasts)."""

    lane: str
    label: str
    tone: str
    first: int
    last: int


@dataclass(frozen=True)
class Trace:
    """A shortest way to a violation. `loop`: the number of the event where the cycle begins, if it is one (-1: not).

    A cycle is a short one, not the shortest: everybody acts in it who can in its part of the graph, and nobody else is able all the time.
    """

    title: str
    verdict: str  #: "I1", "I6 deadlock", ...
    reason: str  #: the invariant's sentence, and what broke it
    world: dict[str, Any]
    path: tuple[int, ...]
    lanes: tuple[str, ...]
    events: tuple[Event, ...]
    places: tuple[tuple[str, tuple[str, ...]], ...] = ()  #: groups of cells: (name, names of its cells)
    roles: tuple[tuple[str, str], ...] = ()  #: of a lane: what it is there for
    loop: int = -1
    command: str = ""  #: what replays it
    facts: tuple[tuple[str, str], ...] = field(default=())

    def spans(self) -> list[Span]:
        """The periods that the events begin and end, in the order of their beginnings."""
        found: list[Span] = []
        open_: dict[str, int] = {}
        for number, event in enumerate(self.events):
            for name in event.ends:
                if name in open_:
                    at = open_.pop(name)
                    found[at] = Span(found[at].lane, found[at].label, found[at].tone, found[at].first, number)
            for name in event.begins:
                lane, _, label = name.partition(": ")
                open_[name] = len(found)
                found.append(Span(lane, label, SPAN_TONES.get(label.split()[0], event.tone), number, -1))
        return found


# --- text --------------------------------------------------------------------------------------------------------------


def table(trace: Trace, width: int = WIDTH) -> str:
    """Actors and steps as lines of at most `width` columns."""
    actor = 2 + max([5, *(len(lane) for lane in trace.lanes)])
    body = width - actor - 6
    lines = [*textwrap.wrap(trace.title, width), *textwrap.wrap(f"{trace.verdict}: {trace.reason}", width), ""]
    lines.append(f"{'step':>4}  {'actor':<{actor}}")
    for number, event in enumerate(trace.events):
        if number == trace.loop:
            lines.append(f"      {'':<{actor}}--- from here on it repeats ---")
        asked = f" [{event.to}]" if event.to else ""
        answer = f" -> {event.answer}" if event.answer else ""
        said = textwrap.wrap(f"{event.text}{asked}{answer}", body) or [""]
        lines.append(f"{number + 1:>4}  {event.lane:<{actor}}{said[0]}".rstrip())
        lines += [f"{'':>6}{'':<{actor}}{line}" for line in said[1:]]
        if event.changes:
            more = textwrap.wrap("; ".join(event.changes), body - 4)
            lines += [f"{'':>6}{'':<{actor}}    {line}" for line in more]
    if trace.command:
        lines += ["", f"replay: {trace.command}"]
    return "\n".join(lines)


# --- files ---------------------------------------------------------------------------------------------------------------


def dumps(trace: Trace) -> str:
    """The text that `loads` reads back."""
    return json.dumps({"format": FORMAT, **asdict(trace)}, indent=1)


def loads(text: str) -> Trace:
    """Read a trace. Raises TraceError naming what was expected."""
    try:
        data = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise TraceError(f"expected the JSON of a trace ({FORMAT!r}); it is no JSON, or cut off: {error}") from None
    if not isinstance(data, dict) or "format" not in data:
        raise TraceError(f"expected a trace ({FORMAT!r}); this JSON has no field 'format'")
    if data.pop("format") != FORMAT:
        raise TraceError(f"expected format {FORMAT!r}; this is another, or another version")
    try:
        return _trace(data)
    except (TypeError, KeyError, ValueError) as error:
        raise TraceError(f"expected a whole trace ({FORMAT!r}): {error}") from None


def _trace(data: dict[str, Any]) -> Trace:
    if not isinstance(data["world"], dict):
        raise TypeError("its world is no object")
    events = tuple(_event(each) for each in data.pop("events"))
    places = tuple((str(name), tuple(cells)) for name, cells in data.pop("places"))
    facts = tuple((str(name), str(value)) for name, value in data.pop("facts"))
    roles = tuple((str(lane), str(role)) for lane, role in data.pop("roles"))
    path, lanes = tuple(int(code) for code in data.pop("path")), tuple(data.pop("lanes"))
    return Trace(events=events, places=places, facts=facts, roles=roles, path=path, lanes=lanes, **data)


def _event(data: dict[str, Any]) -> Event:
    begins, ends, changes = (tuple(data.pop(name)) for name in ("begins", "ends", "changes"))
    cells = tuple(Cell(**cell) for cell in data.pop("state"))
    return Event(begins=begins, ends=ends, changes=changes, state=cells, **data)
