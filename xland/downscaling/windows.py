"""The lattice of overlapping windows, anchored to the globe, and the blocks into which a target grid is cut."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from numbers import Integral
from typing import NamedTuple

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

_BLOCK = 1800
"""Least cells along a default block of a large grid."""

TWICE = 0.15
"""Most windows that default blocks may compute more than once, as a share of all that are needed."""


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


def spans_of(grid: Grid) -> tuple[Span, Span]:
    """Rows and columns of a grid on the world's lattice."""
    top, left = grid.row_offset, grid.column_offset
    return Span(top, top + grid.rows), Span(left, left + grid.columns)


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
def gaussian(size: int) -> NDArray[np.float64]:
    """Weight of each pixel of a window, ``(size, size)``, largest in the middle, at least :data:`WEIGHT_FLOOR`."""
    position = np.arange(size, dtype=np.float64) - (size - 1) / 2
    line = np.exp(-0.5 * (position / (size * SIGMA_SHARE)) ** 2)
    return np.maximum(np.outer(line, line), WEIGHT_FLOOR).astype(np.float32).astype(np.float64)


@lru_cache(maxsize=8)
def blend_weights(size: int, stride: int) -> NDArray[np.float32]:
    """Weight of each pixel of a window, ``(size, size)``: those of all windows over a pixel sum to 1.

    The lattice is regular, so that sum depends on nothing but the pixel's place in the window.
    """
    weights = gaussian(size)
    share = -(-size // stride)
    padded = np.zeros((share * stride, share * stride))
    padded[:size, :size] = weights
    total = padded.reshape(share, stride, share, stride).sum(axis=(0, 2))
    weights = (weights / np.tile(total, (share, share))[:size, :size]).astype(np.float32)
    weights.flags.writeable = False
    return weights


class Pieces(NamedTuple):
    """Parts of an array that have the cells of a span, and how many cells lie before and after all of them."""

    slices: tuple[slice, ...]
    before: int
    after: int


def locate(span: Span, first: int, length: int, *, period: int | None) -> Pieces:
    """Find a span in an array that begins at lattice position ``first``.

    ``period`` is the number of cells round the globe where the axis is longitude: positions then count modulo it.
    """
    start, stop = span.start - first, span.stop - first
    if period is not None and length == period:
        slices = []
        while start < stop:
            offset = start % period
            end = min(offset + stop - start, period)
            slices.append(slice(offset, end))
            start += end - offset
        return Pieces(tuple(slices), 0, 0)
    if period is not None:
        # the copy of the array round the globe that has most of the span
        turns = max((-1, 0, 1), key=lambda n: min(stop + n * period, length) - max(start + n * period, 0))
        start, stop = start + turns * period, stop + turns * period
    low, high = min(max(start, 0), length), max(min(stop, length), 0)
    if low >= high:
        return Pieces((), stop - start, 0)
    return Pieces((slice(low, high),), low - start, stop - high)


def pieces(grid: Grid, rows: Span, columns: Span) -> tuple[Pieces, Pieces]:
    """Where a span of rows and columns is in an array on a grid."""
    return (
        locate(rows, grid.row_offset, grid.rows, period=None),
        locate(columns, grid.column_offset, grid.columns, period=round(360 / grid.resolution)),
    )


@dataclass(frozen=True)
class Placement:
    """Some cells of a span and where they are in an array on a grid."""

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
    """Where the cells of a span of rows and columns are in an array on a grid, as far as it has them.

    A span may meet both ends of an array that is almost global.
    """
    down, around_globe = pieces(grid, rows, columns)
    across = [around_globe]
    if not grid.is_global:
        around = round(360 / grid.resolution)
        turned = (Span(columns.start + turn, columns.stop + turn) for turn in (around, 0, -around))
        across = [locate(span, grid.column_offset, grid.columns, period=None) for span in turned]
    top = down.before
    for row in down.slices:
        for part in across:
            left = part.before
            for column in part.slices:
                target = slice(top, top + row.stop - row.start), slice(left, left + column.stop - column.start)
                yield Placement(target, (row, column))
                left = target[1].stop
        top += row.stop - row.start


def crop(array: da.Array, grid: Grid, target: Grid) -> da.Array:
    """Return the cells of a target grid, lazily; the last two axes of the array are rows and columns of ``grid``."""
    for axis, where in zip((-2, -1), pieces(grid, *spans_of(target)), strict=True):
        tail = (slice(None),) * (-axis - 1)
        parts = [array[(..., piece, *tail)] for piece in where.slices]
        array = parts[0] if len(parts) == 1 else da.concatenate(parts, axis=axis)
    return array


@dataclass(frozen=True)
class Block:
    """A block of the output and the cells that its windows read, all on the world's lattice."""

    rows: Span
    columns: Span
    size: int
    stride: int

    @cached_property
    def halo(self) -> tuple[Span, Span]:
        """Rows and columns that the windows read."""
        return halo(self.rows, self.size, self.stride), halo(self.columns, self.size, self.stride)

    @property
    def windows(self) -> tuple[list[int], list[int]]:
        """First rows and first columns of the windows, counted from the corner of the halo."""
        sides = zip((self.rows, self.columns), self.halo, strict=True)
        rows, columns = ((window_starts(own, self.size, self.stride) - wide.start).tolist() for own, wide in sides)
        return rows, columns

    @property
    def core(self) -> tuple[slice, slice]:
        """Rows and columns of the block within its halo."""
        rows, columns = (
            slice(own.start - wide.start, own.stop - wide.start)
            for own, wide in zip((self.rows, self.columns), self.halo, strict=True)
        )
        return rows, columns


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
        """Cut a grid into blocks of ``chunks`` cells, a multiple of the model's factor; else GridError.

        By default the blocks are even, at least 1800 cells wide where the grid is, and so large
        that no more than :data:`TWICE` of the windows are computed more than once.
        """
        if chunks is not None and (not isinstance(chunks, Integral) or chunks < 1 or chunks % inputs.factor):
            raise GridError(f"chunks must be a multiple of the model's factor {inputs.factor}, not {chunks!r}")
        strides = max(-(-_BLOCK // inputs.stride), 15)
        while True:
            most = strides * inputs.stride
            # the fewest blocks of at most so many cells, in whole strides
            sizes = [chunks or -(-n // -(-n // most) // inputs.stride) * inputs.stride for n in grid.shape]
            spans = [
                tuple(Span(start, min(start + size, whole.stop)) for start in range(whole.start, whole.stop, int(size)))
                for whole, size in zip(spans_of(grid), sizes, strict=True)
            ]
            layout = cls(grid, spans[0], spans[1], inputs.window, inputs.stride)
            if chunks is not None or most >= max(grid.shape) or layout.twice <= TWICE:
                return layout
            strides += 1

    @property
    def chunks(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Dask chunks of the last two axes."""
        return tuple(map(len, self.rows)), tuple(map(len, self.columns))

    @cached_property
    def halos(self) -> tuple[tuple[Span, ...], tuple[Span, ...]]:
        """Cells that the windows of each row and of each column of blocks read."""
        rows, columns = (tuple(halo(s, self.size, self.stride) for s in spans) for spans in (self.rows, self.columns))
        return rows, columns

    @property
    def windows(self) -> int:
        """Number of windows that touch the grid, each counted once, on land or not."""
        rows, columns = (len(window_starts(span, self.size, self.stride)) for span in spans_of(self.grid))
        return rows * (self.grid.columns // self.stride if self.grid.is_global else columns)

    @property
    def twice(self) -> float:
        """Windows that blocks compute again because a neighbour needs them too, as a share of all windows."""
        rows, columns = (
            sum(len(window_starts(span, self.size, self.stride)) for span in spans)
            for spans in (self.rows, self.columns)
        )
        return rows * columns / self.windows - 1

    def block(self, row: int, column: int) -> Block:
        """Return one block."""
        return Block(self.rows[row], self.columns[column], self.size, self.stride)
