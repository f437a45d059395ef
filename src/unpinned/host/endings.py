"""What is done when an object has gone, wherever Ctrl-C falls.

A finalizer is Python code: a signal handler may raise before its first instruction, or between a system call and the line that notes
it, and nobody calls it again. Here the weak reference itself notes that its object has gone, in C, and what is to be done is a list
of calls, each taken off and made by one call from C (`work_off`): a signal handler runs before it or after it. What is left over is
carried on by the next `settle`.
"""

from __future__ import annotations

import contextlib
import os
import weakref
from collections.abc import Callable, Iterable
from itertools import starmap
from operator import call
from typing import Any

Step = tuple[Callable[..., object], *tuple[Any, ...]]
"""A builtin or a function of the C library, and its arguments."""

descriptors: set[int] = set()
"""What `closing` will close: a forked child does so at once."""

_living: set[Ending] = set()
_over: list[Ending] = []
"""Whose object has gone, until all is done."""


class Ending(weakref.ref[Any]):
    """A weak reference to *thing* that sees to its end: *steps*, and in the process that made it then *own*, each once."""

    __slots__ = ("_own", "_pid", "_steps")

    def __new__(cls, thing: object, steps: Iterable[Step] = (), own: Iterable[Step] = ()) -> Ending:
        return super().__new__(cls, thing, _over.append)

    def __init__(self, thing: object, steps: Iterable[Step] = (), own: Iterable[Step] = ()) -> None:
        self._pid = os.getpid()
        self._steps, self._own = list(steps)[::-1], list(own)[::-1]
        _living.add(self)

    def carry_on(self) -> None:
        """Do what is left to do, also while the object is there. Idempotent, for any thread."""
        for left in (self._steps, self._own) if self._pid == os.getpid() else (self._steps,):
            work_off(left)


def work_off(left: list[Step]) -> None:
    """Take the steps off *left*, the last one first, and do them; wherever that is interrupted, what is left is left to do."""
    while left:
        with contextlib.suppress(OSError, IndexError):  # IndexError: another thread has taken the last one
            next(starmap(call, iter(left.pop, None)))


def at_end(thing: object, steps: Iterable[Step] = (), own: Iterable[Step] = ()) -> Ending:
    """An `Ending` that is also carried out at once when *thing* goes; not at exit, when the kernel takes all of it back anyway."""
    weakref.finalize(
        thing, settle
    ).atexit = False  # first: of an object's weak references the last one made is told first
    return Ending(thing, steps, own)


def closing(fd: int) -> list[Step]:
    """The steps that close a descriptor, and have a forked child close its copy: call it where `undisturbed`."""
    descriptors.add(fd)
    return [(descriptors.discard, fd), (os.close, fd)]


def settle() -> None:
    """Do what is left to do for objects that have gone."""
    for ending in list(_over):
        ending.carry_on()
        _living.discard(ending)
        with contextlib.suppress(ValueError):
            _over.remove(ending)


def _after_fork_in_child() -> None:
    """What the parent's objects had open stays open as long as the child has it."""
    while descriptors:
        with contextlib.suppress(OSError, KeyError):
            next(map(os.close, iter(descriptors.pop, None)))


os.register_at_fork(after_in_child=_after_fork_in_child)
