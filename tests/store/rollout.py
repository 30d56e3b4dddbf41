"""A toy rollout for tests of the writer: each block's map follows from its own and its neighbours' before."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import dask.array as da
import numpy as np
import xarray as xr
from dask._task_spec import DataNode, List, Task, TaskRef
from dask.highlevelgraph import HighLevelGraph, MaterializedLayer

from xland.geo.conventions import for_files, with_years
from xland.store.rollouts import Keeper

SIZE = 4


class Toy(MaterializedLayer):
    """A layer of :class:`xland.store.rollouts.Rollout`; every map that is computed leaves a line in a log."""

    def __init__(self, name, order, rows, columns, log, before=None, keeper=None):
        self.arguments = (name, order, rows, columns, log, before)
        self.order = order
        listed = keeper.listing() if keeper else frozenset()
        # layers may hold what belongs to no year, such as the model
        tasks = {f"plan-{name}": DataNode(f"plan-{name}", None)}
        for number, position in enumerate(order):
            for row in range(rows):
                for column in range(columns):
                    key, index = (name, position, row, column), (position, row, column)
                    if index in listed:
                        tasks[key] = Task(key, _load, keeper, index)
                        continue
                    previous = [
                        TaskRef((name, order[number - 1], r, c % columns))
                        for r in range(max(0, row - 1), min(rows, row + 2))
                        for c in range(column - 1, column + 2)
                        if number
                    ]
                    tasks[key] = Task(key, _step, List(*previous), index, log, before, keeper)
        super().__init__(tasks)

    def kept(self, keeper: Keeper) -> Toy:
        return Toy(*self.arguments, keeper)

    def describe(self, *wanted: object) -> str:
        return f"a toy of {len(self.order)} years"


def _load(keeper: Keeper, index: tuple[int, int, int]) -> np.ndarray:
    return keeper.load(index)[None]


def _step(previous, index, log, before, keeper) -> np.ndarray:
    if keeper and (found := keeper.find(index)) is not None:
        return found[None]
    if before is not None:
        before(index)
    handle = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    os.write(handle, f"{index}\n".encode())
    os.close(handle)
    start = np.random.default_rng(index[1:]).integers(0, 8, (SIZE, SIZE)) if not previous else 0
    values = ((start + sum(3 * each[0] + each[0].T for each in previous) + len(previous)) % 8).astype(np.uint8)
    if keeper:
        keeper.save(index, values)
    return values[None]


def toy(
    log: Path,
    years: int = 8,
    rows: int = 3,
    columns: int = 4,
    *,
    backward: bool = False,
    before: Callable[[tuple[int, int, int]], None] | None = None,
    name: str = "toy",
) -> xr.Dataset:
    """A lazy Dataset whose map is a rollout, which stands in the graph under two names."""
    order = tuple(range(years))[:: -1 if backward else 1]
    layer = Toy(name, order, rows, columns, str(log), before)
    chunks = ((1,) * years, (SIZE,) * rows, (SIZE,) * columns)
    graph = HighLevelGraph({name: layer, f"{name}-too": layer}, {name: set(), f"{name}-too": set()})
    data = da.Array(graph, name, chunks, dtype=np.uint8)
    labels = {"lat": 60 - np.arange(rows * SIZE, dtype=float), "lon": np.arange(columns * SIZE, dtype=float)}
    ds = xr.Dataset({"land_use": (("time", "lat", "lon"), data)}, labels)
    return for_files(with_years(ds, range(1850, 1850 + years)))


def computed(log: Path) -> list[str]:
    """Which maps were computed, in order, from first to last run."""
    return log.read_text().split("\n")[:-1] if log.exists() else []
