"""Conservative regridding between regular grids: shares of cells are brought to other cells by the area they overlap.

Cells of regular grids overlap in rectangles, so that weights along latitude and longitude are enough: the share of a
row's area in another row, and of a column's width in another column.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from xland.errors import GridError, RegionError
from xland.geo.grid import LATTICE_TOLERANCE, Grid

_SLIVER = 1e-7  # degrees: overlaps that rounding makes
_ROUNDING = 1e-5  # share of a cell by which sums of float32 fractions may be off


def area_mean(values: NDArray[Any], source: Grid, target: Grid) -> NDArray[np.float64]:
    """Mean over each target cell by area; what a target cell has outside the source counts as 0. Longitude is a ring.

    `values` are (rows, columns) of the source.
    """
    rows, columns = _overlap(source, target)
    found: NDArray[np.float64] = (columns @ (rows @ values).T).T
    return found


@lru_cache(maxsize=16)
def _overlap(source: Grid, target: Grid) -> tuple[csr_array, csr_array]:
    """Share of the area of each target row in each source row, and of each target column in each source column."""
    rows = _weights(-source.edges[0], -target.edges[0], lambda edges: np.sin(np.deg2rad(edges)))
    west = source.edges[1]
    ring = np.concatenate([west[:-1] - 360, west[:-1], west + 360]) if source.is_global else west
    return rows, _weights(ring, target.edges[1], lambda edges: edges, source.columns)


def _weights(source: NDArray[np.float64], target: NDArray[np.float64], measure: Any, count: int = 0) -> csr_array:
    """Share of each target interval in each source interval, from ascending edges; sources count modulo `count`."""
    cuts = np.union1d(source, target)
    cuts = cuts[np.append(True, np.diff(cuts) > _SLIVER)]
    middle, length = (cuts[1:] + cuts[:-1]) / 2, np.diff(measure(cuts))
    of, on = (np.searchsorted(edges, middle) - 1 for edges in (source, target))
    inside = (of >= 0) & (of < source.size - 1) & (on >= 0) & (on < target.size - 1)
    of, on, length = of[inside], on[inside], length[inside]
    count = count or source.size - 1
    share = length / np.diff(measure(target))[on]
    return csr_array((share, (on, of % count)), shape=(target.size - 1, count))


def whole_cells(source: Grid, resolution: float) -> Grid:
    """Return the cells of the world's grid of a resolution that lie wholly within a grid.

    :class:`GridError` if the resolution does not divide 180 degrees; :class:`RegionError` if fewer than two by two
    cells lie in the grid.
    """
    world = Grid.world(resolution) if 1e-3 <= resolution <= 90 else None
    if world is None or abs(world.resolution / resolution - 1) > 1e-9:
        raise GridError(f"resolution={resolution!r}: cells must divide 180 degrees, as those of 0.25 or 0.5 degree do")
    if source.is_global and source.rows * source.resolution > 180 - LATTICE_TOLERANCE * resolution:
        return world
    step = world.resolution
    north, south = 90 - np.array([source.north, source.south])
    west, east = np.array([source.west, source.east]) + 180
    first = np.ceil(np.array([north, west]) / step - LATTICE_TOLERANCE).astype(int)
    last = np.floor(np.array([south, east]) / step + LATTICE_TOLERANCE).astype(int)
    if source.is_global:
        first[1], last[1] = 0, world.columns
    if (last - first < 2).any():
        raise RegionError(
            f"fewer than two by two cells of {step:g} degree lie in the grid ({source}): use a larger one"
        )
    return Grid(step, 90 - first[0] * step, first[1] * step - 180, *(last - first).tolist())


def distribute(
    shares: NDArray[Any], source: Grid, target: Grid, land: NDArray[Any] | None = None, *, of_land: bool = False
) -> NDArray[np.float64]:
    """Bring shares of the source's cells to the cells of the target; the area of each share is kept.

    Without `land`, each share lies evenly in its source cell. With it, the shares of a source cell lie on the land in
    it, in the proportions that they have there: if their sum is larger than the land, the rest lies evenly in the
    cell's other area; if it is smaller, all of the land holds as much less.

    Parameters
    ----------
    shares : (classes, rows, columns) array
        Shares of the source cells, all NaN where there is no data. Their sum is at most 1.
    source, target : Grid
    land : (rows, columns) array, optional
        Share of land in each target cell, 0 to 1.
    of_land : bool
        Whether shares are of the land of the cell, rather than of the cell. Land in cells without data is left out of
        the mean.

    Returns
    -------
    (classes, rows, columns) array of float64
        Shares of the target cells; NaN where none of the source cells has data.
    """
    known = ~np.isnan(shares[0])
    covered = area_mean(known.astype(np.float64), source, target)
    shares = np.where(known, shares, 0)

    def means(values: NDArray[Any]) -> NDArray[np.float64]:
        return np.stack([area_mean(each, source, target) for each in values])

    if land is None:
        placed = means(shares)
    elif of_land:
        placed = land * means(shares) / np.maximum(covered, _ROUNDING)
    else:
        total, there = shares.sum(axis=0, dtype=np.float64), land_within(land, source, target)
        more = (total > there + np.where(there > 0, _ROUNDING, 0)) & (there < 1 - _ROUNDING)
        on_land = 1 / np.maximum(np.where(more, total, there), 1e-30)
        beside = np.where(more, total - there, 0) / np.maximum(total * (1 - there), 1e-30)
        placed = land * means(shares * on_land) + (1 - land) * means(shares * beside)
    return np.where(covered > 0, placed, np.nan)


def land_within(land: NDArray[Any], source: Grid, target: Grid) -> NDArray[np.float64]:
    """Share of land in the part of each source cell that lies in the target, from that of the target's cells."""
    area = area_mean(np.ones(target.shape), target, source)
    return np.divide(area_mean(land, target, source), area, out=np.zeros(area.shape), where=area > 0)
