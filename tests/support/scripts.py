"""Programs for another process: two connected ends, and interruptions wherever a signal handler may come."""

from pathlib import Path

from support.python import run_python

TESTS = Path(__file__).resolve().parents[1]

SETUP = """
import os, sys, time, threading, signal, mmap
import numpy as np
from support.verbs import End, connect, pair, ALL
from unpinned import verbs as v
a, b = End.open(1 << 20), End.open(1 << 20)
connect(a, b)
def another_pair_works():
    with pair() as (c, d):
        c.remote(v.IBV_WR_RDMA_WRITE, d.mr, 0, 0, 4096)
        c.wait()
def hammer(count=1 << 60):
    wrs = np.zeros(32, a.qp.send_dtype)
    wrs["opcode"], wrs["flags"], wrs["num_sge"] = v.IBV_WR_RDMA_WRITE, 2, 1
    wrs["remote_addr"], wrs["rkey"] = b.mr.buf, b.mr.rkey
    wrs["sge"]["addr"], wrs["sge"]["length"], wrs["sge"]["lkey"] = a.mr.buf, 16384, a.mr.lkey
    out = np.zeros(64, v.WC_DTYPE)
    done = 0
    while done < count:
        a.qp.post_send_many(wrs)
        got = a.cq.poll_into(out, 10.0)
        assert got and not out["status"][:got].any(), out["status"][:got]
        done += got
"""


INTERRUPTED_EVERYWHERE = """
import sys
class Stop(BaseException): pass
def interrupted(work, at):
    \"\"\"Call *work* and raise where a handler would: at the *at*th beginning of a function, or end of a call to C. Was there one?\"\"\"
    left = at
    def watch(frame, what, argument):
        nonlocal left
        if what in ("call", "c_return"):
            left -= 1
            if left == 0:
                sys.setprofile(None)
                raise Stop
    sys.setprofile(watch)
    try:
        work()
    except Stop:
        pass
    finally:
        sys.setprofile(None)
    return left <= 0
"""


def run(code: str) -> str:
    """What *code* prints behind `SETUP`; fails with its stderr if it fails."""
    return run_python(SETUP + code, path=TESTS)
