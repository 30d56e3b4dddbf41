"""Builders of the prepared stores: land and sea, land use of 2019, and static predictors, from their sources."""

from __future__ import annotations

import gzip
import json
import math
import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
import zarr
from numpy.typing import NDArray
from scipy import ndimage
from scipy.interpolate import RegularGridInterpolator

from xland import vocabulary
from xland.datasets.prepared import (
    CHUNK,
    COAST_CAP,
    FARTHEST,
    KOPPEN_ZONES,
    LAPSE_RATE,
    POPULATION_RADII,
    PREDICTORS,
    RUGGEDNESS_REACH,
    build_store,
    coordinates,
    elevation,
    has_all,
    koppen,
    modis_igbp,
    open_prepared,
    store_path,
)
from xland.datasets.wheels import fetch, source
from xland.errors import DatasetError
from xland.geo.grid import EARTH_RADIUS, Grid, aggregate, class_shares, nesting_factor
from xland.sources import predictors

Fields = dict[str, NDArray[np.floating]]

YEAR = 2019
"""Year of the MODIS map."""

FRACTION_FACTOR = 5
"""Fine cells along one coarse cell of the class fractions: 0.05 to 0.25 degree."""

COAST_FACTOR = 6
"""Cells of the land mask along one cell on which distances and densities are computed at the finest: 0.05 degree."""

KILOMETRE = 360e3 / (2 * math.pi * EARTH_RADIUS)
"""Degrees of a great circle in a kilometre."""

_GDAL_CACHE = 128 * 2**20  # bytes
_FREEZING = 273.15
_LAKE = 2  # 0 is sea, 1 land; islands in lakes are land
_TOWN_RADIUS = 19e-3  # kilometres for each root of a person: 19 km for a million, 6 km for 100,000
_TRUNCATE = 3.0
_BAND = 40  # rows that share the width of a kernel


def prepare(recipe: str, factor: int | None = None) -> Path:
    """Return the path of a store, having built it unless it is there with all its files."""
    path = store_path(recipe, factor)
    if not has_all(path):
        build_store(path, BUILDERS[recipe] if factor is None else partial(BUILDERS[recipe], factor=factor))
    return path


def create(
    group: zarr.Group, name: str, dims: tuple[str, ...], shape: tuple[int, ...], dtype: str, attrs: Mapping[str, Any]
) -> zarr.Array:
    """Add an empty variable that xarray reads, in chunks of ``CHUNK`` cells a side, wider on very fine grids."""
    # else a grid of 30 arc-seconds would end in thousands of files
    width = CHUNK if shape[-1] <= 20 * CHUNK else 6 * CHUNK
    chunks = (*(min(size, CHUNK) for size in shape[:-1]), min(shape[-1], width))
    plain = {
        key: value.tolist() if isinstance(value, np.ndarray | np.generic) else value for key, value in attrs.items()
    }
    return group.create_array(
        name, shape=shape, chunks=chunks, dtype=dtype, dimension_names=dims, fill_value=0, attributes=plain
    )


def create_coordinates(group: zarr.Group, grid: Grid, years: tuple[int, ...] = ()) -> None:
    """Add the coordinates of a grid, and of years where there are any."""
    axes: dict[str, Any] = dict(coordinates(grid))
    if years:
        axes["time"] = ("time", np.array(years, dtype=np.int64), {"long_name": "calendar year", "axis": "T"})
    for name, (_, values, attrs) in axes.items():
        array = group.create_array(
            name,
            shape=values.shape,
            chunks=values.shape,
            dtype=str(values.dtype),
            dimension_names=(name,),
            attributes=attrs,
        )
        array[:] = values


def strips(rows: int, height: int, description: str) -> Iterable[slice]:
    """Yield slices of ``height`` rows from north to south, under a progress bar on standard error."""
    from rich.console import Console
    from rich.progress import track

    for start in track(range(0, rows, height), description=description, console=Console(stderr=True)):
        yield slice(start, min(start + height, rows))


def _open_land() -> xr.DataArray:
    return open_prepared(prepare("land-mask"))["land"].astype(bool)


def _build_land_mask(group: zarr.Group) -> None:
    wanted, path = source("land-mask"), fetch("land-mask")
    grid = Grid.world(180 / wanted.rows)
    attrs = {"long_name": "land", "standard_name": "land_binary_mask", **wanted.attributes}
    array = create(group, "land", ("lat", "lon"), grid.shape, "uint8", attrs)
    create_coordinates(group, grid)
    # block by block: unpacked the mask takes a gigabyte
    with zipfile.ZipFile(path) as archive, archive.open("mask.npy") as stream:
        np.lib.format.read_magic(stream)
        found, fortran, dtype = np.lib.format.read_array_header_1_0(stream)
        if found != grid.shape or fortran or dtype != np.dtype(bool):
            raise DatasetError(f"{path.name} holds {found} cells of {dtype}; {grid.shape} truth values were expected")
        for rows in strips(grid.rows, CHUNK, "Unpacking the land mask"):
            size = (rows.stop - rows.start) * grid.columns
            content = stream.read(size)
            if len(content) != size:
                raise DatasetError(f"{path.name} ends before row {rows.stop}")
            array[rows] = (~np.frombuffer(content, dtype=bool).reshape(-1, grid.columns)).view(np.uint8)


def _build_land_use(group: zarr.Group) -> None:
    igbp, land = modis_igbp(), _open_land()
    grid = Grid.world(180 / source("modis-2019").rows)
    factor = nesting_factor(Grid.world(180 / source("land-mask").rows), grid)
    attrs = {
        **vocabulary.flag_attributes(),
        **source("modis-2019").attributes,
        "comment": f"Observed in {YEAR}. IGBP classes translated by the table of xland.vocabulary; water is ocean "
        "where less than half of the cell is land in the land mask, else inland water.",
    }
    array = create(group, "land_use", ("time", "lat", "lon"), (1, *grid.shape), "uint8", attrs)
    create_coordinates(group, grid, (YEAR,))
    for rows in strips(grid.rows, CHUNK, "Translating MODIS land cover"):
        codes = igbp[rows].to_numpy()
        classes = vocabulary.translate(codes, vocabulary.IGBP, what=f"MODIS land cover {YEAR}")
        share = predictors.land_share(land[rows.start * factor : rows.stop * factor].to_numpy(), factor)
        classes[(classes == vocabulary.WATER) & (share < 0.5)] = vocabulary.OCEAN
        array[0, rows] = classes


def _build_fractions(group: zarr.Group) -> None:
    fine = Grid.world(180 / source("modis-2019").rows)
    coarse = fine.coarsen(FRACTION_FACTOR)
    land_use = open_prepared(prepare("land-use"))["land_use"]
    arrays = []
    for chosen in vocabulary.CLASSES:
        attrs = {
            "long_name": f"share of {chosen.long_name}",
            "units": "1",
            "cell_methods": "area: mean",
            **source("modis-2019").attributes,
            "comment": f"Observed in {YEAR}: area-weighted share of the class in the 0.05 degree map of land use.",
        }
        arrays.append(create(group, chosen.name, ("time", "lat", "lon"), (1, *coarse.shape), "float32", attrs))
    create_coordinates(group, coarse, (YEAR,))
    for rows in strips(coarse.rows, CHUNK // FRACTION_FACTOR, "Aggregating class fractions"):
        inner = slice(rows.start * FRACTION_FACTOR, rows.stop * FRACTION_FACTOR)
        area = fine.window(inner, slice(None)).cell_area()
        shares = class_shares(land_use[0, inner].to_numpy(), FRACTION_FACTOR, area, len(vocabulary.CLASSES))
        for share, array in zip(shares, arrays, strict=True):
            array[0, rows] = share.astype(np.float32)


def _build_static(group: zarr.Group, factor: int) -> None:
    import rasterio

    # by itself GDAL keeps the blocks it read up to a twentieth of the machine's memory
    with rasterio.Env(GDAL_CACHEMAX=_GDAL_CACHE):
        _fill_static(group, factor)


def _fill_static(group: zarr.Group, factor: int) -> None:
    mask, land, zones = Grid.world(180 / source("land-mask").rows), _open_land(), koppen()
    grid, zone_factor = mask.coarsen(factor), round(factor * source("koppen").rows / mask.rows)
    topography = elevation().to_numpy()
    # a share is a count of cells: exact where the count fits a byte
    share_steps = factor * factor if factor * factor <= 255 else 250
    arrays = {}
    for chosen in PREDICTORS:
        attrs: dict[str, str | float] = {"long_name": chosen.long_name, "units": chosen.units}
        for name in chosen.sources:
            attrs |= source(name).attributes
        if chosen.comment:
            attrs["comment"] = chosen.comment
        if chosen.dtype == "uint8":
            attrs["scale_factor"] = 1 / share_steps
        arrays[chosen.name] = create(group, chosen.name, ("lat", "lon"), grid.shape, chosen.dtype, attrs)
    create_coordinates(group, grid)

    far_factor = factor * max(1, -(-COAST_FACTOR // factor))
    far = mask.coarsen(far_factor)
    far_share = np.zeros(far.shape, dtype=np.float32)
    for rows in strips(far.rows, max(1, CHUNK // factor), "Land and sea"):
        block = land[rows.start * far_factor : rows.stop * far_factor].to_numpy()
        far_share[rows] = predictors.land_share(block, far_factor)
    settlements = read_settlements()
    people = counted(settlements, far, settlements.population)
    places = counted(settlements, far, np.ones_like(settlements.population))
    smooth = {
        "coast_distance": predictors.coast_distance(far_share >= 0.5, far, COAST_CAP),
        **{f"population_{radius}km": density(people, far, radius) for radius in POPULATION_RADII},
        "settlements_8km": density(places, far, 8),
        "town_distance": town_distance(settlements, far),
    }
    climate, lakes = Climate(topography), read_lakes()

    for rows in strips(grid.rows, CHUNK, "Static predictors"):
        part = grid.window(rows, slice(None))
        values: Fields = _terrain(topography, grid, rows)
        if far_factor == factor:
            share = far_share[rows]
            values |= {name: field[rows] for name, field in smooth.items()}
        else:
            share = predictors.land_share(land[rows.start * factor : rows.stop * factor].to_numpy(), factor)
            values |= {name: predictors.bilinear(field, far, part) for name, field in smooth.items()}
        values["land_share"] = share
        values["lake_share"] = lake_share(lakes, rows, grid.rows)
        values |= climate.on(part, values["elevation"])
        inner = slice(rows.start * zone_factor, rows.stop * zone_factor)
        shares = predictors.zone_shares(zones[inner].to_numpy(), zone_factor, len(KOPPEN_ZONES))
        values |= {f"koppen_{zone}": zone_share for zone, zone_share in zip(KOPPEN_ZONES, shares, strict=True)}
        values["abs_latitude"] = np.broadcast_to(np.abs(part.latitude)[:, None], part.shape)
        values["coast_distance"] = np.where(share >= 0.5, values["coast_distance"], 0)
        for chosen in PREDICTORS:
            stored = values[chosen.name].astype(np.float32)
            if chosen.dtype == "uint8":
                stored = np.rint(stored * share_steps)
            arrays[chosen.name][rows] = stored.astype(chosen.dtype)


BUILDERS: Mapping[str, Callable[..., None]] = {
    "land-mask": _build_land_mask,
    "static": _build_static,
    "land-use": _build_land_use,
    "fractions": _build_fractions,
}
"""What fills the empty Zarr group of each store."""


def _terrain(topography: NDArray[np.float32], grid: Grid, rows: slice) -> Fields:
    """Terrain of a strip of rows, computed with the rows that it needs beyond its edges."""
    source_grid = Grid.world(180 / topography.shape[0])
    radius = max(1, round(RUGGEDNESS_REACH / grid.resolution))
    start, stop = max(rows.start - radius, 0), min(rows.stop + radius, grid.rows)
    around = grid.window(slice(start, stop), slice(None))
    # cells larger than those of the topography: the mean of points that are no further apart than its cells
    points = max(1, round(grid.resolution / source_grid.resolution))
    height = aggregate(predictors.bilinear(topography, source_grid, around.refine(points)), points)
    slope, aspect = predictors.slope_aspect(height, around)
    rugged, relative = predictors.ruggedness(height, around, radius)
    fields = {
        "elevation": height,
        "slope": slope,
        "cos_aspect": predictors.cos_aspect(slope, aspect),
        "ruggedness": rugged,
        "relative_elevation": relative,
    }
    return {name: field[rows.start - start : rows.stop - start] for name, field in fields.items()}


class Climate:
    """Monthly means of today's climate, summed up on the grid of the precipitation, interpolated where asked for.

    ``topography`` is the height of the land surface in metres (rows, columns) of the world.
    """

    def __init__(self, topography: NDArray[np.float32]) -> None:
        self._smooth_grid = Grid.world(180 / source("temperature").rows)
        self._smooth = aggregate(topography, topography.shape[0] // self._smooth_grid.rows)
        self._grid = grid = Grid.world(180 / source("precipitation").rows)
        # temperature on meridians and parallels, both ends included
        low = self._smooth_grid
        kelvin = _read_months("temperature", (low.rows + 1, low.columns + 1))
        axes = (start + low.resolution * np.arange(n) for start, n in ((-90, low.rows + 1), (-180, low.columns + 1)))
        points = np.stack(np.meshgrid(grid.latitude, grid.longitude, indexing="ij"), axis=-1)
        warmth = np.asarray(RegularGridInterpolator(tuple(axes), kelvin)(points) - _FREEZING, dtype=np.float32)
        # precipitation with one cell of padding, from south to north
        padded = _read_months("precipitation", (grid.rows + 2, grid.columns + 2))
        rain = np.maximum(padded[::-1][1:-1, 1:-1], 0)
        warm = np.argsort(warmth, axis=-1)[..., 6:]
        self._fields = {
            "coldest_month": warmth.min(axis=-1),
            "warmest_month": warmth.max(axis=-1),
            "precipitation": rain.sum(axis=-1),
            "driest_month": rain.min(axis=-1),
            "warm_precipitation": np.take_along_axis(rain, warm, axis=-1).sum(axis=-1),
        }

    def on(self, part: Grid, height: NDArray[np.floating]) -> Fields:
        """Return the climate of a part of a world grid, (rows, columns): months in degrees Celsius, rain in mm.

        Temperature is moved from the smooth surface of its source to ``height`` (metres) by ``LAPSE_RATE``.
        """
        values = {name: predictors.bilinear(field, self._grid, part) for name, field in self._fields.items()}
        colder = (LAPSE_RATE / 1000) * (height - predictors.bilinear(self._smooth, self._smooth_grid, part))
        return {**values, **{name: values[name] - colder for name in ("coldest_month", "warmest_month")}}


def _read_months(name: str, shape: tuple[int, int]) -> NDArray[np.float32]:
    """Read twelve months, ``(rows, columns, months)``, rows from south to north."""
    path, months = fetch(name), []
    with zipfile.ZipFile(path) as archive:
        for member in archive.namelist():
            with archive.open(member) as stream, np.load(stream) as arrays:
                values = arrays["arr_0"]
            if values.shape != shape:
                raise DatasetError(f"{member} in {path.name} holds {values.shape} points instead of {shape}")
            months.append(values.astype(np.float32))
    return np.stack(months, axis=-1)


def read_lakes() -> NDArray[np.bool_]:
    """Return which points of the mask are lakes; ``(rows, columns)`` of the world from north to south."""
    rows, path = source("lakes").rows, fetch("lakes")
    content = gzip.decompress(path.read_bytes())
    if len(content) != 2 * rows * rows:
        raise DatasetError(f"{path.name} holds {len(content)} points instead of {rows} x {2 * rows}")
    return (np.frombuffer(content, dtype=np.uint8).reshape(rows, 2 * rows) == _LAKE)[::-1]


def lake_share(lakes: NDArray[np.bool_], rows: slice, total: int) -> NDArray[np.float32]:
    """Share of the cells in some rows, of ``total`` from pole to pole, that lakes cover; ``(rows, 2 * total)``.

    Exact for cells that hold parts of the points (points, 2 * points) of the mask, too.
    """
    by_row = _shares(lakes.astype(np.float32), total, rows)
    return _shares(by_row.T, 2 * total, slice(0, 2 * total)).T


def _shares(values: NDArray[np.float32], total: int, chosen: slice) -> NDArray[np.float32]:
    """Means over ``total`` equal parts of the first axis, of which some are chosen."""
    points = len(values)
    edges = np.arange(chosen.start, chosen.stop + 1) * (points / total)
    first, last = int(edges[0]), int(np.ceil(edges[-1] - 1e-9))
    summed = np.concatenate(
        [np.zeros_like(values[:1], dtype=np.float64), np.cumsum(values[first:last], axis=0, dtype=np.float64)]
    )
    whole = np.minimum(np.floor(edges - first + 1e-9).astype(np.intp), last - first)
    part = np.maximum(edges - first - whole, 0)[:, None]
    inside = values[first:last][np.minimum(whole, last - first - 1)]
    return np.diff(summed[whole] + part * inside, axis=0).astype(np.float32) * np.float32(total / points)


@dataclass(frozen=True)
class Settlements:
    """Places with people: degrees north and east, and people, ``(places,)`` each."""

    latitude: NDArray[np.float64]
    longitude: NDArray[np.float64]
    population: NDArray[np.float64]

    def cells(self, grid: Grid) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Rows and columns of a world grid."""
        rows = np.floor((grid.north - self.latitude) / grid.resolution).astype(np.intp)
        columns = np.floor((self.longitude - grid.west) / grid.resolution).astype(np.intp)
        return np.clip(rows, 0, grid.rows - 1), columns % grid.columns


def read_settlements() -> Settlements:
    """Read the gazetteer; :class:`DatasetError` if it holds none."""
    path = fetch("settlements")
    places = json.loads(path.read_bytes()).values()
    table = np.array([(each["latitude"], each["longitude"], each["population"]) for each in places], dtype=np.float64)
    if not len(table):
        raise DatasetError(f"{path.name} holds no settlements")
    return Settlements(*table.T)


def counted(settlements: Settlements, grid: Grid, weights: NDArray[np.float64]) -> NDArray[np.float32]:
    """Add up weights of settlements in each cell of a world grid; ``(rows, columns)``."""
    rows, columns = settlements.cells(grid)
    total = np.bincount(rows * grid.columns + columns, weights, minlength=grid.rows * grid.columns)
    return total.reshape(grid.shape).astype(np.float32)


def density(amounts: NDArray[np.float32], grid: Grid, radius: float) -> NDArray[np.float32]:
    """Spread amounts in the cells of a world grid by a Gaussian; amount per square kilometre, ``(rows, columns)``.

    ``radius`` is its standard deviation in kilometres.
    """
    sigma = radius * KILOMETRE / grid.resolution
    spread = ndimage.gaussian_filter1d(amounts, sigma, axis=0, mode="constant", truncate=_TRUNCATE)
    for start in range(0, grid.rows, _BAND):
        rows = slice(start, start + _BAND)
        width = sigma / max(float(np.cos(np.deg2rad(grid.latitude[rows])).mean()), 1e-3)
        # a kernel must not be wider than the globe
        width = min(width, (grid.columns - 1) / (2 * _TRUNCATE))
        if spread[rows].any():
            spread[rows] = ndimage.gaussian_filter1d(spread[rows], width, axis=1, mode="wrap", truncate=_TRUNCATE)
    area = np.asarray(grid.cell_area()).reshape(grid.rows, -1) / 1e6
    return np.asarray(spread / area, dtype=np.float32)


def town_distance(settlements: Settlements, grid: Grid, smallest: float = 1000.0) -> NDArray[np.float32]:
    """Distance to the nearest town of ``smallest`` people or more, in the radius of that town, at most ``FARTHEST``.

    The built area of towns grows about as their population, so their radius is taken as its root.
    """
    nearest = np.full(grid.shape, FARTHEST, dtype=np.float32)
    rows, _ = settlements.cells(grid)
    for place in np.flatnonzero(settlements.population >= smallest):
        latitude, longitude = settlements.latitude[place], settlements.longitude[place]
        radius = _TOWN_RADIUS * math.sqrt(settlements.population[place])
        squeeze = max(math.cos(math.radians(latitude)), 0.05)
        reach = FARTHEST * radius * KILOMETRE / grid.resolution
        high = math.ceil(reach)
        around = np.arange(max(rows[place] - high, 0), min(rows[place] + high + 1, grid.rows))
        middle = math.floor((longitude - grid.west) / grid.resolution)
        wide = min(math.ceil(reach / squeeze), grid.columns // 2 - 1)
        beside = np.arange(middle - wide, middle + wide + 1)
        north = grid.latitude[around] - latitude
        east = (grid.west + (beside + 0.5) * grid.resolution - longitude) * squeeze
        distance = np.hypot(north[:, None], east) / (radius * KILOMETRE)
        part = np.ix_(around, beside % grid.columns)
        nearest[part] = np.minimum(nearest[part], distance)
    return nearest
