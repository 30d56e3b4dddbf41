"""Kinds of clusters, waiting for their workers, the event loop on which they run, and the keys of one run."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Thread
from typing import TYPE_CHECKING, Any

from xland.errors import ClusterError

if TYPE_CHECKING:
    from distributed import Client
    from tornado.ioloop import IOLoop


INTERVAL = 0.2
"""Seconds between two looks."""


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

    Parameters
    ----------
    name : str
    kind : Kind
        Its ``open`` takes a :class:`Wanted` and gives a context manager that yields a `distributed.Client`; it waits
        for the workers (:func:`wait_for_workers`), and stops at the end what it started.

    Raises
    ------
    ClusterError
        If there is another kind of that name.
    """
    if KINDS.setdefault(name, kind) != kind:
        raise ClusterError(f"there is a kind of cluster {name!r} already: choose another name")


def patience(lost: float, alone: float) -> Any:
    """Give lost workers so many seconds to come back, and a cluster without any worker so many to get one.

    Return a context manager. By default a lost worker has 15 s, too few for a machine that is busy, and tasks wait for
    ever for a worker. What the user's configuration says about the second is kept.
    """
    from dask import config

    key = "distributed.scheduler.no-workers-timeout"
    kept = config.get(key, None) or f"{alone:g}s"
    return config.set({"distributed.deploy.lost-worker-timeout": f"{lost:g}s", key: kept})


def wait_for_workers(
    client: Client, wanted: Wanted, usual: int, seconds: float, hint: str, check: Callable[[], None] = lambda: None
) -> None:
    """Return once enough workers are there; :class:`ClusterError` with the hint if fewer have come in time.

    ``usual`` workers and ``seconds`` are used where `wanted` does not say. ``check`` is called at every look, and
    raises if waiting has become useless.
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
    """Yield an event loop that runs in a thread of its own, however long that thread takes to start.

    Without one, distributed starts its own and gives up after ten seconds, with an ``AssertionError``
    that says nothing: too few for a login node that is short of time.
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


def security_of(certificate: Path | str, key: Path | str) -> Any:
    """Return a `distributed.Security` in which client, scheduler and workers share one certificate and its key."""
    from distributed import Security

    parts = {
        f"tls_{role}_{name}": str(path)
        for role in ("client", "scheduler", "worker")
        for name, path in (("cert", certificate), ("key", key))
    }
    return Security(require_encryption=True, tls_ca_file=str(certificate), **parts)


@contextmanager
def temporary_keys(folder: Path) -> Iterator[Any]:
    """Yield a `distributed.Security` of new keys in files that only the user can read; they are removed at the end."""
    from distributed import Security

    made = Security.temporary()
    with TemporaryDirectory(prefix=".keys-", dir=folder) as place:
        certificate, key = Path(place, "certificate.pem"), Path(place, "key.pem")
        for path, text in ((certificate, made.tls_client_cert), (key, made.tls_client_key)):
            path.touch(mode=0o600)
            path.write_text(text, encoding="ascii")
        yield security_of(certificate, key)
