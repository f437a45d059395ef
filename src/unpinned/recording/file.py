"""The file of a recording: a header, compressed blocks of records, an end.

    "unpinrec"  u16 version  u16 0  u32 n  n bytes of JSON (settings of the device)  u32 CRC-32 of all this
    "BLCK"      u32 records  u32 n  u32 CRC-32 of what follows  n bytes: zlib of 8 widths, then the columns
    "SUMS"      u32 n  n bytes of JSON (what the device had counted after the records so far)  u32 CRC-32 of it
    ...
    "DONE"      u32 n  n bytes of JSON (the same, of all)  u32 CRC-32 of it

Little-endian. A column is the differences of one word from record to record, each of so many bytes (0, 1, 2, 4, 8) as its width
says. Sums come first of all and again every few blocks, so that a file whose writer was killed is whole up to the last of
them. A file without its end is refused, unless that part is asked for; so is one whose checksums do not hold, with where and
what was expected. A record costs 4 to 10 bytes.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import stat
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Final, NoReturn

import numpy as np

from unpinned.recording import layout as R
from unpinned.recording.layout import Words

MAGIC: Final = b"unpinrec"
VERSION: Final = 5
BLOCK: Final = b"BLCK"
SUMS: Final = b"SUMS"
END: Final = b"DONE"
BLOCK_RECORDS: Final = 1 << 16
RECORDS_MAX: Final = 1 << 26
"""So many are replayed: 4 GiB of memory."""
JSON_MAX: Final = 1 << 20
BLOCK_BYTES_MAX: Final = BLOCK_RECORDS * R.WORDS * 8 * 2
WIDTHS: Final = (1, 2, 4, 8)


class RecordingError(ValueError):
    """The file is no recording, or not a whole one: where, and what was expected."""


class CutOffError(RecordingError):
    """The file ends too early."""


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
    """Writes a recording as records come. `flush` with sums makes it whole so far, `close` altogether.

    Raises:
        OSError: EBUSY while somebody else writes to the file, EEXIST when it is there and no recording, EINVAL when it is not a
            regular file, and what the system says. What was whole before stays so.
    """

    def __init__(self, path: str | Path, header: dict[str, Any], sums: dict[str, Any] | None = None) -> None:
        self._file = _open(path)
        self._waiting: list[Words] = []
        self._count = 0
        self._whole = 0  # so many bytes are whole, with their sums
        self._sums: dict[str, Any] | None = None
        self.records = 0
        text = json.dumps(header).encode()
        head = MAGIC + struct.pack("<HHI", VERSION, 0, len(text)) + text
        try:
            self._write(head + struct.pack("<I", zlib.crc32(head)))
            self.flush(sums)
        except OSError:
            os.close(self._file)
            raise

    def add(self, records: Words) -> None:
        """Take rows; they are written a block at a time."""
        if len(records):
            self._waiting.append(records)
            self._count += len(records)
        if self._count >= BLOCK_RECORDS:
            self.flush()

    def flush(self, sums: dict[str, Any] | None = None) -> None:
        """Write what waits; with *sums*, what the device has counted with it: so far the file is whole then."""
        rows = np.concatenate(self._waiting) if self._waiting else np.zeros((0, R.WORDS), np.int64)
        self._waiting, self._count = [], 0
        for first in range(0, len(rows), BLOCK_RECORDS):
            some = rows[first : first + BLOCK_RECORDS]
            data = zlib.compress(_pack(some), 1)
            self._write(BLOCK + struct.pack("<III", len(some), len(data), zlib.crc32(data)) + data)
            self.records += len(some)
        if sums is not None:
            self._write(_json_part(SUMS, sums))
            self._whole, self._sums = os.lseek(self._file, 0, os.SEEK_CUR), sums

    def close(self, end: dict[str, Any]) -> None:
        """Write the end and close. Idempotent."""
        if self._file < 0:
            return
        try:
            self.flush()
            self._write(_json_part(END, end))
        except OSError as error:
            self.abandon(error)
            raise
        self._close()

    def abandon(self, error: OSError) -> None:
        """Close after *error*, with an end after the last sums if there is room: the file says why there is no more."""
        if self._file < 0:
            return
        try:
            os.ftruncate(self._file, self._whole)
            os.lseek(self._file, self._whole, os.SEEK_SET)
            if self._sums is not None:
                self._write(_json_part(END, self._sums | {"stopped": error.strerror}))
        except OSError:
            pass  # whole up to the last sums all the same
        self._close()

    def _close(self) -> None:
        file, self._file = self._file, -1
        fcntl.flock(file, fcntl.LOCK_UN)  # for forked children too
        os.close(file)

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(self._file, view) :]


def claim(path: str | Path) -> None:
    """Fail now if a `Writer` could not begin: its OSErrors. The file is there afterwards, empty."""
    os.close(_open(path))


def _open(path: str | Path) -> int:
    """The file, empty and ours alone."""

    def refuse(code: int, why: str) -> NoReturn:
        os.close(file)
        raise OSError(code, why, os.fspath(path))

    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK, 0o666)
    if not stat.S_ISREG(os.fstat(file).st_mode):
        refuse(errno.EINVAL, "a recording needs a regular file")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        refuse(errno.EBUSY, "another device is being recorded to it")
    found = os.read(file, len(MAGIC))
    if found and found != MAGIC:
        refuse(errno.EEXIST, "it exists and is no recording; it is left alone")
    os.ftruncate(file, 0)
    os.lseek(file, 0, os.SEEK_SET)
    return file


def _json_part(mark: bytes, content: dict[str, Any]) -> bytes:
    text = json.dumps(content).encode()
    return mark + struct.pack("<I", len(text)) + text + struct.pack("<I", zlib.crc32(text))


def _pack(rows: Words) -> bytes:
    columns = np.diff(np.ascontiguousarray(rows.T), axis=1, prepend=0)
    widths = [_width(int(column.min()), int(column.max())) for column in columns]
    return bytes(widths) + b"".join(column.astype(f"<i{width}").tobytes() for column, width in zip(columns, widths) if width)


def _width(least: int, most: int) -> int:
    if least == most == 0:
        return 0
    return next(width for width in WIDTHS if -(1 << 8 * width - 1) <= least and most < 1 << 8 * width - 1)


def read(path: str | Path, partial: bool = False) -> Recording:
    """The whole recording; with *partial*, of one that was cut off what is whole.

    Raises:
        RecordingError: not a recording, another version, cut off or damaged: says where and what was expected.
        OSError: no such file.
    """
    with open(path, "rb") as file:
        header = _read_header(file)
        blocks: list[Words] = []
        try:
            end = _read_blocks(file, blocks, whole := _Whole())
        except CutOffError as error:
            if whole.end is None:
                raise RecordingError(f"{error}; nothing before it is whole") from None
            if not partial:
                raise RecordingError(f"{error}; {whole.records:,} records before it are whole") from None
            end = whole.end | {"stopped": "the file was cut off"}
            blocks = blocks[: whole.blocks]
        else:
            if file.read(1):
                raise RecordingError(f"byte {file.tell() - 1}: expected the end of the file after its end mark")
    records = np.concatenate(blocks) if blocks else np.zeros((0, R.WORDS), np.int64)
    return Recording(header, records, end)


@dataclass
class _Whole:
    """How far a file is whole: at its last sums."""

    end: dict[str, Any] | None = None
    blocks: int = 0
    records: int = 0


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


def _read_blocks(file: BinaryIO, blocks: list[Words], whole: _Whole) -> dict[str, Any]:
    """Every block into `blocks`; what the end says."""
    records = 0
    while True:
        at = file.tell()
        mark = _exactly(file, 4, f"a block or the end after {records:,} records")
        if mark in (SUMS, END):
            what = "the end" if mark == END else "sums"
            (length,) = struct.unpack("<I", _exactly(file, 4, what))
            if length > JSON_MAX:
                raise RecordingError(f"byte {at}: {what} of {length} bytes, expected at most {JSON_MAX}")
            text = _exactly(file, length, what)
            _check(file, text, what)
            whole.end, whole.blocks, whole.records = _json(text, what), len(blocks), records
            if mark == END:
                return whole.end
            continue
        if mark != BLOCK:
            raise RecordingError(f"byte {at}: found {mark!r}, expected {BLOCK!r}, {SUMS!r} or {END!r}")
        count, length, crc = struct.unpack("<III", _exactly(file, 12, "a block"))
        if not 0 < count <= BLOCK_RECORDS or length > BLOCK_BYTES_MAX:
            raise RecordingError(f"byte {at}: a block of {count} records in {length} bytes, expected at most {BLOCK_RECORDS}")
        data = _exactly(file, length, "a block")
        if zlib.crc32(data) != crc:
            raise RecordingError(f"byte {at}: checksum {zlib.crc32(data):08x} of a block, expected {crc:08x}")
        records += count
        if records > RECORDS_MAX:
            raise RecordingError(f"byte {at}: more than {RECORDS_MAX:,} records, expected at most so many")
        blocks.append(_unpack(data, count, at))


def _unpack(data: bytes, count: int, at: int) -> Words:
    unpacking = zlib.decompressobj()
    try:
        widths = unpacking.decompress(data, R.WORDS)
        if len(widths) != R.WORDS or any(width not in (0, *WIDTHS) for width in widths):
            raise RecordingError(f"byte {at}: columns of {widths.hex(' ')} bytes, expected 8 of 0, 1, 2, 4 or 8")
        size = count * sum(widths)
        raw = unpacking.decompress(unpacking.unconsumed_tail, size + 1)
    except zlib.error as error:
        raise RecordingError(f"byte {at}: a block that cannot be unpacked: {error}") from None
    if len(raw) != size:
        raise RecordingError(f"byte {at}: a block of {len(raw)} bytes, expected {size}")
    made = np.zeros((R.WORDS, count), np.int64)
    for column, width in enumerate(widths):
        if width:
            made[column] = np.frombuffer(raw, f"<i{width}", count)
            raw = raw[count * width :]
    rows = np.ascontiguousarray(np.cumsum(made, axis=1).T)
    wrong = np.flatnonzero((rows[:, R.KIND] < R.ACCESS) | (rows[:, R.KIND] >= len(R.KINDS)))
    if wrong.size:
        kind = rows[wrong[0], R.KIND]
        raise RecordingError(f"byte {at}: record {wrong[0]} of the block is of kind {kind}, expected {R.ACCESS} to {len(R.KINDS) - 1}")
    return rows


def _exactly(file: BinaryIO, count: int, what: str) -> bytes:
    data = file.read(count)
    if len(data) < count:
        raise CutOffError(f"cut off at byte {file.tell():,}: expected {what}")
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
