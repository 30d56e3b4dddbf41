"""Static predictors from maps of the land surface: terrain, soil, land, climate zones and coast.

Pure functions on plain arrays; a :class:`~xland.geo.grid.Grid` gives the geometry. Rows run from north
to south and columns from west to east. A grid that goes all the way round wraps in longitude, and
where it ends at a pole the row beyond the pole is the same row half-way round the globe.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from xland.errors import GridError, StaticError
from xland.geo.grid import EARTH_RADIUS, Grid

ROOT_DECAY = 0.97
"""Root profile of the world's vegetation as a whole: 1 - 0.97**d of the roots lie above d
centimetres (Jackson et al. 1996, doi 10.1007/BF00333714, whose biomes range from 0.91 for tundra
to 0.98 for deserts)."""


_TILE = 64  # rows worked on at a time in the search for the coast, so that they stay in the processor's cache


def slope_aspect(elevation: ArrayLike, grid: Grid) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Slope and aspect of the land surface by Horn's 3 x 3 differences, in true metres.

    Every row is differenced with its own east-west cell width, which shrinks with the cosine of
    latitude. Neighbours across the date line and across a pole are used where the grid has them;
    at the other edges the surface is continued linearly.

    Parameters
    ----------
    elevation : (rows, columns) array
        Metres.
    grid : Grid
        Geometry of the array.

    Returns
    -------
    slope : (rows, columns) array of float64
        Rise over run (tangent of the slope angle), dimensionless.
    aspect : (rows, columns) array of float64
        Direction that the surface faces (downhill), degrees clockwise from north, 0 <= aspect < 360;
        NaN where the surface is flat.

    Raises
    ------
    GridError
        If the array has another shape than the grid.

    References
    ----------
    Horn (1981), Hill shading and the reflectance map, doi 10.1109/PROC.1981.11918.
    """
    values = _on_grid(elevation, grid, "elevation")
    padded = pad(values, grid, 1, edge="extend")
    metres = EARTH_RADIUS * math.radians(grid.resolution)
    centres = grid.north - (np.arange(-1, grid.rows + 1) + 0.5) * grid.resolution
    # beyond a pole the cosine is negative, as it must be: there, east points the other way
    eastward = (padded[:, 2:] - padded[:, :-2]) / (2 * metres * np.cos(np.deg2rad(centres)))[:, None]
    east = (eastward[:-2] + 2 * eastward[1:-1] + eastward[2:]) / 4
    northward = (padded[:-2] - padded[2:]) / (2 * metres)
    north = (northward[:, :-2] + 2 * northward[:, 1:-1] + northward[:, 2:]) / 4
    slope = np.hypot(east, north)
    aspect = np.rad2deg(np.arctan2(-east, -north)) % 360.0
    return slope, np.where(slope > 0, aspect, np.nan)


def cos_aspect(slope: ArrayLike, aspect: ArrayLike) -> NDArray[np.float64]:
    """Cosine of aspect: 1 faces north, -1 faces south, and flat ground is 0.

    Parameters
    ----------
    slope : array
        Rise over run; tells flat ground (0) from unknown ground (NaN, which stays NaN).
    aspect : array, same shape
        Degrees clockwise from north.

    Returns
    -------
    array of float64, same shape
    """
    slope = np.asarray(slope, dtype=np.float64)
    return np.where(slope == 0, 0.0, np.cos(np.deg2rad(np.asarray(aspect, dtype=np.float64))))


def ruggedness(elevation: ArrayLike, grid: Grid, radius: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Ruggedness and relative elevation in a square of ``2 radius + 1`` cells around every cell.

    Parameters
    ----------
    elevation : (rows, columns) array
        Metres, without NaN.
    grid : Grid
        Geometry of the array.
    radius : int
        Cells on either side, at least 1. The square is one of cells, so its east-west extent shrinks
        with the cosine of latitude.

    Returns
    -------
    ruggedness : (rows, columns) array of float64
        Standard deviation of elevation in the square, metres.
    relative : (rows, columns) array of float64
        Elevation above the mean of the square, metres: valleys are negative.

    Raises
    ------
    GridError
        If the array has another shape than the grid, or the square does not fit on it.
    """
    values = _on_grid(elevation, grid, "elevation")
    if radius < 1 or radius >= min(grid.shape):
        raise GridError(f"a square of radius {radius} cells does not fit on a grid of {grid.rows} x {grid.columns}")
    # about the mean of the whole array, else the difference of large squares loses its digits
    padded = pad(values - values.mean(), grid, radius, edge="mirror")
    mean = _square_mean(padded, radius)
    variance = _square_mean(padded * padded, radius) - mean * mean
    return np.sqrt(np.maximum(variance, 0.0)), padded[radius:-radius, radius:-radius] - mean


def root_weights(tops: ArrayLike, bottoms: ArrayLike, decay: float = ROOT_DECAY) -> NDArray[np.float64]:
    """Weights of soil layers by the share of roots that they hold.

    The share of roots above depth ``d`` (in centimetres) is ``1 - decay**d``; a layer's weight is
    the difference between its bottom and its top, and the weights of all layers sum to 1. With the
    default and the six layers of SoilGrids (0, 5, 15, 30, 60, 100, 200 cm) they are 0.14, 0.23,
    0.23, 0.24, 0.11 and 0.05.

    Parameters
    ----------
    tops, bottoms : (depth,) arrays
        Depth of the upper and lower bounds, metres below the surface, positive.
    decay : float
        Between 0 and 1; see :data:`ROOT_DECAY` for the source of the default.

    Returns
    -------
    (depth,) array of float64

    Raises
    ------
    StaticError
        If a layer has no thickness, or layers overlap.
    """
    top = np.asarray(tops, dtype=np.float64)
    bottom = np.asarray(bottoms, dtype=np.float64)
    if top.ndim != 1 or top.shape != bottom.shape or not top.size:
        raise StaticError(f"soil layers need one top and one bottom each, not {top.shape} and {bottom.shape}")
    if not (np.isfinite(top).all() and np.isfinite(bottom).all()) or (top < 0).any() or (bottom <= top).any():
        raise StaticError("every soil layer needs a bottom below its top, in metres below the surface, positive down")
    order = np.argsort(top)
    overlap = bottom[order][:-1] - top[order][1:] > 1e-9
    if overlap.any():
        worst = float(bottom[order][:-1][overlap][0])
        raise StaticError(f"soil layers overlap above {worst:g} m: give layers that follow one another")
    if not 0 < decay < 1:
        raise StaticError(f"the decay of the root profile must lie between 0 and 1, not {decay!r}")
    shares = decay ** (100 * top) - decay ** (100 * bottom)
    return np.asarray(shares / shares.sum())


def depth_weighted(
    soil: ArrayLike, tops: ArrayLike, bottoms: ArrayLike, decay: float = ROOT_DECAY
) -> NDArray[np.float64]:
    """Mean of a soil property over depth, weighted by the roots in each layer.

    Parameters
    ----------
    soil : (depth, rows, columns) array
        For example clay, sand or organic matter; any unit. NaN is no data.
    tops, bottoms : (depth,) arrays
        Bounds of the layers, metres below the surface.
    decay : float
        See :func:`root_weights`.

    Returns
    -------
    (rows, columns) array of float64
        Unit of the input. Where some layers have no data the others share their weight (shallow soil
        over rock); NaN where none has data.

    Raises
    ------
    StaticError
        If layers and bounds do not fit each other.
    """
    layers = np.asarray(soil, dtype=np.float64)
    weights = root_weights(tops, bottoms, decay)
    if layers.ndim != 3 or layers.shape[0] != weights.size:
        raise StaticError(
            f"soil of shape {layers.shape} does not fit {weights.size} layer bounds: it needs (depth, rows, columns)"
        )
    known = np.isfinite(layers)
    total = np.tensordot(weights, known.astype(np.float64), axes=1)
    summed = np.tensordot(weights, np.where(known, layers, 0.0), axes=1)
    return np.divide(summed, total, out=np.full(total.shape, np.nan), where=total > 0)


def zone_shares(codes: ArrayLike, factor: int, n: int) -> NDArray[np.float32]:
    """Share of the fine cells of each coarse cell that have each of the codes 1 to ``n``.

    Parameters
    ----------
    codes : (rows, columns) array of integers
        0 is no zone (ocean), so the shares sum to the share of cells that have a zone.
    factor : int
        Fine cells along one coarse cell.
    n : int
        Number of zones.

    Returns
    -------
    (n, rows / factor, columns / factor) array of float32

    Raises
    ------
    GridError
        If the rows or columns are no multiple of the factor.
    StaticError
        If there are other codes than 0 to ``n``.
    """
    zones = np.asarray(codes)
    if zones.dtype.kind not in "iu" or (zones.size and (zones.min() < 0 or zones.max() > n)):
        raise StaticError(
            f"climate zones must be integers from 0 to {n}; found {zones.dtype}, {zones.min()}..{zones.max()}"
        )
    return np.stack([land_share(zones == zone, factor) for zone in range(1, n + 1)])


def land_share(land: ArrayLike, factor: int) -> NDArray[np.float32]:
    """Share of the fine cells of each coarse cell that are land.

    Parameters
    ----------
    land : (rows, columns) array of bool
        True is land.
    factor : int
        Fine cells along one coarse cell.

    Returns
    -------
    (rows / factor, columns / factor) array of float32

    Raises
    ------
    GridError
        If the rows or columns are no multiple of the factor.
    """
    flags = np.asarray(land, dtype=bool)
    rows, columns = flags.shape
    if rows % factor or columns % factor:
        raise GridError(f"{rows} x {columns} cells cannot be grouped by {factor} x {factor} without remainder")
    # whole rows of small integers are added one by one: many times faster than a mean over two axes
    counts = flags.view(np.uint8).astype(np.uint8 if factor <= 255 else np.uint32, copy=False)
    for axis in (0, 1):
        parts = np.moveaxis(counts.reshape(*counts.shape[:axis], -1, factor, *counts.shape[axis + 1 :]), axis + 1, 0)
        counts = parts[0].astype(counts.dtype if axis == 0 else np.uint32)
        for part in parts[1:]:
            counts += part
    return counts.astype(np.float32) / np.float32(factor * factor)


def bilinear(values: ArrayLike, source: Grid, target: Grid) -> NDArray[np.float64]:
    """Interpolate bilinearly between cell centres.

    Parameters
    ----------
    values : (rows, columns) array
        On the source grid; global grids wrap in longitude and across the poles.
    source, target : Grid
        The target may be any part of the source's extent. Beyond the outermost centres of a regional
        source the outermost value holds.

    Returns
    -------
    array of float64 on the target grid

    Raises
    ------
    GridError
        If the array has another shape than the source, or the target reaches beyond it.
    """
    cells = _on_grid(values, source, "values")
    slack = 1e-6 * source.resolution
    if target.north > source.north + slack or target.south < source.south - slack:
        raise GridError(f"the target ({target}) reaches beyond the source ({source}) in latitude")
    if not source.is_global and (target.west < source.west - slack or target.east > source.east + slack):
        raise GridError(f"the target ({target}) reaches beyond the source ({source}) in longitude")
    padded = pad(cells, source, 1, edge="mirror")
    row = (source.north - target.latitude) / source.resolution + 0.5
    column = (target.longitude - source.west) / source.resolution + 0.5
    if source.is_global:
        column = (column - 0.5) % source.columns + 0.5
    r0, c0 = np.floor(row).astype(np.intp), np.floor(column).astype(np.intp)
    down, right = (row - r0)[:, None], column - c0
    r1, c1 = np.minimum(r0 + 1, source.rows + 1), np.minimum(c0 + 1, source.columns + 1)
    lines = padded[r0] * (1 - down) + padded[r1] * down
    return np.asarray(lines[:, c0] * (1 - right) + lines[:, c1] * right)


def coast_distance(land: ArrayLike, grid: Grid, cap: float) -> NDArray[np.float32]:
    """Great-circle distance from each land cell to the nearest cell that is not land.

    Exact between cell centres on the sphere, up to the cap: the squared chord between two places is
    ``4 sin(dlat / 2)**2 + cos(lat) cos(lat') 4 sin(dlon / 2)**2``, so that within one row of sea cells
    the nearest in longitude is the nearest of all, and the minimum over rows finishes the search.

    Parameters
    ----------
    land : (rows, columns) array of bool
        True is land.
    grid : Grid
        Global grids wrap at the date line.
    cap : float
        Kilometres beyond which distances are not told apart, below 5,000.

    Returns
    -------
    (rows, columns) array of float32
        Kilometres; 0 over sea, at most ``cap`` over land.

    Raises
    ------
    GridError
        If the array has another shape than the grid.
    """
    flags = np.asarray(land, dtype=bool)
    if flags.shape != grid.shape:
        raise GridError(f"land of shape {flags.shape} does not fit the grid ({grid})")
    radius = EARTH_RADIUS / 1000
    step = math.radians(grid.resolution)
    cos = np.maximum(np.cos(np.deg2rad(grid.latitude)), 0.0).astype(np.float32)
    chord = _chord_to_sea(flags, step, grid.is_global) * cos[:, None]
    reach = min(math.ceil(cap / (radius * step)), grid.rows - 1)
    limit = (2 * math.sin(cap / radius / 2)) ** 2
    distance = np.zeros(grid.shape, dtype=np.float32)
    for start in range(0, grid.rows, _TILE):
        stop = min(start + _TILE, grid.rows)
        lo, hi = max(start - reach, 0), min(stop + reach, grid.rows)
        columns = np.flatnonzero(flags[start:stop].any(axis=0))
        for places in np.split(columns, range(4 * _TILE, columns.size, 4 * _TILE)):
            near = _nearest_chord(chord[lo:hi, places], cos[start:stop], start - lo, step, limit)
            found = 2 * radius * np.arcsin(np.sqrt(near) / 2)
            distance[start:stop, places] = np.where(flags[start:stop, places], found, 0)
    return np.minimum(distance, np.float32(cap))


def pad(values: NDArray[Any], grid: Grid, width: int, *, edge: str) -> NDArray[Any]:
    """Surround an array with its true neighbours on the globe where there are any.

    Parameters
    ----------
    values : (rows, columns) array
    grid : Grid
    width : int
        Cells on each side.
    edge : {"extend", "mirror"}
        What stands beyond an edge that has no neighbours: the surface continued linearly, or its
        mirror image.

    Returns
    -------
    (rows + 2 width, columns + 2 width) array
    """
    mode: dict[str, Any] = {"mode": "symmetric"} if edge == "mirror" else {"mode": "reflect", "reflect_type": "odd"}
    slack = grid.resolution / 2
    top, bottom = (
        grid.is_global and grid.columns % 2 == 0 and abs(pole) < slack for pole in (90 - grid.north, 90 + grid.south)
    )
    tall = np.pad(values, ((0 if top else width, 0 if bottom else width), (0, 0)), **mode)
    half = grid.columns // 2
    beyond = [np.roll(values[width - 1 :: -1] if width <= grid.rows else values[::-1], half, axis=1)] if top else []
    below = [np.roll(values[: -width - 1 : -1], half, axis=1)] if bottom else []
    tall = np.concatenate([*beyond, tall, *below], axis=0)
    sides = ((0, 0), (width, width))
    return np.pad(tall, sides, mode="wrap") if grid.is_global else np.pad(tall, sides, **mode)


def _on_grid(values: ArrayLike, grid: Grid, what: str) -> NDArray[np.float64]:
    array = np.asarray(values, dtype=np.float64)
    if array.shape != grid.shape:
        raise GridError(f"{what} of shape {array.shape} does not fit the grid ({grid})")
    return array


def _nearest_chord(
    around: NDArray[np.float32], cos: NDArray[np.float32], first: int, step: float, limit: float
) -> NDArray[np.float32]:
    """Squared chord to the nearest sea for the rows from ``first`` on, looking at ever more distant rows."""
    rows = cos.size
    near = np.full((rows, around.shape[1]), limit, dtype=np.float32)
    buffer = np.empty_like(near)
    for away in range(around.shape[0]):
        apart = np.float32((2 * math.sin(away * step / 2)) ** 2)
        if not near.size or apart >= near.max():
            break
        for shift in {-away, away}:
            # rows of the tile whose partner lies within what is around it
            lo, hi = max(0, -first - shift), min(rows, around.shape[0] - first - shift)
            if lo < hi:
                candidate = np.multiply(
                    around[first + shift + lo : first + shift + hi], cos[lo:hi, None], out=buffer[lo:hi]
                )
                candidate += apart
                np.minimum(near[lo:hi], candidate, out=near[lo:hi])
    return near


def _chord_to_sea(land: NDArray[np.bool_], step: float, wraps: bool) -> NDArray[np.float32]:
    """Squared chord, on a circle of radius 1, to the nearest cell of the row that is not land; infinite without."""
    chord = np.empty(land.shape, dtype=np.float32)
    for start in range(0, land.shape[0], _TILE):
        columns = _columns_to_sea(land[start : start + _TILE], wraps)
        angle = np.minimum(columns * np.float32(step), np.float32(np.pi))
        chord[start : start + _TILE] = np.where(columns < 0, np.inf, 4 * np.sin(angle / 2) ** 2)
    return chord


def _square_mean(padded: NDArray[np.float64], radius: int) -> NDArray[np.float64]:
    from scipy.ndimage import uniform_filter

    return np.asarray(uniform_filter(padded, 2 * radius + 1, mode="nearest")[radius:-radius, radius:-radius])


def _columns_to_sea(land: NDArray[np.bool_], wraps: bool) -> NDArray[np.int32]:
    """Columns to the nearest cell of the row that is not land; -1 where the row has none."""
    columns = land.shape[1]
    row = np.concatenate([land, land, land], axis=1) if wraps else land
    far = np.int32(4 * row.shape[1])
    place = np.arange(row.shape[1], dtype=np.int32)
    before = np.maximum.accumulate(np.where(row, -far, place), axis=1)
    after = np.minimum.accumulate(np.where(row, far, place)[:, ::-1], axis=1)[:, ::-1]
    nearest = np.minimum(place - before, after - place)
    if wraps:
        nearest = nearest[:, columns : 2 * columns]
    return np.where(nearest > row.shape[1], np.int32(-1), nearest).astype(np.int32)
