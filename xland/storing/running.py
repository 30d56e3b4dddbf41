"""Computing the keys of a dask graph for their effect, on any scheduler.

Below :mod:`xland.store`; nothing here is called by users. What is finished is let go of at once: with
``dask.distributed`` a worker that is lost then takes nothing with it that would be computed again.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import dask.array as da
from dask.base import get_scheduler
from dask.callbacks import Callback
from dask.highlevelgraph import HighLevelGraph

from xland.errors import WorkerError

Key = tuple[Any, ...]


def run(graph: HighLevelGraph, keys: Sequence[Key], done: Callable[[Key], None]) -> None:
    """Compute keys of an array graph with the scheduler that is active, and drop their values.

    Parameters
    ----------
    graph : HighLevelGraph
    keys : sequence of keys
    done : callable
        Called with each key that is finished.

    Raises
    ------
    WorkerError
        If the workers that computed something died again and again, or the cluster is gone.
    """
    optimized = da.optimization.optimize(graph, list(keys))
    get = get_scheduler(cls=da.Array)
    client = getattr(get, "__self__", None)
    distributed = sys.modules.get("distributed")
    if distributed is not None and isinstance(client, distributed.Client):
        _run_on_cluster(client, optimized, keys, done)
        return
    wanted = set(keys)

    def after(key: Key, *_: Any) -> None:
        if key in wanted:
            done(key)

    with Callback(posttask=after):
        get(optimized, list(keys))


def _run_on_cluster(client: Any, graph: Any, keys: Sequence[Key], done: Callable[[Key], None]) -> None:
    from distributed import as_completed
    from distributed.client import ClosedClientError, FutureCancelledError
    from distributed.comm import CommClosedError
    from distributed.scheduler import KilledWorker

    pending: set[Any] = set()
    try:
        pending.update(client.get(graph, list(keys), sync=False))
        for future in as_completed(list(pending)):
            # asking for the value would ask for it of a worker that may be gone
            if future.status != "finished":
                future.result()
            pending.discard(future)
            future.release()
            done(future.key)
    except KilledWorker as error:
        raise WorkerError(
            f"the worker that had {_named(error.task)} in hand died {error.allowed_failures + 1} times, last "
            f"{error.last_worker.address}; its log says why, often a want of memory"
        ) from error
    except (FutureCancelledError, ClosedClientError, CommClosedError) as error:
        raise WorkerError(
            f"the cluster was closed, or its scheduler lost, before {len(pending)} tasks ended"
        ) from error
    finally:
        if pending and client.status == "running":
            client.cancel(list(pending))


def _named(key: Any) -> str:
    """Name of a task for people, without the digest in it."""
    if not isinstance(key, tuple):
        return str(key)
    return f"block {'.'.join(map(str, key[1:]))} of {str(key[0]).rsplit('-', 1)[0]}"
