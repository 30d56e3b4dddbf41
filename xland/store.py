"""Writing lazy maps to Zarr so that nothing is lost, and reading only what is whole.

While it grows, a store lives in ``NAME.partial`` beside its final place, together with a manifest
(what is being written) and a journal (which blocks are finished). The last step marks it complete
and renames it, so a store under its own name is always whole and an old one stays until then.
Behind a URL it grows in its place, marked as incomplete until the end.
A *block* is one task's worth of cells: one dask block in time, latitude and longitude; each holds
whole Zarr chunks, or is one shard, so no file ever has two writers.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
from dask.base import tokenize

from xland.addresses import is_url, without_password
from xland.atomic import explain
from xland.errors import StoreError
from xland.storing.blocks import align, group_variables
from xland.storing.journal import journal_of
from xland.storing.manifest import COMPLETE, FINGERPRINT, MANIFEST, check_same, count_blocks, describe_work
from xland.storing.netcdf import write_netcdf
from xland.storing.packing import drop_encoding, unpacked
from xland.storing.workplace import (
    Workplace,
    incomplete,
    quiet_zarr,
    read_manifest,
    read_root,
    refuse_existing,
    refuse_foreign,
    refuse_strangers,
    workplace,
)
from xland.storing.writing import write_blocks
from xland.strangers.stores import check_store

__all__ = ["is_complete", "open_store", "write", "write_netcdf"]


def write(
    ds: xr.Dataset,
    path: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    resume: bool = False,
    progress: bool = True,
    chunks: Mapping[str, int] | None = None,
    shards: bool | None = None,
) -> Path | str:
    """Write a lazy Dataset to a Zarr v3 store, block by block.

    Works with any dask scheduler; with ``dask.distributed`` the workers need to see the same
    folder, and a worker that is lost does not take finished blocks with it. A run that is killed or
    interrupted leaves a store that ``resume=True`` finishes: blocks that were finished are dropped
    from the graph before it is computed. That holds for a killed process; after a power failure
    write anew, as nothing is forced to disk block by block. Rollouts are written a few years at a
    time, and go on from the last years on disk.

    Parameters
    ----------
    ds : Dataset
        Variables over ``time``, ``lat``, ``lon`` (and, whole in each block, others such as
        ``class``). Attributes and coordinates, and ``xland_fingerprint`` among the attributes if
        it is there, identify the work when a run is resumed. Floats whose encoding has the
        ``dtype`` uint8, a ``scale_factor`` and a ``_FillValue`` are packed into bytes.
    path : path or URL
        Local folder of the store, or an fsspec URL such as ``s3://bucket/maps.zarr``, reached with
        what fsspec finds in the environment and its configuration.
    overwrite : bool
        Replace a Zarr store that exists. On this machine the old one stays in place until the new
        one is whole; behind a URL, where nothing can be renamed, it is deleted first. Files, and
        folders with anything else in them, are never replaced.
    resume : bool
        Go on with an unfinished store; start one if there is none, and do nothing if the same store
        is complete already.
    progress : bool
        Show a progress bar of blocks.
    chunks : mapping of dimension to cells, optional
        Size of the Zarr chunks. By default whole fractions of the dask blocks of 4 MiB at most, one
        time step and one class each.
    shards : bool, optional
        Put all Zarr chunks of a block into one file (a shard), with smaller chunks, 256 KiB at most
        by default. Unless you say, that is done if there would be more than 10,000 chunks of a
        variable and blocks have several.

    Returns
    -------
    Path or str
        The store; its URL if it is not on this machine.

    Raises
    ------
    StoreError
        If the store exists and neither ``resume`` nor ``overwrite`` was asked for, if what is there
        is no Zarr store or belongs to other inputs or settings, if another process is writing it,
        if the disk is full or cannot be written, or if a value does not fit into a packed variable.
    WorkerError
        If workers of a cluster died again and again. What was finished is kept.
    """
    if overwrite and resume:
        raise StoreError("choose one of overwrite (begin anew) and resume (finish what was begun)")
    if not ds.data_vars:
        raise StoreError("the Dataset holds no variable to write")
    place = workplace(path)
    refuse_strangers(place)
    if overwrite or resume:
        refuse_foreign(place)
    else:
        refuse_existing(place)
    ds, encoding = align(drop_encoding(ds), chunks, shards)
    description = describe_work(ds, encoding)
    try:
        with place.exclusive() as run:
            if not (overwrite or resume):
                refuse_existing(place)
            manifest = _begin(ds, encoding, description, place, overwrite=overwrite, resume=resume)
            if manifest is not None:
                write_blocks(ds, place, manifest, run, progress=progress)
                _finish(place, manifest)
    except OSError as error:
        if reason := explain(error, place.target):
            raise StoreError(reason) from error
        raise
    return place.target if is_url(place.target) else Path(place.target)


def open_store(path: str | os.PathLike[str], **kwargs: Any) -> xr.Dataset:
    """Open a store lazily; refuse one that is not whole.

    Parameters
    ----------
    path : path or URL
        Zarr store, written by :func:`write` or by others.
    **kwargs
        Passed on to :func:`xarray.open_zarr`.

    Returns
    -------
    Dataset
        With one dask block to each Zarr chunk unless ``chunks`` says otherwise. Packed variables
        come back as floats.

    Raises
    ------
    StoreError
        If there is no store, if it cannot be read, or if its writing was never finished; the
        message says how to resume.
    """
    place = workplace(path)
    check_store(place.target, kwargs.get("storage_options"))
    # what it takes to get at a store is known to xarray alone
    root = {} if kwargs.get("storage_options") else read_root(place)
    if "zarr_format" in root:
        kwargs.setdefault("consolidated", "consolidated_metadata" in root)
    kwargs.setdefault("chunks", {})
    try:
        ds = _as_written(xr.open_zarr(place.target, **kwargs))
    except Exception as error:  # Zarr, its codecs and CF decoding have errors of their own for each kind of damage
        raise StoreError(
            f"{without_password(place.target)} cannot be read as a Zarr store: {error or type(error).__name__}"
        ) from error
    if not ds.attrs.pop(COMPLETE, True):
        raise StoreError(incomplete(place.target))
    return ds


def _as_written(ds: xr.Dataset) -> xr.Dataset:
    """Undo what a store needs: packed bytes become floats, and numbers in attributes have the variable's type."""
    ds.attrs.pop(FINGERPRINT, None)
    ds = ds.assign({name: unpacked(array) for name, array in ds.data_vars.items()})
    for variable in ds.variables.values():
        # JSON keeps the numbers but not their type, and CF wants the type of the variable
        if "flag_values" in variable.attrs:
            variable.attrs["flag_values"] = np.asarray(variable.attrs["flag_values"], dtype=variable.dtype)
    return ds


def is_complete(path: str | os.PathLike[str]) -> bool:
    """Whether a Zarr store is there and was written to the end (those of others count as whole)."""
    try:
        read_root(workplace(path))
    except StoreError:
        return False
    return True


def _begin(
    ds: xr.Dataset,
    encoding: dict[str, dict[str, Any]],
    description: dict[str, Any],
    place: Workplace,
    *,
    overwrite: bool,
    resume: bool,
) -> dict[str, Any] | None:
    """Return the manifest to work by, having set up what is missing; None when nothing is left to do."""
    manifest = read_manifest(place) if resume else None
    if manifest is not None:
        check_same(description, manifest["work"], place.target)
        return manifest
    if resume and place.has_old():
        if read_root(place).get("attributes", {}).get(FINGERPRINT) == tokenize(description):
            place.clear()
            return None
        raise StoreError(f"{place.target} is complete and holds other work; pass overwrite=True to replace it")
    place.clear()
    manifest = {
        "format": 1,
        "data": f"data-{uuid.uuid4().hex}.zarr",
        "replaces": overwrite,
        "fingerprint": tokenize(description),
        "work": description,
        "groups": {name: [list(blocks) for blocks in group.blocks] for name, group in group_variables(ds).items()},
    }
    template = ds.assign(
        {name: ds[name].copy(data=da.zeros(ds[name].shape, dtype=ds[name].dtype, chunks=-1)) for name in encoding}
    )
    template.attrs = {**ds.attrs, COMPLETE: False, FINGERPRINT: manifest["fingerprint"]}
    place.make_way()
    with quiet_zarr():
        template.to_zarr(
            place.data(manifest),
            mode="w",
            compute=False,
            consolidated=False,
            zarr_format=3,
            encoding={**{str(name): {"_FillValue": None} for name in ds.coords}, **encoding},
        )
    # written last: from here on there is something to resume
    place.files.put(MANIFEST, json.dumps(manifest).encode())
    return manifest


def _finish(place: Workplace, manifest: dict[str, Any]) -> None:
    expected, finished = count_blocks(manifest), len(journal_of(place.files).finished())
    if finished != expected:
        raise StoreError(
            f"{finished} of {expected} blocks of {place.target} were written; write again with resume=True"
        )
    place.publish(manifest)
