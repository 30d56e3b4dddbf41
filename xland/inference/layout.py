"""How a target grid is cut into blocks, and where a block's cells stand in arrays on other grids."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from numbers import Integral

import dask.array as da

from xland.errors import GridError
from xland.grid import Grid
from xland.inference.windows import Pieces, Span, halo, locate, window_starts
from xland.inputs import InputSpec

_BLOCK = 1800
"""Least cells along a default block of a large grid."""

TWICE = 0.15
"""Most windows that default blocks may compute more than once, as a share of all that are needed."""


@dataclass(frozen=True)
class Block:
    """A block of the output and the cells that its windows read, all on the world's lattice."""

    rows: Span
    columns: Span
    size: int
    stride: int

    @property
    def read_rows(self) -> Span:
        """Rows of the halo."""
        return halo(self.rows, self.size, self.stride)

    @property
    def read_columns(self) -> Span:
        """Columns of the halo."""
        return halo(self.columns, self.size, self.stride)

    @property
    def window_rows(self) -> list[int]:
        """First rows of the windows, counted from the corner of the halo."""
        return [int(r) for r in window_starts(self.rows, self.size, self.stride) - self.read_rows.start]

    @property
    def window_columns(self) -> list[int]:
        """First columns of the windows, counted from the corner of the halo."""
        return [int(c) for c in window_starts(self.columns, self.size, self.stride) - self.read_columns.start]

    @property
    def core(self) -> tuple[slice, slice]:
        """Rows and columns of the block within its halo."""
        row = self.rows.start - self.read_rows.start
        column = self.columns.start - self.read_columns.start
        return slice(row, row + len(self.rows)), slice(column, column + len(self.columns))


@dataclass(frozen=True)
class Layout:
    """How the target grid is cut into blocks."""

    grid: Grid
    rows: tuple[Span, ...]
    columns: tuple[Span, ...]
    size: int
    stride: int

    @classmethod
    def cut(cls, grid: Grid, inputs: InputSpec, chunks: int | None = None) -> Layout:
        """Cut a grid into blocks of ``chunks`` cells.

        By default the blocks are even, at least 1800 cells wide where the grid is, and so large
        that no more than :data:`TWICE` of the windows are computed more than once.

        Raises
        ------
        GridError
            If ``chunks`` is not a multiple of the model's factor.
        """
        if chunks is not None:
            if not isinstance(chunks, Integral) or chunks < 1 or chunks % inputs.factor:
                raise GridError(f"chunks must be a multiple of the model's factor {inputs.factor}, not {chunks!r}")
            return cls._of(grid, inputs, int(chunks), int(chunks))
        strides = max(-(-_BLOCK // inputs.stride), 15)
        while True:
            most = strides * inputs.stride
            layout = cls._of(grid, inputs, _even(grid.rows, most, inputs), _even(grid.columns, most, inputs))
            if layout.twice <= TWICE or most >= max(grid.shape):
                return layout
            strides += 1

    @classmethod
    def _of(cls, grid: Grid, inputs: InputSpec, height: int, width: int) -> Layout:
        rows, columns = _spans(grid.row_offset, grid.rows, height), _spans(grid.column_offset, grid.columns, width)
        return cls(grid, rows, columns, inputs.window, inputs.stride)

    @property
    def chunks(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Dask chunks of the last two axes."""
        return tuple(map(len, self.rows)), tuple(map(len, self.columns))

    @cached_property
    def halos(self) -> tuple[tuple[Span, ...], tuple[Span, ...]]:
        """Cells that the windows of each row and of each column of blocks read."""
        return tuple(tuple(halo(span, self.size, self.stride) for span in spans) for spans in (self.rows, self.columns))  # type: ignore[return-value]

    @property
    def windows(self) -> int:
        """Number of windows that touch the grid, each counted once, on land or not."""
        whole = Span(self.grid.column_offset, self.grid.column_offset + self.grid.columns)
        columns = self.grid.columns // self.stride if self.grid.is_global else self._count(whole)
        return self._count(Span(self.grid.row_offset, self.grid.row_offset + self.grid.rows)) * columns

    @property
    def twice(self) -> float:
        """Windows that blocks compute again because a neighbour needs them, too, as a share of all windows."""
        computed = sum(map(self._count, self.rows)) * sum(map(self._count, self.columns))
        return computed / self.windows - 1

    def _count(self, span: Span) -> int:
        return len(window_starts(span, self.size, self.stride))

    def block(self, row: int, column: int) -> Block:
        """Return one block."""
        return Block(self.rows[row], self.columns[column], self.size, self.stride)


@dataclass(frozen=True)
class Placement:
    """Some cells of a span and where they stand in an array on a grid."""

    target: tuple[slice, slice]
    source: tuple[slice, slice]

    def strips(self, height: int) -> Iterator[Placement]:
        """Cut it into strips that end at multiples of ``height`` rows of the array."""
        (target, columns), (source, source_columns) = self.target, self.source
        shift = target.start - source.start
        for start in range(source.start // height * height, source.stop, height):
            rows = slice(max(start, source.start), min(start + height, source.stop))
            yield Placement((slice(rows.start + shift, rows.stop + shift), columns), (rows, source_columns))


def placements(grid: Grid, rows: Span, columns: Span) -> Iterator[Placement]:
    """Where the cells of a span of rows and columns stand in an array on a grid, as far as it has them.

    A span may meet both ends of an array that is almost global.
    """
    around = round(360 / grid.resolution)
    down = locate(rows, grid.row_offset, grid.rows, period=None)
    across = [locate(columns, grid.column_offset, grid.columns, period=around)]
    if not grid.is_global:
        turned = (Span(columns.start + turn, columns.stop + turn) for turn in (around, 0, -around))
        across = [locate(span, grid.column_offset, grid.columns, period=None) for span in turned]
    for row, source_rows in _with_target(down):
        for part in across:
            for column, source_columns in _with_target(part):
                yield Placement((row, column), (source_rows, source_columns))


def pieces(grid: Grid, rows: Span, columns: Span) -> tuple[Pieces, Pieces]:
    """Where a span of rows and columns stands in an array on a grid."""
    return (
        locate(rows, grid.row_offset, grid.rows, period=None),
        locate(columns, grid.column_offset, grid.columns, period=round(360 / grid.resolution)),
    )


def crop(array: da.Array, grid: Grid, rows: Span, columns: Span) -> da.Array:
    """Return the cells of a span that an array has, lazily; its last two axes lie on the grid."""
    row_pieces, column_pieces = pieces(grid, rows, columns)
    return _take(_take(array, row_pieces, -2), column_pieces, -1)


def _with_target(where: Pieces) -> Iterator[tuple[slice, slice]]:
    at = where.before
    for piece in where.slices:
        yield slice(at, at + piece.stop - piece.start), piece
        at += piece.stop - piece.start


def _even(length: int, most: int, inputs: InputSpec) -> int:
    """Size of the fewest blocks of at most ``most`` cells, in whole strides."""
    return -(-length // -(-length // most) // inputs.stride) * inputs.stride


def _spans(first: int, length: int, chunk: int) -> tuple[Span, ...]:
    starts = range(first, first + length, chunk)
    return tuple(Span(start, min(start + chunk, first + length)) for start in starts)


def _take(array: da.Array, where: Pieces, axis: int) -> da.Array:
    if len(where.slices) == 1 and where.slices[0] == slice(0, array.shape[axis]):
        return array
    index: list[slice] = [slice(None)] * array.ndim
    parts = []
    for piece in where.slices:
        index[axis] = piece
        parts.append(array[tuple(index)])
    return parts[0] if len(parts) == 1 else da.concatenate(parts, axis=axis)
