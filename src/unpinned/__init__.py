"""RDMA without pinned memory: a user-space RoCEv2 device whose regions follow the page tables.

Importing this package loads neither NumPy nor the compiler: each public name is fetched on first
use (PEP 562), so that ``unpinned --help`` and a program that only needs the version stay instant.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

__all__ = ["RawFile", "__version__", "connect", "empty", "serve", "verbs"]

# Public name -> the module that holds it; a module that is public itself is its own home.
_HOMES = {
    "RawFile": "unpinned.remote",
    "connect": "unpinned.remote",
    "empty": "unpinned.remote",
    "serve": "unpinned.remote",
    "verbs": "unpinned.verbs",
}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = import_module(home)
    value = module if home == f"{__name__}.{name}" else getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
