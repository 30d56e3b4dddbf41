"""The patches that exist: those of a schedule, and those of a user's own xbatcher generator."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from xland.errors import GridError
from xland.geo.grid import Grid
from xland.geo.orientation import Names, find_horizontal, orient

_BUCKET = 512
"""Most points in a bucket: fewer make more buckets to look through, more make longer ones."""


@dataclass(frozen=True)
class Patches:
    """Square patches of a fine grid: first row and column of each, ``(count,)``, and cells along a side."""

    rows: NDArray[np.intp]
    columns: NDArray[np.intp]
    size: int

    def __len__(self) -> int:
        """Return the number of patches."""
        return len(self.rows)

    def __getitem__(self, chosen: NDArray[np.intp] | NDArray[np.bool_]) -> Patches:
        """Return the chosen patches."""
        return Patches(self.rows[chosen], self.columns[chosen], self.size)

    def slices(self, index: int) -> tuple[slice, slice]:
        """Rows and columns of one patch."""
        row, column = int(self.rows[index]), int(self.columns[index])
        return slice(row, row + self.size), slice(column, column + self.size)


def make_patches(grid: Grid, size: int, stride: int, factor: int) -> Patches:
    """Cut a fine grid into patches of ``size`` cells that begin at coarse cells, ``stride`` cells apart.

    Where patches overlap, a last one touches the southern and eastern coarse cells, so that they cover the grid; where
    they do not, a rest smaller than a patch is left out.
    """
    touched = -(-size // factor)
    if size > min(grid.shape):
        raise GridError(f"a patch of {size} x {size} cells does not fit into {grid.rows} x {grid.columns} cells")
    rows = _starts(grid.rows // factor, touched, stride // factor)
    columns = _starts(grid.columns // factor, touched, stride // factor)
    row, column = np.meshgrid(rows * factor, columns * factor, indexing="ij")
    return Patches(row.ravel(), column.ravel(), size)


def count_in_patches(counts: NDArray[np.int64], patches: Patches, factor: int) -> NDArray[np.int64]:
    """Add up what coarse cells (rows, columns) hold in every patch, ``(patches,)``; cells count whole."""
    table = np.zeros((counts.shape[0] + 1, counts.shape[1] + 1), dtype=np.int64)
    np.cumsum(np.cumsum(counts, axis=0, dtype=np.int64), axis=1, out=table[1:, 1:])
    r0, c0 = patches.rows // factor, patches.columns // factor
    touched = -(-patches.size // factor)
    r1, c1 = r0 + touched, c0 + touched
    return table[r1, c1] - table[r0, c1] - table[r1, c0] + table[r0, c0]


def sphere_points(latitude: NDArray[np.float64], longitude: NDArray[np.float64]) -> NDArray[np.float64]:
    """Points on the unit sphere, shape ``(count, 3)``, for degrees of latitude and longitude."""
    phi, lam = np.deg2rad(latitude), np.deg2rad(longitude)
    return np.stack([np.cos(phi) * np.cos(lam), np.cos(phi) * np.sin(lam), np.sin(phi)], axis=-1)


def chunk_groups(patches: Patches, chunk: tuple[int, int]) -> NDArray[np.intp]:
    """Tell which patches begin in the same chunk.

    Parameters
    ----------
    patches : Patches
    chunk : (rows, columns)
        Cells of a chunk along each dimension.

    Returns
    -------
    (patches,) array of int
        Group of each patch, for :class:`~xland.training.data.sampling.Order`.
    """
    if min(chunk) < 1:
        raise GridError(f"chunks of {chunk[0]} x {chunk[1]} cells: at least 1 is needed in both directions")
    places = np.stack([patches.rows // chunk[0], patches.columns // chunk[1]])
    return np.unique(places, axis=1, return_inverse=True)[1].ravel()


def farthest_points(points: NDArray[np.float64], count: int, seed: int = 0) -> NDArray[np.intp]:
    """Choose points (n, dimensions) that lie as far from each other as possible; indices in the order of choice.

    Farthest point sampling (Gonzalez 1985, doi 10.1016/0304-3975(85)90224-5) from a random point on; of several, the
    first. Points are kept in buckets, and only those that a new point may reach are looked at (as in QuickFPS, Han et
    al. 2023, doi 10.1109/TCAD.2023.3274922). One core at 2.5 GHz chose 64,000 of 10^6 points on the sphere in 13 s.
    """
    chosen = np.empty(min(count, len(points)), dtype=np.intp)
    if not len(chosen):
        return chosen
    members = _halve(points)  # boxes of equal number, each with its point farthest from all that were taken
    placed = points[members % len(points)]
    low, high = placed.min(axis=1).T.copy(), placed.max(axis=1).T.copy()
    planes = np.ascontiguousarray(np.moveaxis(placed, 2, 0))
    place = members.ravel().argsort()
    # squared, to the nearest point taken; -1 for those that are taken themselves or fill up a bucket
    distance = np.where(members < len(points), np.inf, -1.0)
    top, leader = np.full(len(members), np.inf), members[:, 0].copy()
    candidate = int(np.random.default_rng(seed).integers(len(points)))
    for position in range(len(chosen)):
        chosen[position] = candidate
        distance.flat[place[candidate]] = -1.0
        point = points[candidate]
        gap = np.maximum(np.maximum(low - point[:, None], point[:, None] - high), 0.0)
        reached = np.flatnonzero((gap**2).sum(axis=0) * (1 - 1e-9) <= top)  # less a margin for rounding
        near = sum((plane[reached] - x) ** 2 for plane, x in zip(planes, point, strict=True))
        near = np.minimum(near, distance[reached])
        best = near.argmax(axis=1)
        distance[reached] = near
        top[reached] = near[np.arange(len(reached)), best]
        leader[reached] = members[reached, best]
        candidate = int(leader[top == top.max()].min())
    return chosen


def _halve(points: NDArray[np.float64]) -> NDArray[np.intp]:
    """Members of buckets of equal number, in ascending order; ``n`` and above stand for a second time."""
    total = len(points)
    buckets = 2 ** max(0, math.ceil(math.log2(total / _BUCKET)))
    members = np.arange(buckets * math.ceil(total / buckets))[None]
    while len(members) < buckets:
        placed = points[members % total]
        widest = np.ptp(placed, axis=1).argmax(axis=1)
        along = np.take_along_axis(placed, widest[:, None, None], axis=2)[..., 0]
        half = members.shape[1] // 2
        split = np.argpartition(along, half, axis=1)
        members = np.take_along_axis(members, split, axis=1).reshape(-1, half)
    return np.sort(members, axis=1)


def _starts(length: int, size: int, stride: int) -> NDArray[np.intp]:
    starts = list(range(0, length - size + 1, stride))
    if stride < size and starts[-1] + size < length:
        starts.append(length - size)
    return np.array(starts, dtype=np.intp)


_WHAT = "the generator's data"
_OFF = 1e-2  # share of a cell by which cells may be off the grid


def patches_from(generator: Any, grid: Grid, factor: int) -> Patches:
    """Return the patches of an xbatcher ``BatchGenerator`` over fields on the fine ``grid``, or a part of it.

    Each batch is one patch, whatever the names, order and range of latitude and longitude; other dimensions do not
    matter. No value is read. A GridError says which batches are not squares of cells of the grid that begin at coarse
    cells.
    """
    import xbatcher

    if not isinstance(generator, xbatcher.BatchGenerator):
        raise GridError(f"patches come from an xbatcher.BatchGenerator, not from {type(generator).__name__}")
    latitude, longitude = find_horizontal(generator.ds, what=_WHAT)
    places = dict(_lay_on(generator.ds, latitude, longitude, grid))
    corners, size = _corners(generator, places)
    outside = (corners < 0).any(axis=1)
    if outside.any():
        raise GridError(
            f"{outside.sum()} of {len(corners)} patches of the generator reach beyond the grid of the samples "
            f"({grid}) or cross its eastern edge; select the area that generator and grid have in common"
        )
    within = (corners % factor != 0).any(axis=1)
    if within.any():
        row, column = corners[within][0].tolist()
        raise GridError(
            f"{within.sum()} of {len(corners)} patches of the generator begin within a coarse cell, the first at row "
            f"{row} and column {column} from the north-west: input_dims less input_overlap must be a multiple of the "
            f"factor {factor}, and so must the place where its data begin"
        )
    return Patches(corners[:, 0], corners[:, 1], size)


def _lay_on(
    ds: xr.Dataset | xr.DataArray, latitude: Names, longitude: Names, grid: Grid
) -> Iterator[tuple[Hashable, NDArray[np.intp]]]:
    """Row of the grid for each of the caller's latitudes and column for each longitude, by dimension; -1 outside."""
    dims = {"row": latitude.dimension, "column": longitude.dimension}
    numbers = {name: (dim, np.arange(ds.sizes[dim])) for name, dim in dims.items()}
    labels = {str(each.coordinate): ds[each.coordinate].variable for each in (latitude, longitude)}
    oriented, orientation = orient(xr.Dataset(numbers, coords=labels), what=_WHAT)
    own = orientation.grid
    down, right = (grid.north - own.north) / grid.resolution, (own.west - grid.west) % 360 / grid.resolution
    longest = max(own.shape) * abs(own.resolution / grid.resolution - 1)
    if max(abs(down - round(down)), abs(right - round(right)), longest) > _OFF:
        raise GridError(
            f"{_WHAT} ({own}) are not on the grid of the samples ({grid}): make the generator of the target or of "
            "static predictors"
        )
    rows = np.arange(own.rows) + round(down)
    columns = (np.arange(own.columns) + round(right)) % round(360 / grid.resolution)
    for name, there, count in (("row", rows, grid.rows), ("column", columns, grid.columns)):
        found = np.empty(there.size, dtype=np.intp)
        found[oriented[name].values] = np.where((there >= 0) & (there < count), there, -1)
        yield dims[name], found


def _corners(generator: Any, places: dict[Hashable, NDArray[np.intp]]) -> tuple[NDArray[np.intp], int]:
    """First row and column of each patch, ``(patches, 2)``, -1 where a patch is not whole on the grid; and its size."""
    import xbatcher

    @cache
    def first(dim: Hashable, start: int, stop: int) -> int:
        there = np.sort(places[dim][start:stop])
        return int(there[0]) if (np.diff(there) == 1).all() else -1

    schema = xbatcher.BatchSchema(
        generator.ds, generator.input_dims, generator.input_overlap, generator.batch_dims, generator.concat_input_dims
    )
    corners: dict[tuple[int, ...], tuple[int, ...]] = {}
    sizes = set()
    for cuts in schema.selectors.values():
        if len(cuts) != 1:
            raise GridError(
                f"a batch of the generator is made of {len(cuts)} pieces: make it without concat_input_dims, so that "
                "each batch is one patch"
            )
        spans = [(dim, *cuts[0].get(dim, slice(None)).indices(cells.size)[:2]) for dim, cells in places.items()]
        sizes.add(tuple(stop - start for _, start, stop in spans))
        corners[tuple(start for _, start, _ in spans)] = tuple(first(*span) for span in spans)
    ((height, width), *more) = sorted(sizes)
    if more or height != width:
        raise GridError(
            f"batches of the generator are {height} x {width} cells: patches are squares; give latitude and longitude "
            "the same size in input_dims"
        )
    return np.array(list(corners.values()), dtype=np.intp), height
