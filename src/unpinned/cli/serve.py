"""Serve files as remote arrays.

Each PATH is a .npy file, or a raw one of the dtype given with --dtype, served
under its name without the suffix or under NAME. Nothing is read or pinned: a
file may be larger than memory. Without --address only this machine can
connect; with one, clients need the token. Ends with Ctrl-C.
"""

import argparse
from typing import Any

EXAMPLES = """
unpinned serve embeddings.npy
unpinned serve ./log.bin:log --dtype uint8
unpinned serve w.f32:weights --dtype f4 --shape=-1,128 --writable
unpinned serve data.npy --address 192.0.2.7 --token-file token
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("paths", nargs="+", metavar="PATH[:NAME]", help="what to serve")
    parser.add_argument("--address", help="address of this machine to serve on")
    parser.add_argument("--port", type=_port, default=None, metavar="N", help="TCP port (4791; 0: any)")
    parser.add_argument("--token-file", metavar="FILE", help="what clients must know; made if it does not exist")
    parser.add_argument("--writable", action="store_true", help="let clients write to the files")
    parser.add_argument("--dtype", help="NumPy dtype of the files that are not .npy")
    parser.add_argument("--shape", type=_shape, metavar="N,N", help="shape of a raw file; -1 for what fits")
    parser.add_argument("--record", metavar="PATH", help="record what the device does, for `unpinned replay`")
    parser.add_argument("--offset", type=int, default=0, metavar="BYTES", help="where a raw file's data begins")


def run(arguments: argparse.Namespace) -> int:
    from unpinned.cli import CommandError
    from unpinned.cli._output import note
    from unpinned.cli._remote import new_token, read_token, sentences, write_token
    from unpinned.remote import serve
    from unpinned.remote.addresses import DEFAULT_PORT

    with sentences():
        if arguments.dtype is None and (arguments.shape or arguments.offset):
            raise CommandError("--shape and --offset are for raw files: give --dtype too")
        files = _files(arguments)
        made = ""
        try:
            token = read_token(arguments.token_file)
        except FileNotFoundError:
            token, made = new_token(), arguments.token_file
        port = DEFAULT_PORT if arguments.port is None else arguments.port
        with serve(files, arguments.address, token, writable=arguments.writable, port=port) as server, _terminable():
            if made and token:  # not before there is somebody to ask
                write_token(made, token)
            recorder = server.record(arguments.record) if arguments.record else None
            stats = server.stats()
            _announce(stats, arguments)
            try:
                _wait(server, recorder)
            except KeyboardInterrupt:
                stats = server.stats()
                note(f"\nserved {stats['accepted']} connections, {stats['device']['tx_bytes'] / 1e9:.1f} GB")
        if recorder is not None:
            if recorder.error is not None:
                raise CommandError(f"{recorder.path}: the recording ends early: {recorder.error.strerror}")
            note(f"recorded {recorder.records:,} records to {recorder.path}")
    return 0


def _wait(server: Any, recorder: Any) -> None:
    """Until the server ends; says it when the recording does before."""
    from unpinned.cli._output import note

    if recorder is not None:
        while not server.wait(1.0):
            if recorder.error is not None:
                note(f"{recorder.path}: the recording ends early: {recorder.error.strerror}; serving goes on")
                break
    server.wait()


def _files(arguments: argparse.Namespace) -> dict[str, Any]:
    from pathlib import Path

    from unpinned.cli import CommandError
    from unpinned.remote import RawFile

    found: dict[str, Any] = {}
    for word in arguments.paths:
        path, name = _split(word)
        if Path(path).is_dir():
            raise CommandError(f"{path} is a folder: name the files to serve")
        if name in found:
            raise CommandError(f"two files are called {name!r}: name one of them, {word}:OTHER")
        raw = arguments.dtype is not None and not path.endswith(".npy")
        found[name] = RawFile(path, arguments.dtype, arguments.shape, arguments.offset) if raw else path
    if arguments.dtype is not None and not any(isinstance(file, RawFile) for file in found.values()):
        raise CommandError("--dtype is for raw files, and none is named: a .npy file has its own")
    return found


def _split(word: str) -> tuple[str, str]:
    """PATH[:NAME] -> (path, name)."""
    from pathlib import Path

    path, colon, name = word.rpartition(":")
    if not colon or not path or "/" in name or Path(word).exists():
        return word, Path(word).stem
    return path, name


def _announce(stats: dict[str, Any], arguments: argparse.Namespace) -> None:
    from unpinned.cli._output import print_json
    from unpinned.cli._remote import size

    where, arrays = stats["address"], stats["arrays"]
    if arguments.json:
        keys = ("shape", "dtype", "bytes", "writable")
        found = {name: {key: about[key] for key in keys} for name, about in arrays.items()}
        print_json({"address": where, "arrays": found}, line=True)  # stdout stays open: who started this reads a line
        return
    width = min(30, max(len(name) for name in arrays))
    print(f"serving on {where}")
    for name, about in arrays.items():
        shape = "x".join(map(str, about["shape"])) or "scalar"
        rights = "writable" if about["writable"] else "read-only"
        print(f"  {name:<{width}}  {shape} {about['dtype']}, {size(about['bytes'])}, {rights}")
    first = next(iter(arrays))
    part = "[:10]" if arrays[first]["shape"] else ""
    token = ", token" if arguments.token_file else ""
    option = f" --token-file {arguments.token_file}" if arguments.token_file else ""
    print(f'in Python:  unpinned.connect("{where}"{token})["{first}"]')
    print(f'in a shell: unpinned get "{where}/{first}{part}"{option}', flush=True)


class _terminable:
    """A polite end (SIGTERM) is like Ctrl-C."""

    def __enter__(self) -> None:
        import signal

        self._before = signal.signal(signal.SIGTERM, signal.default_int_handler)

    def __exit__(self, *_: object) -> None:
        import signal

        signal.signal(signal.SIGTERM, self._before)


def _shape(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.strip("()").split(",") if part.strip())
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no shape: integers with commas between are") from None


def _port(text: str) -> int:
    if not text.isdigit() or not 0 <= int(text) < 65536:
        raise argparse.ArgumentTypeError(f"{text!r} is no port")
    return int(text)
