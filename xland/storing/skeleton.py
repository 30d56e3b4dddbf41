"""A store before its blocks are written: metadata, coordinates and what else is small, as bytes.

Below :mod:`xland.store`; nothing here is called by users. The same work gives the same bytes each time, so that
what was damaged while a store grew is put back when it is resumed.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import xarray as xr

from xland.errors import StoreError, StoreWarning
from xland.storing.checksums import ATTRIBUTE, ROOT, sha256, table_name
from xland.storing.journal import find_whole, journal_of
from xland.storing.manifest import COMPLETE
from xland.storing.storage import Files
from xland.strangers.stores import check_metadata


def make_skeleton(template: xr.Dataset, encoding: Mapping[str, Mapping[str, Any]]) -> dict[str, bytes]:
    """Return the files of a store whose large arrays are empty.

    Parameters
    ----------
    template : Dataset
        With dask arrays of any values for the variables that are written block by block.
    encoding : mapping
        Zarr encoding of these, and of others where it matters.

    Returns
    -------
    dict
        Content of each file by its name; the root metadata say that the store is not complete.

    Raises
    ------
    StoreError
        If a variable or attribute is of a kind that Zarr cannot hold, or the store could not be opened again.
    """
    import zarr
    from zarr.codecs import ZstdCodec
    from zarr.storage import MemoryStore

    checked = {"compressors": (ZstdCodec(level=5, checksum=True),)}
    template = template.copy()
    for name, variable in template.variables.items():
        # beside what it has: how dates are counted, and the links to bounds and to the reference system
        fill = {"_FillValue": None} if name in template.coords else {}
        variable.encoding |= {**checked, **fill, **encoding.get(str(name), {})}
    held: dict[str, Any] = {}
    template = template.assign_attrs({COMPLETE: 0})
    try:
        with _quiet_zarr():
            template.to_zarr(MemoryStore(held), mode="w", compute=False, consolidated=False, zarr_format=3)
            zarr.consolidate_metadata(MemoryStore(held))
    except (TypeError, ValueError, NotImplementedError, OverflowError) as error:
        raise StoreError(f"this Dataset cannot be stored as Zarr: {error}") from error
    files: dict[str, bytes] = {name: content.to_bytes() for name, content in held.items()}
    root = json.loads(files[ROOT])
    root["attributes"][ATTRIBUTE] = table_name(root)
    files[ROOT] = json.dumps(root).encode()
    check_metadata("what is to be written", files.get, list)
    return files


def lay(files: Files, skeleton: Mapping[str, bytes]) -> None:
    """Write the files of a skeleton that are not there as they should be, the root metadata last."""
    for name, content in sorted(skeleton.items(), key=lambda item: item[0] == ROOT):
        try:
            same = files.read(name) == content
        except FileNotFoundError:
            same = False
        except OSError:
            files.remove(name)
            same = False
        if not same:
            files.fill(name, content)


def take_stock(files: Files, data: Files, skeleton: Mapping[str, bytes]) -> set[str]:
    """Say which blocks of a growing store are finished and whole, and bring the rest of it into order.

    Every finished block is read. The files of others are removed, and what is damaged of the skeleton is put back.

    Parameters
    ----------
    files, data : Files
        The working folder, and the growing store.
    skeleton : mapping
        Of the store.

    Returns
    -------
    set of str
        Names of the blocks in the journal.
    """
    noted = journal_of(files).notes()
    whole = find_whole(noted, data)
    if len(whole) < len(noted):
        warnings.warn(
            f"{len(noted) - len(whole)} of {len(noted)} finished blocks in {files.address} were lost or damaged since, "
            "and are written again: look after the disk",
            StoreWarning,
            stacklevel=4,
        )
    # a shard is read before a part of it is written, which would fail on what is damaged
    for name in set(data.walk()) - {name for each in whole.values() for name in each} - skeleton.keys():
        data.remove(name)
    lay(data, skeleton)
    return set(whole)


def digests_of(skeleton: Mapping[str, bytes]) -> dict[str, str]:
    """SHA-256 of each file of a skeleton but the root metadata, which say at the end that the store is complete."""
    return {name: sha256(content) for name, content in skeleton.items() if name != ROOT}


@contextmanager
def _quiet_zarr() -> Iterator[None]:
    """Silence the notes that consolidated metadata and text coordinates are not in the Zarr 3 text yet.

    Readers that do not know them ignore the first, which web servers need; the second is how xarray
    writes class names.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Consolidated metadata is currently not part")
        warnings.filterwarnings("ignore", message=".*does not have a Zarr V3 specification.*")
        yield
