"""Waiting for what comes sooner or later: a machine may be slow, or stand still for a while."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psutil
from distributed import Client, LocalCluster

from xland.clusters.opening import patience, running_loop

PATIENCE = 300.0
"""Seconds after which nothing is expected any more."""


def wait_until(condition: Callable[[], Any], seconds: float = PATIENCE) -> None:
    """Return as soon as something is so."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.02)


def python_processes_below() -> set[int]:
    """Processes that this one has started, without multiprocessing's own tracker, and those that have ended."""
    found = set()
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # zombies are none
            if "resource_tracker" not in " ".join(process.cmdline()):
                found.add(process.pid)
    return found


@contextmanager
def local_cluster(**options: Any) -> Iterator[Client]:
    """A client of workers on this machine, however long they take to start, or to start again."""
    with (
        patience(PATIENCE, PATIENCE),
        running_loop() as loop,
        LocalCluster(loop=loop, **{"dashboard_address": "127.0.0.1:0", **options}) as cluster,
        Client(cluster) as client,
    ):
        wait_until(lambda: len(client.nthreads()) == options["n_workers"])
        yield client


def wait_for_idle_workers(client: Client) -> None:
    """Return once no worker has a task in hand, cancelled ones included."""
    wait_until(lambda: not any(client.processing().values()) and not any(client.run(_in_hand).values()))


def _in_hand(dask_worker: Any) -> int:
    return sum(task.state not in ("memory", "error", "released") for task in dask_worker.state.tasks.values())
