"""The form in which Datasets lie in stores and NetCDF files: time axis, cell bounds, reference system."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any, TypeVar

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from xland.errors import TimeError
from xland.geo.coordinates import Names, bounds_name, find_role
from xland.geo.years import ENCODING, index_by, with_years, years_along
from xland.vocabulary import CLASSES

READING: dict[str, Any] = {"decode_coords": "all", "decode_times": xr.coders.CFDatetimeCoder(time_unit="s")}
"""How xarray is to open what was written: bounds and the reference system are coordinates, dates reach 850 and 2100."""


def for_files(ds: xr.Dataset) -> xr.Dataset:
    """Bring a Dataset into the form in which it is stored; nothing is computed.

    Years become dates with bounds, ``days since 1850-01-01``, and stand beside them as ``year``; cells of
    regular latitudes and longitudes get bounds. Where the labels of a dimension and what stands beside them
    differ (a Dataset whose ``time`` was assigned anew), the labels of the dimension count.
    """
    return with_cell_bounds(_dated(ds))


def from_files(ds: xr.Dataset) -> xr.Dataset:
    """Make years and names of classes selectable again in a Dataset that was opened.

    Where ``time`` are plain years, maps of earlier versions get the dates of today's, and those of others ``year``
    beside it.
    """
    # xarray does not list a single value as a coordinate if its name is part of that of bounds, as `time` is
    bounds = [str(each.encoding["bounds"]) for each in ds.variables.values() if "bounds" in each.encoding]
    ds = ds.set_coords([n for n in ds.data_vars if not ds[n].ndim and any(str(n) in name for name in bounds)])
    time = find_role(ds, "time")
    if time is not None and time.coordinate is not None:
        years = _years(ds, time)
        if years is not None and ds[time.coordinate].dtype.kind != "M" and _is_ours(ds):
            ds = with_years(ds, years, time.dimension, time.coordinate)
        elif years is not None and "year" not in ds.variables:
            ds = ds.assign_coords(
                year=(time.dimension, np.array(years, dtype=np.int32), {"long_name": "calendar year"})
            )
        ds = index_by(ds, time.coordinate, *(name for name in ds.coords if ds[name].dims == (time.dimension,)))
    return index_by(ds, "class_name")


def for_gis(ds: xr.Dataset) -> tuple[xr.Dataset, Hashable | None]:
    """Order the dimensions as GIS and CDO expect them: time first, latitude and longitude last.

    Parameters
    ----------
    ds : Dataset
        As returned by :func:`for_files`.

    Returns
    -------
    Dataset
        Along dates also where the caller's dimension were years, and along latitude and longitude also where
        these lie along rows and columns.
    hashable or None
        The time dimension.
    """
    found = find_role(ds, "time")
    time = None if found is None else found.dimension
    if time is not None and ds.coords.get(time, xr.DataArray()).dtype.kind != "M":
        dates = [name for name in ds.coords if ds[name].dims == (time,) and ds[name].dtype.kind == "M"]
        if dates:
            ds = _along(ds, time, dates[0])
            time = dates[0]
    horizontal = []
    for kind in ("latitude", "longitude"):
        names = find_role(ds, kind)
        if names is not None:
            # GDAL finds the place of the cells in coordinates that are called as their dimension
            ds = _along(ds, names.dimension, names.coordinate) if names.coordinate != names.dimension else ds
            horizontal.append(names.coordinate)
    for name, array in ds.data_vars.items():
        last = [dim for dim in horizontal if dim in array.dims]
        first = [time] if time in array.dims else []
        order = [*first, *(dim for dim in array.dims if dim not in {*first, *last}), *last]
        if tuple(order) != array.dims:
            ds = ds.assign({name: array.transpose(*order)})
    return ds, time


def _along(ds: xr.Dataset, dimension: Hashable, coordinate: Hashable) -> xr.Dataset:
    """Make a coordinate the dimension in place of the one along which it lies."""
    ds = ds.drop_indexes([coordinate] if coordinate in ds.xindexes else []).swap_dims({dimension: coordinate})
    bounds = ds[coordinate].encoding.pop("bounds", None)
    if bounds in ds.coords:
        ds = ds.rename_vars({bounds: bounds_name(coordinate)})
        ds[coordinate].encoding["bounds"] = bounds_name(coordinate)
    return ds


def with_cell_bounds(ds: xr.Dataset) -> xr.Dataset:
    """Give regular latitudes and longitudes the bounds of their cells, exact multiples of the cell size."""
    for kind in ("latitude", "longitude"):
        names = find_role(ds, kind)
        if names is None or names.coordinate is None:
            continue
        labels = np.asarray(ds[names.coordinate].values, dtype=np.float64)
        edges = _cell_edges(labels, 90.0 if kind == "latitude" else np.inf)
        if edges is None:
            continue
        bounds = bounds_name(names.dimension)
        ds = ds.assign_coords({bounds: ((names.dimension, "bnds"), edges)})
        ds[names.coordinate].attrs.pop("bounds", None)
        ds[names.coordinate].encoding["bounds"] = bounds
    return ds


def classes_along(array: xr.DataArray, dim: Hashable) -> tuple[str, ...] | None:
    """Names of the classes along a dimension of codes (or, in earlier stores, of names); None if it has no labels."""
    names = array.coords.get("class_name")
    if names is not None and names.dims == (dim,):
        return tuple(map(str, names.values))
    if dim not in array.coords:
        return None
    known = {each.code: each.name for each in CLASSES}
    return tuple(known.get(label, str(label)) for label in array[dim].values.tolist())


def _cell_edges(labels: NDArray[np.float64], most: float) -> NDArray[np.float64] | None:
    """First and last edge of each cell in the order of the axis; None where cells are not of one size."""
    steps = np.diff(labels)
    if not steps.size or not np.isfinite(steps).all():
        return None
    step = float(np.median(steps))
    # one jump, where the caller's longitudes begin anew
    if step == 0 or (np.abs(steps - step) > 1e-2 * abs(step)).sum() > 1:
        return None
    size = abs(step)
    size = 1 / round(1 / size) if size < 1 and abs(size * round(1 / size) - 1) < 1e-4 else round(size, 6)
    edges = labels[:, None] + np.copysign(size, step) * np.array([-0.5, 0.5])
    numbers = np.rint(edges / size)
    if np.abs(edges / size - numbers).max() < 1e-2:
        edges = numbers / round(1 / size) if size < 1 else numbers * size
    return np.clip(np.round(edges, 10) + 0.0, -most, most)


def _is_ours(ds: xr.Dataset) -> bool:
    return any(str(name).startswith("xland_") for name in ds.attrs)


def _dated(ds: xr.Dataset) -> xr.Dataset:
    time = find_role(ds, "time")
    if time is None or time.coordinate is None or (years := _years(ds, time)) is None:
        return ds
    labels = ds[time.coordinate]
    if labels.dtype.kind != "M":
        return with_years(ds, years, time.dimension, time.coordinate)
    if "year" in ds.coords and _is_yearly(labels.values):
        return with_years(ds, years, time.dimension, time.coordinate)
    if (labels.values == labels.values.astype("datetime64[D]")).all():
        ds = ds.copy()
        ds[time.coordinate].encoding |= ENCODING
    return ds


def _is_yearly(dates: NDArray[Any]) -> bool:
    return bool((dates == dates.astype("datetime64[Y]")).all())


def _years(ds: xr.Dataset, time: Names) -> tuple[int, ...] | None:
    """Years of dates or plain years; None of other times, which are left as they are."""
    labels = ds[time.coordinate]
    if labels.dtype.kind not in "iufM" or "since" in str(labels.attrs.get("units", "")):
        return None
    try:
        return years_along(labels)
    except TimeError:
        return None


CRS = "EPSG:4326"
"""Geographic coordinates on WGS 84."""

GRID_MAPPING = "spatial_ref"
"""Name of the scalar coordinate that holds the reference system."""

XarrayObject = TypeVar("XarrayObject", xr.Dataset, xr.DataArray)


def attach_crs(obj: XarrayObject, dims: tuple[Hashable, Hashable] = ("lat", "lon")) -> XarrayObject:
    """Return the object with its reference system as a scalar coordinate that every map refers to.

    No transform is stored with it: that would be wrong as soon as a region is selected.

    Parameters
    ----------
    obj : Dataset or DataArray
    dims : tuple of two dimensions
        Latitude and longitude; what has both is a map.
    """
    import rioxarray as rioxarray  # registers the accessor; takes too long for `import xland`

    placed = obj.rio.write_crs(CRS)
    maps = placed.data_vars.values() if isinstance(placed, xr.Dataset) else (placed,)
    for variable in maps:
        # as encoding: as an attribute, xarray would list it among the coordinates of a map that it writes
        known = variable.attrs.pop("grid_mapping", None) or variable.encoding.pop("grid_mapping", None)
        if known or set(dims) <= set(variable.dims):
            variable.encoding["grid_mapping"] = GRID_MAPPING
    return placed
