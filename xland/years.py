"""Calendar years of any time axis that land-use files come with.

LUH2 counts ``years since 850-01-01 0:0:0`` on a 365-day calendar, which xarray cannot decode; LUH3
and others count days. Years from 850 on lie outside the range of nanosecond dates, so all of this
works on plain integers.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from xland.coordinates import Names
from xland.errors import TimeError

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
    "xland.forcing: xr.open_mfdataset(paths, decode_times=False, preprocess=lambda ds: read_forcing(ds).data)"
)

_REFERENCE = re.compile(r"^\s*(?P<unit>\w+)\s+since\s+(?P<year>-?\d+)(?:-(?P<month>\d+))?", re.IGNORECASE)
_YEAR_UNITS = {"year", "years", "common_year", "common_years", "yr", "yrs"}
_PLAIN_UNITS = {"", "1", "year", "years", "yr", "calendar year", "calendar_year", "a", "ce", "ad"}


def decode_years(oriented: xr.Dataset, names: Names | None, year: int | None = None) -> tuple[int, ...]:
    """Calendar years of an oriented Dataset, one for each time step.

    ``years since`` (which xarray cannot decode), every unit that cftime knows, ``%Y%m%d`` numbers,
    decoded dates of any calendar and plain years are understood.

    Parameters
    ----------
    oriented : Dataset
        With the time dimension ``time``, or none.
    names : Names or None
        What the caller calls it; None where there is no time dimension.
    year : int, optional
        The year of a Dataset that does not say it.

    Returns
    -------
    tuple of int

    Raises
    ------
    TimeError
        If the years are not said or cannot be decoded.
    """
    if names is None:
        for name in ("time", "year"):
            if name in oriented.coords and oriented[name].ndim == 0:
                return _years_of(oriented[name].expand_dims("time"))
        if year is None:
            raise TimeError(
                "the forcing has no time dimension and does not say its year; give it one: ds.expand_dims(time=[2015])"
            )
        return (int(year),)
    if names.coordinate is None:
        steps = oriented.sizes["time"]
        if year is not None and steps == 1:
            return (int(year),)
        raise TimeError(
            f"the time dimension {names.dimension!r} has {steps} steps but no coordinate; "
            f"assign the years: ds.assign_coords({names.dimension}=[...])"
        )
    return _years_of(oriented["time"])


def _years_of(time: xr.DataArray) -> tuple[int, ...]:
    values = np.asarray(time.values)
    units = str(time.attrs.get("units", "")).strip()
    if values.dtype.kind == "M":
        if np.isnat(values).any():
            raise TimeError(f"time: {int(np.isnat(values).sum())} steps have no date")
        return tuple(int(y) for y in values.astype("datetime64[Y]").astype(np.int64) + 1970)
    if values.dtype.kind == "O" and all(hasattr(v, "year") for v in values):
        return tuple(int(v.year) for v in values)
    if values.dtype.kind not in "iuf":
        raise TimeError(
            f"time: values of type {values.dtype} cannot be read as years; open the file with decode_times=False, "
            "or assign the years: ds.assign_coords(time=[...])"
        )
    numbers = values.astype(np.float64)
    if not np.isfinite(numbers).all():
        raise TimeError(f"time: {int((~np.isfinite(numbers)).sum())} steps are not finite")
    reference = _REFERENCE.match(units)
    if reference and reference["unit"].lower() in _YEAR_UNITS:
        begin = int(reference["year"]) + (int(reference["month"] or 1) - 1) / 12
        # a millionth of a year: whole years stored as float32 stay whole
        return tuple(int(y) for y in np.floor(begin + numbers + 1e-6))
    if reference:
        return _years_by_cftime(numbers, units, str(time.attrs.get("calendar", "standard")))
    if "%Y%m%d" in units:
        return tuple(int(y) for y in numbers // 10_000)
    return _plain_years(numbers, units)


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


def _plain_years(numbers: NDArray[np.float64], units: str) -> tuple[int, ...]:
    low, high = float(numbers.min(initial=np.inf)), float(numbers.max(initial=-np.inf))
    if units.lower() not in _PLAIN_UNITS:
        raise TimeError(
            f"time: units {units!r} are not known; use 'years since 850-01-01', 'days since 850-01-01' or plain years"
        )
    if numbers.size and (low < FIRST_YEAR or high > LAST_YEAR or (numbers != np.trunc(numbers)).any()):
        raise TimeError(
            f"time: values from {low:g} to {high:g} without units are not calendar years from {FIRST_YEAR} to "
            f"{LAST_YEAR}; if they count from a year, say so: ds.time.attrs['units'] = 'years since 850-01-01'"
        )
    return tuple(int(y) for y in numbers)


def check_years(years: Sequence[int]) -> None:
    """Refuse years that cannot be those of a land-use record: their units got lost, or another file's were taken.

    Files of one record may count from different years (850 in the history of LUH2, 2015 in its futures).
    Joined without decoding, all take the units of the first: scenarios land in the past.

    Raises
    ------
    TimeError
        For years outside 850 to 2500, years that stand more than once, unsorted years, and gaps of more
        than 50 years after a year before 1100, where misplaced scenarios land; with the values and what
        to do.
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
    if repeated.size:
        raise TimeError(
            f"{repeated.size} years stand more than once: {listed(repeated)}; {_JOINED} (only if all these years are "
            "right, as where files overlap, keep one of each: ds.drop_duplicates('time'))"
        )
    steps = np.diff(values)
    falls = np.flatnonzero(steps < 0)
    if falls.size:
        at = int(falls[0])
        raise TimeError(
            f"the years are not sorted: {years[at]} is followed by {years[at + 1]} ({falls.size} such places); "
            f"{_JOINED} (only if all these years are right, sort them: ds.sortby('time'))"
        )
    suspicious = np.flatnonzero((steps > LONGEST_GAP) & (values[:-1] < MISPLACED_BEFORE))
    if suspicious.size:
        at = int(suspicious[0])
        raise TimeError(
            f"no year between {years[at]} and {years[at + 1]}, more than {LONGEST_GAP} years; {_JOINED} (only if all "
            f"these years are right, select one side of the gap: ds.isel(time=slice({at + 1})) or "
            f"ds.isel(time=slice({at + 1}, None)))"
        )


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
