"""Forcing, maps and static predictors of a training brought together: years paired, grids and codes checked."""

from __future__ import annotations

from typing import Any

import dask
import dask.array as da
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from xland.batches.masking import known_codes
from xland.batches.split import Part, assign_years
from xland.errors import ConfigurationError, StaticError, TimeError, XlandError
from xland.grid import Grid, nesting_factor
from xland.inputs import InputSpec
from xland.orientation import orient
from xland.training.configuration import Configuration
from xland.vocabulary import LUH_SECONDARY
from xland.years import listed


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
    canonical, _ = orient(maps, what=what)
    grid = Grid.from_centres(canonical["lat"].values, canonical["lon"].values)
    if nesting_factor(grid, coarse) != factor:
        raise ConfigurationError(f"{what}: {grid.resolution:g} degree cells, but the model's factor is {factor}")
    if "time" not in canonical.dims:
        raise ConfigurationError(f"{what} needs a time dimension of calendar years")
    return canonical.transpose("time", "lat", "lon")


def read_codes(maps: xr.DataArray, inputs: InputSpec, what: str, error: type[XlandError]) -> NDArray[np.uint8]:
    """Read class codes, which must be known."""
    return known_codes(compute(maps.data), len(inputs.classes), what, error)


def lay_static(static: xr.Dataset, grid: Grid, inputs: InputSpec) -> xr.Dataset:
    """Return the static predictors that the inputs name as ``(lat, lon)`` from the north-west, on a grid."""
    missing = [name for name in inputs.static_variables if name not in static]
    if missing:
        raise StaticError(f"static predictors lack {', '.join(missing)}, which the inputs name")
    canonical, _ = orient(static[list(inputs.static_variables)], what="static predictors")
    own = Grid.from_centres(canonical["lat"].values, canonical["lon"].values)
    if not own.same_as(grid):
        raise StaticError(f"static predictors ({own}) are not on the fine grid of the forcing ({grid})")
    return canonical.transpose("lat", "lon")


def find_covered(steps: list[dict[str, NDArray[np.float32]]]) -> NDArray[np.bool_]:
    """Find the coarse cells of which the states take at least half in all years.

    Other releases of the same record differ in cells that are mostly sea or ice: 0 here, no data there.
    """
    totals = [np.add.reduce([v for name, v in values.items() if name not in LUH_SECONDARY]) for values in steps]
    return np.asarray(np.concatenate(totals).min(axis=0) >= 0.5)


def compute(values: Any) -> NDArray[Any]:
    """Return an array in memory of one that may be dask's."""
    return np.asarray(dask.compute(values)[0] if isinstance(values, da.Array) else values)
