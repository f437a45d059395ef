"""Work requests that came as a batch are checked before the device copies them: what it would misread is refused.

The device trusts a request's counts and lengths (it wrote them itself, one by one, in every other case).
"""

from __future__ import annotations

from unpinned.compiled import kernel
from unpinned.hca import layout as L

GOOD = 0
BAD_COUNT = 1  # num_sge is out of range
BAD_LENGTH = 2
BAD_OPCODE = 3
BAD_FLAGS = 4
BAD_ATOMIC = 5  # its answer has 8 bytes

KNOWN = L.SEND_FENCE | L.SEND_SIGNALED | L.SEND_SOLICITED


@kernel
def total_length(w, pieces, count):
    """The sum of ``count`` pieces from word ``pieces`` on, or -1 when one of them or the sum is out of range."""
    total = 0
    for i in range(count):
        length = w[pieces + i * L.SGE_WORDS + 1]
        if length < 0 or length > L.LENGTH_MAX:
            return -1
        total += length
    return total if total <= L.LENGTH_MAX else -1


@kernel
def check_sends(w, count, stride, most):
    """Check ``count`` send requests of at most ``most`` pieces, ``stride`` words apart, and write their lengths; one of
    the codes above.
    """
    for i in range(count):
        r = i * stride
        pieces = w[r + L.W_NSGE]
        if pieces < 0 or pieces > most:
            return BAD_COUNT
        length = total_length(w, r + L.W_SGE, pieces)
        if length < 0:
            return BAD_LENGTH
        w[r + L.W_LENGTH] = length
        opcode = w[r + L.W_OPCODE]
        if opcode < 0 or opcode > L.WR_SEND_WITH_INV or opcode == L.WR_LOCAL_INV or opcode == L.WR_LOCAL_INV + 1:
            return BAD_OPCODE
        if w[r + L.W_FLAGS] & ~KNOWN:
            return BAD_FLAGS
        if (opcode == L.WR_ATOMIC_CMP_AND_SWP or opcode == L.WR_ATOMIC_FETCH_AND_ADD) and length != 8:
            return BAD_ATOMIC
    return GOOD


@kernel
def check_receives(w, count, stride, most):
    """The same for receive requests."""
    for i in range(count):
        r = i * stride
        pieces = w[r + L.R_NSGE]
        if pieces < 0 or pieces > most:
            return BAD_COUNT
        length = total_length(w, r + L.R_SGE, pieces)
        if length < 0:
            return BAD_LENGTH
        w[r + L.R_LENGTH] = length
    return GOOD
