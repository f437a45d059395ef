"""What a user would pick instead, by turns with unpinned: UCX over TCP (as it comes, and tuned), plain C sockets, Mooncake.

Needs a built copy of the peers' folder (``--peers DIR`` or UNPINNED_PEERS), which is not part of this project: common.py, the
peers' bench_*.py with their libraries, and a virtual environment ``v``. Everything runs in one network namespace with TCP
reno, or without one where that is not allowed (then TCP uses what the machine uses; it is in the document). Beside it the bare
wire (`bare_wire`): what UDP lets through when nobody asks for an answer.
"""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from _common import HERE, SOURCES, Figure, Options, main, median, missing, say, spread

TUNED = {
    "UCX_TLS": "tcp",
    "UCX_TCP_TX_SEG_SIZE": "256k",
    "UCX_TCP_RX_SEG_SIZE": "256k",
    "UXP": "event",
    "UCX_NET_DEVICES": "lo",
}
PEERS = {
    "unpinned": ("unpinned", {}),
    "UCX default": ("ucx", {"UCX_TLS": "tcp", "UXP": "event", "UCX_NET_DEVICES": "lo"}),
    "UCX tuned": ("ucx", TUNED),
    "C sockets": ("ctcp", {}),
    "Mooncake": ("mooncake", {"MC_TCP_ENABLE_CONNECTION_POOL": "1"}),
}
TARGETS = {("read", "UCX default"): ">= 2", ("read", "UCX tuned"): ">= 0.8", ("write", "UCX tuned"): ">= 0.8"}


@contextlib.contextmanager
def reno():
    """How to run a command in a namespace with reno, and what TCP uses there."""
    name = f"unpinned-peers-{os.getpid()}"
    made = (
        subprocess.run(["ip", "netns", "add", name], capture_output=True).returncode == 0
        if shutil.which("ip")
        else False
    )
    if not made:
        yield [], Path("/proc/sys/net/ipv4/tcp_congestion_control").read_text().strip()
        return
    try:
        inside = ["ip", "netns", "exec", name]
        subprocess.run([*inside, "ip", "link", "set", "lo", "up"], check=True)
        subprocess.run([*inside, "sysctl", "-qw", "net.ipv4.tcp_congestion_control=reno"], check=True)
        yield inside, "reno"
    finally:
        subprocess.run(["ip", "netns", "del", name], check=True)


def copy(peers: Path, to: Path) -> None:
    """The harness beside our two files, in a place where it may write."""
    for file in peers.iterdir():
        if file.suffix in (".py", ".so"):
            shutil.copy(file, to)
    (to / "logs").mkdir()
    (to / "v").symlink_to(peers.resolve() / "v")
    shutil.copy(HERE / "peer_unpinned.py", to / "bench_unpinned.py")
    shutil.copy(HERE / "_harness.py", to)


def run(name: str, inside: list[str], folder: Path, seconds: float, rows: int) -> dict[str, float]:
    """One peer, once: MiB/s of READ and WRITE, the latency, rows a second."""
    module, settings = PEERS[name]
    python = sys.executable if module == "unpinned" else str(folder / "v/bin/python")
    environment = {
        **os.environ,
        **settings,
        "PEER": module,
        "SECONDS": str(seconds),
        "ROWS": str(rows),
        "UNPINNED_PATHS": json.dumps([str(SOURCES)]),
    }
    done = subprocess.run(
        [*inside, python, str(folder / "_harness.py"), "full"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=900,
    )
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    gave = {line["op"]: line["MiBps"] for line in lines if line.get("metric") == "bw"}
    for line in lines:
        for metric, key, field in (("lat", "us", "median_us"), ("rows", "rows", "rows_per_s")):
            if line.get("metric") == metric:
                gave[key] = line[field]
    if "read" not in gave or "write" not in gave:
        logs = [path.read_text().strip() for path in (folder / "logs").iterdir()]
        raise RuntimeError(f"{name}: " + "; ".join(log.splitlines()[-1] for log in (done.stderr, *logs) if log))
    say(f"{name}: {gave}")
    return gave


def bare(inside: list[str], seconds: float) -> float:
    """MiB/s of `bare_wire`."""
    command = [*inside, sys.executable, str(HERE / "bare_wire.py"), str(seconds)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    if done.returncode:
        raise RuntimeError(f"bare_wire: {done.stderr.strip()[-300:]}")
    rate: float = json.loads(done.stdout)["mib_per_s"]
    say(f"bare wire: {rate}")
    return rate


def measure(options: Options) -> list[Figure]:
    what = "1 MiB, depth 16, cold 256 MiB arrays, unpinned /"
    if not options.peers or not Path(options.peers, "common.py").exists():
        why = "no copy of the peers' folder (--peers DIR or UNPINNED_PEERS)"
        return [
            missing(f"{op.upper()} {what} {name}", why, TARGETS.get((op, name), ""))
            for op in ("read", "write")
            for name in PEERS
            if name != "unpinned"
        ]
    rounds = options.pick(7, 1)
    gave: dict[str, list[dict[str, float]]] = {name: [] for name in PEERS}
    absent: dict[str, str] = {}
    wire: list[float] = []
    with tempfile.TemporaryDirectory() as folder, reno() as (inside, congestion):
        copy(Path(options.peers), Path(folder))
        for i in range(rounds):
            wire.append(bare(inside, options.pick(1.0, 0.1)))
            names = [name for name in PEERS if name not in absent]
            for name in names[i % len(names) :] + names[: i % len(names)]:
                try:
                    gave[name].append(
                        run(name, inside, Path(folder), options.pick(0.35, 0.1), options.pick(100_000, 5_000))
                    )
                except (RuntimeError, OSError, subprocess.TimeoutExpired) as error:
                    if name == "unpinned":
                        raise
                    absent[name] = str(error)[-300:]
    figures = []
    for op in ("read", "write"):
        for name in list(PEERS)[1:]:
            target = TARGETS.get((op, name), "")
            if name in absent:
                figures.append(missing(f"{op.upper()} {what} {name}", absent[name], target))
                continue
            rates = {who: [one[op] for one in gave[who]] for who in ("unpinned", name)}
            parts = {f"{who}_mib_per_s": spread(values) for who, values in rates.items()} | {"tcp": congestion}
            figures.append(
                Figure(
                    f"{op.upper()} {what} {name}", median(rates["unpinned"]) / median(rates[name]), "", target, parts
                )
            )
    for name in ("unpinned", "UCX tuned"):
        if name not in absent:
            rates = [one["write"] for one in gave[name]]
            parts = {"bare_wire_mib_per_s": spread(wire), f"{name}_mib_per_s": spread(rates)}
            text = f"{name} WRITE / the bare wire: UDP, copies and sums, without a protocol"
            figures.append(Figure(text, median(rates) / median(wire), "", "", parts))
    for key, text in (
        ("us", "READ 8 B latency, unpinned / {}"),
        ("rows", "gather of 512 B rows, unpinned / {}, one get per row"),
    ):
        for name in list(PEERS)[1:]:
            if name not in absent and all(key in one for one in gave[name]):
                values = {who: [one[key] for one in gave[who]] for who in ("unpinned", name)}
                parts = {
                    f"{who}_{'us' if key == 'us' else 'rows_per_s'}": spread(numbers) for who, numbers in values.items()
                }
                figures.append(
                    Figure(text.format(name), median(values["unpinned"]) / median(values[name]), "", "", parts)
                )
    return figures


if __name__ == "__main__":
    main(measure, globals())
