"""The order in which the blocks of a rollout are written, and the maps that it keeps to be resumed."""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from dask.base import tokenize
from numpy.typing import NDArray

from xland.dask_internals import DataNode, HighLevelGraph, MaterializedLayer, Task, TaskRef, convert_legacy_graph
from xland.errors import StoreError
from xland.untrusted.folders import READERS, Files, files_at

Index = tuple[int, int, int]
"""Time position, block row, block column."""

_NAME = re.compile(r"(\d+)\.(\d+)")


@dataclass(frozen=True)
class Keeper:
    """Class maps of single block-years of a rollout, uint8 ``(rows, columns)``, each in its own small file.

    ``folder`` is a path or fsspec URL, made when the first map is saved.
    """

    folder: str

    @property
    def _files(self) -> Files:
        return files_at(self.folder)

    def listing(self) -> frozenset[Index]:
        """Which maps are there and whole: each is read and its checksum compared."""
        found = [
            (int(year), int(name[1]), int(name[2]))
            for year in self._files.names()
            if year.isdecimal()
            for name in map(_NAME.fullmatch, self._files.names(year))
            if name
        ]
        with ThreadPoolExecutor(READERS) as pool:
            maps = zip(found, pool.map(self.find, found), strict=True)
            return frozenset(index for index, values in maps if values is not None)

    def load(self, index: Index) -> NDArray[np.uint8]:
        """Read a map; StoreError if it is not there or damaged."""
        values = self.find(index)
        if values is None:
            raise StoreError(f"the map {index} in {self.folder} is gone or damaged; write again with resume=True")
        return values

    def find(self, index: Index) -> NDArray[np.uint8] | None:
        """Read a map as :meth:`load` does, or return None if it is not there or damaged."""
        try:
            packed = self._files.read(_name(index))
        except FileNotFoundError:
            return None
        try:
            values: NDArray[np.uint8] = np.load(io.BytesIO(_codec().decode(packed)), allow_pickle=False)
        except (RuntimeError, ValueError, EOFError, MemoryError):
            return None
        return values

    def save(self, index: Index, values: NDArray[np.uint8]) -> None:
        """Keep a map: it is there whole or not at all."""
        if values.dtype != np.uint8 or values.ndim != 2:
            raise StoreError(f"a map to keep has to be uint8 of rows and columns, not {values.dtype} {values.shape}")
        content = io.BytesIO()
        np.save(content, values, allow_pickle=False)
        self._files.put(_name(index), bytes(_codec().encode(content.getvalue())))

    def forget(self, positions: Iterable[int]) -> None:
        """Delete all maps of these time positions."""
        there = set(self._files.names())
        for position in positions:
            if str(position) in there:
                self._files.remove(str(position))


def _codec() -> Any:
    from numcodecs.zstd import Zstd  # type: ignore[import-untyped]

    return Zstd(level=1, checksum=True)


def _name(index: Index) -> str:
    position, row, column = (int(number) for number in index)
    return f"{position}/{row}.{column}"


YEARS, BLOCKS = 8, 1024
"""Fewest years and blocks of a segment: at its end workers wait for each other, which should be rare."""

Key = tuple[Any, ...]


@dataclass(frozen=True)
class Rollout:
    """A layer of a graph that computes a rollout, and where its maps are kept.

    The second element of each key of such a layer is a time position: ``(name, position, ...)``. Its ``order`` are
    the time positions in the order in which they have to be computed, each from up to ``reach`` before it.
    ``kept(keeper)`` returns a copy with the same name and keys: tasks load what ``keeper.listing()`` has, without any
    dependencies. All others save their map before they return; and as a task runs again if the worker that had its
    result is lost, they begin with ``keeper.find``, and compute only if that gives nothing. Several rollouts of one
    store need names that are the same when it is resumed.
    """

    layer: Any
    names: tuple[str, ...]  # of the layer in the graph
    keys: frozenset[Key]  # those that belong to a year
    rank: Mapping[int, int]  # place of each time position in the order
    keeper: Keeper


@dataclass(frozen=True)
class Segment:
    """Blocks, by their keys, that are computed together."""

    keys: list[Key]
    bridge: list[Key]  # its maps that lead to later years where not all is written: those around a region
    ended: list[list[int]]  # for each rollout, the time positions of the years whose maps nothing needs afterwards


def find_rollouts(graph: HighLevelGraph, folder: str = "") -> list[Rollout]:
    """Rollouts of a graph over several years, whose maps are kept in the folder."""
    names: dict[int, list[str]] = {}
    for name, layer in graph.layers.items():
        if hasattr(layer, "kept") and len(layer.order) > 1:
            names.setdefault(id(layer), []).append(name)
    rollouts = []
    for found in names.values():
        layer = graph.layers[found[0]]
        keys = frozenset(key for key in layer.get_output_keys() if isinstance(key, tuple))
        rank = {position: number for number, position in enumerate(layer.order)}
        # one rollout is known by the store that it belongs to; several are told apart by their names
        keeper = Keeper(folder if len(names) == 1 else f"{folder}-{found[0]}")
        rollouts.append(Rollout(layer, tuple(found), keys, rank, keeper))
    return rollouts


def restart(
    graph: HighLevelGraph, rollouts: Sequence[Rollout], bridge: Sequence[Key]
) -> tuple[HighLevelGraph, list[Key]]:
    """Return the graph with rollouts that begin with what is kept by now, and tasks that need the keys of a bridge.

    These tasks, whose keys are returned, have no result.
    """
    layers = dict(graph.layers)
    for rollout in rollouts:
        layers.update(dict.fromkeys(rollout.names, rollout.layer.kept(rollout.keeper)))
    name = f"bridge-{tokenize(bridge)}"
    tasks = {(name, number): Task((name, number), _nothing, TaskRef(key)) for number, key in enumerate(bridge)}
    dependencies = {**graph.dependencies, name: set(layers)} if bridge else graph.dependencies
    return HighLevelGraph({**layers, name: MaterializedLayer(tasks)} if bridge else layers, dependencies), list(tasks)


def cut_segments(
    graph: HighLevelGraph, rollouts: Sequence[Rollout], batches: Sequence[Sequence[Key]], years: int | None = None
) -> list[Segment]:
    """Cut the work into segments, in the order in which they have to be computed.

    Each batch is the keys to be written that need the same years. A segment has as many ``years`` as have ``BLOCKS``
    blocks, and ``YEARS`` at least.
    """
    years = years or max(YEARS, BLOCKS // max(map(len, batches)))
    needed = [
        [{key[1] for key in found & rollout.keys} for rollout in rollouts]
        for found in _needed(graph, rollouts, [batch[:1] for batch in batches])
    ]
    numbers = [
        max((r.rank[position] // years for r, its in zip(rollouts, each, strict=True) for position in its), default=0)
        for each in needed
    ]
    bridges = _bridges(graph, rollouts, batches, years)
    segments = []
    for number in sorted(set(numbers)):
        last = (number + 1) * years - 1
        later = [each for each, its in zip(needed, numbers, strict=True) if its > number]
        segments.append(
            Segment(
                keys=[key for batch, its in zip(batches, numbers, strict=True) if its == number for key in batch],
                bridge=bridges.get(last, []) if later else [],
                ended=[
                    [
                        p
                        for p, its in rollout.rank.items()
                        if its <= last - getattr(rollout.layer, "reach", 1) and not any(p in each[n] for each in later)
                    ]
                    for n, rollout in enumerate(rollouts)
                ],
            )
        )
    return segments


def _needed(graph: HighLevelGraph, rollouts: Sequence[Rollout], groups: Sequence[Sequence[Key]]) -> Iterator[set[Key]]:
    """All keys that each group needs of the graph, up to those of rollouts but not beyond them."""
    leaves = {n: MaterializedLayer({key: DataNode(key, None) for key in r.keys}) for r in rollouts for n in r.names}
    without = {name: set() if name in leaves else found for name, found in graph.dependencies.items()}
    small = HighLevelGraph({**graph.layers, **leaves}, without).cull([key for group in groups for key in group])
    tasks = convert_legacy_graph(small.to_dict())
    for group in groups:
        seen, waiting = set(group), list(group)
        while waiting:
            new = tasks[waiting.pop()].dependencies - seen
            seen |= new
            waiting += new
        yield seen


def _bridges(
    graph: HighLevelGraph, rollouts: Sequence[Rollout], batches: Sequence[Sequence[Key]], years: int
) -> dict[int, list[Key]]:
    """Keys of each segment on which the years of later ones depend, by the rank of its last year.

    None where a batch is as wide as the rollouts are: all their maps are then written anyway.
    """
    most = max(max(Counter(key[:2] for key in rollout.keys).values(), default=0) for rollout in rollouts)
    if max(map(len, batches)) >= most:
        return {}
    bridges: dict[int, list[Key]] = {}
    reached = set().union(*_needed(graph, rollouts, batches))
    for rollout in rollouts:
        by_rank: dict[int, set[Key]] = {}
        for key in reached & rollout.keys:
            by_rank.setdefault(rollout.rank[key[1]], set()).add(key)
        for rank in range(len(rollout.rank) - 1, -1, -1):
            waiting = list(by_rank.get(rank, ()))
            while waiting:
                for other in rollout.layer.get_dependencies(waiting.pop(), rollout.keys):
                    if other not in rollout.keys:
                        continue
                    its = rollout.rank[other[1]]
                    known = by_rank.setdefault(its, set())
                    if other not in known and its == rank:
                        waiting.append(other)
                    known.add(other)
                    if its // years < rank // years:
                        bridges.setdefault((its // years + 1) * years - 1, []).append(other)
            by_rank.pop(rank, None)
    return {rank: sorted(set(keys)) for rank, keys in bridges.items()}


def _nothing(_: Any) -> None:
    """Stand for a task that has been computed for its effect."""
