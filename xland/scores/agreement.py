"""How far the class shares of a fine map are from what the coarse forcing asks for, cell by cell."""

from __future__ import annotations

import warnings
from collections.abc import Hashable
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from xland.errors import AllocationError, GridError, OtherYearWarning, TimeError
from xland.forcing.read import Forcing, find_sources, read_forcing, require_dataset
from xland.geo.conventions import classes_along
from xland.geo.grid import Grid
from xland.geo.orientation import orient
from xland.reading.variables import as_map
from xland.scores.frames import OFF_LATTICE
from xland.totals.aggregation import aggregate_classes
from xland.totals.cells import largest_pixel
from xland.totals.crosswalk import Crosswalk, checked_crosswalk, class_targets
from xland.vocabulary import CLASS_NAMES


def coarse_agreement(
    fine: xr.DataArray,
    forcing: xr.Dataset,
    *,
    factor: int | None = None,
    crosswalk: Crosswalk | None = None,
) -> xr.Dataset:
    """Compare the class shares of a map, or the means of probabilities, with the coarse forcing.

    Parameters
    ----------
    fine : DataArray of class codes or probabilities
        One year, with latitude and longitude; probabilities have a dimension ``class``, too. The grid holds
        whole coarse cells. Lazy arrays stay lazy.
    forcing : Dataset
        LUH states, or shares by the names of the classes. Of several years the one of the map is taken.
        It may cover more than the map; where it covers less, or probabilities are NaN, the result is NaN.
    factor : int, optional
        Fine cells along a coarse cell; by default as the two resolutions have it.
    crosswalk : Crosswalk, optional
        By default :data:`xland.totals.crosswalk.LUH_CROSSWALK`.

    Returns
    -------
    Dataset
        On the coarse grid, from north to south: ``difference`` (class, lat, lon), share in the map minus share in the
        forcing, NaN for classes that the forcing does not know; ``largest`` (lat, lon), its largest absolute
        value; ``pixels`` (lat, lon), the same in fine pixels, the largest of the cell.

    Raises
    ------
    GridError
        A map that cannot be grouped into coarse cells, has several years, or cells that do not nest in the forcing's;
        a factor that is not that of the two resolutions.
    ForcingError
        A forcing that is no Dataset.
    TimeError
        A forcing of several years without that of the map.
    AllocationError
        What :func:`xland.totals.crosswalk.class_targets` refuses; other classes than the eight; a crosswalk of
        another type.

    Warns
    -----
    OtherYearWarning
        If the only year of the forcing is not that of the map.
    """
    crosswalk = checked_crosswalk(crosswalk)
    require_dataset(forcing)
    shares, grid, year, factor = _shares(fine, forcing, factor)
    targets = _targets(forcing, grid, year, crosswalk)
    difference = (shares - targets).assign_attrs(long_name="share in the map minus share in the forcing", units="1")
    largest = abs(difference).max("class").assign_attrs(long_name="largest absolute difference", units="1")
    pixel = xr.DataArray(largest_pixel(grid.refine(factor).cell_area(), factor), {"lat": shares["lat"]}, ("lat",))
    pixels = (largest / pixel).assign_attrs(long_name="largest absolute difference in fine pixels", units="1")
    return xr.Dataset({"difference": difference, "largest": largest, "pixels": pixels})


def _shares(fine: xr.DataArray, forcing: xr.Dataset, factor: int | None) -> tuple[xr.DataArray, Grid, int | None, int]:
    """Class shares of the coarse cells of a map, their grid, the year of the map and the factor."""
    layers, name = _layers(fine)
    found = as_map(layers[0], what="map", holds="classes" if name is None else "values")
    if len(found.years) > 1:
        raise GridError(f"the map has {len(found.years)} years; select one")
    factor = fitting_factor(forcing, found.grid, factor)
    coarse = found.grid.coarsen(factor)
    if found.grid.row_offset % factor or found.grid.column_offset % factor:
        raise GridError(
            f"the map ({found.grid}) does not begin at an edge of coarse cells of {factor} x {factor}; "
            "select a region whose edges do"
        )
    coordinates = {"class": list(CLASS_NAMES), "lat": coarse.latitude, "lon": coarse.longitude}
    if name is None:
        counted = aggregate_classes(found.data.isel(time=0, drop=True), factor)
        values = counted[list(CLASS_NAMES)].to_dataarray("class").data
    else:
        area = found.grid.cell_area()[:, None]
        canonical = [as_map(layer, what="map", holds="values").data.isel(time=0, drop=True) for layer in layers]
        values = xr.concat([_mean(layer, area, factor) for layer in canonical], "class").data
    return xr.DataArray(values, coordinates, ("class", "lat", "lon")), coarse, found.years[0], factor


def _layers(fine: xr.DataArray) -> tuple[list[xr.DataArray], Hashable | None]:
    """Return the map, or the probability of each class in the order of the codes."""
    if "class" not in fine.dims:
        return [fine], None
    if fine.sizes["class"] != len(CLASS_NAMES):
        raise AllocationError(
            f"the probabilities have {fine.sizes['class']} classes; {len(CLASS_NAMES)} are needed: "
            f"{', '.join(CLASS_NAMES)}"
        )
    if (named := classes_along(fine, "class")) is not None:
        if set(named) != set(CLASS_NAMES):
            raise AllocationError(
                f"the probabilities are of the classes {', '.join(named)}, not {', '.join(CLASS_NAMES)}; rename them, "
                "or drop the coordinate `class` where they are in this order"
            )
        fine = fine.isel({"class": [named.index(name) for name in CLASS_NAMES]})
    return [fine.isel({"class": number}, drop=True) for number in range(len(CLASS_NAMES))], "class"


def _mean(layer: xr.DataArray, area: NDArray[np.float64], factor: int) -> xr.DataArray:
    """Area-weighted mean over coarse cells."""
    weights = xr.DataArray(area[:, 0], dims="lat")
    sums = {"lat": factor, "lon": factor}
    # sum() of xarray would take NaN for 0
    weighted = (layer.drop_vars(("lat", "lon")).astype(np.float64) * weights).coarsen(sums).reduce(np.sum)
    return weighted / (factor * weights.coarsen(lat=factor).sum())


def _targets(forcing: xr.Dataset, grid: Grid, year: int | None, crosswalk: Crosswalk) -> xr.DataArray:
    """Shares that the forcing asks for, on the coarse cells of the map; NaN where it says nothing."""
    states = [state for state, _ in crosswalk.states]
    names = list(find_sources(forcing, list(dict.fromkeys((*states, *CLASS_NAMES)))))
    crosswalk.sources(names, CLASS_NAMES)
    found = read_forcing(forcing, variables=names, year=year)
    placed = on_cells(of_year(found, year)[names].isel(time=0, drop=True), grid)
    stacked = placed.to_dataarray("state").chunk(state=-1)
    return (
        xr.apply_ufunc(
            _class_targets,
            stacked,
            input_core_dims=[["state"]],
            output_core_dims=[["class"]],
            kwargs={"names": tuple(names), "crosswalk": crosswalk},
            dask="parallelized",
            output_dtypes=[np.float64],
            dask_gufunc_kwargs={"output_sizes": {"class": len(CLASS_NAMES)}},
        )
        .assign_coords({"class": list(CLASS_NAMES)})
        .transpose("class", "lat", "lon")
    )


def _class_targets(values: NDArray[Any], *, names: tuple[str, ...], crosswalk: Crosswalk) -> NDArray[np.float64]:
    states = {name: values[..., number] for number, name in enumerate(names)}
    return np.moveaxis(class_targets(states, crosswalk, CLASS_NAMES), 0, -1)


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
