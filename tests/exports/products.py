"""Maps to export: codes and shares of a region, in blocks."""

from __future__ import annotations

import dask.array as da
import numpy as np
import xarray as xr

from xland.geo.grid import Grid
from xland.outputs import OUTPUTS
from xland.store.provenance import describe_product
from xland.vocabulary import class_coordinates

GRID = Grid(0.25, 50.0, 10.0, 60, 90)
YEARS = (2009, 2010, 2011)


def product(grid: Grid = GRID, years: tuple[int, ...] = YEARS, seed: int = 3) -> xr.Dataset:
    """Return ``land_use``, ``confidence`` and ``probability``, lazily."""
    random, size = np.random.default_rng(seed), (len(years), *grid.shape)
    share = np.round(random.random(size) * 250) / 250
    raw = random.random((len(years), 8, *grid.shape))
    codes = random.integers(0, 8, size).astype(np.uint8)
    dims, chunks = ("time", "lat", "lon"), (1, 20, 30)
    variables = {
        "land_use": (dims, da.from_array(codes, chunks)),
        "confidence": (dims, da.from_array(share.astype(np.float32), chunks)),
        "probability": (("time", "class", "lat", "lon"), da.from_array(raw.astype(np.float32), (1, 8, 20, 30))),
    }
    coords = {"time": list(years), "lat": grid.latitude, "lon": grid.longitude, **class_coordinates()}
    ds = xr.Dataset(variables, coords)
    for name in ("confidence", "probability"):
        ds[name].encoding = dict(OUTPUTS[name].encoding)
    return describe_product(ds, model={"name": "luh2-0p05", "sha256": "ab", "licence": "MIT"})
