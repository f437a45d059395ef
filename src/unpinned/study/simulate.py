"""One run: build the blocks, go through virtual time, read what was counted."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unpinned.compiled import INTERPRETED
from unpinned.paging import layout as P
from unpinned.paging.regions import region_open
from unpinned.study import layout as S
from unpinned.study.events import run
from unpinned.study.policies import StudyPolicy
from unpinned.study.profiles import Profile
from unpinned.study.results import read
from unpinned.study.workloads import WORKLOADS, Plan

ENTRY = ("unpinned.study.events", "run", "wwwi")
SLICE = 200_000
"""Steps between two looks at signals and progress."""


@dataclass(frozen=True)
class Bounds:
    """Where a run ends, whichever comes first."""

    virtual_ns: int = 500_000_000
    page_accesses: int = 5_000_000


@dataclass
class Run:
    """What one run was and gave. Times in us, sizes in pages."""

    workload: str
    policy: str
    profile: str
    devices: int
    pages: int
    seed: int
    title: str  #: what the workload is
    results: dict[str, Any] = field(default_factory=dict)

    def flat(self) -> dict[str, Any]:
        """One row of a table."""
        made = asdict(self)
        return {**{name: value for name, value in made.items() if name != "results"}, **self.results}


@dataclass
class World:
    """The blocks of one run."""

    s: S.Block
    x: NDArray[np.int64]
    y: NDArray[np.int64]
    devices: list[P.Block]


def ensure_compiled(say: Callable[[str], None] | None = None) -> None:
    """Compile the loop, once; later runs find it on disk."""
    if not INTERPRETED:
        from unpinned.compiled.build import ensure

        ensure([ENTRY], say=say)


def table_block(pages: int, policy: StudyPolicy, profile: Profile, streams: int) -> P.Block:
    """A device's paging block for a region of `pages` pages."""
    leaves = -(-pages // 512)
    p = P.create(
        levels=3, bits=9, leaves=leaves + -(-leaves // 512) + 4, regions=1, active=24, deferrals=512, provisional=0, revoked=1,
        dma=max(1, streams), faults=max(4, 2 * streams),
    )  # fmt: skip
    p[P.HUGE] = 0  # an entry carries its frame
    p[P.TRACK] = P.ACCESSED
    p[P.TLB] = int(profile.tlb > 0)
    p[P.READ_AHEAD_BYTES] = 0
    policy.table.write(p)
    flags = P.REGION_WRITE_BY_SCAN if profile.sees_write else 0
    assert region_open(p, 0, 0, pages << S.PAGE_SHIFT, flags) == P.DONE
    return p


def build(plan: Plan, policy: StudyPolicy, profile: Profile, *, pages: int, devices: int = 1, bounds: Bounds | None = None) -> World:
    """The blocks of a run, ready to go."""
    bounds = bounds or Bounds()
    frames = max(2 * pages + plan.given_up if policy.pinned else int(pages * plan.frames), 8)
    streams_each = plan.streams if plan.edges is None else -(-plan.streams // devices)
    s = S.create(pages=pages, frames=frames, devices=devices, streams=streams_each, scanners=profile.scanners,
                 workers=profile.workers, cpus=len(plan.scripts), tlb=max(1, profile.tlb))  # fmt: skip
    profile.write(s)
    s[S.STOP_NS], s[S.STOP_ACCESSES] = bounds.virtual_ns, bounds.page_accesses
    s[S.TWO_PHASE], s[S.AGING], s[S.PINNED] = int(policy.two_phase), int(policy.aging), int(policy.pinned)
    s[S.LOW], s[S.HIGH] = max(1, frames // 64), max(2, frames // 32)
    blocks = [table_block(pages, policy, profile, streams_each) for _ in range(devices)]
    for device, p in enumerate(blocks):
        at = s[S.DEVICE] + device * S.DEVICE_WORDS
        s[at + S.D_P], s[S.TABLE_WORDS] = p.ctypes.data, p.size
        s[at + S.D_FLUSH_NS] = profile.flush + s[S.T_FLUSH_SPREAD] * device // devices
    s[S.FILL] = pages if policy.pinned else min(int(pages * plan.resident), frames)
    s[S.FILL_INSTALLED] = int(plan.installed or policy.pinned)
    if plan.present is not None and not policy.pinned:
        S.page_table(s)[plan.present] = S.PTE_PRESENT  # the loop gives them their frames
        s[S.FILL] = s[S.FILL_INSTALLED] = 0
    table = S.actors(s)
    when = s[s[S.WHEN] : s[S.WHEN] + s[S.ACTOR_COUNT]]
    streams = np.flatnonzero(table[:, S.A_KIND] == S.KIND_STREAM)
    edges = np.linspace(0, plan.accesses.size, streams.size + 1).astype(int)
    if plan.edges is not None:  # streams that get none of it have ended
        edges = np.append(plan.edges, np.full(streams.size + 1 - plan.edges.size, plan.edges[-1]))
    for i, actor in enumerate(streams):
        table[actor, [S.A_FIRST, S.A_CURSOR, S.A_LAST]] = edges[i], edges[i], edges[i + 1]
        table[actor, [S.A_LOOP, S.A_THINK]] = int(plan.accesses_loop), plan.think_ns
    scripts = [np.ascontiguousarray(script, np.int64) for script in plan.scripts]
    first = 0
    for actor, script in zip(np.flatnonzero(table[:, S.A_KIND] == S.KIND_CPU), scripts):
        table[actor, [S.A_FIRST, S.A_CURSOR, S.A_LAST]] = first, first, first + len(script)
        table[actor, [S.A_LOOP, S.A_STATE]] = int(plan.loop), S.NEXT
        when[actor] = script[0, S.OP_THINK]
        first += len(script)
    y = np.concatenate([script.ravel() for script in scripts]) if scripts else np.zeros(S.OP_WORDS, np.int64)
    if plan.until_scripts_end:
        s[S.STOP_OPS] = len(scripts) if not plan.loop else 0
    x = np.ascontiguousarray(plan.accesses, np.int64)
    if plan.moments is not None:
        x, s[S.MOMENTS] = np.concatenate([x, plan.moments]), x.size
        s[S.STOP_OPS] = len(scripts) + streams.size
    return World(s, x, y, blocks)


def go(world: World, progress: Callable[[float], None] | None = None) -> float:
    """Run to the end; -> seconds of the machine's own time. Ctrl-C ends it between two slices."""
    began = time.perf_counter()
    while not run(world.s, world.x, world.y, SLICE):
        if progress is not None:
            progress(float(world.s[S.NOW]) / float(world.s[S.STOP_NS]))
    return time.perf_counter() - began


def simulate(
    workload: str,
    policy: StudyPolicy,
    profile: Profile,
    *,
    pages: int,
    devices: int = 1,
    seed: int = 1,
    bounds: Bounds | None = None,
    plan: Plan | None = None,
    title: str = "",
    progress: Callable[[float], None] | None = None,
) -> Run:
    """One run of a workload by name, from its seed to its results; or of a plan that is there already, a recording's.

    Raises ValueError for a size or number of devices that cannot be, KeyError for an unknown workload.
    """
    title = title or (WORKLOADS[workload].__doc__ or "").strip()
    plan = plan or WORKLOADS[workload](pages, np.random.default_rng(seed))
    world = build(plan, policy, profile, pages=pages, devices=devices, bounds=bounds)
    seconds = go(world, progress)
    return Run(workload, policy.name, profile.name, devices, pages, seed, title, read(world.s, world.devices, seconds))
