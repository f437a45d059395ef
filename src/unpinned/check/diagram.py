"""A trace as an SVG sequence diagram.

Lanes are actors, time runs down. An arrow is a step of one actor on another, with the answer under it; a box is a step
that concerns nobody else. A bar on a lifeline is a period (a copy in flight, an invalidation between start and finish,
a flush): where two of them overlap is where the race is. On the right stands what every place holds after each step; a
frame has one colour everywhere, so a device that still uses a page's old frame shows as two colours in one row.

Pure text: no fonts, scripts or images from elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

from unpinned.check.trace import Cell, Event, Span, Trace

LANE: Final = 152  #: between two lifelines
LEFT: Final = 96
HEAD: Final = 78
ROW: Final = 46
CELL: Final = 40
GROUP_GAP: Final = 18
FONT: Final = "ui-sans-serif, 'Inter', 'Segoe UI', 'Helvetica Neue', 'DejaVu Sans', Arial, sans-serif"
INK, SOFT, FAINT, LINE, PAPER = "#1f2937", "#6b7280", "#9ca3af", "#d1d5db", "#ffffff"
TONES: Final = {
    "": "#475569", "host": "#1d4ed8", "device": "#0f766e", "fault": "#7c3aed", "copy": "#b45309", "flush": "#0e7490",
    "bad": "#b91c1c",
}  # fmt: skip
FRAMES: Final = ("#2563eb", "#f59e0b", "#10b981", "#a855f7", "#ef4444", "#14b8a6", "#64748b", "#d946ef")
CHARACTER: Final = 5.9  #: pixels, of the 11-pixel text


@dataclass(frozen=True)
class _Layout:
    lanes: dict[str, float]
    right: float  #: where the places begin
    width: float
    top: float
    places: tuple[tuple[str, tuple[str, ...]], ...]

    def y(self, number: float) -> float:
        return self.top + ROW * (number + 0.5)


def svg(trace: Trace) -> str:
    """The diagram of a trace, a whole SVG document."""
    at = _layout(trace)
    height = at.y(len(trace.events) - 1) + ROW * 1.2
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {at.width:.0f} {height:.0f}" width="{at.width:.0f}" '
        f'height="{height:.0f}" font-family="{FONT}" font-size="11" role="img">',
        f"<title>{escape(trace.title)}</title>",
        *_markers(),
        f'<rect width="100%" height="100%" rx="6" fill="{PAPER}"/>',
        *_bands(trace, at),
        *_heads(trace, at, height),
        *(line for span in _stacked(trace.spans()) for line in _span(*span, trace.events, at, height)),
        *(line for number, event in enumerate(trace.events) for line in _event(number, event, at)),
        *_loop(trace, at),
        "</svg>",
    ]
    return "\n".join(parts)


def _layout(trace: Trace) -> _Layout:
    lanes = {lane: LEFT + LANE * i + LANE / 2 - 30 for i, lane in enumerate(trace.lanes)}
    right = LEFT + LANE * len(trace.lanes) + 24
    width = right + sum(_group_width(name, cells) + GROUP_GAP for name, cells in trace.places)
    return _Layout(lanes, right, width + 8, HEAD + 14, trace.places)


def _group_width(name: str, cells: Sequence[str]) -> float:
    """As wide as its cells, or as its name."""
    return max(len(cells) * CELL, len(name) * 6.6)


def _markers() -> list[str]:
    return [
        "<defs>",
        *(
            f'<marker id="a{tone}" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
            f'<path d="M0 0.6 L7.4 4 L0 7.4 z" fill="{color}"/></marker>'
            for tone, color in TONES.items()
        ),
        "</defs>",
    ]


def _text(x: float, y: float, text: str, color: str = INK, anchor: str = "start", more: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" fill="{color}" text-anchor="{anchor}" {more}>{escape(text)}</text>'


def _bands(trace: Trace, at: _Layout) -> list[str]:
    """A faint band a row, the last one red."""
    lines = []
    for number, event in enumerate(trace.events):
        bad = event.tone == "bad"
        color = "#fee2e2" if bad else "#f8fafc"
        if bad or number % 2 == 0:
            lines.append(
                f'<rect x="8" y="{at.y(number) - ROW / 2:.1f}" width="{at.width - 16:.1f}" height="{ROW}" rx="4" '
                f'fill="{color}"/>'
            )
        lines.append(_text(22, at.y(number) + 4, str(number + 1), FAINT, "middle", 'font-weight="600"'))
    return lines


def _heads(trace: Trace, at: _Layout, height: float) -> list[str]:
    lines = []
    for lane, x in at.lanes.items():
        lines.append(
            f'<line x1="{x}" y1="{HEAD - 4}" x2="{x}" y2="{height - 10:.1f}" stroke="{LINE}" stroke-dasharray="2 4"/>'
        )
        wide = max(84.0, len(lane) * 7.2 + 22)
        lines.append(
            f'<rect x="{x - wide / 2:.1f}" y="22" width="{wide:.1f}" height="32" rx="7" fill="{PAPER}" stroke="{INK}" '
            f'stroke-width="1.2"/>'
        )
        lines.append(_text(x, 42, lane, INK, "middle", 'font-size="12" font-weight="600"'))
        lines.append(_text(x, 68, dict(trace.roles).get(lane, ""), SOFT, "middle", 'font-size="9.5"'))
    x = at.right
    for name, cells in at.places:
        wide = _group_width(name, cells)
        lines.append(_text(x + wide / 2, 32, name, INK, "middle", 'font-weight="600"'))
        for i, cell in enumerate(cells):
            at_cell = x + (wide - len(cells) * CELL) / 2 + CELL * (i + 0.5)
            lines.append(_text(at_cell, 50, cell, SOFT, "middle", 'font-size="10"'))
        x += wide + GROUP_GAP
    return lines


def _stacked(spans: Sequence[Span]) -> list[tuple[Span, int]]:
    """Each span with its place beside the lifeline: those that overlap on one lane stand side by side."""
    placed: list[tuple[Span, int]] = []
    for span in spans:
        taken = {
            column
            for other, column in placed
            if other.lane == span.lane and (other.last < 0 or other.last > span.first)
        }
        placed.append((span, next(column for column in range(len(taken) + 1) if column not in taken)))
    return placed


def _span(span: Span, column: int, events: Sequence[Event], at: _Layout, height: float) -> list[str]:
    if span.lane not in at.lanes:
        return []
    x = at.lanes[span.lane] - 5 + 13 * column
    top = at.y(span.first)
    bottom = at.y(span.last) if span.last >= 0 else height - 14
    color = TONES.get(span.tone, TONES[""])
    bar = (
        f'<rect x="{x:.1f}" y="{top:.1f}" width="10" height="{max(8.0, bottom - top):.1f}" rx="3" fill="{color}" '
        f'fill-opacity="0.22" stroke="{color}" stroke-width="1"><title>{escape(span.label)}</title></rect>'
    )
    boxes = [at.y(i) for i, event in enumerate(events) if event.lane == span.lane and top < at.y(i) < bottom]
    edges = [top, *boxes, bottom]
    gap, middle = max((low - high, (low + high) / 2) for high, low in zip(edges, edges[1:]))
    if gap < 4.6 * len(span.label) + 26:  # the name would be cut by a box
        return [bar]
    turned = f'transform="rotate(-90 {x + 5:.1f} {middle:.1f})" font-size="8.5"'
    return [bar, _text(x + 5, middle + 3, span.label, color, "middle", turned)]


def _event(number: int, event: Event, at: _Layout) -> list[str]:
    y = at.y(number)
    color = TONES.get(event.tone, TONES[""])
    tone = event.tone if event.tone in TONES else ""
    lines = []
    x = at.lanes.get(event.lane, LEFT)
    to = at.lanes.get(event.to, x)
    weight = 'font-weight="600"' if tone == "bad" else ""
    if to == x:
        lines += _box(x, y, event.text, color, tone, event.answer)
    else:
        end = to - 8 if to > x else to + 8
        begin = x + 6 if to > x else x - 6
        lines.append(
            f'<line x1="{begin}" y1="{y}" x2="{end}" y2="{y}" stroke="{color}" stroke-width="1.6" '
            f'marker-end="url(#a{tone})"/>'
        )
        lines.append(_label((x + to) / 2, y - 6, event.text, color, weight))
        if event.answer:
            lines.append(_label((x + to) / 2, y + 14, event.answer, SOFT, 'font-style="italic"'))
    return lines + _cells(y, event.state, at)


def _label(x: float, y: float, text: str, color: str, more: str = "") -> str:
    """Text with a halo of paper, so that what it crosses does not spoil it."""
    halo = f'stroke="{PAPER}" stroke-width="3.5" stroke-linejoin="round" paint-order="stroke"'
    return _text(x, y, text, color, "middle", f"{halo} {more}")


def _box(x: float, y: float, text: str, color: str, tone: str, answer: str) -> list[str]:
    text = f"{text}: {answer}" if answer else text
    wide = max(40.0, len(text) * CHARACTER * (1.12 if tone == "bad" else 1.0) + 20)
    left = max(38.0, x - wide / 2)
    fill = color if tone == "bad" else PAPER
    ink = PAPER if tone == "bad" else color
    return [
        f'<rect x="{left:.1f}" y="{y - 12:.1f}" width="{wide:.1f}" height="24" rx="12" fill="{fill}" stroke="{color}" '
        f'stroke-width="1.3"/>',
        _text(left + wide / 2, y + 4, text, ink, "middle", 'font-weight="600"' if tone == "bad" else ""),
    ]


def _cells(y: float, state: Sequence[Cell], at: _Layout) -> list[str]:
    lines = []
    x = at.right
    left = iter(state)
    for name, names in at.places:
        wide = _group_width(name, names)
        for i, cell in enumerate(cell for _, cell in zip(names, left)):
            lines += _cell(x + (wide - len(names) * CELL) / 2 + i * CELL, y, cell)
        x += wide + GROUP_GAP
    return lines


def _cell(x: float, y: float, cell: Cell) -> list[str]:
    if cell.frame < 0 and not cell.text:
        return [f'<circle cx="{x + CELL / 2:.1f}" cy="{y:.1f}" r="2" fill="{LINE}"/>']
    color = FRAMES[cell.frame % len(FRAMES)] if cell.frame >= 0 else FAINT
    strong = cell.frame >= 0 and not cell.dim
    fill, ink = (color, PAPER) if strong else (PAPER, color)
    dash = 'stroke-dasharray="3 2"' if cell.dim else ""
    return [
        f'<rect x="{x + 2:.1f}" y="{y - 13:.1f}" width="{CELL - 4}" height="26" rx="5" fill="{fill}" stroke="{color}" '
        f"{dash}/>",
        _text(x + CELL / 2, y + 4, cell.text, ink, "middle", 'font-size="10.5" font-weight="600"'),
    ]


def _loop(trace: Trace, at: _Layout) -> list[str]:
    """The bracket of a cycle: from its last step back to its first."""
    if trace.loop < 0 or not trace.events:
        return []
    top, bottom = at.y(trace.loop), at.y(len(trace.events) - 1)
    color = TONES["bad"]
    return [
        f'<path d="M40 {bottom:.1f} H34 V{top:.1f} H42" fill="none" stroke="{color}" stroke-width="1.6" '
        f'marker-end="url(#abad)"/>',
        _text(34, bottom + 16, "for ever", color, "start", 'font-style="italic"'),
    ]
