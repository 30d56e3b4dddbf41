"""intake catalogs: publishing a store, and opening entries of catalogs that may come from strangers.

A catalog is a YAML file. Its ``sources`` are what people and xland read. Its ``entries``, made from them at each
publication, are what intake 2 opens with the ``zarr`` and ``netcdf`` drivers of intake-xarray. Paths are relative to
the file, so that a folder with catalog and stores can be moved or served as it is.

Intake 2 replaces ``{CATALOG_DIR}`` in ``entries`` by the folder and runs nothing. Intake 1 runs every text of an
entry as a template, so no text that looks like one is published. A catalog that has sources of other drivers stays one
of intake 1, in which paths begin with ``{{ CATALOG_DIR }}``, the one template that it needs.

Reading here never runs anything that a file asks for: the loader knows plain data only, only the two drivers and their
harmless arguments pass, and paths stay inside the catalog's folder unless the caller allowed a URL scheme.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import stat
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import lru_cache, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from xland.arguments import checked, guess, shown
from xland.entries import DRIVERS, check_entry, check_name, for_intake_1, for_intake_2, relative_path, without_folder
from xland.errors import CatalogError, MissingDependencyError, StoreError, XlandError
from xland.geo.conventions import READING, from_files
from xland.paths import is_url, local_path, make_folder, replace_file, without_password
from xland.reading.variables import name_reads
from xland.store.provenance import bounds, years
from xland.store.publisher import read_publisher
from xland.store.reading import open_store, read_finished, store_digest
from xland.untrusted.folders import open_plain
from xland.untrusted.netcdf import check_file, check_hdf5
from xland.untrusted.plain_yaml import parse, read_yaml, render
from xland.untrusted.servers import TOTAL_SECONDS, http_options
from xland.vocabulary import CLASS_NAMES

__all__ = ["DRIVERS", "list_entries", "open_entry", "publish", "read_catalog"]

_CATALOG_KEYS = frozenset({"sources", "metadata", "name", "description", "version"})
_INTAKE_KEYS = frozenset({"entries", "aliases", "data", "user_parameters"})
_HEADER = (
    "# xland reads 'sources'; 'entries' has the same content for intake 2, and xland.publish writes it from 'sources'\n"
)
_WAIT_SECONDS = 60.0
_PART = 4 * 2**20  # bytes of a file behind a URL that are fetched at a time


@checked(CatalogError)
def publish(
    catalog: str | os.PathLike[str],
    *,
    name: str,
    store: str | os.PathLike[str],
    description: str | None = None,
    metadata: Mapping[str, Any] | None = None,
    publisher: str | os.PathLike[str] | None = None,
    expected: xr.Dataset | None = None,
) -> Path:
    """Add a store to a catalog, or replace its entry; other entries stay as they are.

    Readers see the old file or the new one, never a part. Publishers at the same time wait for each other. Comments
    in a file written by hand are not kept.

    Parameters
    ----------
    catalog : path
        YAML file; made if it does not exist.
    name : str
        Name of the entry: letters, digits, ``.``, ``_`` and ``-``.
    store : path
        A finished Zarr store, or a NetCDF file, in the catalog's folder or below it.
    description : str, optional
        A line for people; by default the title of the store.
    metadata : mapping, optional
        Added to what the store says about itself: title, summary, bounds, years, classes, CRS, model, licence,
        institution, contact, DOI, version of xland, and its digest, which :func:`open_entry` compares (of a NetCDF
        file the SHA-256).
    publisher : path, optional
        TOML file with the licence, institution, contact and DOI of the entry, in place of those that the store states;
        see :func:`xland.store.publisher.read_publisher`.
    expected : Dataset, optional
        The maps that the store should have: the ``xland_fingerprint`` of both must be the same if both have one.

    Returns
    -------
    Path
        The catalog.

    Raises
    ------
    CatalogError
        If the name cannot be used, the store is outside the catalog's folder, or the catalog that is there is damaged
        or unsafe (it is left as it is).
    StoreError
        If the store is missing or incomplete.
    """
    path, target = local_path(catalog, what="a catalog"), local_path(store, what="a store that is published")
    if path.suffix not in (".yaml", ".yml"):
        raise CatalogError(f"{path}: the name of a catalog has to end in .yaml for intake")
    check_name(name)
    if not isinstance(metadata, Mapping | None):
        raise CatalogError(f"metadata must be a mapping of names to values or None, not {shown(metadata)}")
    relative = relative_path(path, target)
    is_file = target.is_file() or (target.suffix == ".nc" and not target.is_dir())
    driver = "netcdf" if is_file else "zarr"
    args: dict[str, Any] = {"urlpath": relative}
    with open_store(target) if driver == "zarr" else _open_netcdf(target, {}) as ds:
        ours, theirs = (None if each is None else each.attrs.get("xland_fingerprint") for each in (expected, ds))
        if ours and theirs and ours != theirs:
            raise CatalogError(
                f"{target} does not have these maps: its xland_fingerprint is {str(theirs)[:12]}, theirs "
                f"{str(ours)[:12]} (other inputs, model or options); write them with to_zarr, or publish the Dataset "
                "of open_store"
            )
        found = _metadata_of(ds.assign_attrs({} if publisher is None else read_publisher(publisher).attributes))
        if driver == "zarr":
            digest = store_digest(target)
            root = read_finished(target)[0]  # Zarr 3 without consolidated metadata warns
            args["consolidated"] = "consolidated_metadata" in root if root else (target / ".zmetadata").exists()
        else:
            digest = _file_digest(target)
            # plain intake opens a file behind a URL with these engines alone
            options = check_file(target, stranger=True)
            if any(" since " in str(variable.attrs.get("units", "")) for variable in ds.variables.values()):
                options["decode_times"] = False  # xarray could not decode it
            args.update(chunks={}, path_as_pattern=False, xarray_kwargs=options)
    extra = _plain(metadata or {})
    entry: dict[str, Any] = {
        "description": str(description or found.get("title") or name),
        "driver": driver,
        "args": args,
        "metadata": found | extra | ({} if digest is None else {"digest": digest}),
    }
    make_folder(path.parent, CatalogError)
    with _lock(path):
        content = _outline(read_yaml(path), path) if os.path.lexists(path) else {"sources": {}}
        content["sources"] = {**content["sources"], name: entry}
        replace_file(path, _text(content, path, name), error=CatalogError)
    return path


def _text(content: dict[str, Any], path: Path, name: str) -> str:
    """Return a catalog as text, having read it as readers will."""
    metadata, sources = dict(content.get("metadata") or {}), content["sources"]
    entries = {key: for_intake_2(key, source) for key, source in sources.items()}
    if None in entries.values():  # sources of other drivers, which intake 2 reads in catalogs of intake 1
        sources = {key: for_intake_1(key, source) for key, source in sources.items()}
        others = {key: entry for key, entry in (content.get("entries") or {}).items() if key not in sources}
        content = {key: value for key, value in content.items() if others or key not in _INTAKE_KEYS}
        content |= {"entries": others} if others else {}
        content |= {"version": 1, "metadata": {"version": 1, **metadata}, "sources": sources}
        text = render(content, str(path))
    else:
        metadata.pop("version", None)
        content = {
            **content,
            "version": 2,
            "metadata": metadata,
            "sources": {key: without_folder(source) for key, source in sources.items()},
            "entries": {**(content.get("entries") or {}), **entries},
            "aliases": {**(content.get("aliases") or {}), **{key: key for key in entries}},
            "data": content.get("data") or {},
            "user_parameters": content.get("user_parameters") or {},
        }
        text = _HEADER + render(content, str(path))
    try:
        check_entry(path, name, _outline(parse(text, "it"), path)["sources"].get(name), ())
    except CatalogError as error:
        raise CatalogError(f"{path} is left as it was, as it could not be read again: {error}") from error
    return text


def read_catalog(path: str | os.PathLike[str], *, allowed_schemes: Collection[str] = ()) -> dict[str, Any]:
    """Read a catalog and check every entry; nothing is opened.

    Parameters
    ----------
    path : path
        YAML file.
    allowed_schemes : collection of str
        URL schemes (such as ``https``) that entries may point to.

    Returns
    -------
    dict
        ``metadata`` and ``sources``: entries by name, each with ``description``, ``driver``,
        ``args`` and ``metadata``.

    Raises
    ------
    CatalogError
        If the file cannot be read, or an entry is unsafe; the message names entry and reason.
    """
    path = local_path(path, what="a catalog")
    content = _outline(read_yaml(path), path)
    for name, entry in content["sources"].items():
        check_entry(path, name, entry, allowed_schemes)
    return content


def open_entry(catalog: str | os.PathLike[str], name: str, *, allowed_schemes: Collection[str] = ()) -> xr.Dataset:
    """Open one entry of a catalog lazily, having compared its digest with that which was published.

    The digest of a Zarr store is known without reading its chunks. A NetCDF file is read as a whole, once in each
    process, also from behind a URL.

    Parameters
    ----------
    catalog : path
        YAML file.
    name : str
        Name of the entry.
    allowed_schemes : collection of str
        URL schemes that the entry may point to; by default none, so that only files in the catalog's folder are opened.

    Raises
    ------
    CatalogError
        If there is no such entry (the message lists those that there are), or it is unsafe.
    StoreError
        If its store is missing, incomplete or damaged, or was replaced since it was published.
    """
    path = local_path(catalog, what="a catalog")
    content = _outline(read_yaml(path), path)
    if not isinstance(name, str | int) or name not in content["sources"]:
        names = sorted(map(str, content["sources"]))
        known = ", ".join(known[:80] for known in names[:20]) or "none"
        more = f" and {len(names) - 20} more" if len(names) > 20 else ""
        raise CatalogError(
            f"{path} has no entry {name!r:.120}{guess(name, names)[:150] or '.'} There are: {known}{more}"
        )
    entry = content["sources"][name]
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
            return _open_netcdf(target, entry)
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


def _file_digest(path: Path) -> str:
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


def list_entries(catalog: str | os.PathLike[str], *, allowed_schemes: Collection[str] = ()) -> list[dict[str, Any]]:
    """List the entries of a catalog for a table, also those that :func:`read_catalog` refuses.

    Parameters
    ----------
    catalog : path
    allowed_schemes : collection of str

    Returns
    -------
    list of dict
        ``name``, ``description``, ``driver``, ``years``, ``bounds``, ``model``, ``status``. The status is
        ``available``, ``missing`` (or what the entry's metadata say instead), ``remote``, or the reason why the entry
        is refused.
    """
    path = local_path(catalog, what="a catalog")
    rows = []
    for name, given in _outline(read_yaml(path), path)["sources"].items():
        entry = given if isinstance(given, dict) else {}
        metadata: Any = entry.get("metadata") if isinstance(entry.get("metadata"), dict) else {}
        try:
            target = check_entry(path, name, given, allowed_schemes)
            status = "remote"
            if isinstance(target, Path):
                status = "available" if target.exists() else str(metadata.get("status", "missing"))
        except CatalogError as error:
            status = str(error)
        texts = {"name": str(name), **{key: str(entry.get(key, "")) for key in ("description", "driver")}}
        rows.append({**texts, **{key: metadata.get(key) for key in ("years", "bounds", "model")}, "status": status})
    return rows


def _outline(content: Any, path: Path) -> dict[str, Any]:
    """Check the outline of a catalog."""
    if not isinstance(content, dict) or not isinstance(content.get("sources"), dict):
        raise CatalogError(f"{path} is not an intake catalog: it needs 'sources:' with named entries")
    unknown = sorted(str(key)[:80] for key in content.keys() - _CATALOG_KEYS - _INTAKE_KEYS)
    if unknown:
        raise CatalogError(f"{path}: {', '.join(unknown[:5])} not allowed in a catalog (only data, no plugins)")
    for key in ("metadata", *sorted(_INTAKE_KEYS)):
        if not isinstance(content.get(key) or {}, dict):
            raise CatalogError(f"{path}: {key} is not a mapping")
    return content


def _open_netcdf(path: Path, entry: Mapping[str, Any]) -> xr.Dataset:
    """Open a file on this machine lazily."""
    engine = check_file(path, stranger=True)["engine"]
    _refuse_another(entry, path, partial(_file_digest, path))
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


def _metadata_of(ds: xr.Dataset) -> dict[str, Any]:
    """Gather what an entry says about its store."""
    attributes = ds.attrs
    found: dict[str, Any] = {
        "title": attributes.get("title"),
        "summary": attributes.get("summary"),
        "bounds": list(bounds(ds) or ()) or None,
        "years": years(ds) or None,
        "variables": [str(name) for name in ds.data_vars],
        "classes": None,
        "crs": None,
        "resolution_degrees": attributes.get("geospatial_lat_resolution"),
        "model": attributes.get("xland_model"),
        "model_sha256": attributes.get("xland_model_sha256"),
        "licence": attributes.get("license"),
        "institution": attributes.get("institution"),
        "contact": attributes.get("contact"),
        "doi": attributes.get("id") if attributes.get("naming_authority") == "org.doi" else None,
        "xland_version": version("xland"),
    }
    if "spatial_ref" in ds.variables:
        reference = ds["spatial_ref"].attrs
        wkt = str(reference.get("crs_wkt") or reference.get("spatial_ref") or "")
        code = re.search(r'(?:AUTHORITY|ID)\["EPSG",\s*"?(\d+)"?\]\]\s*$', wkt)
        found["crs"] = f"EPSG:{code[1]}" if code else reference.get("geographic_crs_name")
    if "land_use" in ds:
        meanings = str(ds["land_use"].attrs.get("flag_meanings", " ".join(CLASS_NAMES))).split()
        codes = np.atleast_1d(ds["land_use"].attrs.get("flag_values", np.arange(len(meanings))))
        found["classes"] = {int(code): meaning for code, meaning in zip(codes, meanings, strict=False)}
    return _plain({key: value for key, value in found.items() if value is not None})


def _plain(value: Any) -> Any:
    """Turn what attributes and callers give into what the safe writer knows."""
    if isinstance(value, Mapping):
        return {_plain(key): _plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, str | int | float | bool) else str(value)


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Let one publisher at a time change a catalog; a killed process releases the lock by itself.

    CatalogError if something else, such as a planted link, has the name of the lock, or if another publisher keeps it.
    """
    name = path.with_name(f".{path.name}.lock")
    try:
        descriptor = os.open(name, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise CatalogError(f"{path} cannot be locked: {name}: {error.strerror}; move away what is there") from error
    with os.fdopen(descriptor, "rb"):
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise CatalogError(f"{path} cannot be locked: {name} is not a plain file; move it away")
        end = time.monotonic() + _WAIT_SECONDS
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > end:
                    raise CatalogError(
                        f"another process has published to {path} for {_WAIT_SECONDS:.0f} s; try again when it is done"
                    ) from None
                time.sleep(0.05)
        yield
