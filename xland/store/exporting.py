"""Exporting maps to one NetCDF file.

Called through :mod:`xland.store.writing`.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import xarray as xr

from xland.addresses import local_path
from xland.arguments import checked
from xland.atomic import replacing
from xland.errors import StoreError
from xland.geo.conventions import for_gis
from xland.store.blocks import align
from xland.store.encoding import check_kinds, drop_encoding
from xland.store.provenance import for_storage


@checked(StoreError)
def write_netcdf(
    ds: xr.Dataset, path: str | os.PathLike[str], *, overwrite: bool = False, progress: bool = True
) -> Path:
    """Export a Dataset to one compressed CF NetCDF-4 file, block by block.

    Parameters
    ----------
    ds : Dataset
        As returned by ``downscale`` or :func:`xland.store.reading.open_store`.
    path : path
        The file; it appears under its name only when it is whole.
    overwrite : bool
        Replace a file that exists.
    progress : bool
        Show a progress bar.

    Returns
    -------
    Path

    Raises
    ------
    StoreError
        If the file exists and ``overwrite`` is not set, if its disk is full or cannot be written, or
        if a value does not fit into a packed variable.
    """
    from dask.diagnostics import ProgressBar

    final = local_path(path, what="a NetCDF file")
    if final.is_dir():
        raise StoreError(f"{final} is a folder, and is left alone; choose another path, such as {final / 'maps.nc'}")
    if os.path.lexists(final) and not overwrite:
        raise StoreError(f"{final} exists; pass overwrite=True to replace it")
    check_kinds(ds, netcdf=True)
    ds, time = for_gis(for_storage(drop_encoding(ds)))
    ds, chunked = align(ds, None)
    for name in ds.coords:
        ds[name].encoding |= {"_FillValue": None}
    for name, variable in ds.variables.items():
        # of what is packed below, zlib compares a checksum of its own
        if name not in chunked and variable.ndim and variable.dtype.kind in "iufM":
            ds[name].encoding |= {"fletcher32": True}
    for name, settings in chunked.items():
        sizes = tuple(min(c, n) for c, n in zip(settings["chunks"], ds[name].shape, strict=True))
        ds[name].encoding |= {"zlib": True, "complevel": 4, "shuffle": True, "chunksizes": sizes}
        if ds[name].dtype.kind != "f" and "_FillValue" not in ds[name].attrs:
            ds[name].encoding["_FillValue"] = None
    unlimited = [] if time is None else [time]
    with replacing(final) as part, _library_faults(final), ProgressBar() if progress else nullcontext():
        ds.to_netcdf(part, engine="netcdf4", format="NETCDF4", unlimited_dims=unlimited)
    return final


@contextmanager
def _library_faults(path: Path) -> Iterator[None]:
    """Name the errors of the NetCDF library, which says no more than that it failed."""
    try:
        yield
    except RuntimeError as error:
        if not str(error).startswith("NetCDF:"):
            raise
        free = shutil.disk_usage(path.parent).free
        raise StoreError(
            f"{path} was not written ({error}): its disk, which has {free / 2**20:.1f} MiB free, is full or cannot be "
            "written; free space there, or choose another place"
        ) from error
