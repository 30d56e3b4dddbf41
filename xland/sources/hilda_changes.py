"""Net changes of land use in coarse cells, as files of HILDA+ and of allocation models have them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from os import PathLike
from pathlib import Path

import numpy as np
import xarray as xr

from xland.errors import GridError, TimeError, VocabularyError
from xland.geo.conventions import listed
from xland.geo.orientation import orient
from xland.paths import local_path
from xland.reading.variables import unreadable
from xland.sources.observed import open_raster
from xland.vocabulary import CLASS_NAMES, HILDA_FOREST, class_coordinates

_SPAN = re.compile(r"(?<!\d)(1[89]\d\d|2[01]\d\d)_(1[89]\d\d|2[01]\d\d)(?!\d)")
_CODE = re.compile(r"[A-Za-z_ ]*(\d{1,3})")


def open_changes(
    paths: str | PathLike[str] | Sequence[str | PathLike[str]], table: Mapping[int, str] = HILDA_FOREST
) -> xr.DataArray:
    """Open net changes of land use from GeoTIFFs, one for each step of time.

    Parameters
    ----------
    paths : path or sequence of path
        Files whose bands are classes and whose values are net changes in km2. The names of bands end with the code of
        the class, as ``LC22``; bands without a code, such as ``cell_area``, are left out. The file name has the first
        and the last year of the step, as ``LUC_2009_2010.tif``.
    table : mapping of int to class name
        What the codes mean, by default those of HILDA+ with its kinds of forest.

    Returns
    -------
    DataArray (time, class, lat, lon) of float32
        Square kilometres; ``time`` is the last year of each step. NaN where there is no data.

    Raises
    ------
    StoreError
        If a file cannot be read.
    TimeError
        If a name does not say the years of a step, or steps do not follow each other.
    GridError
        If files are on different cells, or not on latitude and longitude.
    VocabularyError
        If no band has a code, or a code is not in the table.
    """
    places = [
        local_path(each, what="net changes") for each in ([paths] if isinstance(paths, str | PathLike) else paths)
    ]
    spans = {_span_of(place): place for place in places}
    steps = sorted(spans)
    breaks = [later[0] for earlier, later in pairwise(steps) if earlier[1] != later[0]]
    if not steps or len(steps) < len(places) or breaks:
        raise TimeError(
            f"steps must follow each other, each once; there are {', '.join(f'{a} to {b}' for a, b in steps) or 'none'}"
            + (f", with a gap or an overlap at {listed(breaks)}" if breaks else "")
        )
    found = [_read(spans[step], table) for step in steps]
    for each, step in zip(found, steps, strict=True):
        if each.shape != found[0].shape or any((each[dim] != found[0][dim]).any() for dim in ("lat", "lon")):
            raise GridError(f"{spans[step].name} is on other cells than {spans[steps[0]].name}")
    changes = xr.concat(found, xr.Variable("time", [last for _, last in steps], {"long_name": "calendar year"}))
    return changes.assign_attrs(units="km2", long_name="net change of the area of the class", first_year=steps[0][0])


def _span_of(place: Path) -> tuple[int, int]:
    years = _SPAN.findall(place.stem)
    if len(years) != 1 or int(years[0][0]) >= int(years[0][1]):
        raise TimeError(f"{place.name} should name the first and the last year of its step, as in LUC_2009_2010.tif")
    return int(years[0][0]), int(years[0][1])


def _read(place: Path, table: Mapping[int, str]) -> xr.DataArray:
    """Read the changes of one step, (class, lat, lon); several codes of a class are added."""
    raster, _ = open_raster(place, masked=True)
    try:
        values = np.asarray(raster.values, dtype=np.float32)
    except OSError as error:
        raise unreadable(place, "GeoTIFF", error) from error
    names = raster.attrs.get("long_name", ())
    codes = [_CODE.fullmatch(name) for name in ([names] if isinstance(names, str) else names)]
    known = {band: int(code[1]) for band, code in enumerate(codes) if code}
    if strange := sorted(set(known.values()) - set(table)):
        raise VocabularyError(f"{place.name}: no class for the codes {strange}; the table has {sorted(table)}")
    if not known:
        raise VocabularyError(f"{place.name}: no band is named by the code of its class, such as LC22")
    total = np.zeros((len(CLASS_NAMES), *values.shape[1:]), dtype=np.float32)
    for band, code in known.items():
        total[CLASS_NAMES.index(table[code])] += values[band]
    coordinates = {**class_coordinates(), "lat": raster["y"].values, "lon": raster["x"].values}
    array = xr.DataArray(np.where(np.isnan(values[min(known)]), np.nan, total), coordinates, ("class", "lat", "lon"))
    return orient(array.rename("change"), what=place.name)[0]
