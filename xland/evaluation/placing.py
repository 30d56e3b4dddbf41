"""The part of a coarse forcing that speaks of a fine map: its year, the size of its cells, and its cells."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from xland.errors import GridError, OtherYearWarning, TimeError
from xland.evaluation.alignment import OFF_LATTICE
from xland.forcing import Forcing
from xland.grid import Grid
from xland.orientation import orient

_OFF_SIZE = 1e-3
"""Share by which the ratio of two resolutions may miss a whole number."""


def of_year(forcing: Forcing, year: int | None) -> xr.Dataset:
    """Return the year of a map, or the only one that there is.

    Parameters
    ----------
    forcing : Forcing
    year : int or None
        None where the map does not say its year.

    Returns
    -------
    Dataset
        With one time step.

    Raises
    ------
    TimeError
        If the forcing holds several years, but not this one.

    Warns
    -----
    OtherYearWarning
        If the only year is another one.
    """
    years = forcing.years
    if year in years:
        return forcing.data.isel(time=[years.index(year)])
    if len(years) > 1:
        of_map = "the map does not say its year" if year is None else f"not {year}, of which the map is"
        raise TimeError(
            f"the forcing holds {len(years)} years, {years[0]} to {years[-1]}, but {of_map}; "
            "select the year that the map was made from"
        )
    if year is not None:
        warnings.warn(
            f"the forcing is of {years[0]} and the map of {year}: what changed in between counts as disagreement",
            OtherYearWarning,
            stacklevel=3,
        )
    return forcing.data


def fitting_factor(forcing: xr.Dataset, fine: Grid, factor: int | None = None) -> int:
    """Return how many fine cells stand along a coarse cell, as the resolutions have it.

    Parameters
    ----------
    forcing : Dataset
    fine : Grid
        Of the map.
    factor : int, optional
        What the caller takes it for.

    Raises
    ------
    GridError
        If the cells do not nest, or the caller takes it for another number.
    """
    size = orient(forcing, what="forcing")[1].grid.resolution
    ratio = size / fine.resolution
    fitting = round(ratio)
    if fitting < 1 or abs(ratio / fitting - 1) > _OFF_SIZE:
        raise GridError(
            f"cells of {fine.resolution:g} degrees do not nest in those of the forcing ({size:g} degrees): "
            "one must be a whole multiple of the other"
        )
    if factor is not None and factor != fitting:
        raise GridError(
            f"the factor is {factor!r}, but {fitting} cells of the map ({fine.resolution:g} degrees) stand along one "
            f"of the forcing ({size:g} degrees); pass factor={fitting}"
        )
    return fitting


def on_cells(forcing: xr.Dataset, grid: Grid, *, whole: bool = False) -> xr.Dataset:
    """Lay a forcing on the coarse cells of a map, wherever on the globe its longitudes begin.

    Parameters
    ----------
    forcing : Dataset
        In canonical form; may cover more than the cells.
    grid : Grid
        The coarse cells.
    whole : bool
        Refuse a forcing that covers less; else it is NaN there.

    Raises
    ------
    GridError
        If cells lie outside the forcing, and that is refused.
    """
    tolerance = OFF_LATTICE * grid.resolution
    west = float(forcing["lon"][0]) - 0.5 * grid.resolution
    longitude = (grid.longitude - west) % 360 + west
    if whole:
        rows = _found(forcing.indexes["lat"], grid.latitude, tolerance)
        columns = _found(forcing.indexes["lon"], longitude, tolerance)
        outside = grid.rows * grid.columns - int(rows.sum()) * int(columns.sum())
        if outside:
            raise GridError(
                f"{outside} of {grid.rows * grid.columns} coarse cells of the map lie outside the forcing; "
                "give a forcing that covers the map, or select the part of the map that it covers"
            )
    laid = forcing.reindex(lat=grid.latitude, lon=longitude, method="nearest", tolerance=tolerance)
    return laid.assign_coords(lat=grid.latitude, lon=grid.longitude)


def _found(index: pd.Index, values: NDArray[np.float64], tolerance: float) -> NDArray[np.bool_]:
    return index.get_indexer(pd.Index(values), method="nearest", tolerance=tolerance) >= 0
