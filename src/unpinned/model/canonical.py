"""Equal situations are equal words: canonical form, packing and the hash.

**Frames** are interchangeable: nothing depends on a frame's number but which free one is taken next, and free ones are alike, but
for one that a device still remembers. That one is met, hence numbered, hence taken before the others, which is when a use of it shows.
So frames are numbered anew in the order in which they are met: page tables, slots, requests, threads, caches, what drivers and workers
have seen, table entries; then those that are only held or in hand, by their records.

**Pages, devices, requests and threads** are interchangeable only where the world does not tell them apart: such permutations of the
whole world (automorphisms.py finds them, symmetry.py applies them) are tried one by one, and the least packed state stands for all.

A packed state keeps the words that can change (`state_words`), 16 bits each; a value that does not fit stops the search. Its hash has
128 bits: two multiply-and-fold lanes over the packed words. Two of n states collide with probability below n**2 / 2**129 if
the hash is as good as random: 1e-24 for ten million states. A collision could hide states, never invent a violation.
"""

from __future__ import annotations

from unpinned.compiled import kernel
from unpinned.compiled.intrinsics import address_of, copy_bytes
from unpinned.compiled.mixing import fold_multiply
from unpinned.compiled.views import words_at
from unpinned.model import layout as M
from unpinned.model.adapter import block_at, device_at, thread_at
from unpinned.model.device import request_at
from unpinned.model.layout import Block
from unpinned.model.machine import frame_at
from unpinned.paging import layout as P

MAX_FRAMES = 7  #: so that a table entry, frame << 12 | flags, fits into 16 bits

# Odd constants with as many ones as zeroes, from the decimals of pi (Blowfish's), as signed words.
KEY0 = 0x243F6A8885A308D3
KEY1 = 0x13198A2E03707345
KEY2 = 0x3F84D5B5B5470917
KEY3 = 0x452821E638D01377


# --- frames ------------------------------------------------------------------------------------------------------------


@kernel
def meet(n: Block, frame: int) -> int:
    """A frame is met: give it the next number if it has none. n: [count, number of frame 1, 2, ...]; -> its number."""
    if frame == 0:
        return 0
    if n[frame] == 0:
        n[0] += 1
        n[frame] = n[0]
    return n[frame]


@kernel
def rename_in(w: Block, n: Block, first: int, last: int, shift: int, mask: int) -> int:
    """Words ``[first, last)`` hold ``frame << shift`` where a bit of `mask` is set (mask 0: always): rename."""
    low = (1 << shift) - 1
    for i in range(first, last):
        word = w[i]
        if word and (mask == 0 or word & mask):
            w[i] = meet(n, word >> shift) << shift | (word & low)
    return 0


@kernel
def frame_order(w: Block, frame: int) -> int:
    """One number that tells frames apart which nothing refers to: their records."""
    f = frame_at(w, frame)
    value = 0
    for i in range(w[M.W_FRAME_WORDS]):
        value = value << 8 | (w[f + i] & 255)
    return value


@kernel
def rename_frames(w: Block, n: Block) -> int:
    """Number the frames anew, everywhere. n: scratch of at least 2 * (frames + 1) words plus the frames' records."""
    frames = w[M.W_FRAMES]
    for i in range(frames + 1):
        n[i] = 0
    rename_in(w, n, w[M.W_PTE], w[M.W_TRUTH], M.PTE_SHIFT, M.PTE_PRESENT | M.PTE_MIGRATION)
    for slot in range(1, w[M.W_SLOTS] + 1):
        at = w[M.W_SLOT] + slot * M.SLOT_WORDS + M.S_FRAME
        w[at] = meet(n, w[at])
    if w[M.W_KIND] == M.KIND_HCA:
        for r in range(w[M.W_REQUESTS]):
            at = request_at(w, r)
            rename_in(w, n, at + M.Q_FRAME, at + w[M.W_REQUEST_WORDS], 0, 0)
    for t in range(w[M.W_THREADS]):
        a = thread_at(w, t)
        w[a + M.T_FRAME] = meet(n, w[a + M.T_FRAME])
        w[a + M.T_NEW] = meet(n, w[a + M.T_NEW])
    rename_in(w, n, w[M.W_TLB], w[M.W_BLOCKS], M.TLB_SHIFT, 0)
    for d in range(w[M.W_DEVICES] if w[M.W_KIND] != M.KIND_ALIAS else 0):
        a = device_at(w, d)
        rename_in(w, n, a + M.D_SEEN, a + w[M.W_DEVICE_WORDS], 0, 0)
        p = words_at(block_at(w, d), w[M.W_BLOCK_WORDS])
        rename_in(p, n, p[P.NODES], p[P.COUNTERS], P.FLAG_BITS, P.PRESENT)
    while n[0] < frames:  # what nobody refers to: the largest record first, so that free ones come last
        best = 0
        for frame in range(1, frames + 1):
            if n[frame] == 0 and (best == 0 or frame_order(w, frame) > frame_order(w, best)):
                best = frame
        meet(n, best)
    moved = 0
    for frame in range(1, frames + 1):
        moved |= n[frame] ^ frame
    if moved:
        words = w[M.W_FRAME_WORDS]
        copy = frames + 1
        for i in range((frames + 1) * words):
            n[copy + i] = w[w[M.W_FRAME] + i]
        for frame in range(1, frames + 1):
            to = frame_at(w, n[frame])
            for i in range(words):
                w[to + i] = n[copy + frame * words + i]
    return moved


# --- packing -----------------------------------------------------------------------------------------------------------


@kernel
def pack(w: Block, index: Block, count: int, out: Block, at: int) -> int:
    """Words ``w[index[:count]]`` as 16 bits each into ``out[at:]``; -> 0, or not 0: one does not fit. count: a multiple of 4."""
    bad = 0
    i = 0
    while i < count:
        a = w[index[i]]
        b = w[index[i + 1]]
        c = w[index[i + 2]]
        d = w[index[i + 3]]
        bad |= ((a + 32768) | (b + 32768) | (c + 32768) | (d + 32768)) >> 16
        out[at] = (a & 0xFFFF) | (b & 0xFFFF) << 16 | (c & 0xFFFF) << 32 | d << 48
        at += 1
        i += 4
    return bad


@kernel
def unpack(w: Block, index: Block, count: int, packed: Block, at: int) -> int:
    """The opposite of `pack`, and the parity of every device's sequence with it."""
    i = 0
    while i < count:
        word = packed[at]
        w[index[i]] = ((word & 0xFFFF) ^ 0x8000) - 0x8000
        w[index[i + 1]] = ((word >> 16 & 0xFFFF) ^ 0x8000) - 0x8000
        w[index[i + 2]] = ((word >> 32 & 0xFFFF) ^ 0x8000) - 0x8000
        w[index[i + 3]] = word >> 48
        at += 1
        i += 4
    for d in range(w[M.W_DEVICES]):
        p = words_at(block_at(w, d), w[M.W_BLOCK_WORDS])
        p[p[P.COUNTERS] + P.SEQUENCE] = 1 if p[P.ACTIVE_COUNT] > 0 else 0
    return 0


@kernel
def digest(packed: Block, at: int, words: int, out: Block) -> int:
    """The 128-bit hash of ``packed[at : at + words]`` into out[0], out[1]."""
    a = KEY0
    b = KEY1
    for i in range(at, at + words):
        a = fold_multiply(a ^ packed[i], KEY2)
        b = fold_multiply(b ^ packed[i], KEY3)
    out[0] = a
    out[1] = b
    return 0


@kernel
def same(packed: Block, one: int, other: int, words: int) -> int:
    """-1, 0 or 1: how two packed states compare (any fixed order will do)."""
    for i in range(words):
        if packed[one + i] != packed[other + i]:
            return -1 if packed[one + i] < packed[other + i] else 1
    return 0


@kernel
def copy_words(target: Block, source: Block, first: int, last: int) -> int:
    """Words ``[first, last)`` of one block into another."""
    return copy_bytes(address_of(target) + 8 * first, address_of(source) + 8 * first, 8 * (last - first))
