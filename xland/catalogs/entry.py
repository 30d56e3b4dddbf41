"""What an entry of a catalog says of its store."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

import numpy as np
import xarray as xr

from xland.catalogs.rules import FOLDER_1, foreign, split_name
from xland.geo.orientation import find_dimension
from xland.store.provenance import bounds, years
from xland.untrusted.plain_yaml import render
from xland.vocabulary import CLASS_NAMES

_TEXTS = ("title", "model", "scenario", "licence", "doi", "digest", "report", "preview", "superseded_by")


@dataclass(frozen=True)
class Entry:
    """One entry of a catalog; what it does not say is empty.

    Parameters
    ----------
    name : str
        Name in the catalog; of a superseded version ``NAME@1``.
    store : str
        Where its store lies: relative to the folder of the catalog, or a URL.
    driver : str
        ``zarr`` or ``netcdf``; another one is foreign.
    version : int
        Number of the version, from 1.
    title, description, model, scenario, doi, digest : str
        As the catalog says them; ``digest`` is the SHA-256 of the store.
    product : str
        Sub-catalog that it is in; empty if it is in the catalog itself.
    years : tuple of int
        Calendar years, in ascending order.
    bounds : tuple of float, optional
        West, south, east, north edge in degrees; east may be beyond 180.
    variables : tuple of str
        Names of the variables.
    licence : str
        SPDX expression, or URL, or the licences of the inputs in words.
    report, preview : str
        A page and a picture, relative to the folder of the catalog.
    superseded_by : str
        Name of the entry that replaced it; empty for the latest version.
    foreign : str
        Why xland cannot open it; empty if it can.
    metadata : mapping
        All that the catalog says of it.
    """

    name: str
    store: str
    driver: str = "zarr"
    version: int = 1
    title: str = ""
    description: str = ""
    product: str = ""
    years: tuple[int, ...] = ()
    bounds: tuple[float, float, float, float] | None = None
    variables: tuple[str, ...] = ()
    model: str = ""
    scenario: str = ""
    licence: str = ""
    doi: str = ""
    digest: str = ""
    report: str = ""
    preview: str = ""
    superseded_by: str = ""
    foreign: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def text(self) -> str:
        """All that the catalog says of it, as YAML."""
        said = {"store": self.store, "driver": self.driver, "description": self.description, "product": self.product}
        return render({self.name: {key: each for key, each in said.items() if each} | dict(self.metadata)}, self.name)

    @property
    def basename(self) -> str:
        """Its name without a version."""
        return split_name(self.name)[0]


def entry_of(name: Any, source: Any, product: str = "") -> Entry:
    """Return what a catalog says of an entry; what is of another form than ours is left out."""
    source = source if isinstance(source, Mapping) else {}
    given: Any = source.get("metadata")
    metadata: Mapping[str, Any] = given if isinstance(given, Mapping) else {}
    args: Any = source.get("args") if isinstance(source.get("args"), Mapping) else {}
    said = {key: text for key in _TEXTS if isinstance(text := metadata.get(key), str)}
    edges = metadata.get("bounds")
    edges = edges if isinstance(edges, list) and len(edges) == 4 and all(map(_is_number, edges)) else None
    return Entry(
        name=str(name),
        store=FOLDER_1.sub("", str(args.get("urlpath", "")), count=1),
        driver=str(source.get("driver", "")),
        version=version_of(source),
        description=str(source.get("description") or ""),
        product=product,
        years=tuple(each for each in _list(metadata.get("years")) if isinstance(each, int)),
        bounds=None if edges is None else tuple(map(float, edges)),  # type: ignore[arg-type]
        variables=tuple(map(str, _list(metadata.get("variables")))),
        foreign=foreign(source),
        metadata=metadata,
        **said,
    )


def version_of(source: Any) -> int:
    """Return the number of the version that an entry is of."""
    metadata = source.get("metadata") if isinstance(source, Mapping) else None
    number = metadata.get("version") if isinstance(metadata, Mapping) else None
    return number if isinstance(number, int) and not isinstance(number, bool) and 0 < number < 10**6 else 1


def metadata_of(ds: xr.Dataset) -> dict[str, Any]:
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
        "dimensions": _dimensions(ds),
        "resolution_degrees": attributes.get("geospatial_lat_resolution"),
        "model": attributes.get("xland_model"),
        "model_sha256": attributes.get("xland_model_sha256"),
        "licence": attributes.get("license"),
        **{key: attributes.get(key) for key in ("institution", "contact", "project", "references")},
        "creator": attributes.get("creator_name"),
        "scenario": attributes.get("scenario") or attributes.get("experiment_id"),
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
    return plain({key: value for key, value in found.items() if value is not None})


def _dimensions(ds: xr.Dataset) -> list[str] | None:
    """Return what a store calls time, latitude and longitude, if it has all of them."""
    found = [find_dimension(ds, kind) for kind in ("time", "latitude", "longitude")]
    return None if None in found else list(map(str, found))


def plain(value: Any) -> Any:
    """Turn what attributes and callers give into what the safe writer knows."""
    if isinstance(value, Mapping):
        return {plain(key): plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    return value if value is None or isinstance(value, str | int | float | bool) else str(value)


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def as_table(head: list[str], rows: list[list[str]]) -> str:
    """Return rows below their heads, in columns; empty columns are left out."""
    rows = [[" ".join(cell.split()) for cell in row] for row in rows]
    wanted = [place for place in range(len(head)) if any(row[place] for row in rows)] if rows else range(len(head))
    widths = [max(len(row[place]) for row in [head, *rows]) for place in wanted]
    lines = ("  ".join(row[p].ljust(w) for p, w in zip(wanted, widths, strict=True)).rstrip() for row in [head, *rows])
    return "\n".join(lines)
