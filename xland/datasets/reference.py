"""Reference data that are prepared once: land, land use of 2019, and static predictors, opened lazily.

What is not in the cache is built at the first call (:mod:`xland.datasets.building`).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import xarray as xr

from xland import vocabulary
from xland.datasets.prepared import PREDICTORS, has_all, open_prepared, store_path
from xland.datasets.wheels import source
from xland.errors import GridError
from xland.geo.grid import Grid


def land_mask() -> xr.DataArray:
    """Return land (True) and ocean (False) on 30 arc-seconds; lakes count as land. Dims (lat, lon)."""
    return open_prepared(_path("land-mask"))["land"].astype(bool)


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
    return open_prepared(_path("land-use"))["land_use"].assign_attrs(vocabulary.flag_attributes())


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
    return open_prepared(_path("fractions"))[list(vocabulary.CLASS_NAMES)]


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
        ``land_share`` to climate, lakes and where people live; each gives its unit and its source.

    Raises
    ------
    GridError
        If the resolution is not such a multiple.
    DatasetError
        If a source cannot be fetched or fails verification.
    """
    path = _path("static", _factor(resolution))
    fields = open_prepared(path, chunked=chunked)[[chosen.name for chosen in PREDICTORS]]
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


def _path(recipe: str, factor: int | None = None) -> Path:
    path = store_path(recipe, factor)
    if not has_all(path):
        from xland.datasets.building import prepare

        prepare(recipe, factor)
    return path
