"""The lattice of overlapping windows, anchored to the globe, and the blocks into which a target grid is cut."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from numbers import Integral

import dask.array as da
import numpy as np
from numpy.typing import NDArray

from xland.errors import GridError
from xland.geo.grid import Grid
from xland.models.inputs import InputSpec

SIGMA_SHARE = 1 / 8
"""Standard deviation of the Gaussian weight as a share of the window (nnU-Net, MONAI)."""


WEIGHT_FLOOR = 1e-3
"""Least weight of a pixel of a window beside its middle's 1, as in MONAI's sliding windows."""


@dataclass(frozen=True)
class Span:
    """Cells ``start .. stop - 1`` along one axis of the world's lattice; may reach over its edge."""

    start: int
    stop: int

    def __len__(self) -> int:
        """Return the number of cells."""
        return self.stop - self.start

    def coarse(self, factor: int) -> Span:
        """Return the same cells counted in coarse cells."""
        return Span(self.start // factor, -(-self.stop // factor))


def window_starts(block: Span, size: int, stride: int) -> NDArray[np.intp]:
    """First cells of all windows that touch a block, along one axis."""
    first = (block.start - size) // stride + 1
    last = -(-block.stop // stride) - 1
    return np.arange(first, last + 1, dtype=np.intp) * stride


def halo(block: Span, size: int, stride: int) -> Span:
    """Return the cells that the windows of a block read."""
    starts = window_starts(block, size, stride)
    return Span(int(starts[0]), int(starts[-1]) + size)


@lru_cache(maxsize=8)
def gaussian(size: int) -> NDArray[np.float32]:
    """Weight of each pixel of a window, ``(size, size)``, largest in the middle, at least :data:`WEIGHT_FLOOR`."""
    position = np.arange(size, dtype=np.float64) - (size - 1) / 2
    line = np.exp(-0.5 * (position / (size * SIGMA_SHARE)) ** 2)
    weights = np.maximum(np.outer(line, line), WEIGHT_FLOOR).astype(np.float32)
    weights.flags.writeable = False
    return weights


@lru_cache(maxsize=8)
def blend_weights(size: int, stride: int) -> NDArray[np.float32]:
    """Weight of each pixel of a window so that those of all windows over a pixel sum to 1.

    The lattice is regular, so that sum depends on nothing but the pixel's place in the window.

    Returns
    -------
    (size, size) array of float32
    """
    weights = gaussian(size).astype(np.float64)
    cells = -(-size // stride) * stride
    padded = np.zeros((cells, cells))
    padded[:size, :size] = weights
    share = cells // stride
    total = padded.reshape(share, stride, share, stride).sum(axis=(0, 2))
    weights = (weights / np.tile(total, (share, share))[:size, :size]).astype(np.float32)
    weights.flags.writeable = False
    return weights


@dataclass(frozen=True)
class Pieces:
    """Where the cells of a span stand in an array, and how many lie outside of it.

    Parameters
    ----------
    slices : tuple of slice
        Parts of the array, to be joined in this order.
    before, after : int
        Cells of the span before the first and after the last part: not in the array.
    """

    slices: tuple[slice, ...]
    before: int
    after: int


def locate(span: Span, first: int, length: int, *, period: int | None) -> Pieces:
    """Find a span in an array that begins at lattice position ``first``.

    Parameters
    ----------
    span : Span
    first, length : int
        Lattice position of the array's first cell, and its number of cells.
    period : int or None
        Cells round the globe where the axis is longitude; positions then count modulo it.
    """
    if period is not None and length == period:
        return Pieces(_wrapped(span.start - first, span.stop - first, period), 0, 0)
    start, stop = span.start - first, span.stop - first
    if period is not None:
        # the copy of the array round the globe that holds most of the span
        turns = max((-1, 0, 1), key=lambda n: min(stop + n * period, length) - max(start + n * period, 0))
        start, stop = start + turns * period, stop + turns * period
    low, high = min(max(start, 0), length), max(min(stop, length), 0)
    if low >= high:
        return Pieces((), stop - start, 0)
    return Pieces((slice(low, high),), low - start, stop - high)


def _wrapped(start: int, stop: int, period: int) -> tuple[slice, ...]:
    slices = []
    while start < stop:
        offset = start % period
        end = min(offset + stop - start, period)
        slices.append(slice(offset, end))
        start += end - offset
    return tuple(slices)


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
