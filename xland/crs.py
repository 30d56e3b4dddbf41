"""The reference system of maps, written so that rioxarray, xarray and GDAL all find it again."""

from __future__ import annotations

from typing import TypeVar

import xarray as xr

CRS = "EPSG:4326"
"""Geographic coordinates on WGS 84."""

GRID_MAPPING = "spatial_ref"
"""Name of the scalar coordinate that holds the reference system."""

XarrayObject = TypeVar("XarrayObject", xr.Dataset, xr.DataArray)


def attach_crs(obj: XarrayObject) -> XarrayObject:
    """Return the object with its reference system as a scalar coordinate that every map refers to.

    No transform is stored with it: that would be wrong as soon as a region is selected.
    """
    import rioxarray as rioxarray  # registers the accessor; takes too long for `import xland`

    placed = obj.rio.write_crs(CRS)
    # as an attribute, not as encoding: then xarray lists the coordinate with the others when it writes,
    # and a plain open_zarr or open_dataset brings it back as a coordinate
    maps = placed.data_vars.values() if isinstance(placed, xr.Dataset) else (placed,)
    for variable in maps:
        if variable.encoding.pop("grid_mapping", None) or {"lat", "lon"} <= set(variable.dims):
            variable.attrs["grid_mapping"] = GRID_MAPPING
    return placed
