"""Any order of latitude and longitude to the canonical one, and back: lazily.

The canonical form has the dimensions ``time``, ..., ``lat``, ``lon`` in that order, latitude from
north to south and longitude from west to east. A global field starts at 180 W; a regional one is
contiguous and may pass 180 degrees. :func:`orient` brings an object there and returns an
:class:`Orientation`; :func:`restore` uses it to bring a result, on the same grid or on any
refinement or part of it, back to the caller's names, order and range of longitude. A part that
crosses the caller's seam stays in one piece, so that it keeps a georeference: 170 to 190 degrees
east and not two strips at the two ends of the caller's range.

Neither reads a value: flips and rolls are slices that are put together again, never fancy
indexing, so that dask chunks stay whole and files are read in stretches.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from xland.errors import GridError
from xland.geo.coordinates import (
    CANONICAL,
    Names,
    check_reference,
    checked_latitude,
    find_names,
    is_descending,
    lay_on_globe,
)
from xland.geo.grid import Grid

XarrayObject = TypeVar("XarrayObject", xr.Dataset, xr.DataArray)

_ATTRIBUTES = {
    "lat": {"standard_name": "latitude", "long_name": "latitude", "units": "degrees_north", "axis": "Y"},
    "lon": {"standard_name": "longitude", "long_name": "longitude", "units": "degrees_east", "axis": "X"},
}
_PLACEHOLDER = "__xland_values__"


@dataclass(frozen=True)
class Piece:
    """A stretch of longitude that the caller holds in one run.

    Parameters
    ----------
    west, east : float
        Edges in canonical degrees.
    offset : float
        What to add to canonical degrees to get the caller's: a multiple of 360.
    """

    west: float
    east: float
    offset: float


@dataclass(frozen=True)
class Orientation:
    """How the caller's object lies: names, order of latitude, range and start of longitude.

    Parameters
    ----------
    latitude, longitude : Names
        The caller's names.
    time : Names or None
        None where there is no time dimension.
    dimensions : tuple
        The caller's dimensions in the caller's order.
    grid : Grid
        The canonical grid.
    latitude_ascending, longitude_descending : bool
    pieces : tuple of Piece
        From the caller's first column to the last (from the last to the first where longitude descends).
    """

    latitude: Names
    longitude: Names
    time: Names | None
    dimensions: tuple[Hashable, ...]
    grid: Grid
    latitude_ascending: bool
    longitude_descending: bool
    pieces: tuple[Piece, ...]
    # the caller's own labels: results on the same grid must align with the caller's data to the last bit
    latitude_labels: NDArray[Any] = field(repr=False, compare=False)
    longitude_labels: NDArray[Any] = field(repr=False, compare=False)


def orient(obj: XarrayObject, *, what: str) -> tuple[XarrayObject, Orientation]:
    """Bring an object to the canonical names, order and range, without reading a value.

    Parameters
    ----------
    obj : Dataset or DataArray
        With one-dimensional latitude and longitude, found through their CF attributes or common names.
        Other dimensions are left alone and stand between ``time`` and ``lat``.
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
        What is no Dataset or DataArray, dimensions that are missing or ambiguous, two-dimensional or projected
        coordinates, and coordinates with duplicates, gaps or no order.
    """
    if not isinstance(obj, (xr.Dataset, xr.DataArray)):
        raise GridError(
            f"{what}: is of type {type(obj).__name__}; pass an xarray DataArray or Dataset with latitude and longitude"
        )
    names = {kind: find_names(obj, kind, what=what) for kind in ("latitude", "longitude", "time")}
    latitude, longitude = names["latitude"], names["longitude"]
    if latitude is None or longitude is None:  # find_names raises for these two
        raise GridError(f"{what}: needs latitude and longitude")
    if latitude.dimension == longitude.dimension:
        raise GridError(
            f"{what}: latitude and longitude both lie along {latitude.dimension!r}: these are points, not a grid"
        )
    check_reference(obj, what)
    dataset = _as_dataset(obj)
    order = _dimension_order(dataset, latitude, longitude)
    lat_labels = np.asarray(dataset[latitude.coordinate].values)
    lon_labels = np.asarray(dataset[longitude.coordinate].values)
    for kind, found in names.items():
        if found is not None:
            dataset = _rename(dataset, found, CANONICAL[kind], what)

    ascending = lat_labels.size > 1 and bool(lat_labels[-1] > lat_labels[0])
    lats = checked_latitude(lat_labels[::-1] if ascending else lat_labels, what)
    descending = is_descending(lon_labels)
    lons = np.asarray(lon_labels[::-1] if descending else lon_labels, dtype=np.float64)
    start, first, step = lay_on_globe(lons, what)
    count = lons.size
    try:
        grid = Grid.from_centres(lats, first + step * np.arange(count))
    except GridError as error:
        raise GridError(f"{what}: {error}") from None

    if ascending:
        dataset = dataset.isel(lat=slice(None, None, -1))
    if descending:
        dataset = dataset.isel(lon=slice(None, None, -1))
    if start:
        dataset = _join(dataset, "lon", [slice(start, None), slice(0, start)])
    dataset = _label(dataset, "lat", grid.latitude)
    dataset = _label(dataset, "lon", grid.longitude)
    dataset = _transpose(dataset, ("time", ..., "lat", "lon"))
    orientation = Orientation(
        latitude=latitude,
        longitude=longitude,
        time=names["time"],
        dimensions=order,
        grid=grid,
        latitude_ascending=ascending,
        longitude_descending=descending,
        pieces=_pieces(lons, start, grid),
        latitude_labels=lat_labels,
        longitude_labels=lon_labels,
    )
    return _like(dataset, obj), orientation


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
        Lazy where ``obj`` was. On the caller's own grid the labels are exactly the caller's. A part
        that the seam of the caller's range would tear apart is contiguous instead, in numbers that
        go on beyond the range: 170 to 190 where it is -180 to 180, -10 to 10 where it is 0 to 360.

    Raises
    ------
    GridError
        If some columns lie outside the longitudes that were oriented.
    """
    dataset = _as_dataset(obj)
    canonical_order = orientation.dimensions == tuple(
        names.dimension
        for names in (orientation.time, orientation.latitude, orientation.longitude)
        if names is not None
    )
    if "lon" in dataset.dims:
        slices, labels = _restored_columns(dataset["lon"].values, orientation)
        dataset = _join(dataset, "lon", slices)
        if orientation.longitude_descending:
            dataset, labels = dataset.isel(lon=slice(None, None, -1)), labels[::-1]
        tolerance = 1e-3 * orientation.grid.resolution
        dataset = _label(dataset, "lon", _callers(labels, orientation.longitude_labels, tolerance))
    if "lat" in dataset.dims:
        labels = np.asarray(dataset["lat"].values, dtype=np.float64)
        if orientation.latitude_ascending:
            dataset, labels = dataset.isel(lat=slice(None, None, -1)), labels[::-1]
        tolerance = 1e-3 * orientation.grid.resolution
        dataset = _label(dataset, "lat", _callers(labels, orientation.latitude_labels, tolerance))
    if not canonical_order:
        own = {"lat": orientation.latitude, "lon": orientation.longitude, "time": orientation.time}
        back = {names.dimension: canonical for canonical, names in own.items() if names is not None}
        wanted = [back.get(name, name) for name in orientation.dimensions]
        dataset = _transpose(dataset, _with_others(wanted, dataset.dims))
    for canonical, names in (
        ("lat", orientation.latitude),
        ("lon", orientation.longitude),
        ("time", orientation.time),
    ):
        if names is not None and canonical in dataset.dims:
            dataset = _rename_back(dataset, canonical, names)
    return _like(dataset, obj)


def _pieces(lons: NDArray[np.float64], start: int, grid: Grid) -> tuple[Piece, ...]:
    count = lons.size
    canonical = (np.arange(count) - start) % count
    offsets = np.round((lons - grid.longitude[canonical]) / 360) * 360
    cuts = np.flatnonzero((np.diff(canonical) != 1) | (np.diff(offsets) != 0)) + 1
    bounds = [0, *cuts.tolist(), count]
    return tuple(
        Piece(
            west=grid.west + int(canonical[a]) * grid.resolution,
            east=grid.west + (int(canonical[b - 1]) + 1) * grid.resolution,
            offset=float(offsets[a]),
        )
        for a, b in pairwise(bounds)
    )


def _restored_columns(lon: NDArray[Any], orientation: Orientation) -> tuple[list[slice], NDArray[np.float64]]:
    """Slices of canonical columns in the caller's order, and the caller's labels for them."""
    lon = np.asarray(lon, dtype=np.float64)
    slices: list[slice] = []
    labels: list[NDArray[np.float64]] = []
    offsets: list[float] = []
    for piece in orientation.pieces:
        # a part of a global field may pass the date line: going eastwards, what lies there has been shifted by 360
        for shift in (360.0, 0.0, -360.0):
            a, b = np.searchsorted(lon, [piece.west + shift, piece.east + shift]).tolist()
            if b > a:
                slices.append(slice(a, b))
                labels.append(lon[a:b] - shift + piece.offset)
                offsets.append(piece.offset - shift)
    if sum(part.size for part in labels) != lon.size:
        raise GridError(
            f"longitudes {lon[0]:g} to {lon[-1]:g} reach beyond the grid they should be restored to "
            f"({orientation.grid})"
        )
    restored = np.asarray(np.round(np.concatenate(labels), 10), dtype=np.float64)
    if _is_torn(lon, restored, orientation.grid):
        return [slice(0, lon.size)], np.asarray(np.round(lon + min(offsets, key=abs), 10), dtype=np.float64)
    return slices, restored


def _is_torn(lon: NDArray[np.float64], restored: NDArray[np.float64], grid: Grid) -> bool:
    """Whether a contiguous part of the grid has fallen apart at the caller's seam."""
    if lon.size < 2:
        return False
    step, width = float(lon[1] - lon[0]), grid.columns * grid.resolution
    if lon.size * step > width - step / 2:
        return False  # all columns: these lie as the caller's own
    return _is_even(lon, step) and not _is_even(restored, step)


def _is_even(labels: NDArray[np.float64], step: float) -> bool:
    return bool(np.allclose(np.diff(labels), step, rtol=0, atol=0.1 * step))


def _callers(labels: NDArray[np.float64], own: NDArray[Any], tolerance: float) -> NDArray[Any]:
    """Return the caller's own labels where these are the same places."""
    if labels.shape == own.shape and np.allclose(labels, own.astype(np.float64), rtol=0, atol=tolerance):
        return own
    return labels


def _as_dataset(obj: xr.Dataset | xr.DataArray) -> xr.Dataset:
    return obj.to_dataset(name=_PLACEHOLDER) if isinstance(obj, xr.DataArray) else obj


def _like(dataset: xr.Dataset, obj: XarrayObject) -> XarrayObject:
    if isinstance(obj, xr.DataArray):
        return dataset[_PLACEHOLDER].rename(obj.name)
    return dataset


def _dimension_order(dataset: xr.Dataset, latitude: Names, longitude: Names) -> tuple[Hashable, ...]:
    for variable in dataset.data_vars.values():
        if latitude.dimension in variable.dims and longitude.dimension in variable.dims:
            return tuple(variable.dims)
    return latitude.dimension, longitude.dimension


def _rename(dataset: xr.Dataset, names: Names, target: str, what: str) -> xr.Dataset:
    source = names.coordinate if names.coordinate is not None else names.dimension
    if (
        source != target
        and target == "time"
        and target in dataset.coords
        and dataset[target].dims == (names.dimension,)
    ):
        dataset = dataset.drop_vars(target)  # dates beside years, which say the same
    taken = {*map(str, dataset.variables), *map(str, dataset.dims)} - {str(source), str(names.dimension)}
    if target in taken:
        raise GridError(
            f"{what}: {source!r} is the {target} coordinate, but {target!r} is the name of something else; "
            "drop or rename that"
        )
    if source != names.dimension:
        dataset = dataset.drop_vars([names.dimension], errors="ignore").swap_dims({names.dimension: source})
    return dataset if source == target else dataset.rename({source: target})


def _rename_back(dataset: xr.Dataset, canonical: str, names: Names) -> xr.Dataset:
    if names.coordinate is None or names.coordinate == names.dimension:
        return dataset if names.dimension == canonical else dataset.rename({canonical: names.dimension})
    dataset = dataset.rename_dims({canonical: names.dimension})
    dataset = dataset.drop_indexes(canonical) if canonical in dataset.xindexes else dataset
    return dataset if names.coordinate == canonical else dataset.rename_vars({canonical: names.coordinate})


def _label(dataset: xr.Dataset, name: str, labels: NDArray[Any]) -> xr.Dataset:
    attributes = {**_ATTRIBUTES[name], **dataset[name].attrs}
    attributes.pop("bounds", None)  # the bounds stand in another variable, which results do not have
    return dataset.assign_coords({name: (name, labels, attributes)})


def _with_others(wanted: Sequence[Hashable], dims: Iterable[Hashable]) -> tuple[Any, ...]:
    """Put dimensions that the caller did not have in front of the first horizontal one."""
    known = [name for name in wanted if name in dims]
    at = next((i for i, name in enumerate(known) if name in ("lat", "lon")), len(known))
    return (*known[:at], *(d for d in dims if d not in known), *known[at:])


def _transpose(dataset: xr.Dataset, order: Sequence[Any]) -> xr.Dataset:
    replaced: dict[Hashable, xr.Variable] = {}
    for name, variable in dataset.variables.items():
        if not {"lat", "lon"} <= set(variable.dims):
            continue  # bounds and the like lie as they lie
        turned = _expanded([d for d in order if d is ... or d in variable.dims], variable.dims)
        if tuple(turned) != variable.dims:
            # a transposed lazy array would be read cell by cell; dask transposes what it has read
            source = variable if _is_loaded(variable) else _as_dask(variable)
            replaced[name] = source.transpose(*turned)
    return _rebuild(dataset, {**dataset.variables, **replaced}) if replaced else dataset


def _expanded(order: Sequence[Any], dims: Sequence[Hashable]) -> list[Hashable]:
    others = [d for d in dims if d not in order]
    return [d for item in order for d in (others if item is ... else [item])]


def _join(dataset: xr.Dataset, dimension: str, slices: Sequence[slice]) -> xr.Dataset:
    """Select the slices and put them one behind the other, without fancy indexing of lazy arrays."""
    if len(slices) == 1:
        return dataset.isel({dimension: slices[0]})
    joined: dict[Hashable, xr.Variable] = {}
    for name, variable in dataset.variables.items():
        if dimension in variable.dims:
            source = variable.to_base_variable() if _is_loaded(variable) else _as_dask(variable)
            joined[name] = xr.Variable.concat([source.isel({dimension: part}) for part in slices], dim=dimension)
        else:
            joined[name] = variable
    return _rebuild(dataset, joined)


def _rebuild(dataset: xr.Dataset, variables: dict[Hashable, xr.Variable]) -> xr.Dataset:
    """Build the Dataset anew from other variables under the same names."""
    rebuilt = xr.Dataset(
        {name: variables[name] for name in dataset.data_vars},
        coords={name: variables[name] for name in dataset.coords},
        attrs=dataset.attrs,
    )
    for name in dataset.xindexes:
        if name not in rebuilt.xindexes and rebuilt[name].ndim == 1:
            rebuilt = rebuilt.set_xindex([name])
    return rebuilt


def _is_loaded(variable: xr.Variable) -> bool:
    # xarray has no public way to ask; `.data` would read the file
    return isinstance(variable._data, np.ndarray) or isinstance(variable, xr.IndexVariable)  # noqa: SLF001


def _as_dask(variable: xr.Variable) -> xr.Variable:
    """Make a lazily indexed array a dask array with one time step in a chunk."""
    if variable.chunks is not None:
        return variable
    return variable.chunk({d: 1 if d == "time" else -1 for d in variable.dims})
