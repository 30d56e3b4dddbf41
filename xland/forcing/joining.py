"""The forcing of a scenario, with the years that it shares with a history before it."""

from __future__ import annotations

from functools import partial
from itertools import groupby
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from xland.errors import ForcingError, GridError
from xland.forcing.read import SUM_TOLERANCE, Forcing
from xland.geo.grid import Grid
from xland.reading.limits import ValueProblem


def join_forcing(past: Forcing, future: Forcing, first: int, last: int, *, name: str) -> xr.Dataset:
    """Return the years of a future from `first` on, with those of the past up to `last` in place of its own.

    Years after `last` that the future lacks are the past's. :class:`GridError` if they are on different cells;
    :class:`ForcingError` if a variable is in one of them only and, when the first year that both have is computed, if
    states differ by more than 0.001.
    """
    if not past.grid.same_as(future.grid):
        raise GridError(
            f"the {name} is on other cells ({future.grid}) than the forcing before it ({past.grid}): bring both to the "
            "same cells, for example with ds.ai4land.regrid(resolution=0.25)"
        )
    alone = sorted(map(str, set(past.data.data_vars) ^ set(future.data.data_vars)))
    if alone:
        raise ForcingError(
            f"{', '.join(alone)}: only in one of the {name} and the forcing before it; give both the same variables"
        )
    years = sorted({year for each in (past, future) for year in each.years if year >= first})
    common = next((year for year in years if year in past.years and year in future.years), None)

    def origin(year: int) -> tuple[bool, bool]:
        return year in past.years and (year <= last or year not in future.years), year == common

    pieces = []
    for (from_past, compared), run in groupby(years, origin):
        these, sides = list(run), (past, future) if from_past else (future, past)
        own, other = (each.data.sel(time=[y for y in these if y in each.years]) for each in sides)
        pieces.append(_compared(own, other, past.grid, these[0], name) if compared else own)
    joined: xr.Dataset = xr.concat(pieces, "time", combine_attrs="override")
    return joined.assign_attrs(future.data.attrs)


def _compared(own: xr.Dataset, other: xr.Dataset, grid: Grid, year: int, name: str) -> xr.Dataset:
    """Return the states of a year, which are compared with those of another forcing when they are computed."""
    found = {}
    for variable, array in own.data_vars.items():
        theirs = other[variable].data.rechunk(array.data.chunks)
        check = partial(_refuse_difference, grid=grid, year=year, name=name, variable=str(variable))
        data = da.map_blocks(check, array.data, theirs, dtype=array.dtype, meta=np.empty((0, 0, 0), array.dtype))
        found[variable] = (array.dims, data, array.attrs)
    return own.assign(found)


def _refuse_difference(
    own: NDArray[Any], other: NDArray[Any], *, grid: Grid, year: int, name: str, variable: str, block_info: Any = None
) -> NDArray[Any]:
    with np.errstate(invalid="ignore"):
        scale = np.where(np.abs(own) > 1, np.abs(own), 1)  # ages and biomass are not shares
        different = (np.abs(own - other) > SUM_TOLERANCE * scale) | (np.isnan(own) != np.isnan(other))
    if different.any():
        _, rows, columns = block_info[0]["array-location"]
        place = grid.latitude[slice(*rows)], grid.longitude[slice(*columns)]
        most = np.nanmax(np.abs(own - other), initial=0)
        fault = f"not those of the forcing before the {name} in {year} (up to {most:.3g} apart)"
        remedy = "they do not share a past: give a scenario that begins with this history, or leave the history out"
        raise ForcingError(ValueProblem.at(variable, different[0], place, fault, remedy).sentence)
    return own
