"""How a target grid is cut into blocks, and how each block reads its halo from any source."""

from __future__ import annotations

from dataclasses import dataclass

import dask.array as da

from xland.errors import GridError
from xland.grid import Grid
from xland.inference.predict import Block
from xland.inference.windows import Pieces, Span, locate
from xland.inputs import InputSpec

_BLOCK = 1200
"""Default cells along a block: large enough that few windows at its edges are computed twice."""


@dataclass(frozen=True)
class Source:
    """A lazy array whose last two axes are a grid, and that grid."""

    array: da.Array
    grid: Grid

    def read(self, rows: Span, columns: Span) -> da.Array:
        """Return the cells of a span that the array has; what lies outside is left out."""
        row_pieces, column_pieces = pieces(self.grid, rows, columns)
        return _take(_take(self.array, row_pieces, -2), column_pieces, -1)


@dataclass(frozen=True)
class Layout:
    """How the target grid is cut into blocks."""

    grid: Grid
    rows: tuple[Span, ...]
    columns: tuple[Span, ...]
    size: int
    stride: int

    @classmethod
    def cut(cls, grid: Grid, inputs: InputSpec, chunks: int | None) -> Layout:
        """Cut a grid into blocks of about ``chunks`` cells."""
        if chunks is None:
            chunks = max(_BLOCK // inputs.stride, 1) * inputs.stride
        if not isinstance(chunks, int) or chunks < 1 or chunks % inputs.factor:
            raise GridError(f"chunks must be a multiple of the model's factor {inputs.factor}, not {chunks!r}")
        return cls(
            grid,
            _spans(grid.row_offset, grid.rows, chunks),
            _spans(grid.column_offset, grid.columns, chunks),
            inputs.window,
            inputs.stride,
        )

    @property
    def chunks(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Dask chunks of the last two axes."""
        return tuple(map(len, self.rows)), tuple(map(len, self.columns))

    def block(self, row: int, column: int) -> Block:
        """Return one block."""
        return Block(self.rows[row], self.columns[column], self.size, self.stride)

    def halo(self, source: Source, factor: int = 1) -> da.Array:
        """Return an array whose chunk (i, j) is what the windows of block (i, j) read of a source."""
        rows = [self.block(row, 0).read_rows.coarse(factor) for row in range(len(self.rows))]
        columns = [self.block(0, column).read_columns.coarse(factor) for column in range(len(self.columns))]
        return da.concatenate(
            [da.concatenate([_one_chunk(source.read(row, column)) for column in columns], axis=-1) for row in rows],
            axis=-2,
        )


def pieces(grid: Grid, rows: Span, columns: Span) -> tuple[Pieces, Pieces]:
    """Where a span of rows and columns stands in an array on a grid."""
    return (
        locate(rows, grid.row_offset, grid.rows, period=None),
        locate(columns, grid.column_offset, grid.columns, period=round(360 / grid.resolution)),
    )


def _spans(first: int, length: int, chunk: int) -> tuple[Span, ...]:
    starts = range(first, first + length, chunk)
    return tuple(Span(start, min(start + chunk, first + length)) for start in starts)


def _take(array: da.Array, where: Pieces, axis: int) -> da.Array:
    index: list[slice] = [slice(None)] * array.ndim
    parts = []
    for piece in where.slices:
        index[axis] = piece
        parts.append(array[tuple(index)])
    return parts[0] if len(parts) == 1 else da.concatenate(parts, axis=axis)


def _one_chunk(array: da.Array) -> da.Array:
    return array.rechunk({array.ndim - 2: -1, array.ndim - 1: -1})
