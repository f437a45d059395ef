"""Sweeps, their files, the table and the page."""

import csv
import dataclasses
import json
import re
from xml.etree import ElementTree

import pytest

from unpinned.cli import main
from unpinned.study import report, sweep
from unpinned.study.table import COLUMNS, render

POLICIES = [sweep.policy_named(word) for word in ("pin", "zap-now", "blind")]
HCAS = [sweep.profile_named(word) for word in ("inline", "mailing-list")]


@pytest.fixture(scope="module")
def rows():
    plan = sweep.pieces(["discard", "fork"], POLICIES, HCAS, pages=64, virtual_ns=2_000_000)
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
    lines = render(rows, POLICIES).splitlines()
    assert max(map(len, lines)) < 80
    head = next(line for line in lines if line.startswith("policy"))
    assert head.split() == ["policy", *(below for _, below, _ in COLUMNS)]
    assert [line.split()[0] for line in lines if "UNSAFE" in line] == ["blind"]


def test_policies_of_the_user_have_colours_of_their_own_everywhere(rows):
    """In the legend, in the table at a glance and in each plot the same."""
    mine = [dataclasses.replace(POLICIES[1], name=f"mine-{i}") for i in range(4)]
    more = [{**row, "policy": policy.name} for row in rows if row["policy"] == "zap-now" for policy in mine]
    more += [row for row in rows if row["policy"] == "pin"]
    page = report.page(more, "", [*POLICIES, *mine], HCAS)
    for i in range(4):
        assert f'<i class="c-user{i}"></i><b>mine-{i}</b>' in page
        assert f'<th class="c-user{i} name"><span>mine-{i}</span>' in page
        marks = re.findall(r'<g class="mark c-([^\s"]+)[^>]*><title>mine-(\d)', page)
        assert {tint for tint, which in marks if which == str(i)} == {f"user{i}"}
    tints = re.findall(r"--user\d:(#\w+)", page)
    assert len(tints) == 2 * report.USERS == len(set(tints)), "light and dark"


def test_the_page_is_self_contained_and_its_plots_are_well_formed(rows):
    page = report.page(rows, "unpinned study <x>", POLICIES, HCAS)
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
        for text in root.iter("{http://www.w3.org/2000/svg}text"):  # half of a tick's label, all of a remark, at 6 px a letter
            right = {"tick": 3, "flag": 6}.get(text.attrib["class"], 0) * len(text.text)
            assert float(text.attrib["x"]) + right <= width


def test_a_page_of_no_runs_is_refused():
    with pytest.raises(ValueError, match="no runs"):
        report.page([], "", POLICIES, HCAS)


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
    plan = sweep.pieces(["discard"], [sweep.policy_named(str(path))], HCAS[:1], pages=64, virtual_ns=1_000_000)
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
        (["--seed", "-1"], "--seed"),
        (["--workers", "-1"], "--workers"),
        (["--csv", "nowhere/runs.csv"], "--csv nowhere/runs.csv"),
        (["--html", "."], "--html ."),
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
    assert "bad.toml: RELEASE" in capsys.readouterr().err


def test_a_policy_may_not_have_the_name_of_one_that_is_there(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text('name = "zap-now"\n')
    with pytest.raises(ValueError, match="mine.toml: name: 'zap-now' is taken"):
        sweep.policy_named(str(path))


def test_the_command_prints_json(capsys):
    words = ["-w", "hot", "-p", "zap-now", "-f", "inline", "-m", "256K", "-t", "0.001", "--workers", "1", "--json"]
    assert main(["study", *words]) == 0
    (run,) = json.loads(capsys.readouterr().out)["runs"]
    assert run["hit_share"] == 1.0
    assert run["faults"] == 0


# --- a profile of the user's ---------------------------------------------------------------------------------------------

TINY = ["-w", "discard", "-p", "zap-now", "-m", "256K", "-t", "0.001", "--workers", "1"]


@pytest.fixture
def mine(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text('name = "mine"\ntitle = "an <HCA> of mine"\nbase = "inline"\nflush = 7_000\n')
    return path


def test_a_profile_of_the_user_s_is_run_and_shown(mine, tmp_path, capsys):
    page = tmp_path / "report.html"
    assert main(["study", *TINY, "-f", "inline", "-f", str(mine), "--html", str(page), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    waits = {run["profile"]: run["blocked_us_p50"] for run in found["runs"]}
    assert waits["mine"] - waits["inline"] == pytest.approx((7_000 - found["profiles"]["inline"]["flush"]) / 1e3, abs=0.1)
    assert found["profiles"]["mine"] == found["profiles"]["inline"] | {"name": "mine", "title": "an <HCA> of mine", "flush": 7_000}
    assert list(found["policies"]) == ["zap-now"]
    text = page.read_text()
    assert "<b>mine</b> an &lt;HCA&gt; of mine" in text
    assert "<td>flush</td><td>4,400</td><td>7,000</td>" in text


def test_a_campaign_goes_on_with_the_same_profile_only(mine, tmp_path, capsys):
    record = tmp_path / "record"
    words = ["study", *TINY, "-f", str(mine), "--resume", str(record)]
    assert main(words) == 0
    first = record.read_bytes()
    assert main(words) == 0
    mine.write_text(mine.read_text().replace("7_000", "8_000"))
    assert main(words) == 1
    assert "a file among them has changed" in capsys.readouterr().err
    assert record.read_bytes() == first


def test_two_profiles_of_one_name_are_refused(mine, tmp_path, capsys):
    assert main(["study", *TINY, "-f", str(mine), "-f", str(mine)]) == 1
    assert "profile 'mine' is there twice" in capsys.readouterr().err


def test_an_unsafe_policy_of_the_user_s_is_marked(tmp_path):
    path = tmp_path / "risky.toml"
    path.write_text('name = "risky"\n[causes]\nCOW = "DEFER 16 pages 1 ms"\n')
    policy = sweep.policy_named(str(path))
    found, _ = sweep.sweep(sweep.pieces(["fork"], [policy], HCAS[:1], pages=64, virtual_ns=1_000_000), workers=1, show=False)
    page = report.page(found, "", [policy], HCAS[:1])
    assert "<b>risky</b> <b class=bad>unsafe</b>" in page
    assert "<b>risky</b> is unsafe. COW" in page
