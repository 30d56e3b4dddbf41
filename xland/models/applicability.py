"""Where a model may be used: coarse cells that had data in its training, and inputs like those that it learned from.

A :class:`StaticSample` tells whether static predictors are those of the training. Other inputs are compared by the
dissimilarity index of Meyer and Pebesma (2021), doi 10.1111/2041-210X.13650: the distance to the nearest training
input, divided by the mean distance of training inputs. What lies farther than the inputs of one place usually lie from
those of all other places is outside the area of applicability: the scores of a model say nothing about it.
"""

from __future__ import annotations

import base64
import math
import zlib
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray

from xland.errors import CheckpointError, ModelError
from xland.geo.grid import Grid, lay
from xland.records import Limits, check_entries

_AT_ONCE = 4096  # inputs whose distances to all prototypes are in memory at once


def _packed(content: bytes) -> str:
    return base64.b64encode(zlib.compress(content, 9)).decode("ascii")


def _unpacked(text: str, size: int) -> bytes:
    """Return what was packed; of a damaged card no more than one byte too many, which could fill the memory."""
    content = zlib.decompressobj().decompress(base64.b64decode(text, validate=True), size + 1)
    if len(content) != size:
        raise ValueError(f"{len(content)} bytes, expected {size}")
    return content


@dataclass(frozen=True)
class Coverage:
    """Coarse cells with data, as a card holds them: a grid, and its cells as packed, compressed bits in text.

    A cell that had data in the training and has none now is a gap in the forcing.
    """

    resolution: Annotated[float, Limits(1e-3, 90)]
    north: Annotated[float, Limits(-90, 90.001)]
    west: Annotated[float, Limits(-360, 360)]
    rows: Annotated[int, Limits(1, 2**13)]
    columns: Annotated[int, Limits(1, 2**14)]
    cells: str

    def __post_init__(self) -> None:
        check_entries(self, CheckpointError)
        try:
            self.mask  # noqa: B018 - reading it is the check
        except (ValueError, zlib.error) as error:
            raise CheckpointError(f"the coverage in the model card is damaged: {error}") from error

    @classmethod
    def of(cls, grid: Grid, mask: NDArray[np.bool_]) -> Coverage:
        """Return the coverage of the cells of a grid, ``(rows, columns)``, that are True."""
        cells = _packed(np.packbits(mask).tobytes())
        return cls(grid.resolution, grid.north, grid.west, grid.rows, grid.columns, cells)

    @property
    def grid(self) -> Grid:
        """The coarse grid."""
        return Grid(self.resolution, self.north, self.west, self.rows, self.columns)

    @property
    def mask(self) -> NDArray[np.bool_]:
        """Which cells have data, ``(rows, columns)``."""
        bits = _unpacked(self.cells, -(-self.rows * self.columns // 8))
        cells = np.unpackbits(np.frombuffer(bits, dtype=np.uint8), count=self.rows * self.columns)
        return cells.reshape(self.grid.shape).astype(np.bool_)

    def on(self, grid: Grid) -> NDArray[np.bool_]:
        """Return the cells on another part of the same lattice, ``(rows, columns)``; False where nothing is known."""
        return lay(self.mask, self.grid, grid, False)


@dataclass(frozen=True)
class StaticSample:
    """Static channels of the training at regular places of the world's fine grid; NaN where none was learned."""

    name: Annotated[str, Limits(most=1000)]
    top: Annotated[int, Limits(0, 2**24)]
    left: Annotated[int, Limits(-(2**24), 2**24)]
    step: Annotated[int, Limits(1, 2**24)]
    rows: Annotated[int, Limits(1, 2**14)]
    columns: Annotated[int, Limits(1, 2**14)]
    channels: Annotated[int, Limits(1, 500)]
    text: str

    def __post_init__(self) -> None:
        check_entries(self, CheckpointError)
        try:
            self.values  # noqa: B018 - reading it is the check
        except (ValueError, zlib.error) as error:
            raise CheckpointError(f"the static predictors in the model card are damaged: {error}") from error

    @classmethod
    def of(cls, name: str, values: NDArray[np.floating[Any]], top: int, left: int, step: int) -> StaticSample:
        """Return the sample of values at places, ``(rows, columns, channels)``."""
        rows, columns, channels = values.shape
        return cls(name, top, left, step, rows, columns, channels, _packed(values.astype("<f2").tobytes()))

    @property
    def values(self) -> NDArray[np.float16]:
        """The values, ``(rows, columns, channels)``."""
        shape = self.rows, self.columns, self.channels
        return np.frombuffer(_unpacked(self.text, 2 * math.prod(shape)), "<f2").reshape(shape)

    def differing(
        self, fields: NDArray[np.floating[Any]], land: NDArray[np.bool_], row: int, column: int, around: int
    ) -> NDArray[np.bool_]:
        """Return which values differ at the places on land within a span of fine cells, ``(places, channels)``.

        ``fields`` (channels, rows, columns) are normalised, and begin at a row and column of the world's lattice.
        """
        down = self.top + self.step * np.arange(self.rows) - row
        across = (self.left + self.step * np.arange(self.columns) - column) % around
        inside = np.ix_((down >= 0) & (down < land.shape[0]), across < land.shape[1])
        at = np.ix_(down[inside[0].ravel()], across[inside[1].ravel()])
        known, found = self.values[inside][land[at]], fields[:, *at].transpose(1, 2, 0)[land[at]]
        known, found = known[~np.isnan(known).any(axis=1)], found[~np.isnan(known).any(axis=1)]
        different: NDArray[np.bool_] = ~np.isclose(found, known, rtol=0.01, atol=0.02)
        return different


@dataclass(frozen=True, eq=False)
class Applicability:
    """Training inputs of single coarse cells that stand for all of them.

    Parameters
    ----------
    prototypes : (prototypes, channels) float32 array
        Normalised coarse channels and means of the static channels.
    typical : float
        Mean distance of two training inputs.
    threshold : float
        Largest dissimilarity within the area of applicability: what training inputs have, outliers
        aside, to those of other cells of the split.
    """

    prototypes: NDArray[np.float32]
    typical: float
    threshold: float

    def distance(self, coarse: NDArray[np.floating[Any]], static: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
        """Return the dissimilarity index of coarse cells, ``(rows, columns)`` float32.

        ``coarse`` and ``static`` are normalised channels, ``(channels, rows, columns)``, of
        :meth:`xland.models.inputs.InputSpec.coarse_array` and :func:`static_means`. The index is 0 for an input that
        stands for those learned from, about 1 for one as far off as training inputs are from each other, and NaN where
        an input is NaN, which is where there is no land.
        """
        features = cell_features(coarse, static)
        learned, given = self.prototypes.shape[1], features.shape[1]
        if given != learned:
            raise ModelError(f"the model has learned from {learned} coarse and static channels, not {given}")
        result = np.full(len(features), np.nan, dtype=np.float32)
        known = np.flatnonzero(np.isfinite(features).all(axis=1))
        there = self.prototypes.astype(np.float64)
        for start in range(0, len(known), _AT_ONCE):
            part = known[start : start + _AT_ONCE]
            here = features[part].astype(np.float64)
            squared = (here**2).sum(axis=1)[:, None] - 2 * here @ there.T + (there**2).sum(axis=1)
            result[part] = np.sqrt(np.maximum(squared.min(axis=1), 0)) / self.typical
        return result.reshape(coarse.shape[1:])


def static_means(static: NDArray[np.floating[Any]], land: NDArray[np.bool_], factor: int) -> NDArray[np.float32]:
    """Mean of static channels, ``(channels, rows, columns)``, over the land of each coarse cell; NaN without land."""
    channels, rows, columns = static.shape
    blocks = (rows // factor, factor, columns // factor, factor)
    count = land.reshape(blocks).sum(axis=(1, 3))
    means = np.full((channels, *count.shape), np.nan, dtype=np.float32)
    for mean, layer in zip(means, static, strict=True):
        total = np.where(land, layer, 0).astype(np.float32).reshape(blocks).sum(axis=(1, 3))
        np.divide(total, count, out=mean, where=count > 0)
    return means


def cell_features(coarse: NDArray[np.floating[Any]], static: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
    """One row a coarse cell, ``(cells, coarse and static channels)``."""
    stacked = np.concatenate([coarse, static]).astype(np.float32, copy=False)
    return np.ascontiguousarray(stacked.reshape(len(stacked), -1).T)
