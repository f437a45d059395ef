"""munmap of a hot, registered range with the GIL held, under full write load: what it costs, and what strays.

A round: the owner maps 4 MiB, registers it, and the peer writes into it as fast as it can; at a random moment the owner unmaps it
and maps something else at the same address (or replaces it in one call, MAP_FIXED). What is there instead holds zeros, the peer
writes anything but zeros: a byte that is not zero afterwards has strayed. Every other round unmaps memory that is not registered
instead, at such a moment and under that load: what is more is what registration adds. Stated besides: both where the load is on
another region.
"""

import ctypes
import json
import mmap
import socket
import time

import numpy as np
from _common import KIB, MIB, Child, Figure, Options, Spinner, main, median, say, spread
from _end import *  # noqa: F403
from _end import Memory, Queue, _memories, domain, expose, held_gil, join, local, register
from numpy.typing import NDArray

from unpinned.host import owned
from unpinned.verbs import IBV_ADVISE_MR_ADVICE_PREFETCH_WRITE, IBV_ADVISE_MR_FLAG_FLUSH, SGE

SIZE, STEP, DEPTH = 4 * MIB, 256 * KIB, 16
LOAD = 64 * MIB
MAP_FIXED, MAP_FIXED_NOREPLACE = 0x10, 0x100000
held_gil.mmap.restype = ctypes.c_size_t
held_gil.mmap.argtypes = [ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
_wire: list[socket.socket] = []


# --- the owner ---------------------------------------------------------------------------


def listen() -> int:
    _wire.append(socket.create_server(("127.0.0.1", 0)))
    return _wire[0].getsockname()[1]


def accept() -> None:
    _wire[0] = _wire[0].accept()[0]
    _wire[0].setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def view(address: int) -> NDArray[np.uint8]:
    return np.ctypeslib.as_array((ctypes.c_uint8 * SIZE).from_address(address))


def map_at(address: int, flags: int) -> int:
    """Anonymous memory, with the GIL held."""
    found = held_gil.mmap(address, SIZE, mmap.PROT_READ | mmap.PROT_WRITE, flags | mmap.MAP_ANONYMOUS, -1, 0)
    if found == ctypes.c_size_t(-1).value:
        raise OSError(ctypes.get_errno(), "mmap")
    return found


def fresh(kind: str):
    """Address of touched memory of a kind, and what keeps it."""
    if kind == "owned":
        array = owned.empty(SIZE, np.uint8)
        address = array.ctypes.data
    else:
        array = None
        address = map_at(0, mmap.MAP_SHARED if kind == "shared" else mmap.MAP_PRIVATE)
    view(address)[:] = 1
    return address, array


def replace(address: int, how: str) -> int:
    """Put something else there; nanoseconds of the call that unmapped."""
    if how == "fixed":
        began = time.perf_counter_ns()
        map_at(address, MAP_FIXED | mmap.MAP_PRIVATE)
        return time.perf_counter_ns() - began
    began = time.perf_counter_ns()
    held_gil.munmap(address, SIZE)
    took = time.perf_counter_ns() - began
    if map_at(address, MAP_FIXED_NOREPLACE | mmap.MAP_PRIVATE) != address:
        raise OSError("something else took the address")
    return took


def storm(kind: str, how: str, rounds: int, seed: int, control: bool) -> dict:
    """Rounds of unmapping what the peer writes to: microseconds each, and bytes that strayed.

    *control*: by turns with rounds that unmap memory of the same kind which is not registered, while the peer writes.
    """
    rng, pd, wire = np.random.default_rng(seed), domain(), _wire[0]
    lines = wire.makefile("r")
    times, unregistered, stray_rounds, stray_bytes = [], [], 0, 0
    for i in range(2 * rounds if control else rounds):
        address, keeper = fresh(kind)
        other, other_keeper = fresh(kind) if control else (0, None)
        mr = register(view(address))
        queue = Queue(pd, DEPTH)
        wire.sendall(json.dumps([{"va": address, "key": mr.rkey}, queue.info()]).encode() + b"\n")
        queue.connect(json.loads(lines.readline()))
        wire.sendall(b"go\n")
        lines.readline()  # it writes by now
        time.sleep(rng.random() / 1000)
        if control and i % 2:
            unregistered.append(replace(other, how) / 1e3)
            replace(address, how)
        else:
            times.append(replace(address, how) / 1e3)
        lines.readline()  # the peer has been refused
        queue.close()
        mr.close()
        strays = int(np.count_nonzero(view(address)))
        stray_rounds, stray_bytes = stray_rounds + (strays > 0), stray_bytes + strays
        if keeper is None:
            held_gil.munmap(address, SIZE)
            if control:
                held_gil.munmap(other, SIZE)
        del keeper, other_keeper  # unmap their addresses, whatever is there
    wire.sendall(b"[]\n")
    return {"us": times, "unregistered": unregistered, "stray_rounds": stray_rounds, "stray_bytes": stray_bytes}


def unmap(kind: str, how: str, rounds: int, registered: bool) -> list[float]:
    """The same call on memory that the peer does not write to: microseconds."""
    pd, times = domain(), []
    for _ in range(rounds):
        address, keeper = fresh(kind)
        if registered:
            mr = register(view(address))
            pd.advise_mr(IBV_ADVISE_MR_ADVICE_PREFETCH_WRITE, IBV_ADVISE_MR_FLAG_FLUSH, [SGE(address, SIZE, mr.lkey)])
        time.sleep(0.001)
        times.append(replace(address, how) / 1e3)
        if registered:
            mr.close()
        if keeper is None:
            held_gil.munmap(address, SIZE)
        del keeper
    return times


# --- the peer ----------------------------------------------------------------------------


def dial(port: int) -> None:
    _wire.append(socket.create_connection(("127.0.0.1", port)))
    _wire[0].setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    source, keeper = np.full(SIZE, 0xA5, np.uint8), None
    _memories["local"] = Memory(source, keeper, {})
    expose("local")


def press() -> int:
    """Write into whatever the owner names, until refused; again, until it names nothing. Bytes written."""
    pd, wire, lines, total = domain(), _wire[0], _wire[0].makefile("r"), 0
    offsets = np.arange(SIZE // STEP) * STEP
    while told := json.loads(lines.readline()):
        remote, peer = told
        queue = Queue(pd, DEPTH)
        wire.sendall(json.dumps(queue.info()).encode() + b"\n")
        queue.connect(peer)
        work = queue.stage("write", local("local"), offsets, remote, offsets, STEP, len(offsets))
        lines.readline()
        posted = done = 0
        told = False
        while True:
            room = DEPTH - (posted - done)
            if room:
                at = posted % len(work)
                posted += queue.post(work[at : at + room])
            try:
                done += queue.must_poll()
            except RuntimeError as error:
                if "status" not in str(error):
                    raise
                break
            if not told:
                told = wire.sendall(b"writing\n") is None
        total += done * STEP
        queue.close()
        wire.sendall(b"refused\n")
    return total


# --- figures -----------------------------------------------------------------------------


def measure(options: Options) -> list[Figure]:
    blocks, rounds, strays = options.pick(10, 2), options.pick(100, 10), options.pick(10_000, 40)
    figures = []
    with Child() as owner, Child() as peer:
        port = owner.ask("listen")
        owner.start("accept")
        peer.ask("dial", port=port)
        owner.result()
        owner.ask("make", name="load", kind="shared", length=LOAD, fill=True)
        peer.ask("make", name="source", kind="shared", length=LOAD, fill=True)
        load = owner.ask("expose", name="load")
        peer.ask("expose", name="source")
        join(owner, peer)

        def stormy(kind, how, count, seed, control=False):
            peer.start("press")
            gave = owner.ask("storm", kind=kind, how=how, rounds=count, seed=seed, control=control)
            written = peer.result()
            return gave | {"written": written}

        def calm(kind, how, count, registered):
            owner.start("unmap", kind=kind, how=how, rounds=count, registered=registered)
            rate = peer.ask(
                "bandwidth",
                remote=load,
                op="write",
                length=MIB,
                depth=DEPTH,
                seconds=count * 0.004,
                span=LOAD,
                memory="source",
            )
            return {"us": owner.result(), "mib_per_s": rate}

        def cost(kind, how):
            variants = {
                "registered": lambda i: stormy(kind, how, rounds, i, control=True),
                "registered_load_elsewhere": lambda i: calm(kind, how, rounds, True),
                "unregistered_load_elsewhere": lambda i: calm(kind, how, rounds, False),
            }
            times = {name: [] for name in ["unregistered", *variants]}
            for i in range(blocks):
                for name, variant in variants.items():
                    gave = variant(i)
                    times[name] += gave["us"]
                    times["unregistered"] += gave.get("unregistered", [])
            say(f"{kind} {how}: " + ", ".join(f"{name} {median(us):.0f} us" for name, us in times.items()))
            return times

        for kind in ("owned", "shared", "private"):
            quiet = cost(kind, "munmap")
            with Spinner():
                busy = cost(kind, "munmap")
            figures.append(
                Figure(
                    f"munmap of 4 MiB under write load: added by registration, {kind}",
                    median(quiet["registered"]) - median(quiet["unregistered"]),
                    "us",
                    "<= 150",
                    {f"{name}_us": spread(us) for name, us in quiet.items()}
                    | {f"{name}_beside_a_busy_process_us": spread(us) for name, us in busy.items()},
                )
            )
        for kind in ("owned", "shared", "private"):
            for how, count in (("munmap", strays), ("fixed", strays // 5)):
                count = count if kind != "private" else count // 5
                gave = stormy(kind, how, count, 77)
                parts = {
                    "rounds": count,
                    "stray_bytes": gave["stray_bytes"],
                    "written_gib": round(gave["written"] / 2**30, 2),
                    "us": spread(gave["us"]),
                }
                text = "munmap, then mmap at the same address" if how == "munmap" else "MAP_FIXED over it"
                name = f"rounds of {count} with stray writes, {kind}, {text}"
                figures.append(Figure(name, gave["stray_rounds"], "", "== 0" if kind != "private" else "", parts))
                say(f"{name}: {gave['stray_rounds']}")
    return figures


if __name__ == "__main__":
    main(measure, globals())
