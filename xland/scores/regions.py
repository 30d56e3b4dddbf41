"""Parts of the land that are scored separately: bands of latitude, climate zones, a user's own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr

from xland.arguments import unknown
from xland.datasets import koppen
from xland.datasets.prepared import KOPPEN_ZONES
from xland.errors import RegionError
from xland.geo.grid import Grid
from xland.geo.split import CONTINENTS, find_cells
from xland.reading.variables import ClassMap, as_map, read_codes

MOST = 40
"""Regions of one map at most: more cannot be read in a table."""

_BANDS = {"north of 50°N": 50.0, "23.5°N to 50°N": 23.5, "tropics, 23.5°S to 23.5°N": -23.5, "south of 23.5°S": -90.0}


@dataclass(frozen=True, eq=False)
class Regions:
    """A map of region numbers and their names.

    Parameters
    ----------
    labels : DataArray (lat, lon) of integers
        Number of the region of each cell, from 1 in the order of ``names``; 0 belongs to none.
    names : tuple of str
    title : str
        What the regions are, for headings.
    """

    labels: xr.DataArray
    names: tuple[str, ...]
    title: str


def latitude_bands(frame: ClassMap) -> Regions:
    """Return the tropics, the mid-latitudes of both sides and the north, on the cells of a map."""
    band = 1 + np.searchsorted(-np.array([*_BANDS.values()][:-1]), -frame.grid.latitude)
    labels = np.broadcast_to(band.astype(np.uint8)[:, None], frame.grid.shape)
    return Regions(_on_grid(labels, frame.grid), tuple(_BANDS), "bands of latitude")


def climate_zones(frame: ClassMap) -> Regions:
    """Return the main climate zones of Koeppen and Geiger at the centre of each cell of a map, lazily.

    Raises
    ------
    DatasetError
        If the map of the zones cannot be fetched.
    """
    zones = koppen()
    whole = Grid.from_centres(zones["lat"].values, zones["lon"].values)
    # a centre on an edge belongs to the cell south-east of it
    rows = np.floor((whole.north - frame.grid.latitude) / whole.resolution + 1e-6).astype(np.intp)
    columns = np.floor((frame.grid.longitude - whole.west) % 360 / whole.resolution + 1e-6).astype(np.intp)
    chosen = zones.isel(lat=np.clip(rows, 0, whole.rows - 1), lon=columns % whole.columns)
    return Regions(_on_grid(chosen.data, frame.grid), KOPPEN_ZONES, "climate zones after Koeppen and Geiger")


def continents(frame: ClassMap) -> Regions:
    """Return the continents on the cells of a map, in blocks of 6 x 12 degrees."""
    labels = np.zeros(frame.grid.shape, dtype=np.uint8)
    for number, cells in enumerate(CONTINENTS.values(), 1):
        labels[find_cells(frame.grid, cells)] = number
    names = tuple(name.replace("-", " ").title() for name in CONTINENTS)
    return Regions(_on_grid(labels, frame.grid), names, "continents in blocks of 6 by 12 degrees")


KINDS: Mapping[str, Callable[[ClassMap], Regions]] = MappingProxyType(
    {"latitude": latitude_bands, "koppen": climate_zones, "continents": continents}
)
"""Regions that need no map of the user's, by name."""


def labelled(labels: xr.DataArray | xr.Dataset, names: Sequence[str] | None = None, title: str = "regions") -> Regions:
    """Take a user's map of region numbers.

    Parameters
    ----------
    labels : DataArray, or Dataset with one variable
        Whole numbers from 1; 0 or NaN belongs to no region. Any names and order of latitude and longitude.
    names : sequence of str, optional
        Names of regions 1, 2, ...; by default those of the CF attributes ``flag_values`` and
        ``flag_meanings``, or else their numbers.
    title : str

    Raises
    ------
    RegionError
        If this is not a map, or has several time steps; if there is no region, or more than 40; if a number is negative
        or not whole, or two regions have one name.
    """
    what = "map of regions"
    if isinstance(labels, xr.Dataset):
        bounds = {each.attrs.get("bounds") for each in labels.coords.values()}
        variables = [str(name) for name in labels.data_vars if labels[name].ndim >= 2 and name not in bounds]
        if len(variables) != 1:
            raise RegionError(
                f"the {what} has {len(variables)} variables ({', '.join(variables)}); pass the one to use"
            )
        labels = labels[variables[0]]
    if not isinstance(labels, xr.DataArray):
        raise RegionError(
            f"regions are of type {type(labels).__name__}; pass {', '.join(KINDS)}, or a map of region numbers"
        )
    labels = read_codes(labels, what=what, error=RegionError, holds="numbers", empty=0)
    steps = len(as_map(labels, what=what, holds="numbers").years)
    if steps > 1:
        raise RegionError(f"the {what} has {steps} time steps; select one")
    filled = labels.fillna(0) if labels.dtype.kind == "f" else labels
    found = np.asarray(da.unique(da.asarray(filled.data)))
    found = found[found != 0]
    wrong = found[(found < 0) | (found != np.trunc(found)) | ~np.isfinite(found)]
    if wrong.size:
        raise RegionError(
            f"regions must be whole numbers from 1, or 0 for none; found {', '.join(map(str, wrong[:6]))}"
        )
    if not found.size or found.size > MOST:
        raise RegionError(f"the {what} has {found.size} regions; a report can show 1 to {MOST}")
    known = _meanings(labels) if names is None else dict(enumerate(names, 1))
    called = tuple(known.get(int(each), f"region {int(each)}") for each in found)
    twice = sorted({name for name in called if called.count(name) > 1})
    if twice:
        raise RegionError(f"several regions have the name {', '.join(map(repr, twice))}; give each its own")
    renumbered = xr.apply_ufunc(
        lambda block: np.where(block > 0, np.searchsorted(found, block) + 1, 0).astype(np.uint8),
        filled,
        dask="parallelized",
        output_dtypes=[np.uint8],
    )
    return Regions(renumbered, called, title)


def choose(regions: str | Regions | xr.DataArray | xr.Dataset | None, frame: ClassMap) -> Regions | None:
    """Return the regions of a name in :data:`KINDS` or a map; :class:`RegionError` for other names."""
    if regions is None or isinstance(regions, Regions):
        return regions
    if not isinstance(regions, str):
        return labelled(regions)
    if regions not in KINDS:
        raise RegionError(f"{unknown('regions', regions, KINDS)}, or pass a map of region numbers")
    return KINDS[regions](frame)


def number_map(regions: Regions) -> ClassMap:
    """Return the numbers of the regions as a map that can be placed on others."""
    return as_map(regions.labels, what="map of regions", holds="numbers")


def _on_grid(labels: Any, grid: Grid) -> xr.DataArray:
    return xr.DataArray(labels, {"lat": grid.latitude, "lon": grid.longitude}, ("lat", "lon"), "region")


def _meanings(labels: xr.DataArray) -> dict[int, str]:
    numbers = np.atleast_1d(labels.attrs.get("flag_values", []))
    words = str(labels.attrs.get("flag_meanings", "")).split()
    if len(numbers) != len(words):
        return {}
    return {int(number): word.replace("_", " ") for number, word in zip(numbers, words, strict=True)}
