"""What every verb prints: one JSON document on stdout, or tables; progress always on stderr."""

import json
import sys
from typing import Any


def print_json(document: dict[str, Any]) -> None:
    """Print ``document`` on stdout; NumPy scalars and arrays become numbers and lists."""
    json.dump(document, sys.stdout, indent=2, default=_plain)
    sys.stdout.write("\n")


def note(text: str) -> None:
    """Print a line of progress on stderr, at once."""
    print(text, file=sys.stderr, flush=True)


def _plain(value: Any) -> Any:
    if hasattr(value, "tolist"):  # every NumPy scalar and array, without importing NumPy
        return value.tolist()
    raise TypeError(f"{type(value).__name__} does not go into JSON")
