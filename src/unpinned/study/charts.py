"""Charts as inline SVG, drawn by hand: nothing to load, sharp at any size, readable without a script.

Colours are CSS classes (``c-NAME``), so that the page decides them for light and dark. Every mark has a <title>: a browser
shows the figure under the pointer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape

LABEL = 11  #: font size of labels, px
TICK = 10
ROW = 15  #: height of a line of marks, px
HEAD = 22  #: height of a band's heading, with the gap above it
FLAG = 62  #: width of a remark


@dataclass
class Axis:
    """A horizontal logarithmic axis: value -> x. Zero stands at its left end."""

    low: float
    high: float
    left: float
    right: float

    def at(self, value: float) -> float:
        """Where a value stands; what lies outside stands at the edge."""
        if value <= 0:
            return self.left
        share = math.log(value / self.low) / math.log(self.high / self.low)
        return round(self.left + min(1.0, max(0.0, share)) * (self.right - self.left), 1)

    def ticks(self) -> list[float]:
        """Powers of ten, at most seven."""
        first, last = math.ceil(math.log10(self.low) - 1e-9), math.floor(math.log10(self.high) + 1e-9)
        every = max(1, -(-(last - first) // 6))
        return [10.0**n for n in range(first, last + 1, every)]


def log_axis(values: Sequence[float], left: float, right: float, least: float = 10.0) -> Axis:
    """Whole decades that hold all positive values, and at least a factor of `least`."""
    positive = [value for value in values if value > 0] or [1.0]
    low = 10.0 ** math.floor(math.log10(min(positive)) + 1e-9)
    high = 10.0 ** math.ceil(math.log10(max(positive)) - 1e-9)
    return Axis(low, max(high, low * least), left, right)


def engineering(value: float, unit: str = "") -> str:
    """1e-3 .. 1e9 with a prefix, for tick labels and titles.

    >>> engineering(2500, "us"), engineering(1e6), engineering(0.5, "us"), engineering(20, "%")
    ('2.5 ms', '1 M', '0.5 us', '20 %')
    """
    if unit == "us" and abs(value) >= 1000:
        value, unit = (value / 1e3, "ms") if abs(value) < 1e6 else (value / 1e6, "s")
    elif unit == "us" and 0 < abs(value) < 0.1:
        value, unit = value * 1e3, "ns"
    prefix = ""
    if unit not in ("us", "ms", "s", "ns", "%"):
        for limit, name in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
            if abs(value) >= limit:
                value, prefix = value / limit, name
                break
    return f"{value:.3g} {prefix}{unit}".strip()


@dataclass
class Line:
    """One line of a range chart: marks at some values, joined."""

    label: str
    color: str
    values: Sequence[float]
    names: Sequence[str]
    flag: str = ""  #: a short remark at the right end


@dataclass
class Band:
    """Lines under one heading."""

    title: str
    lines: list[Line] = field(default_factory=list)


def range_chart(bands: Sequence[Band], *, title: str, unit: str, width: int = 340, label_width: int = 62) -> str:
    """Lines of joined marks on one logarithmic axis: the first mark hollow, the last a bar.

    Zero (nothing was measured, or it took no time) stands at the left edge, faint.
    """
    values = [value for band in bands for line in band.lines for value in line.values]
    flagged = any(line.flag for band in bands for line in band.lines)
    axis = log_axis(values, label_width + 8, width - (FLAG if flagged else 20))
    top = 40
    height = top + sum(HEAD + ROW * len(band.lines) for band in bands) + 22
    out = [_open(width, height, title), _text(0, 14, title, "chart-title")]
    for tick in axis.ticks():
        x = axis.at(tick)
        out.append(f'<line class="grid" x1="{x}" x2="{x}" y1="{top - 8}" y2="{height - 20}"/>')
        out.append(_text(x, height - 6, engineering(tick, unit), "tick", "middle"))
    y = top
    for band in bands:
        out.append(_text(0, y + HEAD - 9, band.title, "band"))
        y += HEAD
        for line in band.lines:
            out += _range(line, axis, y + ROW / 2 - 2, unit)
            y += ROW
    return "".join(out) + "</svg>"


def _range(line: Line, axis: Axis, y: float, unit: str) -> list[str]:
    xs = [axis.at(value) for value in line.values]
    what = ", ".join(f"{name} {engineering(value, unit)}" for name, value in zip(line.names, line.values))
    none = not any(value > 0 for value in line.values)
    out = [f'<g class="mark c-{line.color}{" none" if none else ""}"><title>{escape(f"{line.label}: {what}")}</title>']
    out.append(_text(axis.left - 8, y + 3.5, line.label, "label", "end"))
    out.append(f'<line class="link" x1="{min(xs)}" x2="{max(xs)}" y1="{y}" y2="{y}"/>')
    for i, x in enumerate(xs):
        if i == 0:
            out.append(f'<circle class="dot" cx="{x}" cy="{y}" r="4"/>')
        elif i == len(xs) - 1:
            out.append(f'<rect class="end" x="{x - 1.2}" y="{y - 4.5}" width="2.4" height="9"/>')
        else:
            out.append(f'<circle class="ring" cx="{x}" cy="{y}" r="3.2"/>')
    if line.flag:
        out.append(_text(max(xs) + 7, y + 3.5, line.flag, "flag"))
    out.append("</g>")
    return out


def _open(width: int, height: float, title: str) -> str:
    return (
        f'<svg viewBox="0 0 {width} {height:.0f}" width="{width}" height="{height:.0f}" role="img" '
        f'aria-label="{escape(title, quote=True)}" xmlns="http://www.w3.org/2000/svg">'
    )


def _text(x: float, y: float, text: str, kind: str, anchor: str = "start") -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
