"""What is typed on the command line, as values of Python; and messages of Python in the words of the command line."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

import xarray as xr

from xland.arguments import guess
from xland.catalogs.finding import open_entry
from xland.errors import StoreError, TimeError
from xland.geo.conventions import listed
from xland.geo.orientation import find_names
from xland.paths import address_of
from xland.reading.variables import map_years
from xland.sources.files import open_coarse, open_maps

MODIS = "modis-2019"
"""The observed map that needs no file."""

_ENTRY = re.compile(r"(.+\.ya?ml):([A-Za-z0-9][A-Za-z0-9_.@-]*)")
_YEAR = re.compile(r"-?\d{1,5}")
_SPAN = re.compile(r"(-?\d{1,5})?:(-?\d{1,5})?(?::(\d{1,5}))?|(\d{1,5})-(\d{1,5})")
_FORMS = "give calendar years: 2015, a list 2015,2020, all from one to another 2050:2100, or every tenth 2050:2100:10"
_VALUE = r"True|False|'[^']*'|\[[^\]]*\]|\([^)]*\)|\d[\d.]*\d|\d|(?![\w{(\[=])"


def years_of(typed: str | Sequence[str]) -> int | list[int] | slice:
    """Return the years that were typed, ``2015``, ``2015,2020``, ``2050:2100`` or ``2050-2100``, ``2050:2100:10``."""
    parts = [part for text in ([typed] if isinstance(typed, str) else typed) for part in re.split(r"[,\s]+", text)]
    found: list[int | slice] = []
    for part in filter(None, parts):
        span = _SPAN.fullmatch(part)
        if span is None and not _YEAR.fullmatch(part):
            raise TimeError(f"years={part!r}: {_FORMS}")
        if span is None:
            found.append(int(part))
            continue
        ends = (span[1] or span[4], span[2] or span[5], span[3])
        first, last, step = (None if each is None else int(each) for each in ends)
        if first is not None and last is not None and first > last:
            raise TimeError(f"years={part!r}: {first} is after {last}; {_FORMS}")
        found.append(slice(first, last, step))
    if len(found) == 1 and (isinstance(found[0], int) or found[0].step is None):
        return found[0]
    years = [[each] if isinstance(each, int) else _all_of(each) for each in found]
    if not years:
        raise TimeError(f"years={typed!r}: {_FORMS}")
    return sorted({year for each in years for year in each})


def _all_of(span: slice) -> Sequence[int]:
    if span.start is None or span.stop is None:
        raise TimeError(f"years: a list or a step needs the first and the last year; {_FORMS}")
    return range(span.start, span.stop + 1, span.step or 1)


def open_input(path: str) -> xr.Dataset:
    """Open a file or store, or the entry of a catalog, ``catalog.yaml:NAME``, as safely as :func:`xland.open_entry`."""
    entry = _ENTRY.fullmatch(path)
    return open_entry(entry[1], entry[2]) if entry else open_coarse(path)


def open_typed_maps(path: str) -> xr.Dataset:
    """Open maps in a file or store, or in the entry of a catalog, ``catalog.yaml:NAME``."""
    if not _ENTRY.fullmatch(path):
        return open_maps(path)
    maps = open_input(path)
    if "land_use" not in maps:
        raise StoreError(f"{path} holds no variable 'land_use'; it holds {', '.join(map(str, maps.data_vars))}")
    return maps


def open_observed(path: str, *, described: bool = False) -> xr.DataArray:
    """Open the map in a file or store, or the reference map ``modis-2019``; described by what the file says of it."""
    if path == MODIS:
        from xland.datasets import land_use_modis

        return land_use_modis()
    try:
        maps = open_typed_maps(path)
        said = {name: maps.attrs[name] for name in ("title", "source", "license") if name in maps.attrs}
        return maps["land_use"].assign_attrs({**said, **maps["land_use"].attrs} if described else {})
    except StoreError as error:
        if not _ENTRY.fullmatch(path) and f"{address_of(path)} does not exist" in str(error):
            raise StoreError(f"{error}, or {MODIS}{guess(path, [MODIS])}") from error
        raise


def of_year(given: xr.DataArray, year: int, what: str) -> xr.DataArray:
    """Return one year of a map; a map of one step is taken for that of the year, whatever it says."""
    years, time = map_years(given, what), find_names(given, "time", what=what)
    if time is None or len(years) == 1:
        return given.assign_coords({"time": year} if time is None else {time.dimension: [year]})
    if year not in years:
        there = (
            listed([each for each in years if each is not None]) or f"{len(years)} steps that do not say their years"
        )
        raise TimeError(f"the {what} is of {there}, not of {year}")
    return given.isel({time.dimension: [years.index(year)]})


def in_options(message: str, options: Collection[str]) -> str:
    """Return a message with the options of a command where it names arguments of Python, ``direction='backward'``."""
    known = {*options, "overwrite", "resume"}

    def flag(name: str) -> str:
        return f"--{name.replace('_', '-')}"

    def option(found: re.Match[str]) -> str:
        name, value = found[1], found[2]
        if name not in known:
            return found[0]
        values = re.findall(r"[^\[\]()'\", ]+", value)
        if values == ["False"]:
            return f"--no-{flag(name)[2:]}"
        if values in ([], ["True"]) or value.startswith("("):
            return " ".join([flag(name), *(values if value.startswith("(") else [])])
        return " ".join(f"{flag(name)} {each}" for each in values)

    def year(found: re.Match[str]) -> str:
        return f"{flag(found[1])}-year {found[2]}" if f"{found[1]}_year" in known else found[0]

    def must(found: re.Match[str]) -> str:
        kinds = found[2].replace(" or None", "")
        return f"{flag(found[1])} must be {kinds}" if found[1] in known else found[0]

    message = re.sub(r"\b(\w+)\.(?:sel|assign_coords)\(time=(\d+)\)", year, message)
    message = re.sub(r"(?<![\w.-])([a-z_]+) must be ([^;:]*)", must, message)
    return re.sub(rf"(?<![\w(./?&])([a-z_]+)=({_VALUE})", option, message)
