"""The answers as Markdown. Sentences are fixed, every figure and every verdict is the evidence's.

Where a verdict decides a sentence (an obligation is enough, or is not), the sentence is chosen by it: if the protocol changes,
the text changes or says that the claim no longer holds.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from typing import Final

from unpinned.answers.evidence import INFORMATION, WORKLOADS_COMPARED, Evidence, served, total
from unpinned.check.explain import INVARIANTS
from unpinned.paging.causes import MEANINGS, Cause
from unpinned.study.charts import engineering
from unpinned.study.table import percent, short

WIDTH: Final = 120


def render(found: Evidence) -> str:
    """The whole page."""
    parts = [_head(found), _sleep(found), _delay(found), _refuse(found), _cause(found), _foot(found)]
    return "\n\n".join(_flow(part.strip()) for part in parts) + "\n"


def _flow(text: str) -> str:
    """Fill the paragraphs to one width; tables, headings and traces stay as they are."""
    made, code = [], False
    for block in text.split("\n\n"):
        plain = not code and not block.startswith(("|", "#", "---", "```"))
        code ^= block.count("```") % 2 == 1
        made.append(textwrap.fill(" ".join(block.split()), WIDTH, break_long_words=False, break_on_hyphens=False) if plain else block)
    return "\n\n".join(line.rstrip() for line in "\n\n".join(made).split("\n\n"))


def _table(head: Sequence[str], lines: Iterable[Sequence[object]]) -> str:
    made = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    made += ["| " + " | ".join(str(cell) for cell in line) + " |" for line in lines]
    return "\n".join(made)


def _verdict(found: Evidence, cause: str, verdict: str, mode: str = "exact") -> str:
    """SAFE, or what breaks and in how many steps."""
    answer = found.cells.get((cause, verdict, mode))
    if answer is None:
        return "-"
    worst = answer.worst
    if answer.verdict == "UNSAFE" and worst is not None:
        return f"**{worst.broke}** in {len(worst.path)} steps"
    return answer.verdict


def _is_safe(found: Evidence, cause: str, verdict: str, mode: str = "exact") -> bool:
    answer = found.cells.get((cause, verdict, mode))
    return answer is not None and answer.verdict == "SAFE"


def _names(causes: Iterable[str]) -> str:
    return ", ".join(causes) or "none"


def _head(found: Evidence) -> str:
    command = f"unpinned answers {'--quick ' if found.quick else ''}--out docs/answers.md"
    vm, alias = found.kinds["vm"], found.kinds["alias"]
    cure = "the same worlds are SAFE" if alias.verdict == "SAFE" else f"even there: {alias.line()}"
    remains = "nothing of it was found to break here"
    if vm.worst is not None and vm.verdict == "UNSAFE":
        remains = f"**{vm.worst.broke}** in {len(vm.worst.path)} steps (`{vm.cell.command}`)"
    return f"""
# The four questions

In 2011 an InfiniBand driver with pageable memory was proposed on linux-mm, and four questions were asked about MMU notifiers.
Here they are answered by exploring every interleaving of small worlds (`unpinned check`: {found.worlds:,} worlds,
{found.states:,} states) and by running workloads in virtual time (`unpinned study`), both with the step functions that run live.
This page is written by `{command}`: no figure in it was typed.

## What user space can and cannot do on Linux today

Linux tells user space *late*: `userfaultfd` raises UNMAP after the tear-down. A device that keeps translations of frames cannot
be made safe by any verdict then: {_names(f'{v} {_verdict(found, "UNMAP", v, "late")}' for v in ("NOW", "DEFER", "REFUSE_IF_BUSY"))}.
The shortest trace:

```
{found.late_trace.strip()}
```

The cure is not to use the application's mapping. Memory that is ours, and shared memory of the application, is reached through
a mapping of our own of the same object: {cure} ({len(alias.outcomes)} worlds, {alias.states:,} states;
`{alias.cell.command}`). Private memory of the application has no second mapping; there each copy goes through
`process_vm_readv/writev` at its own address, so it obeys the page tables of that very moment and never touches a frame that was
freed. What remains is a copy that lands in whatever the application has mapped at that address since: {remains}. The live device
counts these, and documents it.
"""


def _sleep(found: Evidence) -> str:
    asked = [cause for cause, verdict, mode in found.cells if (verdict, mode) == ("NOW", "unsleepable")]
    stuck = [name for name in asked if not _is_safe(found, name, "NOW", "unsleepable")]
    relieved = [name for name in stuck if _is_safe(found, name, "DEFER", "unsleepable")]
    worst = [found.cell(name, "NOW", "unsleepable").worst for name in stuck]
    broke = sorted({each.broke for each in worst if each is not None})
    again = [name for name in asked if name not in stuck]
    trapped = ""
    if stuck:
        trapped = f"For {_names(stuck)} the model finds a {' or '.join(broke) or 'violation'} all the same; deferral relieves"
        trapped += f" {_names(relieved)}: the callback returns at once and the frame is held."
    lines = [
        (engineering(ns / 1e3, "us"), engineering(zap["blocked_us_p50"], "us"), f"{percent(zap['blocked_share'])} %",
         short(zap["operations"]), f"{percent(batch['blocked_share'])} %", short(batch["operations"]), short(batch["held_max"]))
        for ns, zap, batch in found.flush_times
    ]  # fmt: skip
    limit = next((ns for ns, zap, _ in found.flush_times if zap["blocked_share"] > 0.1), None)
    last = max((ns for ns, zap, _ in found.flush_times if zap["blocked_share"] <= 0.1), default=None)
    between = "beyond what was tried"
    if limit:
        between = f"somewhere between {engineering((last or 0) / 1e3, 'us')} and {engineering(limit / 1e3, 'us')}"
    columns = ("flush takes", "zap-now waits", "of one CPU", "pages reclaimed", "batching: of one CPU", "pages reclaimed",
               "pages held, at most")  # fmt: skip
    return f"""
## 1. Are the callbacks sleepable?

They must be, unless the caller can come again. A callback that may not sleep and meets a busy device can only refuse or put off.
A refusal has to ask for the flush that it would have waited for; who comes again when that is over is let in. So done,
{_names(again)} are SAFE; otherwise it is a livelock, a cycle in which the caller comes again and again
(`unpinned check --mutant refusal-asks-for-no-flush`), as it also is with a device that never stops using the page. {trapped}

At which flush time is spinning no longer an option? Steady reclaim (256 MiB registered, a quarter of it too much), the device flushed
for every page (zap-now) against one flush for many (batching); the waiting daemon's share of a processor:

{_table(columns, lines)}

Spinning for every page costs more than a tenth of a processor {between}; and at 10 ms a page, reclaim itself all but stops. With
a hardware sync of tens of milliseconds the callback must sleep or, better, not wait at all.
"""


def _delay(found: Evidence) -> str:
    causes = [c for c in Cause if c is not Cause.UNKNOWN and (c.name, "DEFER", "exact") in found.cells]
    lines = [(c.name, _verdict(found, c.name, "DEFER"), MEANINGS[c].obligation) for c in causes]
    good = [c.name for c in causes if _is_safe(found, c.name, "DEFER")]
    bad = [c.name for c in causes if not _is_safe(found, c.name, "DEFER")]
    zap, batch = found.discard["zap-now"], found.discard["batching"]
    gain = zap["flushes"] / max(1, batch["flushes"])
    faster = zap["script_ms"] / max(1e-9, batch["script_ms"])
    unkept = found.unkept
    broken = "nothing breaks"
    if unkept:
        broken = f"**{unkept.broke}** after {len(unkept.path)} steps: {INVARIANTS.get(unkept.broke, unkept.message)}"
    wrong = {w: row["violations"] for w, row in found.blind.items() if row["violations"]}
    return f"""
## 2. Can invalidations be batched, or delayed?

For {_names(good)}: yes, under an obligation that the host keeps. For {_names(bad)}: never; no obligation helps, because something
new is visible at once.

{_table(("cause", "deferred", "the obligation"), lines)}

The fear of 2011, that a delay after an unmap gives bad results, is right exactly when the obligation is not kept. The same worlds with
a host that frees the frames at once: {broken}.

```
{found.unkept_trace.strip()}
```

What it gains: 1 GiB given back page by page ({zap['operation_pages']:,} pages; the rest is being read) takes
{zap['flushes']:,} flushes with zap-now and {batch['flushes']:,} with batching, {gain:,.0f} times fewer, in
{batch['script_ms']:,.0f} ms instead of {zap['script_ms']:,.0f} ms
({faster:.1f} times faster). At most {batch['held_max']:,} pages were held back, and no access was wrong in either
({zap['violations']} and {batch['violations']}). Batching without a look at the cause is refuted twice: above, and in virtual time
(wrong uses seen: {', '.join(f'{w} {n:,}' for w, n in wrong.items()) or 'none'}).
"""


def _refuse(found: Evidence) -> str:
    able = [c.name for c in Cause if MEANINGS[c].refusable]
    proved = [name for name in able if _is_safe(found, name, "REFUSE_IF_BUSY")]
    tried = [cause for cause, verdict, mode in found.cells if (verdict, mode) == ("REFUSE_IF_BUSY", "exact")]
    refuted = [name for name in tried if name not in able and not _is_safe(found, name, "REFUSE_IF_BUSY")]
    lines = []
    for (cause, profile), pair in found.refusal.items():
        waits = " → ".join(engineering(row["blocked_us_p99"], "us") for row in pair)
        faults = " → ".join(f"{row['faults']:,}" for row in pair)
        requests = " → ".join(short(row["requests_per_s"]) for row in pair)
        lines.append((cause, profile, f"{pair[1]['refused']:,} of {pair[1]['operations']:,}", waits, faults, requests))
    return f"""
## 3. Can an invalidation be refused, and what is the state of such a page?

The state is: as before. A refusal is decided before anything changes, no ticket is opened, and the page stays mapped, present
and with its owner; the model compares the device's whole block before and after (I10). It can exist where the host can leave the
page as it is:
{_names(proved)} are SAFE with it. Where the change happens anyway it is refuted:
{_names(f'{name} {_verdict(found, name, "REFUSE_IF_BUSY")}' for name in refuted)}.

What it saves, with a device that is busy nearly all the time (16 queue pairs, 256 KiB a request, single pages wanted; without → with):

{_table(("cause", "HCA", "refused", "the CPU side waits, p99", "faults", "requests a second"), lines)}
"""


def _cause(found: Evidence) -> str:
    rows = found.information
    lines = []
    for name, (what, _) in INFORMATION.items():
        each = [rows[name, w]["flushes"] / max(1, rows[name, w]["operations"]) for w in WORKLOADS_COMPARED]
        discard = rows[name, "discard"]
        lines.append(
            (what, short(total(rows, name, "flushes")), short(total(rows, name, "faults")), f"{sum(each) / len(each):.2f}",
             f"{served(rows, name, 'nothing', WORKLOADS_COMPARED):.2f}x", f"{rows[name, 'fork']['faults']:,}",
             f"{discard['flushes'] / max(1, discard['operations']):.4f}")
        )  # fmt: skip
    more = {name: served(rows, name, "nothing", WORKLOADS_COMPARED) for name in INFORMATION}
    fewer = {name: total(rows, "nothing", "flushes") / max(1.0, total(rows, name, "flushes")) for name in INFORMATION}
    wrong = int(sum(row["violations"] for row in rows.values()))
    columns = ("the driver is told", "flushes", "faults", "flushes an operation", "requests served", "faults, fork",
               "flushes a page, discard")  # fmt: skip
    return f"""
## 4. Should the notifier be told the cause, or be split in two?

The cause. The same host and device (aging, two-phase waits, an `inline` HCA), told more and more, over {len(WORKLOADS_COMPARED)}
workloads
({', '.join(WORKLOADS_COMPARED)}):

{_table(columns, lines)}

Each half alone gains one half. What Linux passes today, if a driver read it, lets a fork be a downgrade
({more['linux']:.2f} times the requests), but CLEAR lumps discard and reclaim, which can wait, with copy-on-write and migration,
which cannot; so nothing of it can be batched ({fewer['linux']:.1f} times fewer flushes). Two classes batch those
({fewer['two']:.0f} times fewer flushes), but know no downgrade and
no refusal: {more['two']:.2f} times the requests. The cause gives both: {more['cause']:.2f} times the requests,
{fewer['cause']:.0f} times fewer
flushes. Wrong accesses in all of these runs: {wrong}.
"""


def _foot(found: Evidence) -> str:
    named = "; ".join(f"{name}, {what}" for name, what in INVARIANTS.items() if name in ("I1", "I2", "I3", "I4", "I10"))
    reach = "the smallest worlds of each cause" if found.quick else "all worlds of each cause"
    return f"""
---

Explored: {reach}, to exhaustion where a cell says SAFE. Invariants: {named}.
Study: a page-level model of the host over the real paging steps; times from the profiles in `src/unpinned/study/profiles.py`, each with
its source. See one yourself: `unpinned check --cause UNMAP --verdict NOW --mode late`, `unpinned study --html report.html`.
"""
