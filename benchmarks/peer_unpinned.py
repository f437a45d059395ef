"""unpinned as a module of the peers' harness: `bench_peers.py` copies it there as bench_unpinned.py.

The harness (not part of this project) asks a peer for a ``Server`` (export, endpoint) and a ``Client`` (read, write, read_many,
write_many) and measures every peer the same way. Set-up goes over TCP, as a user's would.
"""

import json
import os
import socket
import sys
import threading

import common  # the harness
import numpy as np

sys.path[:0] = json.loads(os.environ["UNPINNED_PATHS"])
from unpinned.hca import layout as L  # noqa: E402
from unpinned.verbs import CQ, MR, PD, QP, SGE, Context, PeerInfo, QPCap, QPInitAttr, SendWR  # noqa: E402
from unpinned.verbs import enums as e  # noqa: E402

TRANSPORT = "unpinned RoCEv2 over loopback, on demand"
DEPTHS = [1, 16]
REMOTE = e.IBV_ACCESS_REMOTE_WRITE | e.IBV_ACCESS_REMOTE_READ
SLOTS = 1024


def queue_pair(pd):
    cq = CQ(pd.context, 2 * SLOTS)
    return QP(pd, QPInitAttr(scq=cq, rcq=cq, cap=QPCap(max_send_wr=SLOTS, max_recv_wr=1))), cq


class Server:
    def __init__(self):
        self.pd, self.kept = PD(Context()), []
        self.door = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self.admit, daemon=True).start()

    def admit(self):
        while True:
            with self.door.accept()[0] as visitor:
                lines = visitor.makefile("rw")
                qp, cq = queue_pair(self.pd)
                qp.connect(PeerInfo(**json.loads(lines.readline())), REMOTE)
                print(json.dumps(qp.info().as_dict()), file=lines, flush=True)
                self.kept.append((qp, cq))

    def export(self, n, r):
        mr = MR(self.pd, r.np, e.IBV_ACCESS_LOCAL_WRITE | REMOTE | e.IBV_ACCESS_ON_DEMAND)
        self.kept.append(mr)
        return mr.rkey

    def endpoint(self):
        return self.door.getsockname()[1]


class Client:
    def __init__(self, info, loc):
        self.pd = PD(Context())
        self.qp, self.cq = queue_pair(self.pd)
        with socket.create_connection(("127.0.0.1", info["ep"])) as s:
            lines = s.makefile("rw")
            print(json.dumps(self.qp.info().as_dict()), file=lines, flush=True)
            self.qp.connect(PeerInfo(**json.loads(lines.readline())))
        self.mr = MR(self.pd, loc.np)
        self.remote = {name: (region.get("addr"), region.get("token")) for name, region in info["regions"].items()}
        self.out = np.zeros((256, L.CQE_WORDS), np.int64)
        self.stride = self.qp.send_dtype.itemsize // 8
        self.wr = SendWR(sg=SGE(loc.addr, 8, self.mr.lkey))

    def close(self):
        self.pd.context.close()

    def one(self, opcode, name, offset, at, length):
        address, key = self.remote[name]
        wr = self.wr
        wr.opcode = opcode
        wr.sg_list = SGE(self.mr.buf + at, length, self.mr.lkey)
        wr.set_wr_rdma(key, address + offset)
        self.qp.post_send(wr)
        self.take()

    def take(self):
        got = self.cq.poll_into(self.out, 60.0)
        if not got or self.out[:got, L.E_STATUS].any():
            raise OSError(f"{got} completions, status {self.out[0, L.E_STATUS]}")
        return got

    def read(self, *where):
        self.one(e.IBV_WR_RDMA_READ, *where)

    def write(self, *where):
        self.one(e.IBV_WR_RDMA_WRITE, *where)

    def many(self, opcode, name, places, depth):
        """All of *places*, (remote offset, local offset, length) each, *depth* in flight; a quarter of them completes at once."""
        address, key = self.remote[name]
        where = np.array(places, np.int64)
        count, step = len(where), max(1, depth // 4)
        work = np.zeros((count, self.stride), np.int64)
        work[:, L.W_ID] = np.arange(1, count + 1)
        work[:, L.W_OPCODE] = opcode
        work[step - 1 :: step, L.W_FLAGS] = work[-1:, L.W_FLAGS] = e.IBV_SEND_SIGNALED
        work[:, L.W_RVA], work[:, L.W_RKEY], work[:, L.W_NSGE] = address + where[:, 0], key, 1
        work[:, L.W_SGE], work[:, L.W_SGE + 1], work[:, L.W_SGE + 2] = (
            self.mr.buf + where[:, 1],
            where[:, 2],
            self.mr.lkey,
        )
        posted = done = 0
        while done < count:
            room = min(depth - (posted - done), count - posted)
            if room:
                posted += self.qp.post_send_many(work[posted : posted + room])
            done = int(self.out[self.take() - 1, L.E_ID])

    def read_many(self, *what):
        self.many(e.IBV_WR_RDMA_READ, *what)

    def write_many(self, *what):
        self.many(e.IBV_WR_RDMA_WRITE, *what)


if __name__ == "__main__":
    common.main(sys.modules["__main__"], __file__, "unpinned")
