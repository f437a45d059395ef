"""Campaigns run to their end, stop, are interrupted and go on, in this process and in a cluster."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time

import pytest

from unpinned import __version__
from unpinned.campaign import CampaignError, Plan, RecordError, executors, run
from unpinned.campaign.executors import Here, executor

PIECES = """
import os, time

def square(x, wait=0.0, log=""):
    if log:
        with open(log, "a") as file:
            file.write(f"{x}\\n")
    time.sleep(wait)
    if x < 0:
        raise ValueError("negative")
    return {"x": x, "square": x * x, "pid": os.getpid()}
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A module that workers can import."""
    (tmp_path / "some_pieces.py").write_text(PIECES)
    monkeypatch.syspath_prepend(str(tmp_path))
    return "some_pieces:square"


def plan(function, numbers, **more):
    return Plan("squares", function, [{"x": x, **more} for x in numbers])


def squares(report):
    return {index: result["square"] for index, result in report.results.items()}


def test_here_every_piece_has_its_result(module):
    report = run(plan(module, range(5)), workers=1, show=False)
    assert squares(report) == {i: i * i for i in range(5)}
    assert report.complete and not report.interrupted and report.resumed == 0 and report.order == [0, 1, 2, 3, 4]


def test_a_piece_that_fails_is_named(module):
    with pytest.raises(CampaignError, match=r"piece 1 .*negative"):
        run(plan(module, [1, -1, 2]), workers=1, show=False)


def test_a_record_and_workers_of_other_code_are_refused(module, tmp_path, monkeypatch):
    """Half of a campaign would be of one code, half of another."""
    import some_pieces

    path, whole = tmp_path / "record", plan(module, range(3))
    monkeypatch.setattr(some_pieces, "code", lambda: "older", raising=False)
    run(whole, workers=1, file=path, stop=lambda result: True, show=False)
    assert run(whole, workers=1, file=path, show=False).resumed == 1
    monkeypatch.setattr(some_pieces, "code", lambda: "newer")
    with pytest.raises(RecordError, match=r"begun with other code \(older; this is newer\)"):
        run(whole, workers=1, file=path, show=False)
    with pytest.raises(CampaignError, match=r"other code of unpinned .* \(newer, not older\)"):
        executors.call(module, __version__, "older", {"x": 1})
    assert executors.call(module, __version__, "newer", {"x": 3})["square"] == 9


def test_stop_ends_it_and_a_second_run_does_the_rest(module, tmp_path):
    path, log = tmp_path / "record", str(tmp_path / "log")
    whole = plan(module, range(6), log=log)
    first = run(whole, workers=1, file=path, show=False, stop=lambda result: result["x"] == 2)
    assert first.stopped and not first.complete and sorted(first.results) == [0, 1, 2]
    second = run(whole, workers=1, file=path, show=False)
    assert second.complete and second.resumed == 3 and second.order == [3, 4, 5]
    assert open(log).read().split() == list("012345"), "a piece ran twice"
    third = run(whole, workers=1, file=path, show=False)
    assert third.complete and third.order == []


def test_a_record_of_another_plan_is_refused(module, tmp_path):
    run(plan(module, range(2)), workers=1, file=tmp_path / "record", show=False)
    with pytest.raises(RecordError, match="another campaign"):
        run(plan(module, range(1, 3)), workers=1, file=tmp_path / "record", show=False)


def test_small_campaigns_start_no_cluster(module):
    assert isinstance(executor(module, scheduler=None, workers=0, pieces=1), Here)
    assert isinstance(executor(module, scheduler=None, workers=1, pieces=100), Here)


@pytest.mark.system
def test_in_a_cluster_of_processes(module, tmp_path):
    report = run(plan(module, range(7), wait=0.05), workers=2, file=tmp_path / "record", show=False)
    assert squares(report) == {i: i * i for i in range(7)} and report.workers == 2
    pids = {result["pid"] for result in report.results.values()}
    assert os.getpid() not in pids and 1 <= len(pids) <= 2
    deadline = time.monotonic() + 10
    while any(os.path.exists(f"/proc/{pid}") for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(os.path.exists(f"/proc/{pid}") for pid in pids), "workers outlive the campaign"


@pytest.mark.system
def test_a_failure_in_a_cluster_is_named_too(module):
    with pytest.raises(CampaignError, match=r"piece 0: ValueError: negative"):
        run(plan(module, [-1, 1], wait=0.01), workers=2, show=False)


@pytest.mark.system
def test_no_scheduler_is_said_so(module, monkeypatch):
    monkeypatch.setattr(executors, "PATIENCE_S", 0.3)
    with pytest.raises(CampaignError, match=r"no Dask cluster with a worker at tcp://127.0.0.1:9"):
        run(plan(module, range(3)), scheduler="tcp://127.0.0.1:9", show=False)


@pytest.mark.system
@pytest.mark.parametrize("address", ["nonsense", "tcp://127.0.0.1", "post://127.0.0.1:9"])
def test_an_address_that_is_none_is_said_so_before_a_client_is_made(module, monkeypatch, address):
    import distributed

    monkeypatch.setattr(distributed, "Client", None)
    with pytest.raises(CampaignError, match=f"no Dask cluster with a worker at {address}: (missing port|unknown address scheme)"):
        run(plan(module, range(3)), scheduler=address, show=False)


@pytest.mark.system
def test_a_campaign_takes_no_port_that_others_may_want(module, recwarn):
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):  # somebody has it already: as good
            stack.enter_context(socket.create_server(("127.0.0.1", 8787)))
        assert run(plan(module, range(3)), workers=2, show=False).complete
    assert [str(each.message) for each in recwarn if "8787" in str(each.message)] == []


@pytest.mark.system
def test_somebody_s_scheduler_does_the_work_and_goes_on_after_a_stop(module, tmp_path):
    from distributed import LocalCluster

    whole = plan(module, range(6))
    with LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=None, processes=True) as cluster:
        where = {"scheduler": cluster.scheduler_address, "file": tmp_path / "record", "show": False}
        first = run(whole, **where, stop=lambda result: True)
        assert first.stopped and len(first.results) == 1
        report = run(whole, **where)
    assert squares(report) == {i: i * i for i in range(6)} and report.workers == 1 and report.resumed == 1


@pytest.mark.system
def test_ctrl_c_keeps_what_is_done(tmp_path):
    (tmp_path / "some_pieces.py").write_text(PIECES)
    script = tmp_path / "campaign.py"
    script.write_text(
        textwrap.dedent("""
        from unpinned.campaign import Plan, run
        if __name__ == "__main__":
            pieces = [{"x": x, "wait": 0.1 if x < 4 else 60.0} for x in range(12)]
            report = run(Plan("squares", "some_pieces:square", pieces), workers=2, file="record", show=False)
            print(report.interrupted, report.complete, sorted(report.results))
        """)
    )
    path = os.pathsep.join([str(tmp_path), *sys.path])
    process = subprocess.Popen(
        [sys.executable, str(script)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    record = tmp_path / "record"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and (not record.exists() or record.read_text().count("\n") < 5):
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all of them
    out, err = process.communicate(timeout=30)
    assert out.split("[")[0].split() == ["True", "False"], err
    assert record.read_text().count("\n") == 5
    assert "Traceback" not in err
