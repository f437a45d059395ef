"""What the terminal shows while the demo runs: a few lines that change, or a line a second where nobody is looking."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Any

from unpinned.demo.units import bytes_text, cause_names

if TYPE_CHECKING:
    from unpinned.demo.recorder import Recorder

PLAIN_S = 1.0


class Display:
    """Writes to stderr. Use as a context manager."""

    def __init__(self) -> None:
        self.phase = ""
        self._live: Any = None
        self._said = 0.0

    def __enter__(self) -> Display:
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.live import Live

            self._live = Live(console=Console(stderr=True), auto_refresh=False, transient=True)
            self._live.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        if self._live is not None:
            self._live.__exit__(kind, value, trace)

    def begin(self, phase: str) -> None:
        """A phase begins."""
        self.phase = phase
        self._said = 0.0
        if self._live is None:
            print(f"{'':9}{phase}", file=sys.stderr, flush=True)
        if self._live is not None:
            self._live.update(phase, refresh=True)

    def show(self, recorder: Recorder) -> None:
        """A sample was taken."""
        if self._live is not None:
            self._live.update(self._lines(recorder), refresh=True)
        elif time.monotonic() - self._said >= PLAIN_S:
            self._said = time.monotonic()
            print(self._line(recorder), file=sys.stderr, flush=True)

    def _line(self, recorder: Recorder) -> str:
        ledger = recorder.ledger
        return (
            f"{recorder.times[-1]:5.1f} s  {recorder.rate[-1]:5.2f} GB/s  {ledger['faults']:>7,} faults  "
            f"{sum(ledger.invalidations()):>5,} invalidations  {bytes_text(_resident(recorder)):>8}  {self.phase}"
        )

    def _lines(self, recorder: Recorder) -> Any:
        from rich.table import Table

        ledger = recorder.ledger
        causes = ", ".join(f"{name} {count:,}" for name, count in cause_names(ledger.invalidations()).items())
        errors = ledger["stale_reads"], ledger["stray_writes"] + ledger["late_writes"]
        grid = Table.grid(padding=(0, 2))
        grid.add_column(style="dim", justify="right")
        grid.add_column()
        grid.add_row(f"{recorder.times[-1]:.1f} s", f"[bold]{self.phase}[/]")
        grid.add_row("wire", f"[bold blue]{recorder.rate[-1]:5.2f} GB/s[/]  {_bar(recorder.rate)}")
        grid.add_row("faults", f"{ledger['faults']:,}  ({recorder.faults[-1]:,.0f} a second)")
        grid.add_row("invalidations", causes or "none yet")
        grid.add_row("memory", f"{bytes_text(_resident(recorder))} resident of {bytes_text(recorder.registered[-1])} "
                     f"registered, {recorder.locked_max_bytes} locked")  # fmt: skip
        color = "red bold" if any(errors) else "green"
        grid.add_row("checked", f"{bytes_text(ledger['bytes_verified'])}  [{color}]{errors[0]} stale, {errors[1]} stray[/]")
        return grid


def _resident(recorder: Recorder) -> int:
    return int(sum(values[-1] for values in recorder.resident.values()))


def _bar(values: list[float]) -> str:
    """The last few seconds, as a row of blocks."""
    recent = values[-40:]
    most = max([*recent, 1e-9])
    return "".join(" ▁▂▃▄▅▆▇█"[min(int(8 * value / most + 0.5), 8)] for value in recent)
