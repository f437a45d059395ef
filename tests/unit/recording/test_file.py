"""Files: what is written is read; what is cut off, damaged or foreign is refused, and says what was expected."""

import errno
import json
import os
import random
import resource
import signal
import struct
import time
import zlib
from contextlib import contextmanager

import numpy as np
import pytest

from unpinned.recording import chrome, file
from unpinned.recording import layout as R


def records(count, seed=1):
    random_ = np.random.default_rng(seed)
    made = random_.integers(0, 1 << 47, (count, R.WORDS))
    made[:, R.STAMP] = 0
    made[:, R.KIND] = R.ACCESS
    made[:, R.TIME] = np.sort(made[:, R.TIME])
    return made


def written(path, *parts, end=None):
    writer = file.Writer(path, {"device": "127.0.0.1"})
    for part in parts:
        writer.add(part)
    writer.close(end or {"lost": 0})
    return path


@pytest.mark.parametrize("sizes", [(), (1,), (10, 20), (file.BLOCK_RECORDS + 5,)])
def test_what_is_written_is_read(tmp_path, sizes):
    parts = [records(size, seed) for seed, size in enumerate(sizes)]
    found = file.read(written(tmp_path / "a", *parts, end={"lost": 3}))
    assert found.header == {"device": "127.0.0.1"}
    assert found.end == {"lost": 3}
    assert np.array_equal(found.records, np.concatenate(parts) if parts else np.zeros((0, R.WORDS)))


def test_every_cut_is_refused(tmp_path):
    whole = written(tmp_path / "a", records(12)).read_bytes()
    cut = tmp_path / "cut"
    for length in range(len(whole)):
        cut.write_bytes(whole[:length])
        with pytest.raises(file.RecordingError, match="cut off at byte|not a recording"):
            file.read(cut)


def test_what_is_whole_of_a_cut_file_is_read_when_asked_for(tmp_path):
    writer = file.Writer(tmp_path / "a", {}, {"n": 0})
    parts, whole, counts = [records(size, size) for size in (3, 8, 1)], [os.path.getsize(tmp_path / "a")], [0]
    for part in parts:
        writer.add(part)
        writer.flush({"n": counts[-1] + len(part)})
        whole.append(os.path.getsize(tmp_path / "a"))
        counts.append(counts[-1] + len(part))
    writer.close({"n": 12})
    data, cut = (tmp_path / "a").read_bytes(), tmp_path / "cut"
    for length in range(whole[0], len(data)):
        cut.write_bytes(data[:length])
        expected = counts[np.searchsorted(whole, length, side="right") - 1]
        with pytest.raises(file.RecordingError, match=f"cut off at byte .*; {expected} records before it are whole"):
            file.read(cut)
        found = file.read(cut, partial=True)
        assert np.array_equal(found.records, np.concatenate(parts)[:expected])
        assert found.end == {"n": expected, "stopped": "the file was cut off"}
    cut.write_bytes(data[: whole[0] - 1])
    with pytest.raises(file.RecordingError, match="nothing before it is whole"):
        file.read(cut, partial=True)
    assert "stopped" not in file.read(tmp_path / "a", partial=True).end


def test_a_damaged_file_is_refused_even_in_part(tmp_path):
    writer = file.Writer(tmp_path / "a", {}, {})
    writer.add(records(20))
    writer.flush({})
    writer.close({})
    data = bytearray((tmp_path / "a").read_bytes())
    data[data.index(file.BLOCK) + 20] ^= 1
    (tmp_path / "a").write_bytes(data)
    with pytest.raises(file.RecordingError, match="checksum .* of a block"):
        file.read(tmp_path / "a", partial=True)


def test_a_writer_that_is_killed_leaves_what_was_whole(tmp_path):
    path, made, cut = tmp_path / "a", records(5_000), 0
    for moment in range(12):
        pid = os.fork()
        if pid == 0:
            try:
                writer = file.Writer(path, {}, {"n": 0})
                for n in range(1, 10_000):
                    writer.add(made[(n - 1) * 50 % 5_000 :][:50])
                    if n % 10 == 0:
                        writer.flush({"n": 50 * n})
            finally:
                os._exit(1)
        while not path.exists() or path.stat().st_size < 60:  # the header, and that nothing has been counted
            time.sleep(0.0005)
        time.sleep(moment * 0.0015)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        with pytest.raises(file.RecordingError, match="cut off at byte"):
            file.read(path)
        found = file.read(path, partial=True)
        assert len(found.records) == found.end["n"]
        assert np.array_equal(found.records, np.resize(made, (found.end["n"], R.WORDS)))
        cut += found.end["n"] > 0
        path.unlink()
    assert cut > 2


@contextmanager
def disk(most):
    """Files grow to so many bytes and no more, as on a full disk. All files: the test runner's own output may be one."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_ends_the_file_and_it_says_so(tmp_path):
    path = tmp_path / "a"
    writer = file.Writer(path, {}, {"n": 0})
    writer.add(first := records(100))
    writer.flush({"n": 100})
    with disk(os.path.getsize(path) + 1_000), pytest.raises(OSError, match="too large") as refused:
        writer.add(records(1_000))
        writer.close({"n": 1_100})
    assert refused.value.errno == errno.EFBIG
    found = file.read(path)
    assert np.array_equal(found.records, first)
    assert found.end == {"n": 100, "stopped": os.strerror(errno.EFBIG)}
    writer.close({})


def test_a_disk_without_any_room_leaves_what_was_whole(tmp_path):
    path = tmp_path / "a"
    writer = file.Writer(path, {}, {"n": 0})
    writer.add(records(100))
    writer.flush({"n": 100})
    with disk(os.path.getsize(path)), pytest.raises(OSError, match="too large"):
        writer.close({})
    assert len(file.read(path, partial=True).records) == 100


def test_what_is_no_recording_is_never_written_over(tmp_path):
    (tmp_path / "thesis.tex").write_text("chapter 1")
    for begin in (file.claim, lambda path: file.Writer(path, {})):
        with pytest.raises(FileExistsError, match="left alone"):
            begin(tmp_path / "thesis.tex")
    assert (tmp_path / "thesis.tex").read_text() == "chapter 1"
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", "/dev/null"):
        with pytest.raises(OSError, match="regular file"):
            file.claim(path)
    file.claim(written(tmp_path / "old", records(3)))
    assert os.path.getsize(tmp_path / "old") == 0
    file.claim(tmp_path / "old")


def test_two_do_not_write_to_one_file(tmp_path):
    writer = file.Writer(tmp_path / "a", {})
    with pytest.raises(BlockingIOError if errno.EBUSY == errno.EAGAIN else OSError, match="another device"):
        file.Writer(tmp_path / "a", {})
    writer.close({})
    written(tmp_path / "a")


def test_every_changed_byte_is_refused_or_harmless(tmp_path):
    whole = written(tmp_path / "a", records(12)).read_bytes()
    right = file.read(tmp_path / "a").records
    bad = tmp_path / "bad"
    choose = random.Random(1)
    for at in range(len(whole)):
        changed = bytearray(whole)
        changed[at] ^= 1 << choose.randrange(8)
        bad.write_bytes(changed)
        with pytest.raises(file.RecordingError, match="expected|unpacked|header|end"):
            found = file.read(bad)
            assert not np.array_equal(found.records, right), f"byte {at} is not covered"


def test_bytes_behind_the_end_are_refused(tmp_path):
    path = written(tmp_path / "a", records(3))
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(file.RecordingError, match="expected the end of the file"):
        file.read(path)


@pytest.mark.parametrize("data", [b"", b"\x89PNG\r\n\x1a\n", b"{}" * 100])
def test_a_foreign_file_is_told_what_was_expected(tmp_path, data):
    path = tmp_path / "foreign"
    path.write_bytes(data)
    with pytest.raises(file.RecordingError, match="expected b'unpinrec'"):
        file.read(path)


def test_another_version_is_refused(tmp_path):
    path = tmp_path / "later"
    path.write_bytes(file.MAGIC + struct.pack("<HHI", 2, 0, 2) + b"{}")
    with pytest.raises(file.RecordingError, match="version 2 of the format, expected 5"):
        file.read(path)


def test_a_block_that_claims_more_than_it_may_is_refused_before_it_is_read(tmp_path):
    path = written(tmp_path / "a", records(3))
    data = path.read_bytes()
    at = data.index(file.BLOCK)
    path.write_bytes(data[: at + 4] + struct.pack("<III", 1 << 31, 1 << 31, 0) + data[at + 16 :])
    with pytest.raises(file.RecordingError, match="expected at most"):
        file.read(path)


def test_a_compressed_bomb_is_not_unpacked(tmp_path):
    bomb = zlib.compress(bytes([8] * R.WORDS) + bytes(50 << 20))
    path = written(tmp_path / "bomb")
    end = path.read_bytes()
    at = end.index(file.END)
    path.write_bytes(end[:at] + file.BLOCK + struct.pack("<III", 1, len(bomb), zlib.crc32(bomb)) + bomb + end[at:])
    with pytest.raises(file.RecordingError, match="65 bytes, expected 64"):
        file.read(path)


@pytest.mark.parametrize("values", [[0, 0, 0], [1, 100, 3], [5, -300, 5], [1 << 20, 0, 1], [-(1 << 63), (1 << 63) - 1, 0]])
def test_a_column_of_any_width_is_read_back(tmp_path, values):
    made = np.zeros((len(values), R.WORDS), np.int64)
    made[:, R.KIND], made[:, R.A] = R.ACCESS, values
    assert file.read(written(tmp_path / "a", made)).records[:, R.A].tolist() == values


def test_a_kind_that_is_none_is_refused(tmp_path):
    made = records(3)
    made[1, R.KIND] = len(R.KINDS)
    with pytest.raises(file.RecordingError, match=f"record 1 of the block is of kind {len(R.KINDS)}, expected"):
        file.read(written(tmp_path / "a", made))


def test_steady_streams_are_compact(tmp_path):
    made = np.zeros((100_000, R.WORDS), np.int64)
    made[:, R.KIND] = R.ACCESS
    made[:, R.TIME] = np.cumsum(np.random.default_rng(1).integers(2_000, 30_000, len(made)))
    made[:, R.A] = np.random.default_rng(2).integers(0, 1 << 18, len(made)) << 12
    made[:, R.B], made[:, R.D] = 4096, 2
    assert written(tmp_path / "a", made).stat().st_size < 12 * len(made)


def test_pages_are_counted_by_direction(tmp_path):
    made = np.zeros((3, R.WORDS), np.int64)
    made[:, R.KIND] = R.ACCESS
    made[0, [R.A, R.B, R.D]] = 4096, 8192, 2
    made[1, [R.A, R.B, R.D]] = 8191, 2, 1
    made[2, [R.A, R.B, R.D]] = 4096, 1, 2
    found = file.Recording({}, made)
    assert list(file.accesses_per_page(found)) == [(4096, 2, 1), (8192, 1, 1)]


def test_the_timeline_is_what_the_viewers_read(tmp_path):
    rows = [
        (R.OPEN, 1_000, 0, 1 << 20, 0, 0, 0),
        (R.FAULT, 11_000, 0, 8192, 5, 0, R.FAULT_WRITE),
        (R.FAULT, 21_000, 0, 4096, 6, 0, R.FAULT_PREFETCH),
        (R.LOOKED, 51_000, 0, 16384, 4096, 5, 0),
        (R.TAKEN, 52_000, 4096, 8192, 5, 0, 0),
        (R.LOOKED, 61_000, 0, 4096, 4096, 6, 0),
        (R.ACCESS, 61_000, 0, 8192, 0, 1, 7),
        (R.INVALIDATE, 71_000, 0, 4096, 3, 0, 3),
        (R.CHUNK, 92_000, 4096, 8192, 0, 5, 0),
    ]
    count = chrome.write(file.Recording({"device": "x"}, np.array([(0, *row) for row in rows])), tmp_path / "t.json")
    events = json.loads((tmp_path / "t.json").read_text())["traceEvents"]
    assert len(events) == count
    fault, prefetch, populate = (event for event in events if event["ph"] == "X")
    assert (fault["name"], fault["ts"], fault["dur"], fault["args"]["write"], fault["args"]["there"]) == ("fault", 10.0, 40.0, True, 1)
    assert (prefetch["name"], prefetch["tid"]) == ("prefetch", fault["tid"] + 1)
    assert (populate["name"], populate["ts"], populate["dur"]) == ("populate", 51.0, 40.0)
    open_, discard = (event for event in events if event["ph"] == "i")
    assert (open_["name"], discard["name"], discard["args"]["pages zapped"]) == ("open", "DISCARD", 1)
    assert [event["args"] for event in events if event["ph"] == "C"] == [{"read MB": 0.0, "written MB": 0.0082}]
    assert {event["args"]["name"] for event in events if event["ph"] == "M" and event["tid"] == prefetch["tid"]} == {
        "faults, from request to look (2)"
    }


def test_slices_of_a_line_never_overlap(tmp_path):
    random_, rows, time = np.random.default_rng(3), [], 0
    begun = set()
    for _ in range(400):
        time += int(random_.integers(0, 3))
        slot = int(random_.integers(0, 12))
        rows.append((0, R.LOOKED if slot in begun else R.FAULT, time, 0, 4096, 0 if slot in begun else slot, slot, 0))
        begun ^= {slot}
    slices = [event for event in chrome.events(file.Recording({}, np.array(rows))) if event["ph"] == "X"]
    assert len(slices) > 150
    ends = {}
    for event in sorted(slices, key=lambda each: each["ts"]):
        assert event["ts"] >= ends.get(event["tid"], 0) - 1e-6
        ends[event["tid"]] = event["ts"] + event["dur"]
    assert 1 < len(ends) <= 12


def test_a_timeline_of_nothing_is_empty(tmp_path):
    assert list(chrome.events(file.Recording({}, np.zeros((0, R.WORDS), np.int64)))) == []
