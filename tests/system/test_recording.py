"""The live recorder: what the device did is in the file, and the model predicts it."""

import errno
import mmap
import os
import resource
import time

import numpy as np
import pytest

from support.verbs import ALL, pair
from unpinned import verbs as v
from unpinned.host.owned import empty
from unpinned.host.trust import HORIZON_NS
from unpinned.paging import layout as P
from unpinned.recording import file
from unpinned.recording import layout as R
from unpinned.study.replay import replay

pytestmark = [pytest.mark.system, pytest.mark.compiled_only]
PAGE = mmap.PAGESIZE


def traffic(a, mr, random, count, pages, most=16):
    """That many requests, one after the other; where each ends, as `ends` finds it."""
    made = set()
    for _ in range(count):
        length = int(random.integers(1, most * PAGE))
        at = int(random.integers(0, pages * PAGE - length))
        opcode = v.IBV_WR_RDMA_WRITE if random.random() < 0.3 else v.IBV_WR_RDMA_READ
        a.remote(opcode, mr, 0, at, length)
        a.wait()
        made.add(at + length)
    return made


def ends(recording, mr):
    """Where recorded messages end, in bytes of the region. A set: one that was sent again has been accessed twice, and one
    whose copies took more than a millisecond has several records, of which the last has nothing left.
    """
    base = mr.region.mapping.table_base
    return {a + length - base for _, _, _, a, length, left, *_ in recording.of(R.ACCESS).tolist() if left == 0}


def test_what_the_device_did_is_recorded_and_predicted(tmp_path):
    random, pages = np.random.default_rng(1), 512
    with pair(buffer=1 << 20) as (a, b):
        recorder = b.context.device.record(tmp_path / "live.rec")
        with v.MR(b.pd, memory := empty(pages * PAGE, np.uint8), ALL) as mr:
            for _ in range(8):
                traffic(a, mr, random, 60, pages)
                first = int(random.integers(0, pages - 64)) * PAGE
                discard(memory, first, 64 * PAGE)
                time.sleep(0.03)  # what is older than the horizon is looked up again
            counted = P.view(b.context.device.p, "totals")[0].copy()
        assert recorder.stop() > 0
    found = file.read(tmp_path / "live.rec")
    assert found.end["lost"] == 0
    assert found.end["totals"]["faults_read"] == counted["faults_read"]
    runs = found.of(R.ACCESS)
    assert set(runs[:, R.D]) == {P.OP_READ, P.OP_WRITE}
    assert len(found.of(R.INVALIDATE)) == counted["invalidations"].sum() + 1  # and the region's own end
    result = replay(found)
    differences = {figure.name: (figure.recorded, figure.predicted) for figure in result.figures}
    assert result.within, differences
    assert result.unserved == 0
    assert differences["faults"][0] > 20


def test_a_device_that_is_recorded_learns_to_trust_as_any_other(tmp_path):
    """The horizon grows while a hot range is read; the recording says when, so that the model's entries are as old."""
    with pair(buffer=1 << 20) as (a, b), v.MR(b.pd, memory := empty(64 * PAGE, np.uint8), ALL) as mr:
        memory[:] = 1
        recorder = b.context.device.record(tmp_path / "live.rec")
        until = time.monotonic() + 30
        while b.context.device.p[P.HORIZON_NS] < 8 * HORIZON_NS and time.monotonic() < until:
            a.remote(v.IBV_WR_RDMA_READ, mr, 0, 0, 64 * PAGE)
            a.wait()
        recorder.stop()
    found = file.read(tmp_path / "live.rec")
    horizons = (found.of(R.HORIZON)[:, R.A] // HORIZON_NS).tolist()
    assert horizons[0] == 1 and horizons[-1] == 8
    assert all(after in (2 * before, 1) for before, after in zip(horizons, horizons[1:])), "doubled, or begun anew"
    result = replay(found)
    assert result.within, {figure.name: (figure.recorded, figure.predicted) for figure in result.figures}


def discard(array, offset, length):
    """MADV_DONTNEED of a part of an array, which the device is told of."""
    from unpinned.host import system

    system.advise(array.ctypes.data + offset, length, mmap.MADV_REMOVE)


def test_a_large_message_is_one_fault_in_the_recording_and_in_the_model(tmp_path):
    with pair(buffer=4 << 20) as (a, b):
        recorder = b.context.device.record(tmp_path / "live.rec")
        with v.MR(b.pd, empty(4 << 20, np.uint8), ALL) as mr:
            a.remote(v.IBV_WR_RDMA_WRITE, mr, 0, 0, 4 << 20)
            a.wait()
        recorder.stop()
    result = replay(file.read(tmp_path / "live.rec"))
    assert result.bytes == 4 << 20
    assert result.figures[0].recorded == result.figures[0].predicted


def test_one_recording_at_a_time_and_a_new_one_after_it(tmp_path):
    with v.Context() as context:
        first = context.device.record(tmp_path / "1")
        with pytest.raises(OSError) as error:
            context.device.record(tmp_path / "2")
        assert error.value.errno == errno.EBUSY
        first.stop()
        context.device.record(tmp_path / "2")
    assert file.read(tmp_path / "1").end["lost"] == file.read(tmp_path / "2").end["lost"] == 0


def test_a_full_disk_ends_the_recording_and_not_the_device(tmp_path):
    random, before = np.random.default_rng(1), resource.getrlimit(resource.RLIMIT_FSIZE)
    with pair(buffer=1 << 20) as (a, b), v.MR(b.pd, empty(64 * PAGE, np.uint8), ALL) as mr:
        device = b.context.device
        recorder = device.record(tmp_path / "full")
        resource.setrlimit(resource.RLIMIT_FSIZE, (os.path.getsize(tmp_path / "full") + 2_000, before[1]))
        try:
            traffic(a, mr, random, 400, 64)
            until = time.monotonic() + 30
            while recorder.active and time.monotonic() < until:
                time.sleep(0.01)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert recorder.error.errno == errno.EFBIG
        traffic(a, mr, random, 20, 64)
        again = device.record(tmp_path / "more")  # there is room again
        made = traffic(a, mr, random, 20, 64)
        with pytest.raises(OSError, match="the recording ends early: .*full"):
            recorder.stop()
        made |= traffic(a, mr, random, 20, 64)
        again.stop()
    assert file.read(tmp_path / "full").end["stopped"] == os.strerror(errno.EFBIG)
    assert ends(file.read(tmp_path / "more"), mr) == made


def test_a_recording_is_whole_while_it_is_written(tmp_path):
    """What a kill leaves: up to a second ago."""
    random = np.random.default_rng(1)
    with pair(buffer=1 << 20) as (a, b), v.MR(b.pd, empty(64 * PAGE, np.uint8), ALL) as mr:
        recorder = b.context.device.record(path := tmp_path / "live.rec")
        assert len(file.read(path, partial=True).records) == 0
        made = traffic(a, mr, random, 50, 64)
        until = time.monotonic() + 30
        while ends(found := file.read(path, partial=True), mr) != made and time.monotonic() < until:
            time.sleep(0.05)
        assert recorder.active
        recorder.stop()
        assert ends(found, mr) == made
    assert replay(found).stopped == "the file was cut off"


def test_a_file_that_cannot_be_written_is_an_oserror(tmp_path):
    with v.Context() as context, pytest.raises(FileNotFoundError):
        context.device.record(tmp_path / "no" / "where")
