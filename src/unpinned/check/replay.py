"""From the explorer's steps to a `Trace`, and back: a kept trace run again, step by step.

A trace holds its world as data and the numbers of its steps; running it again is to make the world and take the same
steps. Every step must come out as it was kept, else the code has changed, and the first one that differs is named.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from typing import Any, Final

from unpinned.check import requests
from unpinned.check.explain import reason
from unpinned.check.matrix import MODES, Answer
from unpinned.check.mutants import MUTANTS
from unpinned.check.picture import EMPTY, Groups, differences, picture, places, under_way
from unpinned.check.trace import Cell, Event, Trace
from unpinned.check.worlds import worlds_of
from unpinned.model.layout import Block
from unpinned.model.narration import Step
from unpinned.model.search import Limits, Search, replay
from unpinned.model.search import ReplayError as StepError
from unpinned.model.world import Op, Request, World, WorldError
from unpinned.paging.policy import Policy


class ReplayError(ValueError):
    """A trace that does not run as it was kept: names the step."""


# --- worlds as data ----------------------------------------------------------------------------------------------------


def world_data(world: World) -> dict[str, Any]:
    """A world as JSON can hold it."""
    data = {each.name: getattr(world, each.name) for each in dataclasses.fields(world)}
    data["policy"] = world.policy.to_json()
    data["threads"] = [[dataclasses.astuple(op) for op in thread] for thread in world.threads]
    data["requests"] = [dataclasses.asdict(request) for request in world.requests]
    return {name: list(value) if isinstance(value, tuple) else value for name, value in data.items()}


def world_from(data: dict[str, Any]) -> World:
    """The world that `world_data` described. Raises WorldError naming a field that is none, or cannot be."""
    known = {each.name for each in dataclasses.fields(World)}
    for name in data:
        if name not in known:
            raise WorldError(f"{name}: unknown field of a world")
    fields: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in data.items()}
    try:
        fields["policy"] = Policy.loads(data["policy"])
        fields["threads"] = tuple(tuple(Op(*op) for op in thread) for thread in data["threads"])
        fields["requests"] = tuple(Request(**request) for request in data["requests"])
        return World(**fields)
    except (KeyError, TypeError, AttributeError) as error:
        raise WorldError(f"a world needs policy, threads and requests as check writes them: {error}") from None


def states_of(world: World, numbers: Sequence[int]) -> list[Block]:
    """The block before the first step, and after each one."""
    search = Search(world, Limits(states=16), reduce=False, liveness=False)
    states = [search.start.copy()]
    for number in numbers:
        states.append(search.step(states[-1], number))
    return states


# --- traces ------------------------------------------------------------------------------------------------------------


def make_trace(
    title: str, world: World, broke: str, message: str, numbers: Sequence[int], loop: int = -1, mutant: str = "",
    command: str = "",
) -> Trace:  # fmt: skip
    """Run the steps and describe each: who, what, what answer, what changed. command: what finds it again."""
    steps = replay(world, numbers)
    states = states_of(world, numbers)
    periods = [under_way(w) for w in states]
    groups, pictures = _used(places(states[0]), [picture(w) for w in states])
    events = [
        dataclasses.replace(
            _event(world, step),
            changes=differences(groups, pictures[i], pictures[i + 1]),
            state=pictures[i + 1],
            begins=tuple(each for each in periods[i + 1] if each not in periods[i]),
            ends=tuple(each for each in periods[i] if each not in periods[i + 1]),
        )
        for i, step in enumerate(steps)
    ]
    if events and loop < 0:
        events[-1] = dataclasses.replace(events[-1], tone="bad")
    lanes = tuple(dict.fromkeys(lane for event in events for lane in (event.lane, event.to) if lane))
    data = {**world_data(world), **({"mutant": mutant} if mutant else {})}
    return Trace(
        title=title,
        verdict=broke,
        reason=f"{reason(broke)}" + (f" ({message})" if broke in ("DEADLOCK", "LIVELOCK") else ""),
        world=data,
        path=tuple(numbers),
        lanes=tuple(sorted(lanes, key=_rank)),
        events=tuple(events),
        places=groups,
        roles=_roles(world),
        loop=loop,
        command=f"unpinned check --mutant {mutant}" if mutant else command,
        facts=_facts(world, mutant),
    )


def _used(groups: Groups, pictures: list[tuple[Cell, ...]]) -> tuple[Groups, list[tuple[Cell, ...]]]:
    """Without the groups in which nothing ever is."""
    kept: list[tuple[str, tuple[str, ...]]] = []
    columns: list[int] = []
    first = 0
    for name, cells in groups:
        here = range(first, first + len(cells))
        first += len(cells)
        if any(made[i] != EMPTY for made in pictures for i in here):
            kept.append((name, cells))
            columns += here
    return tuple(kept), [tuple(made[i] for i in columns) for made in pictures]


_ORDER: Final = ("thread", "host", "device", "worker", "request")
_TONES: Final = {"thread": "host", "host": "host", "worker": "fault", "device": "device", "request": "copy"}


def _rank(lane: str) -> tuple[int, str]:
    return next((i for i, word in enumerate(_ORDER) if lane.startswith(word)), len(_ORDER)), lane


def _event(world: World, step: Step) -> Event:
    """The step with its actor's lane, whom it asks, and the answer."""
    words = step.actor.split()
    device = f"device {words[1]}" if words[0] == "device" else ""
    lane, to = step.actor, ""
    if device:
        lane = {"worker": f"worker {words[1]}", "host": "host"}.get(words[-1], device)
    text = step.action.partition("  **")[0]
    if words[0] in ("thread", "request"):  # what it is about stands below the lane's name
        about, _, what = text.partition(": ")
        text = text if not what or what.startswith("done") else what
    if world.device != "hca":  # what was translated is no frame
        text = re.sub(r"(-> |into |from )frame", r"\1mapping" if world.device == "vm" else r"\1file block", text)
    text, _, answer = text.partition(" -> ") if "invalidate_start" in text else (text, "", "")
    told = re.search(r" on (device \d+)", text)
    if told:
        text, to = text.replace(told.group(0), ""), told.group(1)
    elif words[0] == "request" and ("translated" in text or "parks" in text):
        to = f"device {world.requests[int(words[1])].device}"
    elif words[-1] == "worker" and ("commits" in text or "takes" in text):
        to = device
    tone = "flush" if words[-1] == "flush" else _TONES[lane.split()[0]]
    return Event(lane=lane, text=text, to=to, answer=answer, tone=tone)


def _roles(world: World) -> tuple[tuple[str, str], ...]:
    """What threads and requests are there for, short enough for a lane."""
    found = [(f"thread {t}", ", ".join(map(str, ops))) for t, ops in enumerate(world.threads)]
    found += [(f"request {r}", str(request)) for r, request in enumerate(world.requests)]
    found += [(f"worker {d}", f"of device {d}") for d in range(world.devices)]
    return tuple((lane, role if len(role) < 28 else role[:26] + " …") for lane, role in found)


def _facts(world: World, mutant: str) -> tuple[tuple[str, str], ...]:
    imitates = MUTANTS[mutant].imitates if mutant in MUTANTS else ""
    threads = "; ".join(f"{t}: " + ", then ".join(map(str, ops)) for t, ops in enumerate(world.threads))
    rows = ", ".join(f"{cause.name} = {row}" for cause, row in world.policy.rows.items() if str(row) != "NOW")
    facts = [
        ("world", world.name), ("notifier", f"{world.mode}: {MODES[world.mode]}"),
        ("policy", rows or "everything NOW"), ("threads", threads),
        ("requests", "; ".join(f"{r}: {request}" for r, request in enumerate(world.requests))),
        ("memory", f"{_count(world.pages, 'page')}, {_count(world.frames, 'frame')}, {_count(world.slots, 'slot')}"),
    ]  # fmt: skip
    return tuple(facts + ([("mutant", f"{mutant}: {imitates}")] if mutant else []))


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def trace_of(answer: Answer) -> Trace:
    """The trace of an UNSAFE answer: that of its worst world."""
    worst = answer.worst
    assert worst is not None and worst.broke
    world = next(each for each in worlds_of(answer.cell) if each.name == worst.world)
    device = "" if answer.cell.device == "hca" else f", device {answer.cell.device}"
    careless = "" if answer.cell.keeps else ", the host keeps no obligation"
    title = f"{answer.cell.cause.name}, {answer.cell.row.verdict.name}, notifier {answer.cell.mode}{device}{careless}"
    return make_trace(title, world, worst.broke, worst.message, worst.path, worst.loop, command=answer.cell.command)


def again(kept: Trace) -> Trace:
    """Run a kept trace. Raises ReplayError naming the first step that does not come out as it was kept."""
    if "request" in kept.world:
        return _request_again(kept)
    data = {name: value for name, value in kept.world.items() if name != "mutant"}
    try:
        made = make_trace(
            kept.title, world_from(data), kept.verdict, "", kept.path, kept.loop, kept.world.get("mutant", "")
        )
    except StepError as error:
        raise ReplayError(str(error)) from None
    for number, (old, new) in enumerate(zip(kept.events, made.events), 1):
        if old != new:
            raise ReplayError(f"step {number}: kept was {_line(old)!r}, now it is {_line(new)!r}: the code has changed")
    if len(kept.events) != len(made.events):
        raise ReplayError(f"step {len(made.events) + 1}: {len(kept.events)} were kept, {len(made.events)} can be taken")
    return dataclasses.replace(made, reason=kept.reason, command=kept.command)


def _request_again(kept: Trace) -> Trace:
    try:
        fields = {**kept.world["request"], "pages": tuple(kept.world["request"]["pages"])}
        request = requests.Request(**fields)
    except (KeyError, TypeError) as error:
        raise ReplayError(f"the request is not one that check writes: {error}") from None
    made = requests.make_trace(request, requests.judge(request), kept.world.get("mutant", ""))
    if made.events != kept.events:
        raise ReplayError(f"step 1: kept was {_line(kept.events[0])!r}, now it is {_line(made.events[0])!r}")
    return made


def _line(event: Event) -> str:
    return " ".join(filter(None, (event.lane, event.text, event.answer, *event.changes)))
