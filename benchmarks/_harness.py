"""One peer on the peers' harness, a narrow set: `bench_peers.py` copies this beside the harness and runs it there.

Prints the harness's own lines. PEER names the module; the server stays idle, as in the harness's phase "full".
"""

import importlib
import json
import os
import sys
import time

import common  # the harness
import numpy as np

PEER = os.environ["PEER"]
SECONDS = float(os.environ.get("SECONDS", "0.3"))
ROWS, ROW, FLIGHT = int(os.environ.get("ROWS", "20000")), 512, 64


def rows_per_second(client, info):
    """Rows of 512 bytes at random, one get each; the harness's arrays hold their own offsets as words."""
    length = info["regions"]["main"]["len"]
    places = np.random.default_rng(1).integers(0, length // ROW, ROWS) * ROW
    work = [(int(place), i * ROW, ROW) for i, place in enumerate(places)]
    client.read_many("main", work[:FLIGHT], FLIGHT)
    began = time.perf_counter()
    client.read_many("main", work, FLIGHT)
    return ROWS / (time.perf_counter() - began)


def client_main(module, test, peer, mode):
    common.die_with_parent()
    info = json.loads(sys.stdin.readline())
    landing = common.Buf(common.LOCAL, -1)
    client = module.Client(info, landing)
    for size in (8, 1 << 20):
        client.read("main", 16 << 20, 0, size)
        right = landing.i64[: size // 8] == np.arange(2 << 20, (2 << 20) + size // 8)
        if not right.all():
            raise SystemExit(f"{peer}: wrong bytes")
    for op in ("read", "write"):
        common.bw(module, client, info, op, 1 << 20, 16, reps=3, dur=SECONDS, peer=peer)
    common.lat(module, client, info, "read", 8, n=1000, maxs=SECONDS, peer=peer)
    if PEER in ("ucx", "unpinned"):
        # The write test put other bytes there: the speed is what counts here.
        common.emit(peer=peer, metric="rows", rows_per_s=rows_per_second(client, info))
    if hasattr(client, "close"):
        client.close()
    sys.stdout.flush()
    os._exit(0)


common.client_main = client_main
common.main(importlib.import_module(f"bench_{PEER}"), __file__, PEER)
