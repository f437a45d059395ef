"""Run a recording through the model, and compare what it predicts.

A recording comes from `unpinned demo --record FILE` or `unpinned serve
--record FILE`: what was touched and when, and what the owner did. Faults,
invalidations and flushes are predicted with the live step functions and
compared with what the device counted. --policy asks what another policy would
have done on a device with a translation cache of its own.
"""

import argparse
import os
import sys
from typing import Any

EXAMPLES = """
unpinned replay demo.rec
unpinned replay demo.rec --policy batching
unpinned replay demo.rec --chrome-trace demo.json    # for ui.perfetto.dev
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="the recording")
    parser.add_argument(
        "--policy", "-p", action="append", metavar="P", help="zap-now, by-cause, batching, blind or a file; may be repeated"
    )
    parser.add_argument("--partial", action="store_true", help="of a recording that was cut off, what is whole")
    parser.add_argument("--chrome-trace", metavar="OUT", help="write the timeline for Perfetto and chrome://tracing")


def run(arguments: argparse.Namespace) -> int:
    from unpinned.cli import CommandError
    from unpinned.cli._output import note, print_json
    from unpinned.recording import chrome, file
    from unpinned.study.replay import replay
    from unpinned.study.sweep import policy_named

    try:
        policies = [policy_named(word) for word in arguments.policy or ()]
        if any(policy.pinned for policy in policies):
            raise CommandError("pinned memory has no faults and no invalidations: there is nothing to replay")
        recording = file.read(arguments.file, arguments.partial)
        live = replay(recording)
        others = [replay(recording, policy) for policy in policies]
        if arguments.chrome_trace:
            count = chrome.write(recording, arguments.chrome_trace)
            note(f"wrote {count} events to {arguments.chrome_trace}: open it in https://ui.perfetto.dev")
    except file.RecordingError as error:
        hint = ": --partial replays them" if str(error).endswith("are whole") else ""
        raise CommandError(f"{arguments.file}: {error}{hint}") from None
    except ValueError as error:
        raise CommandError(str(error)) from None
    except OSError as error:
        raise CommandError(f"{os.fsdecode(error.filename or arguments.file)}: {error.strerror or error}") from None
    if arguments.json:
        print_json({"file": arguments.file, "live": live.as_dict(), "policies": [each.as_dict() for each in others]})
    else:
        sys.stdout.write(_render(live, others))
    return 0


def _render(live: Any, others: list[Any]) -> str:
    lines = [
        f"{live.records:,} records, {live.seconds:.1f} s: {live.accesses:,} runs of copies, {live.bytes / 1e9:.2f} GB",
    ]
    if live.stopped:
        lines.append(f"the recording ends early: {live.stopped}")
    if live.lost:
        lines.append(f"{live.lost:,} records were lost for want of room: predictions are too low")
    lines += ["", f"{'':<24}{'recorded':>12}{'predicted':>12}{'difference':>12}"]
    lines += [_row(figure) for figure in live.figures]
    lines += ["", "every prediction is within 5 %" if live.within else "not every prediction is within 5 %"]
    lines += [f"  {line}" for line in _where_off(live)]
    if others:
        lines += ["", "on a device with a translation cache of its own:", f"{'':<14}{'faults':>12}{'flushes':>12}{'refused':>12}"]
        for each in others:
            found = {figure.name: figure.predicted for figure in each.figures}
            lines.append(f"{each.policy:<14}{found['faults']:>12,}{found['flushes']:>12,}{each.refused:>12,}")
    return "\n".join(lines) + "\n"


def _row(figure: Any) -> str:
    share = figure.difference
    difference = "given" if figure.role == "given" else "-" if share == 0 else f"{100 * share:+.1f} %" if abs(share) < 100 else "new"
    indent = "  " if figure.role == "detail" or " " in figure.name and figure.name.split()[0] in ("faults", "invalidations") else ""
    return f"{indent + figure.name:<24}{figure.recorded:>12,}{figure.predicted:>12,}{difference:>12}"


def _where_off(live: Any) -> list[str]:
    """What the figures' sums do not tell."""
    asked = live.requests
    lines = [
        f"faults: {asked['both']:,} in both, {asked['recorded only']:,} only recorded, {asked['predicted only']:,} only predicted",
        f"from the copies alone, not told who had to wait: {live.blind_faults:,} faults",
    ]
    if live.unserved:
        lines.append(f"{live.unserved:,} accesses found no region or page in the model")
    for where in live.worst:
        lines.append(
            f"most off from {where['from_s']:.2f} to {where['to_s']:.2f} s: {where['recorded']:,} faults recorded, "
            f"{where['predicted']:,} predicted"
        )
    for where in live.off:
        lines.append(
            f"{where['cause']} at {where['at_s']:.3f} s, {where['pages']:,} pages: zapped {where['recorded']:,} recorded, "
            f"{where['predicted']:,} predicted"
        )
    return lines
