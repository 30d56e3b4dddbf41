"""The form of Datasets in stores and NetCDF files: time axis, cell bounds, order of dimensions, reference system."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from xland.errors import TimeError
from xland.geo.orientation import Names, XarrayObject, bounds_name, find_role
from xland.geo.years import ENCODING, index_by, with_years, years_along
from xland.vocabulary import CLASSES

READING: dict[str, Any] = {"decode_coords": "all", "decode_times": xr.coders.CFDatetimeCoder(time_unit="s")}
"""How xarray is to open what was written: bounds and the reference system are coordinates, dates reach 850 and 2100."""

CRS = "EPSG:4326"
"""Geographic coordinates on WGS 84."""

GRID_MAPPING = "spatial_ref"
"""Name of the scalar coordinate that holds the reference system."""


def for_files(ds: xr.Dataset) -> xr.Dataset:
    """Bring a Dataset into the form in which it is stored; nothing is computed.

    Years become dates with bounds, ``days since 1850-01-01``, with ``year`` beside them; cells of regular latitudes
    and longitudes get bounds. Where the labels of a dimension and those beside it differ (a Dataset whose ``time`` was
    assigned again), the labels of the dimension count.
    """
    time = find_role(ds, "time")
    years = None if time is None else _years(ds, time)
    if time is not None and years is not None:
        labels = ds[time.coordinate]
        dates = labels.dtype.kind == "M"
        if not dates or ("year" in ds.coords and (labels.values == labels.values.astype("datetime64[Y]")).all()):
            ds = with_years(ds, years, time.dimension, time.coordinate)
        elif (labels.values == labels.values.astype("datetime64[D]")).all():
            ds = ds.copy()
            ds[time.coordinate].encoding |= ENCODING
    return with_cell_bounds(ds)


def from_files(ds: xr.Dataset) -> xr.Dataset:
    """Make years and names of classes selectable again in a Dataset that was opened.

    Where ``time`` are plain years, maps of earlier versions get dates, and others get ``year`` beside it.
    """
    # xarray does not list a single value as a coordinate if its name is part of that of bounds, as `time` is
    bounds = [str(each.encoding["bounds"]) for each in ds.variables.values() if "bounds" in each.encoding]
    ds = ds.set_coords([n for n in ds.data_vars if not ds[n].ndim and any(str(n) in name for name in bounds)])
    time = find_role(ds, "time")
    if time is not None and time.coordinate is not None:
        years = _years(ds, time)
        ours = any(str(name).startswith("xland_") for name in ds.attrs)
        if years is not None and ds[time.coordinate].dtype.kind != "M" and ours:
            ds = with_years(ds, years, time.dimension, time.coordinate)
        elif years is not None and "year" not in ds.variables:
            year = (time.dimension, np.array(years, dtype=np.int32), {"long_name": "calendar year"})
            ds = ds.assign_coords(year=year)
        ds = index_by(ds, time.coordinate, *(name for name in ds.coords if ds[name].dims == (time.dimension,)))
    return index_by(ds, "class_name")


def for_gis(ds: xr.Dataset) -> tuple[xr.Dataset, Hashable | None]:
    """Order the dimensions of what :func:`for_files` returned for GIS and CDO, and return the time dimension.

    Time is first, latitude and longitude last. Dates are the dimension also where the caller's are years, and latitude
    and longitude also where they are along rows and columns.
    """
    found = find_role(ds, "time")
    time = None if found is None else found.dimension
    if time is not None and ds.coords.get(time, xr.DataArray()).dtype.kind != "M":
        dates = [name for name in ds.coords if ds[name].dims == (time,) and ds[name].dtype.kind == "M"]
        if dates:
            ds = _along(ds, time, dates[0])
            time = dates[0]
    horizontal = []
    for names in (find_role(ds, "latitude"), find_role(ds, "longitude")):
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
    for kind, most in (("latitude", 90.0), ("longitude", np.inf)):
        names = find_role(ds, kind)
        if names is None or names.coordinate is None:
            continue
        edges = _cell_edges(np.asarray(ds[names.coordinate].values, dtype=np.float64))
        if edges is None:
            continue
        bounds = bounds_name(names.dimension)
        ds = ds.assign_coords({bounds: ((names.dimension, "bnds"), np.clip(edges, -most, most))})
        ds[names.coordinate].attrs.pop("bounds", None)
        ds[names.coordinate].encoding["bounds"] = bounds
    return ds


def _cell_edges(labels: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """First and last edge of each cell in the order of the axis; None where cells are not of one size."""
    steps = np.diff(labels)
    if not steps.size or not np.isfinite(steps).all():
        return None
    step = float(np.median(steps))
    # one jump, where the caller's longitudes start again
    if step == 0 or (np.abs(steps - step) > 1e-2 * abs(step)).sum() > 1:
        return None
    size = abs(step)
    size = 1 / round(1 / size) if size < 1 and abs(size * round(1 / size) - 1) < 1e-4 else round(size, 6)
    edges = labels[:, None] + np.copysign(size, step) * np.array([-0.5, 0.5])
    numbers = np.rint(edges / size)
    if np.abs(edges / size - numbers).max() < 1e-2:
        edges = numbers / round(1 / size) if size < 1 else numbers * size
    return np.round(edges, 10) + 0.0


def classes_along(array: xr.DataArray, dim: Hashable) -> tuple[str, ...] | None:
    """Names of the classes along a dimension of codes (or, in earlier stores, of names); None if it has no labels."""
    names = array.coords.get("class_name")
    if names is not None and names.dims == (dim,):
        return tuple(map(str, names.values))
    if dim not in array.coords:
        return None
    known = {each.code: each.name for each in CLASSES}
    return tuple(known.get(label, str(label)) for label in array[dim].values.tolist())


def _years(ds: xr.Dataset, time: Names) -> tuple[int, ...] | None:
    """Years of dates or plain years; None of other times, which are left as they are."""
    labels = xr.DataArray() if time.coordinate is None else ds[time.coordinate]
    if not labels.ndim or labels.dtype.kind not in "iufM" or "since" in str(labels.attrs.get("units", "")):
        return None
    try:
        return years_along(labels)
    except TimeError:
        return None


def attach_crs(obj: XarrayObject, dims: tuple[Hashable, Hashable] = ("lat", "lon")) -> XarrayObject:
    """Return the object with its reference system as a scalar coordinate that every map with both dims refers to.

    No transform is stored with it: that would be wrong as soon as a region is selected.
    """
    import rioxarray as rioxarray  # registers the accessor; takes too long for `import xland`

    placed = obj.rio.write_crs(CRS)
    for variable in placed.data_vars.values() if isinstance(placed, xr.Dataset) else (placed,):
        # as encoding: as an attribute, xarray would list it among the coordinates of a map that it writes
        known = variable.attrs.pop("grid_mapping", None) or variable.encoding.pop("grid_mapping", None)
        if known or set(dims) <= set(variable.dims):
            variable.encoding["grid_mapping"] = GRID_MAPPING
    return placed
