"""How far a campaign is, on stderr: a bar for a terminal, a line now and then for a log."""

from __future__ import annotations

import sys
import time
from typing import Any

LINE_SECONDS = 15


class Progress:
    """A count that grows to *total*; ``note`` is shown beside it (the latest find, say)."""

    def __init__(self, label: str, unit: str, total: int, done: int = 0, *, show: bool = True) -> None:
        self._label, self._unit, self._total = label, unit, total
        self._first = self._done = done
        self._note = ""
        self._bar: Any = None
        self._show = show
        self._began = self._said = time.monotonic()

    def __enter__(self) -> Progress:
        if self._show and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            columns = (
                TextColumn("{task.description}"), BarColumn(None), MofNCompleteColumn(), TextColumn("{task.fields[note]}"),
                TimeElapsedColumn(), TimeRemainingColumn(),
            )  # fmt: skip
            self._bar = Bar(*columns, console=Console(stderr=True), transient=True)
            self._task = self._bar.add_task(self._label, total=self._total, completed=self._done, note="")
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def advance(self, units: int, note: str | None = None) -> None:
        """So many more are done."""
        self._done += units
        self._note = self._note if note is None else note
        if self._bar is not None:
            self._bar.update(self._task, advance=units, note=self._note)
        elif self._show and time.monotonic() - self._said >= LINE_SECONDS:
            self._said = time.monotonic()
            print(self.line(), file=sys.stderr, flush=True)

    def line(self) -> str:
        """One line that says it all."""
        rate = (self._done - self._first) / max(1e-9, time.monotonic() - self._began)
        text = f"{self._label}: {self._done:,} of {self._total:,} {self._unit}, {rate:,.0f} a second"
        return f"{text}; {self._note}" if self._note else text
