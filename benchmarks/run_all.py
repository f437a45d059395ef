"""Run every benchmark one after the other, keep what each printed, and show each figure beside its target.

A benchmark is a file ``bench_NAME.py`` beside this one that prints one JSON document on stdout and its progress on
stderr (`_common` has what they share). Never two at once: they would measure each other. The machine should be quiet:
with a load above 1 before the start, the table says so.

    python benchmarks/run_all.py [--quick] [--peers DIR] [NAME ...]
    python benchmarks/run_all.py --table [NAME ...]       the table of the last run, nothing is run
"""

import argparse
import json
import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

HERE = Path(__file__).parent
OUT = HERE / "out"
WIDTH = 46


def main() -> int:
    """Run the benchmarks that the command line names (default: all); 1 if any failed to give figures."""
    known = {path.stem.removeprefix("bench_"): path for path in sorted(HERE.glob("bench_*.py"))}
    parser = argparse.ArgumentParser(description="Run the benchmarks, results in benchmarks/out/NAME.json.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"default: all ({', '.join(known) or 'none yet'})")
    parser.add_argument("--quick", action="store_true", help="only see whether they work; the figures mean nothing")
    parser.add_argument(
        "--peers", default=os.environ.get("UNPINNED_PEERS", ""), help="a built copy of the peers' folder, for `peers`"
    )
    parser.add_argument("--table", action="store_true", help="run nothing: the table of what is in benchmarks/out")
    options = parser.parse_args()
    names = options.names or list(known)
    if unknown := sorted(set(names) - set(known)):
        parser.error(f"no benchmark {', '.join(unknown)}")
    OUT.mkdir(exist_ok=True)
    failed = []
    if not options.table:
        environment = {**os.environ, "UNPINNED_PEERS": options.peers}
        arguments = ["--quick"] if options.quick else []
        failed = [name for name in names if not run(name, known[name], arguments, environment)]
    for name in names:
        if (OUT / f"{name}.json").exists():
            show(name, json.loads((OUT / f"{name}.json").read_text()))
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def run(name: str, path: Path, arguments: list[str], environment: dict[str, str]) -> bool:
    """Run one benchmark; keep its document and say whether it gave one."""
    print(f"--- {name}", file=sys.stderr, flush=True)
    start_s = time.monotonic()
    text = path.read_text()
    command = [sys.executable, str(path), *(arguments if "_common" in text else [])]
    result = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment)
    took_s = time.monotonic() - start_s
    try:
        document = json.loads(result.stdout)
    except ValueError:
        print(f"{name}: exit status {result.returncode}, no JSON document on stdout", file=sys.stderr)
        return False
    (OUT / f"{name}.json").write_text(json.dumps(document, indent=2) + "\n")
    print(f"{name}: {took_s:.0f} s", file=sys.stderr, flush=True)
    return result.returncode == 0


def show(name: str, document: dict) -> None:
    """A benchmark's figures, each with its target."""
    figures = document.get("figures")
    load = document.get("machine", {}).get("load_before", 0)
    notes = ["quick: means nothing"] * bool(document.get("quick")) + [f"load {load} before the start"] * (load > 1)
    print(f"\n{name}{': ' * bool(notes)}{', '.join(notes)}")
    if figures is None:
        print(textwrap.shorten("  " + json.dumps(document), 78))
        return
    for figure in figures:
        lines = textwrap.wrap(figure["what"], WIDTH)
        print(f"  {lines[0]:{WIDTH}} {value_of(figure):>15} {figure['target']:>8} {verdict(figure)}".rstrip())
        for line in lines[1:]:
            print(f"    {line}")
        if figure["why"]:
            print(textwrap.indent(textwrap.fill(figure["why"], 72), "      "))


def value_of(figure: dict) -> str:
    if figure["value"] is None:
        return "-"
    value = figure["value"]
    text = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return f"{text} {figure['unit']}".strip()


def verdict(figure: dict) -> str:
    if figure["value"] is None:
        return "absent"
    return {None: "", True: "ok", False: "MISSED"}[figure["met"]]


if __name__ == "__main__":
    sys.exit(main())
