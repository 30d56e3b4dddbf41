"""The page of a catalog, and the pictures that it shows.

Pictures are drawn when a store is published, and lie beside the catalog. The page contains them, so that it can be sent
and moved alone; it has no script. What a catalog says may come from strangers: it is text on the page, pictures are
read from the folder of the catalog alone, and links lead into it or to the web.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from xland.catalogs.entry import Entry, entry_of
from xland.catalogs.finding import publisher_of, read_products
from xland.catalogs.rules import split_name
from xland.catalogs.stac import licence, twin_of
from xland.catalogs.yaml_files import read_file
from xland.errors import CatalogError, GridError, XlandError
from xland.geo.conventions import listed
from xland.geo.grid import Grid
from xland.geo.orientation import find_dimension, orient
from xland.outputs import OUTPUTS
from xland.pages import render
from xland.paths import is_url, replace_file
from xland.plot import degrees, indexed_png, stretch, stride
from xland.untrusted.folders import open_plain
from xland.vocabulary import CLASS_NAMES, CLASSES

MOST = 500
"""Entries that the page shows; a larger page would be slow to open, and to write with each publication."""

PIXELS = 80_000
"""Cells of a picture at most."""

_LARGEST = 2**18  # bytes of a picture
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_DOI = re.compile(r"10\.\d{4,9}/[^\s\"<>]+")
_CLEAR = "#00000000"


def page_of(path: Path) -> Path:
    """Return where the page of a catalog is, if it has one."""
    return path.with_suffix(".html")


def write_page(path: Path) -> Path:
    """Write the page of a catalog.

    Of a large catalog no more is read than the page shows, and the names of the others.

    Parameters
    ----------
    path : path
        YAML file on this machine.

    Returns
    -------
    Path
        ``NAME.html`` beside it. It shows at most 500 entries, and says how many there are.
    """
    root, folder = read_file(path), path.parent.resolve()
    metadata, publisher, twin = root.metadata, publisher_of(root), twin_of(path)
    products: dict[str, list[dict[str, Any]]] = {}
    others, years, count, shown = [], set[int](), 0, 0
    for product, file in read_products(root):
        if shown == MOST:
            count += sum(not split_name(str(name))[1] for name in file.names)
            continue
        entries = [entry_of(name, file.sources[name], product) for name in file.names]
        others += [entry for entry in entries if entry.foreign]
        earlier: dict[str, list[Entry]] = {}
        for entry in entries:
            if entry.superseded_by:
                earlier.setdefault(entry.basename, []).append(entry)
        latest = [entry for entry in entries if not entry.superseded_by and not entry.foreign]
        cards = [_card(folder, entry, earlier.get(entry.basename, [])) for entry in latest[: MOST - shown]]
        products |= {product: cards} if cards else {}
        years.update(*(entry.years for entry in latest))
        count, shown = count + len(latest), shown + len(cards)
    page = render(
        "catalog.html.j2",
        title=str(metadata.get("title") or path.stem),
        summary=str(metadata.get("summary") or metadata.get("description") or ""),
        publisher=publisher,
        contact_link=_mail(publisher.contact),
        count=count,
        left_out=count - shown,
        years=listed(sorted(years)) if count == shown else "",
        products=products,
        foreign=others,
        catalog=path.name,
        stac=f"{twin.parent.name}/{twin.name}" if twin.exists() else "",
        legend=[(each.color, each.long_name) for each in CLASSES],
        when=f"{datetime.now(UTC):%Y-%m-%d}",
    )
    return replace_file(page_of(path), page, error=CatalogError)


def write_preview(ds: xr.Dataset, picture: Path) -> Path | None:
    """Draw the last map of a store that is published: its classes, or else its first variable, from dark to bright.

    Every n-th cell is read, so that codes are never mixed. None if it has no map to draw.
    """
    names = ["land_use", *(name for name in ds.data_vars if name != "land_use")]
    for name in names:
        if name in ds and find_dimension(ds[name], "latitude") is not None:
            with suppress(GridError):
                return replace_file(picture, _drawn(ds[name]), error=CatalogError)
    return None


def _drawn(array: xr.DataArray) -> bytes:
    array, _ = orient(array, what="maps")
    array = array.isel({dim: -1 if dim == "time" else 0 for dim in array.dims if dim not in ("lat", "lon")}, drop=True)
    grid = Grid.from_centres(array["lat"].values, array["lon"].values)
    step = stride(grid, PIXELS)
    values = array.isel({dim: slice(min(step // 2, array.sizes[dim] - 1), None, step) for dim in ("lat", "lon")}).values
    if array.name == "land_use":
        known = np.isfinite(values) & (values >= 0) & (values < len(CLASSES))
        indices = np.where(known, values, len(CLASSES)).astype(np.uint8)
        return indexed_png(_square(indices, grid), [*(each.color for each in CLASSES), _CLEAR])
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    known = np.isfinite(values)
    lower, upper = (values[known].min(), values[known].max()) if known.any() else (0.0, 1.0)
    share = (np.where(known, values, lower) - lower) / max(upper - lower, 1e-12)
    indices = np.where(known, np.round(share * 63), 64).astype(np.uint8)
    colors = [to_hex(color) for color in colormaps["cividis"](np.linspace(0, 1, 64))]
    return indexed_png(_square(indices, grid), [*colors, _CLEAR])


def _square(indices: np.ndarray[Any, np.dtype[np.uint8]], grid: Grid) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Repeat rows of a map far from the equator, where a degree of longitude is shorter."""
    rows = len(indices)
    return indices[np.minimum((np.arange(round(rows * stretch(grid))) / stretch(grid)).astype(int), rows - 1)]


def _card(folder: Path, entry: Entry, earlier: Sequence[Entry]) -> dict[str, Any]:
    """Return what the page shows of an entry."""
    outputs = [OUTPUTS[name].long_name if name in OUTPUTS else name for name in entry.variables]
    step, number = entry.metadata.get("resolution_degrees"), entry.version
    cells = f"{step:g}°" if isinstance(step, int | float) else ""
    classes = entry.metadata.get("classes")
    facts = {
        "Years": listed(entry.years),
        "Area": area(entry.bounds),
        "Cells": cells,
        "Variables": ", ".join(outputs),
        "Model": entry.model,
        "Scenario": entry.scenario,
        "Version": f"{number}, {entry.metadata.get('date', '')}".rstrip(", ") if number > 1 else "",
    }
    return {
        "entry": entry,
        "title": entry.title or entry.name,
        "text": entry.description if entry.description not in (entry.title, entry.name) else "",
        "picture": read_picture(folder, entry.preview),
        "alt": f"Map of {entry.title or entry.name}",
        "facts": {name: text for name, text in facts.items() if text},
        "licence_link": _licence_link(entry.licence),
        "doi": entry.doi if _DOI.fullmatch(entry.doi) else "",
        "report": link(entry.report),
        "store": link(entry.store),
        "earlier": list(reversed(earlier)),
        "own_classes": isinstance(classes, Mapping) and list(classes.values()) != list(CLASS_NAMES),
    }


def area(bounds: tuple[float, float, float, float] | None) -> str:
    """Return the edges of a region in words."""
    if bounds is None:
        return ""
    west, south, east, north = bounds
    if east - west >= 360 and north - south >= 180:
        return "the globe"
    west, east = (each if each <= 180 else each - 360 for each in (west, east))
    return (
        f"{degrees(south, 'N', 'S')} to {degrees(north, 'N', 'S')}, {degrees(west, 'E', 'W')} to "
        f"{degrees(east, 'E', 'W')}"
    )


def read_picture(folder: Path, name: str) -> str:
    """Return a picture of the folder of a catalog, which is not a link, as a data URL; nothing for what is not one."""
    if not name or is_url(name):
        return ""
    with suppress(OSError, ValueError, XlandError):
        path = (folder / name).resolve()
        if path.is_relative_to(folder) and path.stat().st_size <= _LARGEST:
            with open_plain(path) as stream:
                content = stream.read(_LARGEST)
            if content.startswith(_SIGNATURE):
                return "data:image/png;base64," + base64.b64encode(content).decode("ascii")
    return ""


def link(target: str) -> str:
    """Return where a page may lead: into the folder of the catalog, or to the web; nothing if it is neither."""
    if is_url(target):
        return target if re.match(r"https?://", target, re.IGNORECASE) else ""
    inside = target and not target.startswith(("/", "\\")) and ":" not in target and ".." not in target.split("/")
    return target if inside else ""


def _licence_link(text: str) -> str:
    if is_url(text):
        return link(text)
    known = licence(text) != "other" and not text.startswith("Lic")
    return f"https://spdx.org/licenses/{text}.html" if known else ""


def _mail(contact: str) -> str:
    found = re.search(r"[\w.+-]+@[\w-]+(\.[\w-]+)+", contact)
    return f"mailto:{found[0]}" if found else link(contact) if is_url(contact) else ""
