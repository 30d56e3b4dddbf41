"""intake catalogs: publishing a store, and opening entries of catalogs that may come from strangers.

A catalog is a YAML file that intake opens with its ``zarr`` and ``netcdf`` drivers (intake-xarray).
Entries stand relative to the file (``{{ CATALOG_DIR }}``), so that a folder with catalog and stores
can be moved or served as it is. Reading here never runs anything that a file asks for: the loader
knows no Python types, only the two drivers and their harmless arguments pass, and paths stay inside
the catalog's folder unless the caller allowed a URL scheme.
"""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
import yaml

from xland.atomic import replace_file
from xland.errors import CatalogError, StoreError
from xland.provenance import bounds, package_versions, years
from xland.store import open_store
from xland.vocabulary import CLASS_NAMES

DRIVERS: Mapping[str, frozenset[str]] = {
    "zarr": frozenset({"urlpath", "consolidated", "chunks", "storage_options"}),
    "netcdf": frozenset({"urlpath", "chunks", "xarray_kwargs", "storage_options"}),
}
"""Drivers that an entry may name, with the arguments that it may give them."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_FOLDER = re.compile(r"\{\{\s*CATALOG_DIR\s*\}\}/?")
_ENTRY_KEYS = frozenset({"description", "driver", "args", "metadata"})
_CATALOG_KEYS = frozenset({"sources", "metadata", "name", "description", "version"})
_MOST_BYTES = 4 * 2**20
_DEEPEST = 20


def publish(
    catalog: str | os.PathLike[str],
    *,
    name: str,
    store: str | os.PathLike[str],
    description: str | None = None,
    metadata: Mapping[str, Any] | None = None,
    expected: xr.Dataset | None = None,
) -> Path:
    """Add a store to a catalog, or replace its entry; other entries stay as they are.

    Readers see the old file or the new one, never a part; publishers at the same time wait for each
    other. Comments in a file written by hand are not kept.

    Parameters
    ----------
    catalog : path
        YAML file; made if it does not exist.
    name : str
        Name of the entry: letters, digits, ``.``, ``_`` and ``-``.
    store : path
        A finished Zarr store, or a NetCDF file (``.nc``), in the catalog's folder or below it.
    description : str, optional
        A line for people; by default the title of the store.
    metadata : mapping, optional
        Added to what the store says about itself (title, summary, bounds, years, classes, CRS,
        model, licence, version of xland).
    expected : Dataset, optional
        The maps that the store should hold: if both say what they were made from and with
        (attribute ``xland_fingerprint``), it must be the same.

    Returns
    -------
    Path
        The catalog.

    Raises
    ------
    CatalogError
        If the name cannot be used, the store lies outside the catalog's folder, or the catalog that
        is there is damaged or unsafe (it is left as it is).
    StoreError
        If the store is missing or incomplete.
    """
    path, target = Path(catalog).absolute(), Path(store)
    if path.suffix not in (".yaml", ".yml"):
        raise CatalogError(f"{catalog}: intake wants the name of a catalog to end in .yaml")
    if not _NAME.fullmatch(name):
        raise CatalogError(
            f"{name!r} cannot name an entry; use letters, digits, '.', '_' and '-', such as land-use-2015"
        )
    relative = _relative(path, target)
    driver = "netcdf" if target.suffix == ".nc" else "zarr"
    with _opened(target, driver) as ds:
        _refuse_others(expected, ds, target)
        found = _metadata_of(ds)
    extra = _plain({} if metadata is None else metadata)
    text = description or found.get("title", name)
    _refuse_templates({"description": text, "metadata": extra}, name)
    args: dict[str, Any] = {"urlpath": "{{ CATALOG_DIR }}/" + relative}
    # intake-xarray takes NetCDF-4 for NetCDF-3 unless told otherwise; Zarr 3 without consolidated metadata warns
    if driver == "zarr":
        args["consolidated"] = _is_consolidated(target)
    else:
        args.update(chunks={}, xarray_kwargs={"engine": "netcdf4"})
    entry: dict[str, Any] = {"description": text, "driver": driver, "args": args, "metadata": found | extra}
    path.parent.mkdir(parents=True, exist_ok=True)
    with _lock(path):
        empty: dict[str, Any] = {"metadata": {"version": 1}, "sources": {}}
        content = _load(path) if path.exists() else empty
        content["sources"] = {**content["sources"], name: entry}
        text = yaml.dump(content, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)
        replace_file(path, text, error=CatalogError)
    return path


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
    content = _load(Path(path))
    for name, entry in content["sources"].items():
        _check_entry(Path(path), name, entry, allowed_schemes)
    return content


def open_entry(catalog: str | os.PathLike[str], name: str, *, allowed_schemes: Collection[str] = ()) -> xr.Dataset:
    """Open one entry of a catalog lazily.

    Parameters
    ----------
    catalog : path
        YAML file.
    name : str
        Name of the entry.
    allowed_schemes : collection of str
        URL schemes that the entry may point to; none by default, so that only files in the catalog's
        folder are opened.

    Returns
    -------
    Dataset

    Raises
    ------
    CatalogError
        If there is no such entry (the message lists those that there are), or it is unsafe.
    StoreError
        If its store is missing, incomplete or damaged.
    """
    content = _load(Path(catalog))
    if name not in content["sources"]:
        known = ", ".join(sorted(map(str, content["sources"]))) or "none"
        raise CatalogError(f"{catalog} has no entry {name!r}; there are: {known}")
    entry = content["sources"][name]
    target = _check_entry(Path(catalog), name, entry, allowed_schemes)
    args = entry["args"]
    options = {key: args[key] for key in ("consolidated", "chunks", "storage_options") if key in args}
    if entry["driver"] == "zarr":
        return open_store(target, **options)
    try:
        return xr.open_dataset(target, engine="netcdf4", chunks=options.get("chunks", {}))
    except OSError as error:
        raise StoreError(f"{target} cannot be read as NetCDF: {error}") from error


def list_entries(catalog: str | os.PathLike[str], *, allowed_schemes: Collection[str] = ()) -> list[dict[str, Any]]:
    """List the entries of a catalog for a table.

    Unlike :func:`read_catalog` it does not stop at an unsafe entry but says what is wrong with it.

    Parameters
    ----------
    catalog : path
    allowed_schemes : collection of str

    Returns
    -------
    list of dict
        ``name``, ``description``, ``driver``, ``years``, ``bounds``, ``model``, ``status``: the
        latter is ``available``, ``missing`` (or what the entry's metadata says instead), ``remote``,
        or the reason why it is refused.
    """
    path = Path(catalog)
    rows = []
    for name, entry in _load(path)["sources"].items():
        metadata = entry.get("metadata") if isinstance(entry, dict) else None
        metadata = metadata if isinstance(metadata, dict) else {}
        try:
            target = _check_entry(path, name, entry, allowed_schemes)
        except CatalogError as error:
            status = str(error)
        else:
            if isinstance(target, str):
                status = "remote"
            else:
                status = "available" if target.exists() else str(metadata.get("status", "missing"))
        rows.append(
            {
                "name": str(name),
                "description": str(entry.get("description", "")) if isinstance(entry, dict) else "",
                "driver": str(entry.get("driver", "")) if isinstance(entry, dict) else "",
                "years": metadata.get("years"),
                "bounds": metadata.get("bounds"),
                "model": metadata.get("model"),
                "status": status,
            }
        )
    return rows


class _Loader(yaml.SafeLoader):
    """The safe loader without references, a few of which can stand for terabytes, and without deep nesting."""

    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("references (*name) are not allowed in a catalog")
        if self.depth > _DEEPEST:
            raise yaml.YAMLError(f"it is nested deeper than {_DEEPEST} levels")
        self.depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self.depth -= 1


class _Dumper(yaml.SafeDumper):
    """The safe writer, which repeats what occurs twice instead of referring to it."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002 -- the loader's signature
        return True


def _load(path: Path) -> dict[str, Any]:
    """Read the YAML file and check its outline."""
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise CatalogError(f"{path} is larger than any catalog should be ({path.stat().st_size} bytes)")
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)  # noqa: S506 -- a SafeLoader
    except OSError as error:
        raise CatalogError(f"the catalog {path} cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise CatalogError(f"the catalog {path} is unsafe or damaged: {error}") from error
    if not isinstance(content, dict) or not isinstance(content.get("sources"), dict):
        raise CatalogError(f"{path} is no intake catalog: it needs 'sources:' with named entries")
    unknown = sorted(str(key) for key in content.keys() - _CATALOG_KEYS)
    if unknown:
        raise CatalogError(f"{path}: {', '.join(unknown)} not allowed in a catalog (only data, no plugins)")
    return content


def _check_entry(path: Path, name: Any, entry: Any, allowed_schemes: Collection[str]) -> Path | str:
    """Return where the data of an entry are: a path inside the catalog's folder, or an allowed URL."""
    where = f"{path}: entry {name!r}"
    if not isinstance(name, str) or not isinstance(entry, dict):
        raise CatalogError(f"{where} is not a mapping")
    unknown = sorted(str(key) for key in entry.keys() - _ENTRY_KEYS)
    if unknown:
        raise CatalogError(f"{where} holds {', '.join(unknown)}; only {', '.join(sorted(_ENTRY_KEYS))} are allowed")
    driver, args = entry.get("driver"), entry.get("args")
    if not isinstance(driver, str) or driver not in DRIVERS:
        raise CatalogError(f"{where} wants the driver {driver!r}; only {', '.join(DRIVERS)} are opened")
    if not isinstance(args, dict) or not isinstance(args.get("urlpath"), str):
        raise CatalogError(f"{where} needs args with one urlpath")
    unknown = sorted(str(key) for key in args.keys() - DRIVERS[driver])
    if unknown:
        raise CatalogError(
            f"{where} gives the driver {', '.join(unknown)}; allowed: {', '.join(sorted(DRIVERS[driver]))}"
        )
    url = args["urlpath"]
    rest = _FOLDER.sub("", url, count=1) if _FOLDER.match(url) else url
    _refuse_templates({**entry, "args": {**args, "urlpath": rest}}, name)
    if args.get("xarray_kwargs", {}) not in ({}, {"engine": "netcdf4"}, {"engine": "h5netcdf"}):
        raise CatalogError(f"{where} gives xarray_kwargs; only engine netcdf4 or h5netcdf is allowed")
    if "::" in rest or "*" in rest or "\0" in rest:
        raise CatalogError(f"{where}: {url!r} is a chained address or a pattern; one plain path is allowed")
    scheme = _SCHEME.match(rest)
    if scheme:
        if rest is not url or scheme[1].lower() not in {allowed.lower() for allowed in allowed_schemes}:
            raise CatalogError(
                f"{where} points to {url!r}; addresses with {scheme[1]}:// are opened only if allowed_schemes names it"
            )
        return url
    if "storage_options" in args:
        raise CatalogError(f"{where}: storage_options are for addresses, not for files in the catalog's folder")
    return _confined(path, rest, where)


def _confined(path: Path, relative: str, where: str) -> Path:
    """Return the path of a store, having checked that it and all it holds stay in the catalog's folder."""
    if Path(relative).is_absolute() or ".." in Path(relative).parts or relative.startswith("~") or not relative:
        raise CatalogError(f"{where} points to {relative!r}, outside the catalog's folder")
    folder = path.absolute().parent.resolve()
    target = folder / relative
    if not target.resolve().is_relative_to(folder) or target.resolve() == folder:
        raise CatalogError(f"{where} points to {relative!r}, which leads out of the catalog's folder")
    for link in _links(target):
        if not link.resolve().is_relative_to(folder):
            raise CatalogError(f"{where}: {link.relative_to(folder)} is a link that leads out of the catalog's folder")
    return target


def _links(folder: Path) -> Iterator[Path]:
    """Symbolic links anywhere below a folder."""
    if not folder.is_dir():
        return
    pending = [folder]
    while pending:
        with os.scandir(pending.pop()) as entries:
            for entry in entries:
                if entry.is_symlink():
                    yield Path(entry.path)
                elif entry.is_dir():
                    pending.append(Path(entry.path))


def _refuse_templates(value: Any, name: Any) -> None:
    """Refuse text that intake would run as a template (environment, shell)."""
    if isinstance(value, str):
        if any(mark in value for mark in ("{{", "{%", "{#")):
            raise CatalogError(
                f"entry {name!r} holds a template, {value[:60]!r}; the only one allowed is {{{{ CATALOG_DIR }}}} "
                "at the start of urlpath"
            )
    elif isinstance(value, Mapping):
        for key, item in value.items():
            _refuse_templates(key, name)
            _refuse_templates(item, name)
    elif isinstance(value, list | tuple):
        for item in value:
            _refuse_templates(item, name)


def _relative(path: Path, store: Path) -> str:
    folder, target = path.parent.resolve(), store.absolute().resolve()
    if not target.is_relative_to(folder) or target == folder:
        raise CatalogError(
            f"{store} lies outside {folder}, the folder of the catalog; entries are relative to it, so that both can "
            "be moved together: write the store there, or put the catalog beside the store"
        )
    return target.relative_to(folder).as_posix()


@contextmanager
def _opened(store: Path, driver: str) -> Iterator[xr.Dataset]:
    if driver == "zarr":
        yield open_store(store)
        return
    try:
        ds = xr.open_dataset(store, engine="netcdf4", chunks={})
    except OSError as error:
        raise StoreError(f"{store} cannot be read as NetCDF: {error}") from error
    with ds:
        yield ds


def _refuse_others(expected: xr.Dataset | None, stored: xr.Dataset, store: Path) -> None:
    """Refuse to publish a store in the name of maps that it does not hold."""
    ours = None if expected is None else expected.attrs.get("xland_fingerprint")
    theirs = stored.attrs.get("xland_fingerprint")
    if ours and theirs and ours != theirs:
        raise CatalogError(
            f"{store} does not hold these maps: its xland_fingerprint is {str(theirs)[:12]}, theirs {str(ours)[:12]} "
            "(other inputs, model or options); write them with to_zarr, or publish the Dataset of open_store"
        )


def _is_consolidated(store: Path) -> bool:
    root = store / "zarr.json"
    return (
        '"consolidated_metadata"' in root.read_text(encoding="utf-8")
        if root.exists()
        else (store / ".zmetadata").exists()
    )


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
        "crs": _crs(ds),
        "resolution_degrees": attributes.get("geospatial_lat_resolution"),
        "model": attributes.get("xland_model"),
        "model_sha256": attributes.get("xland_model_sha256"),
        "licence": attributes.get("license"),
        "xland_version": package_versions().get("xland"),
    }
    if "land_use" in ds:
        meanings = str(ds["land_use"].attrs.get("flag_meanings", " ".join(CLASS_NAMES))).split()
        codes = np.atleast_1d(ds["land_use"].attrs.get("flag_values", np.arange(len(meanings))))
        found["classes"] = {int(code): meaning for code, meaning in zip(codes, meanings, strict=False)}
    return _plain({key: value for key, value in found.items() if value is not None})


def _crs(ds: xr.Dataset) -> str | None:
    if "spatial_ref" not in ds.variables:
        return None
    attributes = ds["spatial_ref"].attrs
    wkt = str(attributes.get("crs_wkt") or attributes.get("spatial_ref") or "")
    code = re.search(r'(?:AUTHORITY|ID)\["EPSG",\s*"?(\d+)"?\]\]\s*$', wkt)
    return f"EPSG:{code[1]}" if code else attributes.get("geographic_crs_name")


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
    """Let one publisher at a time change a catalog; a killed process lets go of it by itself."""
    with path.with_name(f".{path.name}.lock").open("a") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield
