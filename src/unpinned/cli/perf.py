"""Measure bandwidth and latency, as perftest does.

TEST is one of read_bw, read_lat, write_bw, write_lat, send_bw, send_lat,
atomic_bw and atomic_lat. Without HOST this is the server, which waits for one
client; with HOST the client, whose options count. --loopback is both at once.
MB is 2^20 bytes, latency of WRITE and SEND is half a round trip.
"""

import argparse
import sys
from typing import Any

EXAMPLES = """
unpinned perf read_bw --loopback -s 1M -t 16
unpinned perf read_lat --loopback -s 8 --pinned
unpinned perf write_bw -d 192.0.2.7
unpinned perf write_bw 192.0.2.7 -d 192.0.2.8 -a -D 2
"""

_TESTS = tuple(f"{verb}_{metric}" for verb in ("read", "write", "send", "atomic") for metric in ("bw", "lat"))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """perftest's options, as far as they mean something here."""
    parser.add_argument("test", metavar="TEST", choices=_TESTS, help="what to measure (see above)")
    parser.add_argument("host", metavar="HOST", nargs="?", help="the server; without it, be the server")
    parser.add_argument("--loopback", action="store_true", help="both ends on this machine, in two processes")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("-s", "--size", metavar="BYTES", help="of a message (64K, lat: 2); 4K, 1M are understood")
    size.add_argument("-a", "--all", action="store_true", help="all sizes from 2 bytes to 8 MiB")
    length = parser.add_mutually_exclusive_group()
    length.add_argument("-n", "--iters", type=int, default=1000, metavar="N", help="messages (1000)")
    length.add_argument("-D", "--duration", type=float, metavar="S", help="or: for so many seconds")
    parser.add_argument("-t", "--tx-depth", type=int, default=128, metavar="N", help="messages under way (128)")
    parser.add_argument("-q", "--qp", type=int, default=1, metavar="N", help="queue pairs (1)")
    parser.add_argument("-m", "--mtu", type=int, default=0, metavar="BYTES", help="path MTU, 256 to 4096 (largest)")
    parser.add_argument("-d", "--address", metavar="ADDR", help="this end's device: an address of this machine")
    parser.add_argument("-p", "--port", type=int, default=18515, metavar="N", help="TCP port of the server (18515)")
    memory = parser.add_mutually_exclusive_group()
    memory.add_argument("--odp", dest="memory", action="store_const", const="odp", help="memory on demand (default)")
    memory.add_argument("--pinned", dest="memory", action="store_const", const="pinned", help="memory pinned")
    memory.add_argument("--implicit", dest="memory", action="store_const", const="implicit",
                        help="the whole address space on demand (loopback only)")  # fmt: skip


def run(arguments: argparse.Namespace) -> int:
    """Be the client, the server or both."""
    from unpinned.cli import CommandError

    if arguments.loopback and arguments.host:
        raise CommandError("--loopback makes its own server: give no HOST with it")
    if not 0 <= arguments.port <= 65535:
        raise CommandError(f"port: must be an integer between 0 and 65535, not {arguments.port}")
    options = _options(arguments)  # a server's too: they mean nothing there, but a mistake among them is told
    if not arguments.host and not arguments.loopback:
        return _serve(arguments)
    return _measure(arguments, options)


def _measure(arguments: argparse.Namespace, options: Any) -> int:
    """Be the client."""
    from contextlib import ExitStack

    from unpinned.perf import meeting
    from unpinned.perf.loopback import server

    with ExitStack() as stack:
        if arguments.loopback:
            address, connection = arguments.address, stack.enter_context(server())
        else:
            connection = stack.enter_context(meeting.call(arguments.host, arguments.port))
            address = _near(arguments, connection)

        from unpinned.perf import session
        from unpinned.perf.table import Printer

        stream = sys.stderr if arguments.json else sys.stdout
        seen = session.Keeper(Printer(stream))
        session.run(connection, options, address, seen)
    _finish(arguments, stream, seen)
    return 0


def _options(arguments: argparse.Namespace) -> Any:
    from unpinned.cli import CommandError
    from unpinned.perf.options import Options, default_size, parse_size

    if arguments.duration is not None and not arguments.duration > 0:
        raise CommandError("duration: must be more than 0 seconds")
    try:
        size = parse_size(arguments.size) if arguments.size else default_size(arguments.test)
        return Options(arguments.test, size, arguments.iters, arguments.duration or 0.0, arguments.tx_depth, arguments.qp,
                       arguments.mtu, arguments.all, arguments.memory or "odp")  # fmt: skip
    except ValueError as error:
        raise CommandError(str(error)) from None


def _serve(arguments: argparse.Namespace) -> int:
    """Wait for one client and serve it."""
    from unpinned.cli._output import note
    from unpinned.perf import meeting

    address = arguments.address or "127.0.0.1"
    with meeting.listen(address, arguments.port) as waiting:
        note(f"waiting for a client on {address} port {waiting.getsockname()[1]}: "
             f"unpinned perf {arguments.test} {address}")  # fmt: skip
        connection, _ = waiting.accept()

    from unpinned.perf import session
    from unpinned.perf.table import Printer

    stream = sys.stderr if arguments.json else sys.stdout
    seen = session.Keeper(Printer(stream))
    session.serve(connection, arguments.test, arguments.address, seen)
    _finish(arguments, stream, seen)
    return 0


def _near(arguments: argparse.Namespace, connection: Any) -> str | None:
    """The device's address: as asked, or the one that the server is reached from; on IPv4's loopback any free one."""
    import ipaddress

    if arguments.address:
        return str(arguments.address)
    address = ipaddress.ip_address(connection.getsockname()[0].partition("%")[0])
    return None if address.version == 4 and address.is_loopback else str(address)


def _finish(arguments: argparse.Namespace, stream: Any, seen: Any) -> None:
    from unpinned.cli._output import print_json
    from unpinned.perf.table import RULE

    print(RULE, file=stream, flush=True)
    if arguments.json:
        print_json({"test": arguments.test, "test_info": seen.options, "results": seen.results})
