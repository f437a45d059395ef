"""Recordings through the model: what is predicted is what the paging steps say, record by record."""

import numpy as np
import pytest

from unpinned.cli import main
from unpinned.host.layout import HOLES
from unpinned.paging import layout as P
from unpinned.recording import file
from unpinned.recording import layout as R
from unpinned.study.policies import STUDY_POLICIES
from unpinned.study.replay import COUNTED, replay

PAGE = 4096
MS = 1_000_000
HEADER = {
    "geometry": {"levels": 3, "bits": 9, "leaves": 64, "regions": 4, "revoked": 4, "dma": 4, "faults": 16},
    "settings": {
        "provisional_ns": 0, "provisional_trust_ns": 100_000, "tlb": 0, "huge": 1,
        "fault_max_bytes": 4 << 20, "chunk_bytes": 256 << 10, "read_ahead_bytes": 0, "retries_max": 16,
    },
}  # fmt: skip
HORIZON = (R.HORIZON, 0, 20 * MS, 0, 0, 0, 0)
REGION = (R.OPEN, 0, 0, 64 * PAGE, 0, 0, 0)


def recording(*rows, read=0, write=0, flushes=0, zapped=0, installed=0, causes=()):
    """Rows are (kind, time, a, b, c, d, e); the counters are what the device would have said."""
    invalidations = [0] * P.CAUSES
    for cause in causes:
        invalidations[cause] += 1
    totals = {"faults_read": read, "faults_write": write, "flushes": flushes, "pages_zapped": zapped,
              "invalidations": invalidations, **dict.fromkeys(COUNTED[2:7], 0), "pages_in": installed}  # fmt: skip
    records = np.array([(0, *row) for row in (HORIZON, REGION, *rows)], np.int64)
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


def test_an_entry_grows_old_when_the_device_believed_it_no_longer():
    longer, shorter = ((R.HORIZON, 2 * MS, ns * MS, 0, 0, 0, 0) for ns in (40, 5))
    assert predicted(access(1 * MS, 3), longer, access(30 * MS, 3))[0]["faults for read"] == 1
    assert predicted(access(1 * MS, 3), shorter, access(10 * MS, 3))[0]["faults for read"] == 2


def test_one_fault_covers_the_rest_of_the_message():
    found, _ = predicted(access(1 * MS, 0, 4, left=12), access(2 * MS, 4, 12))
    assert found["faults for read"] == 1


def test_reading_does_not_give_the_right_to_write():
    found, _ = predicted(access(1 * MS, 3), access(2 * MS, 3, write=True))
    assert (found["faults for read"], found["faults for write"]) == (1, 1)


def test_what_the_owner_takes_is_a_fault_again_and_a_flush():
    taken = (R.INVALIDATE, 2 * MS, 0, 8 * PAGE, P.CAUSE_DISCARD, 0, 0)
    found, result = predicted(access(1 * MS, 0, 4), taken, access(3 * MS, 0, 4), read=2, flushes=1, zapped=4, installed=8,
                              causes=[P.CAUSE_DISCARD])  # fmt: skip
    assert (found["faults"], found["flushes"], found["pages zapped"], found["invalidations DISCARD"]) == (2, 1, 4, 1)
    assert result.within


def fault(time, first, count=1, slot=0, region=0, flags=0):
    return (R.FAULT, time, first * PAGE, (first + count) * PAGE, slot, region, flags)


def looked(time, first, count=1, there=0, slot=0, nobody=0, hole=0):
    """`hole`: of the pages that were there, so many at the end are a hole."""
    how = nobody * R.LOOKED_NOBODY + hole * R.LOOKED_HOLE
    return (R.LOOKED, time, first * PAGE, (first + count) * PAGE, (first + there) * PAGE, slot, how)


def taken(time, first, count=1, slot=0):
    return (R.TAKEN, time, first * PAGE, (first + count) * PAGE, slot, 0, 0)


def came(time, first, count=1, slot=0, error=0, how=0):
    return (R.CHUNK, time, first * PAGE, (first + count) * PAGE, error, slot, how)


def invalidation(time, cause, first=0, count=8, became=0):
    return (R.INVALIDATE, time, first * PAGE, (first + count) * PAGE, cause, 0, became)


def test_a_request_that_waited_counts_once():
    rows = [fault(1 * MS, 0, 4), looked(2 * MS, 0, 4), taken(3 * MS, 0, 4), came(9 * MS, 0, 4), access(9 * MS, 0, 4)]
    found, result = predicted(*rows)
    assert (found["faults for read"], found["brought in"], found["pages installed"]) == (1, 1, 4)
    assert result.requests == {"both": 1, "recorded only": 0, "predicted only": 0}
    assert result.unserved == 0


def test_a_request_that_the_table_could_serve_is_no_fault():
    _, result = predicted(access(1 * MS, 0, 4), fault(2 * MS, 0, 4), looked(2 * MS, 0, 4, 4), read=2)
    assert result.requests == {"both": 0, "recorded only": 1, "predicted only": 1}


def test_what_was_copied_tells_of_faults_without_the_requests():
    _, result = predicted(fault(1 * MS, 0, 4), looked(2 * MS, 0, 4, 4), access(2 * MS, 0, 4), read=1)
    assert result.blind_faults == 1


@pytest.mark.parametrize("late", [False, True])
def test_a_fault_under_way_when_its_range_is_unmapped_installs_what_the_next_invalidation_finds(late):
    """The driver, or a worker, was on it: it tries again, and nobody asks whether the range is still the region's."""
    revoked = (R.REVOKE, 2 * MS, 0, 8 * PAGE, 0, 0, 0)
    unmapped = [revoked, invalidation(2 * MS, P.CAUSE_UNMAP)]
    if late:
        rows = [fault(1 * MS, 0), looked(1 * MS, 0), taken(1 * MS, 0), *unmapped, came(3 * MS, 0), taken(3 * MS, 0), came(4 * MS, 0)]
    else:
        rows = [fault(1 * MS, 0), *unmapped, looked(3 * MS, 0, there=1), (R.LISTED, 3 * MS, 0, 0, 0, 0, 0), looked(4 * MS, 0, there=1)]
    released = invalidation(5 * MS, P.CAUSE_RELEASE, count=64, became=3)
    found, result = predicted(*rows, released, read=1, flushes=1, zapped=1, installed=1, causes=[P.CAUSE_UNMAP, P.CAUSE_RELEASE])
    assert (found["flushes"], found["flushes RELEASE"], found["tried again"], found["pages zapped"]) == (1, 1, 1, 1)
    assert result.within
    assert result.off == []


def test_a_fault_that_nobody_waits_for_any_more_installs_nothing():
    for rows in ([looked(2 * MS, 0, there=1, nobody=1)], [looked(2 * MS, 0), taken(2 * MS, 0), came(3 * MS, 0, how=R.CHUNK_NOBODY)]):
        found, _ = predicted(fault(1 * MS, 0), *rows)
        assert found["pages installed"] == 0


def test_a_slot_that_begins_anew_has_ended_without_a_word():
    found, _ = predicted(fault(1 * MS, 0), fault(2 * MS, 4), looked(3 * MS, 4, there=1), access(3 * MS, 4))
    assert (found["faults"], found["pages installed"]) == (2, 1)


def test_a_fault_that_waits_for_the_driver_is_not_hit():
    rows = [fault(1 * MS, 0, flags=R.FAULT_LATER), invalidation(2 * MS, P.CAUSE_DISCARD), (R.LISTED, 3 * MS, 0, 0, 0, 0, 0)]
    found, _ = predicted(*rows, looked(4 * MS, 0, there=1))
    assert (found["tried again"], found["pages installed"]) == (0, 1)


def test_a_fault_that_failed_is_over():
    rows = [fault(2 * MS, 0), looked(2 * MS, 0), taken(2 * MS, 0), came(3 * MS, 0, error=14)]
    found, _ = predicted(*rows, *rows)
    assert (found["faults for read"], found["failed"]) == (2, 2)


def test_a_prefetch_is_no_fault_and_its_pages_are_there():
    found, _ = predicted(fault(1 * MS, 0, 4, flags=R.FAULT_PREFETCH), looked(1 * MS, 0, 4, 4), access(2 * MS, 0, 4))
    assert (found["faults"], found["prefetches"]) == (0, 1)


def test_a_pinned_region_has_no_faults():
    found, result = predicted((R.OPEN, 0, 64 * PAGE, 128 * PAGE, 0, 1, 1), access(1 * MS, 70))
    assert (found["faults"], result.unserved) == (0, 0)


def test_copies_outside_of_every_region_are_told():
    _, result = predicted(access(1 * MS, 100))
    assert result.unserved == 1


def test_a_revoked_range_serves_nobody():
    revoked = (R.REVOKE, 1 * MS, 0, 8 * PAGE, 0, 0, 0)
    _, result = predicted(revoked, access(2 * MS, 3))
    assert result.unserved == 1


def hole(time, first, count, region=0):
    began = [fault(time, first, count, region=region), looked(time, first, count), taken(time, first, count)]
    return [*began, came(time, first, count, how=R.CHUNK_HOLE)]


def test_a_hole_that_the_owner_writes_into_is_a_hole_no_more_and_its_smaller_rest_a_fault():
    written = [fault(2 * MS, 2, 1, flags=R.FAULT_WRITE), looked(2 * MS, 2), taken(2 * MS, 2), came(2 * MS, 2)]
    found, result = predicted(*hole(1 * MS, 0, 8), *written, access(3 * MS, 3, 5), access(3 * MS, 2), access(3 * MS, 0, 2))
    assert (found["faults for read"], found["faults for write"]) == (2, 1)
    assert result.requests["predicted only"] == 1


def test_a_hole_that_a_look_finds_is_one():
    """Behind pages that are there; the smaller rest of it is a fault when the owner has written, the pages before it are none."""
    written = [fault(2 * MS, 4, 1, flags=R.FAULT_WRITE), looked(2 * MS, 4), taken(2 * MS, 4), came(2 * MS, 4)]
    began = [fault(1 * MS, 0, 8), looked(1 * MS, 0, 8, 8, hole=6)]
    found, result = predicted(*began, *written, access(3 * MS, 0, 2), access(3 * MS, 5, 3), access(3 * MS, 2, 2))
    assert (found["faults for read"], found["faults for write"]) == (2, 1)
    assert result.requests["predicted only"] == 1


def test_a_look_that_finds_nothing_in_a_hole_leaves_it():
    found, _ = predicted(*hole(1 * MS, 0, 8), *hole(30 * MS, 3, 1), access(31 * MS, 3), access(15 * MS, 0, 8))
    assert found["faults"] == 2


def test_there_is_room_for_so_many_holes():
    pages = [(R.OPEN, 0, 64 * PAGE, 1000 * PAGE, 0, 1, 0)]
    for first in range(100, 100 + 2 * HOLES + 1, 2):
        pages += hole(1 * MS, first, 1, region=1)
    found, result = predicted(*pages, access(2 * MS, 100), access(2 * MS, 102))
    assert result.requests["predicted only"] == 1
    assert found["faults"] == HOLES + 2


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
    again = [fault(50 * MS + i, 0) for i in range(5)]
    rows = [access(1 * MS, 3), invalidation(2 * MS, P.CAUSE_DISCARD, 0, 8), access(50 * MS, 0), *again]
    _, result = predicted(*rows, read=7, causes=[P.CAUSE_DISCARD])
    assert not result.within
    assert result.worst[0]["recorded"] == 5
    assert result.off == [{"at_s": 0.002, "cause": "DISCARD", "region": 0, "pages": 8, "recorded": 0, "predicted": 1}]


@pytest.mark.parametrize("row, why", [
    ((R.ACCESS, 1, -1, 8, 0, 2, 0), "range"), ((R.ACCESS, 1, 0, 1 << 40, 0, 2, 0), "range"), ((R.ACCESS, 1, 0, 8, -1, 2, 0), "message"),
    ((R.FAULT, 1, 0, PAGE, 0, 4, 0), "region"), ((R.OPEN, 1, 0, PAGE, 0, 1 << 40, 0), "region"),
    ((R.LOOKED, 1, 0, 1 << 38, 0, 0, 0), "range"), ((R.INVALIDATE, 1, 0, PAGE, 99, 0, 0), "cause"),
    ((R.CHUNK, 1, PAGE, 0, 0, 0, 0), "range"), ((R.HORIZON, 1, 0, 0, 0, 0, 0), "horizon"), ((R.HORIZON, 1, 1 << 40, 0, 0, 0, 0), "horizon"),
])  # fmt: skip
def test_a_record_that_cannot_be_is_refused_by_its_number(row, why):
    with pytest.raises(file.RecordingError, match=f"record 2 .*{why}"):
        replay(recording(row))


@pytest.mark.parametrize("slot", [-1, 16, 1 << 40])
def test_a_slot_that_the_device_does_not_have_is_followed_by_nobody(slot):
    found, _ = predicted(fault(1 * MS, 0, slot=slot), looked(1 * MS, 0, there=1, slot=slot), came(2 * MS, 0, slot=slot))
    assert (found["faults"], found["pages installed"]) == (1, 1)


@pytest.mark.parametrize("part, name, value", [
    ("geometry", "leaves", 1 << 24), ("geometry", "bits", "x"), ("geometry", "levels", 99), ("settings", "fault_max_bytes", 1 << 50),
    ("settings", "chunk_bytes", 0), ("settings", "provisional_ns", 1 << 70),
])  # fmt: skip
def test_a_header_that_asks_for_the_impossible_is_refused(part, name, value):
    made = recording()
    made.header = {key: dict(each) for key, each in HEADER.items()}
    made.header[part][name] = value
    with pytest.raises(file.RecordingError, match="header"):
        replay(made)


@pytest.mark.parametrize("part, name", [("geometry", "leaves"), ("settings", "tlb")])
def test_a_header_that_lacks_something_is_refused(part, name):
    header = {key: dict(value) for key, value in HEADER.items()}
    del header[part][name]
    made = recording()
    made.header = header
    with pytest.raises(file.RecordingError, match=f"{part}.{name}"):
        replay(made)


def test_the_command(tmp_path, capsys):
    made = recording(access(1 * MS, 3), read=1, installed=1)
    writer = file.Writer(tmp_path / "a.rec", made.header)
    writer.add(made.records)
    writer.close(made.end)
    assert main(["replay", str(tmp_path / "a.rec"), "--policy", "batching", "--chrome-trace", str(tmp_path / "t.json")]) == 0
    out = capsys.readouterr().out
    assert "every prediction is within 5 %" in out
    assert max(map(len, out.splitlines())) < 80
    assert (tmp_path / "t.json").exists()


def test_the_command_replays_a_part_when_asked_for(tmp_path, capsys):
    made = recording(access(1 * MS, 3), read=1, installed=1)
    writer = file.Writer(path := tmp_path / "a.rec", made.header)
    writer.add(made.records)
    writer.flush(made.end)
    assert main(["replay", str(path)]) == 1
    assert "3 records before it are whole: --partial replays them" in capsys.readouterr().err
    assert main(["replay", str(path), "--partial"]) == 0
    out = capsys.readouterr().out
    assert "the recording ends early: the file was cut off" in out
    assert "every prediction is within 5 %" in out


def test_the_command_refuses_what_is_no_recording(tmp_path, capsys):
    (tmp_path / "x").write_text("hello")
    assert main(["replay", str(tmp_path / "x")]) == 1
    assert "expected b'unpinrec'" in capsys.readouterr().err
    assert main(["replay", str(tmp_path / "x"), "--policy", "pin"]) == 1
    assert "nothing to replay" in capsys.readouterr().err
