"""unpinned swarm: one seed, a campaign, a case that is replayed, and what is refused."""

import json
import os
import sys

import pytest

from unpinned import cli
from unpinned.swarm import layout as S
from unpinned.swarm.cases import Case, play

pytestmark = pytest.mark.skipif(os.environ.get("NUMBA_BOUNDSCHECK") == "1", reason="compiles for a minute")


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    status = cli.main(["swarm", *words])
    return (status, *capsys.readouterr())


def test_one_seed_with_its_trace(capsys):
    status, out, _ = run(capsys, "--seed", "11", "--trace")
    assert status == 0
    assert " posts " in out and " sends " in out and "every invariant held" in out.splitlines()[-1]
    assert run(capsys, "--seed", "11")[1].splitlines()[-1] == out.splitlines()[-1], "the same world"


def test_a_campaign_goes_on_where_it_was(capsys, tmp_path):
    record = str(tmp_path / "swarm.jsonl")
    words = ["-n", "4", "--first", "20", "--record", record, "--json", "--workers", "1"]
    status, out, _ = run(capsys, *words)
    found = json.loads(out)
    assert status == 0 and found["played"] == 4 and found["complete"] and found["failures"] == []
    assert found["statistics"]["schedules"] == 4
    again = json.loads(run(capsys, *words)[1])
    assert again["statistics"] == found["statistics"] and (found["played_now"], again["played_now"]) == (4, 0)
    assert "4 schedules were played before; 0 schedules in 0.0 s\n" in run(capsys, *words[:-3])[1]
    status, _, err = run(capsys, "-n", "5", "--first", "20", "--record", record)
    assert status == 1 and "of another campaign" in err


def test_settings_are_listed_with_their_bounds(capsys):
    status, out, _ = run(capsys, "--set", "help")
    assert status == 0 and "mtu         256 to 1024" in out and max(map(len, out.splitlines())) < 80
    assert json.loads(run(capsys, "--set", "help", "--json")[1])["policy"]["most"] == 2


@pytest.mark.compiled_only
def test_a_failure_is_kept_and_replays(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = {"loss": 4_000, "touch_limit": 6, "strict": 1, "retry": 0, "unmaps": 0, "ops": 6}
    seed = next(s for s in range(1, 60) if play(Case(s, settings=settings)).verdict == S.VIOLATION_ERROR)
    words = [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]
    status, out, err = run(capsys, "-n", "1", "--first", str(seed), *words)
    assert status == 1 and "1 broke an invariant" in out and f"swarm-{seed}.json" in err
    status, out, _ = run(capsys, "--replay", f"swarm-{seed}.json", "--trace")
    assert status == 1 and "failed without a reason" in out and "LOST" in out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--hosts", "1"], "hosts=1: must be between"),
        (["--set", "nonsense=1"], "nonsense=1"),
        (["--set", "loss=x"], "loss=x"),
        (["--set", "policy=99"], "policy=99: must be between 0 and 2"),
        (["--set", "delay_ns=99999999999999999999"], "delay_ns=99999999999999999999: must be between"),
        (["--seed", "-1"], "seed=-1"),
        (["--first", str(1 << 62)], "seed=4611686018427387904"),
        (["-n", "0"], "--schedules 0"),
        (["--replay", "/dev/null"], "a case is JSON"),
        (["--replay", sys.executable], "a case is JSON"),
        (["--workers", "-3"], "--workers -3: must be between"),
    ],
)
def test_what_cannot_be_is_named(capsys, words, says):
    status, _, err = run(capsys, *words)
    assert status == 1 and says in err
