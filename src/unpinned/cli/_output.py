"""What every verb prints: one JSON document on stdout, or tables; progress always on stderr."""

import json
import sys
from typing import Any


def print_json(document: dict[str, Any], line: bool = False) -> None:
    """Print ``document`` on stdout, at once; NumPy scalars and arrays become numbers and lists. *line*: on one, to be read as such."""
    json.dump(document, sys.stdout, indent=None if line else 2, default=_plain)
    sys.stdout.write("\n")
    sys.stdout.flush()


def note(text: str) -> None:
    """Print a line of progress on stderr, at once."""
    print(text, file=sys.stderr, flush=True)


def _plain(value: Any) -> Any:
    if hasattr(value, "tolist"):  # every NumPy scalar and array, without importing NumPy
        return value.tolist()
    raise TypeError(f"{type(value).__name__} does not go into JSON")
