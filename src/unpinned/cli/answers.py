"""Answer the four questions about pageable memory, with evidence.

Explores the protocol (check) and prices policies (study), then writes the
answers as Markdown: docs/answers.md is made by this. Sentences that rest on a
verdict follow it: nothing is typed by hand.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

EXAMPLES = """
unpinned answers
unpinned answers --quick
unpinned answers --out docs/answers.md
unpinned answers --check docs/answers.md    # is the page still so?
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--quick", action="store_true", help="explore the smallest worlds only: a minute")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--out", metavar="FILE", help="write it there instead of printing it")
    where.add_argument("--check", metavar="FILE", help="say where it is no longer what FILE says; status 1 if anywhere")


def run(arguments: argparse.Namespace) -> int:
    from unpinned.answers import evidence, text
    from unpinned.cli import CommandError
    from unpinned.cli._output import note, print_json

    if arguments.out and not Path(arguments.out).absolute().parent.is_dir():
        raise CommandError(f"--out: there is no folder {Path(arguments.out).absolute().parent}")
    said = Path(arguments.check).read_text(encoding="utf-8", errors="replace") if arguments.check else ""
    found = evidence.gather(arguments.quick, say=note)
    made = text.render(found)
    if arguments.check:
        return _compare(arguments.check, said, made, found, arguments.json)
    if arguments.out:
        Path(arguments.out).write_text(made, encoding="utf-8")
        note(f"wrote {arguments.out}")
    if arguments.json:
        print_json({"answers": made, "worlds": found.worlds, "states": found.states})
    elif not arguments.out:
        sys.stdout.write(made)
    return 0


def _compare(path: str, said: str, made: str, found: Any, as_json: bool) -> int:
    """Print what has changed since the page was written; 1 if anything has."""
    import difflib

    from unpinned.cli._output import note, print_json

    lines = list(difflib.unified_diff(said.splitlines(), made.splitlines(), path, "now", lineterm="", n=0))
    if as_json:
        print_json({"answers": made, "worlds": found.worlds, "states": found.states, "differs": lines})
    else:
        print(*lines, sep="\n", end="\n" if lines else "")
    note(f"{path} is {'no longer what' if lines else 'what'} check and study say")
    return 1 if lines else 0
