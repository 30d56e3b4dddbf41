"""Forcing, maps and static predictors of a training brought together: years paired, grids and codes checked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import dask
import dask.array as da
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from xland.errors import ConfigurationError, StaticError, TimeError, XlandError
from xland.geo.grid import Grid, nesting_factor
from xland.geo.orientation import orient
from xland.geo.split import Part, assign_years
from xland.geo.years import listed
from xland.models.inputs import MASKED, InputSpec
from xland.reading.limits import checked_predictor, refuse, share_problem, unknown_land
from xland.reading.variables import as_map, read_static
from xland.training.configuration import Configuration
from xland.vocabulary import LUH_SECONDARY, check_codes


def pair_years(configuration: Configuration, forcing: tuple[int, ...], target: list[int]) -> list[tuple[int, int]]:
    """Return the years of forcing and map that belong together and are for training.

    Raises
    ------
    ConfigurationError, TimeError
        If the configuration contradicts itself, or years that it needs are not there.
    """
    data = configuration.data
    if bool(data.forcing_years) != bool(data.target_years):
        raise ConfigurationError("[data] forcing_years and target_years belong together: give both or neither")
    if len(data.forcing_years) != len(data.target_years):
        raise ConfigurationError(
            f"[data] forcing_years names {len(data.forcing_years)} years and target_years {len(data.target_years)}: "
            "give as many"
        )
    pairs = (
        list(zip(data.forcing_years, data.target_years, strict=True))
        if data.forcing_years
        else [(year, year) for year in forcing if year in target]
    )
    twice = {mapped for _, mapped in pairs if [each for _, each in pairs].count(mapped) > 1}
    if twice:
        raise ConfigurationError(f"[data] target_years names {listed(sorted(twice))} more than once")
    if data.train_years and data.test_years:
        parts = assign_years([mapped for _, mapped in pairs], data.train_years, data.test_years)
        pairs = [pair for pair in pairs if parts[pair[1]] == Part.TRAIN]
    for year, mapped in pairs:
        missing = [year + step for step in configuration.inputs.steps if year + step not in forcing]
        if missing:
            raise TimeError(f"the forcing lacks the years {missing} that the map of {mapped} needs; it holds {forcing}")
        if mapped not in target:
            raise TimeError(f"the target lacks the year {mapped}; it holds {target}")
    if not pairs:
        raise TimeError(f"forcing ({forcing}) and target ({target}) share no year: give forcing_years and target_years")
    return pairs


def lay_maps(maps: xr.DataArray, coarse: Grid, factor: int, what: str) -> xr.DataArray:
    """Return maps as ``(time, lat, lon)`` from the north-west, on a grid that nests in the coarse one."""
    found = as_map(maps, what=what, empty=MASKED)
    if nesting_factor(found.grid, coarse) != factor:
        raise ConfigurationError(f"{what}: {found.grid.resolution:g} degree cells, but the model's factor is {factor}")
    if None in found.years:
        raise ConfigurationError(f"{what} needs a time dimension of calendar years")
    return found.data


def compute_codes(maps: xr.DataArray, inputs: InputSpec, what: str, error: type[XlandError]) -> NDArray[np.uint8]:
    """Read class codes, which must be known."""
    return check_codes(
        compute(maps.data),
        what=what,
        latitude=maps["lat"].values,
        longitude=maps["lon"].values,
        classes=len(inputs.classes),
        hidden=MASKED,
        error=error,
    )


def lay_static(static: xr.Dataset, grid: Grid, inputs: InputSpec) -> xr.Dataset:
    """Return the static predictors that the inputs name as ``(lat, lon)`` from the north-west, on a grid."""
    read = read_static(static, inputs.static_variables, inputs.domain)
    canonical, orientation = orient(read, what="static predictors")
    if not orientation.grid.same_as(grid):
        raise StaticError(f"static predictors ({orientation.grid}) are not on the fine grid of the forcing ({grid})")
    return canonical.transpose("lat", "lon")


def find_land(
    fields: dict[str, NDArray[Any]], inputs: InputSpec, grid: Grid, states: Callable[[], Mapping[str, NDArray[Any]]]
) -> NDArray[np.bool_]:
    """Return the fine cells whose class is learned, having checked the static predictors there.

    Parameters
    ----------
    fields : dict of str to (rows, columns) array
        Values in the sea that cannot be are replaced by NaN.
    inputs : InputSpec
    grid : Grid
        Where the fields lie.
    states : callable
        Returns the forcing in the coarse cells of that grid, ``(coarse rows, coarse columns)`` each; it is called
        where the share of land is NaN.

    Raises
    ------
    StaticError
    """
    share = fields[inputs.domain]
    refuse(share_problem(inputs.domain, share, grid.latitude, grid.longitude))
    land = np.nan_to_num(share) > 0
    for name in inputs.static_variables:
        if name != inputs.domain:
            fields[name] = checked_predictor(name, fields[name], land, grid.latitude, grid.longitude)
    unknown = np.isnan(share)
    if unknown.any():
        coarse = grid.coarsen(inputs.factor)
        cells = unknown.reshape(coarse.rows, inputs.factor, coarse.columns, inputs.factor).any(axis=(1, 3))
        refuse(unknown_land(inputs.domain, cells, states(), coarse.latitude, coarse.longitude))
    return np.asarray(land)


def find_covered(steps: list[dict[str, NDArray[np.float32]]]) -> NDArray[np.bool_]:
    """Find the coarse cells of which the states take at least half in all years.

    Other releases of the same record differ in cells that are mostly sea or ice: 0 here, no data there.
    """
    totals = [np.add.reduce([v for name, v in values.items() if name not in LUH_SECONDARY]) for values in steps]
    return np.asarray(np.concatenate(totals).min(axis=0) >= 0.5)


def compute(values: Any) -> NDArray[Any]:
    """Return an array in memory of one that may be dask's."""
    return np.asarray(dask.compute(values)[0] if isinstance(values, da.Array) else values)
