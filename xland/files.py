"""Opening coarse fractions and class maps from disk, as they were released."""

from __future__ import annotations

from pathlib import Path

import xarray as xr

from xland.errors import StoreError


def open_coarse(path: str | Path) -> xr.Dataset:
    """Open a NetCDF file or Zarr store lazily, times undecoded.

    Raises
    ------
    StoreError
        If it does not exist or cannot be read.
    """
    path = Path(path)
    if not path.exists():
        raise StoreError(f"{path} does not exist")
    try:
        if path.is_dir():
            return xr.open_dataset(path, engine="zarr", decode_times=False, chunks={})
        return xr.open_dataset(path, decode_times=False, chunks={})
    except (OSError, ValueError) as error:
        kind = "Zarr store" if path.is_dir() else "NetCDF"
        raise StoreError(f"{path} cannot be opened as {kind}: {error}") from error


def open_map(path: str | Path) -> xr.DataArray:
    """Open the ``land_use`` of a NetCDF file or of a complete Zarr store.

    Raises
    ------
    StoreError
        If it does not exist, is incomplete, or holds no ``land_use``.
    """
    from xland.store import open_store

    ds = open_store(path) if Path(path).is_dir() else open_coarse(path)
    if "land_use" not in ds:
        raise StoreError(f"{path} holds no variable 'land_use'; it holds {', '.join(map(str, ds.data_vars))}")
    return ds["land_use"]
