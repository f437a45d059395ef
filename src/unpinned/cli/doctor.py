"""Try what this kernel allows, and say what each lack costs.

Every line was tried just now, and cleaned up. A facility that is missing makes
something slower or less safe, or has it refused in a sentence, never wrong;
what it costs and what to do about it stand below its line.
"""

import argparse
import textwrap
from typing import Any

EXAMPLES = """
unpinned doctor
unpinned doctor --json
unpinned doctor --strict    # status 1 if anything is missing
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--strict", action="store_true", help="end with status 1 when something is missing")


def run(arguments: argparse.Namespace) -> int:
    from dataclasses import asdict

    from unpinned.cli._output import print_json
    from unpinned.host.capabilities import probe_all

    found = probe_all()
    missing = [capability for capability in found if not capability.available]
    if arguments.json:
        print_json({"capabilities": [asdict(capability) for capability in found], "missing": [m.name for m in missing]})
    else:
        for capability in found:
            print(*_lines(capability), sep="\n")
        print(_verdict(len(found), len(missing)))
    return 1 if missing and arguments.strict else 0


def _lines(capability: Any) -> list[str]:
    """The table's line of one facility, and what its lack costs below it."""
    from unpinned.cli import WIDTH

    mark = "yes" if capability.available else "NO "
    margin = " " * 26
    lines = textwrap.wrap(f"{mark} {capability.name:<20}  {capability.detail}", WIDTH, subsequent_indent=margin)
    if not capability.available:
        for label, text in (("costs", capability.cost), ("mend", capability.remedy)):
            lines += textwrap.wrap(f"{label}: {text}", WIDTH, initial_indent=margin, subsequent_indent=margin + "  ")
    return lines


def _verdict(all_of: int, missing: int) -> str:
    if not missing:
        return f"\nAll {all_of} are there: nothing here is slower or less safe than it could be."
    return f"\n{all_of - missing} of {all_of} are there; above stands what the lack of the others costs."
