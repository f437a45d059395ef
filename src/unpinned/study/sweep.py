"""Many runs: workloads x policies x profiles, on all cores or a cluster, each a row of plain data.

A run is a piece of a campaign (`unpinned.campaign`): it can be done anywhere, and a sweep that was stopped goes on where
it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from unpinned import campaign
from unpinned.paging.policy import MODEL, Policy
from unpinned.study import simulate as one
from unpinned.study.policies import STUDY_POLICIES, StudyPolicy, from_file
from unpinned.study.profiles import profiles
from unpinned.study.workloads import WORKLOADS

Row = dict[str, Any]

FUNCTION = "unpinned.study.sweep:piece"


def policy_named(word: str) -> StudyPolicy:
    """A ready-made policy by name, or the user's by the path of its file.

    Raises ValueError (PolicyError for a file that is none) saying what there is.
    """
    if word in STUDY_POLICIES:
        return STUDY_POLICIES[word]
    if Path(word).exists():
        return from_file(word)
    raise ValueError(f"no policy {word!r}: a file, or one of {', '.join(STUDY_POLICIES)}")


def piece(policy: dict[str, Any], workload: str, profile: str, pages: int, devices: int, seed: int, virtual_ns: int) -> Row:
    """One run, described by plain data, to a row."""
    chosen = STUDY_POLICIES.get(policy["name"]) if not policy.get("table") else None
    if chosen is None:
        table = Policy.loads(policy["table"]).validate(MODEL)
        chosen = StudyPolicy(policy["name"], policy["title"], table)
    one.ensure_compiled()
    bounds = one.Bounds(virtual_ns, 1 << 40)
    return one.simulate(
        workload, chosen, profiles()[profile], pages=pages, devices=devices, seed=seed, bounds=bounds
    ).flat()


def _describe(policy: StudyPolicy) -> dict[str, Any]:
    made: dict[str, Any] = {"name": policy.name}
    if STUDY_POLICIES.get(policy.name) is not policy:
        made |= {"title": policy.title, "table": policy.table.to_json()}
    return made


def pieces(
    workloads: Sequence[str],
    policies: Sequence[StudyPolicy],
    hcas: Sequence[str],
    *,
    pages: int,
    devices: int = 1,
    seeds: Sequence[int] = (1,),
    virtual_ns: int = 200_000_000,
) -> list[dict[str, Any]]:
    """The arguments of every run of a sweep. ValueError names a workload or profile that there is not."""
    for kind, words, known in (("workload", workloads, WORKLOADS), ("profile", hcas, profiles())):
        for word in words:
            if word not in known:
                raise ValueError(f"no {kind} {word!r}; there are {', '.join(known)}")
    return [
        {"policy": _describe(policy), "workload": workload, "profile": hca, "pages": pages, "devices": devices,
         "seed": seed, "virtual_ns": virtual_ns}
        for workload in workloads for hca in hcas for policy in policies for seed in seeds
    ]  # fmt: skip


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
