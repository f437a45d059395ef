"""What can be served, and the region that its bytes become: arrays are reached as `host.memory` finds best, files through a
mapping of our own. Nothing is read, copied or brought in.

Arrays must be contiguous (C or Fortran order): of any other, the bytes between the items would be open to the peer as well.
A memory map (`numpy.memmap`) is an array: "r" and "r+" are reached through an alias of the mapping, "c" (copy on write) where
it is, because its changes exist nowhere else.
"""

from __future__ import annotations

import errno
import math
import os
import stat
from collections.abc import Mapping as Map
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from unpinned.remote.descriptions import ARRAYS_MAX, NAME_LENGTH_MAX, Description, unshareable
from unpinned.verbs import (
    IBV_ACCESS_LOCAL_WRITE,
    IBV_ACCESS_ON_DEMAND,
    IBV_ACCESS_REMOTE_ATOMIC,
    IBV_ACCESS_REMOTE_READ,
    IBV_ACCESS_REMOTE_WRITE,
    MR,
    PD,
    FileMR,
)

READING = IBV_ACCESS_ON_DEMAND | IBV_ACCESS_REMOTE_READ
WRITING = READING | IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_REMOTE_ATOMIC
_OUR_OWN = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EINTR)
"""What an open fails with when we lack something: it says nothing of the file."""
_FOR_A_RAW_ONE = "; for a raw one give dtype and shape (RawFile, --dtype)"


@dataclass(frozen=True)
class RawFile:
    """A file without a header: *dtype* and *shape* say what it holds, from byte *offset* on.

    One length of *shape* may be -1; None is all that fits, in one dimension.
    """

    path: str | os.PathLike[str]
    dtype: DTypeLike
    shape: int | tuple[int, ...] | None = None
    offset: int = 0


Servable = NDArray[Any] | str | os.PathLike[str] | RawFile


@dataclass(frozen=True)
class Guard:
    """Notices that a served file is no longer the one that was opened."""

    path: Path
    identity: tuple[int, int]
    """Device and inode."""
    end: int
    """Bytes that it must have."""
    header: bytes = b""
    """What it must begin with."""

    def problem(self) -> str:
        """What happened to the file, as a sentence; "" when nothing did."""
        try:
            with open(self.path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
                status = os.fstat(file.fileno())
                if (status.st_dev, status.st_ino) != self.identity:
                    return f"the file {self.path} was replaced by another while it was served"
                if status.st_size < self.end:
                    return f"the file {self.path} shrank to {status.st_size} bytes while it was served"
                if file.read(len(self.header)) != self.header:
                    return f"the file {self.path} was overwritten while it was served"
        except OSError as error:
            if error.errno in _OUR_OWN:
                return ""
            return f"the file {self.path} cannot be opened any more ({error.strerror})"
        return ""


@dataclass
class Source:
    """Something that can be served."""

    description: Description
    """Without address and key: those are the region's."""
    array: NDArray[Any] | None = None
    """An array in this process, or else a file: bytes [offset, offset + nbytes) of ``guard.path``."""
    guard: Guard | None = None
    offset: int = 0

    @property
    def name(self) -> str:
        return self.description.name

    def register(self, pd: PD) -> MR | None:
        """Its region; none when it has no bytes. OSError names it."""
        access = WRITING if self.description.writable else READING
        if not self.description.nbytes:
            return None
        try:
            if self.array is not None:
                return MR(pd, self.array, access)
            assert self.guard is not None
            mr = FileMR(pd, self.guard.path, access, self.offset, self.description.nbytes)
        except OSError as error:
            about = f" {error.filename}:" if error.filename else ""
            raise OSError(error.errno, f"array {self.name!r}:{about} {error.strerror}") from None
        problem = self.guard.problem()  # between the look at its header and the mapping, too
        if problem:
            mr.close()
            raise OSError(errno.ESTALE, f"array {self.name!r}: {problem}")
        return mr


def open_sources(arrays: Map[str, Servable], writable: bool | Any = False) -> list[Source]:
    """A source for each name.

    *writable*: True, or the names that may be written. TypeError, ValueError and OSError name the array.
    """
    if len(arrays) > ARRAYS_MAX:
        raise ValueError(f"{len(arrays)} arrays; one server serves at most {ARRAYS_MAX}")
    chosen = set(arrays) if writable is True else {writable} if isinstance(writable, str) else set(writable or ())
    if chosen - set(arrays):
        raise ValueError(f"writable: nothing is served under the name {sorted(chosen - set(arrays))[0]!r}")
    return [open_source(check_name(name), what, name in chosen) for name, what in arrays.items()]


def check_name(name: str) -> str:
    """A name that can be written in an address; ValueError otherwise."""
    if not isinstance(name, str) or not 0 < len(name) <= NAME_LENGTH_MAX or not name.isprintable() or set(name) & set("[]"):
        raise ValueError(f"{name!r} is no name for an array: 1 to {NAME_LENGTH_MAX} printable characters without brackets")
    return name


def open_source(name: str, what: Servable, writable: bool) -> Source:
    if isinstance(what, np.ndarray):
        return _from_array(name, what, writable)
    if isinstance(what, RawFile):
        return _from_raw(name, what, writable)
    if isinstance(what, (str, os.PathLike)):
        return _from_npy(name, Path(what), writable)
    raise TypeError(f"array {name!r}: a NumPy array, a path or a RawFile can be served, not {type(what).__name__}")


def _from_array(name: str, array: NDArray[Any], writable: bool) -> Source:
    _check_dtype(name, array.dtype)
    if isinstance(array, np.ma.MaskedArray):
        raise TypeError(f"array {name!r}: a masked array is two arrays; serve .data and .mask")
    if not (array.flags.c_contiguous or array.flags.f_contiguous):
        raise ValueError(f"array {name!r} is not contiguous (strides {array.strides}): the bytes between its items would be "
                         "served too; serve a copy (np.ascontiguousarray) or the whole it is a part of")  # fmt: skip
    if writable and not array.flags.writeable:
        raise ValueError(f"array {name!r} is read-only and cannot be served writable")
    order = "C" if array.flags.c_contiguous else "F"
    return Source(Description(name, array.shape, array.dtype, order, writable), array)


def _from_npy(name: str, path: Path, writable: bool) -> Source:
    before = _status(name, path)
    try:
        found = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ValueError(f"array {name!r}: {path} {npy_problem(str(error), _FOR_A_RAW_ONE)}") from None
    except OSError as error:
        raise OSError(error.errno or errno.EIO, f"array {name!r}: cannot map {path} ({error.strerror or error})") from None
    if not isinstance(found, np.ndarray):
        found.close()
        raise ValueError(f"array {name!r}: {path} is an archive of arrays (.npz), which cannot be mapped; extract it")
    offset = int(found.offset) if isinstance(found, np.memmap) else 0
    order = "C" if found.flags.c_contiguous else "F"
    with open(path, "rb") as file:
        header = file.read(offset)
    return _from_file(name, path, before, found.shape, found.dtype, order, offset, writable, header)


def npy_problem(said: str, hint: str = "") -> str:
    """What is wrong with a file that `numpy.load` refused with the text *said*; *hint* is for one that is no .npy file at all."""
    if "Python objects" in said or "Object arrays" in said:
        return "holds Python objects, which mean nothing in another process"
    if "mmap length" in said or "reshape array" in said:
        return "is shorter than its header says"
    if "pickled" in said or "magic" in said or "No data" in said:
        return f"is no .npy file{hint}"
    return f"cannot be mapped: {said}"


def _from_raw(name: str, raw: RawFile, writable: bool) -> Source:
    path = Path(raw.path)
    try:
        dtype = np.dtype(raw.dtype)
    except TypeError:
        raise TypeError(f"array {name!r}: {raw.dtype!r} is no dtype") from None
    _check_dtype(name, dtype)
    status = _status(name, path)
    room = (status.st_size - raw.offset) // dtype.itemsize
    if raw.offset < 0 or room < 0:
        raise ValueError(f"array {name!r}: offset {raw.offset} is not within {path} ({status.st_size} bytes)")
    shape = (-1,) if raw.shape is None else raw.shape if isinstance(raw.shape, tuple) else (raw.shape,)
    if shape.count(-1) == 1:
        others = math.prod(length for length in shape if length != -1)
        shape = tuple(room // others if length == -1 and others else length for length in shape)
    if any(length < 0 for length in shape):
        raise ValueError(f"array {name!r}: {shape} is no shape")
    if math.prod(shape) > room:
        raise ValueError(f"array {name!r}: {path} has {status.st_size} bytes; {shape} of {dtype} from {raw.offset} on needs "
                         f"{raw.offset + math.prod(shape) * dtype.itemsize}")  # fmt: skip
    return _from_file(name, path, status, shape, dtype, "C", raw.offset, writable, b"")


def _from_file(
    name: str, path: Path, before: os.stat_result, shape: tuple[int, ...], dtype: np.dtype[Any], order: str, offset: int,
    writable: bool, header: bytes,
) -> Source:  # fmt: skip
    _check_dtype(name, dtype)
    if writable and not os.access(path, os.W_OK):
        raise PermissionError(errno.EACCES, f"array {name!r}: {path} may not be written")
    description = Description(name, tuple(shape), dtype, order, writable)
    guard = Guard(path.absolute(), (before.st_dev, before.st_ino), offset + description.nbytes, header)
    return Source(description, None, guard, offset)


def _check_dtype(name: str, dtype: np.dtype[Any]) -> None:
    reason = unshareable(dtype)
    if reason:
        raise TypeError(f"array {name!r}: {reason}")


def _status(name: str, path: Path) -> os.stat_result:
    try:
        status = os.stat(path)
    except OSError as error:
        raise OSError(error.errno, f"array {name!r}: {path}: {error.strerror}") from None
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, f"array {name!r}: {path} is not a regular file")
    return status
