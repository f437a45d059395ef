"""Same-page merging by the kernel (KSM), switched on and hurried for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from . import Missing, need_root

FOLDER = Path("/sys/kernel/mm/ksm")
HURRIED = {"pages_to_scan": "2000", "sleep_millisecs": "1", "run": "1"}


def merged_pages() -> int:
    """Pages of this process that are shared with equal ones at the moment."""
    return int(Path("/proc/self/ksm_merging_pages").read_text())


@contextmanager
def merging() -> Iterator[None]:
    """Have ksmd look at what is advised MADV_MERGEABLE."""
    need_root()
    try:
        before = {name: (FOLDER / name).read_text() for name in HURRIED}
        for name, value in HURRIED.items():
            (FOLDER / name).write_text(value)
    except OSError as error:
        raise Missing(f"no same-page merging here: {error}") from None
    try:
        yield
    finally:
        for name, value in before.items():
            (FOLDER / name).write_text(value)
