"""Write a .npy file into a remote array, or a part of it.

The array must be served writable; shape and dtype must be those of what INDEX
selects.
"""

import argparse
from typing import Any

EXAMPLES = """
unpinned put weights.npy 127.0.0.1/weights
unpinned put rows.npy "node7/embeddings[1000:2000]" --token-file token
"""

MAPPED_BYTES_MIN = 8 << 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("input", metavar="FILE", help="a .npy file")
    parser.add_argument("target", metavar="ADDRESS/NAME[INDEX]", help="what to write to")
    parser.add_argument("--token-file", metavar="FILE", help="holds the server's token")


def run(arguments: argparse.Namespace) -> int:
    from unpinned.cli import CommandError
    from unpinned.cli._output import note, print_json
    from unpinned.cli._remote import read_token, sentences, transfer
    from unpinned.remote import connect
    from unpinned.remote.addresses import parse_place

    with sentences():
        place = parse_place(arguments.target)
        values = _load(arguments.input)
        with connect(place.address, read_token(arguments.token_file)) as client:
            array = client[place.name]
            shape = array.selected_shape(place.index)
            if values.shape != shape or values.dtype != array.dtype:
                mine, theirs = f"{values.shape} {values.dtype}", f"{shape} {array.dtype}"
                raise CommandError(f"{arguments.input} is {mine}, {arguments.target} is {theirs}")
            with transfer(values.nbytes, f"put {place.name}") as state:
                array.write(values, place.index, progress=state)
    if arguments.json:
        print_json({"address": str(place.address), "name": place.name, "shape": shape, "dtype": str(values.dtype),
                    "input": arguments.input, **state.document()})  # fmt: skip
    else:
        note(f"{arguments.target}: {'x'.join(map(str, shape)) or 'scalar'} {values.dtype}, {state.summary()}")
    return 0


def _load(path: str) -> Any:
    """The file's array: mapped when it is long (the device then sends it from there), else read."""
    import os

    import numpy as np

    from unpinned.cli import CommandError
    from unpinned.remote.sources import npy_problem

    try:
        found = np.load(path, mmap_mode="r" if os.path.getsize(path) >= MAPPED_BYTES_MIN else None, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise CommandError(f"{path} {npy_problem(str(error))}") from None
    if not isinstance(found, np.ndarray):
        raise CommandError(f"{path} is an archive of arrays (.npz): extract the one you mean")
    return found
