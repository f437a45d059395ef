"""A trace as text, as a file and as a drawing."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ElementTree
from dataclasses import replace

import pytest

from unpinned.check.diagram import svg
from unpinned.check.page import html
from unpinned.check.trace import Cell, Event, Trace, TraceError, dumps, loads, table

HELD, GONE = Cell("f1 w", 1), Cell("f1", 1, dim=True)
TRACE = Trace(
    title="UNMAP, DEFER, exact <notifier>",
    verdict="I1",
    reason="no access to a frame after it is freed or reused",
    world={"pages": 1},
    path=(3, 1, 2),
    lanes=("thread 0", "device 0"),
    events=(
        Event("device 0", "translate page 0, issue copy", tone="copy", begins=("device 0: copy in flight",), state=(HELD,)),
        Event("thread 0", "start UNMAP", "device 0", "DEFERRED", "host", changes=("page table p0: f1 w -> (f1)",), state=(GONE,)),
        Event("device 0", "copy lands", tone="bad", ends=("device 0: copy in flight",), state=(Cell(),)),
    ),
    places=(("page table", ("p0",)),),
    command="unpinned check --replay FILE",
    facts=(("memory", "1 page & 1 frame"),),
)  # fmt: skip


def test_the_table_names_every_step_in_order_and_fits_the_screen() -> None:
    text = table(TRACE)
    assert max(map(len, text.splitlines())) < 80
    steps = [line for line in text.splitlines() if re.match(r" +\d+  ", line)]
    assert [line.split()[0] for line in steps] == ["1", "2", "3"]
    assert "start UNMAP [device 0] -> DEFERRED" in steps[1]
    assert "page table p0: f1 w -> (f1)" in text and text.endswith("replay: unpinned check --replay FILE")


def test_a_cycle_is_marked_where_it_begins() -> None:
    lines = table(replace(TRACE, loop=1)).splitlines()
    mark = next(i for i, line in enumerate(lines) if "it repeats" in line)
    assert "start UNMAP" in lines[mark + 1]


def test_a_file_comes_back() -> None:
    assert loads(dumps(TRACE)) == TRACE


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "no JSON, or cut off"),
        (dumps(TRACE)[:200], "no JSON, or cut off"),
        ("[1]", "no field 'format'"),
        ('{"traceEvents": []}', "no field 'format'"),
        ('{"format": "unpinned trace 0"}', "another version"),
        ('{"format": "unpinned trace 1", "events": []}', "expected a whole trace"),
        (json.dumps({**json.loads(dumps(TRACE)), "speed": 1}), "speed"),
        (json.dumps({**json.loads(dumps(TRACE)), "path": ["x"]}), "whole trace"),
        (json.dumps({**json.loads(dumps(TRACE)), "world": None}), "its world is no object"),
        ("[" * 100_000, "no JSON"),
    ],
)
def test_what_is_no_trace_is_refused_with_what_was_expected(text: str, message: str) -> None:
    with pytest.raises(TraceError, match=message):
        loads(text)


def test_a_span_lasts_from_the_step_that_begins_it_to_the_one_that_ends_it() -> None:
    (span,) = TRACE.spans()
    assert (span.lane, span.label, span.first, span.last) == ("device 0", "copy in flight", 0, 2)
    open_ended = replace(TRACE, events=TRACE.events[:2])
    assert open_ended.spans()[0].last == -1


def test_the_diagram_is_well_formed_and_shows_everything() -> None:
    root = ElementTree.fromstring(svg(TRACE))
    texts = [element.text or "" for element in root.iter("{http://www.w3.org/2000/svg}text")]
    for word in ("thread 0", "device 0", "start UNMAP", "DEFERRED", "copy lands", "p0", "f1 w"):
        assert word in texts, word
    width, height = float(root.attrib["width"]), float(root.attrib["height"])
    for box in root.iter("{http://www.w3.org/2000/svg}rect"):
        if "%" not in box.attrib["width"]:
            assert float(box.attrib["x"]) + float(box.attrib["width"]) <= width
            assert float(box.attrib["y"]) + float(box.attrib["height"]) <= height


def test_the_page_is_one_file_and_names_nothing_elsewhere() -> None:
    page = html(TRACE)
    assert "<svg" in page and "&lt;notifier&gt;" in page and "<notifier>" not in page
    assert not re.search(r"(src|href)=|@import|url\((?!#)", page)
    outside = set(re.findall(r"https?://[^\"' ]+", page))
    assert outside == {"http://www.w3.org/2000/svg"}, "the name of a format, not a place that is fetched"
