"""Waiting for workers, with progress and an end."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from xland.errors import ClusterError

if TYPE_CHECKING:
    from distributed import Client

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
