"""Latitude, longitude and time of any Dataset: what they are called, and whether they are regular.

Coordinates are found through their CF attributes, or else by common names. What they say about
themselves is honoured or refused by name: units, bounds, projections. Longitudes are laid on the
globe as a ring, so that neither the range they are given in nor where they start matters.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from xland.errors import GridError

_COMMON_NAMES = {
    "latitude": ("lat", "latitude", "lats", "nav_lat", "ylat", "nlat", "y"),
    "longitude": ("lon", "longitude", "lons", "long", "nav_lon", "xlon", "nlon", "x"),
    "time": ("time", "year", "years", "t"),
}
_AXES = {"latitude": "Y", "longitude": "X", "time": "T"}
_DEGREES = {
    "",
    "1",
    "none",
    "degree",
    "degrees",
    "deg",
    "degs",
    "°",
    "decimal_degrees",
    "decimal degrees",
    "degrees_decimal",
}
CANONICAL = {"latitude": "lat", "longitude": "lon", "time": "time"}
_REGULAR = 1e-2
"""Share of a step by which a difference of longitudes may be off: float32 near 180 needs 1e-3."""


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
    """Find what the caller calls latitude, longitude or time.

    Parameters
    ----------
    obj : Dataset or DataArray
    kind : {"latitude", "longitude", "time"}
    what : str
        What the object is, for messages.

    Returns
    -------
    Names or None
        None only for time: there is no such dimension.

    Raises
    ------
    GridError
        If the dimension is missing or ambiguous, or its coordinate has two dimensions.
    """
    _refuse_stacked(obj, what)
    candidates = _candidates(obj, kind)
    lines = [name for name in candidates if obj[name].ndim == 1]
    dimensions = {obj[name].dims[0] for name in lines}
    listed = ", ".join(f"{name} ({size})" for name, size in obj.sizes.items()) or "none"
    if len(dimensions) > 1:
        raise GridError(
            f"{what}: {kind} is ambiguous: {', '.join(map(str, lines))} all look like it; dimensions found: {listed}; "
            "select or drop all but one"
        )
    if lines:
        dimension = dimensions.pop()
        # its own coordinate says more than others that stand beside it, such as dates beside years
        own = dimension in lines or (dimension in obj.coords and str(dimension).lower() in _COMMON_NAMES[kind])
        coordinate = dimension if own else lines[0]
        if kind != "time":
            _check_degrees(obj[coordinate], kind, what)
        return Names(dimension, coordinate)
    bare = [d for d in obj.dims if str(d).lower() in _COMMON_NAMES[kind] and d not in obj.coords]
    if kind == "time":
        return Names(bare[0], None) if bare else None
    curved = [name for name in candidates if obj[name].ndim > 1]
    if curved:
        raise GridError(
            f"{what}: {kind} {curved[0]!r} has the dimensions {', '.join(map(str, obj[curved[0]].dims))}: "
            "a curvilinear or projected grid; regrid to regular latitude and longitude first (xarray-regrid, xESMF)"
        )
    if bare:
        raise GridError(f"{what}: dimension {bare[0]!r} has no coordinate; assign the {kind}s of the cell centres")
    if candidates:
        raise GridError(f"{what}: {kind} {candidates[0]!r} is a single value, not a dimension; dimensions: {listed}")
    raise GridError(
        f"{what}: no {kind} found; dimensions found: {listed}; rename it to {CANONICAL[kind]!r} "
        f"or give its coordinate the standard_name {kind!r}"
    )


def find_role(obj: xr.Dataset | xr.DataArray, kind: str) -> Names | None:
    """Find what latitude, longitude or time is called; None where it is missing or ambiguous."""
    try:
        return find_names(obj, kind, what="")
    except GridError:
        return None


def find_dimension(obj: xr.Dataset | xr.DataArray, kind: str) -> Hashable | None:
    """Find the dimension of latitude, longitude or time, also where it has no coordinate; None where there is none."""
    names = find_role(obj, kind)
    if names is not None:
        return names.dimension
    called = {str(dim).lower(): dim for dim in obj.dims}
    return next((called[name] for name in _COMMON_NAMES[kind] if name in called), None)


def find_scalars(obj: xr.Dataset | xr.DataArray, kind: str) -> list[Hashable]:
    """Find coordinates without a dimension that may be of this kind, the likeliest first."""
    return [name for name in _candidates(obj, kind) if obj[name].ndim == 0]


def _candidates(obj: xr.Dataset | xr.DataArray, kind: str) -> list[Hashable]:
    """Coordinates that may be of this kind, by the first rule that finds one with a dimension."""
    edges = _edges(obj)
    coords = {name: each for name, each in obj.coords.items() if each.dims not in edges}
    certain = ("standard_name", "units", "_CoordinateAxisType")
    rules = [
        [
            name
            for name, each in coords.items()
            if any(_word(each.attrs.get(key)) in _terms(kind, key) for key in certain)
            or (kind == "time" and each.dtype.kind == "M")
        ],
        [name for name in coords if str(name).lower() in _COMMON_NAMES[kind]],
        [name for name, each in coords.items() if _word(each.attrs.get("axis")) in _terms(_AXES[kind], "axis")],
    ]
    every: list[Hashable] = []
    for found in rules:
        if any(obj[name].ndim == 1 for name in found):
            # a map of latitudes is the true one: rows and columns beside it are those of a projection
            return [] if any(obj[name].ndim > 1 for name in every) and kind != "time" else found
        every += [name for name in found if name not in every]
    return every


def _edges(obj: xr.Dataset | xr.DataArray) -> set[tuple[Hashable, ...]]:
    """Dimensions that count the edges of cells: the bounds of a single time have no other, and are not times."""
    linked = {each.encoding.get("bounds", each.attrs.get("bounds")) for each in obj.coords.values()}
    last = {obj.coords[name].dims[-1] for name in linked if name in obj.coords and obj.coords[name].ndim}
    return {(dim,) for dim in last if dim not in obj.coords}


@cache
def _terms(kind: str, key: str) -> frozenset[str]:
    """Return what an attribute of a coordinate says by the CF conventions, from the table of cf-xarray."""
    from cf_xarray.criteria import coordinate_criteria  # takes too long for `import xland`

    return frozenset(term.lower() for term in coordinate_criteria[kind].get(key, ()))


def _word(value: object) -> str:
    return str(value).strip().lower() if value is not None else ""


def _refuse_stacked(obj: xr.Dataset | xr.DataArray, what: str) -> None:
    stacked = [name for name, index in obj.xindexes.items() if isinstance(obj.indexes.get(name), pd.MultiIndex)]
    if stacked:
        raise GridError(
            f"{what}: its cells are stacked along {obj[stacked[0]].dims[0]!r} (a MultiIndex): bring them back to a "
            f"grid with unstack({obj[stacked[0]].dims[0]!r})"
        )


def _check_degrees(coordinate: xr.DataArray, kind: str, what: str) -> None:
    """Refuse coordinates that say that they are not degrees of latitude or longitude, or are no numbers."""
    units, standard = _word(coordinate.attrs.get("units")), _word(coordinate.attrs.get("standard_name"))
    name = coordinate.name
    if standard in _terms("X", "standard_name") | _terms("Y", "standard_name") or units in {
        "m",
        "metre",
        "meter",
        "metres",
        "meters",
        "km",
        "kilometres",
    }:
        raise GridError(
            f"{what}: {name!r} is {standard or 'in ' + units}, not in degrees; reproject to latitude and longitude "
            "first (rioxarray: obj.rio.reproject('EPSG:4326'))"
        )
    if units in {"rad", "radian", "radians"}:
        raise GridError(
            f"{what}: {name!r} is in {units}, not in degrees; convert it: "
            f"obj.assign_coords({name}=np.rad2deg(obj[{str(name)!r}]))"
        )
    if units in {"degrees_south", "degree_south", "degrees_s", "degrees_west", "degree_west", "degrees_w"}:
        raise GridError(
            f"{what}: {name!r} is in {units}; turn it round: obj.assign_coords({name}=-obj[{str(name)!r}]), and say "
            "degrees_north or degrees_east"
        )
    if units.replace(" ", "_") not in _terms(kind, "units") | _DEGREES and units not in _DEGREES:
        raise GridError(
            f"{what}: the {kind} {name!r} is in {units!r}; it must be in degrees: convert it, or correct `units`"
        )
    if coordinate.dtype.kind not in "iuf":
        raise GridError(
            f"{what}: the {kind} {name!r} holds {coordinate.dtype} values; they must be numbers, in degrees"
        )
    packed = [key for key in ("scale_factor", "add_offset") if key in coordinate.attrs]
    if packed:
        raise GridError(
            f"{what}: the {kind} {name!r} is packed ({', '.join(packed)}); open it without mask_and_scale=False, or "
            "use xr.decode_cf(ds, decode_times=False)"
        )


def check_reference(obj: xr.Dataset | xr.DataArray, what: str) -> None:
    """Refuse a projection, a rotated pole, another meridian, and coordinates that are not the middles of their bounds.

    Parameters
    ----------
    obj : Dataset or DataArray
        Whole, as bounds and grid mappings are often variables beside those that are read.
    what : str
        What the object is, for messages.

    Raises
    ------
    GridError
    """
    variables: dict[Hashable, xr.DataArray] = dict(obj.coords)
    variables |= dict(obj.data_vars) if isinstance(obj, xr.Dataset) else {obj.name: obj}
    mappings: dict[str, None] = {str(name): None for name in ("spatial_ref", "crs") if name in variables}
    for name, variable in variables.items():
        said = variable.attrs.get("grid_mapping", variable.encoding.get("grid_mapping"))
        if said is None:
            continue
        if not isinstance(said, str):
            raise GridError(f"{what}: the attribute grid_mapping of {name!r} is {said!r}, not a name; remove it")
        mappings |= dict.fromkeys(word.rstrip(":") for word in said.split())
    for mapping in mappings:
        if mapping in variables and not variables[mapping].ndim:
            _check_mapping(variables[mapping], what)
    for kind in ("latitude", "longitude"):
        for name in _candidates(obj, kind):
            bounds = variables[name].attrs.get("bounds", variables[name].encoding.get("bounds"))
            if isinstance(bounds, str) and bounds in variables and variables[name].ndim == 1:
                _check_bounds(variables[name], variables[bounds], kind, what)


def _check_mapping(mapping: xr.DataArray, what: str) -> None:
    kind = _word(mapping.attrs.get("grid_mapping_name"))
    wkt = _word(mapping.attrs.get("crs_wkt", mapping.attrs.get("spatial_ref")))
    if kind not in ("", "latitude_longitude") or wkt.startswith(("projcs", "projcrs", "derivedprojcrs", "geoccs")):
        raise GridError(
            f"{what}: is in the projection {kind or wkt[:60]!r} ({mapping.name!r}): bring it to a regular grid of "
            "latitude and longitude first, for example with rio.reproject('EPSG:4326') and nearest neighbours"
        )
    meridian = mapping.attrs.get("longitude_of_prime_meridian", 0.0)
    if _word(meridian) not in ("0", "0.0"):
        raise GridError(f"{what}: longitudes count from {meridian} degrees east ({mapping.name!r}), not from Greenwich")


def _check_bounds(centres: xr.DataArray, bounds: xr.DataArray, kind: str, what: str) -> None:
    """Refuse coordinates that are corners: they lie at an edge of their cell, not in its middle."""
    values, edges = np.asarray(centres.values), bounds.values
    if edges.shape != (*values.shape, 2) or values.dtype.kind not in "iuf" or edges.dtype.kind not in "iuf":
        return  # bounds of something else
    size = np.abs(edges[:, 1] - edges[:, 0])
    size = np.where(size > 180, 360 - size, size)  # a cell across the date line
    off = np.abs(_around(edges.mean(axis=1) - values))
    off = np.minimum(off, np.abs(_around(off - 180)))
    wrong = off > np.maximum(0.05 * size, 1e-4)
    if wrong.any():
        at = int(wrong.argmax())
        raise GridError(
            f"{what}: the {kind} {centres.name!r} is not the middle of its cells: {values[at]:g} has the bounds "
            f"{edges[at, 0]:g} and {edges[at, 1]:g} ({int(wrong.sum())} of {values.size} cells); give the cell "
            f"centres, or correct {bounds.name!r}"
        )


def checked_latitude(labels: NDArray[Any], what: str) -> NDArray[np.float64]:
    """Return latitudes that should run from north to south as float64; :class:`GridError` if they do not."""
    lats = np.asarray(labels, dtype=np.float64)
    _refuse_odd(lats, "latitude", what)
    if np.abs(lats).max() > 90:
        raise GridError(
            f"{what}: latitude reaches {lats[np.abs(lats).argmax()]:g}, beyond the poles; if the coordinates are "
            "projected, reproject to latitude and longitude first (rioxarray: obj.rio.reproject('EPSG:4326'))"
        )
    if lats.size > 1 and (np.diff(lats) > 0).any():
        where = int(np.flatnonzero(np.diff(lats) > 0)[0])
        raise GridError(
            f"{what}: latitude is not sorted: {lats[where]:g} stands beside {lats[where + 1]:g}; sort it (sortby)"
        )
    return lats


def _refuse_odd(values: NDArray[np.float64], kind: str, what: str) -> None:
    """Name what makes coordinates unusable whatever their order."""
    if values.size < 2:
        raise GridError(f"{what}: {kind} has {values.size} cells; a grid needs at least two in each direction")
    if not np.isfinite(values).all():
        raise GridError(f"{what}: {kind} holds {int((~np.isfinite(values)).sum())} values that are not finite")
    unique, counts = np.unique(np.round(values, 6), return_counts=True)
    if unique.size < values.size:
        repeated = unique[counts > 1]
        raise GridError(
            f"{what}: {kind} holds {repeated.size} duplicate values, the first is {repeated[0]:g}; drop the duplicates"
        )


def is_descending(labels: NDArray[Any]) -> bool:
    """Whether longitude runs from east to west; a jump across the date line does not count."""
    lons = np.asarray(labels, dtype=np.float64)
    return lons.size > 1 and _step(lons) < 0


def _step(lons: NDArray[np.float64]) -> float:
    """Return the smallest way on the globe from one column to the next; all others are jumps."""
    differences = _around(np.diff(lons))
    return float(differences[int(np.abs(differences).argmin())])


def _around(degrees: NDArray[np.float64]) -> NDArray[np.float64]:
    """Bring differences of longitude to -180 up to 180."""
    return np.asarray(np.mod(degrees + 180, 360) - 180)


def lay_on_globe(lons: NDArray[np.float64], what: str) -> tuple[int, float, float]:
    """Find where a ring of longitudes starts in the canonical order.

    Parameters
    ----------
    lons : (columns,) array
        Degrees east in any range, going eastwards; they may jump at one place.
    what : str
        What the object is, for messages.

    Returns
    -------
    start : int
        Position of the canonical first column.
    first, step : float
        Its degrees, from -180 up to 180, and the size of a cell.

    Raises
    ------
    GridError
        Duplicates, gaps, no order, or more than the globe.
    """
    _refuse_odd(lons, "longitude", what)
    count = lons.size
    step = _step(lons)
    tolerance = max(_REGULAR * step, 1e-4)
    # the mean of those that do not jump is far better than one difference of float32 numbers
    differences = _around(np.diff(lons))
    step = float(differences[np.abs(differences - step) <= tolerance].mean())
    if count * step > 360 + step / 2:
        raise GridError(
            f"{what}: {count} columns of {step:g} degrees span more than the globe; "
            "drop the repeated meridian, for example with isel(lon=slice(0, -1))"
        )
    breaks = np.flatnonzero(np.abs(differences - step) > tolerance)
    closes = abs(float(_around(lons[:1] - lons[-1:])[0]) - step) <= tolerance
    if breaks.size > 1 or (breaks.size == 1 and not closes):
        at = int(breaks[0])
        raise GridError(
            f"{what}: longitude is not contiguous: {lons[at]:g} is followed by {lons[at + 1]:g} where the step is "
            f"{step:g} ({breaks.size} such places); unsorted or missing columns"
        )
    whole = abs(count * step - 360) <= step / 2
    if whole:
        step = 360 / count
        start = int(np.argmin(_wrapped(lons, step)))
    else:
        start = int(breaks[0]) + 1 if breaks.size else 0
    return start, float(_wrapped(lons[start : start + 1], step)[0]), step


def _wrapped(lons: NDArray[np.float64], step: float) -> NDArray[np.float64]:
    """Bring cell centres to [-180, 180); a centre that rounding puts a hair west of 180 W stays in the west."""
    hair = _REGULAR * step
    return np.asarray(np.mod(lons + 180 + hair, 360) - 180 - hair)
