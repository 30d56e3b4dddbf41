"""The graph of a downscaling: one layer that knows its tasks without listing them.

A global run over centuries has a hundred thousand block-years and more. A task is made when it is
asked for; what a selection depends on is worked out from positions alone.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterator, Sequence, Set
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from xland.dask_internals import DataNode, GraphNode, HighLevelGraph, Layer, MaterializedLayer, Task, TaskRef
from xland.downscaling.block import Plan, run_block_year
from xland.store.rollouts import Index, Keeper


class BlockYears(Layer):
    """Class maps of all block-years, and where more is wanted the tasks that compute all outputs at once.

    Keys are ``(name, year, row, column)`` for class maps and ``(name + "-layers", year, row,
    column)`` for the dict of all outputs; years, rows and columns count from 0. A keeper keeps the maps of a rollout on
    disk; see :class:`xland.store.rollouts.Restartable`.
    """

    has_legacy_tasks = False

    def __init__(self, plan: Plan, keeper: Keeper | None = None) -> None:
        super().__init__()
        self.plan, self.keeper = plan, keeper
        self.name, self.all_layers, self._plan_key = plan.name, f"{plan.name}-layers", f"plan-{plan.name}"
        self.several = len(plan.outputs) > 1
        self.names = (self.name, self.all_layers) if self.several else (self.name,)
        self.shape = (len(plan.years), len(plan.layout.rows), len(plan.layout.columns))
        years = range(len(plan.years))
        self.order = tuple(years if plan.inputs.prior_step == -1 else reversed(years))
        self._there = frozenset() if keeper is None else keeper.listing()

    def describe(self) -> str:
        """Say in one line how much is computed."""
        years, rows, columns = self.shape
        layout = self.plan.layout
        return (
            f"{self.plan.model.name}: {years} {'year' if years == 1 else 'years'} of {rows} x {columns} blocks, "
            f"{layout.windows} windows a year where all is land, {layout.twice:.1%} of them twice at edges of blocks"
        )

    def kept(self, keeper: Keeper) -> Layer:
        """Return the same layer, with the maps that a keeper has in place of what they were computed from."""
        return self if self.plan.own is None else type(self)(self.plan, keeper)

    def is_materialized(self) -> bool:
        """Return False: tasks are made when they are asked for."""
        return False

    def get_output_keys(self) -> Set[Any]:
        """Return the layer itself, which is a set of keys as well as a mapping."""
        return self.keys()

    def get_dependencies(self, key: Any, all_hlg_keys: Collection[Any]) -> set[Any]:  # noqa: ARG002
        """Return the keys that a task needs."""
        return set(self[key].dependencies)

    def cull(self, keys: set[Any], all_hlg_keys: Collection[Any]) -> tuple[Layer, dict[Any, set[Any]]]:  # noqa: ARG002
        """Return the tasks that some keys depend on, and what those need of other layers."""
        tasks: dict[Any, GraphNode] = {}
        waiting = [key for key in keys if key in self]
        while waiting:
            key = waiting.pop()
            if key not in tasks:
                tasks[key] = self[key]
                waiting += [other for other in tasks[key].dependencies if other not in tasks and other in self]
        return MaterializedLayer(tasks, self.annotations), {key: set(task.dependencies) for key, task in tasks.items()}

    def __contains__(self, key: object) -> bool:
        """Whether a key is one of this layer's."""
        if key == self._plan_key:
            return True
        if not isinstance(key, tuple) or len(key) != 4 or key[0] not in (self.name, self.all_layers):
            return False
        return all(0 <= number < length for number, length in zip(key[1:], self.shape, strict=True))

    def __getitem__(self, key: Any) -> GraphNode:
        """Make the task of a key."""
        if key not in self:
            raise KeyError(key)
        if key == self._plan_key:
            return DataNode(key, self.plan)
        name, *index = key
        if name == self.name and tuple(index) in self._there:
            return Task(key, _load, self.keeper, tuple(index))
        if name == self.name and self.several:
            return Task(key, _land_use_of, self.keeper, tuple(index), TaskRef((self.all_layers, *index)))
        needs = map(TaskRef, dict.fromkeys(self.plan.keys(*index)))
        if name == self.all_layers:
            return Task(key, run_block_year, TaskRef(self._plan_key), *index, *needs)
        return Task(key, _land_use, self.keeper, TaskRef(self._plan_key), *index, *needs)

    def __iter__(self) -> Iterator[Any]:
        """Go over all keys."""
        yield self._plan_key
        yield from itertools.product(self.names, *map(range, self.shape))

    def __len__(self) -> int:
        """Return the number of tasks."""
        return 1 + int(np.prod(self.shape)) * len(self.names)


def block_years(plan: Plan, depends_on: Sequence[da.Array]) -> dict[str, da.Array]:
    """Return a lazy array for each output of a plan, whose fields are chunks of the arrays that it depends on.

    Outputs with classes are ``(years, classes, rows, columns)``, the others ``(years, rows, columns)``.
    """
    layer = BlockYears(plan)
    graph = HighLevelGraph.merge(
        *(HighLevelGraph.from_collections(each, layer, dependencies=depends_on) for each in layer.names)
    )
    years = (1,) * len(plan.years)
    chunks = (years, *plan.layout.chunks)
    arrays = {"land_use": da.Array(graph, layer.name, chunks, meta=np.empty((0, 0, 0), np.uint8))}
    if layer.several:
        everything = da.Array(graph, layer.all_layers, chunks, meta=np.empty((0, 0, 0), np.float32))
    for output in plan.outputs[1:]:
        axes: dict[str, Any] = {}
        if output.classes:
            axes = {"new_axis": 1, "chunks": (years, (len(plan.inputs.classes),), *plan.layout.chunks)}
        arrays[output.name] = everything.map_blocks(_one_layer, output.name, dtype=output.dtype, **axes)
    return arrays


def describe(ds: xr.Dataset) -> str:
    """Say what computing a Dataset would run, one line for each downscaling in it; reads nothing.

    A line names the model, years, blocks, windows and the share of windows that blocks compute twice. The text is
    empty where there is nothing left to downscale.
    """
    found = {}
    for variable in ds.data_vars.values():
        if variable.chunks is not None:
            layers = variable.data.dask.layers.values()
            found.update({layer.name: layer.describe() for layer in layers if isinstance(layer, BlockYears)})
    return "\n".join(found.values())


def _one_layer(layers: dict[str, NDArray[Any]], name: str) -> NDArray[Any]:
    return layers[name][None]


def _load(keeper: Keeper, index: Index) -> NDArray[np.uint8]:
    return keeper.load(index)[None]


def _land_use(
    keeper: Keeper | None, plan: Plan, year: int, row: int, column: int, *chunks: NDArray[Any]
) -> NDArray[np.uint8]:
    """Compute the class map of a block-year, ``(1, rows, columns)``."""
    return _kept(keeper, (year, row, column), lambda: run_block_year(plan, year, row, column, *chunks)["land_use"])


def _land_use_of(keeper: Keeper | None, index: Index, layers: dict[str, NDArray[Any]]) -> NDArray[np.uint8]:
    """Take the class map from all outputs of a block-year, ``(1, rows, columns)``."""
    return _kept(keeper, index, lambda: layers["land_use"])


def _kept(keeper: Keeper | None, index: Index, make: Callable[[], NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Return a map that an earlier run of the same task has kept; else make it, and keep it."""
    if keeper is None:
        return make()[None]
    values = keeper.find(index)
    if values is None:
        values = make()
        keeper.save(index, values)
    return values[None]
