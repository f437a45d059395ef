"""Explore every interleaving of small worlds, and say what breaks.

Prints a matrix: for each cause and verdict, in each notifier mode, "safe"
(all of its worlds were exhausted), "cut" (a bound came first), or what breaks
and the length of a shortest trace, as in I1/9. --policy asks for the rows of
one policy. Where one cell is asked for, its trace is printed too, and --html
draws it. --explain says what invariants, modes and verdicts mean.

The status is 1 when a policy, a single cell or a replayed trace is UNSAFE, and
when a mutant survives. Without --mode a policy is judged by the notifiers that
a kernel has: exact, spurious, blind and unsleepable.
"""

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

EXAMPLES = """
unpinned check --quick
unpinned check --policy patient.toml --mode exact
unpinned check --cause UNMAP --verdict DEFER --mode late --html late.html
unpinned check --mutant no-flush --html no-flush.html
unpinned check --replay trace.json
"""

LINES_MOST = 7  #: cells of a question that are answered in a line each, too
CUTS_MOST = 5  #: worlds that were cut, and are named


def add_arguments(parser: argparse.ArgumentParser) -> None:
    ask = parser.add_argument_group("what to ask")
    ask.add_argument("--policy", metavar="FILE", help="a policy in TOML or JSON, or the name of a ready-made one")
    ask.add_argument("--cause", metavar="NAME", action="append", help="only this cause (may be repeated)")
    ask.add_argument("--verdict", metavar="NAME", action="append", help="only this verdict (may be repeated)")
    ask.add_argument("--mode", metavar="NAME", action="append", help="only this notifier mode (may be repeated)")
    ask.add_argument("--device", metavar="KIND", default="hca", help="hca (default), vm or alias: what copies go through")
    ask.add_argument("--careless", action="store_true", help="the host frees at once what a deferral obliges it to hold")
    ask.add_argument("--quick", action="store_true", help="the smallest worlds only: seconds instead of minutes")
    ask.add_argument("--states", type=int, default=0, metavar="N", help="cut a world after so many states")
    ask.add_argument("--processes", type=int, default=0, metavar="N", help="worlds explored at once (one a core)")
    other = parser.add_argument_group("instead")
    other.add_argument("--mutant", metavar="NAME", help="explore with a seeded defect in the code; or: all, list")
    other.add_argument("--replay", metavar="TRACE", help="run a kept trace again, and compare every step")
    other.add_argument("--explain", action="store_true", help="say what the invariants, modes and verdicts mean")
    result = parser.add_argument_group("the trace")
    result.add_argument("--html", metavar="FILE", help="draw it: one HTML file (FILE.svg: the diagram alone)")
    result.add_argument("--trace", metavar="FILE", help="keep it, for --replay")


def run(arguments: argparse.Namespace) -> int:
    from unpinned.check.mutate import MutantError
    from unpinned.check.replay import ReplayError
    from unpinned.check.trace import TraceError
    from unpinned.cli import CommandError
    from unpinned.model.world import WorldError
    from unpinned.paging.policy import PolicyError

    _require_bounds(arguments)
    verb = next((each for name, each in _INSTEAD.items() if getattr(arguments, name) not in (None, False)), _matrix)
    try:
        return verb(arguments)
    except (PolicyError, WorldError, TraceError, ReplayError, MutantError) as error:
        raise CommandError(str(error)) from None


def _require_bounds(arguments: argparse.Namespace) -> None:
    from unpinned.cli import CommandError

    for name, most in (("states", 1 << 31), ("processes", 1 << 10)):
        if not 0 <= getattr(arguments, name) <= most:
            raise CommandError(f"--{name} {getattr(arguments, name)}: must be between 1 and {most}")
    for name in ("html", "trace"):
        path = getattr(arguments, name)
        if path is not None and (not path or not Path(path).absolute().parent.is_dir() or Path(path).is_dir()):
            raise CommandError(f"--{name} {path!r}: no file can be made there")


# --- the matrix --------------------------------------------------------------------------------------------------------


def _matrix(arguments: argparse.Namespace) -> int:
    from unpinned.check import matrix
    from unpinned.check.search import Plan, answers
    from unpinned.cli._output import note

    policy = _policy(arguments.policy)
    asked = matrix.cells(policy, *_choices(arguments), keeps=not arguments.careless)
    plan = Plan(arguments.quick, arguments.states, arguments.processes)
    found: list[Any] = []
    interrupted = False
    with _progress("worlds") as explored:
        try:
            for answer in answers(asked, plan, explored):
                found.append(answer)  # one by one: what is there when it is interrupted counts
        except KeyboardInterrupt:
            if not found or arguments.json:
                raise
            interrupted = True
    found.sort(key=lambda answer: asked.index(answer.cell))
    judged = matrix.KERNEL_MODES if policy and not arguments.mode else matrix.MODES
    unsafe = [answer for answer in found if answer.verdict == matrix.UNSAFE and answer.cell.mode in judged]
    traced = unsafe[0] if unsafe and (len(asked) == 1 or arguments.html or arguments.trace) else None
    trace = _trace_of(traced) if traced else None
    if arguments.json:
        _print_json({"policy": policy.name if policy else None, **_summary(found)}, trace)
    else:
        _print_matrix(found, policy)
    _deliver(arguments, trace, shown=not arguments.json)
    if interrupted:
        note(f"unpinned check: interrupted: {len(found)} of {len(asked)} cells were answered")
        return 130
    return 1 if unsafe and (policy or len(asked) == 1) else 0


def _policy(named: str | None) -> Any:
    """The policy of a file; or a ready-made one, by the name that `study` and `replay` have for it, too."""
    from unpinned.paging.policy import POLICIES, PolicyError
    from unpinned.study.policies import STUDY_POLICIES, read

    if named is None:
        return None
    if not Path(named).exists():
        ready = {name: each.table for name, each in STUDY_POLICIES.items() if not each.pinned}
        if named in ready or named in POLICIES:
            return {**POLICIES, **ready}[named]
        if named in STUDY_POLICIES:
            raise PolicyError(f"{named}: pinned memory is told of nothing: there is nothing to check")
        raise PolicyError(f"{named}: No such file, nor is it a ready-made policy: {', '.join(ready)}")
    return read(named)


def _choices(arguments: argparse.Namespace) -> tuple[Any, Any, Any, str]:
    """The causes, verdicts and modes that were asked for, in their own order, and the device."""
    from unpinned.check.matrix import DEVICES, MODES
    from unpinned.paging.causes import Cause, Verdict

    causes = [Cause[name] for name in _named("--cause", arguments.cause, Cause.__members__)]
    verdicts = [Verdict[name] for name in _named("--verdict", arguments.verdict, Verdict.__members__)]
    (device,) = _named("--device", [arguments.device], DEVICES)
    return causes, verdicts, _named("--mode", arguments.mode, MODES), device


def _named(option: str, asked: list[str] | None, known: Any) -> list[str]:
    from unpinned.cli import CommandError

    spelled = {name.lower(): name for name in known}
    found = []
    for name in asked or ():
        if name.lower() not in spelled:
            raise CommandError(f"{option} {name}: there are {', '.join(known)}")
        found.append(spelled[name.lower()])
    return [name for name in known if not asked or name in found]


def _summary(found: Any) -> dict[str, Any]:
    from unpinned.check.worlds import SOMETIMES

    reached = frozenset().union(*(each.reached for answer in found for each in answer.outcomes))
    return {
        "cells": [answer.as_dict() for answer in found],
        "worlds": sum(len(answer.outcomes) for answer in found),
        "states": sum(answer.states for answer in found),
        "transitions": sum(each.transitions for answer in found for each in answer.outcomes),
        "collision_bound": sum(each.states**2 for answer in found for each in answer.outcomes) / 2.0**129,
        "sometimes": {name: name in reached for name in SOMETIMES},
    }


def _print_matrix(found: Any, policy: Any) -> None:
    from unpinned.check import matrix

    summary = _summary(found)
    if policy:
        print(f"policy {policy.name}\n")
    print(matrix.table(found))
    if len(found) <= LINES_MOST:
        print("", *(answer.line() for answer in found), sep="\n")
    counts = {name: sum(answer.verdict == name for answer in found) for name in ("SAFE", "BOUNDED", "UNSAFE")}
    print(f"\n{', '.join(f'{count} {name}' for name, count in counts.items())}; "
          f"{summary['worlds']:,} worlds, {summary['states']:,} states, {summary['transitions']:,} transitions")  # fmt: skip
    print(f"two states of a world had the same 128-bit hash with a probability below {summary['collision_bound']:.0e}")
    cuts = [each.cut for answer in found if answer.verdict == "BOUNDED" for each in answer.outcomes if each.cut]
    more = [f"cut: {len(cuts) - CUTS_MOST} more worlds"] if len(cuts) > CUTS_MOST else []
    print(*(f"cut: {cut}" for cut in cuts[:CUTS_MOST]), *more, sep="\n", end="\n" if cuts else "")
    if policy:
        print(_safe_modes(found))
    if len({answer.cell for answer in found}) == len(matrix.cells()):  # a narrower question has no reason to reach all
        never = [name for name, seen in summary["sometimes"].items() if not seen]
        print("never reached: " + ", ".join(never) if never else "every `sometimes` was reached")


def _safe_modes(found: Any) -> str:
    """With which notifiers a policy is safe as a whole: user space has others than the kernel."""
    from unpinned.check import matrix

    safe = [mode for mode in matrix.MODES if {each.verdict for each in found if each.cell.mode == mode} == {matrix.SAFE}]
    return f"every row is SAFE in mode: {', '.join(safe) or 'none of those asked'}"


def _trace_of(answer: Any) -> Any:
    from unpinned.check.replay import trace_of

    return trace_of(answer)


# --- mutants -----------------------------------------------------------------------------------------------------------


def _mutants(arguments: argparse.Namespace) -> int:
    from unpinned.check import kills, trace
    from unpinned.check.mutants import MUTANTS

    if arguments.mutant == "list":
        return _list_mutants(arguments)
    names = list(MUTANTS) if arguments.mutant == "all" else _named("--mutant", [arguments.mutant], kills.ALL)
    ended = []
    with _progress("mutants") as explored:
        for each in kills.kill(names, processes=arguments.processes):
            ended.append(each)
            explored(len(ended), len(names))
    ended.sort(key=lambda each: names.index(each.mutant.name))
    alive = [each for each in ended if not each.killed]
    shown = trace.loads(ended[0].trace) if len(ended) == 1 and ended[0].killed else None
    if arguments.json:
        _print_json({"killed": len(ended) - len(alive), "of": len(ended), "mutants": [_kill(each) for each in ended]}, shown)
    else:
        for each in ended:
            print(f"{each.mutant.name:<38}{each.broke or 'SURVIVES':<10}{each.steps:>4} steps {each.states:>9,} states")
        print(f"\n{len(ended) - len(alive)} of {len(ended)} killed")
    _deliver(arguments, shown, shown=not arguments.json)
    return 1 if alive else 0


def _kill(each: Any) -> dict[str, Any]:
    return {
        "name": each.mutant.name, "killed": each.killed, "property": each.broke, "steps": each.steps, "world": each.world,
        "states": each.states, "seconds": round(each.seconds, 3), "imitates": each.mutant.imitates,
    }  # fmt: skip


def _list_mutants(arguments: argparse.Namespace) -> int:
    import textwrap

    from unpinned.check.mutants import MUTANTS
    from unpinned.cli import WIDTH
    from unpinned.cli._output import print_json

    if arguments.json:
        print_json({name: {"where": f"{m.module}.{m.function}", "imitates": m.imitates} for name, m in MUTANTS.items()})
        return 0
    for name, mutant in MUTANTS.items():
        print(f"{name}\n  in {mutant.module}.{mutant.function}")
        print(textwrap.fill(mutant.imitates, WIDTH, initial_indent="  ", subsequent_indent="  "))
    return 0


# --- traces ------------------------------------------------------------------------------------------------------------


def _replay(arguments: argparse.Namespace) -> int:
    from dataclasses import replace

    from unpinned.check import kills
    from unpinned.check.replay import again as run_again
    from unpinned.check.trace import loads

    try:
        kept = loads(Path(arguments.replay).read_text(encoding="utf-8"))
    except UnicodeDecodeError:
        kept = loads("")
    again = kills.replay_mutant(kept) if "mutant" in kept.world else run_again(kept)
    again = replace(again, command=_replaying(arguments.replay))
    if arguments.json:
        _print_json({"replayed": len(again.events)}, again)
    _deliver(arguments, again, shown=not arguments.json)
    return 1


def _replaying(path: str) -> str:
    import shlex

    return f"unpinned check --replay {shlex.quote(path)}"


def _print_json(document: dict[str, Any], trace: Any) -> None:
    from dataclasses import asdict

    from unpinned.cli._output import print_json

    print_json({**document, "trace": asdict(trace) if trace else None})


def _deliver(arguments: argparse.Namespace, trace: Any, shown: bool) -> None:
    """Print the trace, draw it and keep it, as asked."""
    from dataclasses import replace

    from unpinned.check import diagram, page
    from unpinned.check.trace import dumps, table
    from unpinned.cli._output import note

    if trace is None:
        if arguments.html or arguments.trace:
            note("nothing broke: there is no trace to draw or keep")
        return
    if arguments.trace:
        trace = replace(trace, command=_replaying(arguments.trace))
    if shown:
        print()
        print(table(trace))
    if arguments.html:
        drawn = diagram.svg(trace) if arguments.html.endswith(".svg") else page.html(trace)
        Path(arguments.html).write_text(drawn, encoding="utf-8")
        note(f"drawn: {arguments.html}")
    if arguments.trace:
        Path(arguments.trace).write_text(dumps(trace), encoding="utf-8")
        note(f"kept: unpinned check --replay {arguments.trace}")


def _explain(arguments: argparse.Namespace) -> int:
    from unpinned.check.explain import text
    from unpinned.cli import WIDTH

    print(text(WIDTH))
    return 0


_INSTEAD = {"explain": _explain, "mutant": _mutants, "replay": _replay}


@contextmanager
def _progress(of: str) -> Iterator[Any]:
    """A bar on a terminal; otherwise nothing. Yields what is told (done, all)."""
    if not sys.stderr.isatty():
        yield lambda done, total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn(of), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(of, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
