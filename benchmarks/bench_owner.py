"""What an owner pays for having memory registered: first touch, closing a region, munmap of memory that is nobody's business."""

import ctypes
import os
import tempfile
import time
from functools import partial

import numpy as np
from _common import GIB, MIB, Child, Figure, Options, interleave, main, median, spread
from _end import *  # noqa: F403
from _end import Memory, _memories, drop, expose, join, make, withdraw

TOUCHED, UNRELATED = 64 * MIB, 4 * MIB
_folder = tempfile.TemporaryDirectory()


def new(name, kind, length):
    """Memory of a kind, or a shared mapping of a file on the disk."""
    if kind != "file":
        make(name, kind, length)
        return
    path = os.path.join(_folder.name, name)
    with open(path, "wb") as file:
        for at in range(0, length, 16 * MIB):
            file.write(bytes(min(16 * MIB, length - at)))
        os.fsync(file.fileno())
    array = np.memmap(path, np.uint8, "r+")
    os.unlink(path)
    _memories[name] = Memory(np.frombuffer(array, np.uint8), array, {})


def first_touch(kind, registered, writing):
    """Milliseconds to write to (or read) a byte of every page of 64 MiB for the first time."""
    new("touched", kind, TOUCHED)
    if registered:
        expose("touched")
    array = _memories["touched"].bytes[::4096]
    began = time.perf_counter()
    if writing:
        array[:] = 1
    else:
        array.sum()
    took = time.perf_counter() - began
    drop("touched")
    return took * 1e3


def close(kind, length, populated):
    """Milliseconds that closing a region takes."""
    new("closed", kind, length)
    expose("closed")
    if populated:
        _memories["closed"].bytes[::4096] = 1
    took = withdraw("closed")
    drop("closed")
    return took * 1e3


def unrelated(count):
    """Microseconds of munmap of touched memory that was never registered."""
    libc = ctypes.PyDLL(None)
    libc.munmap.argtypes = [ctypes.c_size_t, ctypes.c_size_t]
    libc.mmap.restype = ctypes.c_size_t
    libc.mmap.argtypes = [ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
    times = []
    for _ in range(count):
        address = libc.mmap(0, UNRELATED, 3, 0x22, -1, 0)
        ctypes.memset(address, 1, UNRELATED)
        began = time.perf_counter_ns()
        libc.munmap(address, UNRELATED)
        times.append((time.perf_counter_ns() - began) / 1e3)
    return times


def measure(options: Options) -> list[Figure]:
    rounds, large, count = options.pick(15, 2), options.pick(2 * GIB, 128 * MIB), options.pick(100, 20)
    figures = []
    with Child() as owner, Child() as bare, Child() as reader:
        owner.ask("make", name="served", kind="shared", length=TOUCHED, fill=True)
        reader.ask("make", name="local", kind="shared", length=TOUCHED, fill=True)
        join(owner, reader)
        remote = owner.ask("expose", name="served")
        reader.ask("expose", name="local")

        for writing, verb in ((True, "written"), (False, "read")):
            for kind in ("private", "shared", "owned", "file"):
                touch = partial(owner.ask, "first_touch", kind=kind, writing=writing)
                variants = {"registered": partial(touch, registered=True), "not": partial(touch, registered=False)}
                times = interleave(rounds, variants)
                value = median(times["registered"]) / median(times["not"])
                parts = {f"{name}_ms": spread(ms) for name, ms in times.items()}
                figures.append(
                    Figure(f"first touch of 64 MiB, {verb}, registered / not, {kind}", value, "times", "", parts)
                )
        for kind in ("private", "shared", "owned"):
            shut = partial(owner.ask, "close", kind=kind, length=large)
            variants = {"populated": partial(shut, populated=True), "untouched": partial(shut, populated=False)}
            times = interleave(options.pick(5, 2), variants)
            parts = {f"{name}_ms": spread(ms) for name, ms in times.items()}
            what = f"closing a populated region of {large / GIB:g} GiB, {kind}"
            figures.append(Figure(what, median(times["populated"]), "ms", "", parts))

        def loaded():
            reader.start(
                "bandwidth", remote=remote, op="write", length=MIB, depth=16, seconds=count * 0.002, span=TOUCHED
            )
            times = owner.ask("unrelated", count=count)
            reader.result()
            return times

        variants = {
            "no_device": partial(bare.ask, "unrelated", count=count),
            "device": partial(owner.ask, "unrelated", count=count),
            "under_load": loaded,
        }
        times = {name: sum(lists, []) for name, lists in interleave(rounds, variants).items()}
        value = median(times["device"]) / median(times["no_device"])
        parts = {f"{name}_us": spread(us) for name, us in times.items()}
        figures.append(Figure("munmap of unrelated 4 MiB, with a device / without", value, "times", "", parts))
    return figures


if __name__ == "__main__":
    main(measure, globals())
