"""Where points are evaluated: in this process, in processes of this machine, on a Dask cluster."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from bankside.errors import ToolError
from bankside.mapping.explore.evaluate import Outcome, Task


class Workers(Protocol):
    """Evaluate points."""

    def run(self, task: Task, points: Sequence[dict[str, Any]]) -> Iterator[tuple[int, Outcome]]:
        """Yield (index of the point, outcome) as they come, in any order."""
        ...


class Here:
    """In this process, one after the other."""

    def run(self, task: Task, points: Sequence[dict[str, Any]]) -> Iterator[tuple[int, Outcome]]:
        for i, point in enumerate(points):
            yield i, task.evaluate(point)


class Processes:
    """On `count` processes of this machine."""

    def __init__(self, pool: ProcessPoolExecutor) -> None:
        self._pool = pool

    def run(self, task: Task, points: Sequence[dict[str, Any]]) -> Iterator[tuple[int, Outcome]]:
        """Raises ToolError when a process dies: that says nothing of the point."""
        waiting = {self._pool.submit(task.evaluate, p): i for i, p in enumerate(points)}
        try:
            for done in as_completed(waiting):
                yield waiting[done], done.result()
        except BrokenProcessPool as error:
            raise ToolError(
                "a worker process died (memory?); what is finished is kept: call again, with fewer "
                "--workers"
            ) from error


class Dask:
    """On the workers of a Dask cluster."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def run(self, task: Task, points: Sequence[dict[str, Any]]) -> Iterator[tuple[int, Outcome]]:
        """Raises ToolError when the cluster is lost, or a point ends worker after worker."""
        from dask.distributed import CancelledError, KilledWorker
        from dask.distributed import as_completed as completed

        # Not pure: two explorations may share a cluster, and keys are ours to choose.
        futures = self._client.map(task.evaluate, list(points), pure=False)
        places = {future.key: i for i, future in enumerate(futures)}
        try:
            for future in completed(futures):
                yield places[future.key], future.result()
        except (CancelledError, KilledWorker, OSError) as error:
            told = " ".join(str(error).split()).rstrip(".")
            raise ToolError(
                f"the cluster failed: {told}; what is finished is kept: call again once it runs"
            ) from error


@contextmanager
def local(count: int) -> Iterator[Workers]:
    """Workers on this machine; one is this process itself."""
    if count <= 1:
        yield Here()
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(count, context, initializer=_end_with_parent) as pool:
        yield Processes(pool)


@contextmanager
def dask(scheduler: str) -> Iterator[Workers]:
    """Workers of a cluster. Raises ToolError without Dask, or where nobody answers.

    Args:
        scheduler: address ("tcp://host:8786"), or the path of a scheduler file (ends in .json).
    """
    try:
        from dask.distributed import Client
    except ModuleNotFoundError as error:
        raise ToolError(
            "Dask is not installed; install it: python -m pip install 'bankside[cluster]'"
        ) from error
    given = {"address": scheduler}
    if scheduler.endswith(".json"):
        given = {"scheduler_file": scheduler}
        if not Path(scheduler).is_file():  # Dask would wait for it without end
            raise ToolError(f"no scheduler file {scheduler}; start a scheduler that writes it")
    try:
        client = Client(**given, timeout=30)
    except (OSError, ValueError) as error:
        raise ToolError(f"no Dask scheduler at {scheduler}: {error}; start one") from error
    with client:
        yield Dask(client)


def _end_with_parent() -> None:
    """A worker whose parent was killed would wait for work for ever."""
    parent = multiprocessing.parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
