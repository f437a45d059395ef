"""The command line: fast, narrow, one sentence per error. Every verb is held to the contract."""

import os
import signal
import subprocess
import sys
import types

import pytest

from unpinned import cli

VERBS = cli.verb_names()


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "unpinned", *words], capture_output=True, text=True, timeout=60)


def modules_after(statement: str) -> set[str]:
    code = f"import sys; {statement}; print(*sys.modules)"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())


def test_importing_the_package_loads_no_compiler():
    assert not modules_after("import unpinned") & {"numba", "llvmlite", "numpy", "argparse", "importlib.metadata"}


def test_help_loads_no_compiler_and_fits_the_screen():
    loaded = modules_after("from unpinned import cli; cli.main([])")
    assert not loaded & {"numba", "llvmlite", "numpy", "rich", "matplotlib"}
    text = run("--help").stdout
    assert "examples:" in text
    assert all(f"  {verb} " in text for verb in VERBS)
    assert max(map(len, text.splitlines())) <= cli.WIDTH


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_keeps_the_contract(verb):
    result = run(verb, "--help")
    assert result.returncode == 0, result.stderr
    assert "examples:" in result.stdout and "--json" in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= cli.WIDTH
    assert not modules_after(f"import unpinned.cli.{verb}") & {"numba", "llvmlite", "numpy", "rich", "matplotlib"}


def test_the_version_is_the_package_s():
    import unpinned

    assert run("--version").stdout == f"unpinned {unpinned.__version__}\n"


@pytest.mark.parametrize("words", [["nosuchverb"], ["--nosuchoption"]])
def test_wrong_words_are_named(words):
    result = run(*words)
    assert result.returncode == 2
    assert words[0] in result.stderr


def stand_in(outcome):
    """A verb whose run raises or returns ``outcome``."""

    def body(arguments):
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    module = types.ModuleType("unpinned.cli.standin", "Stand in.")
    module.EXAMPLES = "unpinned standin"
    module.add_arguments = lambda parser: None
    module.run = body
    return module


@pytest.mark.parametrize(
    ("outcome", "status", "sentence"),
    [
        (3, 3, ""),
        (FileNotFoundError(2, "No such file or directory", "x.npy"), 1, "unpinned standin: x.npy: No such file or directory\n"),
        (OSError(98, "port 7 is in use"), 1, "unpinned standin: port 7 is in use\n"),
        (OSError("only a text"), 1, "unpinned standin: only a text\n"),
        (cli.CommandError("nothing listens there"), 1, "unpinned standin: nothing listens there\n"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_what_a_user_causes_ends_in_one_sentence(monkeypatch, capsys, outcome, status, sentence):
    monkeypatch.setattr(cli, "verb_names", lambda: ["standin"])
    monkeypatch.setitem(sys.modules, "unpinned.cli.standin", stand_in(outcome))
    monkeypatch.delenv("UNPINNED_DEBUG", raising=False)
    assert cli.main(["standin"]) == status
    errors = capsys.readouterr().err
    assert sentence in errors and errors.count("\n") <= 1


def test_an_interrupted_import_is_an_interrupt_whatever_it_says(monkeypatch, capsys):
    def load(name):
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            raise ImportError("could not import module") from None

    monkeypatch.setattr(cli, "_load", load)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # the test runner has its own
    try:
        assert cli.main(["doctor"]) == 130
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
    assert capsys.readouterr().err == "unpinned doctor: interrupted\n"


def test_optional_words_are_found_behind_options(monkeypatch):
    seen = []
    perf = cli._load("perf")
    monkeypatch.setattr(perf, "run", lambda arguments: seen.append(arguments) or 0)
    assert cli.main(["perf", "read_bw", "-n", "100", "192.0.2.7", "-a"]) == 0
    assert (seen[0].test, seen[0].host, seen[0].iters, seen[0].all) == ("read_bw", "192.0.2.7", 100, True)


def test_json_takes_numpy_values(capsys):
    import json

    import numpy as np

    from unpinned.cli._output import print_json

    print_json({"count": np.int64(3), "list": np.arange(2), "ratio": np.float32(0.5)})
    assert json.loads(capsys.readouterr().out) == {"count": 3, "list": [0, 1], "ratio": 0.5}


def command(line):
    """A shell's line with `unpinned` in it, as a user's shell has it: stdout buffered."""
    environment = {**os.environ, "PATH": f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}", "PYTHONUNBUFFERED": ""}
    return subprocess.run(["bash", "-c", line], capture_output=True, text=True, env=environment, timeout=120)


@pytest.mark.parametrize("words", ["--help", "--version", "get --help", "doctor --json"])
def test_a_full_stdout_is_said_in_one_sentence(words):
    done = command(f"unpinned {words} > /dev/full")
    verb = "" if words.startswith("-") else f" {words.split()[0]}"
    assert (done.returncode, done.stderr) == (1, f"unpinned{verb}: No space left on device\n")


@pytest.mark.parametrize("words", ["--help", "--version", "get --help"])
def test_a_reader_that_left_is_not_complained_about(words):
    done = command(f"unpinned {words} | true; exit ${{PIPESTATUS[0]}}")
    assert done.returncode in (0, 141) and done.stderr == ""


def test_closed_streams_lead_nowhere():
    done = command("unpinned doctor --json >&-")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    done = command("unpinned get 127.0.0.1:1/x 2>&-")
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "")
