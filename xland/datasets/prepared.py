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
from xland.geo.conventions import with_years
from xland.geo.grid import Grid
from xland.store.reading import read_finished
from xland.store.storage import CheckedStore
from xland.untrusted.folders import files_at

CHUNK = 600
"""Cells of a chunk in each direction, on disk and in dask."""

KOPPEN_ZONES: tuple[str, ...] = ("tropical", "arid", "temperate", "cold", "polar")
"""Main zones A to E of Koeppen and Geiger, codes 1 to 5."""

RECIPES: Mapping[str, tuple[int, tuple[str, ...]]] = {
    "land-mask": (2, ("land-mask",)),
    "static": (
        3,
        ("topography", "land-mask", "koppen", "temperature", "precipitation", "era5", "lakes", "settlements"),
    ),
    "land-use": (1, ("modis-2019", "land-mask")),
    "fractions": (1, ("modis-2019", "land-mask")),
    "climate": (1, ("topography", "temperature", "precipitation")),
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
_DEMAND = "Potential evapotranspiration after Thornthwaite, from monthly means."
_PLACE = "x points to 0 E on the equator, y to 90 E, z to the north pole; a sphere of radius 1."
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
    Predictor("growing_degree_days", "degC d", "float16", "degree days above 5 degC in a year", ("era5",)),
    Predictor("moisture", "1", "float16", "precipitation over potential evapotranspiration", ("era5",), _DEMAND),
    Predictor(
        "water_deficit", "mm", "float16", "evapotranspiration that precipitation does not meet", ("era5",), _DEMAND
    ),
    Predictor(
        "growing_months", "1", "float16", "months warm and wet enough to grow", ("era5",),
        f"Above 5 degC, precipitation at least half of potential evapotranspiration. {_DEMAND}",
    ),
    Predictor("rain_variation", "1", "float16", "variation of precipitation over the year", ("era5",),
              "Standard deviation of the months over their mean."),
    *(
        Predictor(f"population_{radius}km", "km-2", "float32", f"people within about {radius} km", ("settlements",),
                  f"People of settlements, spread by a Gaussian of {radius} km. {_TODAY}")
        for radius in POPULATION_RADII
    ),
    Predictor(
        "settlements_8km", "km-2", "float32", "settlements within about 8 km", ("settlements",),
        f"Spread by a Gaussian of 8 km. {_TODAY}",
    ),
    *(Predictor(f"place_{axis}", "1", "float16", f"place on the sphere, {axis}", (), _PLACE) for axis in "xyz"),
    Predictor(
        "town_distance", "1", "float16", "distance to the nearest town in the radius of that town", ("settlements",),
        f"Towns of 1000 people and more, radius as the root of their people; at most {FARTHEST:g}. {_TODAY}",
    ),
)  # fmt: skip
"""The variables of :func:`xland.datasets.static_predictors`, in order."""


CLIMATE: Mapping[str, tuple[str, Mapping[str, str], tuple[str, ...]]] = {
    "tas": (
        "mean temperature of the month",
        {
            "standard_name": "air_temperature",
            "units": "degC",
            "cell_methods": "time: mean",
            "comment": f"1979 to 2014. {_HEIGHT}",
        },
        ("topography", "temperature"),  # the last is named as the source
    ),
    "pr": (
        "precipitation of the month",
        {
            "standard_name": "lwe_thickness_of_precipitation_amount",
            "units": "mm month-1",
            "cell_methods": "time: sum",
            "comment": "On land 1951 to 2000.",
        },
        ("precipitation",),
    ),
}
"""The variables of :func:`xland.datasets.monthly_climate`: long name, CF attributes and sources."""


def elevation() -> xr.DataArray:
    """Return the height of the land surface on 5 arc-minutes, metres above sea level; 0 over sea. Dims (lat, lon)."""
    from dask import delayed

    shape = source("topography").grid.shape
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


def era5_climate() -> xr.Dataset:
    """Return today's climate month by month: means of ERA5 over 2000 to 2025 at points 0.25 degree apart.

    ``tas``, air temperature at 2 m in degC, and ``pr``, precipitation of the month in mm: lazy, float32, dims (month,
    lat, lon) with months 1 to 12, latitudes from 90 to -90 and longitudes from -180 to 179.75. :class:`DatasetError`
    if the source cannot be fetched or fails verification.
    """
    ds = xr.open_dataset(fetch("era5"), chunks={})[["t2m", "tp"]].drop_vars("number", errors="ignore")
    rows = source("era5").rows
    expected = {"month": 12, "latitude": rows + 1, "longitude": 2 * rows}
    if ds.sizes != expected:
        raise DatasetError(f"{fetch('era5').name} holds {dict(ds.sizes)}; {expected} were expected")
    ds = ds.rename(t2m="tas", tp="pr", latitude="lat", longitude="lon").drop_encoding()
    ds = ds.assign_coords(lon=(ds["lon"] + 180) % 360 - 180).sortby("lon")
    period, given = {"comment": "Mean over 2000 to 2025."}, source("era5").attributes
    # its file gives the units of GRIB, kelvin and metres; its values are these
    ds["tas"].attrs = {"standard_name": "air_temperature", "units": "degC", **given, **period}
    ds["pr"].attrs = {"long_name": "precipitation of the month", "units": "mm", **given, **period}
    for name, (_, _, attrs) in Grid.world(1).coordinates.items():
        ds[name].attrs = attrs
    ds.attrs = {"title": source("era5").title, **given}
    return ds


def _on_world(name: str, data: Any, dataset: str, attrs: dict[str, Any]) -> xr.DataArray:
    wanted = source(dataset)
    grid = wanted.grid
    if data.shape != grid.shape:
        raise DatasetError(f"{wanted.members[0]} holds {data.shape} cells instead of {grid.shape}")
    return xr.DataArray(data, grid.coordinates, ("lat", "lon"), name, {**attrs, **wanted.attributes})


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


def static_identity(resolution: float = 0.05) -> str:
    """Name of the static predictors that changes with the way in which they are made, and with their sources."""
    return store_path("static", mask_cells(resolution)).stem


def mask_cells(resolution: float) -> int:
    """Cells of the land mask along a cell of this resolution."""
    mask = source("land-mask").grid
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


def open_prepared(path: Path, *, chunked: bool = True) -> xr.Dataset:
    """Open a store lazily, one dask chunk for each chunk on disk or without dask, free of how it was encoded."""
    table = read_finished(path)[1]
    if table is None:
        raise DatasetError(f"{path} holds no digests: delete it, so that it is built again")
    ds = xr.open_zarr(CheckedStore(table), consolidated=True, chunks={} if chunked else None).drop_encoding()
    return with_years(ds, ds["time"].values.tolist()) if "time" in ds.coords else ds
