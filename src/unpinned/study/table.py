"""The sweep as tables of less than 80 columns: one for each workload and profile, a line a policy."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

from unpinned.study import layout as S
from unpinned.study.policies import StudyPolicy

Row = dict[str, Any]

WIDTH: Final = 79


def short(value: float) -> str:
    """A number in at most five characters.

    >>> [short(v) for v in (0, 0.3, 4.384, 99.96, 131.2, 2572.3, 262144, 20e6)]
    ['0', '0.3', '4.4', '100', '131', '2.6k', '262k', '20M']
    """
    if value == 0:
        return "0"
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k"), (0, "")):
        if abs(value) >= limit * 0.9995:
            scaled = value / limit if limit else value
            text = f"{scaled:.1f}" if abs(scaled) < 9.95 or (not unit and abs(scaled) < 99.95) else f"{scaled:.0f}"
            return text.removesuffix(".0") + unit
    return ""


def percent(share: float) -> str:
    """A share of one, in per cent, in at most five characters."""
    return f"{100 * share:.1f}" if abs(share) < 0.9995 else f"{100 * share:.0f}"


def megabytes(pages: float) -> str:
    """Pages as MB, in at most five characters."""
    return short(pages * S.PAGE / 1e6)


#: heading (two lines), what a row says, unit explained below the table
COLUMNS: Final[tuple[tuple[str, str, Any], ...]] = (
    ("CPU", "p50", lambda r: short(r["blocked_us_p50"])),
    ("waits", "p99", lambda r: short(r["blocked_us_p99"])),
    ("QP", "stall", lambda r: percent(r["stall_share"])),
    ("peer", "p50", lambda r: short(r["latency_us_p50"])),
    ("sees", "p99", lambda r: short(r["latency_us_p99"])),
    ("us", "p99.9", lambda r: short(r["latency_us_p999"])),
    ("flu-", "shes", lambda r: short(r["flushes"])),
    ("", "fault", lambda r: short(r["faults"])),
    ("held", "MB", lambda r: megabytes(r["held_max"])),
    ("mem", "saved", lambda r: percent(r["saved_share"])),
    ("", "wrong", lambda r: short(r["violations"]) if r["violations"] else "-"),
)

LEGEND: Final = (
    "CPU waits: one operation for its devices, us. QP stall: share of time that requests waited for a page, %. "
    "held: most memory kept back for a flush. mem saved: against pinning it all, %. wrong: uses of memory that the "
    "device had no right to any more."
)


def groups(rows: Sequence[Row]) -> Iterator[tuple[tuple[str, str], list[Row]]]:
    """Rows of one workload and profile, in the order in which they came."""
    found: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        found.setdefault((row["workload"], row["profile"]), []).append(row)
    yield from found.items()


def render(rows: Sequence[Row], policies: Sequence[StudyPolicy]) -> str:
    """All tables as text, and which of the policies are unsafe."""
    import io

    from rich import box
    from rich.console import Console
    from rich.table import Table

    out = io.StringIO()
    console = Console(file=out, width=WIDTH, highlight=False, emoji=False)
    for (workload, profile), some in groups(rows):
        table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=0, title=f"{workload}, {profile}", title_justify="left")
        table.add_column("\npolicy", width=9, no_wrap=True)
        for above, below, _ in COLUMNS:
            table.add_column(f"{above}\n{below}", justify="right", no_wrap=True, min_width=5)
        for row in some:
            table.add_row(row["policy"], *(say(row) for _, _, say in COLUMNS))
        console.print(table)
    console.print(LEGEND)
    for policy in policies:
        if causes := policy.table.unsafe():
            names = ", ".join(cause.name for cause in causes)
            console.print(f"{policy.name} is UNSAFE, whatever was seen: {names} may not be answered so.", markup=False)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines()) + "\n"
