"""Run every benchmark one after the other and keep what each printed.

A benchmark is a file ``bench_NAME.py`` beside this one that prints one JSON document on stdout and
its progress on stderr. Never two at once: they would measure each other.

    python benchmarks/run_all.py [NAME ...]
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
OUT = HERE / "out"


def main() -> int:
    """Run the benchmarks that the command line names (default: all); 1 if any failed."""
    known = {path.stem.removeprefix("bench_"): path for path in sorted(HERE.glob("bench_*.py"))}
    parser = argparse.ArgumentParser(description="Run the benchmarks, results in benchmarks/out/NAME.json.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"default: all ({', '.join(known) or 'none yet'})")
    names = parser.parse_args().names or list(known)
    if unknown := sorted(set(names) - set(known)):
        parser.error(f"no benchmark {', '.join(unknown)}")
    OUT.mkdir(exist_ok=True)
    failed = [name for name in names if not run(name, known[name])]
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def run(name: str, path: Path) -> bool:
    """Run one benchmark; keep its document and say whether it gave one."""
    print(f"--- {name}", file=sys.stderr, flush=True)
    start_s = time.monotonic()
    result = subprocess.run([sys.executable, str(path)], stdout=subprocess.PIPE, text=True)
    took_s = time.monotonic() - start_s
    try:
        document = json.loads(result.stdout)
    except ValueError:
        print(f"{name}: exit status {result.returncode}, no JSON document on stdout", file=sys.stderr)
        return False
    (OUT / f"{name}.json").write_text(json.dumps(document, indent=2) + "\n")
    print(json.dumps({"benchmark": name, "seconds": round(took_s, 1), "result": document}), flush=True)
    return result.returncode == 0


if __name__ == "__main__":
    sys.exit(main())
