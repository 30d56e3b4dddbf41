"""The climate, the lakes and the settlements of a place, from coarse points and gazetteers."""

from __future__ import annotations

import gzip
import json
import math
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.interpolate import RegularGridInterpolator

from xland.datasets.wheels import fetch, source
from xland.errors import DatasetError
from xland.geo.grid import EARTH_RADIUS, Grid, aggregate
from xland.sources import predictors

LAPSE_RATE = 6.5
"""Degrees by which air is colder a kilometre further up: the standard atmosphere (ISO 2533)."""

_FREEZING = 273.15
_PADDING = 1  # cells of padding around the precipitation


class Climate:
    """Monthly means of today's climate: summed up on the grid of the precipitation, interpolated wherever asked for.

    Parameters
    ----------
    topography : (rows, columns) array of float32
        Height of the land surface on the world grid of its source, metres: what temperature is corrected for.
    """

    def __init__(self, topography: NDArray[np.float32]) -> None:
        self._smooth_grid = Grid.world(180 / source("temperature").rows)
        self._smooth = aggregate(topography, topography.shape[0] // self._smooth_grid.rows)
        self._grid = Grid.world(180 / source("precipitation").rows)
        warmth = _temperature(self._grid)
        rain = np.maximum(_precipitation(self._grid), 0)
        warm = np.argsort(warmth, axis=-1)[..., 6:]
        self._fields = {
            "coldest_month": warmth.min(axis=-1),
            "warmest_month": warmth.max(axis=-1),
            "precipitation": rain.sum(axis=-1),
            "driest_month": rain.min(axis=-1),
            "warm_precipitation": np.take_along_axis(rain, warm, axis=-1).sum(axis=-1),
        }

    def on(self, part: Grid, height: NDArray[np.floating]) -> dict[str, NDArray[np.floating]]:
        """Return the climate of a part of a world grid.

        Parameters
        ----------
        part : Grid
        height : (rows, columns) array
            Metres; temperature is moved to it from the smooth surface of its source by :data:`LAPSE_RATE`.

        Returns
        -------
        dict of str to (rows, columns) array
            ``coldest_month`` and ``warmest_month``, means in degrees Celsius; ``precipitation``,
            ``driest_month`` and ``warm_precipitation`` (that of the six warmest months), mm.
        """
        values = {name: predictors.bilinear(field, self._grid, part) for name, field in self._fields.items()}
        colder = (LAPSE_RATE / 1000) * (height - predictors.bilinear(self._smooth, self._smooth_grid, part))
        return {**values, **{name: values[name] - colder for name in ("coldest_month", "warmest_month")}}


def _temperature(grid: Grid) -> NDArray[np.float32]:
    """Degrees Celsius in each month on a world grid, ``(rows, columns, months)``."""
    points = Grid.world(180 / source("temperature").rows)
    # on meridians and parallels, both ends included
    values = _read("temperature", (points.rows + 1, points.columns + 1))
    rows, columns = (
        start + points.resolution * np.arange(n) for start, n in ((-90, len(values)), (-180, values.shape[1]))
    )
    places = np.stack(np.meshgrid(grid.latitude, grid.longitude, indexing="ij"), axis=-1)
    return np.asarray(RegularGridInterpolator((rows, columns), values)(places) - _FREEZING, dtype=np.float32)


def _precipitation(grid: Grid) -> NDArray[np.float32]:
    """Millimetres in each month on the source's own grid, ``(rows, columns, months)``."""
    padded = _read("precipitation", (grid.rows + 2 * _PADDING, grid.columns + 2 * _PADDING))
    return padded[::-1][_PADDING:-_PADDING, _PADDING:-_PADDING]


def _read(name: str, shape: tuple[int, int]) -> NDArray[np.float32]:
    """Read twelve months, ``(rows, columns, months)``, rows from south to north."""
    path: Path = fetch(name)
    months = []
    with zipfile.ZipFile(path) as archive:
        for member in archive.namelist():
            with archive.open(member) as stream, np.load(stream) as arrays:
                values = arrays["arr_0"]
            if values.shape != shape:
                raise DatasetError(f"{member} in {path.name} holds {values.shape} points instead of {shape}")
            months.append(values.astype(np.float32))
    return np.stack(months, axis=-1)


_LAKE = 2  # 0 is sea, 1 land; islands in lakes are land


def read_lakes() -> NDArray[np.bool_]:
    """Return which points of the mask are lakes; ``(rows, columns)`` of the world from north to south."""
    rows = source("lakes").rows
    path = fetch("lakes")
    content = gzip.decompress(path.read_bytes())
    if len(content) != 2 * rows * rows:
        raise DatasetError(f"{path.name} holds {len(content)} points instead of {rows} x {2 * rows}")
    return (np.frombuffer(content, dtype=np.uint8).reshape(rows, 2 * rows) == _LAKE)[::-1]


def lake_share(lakes: NDArray[np.bool_], rows: slice, total: int) -> NDArray[np.float32]:
    """Share of some rows of a world grid that lakes cover.

    Parameters
    ----------
    lakes : (points, 2 * points) array of bool
        From :func:`read_lakes`.
    rows : slice
        Rows of the grid.
    total : int
        Rows of the grid from pole to pole.

    Returns
    -------
    (rows, 2 * total) array of float32
        Exact for cells that hold parts of points, too.
    """
    by_row = _shares(lakes.astype(np.float32), total, rows)
    return _shares(by_row.T, 2 * total, slice(0, 2 * total)).T


def _shares(values: NDArray[np.float32], total: int, chosen: slice) -> NDArray[np.float32]:
    """Means over ``total`` equal parts of the first axis, of which some are chosen."""
    points = len(values)
    edges = np.arange(chosen.start, chosen.stop + 1) * (points / total)
    first, last = int(edges[0]), int(np.ceil(edges[-1] - 1e-9))
    summed = np.concatenate(
        [np.zeros_like(values[:1], dtype=np.float64), np.cumsum(values[first:last], axis=0, dtype=np.float64)]
    )
    whole = np.minimum(np.floor(edges - first + 1e-9).astype(np.intp), last - first)
    part = np.maximum(edges - first - whole, 0)[:, None]
    inside = values[first:last][np.minimum(whole, last - first - 1)]
    return np.diff(summed[whole] + part * inside, axis=0).astype(np.float32) * np.float32(total / points)


FARTHEST = 9.0
"""Radii of a town beyond which distances are not told apart."""

KILOMETRE = 360e3 / (2 * math.pi * EARTH_RADIUS)
"""Degrees of a great circle in a kilometre."""

_TOWN_RADIUS = 19e-3  # kilometres for each root of a person: 19 km for a million, 6 km for 100,000
_TRUNCATE = 3.0
_BAND = 40  # rows that share the width of a kernel


@dataclass(frozen=True)
class Settlements:
    """Places with people.

    Parameters
    ----------
    latitude, longitude : (places,) arrays of float64
        Degrees north and east, -180 to 180.
    population : (places,) array of float64
    """

    latitude: NDArray[np.float64]
    longitude: NDArray[np.float64]
    population: NDArray[np.float64]


def read_settlements() -> Settlements:
    """Read the gazetteer; :class:`DatasetError` if it holds none."""
    path = fetch("settlements")
    places = json.loads(path.read_bytes()).values()
    table = np.array([(each["latitude"], each["longitude"], each["population"]) for each in places], dtype=np.float64)
    if not len(table):
        raise DatasetError(f"{path.name} holds no settlements")
    return Settlements(*table.T)


def counted(settlements: Settlements, grid: Grid, weights: NDArray[np.float64]) -> NDArray[np.float32]:
    """Add up weights of settlements in each cell of a world grid; ``(rows, columns)``."""
    rows, columns = _cells(settlements, grid)
    total = np.bincount(rows * grid.columns + columns, weights, minlength=grid.rows * grid.columns)
    return total.reshape(grid.shape).astype(np.float32)


def density(amounts: NDArray[np.float32], grid: Grid, radius: float) -> NDArray[np.float32]:
    """Spread amounts with a Gaussian, and tell how dense they lie.

    Parameters
    ----------
    amounts : (rows, columns) array
        People, for example, in each cell of a world grid.
    grid : Grid
    radius : float
        Standard deviation of the Gaussian in kilometres.

    Returns
    -------
    (rows, columns) array of float32
        Amount per square kilometre.
    """
    sigma = radius * KILOMETRE / grid.resolution
    spread = ndimage.gaussian_filter1d(amounts, sigma, axis=0, mode="constant", truncate=_TRUNCATE)
    for start in range(0, grid.rows, _BAND):
        rows = slice(start, start + _BAND)
        width = sigma / max(float(np.cos(np.deg2rad(grid.latitude[rows])).mean()), 1e-3)
        # a kernel must not be wider than the globe
        width = min(width, (grid.columns - 1) / (2 * _TRUNCATE))
        if spread[rows].any():
            spread[rows] = ndimage.gaussian_filter1d(spread[rows], width, axis=1, mode="wrap", truncate=_TRUNCATE)
    area = np.asarray(grid.cell_area()).reshape(grid.rows, -1) / 1e6
    return np.asarray(spread / area, dtype=np.float32)


def town_distance(settlements: Settlements, grid: Grid, smallest: float = 1000.0) -> NDArray[np.float32]:
    """Distance to the nearest town, measured in the radius of that town.

    The built area of towns grows about as their population, so their radius is taken as its root.

    Parameters
    ----------
    settlements : Settlements
    grid : Grid
        World grid.
    smallest : float
        People that make a town.

    Returns
    -------
    (rows, columns) array of float32
        Radii, at most :data:`FARTHEST`.
    """
    nearest = np.full(grid.shape, FARTHEST, dtype=np.float32)
    rows, _ = _cells(settlements, grid)
    for place in np.flatnonzero(settlements.population >= smallest):
        latitude, longitude = settlements.latitude[place], settlements.longitude[place]
        radius = _TOWN_RADIUS * math.sqrt(settlements.population[place])
        squeeze = max(math.cos(math.radians(latitude)), 0.05)
        reach = FARTHEST * radius * KILOMETRE / grid.resolution
        high = math.ceil(reach)
        around = np.arange(max(rows[place] - high, 0), min(rows[place] + high + 1, grid.rows))
        middle = math.floor((longitude - grid.west) / grid.resolution)
        wide = min(math.ceil(reach / squeeze), grid.columns // 2 - 1)
        beside = np.arange(middle - wide, middle + wide + 1)
        north = grid.latitude[around] - latitude
        east = (grid.west + (beside + 0.5) * grid.resolution - longitude) * squeeze
        distance = np.hypot(north[:, None], east) / (radius * KILOMETRE)
        part = np.ix_(around, beside % grid.columns)
        nearest[part] = np.minimum(nearest[part], distance)
    return nearest


def _cells(settlements: Settlements, grid: Grid) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    rows = np.floor((grid.north - settlements.latitude) / grid.resolution).astype(np.intp)
    columns = np.floor((settlements.longitude - grid.west) / grid.resolution).astype(np.intp)
    return np.clip(rows, 0, grid.rows - 1), columns % grid.columns
