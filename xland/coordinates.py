"""Latitude, longitude and time of any Dataset: what they are called, and whether they are regular.

Coordinates are found through their CF attributes (cf-xarray), or else by common names. Longitudes
are laid on the globe as a ring, so that neither the range they are given in nor where they start
matters.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from xland.errors import GridError

_COMMON_NAMES = {
    "latitude": ("lat", "latitude", "lats", "nav_lat", "ylat", "nlat", "y"),
    "longitude": ("lon", "longitude", "lons", "long", "nav_lon", "xlon", "nlon", "x"),
    "time": ("time", "year", "years", "t"),
}
_AXES = {"latitude": "Y", "longitude": "X", "time": "T"}
CANONICAL = {"latitude": "lat", "longitude": "lon", "time": "time"}
_REGULAR = 1e-2
"""Share of a step by which a difference of longitudes may be off: float32 near 180 needs 1e-3."""


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
        coordinate = dimension if dimension in lines else lines[0]
        _refuse_projected(obj, coordinate, kind, what)
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


def _candidates(obj: xr.Dataset | xr.DataArray, kind: str) -> list[Hashable]:
    """Coordinates that may be of this kind, by the first rule that finds one with a dimension."""
    import cf_xarray as cf_xarray  # registers the accessor; takes too long for `import xland`

    rules: list[Iterable[Hashable]] = [
        obj.cf.coordinates.get(kind, ()),
        [name for name in obj.coords if str(name).lower() in _COMMON_NAMES[kind]],
        obj.cf.axes.get(_AXES[kind], ()),
    ]
    every: list[Hashable] = []
    for rule in rules:
        found = [name for name in rule if name in obj.coords]
        if any(obj[name].ndim == 1 for name in found):
            return found
        every += [name for name in found if name not in every]
    return every


def _refuse_projected(obj: xr.Dataset | xr.DataArray, coordinate: Hashable, kind: str, what: str) -> None:
    units = str(obj[coordinate].attrs.get("units", "")).strip().lower()
    if kind != "time" and units in {"m", "metre", "meter", "metres", "meters", "km"}:
        raise GridError(
            f"{what}: {coordinate!r} is in {units}, not in degrees; reproject to latitude and longitude first "
            "(rioxarray: obj.rio.reproject('EPSG:4326'))"
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
