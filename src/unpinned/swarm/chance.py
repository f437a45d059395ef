"""Where choices come from: a stream of numbers for every (seed, concern, index).

The fate of the tenth notice does not depend on how many packets were sent before it, so a shrinker that leaves one thing out
leaves all other choices as they were. The numbers are a Weyl sequence through a 32-bit finaliser (lowbias32, C. Wellons);
every product stays below 2^63, so that compiled and interpreted runs draw the same.
"""

from __future__ import annotations

from unpinned.compiled import kernel
from unpinned.swarm import layout as S

LOW = 0xFFFFFFFF

CONFIG = 1
OPS = 2
PACKETS = 3
NOTICES = 4
PAGES = 5
TIMING = 6
STORES = 7
DEATH = 8


@kernel
def scramble(x):
    """32 bits into 32 others."""
    x = x & LOW
    x = ((x ^ (x >> 16)) * 0x21F0AAAD) & LOW
    x = ((x ^ (x >> 15)) * 0x735A2D97) & LOW
    return x ^ (x >> 15)


@kernel
def begin(w, concern, index):
    """Start the stream of one thing."""
    seed = w[S.W_SEED]
    w[S.W_RNG] = scramble(
        scramble(scramble(seed & LOW) ^ ((seed >> 32) & LOW)) + concern * 0x3C6EF372 + scramble(index + 1)
    )
    return 0


@kernel
def draw(w, n):
    """0 .. n-1 (n below 2^31)."""
    x = (w[S.W_RNG] + 0x9E3779B9) & LOW
    w[S.W_RNG] = x
    return (scramble(x) * n) >> 32


@kernel
def between(w, low, high):
    """low .. high."""
    return low + draw(w, high - low + 1)


@kernel
def spread(w, ns):
    """A time around ``ns``: mostly half of it to twice, now and then eight times."""
    x = draw(w, 64)
    if x == 0:
        return 8 * ns
    return (ns >> 1) + draw(w, max(1, ns + (ns >> 1)))


@kernel
def left_out(w, mask, index):
    """Whether thing ``index`` of a kind is to be left out."""
    if index >= S.MASK_BITS:
        return 0
    return (w[w[S.W_MASKS] + mask * S.MASK_WORDS + (index >> 5)] >> (index & 31)) & 1


@kernel
def pattern(tag, i):
    """Byte ``i`` of the message ``tag``: never 0, which is what discarded memory holds."""
    return ((tag * 29 + i * 7 + (i >> 8) * 13) & 0xFF) | 1
