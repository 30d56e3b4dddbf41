"""What a block reads, on whatever grid it lies: from files inside its task, or from chunks of dask arrays.

A file that was opened lazily is read inside the task, just the cells that are needed: nothing of
it stands in the graph or stays in memory while other years need it again. A dask array is what its
owner made of it, so its chunks are dependencies of the task.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any, Protocol

import dask.array as da
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from xland.downscaling.windows import Span, placements
from xland.geo.grid import Grid

Key = tuple[Hashable, ...]
Chunks = Mapping[Key, NDArray[Any]]


EVERY = slice(None)
Layers = Sequence[NDArray[Any]] | NDArray[Any]


class Field(Protocol):
    """Layers on a grid that blocks read parts of."""

    @property
    def grid(self) -> Grid:
        """Where the layers lie."""

    def keys(self, rows: Span, columns: Span, year: int = 0) -> Iterator[Key]:
        """Graph keys of the chunks that hold these cells."""

    def read(self, rows: slice, columns: slice, chunks: Chunks, year: int = 0, only: slice = EVERY) -> Layers:
        """Return layers, all or only some, at rows and columns of the grid, ``(rows, columns)`` each."""


@dataclass(frozen=True, eq=False)
class FileField:
    """Variables that are not dask arrays: read where they are needed.

    Parameters
    ----------
    grid : Grid
    variables : tuple of Variable
        Two-dimensional, latitude first, as the caller has them.
    rows, columns : arrays of int
        Where each row and column of the grid stands in the variables.
    """

    grid: Grid
    variables: tuple[xr.Variable, ...]
    rows: NDArray[np.intp]
    columns: NDArray[np.intp]

    def keys(self, rows: Span, columns: Span, year: int = 0) -> Iterator[Key]:  # noqa: ARG002
        """Nothing stands in the graph."""
        return iter(())

    def read(
        self,
        rows: slice,
        columns: slice,
        chunks: Chunks,  # noqa: ARG002
        year: int = 0,  # noqa: ARG002
        only: slice = EVERY,
    ) -> Layers:
        """Return layers at rows and columns of the grid."""
        down, across = _runs(self.rows[rows]), _runs(self.columns[columns])
        return [
            _joined([[np.asarray(each[r, c].values) for c in across] for r in down]) for each in self.variables[only]
        ]


@dataclass(frozen=True)
class ChunkField:
    """Chunks of a dask array whose last two axes lie on a grid.

    Parameters
    ----------
    grid : Grid
    name : str
        Of the array in the graph.
    rows, columns : tuple of int
        First cells of the chunks along the last two axes, and the number of cells.
    tail : tuple of int
        Chunk numbers between the year's and those of rows and columns.
    """

    grid: Grid
    name: str
    rows: tuple[int, ...]
    columns: tuple[int, ...]
    tail: tuple[int, ...] = ()

    @classmethod
    def of(cls, array: da.Array, grid: Grid) -> ChunkField:
        """Describe an array whose first axis counts years (or layers of all years, in one chunk)."""
        return cls.over(array.name, array.chunks, grid)

    @classmethod
    def over(cls, name: str, chunks: Sequence[tuple[int, ...]], grid: Grid) -> ChunkField:
        """Describe an array by its name in the graph and the sizes of its chunks along each axis."""
        rows, columns = ((0, *np.cumsum(sizes).tolist()) for sizes in chunks[-2:])
        return cls(grid, name, rows, columns, (0,) * (len(chunks) - 3))

    def keys(self, rows: Span, columns: Span, year: int = 0) -> Iterator[Key]:
        """Graph keys of the chunks that hold these cells."""
        return (self._key(year, i, j) for i, j in _numbers(self, rows, columns))

    def read(self, rows: slice, columns: slice, chunks: Chunks, year: int = 0, only: slice = EVERY) -> NDArray[Any]:
        """Return layers at rows and columns of the grid."""
        down, across = list(_overlaps(self.rows, rows)), list(_overlaps(self.columns, columns))
        return _joined([[_layers(chunks[self._key(year, i, j)])[only, r, c] for j, c in across] for i, r in down])

    def _key(self, year: int, row: int, column: int) -> Key:
        return (self.name, year, *self.tail, row, column)


@lru_cache(maxsize=4096)
def _numbers(field: ChunkField, rows: Span, columns: Span) -> tuple[tuple[int, int], ...]:
    """Numbers of the chunks that hold some cells: the same for all years."""
    return tuple(
        dict.fromkeys(
            (i, j)
            for place in placements(field.grid, rows, columns)
            for i, _ in _overlaps(field.rows, place.source[0])
            for j, _ in _overlaps(field.columns, place.source[1])
        )
    )


def _joined(parts: list[list[NDArray[Any]]]) -> NDArray[Any]:
    """Put parts side by side along the last two axes; a single one is not copied."""
    if len(parts) == 1 and len(parts[0]) == 1:
        return parts[0][0]
    return np.concatenate([np.concatenate(part, axis=-1) for part in parts], axis=-2)


@dataclass(frozen=True, eq=False)
class WithoutSea:
    """Layers of which only cells with data are kept: most of a globe is sea, which land fields say nothing about.

    Parameters
    ----------
    there : (rows, columns) array of bool
        Cells where at least one layer is not NaN.
    values : (layers, cells) array
        Of these cells, row by row.
    """

    there: NDArray[np.bool_]
    values: NDArray[Any]

    @classmethod
    def of(cls, chunk: NDArray[Any]) -> WithoutSea:
        """Keep the cells with data of a chunk, ``(..., rows, columns)``."""
        layers = _layers(chunk)
        there = ~np.isnan(layers).all(axis=0)
        return cls(there, layers[:, there])

    def __getitem__(self, where: tuple[slice, slice, slice]) -> NDArray[Any]:
        """Return layers at rows and columns, ``(layers, rows, columns)``, NaN in cells without data."""
        only, rows, columns = where
        number = self.there.cumsum(dtype=np.int32).reshape(self.there.shape)[rows, columns] - 1
        inside, values = self.there[rows, columns], self.values[only]
        layers = np.full((len(values), *inside.shape), np.nan, dtype=values.dtype)
        layers[:, inside] = values[:, number[inside]]
        return layers


def _layers(chunk: Any) -> Any:
    return chunk if isinstance(chunk, WithoutSea) else chunk.reshape(-1, *chunk.shape[-2:])


def _overlaps(bounds: tuple[int, ...], where: slice) -> Iterator[tuple[int, slice]]:
    """Chunks that a slice touches, and the slice within each."""
    first = bisect_right(bounds, where.start) - 1
    for number, (start, stop) in enumerate(pairwise(bounds[first:]), first):
        if start >= where.stop:
            return
        yield number, slice(max(where.start, start) - start, min(where.stop, stop) - start)


def _runs(positions: NDArray[np.intp]) -> list[slice]:
    """Slices with step 1 or -1 that visit positions in their order."""
    cuts = np.flatnonzero(np.abs(np.diff(positions)) != 1) + 1
    runs = []
    for part in np.split(positions, cuts):
        first, last = int(part[0]), int(part[-1])
        if last >= first:
            runs.append(slice(first, last + 1))
        else:
            runs.append(slice(first, last - 1 if last else None, -1))
    return runs
