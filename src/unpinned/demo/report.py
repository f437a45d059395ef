"""What is left of a run: the document of ``--json``, the table, and the story for the picture."""

from __future__ import annotations

import os
import platform
from typing import Any

from unpinned import __version__
from unpinned.demo.conductor import Outcome
from unpinned.demo.picture import Story
from unpinned.demo.recorder import Recorder
from unpinned.demo.units import CAUSES, bytes_text

FOREIGN = (
    "Foreign private memory replaced under fire: Linux reports an unmap after the fact, so a copy under way may land in "
    "what replaced it. `unpinned.empty`, shared memory and files are reached through mappings of our own."
)


def document(outcome: Outcome, recorder: Recorder, file_changed: bool) -> dict[str, Any]:
    """Everything that was found, as plain numbers."""
    counters, latency, check = outcome.counters, outcome.latency, outcome.check
    problems = outcome.account["complaints"] + check["problems"]
    notes = list(check["notes"])
    if file_changed:
        notes.append("the file was changed by somebody else during the run: differences in it may come from that")
    return {
        "bytes_verified": counters["bytes_verified"] + check["bytes_verified"],
        "bytes_delivered": counters["bytes_delivered"],
        "stale_reads": counters["stale_reads"],
        "stray_writes": counters["stray_writes"] + counters["late_writes"],
        "stray_writes_foreign": counters["stray_writes_foreign"],
        "stale_reads_foreign": counters["stale_reads_foreign"],
        "wrong_adds": counters["wrong_adds"],
        "access_errors": counters["access_errors"],
        "other_errors": counters["other_errors"],
        "reads": counters["reads"],
        "gathered_rows": counters["gathered_rows"],
        "writes": counters["writes"],
        "adds": counters["adds"],
        "faults": counters["faults"],
        "pages_in": counters["pages_in"],
        "invalidations": dict(zip(CAUSES, outcome.invalidations)),
        "flushes": counters["flushes"],
        "regions_bytes": outcome.served["regions_bytes"],
        "served_bytes": outcome.served["served_bytes"],
        "reserved_bytes": outcome.served["reserved_bytes"],
        "resident_bytes_max": counters["resident_max_bytes"],
        "locked_bytes": recorder.locked_max_bytes,
        "register_us": round(outcome.served["register_us"], 1),
        "read_gbps_quiet": round(outcome.gbps["quiet"], 3),
        "read_gbps_hog": round(outcome.gbps["hog"], 3),
        "read_gbps_owner_spinning": round(outcome.gbps["owner_spinning"], 3),
        "fault_us_p50": round(latency["fault"]["p50"], 1),
        "fault_us_p99": round(latency["fault"]["p99"], 1),
        "hot_us_p50": round(latency["hot"]["p50"], 1),
        "hot_us_p99": round(latency["hot"]["p99"], 1),
        "actions": {name: len(moments) for name, moments in recorder.actions.items()},
        "ranges_taken_away": outcome.storm["ranges"],
        "wire_after_s": round(recorder.wire_after_s, 2),
        "seconds": round(recorder.times[-1], 1) if recorder.times else 0.0,
        "problems": problems,
        "notes": notes,
    }


def failed(found: dict[str, Any]) -> bool:
    """Did anything happen that must not?"""
    counts = ("stale_reads", "stray_writes", "wrong_adds", "other_errors", "locked_bytes")
    return any(found[name] for name in counts) or bool(found["problems"] and not only_foreign(found))


def only_foreign(found: dict[str, Any]) -> bool:
    """Are all problems of the kind that is counted apart?"""
    return all("(foreign)" in problem for problem in found["problems"])


def rows(found: dict[str, Any]) -> list[tuple[str, str]]:
    """The table, as (what, how much); an empty pair is a line between."""
    invalidations = ", ".join(f"{name} {count:,}" for name, count in found["invalidations"].items() if count)
    deeds = ", ".join(f"{name} {count}" for name, count in found["actions"].items() if count)
    added = found["fault_us_p50"] - found["hot_us_p50"]
    return [
        ("checked, byte by byte", bytes_text(found["bytes_verified"])),
        ("stale reads", f"{found['stale_reads']}"),
        ("stray writes", f"{found['stray_writes']}"),
        ("… into foreign private memory", f"{found['stray_writes_foreign']}  (see below)"),
        ("refused, the range being gone", f"{found['access_errors']:,} Remote Access Errors"),
        ("", ""),
        ("the owner did", deeds),
        ("page faults of the device", f"{found['faults']:,}, {found['pages_in']:,} pages"),
        ("invalidations", invalidations or "none"),
        ("", ""),
        ("served", f"{bytes_text(found['served_bytes'])} and {bytes_text(found['reserved_bytes'])} of untouched addresses"),
        ("… registered in", f"{found['register_us'] / 1000:.2f} ms (the untouched part)"),
        ("… resident at most, locked", f"{bytes_text(found['resident_bytes_max'])}, {bytes_text(found['locked_bytes'])}"),
        ("", ""),
        ("READ, hot", f"{found['read_gbps_quiet']:.2f} GB/s"),
        ("… beside a process that spins", f"{found['read_gbps_hog']:.2f} GB/s"),
        ("… the owner's Python spinning", f"{found['read_gbps_owner_spinning']:.2f} GB/s"),
        ("READ of 4 KiB, hot", f"{found['hot_us_p50']:.0f} us, p99 {found['hot_us_p99']:.0f} us"),
        ("… of a page never touched", f"{found['fault_us_p50']:.0f} us, p99 {found['fault_us_p99']:.0f} us "
         f"(the fault adds {added:.0f} us)"),
    ]  # fmt: skip


def show(found: dict[str, Any], picture: str) -> None:
    """Print the table and where the picture is, on stdout."""
    from rich.console import Console
    from rich.table import Table

    console = Console(width=79, highlight=False)
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", justify="left", min_width=30)
    table.add_column(overflow="fold")
    for what, value in rows(found):
        judged = {"stale reads": found["stale_reads"], "stray writes": found["stray_writes"]}.get(what)
        table.add_row(what, value if judged is None else f"[bold {'red' if judged else 'green'}]{value}[/]")
    console.print()
    console.print(table)
    console.print()
    console.print(FOREIGN, style="dim")
    for note in found["notes"]:
        console.print(f"Note: {note}.", style="dim")
    for problem in found["problems"]:
        apart = "(foreign)" in problem
        console.print(f"{'Counted apart' if apart else 'WRONG'}: {problem}", style="dim" if apart else "red")
    if picture:
        console.print(f"\npicture: {picture}", soft_wrap=True)


def story(found: dict[str, Any], recorder: Recorder) -> Story:
    """The picture's text and curves."""
    title = f"{bytes_text(found['bytes_verified'])} moved and checked while the owner pulled the memory about: "
    errors = f"{found['stale_reads']} stale reads, {found['stray_writes']} stray writes"
    subtitle = (
        f"{bytes_text(found['served_bytes'])} served, and {bytes_text(found['reserved_bytes'])} of untouched addresses "
        f"registered in {found['register_us'] / 1000:.2f} ms; {bytes_text(found['locked_bytes'])} locked; "
        f"{found['faults']:,} page faults; "
        f"{sum(found['invalidations'].values()):,} invalidations; {found['access_errors']:,} accesses refused"
    )
    cores = len(os.sched_getaffinity(0))
    footer = f"unpinned {__version__}  ·  Linux {platform.release()}, {platform.machine()}, {cores} cores  ·  unpinned demo"
    locked = f"locked: {bytes_text(found['locked_bytes'])}"
    return Story(title + errors, subtitle, footer, locked, recorder.times, recorder.rate, recorder.pages, recorder.resident,
                 recorder.registered, recorder.phases, recorder.actions)  # fmt: skip
