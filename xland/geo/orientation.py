"""Latitude, longitude and time of any object: what they are called, and the canonical order they are brought to.

Coordinates are found by their CF attributes, or else by common names. Units, bounds and projections are honoured or
refused by name. The canonical form has the dimensions ``time``, ..., ``lat``, ``lon``, latitude from north to south and
longitude from west to east. A global field starts at 180 W; a regional one is contiguous and may pass 180 degrees.
:func:`orient` brings an object there, and :func:`restore` brings a result back to the caller's names, order and range
of longitude. Neither reads a value: flips and rolls are slices, so that dask chunks stay whole and files are read in
stretches.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from xland.errors import GridError, XlandError
from xland.geo.grid import Grid, check_centres

XarrayObject = TypeVar("XarrayObject", xr.Dataset, xr.DataArray)

_COMMON_NAMES = {
    "latitude": ("lat", "latitude", "lats", "nav_lat", "ylat", "nlat", "y"),
    "longitude": ("lon", "longitude", "lons", "long", "nav_lon", "xlon", "nlon", "x"),
    "time": ("time", "year", "years", "t"),
}
_AXES = {"latitude": "Y", "longitude": "X", "time": "T"}
_CANONICAL = {"time": "time", "latitude": "lat", "longitude": "lon"}
_METRES = {"m", "metre", "meter", "metres", "meters", "km", "kilometres"}
_DEGREES = {"", "1", "none", "degree", "degrees", "deg", "degs", "°", "decimal_degrees", "degrees_decimal"}
_TURNED = {"degrees_south", "degree_south", "degrees_s", "degrees_west", "degree_west", "degrees_w"}
AXES = {
    "lat": {"standard_name": "latitude", "long_name": "latitude", "units": "degrees_north", "axis": "Y"},
    "lon": {"standard_name": "longitude", "long_name": "longitude", "units": "degrees_east", "axis": "X"},
}
"""Attributes of the canonical coordinates."""
_PLACEHOLDER = "__xland_values__"
_REGULAR = 1e-2  # share of a step by which a difference of longitudes may be off: float32 near 180 needs 1e-3


def bounds_name(dimension: Hashable) -> str:
    """Name of the bounds of the cells along a dimension; without blanks, which divide names in attributes."""
    # not after the coordinate: xarray takes one whose name is part of that of its bounds for bounds
    return "_".join([*str(dimension).split(), "bnds"])


@dataclass(frozen=True)
class Names:
    """What the caller calls a dimension and the coordinate along it."""

    dimension: Hashable
    coordinate: Hashable | None


def find_names(obj: xr.Dataset | xr.DataArray, kind: str, *, what: str) -> Names | None:
    """Find what the caller calls ``latitude``, ``longitude`` or ``time``, or raise a :class:`GridError`.

    None is returned only where there is no time dimension.
    """
    for index in obj.xindexes.values():
        if isinstance(index, xr.indexes.PandasMultiIndex):
            raise GridError(
                f"{what}: its cells are stacked along {index.dim!r} (a MultiIndex): bring them back to a grid with "
                f"unstack({index.dim!r})"
            )
    candidates = _candidates(obj, kind)
    lines = {name: each.dims[0] for name, each in candidates.items() if each.ndim == 1}
    dimensions = set(lines.values())
    if len(dimensions) == 1:
        dimension = dimensions.pop()
        # its own coordinate says more than others beside it, such as dates beside years
        own = dimension in lines or (dimension in obj.coords and str(dimension).lower() in _COMMON_NAMES[kind])
        coordinate = dimension if own else next(iter(lines))
        if kind != "time":
            _check_degrees(obj.coords.variables[coordinate], coordinate, kind, what)
        return Names(dimension, coordinate)
    bare = [d for d in obj.dims if str(d).lower() in _COMMON_NAMES[kind] and d not in obj.coords]
    if kind == "time" and not dimensions:
        return Names(bare[0], None) if bare else None
    listed = ", ".join(f"{name} ({size})" for name, size in obj.sizes.items()) or "none"
    first, its = next(iter(candidates.items()), ("", xr.Variable((), 0)))
    if dimensions:
        fault = f"{kind} is ambiguous: {', '.join(map(str, lines))} all look like it; dimensions found: {listed}; "
        fault += "select or drop all but one"
    elif its.ndim:
        fault = (
            f"{kind} {first!r} has the dimensions {', '.join(map(str, its.dims))}: a curvilinear or projected grid; "
        )
        fault += "regrid to regular latitude and longitude first (xarray-regrid, xESMF)"
    elif bare:
        fault = f"dimension {bare[0]!r} has no coordinate; assign the {kind}s of the cell centres"
    elif candidates:
        fault = f"{kind} {first!r} is a single value, not a dimension; dimensions: {listed}"
    else:
        fault = (
            f"no {kind} found; dimensions found: {listed}; rename it to {_CANONICAL[kind]!r} or give its coordinate "
        )
        fault += f"the standard_name {kind!r}"
    raise GridError(f"{what}: {fault}")


def find_horizontal(obj: xr.Dataset | xr.DataArray, *, what: str) -> tuple[Names, Names]:
    """Find what the caller calls latitude and longitude; errors as of :func:`find_names`."""
    latitude, longitude = find_names(obj, "latitude", what=what), find_names(obj, "longitude", what=what)
    if latitude is None or longitude is None:
        raise GridError(f"{what}: no latitude and longitude found")
    return latitude, longitude


def find_role(obj: xr.Dataset | xr.DataArray, kind: str) -> Names | None:
    """Find what latitude, longitude or time is called; None where it is missing or ambiguous."""
    try:
        return find_names(obj, kind, what="")
    except GridError:
        return None


def find_dimension(obj: xr.Dataset | xr.DataArray, kind: str) -> Hashable | None:
    """Find the dimension of latitude, longitude or time, also where it has no coordinate; None where there is none."""
    with suppress(GridError):
        if (names := find_names(obj, kind, what="")) is not None:
            return names.dimension
    called = {str(dim).lower(): dim for dim in obj.dims}
    return next((called[name] for name in _COMMON_NAMES[kind] if name in called), None)


def find_scalars(obj: xr.Dataset | xr.DataArray, kind: str) -> list[Hashable]:
    """Find coordinates without a dimension that may be of this kind, the likeliest first."""
    return [name for name, each in _candidates(obj, kind).items() if each.ndim == 0]


def _candidates(obj: xr.Dataset | xr.DataArray, kind: str) -> dict[Hashable, xr.Variable]:
    """Coordinates that may be of this kind, by the first rule that finds one with a dimension."""
    coords = obj.coords.variables
    # the bounds of a single time have no dimension but that of the edges, and are not times
    edges = set()
    for each in coords.values():
        said = each.encoding.get("bounds", each.attrs.get("bounds"))
        bounds = coords.get(said) if isinstance(said, str) else None
        if bounds is not None and bounds.ndim and bounds.dims[-1] not in coords:
            edges.add(bounds.dims[-1:])
    certain, called, along = {}, {}, {}
    for name, each in coords.items():
        if each.dims in edges:
            continue
        for key in ("standard_name", "units", "_CoordinateAxisType"):
            if str(each.attrs.get(key, "")).strip().lower() in _terms(kind, key):
                certain[name] = each
        if kind == "time" and each.dtype.kind == "M":
            certain[name] = each
        if str(name).lower() in _COMMON_NAMES[kind]:
            called[name] = each
        if str(each.attrs.get("axis", "")).strip().upper() == _AXES[kind]:
            along[name] = each
    every: dict[Hashable, xr.Variable] = {}
    most = 0
    for found in (certain, called, along):
        sizes = {each.ndim for each in found.values()}
        if 1 in sizes:
            # a map of latitudes is the true one: rows and columns beside it are those of a projection
            return found if kind == "time" or most < 2 else {}
        most = max(most, *sizes, 0)
        every |= found
    return every


@cache
def _terms(kind: str, key: str) -> frozenset[str]:
    """Return what an attribute of a coordinate says by the CF conventions, from the table of cf-xarray."""
    from cf_xarray.criteria import coordinate_criteria  # takes too long for `import xland`

    return frozenset(term.lower() for term in coordinate_criteria[kind].get(key, ()))


def refuse_packed(attributes: Mapping[Any, Any], what: str, error: type[XlandError]) -> None:
    """Refuse numbers that are still packed."""
    packed = sorted({"scale_factor", "add_offset"} & attributes.keys(), reverse=True)
    if packed:
        raise error(
            f"{what}: is packed ({', '.join(packed)}) and was opened with mask_and_scale=False; open it without that, "
            "or use xr.decode_cf(ds, decode_times=False); if its values are unpacked already, drop these attributes"
        )


def _check_degrees(coordinate: xr.Variable, name: Hashable, kind: str, what: str) -> None:
    """Refuse coordinates that say that they are not degrees of latitude or longitude, or are not numbers."""
    units = str(coordinate.attrs.get("units", "")).strip().lower()
    standard = str(coordinate.attrs.get("standard_name", "")).strip().lower()
    fault = ""
    if units in _METRES or standard in _terms("X", "standard_name") | _terms("Y", "standard_name"):
        fault = f"is {standard or 'in ' + units}, not in degrees; reproject to latitude and longitude first "
        fault += "(rioxarray: obj.rio.reproject('EPSG:4326'))"
    elif units in {"rad", "radian", "radians"}:
        fault = f"is in {units}, not in degrees; convert it: obj.assign_coords({name}=np.rad2deg(obj[{name!r}]))"
    elif units in _TURNED:
        fault = f"is in {units}; change its sign: obj.assign_coords({name}=-obj[{name!r}]), and set its units to "
        fault += "degrees_north or degrees_east"
    elif not {units, units.replace(" ", "_")} & (_terms(kind, "units") | _DEGREES):
        fault = f"is in {units!r}, not in degrees; convert it, or correct `units`"
    elif coordinate.dtype.kind not in "iuf":
        fault = f"holds {coordinate.dtype} values; they must be numbers, in degrees"
    if fault:
        raise GridError(f"{what}: the {kind} {name!r} {fault}")
    refuse_packed(coordinate.attrs, f"{what}: the {kind} {name!r}", GridError)


def check_reference(obj: xr.Dataset | xr.DataArray, what: str) -> None:
    """Refuse a projection, a rotated pole, another meridian, and coordinates that are not the middles of their bounds.

    ``obj`` is a whole Dataset: bounds and grid mappings are often variables beside those that are read.
    """
    if isinstance(obj, xr.Dataset):
        variables: dict[Hashable, xr.Variable] = dict(obj.variables)
    else:
        variables = {**obj.coords.variables, obj.name: obj.variable}
    mappings = ["spatial_ref", "crs"]
    for name, variable in variables.items():
        said = variable.attrs.get("grid_mapping", variable.encoding.get("grid_mapping")) or ""
        if not isinstance(said, str):
            raise GridError(f"{what}: the attribute grid_mapping of {name!r} is {said!r}, not a name; remove it")
        mappings += said.replace(":", " ").split()
    for mapping in dict.fromkeys(mappings):
        if mapping in variables and not variables[mapping].ndim:
            _check_mapping(mapping, variables[mapping].attrs, what)
    for kind in ("latitude", "longitude"):
        for name, each in _candidates(obj, kind).items():
            bounds = each.attrs.get("bounds", each.encoding.get("bounds"))
            if isinstance(bounds, str) and bounds in variables and each.ndim == 1:
                _check_bounds(each.values, variables[bounds].values, f"{what}: the {kind} {name!r}", bounds)


def _check_mapping(name: str, attributes: Mapping[Any, Any], what: str) -> None:
    kind = str(attributes.get("grid_mapping_name") or "").strip().lower()
    wkt = str(attributes.get("crs_wkt") or attributes.get("spatial_ref") or "").strip().lower()
    if kind not in ("", "latitude_longitude") or wkt.startswith(("projcs", "projcrs", "derivedprojcrs", "geoccs")):
        raise GridError(
            f"{what}: is in the projection {kind or wkt[:60]!r} ({name!r}): bring it to a regular grid of latitude and "
            "longitude first, for example with rio.reproject('EPSG:4326') and nearest neighbours"
        )
    meridian = attributes.get("longitude_of_prime_meridian", 0.0)
    if str(meridian).strip() not in ("0", "0.0"):
        raise GridError(f"{what}: longitudes count from {meridian} degrees east ({name!r}), not from Greenwich")


def _check_bounds(values: NDArray[Any], edges: NDArray[Any], what: str, bounds: str) -> None:
    """Refuse coordinates that are corners: they lie at an edge of their cell, not in its middle."""
    if edges.shape != (*values.shape, 2) or values.dtype.kind not in "iuf" or edges.dtype.kind not in "iuf":
        return  # bounds of something else
    size = np.abs(edges[:, 1] - edges[:, 0])
    size = np.where(size > 180, 360 - size, size)  # a cell across the date line
    off = (edges.mean(axis=1) - values) % 180
    wrong = np.minimum(off, 180 - off) > np.maximum(0.05 * size, 1e-4)
    if wrong.any():
        at = int(wrong.argmax())
        raise GridError(
            f"{what} is not the middle of its cells: {values[at]:g} has the bounds {edges[at, 0]:g} and "
            f"{edges[at, 1]:g} ({int(wrong.sum())} of {values.size} cells); give the cell centres, or correct "
            f"{bounds!r}"
        )


def grid_of(latitude: NDArray[Any], longitude: NDArray[Any], what: str) -> tuple[Grid, bool, bool, int]:
    """Find the canonical grid of cell centres in any order and range, where longitude may jump at one place.

    Returned with it: whether latitude is ascending, whether longitude is descending, and the position of the canonical
    first column among the columns in eastward order.
    """
    lats, lons = np.asarray(latitude, dtype=np.float64), np.asarray(longitude, dtype=np.float64)
    ascending = lats.size > 1 and bool(lats[-1] > lats[0])
    try:
        check_centres(lons, "longitude")
        steps = (np.diff(lons) + 180) % 360 - 180
        # the smallest way from one column to the next is the step; all others are jumps
        descending = bool(steps[np.abs(steps).argmin()] < 0)
        lons, steps = (lons[::-1], -steps[::-1]) if descending else (lons, steps)
        step = float(steps[np.abs(steps).argmin()])
        tolerance = max(_REGULAR * step, 1e-4)
        # the mean of those that do not jump is far better than one difference of float32 numbers
        step = float(steps[np.abs(steps - step) <= tolerance].mean())
        count, breaks = lons.size, np.flatnonzero(np.abs(steps - step) > tolerance)
        if count * step > 360 + step / 2:
            raise GridError(
                f"{count} columns of {step:g} degrees span more than the globe; "
                "drop the repeated meridian, for example with isel(lon=slice(0, -1))"
            )
        closes = abs((lons[0] - lons[-1] + 180) % 360 - 180 - step) <= tolerance
        if breaks.size > 1 or (breaks.size == 1 and not closes):
            at = int(breaks[0])
            raise GridError(
                f"longitude is not contiguous: {lons[at]:g} is followed by {lons[at + 1]:g} where the step is "
                f"{step:g} ({breaks.size} such places); unsorted or missing columns"
            )
        whole = abs(count * step - 360) <= step / 2
        step = 360 / count if whole else step
        # a centre that rounding puts a little west of 180 W stays in the west
        wrapped = np.mod(lons + 180 + _REGULAR * step, 360) - 180 - _REGULAR * step
        start = int(wrapped.argmin()) if whole else int(breaks[0]) + 1 if breaks.size else 0
        centres = float(wrapped[start]) + step * np.arange(count)
        return Grid.from_centres(lats[::-1] if ascending else lats, centres), ascending, descending, start
    except GridError as error:
        raise type(error)(f"{what}: {error}") from None


@dataclass(frozen=True)
class Orientation:
    """Names, order and labels of the caller's object, for :func:`restore`; ``grid`` is the canonical grid.

    ``names`` are the caller's by the canonical ones, ``time`` (if there is one), ``lat`` and ``lon``. ``start`` is the
    position of the canonical first column among the caller's columns in eastward order. The labels are the caller's
    own: results on the same grid must align with the caller's data to the last bit.
    """

    names: dict[str, Names]
    dimensions: tuple[Hashable, ...]
    grid: Grid
    latitude_ascending: bool
    longitude_descending: bool
    start: int
    latitude_labels: NDArray[Any] = field(repr=False, compare=False)
    longitude_labels: NDArray[Any] = field(repr=False, compare=False)


def orient(obj: XarrayObject, *, what: str) -> tuple[XarrayObject, Orientation]:
    """Bring an object to the canonical names, order and range, without reading a value.

    Parameters
    ----------
    obj : Dataset or DataArray
        With one-dimensional latitude and longitude. Other dimensions are put between ``time`` and ``lat``.
    what : str
        What the object is, for messages: ``"forcing"``, ``"prior"``.

    Returns
    -------
    object of the same type
        Labels of ``lat`` and ``lon`` are those of its :class:`~xland.geo.grid.Grid`.
    Orientation
        For :func:`restore`.

    Raises
    ------
    GridError
        If it is not a Dataset or DataArray; if a dimension is missing or ambiguous; if coordinates have two dimensions,
        are projected or irregular, or hold duplicates.
    """
    if not isinstance(obj, (xr.Dataset, xr.DataArray)):
        raise GridError(
            f"{what}: is of type {type(obj).__name__}; pass an xarray DataArray or Dataset with latitude and longitude"
        )
    time, (latitude, longitude) = find_names(obj, "time", what=what), find_horizontal(obj, what=what)
    names = {"lat": latitude, "lon": longitude} if time is None else {"time": time, "lat": latitude, "lon": longitude}
    horizontal = latitude.dimension, longitude.dimension
    if horizontal[0] == horizontal[1]:
        raise GridError(f"{what}: latitude and longitude have the same dimension: these are points, not a grid")
    check_reference(obj, what)
    ds: xr.Dataset = obj.to_dataset(name=_PLACEHOLDER) if isinstance(obj, xr.DataArray) else obj
    maps = (each.dims for each in ds.data_vars.values() if set(horizontal) <= set(each.dims))
    labels = [np.asarray(ds[names[each].coordinate].values) for each in ("lat", "lon")]
    grid, ascending, descending, start = grid_of(labels[0], labels[1], what)
    orientation = Orientation(names, next(maps, horizontal), grid, ascending, descending, start, *labels)
    for canonical, each in names.items():
        source = each.dimension if each.coordinate is None else each.coordinate
        if source != canonical == "time" and canonical in ds.coords and ds[canonical].dims == (each.dimension,):
            ds = ds.drop_vars(canonical)  # dates beside years, which say the same
        if canonical in {*ds.variables, *ds.dims} - {source, each.dimension}:
            raise GridError(
                f"{what}: {source!r} is the {canonical} coordinate, but {canonical!r} is the name of something else; "
                "drop or rename that"
            )
        if source != each.dimension:
            ds = ds.drop_vars([each.dimension], errors="ignore").swap_dims({each.dimension: source})
        ds = ds if source == canonical else ds.rename({source: canonical})
    ds = ds.isel(lat=slice(None, None, -1)) if ascending else ds
    ds = ds.isel(lon=slice(None, None, -1)) if descending else ds
    ds = _join(ds, [slice(start, None), slice(0, start)] if start else [])
    ds = _transpose(_label(ds, lat=grid.latitude, lon=grid.longitude), ("time",), ("lat", "lon"))
    return ds[_PLACEHOLDER].rename(obj.name) if isinstance(obj, xr.DataArray) else ds, orientation


def restore(obj: XarrayObject, orientation: Orientation) -> XarrayObject:
    """Bring a canonical object back to the caller's names, order and range of longitude.

    Parameters
    ----------
    obj : Dataset or DataArray
        In canonical form, on the grid that was oriented, any refinement of it, or any part of one of these.
    orientation : Orientation
        From :func:`orient`.

    Returns
    -------
    object of the same type
        Lazy where ``obj`` was. On the caller's own grid the labels are exactly the caller's. A part across the seam of
        the caller's range is contiguous, in numbers beyond it: 170 to 190 where it is -180 to 180.

    Raises
    ------
    GridError
        If some columns lie outside the longitudes that were oriented.
    """
    ds = obj.to_dataset(name=_PLACEHOLDER) if isinstance(obj, xr.DataArray) else obj
    labels: dict[str, NDArray[Any]] = {}
    if "lon" in ds.dims:
        slices, labels["lon"] = _callers_columns(np.asarray(ds["lon"].values, dtype=np.float64), orientation)
        ds = _join(ds, slices)
    if "lat" in ds.dims:
        labels["lat"] = np.asarray(ds["lat"].values, dtype=np.float64)
    for name, turned, own in (
        ("lon", orientation.longitude_descending, orientation.longitude_labels),
        ("lat", orientation.latitude_ascending, orientation.latitude_labels),
    ):
        if name in labels and turned:
            ds, labels[name] = ds.isel({name: slice(None, None, -1)}), labels[name][::-1]
        tolerance = 1e-3 * orientation.grid.resolution
        if name in labels and labels[name].shape == own.shape and np.abs(labels[name] - own).max() <= tolerance:
            labels[name] = own
    ds = _label(ds, **labels)
    back = {names.dimension: canonical for canonical, names in orientation.names.items()}
    order = [back.get(name, name) for name in orientation.dimensions]
    at = next((i for i, name in enumerate(order) if name in ("lat", "lon")), len(order))
    if order != list(orientation.names):
        ds = _transpose(ds, order[:at], order[at:])
    for canonical, names in orientation.names.items():
        if canonical not in ds.dims:
            continue
        if names.coordinate is None or names.coordinate == names.dimension:
            ds = ds if names.dimension == canonical else ds.rename({canonical: names.dimension})
            continue
        ds = ds.rename_dims({canonical: names.dimension})
        ds = ds.drop_indexes(canonical) if canonical in ds.xindexes else ds
        ds = ds if names.coordinate == canonical else ds.rename_vars({canonical: names.coordinate})
    return ds[_PLACEHOLDER].rename(obj.name) if isinstance(obj, xr.DataArray) else ds


def _callers_columns(lon: NDArray[np.float64], orientation: Orientation) -> tuple[list[slice], NDArray[np.float64]]:
    """Slices of canonical columns in the caller's order, going eastwards, and the caller's labels for them."""
    grid, own = orientation.grid, np.asarray(orientation.longitude_labels, dtype=np.float64)
    own = own[::-1] if orientation.longitude_descending else own
    # a part of a global field may pass the date line: the cells of the grid are a ring
    inside = np.mod(lon - grid.west + 1e-9, 360)
    column = np.floor(inside / grid.resolution).astype(np.intp)
    if (column >= grid.columns).any():
        raise GridError(
            f"longitudes {lon[0]:g} to {lon[-1]:g} reach beyond the grid they should be restored to ({grid})"
        )
    place = (column + orientation.start) % grid.columns
    offset = np.round((own[place] - lon) / 360) * 360
    order = np.lexsort((inside, place))
    labels = np.round(lon + offset, 10)[order]
    cuts = [0, *(np.flatnonzero(np.diff(order) != 1) + 1).tolist(), lon.size]
    if lon.size > 1:
        step = lon[1] - lon[0]
        part = lon.size * step < grid.columns * grid.resolution - step / 2
        gaps, torn = (np.abs(np.diff(each) - step).max() > 0.1 * step for each in (lon, labels))
        if part and torn and not gaps:  # a contiguous part that falls apart at the caller's seam stays in one piece
            return [], np.round(lon + min(offset, key=abs), 10)
    return [slice(int(order[a]), int(order[b - 1]) + 1) for a, b in pairwise(cuts)], labels


def _label(ds: xr.Dataset, **labels: NDArray[Any]) -> xr.Dataset:
    coords = {}
    for name, values in labels.items():
        attributes = {**AXES[name], **ds[name].attrs}
        attributes.pop("bounds", None)  # the bounds are another variable, which results do not have
        coords[name] = (name, values, attributes)
    return ds.assign_coords(coords)


def _transpose(ds: xr.Dataset, first: Sequence[Hashable], last: Sequence[Hashable]) -> xr.Dataset:
    """Order the dimensions of all maps: the first, those that are not named, the last; bounds are left as they are."""
    turned = {}
    for name, variable in ds.variables.items():
        others = [dim for dim in variable.dims if dim not in (*first, *last)]
        order = tuple(dim for dim in (*first, *others, *last) if dim in variable.dims)
        if order != variable.dims and {"lat", "lon"} <= set(order):
            # a transposed lazy array would be read cell by cell; dask transposes what it has read
            turned[name] = _in_chunks(variable).transpose(*order)
    return ds.assign(turned)


def _join(ds: xr.Dataset, slices: Sequence[slice]) -> xr.Dataset:
    """Select slices of columns and put them one behind the other, without fancy indexing of lazy arrays."""
    if len(slices) < 2:
        return ds
    variables = {
        name: xr.Variable.concat([_in_chunks(variable).isel(lon=part) for part in slices], dim="lon")
        if "lon" in variable.dims
        else variable
        for name, variable in ds.variables.items()
    }
    joined = xr.Dataset(
        {name: variables[name] for name in ds.data_vars}, {name: variables[name] for name in ds.coords}, ds.attrs
    )
    for name in ds.xindexes:
        if name not in joined.xindexes and joined[name].ndim == 1:
            joined = joined.set_xindex([name])
    return joined


def _in_chunks(variable: xr.Variable) -> xr.Variable:
    """Make an array that a file holds a dask array with one time step in a chunk; leave others as they are."""
    # xarray has no public way to ask; `.data` would read the file
    if isinstance(variable._data, np.ndarray) or isinstance(variable, xr.IndexVariable) or variable.chunks is not None:  # noqa: SLF001
        return variable.to_base_variable()
    return variable.chunk({d: 1 if d == "time" else -1 for d in variable.dims})
