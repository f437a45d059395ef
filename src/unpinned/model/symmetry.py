"""Automorphisms: permutations of a world's pages, devices, requests and threads that leave it as it is (automorphisms.py).

The explorer applies each to a state and keeps the least result, so states that differ only in which of two equal devices did
what, or to which of two equal pages, are one state. Which one it was is noted with every edge: fairness.py needs it.

That steps agree with it rests on one thing besides: which frame is taken next must not depend on names. `remembered` says where it does.

An automorphism is a row of words: for each device, request and thread (workers last) where it goes; 1 if pages or contents get new
names, else 0; then for each page where it goes, and for each content.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from unpinned.compiled import kernel
from unpinned.compiled.intrinsics import address_of
from unpinned.compiled.views import words_at
from unpinned.model import layout as M
from unpinned.model.adapter import block_at, device_at, thread_at
from unpinned.model.automorphisms import Automorphism
from unpinned.model.canonical import copy_words
from unpinned.model.device import order_at, request_at
from unpinned.model.layout import Block
from unpinned.model.machine import frame_at
from unpinned.model.page_names import move_device, move_memory, move_request, move_thread
from unpinned.paging import layout as P

COUNT = 0  #: how many rows
WORDS = 1  #: length of a row
ROWS = 2  #: the first


def symmetry_table(found: Sequence[Automorphism]) -> Block:
    """The rows that `permute` reads: [how many, words of a row, rows]; empty if there is none."""
    rows = []
    for g in found:
        workers = (len(g.threads) + d for d in g.devices)
        rows.append([*g.devices, *g.requests, *g.threads, *workers, int(g.names_pages), *g.pages, *g.contents])
    return np.array([len(rows), len(rows[0]), *(word for row in rows for word in row)] if rows else [], np.int64)


@kernel
def permute_pages(w: Block, to: Block, symmetry: Block, row: int) -> int:
    """The part of `permute` that is about pages and contents, after the rest of it."""
    devices = w[M.W_DEVICES]
    requests = w[M.W_REQUESTS]
    threads = w[M.W_THREADS]
    pages = row + devices + requests + threads + 1
    page = words_at(address_of(symmetry) + 8 * pages, w[M.W_PAGES])
    value = words_at(address_of(symmetry) + 8 * (pages + w[M.W_PAGES]), row + symmetry[WORDS] - pages - w[M.W_PAGES])
    move_memory(w, to, page, value)
    for t in range(threads):
        move_thread(w, to, page, t, symmetry[row + devices + requests + t])
    for r in range(requests):
        move_request(w, to, page, r, symmetry[row + devices + r])
    for d in range(devices):
        move_device(w, to, page, d, symmetry[row + d])
    return 0


@kernel
def permute(w: Block, to: Block, symmetry: Block, g: int) -> int:
    """The state of `w`, permuted by automorphism g of the table, into `to`."""
    devices = w[M.W_DEVICES]
    requests = w[M.W_REQUESTS]
    threads = w[M.W_THREADS]
    row = ROWS + g * symmetry[WORDS]
    copy_words(to, w, w[M.W_STATE], w[M.W_SCRATCH])
    x = w[M.W_STATE] + M.X_LOCK
    if w[x] < 0:
        to[x] = -1 - symmetry[row + devices + requests + (-1 - w[x])]
    for frame in range(1, w[M.W_FRAMES] + 1):
        f = w[M.W_FRAME] + frame * w[M.W_FRAME_WORDS]
        to[f + M.F_HAND] = 0
        for t in range(threads if w[f + M.F_HAND] else 0):
            to[f + M.F_HAND] |= (w[f + M.F_HAND] >> t & 1) << symmetry[row + devices + requests + t]
        for d in range(devices):
            to[f + M.F_HOLD + symmetry[row + d]] = w[f + M.F_HOLD + d]
    for t in range(threads):
        a = thread_at(w, t)
        b = thread_at(to, symmetry[row + devices + requests + t])
        for i in range(M.T_TICKET):
            to[b + i] = w[a + i]
        to[b + M.T_AT] = 0
        to[b + M.T_REFUSED] = w[a + M.T_REFUSED] & M.REFUSED_ITSELF
        for d in range(devices):
            to[b + M.T_AT] |= (w[a + M.T_AT] >> d & 1) << symmetry[row + d]
            to[b + M.T_REFUSED] |= (w[a + M.T_REFUSED] >> d & 1) << symmetry[row + d]
            to[b + M.T_TICKET + symmetry[row + d]] = w[a + M.T_TICKET + d]
            to[b + M.T_TICKET + devices + symmetry[row + d]] = w[a + M.T_TICKET + devices + d]
    for r in range(requests):
        q = request_at(w, r)
        s = request_at(to, symmetry[row + devices + r])
        for i in range(w[M.W_REQUEST_WORDS]):
            to[s + i] = w[q + i]
    for d in range(devices):
        other = symmetry[row + d]
        for i in range(M.D_SCAN, w[M.W_DEVICE_WORDS]):
            to[device_at(to, other) + i] = w[device_at(w, d) + i]
        for page in range(w[M.W_PAGES]):
            to[w[M.W_TLB] + other * w[M.W_PAGES] + page] = w[w[M.W_TLB] + d * w[M.W_PAGES] + page]
        for i in range(w[M.W_BLOCK_WORDS]):
            to[w[M.W_BLOCKS] + other * w[M.W_BLOCK_WORDS] + i] = w[w[M.W_BLOCKS] + d * w[M.W_BLOCK_WORDS] + i]
    if symmetry[row + devices + requests + threads]:
        permute_pages(w, to, symmetry, row)
    return 0


# --- frames that are free, and not alike -----------------------------------------------------------------------------------


@kernel
def some_free(w: Block, first: int, last: int) -> int:
    """1 when a word of ``w[first:last]`` is a frame that is free."""
    for i in range(first, last):
        if w[i] and w[frame_at(w, w[i]) + M.F_FLAGS] == 0:
            return 1
    return 0


@kernel
def remembered_by(w: Block, d: int) -> int:
    """1 when device d can still use, or install, a frame that is free. (What a fault saw that was hit since is never installed.)"""
    p = words_at(block_at(w, d), w[M.W_BLOCK_WORDS])
    for page in range(w[M.W_PAGES]):
        cached = w[w[M.W_TLB] + d * w[M.W_PAGES] + page] >> M.TLB_SHIFT
        tag = p[p[P.NODES] + page] >> P.FLAG_BITS
        if cached and w[frame_at(w, cached) + M.F_FLAGS] == 0:
            return 1
        if tag and w[frame_at(w, tag) + M.F_FLAGS] == 0:
            return 1
    a = device_at(w, d)
    seen = a + M.D_SEEN
    if w[a + M.D_SCAN] and p[w[a + M.D_SCAN] + P.FAULT_HIT] == 0 and some_free(w, seen, seen + w[M.W_SPAN]):
        return 1
    seen += w[M.W_SPAN]
    return 1 if w[a + M.D_WORK] and p[w[a + M.D_WORK] + P.FAULT_HIT] == 0 and some_free(w, seen, seen + w[M.W_SPAN]) else 0


@kernel
def remembered(w: Block) -> int:
    """1 when a device can still use a frame that is free, and another one is free too.

    Free frames are not alike then, and the lowest is taken, whoever it is that remembers it; so two states that differ in who
    that is are not one. A search that comes here begins again without automorphisms: a device
    that can use what was freed is on its way to break I1.
    """
    free = 0
    for frame in range(1, w[M.W_FRAMES] + 1):
        free += w[frame_at(w, frame) + M.F_FLAGS] == 0
    if free < 2 or w[M.W_KIND] != M.KIND_HCA:  # other devices name no frames, or those that they name mean nothing to them
        return 0
    for d in range(w[M.W_DEVICES]):
        if remembered_by(w, d):
            return 1
    for r in range(w[M.W_REQUESTS]):
        q = request_at(w, r)
        first = q + M.Q_FRAME - w[order_at(w, r) + M.R_START]
        if w[q + M.Q_STATE] == M.REQUEST_COPYING and some_free(w, first + w[q + M.Q_COPIED], first + w[q + M.Q_CURSOR]):
            return 1
    return 0
