"""The rules for an entry of a catalog, which hold for those that are read and for those that are written.

An entry is data only: one of two drivers with a few harmless arguments, text without templates, and a
path that stays in the catalog's folder, or a URL whose scheme the caller allowed.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Literal

from xland.arguments import Count, fits, refusal
from xland.errors import CatalogError, StoreError
from xland.paths import without_password
from xland.untrusted.folders import survey

_ANY = {
    "urlpath": str,
    "chunks": Mapping[str, Literal[-1] | Count] | None,
    "storage_options": Mapping[str, Any] | None,
}
_ENGINE = Literal["netcdf4", "h5netcdf", "scipy"]
DRIVERS: Mapping[str, Mapping[str, Any]] = {
    "zarr": {**_ANY, "consolidated": bool | None},
    "netcdf": {**_ANY, "path_as_pattern": Literal[False], "xarray_kwargs": Mapping[str, Any] | None},
}
"""Drivers that an entry may name, with the arguments that it may give them, and what these may be."""

FOLDER_1 = re.compile(r"\{\{\s*CATALOG_DIR\s*\}\}/?")
_SOURCES = {"zarr": "intake_xarray.xzarr:ZarrSource", "netcdf": "intake_xarray.netcdf:NetCDFSource"}

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
_KEY = re.compile(rf"({_NAME.pattern})(?:@(\d{{1,6}}|latest))?")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_TEMPLATE = re.compile(r"\{\{|\{%|\{#|^\{?data\(")
_IN_TEMPLATES = re.compile(r"\{[{%#]|data\(")  # what all templates have, also in the text of a mapping
_UNSERVABLE = re.compile(r"[\x00-\x1f\x7f*?\[\]{}#%\\:]")
_ENTRY = {"description": str | None, "driver": Any, "args": Any, "metadata": Mapping[Any, Any] | None}
_KEYWORDS = {"engine": _ENGINE, "decode_times": bool}
_BUCKETS = ("s3", "gs", "gcs", "az", "abfs")
_PRODUCT = "yaml_file_cat"
_BESIDE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,200}\.ya?ml")


def check_name(name: Any) -> None:
    """Refuse what cannot name an entry that is published."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise CatalogError(
            f"{name!r:.120} cannot name an entry; use at most 100 letters, digits, '.', '_' and '-', such as "
            "land-use-2015"
        )


def split_name(key: str) -> tuple[str, str]:
    """Return the name of an entry, and which version of it is meant: a number, ``latest``, or nothing."""
    found = _KEY.fullmatch(key)
    return (found[1], found[2] or "") if found else (key, "")


def product_file(source: Any) -> str | None:
    """Return the name of the file of a sub-catalog, which lies beside the catalog; None if a source is none."""
    args = source.get("args") if isinstance(source, Mapping) and source.get("driver") == _PRODUCT else None
    path = args.get("path") if isinstance(args, Mapping) and args.keys() == {"path"} else None
    name = FOLDER_1.sub("", path, count=1) if isinstance(path, str) else ""
    return name if _BESIDE.fullmatch(name) else None


def product_source(file: str, description: str) -> dict[str, Any]:
    """Return the source of a sub-catalog whose file lies beside the catalog."""
    return {"description": description, "driver": _PRODUCT, "args": {"path": file}, "metadata": {}}


def check_entry(path: Path | str, name: Any, entry: Any, allowed_schemes: Collection[str]) -> Path | str:
    """Return where the data of an entry of the catalog at ``path`` are: in its folder, or at an allowed URL.

    Data of a catalog behind a URL are in its folder there. CatalogError if the entry asks for anything but data, or for
    data that the caller did not allow.
    """
    where = f"{path}: entry {name!r:.120}"
    url, rest = _checked(where, name, entry)
    scheme = _SCHEME.match(rest)
    if scheme:
        if rest is not url or scheme[1].lower() not in {allowed.lower() for allowed in allowed_schemes}:
            raise CatalogError(
                f"{where} points to {without_password(url)[:200]!r}; addresses with {scheme[1]}:// are opened only if "
                "allowed_schemes names it"
            )
        if re.search(r"[\s\x00-\x1f\x7f\\]", url):
            raise CatalogError(f"{where} points to an address with spaces or control characters")
        _check_options(where, scheme[1].lower(), entry["args"].get("storage_options"))
        return url
    if isinstance(path, str):
        return _beside(path, rest, where)
    if "storage_options" in entry["args"]:
        raise CatalogError(f"{where}: storage_options are for addresses, not for files in the catalog's folder")
    return _confined(path, rest, where)


def foreign(entry: Any) -> str:
    """Say why xland does not open an entry; empty if its driver is one of ours. Where it leads to is not looked at."""
    driver = entry.get("driver") if isinstance(entry, Mapping) else None
    args = entry.get("args") if isinstance(entry, Mapping) else None
    if not isinstance(driver, str) or driver not in DRIVERS:
        return f"its driver {driver!r:.120} is not one of ours"
    return "" if isinstance(args, Mapping) and isinstance(args.get("urlpath"), str) else "it names no store"


def relative_path(path: Path, store: Path) -> str:
    """Return where a store lies relative to the catalog, in a form that intake and web servers take as it is."""
    if _TEMPLATE.search(str(path.absolute())):
        raise CatalogError(
            f"the path of the catalog {path} looks like a template, which intake runs; rename the folder"
        )
    folder, target = path.absolute().parent.resolve(), store.absolute().resolve()
    if not target.is_relative_to(folder) or target == folder:
        raise CatalogError(
            f"{store} lies outside {folder}, the folder of the catalog; entries are relative to it, so that both can "
            "be moved together: write the store there, or put the catalog beside the store"
        )
    relative = target.relative_to(folder).as_posix()
    strange = sorted(set(_UNSERVABLE.findall(relative)))
    if strange or relative.startswith("~"):
        raise CatalogError(
            f"the path {relative!r} of the store holds {' '.join(map(repr, strange)) or '~'}, which intake and web "
            "servers take for templates, patterns or parts of an address; rename it"
        )
    return relative


def for_intake_2(name: Any, source: Any) -> dict[str, Any] | None:
    """Return a source as an entry of intake 2, which puts the folder of the catalog in the place of ``{CATALOG_DIR}``.

    None if it is not ours to translate.
    """
    file = product_file(source)
    if file is not None:
        return {
            "reader": "intake.readers.readers:YAMLCatalogReader",
            "kwargs": {"args": [f"{{data({product_token(name)})}}"]},
            "metadata": {"description": source.get("description") or name},
            "output_instance": "intake.readers.entry:Catalog",
            "user_parameters": {},
        }
    try:
        check_name(split_name(str(name))[0])
        url, rest = _checked(f"entry {name!r:.120}", name, source)
    except CatalogError:
        return None
    if "{" in rest or "}" in rest or rest.startswith(("/", "~")):
        return None
    args = {key: value for key, value in source["args"].items() if key != "urlpath"}
    if (args.get("xarray_kwargs") or {}).get("engine") == "netcdf4":
        # of earlier catalogs: intake 2 opens the file itself, and netcdf4 takes only its name
        args["xarray_kwargs"] = {**args["xarray_kwargs"], "engine": "h5netcdf"}
    return {
        "reader": _SOURCES[source["driver"]],
        "kwargs": {"urlpath": url if _SCHEME.match(rest) else "{CATALOG_DIR}/" + rest, **args},
        "metadata": {"description": source.get("description") or name},
        "output_instance": "xarray:Dataset",
        "user_parameters": {},
    }


def product_token(name: Any) -> str:
    """Return what the file of a sub-catalog is called among the data of intake 2."""
    return f"file-of-{name}"


def product_data(source: Any) -> dict[str, Any]:
    """Return the file of a sub-catalog as data of intake 2."""
    return {
        "datatype": "intake.readers.datatypes:YAMLFile",
        "kwargs": {"url": f"{{CATALOG_DIR}}/{product_file(source)}"},
        "metadata": {},
        "user_parameters": {},
    }


def for_intake_1(name: Any, source: Any) -> Any:
    """Return a source as intake 1 needs it: relative paths begin with the catalog's folder; others stay as they are."""
    try:
        url, rest = _checked(f"entry {name!r:.120}", name, source)
    except CatalogError:
        return source
    if _SCHEME.match(rest) or rest is not url or rest.startswith(("/", "~")):
        return source
    return {**source, "args": {**source["args"], "urlpath": "{{ CATALOG_DIR }}/" + rest}}


def without_folder(source: Any) -> Any:
    """Return a source as people and xland read it, without the template of intake 1."""
    key = "path" if product_file(source) else "urlpath"
    text = source["args"][key]
    return {**source, "args": {**source["args"], key: FOLDER_1.sub("", text, count=1)}} if "{{" in text else source


def _refuse_templates(value: Any, where: str) -> None:
    """Refuse text, anywhere in plain data, that intake would run as a template; the message says where it is."""
    if isinstance(value, str) and _TEMPLATE.search(value):
        raise CatalogError(
            f"{where} has a template, {value[:60]!r}, which intake would run; the only one allowed is "
            "{{ CATALOG_DIR }} at the start of urlpath. Change the text, or the attribute of the store that it "
            "comes from"
        )
    if isinstance(value, Mapping):
        for key, item in value.items():
            _refuse_templates(key, f"{where}: a key")
            _refuse_templates(item, f"{where}: {str(key)[:80]}")
    elif isinstance(value, list | tuple):
        for item in value:
            _refuse_templates(item, where)


def _checked(where: str, name: Any, entry: Any) -> tuple[str, str]:
    """Check all but where an entry leads to; return its urlpath, and that without the catalog's folder."""
    if not isinstance(name, str) or not isinstance(entry, Mapping):
        raise CatalogError(f"{where} is not a mapping")
    _check_types(where, entry, _ENTRY)
    driver, args = entry.get("driver"), entry.get("args")
    if not isinstance(driver, str) or driver not in DRIVERS:
        raise CatalogError(f"{where} asks for the driver {driver!r:.120}; only {', '.join(DRIVERS)} are opened")
    if not isinstance(args, Mapping) or not isinstance(args.get("urlpath"), str):
        raise CatalogError(f"{where} needs args with one urlpath")
    _check_types(where, args, DRIVERS[driver])
    _check_types(f"{where}, xarray_kwargs", args.get("xarray_kwargs") or {}, _KEYWORDS)
    url = args["urlpath"]
    rest = FOLDER_1.sub("", url, count=1) if FOLDER_1.match(url) else url
    content = {name: {**entry, "args": {**args, "urlpath": rest}}}
    if _IN_TEMPLATES.search(repr(content)):
        _refuse_templates(content, where)
    if "::" in rest or "*" in rest or "\0" in rest:
        raise CatalogError(f"{where}: {url[:200]!r} is a chained address or a pattern; one plain path is allowed")
    return url, rest


def _check_types(where: str, given: Mapping[str, Any], allowed: Mapping[str, Any]) -> None:
    """Refuse values that are not known, or of types that neither intake nor xarray could use."""
    strange = sorted(str(key) for key in given.keys() - allowed.keys())
    if strange:
        more = f" and {len(strange) - 5} more" if len(strange) > 5 else ""
        few = ", ".join(name[:80] for name in strange[:5])
        raise CatalogError(f"{where} has {few}{more}; only {', '.join(sorted(allowed))} are allowed")
    for key, value in given.items():
        if not fits(value, allowed[key]):
            raise CatalogError(f"{where}: {refusal(key, value, allowed[key])}")


def _check_options(where: str, scheme: str, options: Any) -> None:
    """Let a stranger choose no more than that a public bucket is read without an account."""
    if options in (None, {}) or (scheme in _BUCKETS and options in ({"anon": True}, {"anon": False})):
        return
    raise CatalogError(
        f"{where} gives storage_options; for {scheme}:// "
        + ("only anon: true is" if scheme in _BUCKETS else "none are")
        + " allowed, so that no catalog chooses headers, accounts or proxies. Give yours to fsspec (fsspec.config.conf)"
    )


def _beside(url: str, relative: str, where: str) -> str:
    """Return the URL of a store in the folder of a catalog that is behind a URL."""
    strange = _UNSERVABLE.search(relative) or relative.startswith(("/", "~"))
    if not relative or strange or {"..", "."} & {*relative.split("/")}:
        raise CatalogError(f"{where} points to {relative[:200]!r}, outside the catalog's folder")
    return f"{url.rpartition('/')[0]}/{relative}"


def _confined(path: Path, relative: str, where: str) -> Path:
    """Return the path of a store, having checked that it and all it holds stay in the catalog's folder."""
    shown = relative[:200]
    if not relative or Path(relative).is_absolute() or ".." in Path(relative).parts or relative.startswith("~"):
        raise CatalogError(f"{where} points to {shown!r}, outside the catalog's folder")
    folder = path.absolute().parent.resolve()
    target = folder / relative
    try:
        resolved = target.resolve()
        if not resolved.is_relative_to(folder) or resolved == folder:
            raise CatalogError(f"{where} points to {shown!r}, which leads out of the catalog's folder")
        survey(target)
    except (OSError, RuntimeError, StoreError) as error:  # RuntimeError for links that lead round in a circle
        if isinstance(error, CatalogError):
            raise
        raise CatalogError(f"{where} points to {shown!r}, which cannot be read: {error}"[:800]) from error
    return target
