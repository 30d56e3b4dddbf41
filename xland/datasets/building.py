"""Building the prepared stores from their sources: land and sea, land use of 2019, and static predictors."""

from __future__ import annotations

import gzip
import json
import math
import shutil
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy import ndimage
from scipy.interpolate import RegularGridInterpolator

from xland import vocabulary
from xland.datasets import predictors
from xland.datasets.prepared import (
    CHUNK,
    CLIMATE,
    COAST_CAP,
    FARTHEST,
    KOPPEN_ZONES,
    LAPSE_RATE,
    POPULATION_RADII,
    PREDICTORS,
    RUGGEDNESS_REACH,
    elevation,
    era5_climate,
    has_all,
    koppen,
    modis_igbp,
    open_prepared,
    store_path,
)
from xland.datasets.wheels import fetch, source
from xland.errors import DatasetError
from xland.geo.grid import Grid, aggregate, class_shares, nesting_factor
from xland.store.storage import ATTRIBUTE, ROOT
from xland.store.workplace import seal
from xland.untrusted.folders import files_at, sha256, table_name

Fields = dict[str, NDArray[np.floating]]

YEAR = 2019
"""Year of the MODIS map."""

FRACTION_FACTOR = 5
"""Fine cells along one coarse cell of the class fractions: 0.05 to 0.25 degree."""

COAST_FACTOR = 6
"""Cells of the land mask along one cell on which distances and densities are computed at the finest: 0.05 degree."""

_GDAL_CACHE = 128 * 2**20  # bytes
_FREEZING = 273.15
_LAKE = 2  # 0 is sea, 1 land; islands in lakes are land
_TOWN = 1000  # people
_TOWN_RADIUS = 19e-3  # kilometres for each root of a person: 19 km for a million, 6 km for 100,000
_TRUNCATE = 3.0
_BAND = 40  # rows that share the width of a kernel


def build(recipe: str, factor: int | None = None) -> Path:
    """Return the path of a store, built beside its place and moved there in one step unless it is whole."""
    path = store_path(recipe, factor)
    if has_all(path):
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.stem}-"))
    except OSError as error:
        raise DatasetError(
            f"cannot write to the cache {path.parent} ({error}): name another folder in XLAND_CACHE"
        ) from error
    try:
        part = folder / "part.zarr"
        BUILDERS[recipe](part, *([] if factor is None else [factor]))
        if has_all(path):  # another process was faster: its store is as good as ours
            return path
        files = files_at(part)
        root = json.loads(files.read(ROOT))
        root["attributes"][ATTRIBUTE] = table_name(root)
        seal(files, {name: sha256(files.read(name)) for name in files.walk() if name != ROOT}, root)
        with suppress(FileNotFoundError):
            path.rename(folder / "incomplete.zarr")
        try:
            part.rename(path)
        except OSError:
            if not path.is_dir():
                raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return path


def create(
    path: Path,
    grid: Grid,
    variables: Mapping[str, tuple[str, Mapping[str, Any]]],
    years: tuple[int, ...] = (),
    *,
    monthly: bool = False,
) -> Any:
    """Create a store of empty variables, each given by type and attributes; return its Zarr group, open.

    Chunks have ``CHUNK`` cells a side, and are wider on very fine grids, which would else end in thousands of files.
    """
    import zarr

    axes: dict[str, Any] = grid.coordinates
    if years:
        axes = {"time": ("time", np.array(years), {"long_name": "calendar year", "axis": "T"}), **axes}
    if monthly:
        axes = {"month": ("month", np.arange(1, 13), {"long_name": "month of the year"}), **axes}
    shape = tuple(len(values) for _, values, _ in axes.values())
    width = CHUNK if grid.columns <= 20 * CHUNK else 6 * CHUNK
    chunks = (*(min(size, CHUNK) for size in shape[:-1]), min(shape[-1], width))
    empty = {
        name: (tuple(axes), da.zeros(shape, dtype=dtype, chunks=-1), attrs)
        for name, (dtype, attrs) in variables.items()
    }
    whole = {name: {"chunks": values.shape, "_FillValue": None} for name, (_, values, _) in axes.items()}
    encoding = whole | {name: {"chunks": chunks, "_FillValue": None} for name in variables}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Consolidated metadata is currently not part")
        ds = xr.Dataset(empty, axes)
        ds.to_zarr(path, mode="w", compute=False, consolidated=True, encoding=encoding, zarr_format=3)
    return zarr.open_group(path, mode="r+", use_consolidated=False)


def strips(rows: int, height: int, description: str) -> Iterable[slice]:
    """Yield slices of ``height`` rows from north to south, under a progress bar on standard error."""
    from xland.progress import Bar

    with Bar() as bar:
        for start in bar.track(range(0, rows, height), description=description):
            yield slice(start, min(start + height, rows))


def _build_land_mask(store: Path) -> None:
    wanted, path = source("land-mask"), fetch("land-mask")
    grid = wanted.grid
    attrs = {"long_name": "land", "standard_name": "land_binary_mask", **wanted.attributes}
    array = create(store, grid, {"land": ("uint8", attrs)})["land"]
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


def _land() -> xr.DataArray:
    return open_prepared(build("land-mask"))["land"].astype(bool)


def _build_land_use(store: Path) -> None:
    igbp, land = modis_igbp(), _land()
    grid = source("modis-2019").grid
    factor = nesting_factor(source("land-mask").grid, grid)
    attrs = {
        **vocabulary.flag_attributes(),
        **source("modis-2019").attributes,
        "comment": f"Observed in {YEAR}. IGBP classes translated by the table of xland.vocabulary; water is ocean "
        "where less than half of the cell is land in the land mask, else inland water.",
    }
    array = create(store, grid, {"land_use": ("uint8", attrs)}, (YEAR,))["land_use"]
    for rows in strips(grid.rows, CHUNK, "Translating MODIS land cover"):
        codes = igbp[rows].to_numpy()
        classes = vocabulary.translate(codes, vocabulary.IGBP, what=f"MODIS land cover {YEAR}")
        share = predictors.land_share(land[rows.start * factor : rows.stop * factor].to_numpy(), factor)
        classes[(classes == vocabulary.WATER) & (share < 0.5)] = vocabulary.OCEAN
        array[0, rows] = classes


def _build_fractions(store: Path) -> None:
    fine = source("modis-2019").grid
    coarse = fine.coarsen(FRACTION_FACTOR)
    land_use = open_prepared(build("land-use"))["land_use"]
    attrs = {
        "units": "1",
        "cell_methods": "area: mean",
        **source("modis-2019").attributes,
        "comment": f"Observed in {YEAR}: area-weighted share of the class in the 0.05 degree map of land use.",
    }
    variables = {
        chosen.name: ("float32", {"long_name": f"share of {chosen.long_name}", **attrs})
        for chosen in vocabulary.CLASSES
    }
    group = create(store, coarse, variables, (YEAR,))
    for rows in strips(coarse.rows, CHUNK // FRACTION_FACTOR, "Aggregating class fractions"):
        inner = slice(rows.start * FRACTION_FACTOR, rows.stop * FRACTION_FACTOR)
        area = fine.window(inner, slice(None)).cell_area()
        shares = class_shares(land_use[0, inner].to_numpy(), FRACTION_FACTOR, area, len(vocabulary.CLASSES))
        for name, share in zip(variables, shares, strict=True):
            group[name][0, rows] = share.astype(np.float32)


def _build_static(store: Path, factor: int) -> None:
    import rasterio

    mask, land, zones = source("land-mask").grid, _land(), koppen()
    grid, zone_factor = mask.coarsen(factor), round(factor * source("koppen").rows / mask.rows)
    topography = elevation().to_numpy()
    # a share is a count of cells: exact where the count fits a byte
    share_steps = factor * factor if factor * factor <= 255 else 250
    variables = {}
    for chosen in PREDICTORS:
        attrs: dict[str, str | float] = {"long_name": chosen.long_name, "units": chosen.units}
        for name in chosen.sources:
            attrs |= source(name).attributes
        if chosen.comment:
            attrs["comment"] = chosen.comment
        if chosen.dtype == "uint8":
            attrs["scale_factor"] = 1 / share_steps
        variables[chosen.name] = (chosen.dtype, attrs)
    group = create(store, grid, variables)

    far_factor = factor * max(1, -(-COAST_FACTOR // factor))
    far = mask.coarsen(far_factor)
    far_share = np.zeros(far.shape, dtype=np.float32)
    for rows in strips(far.rows, max(1, CHUNK // factor), "Land and sea"):
        block = land[rows.start * far_factor : rows.stop * far_factor].to_numpy()
        far_share[rows] = predictors.land_share(block, far_factor)
    settlements = read_settlements()
    people = counted(settlements, far, settlements[2])
    places = counted(settlements, far, np.ones_like(settlements[2]))
    smooth = {
        "coast_distance": predictors.coast_distance(far_share >= 0.5, far, COAST_CAP),
        **{f"population_{radius}km": density(people, far, radius) for radius in POPULATION_RADII},
        "settlements_8km": density(places, far, 8),
        "town_distance": town_distance(settlements, far),
    }
    climate, growing, lakes = read_climate(topography), read_growing(), read_lakes()

    # by itself GDAL keeps the blocks it read up to a twentieth of the machine's memory
    with rasterio.Env(GDAL_CACHEMAX=_GDAL_CACHE):
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
            values |= climate(part, values["elevation"]) | growing(part)
            inner = slice(rows.start * zone_factor, rows.stop * zone_factor)
            shares = predictors.zone_shares(zones[inner].to_numpy(), zone_factor, len(KOPPEN_ZONES))
            values |= {f"koppen_{zone}": zone_share for zone, zone_share in zip(KOPPEN_ZONES, shares, strict=True)}
            values["abs_latitude"] = np.broadcast_to(np.abs(part.latitude)[:, None], part.shape)
            values |= predictors.place(part)
            values["coast_distance"] = np.where(share >= 0.5, values["coast_distance"], 0)
            for name, (dtype, _) in variables.items():
                stored = values[name].astype(np.float32)
                group[name][rows] = (np.rint(stored * share_steps) if dtype == "uint8" else stored).astype(dtype)


def _build_climate(store: Path) -> None:
    topography = elevation().to_numpy()
    grid, smooth, rain, colder = _read_today(topography)
    warmth = smooth - colder(grid, _terrain(topography, grid, slice(0, grid.rows))["elevation"])[..., None]
    variables = {}
    for name, (title, attrs, names) in CLIMATE.items():
        said = {key: text for each in names for key, text in source(each).attributes.items()}
        variables[name] = ("float32", {"long_name": title, **attrs, **said})
    group = create(store, grid, variables, monthly=True)
    for name, values in (("tas", warmth), ("pr", rain)):
        group[name][:] = np.moveaxis(values, -1, 0).astype(np.float32)


BUILDERS: Mapping[str, Callable[..., None]] = {
    "land-mask": _build_land_mask,
    "static": _build_static,
    "land-use": _build_land_use,
    "fractions": _build_fractions,
    "climate": _build_climate,
}
"""What writes each store to a path; the static predictors take the cells of the land mask along one of theirs."""


def _terrain(topography: NDArray[np.float32], grid: Grid, rows: slice) -> Fields:
    """Terrain of a strip of rows, computed with the rows that it needs beyond its edges."""
    source_grid = Grid.world(180 / topography.shape[0])
    radius = max(1, round(RUGGEDNESS_REACH / grid.resolution))
    start, stop = max(rows.start - radius, 0), min(rows.stop + radius, grid.rows)
    around = grid.window(slice(start, stop), slice(None))
    # cells larger than those of the topography: the mean of points that are no further apart than its cells
    points = max(1, round(grid.resolution / source_grid.resolution))
    height = aggregate(predictors.bilinear(topography, source_grid, around.refine(points)), points)
    fields = predictors.terrain(height, around, radius)
    return {name: field[rows.start - start : rows.stop - start] for name, field in fields.items()}


def read_climate(topography: NDArray[np.float32]) -> Callable[[Grid, NDArray[np.floating]], Fields]:
    """Return a function of a part of a world grid and its height (metres) that gives today's climate there, by name.

    Temperature, in degrees Celsius, is moved from the smooth surface of its source by ``LAPSE_RATE``; rain is in mm.
    """
    grid, warmth, rain, colder = _read_today(topography)
    warm = np.argsort(warmth, axis=-1)[..., 6:]
    fields = {
        "coldest_month": warmth.min(axis=-1),
        "warmest_month": warmth.max(axis=-1),
        "precipitation": rain.sum(axis=-1),
        "driest_month": rain.min(axis=-1),
        "warm_precipitation": np.take_along_axis(rain, warm, axis=-1).sum(axis=-1),
    }

    def climate(part: Grid, height: NDArray[np.floating]) -> Fields:
        values = {name: predictors.bilinear(field, grid, part) for name, field in fields.items()}
        cooling = colder(part, height)
        return {**values, **{name: values[name] - cooling for name in ("coldest_month", "warmest_month")}}

    return climate


def read_growing() -> Callable[[Grid], Fields]:
    """Compute today's growing conditions; return them as a function of a part of a world grid, by name."""
    ds = era5_climate().load()
    grid = source("era5").grid
    # from points on meridians and parallels to the centres of the cells between them
    months = {}
    for name in ("tas", "pr"):
        rows = (ds[name].values[:, 1:] + ds[name].values[:, :-1]) / 2
        months[name] = (rows + np.roll(rows, -1, axis=-1)) / 2
    fields = predictors.growing_conditions(months["tas"], months["pr"], grid.latitude)
    return lambda part: {name: predictors.bilinear(field, grid, part) for name, field in fields.items()}


Cooling = Callable[[Grid, NDArray[np.floating]], NDArray[np.floating]]


def _read_today(
    topography: NDArray[np.float32],
) -> tuple[Grid, NDArray[np.float32], NDArray[np.float32], Cooling]:
    """Return a grid, monthly temperature (degrees Celsius) and precipitation (mm) on it, months last, and a function.

    The temperature is that of a smooth surface; the function says by how much cells at their height are colder.
    """
    low = source("temperature").grid
    smooth = aggregate(topography, topography.shape[0] // low.rows)
    grid = source("precipitation").grid
    # temperature on meridians and parallels, both ends included
    kelvin = _read_months("temperature", (low.rows + 1, low.columns + 1))
    axes = (start + low.resolution * np.arange(n) for start, n in ((-90, low.rows + 1), (-180, low.columns + 1)))
    points = np.stack(np.meshgrid(grid.latitude, grid.longitude, indexing="ij"), axis=-1)
    warmth = np.asarray(RegularGridInterpolator(tuple(axes), kelvin)(points) - _FREEZING, dtype=np.float32)
    # precipitation with one cell of padding, from south to north
    padded = _read_months("precipitation", (grid.rows + 2, grid.columns + 2))
    rain = np.maximum(padded[::-1][1:-1, 1:-1], 0)

    def colder(part: Grid, height: NDArray[np.floating]) -> NDArray[np.floating]:
        return (LAPSE_RATE / 1000) * (height - predictors.bilinear(smooth, low, part))

    return grid, warmth, rain, colder


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
    """Share of the cells in some rows, of ``total`` from pole to pole, that lakes cover; also of parts of points."""
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


def read_settlements() -> NDArray[np.float64]:
    """Read the gazetteer: degrees north, degrees east and people, ``(3, places)``; DatasetError if it is empty."""
    path = fetch("settlements")
    places = json.loads(path.read_bytes()).values()
    if not places:
        raise DatasetError(f"{path.name} holds no settlements")
    return np.array([(each["latitude"], each["longitude"], each["population"]) for each in places], dtype=np.float64).T


def counted(settlements: NDArray[np.float64], grid: Grid, weights: NDArray[np.float64]) -> NDArray[np.float32]:
    """Add up weights of settlements in each cell of a world grid; ``(rows, columns)``."""
    rows = np.clip(np.floor((grid.north - settlements[0]) / grid.resolution).astype(np.intp), 0, grid.rows - 1)
    columns = np.floor((settlements[1] - grid.west) / grid.resolution).astype(np.intp) % grid.columns
    total = np.bincount(rows * grid.columns + columns, weights, minlength=grid.rows * grid.columns)
    return total.reshape(grid.shape).astype(np.float32)


def density(amounts: NDArray[np.float32], grid: Grid, radius: float) -> NDArray[np.float32]:
    """Spread amounts by a Gaussian with a standard deviation of so many kilometres; amount per square kilometre."""
    sigma = radius * predictors.KILOMETRE / grid.resolution
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


def town_distance(settlements: NDArray[np.float64], grid: Grid) -> NDArray[np.float32]:
    """Distance to the nearest town of 1000 people or more, in the radius of that town, at most ``FARTHEST``.

    The built area of towns grows about as their population, so their radius is taken as its root.
    """
    nearest = np.full(grid.shape, FARTHEST, dtype=np.float32)
    for latitude, longitude, population in settlements.T[settlements[2] >= _TOWN].tolist():
        radius = _TOWN_RADIUS * math.sqrt(population)
        squeeze = max(math.cos(math.radians(latitude)), 0.05)
        reach = FARTHEST * radius * predictors.KILOMETRE / grid.resolution
        high = math.ceil(reach)
        row = min(max(math.floor((grid.north - latitude) / grid.resolution), 0), grid.rows - 1)
        around = np.arange(max(row - high, 0), min(row + high + 1, grid.rows))
        middle = math.floor((longitude - grid.west) / grid.resolution)
        wide = min(math.ceil(reach / squeeze), grid.columns // 2 - 1)
        beside = np.arange(middle - wide, middle + wide + 1)
        north = grid.latitude[around] - latitude
        east = (grid.west + (beside + 0.5) * grid.resolution - longitude) * squeeze
        distance = np.hypot(north[:, None], east) / (radius * predictors.KILOMETRE)
        part = np.ix_(around, beside % grid.columns)
        nearest[part] = np.minimum(nearest[part], distance)
    return nearest
