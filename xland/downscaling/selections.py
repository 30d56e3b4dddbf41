"""What a selection of lazy maps reads of a block, so that only the windows which it touches are computed.

Dask cuts a chunk after it is computed. The tasks that do so are in the graph, so the cells that they read of a block
are known before it is computed.
"""

from __future__ import annotations

import operator
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from dask.array.chunk import getitem
from numpy.typing import NDArray

from xland.dask_internals import Alias, GraphNode, Task, pick_points
from xland.downscaling.fields import Block

ROWS, COLUMNS, OTHER = 0, 1, -1
"""What an axis of an array is."""

MAP = (OTHER, ROWS, COLUMNS)

COMPARISONS = (operator.eq, operator.ne, operator.lt, operator.le, operator.gt, operator.ge)


@dataclass(frozen=True, eq=False)
class View:
    """The rows and columns of a block that a value has, and what its axes are."""

    cells: tuple[NDArray[np.intp], NDArray[np.intp]]
    axes: tuple[int, ...] = MAP

    def through(self, task: GraphNode) -> View | None:
        """Return what the result of a task has that selects from this value or works cell by cell; None of others."""
        if isinstance(task, Alias):
            return self
        if not isinstance(task, Task):
            return None
        if task.func is np.transpose:
            order = task.kwargs.get("axes") or reversed(range(len(self.axes)))
            return View(self.cells, tuple(self.axes[axis] for axis in order))
        by_cell = task.func in COMPARISONS or (isinstance(task.func, np.ufunc) and task.func.signature is None)
        if len(task.dependencies) == 1 and by_cell:
            return self
        index = task.args[1] if task.func is getitem else None
        if not isinstance(index, tuple) or len(index) != len(self.axes):
            return None
        if not all(isinstance(each, int | np.integer | slice) for each in index):
            return None
        cells, left = list(self.cells), []
        for axis, each in zip(self.axes, index, strict=True):
            if axis != OTHER:
                cells[axis] = np.atleast_1d(cells[axis][each])
            if isinstance(each, slice):
                left.append(axis)
        return View((cells[ROWS], cells[COLUMNS]), tuple(left))

    def at_points(self, task: GraphNode) -> Iterator[View]:
        """Yield each point if a task picks points from this value, else all of it."""
        if isinstance(task, Task) and task.func is pick_points and len(task.args[1]) == len(self.axes):
            index = dict(zip(self.axes, task.args[1], strict=True))
            if isinstance(index.get(ROWS), np.ndarray) and isinstance(index.get(COLUMNS), np.ndarray):
                points = (self.cells[axis][index[axis]].reshape(-1, 1) for axis in (ROWS, COLUMNS))
                yield from map(View, zip(*points, strict=True))
                return
        yield self

    def part(self, block: Block, factor: int) -> Block:
        """Return the smallest part of a block, of whole coarse cells, that has all cells of this value."""

        def around(whole: range, cells: NDArray[np.intp]) -> range:
            return whole[int(cells.min()) // factor * factor : (int(cells.max()) // factor + 1) * factor]

        rows, columns = self.cells
        return Block(around(block.rows, rows), around(block.columns, columns), block.size, block.stride)


def parts_read(
    starts: Mapping[Any, tuple[int, ...]],
    block: Block,
    factor: int,
    tasks: Mapping[Any, GraphNode],
    dependents: Mapping[Any, Collection[Any]],
    wanted: Collection[Any],
) -> tuple[tuple[Block, ...], list[Any]]:
    """Return the parts of a block that are read, and the keys whose values have other cells, too.

    Nothing, if all of the block is read, or if less than half of its windows are spared. `starts` are the keys of its
    outputs, with their axes, in a graph of `tasks` in which some keys are `wanted`.
    """
    whole = np.arange(len(block.rows)), np.arange(len(block.columns))
    waiting = [(key, View(whole, axes)) for key, axes in starts.items()]
    parts: dict[Block, None] = {}
    between = []
    while waiting:
        source, view = waiting.pop()
        if not all(each.size for each in view.cells):
            continue
        ends = [view] if source in wanted else []
        for other in dependents[source]:
            seen = view.through(tasks[other])
            if seen is not None:
                waiting.append((other, seen))
            else:
                ends += view.at_points(tasks[other])
        if view not in ends:
            between.append(source)
        parts |= dict.fromkeys(each.part(block, factor) for each in ends)
        if 2 * sum(part.count for part in parts) > block.count:
            return (), []
    return tuple(parts), between
