"""One queue pair waits 500 ms for a page; what another one notices.

The page is behind a userfaultfd of the benchmark's own (missing pages, not USER_MODE_ONLY, so the kernel's own accesses wait
too); its handler is a compiled thread in the owner's process that sleeps and then supplies the page. The other queue pair
is looked at twice: in the same device as the waiting one, and in a device of its own, whose counters are its alone.
"""

import ctypes
import fcntl
import os
import struct
import threading
import time

import numpy as np
from _common import KIB, MIB, Child, Figure, Options, interleave, main, median, p99, say, spread
from _end import *  # noqa: F403
from _end import Memory, _memories, _queues, allocate, counters, expose, join, local
from _kernels import PAGE, serve_slowly

from unpinned.compiled.libc import SYS_USERFAULTFD

UFFDIO_API, UFFDIO_REGISTER = 0xC018AA3F, 0xC020AA00
REGISTER_MODE_MISSING = 1
SPAN = MIB
_state = np.zeros(4, np.int64)
_page = np.full(PAGE, 0x5A, np.uint8)
OTHER = "127.0.77.1"


def make_slow(name: str, length: int, ns: int) -> None:
    """Memory whose every page takes *ns* to come. OSError: EPERM without the right to handle kernel faults."""
    libc = ctypes.CDLL(None, use_errno=True)
    fd = libc.syscall(SYS_USERFAULTFD, os.O_CLOEXEC | os.O_NONBLOCK)
    if fd < 0:
        raise OSError(ctypes.get_errno(), "userfaultfd for kernel faults: " + os.strerror(ctypes.get_errno()))
    array, keeper = allocate("private", length)
    fcntl.ioctl(fd, UFFDIO_API, bytearray(struct.pack("QQQ", 0xAA, 0, 0)))
    fcntl.ioctl(
        fd, UFFDIO_REGISTER, bytearray(struct.pack("QQQQ", array.ctypes.data, length, REGISTER_MODE_MISSING, 0))
    )
    _state[0] = 1
    serve_slowly(fd, _page.ctypes.data, _state)  # compiles, perhaps for long, and returns
    _state[0], _state[1] = 0, ns
    threading.Thread(target=serve_slowly, args=(fd, _page.ctypes.data, _state), daemon=True).start()
    _memories[name] = Memory(array, keeper, {})


def watch(slow, hot, seconds, offset, name, at_least=0.0):
    """READ 4 KiB of *hot* over the queue pair *name* for a while; with *slow*, while "main" waits for a page of it, which must take
    *at_least* so many seconds and come right."""
    waiting, victim = _queues["main"], _queues[name]
    work = [victim.request("read", local("local"), 0, hot, at, PAGE) for at in range(0, 64 * PAGE, PAGE)]
    times, before = [], {where: counted(where) for where in ("", OTHER)}
    _memories["landing"].bytes[:PAGE] = 0
    began = time.perf_counter()
    came = not slow
    if slow:
        waiting.qp.post_send(waiting.request("read", local("landing"), 0, slow, offset, PAGE))
    while time.perf_counter() - began < seconds:
        start = time.perf_counter_ns()
        victim.qp.post_send(work[len(times) % 64])
        victim.must_poll()
        times.append((time.perf_counter_ns() - start) / 1e3)
        if slow and len(times) % 16 == 0 and len(waiting.poll(0)):
            came = True
            break
    if not came:
        waiting.must_poll()
    took = time.perf_counter() - began
    if slow and (took < at_least or not (_memories["landing"].bytes[:PAGE] == 0x5A).all()):
        raise RuntimeError(f"the page that takes {at_least} s came after {took:.3f} s, or wrong")
    counts = {
        where or "own": {key: value - before[where][key] for key, value in counted(where).items()} for where in before
    }
    return {
        "p50": median(times),
        "p99": p99(times),
        "max": max(times),
        "n": len(times),
        "seconds": took,
        "counts": counts,
    }


def counted(where):
    names = ("timeouts", "retransmitted", "rnr_received", "nak_received", "duplicate", "out_of_sequence")
    return {name: counters(where)[name] for name in names}


def measure(options: Options) -> list[Figure]:
    rounds, ms = options.pick(11, 2), options.pick(500, 200)
    names = {"same device": "victim", "device of its own": "stranger"}
    with Child() as owner, Child() as reader:
        owner.ask("make", name="served", kind="shared", length=SPAN, fill=True)
        for name in ("local", "landing"):
            reader.ask("make", name=name, kind="shared", length=SPAN, fill=True)
        try:
            owner.ask("make_slow", name="slow", length=64 * MIB, ns=ms * 1_000_000)
        except RuntimeError as error:
            return [
                Figure(f"p99 of another queue pair, {where}", None, target="<= 2", why=str(error)) for where in names
            ]
        join(owner, reader)
        join(owner, reader, "victim")
        join(owner, reader, "stranger", other_address=OTHER)
        hot, slow = owner.ask("expose", name="served"), owner.ask("expose", name="slow")
        reader.ask("expose", name="local"), reader.ask("expose", name="landing")
        say(f"the slow memory: {slow['kind']}, {slow['unnotified'] or 'watched'}")
        figures, turn = [], iter(range(MIB, 64 * MIB, 64 * KIB))
        for where, name in names.items():
            if name == "stranger":
                reader.ask("expose_again", name="local", address=OTHER)

            def quiet(name=name):
                return reader.ask("watch", slow=None, hot=hot, seconds=ms / 1000, offset=0, name=name)

            def faulting(name=name):
                before = owner.ask("counted", where="")
                gave = reader.ask(
                    "watch", slow=slow, hot=hot, seconds=ms / 1000 + 2, offset=next(turn), name=name, at_least=ms / 1000
                )
                after = owner.ask("counted", where="")
                return gave | {"owner": {key: after[key] - before[key] for key in after}}

            quiet()
            gave = interleave(rounds, {"quiet": quiet, "faulting": faulting})
            figures += sum_up(where, gave)
    return figures


def expose_again(name, address):
    """Register a memory with a second device, under its local key."""
    _memories[name].regions.clear()
    expose(name, "demand", address)


def sum_up(where, gave):
    rates = {
        f"{name}_{key}_us": spread([one[key] for one in ones])
        for name, ones in gave.items()
        for key in ("p50", "p99", "max")
    }
    ratio = median(one["p99"] for one in gave["faulting"]) / median(one["p99"] for one in gave["quiet"])
    total = {end: {} for end in ("own", OTHER, "owner")}
    for one in gave["faulting"]:
        for end, counts in (*one["counts"].items(), ("owner", one["owner"])):
            for key, value in counts.items():
                total[end][key] = total[end].get(key, 0) + value
    fault = {"fault_seconds": spread([one["seconds"] for one in gave["faulting"]])}
    asked = total["own"]["rnr_received"]
    extra = total["own"]["retransmitted"] - asked  # a READ request is one packet: each RNR asks for one
    timeouts = sum(counts["timeouts"] for counts in total.values())
    figures = [
        Figure(f"p99 while another waits 500 ms / quiet, {where}", ratio, "times", "<= 2", rates | fault),
        Figure(f"timeouts, {where}", timeouts, "", "== 0", {"counters": total}),
        Figure(f"packets sent again beyond what RNR asked for, {where}", extra, "", "<= 0", {"asked_for": asked}),
    ]
    if where != "same device":
        figures.append(Figure("packets of the other queue pair sent again", total[OTHER]["retransmitted"], "", "== 0"))
    return figures


if __name__ == "__main__":
    main(measure, globals())
