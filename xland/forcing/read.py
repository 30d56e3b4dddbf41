"""Coarse land-use states of any LUH2-like Dataset, brought to the canonical form.

Sources
-------
LUH2 v2h and its futures: Hurtt et al. (2020), doi 10.5194/gmd-13-5425-2020. LUH3: input4MIPs
``UofMD-landState-3-*``. Both hold fractions of the grid cell, water included; LUH2 counts time in
``years since 850-01-01`` on a 365-day calendar, LUH3 in ``days since``.

The management variables ``crpbf_*`` and ``crpbf2_*`` (LUH2), ``cpbf1_*`` and ``cpbf2_*`` (LUH3) are
shares of a crop state that is grown as biofuel: they are part of the state already and are never
added. Files that hold the biofuel area of a crop as a state of its own (``c4per_bf``,
``c4per_biofuel_2nd_gen`` and the like) have it added to the crop state.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from xland.errors import ForcingError, GridError, TimeError
from xland.geo.coordinates import bounds_name, check_reference
from xland.geo.grid import Grid
from xland.geo.orientation import Orientation, orient
from xland.geo.years import check_years, decode_years, listed, missing_years
from xland.outputs import OUTPUTS
from xland.reading.limits import ROUNDING, ValueProblem, beyond_remedy, check_units, limits_of
from xland.reading.variables import check_array, read_values, without_extra
from xland.vocabulary import CROP_STATES, LUH2_STATES, LUH3_STATES, LUH_SECONDARY

SUM_TOLERANCE = 1e-3
"""By how much the states of a cell may sum to more than 1."""

LATTICE_TOLERANCE = 0.01
"""Share of a cell by which the edges of a forcing may lie off the lattice that counts from 90 N and 180 W."""

_VARIANT = re.compile(
    r"^(?P<crop>" + "|".join(CROP_STATES) + r")_?(?:bf|biof|biofuel)(?:_?(?:[12]|1st|2nd))?(?:_?gen)?$"
)


@dataclass(frozen=True)
class Forcing:
    """Coarse states in the canonical form.

    Parameters
    ----------
    data : Dataset
        Lazy; dimensions ``time`` (calendar years), ``lat`` (descending), ``lon`` (ascending); float32, NaN where
        there is no data.
    grid : Grid
    years : tuple of int
    orientation : Orientation
        For bringing results back to the caller's order and names.
    """

    data: xr.Dataset
    grid: Grid
    years: tuple[int, ...]
    orientation: Orientation


def read_forcing(ds: xr.Dataset, *, variables: Sequence[str] | None = None, year: int | None = None) -> Forcing:
    """Bring coarse states to the canonical form, checking their structure but never reading a value.

    Parameters
    ----------
    ds : Dataset
        As the file was released, decoded or not, in any order and range of latitude and longitude.
    variables : sequence of str, optional
        Names that must be there; by default the twelve states of LUH2. ``pltns``, ``secma`` and
        ``secmb`` are kept as well where they are there.
    year : int, optional
        The year of a Dataset that has no time dimension and does not say its year.

    Returns
    -------
    Forcing
        With dask arrays: the caller's chunks, or one year of the whole grid where there were none.

    Raises
    ------
    ForcingError
        What is no Dataset; a variable that is missing, has other dimensions or is in percent.
    TimeError
        Years that cannot be decoded, lie outside 850 to 2500, are duplicate or unsorted, or lie as those
        of joined files do: see :func:`xland.geo.years.check_years`. Gaps are allowed: see :func:`require_years`.
    GridError
        Coordinates that are not a regular grid.
    """
    required = LUH2_STATES if variables is None else tuple(variables)
    sources = find_sources(ds, required)
    missing = [name for name in required if name not in sources]
    if missing:
        raise ForcingError(_missing_message(ds, missing))
    optional = [name for name in (*LUH3_STATES, *LUH_SECONDARY) if name not in sources]
    sources.update(find_sources(ds, optional))
    check_reference(ds, "forcing")
    for name, parts in sources.items():
        for part in parts:
            check_state(ds[part], name)
    kept = ds[[name for names in sources.values() for name in names]]
    oriented, orientation = orient(kept, what="forcing")
    _refuse_taken(orientation)
    years = decode_years(oriented, orientation.time, year)
    if not years:
        raise TimeError("the forcing has a time dimension without a single step")
    check_years(years)
    data = canonical_states(oriented, sources, years)
    return Forcing(data=data, grid=orientation.grid, years=years, orientation=orientation)


_TAKEN = frozenset({"class", "class_name", "bnds", "spatial_ref"})
"""Names that results have besides their variables and the coordinates that they take over from the forcing."""


def _refuse_taken(orientation: Orientation) -> None:
    found = {"time": orientation.time, "lat": orientation.latitude, "lon": orientation.longitude}
    bounds = {bounds_name(names.dimension) for names in found.values() if names is not None}
    for kind, names in found.items():
        taken = _TAKEN | OUTPUTS.keys() | bounds | ({"time", "year"} if kind != "time" else set())
        wrong = [] if names is None else [each for each in (names.dimension, names.coordinate) if each in taken]
        if wrong:
            raise GridError(
                f"forcing: a coordinate is called {wrong[0]!r}, as something in the result is; rename it: "
                f"ds.rename({{{wrong[0]!r}: {kind!r}}}) or as fits"
            )


def require_dataset(ds: object) -> None:
    """Refuse a forcing that is no Dataset, such as one of its variables or the path of its file."""
    if not isinstance(ds, xr.Dataset):
        raise ForcingError(
            f"the forcing is a {type(ds).__name__}; pass a Dataset with a variable for each state, as "
            "xarray.open_dataset returns it, or array.to_dataset(name='primf') of a single state"
        )


def find_sources(ds: xr.Dataset, names: Sequence[str]) -> dict[str, list[Hashable]]:
    """Which variables of the Dataset make up each state: the state itself and its biofuel variants."""
    require_dataset(ds)
    sources: dict[str, list[Hashable]] = {name: [name] for name in names if name in ds.data_vars}
    for variable in sorted(ds.data_vars, key=str):
        found = _VARIANT.match(str(variable))
        if found and found["crop"] in names:
            sources.setdefault(found["crop"], []).append(variable)
    return {name: sources[name] for name in names if name in sources}


def check_state(array: xr.DataArray, state: str) -> None:
    """Refuse what is no array of numbers, and units of percent, by name; no value is looked at.

    Raises
    ------
    ForcingError
    """
    check_array(array, str(array.name), ForcingError)
    check_units(str(array.name), array.attrs.get("units"), ForcingError, fraction=state not in LUH_SECONDARY)


def canonical_states(
    oriented: xr.Dataset, sources: Mapping[str, Sequence[Hashable]], years: Sequence[int]
) -> xr.Dataset:
    """Masked float32 states over ``time``, ``lat``, ``lon`` from an oriented Dataset; lazy."""
    states = {}
    for name, variables in sources.items():
        parts = [_masked(oriented[variable], len(years)) for variable in variables]
        total = parts[0]
        for part in parts[1:]:
            total = total + part
        states[name] = total.rename(name).assign_attrs(parts[0].attrs)
    coordinates = {name: oriented[name] for name in ("lat", "lon")}
    time = ("time", np.asarray(years, dtype=np.int64), {"long_name": "calendar year"})
    return xr.Dataset(
        {name: (("time", "lat", "lon"), array.data, array.attrs) for name, array in states.items()},
        coords={"time": time, **coordinates},
        attrs=oriented.attrs,
    )


def _masked(array: xr.DataArray, steps: int) -> xr.DataArray:
    """One variable as float32 in dask chunks, with NaN for its fill values."""
    name = str(array.name)
    if "lat" not in array.dims or "lon" not in array.dims:
        raise ForcingError(
            f"{name}: has the dimensions {', '.join(map(str, array.dims))}; states need time, latitude and longitude"
        )
    if "time" not in array.dims and steps > 1:
        raise ForcingError(
            f"{name}: has no time dimension, while other variables have {steps} years; give it one for each year, or "
            "select one year of all: ds.isel(time=[0])"
        )
    array = without_extra(array, ("time", "lat", "lon"), name, ForcingError)
    if array.chunks is None:
        array = array.chunk({d: 1 if d == "time" else -1 for d in array.dims})
    values = read_values(array, what=name, error=ForcingError)
    if "time" not in values.dims:
        values = values.expand_dims("time")
    return values.astype(np.float32)


def _missing_message(ds: xr.Dataset, missing: Sequence[str]) -> str:
    found = ", ".join(map(str, ds.data_vars)) or "none"
    spelt = {str(name).lower(): name for name in ds.data_vars}
    other = [f"{spelt[name]} for {name}" for name in missing if name in spelt]
    return f"{len(missing)} of the variables needed are missing: {', '.join(missing)}; variables found: {found}; " + (
        f"rename {', '.join(other)}" if other else "rename yours, or add them from the same release"
    )


def require_years(forcing: Forcing, years: Sequence[int]) -> None:
    """Refuse, naming them, years that the forcing does not hold.

    Raises
    ------
    TimeError
    """
    missing = sorted({int(y) for y in years} - set(forcing.years))
    if missing:
        gaps = missing_years(forcing.years)
        raise TimeError(
            f"{len(missing)} of the years asked for are not in the forcing: {listed(missing)}; it holds "
            f"{forcing.years[0]} to {forcing.years[-1]}"
            + (f" without {listed(gaps)}" if gaps else "")
            + "; choose others with years=, or add the years that are missing"
        )


def check_values(
    states: Mapping[str, NDArray[Any]], latitude: NDArray[Any], longitude: NDArray[Any], year: int
) -> None:
    """Refuse values that would give a wrong map.

    Parameters
    ----------
    states : mapping of str to (rows, columns) array
        Fractions of the cell in one year, NaN where there is no data; also ``secma`` and ``secmb``,
        of which only infinities and negative values are refused.
    latitude : (rows,) array
    longitude : (columns,) array
        Degrees of the cell centres.
    year : int
        For the message.

    Raises
    ------
    ForcingError
        Naming variable, place, number of cells and remedy: infinities; NaN in some states of a cell but not
        in all (a cell that is NaN in all is ocean or no data); values below 0 or above 1; sums above 1.
    """
    problems = value_problems(states, latitude, longitude)
    if problems:
        first, rest = problems[0], len(problems) - 1
        more = f" ({rest} more kinds of fault: see check())" if rest else ""
        raise ForcingError(replace(first, fault=f"{first.fault} in {year}").sentence + more)


def check_coverage(
    states: Mapping[str, NDArray[Any]],
    expected: NDArray[np.bool_],
    latitude: NDArray[Any],
    longitude: NDArray[Any],
    year: int,
) -> None:
    """Refuse cells without data where the model relies on data: the map would be invented there.

    Parameters
    ----------
    states : mapping of str to (rows, columns) array
        Fractions of the cell in one year, NaN where there is no data; ``secma`` and ``secmb`` do not count.
    expected : (rows, columns) array of bool
        Cells that had data when the model was trained and that hold land.
    latitude : (rows,) array
    longitude : (columns,) array
        Degrees of the cell centres.
    year : int
        For the message.

    Raises
    ------
    ForcingError
        Naming the number of cells, the first of them, the year and the remedy.
    """
    empty = without_data(states, expected)
    if empty.any():
        row, column = np.unravel_index(int(empty.argmax()), empty.shape)
        raise ForcingError(
            f"all states: {int(np.count_nonzero(empty))} cells that hold land, and had data when the model was "
            f"trained, are NaN in {year}, the first at latitude {float(latitude[row]):g}, longitude "
            f"{float(longitude[column]):g}; fill these cells, set land_share of the static Dataset to 0 there, or "
            "choose a region without them"
        )


def without_data(states: Mapping[str, NDArray[Any]], expected: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return which of the expected cells are NaN in every state; shapes as in :func:`check_coverage`."""
    empty = np.array(expected, dtype=bool)
    for name, values in states.items():
        if name not in LUH_SECONDARY:
            empty &= np.isnan(values)
    return empty


def check_lattice(grid: Grid) -> None:
    """Refuse a grid whose edges lie between the cells of the world's grid of that resolution.

    Rows are counted from 90 N and columns from 180 W, so that maps of any region fall on the same cells.

    Raises
    ------
    GridError
        Where either edge is off by more than a hundredth of a cell; the message says by how much.
    """
    cells = {"northern": (90 - grid.north) / grid.resolution, "western": (grid.west + 180) / grid.resolution}
    off = {side: abs(number - round(number)) for side, number in cells.items()}
    wrong = [
        f"its {side} edge ({edge:g}) lies {off[side]:.2g} of a cell ({off[side] * grid.resolution:.3g} degree) off"
        for side, edge in (("northern", grid.north), ("western", grid.west))
        if off[side] > LATTICE_TOLERANCE
    ]
    if wrong:
        half = any(part >= 0.5 - LATTICE_TOLERANCE for part in off.values())
        raise GridError(
            f"the grid ({grid}) is not part of the world's {grid.resolution:g} degree grid, whose cells count from "
            f"90 N and 180 W: {' and '.join(wrong)}; regrid the forcing to that grid by area"
            + (", or, if its coordinates are edges of cells, move them to the centres" if half else "")
        )


def value_problems(
    states: Mapping[str, NDArray[Any]], latitude: NDArray[Any], longitude: NDArray[Any]
) -> list[ValueProblem]:
    """Return what :func:`check_values` refuses, all of it; the parameters are the same."""
    problems: list[ValueProblem] = []
    place = latitude, longitude

    def add(variable: str, bad: NDArray[np.bool_], fault: str, remedy: str) -> None:
        problems.append(ValueProblem.at(variable, bad, place, fault, remedy))

    fractions = {name: np.asarray(values) for name, values in states.items() if name not in LUH_SECONDARY}
    secondary = {name: np.asarray(values) for name, values in states.items() if name in LUH_SECONDARY}
    shape = (len(latitude), len(longitude))
    total = np.zeros(shape)
    counted = np.ones(shape, dtype=bool)
    for name, values in {**fractions, **secondary}.items():
        limits = limits_of(name, fraction=name in fractions)
        infinite = np.isinf(values)
        if infinite.any():
            add(name, infinite, "infinite", "find where they come from; no data is NaN or a declared fill value")
        low = (values < -ROUNDING) & ~infinite
        if low.any():
            remedy = "no share, age or biomass can be negative; correct the source"
            add(name, low, f"below 0 (lowest {values[low].min():g})", remedy)
        high = (values > limits.highest + ROUNDING) & ~infinite
        if high.any():
            highest = float(values[high].max())
            add(name, high, f"above {limits.highest:g} (highest {highest:g})", beyond_remedy(highest, limits))
        if name in fractions:
            total += np.where(np.isfinite(values), values, 0)
            counted &= ~(high | infinite)
    _partly_missing(fractions, add)
    _partly_secondary(fractions, secondary, add)
    over = counted & (total > 1 + SUM_TOLERANCE)
    if over.any():
        fault = f"sum to more than 1 (highest {float(total[over].max()):g})"
        add("sum of states", over, fault, "the states of a cell share it: look for one counted twice, or rescale")
    return problems


def _partly_secondary(fractions: Mapping[str, NDArray[Any]], secondary: Mapping[str, NDArray[Any]], add: Any) -> None:
    """NaN in age or biomass of secondary land where states have values: the network would read a mean there."""
    if not fractions or not secondary:
        return
    there = np.logical_or.reduce([np.isfinite(values) for values in fractions.values()])
    for name, values in secondary.items():
        bad = np.isnan(values) & there
        if bad.any():
            remedy = f"fill them, with 0 where there is no secondary land, or leave {name} out: ds.drop_vars({name!r})"
            add(name, bad, "NaN where the states have values", remedy)


def _partly_missing(fractions: Mapping[str, NDArray[Any]], add: Any) -> None:
    """NaN in some states of a cell and not in others."""
    if not fractions:
        return
    missing = np.sum([np.isnan(values) for values in fractions.values()], axis=0, dtype=np.int32)
    partly = (missing > 0) & (missing < len(fractions))
    if not partly.any():
        return
    for name, values in fractions.items():
        bad = np.isnan(values) & partly
        if bad.any():
            remedy = "a cell has data in all states or in none; fill it, or make all of them NaN where there is no data"
            add(name, bad, "NaN where other states have values", remedy)
