"""Where pieces run: in this process, in an embedded Dask cluster, or on somebody's Dask scheduler.

An executor is a context manager with ``results(pieces)``: an iterator of (piece, result) in the order in which they end.
No more pieces are under way than keep the workers busy, so a stop is quick and a million pieces cost no memory.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from unpinned import __version__

AHEAD = 3  # pieces under way for each worker: one runs, one waits beside it, one is on its way
PATIENCE_S = 20.0  # for a scheduler and its first worker
MISSING = "the Dask scheduler at {address} needs the package `distributed`: pip install 'unpinned[model]'"

Piece = tuple[int, Mapping[str, Any]]


class CampaignError(RuntimeError):
    """The campaign cannot go on: a piece failed, a worker cannot run it, or no scheduler answers."""


def resolve(function: str) -> Callable[..., Any]:
    """``module:name`` -> the function."""
    module, _, name = function.partition(":")
    found: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return found


def code_of(function: str) -> str:
    """What the module of ``module:name`` says about the code that it runs, by its own function ``code``; "" if it has none."""
    return str(getattr(importlib.import_module(function.partition(":")[0]), "code", str)())


def call(function: str, version: str, code: str, arguments: Mapping[str, Any]) -> Any:
    """What a worker runs. It must have the version and the code that ask: other code would give other results."""
    if version != __version__:
        raise CampaignError(f"this worker has unpinned {__version__}, the campaign is one of {version}")
    if code != code_of(function):
        raise CampaignError(f"this worker has other code of unpinned {version} than the campaign ({code_of(function)}, not {code})")
    return resolve(function)(**arguments)


class Here:
    """One piece after the other, in this process."""

    workers = 1

    def __init__(self, function: str) -> None:
        self._function = resolve(function)

    def __enter__(self) -> Here:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def results(self, pieces: Sequence[Piece]) -> Iterator[tuple[int, Any]]:
        for index, arguments in pieces:
            try:
                result = self._function(**arguments)
            except Exception as error:
                raise CampaignError(f"piece {index} ({dict(arguments)}): {type(error).__name__}: {error}") from error
            yield index, result


def has_dask() -> bool:
    """Whether Dask's distributed scheduler is installed."""
    return importlib.util.find_spec("distributed") is not None


class Cluster:
    """A Dask cluster: the one at *scheduler*, or one of *workers* processes that lives as long as this."""

    def __init__(self, function: str, *, scheduler: str | None = None, workers: int = 1) -> None:
        self._function = function
        self._scheduler = scheduler
        self.workers = workers
        self._cluster: Any = None
        self._client: Any = None

    def __enter__(self) -> Cluster:
        if not has_dask():
            raise CampaignError(MISSING.format(address=self._scheduler))
        import dask
        from distributed import Client, LocalCluster
        from distributed.comm import get_address_host_port

        for name in ("distributed", "tornado"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
        # Our pieces are minutes of compiled code that holds no GIL: a worker that answers late is not dead.
        dask.config.set({"distributed.admin.tick.limit": "1h", "distributed.comm.timeouts.connect": f"{PATIENCE_S}s"})
        try:
            if self._scheduler is not None:
                get_address_host_port(self._scheduler)  # a client that is made for none is closed 40 s later, with a traceback
            else:
                self._cluster = LocalCluster(
                    n_workers=self.workers,
                    threads_per_worker=1,
                    processes=True,
                    dashboard_address=None,
                    scheduler_kwargs={"dashboard_address": "127.0.0.1:0"},  # or it takes port 8787, and says if somebody has it
                    silence_logs=logging.CRITICAL,
                    memory_limit=0,
                    preload=["unpinned.campaign.worker"],
                )
            self._client = Client(self._cluster or self._scheduler, set_as_default=False)
            if self._scheduler is not None:
                self._client.wait_for_workers(1, timeout=PATIENCE_S)
                self.workers = max(1, sum(self._client.nthreads().values()))
        except (OSError, TimeoutError, ValueError) as error:
            self.__exit__()
            where = self._scheduler or "this machine"
            raise CampaignError(f"no Dask cluster with a worker at {where}: {error}") from error
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for part in (self._client, self._cluster):
            if part is not None:
                with suppress(Exception):
                    part.close()

    def results(self, pieces: Sequence[Piece]) -> Iterator[tuple[int, Any]]:
        from distributed import as_completed

        code = code_of(self._function)
        waiting = iter(pieces)
        under_way: dict[Any, int] = {}
        ended = as_completed(loop=self._client.loop, with_results=False, raise_errors=False)

        def submit() -> None:
            for index, arguments in waiting:
                future = self._client.submit(call, self._function, __version__, code, dict(arguments), pure=False, retries=1)
                under_way[future] = index
                ended.add(future)
                return

        for _ in range(AHEAD * self.workers):
            submit()
        try:
            while under_way:
                future = next(ended)
                index = under_way.pop(future)
                submit()
                error = future.exception() if future.status == "error" else None
                if error is not None or future.status != "finished":
                    raise CampaignError(f"piece {index}: {type(error).__name__}: {error}") from error
                yield index, future.result()
        finally:
            self._client.cancel(list(under_way), force=True)


def executor(function: str, *, scheduler: str | None, workers: int, pieces: int) -> Here | Cluster:
    """The executor for so many pieces: a cluster only where it helps."""
    workers = min(workers or len(os.sched_getaffinity(0)), pieces)
    if scheduler is None and (workers <= 1 or not has_dask()):
        return Here(function)
    return Cluster(function, scheduler=scheduler, workers=workers)
