"""Monthly climate on coarse grids of points, and what it says about a place on a fine grid."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import RegularGridInterpolator

from xland import predictors
from xland.datasets.wheels import fetch, source
from xland.errors import DatasetError
from xland.grid import Grid, aggregate

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
