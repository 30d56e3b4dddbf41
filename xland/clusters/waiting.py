"""Waiting for workers, the event loop on which clusters run, and the keys of one run."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
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
    """How many workers are asked for, and how they are waited for; as in :func:`xland.clusters.open_cluster`."""

    workers: int | None
    minimum: int | None
    timeout: float | None
    progress: bool


def wait_for_workers(
    client: Client, wanted: Wanted, usual: int, seconds: float, hint: str, check: Callable[[], None] = lambda: None
) -> None:
    """Return once enough workers are there.

    Parameters
    ----------
    client : Client
    wanted : Wanted
    usual : int
        Workers to wait for if none are wanted by number.
    seconds : float
        How long to wait if `wanted` does not say.
    hint : str
        What to do if they do not come, for the message.
    check : callable
        Called at every look; raises if waiting has become useless.

    Raises
    ------
    ClusterError
        If fewer have come in time.
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
    """Yield a `distributed.Security` of new keys in files that only the user can read; they go at the end.

    Parameters
    ----------
    folder : path
        Where workers on other machines can read them.
    """
    from distributed import Security

    made = Security.temporary()
    with TemporaryDirectory(prefix=".keys-", dir=folder) as place:
        certificate, key = Path(place, "certificate.pem"), Path(place, "key.pem")
        for path, text in ((certificate, made.tls_client_cert), (key, made.tls_client_key)):
            path.touch(mode=0o600)
            path.write_text(text, encoding="ascii")
        yield security_of(certificate, key)
