"""A static STAC catalog beside one of intake: the same products, for clients and browsers of STAC.

``NAME-stac/catalog.json`` lists a collection for each product of the catalog, and that an item for each entry. Paths
are relative, so that the folder can be moved or served as it is. The extensions are datacube, xarray-assets, raster,
classification, projection and, where there is a DOI, scientific. Their schemas and that of STAC 1.1 are the source of
what is written here (https://stacspec.org, https://stac-extensions.github.io).

Entries of drivers that are not ours, and those without years or bounds, are left out: an item needs both.
"""

from __future__ import annotations

import glob
import json
import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from xland.catalogs.entry import Entry
from xland.catalogs.finding import publisher_of, read_entries
from xland.catalogs.rules import split_name
from xland.catalogs.yaml_files import CatalogFile, read_file
from xland.errors import CatalogError
from xland.outputs import OUTPUTS
from xland.paths import is_url, replace_file
from xland.vocabulary import CLASS_NAMES, CLASSES

VERSION = "1.1.0"
_EXTENSION = "https://stac-extensions.github.io/{}/schema.json"
_USED = ("datacube/v2.2.0", "xarray-assets/v1.0.0", "raster/v1.1.0", "classification/v2.0.0", "projection/v2.0.0")
_SPDX = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+-]*")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}(@[0-9]{1,9})?")
_MOST_YEARS = 1000  # listed one by one

Box = tuple[float, float, float, float]


def twin_of(path: Path) -> Path:
    """Return where the STAC twin of a catalog begins, if it has one; items lie in this folder and below."""
    return path.with_name(f"{path.stem}-stac") / "catalog.json"


def write_stac(path: Path, product: str | None = None, changed: Sequence[str] | None = None) -> Path:
    """Write the STAC twin of a catalog, and take out items of entries that are gone.

    Parameters
    ----------
    path : path
        YAML file on this machine.
    product : str, optional
        The only sub-catalog in which something changed; empty for the catalog itself. By default all are written.
    changed : sequence of str, optional
        The only entries that are not as before, by their names; by default all items are written.

    Returns
    -------
    Path
        ``NAME-stac/catalog.json`` beside it.

    Raises
    ------
    CatalogError
        If a file cannot be written.
    """
    root, twin = read_file(path), twin_of(path)
    ids = {inside: inside or path.stem for inside in ("", *root.products) if _NAME.fullmatch(inside or "none")}
    wanted = set(ids.values()) if product is None else {ids.get(product)}
    found: dict[str, list[Entry]] = {}
    for inside, each in ids.items():
        if each in wanted:
            found.setdefault(each, []).extend(filter(is_item, read_entries(root, inside)))
    bases = None if changed is None else {split_name(name)[0] for name in changed if _NAME.fullmatch(name)}
    for each, entries in found.items():
        _write_collection(twin.parent / each, root, entries, bases)
    for folder in twin.parent.glob("*/collection.json"):
        if folder.parent.name not in ids.values():
            _write_collection(folder.parent, root, [], None)
    there = [each for each in dict.fromkeys(ids.values()) if (twin.parent / each / "collection.json").exists()]
    links = [_link("root", "./catalog.json"), *(_link("child", f"./{each}/collection.json") for each in there)]
    said = {"type": "Catalog", "stac_version": VERSION, "id": path.stem}
    _write(twin, {**said, **_described(root.metadata, path.stem), "links": links})
    return twin


def _write_collection(folder: Path, root: CatalogFile, entries: Sequence[Entry], bases: Collection[str] | None) -> None:
    """Write a collection and its items, or those items whose names without a version are among ``bases``."""
    names = {entry.name for entry in entries}
    written = (folder / "items").glob("*.json") if bases is None else _items_of(folder / "items", bases)
    for item_file in written:
        if item_file.stem not in names:
            item_file.unlink(missing_ok=True)
    for entry in entries:
        if bases is None or entry.basename in bases:
            successor = next((name for name in (entry.superseded_by, entry.basename) if name in names), "")
            _write(folder / "items" / f"{entry.name}.json", item(entry, folder.name, successor))
    if entries:
        _write(folder / "collection.json", collection(root, folder.name, entries))
    else:
        (folder / "collection.json").unlink(missing_ok=True)


def _items_of(folder: Path, bases: Collection[str]) -> Iterator[Path]:
    """Yield the items of entries and of all their versions."""
    for base in bases:
        yield folder / f"{base}.json"
        yield from folder.glob(f"{glob.escape(base)}@*.json")


def is_item(entry: Entry) -> bool:
    """Whether STAC can show an entry: where and when it is has to be known."""
    named = all(_NAME.fullmatch(name) for name in (entry.name, entry.product or "none"))
    return named and not entry.foreign and bool(entry.years) and entry.bounds is not None


def item(entry: Entry, product: str, successor: str = "") -> dict[str, Any]:
    """Return an entry as an Item of a collection; ``successor`` is the item that a superseded one is replaced by."""
    if entry.bounds is None:
        raise CatalogError(f"the entry {entry.name} has no bounds, which a STAC item needs")
    box, geometry = place(entry.bounds)
    start, end = _times(entry)
    scientific = [_EXTENSION.format("scientific/v1.0.0")] if entry.doi else []
    properties = {
        "title": entry.title or entry.name,
        "description": entry.description or entry.title or entry.name,
        "datetime": None,
        "start_datetime": start,
        "end_datetime": end,
        "license": licence(entry.licence),
        "version": str(entry.version),
        "deprecated": bool(entry.superseded_by),
        **({"sci:doi": entry.doi} if entry.doi else {}),
        **({"xland:licences": entry.licence} if entry.licence and licence(entry.licence) == "other" else {}),
        **({"xland:model": entry.model} if entry.model else {}),
        **({"proj:code": str(entry.metadata["crs"])} if entry.metadata.get("crs") else {}),
        "cube:dimensions": _dimensions(entry),
        "cube:variables": {name: _variable(entry, name) for name in entry.variables},
    }
    links = [
        _link("root", "../../catalog.json"),
        _link("parent", "../collection.json"),
        _link("collection", "../collection.json"),
        *([_link("cite-as", f"https://doi.org/{entry.doi}", "text/html")] if entry.doi else []),
        *([_link("successor-version", f"./{successor}.json")] if entry.superseded_by and successor else []),
    ]
    return {
        "type": "Feature",
        "stac_version": VERSION,
        "stac_extensions": [*map(_EXTENSION.format, _USED), *scientific],
        "id": entry.name,
        "collection": product,
        "geometry": geometry,
        "bbox": box,
        "properties": properties,
        "links": links,
        "assets": _assets(entry),
    }


def collection(root: CatalogFile, product: str, entries: Sequence[Entry]) -> dict[str, Any]:
    """Return a product as a Collection, with the extent of all its items."""
    spans = [_times(entry) for entry in entries]
    licences = {licence(entry.licence) for entry in entries}
    publisher = publisher_of(root)
    links = [
        _link("root", "../catalog.json"),
        _link("parent", "../catalog.json"),
        *(_link("item", f"./items/{entry.name}.json", "application/geo+json") for entry in entries),
    ]
    provider = {"name": publisher.institution, "description": publisher.contact, "roles": ["producer", "host"]}
    return {
        "type": "Collection",
        "stac_version": VERSION,
        "id": product,
        **_described(root.metadata, product),
        "license": licences.pop() if len(licences) == 1 else "other",
        **({"providers": [{key: each for key, each in provider.items() if each}]} if publisher.institution else {}),
        "extent": {
            "spatial": {"bbox": [place(_union([entry.bounds for entry in entries if entry.bounds]))[0]]},
            "temporal": {"interval": [[min(start for start, _ in spans), max(end for _, end in spans)]]},
        },
        "links": links,
    }


def place(bounds: Box) -> tuple[list[float], dict[str, Any]]:
    """Return bounding box and geometry of bounds, as GeoJSON has them: divided at the date line.

    Parameters
    ----------
    bounds : (west, south, east, north)
        Degrees; east may be beyond 180.

    Returns
    -------
    list of float
        West is greater than east where the box crosses the date line (RFC 7946, section 5.2).
    dict
        A Polygon, or a MultiPolygon of one on each side of the date line.
    """
    west, south, east, north = _from_180_west(bounds)
    if east <= 180:
        return [west, south, east, north], {"type": "Polygon", "coordinates": [_ring(west, south, east, north)]}
    rest = round(east - 360, 8)
    parts = [[_ring(west, south, 180.0, north)], [_ring(-180.0, south, rest, north)]]
    return [west, south, rest, north], {"type": "MultiPolygon", "coordinates": parts}


def licence(text: str) -> str:
    """Return what STAC has for a licence: its SPDX name, or ``other``."""
    return text if _SPDX.fullmatch(text) else "other"


def _from_180_west(bounds: Box) -> Box:
    """Return bounds whose west is from -180 to below 180; those of the whole globe begin at -180."""
    west, south, east, north = bounds
    if east - west >= 360 - 1e-6:
        return -180.0, south, 180.0, north
    shift = 360 * math.floor((west + 180) / 360)
    return round(west - shift, 8), south, round(east - shift, 8), north


def _union(every: Sequence[Box]) -> Box:
    west, south, east, north = zip(*map(_from_180_west, every), strict=True)
    return min(west), min(south), max(east), max(north)


def _ring(west: float, south: float, east: float, north: float) -> list[list[float]]:
    return [[west, south], [east, south], [east, north], [west, north], [west, south]]


def _times(entry: Entry) -> tuple[str, str]:
    return f"{entry.years[0]:04d}-01-01T00:00:00Z", f"{entry.years[-1]:04d}-12-31T23:59:59Z"


def _names(entry: Entry) -> list[str]:
    """Return what the store calls time, latitude and longitude."""
    found = entry.metadata.get("dimensions")
    return [str(name) for name in found] if isinstance(found, list) and len(found) == 3 else ["time", "lat", "lon"]


def _dimensions(entry: Entry) -> dict[str, Any]:
    """Return the dimensions of an entry as the extension datacube has them."""
    time, lat, lon = _names(entry)
    west, south, east, north = entry.bounds or (-180.0, -90.0, 180.0, 90.0)
    said = entry.metadata.get("resolution_degrees")
    step = said if isinstance(said, int | float) else None
    regular = list(entry.years) == list(range(entry.years[0], entry.years[-1] + 1))
    spatial = {"type": "spatial", "reference_system": 4326, **({"step": step} if step else {})}
    found: dict[str, Any] = {
        time: {"type": "temporal", "extent": list(_times(entry)), "step": "P1Y" if regular else None},
        lat: {**spatial, "axis": "y", "extent": [south, north]},
        lon: {**spatial, "axis": "x", "extent": [west, east]},
    }
    if len(entry.years) <= _MOST_YEARS:
        found[time]["values"] = [f"{year:04d}-01-01T00:00:00Z" for year in entry.years]
    axes = {OUTPUTS[name].axis for name in entry.variables if name in OUTPUTS}
    if "class" in axes:
        found["class"] = {"type": "class", "values": list(_classes(entry))}
    if "draw" in axes:
        found["draw"] = {"type": "ordinal", "extent": [0, None]}
    return found


def _variable(entry: Entry, name: str) -> dict[str, Any]:
    """Return a variable as the extension datacube has it."""
    known = OUTPUTS.get(name)
    time, lat, lon = _names(entry)
    dims = [time, *([known.axis] if known and known.axis else []), lat, lon]
    return {"dimensions": dims, "type": "data", **({"description": known.long_name} if known else {})}


def _classes(entry: Entry) -> Mapping[int, str]:
    found = entry.metadata.get("classes")
    known = found if isinstance(found, Mapping) and all(isinstance(code, int) for code in found) else {}
    return {code: str(name) for code, name in known.items()} or dict(enumerate(CLASS_NAMES))


def _band(entry: Entry, name: str) -> dict[str, Any]:
    """Return a variable as a band: how its values are stored, and what its codes mean."""
    known = OUTPUTS.get(name)
    band: dict[str, Any] = {"name": name, **({"description": known.long_name} if known else {})}
    if known:
        band |= {"data_type": str(known.encoding.get("dtype", known.dtype)), "sampling": "area"}
        renamed = {"scale_factor": "scale", "add_offset": "offset", "_FillValue": "nodata"}
        band |= {renamed[key]: each for key, each in known.encoding.items() if key in renamed}
    if name in ("land_use", "land_use_draws"):
        colors = {each.name: each.color.lstrip("#").upper() for each in CLASSES}
        band["classification:classes"] = [
            {
                "value": code,
                "name": each,
                "description": each,
                **({"color_hint": colors[each]} if each in colors else {}),
            }
            for code, each in _classes(entry).items()
        ]
    return band


def _assets(entry: Entry) -> dict[str, Any]:
    """Return where store, picture and report are, seen from the item."""
    zarr = entry.driver == "zarr"
    data: dict[str, Any] = {
        "href": _href(entry.store),
        "type": "application/vnd.zarr" if zarr else "application/netcdf",
        "title": entry.title or entry.name,
        "roles": ["data"],
        "xarray:open_kwargs": {"engine": "zarr" if zarr else "h5netcdf", "chunks": {}},
        "raster:bands": [_band(entry, name) for name in entry.variables] or [{"sampling": "area"}],
        **({"xland:digest": entry.digest} if entry.digest else {}),
    }
    found = {"data": data}
    if entry.preview:
        found["thumbnail"] = {"href": _href(entry.preview), "type": "image/png", "roles": ["thumbnail"]}
    if entry.report:
        found["report"] = {"href": _href(entry.report), "type": "text/html", "roles": ["metadata"]}
    return found


def _href(path: str) -> str:
    return path if is_url(path) else f"../../../{path}"


def _link(relation: str, href: str, kind: str = "application/json") -> dict[str, str]:
    return {"rel": relation, "href": href, "type": kind}


def _described(metadata: Mapping[str, Any], name: str) -> dict[str, str]:
    title = str(metadata.get("title") or name)
    return {"title": title, "description": str(metadata.get("summary") or metadata.get("description") or title)}


def _write(path: Path, content: Mapping[str, Any]) -> None:
    text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
    if not path.is_file() or path.read_text() != text:
        replace_file(path, text, error=CatalogError)
