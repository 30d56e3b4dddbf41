"""Bring two maps of class codes onto the same cells and the same years, by label and without reading.

Everything is said in the frame of the observed map: an :class:`Overlap` holds the rows and columns
of both maps that show the same places, whatever part of the globe each of them covers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr

from xland.errors import GridError, RegionError, TimeError
from xland.grid import Grid
from xland.orientation import orient

OFF_LATTICE = 0.05
"""Share of a cell by which two grids may be apart and still count as the same cells."""


@dataclass(frozen=True)
class ClassMap:
    """A map in canonical order, with its grid and years.

    Parameters
    ----------
    data : DataArray with dimensions time, lat, lon
        Still lazy where the caller's array was.
    grid : Grid
    years : tuple of int or None
        One for each time step; None where the map does not say its year.
    what : str
        What the map is, for messages.
    """

    data: xr.DataArray
    grid: Grid
    years: tuple[int | None, ...]
    what: str


@dataclass(frozen=True)
class Overlap:
    """The rows and columns of two maps that show the same places."""

    rows: slice
    columns: slice
    predicted_rows: slice
    predicted_columns: slice


def as_map(obj: xr.DataArray | xr.Dataset, *, what: str) -> ClassMap:
    """Return a map in canonical order, without reading it.

    Parameters
    ----------
    obj : DataArray or Dataset
        Any order and names of dimensions; of a Dataset the variable ``land_use`` is taken.
    what : str
        What the map is, for messages.

    Raises
    ------
    GridError
        If the map has other dimensions than time, latitude and longitude, or no regular grid.
    """
    if isinstance(obj, xr.Dataset):
        if "land_use" not in obj:
            raise GridError(f"the {what} is a Dataset without `land_use`; pass the variable that holds class codes")
        obj = obj["land_use"]
    data, _ = orient(obj, what=what)
    spare = [str(dim) for dim in data.dims if dim not in {"time", "lat", "lon"}]
    long = [f"{dim} ({data.sizes[dim]})" for dim in spare if data.sizes[dim] > 1]
    if long:
        raise GridError(
            f"the {what} has the dimensions {', '.join(long)} beside time, lat and lon; select one step of each, "
            "and pass class codes rather than probabilities"
        )
    data = data.isel(dict.fromkeys(spare, 0), drop=True)
    years = years_of(data)
    if "time" not in data.dims:
        if data.chunks is None and data.dtype != object:
            data = data.chunk("auto")  # or else a stored map would be read for its new dimension
        data = data.drop_vars("time", errors="ignore").expand_dims("time")
    data = data.transpose("time", "lat", "lon")
    return ClassMap(data, Grid.from_centres(data["lat"].values, data["lon"].values), years, what)


def years_of(data: xr.DataArray) -> tuple[int | None, ...]:
    """Return the calendar year of each time step of a map in canonical order; None where it does not say."""
    if "time" not in data.coords:
        return (None,) * data.sizes.get("time", 1)
    time = data["time"]
    if time.dtype.kind == "M":
        values = time.dt.year.values
    elif time.dtype.kind == "O":
        values = np.array([getattr(step, "year", step) for step in np.atleast_1d(time.values)])
    else:
        values = time.values
    return tuple(int(year) for year in np.atleast_1d(values))


def pair_years(predicted: ClassMap, observed: ClassMap, *, match_years: bool) -> list[tuple[int, int]]:
    """Return the positions in time, predicted and observed, that belong together.

    Two maps of one step each are compared even if their years differ, unless ``match_years``;
    otherwise the years that both have.

    Raises
    ------
    TimeError
        If no step of one belongs to a step of the other.
    """
    if len(predicted.years) == len(observed.years) == 1 and (
        not match_years or None in predicted.years + observed.years
    ):
        return [(0, 0)]
    if None in predicted.years or None in observed.years:
        raise TimeError("maps of several time steps need calendar years along `time` to be compared")
    common = [year for year in predicted.years if year in observed.years]
    if not common:
        hint = "pass match_years=False to compare them all the same" if match_years else "select one step of each"
        raise TimeError(
            f"the {predicted.what} ({_span(predicted.years)}) and the {observed.what} ({_span(observed.years)}) "
            f"have no year in common; {hint}"
        )
    return [(predicted.years.index(year), observed.years.index(year)) for year in common]


def _span(years: Sequence[int | None]) -> str:
    return f"{years[0]}" if len(years) == 1 else f"{len(years)} years, {years[0]} to {years[-1]}"


def overlaps(predicted: ClassMap, observed: ClassMap) -> list[Overlap]:
    """Return where two maps show the same cells: one piece, or two if one of them passes the date line.

    Raises
    ------
    GridError
        If the cells differ in size or do not coincide.
    RegionError
        If the maps have no cell in common.
    """
    fine, reference = predicted.grid, observed.grid
    size = reference.resolution
    longest = max(*fine.shape, *reference.shape)
    if abs(fine.resolution / size - 1) * longest > OFF_LATTICE:
        raise GridError(
            f"the {predicted.what} has cells of {fine.resolution:g} degrees and the {observed.what} of {size:g}; "
            "aggregate or regrid one of them first"
        )
    down = _whole((reference.north - fine.north) / size, "latitude", predicted, observed)
    right = _whole((fine.west - reference.west) / size, "longitude", predicted, observed)
    top, bottom = max(0, down), min(reference.rows, down + fine.rows)
    around = round(360 / size)
    turns = (-around, 0, around) if abs(360 / size - around) < OFF_LATTICE else (0,)
    found = []
    for turn in turns:
        left, end = max(0, right + turn), min(reference.columns, right + turn + fine.columns)
        if left < end and top < bottom:
            found.append(
                Overlap(
                    slice(top, bottom),
                    slice(left, end),
                    slice(top - down, bottom - down),
                    slice(left - right - turn, end - right - turn),
                )
            )
    if not found:
        raise RegionError(
            f"the {predicted.what} ({fine}) and the {observed.what} ({reference}) have no cell in common; "
            "check the region of both"
        )
    return found


def _whole(offset: float, direction: str, predicted: ClassMap, observed: ClassMap) -> int:
    nearest = round(offset)
    if abs(offset - nearest) > OFF_LATTICE:
        raise GridError(
            f"cells of the {predicted.what} lie {abs(offset - nearest):.2f} cells beside those of the "
            f"{observed.what} in {direction}; bring one onto the other's grid by nearest neighbour first"
        )
    return nearest
