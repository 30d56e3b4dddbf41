"""Area of each code of a map in the cells of another grid: conservative, with weights that are computed once."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from xland.coupling.clipping import add_up, clip
from xland.coupling.grids import CellGrid
from xland.coupling.kept import made_once
from xland.errors import GridError
from xland.geo.grid import Grid

_VERSION = 1  # to be raised with every change of how weights are computed
_ROOM = 2**22  # overlaps of the cells that are clipped at a time
_AT_ONCE = 2**12  # cells
_WHOLE = 1 - 1e-6  # share of a pixel from which on it lies in one cell
_TWICE = 1e-3  # share of a pixel that may lie in several cells: corners in files are rounded


@dataclass(frozen=True)
class Weights:
    """Where the pixels of a map lie among the cells of a grid.

    `whole` (pixels) is the cell that has all of a pixel, -1 if none has; `pixels`, `cells` and `shares` are all others.
    """

    count: int
    whole: NDArray[np.int32]
    pixels: NDArray[np.int32]
    cells: NDArray[np.int32]
    shares: NDArray[np.float32]

    @property
    def nbytes(self) -> int:
        """Bytes in memory."""
        return self.whole.nbytes + self.pixels.nbytes + self.cells.nbytes + self.shares.nbytes

    def areas(self, codes: NDArray[np.uint8], area: NDArray[np.float64], number: int) -> NDArray[np.float64]:
        """Area of each code in each cell, (cells, codes), for pixels whose area in each row is `area`."""
        total = np.zeros((self.count, number))
        add_up(np.ascontiguousarray(codes), self.whole, self.pixels, self.cells, self.shares, area, total)
        return total

    def covered(self) -> NDArray[np.float64]:
        """Share of each pixel that lies in any cell."""
        total = (self.whole >= 0).astype(np.float64)
        return total + np.bincount(self.pixels, self.shares, minlength=total.size)


def weights_of(grid: CellGrid, source: Grid, folder: Path | None = None) -> Weights:
    """Return the weights from a map on `source` to a grid; from the folder, if they are there.

    Raises
    ------
    GridError
        If cells overlap each other or themselves.
    """
    name = hashlib.sha256(f"{_VERSION} {grid.key} {source!r}".encode()).hexdigest()[:32]
    path = None if folder is None else folder / f"weights-{name}.safetensors"
    return Weights(grid.count, **made_once(path, lambda: _compute(grid, source)))


def residual(
    areas: NDArray[np.float64], codes: NDArray[np.uint8], weights: Weights, area: NDArray[np.float64]
) -> float:
    """Largest relative difference between the area of a code on the cells and on the part of the map they cover."""
    weight = weights.covered().reshape(codes.shape) * area[:, None]
    there = np.bincount(codes.ravel(), weight.ravel(), minlength=areas.shape[1])
    found = areas.sum(axis=0)
    return float(np.max(np.abs(found - there) / np.where(there > 0, there, 1), initial=0.0))


def _compute(grid: CellGrid, source: Grid) -> dict[str, NDArray[np.int32] | NDArray[np.float32]]:
    around = round(360 / source.resolution)
    whole = np.full(source.rows * source.columns, -1, dtype=np.int32)
    shared, twice = [], 0
    north, west, step = np.deg2rad([source.north, source.west, source.resolution]).tolist()
    for first, (lon, lat) in _parts(grid):
        room = _ROOM
        while True:
            pixels, cells = np.empty((2, room), dtype=np.int32)
            shares = np.empty(room, dtype=np.float32)
            found, wrong = clip(
                np.deg2rad(lon), np.deg2rad(lat), grid.parallels, north, west, step, source.rows, source.columns,
                around, pixels, cells, shares,
            )  # fmt: skip
            if found != -2:
                break
            room *= 4
        if wrong >= 0:
            centre = lon[wrong].mean(), lat[wrong].mean()
            raise GridError(
                f"cell {first + wrong} of the grid, near {centre[1]:.4g} N, {centre[0]:.4g} E, crosses itself: give "
                "its corners in order round it"
            )
        pixels, cells, shares = pixels[:found], cells[:found] + np.int32(first), shares[:found]
        full = shares >= _WHOLE
        twice += int((whole[pixels[full]] >= 0).sum())
        whole[pixels[full]] = cells[full]
        twice += int((whole[pixels[full]] != cells[full]).sum())  # of two cells of this part, the last one stays
        shared.append((pixels[~full].copy(), cells[~full].copy(), shares[~full].copy()))
    pixels, cells, shares = (np.concatenate(each) for each in zip(*shared, strict=True))
    weights = Weights(grid.count, whole, pixels, cells, shares)
    twice += int((weights.covered() > 1 + _TWICE).sum())
    if twice:
        raise GridError(
            f"cells of the grid overlap each other: {twice} pixels of {source.resolution:g} degree lie in more than "
            "one; areas would count twice. Leave out cells that are there twice"
        )
    return {"whole": whole, "pixels": pixels, "cells": cells, "shares": shares}


def _parts(grid: CellGrid) -> Iterator[tuple[int, tuple[NDArray[np.float64], NDArray[np.float64]]]]:
    starts = [*range(0, grid.count, _AT_ONCE), grid.count]
    for first, stop in itertools.pairwise(starts):
        yield first, grid.corners(first, stop)
