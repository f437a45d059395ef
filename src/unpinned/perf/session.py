"""Server and client: they agree on what to measure, connect, and go through the sizes.

::

    client -> {"unpinned-perf": 1, "options": {...}}      server -> {"links": [...], "address": n, "rkey": n, "device": "..."}
    client -> {"links": [...], ...}                       server -> {"connected": true}
    for each size:   client -> {"size": n}                server -> {"ready": true}        (measured)
                     client -> {"result": {...}}          server -> {"seen": true}
    client closes.   Either end says {"error": "..."} instead of anything.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

from unpinned.perf import bandwidth, latency
from unpinned.perf.control import Control
from unpinned.perf.endpoint import Endpoint
from unpinned.perf.options import Options
from unpinned.remote.errors import ProtocolError
from unpinned.remote.messages import Message

VERSION = 1
MEASURE_S = 100_000.0
"""Longer than a measurement may take."""
Result = dict[str, Any]


class Watcher:
    """What an end tells whoever prints."""

    def begin(self, options: Options, mine: Message, theirs: Message) -> None:
        """Both ends are connected."""

    def result(self, options: Options, result: Result) -> None:
        """A size was measured."""


class Keeper(Watcher):
    """Passes on what it is told, and keeps it."""

    def __init__(self, watcher: Watcher) -> None:
        self.watcher = watcher
        self.options: dict[str, Any] = {}
        self.results: list[Result] = []

    def begin(self, options: Options, mine: Message, theirs: Message) -> None:
        self.options = options.as_dict() | {"mtu": settled_mtu(options, mine, theirs)}
        self.watcher.begin(options, mine, theirs)

    def result(self, options: Options, result: Result) -> None:
        self.results.append(result)
        self.watcher.result(options, result)


def settled_mtu(options: Options, mine: Message, theirs: Message) -> int:
    """The path MTU of both ends' queue pairs, bytes: what was asked for, or the largest that both have."""
    code = min(mine["links"][0]["mtu"], theirs["links"][0]["mtu"])
    return min(128 << int(code), options.mtu or 4096)


def serve(connection: socket.socket, test: str | None, address: str | None, watcher: Watcher) -> None:
    """Be the server of one client, which says what is measured; *test*, if given, is what it must be."""
    control = Control(connection)
    try:
        hello = control.receive()
        if hello.get("unpinned-perf") != VERSION:
            raise ProtocolError("the client speaks another version, or is no unpinned perf")
        options = Options.from_message(hello.get("options"))
        if test is not None and options.test != test:
            raise ValueError(f"this server measures {test}, not {options.test}")
        with Endpoint(options, address) as end:
            mine = end.describe()
            control.send(mine)
            theirs = control.receive()
            end.connect(theirs)
            control.send({"connected": True})
            watcher.begin(options, mine, theirs)
            for size in options.sizes:
                _serve_size(end, control, size)
                result = _result(control.receive(MEASURE_S))
                control.send({"seen": True})
                watcher.result(options, result)
    except (ValueError, TypeError) as error:
        _report(control, error)
        raise OSError(f"the client was refused: {error}") from None
    except OSError as error:
        _report(control, error)
        raise
    finally:
        control.close()


def _serve_size(end: Endpoint, control: Control, size: int) -> None:
    asked = control.receive(3600.0)
    if asked.get("size") != size:
        raise ProtocolError(f"the client measures {asked.get('size')!r} bytes, not {size}")
    if end.options.test == "send_bw":
        bandwidth.absorb(end, control)
    elif end.options.test == "send_lat":
        latency.answer_sends(end, size, control)
    elif end.options.test == "write_lat":
        latency.answer_writes(end, size, control)
    else:
        control.send({"ready": True})  # one-sided: the device answers by itself


def _result(message: Message) -> Result:
    """A client's figures: numbers, or it is a stranger."""
    result = message.get("result")
    if not isinstance(result, dict) or len(result) > 20 or not all(isinstance(value, (int, float)) for value in result.values()):
        raise ProtocolError("the client's result is none")
    return result


def _report(control: Control, error: Exception) -> None:
    try:
        control.send({"error": getattr(error, "strerror", None) or str(error)})
    except OSError:
        pass


def run(connection: socket.socket, options: Options, address: str | None, watcher: Watcher) -> None:
    """Be the client, which tells *watcher* the results, a size each."""
    control = Control(connection)
    measure: Callable[[Endpoint, int], Result] = latency.measure if options.is_latency else bandwidth.measure
    try:
        control.send({"unpinned-perf": VERSION, "options": options.as_dict()})
        with Endpoint(options, address) as end:
            theirs = control.receive(900.0)  # it may have to compile first
            end.connect(theirs)
            mine = end.describe()
            control.send(mine)
            control.receive()
            watcher.begin(options, mine, theirs)
            for size in options.sizes:
                control.send({"size": size})
                control.receive()
                result = measure(end, size)
                control.send({"result": result})
                control.receive()
                watcher.result(options, result)
    except OSError as error:
        _report(control, error)
        raise
    finally:
        control.close()
