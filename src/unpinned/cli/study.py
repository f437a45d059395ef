"""Price policies: workloads over a modelled HCA, in virtual time.

Every workload is run under every policy on every HCA profile, with the very
step functions that run live. A table comes out, and on request a report with
plots, CSV and Parquet of every run.

A workload may be a recording, made with `unpinned serve --record FILE`.
A policy may be a file of yours: what to do about each cause, in TOML:

  name = "mine"
  default = "NOW"                       # zap, flush, wait
  [causes]                              # UNMAP REMAP DISCARD RECLAIM MIGRATE
  DISCARD = "DEFER 512 pages 1 ms"      # COW PROTECT SOFT_DIRTY MERGE
  PROTECT = "DOWNGRADE"
  MIGRATE = "REFUSE_IF_BUSY"

A profile may be a file of yours too, on top of one that is there. Times are in
ns, and have the names that --json gives them:

  name = "mine"
  base = "firmware"                     # inline, mailing-list, live; or none
  report = 90_000                       # from a miss until the host knows
  flush = 1_200                         # the device forgets its translations
"""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unpinned.study.policies import StudyPolicy
    from unpinned.study.profiles import Profile

EXAMPLES = """
unpinned study
unpinned study --workload discard --profile mailing-list --memory 1G
unpinned study --policy zap-now --policy mine.toml --html report.html
unpinned study --profile firmware --profile hca.toml --html report.html
unpinned study --workload run.rec --html report.html    # a recording
unpinned study --csv runs.csv --parquet runs.parquet --json > study.json
"""

_WORKLOADS = ("reclaim", "discard", "churn", "fork", "numa", "kv")
_POLICIES = ("pin", "zap-now", "by-cause", "batching", "blind")
_PROFILES = ("firmware", "inline", "mailing-list", "live")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What is varied, where it is run, and what comes out."""
    add = parser.add_argument
    some = ", ".join(_WORKLOADS)
    add("-w", "--workload", action="append", metavar="NAME", help=f"{some}, hot or a recording's file (default: all but hot)")
    add("-p", "--policy", action="append", metavar="NAME", help=f"{', '.join(_POLICIES)} or a file (default: these)")
    add("-f", "--profile", action="append", metavar="NAME", help=f"{', '.join(_PROFILES)} or a file (default: these)")
    add("-m", "--memory", default="256M", metavar="SIZE", help="registered memory (default: 256M; a recording has its own)")
    add("-d", "--devices", type=int, default=1, metavar="N", help="HCAs on the process, 1 to 8 (default: 1)")
    add("-t", "--time", type=float, metavar="S", help="virtual seconds of a run (default: 0.2; a recording: all)")
    add("--seed", type=int, default=1, metavar="N", help="of the first repetition (default: 1)")
    add("--repeat", type=int, default=1, metavar="N", help="runs of each kind, with seeds from --seed on")
    add("--workers", type=int, default=0, metavar="N", help="processes (default: one a core)")
    add("--scheduler", metavar="ADDRESS", help="run on this Dask cluster instead")
    add("--resume", metavar="FILE", help="keep results here, and go on where it stopped")
    add("--html", metavar="FILE", help="one self-contained page with plots")
    add("--csv", metavar="FILE", help="every run, a line each")
    add("--parquet", metavar="FILE", help="the same for data frames")


def run(arguments: argparse.Namespace) -> int:
    """Run the sweep and print it."""
    from unpinned.campaign import CampaignError, RecordError
    from unpinned.cli import CommandError

    try:
        return _run(arguments)
    except (ValueError, CampaignError, RecordError) as error:
        raise CommandError(str(error)) from None


def _run(arguments: argparse.Namespace) -> int:
    from unpinned.cli import CommandError
    from unpinned.cli._output import note
    from unpinned.study import sweep

    if arguments.time is not None and not 0 < arguments.time <= 3600:
        raise CommandError("--time must be more than 0 and at most 3600 seconds")
    if not 1 <= arguments.repeat <= 1000:
        raise CommandError("--repeat must be between 1 and 1000")
    if not 1 <= arguments.devices <= 8:
        raise CommandError("--devices must be between 1 and 8")
    if arguments.seed < 0:
        raise CommandError("--seed must not be negative")
    if not 0 <= arguments.workers <= 1024:
        raise CommandError("--workers must be between 0 (one a core) and 1024")
    _check_files(arguments)
    policies = [sweep.policy_named(word) for word in arguments.policy or _POLICIES]
    hcas = [sweep.profile_named(word) for word in arguments.profile or _PROFILES]
    plan = sweep.pieces(
        arguments.workload or _WORKLOADS,
        policies,
        hcas,
        pages=_pages(arguments.memory),
        devices=arguments.devices,
        seeds=range(arguments.seed, arguments.seed + arguments.repeat),
        virtual_ns=int(arguments.time * 1e9) if arguments.time else None,
    )
    rows, complete = sweep.sweep(
        plan, scheduler=arguments.scheduler, workers=arguments.workers, file=arguments.resume, show=sys.stderr.isatty()
    )
    if not complete:
        note(f"unpinned study: interrupted after {len(rows)} of {len(plan)} runs")
    _write(arguments, rows, policies, hcas)
    return 0 if complete else 130


def _check_files(arguments: argparse.Namespace) -> None:
    """Refuse what could not be written, before hours of runs."""
    import importlib.util
    from pathlib import Path

    from unpinned.cli import CommandError

    if arguments.parquet and importlib.util.find_spec("pyarrow") is None:
        raise CommandError("--parquet needs Arrow: pip install pyarrow")
    for option in ("resume", "html", "csv", "parquet"):
        path = getattr(arguments, option)
        if path and (not Path(path).parent.is_dir() or Path(path).is_dir()):
            raise CommandError(f"--{option} {path}: not a file in a folder that is there")


def _write(arguments: argparse.Namespace, rows: list[dict[str, Any]], policies: list[StudyPolicy], hcas: list[Profile]) -> None:
    import json
    import shlex
    from dataclasses import asdict

    from unpinned.cli._output import note, print_json
    from unpinned.study import sweep
    from unpinned.study.table import render

    if arguments.csv:
        sweep.write_csv(rows, arguments.csv)
    if arguments.parquet:
        sweep.write_parquet(rows, arguments.parquet)
    if arguments.html:
        from unpinned.study.report import write

        write(rows, arguments.html, shlex.join(["unpinned", *sys.argv[1:]]), policies, hcas)
    for path in (arguments.csv, arguments.parquet, arguments.html):
        if path:
            note(f"wrote {path}")
    if arguments.json:
        tables = {policy.name: json.loads(policy.table.to_json()) for policy in policies}
        print_json({"policies": tables, "profiles": {hca.name: asdict(hca) for hca in hcas}, "runs": rows})
    else:
        sys.stdout.write(render(rows, policies))


def _pages(text: str) -> int:
    """SIZE as pages of 4 KiB."""
    from unpinned.cli import CommandError

    units = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
    digits, unit = (text[:-1], units[text[-1].upper()]) if text and text[-1].upper() in units else (text, 1)
    if not digits.isdecimal() or not 64 << 10 <= int(digits) * unit <= 64 << 30:
        raise CommandError(f"--memory {text}: a size from 64K to 64G, as 256M")
    return int(digits) * unit >> 12
