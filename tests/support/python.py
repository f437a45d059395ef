"""Run a piece of Python in a process of its own: kernels read their environment when they are imported."""

import os
import subprocess
import sys
from pathlib import Path

SOURCES = Path(__file__).resolve().parents[2] / "src"


def run_python(code: str, *, path: Path | None = None, **environment: str) -> str:
    """What *code* prints, with *path* importable and *environment* added; fails with its stderr if it fails."""
    found = os.pathsep.join(str(folder) for folder in (SOURCES, path) if folder)
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": found, **environment},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout
