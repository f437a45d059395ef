"""Random schedules of whole stacks in virtual time, invariants checked.

Each seed is a schedule: two to eight HCAs with the transport and paging that
run live, a wire that loses, repeats and reorders, page faults, slow pages,
invalidations of every cause, dying peers. After every step the invariants
are looked at. A seed that breaks one is shrunk, saved and replays bit for bit.
Without --seed or --replay, a campaign: on all cores, or a Dask cluster.
"""

import argparse
import sys
from typing import Any

EXAMPLES = """
unpinned swarm -n 20000
unpinned swarm -n 1000000 --first 1 --record swarm.jsonl
unpinned swarm --seed 4711 --trace
unpinned swarm --replay swarm-4711.json --trace
unpinned swarm --adapters
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What to play, and where."""
    what = parser.add_mutually_exclusive_group()
    what.add_argument("-n", "--schedules", type=int, default=2000, metavar="N", help="schedules to play (2000)")
    what.add_argument("--seed", type=int, metavar="N", help="play this one seed")
    what.add_argument("--replay", metavar="FILE", help="play a schedule that was saved")
    what.add_argument("--adapters", action="store_true",
                      help="today's adapters imitated, beside ours: packet damming, packet flood")  # fmt: skip
    parser.add_argument("--first", type=int, default=1, metavar="N", help="first seed (1)")
    parser.add_argument("--hosts", type=int, default=2, metavar="N", help="HCAs, 2 to 8 (2)")
    parser.add_argument("--connections", type=int, default=2, metavar="N", help="connections, 1 to 64 (2)")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=N", dest="settings",
                        help="a setting that seeds are not to decide (list: --set help)")  # fmt: skip
    parser.add_argument("--trace", action="store_true", help="print the schedule, a line an event")
    parser.add_argument("--save", metavar="FILE", help="where a failing schedule goes (swarm-SEED.json)")
    parser.add_argument("--record", metavar="FILE", help="keep results; go on where it was stopped")
    parser.add_argument("--workers", type=int, default=0, metavar="N", help="processes (one a core)")
    parser.add_argument("--scheduler", metavar="ADDRESS", help="a Dask scheduler, such as tcp://host:8786")


def run(arguments: argparse.Namespace) -> int:
    """Play, report, and end with 1 if an invariant broke."""
    from unpinned.cli import CommandError
    from unpinned.swarm import jobs
    from unpinned.swarm.cases import CaseError, demand_seed
    from unpinned.swarm.image import Shape

    try:
        if "help" in arguments.settings:
            return _list_settings(arguments.json)
        settings = _settings(arguments.settings)
        Shape(arguments.hosts, arguments.connections)
        if arguments.schedules < 1:
            raise ValueError(f"--schedules {arguments.schedules}: must be at least 1")
        if not 0 <= arguments.workers <= 1 << 10:
            raise ValueError(f"--workers {arguments.workers}: must be between 1 and {1 << 10}")
        for seed in (arguments.seed or 0, arguments.first, arguments.first + arguments.schedules - 1):
            demand_seed(seed)
        jobs.compile_once()
        if arguments.adapters:
            from unpinned.swarm.comparison import show

            return show(arguments.json)
        if arguments.seed is not None or arguments.replay:
            return _one(arguments, settings)
        return _campaign(arguments, settings)
    except (CaseError, ValueError, RuntimeError) as error:
        raise CommandError(str(error)) from error


def _settings(words: list[str]) -> dict[str, int]:
    from unpinned.swarm.settings import SETTINGS, demand

    settings = {}
    for word in words:
        name, _, value = word.partition("=")
        if name not in SETTINGS or not value.removeprefix("-").isdecimal():
            raise ValueError(f"--set {word}: expected NAME=NUMBER with one of {', '.join(sorted(SETTINGS))}")
        settings[name] = int(value)
    return demand(settings)


def _list_settings(as_json: bool) -> int:
    """What may be set, between which bounds."""
    import textwrap
    from dataclasses import asdict

    from unpinned.cli import WIDTH
    from unpinned.cli._output import print_json
    from unpinned.swarm.settings import SETTINGS

    if as_json:
        print_json({name: asdict(setting) for name, setting in SETTINGS.items()})
        return 0
    for name, setting in SETTINGS.items():
        bounds = f"{setting.least} to {setting.most}"
        print(textwrap.fill(f"{name:<12}{bounds:<20}{setting.what}", WIDTH, subsequent_indent=" " * 32))
    return 0


def _one(arguments: argparse.Namespace, settings: dict[str, int]) -> int:
    """One schedule, with its trace if asked for."""
    from pathlib import Path

    from unpinned.cli._output import print_json
    from unpinned.swarm.cases import Case, play

    if arguments.replay:
        case = Case.loads(Path(arguments.replay).read_text(encoding="utf-8", errors="replace"))
    else:
        case = Case(arguments.seed, arguments.hosts, arguments.connections, {}, settings)
    outcome = play(case, traced=arguments.trace)
    stream = sys.stderr if arguments.json else sys.stdout
    for line in outcome.trace:
        print(line, file=stream)
    print(f"seed {case.seed}: {outcome.text}; world {outcome.fingerprint}", file=stream)
    if arguments.json:
        print_json(_document(outcome))
    if outcome.verdict and not arguments.replay:
        _keep(arguments, outcome)
    return 1 if outcome.verdict else 0


def _document(outcome: Any) -> dict[str, Any]:
    from dataclasses import asdict

    return {**asdict(outcome), "text": outcome.text}


def _keep(arguments: argparse.Namespace, outcome: Any) -> str:
    """Shrink a failing schedule and save it."""
    from pathlib import Path

    from unpinned.cli._output import note
    from unpinned.swarm.shrink import describe, shrink

    small = shrink(outcome, say=note)
    path = Path(arguments.save or f"swarm-{outcome.case.seed}.json")
    path.write_text(small.case.to_json())
    note(f"seed {outcome.case.seed}: {small.text}")
    note(f"  left: {describe(small)}")
    note(f"  replay: unpinned swarm --replay {path} --trace")
    return str(path)


def _campaign(arguments: argparse.Namespace, settings: dict[str, int]) -> int:
    from unpinned import campaign
    from unpinned.cli._output import note, print_json
    from unpinned.swarm import jobs
    from unpinned.swarm.cases import Case, play

    plan = jobs.plan(arguments.first, arguments.schedules, arguments.hosts, arguments.connections, settings)
    broken = 0

    def remark(result: dict[str, Any]) -> str:
        nonlocal broken
        broken += len(result["failures"])
        return f"{broken} broke an invariant" if broken else "all held"

    report = campaign.run(
        plan, scheduler=arguments.scheduler, workers=arguments.workers, file=arguments.record, note=remark
    )
    done = jobs.total(report.results)
    here = sum(plan.size(piece) for piece in report.order)
    document = {
        "first": arguments.first, "schedules": arguments.schedules, "hosts": arguments.hosts,
        "connections": arguments.connections, "settings": settings, "workers": report.workers,
        "seconds": round(report.seconds, 1), "played_now": here, "complete": report.complete, **done,
    }  # fmt: skip
    if arguments.json:
        print_json(document)
    else:
        _show(document)
    if done["failures"]:
        seed = done["failures"][0]["seed"]
        _keep(arguments, play(Case(seed, arguments.hosts, arguments.connections, {}, settings)))
        return 1
    if report.interrupted:
        note(
            "interrupted"
            + (f"; go on with the same command and --record {arguments.record}" if arguments.record else "")
        )
        return 130
    return 0


def _show(document: dict[str, Any]) -> None:
    """What a campaign found, in a dozen lines."""
    from unpinned.paging.causes import Cause

    s = document["statistics"]
    last = document["first"] + document["schedules"] - 1
    print(f"seeds {document['first']}..{last}, {document['hosts']} HCAs, {document['connections']} connections")
    now = document["played_now"]
    before = f"{document['played'] - now:,} schedules were played before; " if now < document["played"] else ""
    rate = f" ({now / max(document['seconds'], 0.1):,.0f} a second)" if now else ""
    print(f"{before}{now:,} schedules in {document['seconds']:.1f} s{rate}")
    print(f"{len(document['failures'])} broke an invariant")
    for failure in document["failures"][:10]:
        print(f"  seed {failure['seed']}: {failure['text']}")
    if not s:
        return
    rows = (
        ("steps", "events"), ("operations", "ops"), ("ended in an error, with a reason", "errors"), ("packets", "packets"),
        ("  lost", "lost"), ("  sent again", "retransmitted"), ("copies", "copies"), ("bytes compared", "checked"),
        ("page faults", "faults"), ("RNR NAKs", "rnr"), ("transport timeouts, each with a loss", "timeouts"),
        ("invalidations begun", "notices"), ("  refused", "refused"), ("  pages deferred", "deferred"),
        ("flushes", "flushes"), ("hosts that died", "deaths"),
    )  # fmt: skip
    for label, name in rows:
        print(f"  {label:<38}{s[name]:>18,}")
    causes = ", ".join(f"{Cause(i).name} {n:,}" for i, n in enumerate(s["causes"][: len(Cause)]) if n)
    for at in range(0, len(causes), 74):
        print(f"  {causes[at : at + 74]}")
