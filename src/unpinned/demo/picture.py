"""The one picture: throughput, pages brought in and residency over time, and what the owner did meanwhile.

Drawn from a `Story`, which is plain data, so that a picture can be made again without another run.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from unpinned.demo.canvas import Canvas, canvas_for

WIDTH, HEIGHT = 1280, 900
LEFT, RIGHT = 118, 1150

INK, SOFT, FAINT, GRID, BAND = "#1f2937", "#6b7280", "#9ca3af", "#e5e7eb", "#f3f4f6"
BLUE, TEAL, AMBER, VIOLET, RED = "#2563eb", "#0d9488", "#d97706", "#7c3aed", "#b91c1c"
ACTION_COLORS = (TEAL, TEAL, VIOLET, RED, RED, AMBER, AMBER, BLUE, "#64748b")


@dataclass
class Story:
    """What happened, in seconds since the first byte and plain numbers."""

    title: str
    subtitle: str
    footer: str
    locked: str = ""
    """What to say of locked memory."""
    times: list[float] = field(default_factory=list)
    """When the samples were taken."""
    rate: list[float] = field(default_factory=list)
    """GB/s that arrived and were checked, in the interval that ends there."""
    pages: list[float] = field(default_factory=list)
    """Pages a second that faults brought in."""
    resident: dict[str, list[float]] = field(default_factory=dict)
    """Bytes in memory, by region; stacked."""
    registered: list[float] = field(default_factory=list)
    """Bytes registered."""
    phases: list[tuple[str, float, float]] = field(default_factory=list)
    actions: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    """What the owner did: (when, for how long) of each, by kind."""


def draw(story: Story, path: Path) -> None:
    """Draw *story* into *path*. OSError when that cannot be written or its suffix is none of ours."""
    canvas = canvas_for(path, WIDTH, HEIGHT)
    canvas.rectangle(0, 0, WIDTH, HEIGHT, "#ffffff")
    canvas.text(40, 46, story.title, 21, INK, bold=True)
    canvas.text(40, 72, story.subtitle, 13.5, SOFT)
    end = max(story.times[-1] if story.times else 0.0, 1e-3)
    rows = 20 * len(story.actions)
    bottom = HEIGHT - 72 - rows - 34
    _phases(canvas, story, end, 96, HEIGHT - 72)
    page_top = bottom - 250
    _rates(canvas, story, _Panel(canvas, end, 152, page_top - 44))
    _pages(canvas, story, _Panel(canvas, end, page_top, page_top + 66))
    _memory(canvas, story, _Panel(canvas, end, page_top + 110, bottom))
    _actions(canvas, story, end, bottom + 34)
    _seconds(canvas, end, HEIGHT - 54)
    canvas.text(40, HEIGHT - 18, story.footer, 11, FAINT)
    canvas.save(path)


class _Panel:
    """A strip of the sheet with a time axis and a scale of its own."""

    def __init__(self, canvas: Canvas, end: float, top: float, bottom: float) -> None:
        self.canvas, self.end, self.top, self.bottom = canvas, end, top, bottom
        self.most = 1.0

    def scale(self, most: float, ticks: int, label: Callable[[float], str], title: str) -> None:
        step = _nice(most / ticks) if most > 0 else 1.0
        self.most = max(step * math.ceil(most / step * 1.04), step)
        value = 0.0
        while value <= self.most * 1.001:
            y = self.y(value)
            self.canvas.line([(LEFT, y), (RIGHT, y)], GRID)
            self.canvas.text(LEFT - 10, y + 4, label(value), 11, SOFT, "end")
            value += step
        self.canvas.text(40, self.top - 12, title, 12.5, INK, bold=True)

    def x(self, time: float) -> float:
        return LEFT + (RIGHT - LEFT) * min(max(time / self.end, 0.0), 1.0)

    def y(self, value: float) -> float:
        return self.bottom - (self.bottom - self.top) * value / self.most

    def curve(self, times: Sequence[float], values: Sequence[float]) -> list[tuple[float, float]]:
        return [(self.x(time), self.y(value)) for time, value in zip(times, values)]

    def under(self, times: Sequence[float], values: Sequence[float], color: str, opacity: float) -> None:
        if times:
            closing = [(self.x(times[-1]), self.y(0)), (self.x(times[0]), self.y(0))]
            self.canvas.area(self.curve(times, values) + closing, color, opacity)


def _nice(step: float) -> float:
    """The next of 1, 2, 5 times a power of ten (or of two, for what is counted in GiB by the caller)."""
    power = 10 ** math.floor(math.log10(step))
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= step * 0.999)


def _phases(canvas: Canvas, story: Story, end: float, top: float, bottom: float) -> None:
    for number, (name, start, stop) in enumerate(story.phases):
        left, right = (LEFT + (RIGHT - LEFT) * min(time / end, 1.0) for time in (start, stop))
        if number % 2 == 0:
            canvas.rectangle(left, top, right - left, bottom - top, BAND, 0.8)
        if right - left > 6.2 * len(name):
            canvas.text((left + right) / 2, top + 14, name, 11, SOFT, "middle")


def _rates(canvas: Canvas, story: Story, panel: _Panel) -> None:
    panel.scale(max(story.rate, default=1.0), 4, lambda value: f"{value:g}", "GB/s over the wire, every byte checked")
    panel.under(story.times, story.rate, BLUE, 0.16)
    if story.times:
        canvas.line(panel.curve(story.times, story.rate), BLUE, 1.8)


def _pages(canvas: Canvas, story: Story, panel: _Panel) -> None:
    panel.scale(max(story.pages, default=1.0), 2, _short, "Pages a second that page faults of the device bring in")
    panel.under(story.times, story.pages, VIOLET, 0.16)
    if story.times:
        canvas.line(panel.curve(story.times, story.pages), VIOLET, 1.5)


def _memory(canvas: Canvas, story: Story, panel: _Panel) -> None:
    gib = 1 << 30
    registered = [value / gib for value in story.registered]
    panel.scale(max(registered, default=1.0), 3, lambda value: f"{value:g}", "Memory, GiB: registered, and resident of it")
    if not story.times:
        return
    below = [0.0] * len(story.times)
    labels: list[tuple[float, str, str]] = []
    for (name, values), color in zip(story.resident.items(), (TEAL, BLUE, AMBER, VIOLET)):
        above = [low + value / gib for low, value in zip(below, values)]
        ring = panel.curve(story.times, above) + panel.curve(story.times, below)[::-1]
        canvas.area(ring, color, 0.45)
        labels.append((panel.y((above[-1] + below[-1]) / 2) + 4, name, color))
        below = above
    canvas.line(panel.curve(story.times, below), INK, 1.2)
    canvas.line(panel.curve(story.times, registered), RED, 1.4, dashed=True)
    labels.append((panel.y(registered[-1]) + 4, "registered", RED))
    lowest = panel.bottom + 4.0
    for y, name, color in labels:  # bottom up; names never lie on each other
        lowest = min(y, lowest)
        canvas.text(RIGHT + 8, lowest, name, 11, color)
        lowest -= 15
    canvas.text(RIGHT + 8, panel.bottom + 19, story.locked, 11, SOFT)


def _actions(canvas: Canvas, story: Story, end: float, top: float) -> None:
    canvas.text(40, top - 10, "What the owner does meanwhile", 12.5, INK, bold=True)
    for number, (name, moments) in enumerate(story.actions.items()):
        y = top + 20 * number
        color = ACTION_COLORS[number % len(ACTION_COLORS)]
        canvas.text(LEFT - 10, y + 13, name, 11, SOFT, "end")
        canvas.line([(LEFT, y + 9), (RIGHT, y + 9)], GRID)
        for moment, duration in moments:
            left = LEFT + (RIGHT - LEFT) * min(moment / end, 1.0)
            width = max((RIGHT - LEFT) * duration / end, 2.0)
            canvas.rectangle(left, y + 3, min(width, RIGHT - left + 2), 12, color, 0.75)
        canvas.text(RIGHT + 8, y + 13, f"{len(moments)}", 11, SOFT)


def _seconds(canvas: Canvas, end: float, y: float) -> None:
    step = _nice(end / 10)
    value = 0.0
    while value <= end * 1.001:
        x = LEFT + (RIGHT - LEFT) * value / end
        canvas.text(x, y, f"{value:g}" + (" s" if value == 0 else ""), 11, SOFT, "middle")
        value += step


def _short(value: float) -> str:
    if value >= 1_000_000:
        return f"{value / 1_000_000:g} M"
    return f"{value / 1000:g} k" if value >= 1000 else f"{value:g}"
