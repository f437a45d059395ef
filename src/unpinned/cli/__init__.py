"""The command ``unpinned VERB``: one file a verb, found by being there.

A verb is a module of this package (a leading underscore marks helpers):

* its docstring: the first line is the summary in ``unpinned --help``, the rest its description;
* ``EXAMPLES``: the text that ends its help;
* ``add_arguments(parser)``: its options (``--json`` is there already);
* ``run(arguments) -> int``: the work, returning the exit status.

A verb's module imports only the standard library at its top and the rest inside ``run``, so that
help and a mistyped option answer at once. What a user can cause (an OSError, a CommandError) ends
in one sentence on stderr and status 1; wrong arguments in status 2; anything else is our bug and
keeps its traceback.
"""

import argparse
import os
import pkgutil
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from types import FrameType, ModuleType

__all__ = ["WIDTH", "CommandError", "main", "verb_names"]

WIDTH = 79
"""Columns of the help text and of every table that a verb prints."""

_ORDER = ("demo", "serve", "get", "put", "perf", "doctor")
"""How the verbs are listed; one that is not named here comes after these, alphabetically."""


class CommandError(Exception):
    """The command cannot go on; its text is one sentence saying what to do."""


class _Help(argparse.RawDescriptionHelpFormatter):
    def __init__(self, prog: str) -> None:
        super().__init__(prog, width=WIDTH, max_help_position=26)


def verb_names() -> list[str]:
    """The verbs that exist, in the order of the help."""
    found = [name for _, name, _ in pkgutil.iter_modules(__path__) if not name.startswith("_")]
    return sorted(found, key=lambda name: (_ORDER.index(name) if name in _ORDER else len(_ORDER), name))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``argv`` (default: the process's) and return the exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    _open_streams()
    with _interrupts() as seen:
        try:
            if not words or words[0] not in verb_names():
                return _run("unpinned", lambda: _without_verb(words))
            return _run(f"unpinned {words[0]}", lambda: _with_verb(words))
        except KeyboardInterrupt:
            pass
        except Exception:
            if not seen:  # a C extension that is interrupted while it is imported says something else
                raise
    _give_up_stdout()
    print(f"{' '.join(['unpinned', *words[:1]])}: interrupted", file=sys.stderr)
    return 130


def _open_streams() -> None:
    """A standard stream that was closed before us (``>&-``) leads nowhere, and no file or socket of ours gets its number."""
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "r" if name == "stdin" else "w", encoding="utf-8"))  # the lowest number free


def _with_verb(words: list[str]) -> int:
    verb = _load(words[0])
    # Intermixed, or an optional word like perf's HOST is not found behind the options.
    arguments = _verb_parser(words[0], verb).parse_intermixed_args(words[1:])
    return int(verb.run(arguments))


def _without_verb(words: list[str]) -> int:
    """Help, --version, or what is wrong with the first word."""
    top = _top_parser()
    if not words:
        top.print_help()
        return 0
    if words[0].startswith("-"):
        top.parse_args(words)  # --help and --version leave from here
        top.error("a verb is needed")
    top.error(f"no verb {words[0]!r}; there are: {', '.join(verb_names()) or 'none yet'}")


@contextmanager
def _interrupts() -> Iterator[list[int]]:
    """Ctrl-C raises KeyboardInterrupt as ever, and is entered in the list."""
    seen: list[int] = []

    def handle(number: int, frame: FrameType | None) -> None:
        seen.append(number)
        signal.default_int_handler(number, frame)

    ours = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # else someone has other plans with it
    if not ours or threading.current_thread() is not threading.main_thread():
        yield seen
        return
    signal.signal(signal.SIGINT, handle)
    try:
        yield seen
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _load(name: str) -> ModuleType:
    return import_module(f"{__name__}.{name}")


def _docstring(verb: ModuleType) -> tuple[str, str]:
    summary, _, rest = (verb.__doc__ or "").strip().partition("\n")
    return summary.rstrip("."), rest.strip()


def _top_parser() -> argparse.ArgumentParser:
    lines = [f"  {name:<8} {_docstring(_load(name))[0]}" for name in verb_names()]
    parser = argparse.ArgumentParser(
        prog="unpinned",
        usage="unpinned [-h] [--version] VERB ...",
        description="RDMA without pinned memory: a RoCEv2 device in user space.",
        epilog="\n".join(["verbs:", *lines, "", "examples:", *_top_examples()]),
        formatter_class=_Help,
    )
    parser.add_argument("--version", action=_Version)
    return parser


def _top_examples() -> list[str]:
    return [f"  unpinned {name} --help" for name in verb_names()[:2]] or ["  unpinned --version"]


class _Version(argparse.Action):
    def __init__(self, option_strings: list[str], dest: str) -> None:
        super().__init__(option_strings, dest, nargs=0, help="print the version and leave")

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from unpinned import __version__

        print(f"unpinned {__version__}")
        parser.exit()


def _verb_parser(name: str, verb: ModuleType) -> argparse.ArgumentParser:
    summary, rest = _docstring(verb)
    examples = "\n".join(f"  {line.strip()}" for line in verb.EXAMPLES.strip().splitlines())
    parser = argparse.ArgumentParser(
        prog=f"unpinned {name}",
        description="\n\n".join(filter(None, [summary + ".", rest])),
        epilog=f"examples:\n{examples}",
        formatter_class=_Help,
    )
    verb.add_arguments(parser)
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout, the rest on stderr")
    return parser


def _run(name: str, work: Callable[[], int]) -> int:
    try:
        try:
            status: int | SystemExit = work()
        except SystemExit as leaving:  # --help, --version
            status = leaving
        sys.stdout.flush()  # so that a closed pipe or a full disk is met here, not at interpreter exit
    except BrokenPipeError:
        _give_up_stdout()
        return 141
    except (OSError, CommandError) as error:
        if os.environ.get("UNPINNED_DEBUG"):
            raise
        _give_up_stdout()
        print(f"{name}: {sentence(error)}", file=sys.stderr)
        return 1
    if isinstance(status, SystemExit):
        raise status
    return status


def _give_up_stdout() -> None:
    """Point it elsewhere if what is left in it cannot be written, or the interpreter's own flush complains."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def sentence(error: Exception) -> str:
    """What to tell a user: of an OSError the file and the reason, without the number."""
    if not isinstance(error, OSError) or error.strerror is None:
        return str(error)
    file = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, (str, bytes)) else ""
    return file + error.strerror
