"""Recordings through the model: what is predicted is what the paging steps say, record by record."""

import numpy as np
import pytest

from unpinned.cli import main
from unpinned.paging import layout as P
from unpinned.recording import file
from unpinned.recording import layout as R
from unpinned.study.policies import STUDY_POLICIES
from unpinned.study.replay import replay

PAGE = 4096
MS = 1_000_000
HEADER = {
    "geometry": {"levels": 3, "bits": 9, "leaves": 64, "regions": 4, "revoked": 4, "dma": 4, "faults": 16},
    "settings": {
        "horizon_ns": 20 * MS, "provisional_ns": 0, "provisional_trust_ns": 100_000, "tlb": 0, "huge": 1,
        "fault_max_bytes": 4 << 20, "chunk_bytes": 256 << 10, "read_ahead_bytes": 0, "retries_max": 16,
    },
}  # fmt: skip
REGION = (R.OPEN, 0, 0, 64 * PAGE, 0, 0, 0)


def recording(*rows, read=0, write=0, flushes=0, zapped=0, causes=()):
    """Rows are (kind, time, a, b, c, d, e); the counters are what the device would have said."""
    invalidations = [0] * P.CAUSES
    for cause in causes:
        invalidations[cause] += 1
    totals = {"faults_read": read, "faults_write": write, "flushes": flushes, "pages_zapped": zapped, "invalidations": invalidations}
    records = np.array([(0, *row) for row in (REGION, *rows)], np.int64)
    return file.Recording(HEADER, records, {"totals": totals, "lost": 0})


def access(time, first, count=1, write=False, left=0):
    return (R.ACCESS, time, first * PAGE, count * PAGE, left * PAGE, P.OP_WRITE if write else P.OP_READ, 7)


def predicted(*rows, **counted):
    result = replay(recording(*rows, **counted))
    return {figure.name.strip(): figure.predicted for figure in result.figures}, result


def test_a_first_touch_is_a_fault_and_a_second_is_not():
    found, _ = predicted(access(1 * MS, 3), access(2 * MS, 3))
    assert found["faults for read"] == 1


def test_an_entry_grows_old():
    found, _ = predicted(access(1 * MS, 3), access(30 * MS, 3))
    assert found["faults for read"] == 2


def test_one_fault_covers_the_rest_of_the_message():
    found, _ = predicted(access(1 * MS, 0, 4, left=12), access(2 * MS, 4, 12))
    assert found["faults for read"] == 1


def test_reading_does_not_give_the_right_to_write():
    found, _ = predicted(access(1 * MS, 3), access(2 * MS, 3, write=True))
    assert (found["faults for read"], found["faults for write"]) == (1, 1)


def test_what_the_owner_takes_is_a_fault_again_and_a_flush():
    taken = (R.INVALIDATE, 2 * MS, 0, 8 * PAGE, P.CAUSE_DISCARD, 0, 0)
    found, result = predicted(access(1 * MS, 0, 4), taken, access(3 * MS, 0, 4), read=2, flushes=1, zapped=4, causes=[P.CAUSE_DISCARD])
    assert (found["faults"], found["flushes"], found["pages zapped"], found["DISCARD"]) == (2, 1, 4, 1)
    assert result.within


def test_a_request_that_waited_counts_when_it_came():
    """It came at 1 ms and its pages at 9 ms; somebody else's copies at 5 ms had none of them."""
    looked = (R.FAULT, 2 * MS, 0, 4 * PAGE, 4 * PAGE, 0, 1000 << R.FAULT_AGE_SHIFT)
    came = (R.CHUNK, 9 * MS, 0, 4 * PAGE, 0, 3 * MS, 0)
    found, result = predicted(looked, came, access(9 * MS, 0, 4))
    assert found["faults for read"] == 1
    assert result.unserved == 0


def test_a_fault_that_failed_is_over():
    looked = (R.FAULT, 2 * MS, 0, PAGE, PAGE, 0, 0)
    failed = (R.CHUNK, 3 * MS, 0, PAGE, 14, 2 * MS, 0)
    found, _ = predicted(looked, failed, looked, failed)
    assert found["faults for read"] == 2


def test_a_prefetch_is_no_fault_and_its_pages_are_there():
    looked = (R.FAULT, 1 * MS, 0, 4 * PAGE, 4 * PAGE, 4 * PAGE, R.FAULT_PREFETCH)
    found, _ = predicted(looked, access(2 * MS, 0, 4))
    assert found["faults"] == 0


def test_copies_outside_of_every_region_are_told():
    _, result = predicted(access(1 * MS, 100))
    assert result.unserved == 1


def test_a_revoked_range_serves_nobody():
    revoked = (R.REVOKE, 1 * MS, 0, 8 * PAGE, 0, 0, 0)
    _, result = predicted(revoked, access(2 * MS, 3))
    assert result.unserved == 1


def test_another_policy_batches_the_flushes():
    rows = [access(1 * MS, 0, 32)]
    rows += [(R.INVALIDATE, 2 * MS + i, i * PAGE, (i + 1) * PAGE, P.CAUSE_DISCARD, 0, 0) for i in range(32)]
    flushes = {}
    for name in ("zap-now", "batching"):
        result = replay(recording(*rows), STUDY_POLICIES[name])
        flushes[name] = next(figure.predicted for figure in result.figures if figure.name == "flushes")
    assert flushes["zap-now"] == 32
    assert flushes["batching"] == 1


def test_where_it_is_off_is_said():
    looked = [(R.FAULT, 50 * MS + i, 0, PAGE, PAGE, PAGE, 0) for i in range(5)]
    _, result = predicted(access(1 * MS, 3), *looked, read=6)
    assert not result.within
    assert result.worst[0]["recorded"] == 5


@pytest.mark.parametrize("part, name", [("geometry", "leaves"), ("settings", "tlb")])
def test_a_header_that_lacks_something_is_refused(part, name):
    header = {key: dict(value) for key, value in HEADER.items()}
    del header[part][name]
    made = recording()
    made.header = header
    with pytest.raises(file.RecordingError, match=f"{part}.{name}"):
        replay(made)


def test_the_command(tmp_path, capsys):
    made = recording(access(1 * MS, 3), read=1)
    writer = file.Writer(tmp_path / "a.rec", made.header)
    writer.add(made.records)
    writer.close(made.end)
    assert main(["replay", str(tmp_path / "a.rec"), "--policy", "batching", "--chrome", str(tmp_path / "t.json")]) == 0
    out = capsys.readouterr().out
    assert "every figure is within 5 %" in out
    assert max(map(len, out.splitlines())) < 80
    assert (tmp_path / "t.json").exists()


def test_the_command_refuses_what_is_no_recording(tmp_path, capsys):
    (tmp_path / "x").write_text("hello")
    assert main(["replay", str(tmp_path / "x")]) == 1
    assert "expected b'unpinrec'" in capsys.readouterr().err
    assert main(["replay", str(tmp_path / "x"), "--policy", "pin"]) == 1
    assert "nothing to replay" in capsys.readouterr().err
