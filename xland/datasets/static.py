"""Static predictors on a global grid: terrain, land and lakes, climate, and where people live."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from xland.datasets.prepared import CHUNK, create, create_coordinates, open_prepared, prepare, store_path, strips
from xland.datasets.reference import KOPPEN_ZONES, elevation, koppen, land_mask
from xland.datasets.surface import (
    FARTHEST,
    LAPSE_RATE,
    Climate,
    counted,
    density,
    lake_share,
    read_lakes,
    read_settlements,
    town_distance,
)
from xland.datasets.wheels import source
from xland.errors import GridError
from xland.geo.grid import Grid, aggregate
from xland.sources import predictors

if TYPE_CHECKING:
    import zarr

COAST_CAP = 500.0
"""Kilometres from the coast beyond which distances are not told apart."""

COAST_FACTOR = 6
"""Cells of the land mask along one cell on which distances and densities are computed at the finest: 0.05 degree."""

RUGGEDNESS_REACH = 0.35
"""Degrees on either side over which ruggedness looks: 15 x 15 cells of 0.05 degree."""

POPULATION_RADII = (3, 8, 20)
"""Kilometres over which people are spread."""

_TODAY = "Today's settlements: they stand for where towns grow, not for how many people lived there."

_GDAL_CACHE = 128 * 2**20  # bytes


@dataclass(frozen=True)
class Predictor:
    """One static variable: its name, unit, type on disk, what it is and which sources it comes from."""

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
    Predictor(
        "ruggedness", "m", "float16", "standard deviation of elevation nearby", ("topography",),
        f"Square reaching {RUGGEDNESS_REACH} degrees on either side.",
    ),
    Predictor(
        "relative_elevation", "m", "float16", "elevation above the mean nearby", ("topography",),
        f"Square reaching {RUGGEDNESS_REACH} degrees on either side.",
    ),
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
            ("temperature", "topography"), f"Moved to the height of the cell by {LAPSE_RATE} K a kilometre.",
        )
        for which in ("coldest", "warmest")
    ),
    *(
        Predictor(name, "mm", "float16", long_name, ("precipitation",))
        for name, long_name in (
            ("precipitation", "precipitation of a year"),
            ("driest_month", "precipitation of the driest month"),
            ("warm_precipitation", "precipitation of the six warmest months"),
        )
    ),
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
        Lazy, dims (lat, lon), float32: the variables of :data:`PREDICTORS`, from ``elevation`` (m), ``slope`` and
        ``land_share`` to climate, lakes and where people live; each says its unit and its source.

    Raises
    ------
    GridError
        If the resolution is not such a multiple.
    DatasetError
        If a source cannot be fetched or fails verification.
    """
    mask = Grid.world(180 / source("land-mask").rows)
    factor = _factor(resolution, mask)
    grid = mask.coarsen(factor)
    path = prepare(store_path("static", str(factor)), partial(_build_within_limits, grid=grid, factor=factor))
    fields = open_prepared(path, chunked=chunked)[[chosen.name for chosen in PREDICTORS]]
    return fields.astype(np.float32) if chunked else fields


def static_identity(resolution: float = 0.05) -> str:
    """Name that changes with the way in which :func:`static_predictors` are made, and with their sources."""
    return store_path("static", str(_factor(resolution, Grid.world(180 / source("land-mask").rows)))).stem


def _factor(resolution: float, mask: Grid) -> int:
    factor = round(resolution / mask.resolution)
    if factor < 1 or abs(resolution / mask.resolution / factor - 1) > 1e-6 or mask.rows % factor:
        raise GridError(
            f"static predictors cannot be made for {resolution:g} degree: the resolution must be a whole multiple of "
            f"{mask.resolution * 3600:g} arc-seconds and divide 180 degrees, such as 0.05, 0.1 or 0.25; "
            "for other grids bring your own static Dataset"
        )
    return factor


def _build_within_limits(group: zarr.Group, grid: Grid, factor: int) -> None:
    import rasterio

    # by itself GDAL keeps the blocks it read up to a twentieth of the machine's memory
    with rasterio.Env(GDAL_CACHEMAX=_GDAL_CACHE):
        _build(group, grid, factor)


def _build(group: zarr.Group, grid: Grid, factor: int) -> None:
    land, zones = land_mask(), koppen()
    zone_factor = round(factor * source("koppen").rows / source("land-mask").rows)
    topography = elevation().to_numpy()
    arrays = {}
    for chosen in PREDICTORS:
        attrs: dict[str, str | float] = {"long_name": chosen.long_name, "units": chosen.units}
        for name in chosen.sources:
            attrs |= source(name).attributes
        if chosen.comment:
            attrs["comment"] = chosen.comment
        if chosen.dtype == "uint8":
            # a share is a count of cells: exact where the count fits a byte
            attrs["scale_factor"] = 1 / _steps(factor)
        arrays[chosen.name] = create(group, chosen.name, ("lat", "lon"), grid.shape, chosen.dtype, attrs)
    create_coordinates(group, grid)

    far_factor = factor * max(1, -(-COAST_FACTOR // factor))
    far = Grid.world(180 / source("land-mask").rows).coarsen(far_factor)
    far_share = np.zeros(far.shape, dtype=np.float32)
    height = max(1, CHUNK // factor)
    for rows in strips(far.rows, height, "Land and sea"):
        block = land[rows.start * far_factor : rows.stop * far_factor].to_numpy()
        far_share[rows] = predictors.land_share(block, far_factor)
    smooth = {"coast_distance": predictors.coast_distance(far_share >= 0.5, far, COAST_CAP), **_settled(far)}
    climate, lakes = Climate(topography), read_lakes()

    for rows in strips(grid.rows, CHUNK, "Static predictors"):
        part = grid.window(rows, slice(None))
        values = _terrain(topography, grid, rows)
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
                stored = np.rint(stored * _steps(factor))
            arrays[chosen.name][rows] = stored.astype(chosen.dtype)


def _settled(grid: Grid) -> dict[str, NDArray[np.float32]]:
    """Fields of where people live."""
    settlements = read_settlements()
    people = counted(settlements, grid, settlements.population)
    places = counted(settlements, grid, np.ones_like(settlements.population))
    return {
        **{f"population_{radius}km": density(people, grid, radius) for radius in POPULATION_RADII},
        "settlements_8km": density(places, grid, 8),
        "town_distance": town_distance(settlements, grid),
    }


def _steps(factor: int) -> int:
    return factor * factor if factor * factor <= 255 else 250


def _terrain(topography: NDArray[np.float32], grid: Grid, rows: slice) -> dict[str, NDArray[np.floating]]:
    """Terrain of a strip of rows, computed with the rows that it needs beyond its edges."""
    source_grid = Grid.world(180 / topography.shape[0])
    radius = max(1, round(RUGGEDNESS_REACH / grid.resolution))
    start, stop = max(rows.start - radius, 0), min(rows.stop + radius, grid.rows)
    inner = slice(rows.start - start, rows.stop - start)
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
    return {name: field[inner] for name, field in fields.items()}
