"""Reading stores: only what is whole, compared with the digests that were taken when it was written."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from xland.arguments import checked
from xland.errors import StoreError, XlandError
from xland.geo.conventions import READING, from_files
from xland.outputs import renamed
from xland.paths import explain, without_password
from xland.reading.variables import name_reads
from xland.store.encoding import unpacked
from xland.store.storage import ATTRIBUTE, COMPLETE, FINGERPRINT, ROOT, Table, find_table, refuse_damaged, store_to_read
from xland.store.workplace import Workplace, count_blocks, notes
from xland.untrusted.servers import MOST_METADATA
from xland.untrusted.stores import check_store


@checked(StoreError)
def open_store(path: str | os.PathLike[str], *, verify: bool = False, **kwargs: Any) -> xr.Dataset:
    """Open a store lazily; refuse an incomplete one.

    A store that :func:`write` finished has the SHA-256 of each of its files. Whatever is read of it, now or
    when values are computed, is compared. If a file is missing or altered, an error is raised.

    Parameters
    ----------
    path : path or URL
        Zarr store, written by :func:`write` or by other programs.
    verify : bool
        Read every file at once and compare it, as ``xland verify`` does.
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
        If there is no store, if it cannot be read, if its writing was never finished (the
        message says how to resume), or if a file of it is damaged.
    """
    options = kwargs.pop("storage_options", None)
    place = Workplace(path, options)
    try:
        root, table = _read_checked(place, options, verify=verify)
        kwargs.setdefault("consolidated", "consolidated_metadata" in root if root else None)
        kwargs = {"chunks": {}, **READING, **kwargs}
        ds = name_reads(xr.open_zarr(store_to_read(place.target, table, options), **kwargs))
        for name in (FINGERPRINT, ATTRIBUTE):
            ds.attrs.pop(name, None)
        ds = ds.assign({name: unpacked(array) for name, array in ds.data_vars.items()})
        old = {name: new for name, each in ds.data_vars.items() if (new := renamed(str(name), each.attrs)) != name}
        ds = ds.rename({name: new for name, new in old.items() if new not in ds.variables})
        for variable in ds.variables.values():
            # JSON keeps the numbers but not their type, and CF wants the type of the variable
            if "flag_values" in variable.attrs:
                variable.attrs["flag_values"] = np.asarray(variable.attrs["flag_values"], dtype=variable.dtype)
        ds = from_files(ds)
        if not ds.attrs.pop(COMPLETE, True):
            raise _incomplete(place)
    except XlandError:
        raise
    except Exception as error:  # Zarr, its codecs and CF decoding have errors of their own for each kind of damage
        said = (str(error) or type(error).__name__).replace(place.target, without_password(place.target))
        raise StoreError(f"{without_password(place.target)} cannot be read as a Zarr store: {said}") from error
    ds.encoding["source"] = place.target
    return ds


def _read_checked(
    place: Workplace, options: Mapping[str, Any] | None, *, verify: bool
) -> tuple[dict[str, Any], Table | None]:
    """Check the metadata of a store, and all of its files if asked to; return its root metadata and table."""
    if not verify:
        check_store(place.target, options)
        return read_finished(place)
    root, table = read_finished(place)
    refuse_damaged(place.store, table, metadata=True)  # they say how much the rest may take
    check_store(place.target, options)
    refuse_damaged(place.store, table)
    return root, table


def verify(path: str | os.PathLike[str]) -> str:
    """Read every file of a store, a path or URL, and compare it with the digest that was taken when it was written.

    Returns
    -------
    str
        SHA-256 of the whole store, as :func:`store_digest` gives it.

    Raises
    ------
    StoreError
        If files are missing, altered or do not belong to it: it counts them and names some. Also if the store
        has no digests, as those of other programs and of earlier releases.
    """
    table = _read_checked(Workplace(path), None, verify=True)[1]
    return table.digest if table else ""


def store_digest(path: str | os.PathLike[str], storage_options: Mapping[str, Any] | None = None) -> str | None:
    """SHA-256 of a finished store, known without reading its chunks; None if the store has no digests.

    It is that of the table of its files, so two stores that differ in anything have different digests.
    ``storage_options`` are for the file system of a URL.

    Raises
    ------
    StoreError
        If there is no store, it was not finished, or its metadata or table are damaged.
    """
    table = read_finished(path, storage_options)[1]
    return None if table is None else table.digest


def has_work(path: str | os.PathLike[str], fingerprint: str) -> bool:
    """Whether a finished store is of the work of which this is the digest."""
    try:
        return read_finished(path)[0].get("attributes", {}).get(FINGERPRINT) == fingerprint
    except StoreError:
        return False


def is_complete(path: str | os.PathLike[str]) -> bool:
    """Whether a Zarr store is there and was written to the end (those of other programs count as whole)."""
    try:
        read_finished(path)
    except StoreError:
        return False
    return True


def read_finished(
    place: str | os.PathLike[str] | Workplace, options: Mapping[str, Any] | None = None
) -> tuple[dict[str, Any], Table | None]:
    """Return the root metadata (empty for Zarr 2) and the table of a finished store, by its path or URL.

    The table is None for stores of other programs and of releases that wrote none. StoreError if there is no store, if
    it is damaged, or if its writing was not finished.
    """
    place = place if isinstance(place, Workplace) else Workplace(place, options)
    target = place.target
    try:
        try:
            content = place.store.read(ROOT, most=MOST_METADATA)
        except (FileNotFoundError, NotADirectoryError):
            if place.store.is_file(".zgroup"):
                return {}, None
            raise _absent(place) from None
        try:
            root = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise StoreError(
                f"{target}/{ROOT} is damaged: {error}; copy the store again from where it is whole"
            ) from error
        attributes = root.get("attributes", {}) if isinstance(root, dict) else None
        if not isinstance(attributes, dict) or root.get("node_type") != "group":
            raise StoreError(f"{target} is not a Zarr group of variables")
        if not attributes.get(COMPLETE, True):
            raise _incomplete(place)
        return root, find_table(place.store, root, content)
    except OSError as error:
        raise StoreError(f"{target} cannot be read: {explain(error, target) or error}") from error


def _absent(place: Workplace) -> StoreError:
    """Say what is there in place of a store."""
    if place.manifest() is not None:
        return _incomplete(place)
    if place.store.exists():
        return StoreError(
            f"{place.target} is not a Zarr store: it has neither zarr.json nor .zgroup; open NetCDF with "
            'xr.open_dataset(path, decode_coords="all")'
        )
    if place.has_old():
        return StoreError(f"{place.target} is a link that leads nowhere: remove it, or repair it")
    return StoreError(f"there is no store at {place.target}")


def _incomplete(place: Workplace) -> StoreError:
    """Say how much of a store is written, if its working folder is there, and what to do."""
    manifest = place.manifest()
    if manifest is None:
        remedy = "finish it by writing with resume=True, or start again with overwrite=True"
        return StoreError(f"{place.target} is incomplete: {remedy}")
    done, total = len(notes(place.files)), count_blocks(manifest)
    return StoreError(
        f"{place.target} is incomplete: {done} of {total} blocks are written; finish it by writing again with "
        "resume=True"
    )


def is_written(place: Workplace, fingerprint: str) -> bool:
    """Whether the same work is complete already; other work that is complete is refused."""
    if not place.has_old():
        return False
    if read_finished(place)[0].get("attributes", {}).get(FINGERPRINT) == fingerprint:
        return True
    raise StoreError(f"{place.target} is complete and has other content; pass overwrite=True to replace it")
