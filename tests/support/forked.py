"""Another process for a test to command, by lines of JSON. It is forked, so that it has nothing to load."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import traceback
from collections.abc import Callable
from typing import Any

PR_SET_PDEATHSIG = 1


class Line:
    """The child's end: commands in, answers out."""

    def __init__(self, commands: int, answers: int) -> None:
        self.commands, self._answers, self._ahead = commands, answers, b""

    def next(self) -> list[Any] | None:
        """The next command; None when the parent has gone. Nothing is read ahead of it, so `commands` can be waited for."""
        while b"\n" not in self._ahead:
            more = os.read(self.commands, 65536)
            if not more:
                return None
            self._ahead += more
        line, _, self._ahead = self._ahead.partition(b"\n")
        command: list[Any] = json.loads(line)
        return command

    def answer(self, value: Any) -> None:
        data = json.dumps(value).encode() + b"\n"
        while data:
            data = data[os.write(self._answers, data) :]


class Forked:
    """The child and the parent's end. *serve* runs in the child, and it ends when that returns."""

    def __init__(self, serve: Callable[[Line], None]) -> None:
        commands, answers = os.pipe(), os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
                os.close(commands[1])
                os.close(answers[0])
                serve(Line(commands[0], answers[1]))
                os._exit(0)
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(1)
        os.close(commands[0])
        os.close(answers[1])
        self._commands = os.fdopen(commands[1], "w", buffering=1)
        self._answers = os.fdopen(answers[0])

    def tell(self, verb: str, *arguments: Any) -> None:
        print(json.dumps([verb, *arguments]), file=self._commands, flush=True)

    def answer(self) -> Any:
        line = self._answers.readline()
        assert line, "the other process ended"
        answer = json.loads(line)
        if isinstance(answer, dict) and "error" in answer:
            raise AssertionError(f"the other process: {answer['error']}")
        return answer

    def ask(self, verb: str, *arguments: Any) -> Any:
        self.tell(verb, *arguments)
        return self.answer()

    def kill(self) -> None:
        """End it at once."""
        os.kill(self.pid, signal.SIGKILL)
        self._reap()

    def close(self) -> None:
        """Have it end; with status 0."""
        assert self._reap() == 0

    def _reap(self) -> int:
        self._commands.close()
        pid, self.pid = self.pid, 0
        status = os.waitpid(pid, 0)[1] if pid else 0
        self._answers.close()
        return status
