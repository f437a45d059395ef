"""The picture: drawn by hand or by matplotlib, from any story, however short."""

import xml.etree.ElementTree as ET
from importlib.util import find_spec

import pytest

from unpinned.demo.canvas import check_suffix
from unpinned.demo.picture import HEIGHT, WIDTH, Story, draw

GIB = 1 << 30


def story(samples: int) -> Story:
    times = [0.1 * number for number in range(samples)]
    made = Story("A <title> & more", "subtitle", "footer", "locked: 0 B", times, [1.0] * samples, [5e4] * samples)
    made.resident = {name: [0.5 * GIB] * samples for name in ("file", "array", "private")}
    made.registered = [2.3 * GIB] * samples
    made.phases = [("one", 0.0, 1.0), ("two", 1.0, 9.0)]
    made.actions = {"unmap": [(0.5, 0.001)], "Python spins": [(1.0, 3.0)], "fork": []}
    return made


@pytest.mark.parametrize("samples", [0, 1, 2, 100])
def test_an_svg_is_well_formed_and_nothing_lies_outside(tmp_path, samples):
    path = tmp_path / "picture.svg"
    draw(story(samples), path)
    root = ET.parse(path).getroot()
    texts = [element for element in root if element.tag.endswith("text")]
    assert any(element.text == "A <title> & more" for element in texts)
    for element in texts:
        assert 0 <= float(element.get("x")) <= WIDTH and 0 <= float(element.get("y")) <= HEIGHT
    for element in root:
        for x, y in (point.split(",") for point in (element.get("points") or "").split()):
            assert 0 <= float(x) <= WIDTH and 0 <= float(y) <= HEIGHT


@pytest.mark.skipif(find_spec("matplotlib") is None, reason="matplotlib is not installed")
def test_a_png_is_one(tmp_path):
    path = tmp_path / "picture.png"
    draw(story(50), path)
    assert path.read_bytes().startswith(b"\x89PNG")


def test_other_suffixes_are_told_what_there_is(tmp_path, monkeypatch):
    with pytest.raises(OSError, match=r"\.png or \.svg"):
        check_suffix(tmp_path / "picture.gif")
    monkeypatch.setattr("unpinned.demo.canvas.best_suffix", lambda: ".svg")
    with pytest.raises(OSError, match=r"unpinned\[plot\]"):
        check_suffix(tmp_path / "picture.png")
