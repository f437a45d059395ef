"""A sheet to draw on: the same lines, areas and words as a PNG (by matplotlib, where it is installed) or as an SVG (by hand).

Positions and sizes are pixels of a sheet whose origin is its upper left corner.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol
from xml.sax.saxutils import escape

Point = tuple[float, float]

FONT = "DejaVu Sans, Verdana, Helvetica, Arial, sans-serif"
_SCALE = 2  # pixels of a PNG for one of the sheet


class Canvas(Protocol):
    """What a picture is drawn with."""

    def rectangle(self, x: float, y: float, width: float, height: float, color: str, opacity: float = 1.0) -> None: ...

    def line(self, points: Sequence[Point], color: str, width: float = 1.0, dashed: bool = False) -> None: ...

    def area(self, points: Sequence[Point], color: str, opacity: float = 1.0) -> None: ...

    def text(
        self, x: float, y: float, words: str, size: float, color: str, anchor: str = "start", bold: bool = False
    ) -> None:
        """*words* with their base line at *y*; *anchor* start, middle or end."""

    def save(self, path: Path) -> None: ...


def best_suffix() -> str:
    """".png" where matplotlib is installed, else ".svg"."""
    return ".png" if importlib.util.find_spec("matplotlib") else ".svg"


def check_suffix(path: Path) -> None:
    """OSError when *path* ends in neither .svg nor, with matplotlib, .png."""
    if path.suffix not in (".svg", ".png"):
        raise OSError(f"{path}: a picture ends in .png or .svg")
    if path.suffix == ".png" and best_suffix() != ".png":
        raise OSError(f"{path}: a PNG needs matplotlib (pip install 'unpinned[plot]'); an .svg does not")


def canvas_for(path: Path, width: int, height: int) -> Canvas:
    """A canvas that can be saved as *path* says."""
    check_suffix(path)
    return SvgCanvas(width, height) if path.suffix == ".svg" else PngCanvas(width, height)


class SvgCanvas:
    """Writes the SVG itself."""

    def __init__(self, width: int, height: int) -> None:
        self._parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
            f'font-family="{FONT}">'
        ]

    def rectangle(self, x: float, y: float, width: float, height: float, color: str, opacity: float = 1.0) -> None:
        where = f'x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}"'
        self._parts.append(f'<rect {where} fill="{color}" fill-opacity="{opacity:g}"/>')

    def line(self, points: Sequence[Point], color: str, width: float = 1.0, dashed: bool = False) -> None:
        dash = ' stroke-dasharray="6 4"' if dashed else ""
        style = f'fill="none" stroke="{color}" stroke-width="{width:g}" stroke-linejoin="round"{dash}'
        self._parts.append(f'<polyline points="{_points(points)}" {style}/>')

    def area(self, points: Sequence[Point], color: str, opacity: float = 1.0) -> None:
        self._parts.append(f'<polygon points="{_points(points)}" fill="{color}" fill-opacity="{opacity:g}"/>')

    def text(
        self, x: float, y: float, words: str, size: float, color: str, anchor: str = "start", bold: bool = False
    ) -> None:
        weight = ' font-weight="bold"' if bold else ""
        style = f'font-size="{size:g}" fill="{color}" text-anchor="{anchor}"{weight}'
        self._parts.append(f'<text x="{x:.1f}" y="{y:.1f}" {style}>{escape(words)}</text>')

    def save(self, path: Path) -> None:
        path.write_text("\n".join([*self._parts, "</svg>"]) + "\n")


def _points(points: Sequence[Point]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)


class PngCanvas:
    """One matplotlib figure, used as a sheet of pixels."""

    def __init__(self, width: int, height: int) -> None:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        self._figure: Any = Figure(figsize=(width / 72, height / 72), dpi=72 * _SCALE)  # a pixel is a point
        FigureCanvasAgg(self._figure)
        self._axes: Any = self._figure.add_axes((0, 0, 1, 1))
        self._axes.set_xlim(0, width)
        self._axes.set_ylim(height, 0)
        self._axes.axis("off")
        self._order = 0

    def _above(self) -> int:
        """What is drawn later lies above, as on paper; matplotlib would put all lines above all areas."""
        self._order += 1
        return self._order

    def rectangle(self, x: float, y: float, width: float, height: float, color: str, opacity: float = 1.0) -> None:
        self.area([(x, y), (x + width, y), (x + width, y + height), (x, y + height)], color, opacity)

    def line(self, points: Sequence[Point], color: str, width: float = 1.0, dashed: bool = False) -> None:
        style = (0, (6, 4)) if dashed else "-"
        pen = {"color": color, "linewidth": width, "linestyle": style, "zorder": self._above()}
        self._axes.plot(*zip(*points), solid_capstyle="butt", **pen)

    def area(self, points: Sequence[Point], color: str, opacity: float = 1.0) -> None:
        self._axes.fill(*zip(*points), color=color, alpha=opacity, linewidth=0, zorder=self._above())

    def text(
        self, x: float, y: float, words: str, size: float, color: str, anchor: str = "start", bold: bool = False
    ) -> None:
        side = {"start": "left", "middle": "center", "end": "right"}[anchor]
        weight = "bold" if bold else "normal"
        place = {"ha": side, "va": "baseline", "parse_math": False, "zorder": self._above()}
        self._axes.text(x, y, words, fontsize=size, color=color, weight=weight, **place)

    def save(self, path: Path) -> None:
        self._figure.savefig(path)
