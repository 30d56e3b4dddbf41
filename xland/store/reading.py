"""Reading stores: only what is whole, compared with the digests that were taken when it was written."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from xland.addresses import without_password
from xland.arguments import checked
from xland.errors import StoreError, XlandError
from xland.geo.conventions import READING, from_files
from xland.reading.faults import name_reads
from xland.store.checksums import ATTRIBUTE
from xland.store.encoding import unpacked
from xland.store.journal import (
    COMPLETE,
    FINGERPRINT,
)
from xland.store.workplace import (
    Workplace,
    incomplete,
    read_finished,
    read_root,
    refuse_damaged,
    workplace,
)
from xland.untrusted.stores import check_store


@checked(StoreError)
def open_store(path: str | os.PathLike[str], *, verify: bool = False, **kwargs: Any) -> xr.Dataset:
    """Open a store lazily; refuse one that is not whole.

    A store that :func:`write` finished holds the SHA-256 of each of its files. Whatever is read of it, now or
    when values are computed, is compared; what is missing or altered ends in an error, never in other values.

    Parameters
    ----------
    path : path or URL
        Zarr store, written by :func:`write` or by others.
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
    from xland.store.checksums import store_to_read  # needs zarr

    options = kwargs.pop("storage_options", None)
    place = workplace(path, options)
    try:
        if verify:
            _compare_all(place, options)
        check_store(place.target, options)
        root, table = read_finished(place)
        kwargs.setdefault("consolidated", "consolidated_metadata" in root if root else None)
        kwargs = {"chunks": {}, **READING, **kwargs}
        ds = _as_written(name_reads(xr.open_zarr(store_to_read(place.target, table, options), **kwargs)))
    except XlandError:
        raise
    except Exception as error:  # Zarr, its codecs and CF decoding have errors of their own for each kind of damage
        said = (str(error) or type(error).__name__).replace(place.target, without_password(place.target))
        raise StoreError(f"{without_password(place.target)} cannot be read as a Zarr store: {said}") from error
    ds.encoding["source"] = place.target
    if not ds.attrs.pop(COMPLETE, True):
        raise StoreError(incomplete(place.target))
    return ds


def _as_written(ds: xr.Dataset) -> xr.Dataset:
    """Undo what a store needs: packed bytes become floats, and numbers in attributes have the variable's type."""
    for name in (FINGERPRINT, ATTRIBUTE):
        ds.attrs.pop(name, None)
    ds = ds.assign({name: unpacked(array) for name, array in ds.data_vars.items()})
    for variable in ds.variables.values():
        # JSON keeps the numbers but not their type, and CF wants the type of the variable
        if "flag_values" in variable.attrs:
            variable.attrs["flag_values"] = np.asarray(variable.attrs["flag_values"], dtype=variable.dtype)
    return from_files(ds)


def verify(path: str | os.PathLike[str]) -> str:
    """Read every file of a store and compare it with the digest that was taken when it was written.

    Parameters
    ----------
    path : path or URL

    Returns
    -------
    str
        SHA-256 of the whole store, as :func:`store_digest` gives it.

    Raises
    ------
    StoreError
        If files are missing, altered or do not belong to it: it counts them and names some. Also if the store
        holds no digests, as those of others and of former releases.
    """
    return _compare_all(workplace(path), None)


def _compare_all(place: Workplace, options: Mapping[str, Any] | None) -> str:
    table = read_finished(place)[1]
    refuse_damaged(place, table, metadata=True)  # they say how much the rest may take
    check_store(place.target, options)
    return refuse_damaged(place, table)


def store_digest(path: str | os.PathLike[str], storage_options: Mapping[str, Any] | None = None) -> str | None:
    """SHA-256 of a finished store, known without reading its chunks; None if the store holds no digests.

    It is that of the table of its files, so it tells one store from another in whatever they differ.

    Parameters
    ----------
    path : path or URL
    storage_options : mapping, optional
        For the file system of a URL.

    Raises
    ------
    StoreError
        If there is no store, it was not finished, or its metadata or table are damaged.
    """
    table = read_finished(workplace(path, storage_options))[1]
    return None if table is None else table.digest


def is_complete(path: str | os.PathLike[str]) -> bool:
    """Whether a Zarr store is there and was written to the end (those of others count as whole)."""
    place = workplace(path)
    try:
        read_root(place)
    except StoreError:
        return False
    return True
