"""What system tests borrow from the machine, each as a context manager that gives it back.

A facility that this machine lacks raises `Missing` with the reason; the fixtures in conftest.py
turn that into a skip. Everything borrowed carries RUN in its name, so that `.ci/run` can find and
remove what a killed test process left behind, and nothing else.
"""

import os

RUN = os.environ.get("UNPINNED_TEST_RUN") or f"u{os.getpid():x}"
"""Short and unique to this run: part of the name of every swap file, cgroup and namespace."""


class Missing(Exception):
    """This machine does not offer what the test needs; the text says why."""


def need_root() -> None:
    """Raise `Missing` unless the process is root."""
    if os.geteuid() != 0:
        raise Missing("needs root")
