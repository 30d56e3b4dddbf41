"""The lattice of overlapping windows, anchored to the world and not to anyone's chunks.

Rows are counted from 90 N and columns from 180 W in fine cells; windows begin at the multiples of
the stride. Whatever block is asked for, a pixel is therefore always blended from the same windows.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

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
