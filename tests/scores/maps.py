"""Small maps on regular grids, for tests of scores, reports and plots."""

from __future__ import annotations

import numpy as np
import xarray as xr

from xland.geo.grid import Grid
from xland.reading.variables import as_map


def on_grid(values, resolution=10.0, north=90.0, west=-180.0):
    """Put ([class,] lat, lon) values on cells from a corner on."""
    grid = Grid(resolution, north, west, *np.shape(values)[-2:])
    coords = {"lat": grid.latitude, "lon": grid.longitude}
    return xr.DataArray(values, coords, ("class", "lat", "lon")[-np.ndim(values) :])


def a_map(values, resolution=1.0, north=60.0, west=0.0):
    return as_map(on_grid(np.asarray(values), resolution, north, west), what="map")


def turned(array):
    """The same map, south first, from 0 to 360 E, with other names and order."""
    south = array.isel(lat=slice(None, None, -1)).assign_coords(lon=array["lon"] % 360).sortby("lon")
    return south.rename(lat="latitude", lon="longitude").transpose("longitude", "latitude")


def same(left, right):
    """Whether two evaluations have the same matrices, to the last bit."""
    for weighting in ("area", "pixels"):
        for domain in left.domains:
            ours, theirs = (getattr(each, weighting)[domain].matrix for each in (left, right))
            np.testing.assert_array_equal(ours, theirs)
