"""A process in a memory cgroup that serves a file larger than its memory, and a client that checks what it reads."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from unpinned import verbs as v

from .verbs import REMOTE, End

READ = v.IBV_ACCESS_REMOTE_READ | v.IBV_ACCESS_ON_DEMAND
PIECE = 1 << 20


def words(start: int, length: int) -> Any:
    """What the file holds at [start, start + length)."""
    return np.arange(start // 8, (start + length) // 8, dtype=np.int64) * 0x9E3779B97F4A7C1


def write_uncached(path: Path, length: int) -> None:
    """Make the file and have the page cache forget it: whoever reads it pays for its pages."""
    with open(path, "wb") as file:
        for start in range(0, length, PIECE):
            file.write(words(start, PIECE).tobytes())
        file.flush()
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


class FileServer:
    """The process."""

    def __init__(self, path: Path, group: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "support.file_server", str(path), str(group)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).resolve().parents[1],
        )  # fmt: skip
        assert self.process.stdout
        self.info = json.loads(self.process.stdout.readline())

    def client(self) -> End:
        """A connected end with a mebibyte to land in."""
        assert self.process.stdin and self.process.stdout
        end = End.open(PIECE)
        print(json.dumps(end.qp.info(18).as_dict()), file=self.process.stdin, flush=True)
        assert self.process.stdout.readline() == "connected\n"
        end.qp.connect(v.PeerInfo(**self.info["qp"]), REMOTE, timeout=18)
        return end

    def check(self, end: End, start: int, length: int) -> None:
        """Read [start, start + length) and compare every byte."""
        address, key = self.info["region"]
        end.remote(v.IBV_WR_RDMA_READ, (address, key), 0, start, length)
        end.wait()
        assert end.mr.read(length) == words(start, length).tobytes(), f"{length} bytes at {start}"

    def close(self) -> None:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.close()
        self.process.stdout.close()
        assert self.process.wait(60) == 0


def _serve(path: str, group: str) -> None:
    end = End.open()
    mr = v.FileMR(end.pd, path, READ)
    Path(group, "cgroup.procs").write_text(str(os.getpid()))
    print(json.dumps({"qp": end.qp.info(18).as_dict(), "region": [mr.buf, mr.rkey]}), flush=True)
    end.qp.connect(v.PeerInfo(**json.loads(sys.stdin.readline())), REMOTE, timeout=18)
    print("connected", flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    _serve(*sys.argv[1:])
