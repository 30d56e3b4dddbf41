"""Static predictors on a global grid, made from topography, land mask and climate zones."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from xland import predictors
from xland.datasets.prepared import CHUNK, create, create_coordinates, open_prepared, prepare, store_path, strips
from xland.datasets.reference import KOPPEN_ZONES, elevation, koppen, land_mask
from xland.datasets.wheels import source
from xland.errors import GridError
from xland.grid import Grid, aggregate

if TYPE_CHECKING:
    import zarr

COAST_CAP = 500.0
"""Kilometres from the coast beyond which distances are not told apart."""

COAST_FACTOR = 6
"""Cells of the land mask along one cell on which coast distance is computed at the finest: 0.05 degree."""

RUGGEDNESS_REACH = 0.35
"""Degrees on either side over which ruggedness looks: 15 x 15 cells of 0.05 degree."""

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
        Lazy, dims (lat, lon), float32: ``elevation`` (m), ``slope`` (rise over run), ``cos_aspect``,
        ``ruggedness`` (m), ``relative_elevation`` (m), ``land_share``, ``koppen_tropical``, ``koppen_arid``,
        ``koppen_temperate``, ``koppen_cold``, ``koppen_polar`` (shares of the cell), ``abs_latitude``
        (degrees) and ``coast_distance`` (km).

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
    coast = predictors.coast_distance(far_share >= 0.5, far, COAST_CAP)

    for rows in strips(grid.rows, CHUNK, "Static predictors"):
        part = grid.window(rows, slice(None))
        values = _terrain(topography, grid, rows)
        if far_factor == factor:
            share, near = far_share[rows], coast[rows]
        else:
            share = predictors.land_share(land[rows.start * factor : rows.stop * factor].to_numpy(), factor)
            near = predictors.bilinear(coast, far, part).astype(np.float32)
        values["land_share"] = share
        inner = slice(rows.start * zone_factor, rows.stop * zone_factor)
        shares = predictors.zone_shares(zones[inner].to_numpy(), zone_factor, len(KOPPEN_ZONES))
        values |= {f"koppen_{zone}": zone_share for zone, zone_share in zip(KOPPEN_ZONES, shares, strict=True)}
        values["abs_latitude"] = np.broadcast_to(np.abs(part.latitude)[:, None], part.shape)
        values["coast_distance"] = np.where(share >= 0.5, near, 0)
        for chosen in PREDICTORS:
            stored = values[chosen.name].astype(np.float32)
            if chosen.dtype == "uint8":
                stored = np.rint(stored * _steps(factor))
            arrays[chosen.name][rows] = stored.astype(chosen.dtype)


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
