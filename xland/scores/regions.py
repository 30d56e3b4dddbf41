"""Parts of the land that are scored separately: bands of latitude, climate zones, a user's own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from xland.arguments import unknown
from xland.datasets import koppen
from xland.datasets.prepared import KOPPEN_ZONES
from xland.errors import RegionError
from xland.geo.grid import Grid
from xland.geo.orientation import find_horizontal
from xland.geo.split import CONTINENTS, find_cells
from xland.reading.variables import ClassMap, as_map, read_codes

MOST = 40
"""Regions of one map at most: more cannot be read in a table."""

_TILE = 1024  # cells along a side of what is rasterised at once, counted from 90 N and 180 W
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
    numbers : tuple of int
        What the caller's map calls the regions; by default 1, 2, ...
    """

    labels: xr.DataArray
    names: tuple[str, ...]
    title: str
    numbers: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        twice = sorted({name for name in self.names if self.names.count(name) > 1})
        if twice:
            raise RegionError(f"several regions have the name {', '.join(map(repr, twice))}; give each its own")
        vars(self).update(numbers=self.numbers or tuple(range(1, 1 + len(self.names))))


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


def labelled(
    labels: xr.DataArray | xr.Dataset,
    names: Sequence[str] | Mapping[int, str] | None = None,
    title: str = "regions",
    *,
    most: int | None = MOST,
) -> Regions:
    """Take a user's map of region numbers.

    Parameters
    ----------
    labels : DataArray, or Dataset with one variable
        Whole numbers from 1; 0 or NaN belongs to no region. 0 is a region where ``flag_values`` list it and NaN stands
        for no region, as in masks of regionmask. Any names and order of latitude and longitude.
    names : sequence of str or mapping of int to str, optional
        Names of regions 1, 2, ..., or of each number; by default those of the CF attributes ``flag_values`` and
        ``flag_meanings``, or else their numbers.
    title : str
    most : int or None
        Regions at most.

    Raises
    ------
    RegionError
        If this is not a map, or has several time steps; if there is no region, or more than ``most``; if a number is
        negative or not whole, or two regions have one name.
    """
    what = "map of regions"
    labels = read_codes(_only_map(labels), what=what, error=RegionError, holds="numbers", empty=0)
    steps = len(as_map(labels, what=what, holds="numbers").years)
    if steps > 1:
        raise RegionError(f"the {what} has {steps} time steps; select one")
    given = names if names is None or isinstance(names, Mapping) else dict(enumerate(names, 1))
    known = _meanings(labels) if given is None else given
    first = 0 if labels.dtype.kind == "f" and 0 in known else 1
    filled = labels.fillna(first - 1) if labels.dtype.kind == "f" else labels
    found = np.asarray(da.unique(da.asarray(filled.data)))
    found = found[found != first - 1]
    wrong = found[(found < first) | (found != np.trunc(found)) | ~np.isfinite(found)]
    if wrong.size:
        raise RegionError(
            f"regions must be whole numbers from 1, or 0 for none; found {', '.join(map(str, wrong[:6]))}"
        )
    if not found.size or found.size > (most or np.inf):
        limit = "there must be at least one" if most is None else f"a report can show 1 to {most}"
        raise RegionError(f"the {what} has {found.size} regions; {limit}")
    numbers = tuple(map(int, found))
    nameless = [number for number in numbers if names is not None and number not in known]
    if nameless:
        raise RegionError(
            f"regions {', '.join(map(str, nameless[:6]))} of the {what} have no name; add them to `names`"
        )
    dtype = np.min_scalar_type(len(numbers))
    renumbered = xr.apply_ufunc(
        lambda block: np.where(block >= first, np.searchsorted(found, block) + 1, 0).astype(dtype),
        filled,
        dask="parallelized",
        output_dtypes=[dtype],
    )
    return Regions(renumbered, tuple(known.get(each, f"region {each}") for each in numbers), title, numbers)


def masks(mask: xr.DataArray, names: Sequence[str] | None = None) -> list[Regions]:
    """Take a user's mask: (latitude, longitude), or one for each region along a third dimension; they may overlap.

    Raises :class:`RegionError` if regions have no names, or no cell is in any of them.
    """
    horizontal = {each.dimension for each in find_horizontal(mask, what="mask")}
    spare = [dim for dim in mask.dims if dim not in horizontal]
    if len(spare) > 1:
        raise RegionError(f"the mask has the dimensions {', '.join(map(str, mask.dims))}; one of regions is allowed")
    if isinstance(mask.data, np.ndarray) and not mask.values.any():
        raise RegionError("the mask holds no cell: it is false everywhere")
    if not spare:
        return [Regions(mask, (str(names[0] if names else mask.name or "mask"),), "mask")]
    along = [mask[name] for name in ("names", "abbrevs", spare[0]) if name in mask.coords]
    called = names if names is not None else along[0].values.tolist() if along else []
    if len(called) != mask.sizes[spare[0]]:
        raise RegionError(
            f"the mask has {mask.sizes[spare[0]]} regions along {spare[0]!r} and {len(called)} names; pass `names`, or "
            f"give it a coordinate: mask.assign_coords({spare[0]}=[...])"
        )
    given = mask.coords.get(spare[0])
    numbers = given.values.tolist() if given is not None and given.dtype.kind in "iu" else range(1, 1 + len(called))
    whole = Regions(mask, tuple(map(str, called)), "mask", tuple(numbers))
    return [
        Regions(mask.isel({spare[0]: at}, drop=True), (name,), "mask", (number,))
        for at, (name, number) in enumerate(zip(whole.names, whole.numbers, strict=True))
    ]


def shapes(frame: Any, on: ClassMap, names: str | None = None) -> Regions:
    """Bring the shapes of a GeoDataFrame or GeoSeries to the cells of a map, lazily: a cell is where its centre is.

    ``names`` is the column of names, by default the index. :class:`RegionError` for shapes that are not in degrees,
    are empty or have no name.
    """
    if getattr(frame, "crs", None) is not None:
        frame = frame.to_crs("EPSG:4326")
    found = list(frame.geometry)
    empty = sum(shape is None or shape.is_empty for shape in found)
    if empty or not found:
        raise RegionError(f"{empty} of {len(found)} shapes have no area; drop them, or read the file again")
    bounds = np.array([shape.bounds for shape in found])
    (west, south), (east, north) = bounds[:, :2].min(axis=0), bounds[:, 2:].max(axis=0)
    if south < -90.001 or north > 90.001 or west < -360 or east > 360:
        raise RegionError(
            f"the shapes lie from {west:g} to {east:g} and {south:g} to {north:g} and do not say their projection: "
            "they are not in degrees; set their crs (frame.set_crs)"
        )
    if names is not None and names not in getattr(frame, "columns", ()):
        raise RegionError(unknown("column of names", names, getattr(frame, "columns", ())))
    called = frame.index if names is None else frame[names]
    nameless = int(called.isna().sum())
    if nameless:
        raise RegionError(f"{nameless} of {len(found)} shapes have no name in {names!r}; name them, or drop them")
    numbered = frame.index.dtype.kind in "iu" and frame.index.is_unique
    labels = _on_grid(rasterise(found, on.grid), on.grid)
    return Regions(labels, tuple(map(str, called)), "shapes", tuple(frame.index.tolist() if numbered else ()))


def rasterise(shapes: Any, grid: Grid) -> da.Array:
    """Return the position of the shape that holds the centre of each cell, from 1, lazily; 0 where there is none.

    The last one counts where shapes overlap. Longitudes of the shapes may be counted from -180 or from 0. Tiles have
    their places on the globe, so that the answer does not depend on the part of it that the grid shows.
    """
    rows, columns = (_edges(first, size) for first, size in zip(grid.corner, grid.shape, strict=True))
    function = partial(_tile, shapes=list(enumerate(shapes, 1)), resolution=grid.resolution)
    return da.map_blocks(
        function,
        da.from_array(np.arange(grid.rows) + grid.corner[0], (rows,))[:, None],
        da.from_array(np.arange(grid.columns) + grid.corner[1], (columns,))[None, :],
        chunks=(rows, columns),
        dtype=np.uint32,
        meta=np.empty((0, 0), np.uint32),
    )


def _edges(first: int, size: int) -> tuple[int, ...]:
    """Chunks of cells that end where tiles do."""
    ends = np.unique([first, *range(-(-(first + 1) // _TILE) * _TILE, first + size, _TILE), first + size])
    return tuple(np.diff(ends).tolist())


def _tile(
    rows: NDArray[np.intp], columns: NDArray[np.intp], *, shapes: Sequence[tuple[int, Any]], resolution: float
) -> NDArray[np.uint32]:
    from rasterio import Affine
    from rasterio.features import rasterize

    top, left = rows[0, 0] // _TILE * _TILE, columns[0, 0] // _TILE * _TILE
    north, west = 90 - top * resolution, left * resolution - 180
    south, east = north - _TILE * resolution, west + _TILE * resolution
    found = np.zeros((_TILE, _TILE), np.uint32)
    for turn in (-360, 0, 360):
        near = [
            (shape, number)
            for number, shape in shapes
            if shape.bounds[0] < east + turn
            and shape.bounds[2] > west + turn
            and shape.bounds[1] < north
            and shape.bounds[3] > south
        ]
        if near:
            place = Affine(resolution, 0, west + turn, 0, -resolution, north)
            values = rasterize(near, found.shape, transform=place, dtype=np.uint32)
            found = np.where(values > 0, values, found)
    return found[rows[:, 0] - top][:, columns[0] - left]


def _only_map(labels: Any) -> xr.DataArray:
    if isinstance(labels, xr.Dataset):
        bounds = {each.attrs.get("bounds") for each in labels.coords.values()}
        variables = [str(name) for name in labels.data_vars if labels[name].ndim >= 2 and name not in bounds]
        if len(variables) != 1:
            raise RegionError(
                f"the map of regions has {len(variables)} variables ({', '.join(variables)}); pass the one to use"
            )
        labels = labels[variables[0]]
    if not isinstance(labels, xr.DataArray):
        raise RegionError(
            f"regions are of type {type(labels).__name__}; pass {', '.join(KINDS)}, or a map of region numbers"
        )
    return labels


def parts_of(by: Any, frame: ClassMap, names: Any = None) -> list[Regions]:
    """Return the regions of a name in :data:`KINDS`, a map, a mask or shapes: together, or where they overlap each.

    ``names`` are those of the regions, or the column of shapes that holds them.
    """
    if by is None or isinstance(by, str | Regions):
        if names is not None:
            raise RegionError("names are those of a map of numbers, a mask or shapes: pass these as `by`, or no names")
        found = choose(by, frame)
        return [] if found is None else [found]
    if hasattr(by, "to_geodataframe"):  # regions of regionmask
        by, names = by.to_geodataframe(), names or "names"
    if hasattr(by, "geometry"):
        return [shapes(by, frame, names)]
    by = _only_map(by)
    return masks(by, names) if by.dtype == np.bool_ else [labelled(by, names, most=None)]


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
