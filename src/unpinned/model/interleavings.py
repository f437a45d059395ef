"""Every interleaving of a small world, breadth first, in compiled code.

The search is one loop over states in the order in which they were found: unpack one, let each actor in turn make its next step
in a copy, look whether a property broke, bring the result into canonical form, pack it, look its hash up. A state that is new goes to
the end. What is kept of a state for good is its hash, its parent and, for the fairness analysis, its edges; the packed words only
until it has been expanded.

Actors, in this order: threads and workers (once per device, for the device they turn to next when they notify), requests, then for each
device its driver, its flush and its host, who discharges obligations. Nothing else chooses: an actor's step follows from the state.

`call` is the one entry point; everything is in the control block ``c`` (C_ words), which names the other blocks by address.
"""

from __future__ import annotations

from typing import Final

from unpinned.compiled import kernel
from unpinned.compiled.views import words_at
from unpinned.model import layout as M
from unpinned.model.adapter import block_at, discharge_step, flush_step, thread_at
from unpinned.model.canonical import copy_words, digest, pack, rename_frames, same, unpack
from unpinned.model.device import driver_step, request_step
from unpinned.model.layout import Block
from unpinned.model.operations import cpu_step
from unpinned.model.properties import DEADLOCK, at_rest, check, pending
from unpinned.model.symmetry import COUNT, permute, remembered
from unpinned.model.worker import worker_step
from unpinned.paging import layout as P

# --- control block: (address, length) pairs first ----------------------------------------------------------------------
C_WORLD: Final = 0  #: the world that is worked on
C_BASE: Final = 2  #: the state that is being expanded
C_INDEX: Final = 4  #: state words; their number is a multiple of 4
C_RING: Final = 6  #: packed states, C_STRIDE words each, C_RING_MASK + 1 of them
C_TABLE: Final = 8  #: (hash, hash, state + 1) per slot, C_TABLE_MASK + 1 slots
C_PARENT: Final = 10  #: per state: parent << 16 | actor
C_EDGES: Final = 12  #: target << 32 | C_RENAMED << 24 | completed << 8 | actor; none if their length is 0
C_FIRST: Final = 14  #: per state: its first edge
C_PENDING: Final = 16  #: per state: who is not done
C_SCRATCH: Final = 18  #: renaming; then two packed states and a hash
C_PERMUTED: Final = 20  #: a world for permutations
C_SYMMETRY: Final = 22  #: the automorphisms (symmetry.symmetry_table), none if their length is 0
C_STRIDE: Final = 24  #: words of a packed state
C_RING_MASK: Final = 25
C_TABLE_MASK: Final = 26
C_STATES: Final = 27  #: found so far
C_EXPANDED: Final = 28
C_TRANSITIONS: Final = 29
C_LIMIT: Final = 30  #: stop before the table holds more states
C_LEVEL_END: Final = 31  #: first state of the next level
C_DEPTH: Final = 32
C_DEPTH_LIMIT: Final = 33
C_CHUNK: Final = 34  #: states to expand in this call
C_REDUCE: Final = 35  #: 1: canonical form
C_REACHED: Final = 36  #: bits REACHED_*
C_BROKEN: Final = 37  #: the property, 0: none
C_WHERE: Final = 38
C_STATE: Final = 39  #: the state from which the step was made that broke it
C_ACTOR: Final = 40  #: and who made it (NONE: the state itself)
C_COMMAND: Final = 41
C_ARGUMENT: Final = 42
C_BAD: Final = 43  #: a value did not fit into 16 bits
C_UNLIKE: Final = 44  #: see UNLIKE
C_RENAMED: Final = 45  #: what brought the last state into canonical form: 0, or 1 + the automorphism of C_SYMMETRY
CONTROL_WORDS: Final = 46

GO_ON: Final = 0  #: the chunk is over
FINISHED: Final = 1
FOUND: Final = 2  #: a property does not hold
FULL_STATES: Final = 3
FULL_RING: Final = 4
FULL_EDGES: Final = 5
FULL_DEPTH: Final = 6
UNFIT: Final = 7
UNLIKE: Final = 8  #: free frames are not alike: automorphisms do not hold (symmetry.remembered)

RUN: Final = 0  #: expand
ADD: Final = 1  #: the world in C_WORLD is the first state
STEP: Final = 2  #: actor C_ARGUMENT makes its step in C_WORLD; 1, or 0: it cannot
CANONICAL: Final = 3  #: bring C_WORLD into canonical form and pack it: into scratch; the hash into C_STATE, C_ACTOR
REST: Final = 4  #: bits of who is not done in C_WORLD
GROW: Final = 5  #: move the table to the larger one at address C_ARGUMENT with mask C_STATE


@kernel
def actors(w: Block) -> int:
    """How many there are."""
    return w[M.W_THREADS] * max(1, w[M.W_DEVICES]) + w[M.W_REQUESTS] + 3 * w[M.W_DEVICES]


@kernel
def act(w: Block, actor: int) -> int:
    """Let one actor make its next step; 1, or 0: it has none now, and nothing has changed."""
    devices = max(1, w[M.W_DEVICES])
    if actor < w[M.W_THREADS] * devices:
        t = actor // devices
        a = thread_at(w, t)
        w[M.W_CHOICE] = actor - t * devices
        notifies = w[a + M.T_OP] and (w[a + M.T_PHASE] == M.PHASE_START or w[a + M.T_PHASE] == M.PHASE_FINISH)
        if w[M.W_CHOICE] and not notifies:
            return 0
        return cpu_step(w, t) if t < w[M.W_CPUS] else worker_step(w, t - w[M.W_CPUS])
    actor -= w[M.W_THREADS] * devices
    if actor < w[M.W_REQUESTS]:
        return request_step(w, actor)
    actor -= w[M.W_REQUESTS]
    if actor % 3 == 0:
        return driver_step(w, actor // 3)
    return flush_step(w, actor // 3) if actor % 3 == 1 else discharge_step(w, actor // 3)


@kernel
def step(w: Block, actor: int) -> int:
    """`act` with the properties looked at: W_BROKEN and the other report words say what happened."""
    w[M.W_BROKEN] = 0
    w[M.W_WHERE] = 0
    w[M.W_REACHED] = 0
    w[M.W_COMPLETED] = 0
    if not act(w, actor):
        return 0
    check(w)
    return 1


@kernel
def canonical(c: Block, w: Block) -> int:
    """Pack the state of `w` (which is renamed), in canonical form, into the scratch; -> where in the scratch."""
    index = words_at(c[C_INDEX], c[C_INDEX + 1])
    scratch = words_at(c[C_SCRATCH], c[C_SCRATCH + 1])
    stride = c[C_STRIDE]
    best = c[C_SCRATCH + 1] - 2 * stride
    other = best + stride
    if c[C_REDUCE] and c[C_SYMMETRY + 1]:
        symmetry = words_at(c[C_SYMMETRY], c[C_SYMMETRY + 1])
        permuted = words_at(c[C_PERMUTED], c[C_PERMUTED + 1])
        c[C_UNLIKE] |= remembered(w)
        for g in range(symmetry[COUNT]):
            permute(w, permuted, symmetry, g)
            rename_frames(permuted, scratch)
            c[C_BAD] |= pack(permuted, index, c[C_INDEX + 1], scratch, other)
            if g == 0 or same(scratch, other, best, stride) < 0:
                c[C_RENAMED] = g + 1
                for i in range(stride):
                    scratch[best + i] = scratch[other + i]
        rename_frames(w, scratch)
        c[C_BAD] |= pack(w, index, c[C_INDEX + 1], scratch, other)
        if same(scratch, other, best, stride) > 0:
            return best
        c[C_RENAMED] = 0
        return other
    if c[C_REDUCE]:
        rename_frames(w, scratch)
    c[C_BAD] |= pack(w, index, c[C_INDEX + 1], scratch, best)
    return best


@kernel
def add(c: Block, w: Block, parent: int, actor: int) -> int:
    """Look the state of `w` up; a new one goes to the end. -> its number, or -1: no room for it."""
    scratch = words_at(c[C_SCRATCH], c[C_SCRATCH + 1])
    at = canonical(c, w)
    stride = c[C_STRIDE]
    hashes = c[C_SCRATCH + 1] - 2 * stride - 2
    out = words_at(c[C_SCRATCH] + 8 * hashes, 2)
    digest(scratch, at, stride, out)
    table = words_at(c[C_TABLE], c[C_TABLE + 1])
    slot = out[0] & c[C_TABLE_MASK]
    while table[3 * slot + 2]:
        if table[3 * slot] == out[0] and table[3 * slot + 1] == out[1]:
            return table[3 * slot + 2] - 1
        slot = (slot + 1) & c[C_TABLE_MASK]
    state = c[C_STATES]
    if state >= c[C_LIMIT]:
        return -1
    table[3 * slot] = out[0]
    table[3 * slot + 1] = out[1]
    table[3 * slot + 2] = state + 1
    words_at(c[C_PARENT], c[C_PARENT + 1])[state] = parent << 16 | actor
    ring = words_at(c[C_RING], c[C_RING + 1])
    to = (state & c[C_RING_MASK]) * stride
    for i in range(stride):
        ring[to + i] = scratch[at + i]
    c[C_STATES] = state + 1
    return state


@kernel
def report(c: Block, which: int, where: int, state: int, actor: int) -> int:
    """A property does not hold: note it. -> FOUND."""
    c[C_BROKEN] = which
    c[C_WHERE] = where
    c[C_STATE] = state
    c[C_ACTOR] = actor
    return FOUND


@kernel
def expand(c: Block, state: int) -> int:
    """Every step from one state; -> GO_ON, or why the search ends."""
    w = words_at(c[C_WORLD], c[C_WORLD + 1])
    base = words_at(c[C_BASE], c[C_BASE + 1])
    edges = words_at(c[C_EDGES], c[C_EDGES + 1])
    unpack(
        base,
        words_at(c[C_INDEX], c[C_INDEX + 1]),
        c[C_INDEX + 1],
        words_at(c[C_RING], c[C_RING + 1]),
        (state & c[C_RING_MASK]) * c[C_STRIDE],
    )
    first = w[M.W_STATE]
    end = w[M.W_SCRATCH]
    count = actors(w)
    edge = 0
    if c[C_EDGES + 1]:
        edge = words_at(c[C_FIRST], c[C_FIRST + 1])[state]
        if edge + count > c[C_EDGES + 1]:
            return FULL_EDGES
        words_at(c[C_PENDING], c[C_PENDING + 1])[state] = pending(base)
    copy_words(w, base, first, end)
    made = 0
    for actor in range(count):
        possible = step(w, actor)
        c[C_REACHED] |= w[M.W_REACHED]
        if not possible:
            continue
        made += 1
        if w[M.W_BROKEN]:
            return report(c, w[M.W_BROKEN], w[M.W_WHERE], state, actor)
        target = add(c, w, state, actor)
        if c[C_BAD] | c[C_UNLIKE]:
            return UNFIT if c[C_BAD] else UNLIKE
        if target < 0:
            return FULL_STATES
        if c[C_EDGES + 1]:
            edges[edge] = target << 32 | c[C_RENAMED] << 24 | (w[M.W_COMPLETED] & 0xFFFF) << 8 | actor
            edge += 1
        copy_words(w, base, first, end)
    c[C_TRANSITIONS] += made
    if c[C_EDGES + 1]:
        words_at(c[C_FIRST], c[C_FIRST + 1])[state + 1] = edge
    if made == 0:
        if pending(base):
            return report(c, DEADLOCK, pending(base), state, P.NONE)
        if at_rest(base):
            return report(c, at_rest(base), 0, state, P.NONE)
    return GO_ON


@kernel
def run(c: Block) -> int:
    """Expand the next C_CHUNK states."""
    for _ in range(c[C_CHUNK]):
        state = c[C_EXPANDED]
        if state == c[C_STATES]:
            return FINISHED
        if state == c[C_LEVEL_END]:
            if c[C_DEPTH] == c[C_DEPTH_LIMIT]:
                return FULL_DEPTH
            c[C_DEPTH] += 1
            c[C_LEVEL_END] = c[C_STATES]
        if c[C_STATES] - state > c[C_RING_MASK] - 64:
            return FULL_RING
        status = expand(c, state)
        if status != GO_ON:
            return status
        c[C_EXPANDED] = state + 1
    return GO_ON


@kernel
def grow(c: Block) -> int:
    """Move every entry of the table to a larger one."""
    old = words_at(c[C_TABLE], c[C_TABLE + 1])
    mask = c[C_STATE]
    new = words_at(c[C_ARGUMENT], 3 * (mask + 1))
    for i in range(c[C_TABLE_MASK] + 1):
        if old[3 * i + 2]:
            slot = old[3 * i] & mask
            while new[3 * slot + 2]:
                slot = (slot + 1) & mask
            for k in range(3):
                new[3 * slot + k] = old[3 * i + k]
    c[C_TABLE] = c[C_ARGUMENT]
    c[C_TABLE + 1] = 3 * (mask + 1)
    c[C_TABLE_MASK] = mask
    return 0


@kernel
def call(c: Block) -> int:
    """What Python calls: C_COMMAND says what."""
    w = words_at(c[C_WORLD], c[C_WORLD + 1])
    if c[C_COMMAND] == RUN:
        return run(c)
    if c[C_COMMAND] == ADD:
        return add(c, w, 0, 0)
    if c[C_COMMAND] == STEP:
        for d in range(w[M.W_DEVICES]):
            p = words_at(block_at(w, d), w[M.W_BLOCK_WORDS])
            for i in range(p[P.TOTALS], w[M.W_BLOCK_WORDS]):
                p[i] = 0  # counters: the search has none either
        return step(w, c[C_ARGUMENT])
    if c[C_COMMAND] == CANONICAL:
        at = canonical(c, w)
        out = words_at(c[C_SCRATCH] + 8 * (c[C_SCRATCH + 1] - 2 * c[C_STRIDE] - 2), 2)
        digest(words_at(c[C_SCRATCH], c[C_SCRATCH + 1]), at, c[C_STRIDE], out)
        c[C_STATE] = out[0]
        c[C_ACTOR] = out[1]
        return at
    return grow(c) if c[C_COMMAND] == GROW else pending(w)
