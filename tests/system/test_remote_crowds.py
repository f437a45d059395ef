"""More connections than the owner may have descriptors, and an owner without any: what it serves stays."""

import socket
import time
from contextlib import suppress
from pathlib import Path

import pytest

import unpinned
from support.remote import owner
from unpinned.remote import Refused
from unpinned.remote import messages as M

pytestmark = [pytest.mark.system, pytest.mark.compiled_only]

CROWDED = """
import resource
from pathlib import Path
folder = Path({folder!r})
np.save(folder / "t.npy", np.arange(100))
resource.setrlimit(resource.RLIMIT_NOFILE, (128, 4096))
server = unpinned.serve({{"t": folder / "t.npy"}}, port=0)
"""


def test_who_keeps_connecting_leaves_the_owner_descriptors(tmp_path: Path) -> None:
    with owner(CROWDED.format(folder=str(tmp_path))) as found:
        host, port = found.address.split(":")
        crowd = []
        hello = M.encode({"unpinned": M.VERSION, "nonce": "x"})
        for _ in range(150):  # more than the owner may have descriptors
            crowd.append(socket.create_connection((host, int(port)), 10))
            with suppress(OSError):
                crowd[-1].sendall(hello)
                while (said := crowd[-1].recv(1 << 16)) and b"arrays" not in said:
                    pass  # a stranger still, whom the next one would displace
        with pytest.raises(Refused, match="no descriptors left for connections"):
            unpinned.connect(found.address)
        found.do("open(folder / 'mine', 'w').close()")
        found.do("server._regions.look_after_files()")
        for sock in crowd:
            sock.close()
        deadline = time.monotonic() + 20
        while found.value("server.stats()['clients']") and time.monotonic() < deadline:
            pass
        with unpinned.connect(found.address) as client:
            assert client["t"][7] == 7


def test_a_file_is_served_though_the_owner_has_no_descriptor_left_to_look_at_it(tmp_path: Path) -> None:
    with owner(CROWDED.format(folder=str(tmp_path))) as found, unpinned.connect(found.address) as client:
        found.do("taken = []")
        found.do("while True: taken.append(open('/dev/null'))", fails="OSError [Errno 24]")
        found.do("server._regions.look_after_files()")
        found.do("[one.close() for one in taken]")
        assert found.value("server.stats()['arrays']['t']['gone']") == ""
        assert client["t"][7] == 7
