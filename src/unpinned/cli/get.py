"""Read a remote array, or a part of it, into a .npy file.

INDEX is written as in Python: integers, slices, ... and lists of integers. The
file appears when it is complete, or not at all.
"""

import argparse
import errno
from typing import Any

EXAMPLES = """
unpinned get 127.0.0.1/embeddings
unpinned get "node7:4791/embeddings[1000:2000, ::2]" -o part.npy
unpinned get "node7/embeddings[[3, 17, 99]]" --token-file token --json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="ADDRESS/NAME[INDEX]", help="what to read")
    parser.add_argument("-o", "--output", metavar="FILE", help="where to write it (a new NAME.npy)")
    parser.add_argument("--token-file", metavar="FILE", help="holds the server's token")


def run(arguments: argparse.Namespace) -> int:
    import os

    from unpinned.cli import CommandError
    from unpinned.cli._output import note, print_json
    from unpinned.cli._remote import read_token, sentences, transfer
    from unpinned.remote import connect
    from unpinned.remote.addresses import parse_place

    with sentences():
        place = parse_place(arguments.source)
        if arguments.output in ("", "-"):  # the first is what a shell's unset variable leaves
            raise CommandError(f"--output: {arguments.output!r} names no file, and one is needed")
        output = arguments.output or f"{place.name.rpartition('/')[2]}.npy"
        if arguments.output is None and os.path.lexists(output):  # it may be the very file that is served
            raise CommandError(f"{output} is there already: say where to write, -o FILE")
        with connect(place.address, read_token(arguments.token_file)) as client:
            array = client[place.name]
            shape = array.selected_shape(place.index)
            with _complete_or_not_at_all(output, shape, array.dtype) as landing:
                with transfer(landing.nbytes, f"get {place.name}") as state:
                    array.read_into(landing, place.index, progress=state)
    if arguments.json:
        print_json({"address": str(place.address), "name": place.name, "shape": shape, "dtype": str(landing.dtype),
                    "output": output, **state.document()})  # fmt: skip
    else:
        note(f"{output}: {'x'.join(map(str, shape)) or 'scalar'} {landing.dtype}, {state.summary()}")
    return 0


class _complete_or_not_at_all:
    """A new .npy file, mapped: on success it takes the place of *path*, otherwise it goes.

    Its blocks are reserved first, so that a full disk is an error here and not a signal in the middle.
    """

    def __init__(self, path: str, shape: tuple[int, ...], dtype: Any) -> None:
        self.path, self.shape, self.dtype = path, shape, dtype

    def __enter__(self) -> Any:
        import os
        import stat
        import tempfile

        try:
            self.path = os.path.realpath(self.path)
            if os.path.exists(self.path) and not stat.S_ISREG(os.stat(self.path).st_mode):
                raise OSError(errno.EINVAL, "it is there and no regular file")
            folder = os.path.dirname(self.path)
            self._fd, self._temporary = tempfile.mkstemp(prefix=".unpinned-", suffix=".npy", dir=folder)
        except OSError as error:
            raise OSError(error.errno, f"cannot write {self.path}: {error.strerror}") from None
        try:
            return self._map()
        except BaseException as error:
            self._discard()
            if isinstance(error, OSError):
                raise OSError(error.errno, f"cannot write {self.path}: {error.strerror}") from None
            raise

    def _map(self) -> Any:
        import os

        import numpy as np

        mapped = np.lib.format.open_memmap(self._temporary, "w+", self.dtype, self.shape)
        os.posix_fallocate(self._fd, 0, mapped.offset + mapped.nbytes)
        return mapped

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        import os

        if error is not None:
            self._discard()
            return
        mask = os.umask(0)
        os.umask(mask)
        try:
            os.fchmod(self._fd, 0o666 & ~mask)
            os.fsync(self._fd)
            os.replace(self._temporary, self.path)
        except OSError as problem:
            self._discard()
            raise OSError(problem.errno, f"cannot write {self.path}: {problem.strerror}") from None
        os.close(self._fd)

    def _discard(self) -> None:
        import os

        os.unlink(self._temporary)
        os.close(self._fd)
