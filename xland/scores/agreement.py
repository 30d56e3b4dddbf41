"""How far the class shares of a fine map are from what the coarse forcing asks for, cell by cell."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from xland.errors import AllocationError, GridError, OtherYearWarning, TimeError
from xland.forcing.read import Forcing, find_sources, read_forcing, require_dataset
from xland.geo.grid import Grid
from xland.geo.orientation import orient
from xland.scores.frames import OFF_LATTICE, one_step, read_probability
from xland.totals.aggregation import aggregate_classes
from xland.totals.cells import largest_pixel
from xland.totals.crosswalk import Crosswalk, checked_crosswalk, class_targets
from xland.vocabulary import CLASS_NAMES

_LAYERS = {
    "difference": "share in the map minus share in the forcing",
    "largest": "largest absolute difference",
    "pixels": "largest absolute difference in fine pixels",
    "area": "area of a coarse cell",
}
_OFF_SIZE = 1e-3  # share by which the ratio of two resolutions may miss a whole number


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
        One year, with latitude and longitude; probabilities have a dimension ``class``, too. The grid contains
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
        forcing, NaN for classes that are not in the forcing; ``largest`` (lat, lon), its largest absolute value;
        ``pixels`` (lat, lon), the same in fine pixels, the largest of the cell; ``area`` (lat) of a coarse cell in m2.

    Raises
    ------
    GridError
        If the map cannot be grouped into coarse cells, or its cells do not nest in those of the forcing; if ``factor``
        is not that of the two resolutions.
    ForcingError
        If the forcing is not a Dataset.
    TimeError
        If the map has several time steps, or a forcing of several years lacks that of the map.
    AllocationError
        If the classes are not those of :mod:`xland.vocabulary`, ``crosswalk`` is not a Crosswalk, or
        :func:`xland.totals.crosswalk.class_targets` refuses the forcing.

    Warns
    -----
    OtherYearWarning
        If the only year of the forcing is not that of the map.
    """
    crosswalk = checked_crosswalk(crosswalk)
    require_dataset(forcing)
    is_map = "class" not in fine.dims
    found = one_step(fine, "map") if is_map else read_probability(fine, AllocationError)
    if len(found.years) > 1:
        raise TimeError(f"the probability has {len(found.years)} time steps; select one")
    factor = fitting_factor(forcing, found.grid, factor)
    grid, area = found.grid.coarsen(factor), found.grid.cell_area()
    if any(offset % factor for offset in found.grid.corner):
        raise GridError(
            f"the map ({found.grid}) does not start at an edge of coarse cells of {factor} x {factor}; "
            "select a region whose edges do"
        )
    if is_map:
        counted = aggregate_classes(found.data.isel(time=0, drop=True), factor)
        values = counted[list(CLASS_NAMES)].to_dataarray("class").data
    else:
        weights = xr.DataArray(area / area.reshape(-1, factor).mean(axis=1).repeat(factor) / factor**2, dims="lat")
        weighted = found.data.isel(time=0, drop=True).drop_vars(("lat", "lon")).astype(np.float64) * weights
        # sum() of xarray would take NaN for 0
        values = weighted.coarsen(lat=factor, lon=factor).reduce(np.sum).data
    coordinates = {"class": list(CLASS_NAMES), "lat": grid.latitude, "lon": grid.longitude}
    shares = xr.DataArray(values, coordinates, ("class", "lat", "lon"))
    difference = shares - _targets(forcing, grid, found.years[0], crosswalk)
    largest = abs(difference).max("class")
    rows = xr.Dataset({"pixel": ("lat", largest_pixel(area, factor)), "cell": ("lat", grid.cell_area())})
    rows = rows.assign_coords(lat=grid.latitude)
    agreement = xr.Dataset(
        {"difference": difference, "largest": largest, "pixels": largest / rows["pixel"], "area": rows["cell"]}
    )
    for name, said in _LAYERS.items():
        agreement[name].attrs = {"long_name": said, "units": "m2" if name == "area" else "1"}
    return agreement


def _targets(forcing: xr.Dataset, grid: Grid, year: int | None, crosswalk: Crosswalk) -> xr.DataArray:
    """Shares that the forcing asks for, on the coarse cells of the map; NaN where it has no data."""
    states = [state for state, _ in crosswalk.states]
    names = list(find_sources(forcing, list(dict.fromkeys((*states, *CLASS_NAMES)))))
    crosswalk.sources(names, CLASS_NAMES)
    found = read_forcing(forcing, variables=names, year=year)
    placed = on_cells(of_year(found, year)[names].isel(time=0, drop=True), grid)

    def targets(values: NDArray[Any]) -> NDArray[np.float64]:
        states = {name: values[..., number] for number, name in enumerate(names)}
        return np.moveaxis(class_targets(states, crosswalk, CLASS_NAMES), 0, -1)

    asked = xr.apply_ufunc(
        targets,
        placed.to_dataarray("state").chunk(state=-1),
        input_core_dims=[["state"]],
        output_core_dims=[["class"]],
        dask="parallelized",
        output_dtypes=[np.float64],
        dask_gufunc_kwargs={"output_sizes": {"class": len(CLASS_NAMES)}},
    )
    return asked.assign_coords({"class": list(CLASS_NAMES)}).transpose("class", "lat", "lon")


def of_year(forcing: Forcing, year: int | None) -> xr.Dataset:
    """Return the year of a map (None where it does not say it), or the only one that there is; one time step.

    Raises :class:`TimeError` if the forcing has several years, but not this one, and warns
    (:class:`OtherYearWarning`) if the only year is another one.
    """
    years = forcing.years
    if year in years:
        return forcing.data.isel(time=[years.index(year)])
    if len(years) > 1:
        of_map = "the map does not say its year" if year is None else f"not {year}, of which the map is"
        raise TimeError(
            f"the forcing has {len(years)} years, {years[0]} to {years[-1]}, but {of_map}; "
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
    """Return the number of fine cells along a coarse cell, from the resolutions of a forcing and a map.

    Raises :class:`GridError` if the cells do not nest, or a ``factor`` that the caller gives is another one.
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
            f"the factor is {factor!r}, but {fitting} cells of the map ({fine.resolution:g} degrees) lie along one "
            f"of the forcing ({size:g} degrees); pass factor={fitting}"
        )
    return fitting


def on_cells(forcing: xr.Dataset, grid: Grid, *, whole: bool = False) -> xr.Dataset:
    """Place a canonical forcing on the coarse cells of a map, whatever its first longitude; NaN beyond it.

    With ``whole``, raises :class:`GridError` if cells lie outside the forcing.
    """
    tolerance = OFF_LATTICE * grid.resolution
    west = float(forcing["lon"][0]) - 0.5 * grid.resolution
    places = {"lat": grid.latitude, "lon": (grid.longitude - west) % 360 + west}
    found = [
        int((forcing.indexes[name].get_indexer(pd.Index(values), method="nearest", tolerance=tolerance) >= 0).sum())
        for name, values in places.items()
    ]
    outside = grid.rows * grid.columns - found[0] * found[1]
    if whole and outside:
        raise GridError(
            f"{outside} of {grid.rows * grid.columns} coarse cells of the map lie outside the forcing; "
            "give a forcing that covers the map, or select the part of the map that it covers"
        )
    placed = forcing.reindex(places, method="nearest", tolerance=tolerance)
    return placed.assign_coords(lat=grid.latitude, lon=grid.longitude)


@dataclass(frozen=True)
class CoarseAgreement:
    """Coarse agreement of a map: classes that are in the forcing, and over all compared cells.

    ``classes`` have the ``mean`` and ``mean_absolute`` difference of their share, map minus forcing, weighted by area,
    and the ``largest`` of any cell. ``within_a_pixel`` is the share of the cells in which every class is within one
    fine pixel of what is asked for; ``largest`` is the largest difference of any class in any cell, as a share of the
    cell.
    """

    classes: dict[str, dict[str, float]]
    cells: int
    within_a_pixel: float
    largest: float


def sum_up(agreement: xr.Dataset) -> CoarseAgreement | None:
    """Sum up the result of :func:`coarse_agreement`, in memory; None where there was nothing to compare."""
    largest = agreement["largest"].values
    known = np.isfinite(largest)
    if not known.any():
        return None
    area = np.broadcast_to(agreement["area"].values[:, None], largest.shape)
    classes = {}
    for name, difference in zip(agreement["class"].values, agreement["difference"].values, strict=True):
        valid = np.isfinite(difference)
        if valid.any():
            values, weights = difference[valid], area[valid]
            classes[str(name)] = {
                "mean": float(np.average(values, weights=weights)),
                "mean_absolute": float(np.average(np.abs(values), weights=weights)),
                "largest": float(np.abs(values).max()),
            }
    within = agreement["pixels"].values[known] <= 1 + 1e-6
    return CoarseAgreement(classes, int(known.sum()), float(within.mean()), float(largest[known].max()))
