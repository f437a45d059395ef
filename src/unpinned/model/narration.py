"""What a step did, in words: for traces. Read off the two states before and after it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from unpinned.model import layout as M
from unpinned.model import properties
from unpinned.model.world import World
from unpinned.paging import layout as P
from unpinned.paging.causes import Cause

PHASES = {
    M.PHASE_START: "invalidate_start",
    M.PHASE_WAIT: "all devices are out of the range",
    M.PHASE_CHANGE: "changes the page table",
    M.PHASE_FINISH: "invalidate_finish",
    M.PHASE_AFTER: "frees, copies or writes back what it has in hand",
}


@dataclass(frozen=True)
class Step:
    """One step of a trace."""

    index: int
    actor: str
    action: str
    number: int  #: what `replay` takes
    broken: str = ""  #: the property that this step broke
    changes: dict[str, tuple[int, int]] = field(default_factory=dict)  #: name -> before, after


def actor_name(world: World, number: int) -> str:
    """Who actor `number` of a world is."""
    cpus, devices, requests = len(world.threads), world.devices, len(world.requests)
    threads = cpus + devices
    if number < threads * devices:
        t = number // devices
        return f"thread {t}" if t < cpus else f"device {t - cpus} worker"
    number -= threads * devices
    if number < requests:
        return f"request {number}"
    number -= requests
    return f"device {number // 3} {('driver', 'flush', 'host')[number % 3]}"


def narrate(world: World, index: int, number: int, before: Any, after: Any) -> Step:
    """The step that led from one state to the next."""
    actor = actor_name(world, number)
    changes = differences(before, after)
    threads = (len(world.threads) + world.devices) * world.devices
    if number < threads:
        t, device = divmod(number, world.devices)
        action = thread_action(world, t, device, before, after)
    elif number < threads + len(world.requests):
        action = request_action(world, number - threads, before, after)
    else:
        d, kind = divmod(number - threads - len(world.requests), 3)
        action = device_action(d, kind, before, after)
    broken = properties.NAMES.get(int(after[M.W_BROKEN]), "")
    if broken:
        action += f"  ** {broken}: {properties.MEANINGS[broken]} **"
    return Step(index, actor, action, number, broken, changes)


def _reached(after: Any) -> list[str]:
    return [name for i, name in enumerate(M.REACHED) if int(after[M.W_REACHED]) >> i & 1]


def thread_action(world: World, t: int, device: int, before: Any, after: Any) -> str:
    a = int(before[M.W_THREAD] + t * before[M.W_THREAD_WORDS])
    cpus = len(world.threads)
    what = "populate" if t >= cpus else str(world.threads[t][int(before[a + M.T_LINE])])
    if before[a + M.T_OP] == 0:
        if t >= cpus and after[a + M.T_OP] == 0:
            return worker_action(t - cpus, before, after)
        if after[a + M.T_OP]:
            copies = what.split()[0] in ("READ", "WRITE", "populate")
            return f"{what}: {'page is shared: copies it' if copies else 'begins, takes its locks'}"
        return f"{what}: done" + "".join(f" ({word})" for word in _reached(after))
    phase = int(before[a + M.T_PHASE])
    text = f"{what}: {PHASES[phase]}"
    if phase == M.PHASE_WAIT and before[a + M.T_REFUSED] and after[a + M.T_PHASE] == M.PHASE_FINISH:
        text = f"{what}: was refused; those that had begun are out of the range"
    if phase == M.PHASE_FINISH and before[a + M.T_TICKET + device] == 0:  # it had refused, or was never asked
        text = f"{what}: has nothing to finish"
    if phase in (M.PHASE_START, M.PHASE_FINISH):
        text += f" on device {device}"
    if phase == M.PHASE_START:
        words = [word.removeprefix("verdict ") for word in _reached(after) if word.startswith("verdict")]
        causes = [word for word in _reached(after) if word.startswith("cause")]
        text += "".join(f" ({cause})" for cause in causes) + "".join(f" -> {word}" for word in words)
    elif phase in (M.PHASE_CHANGE, M.PHASE_AFTER):
        text += "".join(f" ({word})" for word in _reached(after))
    if after[a + M.T_OP] == 0:
        text += "; returns"
    return text


def worker_action(d: int, before: Any, after: Any) -> str:
    a = int(before[M.W_DEVICE] + d * before[M.W_DEVICE_WORDS])
    if before[a + M.D_WORK] == 0:
        return "takes the fault"
    if before[a + M.D_POPULATED] < after[a + M.D_POPULATED]:
        first = (
            "begins a chunk" if "major fault" in _reached(after) else f"brings page {int(before[a + M.D_POPULATED])} in"
        )
        return first
    if after[a + M.D_ERROR]:
        return "cannot bring the page in (EFAULT)"
    outcome = [word for word in _reached(after) if word in ("retry", "waiting", "exhausted")]
    if "major fault" in _reached(after):
        return "begins a chunk"
    return "commits the chunk" + "".join(f": {word}" for word in outcome)


def request_action(world: World, r: int, before: Any, after: Any) -> str:
    q = int(before[M.W_REQUEST] + r * before[M.W_REQUEST_WORDS])
    request = world.requests[r]
    old, new = int(before[q + M.Q_STATE]), int(after[q + M.Q_STATE])
    cached = " (from the device's cache)" if "cached translation" in _reached(after) else ""
    if old == M.REQUEST_IDLE and new == M.REQUEST_COPYING:
        pages = range(int(after[q + M.Q_COPIED]), int(after[q + M.Q_CURSOR]))
        frames = [int(after[q + M.Q_FRAME + page - request.start]) for page in pages]
        where = ", ".join(f"page {page} -> frame {frame}" for page, frame in zip(pages, frames))
        return f"{request}: translated{cached}: {where}; the copy is described"
    if new == M.REQUEST_PARKED:
        return f"{request}: misses: parks and begins a fault"
    if old == M.REQUEST_COPYING:
        page = int(before[q + M.Q_COPIED])
        frame = int(before[q + M.Q_FRAME + page - request.start])
        return f"{request}: copies page {page} {'into' if request.name == 'WRITE' else 'from'} frame {frame}"
    if old == M.REQUEST_COPIED:
        return f"{request}: " + ("acknowledged" if "acknowledged" in _reached(after) else "this part is complete")
    if old == M.REQUEST_PARKED:
        return f"{request}: " + ("refused" if new == M.REQUEST_FAILED else "resumes")
    return f"{request}: refused"


def device_action(d: int, kind: int, before: Any, after: Any) -> str:
    a = int(before[M.W_DEVICE] + d * before[M.W_DEVICE_WORDS])
    if kind == 0:
        if before[a + M.D_SCAN]:
            outcome = [word for word in _reached(after) if word in ("retry", "waiting", "exhausted", "minor fault")]
            return "reports what it saw: " + (", ".join(outcome) or "the rest is for the worker")
        return "looks which pages are there" if after[a + M.D_SCAN] else "puts the fault aside: it collides"
    if kind == 1:
        return ("begins a flush", "its cache drops its translations", "ends the flush")[int(before[a + M.D_FLUSH])]
    return "lets go of the frames of an obligation that is over"


def differences(before: Any, after: Any) -> dict[str, tuple[int, int]]:
    """Words of the machine that a person would look at: page-table entries, frames, caches, table entries."""
    found: dict[str, tuple[int, int]] = {}

    def compare(name: str, at: int) -> None:
        if before[at] != after[at]:
            found[name] = (int(before[at]), int(after[at]))

    pages, processes, devices = (int(before[i]) for i in (M.W_PAGES, M.W_PROCESSES, M.W_DEVICES))
    for process in range(processes):
        for page in range(pages):
            compare(f"pte[{page}]" + "'" * process, int(before[M.W_PTE]) + process * pages + page)
    for frame in range(1, int(before[M.W_FRAMES]) + 1):
        at = int(before[M.W_FRAME] + frame * before[M.W_FRAME_WORDS])
        for name, offset in (("flags", M.F_FLAGS), ("maps", M.F_MAPS), ("content", M.F_CONTENT), ("slot", M.F_SLOT)):
            compare(f"frame[{frame}].{name}", at + offset)
    for d in range(devices):
        at = int(before[before[M.W_DEVICE] + d * before[M.W_DEVICE_WORDS] + M.D_OFFSET])
        for page in range(pages):
            compare(f"device[{d}].cache[{page}]", int(before[M.W_TLB]) + d * pages + page)
            compare(f"device[{d}].table[{page}]", at + int(before[at + P.NODES]) + page)
        compare(f"device[{d}].active", at + P.ACTIVE_COUNT)
        compare(f"device[{d}].owed", at + P.DEFERRAL_COUNT)
    return found


assert [f"cause {cause.name}" for cause in Cause] == list(M.REACHED[: P.CAUSES])
