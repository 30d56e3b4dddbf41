"""The order in which the blocks of a rollout are written: a few years at a time.

Below :mod:`xland.store`; nothing here is called by users. Each segment is computed by itself, from
the maps that the one before has kept; so the graph that a scheduler holds stays small however many
years there are, and a run that was broken off goes on from the last years on disk.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dask._task_spec import DataNode, Task, TaskRef, convert_legacy_graph
from dask.base import tokenize
from dask.highlevelgraph import HighLevelGraph, MaterializedLayer

from xland.storing.kept import Keeper, Restartable

YEARS = 8
"""Fewest years of a segment."""

BLOCKS = 1024
"""Fewest blocks of a segment: at its end workers wait for each other, which should be rare."""

Key = tuple[Any, ...]


@dataclass(frozen=True)
class Rollout:
    """A layer of a graph that can begin with kept maps (:class:`xland.storing.kept.Restartable`).

    Parameters
    ----------
    layer : Restartable
    names : tuple of str
        Under which it stands in the graph.
    keys : frozenset of keys
        Those that belong to a year.
    rank : mapping of time position to int
        The place of each year in the order in which they are computed.
    """

    layer: Any
    names: tuple[str, ...]
    keys: frozenset[Key]
    rank: Mapping[int, int]


@dataclass(frozen=True)
class Segment:
    """Blocks that are computed together.

    Parameters
    ----------
    keys : list of keys
        What is written.
    bridge : list of keys
        Maps of the segment's last year that lead to later years where not all is written: those
        around a region.
    ended : list of lists of time positions
        For each rollout, the years whose maps nothing needs once the segment is written.
    """

    keys: list[Key]
    bridge: list[Key]
    ended: list[list[int]]


def find_rollouts(graph: HighLevelGraph) -> list[Rollout]:
    """Rollouts of a graph."""
    names: dict[int, list[str]] = {}
    for name, layer in graph.layers.items():
        if isinstance(layer, Restartable):
            names.setdefault(id(layer), []).append(name)
    return [
        Rollout(
            layer=graph.layers[found[0]],
            names=tuple(found),
            keys=frozenset(key for key in graph.layers[found[0]].get_output_keys() if isinstance(key, tuple)),
            rank={position: number for number, position in enumerate(graph.layers[found[0]].order)},
        )
        for found in names.values()
    ]


def keepers_of(rollouts: Sequence[Rollout], folder: str) -> list[Keeper]:
    """Where the maps of each rollout are kept."""
    # one rollout is known by the store that it belongs to; several are told apart by their names
    return [Keeper(folder if len(rollouts) == 1 else f"{folder}-{rollout.names[0]}") for rollout in rollouts]


def begin_with_kept(graph: HighLevelGraph, rollouts: Sequence[Rollout], keepers: Sequence[Keeper]) -> HighLevelGraph:
    """Return the graph with rollouts that begin with what is kept by now."""
    layers = dict(graph.layers)
    for rollout, keeper in zip(rollouts, keepers, strict=True):
        layers.update(dict.fromkeys(rollout.names, rollout.layer.kept(keeper)))
    return HighLevelGraph(layers, graph.dependencies)


def compute_only(graph: HighLevelGraph, keys: Sequence[Key]) -> tuple[HighLevelGraph, list[Key]]:
    """Add tasks that need the keys and return nothing; return the graph and the keys of these tasks."""
    if not keys:
        return graph, []
    name = f"bridge-{tokenize(keys)}"
    tasks = {(name, number): Task((name, number), _nothing, TaskRef(key)) for number, key in enumerate(keys)}
    layers = {**graph.layers, name: MaterializedLayer(tasks)}
    return HighLevelGraph(layers, {**graph.dependencies, name: set(graph.layers)}), list(tasks)


def cut_segments(
    graph: HighLevelGraph, rollouts: Sequence[Rollout], batches: Sequence[Sequence[Key]], years: int | None = None
) -> list[Segment]:
    """Cut the work into segments.

    Parameters
    ----------
    graph : HighLevelGraph
    rollouts : sequence of Rollout
        All of the graph.
    batches : sequence of sequences of keys
        All that is to be written. The keys of one batch need the same years.
    years : int, optional
        Years of a segment; by default as many as have ``BLOCKS`` blocks, and ``YEARS`` at least.

    Returns
    -------
    list of Segment
        In the order in which they have to be computed; a single one if there is no rollout.
    """
    if not rollouts:
        return [Segment([key for batch in batches for key in batch], [], [])]
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
                    [p for p, its in rollout.rank.items() if its < last and not any(p in each[n] for each in later)]
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
    """Keys of the last year of each segment on which later years depend, by that year's rank.

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
                    if its < rank and (its + 1) % years == 0:
                        bridges.setdefault(its, []).append(other)
            # a year is needed for no longer than the next one
            by_rank.pop(rank, None)
    return {rank: sorted(set(keys)) for rank, keys in bridges.items()}


def _nothing(_: Any) -> None:
    """Stand for a task that has been computed for its effect."""
