"""`undisturbed`: what must not be left half done by Ctrl-C.

Python runs signal handlers in the main thread, between any two of its instructions: also between a system call that made a
descriptor and the line that notes it. No ``try`` closes that gap; a thread that is not the main one has none.
"""

from __future__ import annotations

import _thread
import threading
import weakref
from collections.abc import Callable
from sys import is_finalizing  # by its name: at the very end modules are empty
from typing import Any, TypeVar

T = TypeVar("T")
LOOK_SECONDS = 0.2


class Sign:
    """Given to a thread, and held by nobody else: it goes with the thread."""

    __slots__ = ("__weakref__",)


def undisturbed(make: Callable[[], T], undo: Callable[[T], object] | None = None) -> T:
    """Call *make* where no signal handler runs: in a thread of its own, if this is the main one.

    A handler that raises here meanwhile (Ctrl-C) does not stop it: what it makes is undone when it is there, by *undo*, or because it
    ends itself when nobody holds it. Not for finalizers: they run inside locks that *make* may need.

    At the end of the interpreter, when objects that still live have their ``__del__`` called, it is done here: a thread begun then
    never gets the GIL.
    """
    if is_finalizing() or threading.get_ident() != threading.main_thread().ident:
        return make()
    made: list[T] = []
    failed: list[BaseException] = []
    started: list[int] = []
    unwanted: list[bool] = []
    done: list[bool] = []
    over = _thread.allocate_lock()
    over.acquire()
    arguments: tuple[Any, ...] = (Sign(),)
    gone = weakref.ref(arguments[0])

    def run(_: object) -> None:
        try:
            made.append(make())
            if unwanted and undo is not None:
                undo(made.pop())
        except BaseException as error:
            failed.append(error)
        finally:
            done.append(True)
            over.release()

    try:
        started.extend(map(_thread.start_new_thread, (run,), (arguments,)))  # one call from C: started and noted, or neither
        arguments = ()
        _await(over, gone)
    except BaseException as error:
        arguments = ()
        if not started:
            if isinstance(error, RuntimeError):  # at interpreter exit, and where there is no room for a thread
                return make()
            raise
        unwanted.append(True)
        if not done:  # else we may have had the lock already
            _await(over, gone)
        if made and undo is not None:
            undo(made.pop())
        raise
    if failed:
        raise failed.pop()
    if not done:
        raise MemoryError("no memory for a thread")
    return made[0]  # no call: a handler may run behind one


def _await(over: _thread.LockType, sign: weakref.ref[Sign]) -> None:
    """Until a thread has let go of *over*, or is gone with the *sign* that it was given: without memory it ends before its first line."""
    while not over.acquire(timeout=LOOK_SECONDS):
        if sign() is None:
            return
