"""The reference system of maps, written so that rioxarray, xarray and GDAL all find it again."""

from __future__ import annotations

from collections.abc import Hashable
from typing import TypeVar

import xarray as xr

CRS = "EPSG:4326"
"""Geographic coordinates on WGS 84."""

GRID_MAPPING = "spatial_ref"
"""Name of the scalar coordinate that holds the reference system."""

XarrayObject = TypeVar("XarrayObject", xr.Dataset, xr.DataArray)


def attach_crs(obj: XarrayObject, dims: tuple[Hashable, Hashable] = ("lat", "lon")) -> XarrayObject:
    """Return the object with its reference system as a scalar coordinate that every map refers to.

    No transform is stored with it: that would be wrong as soon as a region is selected.

    Parameters
    ----------
    obj : Dataset or DataArray
    dims : tuple of two dimensions
        Latitude and longitude; what has both is a map.
    """
    import rioxarray as rioxarray  # registers the accessor; takes too long for `import xland`

    placed = obj.rio.write_crs(CRS)
    maps = placed.data_vars.values() if isinstance(placed, xr.Dataset) else (placed,)
    for variable in maps:
        # as encoding: as an attribute, xarray would list it among the coordinates of a map that it writes
        known = variable.attrs.pop("grid_mapping", None) or variable.encoding.pop("grid_mapping", None)
        if known or set(dims) <= set(variable.dims):
            variable.encoding["grid_mapping"] = GRID_MAPPING
    return placed
