"""What a product says about itself: CF-1.11 and ACDD-1.3 attributes, and where it came from."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from xland.errors import GridError, TimeError
from xland.geo.conventions import attach_crs, for_files, listed, years_of
from xland.geo.orientation import find_role, find_scalars
from xland.outputs import OUTPUTS

PACKAGES = ("xland", "xarray", "dask", "zarr", "numpy", "torch")
"""Packages whose versions a product names."""

_COVERAGE = ("geospatial_", "time_coverage_")
"""How the names of attributes begin that say which part of the world and which years there are."""

_TITLE = re.compile(r"(Land use(?: on \S+ degree)?)(?:, [-0-9,. ]+)?")
"""Titles of those who gave none, which name the years."""

_COORDINATES: Mapping[str, Mapping[str, str]] = {
    "latitude": {"standard_name": "latitude", "long_name": "latitude", "units": "degrees_north", "axis": "Y"},
    "longitude": {"standard_name": "longitude", "long_name": "longitude", "units": "degrees_east", "axis": "X"},
}


def package_versions() -> dict[str, str]:
    """Versions of the packages that made a product, without importing them."""
    found = {}
    for package in PACKAGES:
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def describe_product(
    ds: xr.Dataset,
    *,
    title: str | None = None,
    summary: str | None = None,
    source: str | None = None,
    model: Mapping[str, Any] | None = None,
    inputs: Mapping[str, str] | None = None,
    licence: str | None = None,
    creator: str | None = None,
    command: str | None = None,
    when: datetime | None = None,
) -> xr.Dataset:
    """Return the Dataset with the attributes that CF-1.11 and ACDD-1.3 ask for, and its provenance.

    Nothing is read or computed. Attributes that the Dataset has already stay unless a value is given.

    Parameters
    ----------
    ds : Dataset
        ``land_use`` and others over time (calendar years or dates), latitude and longitude (cell centres in degrees).
    title, summary, source : str, optional
        What it is, in a line and in a few; what it was made from.
    model : mapping, optional
        Of the model card: ``name``, ``sha256``, and ``licence`` or ``license``.
    inputs : mapping of name to digest, optional
        SHA-256 (or any identity) of each input.
    licence : str, optional
        SPDX name of the licence of the product; by default that of the model.
    creator : str, optional
        Person or institution.
    command : str, optional
        The call that made it, for the history.
    when : datetime, optional
        Time of creation; by default ``SOURCE_DATE_EPOCH`` if that is set, or now.

    Returns
    -------
    Dataset
        Same data, new attributes.
    """
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    now = datetime.fromtimestamp(int(epoch), UTC) if epoch else datetime.now(UTC)
    stamp = (when or now).astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    ds = for_files(_describe_variables(ds))
    lat, lon = find_role(ds, "latitude"), find_role(ds, "longitude")
    if lat is not None and lon is not None:
        ds = attach_crs(ds, (lat.dimension, lon.dimension))
    model = model or {}
    licence = licence or model.get("licence") or model.get("license")
    line = f"{stamp}: {command or 'made with xland'}"
    step = _resolution(ds)
    given = {
        "title": title,
        "summary": summary,
        "source": source,
        "license": licence,
        "creator_name": creator,
        "xland_model": model.get("name"),
        "xland_model_sha256": model.get("sha256"),
        "xland_inputs": json.dumps(dict(sorted(inputs.items()))) if inputs else None,
    }
    defaults = {
        "title": _dated("Land use" if step is None else f"Land use on {round(step, 6):g} degree", ds),
        "source": f"xland model {model['name']}" if model.get("name") else None,
        "keywords": "land use, land cover, downscaling",
    }
    fixed = {
        "Conventions": "CF-1.11, ACDD-1.3",
        "history": "\n".join(part for part in (ds.attrs.get("history"), line) if part),
        "date_created": stamp,
        "xland_versions": json.dumps(package_versions()),
        **_extent(ds),
    }
    attributes = {**{k: v for k, v in defaults.items() if v is not None}, **ds.attrs}
    attributes.update({k: v for k, v in given.items() if v is not None})
    return ds.assign_attrs(attributes | fixed)


def for_storage(ds: xr.Dataset) -> xr.Dataset:
    """Bring a Dataset into the form of files; products that were selected or joined say what they cover now."""
    ds = for_files(ds)
    if "xland_versions" not in ds.attrs:
        return ds
    kept = {name: value for name, value in ds.attrs.items() if not str(name).startswith(_COVERAGE)}
    titled = _TITLE.fullmatch(str(kept.get("title", "")))
    if titled:
        kept["title"] = _dated(titled[1], ds)
    return ds.drop_attrs(deep=False).assign_attrs(kept | _extent(ds))


def bounds(ds: xr.Dataset) -> tuple[float, float, float, float] | None:
    """West, south, east and north edge in degrees, from the cell centres; None if they are not there.

    East is beyond 180 (or 360) for a region that crosses the end of its range of longitude.
    """
    found = _centres(ds)
    if found is None:
        return None
    lat, lon = found
    step = next((abs(float(each[1] - each[0])) for each in found if each.ndim == 1 < each.size), 0.0)
    lon = np.sort(lon.ravel())
    gaps = np.flatnonzero(np.diff(lon) > 1.5 * step)
    if gaps.size == 1 and abs(lon[0] + 360 - lon[-1] - step) < 0.1 * step:
        # the columns of the region are at both ends of a range of 360 degrees
        cut = int(gaps[0]) + 1
        lon = np.concatenate([lon[cut:], lon[:cut] + 360])
    edges = (lon.min() - step / 2, lat.min() - step / 2, lon.max() + step / 2, lat.max() + step / 2)
    west, south, east, north = (round(float(edge), 8) + 0.0 for edge in edges)
    return west, max(south, -90.0), east, min(north, 90.0)


def years(ds: xr.Dataset) -> list[int]:
    """Calendar years of a Dataset in ascending order; none if it does not say them."""
    try:
        return sorted(set(years_of(ds, what="maps") or ()))
    except (TimeError, GridError):
        return []


def _centres(ds: xr.Dataset) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """Latitudes and longitudes of the cell centres, or of a single cell; None if they are not there."""
    found = []
    for kind in ("latitude", "longitude"):
        names = find_role(ds, kind)
        name = names.coordinate if names is not None else next(iter(find_scalars(ds, kind)), None)
        if name is None or not ds[name].size:
            return None
        found.append(np.atleast_1d(np.asarray(ds[name].values, dtype=float)))
    return found[0], found[1]


def _describe_variables(ds: xr.Dataset) -> xr.Dataset:
    ds = ds.copy()
    for kind, attributes in _COORDINATES.items():
        names = find_role(ds, kind)
        if names is not None and names.coordinate is not None:
            ds[names.coordinate].attrs = {**ds[names.coordinate].attrs, **attributes}
    for name in map(str, ds.data_vars):
        known = OUTPUTS[name].attributes_for() if name in OUTPUTS else {}
        defaults = {key: known[key] for key in known if key not in ("valid_range", "coverage_content_type")}
        ds[name].attrs = {**defaults, **ds[name].attrs}
    others = [name for name in OUTPUTS if name in ds and name != "land_use"]
    if "land_use" in ds and others:
        ds["land_use"].attrs["ancillary_variables"] = " ".join(others)
    return ds


def _extent(ds: xr.Dataset) -> dict[str, Any]:
    found: dict[str, Any] = {}
    edges = bounds(ds)
    if edges is not None:
        west, south, east, north = edges
        found = {
            "geospatial_lat_min": south,
            "geospatial_lat_max": north,
            "geospatial_lat_units": "degrees_north",
            "geospatial_lon_min": west,
            "geospatial_lon_max": east,
            "geospatial_lon_units": "degrees_east",
            "geospatial_bounds_crs": "EPSG:4326",
        }
        if (step := _resolution(ds)) is not None:
            found |= {"geospatial_lat_resolution": step, "geospatial_lon_resolution": step}
    covered = years(ds)
    if covered:
        found |= {
            "time_coverage_start": f"{covered[0]:04d}-01-01",
            "time_coverage_end": f"{covered[-1]:04d}-12-31",
            "time_coverage_resolution": "P1Y",
        }
    return found


def _dated(title: str, ds: xr.Dataset) -> str:
    return f"{title}, {listed(covered)}" if (covered := years(ds)) else title


def _resolution(ds: xr.Dataset) -> float | None:
    centres = _centres(ds)
    return None if centres is None or centres[0].size < 2 else round(abs(float(centres[0][1] - centres[0][0])), 10)
