"""The sweep as one self-contained page: what matters first, then each workload with its plots, then every figure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import fields
from html import escape
from pathlib import Path
from typing import Any, Final

from unpinned.study import charts
from unpinned.study import layout as S
from unpinned.study.policies import StudyPolicy
from unpinned.study.profiles import Profile
from unpinned.study.table import COLUMNS, LEGEND, groups, percent, short

Row = dict[str, Any]

COLORS: Final = {"pin": "pin", "zap-now": "zap", "by-cause": "cause", "batching": "batch", "blind": "blind"}

USERS: Final = 6  #: so many policies of the user's have colours of their own; every mark has its policy's name besides

STYLE: Final = """
:root{--bg:#fff;--fg:#1c2230;--dim:#667085;--line:#e4e7ec;--card:#f8f9fb;--bad:#b42318;
--pin:#7b8794;--zap:#d1495b;--cause:#2e86ab;--batch:#0b7a4b;--blind:#b8860b;
--user0:#7a4fbf;--user1:#e0642f;--user2:#00838f;--user3:#c2379b;--user4:#6b5b3e;--user5:#3949ab}
@media(prefers-color-scheme:dark){:root{--bg:#14171f;--fg:#e6e9ef;--dim:#98a2b3;--line:#2b303b;--card:#1b1f29;--bad:#ff8a80;
--pin:#98a2b3;--zap:#ff7f8e;--cause:#6cc3e8;--batch:#4fd39a;--blind:#e8c15a;
--user0:#b99cf0;--user1:#ff9a6b;--user2:#4dd0e1;--user3:#f48fd0;--user4:#cbb58c;--user5:#9fa8ff}}
*{box-sizing:border-box}body{background:var(--bg);color:var(--fg);font:15px/1.5 system-ui,sans-serif;margin:0 auto;
max-width:1120px;padding:28px 24px 60px}h1{font-size:26px;margin:0 0 4px}h2{font-size:19px;margin:44px 0 4px;
border-top:1px solid var(--line);padding-top:24px}p{max-width:76ch;margin:6px 0}.dim{color:var(--dim)}code{font-size:13px}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(195px,1fr));gap:12px;margin:20px 0}
.card{background:var(--card);border:1px solid var(--line);border-radius:8px;padding:14px 16px}
.card b{display:block;font-size:20px;line-height:1.25}.card span{color:var(--dim);font-size:13px;display:block}
.plots{display:flex;flex-wrap:wrap;gap:14px 22px;margin-top:14px}svg{max-width:100%;height:auto}
.two{display:grid;grid-template-columns:repeat(auto-fit,minmax(380px,1fr));gap:8px 32px}ul{list-style:none;margin:4px 0;
padding:0;font-size:14px}li i{display:inline-block;width:10px;height:10px;border-radius:5px;margin-right:8px;
background:currentColor}h3{font-size:14px;margin:22px 0 2px}
.heat td{background:color-mix(in srgb,var(--zap) calc(var(--h)*75%),transparent);text-align:center;padding:5px 4px;min-width:40px;
border:1px solid var(--bg)}.heat th{text-align:center;border:0}.heat th[colspan]{border-left:8px solid var(--bg)}
.heat .name span{writing-mode:vertical-rl;transform:rotate(180deg);font-weight:500}.heat th:first-child{text-align:right}
text{fill:var(--fg);font:11px system-ui,sans-serif}.chart-title{font-size:13px;font-weight:600}.tick{fill:var(--dim);font-size:10px}
.band{fill:var(--dim);font-size:11px;font-weight:600}.axis{fill:var(--dim)}.grid{stroke:var(--line);stroke-width:1}
.label{font-size:11px}.flag{fill:var(--bad);font-size:10px;font-weight:600}.link{stroke:currentColor;stroke-width:2.5;opacity:.45}
.dot,.end,.point{fill:currentColor}.ring{fill:var(--bg);stroke:currentColor;stroke-width:1.8}.mark.none{opacity:.35}
.mark:hover .link{opacity:1}.point{opacity:.85}.mark text.label{fill:var(--fg)}
.c-pin{color:var(--pin)}.c-zap{color:var(--zap)}.c-cause{color:var(--cause)}.c-batch{color:var(--batch)}.c-blind{color:var(--blind)}
.c-user0{color:var(--user0)}.c-user1{color:var(--user1)}.c-user2{color:var(--user2)}.c-user3{color:var(--user3)}
.c-user4{color:var(--user4)}.c-user5{color:var(--user5)}
table{border-collapse:collapse;font-size:13px;margin-top:12px;width:100%}th,td{padding:3px 8px;
text-align:right;border-bottom:1px solid var(--line);white-space:nowrap}th{color:var(--dim);font-weight:600;vertical-align:bottom}
td:first-child,th:first-child{text-align:left}.bad{color:var(--bad);font-weight:600}details{margin-top:10px}summary{cursor:pointer}
.scroll{overflow-x:auto}
"""


def colors(policies: Sequence[str]) -> dict[str, str]:
    """The class of each policy's marks: its own, or one of the user's in the order of `policies`."""
    users = [name for name in dict.fromkeys(policies) if name not in COLORS]
    return COLORS | {name: f"user{i % USERS}" for i, name in enumerate(users)}


def write(
    rows: Sequence[Row], path: str | Path, command: str, policies: Sequence[StudyPolicy], hcas: Sequence[Profile]
) -> None:
    """Write the page. ValueError when there are no runs to show."""
    Path(path).write_text(page(rows, command, policies, hcas))


def page(rows: Sequence[Row], command: str, policies: Sequence[StudyPolicy], hcas: Sequence[Profile]) -> str:
    """The whole page as text: of these runs, with what was compared in them."""
    if not rows:
        raise ValueError("a report of no runs")
    merged = merge(rows)
    tints = colors([*(each.name for each in policies), *(row["policy"] for row in merged)])
    for row in merged:
        row["color"] = tints[row["policy"]]
    body = [_head(merged, rows, command), _cards(merged), _legend(policies, hcas, tints), _trade(merged)]
    for workload in dict.fromkeys(row["workload"] for row in merged):
        body.append(_workload(workload, [row for row in merged if row["workload"] == workload]))
    body.append(_method(rows, command, policies, hcas))
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>What a policy costs</title><style>{STYLE}</style><body>{''.join(body)}</body></html>\n"
    )


def merge(rows: Sequence[Row]) -> list[Row]:
    """Repetitions of one kind (other seeds) become their median; violations add up."""
    from statistics import median

    kinds: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        kinds.setdefault((row["workload"], row["profile"], row["policy"]), []).append(row)
    made = []
    for some in kinds.values():
        row = dict(some[0])
        for name, value in row.items():
            if isinstance(value, (int, float)) and name not in ("seed", "pages", "devices"):
                values = [each[name] for each in some]
                row[name] = sum(values) if name.startswith("violations") else median(values)
        made.append(row)
    return made


def _head(merged: Sequence[Row], rows: Sequence[Row], command: str) -> str:
    first = rows[0]
    size = _size(first["pages"] * S.PAGE)
    return (
        "<h1>What a policy costs</h1>"
        f'<p class="dim">{len(rows)} runs in virtual time: {size} registered, {first["devices"]} HCA'
        f"{'s' if first['devices'] > 1 else ''}, up to {first['virtual_ms']:.0f} ms each. <code>{escape(command)}</code></p>"
        "<p>An RDMA device uses memory that the kernel takes away again. A policy says what happens then, by cause. Here each "
        "one meets each workload on several kinds of HCA, with the step functions that run live.</p>"
    )


def _size(count: int) -> str:
    """Bytes, as --memory takes them."""
    unit, name = (1 << 30, "GiB") if count >= 1 << 30 else (1 << 20, "MiB") if count >= 1 << 20 else (1 << 10, "KiB")
    return f"{count / unit:.4g} {name}"


def _find(rows: Sequence[Row], **want: str) -> Row | None:
    return next((row for row in rows if all(row[name] == value for name, value in want.items())), None)


def _cards(rows: Sequence[Row]) -> str:
    """The few figures that a reader takes along, as far as their runs were made."""
    made = []

    def both(workload: str, policy: str) -> tuple[Row, Row] | None:
        for profile in ("firmware", *dict.fromkeys(row["profile"] for row in rows)):
            a = _find(rows, workload=workload, profile=profile, policy="zap-now")
            b = _find(rows, workload=workload, profile=profile, policy=policy)
            if a and b:
                return a, b
        return None

    if (pair := both("discard", "batching")) and pair[1]["flushes"]:
        per_page = [row["flushes"] / max(1, row["operation_pages"]) for row in pair]
        gain = f"{short(per_page[0] / per_page[1])}x fewer flushes"
        made.append((gain, f"page-wise discard, batching against zap-now ({pair[0]['profile']})"))
    if pair := both("fork", "by-cause"):
        faults, p99 = ([short(row[name]) for row in pair] for name in ("faults", "latency_us_p99"))
        made.append((" → ".join(faults) + " faults", f"fork server: a downgrade keeps what is read ({pair[0]['profile']})"))
        made.append((" → ".join(p99) + " us", "what a peer of the fork server sees, p99"))
    slow = _find(rows, workload="discard", profile="mailing-list", policy="zap-now")
    if slow:
        waits = charts.engineering(slow["blocked_us_p50"], "us")
        made.append((f"{waits} a page", "what madvise waits with a hardware sync of 20 ms, zap-now"))
    wrong = sum(row["violations"] for row in rows if row["policy"] == "blind")
    safe = sum(row["violations"] for row in rows if row["policy"] != "blind")
    if any(row["policy"] == "blind" for row in rows):
        made.append((f"{short(wrong)} wrong uses", f"blind batching; all other policies together: {short(safe)}"))
    cards = "".join(f'<div class="card"><b>{escape(b)}</b><span>{escape(text)}</span></div>' for b, text in made)
    return f'<div class="cards">{cards}</div>' if cards else ""


def _legend(policies: Sequence[StudyPolicy], hcas: Sequence[Profile], tints: dict[str, str]) -> str:
    items = []
    for policy in policies:
        unsafe = " <b class=bad>unsafe</b>" if policy.unsafe else ""
        name = f'<i class="c-{tints[policy.name]}"></i><b>{escape(policy.name)}</b>'
        items.append(f"<li>{name}{unsafe} {escape(policy.title)}</li>")
    hca = "".join(f"<li><b>{escape(each.name)}</b> {escape(each.title)}</li>" for each in hcas)
    return f'<div class="two"><div><h3>Policies</h3><ul>{"".join(items)}</ul></div><div><h3>HCAs</h3><ul>{hca}</ul></div></div>'


def _trade(rows: Sequence[Row]) -> str:
    """Every run at a glance: speed against pinning, and what an operation of the CPU side waits."""
    speed: list[tuple[Row, float, str, str]] = []
    wait: list[tuple[Row, float, str, str]] = []
    for row in rows:
        pinned = _find(rows, workload=row["workload"], profile=row["profile"], policy="pin")
        if pinned and pinned["requests_per_s"] and row["policy"] != "pin":
            kept = min(1.0, row["requests_per_s"] / pinned["requests_per_s"])
            saved = f"memory saved {percent(row['saved_share'])} %"
            speed.append((row, 1.0 - kept, f"{100 * kept:.0f}", f"{100 * kept:.1f} % of pinned speed, {saved}"))
        if row["operations"] and row["policy"] != "pin":
            waits = row["blocked_us_p99"]
            heat = min(1.0, max(0.0, math.log10(max(waits, 0.1) / 0.1) / 5.5))
            wait.append((row, heat, short(waits), f"an operation waits {charts.engineering(waits, 'us')} (p99)"))
    titles = ("Requests served, % of what pinned memory serves", "What an operation of the CPU side waits, us (p99)")
    return "".join(_matrix(cells, title) for cells, title in zip((speed, wait), titles) if cells)


def _matrix(cells: Sequence[tuple[Row, float, str, str]], title: str) -> str:
    """A line a workload, a column an HCA and policy; the darker, the more it costs."""
    hcas = list(dict.fromkeys(row["profile"] for row, *_ in cells))
    names = list(dict.fromkeys(row["policy"] for row, *_ in cells))
    found = {(row["workload"], row["profile"], row["policy"]): rest for row, *rest in cells}
    top = "".join(f"<th colspan={len(names)}>{escape(hca)}</th>" for hca in hcas)
    tints = {row["policy"]: row["color"] for row, *_ in cells}
    second = "".join(f'<th class="c-{tints[name]} name"><span>{escape(name)}</span></th>' for _ in hcas for name in names)
    lines = []
    for workload in dict.fromkeys(row["workload"] for row, *_ in cells):
        tds = []
        for hca in hcas:
            for name in names:
                heat, text, what = found.get((workload, hca, name), (0.0, "", ""))
                tip = escape(f"{workload}, {hca}, {name}: {what}", quote=True)
                tds.append(f'<td title="{tip}" style="--h:{heat:.2f}">{escape(str(text))}</td>')
        lines.append(f"<tr><th>{escape(workload)}</th>{''.join(tds)}</tr>")
    return (
        f'<h3>{escape(title)}</h3><div class="scroll"><table class="heat"><tr><th></th>{top}</tr>'
        f"<tr><th></th>{second}</tr>{''.join(lines)}</table></div>"
    )


#: title, figures of a line, their names, unit
PLOTS: Final[tuple[tuple[str, tuple[str, ...], tuple[str, ...], str], ...]] = (
    ("An operation of the CPU side waits", ("blocked_us_p50", "blocked_us_p99", "blocked_us_max"), ("p50", "p99", "max"), "us"),
    ("A request of the peer takes", ("latency_us_p50", "latency_us_p99", "latency_us_p999"), ("p50", "p99", "p99.9"), "us"),
    ("Flushes (dot) and faults (bar)", ("flushes", "faults"), ("flushes", "faults"), ""),
)


def _plot(rows: Sequence[Row], title: str, figures: Sequence[str], names: Sequence[str], unit: str) -> str:
    bands = []
    for profile in dict.fromkeys(row["profile"] for row in rows):
        band = charts.Band(profile)
        for row in rows:
            if row["profile"] == profile:
                wrong = f"{short(row['violations'])} wrong" if row["violations"] and "latency" in figures[0] else ""
                values = [row[name] for name in figures]
                band.lines.append(charts.Line(row["policy"], row["color"], values, names, wrong))
        bands.append(band)
    return charts.range_chart(bands, title=title, unit=unit)


def _workload(name: str, rows: Sequence[Row]) -> str:
    plots = "".join(_plot(rows, *plot) for plot in PLOTS)
    head = "".join(f"<th>{escape(above)}<br>{escape(below)}</th>" for above, below, _ in COLUMNS)
    lines = []
    for (_, profile), some in groups(rows):
        for row in some:
            cells = "".join(f"<td>{escape(say(row))}</td>" for *_, say in COLUMNS)
            bad = ' class="bad"' if row["violations"] else ""
            lines.append(f"<tr{bad}><td>{escape(profile)}, {escape(row['policy'])}</td>{cells}</tr>")
    table = f'<div class="scroll"><table><tr><th>HCA, policy</th>{head}</tr>{"".join(lines)}</table></div>'
    return (
        f"<h2>{escape(name)}</h2><p>{escape(rows[0]['title'])}</p>"
        f'<div class="plots">{plots}</div><details><summary>All figures of {escape(name)}</summary>{table}</details>'
    )


def _times(hcas: Sequence[Profile]) -> str:
    """What each HCA was taken to be, so that the page can be judged without the files."""
    names = [field.name for field in fields(Profile) if field.name not in ("name", "title")]
    head = "".join(f"<th>{escape(hca.name)}</th>" for hca in hcas)
    lines = "".join(
        f"<tr><td>{name}</td>{''.join(f'<td>{_figure(getattr(hca, name))}</td>' for hca in hcas)}</tr>" for name in names
    )
    return (
        "<details><summary>All figures of the HCAs (times in ns)</summary>"
        f'<div class="scroll"><table><tr><th></th>{head}</tr>{lines}</table></div></details>'
    )


def _figure(value: int | bool) -> str:
    return str(value).lower() if isinstance(value, bool) else f"{value:,}"


def _method(rows: Sequence[Row], command: str, policies: Sequence[StudyPolicy], hcas: Sequence[Profile]) -> str:
    unsafe = "".join(
        f"<p><b>{escape(policy.name)}</b> is unsafe. {escape(policy.unsafe)}.</p>"
        for policy in policies
        if policy.unsafe
    )
    errors = percent(max(row["errors"] / max(1, row["requests"]) for row in rows))
    return (
        "<h2>How to read this</h2>"
        f"<p>{escape(LEGEND)}</p>"
        "<p>Dot: median. Ring: 99 % are below. Bar: 99.9 % (or the largest). A faint mark at the left edge is zero. Axes are "
        "logarithmic. Point at a mark for its figures.</p>"
        "<p>Real: page table, faults, invalidations, deferral, flush bookkeeping (the live step functions). Modelled: the kernel's "
        "pages and frames, reclaim by second chance, the HCA's translation cache, flush engine and fault service, all times. A "
        "wrong use is caught in the act: every frame has an owner, and every access of the device is checked against it.</p>"
        f"{unsafe}<p>Requests over memory that its owner had unmapped at that moment end in an error (at most {errors} % in one run) "
        "and are in no latency.</p>"
        f"{_times(hcas)}"
        f'<p class="dim">Made by <code>{escape(command)}</code></p>'
    )
