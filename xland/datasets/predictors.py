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

KILOMETRE = 360e3 / (2 * math.pi * EARTH_RADIUS)
"""Degrees of a great circle in a kilometre."""

_DAYS = np.array([31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31])
_MIDDLES = np.cumsum(_DAYS) - _DAYS / 2  # days of the year

ROOT_DECAY = 0.97
"""Root profile of the world's vegetation as a whole: 1 - 0.97**d of the roots lie above d
centimetres (Jackson et al. 1996, doi 10.1007/BF00333714, whose biomes range from 0.91 for tundra
to 0.98 for deserts)."""


def terrain(elevation: ArrayLike, grid: Grid, radius: int) -> dict[str, NDArray[np.float64]]:
    """Elevation, slope, cosine of aspect, ruggedness and relative elevation in a square of cells, by name."""
    slope, aspect = slope_aspect(elevation, grid)
    rugged, relative = ruggedness(elevation, grid, radius)
    return {
        "elevation": np.asarray(elevation),
        "slope": slope,
        "cos_aspect": cos_aspect(slope, aspect),
        "ruggedness": rugged,
        "relative_elevation": relative,
    }


def slope_aspect(elevation: ArrayLike, grid: Grid) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Slope and aspect of the land surface by Horn's 3 x 3 differences, in true metres.

    Every row is differenced with its own east-west cell width, which shrinks with the cosine of latitude. Neighbours
    across the date line and across a pole are used where the grid has them; at the other edges the surface is continued
    linearly. See Horn (1981), Hill shading and the reflectance map, doi 10.1109/PROC.1981.11918.

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
    """Cosine of aspect (degrees clockwise from north): 1 faces north, -1 south; flat ground is 0, unknown slope NaN."""
    slope = np.asarray(slope, dtype=np.float64)
    return np.where(slope == 0, 0.0, np.cos(np.deg2rad(np.asarray(aspect, dtype=np.float64))))


def ruggedness(elevation: ArrayLike, grid: Grid, radius: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Ruggedness and relative elevation in a square of ``2 radius + 1`` cells around every cell, in metres.

    Ruggedness is the standard deviation of elevation in the square, relative elevation is above the mean of the square:
    valleys are negative. The square is one of cells, so its east-west extent shrinks with the cosine of latitude.
    Elevation, ``(rows, columns)``, must not be NaN.
    """
    values = _on_grid(elevation, grid, "elevation")
    if radius < 1 or radius >= min(grid.shape):
        raise GridError(f"a square of radius {radius} cells does not fit on a grid of {grid.rows} x {grid.columns}")
    from scipy.ndimage import uniform_filter

    # about the mean of the whole array, else the difference of large squares loses its digits
    padded = pad(values - values.mean(), grid, radius, edge="mirror")
    mean, square = (
        uniform_filter(each, 2 * radius + 1, mode="nearest")[radius:-radius, radius:-radius]
        for each in (padded, padded * padded)
    )
    variance = square - mean * mean
    return np.sqrt(np.maximum(variance, 0.0)), padded[radius:-radius, radius:-radius] - mean


def root_weights(tops: ArrayLike, bottoms: ArrayLike, decay: float = ROOT_DECAY) -> NDArray[np.float64]:
    """Weights of soil layers by the share of roots that they hold; they sum to 1.

    The share of roots above depth ``d`` (in centimetres) is ``1 - decay**d``. With the default and the six layers of
    SoilGrids (0, 5, 15, 30, 60, 100, 200 cm) the weights are 0.14, 0.23, 0.23, 0.24, 0.11 and 0.05. ``tops`` and
    ``bottoms`` are metres below the surface, positive. Layers without thickness, and layers that overlap, are a
    :class:`StaticError`.
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
    """Share of the fine cells of each coarse cell that have each of the codes 1 to ``n``, where 0 is no zone (ocean).

    ``(rows, columns)`` of integers become ``(n, rows / factor, columns / factor)``; other codes are a
    :class:`StaticError`.
    """
    zones = np.asarray(codes)
    if zones.dtype.kind not in "iu" or (zones.size and (zones.min() < 0 or zones.max() > n)):
        raise StaticError(
            f"climate zones must be integers from 0 to {n}; found {zones.dtype}, {zones.min()}..{zones.max()}"
        )
    return np.stack([land_share(zones == zone, factor) for zone in range(1, n + 1)])


def place(grid: Grid) -> dict[str, NDArray[np.float64]]:
    """Place of each cell centre on the sphere of radius 1, by name: a place has no edge at the date line."""
    latitude, longitude = np.deg2rad(grid.latitude)[:, None], np.deg2rad(grid.longitude)[None, :]
    return {
        "place_x": np.cos(latitude) * np.cos(longitude),
        "place_y": np.cos(latitude) * np.sin(longitude),
        "place_z": np.broadcast_to(np.sin(latitude), grid.shape),
    }


def day_length(latitude: ArrayLike) -> NDArray[np.float64]:
    """Hours of daylight in the middle of each month, ``(12, ...)``, at latitudes in degrees.

    Declination and sunset angle as in Allen et al. (1998), Crop evapotranspiration, FAO Irrigation and drainage paper
    56, equations 24, 25 and 34.
    """
    phi = np.deg2rad(np.asarray(latitude, dtype=np.float64))
    declination = 0.409 * np.sin(2 * np.pi / 365 * _MIDDLES - 1.39).reshape(12, *[1] * phi.ndim)
    return np.asarray(24 / np.pi * np.arccos(np.clip(-np.tan(phi) * np.tan(declination), -1, 1)))


def potential_evaporation(tas: ArrayLike, latitude: ArrayLike) -> NDArray[np.float64]:
    """Potential evapotranspiration of each month in mm after Thornthwaite (1948, doi 10.2307/210739).

    ``tas`` are monthly means in degC, ``(12, rows, columns)``; ``latitude`` are degrees, ``(rows,)``. Months warmer
    than 26.5 degC follow the parabola of Willmott et al. (1985, doi 10.1029/JC090iC05p08995).
    """
    warm = np.maximum(np.asarray(tas, dtype=np.float64), 0)
    index = ((warm / 5) ** 1.514).sum(axis=0)
    power = 6.75e-7 * index**3 - 7.71e-5 * index**2 + 1.792e-2 * index + 0.49239
    low = 16 * (10 * warm / np.maximum(index, 1e-6)) ** power
    hot = np.minimum(warm, 37.5)  # the parabola falls beyond its top
    month = np.where(warm < 26.5, low, -415.85 + 32.24 * hot - 0.43 * hot**2)
    days = _DAYS[:, None, None] / 30
    return np.asarray(month * days * day_length(latitude)[:, :, None] / 12)


def growing_conditions(tas: ArrayLike, pr: ArrayLike, latitude: ArrayLike) -> dict[str, NDArray[np.float64]]:
    """Compute what a year's temperature and rain allow to grow, by name; ``(rows, columns)`` each.

    Parameters
    ----------
    tas, pr : (12, rows, columns) array
        Monthly mean temperature in degC, and precipitation of the month in mm.
    latitude : (rows,) array
        Degrees north.

    Returns
    -------
    dict of (rows, columns) array of float64
        ``growing_degree_days``, degree days above 5 degC; ``moisture``, precipitation over potential evapotranspiration
        of the year, at most 5; ``water_deficit``, mm by which evapotranspiration exceeds precipitation, added up over
        the months in which it does; ``growing_months``, months above 5 degC in which precipitation is at least half of
        evapotranspiration (the growing period of FAO 1978, Report on the agro-ecological zones project, World Soil
        Resources Report 48); ``rain_variation``, standard deviation of monthly precipitation over its mean.
    """
    warmth, rain = np.asarray(tas, dtype=np.float64), np.asarray(pr, dtype=np.float64)
    demand = potential_evaporation(warmth, latitude)
    return {
        "growing_degree_days": (np.maximum(warmth - 5, 0) * _DAYS[:, None, None]).sum(axis=0),
        "moisture": np.minimum(rain.sum(axis=0) / np.maximum(demand.sum(axis=0), 1), 5),
        "water_deficit": np.maximum(demand - rain, 0).sum(axis=0),
        "growing_months": ((warmth > 5) & (rain >= demand / 2)).sum(axis=0).astype(np.float64),
        "rain_variation": rain.std(axis=0) / np.maximum(rain.mean(axis=0), 1e-3),
    }


def land_share(land: ArrayLike, factor: int) -> NDArray[np.float32]:
    """Share of land, True, among the fine cells of each coarse cell: ``(rows / factor, columns / factor)``."""
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
    """Interpolate bilinearly between cell centres of a source grid to a target grid within its extent.

    Global grids wrap in longitude and across the poles. Beyond the outermost centres of a regional source the outermost
    value holds. A target that reaches beyond the source is a :class:`GridError`.
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
    """Great-circle distance of land cells to the nearest cell that is not land, at most ``cap`` kilometres; 0 over sea.

    Exact between cell centres: the nearest place in a straight line through the sphere is the nearest on it, and it is
    beside land to the north, south, east or west.
    """
    from scipy.spatial import KDTree

    flags = np.asarray(land, dtype=bool)
    if flags.shape != grid.shape:
        raise GridError(f"land of shape {flags.shape} does not fit the grid ({grid})")
    distance = np.zeros(grid.shape, dtype=np.float32)
    distance[flags] = cap
    if flags.all() or not flags.any():
        return distance
    around = np.pad(flags, ((0, 0), (1, 1)), mode="wrap" if grid.is_global else "edge")
    beside = around[:, :-2] | around[:, 2:]
    beside[1:] |= flags[:-1]
    beside[:-1] |= flags[1:]
    at = np.stack([*place(grid).values()], axis=-1)
    radius = EARTH_RADIUS / 1000
    farthest = 2 * math.sin(min(cap / radius / 2, math.pi / 2))
    chord, _ = KDTree(at[beside & ~flags]).query(at[flags], distance_upper_bound=farthest)
    distance[flags] = np.where(chord <= farthest, 2 * radius * np.arcsin(np.minimum(chord, farthest) / 2), cap)
    return distance


def pad(values: NDArray[Any], grid: Grid, width: int, *, edge: str) -> NDArray[Any]:
    """Surround an array with ``width`` cells on each side: its true neighbours on the globe where there are any.

    Beyond other edges is the surface continued linearly (``edge="extend"``) or its mirror image (``"mirror"``).
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
