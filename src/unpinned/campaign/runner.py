"""`run`: all pieces of a plan, those that are done already excepted, until the end, a stop or Ctrl-C."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unpinned import __version__
from unpinned.campaign.executors import code_of, executor
from unpinned.campaign.progress import Progress
from unpinned.campaign.record import Record, fingerprint


@dataclass(frozen=True)
class Plan:
    """What is to be computed.

    Args:
        name: of the campaign, for people and for the record's header.
        function: ``module:name``. Called with each piece as its keyword arguments, in any process; returns plain data. If the module
            has a function ``code``, it names the code that computes: all workers must have it, and a record of other code is refused.
        pieces: the arguments of each call, plain data.
        unit: what a piece consists of; units: how many of them each piece has (default: one).
    """

    name: str
    function: str
    pieces: Sequence[Mapping[str, Any]]
    unit: str = "pieces"
    units: Sequence[int] = ()

    def size(self, index: int) -> int:
        """How many units piece *index* has."""
        return self.units[index] if self.units else 1

    def header(self) -> dict[str, Any]:
        """What a record of this plan begins with."""
        return {
            "campaign": self.name,
            "function": self.function,
            "code": code_of(self.function),
            "pieces": len(self.pieces),
            "fingerprint": fingerprint(self.function, self.pieces),
            "version": __version__,
        }


@dataclass
class Report:
    """What became of a campaign."""

    results: dict[int, Any]
    """By index of the piece; what an earlier run had done included."""
    pieces: int
    resumed: int = 0
    """Results that were there before."""
    workers: int = 1
    seconds: float = 0.0
    interrupted: bool = False
    """Ctrl-C ended it."""
    stopped: bool = False
    """`stop` ended it."""
    order: list[int] = field(default_factory=list)
    """The pieces of this run as they ended."""

    @property
    def complete(self) -> bool:
        """Every piece has a result."""
        return len(self.results) == self.pieces


def run(
    plan: Plan,
    *,
    scheduler: str | None = None,
    workers: int = 0,
    file: str | Path | None = None,
    show: bool = True,
    note: Callable[[Any], str | None] | None = None,
    stop: Callable[[Any], bool] | None = None,
) -> Report:
    """Run what is left of *plan*; Ctrl-C returns what there is.

    Args:
        scheduler: address of a Dask scheduler; None: an embedded cluster.
        workers: processes of the embedded cluster (0: one a core). With one, the pieces run in this process.
        file: where results are kept. If it is there and of this plan, its pieces are not run again.
        show: progress on stderr. note: what to show beside it after a result (None: as before).
        stop: True for a result that ends the campaign.

    Raises:
        CampaignError: a piece failed, or there is no cluster. RecordError: *file* is something else.
    """
    record = Record(Path(file) if file else None, plan.header())
    try:
        return _run(plan, record, scheduler, workers, show, note or (lambda _: None), stop or (lambda _: False))
    finally:
        record.close()


def _run(
    plan: Plan,
    record: Record,
    scheduler: str | None,
    workers: int,
    show: bool,
    note: Callable[[Any], str | None],
    stop: Callable[[Any], bool],
) -> Report:
    left = [(index, piece) for index, piece in enumerate(plan.pieces) if index not in record.results]
    report = Report(record.results, len(plan.pieces), resumed=len(record.results))
    began = time.monotonic()
    total = sum(plan.size(index) for index in range(len(plan.pieces)))
    done = total - sum(plan.size(index) for index, _ in left)
    try:
        if left:
            pool = executor(plan.function, scheduler=scheduler, workers=workers, pieces=len(left))
            with Progress(plan.name, plan.unit, total, done, show=show) as progress, pool:
                report.workers = pool.workers
                for index, result in pool.results(left):
                    record.add(index, result)
                    report.order.append(index)
                    progress.advance(plan.size(index), note(result))
                    if stop(result):
                        report.stopped = True
                        break
    except KeyboardInterrupt:
        report.interrupted = True
    report.seconds = time.monotonic() - began
    return report
