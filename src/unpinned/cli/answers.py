"""Answer the four questions about pageable memory, with evidence.

Explores the protocol (check) and prices policies (study), then writes the
answers as Markdown: docs/answers.md is made by this. Sentences that rest on a
verdict follow it: nothing is typed by hand.
"""

import argparse
import sys
from pathlib import Path

EXAMPLES = """
unpinned answers
unpinned answers --quick
unpinned answers --out docs/answers.md
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--quick", action="store_true", help="explore the smallest worlds only: a minute")
    parser.add_argument("--out", metavar="FILE", help="write it there instead of printing it")


def run(arguments: argparse.Namespace) -> int:
    from unpinned.answers import evidence, text
    from unpinned.cli import CommandError
    from unpinned.cli._output import note, print_json

    if arguments.out and not Path(arguments.out).absolute().parent.is_dir():
        raise CommandError(f"--out: there is no folder {Path(arguments.out).absolute().parent}")
    found = evidence.gather(arguments.quick, say=note)
    made = text.render(found)
    if arguments.out:
        Path(arguments.out).write_text(made, encoding="utf-8")
        note(f"wrote {arguments.out}")
    if arguments.json:
        print_json({"answers": made, "worlds": found.worlds, "states": found.states})
    elif not arguments.out:
        sys.stdout.write(made)
    return 0
