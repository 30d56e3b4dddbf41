"""Opening coarse fractions and class maps as they were released: files and stores, here or behind a URL."""

from __future__ import annotations

import os
import warnings
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import xarray as xr

from xland.errors import StoreError
from xland.paths import address_of, is_url, without_password
from xland.reading.variables import name_reads, unreadable
from xland.store.reading import open_store, read_finished
from xland.store.storage import store_to_read
from xland.untrusted.folders import files_at
from xland.untrusted.netcdf import check_file, check_hdf5
from xland.untrusted.servers import http_options, reaching
from xland.untrusted.stores import check_store

_ROOTS = ("zarr.json", ".zgroup", ".zmetadata")


def open_coarse(path: Any) -> xr.Dataset:
    """Open a NetCDF file (or GeoTIFF, or GRIB with cfgrib) or Zarr store lazily, times undecoded.

    ``path`` is whatever :func:`xland.paths.address_of` takes. If a store holds digests of its files, each file is
    compared with its own when it is read. A :class:`StoreError` says what does not exist or cannot be read.
    """
    address = address_of(path)
    if is_zarr(address):
        return _open_zarr(address)
    if is_url(address):
        return _open_netcdf_behind(address)
    if not Path(address).is_file():
        what = "is neither a file nor a folder" if os.path.lexists(address) else "does not exist"
        raise StoreError(f"{address} {what}: give a NetCDF file or a Zarr store")
    options = check_file(Path(address))
    try:
        return name_reads(xr.open_dataset(address, decode_times=False, chunks={}, **options))
    except Exception as error:  # each library has errors of its own for each kind of damage
        raise unreadable(address, "NetCDF", error) from error


def is_zarr(address: str) -> bool:
    """Whether there is a folder at a path, or the root of a Zarr store behind a URL."""
    if not is_url(address):
        return Path(address).is_dir()
    with reaching(address):
        return address.endswith(".zarr") or any(files_at(address).is_file(name) for name in _ROOTS)


def open_maps(path: Any) -> xr.Dataset:
    """Open a NetCDF file or a complete Zarr store of maps with what is beside ``land_use``, or raise a StoreError."""
    ds = open_product(path)
    if "land_use" not in ds:
        raise StoreError(f"{path} holds no variable 'land_use'; it holds {', '.join(map(str, ds.data_vars))}")
    return ds


def open_product(path: Any) -> xr.Dataset:
    """Open a NetCDF file or a complete Zarr store, whatever it holds; errors as of :func:`open_maps`."""
    address = address_of(path)
    return open_store(address) if is_zarr(address) else open_coarse(address)


def open_map(path: Any) -> xr.DataArray:
    """Open the ``land_use`` of a NetCDF file or of a complete Zarr store; see :func:`open_maps`."""
    return open_maps(path)["land_use"]


def _open_zarr(address: str) -> xr.Dataset:
    check_store(address)
    with reaching(address) if is_url(address) else nullcontext():
        try:
            table = read_finished(address)[1]
            with warnings.catch_warnings():
                # not having its metadata in one place makes a store slower, not wrong
                warnings.filterwarnings("ignore", message="Failed to open Zarr store with consolidated metadata")
                source: Any = store_to_read(address, table)
                return name_reads(xr.open_dataset(source, engine="zarr", decode_times=False, chunks={}))
        except StoreError:
            raise
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:  # the last for odd metadata
            raise unreadable(without_password(address), "Zarr store", error) from error


def _open_netcdf_behind(url: str) -> xr.Dataset:
    """Open a NetCDF-4 file behind a URL, of which only the parts that are asked for are fetched."""
    import fsspec

    with reaching(url):
        stream = fsspec.open(url, **http_options(url)).open()
        check_hdf5(stream, without_password(url), stream.seek(0, os.SEEK_END))
        return name_reads(xr.open_dataset(stream, engine="h5netcdf", decode_times=False, chunks={}))
