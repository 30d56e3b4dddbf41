"""Writing lazy maps to Zarr so that nothing is lost.

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
import xarray as xr
from dask.base import tokenize

from xland.addresses import is_url, without_password
from xland.arguments import checked
from xland.atomic import explain
from xland.errors import StoreError
from xland.store.blocks import align, group_variables
from xland.store.checksums import ROOT
from xland.store.computing import write_blocks
from xland.store.encoding import check_kinds, digests_of, drop_encoding, lay, make_skeleton, take_stock
from xland.store.journal import (
    FINGERPRINT,
    FORMAT,
    MANIFEST,
    check_same,
    collect,
    count_blocks,
    describe_work,
    journal_of,
    write_manifest,
)
from xland.store.provenance import for_storage
from xland.store.storage import files_at
from xland.store.workplace import (
    Workplace,
    read_manifest,
    read_root,
    refuse_existing,
    refuse_foreign,
    refuse_strangers,
    workplace,
)
from xland.untrusted.servers import reaching


@checked(StoreError)
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
    check_kinds(ds)
    if not ds.data_vars:
        raise StoreError("the Dataset holds no variable to write")
    place = workplace(path)
    _reach(place)
    try:
        _refuse(place, overwrite=overwrite, resume=resume)
        ds, encoding = align(for_storage(drop_encoding(ds)), chunks, shards)
        description = describe_work(ds, encoding)
        skeleton = _skeleton(ds, encoding, tokenize(description))
        # a store that is finished is left as it is, also where nothing can be written
        if not (resume and not place.files.exists() and _is_written(place, description)):
            with place.exclusive() as run:
                _refuse(place, overwrite=overwrite, resume=resume)
                begun = _begin(ds, skeleton, description, place, overwrite=overwrite, resume=resume)
                if begun is not None:
                    write_blocks(ds, place, *begun, run, progress=progress)
                    _finish(place, begun[0], skeleton)
    except OSError as error:
        if reason := explain(error, place.target):
            raise StoreError(reason) from error
        raise
    return place.target if is_url(place.target) else Path(place.target)


def _reach(place: Workplace) -> None:
    """Refuse a URL that cannot be reached, or to which nothing can be written."""
    if not is_url(place.target):
        return
    shown = without_password(place.target)
    if "::" in place.target:
        raise StoreError(f"{shown} is a chained address, which can only be read: give the URL of the store itself")
    with reaching(place.target, ""):
        place.files.names()


def _refuse(place: Workplace, *, overwrite: bool, resume: bool) -> None:
    """Refuse what is not to be replaced, or what others put into the way."""
    refuse_strangers(place)
    if overwrite or resume:
        refuse_foreign(place)
    else:
        refuse_existing(place)


def _skeleton(ds: xr.Dataset, encoding: dict[str, dict[str, Any]], fingerprint: str) -> dict[str, bytes]:
    template = ds.assign(
        {name: ds[name].copy(data=da.zeros(ds[name].shape, dtype=ds[name].dtype, chunks=-1)) for name in encoding}
    )
    return make_skeleton(template.assign_attrs({FINGERPRINT: fingerprint}), encoding)


def _is_written(place: Workplace, description: dict[str, Any]) -> bool:
    """Whether the same work is complete already; other work that is complete is refused."""
    if not place.has_old():
        return False
    if read_root(place).get("attributes", {}).get(FINGERPRINT) == tokenize(description):
        return True
    raise StoreError(f"{place.target} is complete and holds other work; pass overwrite=True to replace it")


def _begin(
    ds: xr.Dataset,
    skeleton: Mapping[str, bytes],
    description: dict[str, Any],
    place: Workplace,
    *,
    overwrite: bool,
    resume: bool,
) -> tuple[dict[str, Any], set[str]] | None:
    """Return the manifest to work by and the finished blocks, having set up what is missing; None if all is done."""
    manifest = read_manifest(place) if resume else None
    if manifest is not None:
        check_same(description, manifest["work"], place.target)
        return manifest, take_stock(place.files, files_at(place.data(manifest)), skeleton)
    if resume and _is_written(place, description):
        place.clear()
        return None
    place.clear()
    manifest = {
        "format": FORMAT,
        "data": f"data-{uuid.uuid4().hex}.zarr",
        "replaces": overwrite,
        "fingerprint": tokenize(description),
        "work": description,
        "groups": {name: [list(blocks) for blocks in group.blocks] for name, group in group_variables(ds).items()},
    }
    place.make_way()
    lay(files_at(place.data(manifest)), skeleton)
    # written last: from here on there is something to resume
    place.files.put(MANIFEST, write_manifest(manifest))
    return manifest, set()


def _finish(place: Workplace, manifest: dict[str, Any], skeleton: Mapping[str, bytes]) -> None:
    written = collect(journal_of(place.files).notes(), files_at(place.data(manifest)))
    expected = count_blocks(manifest)
    if len(written) != expected:
        raise StoreError(
            f"{len(written)} of {expected} blocks of {place.target} were written; write again with resume=True"
        )
    digests = digests_of(skeleton)
    for each in written.values():
        digests |= each
    place.publish(manifest, digests, json.loads(skeleton[ROOT]))
