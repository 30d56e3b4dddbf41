"""Opening coarse fractions and class maps from disk, as they were released."""

from __future__ import annotations

import warnings
from pathlib import Path

import xarray as xr

from xland.errors import StoreError
from xland.mapfiles import unreadable


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
    if path.is_dir():
        try:
            with warnings.catch_warnings():
                # not having its metadata in one place makes a store slower, not wrong
                warnings.filterwarnings("ignore", message="Failed to open Zarr store with consolidated metadata")
                return xr.open_dataset(path, engine="zarr", decode_times=False, chunks={})
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:  # the last for odd metadata
            raise unreadable(path, "Zarr store", error) from error
    try:
        return xr.open_dataset(path, decode_times=False, chunks={})
    except (OSError, ValueError) as error:
        raise unreadable(path, "NetCDF", error) from error


def open_maps(path: str | Path) -> xr.Dataset:
    """Open a NetCDF file or a complete Zarr store of maps, with all that stands beside ``land_use``.

    Raises
    ------
    StoreError
        If it does not exist, is incomplete, or holds no ``land_use``.
    """
    from xland.store import open_store

    ds = open_store(path) if Path(path).is_dir() else open_coarse(path)
    if "land_use" not in ds:
        raise StoreError(f"{path} holds no variable 'land_use'; it holds {', '.join(map(str, ds.data_vars))}")
    return ds


def open_map(path: str | Path) -> xr.DataArray:
    """Open the ``land_use`` of a NetCDF file or of a complete Zarr store.

    Raises
    ------
    StoreError
        If it does not exist, is incomplete, or holds no ``land_use``.
    """
    return open_maps(path)["land_use"]
