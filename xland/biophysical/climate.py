"""Monthly temperature and precipitation: today's or a user's own, and their values at the cells of the season.

Climate may have any latitudes and longitudes that form a grid, evenly spaced or not. The season is computed on *cells*:
those of 0.25 degree that count from 90 N and 180 W, or those of the map where these are larger. A cell gets the climate
at its centre, interpolated bilinearly, and all pixels with their centre in it have that climate. So the value of a
pixel depends neither on blocks nor on the region, and shares of pixels that are averaged within a cell have the same
climate.
"""

from __future__ import annotations

import calendar
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import dask.array as da
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from xland.arguments import shown
from xland.datasets import monthly_climate
from xland.errors import ClimateError, GridError, TimeError
from xland.geo.conventions import listed, years_along
from xland.geo.grid import Grid, check_centres
from xland.geo.orientation import check_reference, find_horizontal, find_names
from xland.reading.limits import Limits, ValueProblem, out_of_limits
from xland.reading.variables import read_values, without_extra

CELL = 0.25
"""Degrees along a cell of the season, where pixels of the map are not larger."""

TODAY = (1979, 2014)
"""Years of which today's temperature is the mean; its precipitation is on land that of 1951 to 2000."""

VARIABLES: Mapping[str, str] = {"tas": "air_temperature", "pr": "precipitation_flux"}
"""Names in CMIP of what is read, and their CF standard names, by which they are found under other names."""

_LIMITS = {
    "tas": Limits(-100.0, 60.0),
    "pr": Limits(-0.01, 10_000.0),
}  # degrees Celsius; mm a month, a little below 0 after regridding
_UNITS = {"tas": "K or degC", "pr": "kg m-2 s-1, mm/day or mm/month"}
_KELVIN = ("k", "kelvin", "degk", "deg_k", "degree_kelvin", "degrees_kelvin")
_CELSIUS = ("c", "degc", "deg_c", "°c", "celsius", "degree_c", "degrees_c", "degree_celsius", "degrees_celsius")
_A_SECOND = ("kg m-2 s-1", "kg/m2/s", "kg/(m2 s)", "kg/(m2*s)", "mm s-1", "mm/s")
_A_DAY = ("mm day-1", "mm d-1", "mm/day", "mm/d", "kg m-2 day-1", "kg m-2 d-1", "kg/m2/day")
_A_MONTH = ("mm month-1", "mm mon-1", "mm/month", "mm/mon", "kg m-2 month-1", "kg/m2/month")
_IN_ALL = ("mm", "kg m-2", "kg/m2")  # of a month where cell_methods say that it is a sum
_MONTH_DAYS = tuple(calendar.monthrange(2001, month)[1] for month in range(1, 13))


class Step(NamedTuple):
    """Year (None of a mean over years), month from 1, and days in it, of a time step."""

    year: int | None
    month: int
    days: int


@dataclass(frozen=True, eq=False)
class Climate:
    """Monthly climate, lazily.

    Parameters
    ----------
    values : dask array (steps, 2, latitudes, longitudes)
        Degrees Celsius, and mm in the month; NaN where there are no data.
    latitude, longitude : arrays
        Ascending degrees; longitudes of a globe have the first and the last once more on the other side.
    steps : tuple of Step
    period : (first, last year), optional
        Of which the climate is the mean; None of single years, and where the climate does not say it.
    given : Dataset
        What it was read from.
    """

    values: da.Array
    latitude: NDArray[np.float64]
    longitude: NDArray[np.float64]
    steps: tuple[Step, ...]
    period: tuple[int, int] | None
    given: xr.Dataset

    @property
    def is_mean(self) -> bool:
        """Whether the climate is a mean over years, for all maps."""
        return self.steps[0].year is None

    def of_year(self, year: int | None) -> da.Array:
        """Return the months of a year, or with None the mean of all years, (24, latitudes, longitudes).

        These are the twelve of the temperature, and then those of the precipitation. Raises :class:`ClimateError` if a
        month is missing.
        """
        years = sorted({step.year for step in self.steps if step.year is not None})
        if not self.is_mean and year is not None:
            if year not in years:
                raise ClimateError(
                    f"the climate has no months of {year}, the year of a map, but those of {listed(years)}: give that "
                    "year, choose maps with years=, or take a mean for all maps, climate.groupby('time.month').mean()"
                )
            years = [year]
        places = [self._months_of(each) for each in ([None] if self.is_mean else years)]
        chosen = da.stack([self.values[each] for each in places]).mean(axis=0) if len(places) > 1 else (
            self.values[places[0]]
        )  # fmt: skip
        return chosen.swapaxes(0, 1).reshape(24, *chosen.shape[2:])

    def _months_of(self, year: int | None) -> list[int]:
        there = {step.month: place for place, step in enumerate(self.steps) if step.year == year}
        missing = sorted(set(range(1, 13)) - there.keys())
        if missing:
            when = "" if year is None else f" of {year}"
            raise ClimateError(
                f"the climate lacks {len(missing)} months{when} ({', '.join(map(str, missing))}): the season needs all "
                "twelve; add them, or leave that year out"
            )
        return [there[month] for month in range(1, 13)]

    def frame(self, grid: Grid) -> Frame:
        """Return where the cells of a map's pixels are in the climate; ClimateError if it does not cover the map."""
        step = max(CELL, grid.resolution)
        corner = (grid.north, grid.west) if grid.resolution > CELL else (90.0, -180.0)
        frame = Frame(step, *corner, self.latitude, self.longitude)
        for name, centres, axis in (
            ("latitude", grid.latitude, self.latitude),
            ("longitude", frame.ring(grid.longitude), self.longitude),
        ):
            low, high = axis[0] - (axis[1] - axis[0]) / 2, axis[-1] + (axis[-1] - axis[-2]) / 2
            outside = (centres < low - 1e-4) | (centres > high + 1e-4)
            if outside.any():
                count = int(outside.sum()) * (grid.columns if name == "latitude" else grid.rows)
                raise ClimateError(
                    f"the climate does not cover the map: {count} of {grid.rows * grid.columns} cells are outside its "
                    f"{name}s {low:g} to {high:g}; give climate for {grid}, or cut the map"
                )
        return frame


@dataclass(frozen=True, eq=False)
class Frame:
    """Cells of the season, ``step`` degrees from an edge in the north and in the west, and where they are in a climate.

    ``latitude`` and ``longitude`` are those of :class:`Climate`.
    """

    step: float
    north: float
    west: float
    latitude: NDArray[np.float64]
    longitude: NDArray[np.float64]

    def ring(self, longitude: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return longitudes within half a turn of the middle of the climate's."""
        start = (self.longitude[0] + self.longitude[-1]) / 2 - 180
        turned: NDArray[np.float64] = (longitude - start) % 360 + start
        return turned

    def cells(self, latitude: NDArray[np.float64], longitude: NDArray[np.float64]) -> Cells:
        """Return the cells that pixels with these centres (degrees, north first) lie in."""
        rows = np.floor((self.north - latitude) / self.step + 1e-6).astype(np.intp)
        columns = np.floor((longitude - self.west) / self.step + 1e-6).astype(np.intp)
        top, left = rows.min(), columns.min()
        lats = self.north - (np.arange(top, rows.max() + 1) + 0.5) * self.step
        lons = self.west + (np.arange(left, columns.max() + 1) + 0.5) * self.step
        down, across = _between(self.latitude, lats), _between(self.longitude, self.ring(lons))
        return Cells(rows - top, columns - left, (lats, lons), down, across)


class Between(NamedTuple):
    """Places on an axis: the positions below them, and the weight of the next one."""

    below: NDArray[np.intp]
    weight: NDArray[np.float32]

    @property
    def needed(self) -> NDArray[np.intp]:
        """Positions of the axis that are read, ascending."""
        return np.unique([self.below, self.below + 1])

    def at(self, values: NDArray[Any], axis: int) -> NDArray[Any]:
        """Interpolate values at the needed positions along one of the last two axes, -1 or -2."""
        places = np.searchsorted(self.needed, self.below)
        weight = self.weight if axis == -1 else self.weight[:, None]
        lower, upper = (np.take(values, places + more, axis=axis) for more in (0, 1))
        found: NDArray[Any] = lower * (1 - weight) + upper * weight
        return found


class Cells(NamedTuple):
    """Cells of some pixels: row and column of the cell of each pixel, centres of cells, their place in a climate."""

    rows: NDArray[np.intp]
    columns: NDArray[np.intp]
    centres: tuple[NDArray[np.float64], NDArray[np.float64]]
    down: Between
    across: Between

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of cells."""
        return len(self.down.below), len(self.across.below)

    def any_of(self, pixels: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Return which cells have any of the pixels (rows, columns)."""
        starts = (np.searchsorted(each, np.arange(n)) for each, n in zip(self[:2], self.shape, strict=True))
        by_row, by_column = starts
        return np.asarray(np.logical_or.reduceat(np.logical_or.reduceat(pixels, by_row, axis=0), by_column, axis=1))

    def interpolate(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return climate (layers, rows, columns) at the centres from that at the needed positions.

        Positions without data do not count; NaN where all four around a centre have none. Raises :class:`ClimateError`
        where a variable has data in some months only.
        """
        missing: Any = np.isnan(values).reshape(2, 12, *values.shape[1:])
        some = missing.any(axis=1) & ~missing.all(axis=1)
        if some.any():
            raise ClimateError(
                f"{int(some.any(axis=0).sum())} cells of the climate have data in some months and none in others: the "
                "season needs all twelve; fill them, or mask these cells in all months"
            )
        known = ~missing.any(axis=(0, 1))[None]
        if known.all():
            return self.across.at(self.down.at(values, -2), -1)
        share = self.across.at(self.down.at(known.astype(np.float32), -2), -1)
        summed = self.across.at(self.down.at(np.where(known, values, np.float32(0)), -2), -1)
        return np.divide(summed, share, out=np.full_like(summed, np.nan), where=share > 1e-6)


def read_climate(given: xr.Dataset | None) -> Climate:
    """Read monthly climate, today's where none is given; no value is read.

    Parameters
    ----------
    given : Dataset, optional
        ``tas`` and ``pr``, named so or by their CF standard names, over time, or over ``month`` where it is a mean over
        years; with latitude and longitude in any order and range. Their ``units`` must say what they are. Dates may be
        of any calendar.

    Raises
    ------
    ClimateError
        If a variable is missing, its units are not understood, the two do not fit each other, or steps are not months.
    GridError, TimeError
        If latitude, longitude or time cannot be read.
    """
    climate = monthly_climate() if given is None else given
    if not isinstance(climate, xr.Dataset):
        raise ClimateError(f"climate must be a Dataset with tas and pr, not {type(climate).__name__}")
    check_reference(climate, "climate")
    found = {name: _find(climate, name) for name in VARIABLES}
    latitude, longitude = find_horizontal(climate[found["tas"]], what="climate")
    steps, along = _steps_of(climate[found["tas"]])
    dims = (along, latitude.dimension, longitude.dimension)
    axes = [np.asarray(climate[each.coordinate].values, np.float64) for each in (latitude, longitude)]
    for values, name in zip(axes, ("latitude", "longitude"), strict=True):
        try:
            check_centres(values, name)
        except GridError as error:
            raise GridError(f"climate: {error}") from None
    south_first, eastward = np.argsort(axes[0]), _eastward(axes[1])
    layers = []
    for name, variable in found.items():
        what = f"climate: {variable}"
        array = without_extra(climate[variable], dims, what, ClimateError)
        if set(array.dims) != set(dims):
            raise ClimateError(
                f"{what} has the dimensions {', '.join(map(str, array.dims))}, not {', '.join(map(str, dims))} as tas "
                "has: bring both to the same grid and months"
            )
        array = read_values(array, what=what, error=ClimateError).transpose(*dims)
        array = array.chunk({along: 12}) if array.chunks is None else array
        scale, offset = _conversion(name, array.attrs, steps, what)
        chosen = array.data[:, south_first][:, :, eastward].astype(np.float32)
        layers.append(chosen * scale.astype(np.float32)[:, None, None] + np.float32(offset))
    degrees = np.unwrap(axes[1][eastward], period=360)
    period = TODAY if given is None else _period_of(steps)
    return Climate(
        da.stack(layers, axis=1), axes[0][south_first], degrees, steps, period, climate[list(found.values())]
    )


def check_climate(values: NDArray[np.float32], used: NDArray[np.bool_], place: tuple[Any, Any]) -> None:
    """Refuse climate (24, rows, columns) that is missing or impossible in cells that are used; ClimateError names it.

    ``place`` are latitudes and longitudes of the cells.
    """
    problems = []
    for name, months in (("tas", values[:12]), ("pr", values[12:])):
        for extreme in (np.fmin, np.fmax):
            problems += [*out_of_limits(f"climate: {name}", extreme.reduce(months), _LIMITS[name], place, used)]
    missing = np.isnan(values).any(axis=0) & used
    if missing.any():
        fault = "of the climate on land have no data in some month"
        remedy = "fill them from cells nearby, or cut the map"
        problems.insert(0, ValueProblem.at("climate", missing, place, fault, remedy))
    if problems:
        raise ClimateError(problems[0].sentence)


def _find(climate: xr.Dataset, name: str) -> str:
    """Return what a variable is called in a climate."""
    if name in climate.data_vars:
        return name
    standard = [str(each) for each in climate.data_vars if climate[each].attrs.get("standard_name") == VARIABLES[name]]
    if len(standard) == 1:
        return standard[0]
    there = ", ".join(map(str, climate.data_vars)) or "nothing"
    raise ClimateError(
        f"climate has {'no' if not standard else 'several'} {name} (standard_name {VARIABLES[name]}); it has {there}: "
        f"rename the variable to {name}"
    )


def _conversion(
    name: str, attributes: Mapping[str, Any], steps: tuple[Step, ...], what: str
) -> tuple[NDArray[np.float64], float]:
    """Return factors of the steps and a sum that give degrees Celsius, or mm in the month; ClimateError if untold."""
    units = " ".join(str(attributes.get("units") or "").lower().replace("**", "").replace("^", "").split())
    days, one = np.array([step.days for step in steps], np.float64), np.ones(len(steps))
    if name == "tas":
        if units in _KELVIN:
            return one, -273.15
        if units in _CELSIUS:
            return one, 0.0
    else:
        if units in _A_SECOND:
            return 86_400 * days, 0.0
        if units in _A_DAY:
            return days, 0.0
        if units in _A_MONTH or (units in _IN_ALL and re.search(r"time:\s*sum", str(attributes.get("cell_methods")))):
            return one, 0.0
    said = f"the units {shown(attributes['units'])} are not understood" if units else "it has no attribute `units`"
    raise ClimateError(
        f"{what}: {said}, so nobody can tell what its numbers are; give {_UNITS[name]}: "
        f"climate[{name!r}] = climate[{name!r}].assign_attrs(units='...')"
    )


def _steps_of(array: xr.DataArray) -> tuple[tuple[Step, ...], Any]:
    """Return year and month of each step, and the dimension along which they are."""
    time = find_names(array, "time", what="climate")
    if time is None:
        month = next((name for name, each in array.coords.items() if str(name).lower() == "month" and each.ndim), None)
        numbers = [] if month is None else array[month].values.tolist()
        if not numbers or len(set(numbers)) < len(numbers) or not set(numbers) <= set(range(1, 13)):
            raise ClimateError(
                "the climate has neither time nor a coordinate `month` with numbers from 1 to 12, once each"
            )
        return tuple(Step(None, int(each), _MONTH_DAYS[int(each) - 1]) for each in numbers), array[month].dims[0]
    if time.coordinate is None:
        raise TimeError(
            f"climate: the time dimension {time.dimension!r} has no coordinate: give the dates of its months"
        )
    steps = _months_along(array[time.coordinate])
    twice = sorted({(step.year, step.month) for step in steps if steps.count(step) > 1})
    if twice:
        year, month = twice[0]
        raise ClimateError(
            f"the climate has several steps in {len(twice)} months, the first is {year}-{month:02d}: give means of "
            "months, ds.resample(time='MS').mean() (of precipitation in mm the sum)"
        )
    return steps, time.dimension


def _months_along(time: xr.DataArray) -> tuple[Step, ...]:
    """Return year, month and days in the month of each date; of any calendar that cftime knows."""
    years = years_along(time)  # refuses what is not a time
    values, units = np.atleast_1d(time.values), str(time.attrs.get("units", ""))
    if values.dtype.kind == "M":
        months = values.astype("datetime64[M]").astype(int) % 12 + 1
        return tuple(Step(y, int(m), calendar.monthrange(y, int(m))[1]) for y, m in zip(years, months, strict=True))
    if values.dtype.kind != "O":
        import cftime

        try:
            values = np.ravel(cftime.num2date(values, units, str(time.attrs.get("calendar", "standard"))))
        except (ValueError, OverflowError):
            raise TimeError(
                f"climate: {time.name!r} ({units or 'without units'}) does not say the months of its steps; give "
                "dates, such as 'days since 1850-01-01'"
            ) from None
    return tuple(Step(int(each.year), int(each.month), int(each.daysinmonth)) for each in values)


def _period_of(steps: tuple[Step, ...]) -> tuple[int, int] | None:
    years = [step.year for step in steps if step.year is not None]
    return (min(years), max(years)) if years else None


def _eastward(longitude: NDArray[np.float64]) -> NDArray[np.intp]:
    """Order longitudes eastwards from the end of their gap; on a globe the last and first are there twice."""
    order = np.argsort(longitude % 360, kind="stable")
    turned = (longitude % 360)[order]
    gaps = np.diff(turned, append=turned[0] + 360)
    if gaps.min() < 1e-4:
        raise GridError("climate: two longitudes are the same meridian; drop one, for example with isel(lon=slice(-1))")
    order = np.roll(order, -int(gaps.argmax()) - 1)
    whole = gaps.max() <= 1.5 * float(np.median(gaps))
    return np.concatenate([order[-1:], order, order[:1]]) if whole else order


def _between(axis: NDArray[np.float64], places: NDArray[np.float64]) -> Between:
    """Find places on an ascending axis; those before or after it are at its ends."""
    below = np.clip(np.searchsorted(axis, places, side="right") - 1, 0, len(axis) - 2)
    weight = np.clip((places - axis[below]) / (axis[below + 1] - axis[below]), 0, 1)
    return Between(below, weight.astype(np.float32))
