"""The file of a recording: a header, compressed blocks of records, an end.

    "unpinrec"  u16 version  u16 0  u32 n  n bytes of JSON (settings of the device)  u32 CRC-32 of all this
    "BLCK"      u32 records  u32 n  u32 CRC-32 of what follows  n bytes: zlib of the records' words, as differences down columns
    ...
    "DONE"      u32 n  n bytes of JSON (what the device counted)  u32 CRC-32 of it

Little-endian. A file without its end was cut off and is refused, and so is one whose checksums do not hold, with where and
what was expected. A record costs 6 to 12 bytes.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np

from unpinned.recording import layout as R
from unpinned.recording.layout import Words

MAGIC: Final = b"unpinrec"
VERSION: Final = 2
BLOCK: Final = b"BLCK"
END: Final = b"DONE"
BLOCK_RECORDS: Final = 1 << 16
JSON_MAX: Final = 1 << 20
BLOCK_BYTES_MAX: Final = BLOCK_RECORDS * R.WORDS * 8 * 2


class RecordingError(ValueError):
    """The file is no recording, or not a whole one: where, and what was expected."""


@dataclass
class Recording:
    """A recording in memory: its records in the order in which things happened."""

    header: dict[str, Any]
    records: Words
    end: dict[str, Any] = field(default_factory=dict)

    def of(self, kind: int) -> Words:
        """The records of one kind."""
        return self.records[self.records[:, R.KIND] == kind]

    @property
    def seconds(self) -> float:
        """From the earliest record to the latest."""
        times = self.records[:, R.TIME]
        return float(times.max() - times.min()) / 1e9 if len(times) else 0.0


class Writer:
    """Writes a recording as records come. `close` makes it whole."""

    def __init__(self, path: str | Path, header: dict[str, Any]) -> None:
        self._file: BinaryIO = open(path, "wb", buffering=0)  # a forked child has nothing to flush
        self._waiting: list[Words] = []
        self._count = 0
        self.records = 0
        text = json.dumps(header).encode()
        head = MAGIC + struct.pack("<HHI", VERSION, 0, len(text)) + text
        self._file.write(head + struct.pack("<I", zlib.crc32(head)))

    def add(self, records: Words) -> None:
        """Take rows; they are written a block at a time."""
        if len(records):
            self._waiting.append(records)
            self._count += len(records)
        if self._count >= BLOCK_RECORDS:
            self.flush()

    def flush(self) -> None:
        """Write what waits."""
        rows = np.concatenate(self._waiting) if self._waiting else np.zeros((0, R.WORDS), np.int64)
        self._waiting, self._count = [], 0
        for first in range(0, len(rows), BLOCK_RECORDS):
            some = rows[first : first + BLOCK_RECORDS]
            data = zlib.compress(np.ascontiguousarray(np.diff(some, axis=0, prepend=0).T).tobytes(), 1)
            self._file.write(BLOCK + struct.pack("<III", len(some), len(data), zlib.crc32(data)) + data)
            self.records += len(some)
        self._file.flush()

    def close(self, end: dict[str, Any]) -> None:
        """Write the end and close. Idempotent."""
        if self._file.closed:
            return
        self.flush()
        text = json.dumps(end).encode()
        self._file.write(END + struct.pack("<I", len(text)) + text + struct.pack("<I", zlib.crc32(text)))
        self._file.close()


def read(path: str | Path) -> Recording:
    """The whole recording.

    Raises:
        RecordingError: not a recording, another version, cut off or damaged: says where and what was expected.
        OSError: no such file.
    """
    with open(path, "rb") as file:
        header = _read_header(file)
        blocks: list[Words] = []
        end = _read_blocks(file, blocks)
        if file.read(1):
            raise RecordingError(f"byte {file.tell() - 1}: expected the end of the file after its end mark")
    records = np.concatenate(blocks) if blocks else np.zeros((0, R.WORDS), np.int64)
    wrong = np.flatnonzero((records[:, R.KIND] < R.ACCESS) | (records[:, R.KIND] >= len(R.KINDS)))
    if wrong.size:
        raise RecordingError(f"record {wrong[0]}: kind {records[wrong[0], R.KIND]}, expected {R.ACCESS} to {len(R.KINDS) - 1}")
    return Recording(header, records, end)


def _read_header(file: BinaryIO) -> dict[str, Any]:
    magic = file.read(len(MAGIC))
    if magic != MAGIC:
        raise RecordingError(f"not a recording: it begins with {magic!r}, expected {MAGIC!r}")
    fixed = _exactly(file, 8, "a header")
    version, _, length = struct.unpack("<HHI", fixed)
    if version != VERSION:
        raise RecordingError(f"version {version} of the format, expected {VERSION}")
    if length > JSON_MAX:
        raise RecordingError(f"a header of {length} bytes, expected at most {JSON_MAX}")
    text = _exactly(file, length, "a header")
    _check(file, magic + fixed + text, "the header")
    return _json(text, "the header")


def _read_blocks(file: BinaryIO, blocks: list[Words]) -> dict[str, Any]:
    """Every block into `blocks`; what the end says."""
    while True:
        at = file.tell()
        mark = _exactly(file, 4, f"a block or the end after {sum(map(len, blocks))} records")
        if mark == END:
            (length,) = struct.unpack("<I", _exactly(file, 4, "the end"))
            if length > JSON_MAX:
                raise RecordingError(f"an end of {length} bytes, expected at most {JSON_MAX}")
            text = _exactly(file, length, "the end")
            _check(file, text, "the end")
            return _json(text, "the end")
        if mark != BLOCK:
            raise RecordingError(f"byte {at}: found {mark!r}, expected {BLOCK!r} or {END!r}")
        count, length, crc = struct.unpack("<III", _exactly(file, 12, "a block"))
        if not 0 < count <= BLOCK_RECORDS or length > BLOCK_BYTES_MAX:
            raise RecordingError(f"byte {at}: a block of {count} records in {length} bytes, expected at most {BLOCK_RECORDS}")
        data = _exactly(file, length, "a block")
        if zlib.crc32(data) != crc:
            raise RecordingError(f"byte {at}: checksum {zlib.crc32(data):08x} of a block, expected {crc:08x}")
        blocks.append(_unpack(data, count, at))


def _unpack(data: bytes, count: int, at: int) -> Words:
    size = count * R.WORDS * 8
    try:
        raw = zlib.decompressobj().decompress(data, size + 1)
    except zlib.error as error:
        raise RecordingError(f"byte {at}: a block that cannot be unpacked: {error}") from None
    if len(raw) != size:
        raise RecordingError(f"byte {at}: a block of {len(raw)} bytes, expected {size}")
    return np.cumsum(np.frombuffer(raw, "<i8").reshape(R.WORDS, count).T, axis=0)


def _exactly(file: BinaryIO, count: int, what: str) -> bytes:
    data = file.read(count)
    if len(data) < count:
        raise RecordingError(f"cut off at byte {file.tell()}: expected {what}")
    return data


def _check(file: BinaryIO, data: bytes, what: str) -> None:
    (crc,) = struct.unpack("<I", _exactly(file, 4, f"the checksum of {what}"))
    if zlib.crc32(data) != crc:
        raise RecordingError(f"checksum {zlib.crc32(data):08x} of {what}, expected {crc:08x}")


def _json(text: bytes, what: str) -> dict[str, Any]:
    try:
        made = json.loads(text)
    except ValueError as error:
        raise RecordingError(f"{what}: {error}") from None
    if not isinstance(made, dict):
        raise RecordingError(f"{what}: expected an object")
    return made


def accesses_per_page(recording: Recording, page: int = 4096) -> Iterator[tuple[int, int, int]]:
    """(page address, reads, writes) of every page that was touched, in order of address."""
    runs = recording.of(R.ACCESS)
    if not len(runs):
        return
    first = runs[:, R.A] // page
    pages = (runs[:, R.A] + runs[:, R.B] - 1) // page - first + 1
    each = np.repeat(first - np.cumsum(pages) + pages, pages) + np.arange(int(pages.sum()))
    reads = np.repeat(runs[:, R.D] == 2, pages)
    found, index = np.unique(each, return_inverse=True)
    counts = [np.bincount(index, weights=mask, minlength=found.size).astype(int) for mask in (reads, ~reads)]
    yield from zip((found * page).tolist(), counts[0].tolist(), counts[1].tolist())
