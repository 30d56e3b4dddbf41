"""Computing and writing the blocks of a store that are not finished yet.

Below :mod:`xland.store`; nothing here is called by users.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Set
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import xarray as xr
from dask.highlevelgraph import HighLevelGraph

from xland.atomic import explain
from xland.errors import StoreError, WorkerError
from xland.storing.blocks import BlockWriter, active_name, group_variables
from xland.storing.journal import journal_of
from xland.storing.progress import progress_bar
from xland.storing.running import run
from xland.storing.segments import Key, begin_with_kept, compute_only, cut_segments, find_rollouts, keepers_of
from xland.storing.workplace import Workplace


def write_blocks(
    ds: xr.Dataset, place: Workplace, manifest: dict[str, Any], finished: Set[str], identity: str, *, progress: bool
) -> None:
    """Write the blocks that are not finished.

    Parameters
    ----------
    ds : Dataset
        Aligned by :func:`xland.storing.blocks.align`.
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
