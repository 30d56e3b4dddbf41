"""A small map to write into files, and then to damage."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr


def maps(**more: Any) -> xr.Dataset:
    """Return class codes on six rows and eight columns, and what is beside them."""
    codes = np.arange(48, dtype=np.uint8).reshape(6, 8)
    ds = xr.Dataset({"land_use": (("lat", "lon"), codes)}, {"lat": 3 - np.arange(6.0), "lon": np.arange(8.0)})
    return ds.assign(more)
