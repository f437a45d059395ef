"""The secondary page table: which bytes the device may touch without asking anybody.

A radix tree keyed by page number, like the MMU's own. All nodes have ``1 << p[BITS]`` slots and come from one bounded
pool; node 0 is the root and never goes. A slot is one word:

* 0: nothing below;
* PRESENT set: an entry. Its flags are in the low FLAG_BITS; above them stands when it was validated (live, in units of
  1,024 ns) or its frame (model, see `retag`). In a level above 0 it is a *huge* entry and stands for the whole subtree:
  resident gigabytes cost one word per 2 MiB, and translating 4 MiB takes two steps;
* otherwise a pointer, the child's word index shifted left by FLAG_BITS.

**The table is a cache.** Dropping an entry is always legal: the next use faults and asks again. So when the pool is
used up the next node without children, in turn, is zapped and reused, and a huge entry that cannot be split is
dropped whole. What is *not* legal is keeping an entry past its invalidation; only notifier.py decides that.

Three things keep it cheap and canonical. An empty node is freed at once and zero again, and the lowest free node is
taken next, so equal contents reached on different ways mostly are equal blocks. A sweep (zap, downgrade, mark stale)
steps over absent subtrees, so a 64 GiB range costs what it holds, not what it spans. And `translate` walks once per
node, not once per page.
"""

from __future__ import annotations

from unpinned.compiled import kernel
from unpinned.paging import layout as P
from unpinned.paging.layout import Block


@kernel
def _seek(p, page):
    """Walk towards `page`: (word index of the slot where the walk ends, its level). Level > 0: absent or huge there."""
    bits = p[P.BITS]
    level = p[P.LEVELS] - 1
    mask = (1 << bits) - 1
    index = p[P.NODES] + (page >> (bits * level))
    while level > 0:
        e = p[index]
        if e == 0 or e & P.PRESENT:
            break
        level -= 1
        index = (e >> P.FLAG_BITS) + ((page >> (bits * level)) & mask)
    return index, level


@kernel
def translate(p: Block, va: int, length: int, need_write: int, now: int) -> int:
    """How many leading bytes of ``[va, va + length)`` the device may use now: 0 .. length.

    Usable means: present, with the asked right, no invalidation owed, validated within p[HORIZON_NS] of `now`. The
    answer holds until the lock is let go; a copy issued in the same step is covered by its descriptor.
    """
    shift = p[P.PAGE_SHIFT]
    bits = p[P.BITS]
    if va < 0 or length <= 0 or (va + length - 1) >> shift >= 1 << (bits * p[P.LEVELS]):
        return 0
    need = P.PRESENT
    track = p[P.TRACK] & (P.ACCESSED | P.CACHED)
    if need_write:
        need |= P.WRITE
        track |= p[P.TRACK] & P.DIRTY
    mask = need | P.STALE
    oldest = 0  # the time stands in the high bits, so one comparison of whole entries tests it
    if p[P.HORIZON_NS] > 0:
        oldest = ((now - p[P.HORIZON_NS]) >> P.TIME_SHIFT) << P.FLAG_BITS
    page = va >> shift
    last = ((va + length - 1) >> shift) + 1
    while page < last:
        index, level = _seek(p, page)
        within = (1 << (bits * level)) - 1
        stop = min(last, (page | ((1 << (bits * (level + 1))) - 1)) + 1)
        while page < stop:
            e = p[index]
            if e & mask != need or e < oldest:
                if level > 0 and e != 0 and e & P.PRESENT == 0:
                    break  # a pointer beside huge entries: walk again
                return max(0, (page << shift) - va)
            if e & track != track:
                p[index] = e | track
            index += 1
            page = (page | within) + 1
    return length


@kernel
def entry(p: Block, va: int) -> int:
    """The entry that covers `va`, or 0. Above level 0 it has HUGE_ENTRY set."""
    page = va >> p[P.PAGE_SHIFT]
    if va < 0 or page >= 1 << (p[P.BITS] * p[P.LEVELS]):
        return 0
    index, _ = _seek(p, page)
    return p[index]


@kernel
def slot(p: Block, va: int) -> int:
    """The word index where the walk towards `va` ends: p[slot(p, va)] is `entry(p, va)`. `va` lies in the table's span."""
    index, _ = _seek(p, va >> p[P.PAGE_SHIFT])
    return index


@kernel
def retag(p: Block, va: int, value: int) -> int:
    """Set what an entry carries above its flags (the model: its frame); -> 1, or 0 when `va` is not present.

    Only for worlds whose entries do not age, in the same step as the install. A huge entry is tagged whole.
    """
    page = va >> p[P.PAGE_SHIFT]
    if va < 0 or page >= 1 << (p[P.BITS] * p[P.LEVELS]):
        return 0
    index, _ = _seek(p, page)
    if p[index] == 0:
        return 0
    p[index] = value << P.FLAG_BITS | (p[index] & P.FLAG_MASK)
    return 1


@kernel
def next_present(p: Block, start: int, end: int) -> int:
    """The first table address of ``[start, end)`` that has an entry (STALE ones included), or NONE.

    With `translate` for the length of a run, this is how a world goes through what the table holds, and only that.
    """
    return next_with(p, start, end, P.PRESENT)


@kernel
def next_with(p: Block, start: int, end: int, mask: int) -> int:
    """The same of entries that have a bit of `mask`."""
    shift = p[P.PAGE_SHIFT]
    bits = p[P.BITS]
    page = max(0, start) >> shift
    last = min(((end - 1) >> shift) + 1, 1 << (bits * p[P.LEVELS]))
    while page < last:
        index, level = _seek(p, page)
        stop = min(last, (page | ((1 << (bits * (level + 1))) - 1)) + 1)
        while page < stop:
            e = p[index]
            if e & P.PRESENT:
                if e & mask:
                    return max(start, page << shift)
            elif e != 0:
                break  # a pointer: walk again
            index += 1
            page = (page | ((1 << (bits * level)) - 1)) + 1
    return P.NONE


# --- nodes -----------------------------------------------------------------------------------------------------------


@kernel
def _allocate(p, up):
    """Take the lowest free node and hang it into slot `up`, which is empty or huge (then it is split); False: none
    free.
    """
    node = p[P.NODE_FREE]
    if node >= p[P.NODE_COUNT]:
        return False
    bits = p[P.BITS]
    base = p[P.NODES] + (node << bits)
    parent = p[P.NODE_RECORDS] + ((up - p[P.NODES]) >> bits) * P.NODE_WORDS
    record = p[P.NODE_RECORDS] + node * P.NODE_WORDS
    level = p[parent + P.NODE_LEVEL] - 1
    e = p[up]
    if e == 0:
        p[parent + P.NODE_FILLED] += 1
    else:
        fill = e if level > 0 else e & ~P.HUGE_ENTRY
        for i in range(base, base + (1 << bits)):
            p[i] = fill
        p[record + P.NODE_FILLED] = 1 << bits
    p[parent + P.NODE_CHILDREN] += 1
    p[up] = base << P.FLAG_BITS
    p[record + P.NODE_UP] = up
    p[record + P.NODE_LEVEL] = level
    p[P.NODES_LIVE] += 1
    if p[P.NODES_LIVE] == p[P.NODE_COUNT]:
        p[P.NODE_FREE] = p[P.NODE_COUNT]
    else:
        while p[p[P.NODE_RECORDS] + node * P.NODE_WORDS + P.NODE_UP] != 0:
            node += 1
        p[P.NODE_FREE] = node
    return True


@kernel
def _release(p, node):
    """Free `node` if it is empty, and then its parents as far as they became empty. The root stays."""
    while node > 0:
        record = p[P.NODE_RECORDS] + node * P.NODE_WORDS
        if p[record + P.NODE_FILLED] > 0:
            return
        up = p[record + P.NODE_UP]
        p[record + P.NODE_UP] = 0
        p[record + P.NODE_LEVEL] = 0
        p[P.NODES_LIVE] -= 1
        p[P.NODE_FREE] = min(p[P.NODE_FREE], node)
        p[up] = 0
        node = (up - p[P.NODES]) >> p[P.BITS]
        record = p[P.NODE_RECORDS] + node * P.NODE_WORDS
        p[record + P.NODE_FILLED] -= 1
        p[record + P.NODE_CHILDREN] -= 1


@kernel
def _evict(p):
    """Zap the next node that has no children, in turn; False when there is none but the root."""
    bits = p[P.BITS]
    node = p[P.EVICT_HAND]
    for _ in range(p[P.NODE_COUNT]):
        node += 1
        if node >= p[P.NODE_COUNT]:
            node = 1
        record = p[P.NODE_RECORDS] + node * P.NODE_WORDS
        if p[record + P.NODE_UP] != 0 and p[record + P.NODE_CHILDREN] == 0:
            base = p[P.NODES] + (node << bits)
            for i in range(base, base + (1 << bits)):
                p[i] = 0
            p[P.PAGES] -= p[record + P.NODE_FILLED] << (bits * p[record + P.NODE_LEVEL])
            p[record + P.NODE_FILLED] = 0
            p[P.EVICT_HAND] = node
            p[P.EVICTED] = p[P.TLB]
            p[p[P.TOTALS] + P.COUNT_EVICTIONS] += 1
            _release(p, node)
            return True
    return False


@kernel
def _reach(p, page, level):
    """The slot of `page` at `level`, the nodes on the way made; NONE when the table is finer there already."""
    index, at = _seek(p, page)
    # Make all the room first: an eviction may take a node of the path, even one just made.
    while p[P.NODE_COUNT] - p[P.NODES_LIVE] < at - level:
        _evict(p)
        index, at = _seek(p, page)
    while at > level:
        _allocate(p, index)
        index, at = _seek(p, page)
    return index if at == level else P.NONE


# --- changes -----------------------------------------------------------------------------------------------------------


@kernel
def install(p: Block, start: int, end: int, rights: int, now: int) -> int:
    """Install page-aligned ``[start, end)`` with `rights` (PRESENT, or PRESENT | WRITE), validated at `now`; -> pages
    installed.

    An entry that is there keeps the rights it has (a scan says "still present", it does not take the write right),
    unless it is STALE. Faults call this after they asked the notifier; a world that calls it itself has pinned the
    range, or is a test.
    """
    shift = p[P.PAGE_SHIFT]
    bits = p[P.BITS]
    leaf = (1 << bits) - 1
    page = start >> shift
    last = end >> shift
    if start < 0 or last > 1 << (bits * p[P.LEVELS]):
        return 0
    fresh = rights | max(0, now) >> P.TIME_SHIFT << P.FLAG_BITS
    while page < last:
        index = P.NONE
        huge = 0
        if p[P.HUGE] and page & leaf == 0 and last - page > leaf:
            index = _reach(p, page, 1)
            huge = P.HUGE_ENTRY
        if index < 0:
            index = _reach(p, page, 0)
            huge = 0
        stop = min(last, (page | leaf) + 1)
        node = p[P.NODE_RECORDS] + ((index - p[P.NODES]) >> bits) * P.NODE_WORDS
        step = stop - page if huge else 1
        while page < stop:
            e = p[index]
            if e == 0:
                p[node + P.NODE_FILLED] += 1
                p[P.PAGES] += step
            elif e & P.STALE:
                e = 0
            p[index] = fresh | huge | (e & (P.WRITE | P.ACCESSED | P.DIRTY | P.CACHED))
            index += 1
            page += step
    return max(0, last - (start >> shift))


@kernel
def change_range(p: Block, start: int, end: int, keep: int, add: int) -> int:
    """Make every entry e of ``[start, end)`` (outward to pages) ``e & keep | add``; 0 removes it. -> pages that
    changed.

    The one sweep: zap is (0, 0), downgrade (~WRITE, 0), mark stale (-1, STALE), age (~ACCESSED, 0). To drop
    everything, zap ``[0, 2**62)``.
    """
    shift = p[P.PAGE_SHIFT]
    bits = p[P.BITS]
    page = max(0, start) >> shift
    last = min(((end - 1) >> shift) + 1, 1 << (bits * p[P.LEVELS]))
    changed = 0
    while page < last:
        index, level = _seek(p, page)
        within = (1 << (bits * level)) - 1
        stop = min(last, (page | ((1 << (bits * (level + 1))) - 1)) + 1)
        node = (index - p[P.NODES]) >> bits
        while page < stop:
            e = p[index]
            made = (e & keep) | add
            if level > 0 and e != 0:
                if e & P.PRESENT == 0:
                    break  # a pointer: walk again
                if made != e and (page & within or last - page <= within):
                    if _allocate(p, index):  # a part of a huge entry: split it, and walk again
                        break
                    made = 0
                    p[P.EVICTED] = p[P.TLB]
            if e != 0 and made != e:
                p[index] = made
                changed += within + 1
                if made == 0:
                    p[P.PAGES] -= within + 1
                    p[p[P.NODE_RECORDS] + node * P.NODE_WORDS + P.NODE_FILLED] -= 1
            index += 1
            page = (page | within) + 1
        _release(p, node)
    return changed


@kernel
def zap_range(p: Block, start: int, end: int) -> int:
    """Remove every entry of ``[start, end)``; -> pages removed. A huge entry that cannot be split is removed whole."""
    return change_range(p, start, end, 0, 0)


@kernel
def downgrade_range(p: Block, start: int, end: int) -> int:
    """Take the write right from every entry of ``[start, end)``; -> pages that had it."""
    return change_range(p, start, end, ~P.WRITE, 0)
