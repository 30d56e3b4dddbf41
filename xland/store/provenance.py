"""What a product says about itself (CF-1.11 and ACDD-1.3 attributes), who publishes it, and what tells inputs apart.

Inputs are told apart without reading them. Values in memory are known by a digest of themselves. What lies in a file
and was not read yet is known by the file, its size and time of change, and by what was chosen of it. The same holds for
the names that dask gives to such data, which ``chunk`` would otherwise draw at random for NetCDF files: importing this
module teaches dask. What neither says is new each time, so two inputs are never taken for one.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import xarray as xr
from dask.base import normalize_token, tokenize
from dask.tokenize import normalize_object
from xarray.core.indexing import ExplicitIndexer, ExplicitlyIndexed

from xland.errors import ConfigurationError, GridError, TimeError
from xland.geo.conventions import attach_crs, for_files, listed, years_of
from xland.geo.orientation import find_role, find_scalars
from xland.outputs import OUTPUTS
from xland.paths import local_path
from xland.records import Limits, check_entries, read_record, read_toml

_PACKAGES = ("xland", "xarray", "dask", "zarr", "numpy", "torch")
_COVERAGE = ("geospatial_", "time_coverage_")  # how attributes begin that say which region and years there are
_TITLE = re.compile(r"(Land use(?: on \S+ degree)?)(?:, [-0-9,. ]+)?")  # by default
_COORDINATES: Mapping[str, Mapping[str, str]] = {
    "latitude": {"standard_name": "latitude", "long_name": "latitude", "units": "degrees_north", "axis": "Y"},
    "longitude": {"standard_name": "longitude", "long_name": "longitude", "units": "degrees_east", "axis": "X"},
}
_UNSTATED = "not stated"
_LONGEST = 500  # characters of what an input says of itself
_ROOTS = ("zarr.json", ".zarray", ".zmetadata", ".zgroup")

Text = Annotated[str, Limits(most=1000)]

_DOI = re.compile(r"10\.\d{4,9}/\S+")
_URL = re.compile(r"https?://\S+")
_CALLED = {"licence": "license", "creator": "creator_name", "publisher": "publisher_name", "doi": "id"}
"""Attributes of CF and ACDD that are not called as the entries."""

_LARGEST_PUBLISHER = 2**16


@dataclass(frozen=True)
class Publisher:
    """What maps, stores and catalogs say of whoever publishes them; entries that are left out are not said.

    Parameters
    ----------
    licence : str
        Licence of the maps: an SPDX expression such as ``CC-BY-4.0``, or a URL. Without it, they list the licences of
        their inputs.
    institution : str
        Name of the institution.
    contact : str
        Whom to ask: a name, an address of mail, or both.
    doi : str
        DOI of the maps, such as ``10.5281/zenodo.1234567``.
    creator, creator_email, creator_url : str
        Who made them.
    publisher, publisher_email, publisher_url : str
        Who publishes them; by default the institution.
    project, references, acknowledgement, comment : str
        Project, publications to cite, thanks, and what else users should know.
    naming_authority : str
        Domain whose names the maps have, such as ``org.institute``, if they have no DOI.
    """

    licence: Text = ""
    institution: Text = ""
    contact: Text = ""
    doi: Text = ""
    creator: Text = ""
    creator_email: Text = ""
    creator_url: Text = ""
    publisher: Text = ""
    publisher_email: Text = ""
    publisher_url: Text = ""
    project: Text = ""
    references: Text = ""
    acknowledgement: Text = ""
    comment: Text = ""
    naming_authority: Text = ""

    def __post_init__(self) -> None:
        check_entries(self, ConfigurationError)
        if self.doi and not _DOI.fullmatch(self.doi):
            raise ConfigurationError(f"doi {self.doi!r} is not a DOI: give it as 10.5281/zenodo.1234567, without a URL")
        if self.licence:
            check_licence(self.licence)

    @property
    def attributes(self) -> dict[str, str]:
        """Attributes of a Dataset, as CF and ACDD name them."""
        given = asdict(self)
        given["publisher"] = given["publisher"] or (self.institution if self.publisher_email else "")
        given["naming_authority"] = "org.doi" if self.doi else self.naming_authority
        return {_CALLED.get(name, name): text for name, text in given.items() if text}


PUBLISHED = tuple(_CALLED.get(each.name, each.name) for each in fields(Publisher))
"""Attributes that a publisher sets."""


def check_licence(licence: str) -> None:
    """Refuse a licence that is neither a URL nor an expression of SPDX identifiers; ConfigurationError names it."""
    from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression

    if _URL.fullmatch(licence):
        return
    try:
        canonicalize_license_expression(licence)
    except (InvalidLicenseExpression, ValueError):
        dashed = "-".join(licence.split())
        try:
            near = f": did you mean {canonicalize_license_expression(dashed)!r}?"
        except (InvalidLicenseExpression, ValueError):
            near = ": give one of https://spdx.org/licenses, such as CC-BY-4.0, LicenseRef-NAME, or a URL"
        raise ConfigurationError(f"licence {licence!r} is not an SPDX identifier{near}") from None


def read_publisher(path: str | os.PathLike[str] | None = None) -> Publisher:
    """Read a publisher's settings, by default those of the user.

    Parameters
    ----------
    path : path, optional
        A TOML file; by default ``publisher.toml`` in the user's folder of settings for xland, ``~/.config/xland`` on
        Linux. If that does not exist, nothing is set.

    Returns
    -------
    Publisher

    Raises
    ------
    ConfigurationError
        If the file does not exist, cannot be read, or has unknown or wrong entries.
    """
    from platformdirs import user_config_path

    file = user_config_path("xland") / "publisher.toml" if path is None else local_path(path, what="a publisher's file")
    if path is None and not file.is_file():
        return Publisher()
    return read_record(
        Publisher, read_toml(file, _LARGEST_PUBLISHER, ConfigurationError), str(file), ConfigurationError
    )


def describe_product(
    ds: xr.Dataset,
    *,
    title: str | None = None,
    summary: str | None = None,
    source: str | None = None,
    model: Mapping[str, Any] | None = None,
    inputs: Mapping[str, str] | None = None,
    licences: Sequence[Mapping[str, str]] = (),
    publisher: Publisher | None = None,
    licence: str | None = None,
    creator: str | None = None,
    command: str | None = None,
    when: datetime | None = None,
    extent: bool = True,
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
    licences : sequence of mapping
        Table of the inputs and their licences, see :func:`list_licences`.
    publisher : Publisher, optional
        Who publishes the product.
    licence : str, optional
        SPDX name of the licence of the product; by default that of the publisher, those of the inputs, or that of the
        model.
    creator : str, optional
        Person or institution.
    command : str, optional
        The call that made it, for the history.
    when : datetime, optional
        Time of creation; by default ``SOURCE_DATE_EPOCH`` if that is set, or now.
    extent : bool
        Say which region and years there are. What may still be selected says so when it is written.

    Returns
    -------
    Dataset
        Same data, new attributes.
    """
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    now = datetime.fromtimestamp(int(epoch), UTC) if epoch else datetime.now(UTC)
    stamp = (when or now).astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    ds, dimensions = ds.copy(), []
    for kind, attributes in _COORDINATES.items():
        if (names := find_role(ds, kind)) is not None:
            dimensions.append(names.dimension)
            if names.coordinate is not None:
                ds[names.coordinate].attrs = {**ds[names.coordinate].attrs, **attributes}
    for name in map(str, ds.data_vars):
        known = OUTPUTS[name].attributes_for() if name in OUTPUTS else {}
        known = {key: known[key] for key in known if key not in ("valid_range", "coverage_content_type")}
        ds[name].attrs = {**known, **ds[name].attrs}
    others = [name for name in OUTPUTS if name in ds and name != "land_use"]
    if "land_use" in ds and others:
        ds["land_use"].attrs["ancillary_variables"] = " ".join(others)
    ds = for_files(ds)
    if len(dimensions) == 2:
        ds = attach_crs(ds, (dimensions[0], dimensions[1]))
    model, covered, dates = model or {}, *_extent(ds)
    step = covered.get("geospatial_lat_resolution")
    covered, dates = (covered, dates) if extent else ({}, "")
    versions = {}
    for package in _PACKAGES:
        with suppress(PackageNotFoundError):
            versions[package] = version(package)
    by_input: dict[str, dict[str, None]] = {}  # as in "model luh2-0p05: Apache-2.0; static: MIT / CC BY 4.0"
    for row in licences:
        by_input.setdefault(row["input"], {})[row["license"].replace("; ", ", ")] = None
    given = {
        "title": title,
        "summary": summary,
        "source": source,
        "license": "; ".join(f"{name}: {' / '.join(each)}" for name, each in by_input.items())
        or model.get("licence")
        or model.get("license"),
        **({} if publisher is None else publisher.attributes),
        **({"license": licence} if licence else {}),
        "creator_name": creator,
        "xland_model": model.get("name"),
        "xland_model_sha256": model.get("sha256"),
        "xland_inputs": json.dumps(dict(sorted(inputs.items()))) if inputs else None,
        "xland_licences": json.dumps(list(licences), ensure_ascii=False) if licences else None,
    }
    defaults = {
        "title": ("Land use" if step is None else f"Land use on {round(step, 6):g} degree") + dates,
        "source": f"xland model {model['name']}" if model.get("name") else None,
        "keywords": "land use, land cover, downscaling",
    }
    history = [ds.attrs.get("history"), f"{stamp}: {command or 'made with xland'}"]
    fixed = {
        "Conventions": "CF-1.11, ACDD-1.3",
        "history": "\n".join(filter(None, history)),
        "date_created": stamp,
        "xland_versions": json.dumps(versions),
        **covered,
    }
    attributes = {**{k: v for k, v in defaults.items() if v is not None}, **ds.attrs}
    attributes.update({k: v for k, v in given.items() if v is not None})
    return ds.assign_attrs(attributes | fixed)


def list_licences(
    model: Mapping[str, Any], inputs: Mapping[str, xr.Dataset | xr.DataArray | None]
) -> list[dict[str, str]]:
    """Return a table of what a product is made from: input, licence, source and variables of each row.

    Licence and source are attributes of the variables, or else of their Dataset, ``not stated`` where neither says it.
    """
    table = [{"input": f"model {model.get('name', '')}", "license": str(model.get("licence") or _UNSTATED)}]
    for name, given in inputs.items():
        if given is None:
            continue
        ds = given if isinstance(given, xr.Dataset) else given.to_dataset(name=str(given.name or name))
        rows: dict[tuple[str, str], list[str]] = {}
        for variable in map(str, ds.data_vars):
            said = {**ds.attrs, **ds[variable].attrs}
            licence = said.get("license") or said.get("licence") or _UNSTATED
            source = said.get("source") or said.get("title") or ""
            rows.setdefault((str(licence)[:_LONGEST], str(source)[:_LONGEST]), []).append(variable)
        for (licence, source), variables in rows.items():
            row = {"input": name, "license": licence, "source": source, "variables": " ".join(variables)}
            table.append({key: text for key, text in row.items() if text})
    return table


def for_storage(ds: xr.Dataset) -> xr.Dataset:
    """Bring a Dataset into the form of files; products that were selected or joined say what they cover now."""
    ds = for_files(ds)
    if "xland_versions" not in ds.attrs:
        return ds
    extent, dates = _extent(ds)
    kept = {name: value for name, value in ds.attrs.items() if not str(name).startswith(_COVERAGE)}
    if titled := _TITLE.fullmatch(str(kept.get("title", ""))):
        kept["title"] = titled[1] + dates
    return ds.drop_attrs(deep=False).assign_attrs(kept | extent)


def bounds(ds: xr.Dataset) -> tuple[float, float, float, float] | None:
    """West, south, east and north edge in degrees, from the cell centres; None if they are not there.

    East is beyond 180 (or 360) for a region that crosses the end of its range of longitude.
    """
    found = []
    for kind in ("latitude", "longitude"):
        names = find_role(ds, kind)
        # of a single cell, a coordinate without a dimension
        name = names.coordinate if names is not None else next(iter(find_scalars(ds, kind)), None)
        if name is None or not ds[name].size:
            return None
        found.append(np.atleast_1d(np.asarray(ds[name].values, dtype=float)))
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


def _extent(ds: xr.Dataset) -> tuple[dict[str, Any], str]:
    """Return the attributes that say which region and years there are, and the years as the end of a title."""
    found: dict[str, Any] = {}
    edges, covered, time = bounds(ds), years(ds), find_role(ds, "time")
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
        names = find_role(ds, "latitude")
        latitudes = np.zeros(0) if names is None else ds[names.coordinate].values.astype(float)
        if latitudes.size > 1:
            step = round(abs(float(latitudes[1] - latitudes[0])), 10)
            found |= {"geospatial_lat_resolution": step, "geospatial_lon_resolution": step}
    if not covered:
        return found, ""
    # steps of time that are in other months than January
    dates = ds[time.coordinate].values if time is not None and time.coordinate is not None else np.zeros(0)
    monthly = dates.dtype.kind == "M" and bool((dates.astype("datetime64[M]").astype(int) % 12).any())
    found |= {
        "time_coverage_start": f"{covered[0]:04d}-01-01",
        "time_coverage_end": f"{covered[-1]:04d}-12-31",
        "time_coverage_resolution": "P1M" if monthly else "P1Y",
    }
    return found, f", {listed(covered)}"


def identity_of(given: xr.Dataset | xr.DataArray) -> str:
    """Tell one input from another without reading it.

    Fill values, ranges and units count as well, as they make another input of the same numbers.
    """
    ds = given if isinstance(given, xr.Dataset) else given.to_dataset(name="map")
    plain = (int, float, np.generic, np.ndarray, list)
    variables = []
    # a store without consolidated metadata lists them in another order each time it is opened
    for name, variable in sorted(ds.variables.items(), key=lambda item: str(item[0])):
        if variable.chunks is not None:
            content = str(variable.data.name)
        else:  # xarray has no public way to ask whether asking for values would read a file
            content = tokenize(variable.values if variable._in_memory else variable._data)  # noqa: SLF001
        encoded = {str(key): str(value) for key, value in variable.encoding.items() if isinstance(value, plain)}
        declared = [{str(key): str(value) for key, value in variable.attrs.items()}, encoded]
        shape = [list(map(str, variable.dims)), list(variable.shape), str(variable.dtype)]
        variables.append([str(name), *shape, content, declared])
    return digest_of([variables, {str(key): str(value) for key, value in ds.attrs.items()}])


def digest_of(content: Any) -> str:
    """SHA-256 of anything that JSON can represent; of other things their text counts."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


def source_file(given: xr.Dataset | xr.DataArray) -> Path | None:
    """Return the file on this machine that something was opened from, if it says so and the file is there."""
    source = given.encoding.get("source")
    if not isinstance(source, str | Path) or not str(source):
        return None
    path = Path(source)
    return path if path.is_file() else None


@normalize_token.register(ExplicitlyIndexed)
def _normalise(data: Any) -> Any:
    """Say what xarray has not read yet, for dask's names: the layers around a file, and the file."""
    layers = []
    while isinstance(data, ExplicitlyIndexed) and hasattr(data, "array"):
        # what a layer does to the array within: its key, its function
        names = {name for kind in type(data).__mro__ for name in getattr(kind, "__slots__", ())}
        state = {name: getattr(data, name) for name in names if hasattr(data, name)}
        state |= getattr(data, "__dict__", {})
        state.pop("array", None)
        plain = {k: (type(v).__name__, v.tuple) if isinstance(v, ExplicitIndexer) else v for k, v in state.items()}
        layers.append((type(data).__qualname__, sorted((name, normalize_token(v)) for name, v in plain.items())))
        data = data.array
    kind = type(data).__qualname__
    store, array = getattr(data, "datastore", None), getattr(data, "_array", None)
    file = getattr(store, "_filename", None) or next(iter(getattr(getattr(store, "_manager", None), "_args", ())), None)
    if isinstance(file, str | Path):
        name = (str(data.variable_name), str(getattr(store, "_group", None)))
        return layers, (kind, name, str(data.dtype), data.shape, _stamp(Path(file)))
    if kind == "ZarrArrayWrapper" and array is not None:
        files = []
        if (root := getattr(array.store, "root", None)) is not None:
            files = [Path(root, array.path), *(Path(root, at, n) for at in ("", array.path) for n in _ROOTS)]
        described = normalize_token(array.store), array.path, str(data.dtype), data.shape
        return layers, (kind, *described, [_stamp(each) for each in files])
    return layers, normalize_object(data)


def _stamp(path: Path) -> tuple[str, int, int] | str:
    """Name, size and time of change of a file; of what is not on this machine, the name."""
    try:
        found = path.stat()
    except OSError:
        return str(path)
    return str(path.resolve()), found.st_size, found.st_mtime_ns
