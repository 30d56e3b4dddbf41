"""What xland uses of dask beyond its documented interface: imported here and nowhere else.

`tests/test_dask_internals.py` names what is relied on; `pyproject.toml` bounds the versions of dask.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any, Protocol, runtime_checkable

import dask.array as da
from dask._task_spec import Alias, DataNode, GraphNode, Task, TaskRef, convert_legacy_graph
from dask.array.core import _vindex_slice_and_transpose as pick_points
from dask.base import dont_optimize
from dask.blockwise import Blockwise
from dask.context import globalmethod
from dask.core import flatten, reverse_dict
from dask.highlevelgraph import HighLevelGraph, Layer, MaterializedLayer

__all__ = [
    "NARROW_FIRST",
    "Alias",
    "DataNode",
    "GraphNode",
    "HighLevelGraph",
    "Layer",
    "MaterializedLayer",
    "Task",
    "TaskRef",
    "convert_legacy_graph",
    "narrow",
    "pick_points",
    "renamed",
]


@runtime_checkable
class Narrowing(Protocol):
    """A layer that can compute only what is read of its values."""

    def narrowed(
        self, tasks: Mapping[Any, GraphNode], dependents: Mapping[Any, Collection[Any]], wanted: Collection[Any]
    ) -> Mapping[Any, GraphNode]:
        """Return what takes the place of some tasks of a graph, under other keys: the values are other ones, too."""

    def narrow(self, graph: HighLevelGraph, keys: Any) -> HighLevelGraph:
        """Return :func:`narrow` of a graph: a scheduler that has the layer has this function."""


def narrow(graph: HighLevelGraph, keys: Any) -> HighLevelGraph:
    """Return a graph whose layers compute only what is read of them to make some keys, as far as they can."""
    able = {name: layer for name, layer in graph.layers.items() if isinstance(layer, Narrowing)}
    readers: set[str] = set()  # layers that depend on these, directly or by way of layers that work block by block
    waiting = list(able)
    while waiting:
        new = graph.dependents[waiting.pop()] - readers
        readers |= new
        waiting += [name for name in new if isinstance(graph.layers[name], Blockwise)]
    if all(isinstance(graph.layers[name], Blockwise) for name in readers - able.keys()):
        return graph  # whole blocks are read: tasks of all centuries are not made to find this out
    wanted = set(flatten(keys)) if isinstance(keys, list | set) else {keys}
    tasks = convert_legacy_graph(graph.cull(wanted).to_dict())
    dependents = reverse_dict({key: task.dependencies for key, task in tasks.items()})
    placed: dict[Any, GraphNode] = {}
    for layer in {id(layer): layer for layer in able.values()}.values():
        placed |= layer.narrowed(tasks, dependents, wanted)
    if not placed:
        return graph
    names = {key: task.key for key, task in placed.items()}
    affected = set().union(*(dependents[key] for key in placed))
    changed = [task.substitute(names) for task in ({key: tasks[key] for key in affected} | placed).values()]
    kept = {key: task for key, task in tasks.items() if key not in placed}
    return HighLevelGraph.from_collections("narrow", kept | {task.key: task for task in changed})


def renamed(task: GraphNode, key: Any) -> GraphNode:
    """Return a task under another key."""
    return Alias(key, task.target) if isinstance(task, Alias) else task.substitute({}, key=key)


def _narrowing(default: Callable[..., Any]) -> Callable[..., Any]:
    # a function within a function travels as it is, so a scheduler needs no xland for graphs of others
    def optimize(dsk: Any, keys: Any, **options: Any) -> Any:
        for layer in getattr(dsk, "layers", {}).values():
            if hasattr(layer, "narrow"):
                dsk = layer.narrow(dsk, keys)
                break
        return default(dsk, keys, **options)

    return optimize


NARROW_FIRST = globalmethod(_narrowing(da.optimization.optimize), key="array_optimize", falsey=dont_optimize)
"""Dask's optimization of arrays, before which the layers of a graph are asked to compute only what is read of them.

Dask has no hook for this: this takes the place of ``da.Array.__dask_optimize__``. Where users set another optimization
(``array_optimize``), values are the same, and selections compute whole blocks.
"""
