"""Many runs: workloads x policies x profiles, on all cores or a cluster, each a row of plain data.

A run is a piece of a campaign (`unpinned.campaign`): it can be done anywhere, and a sweep that was stopped goes on where
it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import numpy as np

from unpinned import campaign
from unpinned.compiled import cache
from unpinned.paging.policy import MODEL, Policy
from unpinned.study import policies, profiles, traces
from unpinned.study import simulate as one
from unpinned.study.policies import STUDY_POLICIES, StudyPolicy
from unpinned.study.profiles import Profile
from unpinned.study.workloads import WORKLOADS

Row = dict[str, Any]

VIRTUAL_NS: Final = 200_000_000
WHOLE_NS: Final = 3_600_000_000_000
"""Where a recording ends that is run to its end: never met but by one that does not."""

FUNCTION = "unpinned.study.sweep:piece"


def code() -> str:
    """Names the code that simulates."""
    return cache.code(__name__)


def policy_named(word: str) -> StudyPolicy:
    """A ready-made policy by name, or the user's by the path of its file.

    Raises ValueError (PolicyError for a file that is none) saying what there is.
    """
    if word in STUDY_POLICIES:
        return STUDY_POLICIES[word]
    if Path(word).exists():
        return policies.from_file(word)
    raise ValueError(f"no policy {word!r}: a file, or one of {', '.join(STUDY_POLICIES)}")


def profile_named(word: str) -> Profile:
    """A ready-made HCA profile by name, or the user's by the path of its file.

    Raises ValueError (ProfileError for a file that is none) saying what there is.
    """
    known = profiles.profiles()
    if word in known:
        return known[word]
    if Path(word).exists():
        return profiles.from_file(word)
    raise ValueError(f"no profile {word!r}: a file, or one of {', '.join(known)}")


def piece(
    policy: dict[str, Any], workload: str, profile: dict[str, Any], pages: int, devices: int, seed: int, virtual_ns: int,
    recording: dict[str, Any] | None = None,
) -> Row:  # fmt: skip
    """One run, described by plain data, to a row. `profile`: all its fields; `recording`: its path and checksum, instead of
    a workload's name."""
    chosen = STUDY_POLICIES.get(policy["name"]) if not policy.get("table") else None
    if chosen is None:
        table = Policy.loads(policy["table"]).validate(MODEL)
        chosen = StudyPolicy(policy["name"], policy["title"], table)
    one.ensure_compiled()
    bounds = one.Bounds(virtual_ns, 1 << 40)
    trace = traces.load(**recording) if recording else None
    return one.simulate(
        workload, chosen, Profile(**profile), pages=pages, devices=devices, seed=seed, bounds=bounds,
        plan=trace.plan if trace else None, title=trace.title if trace else "",
    ).flat()  # fmt: skip


def _describe(policy: StudyPolicy) -> dict[str, Any]:
    made: dict[str, Any] = {"name": policy.name}
    if STUDY_POLICIES.get(policy.name) is not policy:
        made |= {"title": policy.title, "table": policy.table.to_json()}
    return made


def pieces(
    workloads: Sequence[str],
    compared: Sequence[StudyPolicy],
    hcas: Sequence[Profile],
    *,
    pages: int,
    devices: int = 1,
    seeds: Sequence[int] = (1,),
    virtual_ns: int | None = None,
) -> list[dict[str, Any]]:
    """The arguments of every run of a sweep.

    A workload is a name or the path of a recording. A recording has its own memory and no seed, and is run to its end if no
    time is given (None; else 0.2 s of virtual time).

    Policies and profiles go into them whole, so that a record of a sweep knows a file that has changed since.

    Raises ValueError naming a workload that there is not, or what is there twice; RecordingError (a ValueError) for a file that
    is no recording; OSError for one that cannot be read.
    """
    named = {"profile": [each.name for each in hcas], "policy": [each.name for each in compared]}
    for kind, words in {"workload": list(workloads), **named}.items():
        twice = sorted({word for word in words if words.count(word) > 1})
        if twice:
            raise ValueError(f"{kind} {twice[0]!r} is there twice")
    made = []
    for word in workloads:
        what = {"workload": word, "pages": pages, "virtual_ns": virtual_ns or VIRTUAL_NS}
        if word not in WORKLOADS:
            what = _recording(word, virtual_ns)
        for hca in hcas:
            for policy in compared:
                for seed in seeds if word in WORKLOADS else seeds[:1]:
                    made.append({"policy": _describe(policy), "profile": asdict(hca), "devices": devices, "seed": seed, **what})
    return made


def _recording(word: str, virtual_ns: int | None) -> dict[str, Any]:
    """A recording as a workload, by its path."""
    if not Path(word).is_file():
        raise ValueError(f"no workload {word!r}: a recording's file, or one of {', '.join(WORKLOADS)}")
    where = {"path": str(Path(word).resolve()), "crc": traces.checksum(word)}
    pages = traces.load(**where).pages
    return {"workload": word, "pages": pages, "virtual_ns": virtual_ns or WHOLE_NS, "recording": where}


def sweep(
    plan: Sequence[dict[str, Any]],
    *,
    scheduler: str | None = None,
    workers: int = 0,
    file: str | Path | None = None,
    show: bool = True,
) -> tuple[list[Row], bool]:
    """Run them all; -> (rows in order, were all of them run). Ctrl-C gives what there is."""
    one.ensure_compiled()
    work = campaign.Plan("study", FUNCTION, plan, unit="runs")
    report = campaign.run(work, scheduler=scheduler, workers=workers, file=file, show=show)
    return [report.results[i] for i in sorted(report.results)], report.complete


# --- files ---------------------------------------------------------------------------------------------------------------


def columns(rows: Sequence[Row]) -> dict[str, np.ndarray[Any, Any]]:
    """The rows as columns: integers, floats or text."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    return {name: np.array([row.get(name) for row in rows]) for name in names}


def write_csv(rows: Sequence[Row], path: str | Path) -> None:
    """Every run, a line each, every figure a column."""
    import csv

    with open(path, "w", newline="") as out:
        writer = csv.DictWriter(out, list(columns(rows)))
        writer.writeheader()
        writer.writerows(rows)


def write_parquet(rows: Sequence[Row], path: str | Path) -> None:
    """The same for data frames. ImportError without Arrow (`pip install unpinned[campaign]`)."""
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.table({name: pyarrow.array(list(c)) for name, c in columns(rows).items()}), path)
