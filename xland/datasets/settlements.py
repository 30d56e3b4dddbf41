"""Where people live: the settlements of a gazetteer, and what they tell of the land around them."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from xland.datasets.wheels import fetch
from xland.errors import DatasetError
from xland.grid import EARTH_RADIUS, Grid

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
