"""Where compiled kernels are kept, and when they are stale.

Numba's own cache looks at the time stamp of one file: edit a callee in another module and the caller stays
stale; run once with ``NUMBA_BOUNDSCHECK=1`` and the checked code poisons every later run; two processes that
save at once can swap each other's entries. Here, a kernel is kept in a folder named after

* the source of its module and of every module of ours that this one imports, directly or not
  (whatever could have been inlined into it),
* numba, llvmlite and Python, the CPU's name and features, and the bounds-check mode,

and every signature has a file of its own, written aside and renamed. Nothing is ever invalidated: another
key is another folder. The root is ``$UNPINNED_CACHE_DIR``, or ``unpinned`` below ``$XDG_CACHE_HOME`` or
``~/.cache``; where that cannot be written, a directory in the temporary folder that only we may enter (what is
kept is executed when loaded, so it must not be anybody else's).
"""

from __future__ import annotations

import errno
import fcntl
import functools
import hashlib
import os
import pickle
import re
import stat
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import llvmlite
import llvmlite.binding
import numba
from numba.core import config
from numba.core.serialize import dumps

PACKAGE = "unpinned"
_COMMENT = re.compile(r"#[^\n]*|\\\n")
_SOURCES = Path(__file__).resolve().parents[2]
_IMPORT = re.compile(
    r"^[ \t]*(?:from[ \t]+([.\w]+)[ \t]+import[ \t]+(\([^)]*\)|[^\n#]*)|import[ \t]+([^\n#]*))", re.MULTILINE
)


@functools.cache
def root() -> Path:
    """The folder that holds all compiled kernels; created, writable and private on return."""
    named = os.environ.get("UNPINNED_CACHE_DIR")
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    for candidate in (Path(named) if named else Path(base) / PACKAGE, _temporary()):
        if _usable(candidate):
            return candidate
    return Path(tempfile.mkdtemp(prefix=f"{PACKAGE}-"))


def _temporary() -> Path:
    return Path(tempfile.gettempdir()) / f"{PACKAGE}-{os.getuid()}"


def _usable(folder: Path) -> bool:
    """Can *folder* be created and written, and does it belong to us alone?"""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.stat() if folder != _temporary() else folder.lstat()
    except OSError:
        return False
    ours = stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid() and not status.st_mode & 0o022
    return ours and os.access(folder, os.W_OK | os.X_OK)


@functools.cache
def environment() -> str:
    """Everything but the source that the machine code depends on."""
    features = llvmlite.binding.get_host_cpu_features().flatten()
    return "\n".join(
        (
            numba.__version__,
            llvmlite.__version__,
            sys.version,
            str(config.CPU_NAME or llvmlite.binding.get_host_cpu_name()),
            str(config.CPU_FEATURES or features),
            f"boundscheck={bool(config.BOUNDSCHECK)} opt={config.OPT}",
        )
    )


def source_key(module: str, path: str) -> str:
    """Name of the folder for kernels of *module*, whose source is the file *path*."""
    above = Path(path).resolve().parents
    depth = module.count(".") + (Path(path).name == "__init__.py")
    top = above[min(depth, len(above) - 1)]  # a loader may give a file any dotted name
    digest = hashlib.sha256(environment().encode())
    for name, text in sorted(_closure(module, path, top).items()):
        digest.update(f"\n{name}\n{text}".encode())
    return f"{module}-{digest.hexdigest()[:20]}"


def module_key(module: str) -> str:
    """`source_key` of a module of ours that need not be imported."""
    return source_key(module, _source(module))


def code(module: str) -> str:
    """Names what a module of ours does: its source and that of all modules of ours that it imports."""
    texts = sorted(_closure(module, _source(module), _SOURCES).items())
    return hashlib.sha256("".join(f"{name} {text}\n" for name, text in texts).encode()).hexdigest()[:16]


def _source(module: str) -> str:
    """The file of a module of ours. ModuleNotFoundError if there is none."""
    path = _locate(module, _SOURCES)
    if path is None:
        raise ModuleNotFoundError(f"no source of {module} below {_SOURCES}", name=module)
    return path


@functools.cache  # asked once a kernel, answered once a module: without it, half a second of every import
def _closure(module: str, path: str, top: Path) -> dict[str, str]:
    """Digests of *path* and of all modules of ours, or of the same package, that it imports: name -> digest."""
    found: dict[str, str] = {}
    waiting = [(module, path)]
    while waiting:
        name, file = waiting.pop()
        if name in found:
            continue
        found[name], imported = _scan(name, file)
        own = {PACKAGE, name.partition(".")[0]}
        for other in imported:
            if other.partition(".")[0] in own and other not in found:
                other_file = _locate(other, top) or _locate(other, _SOURCES)
                if other_file:
                    waiting.append((other, other_file))
    return found


@functools.cache
def _scan(module: str, path: str) -> tuple[str, tuple[str, ...]]:
    """The digest of a source file, and the dotted names it imports (``from a import b`` gives a.b, else a)."""
    text = Path(path).read_text(encoding="utf-8")
    package = module if path.endswith("__init__.py") else module.rpartition(".")[0]
    return hashlib.sha256(text.encode()).hexdigest(), tuple(_imports(text, package))


def _imports(text: str, package: str) -> Iterator[str]:
    text = _COMMENT.sub(" ", text)
    for source, names, plain in _IMPORT.findall(text):
        items = (names or plain).strip("() \t").split(",")
        listed = [item.split()[0] for item in items if item.strip()]  # "name as other" is about name
        if not source:
            yield from listed
            continue
        base = source.lstrip(".")
        if level := len(source) - len(base):
            parents = package.split(".")
            base = ".".join(parents[: len(parents) - level + 1] + ([base] if base else []))
        for item in listed:
            submodule = f"{base}.{item}"
            known = _locate(submodule, _SOURCES) if submodule.startswith(f"{PACKAGE}.") else None
            # Outside our package the folder is not known here: name both, the absent one is dropped.
            yield from (submodule,) if known else (base,) if base.startswith(PACKAGE) else (submodule, base)


@functools.cache
def _locate(name: str, top: Path) -> str | None:
    base = top.joinpath(*name.split("."))
    for candidate in (base.with_suffix(".py"), base / "__init__.py"):
        if candidate.is_file():
            return str(candidate)
    return None


class KernelCache:
    """Where one kernel is kept: a file for each signature and form. Numba's dispatcher asks it, and ours.

    A file a signature: two processes that save at once cannot mix up an index, for there is none.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        path = function.__code__.co_filename
        self.key = source_key(function.__module__, path)
        cells = [cell.cell_contents for cell in function.__closure__ or ()]
        which = f"{function.__qualname__} {function.__code__.co_firstlineno} {function.__code__.co_code.hex()}"
        digest = hashlib.sha256(f"{self.key} {which}".encode() + (dumps(cells) if cells else b""))
        self.identity = digest.hexdigest()[:16]
        """Names the function among all versions of all functions."""
        self.cache_path = str(root() / self.key)
        self._base = f"{function.__name__}-{function.__code__.co_firstlineno}"

    @staticmethod
    def possible(function: Callable[..., Any]) -> bool:
        """Does *function* come from a file?"""
        return os.path.isfile(function.__code__.co_filename)

    def place(self, arguments: tuple[Any, ...], form: str) -> str:
        """Path below the root for this signature; *form* is the kind of thing that is kept."""
        digest = hashlib.sha256(f"{self.identity} {arguments}".encode()).hexdigest()[:16]
        return f"{self.key}/{self._base}.{digest}.{form}.nbc"

    def flush(self) -> None:
        for path in Path(self.cache_path).glob(f"{self._base}.*"):
            path.unlink(missing_ok=True)


@contextmanager
def claim(place: str) -> Iterator[None]:
    """Have *place* to oneself among all processes: who waits here finds afterwards what another one saved.

    A byte of one file is locked for each. Claims nest as calls of kernels do, without a circle: nobody waits for ever.
    Where files cannot be locked, two may do the same work.
    """
    number = int(hashlib.sha256(place.encode()).hexdigest()[:12], 16)
    with suppress(OSError):
        fcntl.lockf(_claims(os.getpid()), fcntl.LOCK_EX, 1, number)
    try:
        yield
    finally:
        with suppress(OSError):
            fcntl.lockf(_claims(os.getpid()), fcntl.LOCK_UN, 1, number)


@functools.cache
def _claims(process: int) -> int:
    return os.open(root() / "claims", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def load(place: str) -> Any:
    """What was saved at *place* (a path below the root); None if that is nothing, or damaged.

    OSError where there is no descriptor or memory to read it by: that passes, and a compiler would want more of both.
    """
    try:
        return pickle.loads((root() / place).read_bytes())
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
            raise
        return None
    except (EOFError, pickle.UnpicklingError):
        return None


def save(place: str, data: object) -> None:
    """Keep *data* at *place*: whoever reads at the same time sees the old or the new, whole."""
    path = root() / place
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    aside = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        aside.write_bytes(dumps(data))
        aside.replace(path)
    except OSError:
        aside.unlink(missing_ok=True)  # part of it, on a full disk
        raise
