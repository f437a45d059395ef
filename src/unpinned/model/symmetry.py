"""Automorphisms: permutations of a world's devices, requests and threads that leave its scripts as they are.

An automorphism is a row of words: for each device, request and thread where it goes. The explorer applies each to a state and
keeps the least result, so states that differ only in which of two equal devices did what are one state.
"""

from __future__ import annotations

from unpinned.compiled import kernel
from unpinned.model import layout as M
from unpinned.model.adapter import device_at, thread_at
from unpinned.model.canonical import copy_words
from unpinned.model.device import request_at
from unpinned.model.layout import Block


@kernel
def permute(w: Block, to: Block, symmetry: Block, g: int) -> int:
    """The state of `w`, permuted by automorphism g, into `to`.

    symmetry: [how many, then for each: devices + requests + threads words].
    """
    devices = w[M.W_DEVICES]
    requests = w[M.W_REQUESTS]
    threads = w[M.W_THREADS]
    row = 1 + g * (devices + requests + threads)
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
    return 0
