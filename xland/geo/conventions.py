"""Calendar years of any time axis that comes in, and the form of Datasets that go out to stores and NetCDF files.

LUH2 counts ``years since 850-01-01 0:0:0`` on a 365-day calendar, which xarray cannot decode; LUH3 and others count
days. Nanosecond dates do not reach the year 850: what comes in becomes plain integers, and dates that go out are in
seconds.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from xland.errors import TimeError
from xland.geo.orientation import Names, XarrayObject, bounds_name, find_names, find_role, find_scalars, refuse_packed
from xland.vocabulary import CLASSES

READING: dict[str, Any] = {"decode_coords": "all", "decode_times": xr.coders.CFDatetimeCoder(time_unit="s")}
"""How xarray is to open what was written: bounds and the reference system are coordinates, dates reach 850 and 2100."""

CRS = "EPSG:4326"  # geographic coordinates on WGS 84
GRID_MAPPING = "spatial_ref"  # the scalar coordinate that holds the reference system

FIRST_YEAR = 850  # of the LUH record: smaller plain numbers are counts from some year, not years
LAST_YEAR = 2500  # the last that is believed: scenarios and their extensions end in 2300
LONGEST_GAP = 50  # years from one step to the next that are believed after an early year
MISPLACED_BEFORE = 1100  # scenarios that count from 2015 to 2100 or beyond land before if 850 is taken for 2015
_MOST = 1e18  # numbers from which on no unit of time gives a year that is believed
_JOINED = (
    "were files with different reference years joined? Then decode each file first, with read_forcing from "
    "xland.forcing.read: xr.open_mfdataset(paths, decode_times=False, preprocess=lambda ds: read_forcing(ds).data)"
)

# how dates are stored: the calendar reaches 850, and CDO, NCO, GDAL, cftime and xarray all know it; dask keeps the
# byte order that Zarr gives to 32-bit numbers, which netCDF4 would then warn about
ENCODING = {"units": "days since 1850-01-01", "calendar": "proleptic_gregorian", "dtype": "int64"}
PERIODS = ("bounds", "climatology")  # links from a time to the edges of its periods
_DATE = {"standard_name": "time", "long_name": "time", "axis": "T"}
_REFERENCE = re.compile(
    r"^\s*(?P<unit>\w+)\s+since\s+(?P<year>-?\d{1,6})(?:-(?P<month>0?[1-9]|1[0-2])(?!\d)|(?!-?\d))", re.IGNORECASE
)
_STEPS_OF_A_YEAR = dict.fromkeys(("year", "years", "common_year", "common_years", "yr", "yrs"), 1) | dict.fromkeys(
    ("month", "months", "mon"), 12
)
_PLAIN_UNITS = {"", "1", "year", "years", "yr", "calendar year", "calendar_year", "a", "ce", "ad"}


def decode_years(obj: xr.Dataset, year: int | None = None) -> tuple[int, ...]:
    """Calendar years of a forcing, one a step, or a :class:`TimeError`; ``year`` is that of a single step without."""
    found = years_of(obj, what="forcing")
    if found is not None:
        return found
    names = find_names(obj, "time", what="forcing")
    steps = 1 if names is None else obj.sizes[names.dimension]
    if year is not None and steps == 1:
        return (int(year),)
    if names is None:
        raise TimeError(
            "the forcing has no time dimension and does not say its year; give it one: ds.expand_dims(time=[2015])"
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

    Understood are dates of any calendar, numbers with ``years since``, ``months since`` or any unit that cftime knows,
    ``%Y%m%d`` numbers, and plain years. :class:`TimeError` for steps without a date, and numbers, units or types that
    do not say a year.
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
        numbers = np.floor(begin + numbers / steps + 1e-6)
    elif reference:
        import cftime

        calendar = str(time.attrs.get("calendar", "standard"))
        try:
            dates = np.ravel(cftime.num2date(numbers, units, calendar))
        except (ValueError, OverflowError) as error:
            raise TimeError(
                f"{name}: {units!r} on the {calendar!r} calendar cannot be decoded ({error}); "
                "assign the years: ds.assign_coords(time=[...])"
            ) from None
        return tuple(int(date.year) for date in dates)
    elif "%Y" in units:
        numbers = numbers // (10_000 if "%Y%m%d" in units else 100 if "%Y%m" in units else 1)
    elif units.lower() not in _PLAIN_UNITS:
        raise TimeError(
            f"{name}: units {units!r} are not known; use 'years since 850-01-01', 'days since 850-01-01' or plain years"
        )
    elif not ((numbers >= FIRST_YEAR) & (numbers <= LAST_YEAR) & (numbers == np.trunc(numbers))).all():
        raise TimeError(
            f"{name}: values from {numbers.min():g} to {numbers.max():g} without units are not calendar years from "
            f"{FIRST_YEAR} to {LAST_YEAR}; if they count from a year, say so: ds.time.attrs['units'] = 'years since "
            "850-01-01'; if they are not years, drop them: ds.drop_vars('time')"
        )
    return tuple(map(int, numbers))


def with_years(
    ds: xr.Dataset, years: Sequence[int], dimension: Hashable = "time", coordinate: Hashable | None = None
) -> xr.Dataset:
    """Give the time dimension dates (1 January, datetime64[s]), their bounds ``time_bnds`` and the years in ``year``.

    All can be selected by, and CDO, NCO and GDAL understand them. Where the caller's dimension or coordinate is called
    ``year``, that keeps the years, and the dates are beside it as ``time``.
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
    """Refuse, with a :class:`TimeError`, years that cannot be those of a land-use record, as if units got lost.

    Files of one record may count from different years (850 in the history of LUH2, 2015 in its futures). Joined
    without decoding, all take the units of the first.
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


def for_files(ds: xr.Dataset) -> xr.Dataset:
    """Give years their dates, and cells their bounds, as they are stored; nothing is computed.

    If the labels of the time dimension and those beside it differ, those of the dimension count.
    """
    time, years = _years(ds)
    if time is not None and years is not None:
        values = ds[time.coordinate].values
        dates = values.dtype.kind == "M"
        if not dates or ("year" in ds.coords and (values == values.astype("datetime64[Y]")).all()):
            ds = with_years(ds, years, time.dimension, time.coordinate)
        else:
            ds = _with_encoded_dates(ds, time.coordinate)
    for kind, most in (("latitude", 90.0), ("longitude", np.inf)):
        names = find_role(ds, kind)
        edges = None if names is None else _cell_edges(np.asarray(ds[names.coordinate].values, dtype=np.float64))
        if names is not None and edges is not None:
            bounds = bounds_name(names.dimension)
            ds = ds.assign_coords({bounds: ((names.dimension, "bnds"), np.clip(edges, -most, most))})
            ds[names.coordinate].attrs.pop("bounds", None)
            ds[names.coordinate].encoding["bounds"] = bounds
    return ds


def _with_encoded_dates(ds: xr.Dataset, name: Hashable) -> xr.Dataset:
    """Count dates that are whole days or hours from 1850, and the edges of their periods in the same way."""
    values = ds[name].values
    unit = next((unit for unit in ("D", "h") if (values == values.astype(f"datetime64[{unit}]")).all()), None)
    if unit is None:
        return ds
    encoding = ENCODING if unit == "D" else {**ENCODING, "units": "hours since 1850-01-01"}
    ds = ds.copy()
    said = {**ds[name].attrs, **ds[name].encoding}
    for each in (name, *(said[link] for link in PERIODS if said.get(link) in ds.variables)):
        ds[each].encoding |= encoding
    return ds


def from_files(ds: xr.Dataset) -> xr.Dataset:
    """Make years, and names of classes and scenarios, selectable again in a Dataset that was opened."""
    # xarray does not list a single value as a coordinate if its name is part of that of bounds, as `time` is
    bounds = [str(each.encoding["bounds"]) for each in ds.variables.values() if "bounds" in each.encoding]
    ds = ds.set_coords([n for n in ds.data_vars if not ds[n].ndim and any(str(n) in name for name in bounds)])
    time, years = _years(ds)
    if time is not None:
        ours = any(str(name).startswith("xland_") for name in ds.attrs)
        if years is not None and ds[time.coordinate].dtype.kind != "M" and ours:
            ds = with_years(ds, years, time.dimension, time.coordinate)
        elif years is not None and "year" not in ds.variables:
            year = (time.dimension, np.array(years, dtype=np.int32), {"long_name": "calendar year"})
            ds = ds.assign_coords(year=year)
        ds = index_by(ds, time.coordinate, *(name for name in ds.coords if ds[name].dims == (time.dimension,)))
    return index_by(ds, "class_name", "scenario_name")


def for_gis(ds: xr.Dataset) -> tuple[xr.Dataset, Hashable | None]:
    """Put time first and latitude and longitude last, for GIS and CDO, and return the time dimension as well.

    Dates are the dimension also where the caller's are years, latitude and longitude also along rows and columns.
    """
    found = find_role(ds, "time")
    time = None if found is None else found.dimension
    if time is not None and ds.coords.get(time, xr.DataArray()).dtype.kind != "M":
        dates = [name for name in ds.coords if ds[name].dims == (time,) and ds[name].dtype.kind == "M"]
        if dates:
            ds = _along(ds, time, dates[0])
            time = dates[0]
    horizontal = []
    for names in (find_role(ds, "latitude"), find_role(ds, "longitude")):
        if names is not None:
            # GDAL finds the place of the cells in coordinates that are called as their dimension
            ds = _along(ds, names.dimension, names.coordinate) if names.coordinate != names.dimension else ds
            horizontal.append(names.coordinate)
    for name, array in ds.data_vars.items():
        last = [dim for dim in horizontal if dim in array.dims]
        first = [time] if time in array.dims else []
        order = [*first, *(dim for dim in array.dims if dim not in {*first, *last}), *last]
        if tuple(order) != array.dims:
            ds = ds.assign({name: array.transpose(*order)})
    return ds, time


def _along(ds: xr.Dataset, dimension: Hashable, coordinate: Hashable) -> xr.Dataset:
    """Make a coordinate the dimension in place of the one along which it lies."""
    ds = ds.drop_indexes([coordinate] if coordinate in ds.xindexes else []).swap_dims({dimension: coordinate})
    bounds = ds[coordinate].encoding.pop("bounds", None)
    if bounds in ds.coords:
        ds = ds.rename_vars({bounds: bounds_name(coordinate)})
        ds[coordinate].encoding["bounds"] = bounds_name(coordinate)
    return ds


def _cell_edges(labels: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """First and last edge of each cell in the order of the axis; None where cells are not of one size."""
    steps = np.diff(labels)
    if not steps.size or not np.isfinite(steps).all():
        return None
    step = float(np.median(steps))
    # one jump, where the caller's longitudes start again
    if step == 0 or (np.abs(steps - step) > 1e-2 * abs(step)).sum() > 1:
        return None
    size = abs(step)
    size = 1 / round(1 / size) if size < 1 and abs(size * round(1 / size) - 1) < 1e-4 else round(size, 6)
    edges = labels[:, None] + np.copysign(size, step) * np.array([-0.5, 0.5])
    numbers = np.rint(edges / size)
    if np.abs(edges / size - numbers).max() < 1e-2:
        whole = size < 1 and abs(size * round(1 / size) - 1) < 1e-9
        edges = numbers / round(1 / size) if whole else numbers * size
    return np.round(edges, 10) + 0.0


def classes_along(array: xr.DataArray, dim: Hashable) -> tuple[str, ...] | None:
    """Names of the classes along a dimension of codes (or, in earlier stores, of names); None if it has no labels."""
    names = array.coords.get("class_name")
    if names is not None and names.dims == (dim,):
        return tuple(map(str, names.values))
    if dim not in array.coords:
        return None
    known = {each.code: each.name for each in CLASSES}
    return tuple(known.get(label, str(label)) for label in array[dim].values.tolist())


def _years(ds: xr.Dataset) -> tuple[Names | None, tuple[int, ...] | None]:
    """Find the time coordinate, if there is one, and its years; None of other times, which are left as they are."""
    time = find_role(ds, "time")
    if time is None or time.coordinate is None:
        return None, None
    labels = ds[time.coordinate]
    years = None
    if labels.dtype.kind in "iufM" and "since" not in str(labels.attrs.get("units", "")):
        with suppress(TimeError):
            years = years_along(labels)
    return time, years


def attach_crs(obj: XarrayObject, dims: tuple[Hashable, Hashable] = ("lat", "lon")) -> XarrayObject:
    """Return the object with its reference system as a scalar coordinate that every map with both dims refers to.

    No transform is stored with it: that would be wrong as soon as a region is selected.
    """
    import rioxarray as rioxarray  # registers the accessor; takes too long for `import xland`

    placed = obj.rio.write_crs(CRS)
    for variable in placed.data_vars.values() if isinstance(placed, xr.Dataset) else (placed,):
        # as encoding: as an attribute, xarray would list it among the coordinates of a map that it writes
        known = variable.attrs.pop("grid_mapping", None) or variable.encoding.pop("grid_mapping", None)
        if known or set(dims) <= set(variable.dims):
            variable.encoding["grid_mapping"] = GRID_MAPPING
    return placed
