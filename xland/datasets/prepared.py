"""Reference data, opened lazily: sources on the world, and the stores that are prepared from them once.

A store is complete or not there, in the cache, and holds the digest of each file. What is missing is built
(:mod:`xland.datasets.building`): scratch disks delete files that were not read for long, one by one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import dask.array as da
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from xland import vocabulary
from xland.datasets.wheels import cache_dir, fetch, source
from xland.errors import DatasetError, GridError, StoreError
from xland.geo.grid import Grid
from xland.geo.years import with_years
from xland.store.storage import files_at
from xland.store.workplace import read_finished

CHUNK = 600
"""Cells of a chunk in each direction, on disk and in dask."""

KOPPEN_ZONES: tuple[str, ...] = ("tropical", "arid", "temperate", "cold", "polar")
"""Main zones A to E of Koeppen and Geiger, codes 1 to 5."""

RECIPES: Mapping[str, tuple[int, tuple[str, ...]]] = {
    "land-mask": (2, ("land-mask",)),
    "static": (2, ("topography", "land-mask", "koppen", "temperature", "precipitation", "lakes", "settlements")),
    "land-use": (1, ("modis-2019", "land-mask")),
    "fractions": (1, ("modis-2019", "land-mask")),
}
"""Every store: the version of how it is made, to be raised with every change, and what it is made of."""

COAST_CAP = 500.0
"""Kilometres from the coast beyond which distances are all the same."""

RUGGEDNESS_REACH = 0.35
"""Degrees on either side over which ruggedness looks: 15 x 15 cells of 0.05 degree."""

LAPSE_RATE = 6.5
"""Degrees by which air is colder a kilometre further up: the standard atmosphere (ISO 2533)."""

POPULATION_RADII = (3, 8, 20)
"""Kilometres over which people are spread."""

FARTHEST = 9.0
"""Radii of a town beyond which distances are all the same."""

_TODAY = "Today's settlements: they stand for where towns grow, not for how many people lived there."
_AROUND = f"Square reaching {RUGGEDNESS_REACH} degrees on either side."
_HEIGHT = f"Moved to the height of the cell by {LAPSE_RATE} K a kilometre."


class Predictor(NamedTuple):
    """A static variable: its name, unit, type on disk, what it is and its sources."""

    name: str
    units: str
    dtype: str
    long_name: str
    sources: tuple[str, ...]
    comment: str = ""


PREDICTORS: tuple[Predictor, ...] = (
    Predictor("elevation", "m", "float32", "height of the surface above sea level", ("topography",)),
    Predictor("slope", "1", "float16", "slope, rise over run", ("topography",), "Horn's differences."),
    Predictor(
        "cos_aspect", "1", "float16", "cosine of aspect", ("topography",), "1 faces north, -1 south; 0 is flat."
    ),
    Predictor("ruggedness", "m", "float16", "standard deviation of elevation nearby", ("topography",), _AROUND),
    Predictor("relative_elevation", "m", "float16", "elevation above the mean nearby", ("topography",), _AROUND),
    Predictor("land_share", "1", "uint8", "share of the cell that is land", ("land-mask",), "Lakes count as land."),
    *(
        Predictor(f"koppen_{zone}", "1", "uint8", f"share of the cell in the {zone} climate zone", ("koppen",))
        for zone in KOPPEN_ZONES
    ),
    Predictor("abs_latitude", "degree", "float32", "distance from the equator in degrees", ()),
    Predictor(
        "coast_distance", "km", "float16", "distance from the nearest sea", ("land-mask",),
        f"Great circle between cell centres; 0 over sea, at most {COAST_CAP:g}. Sea: less than half land. "
        "On grids finer than 0.05 degree interpolated from there, so that small islands may be at 0.",
    ),
    Predictor("lake_share", "1", "uint8", "share of the cell that is lake", ("lakes",)),
    *(
        Predictor(
            f"{which}_month", "degC", "float16", f"mean temperature of the {which} month",
            ("temperature", "topography"), _HEIGHT,
        )
        for which in ("coldest", "warmest")
    ),
    Predictor("precipitation", "mm", "float16", "precipitation of a year", ("precipitation",)),
    Predictor("driest_month", "mm", "float16", "precipitation of the driest month", ("precipitation",)),
    Predictor("warm_precipitation", "mm", "float16", "precipitation of the six warmest months", ("precipitation",)),
    *(
        Predictor(f"population_{radius}km", "km-2", "float32", f"people within about {radius} km", ("settlements",),
                  f"People of settlements, spread by a Gaussian of {radius} km. {_TODAY}")
        for radius in POPULATION_RADII
    ),
    Predictor(
        "settlements_8km", "km-2", "float32", "settlements within about 8 km", ("settlements",),
        f"Spread by a Gaussian of 8 km. {_TODAY}",
    ),
    Predictor(
        "town_distance", "1", "float16", "distance to the nearest town in the radius of that town", ("settlements",),
        f"Towns of 1000 people and more, radius as the root of their people; at most {FARTHEST:g}. {_TODAY}",
    ),
)  # fmt: skip
"""The variables of :func:`static_predictors`, in order."""


def elevation() -> xr.DataArray:
    """Return the height of the land surface on 5 arc-minutes, metres above sea level; 0 over sea. Dims (lat, lon)."""
    from dask import delayed

    shape = Grid.world(180 / source("topography").rows).shape
    block = da.from_delayed(delayed(_read_topography, pure=True)(fetch("topography"), shape), shape, np.float32)
    return _on_world("elevation", block, "topography", {
        "standard_name": "surface_altitude", "long_name": "height of the surface above sea level", "units": "m",
    })  # fmt: skip


def koppen() -> xr.DataArray:
    """Return the main climate zones of Koeppen and Geiger on 30 arc-seconds: 1 to 5, 0 over sea. Dims (lat, lon)."""
    return _on_world("koppen", _open_tiff("koppen"), "koppen", {
        "long_name": "main climate zone after Koeppen and Geiger",
        "flag_values": np.arange(6, dtype=np.uint8),
        "flag_meanings": " ".join(("none", *KOPPEN_ZONES)),
    })  # fmt: skip


def modis_igbp() -> xr.DataArray:
    """Return MODIS land cover of 2019 in IGBP codes 0 to 16 on 0.05 degree. Dims (lat, lon)."""
    names = (vocabulary.IGBP_NAMES[code].replace(",", "").replace(" ", "_") for code in range(17))
    return _on_world("igbp", _open_tiff("modis-2019"), "modis-2019", {
        "long_name": "IGBP land cover class of 2019",
        "flag_values": np.arange(17, dtype=np.uint8),
        "flag_meanings": " ".join(names),
    })  # fmt: skip


def _on_world(name: str, data: Any, dataset: str, attrs: dict[str, Any]) -> xr.DataArray:
    wanted = source(dataset)
    grid = Grid.world(180 / wanted.rows)
    if data.shape != grid.shape:
        raise DatasetError(f"{wanted.members[0]} holds {data.shape} cells instead of {grid.shape}")
    return xr.DataArray(data, coordinates(grid), ("lat", "lon"), name, {**attrs, **wanted.attributes})


def coordinates(grid: Grid) -> dict[str, tuple[str, NDArray[np.float64], dict[str, str]]]:
    """Latitude and longitude of a grid with their CF attributes."""
    return {
        "lat": ("lat", grid.latitude, {"standard_name": "latitude", "units": "degrees_north", "axis": "Y"}),
        "lon": ("lon", grid.longitude, {"standard_name": "longitude", "units": "degrees_east", "axis": "X"}),
    }


def _open_tiff(dataset: str) -> Any:
    """Open the one band of a GeoTIFF as a dask array in full-width strips, as the file stores its rows."""
    import rioxarray

    height = max(1, min(CHUNK, 2**24 // (2 * source(dataset).rows)))
    opened = rioxarray.open_rasterio(fetch(dataset), chunks={"x": -1, "y": height})
    return opened.squeeze("band", drop=True).data


def _read_topography(path: Path, shape: tuple[int, int]) -> NDArray[np.float32]:
    """Read the height of the surface, without its padding of two cells."""
    with np.load(path) as archive:
        inner = archive["arr_0"][2:-2, 2:-2]
    if inner.shape != shape:
        raise DatasetError(f"{path.name} holds {inner.shape} cells and 2 around them; {shape} were expected")
    return np.asarray(inner, dtype=np.float32)


def land_mask() -> xr.DataArray:
    """Return land (True) and ocean (False) on 30 arc-seconds; lakes count as land. Dims (lat, lon)."""
    return open_prepared("land-mask")["land"].astype(bool)


def land_use_modis() -> xr.DataArray:
    """Observed land use of 2019: the eight classes on 0.05 degree, from MODIS.

    IGBP codes are translated by :data:`xland.vocabulary.IGBP`. MODIS does not distinguish sea from lakes: its
    water becomes ocean where less than half of a cell is land in the land mask, else inland water.

    Returns
    -------
    xarray.DataArray
        ``land_use``, uint8 class codes, dims (time, lat, lon) with the one year 2019; lazy.

    Raises
    ------
    DatasetError
        If a source cannot be fetched or fails verification.
    """
    # JSON keeps no integer types, CF wants the flags in the type of the map
    return open_prepared("land-use")["land_use"].assign_attrs(vocabulary.flag_attributes())


def class_fractions() -> xr.Dataset:
    """Shares of the eight classes in each 0.25 degree cell, from :func:`land_use_modis`.

    A coarse input made from the fine map itself: what downscaling it shows is where within a coarse
    cell each class lies, not how well coarse land-use data agree with MODIS.

    Returns
    -------
    xarray.Dataset
        One float32 variable for each name in :data:`xland.vocabulary.CLASS_NAMES`: area-weighted shares
        of the whole cell that sum to 1; dims (time, lat, lon) with the one year 2019; lazy.

    Raises
    ------
    DatasetError
        If a source cannot be fetched or fails verification.
    """
    return open_prepared("fractions")[list(vocabulary.CLASS_NAMES)]


def static_predictors(resolution: float = 0.05, *, chunked: bool = True) -> xr.Dataset:
    """Return static predictors on the world grid of a resolution.

    Built at the first call (about half a minute for 0.05 degree) and kept in the cache.

    Parameters
    ----------
    resolution : float
        Degrees: a whole multiple of 30 arc-seconds that divides 180 degrees, such as 0.05, 0.1 or 0.25.
    chunked : bool
        Whether the variables are dask arrays of float32; else they are read from the file where they
        are asked for, in the type in which they are stored.

    Returns
    -------
    xarray.Dataset
        Lazy, dims (lat, lon), float32: from ``elevation`` (m), ``slope`` and ``land_share`` to climate, lakes and
        where people live; each variable gives its unit and its source.

    Raises
    ------
    GridError
        If the resolution is not such a multiple.
    DatasetError
        If a source cannot be fetched or fails verification.
    """
    fields = open_prepared("static", _factor(resolution), chunked=chunked)[[chosen.name for chosen in PREDICTORS]]
    return fields.astype(np.float32) if chunked else fields


def static_identity(resolution: float = 0.05) -> str:
    """Name that changes with the way in which :func:`static_predictors` are made, and with their sources."""
    return store_path("static", _factor(resolution)).stem


def is_prepared() -> bool:
    """Whether the cache holds the static predictors on 0.05 degree and the MODIS maps; fetches nothing."""
    return all(path.is_dir() for path in (store_path("static", 6), store_path("land-use"), store_path("fractions")))


def _factor(resolution: float) -> int:
    """Cells of the land mask along a cell of this resolution."""
    mask = Grid.world(180 / source("land-mask").rows)
    factor = round(resolution / mask.resolution)
    if factor < 1 or abs(resolution / mask.resolution / factor - 1) > 1e-6 or mask.rows % factor:
        raise GridError(
            f"static predictors cannot be made for {resolution:g} degree: the resolution must be a whole multiple of "
            f"{mask.resolution * 3600:g} arc-seconds and divide 180 degrees, such as 0.05, 0.1 or 0.25; "
            "for other grids bring your own static Dataset"
        )
    return factor


def store_path(recipe: str, factor: int | None = None) -> Path:
    """Path of a store; it changes with the way it is made, its sources and the table of classes."""
    version, names = RECIPES[recipe]
    parts = [source(name).sha256 for name in names]
    if "modis-2019" in names:
        parts.append(repr(sorted(vocabulary.IGBP.items())))
    key = hashlib.sha256("".join(parts).encode()).hexdigest()[:10]
    label = recipe if factor is None else f"{recipe}-{factor}"
    return cache_dir() / "prepared" / f"{label}-v{version}-{key}.zarr"


def has_all(path: Path) -> bool:
    """Whether a store has all the files that it was built of; looked at once in each process."""
    if path not in _complete and path.is_dir():
        with suppress(StoreError):
            table = read_finished(path)[1]
            if table is not None and table.files.keys() <= set(files_at(path).walk()):
                _complete.add(path)
    return path in _complete


_complete: set[Path] = set()


def open_prepared(recipe: str, factor: int | None = None, *, chunked: bool = True) -> xr.Dataset:
    """Open a store lazily, built if it is not there: one dask chunk for each chunk on disk, or without dask."""
    from xland.store.checksums import CheckedStore

    path = store_path(recipe, factor)
    if not has_all(path):
        from xland.datasets.building import build

        build(path, recipe, factor)
    table = read_finished(path)[1]
    if table is None:
        raise DatasetError(f"{path} holds no digests: delete it, so that it is built again")
    ds = xr.open_zarr(CheckedStore(table), consolidated=True, chunks={} if chunked else None).drop_encoding()
    return with_years(ds, ds["time"].values.tolist()) if "time" in ds.coords else ds
