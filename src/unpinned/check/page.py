"""A trace as one HTML file: the diagram, the steps as a table, the world, and the command that runs it again.

Nothing is loaded from elsewhere, so the file can be kept, mailed and opened without a network.
"""

from __future__ import annotations

from html import escape

from unpinned.check.diagram import svg
from unpinned.check.trace import Trace

STYLE = """
body { margin: 0; background: #f1f5f9; color: #1f2937;
       font: 15px/1.5 ui-sans-serif, Inter, "Segoe UI", "Helvetica Neue", Arial, sans-serif; }
main { max-width: 1240px; margin: 0 auto; padding: 36px 28px 60px; }
h1 { font-size: 24px; margin: 0 0 6px; letter-spacing: -.01em; }
h2 { font-size: 15px; margin: 34px 0 10px; color: #475569; text-transform: uppercase; letter-spacing: .06em; }
.verdict { display: inline-block; background: #b91c1c; color: #fff; border-radius: 6px; padding: 1px 9px; font-weight: 600; }
.reason { max-width: 78ch; color: #374151; }
.card { background: #fff; border: 1px solid #e2e8f0; border-radius: 10px; padding: 10px; overflow-x: auto;
        box-shadow: 0 1px 2px rgba(15,23,42,.05); }
.card svg { max-width: 100%; min-width: 900px; height: auto; }
table { border-collapse: collapse; width: 100%; font-size: 13.5px; }
th { text-align: left; color: #64748b; font-weight: 600; padding: 6px 10px; border-bottom: 1px solid #e2e8f0; }
td { padding: 6px 10px; vertical-align: top; border-bottom: 1px solid #f1f5f9; }
td.n { color: #94a3b8; font-variant-numeric: tabular-nums; }
tr.bad td { background: #fee2e2; }
tr.loop td { color: #b91c1c; font-style: italic; }
.answer { color: #64748b; font-style: italic; white-space: nowrap; }
.changes { color: #64748b; }
code { background: #0f172a; color: #e2e8f0; border-radius: 6px; padding: 8px 12px; display: block; overflow-x: auto; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 2px 18px; margin: 0; font-size: 13.5px; }
dt { color: #64748b; } dd { margin: 0; }
"""

READING = """Columns are actors and time runs down; a bar is something under way. On the right stands what each place holds after the
step: <b>f1</b> is frame 1 (<b>w</b>: it may be written) and has one colour everywhere, <b>=30</b> is what a frame contains
(<b>h</b>: it is held until a flush), <b>s1</b> a slot of the swap. Dashed: there, but not to be used; none: not mapped."""


def html(trace: Trace) -> str:
    """The whole page."""
    facts = "\n".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in trace.facts)
    command = f"<h2>Run it again</h2><code>{escape(trace.command)}</code>" if trace.command else ""
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{escape(trace.title)}</title><style>{STYLE}</style></head>
<body><main>
<h1>{escape(trace.title)}</h1>
<p class="reason"><span class="verdict">{escape(trace.verdict)}</span> {escape(trace.reason)}</p>
<h2>{len(trace.events)} steps, {"the last of them for ever" if trace.loop >= 0 else "a shortest way"}</h2>
<div class="card">{svg(trace)}</div>
<p class="reason">{READING}</p>
<h2>Step by step</h2>
<div class="card"><table><tr><th></th><th>actor</th><th>step</th><th>answer</th><th>what changed</th></tr>
{_rows(trace)}
</table></div>
<h2>The world</h2>
<div class="card"><dl>{facts}</dl></div>
{command}
</main></body></html>
"""


def _rows(trace: Trace) -> str:
    rows = []
    for number, event in enumerate(trace.events):
        if number == trace.loop:
            rows.append('<tr class="loop"><td></td><td colspan="4">from here on it repeats, for ever</td></tr>')
        to = f" &rarr; {escape(event.to)}" if event.to else ""
        rows.append(
            f'<tr class="{"bad" if event.tone == "bad" else ""}"><td class="n">{number + 1}</td>'
            f"<td>{escape(event.lane)}{to}</td><td>{escape(event.text)}</td>"
            f'<td class="answer">{escape(event.answer)}</td><td class="changes">{escape("; ".join(event.changes))}</td></tr>'
        )
    return "\n".join(rows)
