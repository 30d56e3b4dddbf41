"""Exporting maps to one NetCDF file."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal

import xarray as xr

from xland.addresses import local_path
from xland.arguments import checked
from xland.atomic import replacing
from xland.errors import StoreError
from xland.geo.conventions import for_gis
from xland.store.blocks import align
from xland.store.encoding import check_kinds, drop_encoding, take_encoding
from xland.store.provenance import for_storage


@checked(StoreError)
def write_netcdf(
    ds: xr.Dataset,
    path: str | os.PathLike[str],
    *,
    mode: Literal["w-", "w"] = "w-",
    overwrite: bool = False,
    progress: bool = True,
    chunks: Mapping[str, int] | None = None,
    encoding: Mapping[str, Mapping[str, Any]] | None = None,
) -> Path:
    """Export a Dataset to one compressed CF NetCDF-4 file, block by block.

    Parameters
    ----------
    ds : Dataset
        As returned by ``downscale`` or :func:`xland.store.reading.open_store`.
    path : path
        The file; it appears under its name only when it is whole.
    mode : {"w-", "w"}
        ``"w-"`` refuses a file that exists, ``"w"`` is ``overwrite=True``.
    overwrite : bool
        Replace a file that exists.
    progress : bool
        Show a progress bar.
    chunks : mapping of dimension to cells, optional
        Size of the chunks in the file; by default as in a store.
    encoding : mapping of variable to mapping, optional
        As in xarray, for the packing of floats (``dtype``, ``scale_factor``, ``add_offset``, ``_FillValue``) and
        ``zlib``, ``complevel`` and ``shuffle``.

    Returns
    -------
    Path
        The file.

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
    if os.path.lexists(final) and not (overwrite or mode == "w"):
        raise StoreError(f"{final} exists; pass overwrite=True to replace it")
    check_kinds(ds, netcdf=True)
    ds, asked = take_encoding(ds, encoding, ("zlib", "complevel", "shuffle")) if encoding else (ds, {})
    ds, time = for_gis(for_storage(drop_encoding(ds)))
    ds, chosen = align(ds, chunks)
    for name, variable in ds.variables.items():
        variable.encoding |= {"_FillValue": None} if name in ds.coords else {}
        settings = chosen.get(str(name))
        if settings is None and variable.ndim and variable.dtype.kind in "iufM":
            variable.encoding |= {"fletcher32": True}  # of what is packed below, zlib compares a checksum of its own
        if settings is not None:
            sizes = tuple(min(c, n) for c, n in zip(settings["chunks"], variable.shape, strict=True))
            variable.encoding |= {"zlib": True, "complevel": 4, "shuffle": True, "chunksizes": sizes}
            if variable.dtype.kind != "f" and "_FillValue" not in variable.attrs:
                variable.encoding["_FillValue"] = None
            variable.encoding |= asked.get(str(name), {})
    with replacing(final) as part, ProgressBar() if progress else nullcontext():
        try:
            ds.to_netcdf(part, engine="netcdf4", format="NETCDF4", unlimited_dims=[] if time is None else [time])
        except RuntimeError as error:  # the NetCDF library says no more than that it failed
            if not str(error).startswith("NetCDF:"):
                raise
            free = shutil.disk_usage(final.parent).free
            raise StoreError(
                f"{final} was not written ({error}): its disk, which has {free / 2**20:.1f} MiB free, is full or "
                "cannot be written; free space there, or choose another place"
            ) from error
    return final
