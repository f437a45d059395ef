"""The set-up conversation: what a client that is none hears, before any device is opened."""

import socket
import threading

import pytest

from unpinned.perf.session import Keeper, Watcher, serve
from unpinned.remote.messages import Reader, encode

OPTIONS = {"test": "read_bw", "size": 8}


def answered(said: bytes, address: str | None = None) -> tuple[bytes, Exception]:
    """What a server of read_bw (on *address*) answers to *said* and the end of the connection, and how it ends."""
    ours, theirs = socket.socketpair()
    ended: list[Exception] = []

    def be_server() -> None:
        try:
            serve(theirs, "read_bw", address, Watcher())
        except OSError as error:
            ended.append(error)

    server = threading.Thread(target=be_server)
    server.start()
    with ours:
        ours.sendall(said)
        ours.shutdown(socket.SHUT_WR)
        ours.settimeout(30)
        answer = b"".join(iter(lambda: ours.recv(4096), b""))
        server.join(30)
    return answer, ended[0]


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", "not an unpinned peer"),
        (encode({"unpinned-perf": 2, "options": OPTIONS}), "another version"),
        (encode({"options": OPTIONS}), "another version"),
        (encode({"unpinned-perf": 1}), "an object is needed"),
        (encode({"unpinned-perf": 1, "options": {**OPTIONS, "size": 1 << 50}}), "size"),
        (encode({"unpinned-perf": 1, "options": {**OPTIONS, "test": "write_bw"}}), "measures read_bw, not write_bw"),
    ],
)
def test_a_client_that_is_none_hears_why(said, sentence):
    answer, error = answered(said)
    assert sentence in str(error)
    (message,) = Reader(1 << 16).feed(answer)
    assert sentence in message["error"]


def test_what_the_system_refuses_is_told_as_a_sentence():
    answer, _ = answered(encode({"unpinned-perf": 1, "options": OPTIONS}), "203.0.113.9")
    (message,) = Reader(1 << 16).feed(answer)
    assert message["error"] == "203.0.113.9 is not an address of this machine"


def test_a_client_that_leaves_at_once_is_no_crash():
    _, error = answered(b"")
    assert isinstance(error, ConnectionError)


def test_results_are_kept_and_passed_on():
    class Counting(Watcher):
        seen = 0

        def result(self, options, result):
            self.seen += 1

    keeper = Keeper(Counting())
    keeper.result(None, {"MsgSize": 8})
    assert keeper.results == [{"MsgSize": 8}] and keeper.watcher.seen == 1
