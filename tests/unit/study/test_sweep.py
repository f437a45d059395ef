"""Sweeps, their files, the table and the page."""

import csv
import json
import re
from xml.etree import ElementTree

import pytest

from unpinned.cli import main
from unpinned.study import report, sweep
from unpinned.study.table import COLUMNS, render


@pytest.fixture(scope="module")
def rows():
    plan = sweep.pieces(
        ["discard", "fork"], [sweep.policy_named(word) for word in ("pin", "zap-now", "blind")], ["inline", "mailing-list"],
        pages=64, virtual_ns=2_000_000,
    )  # fmt: skip
    found, complete = sweep.sweep(plan, workers=1, show=False)
    assert complete
    return found


def test_a_sweep_runs_every_combination_once(rows):
    kinds = [(row["workload"], row["profile"], row["policy"]) for row in rows]
    assert len(set(kinds)) == len(kinds) == 2 * 2 * 3


def test_csv_holds_every_figure(rows, tmp_path):
    path = tmp_path / "runs.csv"
    sweep.write_csv(rows, path)
    with open(path) as file:
        read = list(csv.DictReader(file))
    assert [{name: str(value) for name, value in row.items()} for row in rows] == read


def test_parquet_holds_every_figure(rows, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "runs.parquet"
    sweep.write_parquet(rows, path)
    assert parquet.read_table(path).to_pylist() == rows


def test_the_table_fits_a_terminal_and_shows_every_column(rows):
    lines = render(rows).splitlines()
    assert max(map(len, lines)) < 80
    head = next(line for line in lines if line.startswith("policy"))
    assert head.split() == ["policy", *(below for _, below, _ in COLUMNS)]


def test_the_page_is_self_contained_and_its_plots_are_well_formed(rows):
    page = report.page(rows, "unpinned study <x>")
    assert "unpinned study &lt;x&gt;" in page
    assert not re.search(r"<(script|link|img|iframe)\b|@import|url\(", page)
    assert set(re.findall(r'https?://[^"]+', page)) == {"http://www.w3.org/2000/svg"}
    plots = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    assert len(plots) == 2 * 3
    for plot in plots:
        root = ElementTree.fromstring(plot)
        width = float(root.attrib["width"])
        for mark in root.iter("{http://www.w3.org/2000/svg}circle"):
            assert 0 <= float(mark.attrib["cx"]) <= width


def test_a_page_of_no_runs_is_refused():
    with pytest.raises(ValueError, match="no runs"):
        report.page([], "")


def test_repetitions_become_their_median_and_violations_add_up():
    rows = [
        {"workload": "w", "profile": "f", "policy": "p", "seed": seed, "pages": 1, "devices": 1, "x": x, "violations": 1}
        for seed, x in ((1, 5), (2, 1), (3, 2))
    ]
    (row,) = report.merge(rows)
    assert (row["x"], row["violations"]) == (2, 3)


def test_the_user_s_policy_travels_as_text(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text('name = "mine"\n[causes]\nDISCARD = "DEFER 16 pages 1 ms"\n')
    plan = sweep.pieces(["discard"], [sweep.policy_named(str(path))], ["inline"], pages=64, virtual_ns=1_000_000)
    json.dumps(plan)
    rows, _ = sweep.sweep(plan, workers=1, show=False)
    assert rows[0]["policy"] == "mine"
    assert rows[0]["pages_deferred"] > 0


@pytest.mark.parametrize(
    "words, said",
    [
        (["--policy", "nobody"], "no policy 'nobody'"),
        (["--workload", "nothing"], "no workload 'nothing'"),
        (["--profile", "nothing"], "no profile 'nothing'"),
        (["--memory", "12x"], "--memory 12x"),
        (["--devices", "9"], "--devices"),
        (["--time", "0"], "--time"),
    ],
)
def test_what_cannot_be_is_said_in_one_sentence(words, said, capsys):
    assert main(["study", *words]) == 1
    err = capsys.readouterr().err
    assert said in err
    assert "Traceback" not in err


def test_a_policy_that_is_impossible_names_field_and_reason(tmp_path, capsys):
    path = tmp_path / "bad.toml"
    path.write_text('[causes]\nRELEASE = "REFUSE_IF_BUSY"\n')
    assert main(["study", "--policy", str(path)]) == 1
    assert "RELEASE" in capsys.readouterr().err


def test_the_command_prints_json(capsys):
    words = ["-w", "hot", "-p", "zap-now", "-f", "inline", "-m", "256K", "-t", "0.001", "--workers", "1", "--json"]
    assert main(["study", *words]) == 0
    (run,) = json.loads(capsys.readouterr().out)["runs"]
    assert run["hit_share"] == 1.0
    assert run["faults"] == 0
