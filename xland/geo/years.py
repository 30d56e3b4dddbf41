"""Calendar years of any time axis that comes in, and the time axis of everything that goes out.

LUH2 counts ``years since 850-01-01 0:0:0`` on a 365-day calendar, which xarray cannot decode; LUH3
and others count days. Years from 850 on lie outside the range of nanosecond dates, so what comes in
is turned into plain integers, and what goes out are dates in seconds.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from xland.errors import TimeError
from xland.geo.orientation import bounds_name, find_names, find_scalars, refuse_packed

FIRST_YEAR = 850
"""The first year of the LUH record: smaller plain numbers are counts from some year, not years."""

LAST_YEAR = 2500
"""The last year that is believed: scenarios and their extensions end in 2300."""

LONGEST_GAP = 50
"""Years from one step to the next that are believed after an early year."""

MISPLACED_BEFORE = 1100
"""Scenarios that count from 2015 to 2100 or beyond land before this year if 850 is taken for 2015."""

_JOINED = (
    "were files with different reference years joined? Then decode each file first, with read_forcing from "
    "xland.forcing.read: xr.open_mfdataset(paths, decode_times=False, preprocess=lambda ds: read_forcing(ds).data)"
)

_MOST = 1e18
"""Numbers from which on no unit of time gives a year that is believed."""

ENCODING = {"units": "days since 1850-01-01", "calendar": "proleptic_gregorian", "dtype": "int64"}
"""How dates are stored: the calendar reaches 850, and CDO, NCO, GDAL, cftime and xarray all know it.

Dask keeps the byte order that Zarr gives to 32-bit numbers, which netCDF4 would then warn about.
"""

_DATE = {"standard_name": "time", "long_name": "time", "axis": "T"}
_REFERENCE = re.compile(
    r"^\s*(?P<unit>\w+)\s+since\s+(?P<year>-?\d{1,6})(?:-(?P<month>0?[1-9]|1[0-2])(?!\d)|(?!-?\d))", re.IGNORECASE
)
_STEPS_OF_A_YEAR = dict.fromkeys(("year", "years", "common_year", "common_years", "yr", "yrs"), 1) | dict.fromkeys(
    ("month", "months", "mon"), 12
)
_PLAIN_UNITS = {"", "1", "year", "years", "yr", "calendar year", "calendar_year", "a", "ce", "ad"}


def decode_years(obj: xr.Dataset, year: int | None = None, *, what: str = "forcing") -> tuple[int, ...]:
    """Calendar years, one for each time step; ``year`` is that of a Dataset of one step that does not say it.

    :class:`TimeError` if there are none, or they cannot be decoded: see :func:`years_along`.
    """
    found = years_of(obj, what=what)
    if found is not None:
        return found
    names = find_names(obj, "time", what=what)
    steps = 1 if names is None else obj.sizes[names.dimension]
    if year is not None and steps == 1:
        return (int(year),)
    if names is None:
        raise TimeError(
            f"the {what} has no time dimension and does not say its year; give it one: ds.expand_dims(time=[2015])"
        )
    raise TimeError(
        f"the time dimension {names.dimension!r} has {steps} steps but no coordinate; "
        f"assign the years: ds.assign_coords({names.dimension}=[...])"
    )


def years_of(obj: xr.Dataset | xr.DataArray, *, what: str) -> tuple[int, ...] | None:
    """Calendar years of an object with a time dimension or a single time; None where it does not say them."""
    names = find_names(obj, "time", what=what)
    if names is not None:
        return None if names.coordinate is None else years_along(obj[names.coordinate])
    scalars = find_scalars(obj, "time")
    return years_along(obj[scalars[0]]) if scalars else None


def years_along(time: xr.DataArray) -> tuple[int, ...]:
    """Calendar years of a time coordinate, one for each step: every time that comes in is decoded here.

    Understood are dates of any calendar and unit, undecoded numbers with ``years since``, ``months since``
    or any unit that cftime knows, ``%Y%m%d`` numbers, and plain years. :class:`TimeError` for steps without a date,
    numbers that may count from any year, and units or types that do not say a year.
    """
    values = np.atleast_1d(np.asarray(time.values))
    units = str(time.attrs.get("units", "")).strip()
    name = "time" if time.name in (None, "time") else f"time {time.name!r}"
    if values.dtype.kind == "M" or (values.dtype.kind == "O" and all(hasattr(v, "year") for v in values)):
        missing = int(np.sum(values != values))  # NaT, also among dates of cftime
        if missing:
            raise TimeError(
                f"{name}: {missing} of {values.size} steps have no date (NaT); drop them: "
                "ds.sel(time=ds.time.notnull())"
            )
        years = values.astype("datetime64[Y]").astype(np.int64) + 1970 if values.dtype.kind == "M" else values
        return tuple(int(getattr(year, "year", year)) for year in years)
    if values.dtype.kind not in "iuf":
        raise TimeError(
            f"{name}: values of type {values.dtype} cannot be read as years; open the file with decode_times=False, "
            "or assign the years: ds.assign_coords(time=[...])"
        )
    numbers = values.astype(np.float64)
    wrong = ~(np.abs(numbers) < _MOST)
    if wrong.any():
        raise TimeError(f"{name}: {int(wrong.sum())} of {numbers.size} steps are not finite, or fill values")
    refuse_packed(time.attrs, name, TimeError)
    reference = _REFERENCE.match(units)
    if reference and (steps := _STEPS_OF_A_YEAR.get(reference["unit"].lower())):
        begin = int(reference["year"]) + (int(reference["month"] or 1) - 1) / 12
        # a millionth of a year: whole years stored as float32 stay whole
        return tuple(int(y) for y in np.floor(begin + numbers / steps + 1e-6))
    if reference:
        return _years_by_cftime(numbers, units, str(time.attrs.get("calendar", "standard")))
    divisor = next((each for form, each in (("%Y%m%d", 10_000), ("%Y%m", 100), ("%Y", 1)) if form in units), None)
    if divisor:
        return tuple(int(y) for y in numbers // divisor)
    if units.lower() not in _PLAIN_UNITS:
        raise TimeError(
            f"{name}: units {units!r} are not known; use 'years since 850-01-01', 'days since 850-01-01' or plain years"
        )
    low, high = float(numbers.min(initial=np.inf)), float(numbers.max(initial=-np.inf))
    if numbers.size and (low < FIRST_YEAR or high > LAST_YEAR or (numbers != np.trunc(numbers)).any()):
        raise TimeError(
            f"{name}: values from {low:g} to {high:g} without units are not calendar years from {FIRST_YEAR} to "
            f"{LAST_YEAR}; if they count from a year, say so: ds.time.attrs['units'] = 'years since 850-01-01'; if "
            "they are not years, drop them: ds.drop_vars('time')"
        )
    return tuple(int(y) for y in numbers)


def _years_by_cftime(numbers: NDArray[np.float64], units: str, calendar: str) -> tuple[int, ...]:
    import cftime

    try:
        dates = cftime.num2date(numbers, units, calendar)
    except (ValueError, OverflowError) as error:
        raise TimeError(
            f"time: {units!r} on the {calendar!r} calendar cannot be decoded ({error}); "
            "assign the years: ds.assign_coords(time=[...])"
        ) from None
    return tuple(int(date.year) for date in np.ravel(dates))


def with_years(
    ds: xr.Dataset, years: Sequence[int], dimension: Hashable = "time", coordinate: Hashable | None = None
) -> xr.Dataset:
    """Give the time dimension of a Dataset dates, their bounds and the years beside them; all can be selected by.

    These are 1 January of each year in ``time`` (or under the caller's name), datetime64[s], their bounds in
    ``time_bnds`` and the years in ``year``. Where the caller's dimension or coordinate is called ``year``, that keeps
    the years, and the dates are beside it as ``time``. CDO, NCO and GDAL understand such a time axis.
    """
    callers = [name for name in (coordinate, dimension) if name is not None]
    yearly = next((name for name in callers if str(name).lower() in ("year", "years")), None)
    date = next((name for name in callers if name != yearly), "time")
    year, bounds = yearly or "year", bounds_name(dimension)
    if date in ds.variables and set(ds[date].dims) - {dimension}:
        raise TimeError(f"{date!r} is something else than the time along {dimension!r}: rename one of them")
    first = np.asarray(np.asarray(years, dtype=np.int64) - 1970).astype("datetime64[Y]")
    edges: NDArray[Any] = np.stack([first, first + 1], axis=1).astype("datetime64[s]")
    coordinates = {
        date: xr.Variable((dimension,), edges[:, 0], _DATE, {**ENCODING, "bounds": bounds}),
        bounds: xr.Variable((dimension, "bnds"), edges, {}, ENCODING),
    }
    # a variable of that name may be something else than the years
    there = ds[year].dims if year in ds.variables else ()
    other = bool(set(there) - {dimension})
    if year in ds.data_vars:
        other = there != (dimension,) or not np.array_equal(ds[year].values, years)
    if not other:
        attributes = {"long_name": "calendar year"}
        coordinates[year] = xr.Variable((dimension,), np.array(years, dtype=np.int32), attributes)
    known = {*coordinates, *callers}
    known |= {ds[name].encoding.get("bounds") for name in known if name in ds.coords}
    ds = ds.drop_vars([name for name in ds.coords if name in known]).assign_coords(coordinates)
    return index_by(ds, date, *(name for name in (year,) if name in coordinates))


def index_by(ds: xr.Dataset, *names: Hashable) -> xr.Dataset:
    """Let coordinates along a dimension be selected by, as far as they are there."""
    for name in names:
        if name in ds.coords and ds[name].ndim == 1 and name not in ds.xindexes:
            ds = ds.set_xindex([name])
    return ds


def check_years(years: Sequence[int]) -> None:
    """Refuse years that cannot be those of a land-use record: their units got lost, or another file's were taken.

    Files of one record may count from different years (850 in the history of LUH2, 2015 in its futures). Joined
    without decoding, all take the units of the first, and scenarios land in the past. :class:`TimeError` for years
    outside 850 to 2500, duplicate or unsorted years, and gaps of more than 50 years after a year before 1100.
    """
    values = np.asarray(years, dtype=np.int64)
    outside = values[(values < FIRST_YEAR) | (values > LAST_YEAR)]
    if outside.size:
        raise TimeError(
            f"{outside.size} of {values.size} years lie outside {FIRST_YEAR} to {LAST_YEAR}: {listed(outside)}; is the "
            f"year that ds.time.attrs['units'] counts from right? {_JOINED}"
        )
    different, counts = np.unique(values, return_counts=True)
    repeated = different[counts > 1]
    steps = np.diff(values)
    falls = np.flatnonzero(steps < 0)
    gaps = np.flatnonzero((steps > LONGEST_GAP) & (values[:-1] < MISPLACED_BEFORE))
    if repeated.size:
        fault = f"{repeated.size} years are there more than once: {listed(repeated)}"
        remedy = "as where files overlap, keep one of each: ds.drop_duplicates('time')"
    elif falls.size:
        at = int(falls[0])
        fault = f"the years are not sorted: {years[at]} is followed by {years[at + 1]} ({falls.size} such places)"
        remedy = "sort them: ds.sortby('time')"
    elif gaps.size:
        at = int(gaps[0])
        fault = f"no year between {years[at]} and {years[at + 1]}, more than {LONGEST_GAP} years"
        remedy = f"select one side: ds.isel(time=slice({at + 1})) or ds.isel(time=slice({at + 1}, None))"
    else:
        return
    raise TimeError(f"{fault}; {_JOINED} (only if all these years are right, {remedy})")


def missing_years(years: Sequence[int]) -> tuple[int, ...]:
    """Years between the first and the last that are not there."""
    return tuple(sorted(set(range(min(years), max(years) + 1)) - set(years))) if years else ()


def listed(years: Sequence[int] | NDArray[np.int64]) -> str:
    """Years in runs, the first few of them: ``1850-1855, 1860, ...``."""
    runs: list[list[int]] = []
    for year in (int(y) for y in years):
        if runs and year == runs[-1][1] + 1:
            runs[-1][1] = year
        else:
            runs.append([year, year])
    shown = ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in runs[:8])
    return shown + (", ..." if len(runs) > 8 else "")
