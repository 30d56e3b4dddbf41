"""Kinds of clusters, waiting for their workers, and the event loop on which they run."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from threading import Thread
from typing import TYPE_CHECKING, Any

from xland.errors import ClusterError

if TYPE_CHECKING:
    from distributed import Client
    from tornado.ioloop import IOLoop

INTERVAL = 0.2  # seconds between two looks


@dataclass(frozen=True)
class Wanted:
    """What is asked of a cluster, as in :func:`xland.clusters.open_cluster`; ``spec`` is its name or address."""

    spec: str
    workers: int | None = None
    minimum: int | None = None
    threads: int | None = None
    memory: str | None = None
    profile: Any = None
    timeout: float | None = None
    progress: bool = False


@dataclass(frozen=True)
class Kind:
    """A kind of cluster: how it is opened, and which of ``threads``, ``memory`` and ``profile`` it takes."""

    open: Callable[[Wanted], AbstractContextManager[Client]]
    takes: tuple[str, ...] = ()


KINDS: dict[str, Kind] = {}
"""Kinds by name: what :func:`register_cluster` has added."""


def register_cluster(name: str, kind: Kind) -> None:
    """Add a kind of cluster, which :func:`xland.clusters.open_cluster` and ``--cluster`` then know by its name.

    Its ``open`` takes a :class:`Wanted` and gives a context manager that yields a `distributed.Client`; it waits for
    the workers (:func:`wait_for_workers`), and stops at the end what it started.

    Raises
    ------
    ClusterError
        If there is another kind of that name.
    """
    if KINDS.setdefault(name, kind) != kind:
        raise ClusterError(f"there is a kind of cluster {name!r} already: choose another name")


def patience(lost: float, alone: float) -> Any:
    """Return a context manager: seconds for a lost worker to come back, and for a cluster without workers to get one.

    Dask's own are 15 s, too few on a busy machine, and for ever. What the user configured for the second is kept.
    """
    from dask import config

    key = "distributed.scheduler.no-workers-timeout"
    kept = config.get(key, None) or f"{alone:g}s"
    return config.set({"distributed.deploy.lost-worker-timeout": f"{lost:g}s", key: kept})


def wait_for_workers(
    client: Client, wanted: Wanted, usual: int, seconds: float, hint: str, check: Callable[[], None] = lambda: None
) -> None:
    """Return when enough workers have come; :class:`ClusterError` with the hint if they do not come in time.

    ``usual`` workers and ``seconds`` count where `wanted` does not say. ``check`` is called at every look, and raises
    if waiting has become useless.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    count = wanted.minimum or wanted.workers or usual
    limit = wanted.timeout or seconds
    end = time.monotonic() + limit
    columns = (TextColumn("workers"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, transient=True, disable=not wanted.progress, console=Console(stderr=True)) as bar:
        task = bar.add_task("workers", total=count)
        while (here := len(client.nthreads())) < count:
            bar.update(task, completed=here)
            check()
            if time.monotonic() > end:
                raise ClusterError(f"{here} of {count} workers came within {limit:g} s: {hint}")
            time.sleep(INTERVAL)


@contextmanager
def running_loop() -> Iterator[IOLoop]:
    """Yield an event loop that runs in a thread of its own.

    Distributed would start its own, but gives up after ten seconds: too few for a busy login node.
    """
    from tornado.ioloop import IOLoop

    started: Future[tuple[IOLoop, asyncio.Event]] = Future()

    async def run() -> None:
        stopped = asyncio.Event()
        started.set_result((IOLoop.current(), stopped))
        await stopped.wait()

    thread = Thread(target=asyncio.run, args=(run(),), name="xland cluster", daemon=True)
    thread.start()
    loop, stopped = started.result()
    try:
        yield loop
    finally:
        loop.add_callback(stopped.set)
        thread.join()
