"""Selections of lazy maps: the windows that a selection touches are computed, not all of its blocks."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import dask.array as da
import numpy as np
from dask.base import tokenize
from numpy.typing import NDArray

from xland.dask_internals import GraphNode, HighLevelGraph, Task, TaskRef, normalize_index
from xland.downscaling.block import Plan, one_layer, run_of
from xland.downscaling.fields import Block, runs_of

Where = int | slice | NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class Whole:
    """An output of all years over the target grid as an ordinary lazy array, and what its blocks are computed from."""

    plan: Plan
    output: str
    array: da.Array
    depends_on: tuple[da.Array, ...]

    def part(self, block: Block, rows: NDArray[np.intp], columns: NDArray[np.intp]) -> Block | None:
        """Return the part of a block that has some cells of it, None if that spares less than half of the windows.

        The block itself is then what others may need, too.
        """
        factor, spans = self.plan.inputs.factor, []
        for span, its in ((block.rows, rows), (block.columns, columns)):
            first, last = int(its.min()) // factor, int(its.max()) // factor
            spans.append(range(span.start + first * factor, min(span.start + (last + 1) * factor, span.stop)))
        part = Block(spans[0], spans[1], block.size, block.stride)
        return part if 2 * part.count <= block.count else None


class Maps(da.Array):
    """A lazy output of a downscaling, or a selection of it.

    `at` are the positions along years, classes or draws, rows and columns of the whole that it has, a single number
    where that dimension was dropped. `order` are the dimensions of the whole in the order of the array.
    """

    __slots__ = ()
    whole: Whole
    at: tuple[NDArray[np.intp], ...]
    order: tuple[int, ...]

    @classmethod
    def of(cls, whole: Whole) -> Maps:
        """Return all of an output."""
        array = whole.array
        at = tuple(map(np.arange, array.shape))
        return cls._make(whole, at, tuple(range(array.ndim)), array.dask, array.name, array.chunks)

    @classmethod
    def _make(cls, whole: Whole, at: tuple[NDArray[np.intp], ...], order: tuple[int, ...], *array: Any) -> Maps:
        made: Maps = da.Array.__new__(cls, *array, meta=np.empty((0,) * len(order), dtype=whole.array.dtype))
        made.__dict__.update(whole=whole, at=at, order=order)
        return made

    def __getitem__(self, index: Any) -> da.Array:
        """Select, as of any dask array."""
        given = normalize_index(index, self.shape)
        lists = sum(isinstance(each, np.ndarray) for each in given)
        if lists > 1 or any(not isinstance(each, int | np.integer | slice | np.ndarray) for each in given):
            return super().__getitem__(index)
        at = list(self.at)
        for axis, each in zip(self.order, given, strict=True):
            at[axis] = np.asarray(at[axis][each])
        if not all(each.size for each in at):
            return super().__getitem__(index)
        return self._select(at, [axis for axis in self.order if at[axis].ndim])

    def __setitem__(self, index: Any, value: Any) -> None:
        """Put other values in: from then on it is an ordinary dask array."""
        super().__setitem__(index, value)
        self.__class__ = da.Array

    def copy(self) -> Maps:
        """Return the same selection, which takes its own values."""
        return self._make(self.whole, self.at, self.order, self.dask, self.name, self.chunks)

    def transpose(self, *axes: Any) -> da.Array:
        """Put the dimensions into another order, as of any dask array."""
        given = axes[0] if len(axes) == 1 and isinstance(axes[0], Iterable) else axes
        return self._select(self.at, [self.order[axis] for axis in given] or self.order[::-1])

    def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        """Join both sides of a seam, and leave all else to dask."""
        if func is np.concatenate and all(isinstance(each, Maps) for each in args[0]):
            first, along = args[0][0], self.order[kwargs.get("axis", 0)]
            if all(_but(each, along) == _but(first, along) for each in args[0]):
                joined = np.concatenate([each.at[along] for each in args[0]])
                return self._select([*first.at[:along], joined, *first.at[along + 1 :]], first.order)
        return super().__array_function__(func, types, args, kwargs)

    def _select(self, at: Sequence[NDArray[np.intp]], order: Sequence[int]) -> da.Array:
        """Return what is at some positions of the whole, with its dimensions in some order."""
        whole, at, order = self.whole, tuple(at), tuple(order)
        if order == self.order and all(map(np.array_equal, at, self.at)):
            return self
        plan, array = whole.plan, whole.array
        name = f"{whole.output}-{tokenize(array.name, at, order)}"
        pieces = [_by_chunk(each, sizes) for each, sizes in zip(at, array.chunks, strict=True)]
        tasks: dict[Any, GraphNode] = {}
        for numbers in itertools.product(*(range(len(its)) for its in pieces)):
            chosen = [its[number] for its, number in zip(pieces, numbers, strict=True)]
            chunk, inside = [number for number, _ in chosen], [each for _, each in chosen]
            block = plan.layout.block(*chunk[-2:])
            part = whole.part(block, *inside[-2:])
            source: tuple[Any, ...] = (array.name, *chunk)
            if part is not None:
                source = (f"{plan.maps.name}-part", chunk[0], *_edges(part))
                tasks[source] = Task(source, *run_of(plan, chunk[0], part))
                inside[-2] = inside[-2] + block.rows.start - part.rows.start
                inside[-1] = inside[-1] + block.columns.start - part.columns.start
            where = [_index(each, dropped=not its.ndim) for each, its in zip(inside, at, strict=True)]
            key = (name, *(numbers[axis] for axis in order))
            tasks[key] = Task(
                key, _cut, TaskRef(source), whole.output, where, [sorted(order).index(axis) for axis in order]
            )
        graph = HighLevelGraph.from_collections(name, tasks, dependencies=[array, *whole.depends_on])
        chunks = tuple(tuple(len(each) for _, each in pieces[axis]) for axis in order)
        return self._make(whole, at, order, graph, name, chunks)


def _but(maps: Maps, along: int) -> Any:
    """Return what tells a selection from others but for its positions along one dimension."""
    at = [each.tolist() for axis, each in enumerate(maps.at) if axis != along]
    return maps.whole.array.name, maps.order, at


def _edges(block: Block) -> tuple[int, int, int, int]:
    return block.rows.start, block.rows.stop, block.columns.start, block.columns.stop


def _by_chunk(at: NDArray[np.intp], sizes: Sequence[int]) -> list[tuple[int, NDArray[np.intp]]]:
    """Split positions where the next lies in another chunk: the chunk of each piece, and the positions in it."""
    edges = np.cumsum((0, *sizes))
    flat = at.reshape(-1)
    numbers = np.searchsorted(edges, flat, side="right") - 1
    pieces = np.split(np.arange(flat.size), np.flatnonzero(np.diff(numbers)) + 1)
    return [(int(numbers[each[0]]), flat[each] - edges[numbers[each[0]]]) for each in pieces]


def _index(inside: NDArray[np.intp], *, dropped: bool) -> Where:
    """Return the shortest index of positions."""
    if dropped:
        return int(inside[0])
    runs = runs_of(inside)
    return runs[0] if len(runs) == 1 else inside


def _cut(values: Any, output: str, where: Sequence[Where], order: Sequence[int]) -> NDArray[Any]:
    """Take some cells of a block of an output, or of a dict of outputs."""
    values = one_layer(values, output) if isinstance(values, dict) else values
    for axis in reversed(range(values.ndim)):
        values = values[(slice(None),) * axis + (where[axis],)]
    return np.transpose(values, order)
