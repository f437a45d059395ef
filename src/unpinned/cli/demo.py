"""Show what this is, on your machine.

An owner process serves a file (2 GiB, made once and kept, or your own, read
only) and an array of 256 MiB; nothing is read beforehand and nothing is
pinned. A peer process reads, gathers, writes and adds over the wire and checks
every byte, while the owner discards, swaps out, moves, unmaps, replaces,
protects and forks, and its Python spins. A table and a picture end it.

Exit status: 0 when every byte was right, 1 when one was not or the demo could
not run.
"""

import argparse
import sys
from pathlib import Path

from unpinned.cli import CommandError
from unpinned.cli._output import note, print_json

EXAMPLES = """
unpinned demo
unpinned demo --file /data/embeddings.npy --seconds 60
unpinned demo --json > demo.json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the demo."""
    parser.add_argument("--file", metavar="PATH", help="serve this file, read only, instead of one that is made")
    parser.add_argument("--size", default="2G", metavar="SIZE", help="of the file that is made (default: 2G)")
    parser.add_argument("--seconds", type=float, default=24.0, metavar="S", help="how long it runs, about (default: 24)")
    parser.add_argument("--picture", metavar="PATH", help="where to put it, .png or .svg (default: ./unpinned-demo)")
    parser.add_argument("--no-picture", action="store_true", help="draw none")
    parser.add_argument("--record", metavar="PATH", help="record the owner's device, for `unpinned replay`")


def run(arguments: argparse.Namespace) -> int:
    """Run the demo."""
    from unpinned.demo import files
    from unpinned.demo.canvas import best_suffix, check_suffix
    from unpinned.demo.conductor import Conductor, Plan
    from unpinned.demo.display import Display
    from unpinned.demo.units import parse_size

    if not 1.0 <= arguments.seconds <= 86_400.0:
        raise CommandError("--seconds must be between 1 and 86400")
    try:
        size = -(-parse_size(arguments.size) >> 20) << 20
    except ValueError as error:
        raise CommandError(f"--size: {error}") from None
    picture = None
    if not arguments.no_picture:
        picture = Path(arguments.picture or f"unpinned-demo{best_suffix()}").absolute()
        check_suffix(picture)
        if not picture.parent.is_dir():
            raise CommandError(f"--picture: there is no folder {picture.parent}")
    if arguments.record:
        _claim(arguments.record)
    source = files.users(arguments.file) if arguments.file else files.made(size, note)
    plan = Plan(arguments.seconds, record=str(Path(arguments.record).absolute()) if arguments.record else "")
    outcome, recorder = Conductor(source, plan, Display()).run()

    from unpinned.demo import report

    found = report.document(outcome, recorder, source.changed())
    if picture is not None:
        from unpinned.demo.picture import draw

        draw(report.story(found, recorder), picture)
        found["picture"] = str(picture)
    if arguments.json:
        print_json(found)
    else:
        report.show(found, str(picture or ""))
    sys.stdout.flush()
    return int(report.failed(found) or (bool(arguments.record) and not _recorded(arguments.record)))


def _claim(path: str) -> None:
    from unpinned.recording.file import claim

    try:
        claim(path)
    except OSError as error:
        raise CommandError(f"--record: {path}: {error.strerror}") from None


def _recorded(path: str) -> bool:
    """Say what became of the recording; is it whole?"""
    from unpinned.recording import file

    try:
        recording = file.read(path)
    except (OSError, file.RecordingError) as error:
        note(f"--record: {path}: {error}")
        return False
    stopped = recording.end.get("stopped")
    note(f"--record: {path}: " + (f"ends early: {stopped}" if stopped else f"{len(recording.records):,} records, for `unpinned replay`"))
    return not stopped
