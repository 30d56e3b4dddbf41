"""Compute the blocks of a store that are not finished, on any scheduler, with a progress bar."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import dask.array as da
import xarray as xr
from dask.base import get_scheduler
from dask.callbacks import Callback
from dask.highlevelgraph import HighLevelGraph

from xland.atomic import explain
from xland.errors import StoreError, WorkerError
from xland.store.blocks import BlockWriter, active_name, group_variables
from xland.store.journal import journal_of
from xland.store.rollouts import Key, begin_with_kept, compute_only, cut_segments, find_rollouts, keepers_of
from xland.store.workplace import Workplace


def write_blocks(
    ds: xr.Dataset, place: Workplace, manifest: dict[str, Any], finished: Set[str], identity: str, *, progress: bool
) -> None:
    """Write the blocks that are not finished.

    Parameters
    ----------
    ds : Dataset
        Aligned by :func:`xland.store.blocks.align`.
    place : Workplace
        Held by the caller.
    manifest : dict
        Of the store.
    finished : set of str
        Names of those that are.
    identity : str
        Of this run.
    progress : bool
        Whether to show a bar.

    Raises
    ------
    StoreError
        If the disk is full or cannot be written (any more).
    WorkerError
        If workers died again and again.
    """
    work = _plan(ds, place, manifest, identity)
    unfinished = {key for key, name in work.names.items() if name not in finished}
    if not unfinished:
        return
    described = [layer for layer in work.graph.layers.values() if callable(getattr(layer, "describe", None))]
    notes = dict.fromkeys(layer.describe() for layer in described)
    total = len(work.names)
    active = active_name(identity)
    place.files.put(active, b"")
    try:
        try:
            with progress_bar(total, total - len(unfinished), notes, shown=progress) as advance:
                maps = f"{place.files.address}/maps-{manifest['fingerprint']}"
                _write_segments(work, maps, unfinished, advance)
        finally:
            # blocks that still run after an interruption see that it is gone, and stop
            with suppress(OSError):
                place.files.remove(active)
    except BaseException as error:
        safe = len(journal_of(place.files).finished())
        remedy = f"{safe} of {total} blocks are safe in {place.files.address}; write again with resume=True to go on"
        if isinstance(error, WorkerError):
            raise WorkerError(f"{error}. {remedy}") from error.__cause__
        reason = explain(error, place.target) if isinstance(error, OSError) else None
        if reason:
            raise StoreError(f"{reason}. {remedy}") from error
        error.add_note(remedy)
        raise


@dataclass(frozen=True)
class _Work:
    """All blocks of a store: their graph, their names in the journal, and the keys that need the same years."""

    graph: HighLevelGraph
    names: dict[Key, str]
    batches: list[list[Key]]


def _plan(ds: xr.Dataset, place: Workplace, manifest: dict[str, Any], identity: str) -> _Work:
    graphs: list[HighLevelGraph] = []
    names: dict[Key, str] = {}
    batches: dict[Key, list[Key]] = {}
    for group_name, group in group_variables(ds).items():
        variables = tuple(group.variables)
        writer = BlockWriter(place.files.address, place.data(manifest), identity, group_name, group.dims, variables)
        flags = group.write_flags(ds, writer)
        graphs.append(flags.dask)
        for index in itertools.product(*(range(len(blocks)) for blocks in group.blocks)):
            key = (flags.name, *index)
            names[key] = BlockWriter.key(group_name, index)
            year = index[0] if group.timed else None
            batches.setdefault((group_name, year), []).append(key)
    return _Work(HighLevelGraph.merge(*graphs), names, list(batches.values()))


def _write_segments(work: _Work, maps: str, unfinished: set[Key], advance: Callable[[], None]) -> None:
    """Compute one segment after the other, each from the maps that the ones before have kept."""
    rollouts = find_rollouts(work.graph)
    keepers = keepers_of(rollouts, maps)
    segments = cut_segments(work.graph, rollouts, work.batches)
    first = next(number for number, segment in enumerate(segments) if not unfinished.isdisjoint(segment.keys))
    # a run that was broken off may have left the segment before without all the maps that lead on
    for segment in segments[max(0, first - 1) :]:
        keys = [key for key in segment.keys if key in unfinished]
        if not (keys or segment.bridge):
            continue
        graph = begin_with_kept(work.graph, rollouts, keepers)
        graph, bridge = compute_only(graph, segment.bridge)
        run(graph, [*keys, *bridge], done=lambda key: advance() if key in unfinished else None)
        for keeper, positions in zip(keepers, segment.ended, strict=False):
            keeper.forget(positions)


_Key = tuple[Any, ...]


def run(graph: HighLevelGraph, keys: Sequence[_Key], done: Callable[[_Key], None]) -> None:
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

    def after(key: _Key, *_: Any) -> None:
        if key in wanted:
            done(key)

    with Callback(posttask=after):
        get(optimized, list(keys))


def _run_on_cluster(client: Any, graph: Any, keys: Sequence[_Key], done: Callable[[_Key], None]) -> None:
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


@contextmanager
def progress_bar(
    total: int, before: int, notes: Iterable[str] = (), *, shown: bool = True
) -> Iterator[Callable[[], None]]:
    """Show finished blocks.

    Parameters
    ----------
    total : int
        Number of blocks.
    before : int
        How many of them a former run has finished.
    notes : iterable of str
        Lines to print before the bar.
    shown : bool
        Whether there is a bar at all.

    Yields
    ------
    callable
        To be called once for each block that is finished.
    """
    if not shown:
        yield lambda: None
        return
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (TextColumn("writing"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns) as bar:
        for note in notes:
            bar.console.print(note, markup=False, highlight=False)
        task = bar.add_task("blocks", total=total, completed=before)
        yield lambda: bar.advance(task)
