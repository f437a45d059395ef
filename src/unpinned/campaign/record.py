"""The file of a campaign: a line of JSON that says what it is, then one line a result.

Lines are appended as results come, each in one write. A process that dies leaves at most one line that is cut short: it is
dropped, and its piece is run again. A file of another campaign is refused, never overwritten.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

FORMAT = "unpinned campaign 1"


class RecordError(ValueError):
    """The file is not one of this campaign: says what was found and what was expected."""


def fingerprint(function: str, pieces: Sequence[Mapping[str, Any]]) -> str:
    """Names what is to be computed: the function and the arguments of all its calls."""
    digest = hashlib.sha256(function.encode())
    for piece in pieces:
        digest.update(json.dumps(piece, sort_keys=True).encode() + b"\n")
    return digest.hexdigest()[:16]


class Record:
    """Results by piece, kept in *path* if there is one.

    Raises:
        RecordError: the file is something else, or of another campaign.
    """

    def __init__(self, path: Path | None, header: Mapping[str, Any]) -> None:
        self.results: dict[int, Any] = {}
        self._file: int | None = None
        if path is None:
            return
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            good = self._read(path, {"format": FORMAT, **header})
        except BaseException:
            self.close()
            raise
        os.ftruncate(self._file, good)
        os.lseek(self._file, good, os.SEEK_SET)
        if good == 0:
            self._append({"format": FORMAT, **header})

    def _read(self, path: Path, header: Mapping[str, Any]) -> int:
        """Take in what is there; the length of its whole lines, bytes."""
        good = 0
        for number, line in enumerate(path.read_bytes().splitlines(keepends=True)):
            try:
                entry = json.loads(line) if line.endswith(b"\n") else None
            except ValueError:
                entry = None
            if number == 0:
                self._compare(path, entry, header)
            elif not isinstance(entry, dict) or "piece" not in entry:
                break  # cut short: from here on nothing can be trusted
            else:
                self.results[int(entry["piece"])] = entry["result"]
            good += len(line)
        return good

    @staticmethod
    def _compare(path: Path, found: Any, header: Mapping[str, Any]) -> None:
        if not isinstance(found, dict) or found.get("format") != FORMAT:
            raise RecordError(f"{path}: not the record of a campaign (its first line is to say {FORMAT!r})")
        for key, expected in header.items():
            if found.get(key) != expected and key == "code":
                raise RecordError(
                    f"{path}: begun with other code ({found.get(key)}; this is {expected}), whose results would be mixed with this one's:"
                    " begin a new record, or go on with the code that began it"
                )
            if found.get(key) != expected and key == "fingerprint":
                raise RecordError(f"{path}: of another campaign: begun with other arguments, or a file among them has changed since")
            if found.get(key) != expected:
                raise RecordError(f"{path}: of another campaign: its {key} is {found.get(key)!r}, not {expected!r}")

    def add(self, piece: int, result: Any) -> None:
        """Keep a result."""
        self.results[piece] = result
        self._append({"piece": piece, "result": result})

    def _append(self, entry: Mapping[str, Any]) -> None:
        if self._file is not None:
            os.write(self._file, json.dumps(entry).encode() + b"\n")

    def close(self) -> None:
        """Give the file back."""
        if self._file is not None:
            os.close(self._file)
            self._file = None
