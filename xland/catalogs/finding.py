"""Opening entries of catalogs that may come from strangers.

Reading here never runs anything that a file asks for: the loader knows plain data only, only the two drivers and their
harmless arguments pass, and paths stay inside the catalog's folder unless the caller allowed a URL scheme.
"""

from __future__ import annotations

import copy
import hashlib
import os
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import xarray as xr

from xland.arguments import guess
from xland.catalogs.entry import Entry, entry_of, version_of
from xland.catalogs.rules import check_entry, split_name
from xland.catalogs.yaml_files import CatalogFile, read_file
from xland.errors import CatalogError, MissingDependencyError, StoreError, XlandError
from xland.geo.conventions import READING, from_files
from xland.paths import address_of, is_url, without_password
from xland.reading.variables import name_reads
from xland.records import read_record
from xland.store.provenance import Publisher
from xland.store.reading import open_store, store_digest
from xland.untrusted.folders import open_plain
from xland.untrusted.netcdf import check_file, check_hdf5
from xland.untrusted.servers import TOTAL_SECONDS, http_options

_PART = 4 * 2**20  # bytes of a file behind a URL that are fetched at a time


def place_of(catalog: Any) -> Path | str:
    """Return where a catalog is: a path on this machine, or a URL."""
    address = address_of(catalog)
    return address if is_url(address) else Path(address)


def read_products(root: CatalogFile) -> Iterator[tuple[str, CatalogFile]]:
    """Yield the catalog itself, under no name, and then its sub-catalogs, which lie beside it."""
    yield "", root
    for product, name in root.products.items():
        yield product, read_file(beside(root.address, name))


def read_entries(root: CatalogFile, product: str | None = None) -> Iterator[Entry]:
    """Yield the entries of a catalog in their order, or those of one sub-catalog alone."""
    for inside, file in read_products(root):
        if product in (None, inside):
            for name in file.names:
                yield entry_of(name, file.sources[name], inside)


def publisher_of(root: CatalogFile) -> Publisher:
    """Return who publishes a catalog, as its header says; CatalogError names what is wrong there."""
    given = root.metadata.get("publisher")
    if given is None:
        return Publisher()
    return read_record(Publisher, given, f"{root.address}: publisher in metadata", CatalogError)


def beside(address: Path | str, name: str) -> Path | str:
    """Return where the file of a sub-catalog is; CatalogError if it is a link that leads out of the folder."""
    if isinstance(address, str):
        return f"{address.rpartition('/')[0]}/{name}"
    path = address.with_name(name)
    if not path.resolve().is_relative_to(path.parent.resolve()):
        raise CatalogError(f"{path}, a sub-catalog of {address.name}, leads out of the catalog's folder")
    return path


def key_of(file: CatalogFile, name: Any) -> Any:
    """Return the key of ``NAME``, ``NAME@latest`` or ``NAME@2`` in a file; None if it is not there."""
    if not isinstance(name, str):
        return None
    if name in file.names:
        return name
    base, version = split_name(name)
    if version and base in file.names and (version == "latest" or version_of(file.sources[base]) == int(version)):
        return base
    return None


def find_entry(root: CatalogFile, name: Any) -> tuple[str, CatalogFile, Any]:
    """Return the product, file and key of an entry; CatalogError lists those that there are."""
    names: list[str] = []
    for product, file in read_products(root):
        key = key_of(file, name)
        if key is not None:
            return product, file, key
        names += map(str, file.names)
    names.sort()
    known = ", ".join(known[:80] for known in names[:20]) or "none"
    more = f" and {len(names) - 20} more" if len(names) > 20 else ""
    raise CatalogError(
        f"{without_password(str(root.address))} has no entry {name!r:.120}{guess(name, names)[:150] or '.'} There are: "
        f"{known}{more}"
    )


def read_catalog(path: str | os.PathLike[str], *, allowed_schemes: Collection[str] = ()) -> dict[str, Any]:
    """Read a catalog and check every entry; nothing is opened.

    Parameters
    ----------
    path : path or URL
        YAML file.
    allowed_schemes : collection of str
        URL schemes (such as ``https``) that entries may point to.

    Returns
    -------
    dict
        ``metadata`` and ``sources``: entries by name, each with ``description``, ``driver``,
        ``args`` and ``metadata``. Entries of sub-catalogs are among them.

    Raises
    ------
    CatalogError
        If the file cannot be read, or an entry is unsafe; the message names entry and reason.
    """
    root = read_file(place_of(path))
    content, sources = copy.deepcopy(root.content), {}
    for _, file in read_products(root):
        for name in file.names:
            check_entry(file.address, name, file.sources[name], allowed_schemes)
            sources[name] = copy.deepcopy(file.sources[name])
    return content | {"sources": sources}


def open_entry(catalog: str | os.PathLike[str], name: str, *, allowed_schemes: Collection[str] = ()) -> xr.Dataset:
    """Open one entry of a catalog lazily, having compared its digest with that which was published.

    The digest of a Zarr store is known without reading its chunks. A NetCDF file is read as a whole, once in each
    process, also from behind a URL.

    Parameters
    ----------
    catalog : path or URL
        YAML file. Entries of a catalog behind a URL may lie in its folder there.
    name : str
        Name of the entry; ``NAME@2`` is a version of it, ``NAME@latest`` the same as ``NAME``.
    allowed_schemes : collection of str
        URL schemes that the entry may point to; by default none, so that only files in the catalog's folder are opened.

    Raises
    ------
    CatalogError
        If there is no such entry (the message lists those that there are), or it is unsafe.
    StoreError
        If its store is missing, incomplete or damaged, or was replaced since it was published.
    """
    _, file, key = find_entry(read_file(place_of(catalog)), name)
    return open_source(file.address, key, file.sources[key], allowed_schemes)


def open_source(path: Path | str, name: Any, entry: Any, allowed_schemes: Collection[str]) -> xr.Dataset:
    """Open an entry of a file of a catalog, given as it is there; see :func:`open_entry`."""
    if isinstance(path, str):
        allowed_schemes = (*allowed_schemes, path.partition("://")[0])
    target = check_entry(path, name, entry, allowed_schemes)
    args, address = entry["args"], str(target)
    shown = without_password(address)
    if isinstance(target, Path) and not os.path.lexists(target):
        raise StoreError(f"there is no store at {target}")
    try:
        limits = {} if isinstance(target, Path) else http_options(target, allowed_schemes)
        if entry["driver"] == "zarr":
            options = {key: args[key] for key in ("consolidated", "chunks") if args.get(key) is not None}
            if is_url(address):
                options["storage_options"] = {**(args.get("storage_options") or {}), **limits}
            _refuse_another(entry, address, partial(store_digest, address, options.get("storage_options")))
            return open_store(address, **options)
        if isinstance(target, Path):
            return open_netcdf(target, entry)
        import fsspec  # a NetCDF-4 file behind a URL, of which only the parts that are asked for are fetched later

        stream = fsspec.open(address, **(args.get("storage_options") or {}), **limits).open()
        check_hdf5(stream, shown, stream.seek(0, os.SEEK_END))
        _refuse_another(entry, address, partial(_stream_digest, stream, shown))
        return _opened(stream, shown, args, engine="h5netcdf")
    except ImportError as error:
        raise MissingDependencyError(f"{shown} needs a package that is missing: {error}") from error
    except Exception as error:  # libraries have errors of their own for each kind of oddity
        kind, said = type(error), str(error)
        if not isinstance(error, XlandError):
            kind, said = StoreError, f"{shown} cannot be read: {kind.__name__}: {error}"
        if shown == address:
            raise kind(said[:1000]) from error
        raise kind(without_password(said, of=address)[:1000]) from None  # the causes may have it too


def _refuse_another(entry: Mapping[str, Any], address: Path | str, digest: Callable[[], str | None]) -> None:
    """Refuse a store or file that is not the one that was published."""
    published = (entry.get("metadata") or {}).get("digest")
    if published is not None and published != digest():
        raise StoreError(
            f"{without_password(str(address))} is not what was published: its digest is not {str(published)[:12]}, as "
            "the catalog says; publish it again if you replaced it, or else copy it again"
        )


def file_digest(path: Path) -> str:
    """SHA-256 of a file on this machine."""
    with open_plain(path) as stream:
        found = os.fstat(stream.fileno())
        return _digest_once(str(path), found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


@lru_cache(maxsize=256)
def _digest_once(path: str, *_state: int) -> str:
    """SHA-256 of a file, taken once in each process as long as it stays as it is."""
    opened: Any = open_plain(Path(path))
    with opened as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _stream_digest(stream: Any, shown: str) -> str:
    """SHA-256 of a file behind a URL, all of which is fetched for that."""
    digest, end = hashlib.sha256(), time.monotonic() + TOTAL_SECONDS
    stream.seek(0)
    while part := stream.read(_PART):
        digest.update(part)
        if time.monotonic() > end:
            raise StoreError(
                f"{shown} was not read within {TOTAL_SECONDS:.0f} s, to be compared with the digest in the catalog: "
                "copy it here and publish that"
            )
    return digest.hexdigest()


def open_netcdf(path: Path, entry: Mapping[str, Any]) -> xr.Dataset:
    """Open a file on this machine lazily."""
    engine = check_file(path, stranger=True)["engine"]
    _refuse_another(entry, path, partial(file_digest, path))
    return _opened(path, str(path), entry.get("args") or {}, engine=engine)


def _opened(source: Any, shown: str, args: Mapping[str, Any], *, engine: Any) -> xr.Dataset:
    """Open a NetCDF file; times that xarray cannot decode stay as they are in the file."""
    chunks = args.get("chunks") or {}
    try:
        if (args.get("xarray_kwargs") or {}).get("decode_times") is not False:
            with suppress(ValueError, OverflowError, TypeError):  # LUH2 counts years, which xarray does not decode
                return from_files(name_reads(xr.open_dataset(source, engine=engine, chunks=chunks, **READING)))
        return name_reads(xr.open_dataset(source, engine=engine, chunks=chunks, decode_times=False))
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise StoreError(f"{shown} cannot be read as NetCDF: {error}") from error
