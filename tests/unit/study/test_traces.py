"""Recordings as workloads: which requests, which script, which memory; and that they run like the others."""

import csv
import json

import numpy as np
import pytest

from unpinned.cli import main
from unpinned.paging import layout as P
from unpinned.recording import file
from unpinned.recording import layout as R
from unpinned.recording.file import RecordingError
from unpinned.study import layout as S
from unpinned.study import simulate as M
from unpinned.study import sweep, traces
from unpinned.study.policies import STUDY_POLICIES
from unpinned.study.profiles import profiles

PAGE = 4096
SPAN = 2 << 20
FAR = 40 << 30
MS = 1_000_000


def access(time, page, count=1, *, write=False, left=0, qp=7, base=0):
    return (R.ACCESS, time, base + page * PAGE, count * PAGE, left * PAGE, P.OP_WRITE if write else P.OP_READ, qp)


def changed(time, page, count, cause):
    return (R.INVALIDATE, time, page * PAGE, (page + count) * PAGE, cause, 0, 0)


def brought_in(time, page, count=1, errno=0):
    return (R.CHUNK, time, page * PAGE, (page + count) * PAGE, errno, 0, 0)


def opened(time, page, count):
    return (R.OPEN, time, page * PAGE, (page + count) * PAGE, 0, 0, 0)


def recording(*rows, lost=0):
    return file.Recording({}, np.array([(0, *row) for row in rows], np.int64), {"lost": lost})


def plan_of(*rows):
    return traces.trace(recording(*rows)).plan


def requests(plan):
    """(page, pages, write, moment) of each, and where streams begin."""
    words = plan.accesses
    made = zip(words & S.ACCESS_PAGE, words >> S.ACCESS_COUNT_SHIFT & S.ACCESS_COUNT_MASK, words & S.ACCESS_WRITE, plan.moments)
    return [(int(page), int(count), bool(write), int(moment)) for page, count, write, moment in made], plan.edges.tolist()


def script(plan):
    """(operation, page, pages, moment) of each row."""
    return [tuple(row) for row in plan.scripts[0].tolist()] if plan.scripts else []


def run(plan, pages, policy="by-cause", profile="inline", devices=1):
    bounds = M.Bounds(10_000_000_000, 1 << 40)
    return M.simulate("x", STUDY_POLICIES[policy], profiles()[profile], pages=pages, devices=devices, bounds=bounds, plan=plan, title="x")


@pytest.fixture(scope="module", autouse=True)
def compiled():
    M.ensure_compiled()


def test_the_copies_of_a_message_are_one_request_at_the_time_of_the_first():
    plan = plan_of(access(5, 0, 4, left=12), access(6, 9, qp=8), access(8, 4, 12), access(9, 16))
    assert requests(plan) == ([(0, 16, False, 0), (16, 1, False, 4), (9, 1, False, 1)], [0, 2, 3])


def test_a_turn_a_gap_and_another_queue_pair_begin_a_request():
    plan = plan_of(access(1, 0, left=3), access(2, 1, write=True, left=2), access(3, 3, write=True, left=1), access(3, 4, qp=1))
    assert requests(plan) == ([(0, 1, False, 0), (1, 1, True, 1), (3, 1, True, 2), (4, 1, False, 2)], [0, 3, 4])


def test_a_long_message_is_requests_of_4_mib():
    rows = [access(i, 256 * i, 256, left=256 * (9 - i)) for i in range(10)]
    assert [count for _, count, _, _ in requests(plan_of(*rows))[0]] == [1024, 1024, 512]


def test_bytes_within_a_page_are_that_page():
    plan = plan_of((R.ACCESS, 1, 3 * PAGE + 100, 8, 0, P.OP_READ, 1), (R.ACCESS, 2, 5 * PAGE - 4, 8, 0, P.OP_READ, 1))
    assert requests(plan)[0] == [(3, 1, False, 0), (4, 2, False, 1)]


def test_memory_is_the_spans_that_were_touched():
    made = traces.trace(recording(access(1, 3), access(2, 5, base=FAR), access(3, 511, 2, base=FAR)))
    assert made.pages == 3 * 512
    assert requests(made.plan)[0] == [(3, 1, False, 0), (512 + 5, 1, False, 1), (512 + 511, 2, False, 2)]


def test_what_the_owner_does_elsewhere_is_left_out_and_ranges_are_cut():
    whole = (R.INVALIDATE, 5, 0, 1 << 40, P.CAUSE_DISCARD, 0, 0)
    beside = (R.INVALIDATE, 6, SPAN, 2 * SPAN, P.CAUSE_DISCARD, 0, 0)
    plan = plan_of(access(1, 3), access(2, 5, base=FAR), whole, beside)
    assert script(plan) == [(S.DO_DISCARD, 0, 1024, 4)]


def test_queue_pairs_that_never_met_share_a_stream():
    assert requests(plan_of(access(1, 0, qp=1), access(2, 0, qp=2), access(3, 0, qp=1), access(4, 0, qp=3)))[1] == [0, 2, 4]
    crowd = [access(i, 0, qp=i) for i in range(300)] + [access(1000 + i, 0, qp=i) for i in range(300)]
    edges = requests(plan_of(*crowd))[1]
    assert len(edges) == traces.LANES_MAX + 1
    assert edges[-1] == 600


def test_what_had_to_be_brought_in_was_not_there_at_first():
    plan = plan_of(access(1, 0), brought_in(2, 1, 2), access(3, 1, 2), brought_in(4, 3, errno=14), access(5, 3))
    assert np.flatnonzero(plan.present).tolist() == [0, 3]
    assert script(plan) == []


def test_a_page_brought_in_once_more_had_been_reclaimed():
    plan = plan_of(access(1, 0, 4), brought_in(7, 1, 2), access(8, 0, 4))
    assert script(plan) == [(S.DO_RECLAIM, 1, 2, 6)]


def test_a_page_read_without_being_brought_in_had_been_touched_by_its_owner():
    plan = plan_of(access(1, 0, 4), changed(5, 0, 4, P.CAUSE_DISCARD), brought_in(6, 0, 2), access(9, 0, 3))
    assert script(plan) == [(S.DO_DISCARD, 0, 4, 4), (S.DO_WRITE, 2, 1, 4)]


def test_what_was_unmapped_is_mapped_again_when_a_region_comes():
    gone = changed(5, 0, 4, P.CAUSE_UNMAP)
    plan = plan_of(access(1, 0, 4), gone, opened(8, 0, 4), brought_in(9, 0, 4), access(9, 0, 4))
    assert script(plan) == [(S.DO_UNMAP, 0, 4, 4), (S.DO_MAP, 0, 4, 7)]
    unseen = plan_of(access(1, 0, 4), gone, access(9, 0, 2))
    assert script(unseen) == [(S.DO_UNMAP, 0, 4, 4), (S.DO_MAP, 0, 2, 4), (S.DO_WRITE, 0, 2, 4)]


def test_a_release_leaves_the_memory():
    plan = plan_of(access(1 * MS, 0, 4), changed(2 * MS, 0, 4, P.CAUSE_RELEASE), access(3 * MS, 0, 4))
    assert script(plan) == [(S.DO_RELEASE, 0, 4, 1 * MS)]
    found = run(plan, 512).results
    assert (found["invalidations_release"], found["faults"], found["major"], found["requests"]) == (1, 2, 0, 2)
    assert found["frames_max"] == 4


MIXED = (
    [access(MS * i, i % 40, 4, write=i % 3 == 0, qp=i % 5) for i in range(1, 30)]
    + [changed(30 * MS, 0, 8, P.CAUSE_DISCARD), changed(31 * MS, 8, 8, P.CAUSE_UNMAP), changed(31 * MS, 16, 4, P.CAUSE_REMAP)]
    + [opened(33 * MS, 8, 12), brought_in(34 * MS, 0, 20), brought_in(34 * MS, 24, 4)]
    + [access(35 * MS + i, i % 40, 4, qp=i % 7) for i in range(30)]
    + [changed(36 * MS, 0, 44, P.CAUSE_RELEASE)]
)


@pytest.mark.parametrize("profile", list(profiles()))
@pytest.mark.parametrize("policy", ["pin", "zap-now", "by-cause", "batching"])
def test_a_recording_runs_to_its_end_under_every_policy_and_profile(policy, profile):
    made = traces.trace(recording(*MIXED))
    found = run(made.plan, made.pages, policy, profile, devices=2).results
    assert (found["requests"] + found["errors"], found["violations"]) == (59, 0)
    assert found["errors"] <= (profile == "mailing-list")  # its owner is late: what is asked for is not mapped yet
    assert found["virtual_ms"] >= 34
    if policy != "pin":
        assert found["operations"] == 4 + 1  # and what must have been reclaimed
        assert found["invalidations_remap"] == found["invalidations_release"] == 2  # of two devices
        assert found["faults"] > 0


def test_requests_keep_to_their_moments_and_to_their_order():
    """The second is due before the first has been answered; the third long after."""
    plan = plan_of(access(0, 0), access(1, 1), access(5 * MS, 2))
    found = run(plan, 512).results
    assert found["requests"] == 3
    assert 5.0 < found["virtual_ms"] < 5.2  # a fault at its end
    assert found["latency_us_max"] < 100


def test_what_no_device_can_have_done_is_refused():
    for row in ((R.ACCESS, 1, -PAGE, PAGE, 0, P.OP_READ, 1), (R.ACCESS, 1, 0, 0, 0, P.OP_READ, 1), changed(1, 4, -2, P.CAUSE_UNMAP)):
        with pytest.raises(RecordingError, match="record 1 .*expected a range of memory"):
            traces.trace(recording(access(0, 0), row))
    with pytest.raises(RecordingError, match="nobody touched anything"):
        traces.trace(recording(opened(0, 0, 4)))
    with pytest.raises(RecordingError, match="GiB were touched, expected at most 64"):
        traces.trace(recording(*(access(i, 0, 1 << 19, base=i << 31) for i in range(33))))


# --- the command -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def path(tmp_path):
    writer = file.Writer(tmp_path / "mine.rec", {})
    writer.add(np.array([(0, *row) for row in MIXED], np.int64))
    writer.close({"totals": {}, "lost": 3})
    return tmp_path / "mine.rec"


def test_the_command_runs_it_beside_the_others(path, tmp_path, capsys):
    words = ["-w", str(path), "-w", "hot", "-f", "inline", "-m", "256K", "--workers", "1", "--repeat", "2", "-p", "pin", "-p", "batching"]
    out = [str(tmp_path / "runs.csv"), str(tmp_path / "page.html")]
    assert main(["study", *words, "--csv", out[0], "--html", out[1], "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["runs"]
    assert [(row["workload"], row["policy"]) for row in rows[:2]] == [(str(path), "pin"), (str(path), "batching")]
    assert len(rows) == 2 + 2 * 2  # a recording has no seed
    assert rows[1]["requests"] == 59
    with open(out[0]) as lines:
        assert [row["title"] for row in csv.DictReader(lines)] == [row["title"] for row in rows]
    page = (tmp_path / "page.html").read_text()
    assert "1 DISCARD" in page and "1 RECLAIM (inferred)" in page and "3 records were lost" in page


@pytest.mark.parametrize(
    "damage, said",
    [
        (lambda data: data[:-9], "cut off at byte"),
        (lambda data: b"PK" + data[2:], "not a recording: it begins with b'PKpinrec', expected b'unpinrec'"),
        (lambda data: b"", "expected b'unpinrec'"),
    ],
)
def test_a_file_that_is_no_whole_recording_is_refused_with_what_was_expected(path, capsys, damage, said):
    path.write_bytes(damage(path.read_bytes()))
    assert main(["study", "-w", str(path)]) == 1
    err = capsys.readouterr().err
    assert str(path) in err and said in err and "Traceback" not in err


def test_another_file_than_the_sweep_began_with_is_refused(path):
    (plan,) = sweep.pieces([str(path)], [STUDY_POLICIES["pin"]], [profiles()["inline"]], pages=64)
    path.write_bytes(path.read_bytes() + b" ")
    traces.load.cache_clear()
    with pytest.raises(RecordingError, match="not the file that the sweep began with"):
        sweep.piece(**plan)
