"""Coarse land-use states of any LUH2-like Dataset, brought to the canonical form.

LUH2 v2h and its futures: Hurtt et al. (2020), doi 10.5194/gmd-13-5425-2020. LUH3: input4MIPs ``UofMD-landState-3-*``.
Both hold fractions of the grid cell, water included.

The management variables ``crpbf_*`` and ``crpbf2_*`` (LUH2), ``cpbf1_*`` and ``cpbf2_*`` (LUH3) are shares of a crop
state that is grown as biofuel: they are part of the state already and are never added. States of their own
(``c4per_bf``, ``c4per_biofuel_2nd_gen`` and the like) are added to the crop state.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from xland.errors import ForcingError, GridError, ModelError, TimeError
from xland.geo.conventions import check_years, decode_years, listed, missing_years
from xland.geo.grid import LATTICE_TOLERANCE, Grid
from xland.geo.orientation import Orientation, bounds_name, check_reference, orient
from xland.outputs import OUTPUTS
from xland.reading.limits import ROUNDING, Place, ValueProblem, check_units, limits_of, out_of_limits
from xland.reading.variables import check_array, read_values, without_extra
from xland.vocabulary import CROP_STATES, LUH2_STATES, LUH3_STATES, LUH_SECONDARY

if TYPE_CHECKING:
    from xland.models.checkpoint import Checkpoint
    from xland.models.ensemble import Ensemble

SUM_TOLERANCE = 1e-3
"""By how much the states of a cell may sum to more than 1."""

IN_MEMORY = 90
"""Rows and columns of a chunk of values that are in memory, which travel to workers."""

_CHUNKS = 1000
"""Chunks of a variable in all years, about, where it had none: each is a task."""

_VARIANT = re.compile(
    r"^(?P<crop>" + "|".join(CROP_STATES) + r")_?(?:bf|biof|biofuel)(?:_?(?:[12]|1st|2nd))?(?:_?gen)?$"
)
_TAKEN = frozenset({"class", "class_name", "draw", "bnds", "spatial_ref"})
"""Names that results have besides their variables and the coordinates that they take over from the forcing."""


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
        With dask arrays: the caller's chunks; where there were none, one year of as many rows and columns as a chunk of
        the file has, of values in memory :data:`IN_MEMORY`, or more where there are many years.

    Raises
    ------
    ForcingError
        If it is not a Dataset; if a variable is missing, has other dimensions or is in percent.
    TimeError
        If years cannot be decoded, lie outside 850 to 2500, are duplicate or unsorted, or look like those of joined
        files: see :func:`xland.geo.conventions.check_years`. Gaps are allowed: see :func:`require_years`.
    GridError
        If the coordinates are not a regular grid, or have a name that results need.
    """
    required = LUH2_STATES if variables is None else tuple(variables)
    sources = find_sources(ds, (*required, *LUH3_STATES, *LUH_SECONDARY))
    missing = [name for name in required if name not in sources]
    if missing:
        found = ", ".join(map(str, ds.data_vars)) or "none"
        raise ForcingError(
            f"{len(missing)} of the variables needed are missing: {', '.join(missing)}; variables found: {found}; "
            + remedy_for(missing, ds)
        )
    check_reference(ds, "forcing")
    for name, parts in sources.items():
        for part in parts:
            check_array(ds[part], str(part), ForcingError)
            check_units(str(part), ds[part].attrs.get("units"), ForcingError, fraction=name not in LUH_SECONDARY)
    kept = ds[[name for names in sources.values() for name in names]]
    oriented, orientation = orient(kept, what="forcing")
    own = orientation.names
    taken = _TAKEN | OUTPUTS.keys() | {bounds_name(each.dimension) for each in own.values()}
    for kind, names in own.items():
        for called in (names.dimension, names.coordinate):
            if called in taken or (kind != "time" and called in ("time", "year")):
                raise GridError(
                    f"forcing: a coordinate is called {called!r}, which is also a name in the result; rename it: "
                    f"ds.rename({{{called!r}: {kind!r}}}) or another name"
                )
    years = decode_years(kept, year)
    if not years:
        raise TimeError("the forcing has a time dimension without a single step")
    check_years(years)
    dimensions = {kind: each.dimension for kind, each in own.items()}
    return Forcing(canonical_states(oriented, sources, years, dimensions), orientation.grid, years, orientation)


def require_dataset(ds: object) -> None:
    """Refuse a forcing that is not a Dataset, such as one of its variables or the path of its file."""
    if not isinstance(ds, xr.Dataset):
        raise ForcingError(
            f"the forcing is a {type(ds).__name__}; pass a Dataset with a variable for each state, as "
            "xarray.open_dataset returns it, or array.to_dataset(name='primf') of a single state"
        )


def find_sources(ds: xr.Dataset, names: Sequence[str]) -> dict[str, list[Hashable]]:
    """Which variables make up each state that is there: the state itself and its biofuel variants."""
    require_dataset(ds)
    sources: dict[str, list[Hashable]] = {name: [name] for name in names if name in ds.data_vars}
    for variable in sorted(ds.data_vars, key=str):
        found = _VARIANT.match(str(variable))
        if found and found["crop"] in names:
            sources.setdefault(found["crop"], []).append(variable)
    return {name: sources[name] for name in names if name in sources}


def remedy_for(missing: Sequence[str], ds: xr.Dataset) -> str:
    """Say what to do about variables that a Dataset lacks."""
    spelt = {str(name).lower(): name for name in ds.data_vars}
    if other := [f"{spelt[name]} for {name}" for name in missing if name in spelt]:
        return f"rename {', '.join(other)}"
    made = "" if set(missing).isdisjoint(LUH2_STATES) else ", or make states of yours: ds.ai4land.to_luh2(mapping)"
    return f"rename yours, add them from the same release{made}"


def check_cells(grid: Grid, model: Checkpoint | Ensemble) -> None:
    """Refuse, with a ModelError, a forcing whose cells are not those that a model reads."""
    inputs = model.inputs
    expected = inputs.resolution * inputs.factor
    if abs(grid.resolution / expected - 1) > 1e-4:
        raise ModelError(
            f"model {model.name!r} was trained for a factor of {inputs.factor} from {expected:g} to "
            f"{inputs.resolution:g} degree, and the forcing has cells of {grid.resolution:g} degree; choose another "
            f"model, or bring the forcing to these cells: ds.ai4land.regrid(resolution={expected:g})"
        )


def canonical_states(
    oriented: xr.Dataset,
    sources: Mapping[str, Sequence[Hashable]],
    years: Sequence[int],
    names: Mapping[str, Hashable] | None = None,
) -> xr.Dataset:
    """Masked float32 states over ``time``, ``lat``, ``lon`` from an oriented Dataset; lazy.

    With the caller's ``names`` of the dimensions, parts of the grid can be read alone; without, chunks are whole grids.
    """
    states = {}
    for state, variables in sources.items():
        total: Any = 0
        for variable in variables:
            array, name = oriented[variable], str(variable)
            if "lat" not in array.dims or "lon" not in array.dims:
                raise ForcingError(
                    f"{name}: has the dimensions {', '.join(map(str, array.dims))}; states need time, latitude and "
                    "longitude"
                )
            if "time" not in array.dims and len(years) > 1:
                raise ForcingError(
                    f"{name}: has no time dimension, while other variables have {len(years)} years; give it one for "
                    "each year, or select one year of all: ds.isel(time=[0])"
                )
            array = without_extra(array, ("time", "lat", "lon"), name, ForcingError)
            if array.chunks is None:
                rows, columns = (-1, -1) if names is None else _cells_of_chunk(array, names, len(years))
                sizes = {"time": 1, "lat": rows, "lon": columns}
                array = array.chunk({dimension: sizes[str(dimension)] for dimension in array.dims})
            values = read_values(array, what=name, error=ForcingError)
            values = values if "time" in values.dims else values.expand_dims("time")
            part = values.astype(np.float32)
            total = part if variable == variables[0] else total + part.data
        states[state] = (("time", "lat", "lon"), total.data, total.attrs)
    time = ("time", np.asarray(years, dtype=np.int64), {"long_name": "calendar year"})
    return xr.Dataset(states, {"time": time, "lat": oriented["lat"], "lon": oriented["lon"]}, oriented.attrs)


def _cells_of_chunk(array: xr.DataArray, names: Mapping[str, Hashable], years: int) -> tuple[int, int]:
    """Rows and columns of a chunk of an array that has no chunks of dask."""
    stored = array.encoding.get("preferred_chunks", {})
    rows, columns = (stored.get(names[kind]) for kind in ("lat", "lon"))
    if isinstance(array.variable._data, np.ndarray):  # noqa: SLF001
        rows = columns = IN_MEMORY
    if not (isinstance(rows, int) and isinstance(columns, int)):
        return -1, -1
    while years * -(-array.sizes["lat"] // rows) * -(-array.sizes["lon"] // columns) > max(_CHUNKS, years):
        rows, columns = 2 * rows, 2 * columns
    return rows, columns


def require_years(forcing: Forcing, years: Sequence[int]) -> None:
    """Refuse years that the forcing lacks: :class:`TimeError` that names them."""
    missing = sorted({int(y) for y in years} - set(forcing.years))
    if missing:
        gaps = missing_years(forcing.years)
        raise TimeError(
            f"{len(missing)} of the years asked for are not in the forcing: {listed(missing)}; it holds "
            f"{forcing.years[0]} to {forcing.years[-1]}"
            + (f" without {listed(gaps)}" if gaps else "")
            + "; choose others with years=, or add the years that are missing"
        )


def check_values(states: Mapping[str, NDArray[Any]], place: Place, year: int) -> None:
    """Refuse the values of one year that would give a wrong map; ForcingError for what :func:`value_problems` finds."""
    problems = value_problems(states, place)
    if problems:
        first, rest = problems[0], len(problems) - 1
        more = f" ({rest} more kinds of fault: see check())" if rest else ""
        raise ForcingError(replace(first, fault=f"{first.fault} in {year}").sentence + more)


def check_coverage(states: Mapping[str, NDArray[Any]], expected: NDArray[np.bool_], place: Place, year: int) -> None:
    """Refuse cells without data among the expected, which hold land and had data when the model was trained."""
    empty = without_data(states, expected)
    if empty.any():
        fault = f"that hold land, and had data when the model was trained, are NaN in {year}"
        remedy = "fill these cells, set land_share of the static Dataset to 0 there, or choose a region without them"
        raise ForcingError(ValueProblem.at("all states", empty, place, fault, remedy).sentence)


def without_data(states: Mapping[str, NDArray[Any]], expected: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return which of the expected cells are NaN in every state; ages and biomass do not count."""
    return expected & np.logical_and.reduce([np.isnan(states[name]) for name in states if name not in LUH_SECONDARY])


def check_lattice(grid: Grid) -> None:
    """Refuse a grid whose edges are not on the world's grid of that resolution, by more than a hundredth of a cell.

    Rows are counted from 90 N and columns from 180 W, so that maps of any region fall on the same cells.
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


def value_problems(states: Mapping[str, NDArray[Any]], place: Place) -> list[ValueProblem]:
    """Return what is wrong with (rows, columns) fractions of one year, and with ``secma`` and ``secmb``.

    NaN in all states of a cell is ocean or no data.
    """
    problems: list[ValueProblem] = []

    def add(variable: str, bad: NDArray[np.bool_], fault: str, remedy: str) -> None:
        if bad.any():
            problems.append(ValueProblem.at(variable, bad, place, fault, remedy))

    fractions = {name: np.asarray(values) for name, values in states.items() if name not in LUH_SECONDARY}
    secondary = {name: np.asarray(values) for name, values in states.items() if name in LUH_SECONDARY}
    shape = len(place[0]), len(place[1])
    total, counted = np.zeros(shape), np.ones(shape, dtype=bool)
    for name, values in {**fractions, **secondary}.items():
        limits, infinite = limits_of(name, fraction=name in fractions), np.isinf(values)
        add(name, infinite, "infinite", "find where they come from; no data is NaN or a declared fill value")
        wrong = list(out_of_limits(name, values, limits, place))
        problems += wrong
        if name in fractions:
            total += np.where(np.isfinite(values), values, 0)
            if wrong or infinite.any():
                counted &= ~(infinite | (values > limits.highest + ROUNDING))
    missing = np.sum([np.isnan(values) for values in fractions.values()], axis=0, dtype=np.int32)
    partly = (missing > 0) & (missing < len(fractions))
    if partly.any():
        remedy = "a cell has data in all states or in none; fill it, or make all of them NaN where there is no data"
        for name, values in fractions.items():
            add(name, np.isnan(values) & partly, "NaN where other states have values", remedy)
    # the network would read a mean there
    for name, values in secondary.items() if fractions else ():
        remedy = f"fill them, with 0 where there is no secondary land, or leave {name} out: ds.drop_vars({name!r})"
        add(name, np.isnan(values) & (missing < len(fractions)), "NaN where the states have values", remedy)
    over = counted & (total > 1 + SUM_TOLERANCE)
    if over.any():
        fault = f"sum to more than 1 (highest {float(total[over].max()):g})"
        add("sum of states", over, fault, "the states of a cell share it: look for one counted twice, or rescale")
    return problems


def join_forcing(past: Forcing, future: Forcing, first: int, last: int, *, name: str) -> xr.Dataset:
    """Return the years of a future from `first` on, with those of the past up to `last` in place of its own.

    Years after `last` that the future lacks are the past's. :class:`GridError` if they are on different cells;
    :class:`ForcingError` if a variable is in one of them only and, when the first year that both have is computed, if
    states differ by more than 0.001.
    """
    if not past.grid.same_as(future.grid):
        raise GridError(
            f"the {name} is on other cells ({future.grid}) than the forcing before it ({past.grid}): bring both to the "
            "same cells, for example with ds.ai4land.regrid(resolution=0.25)"
        )
    alone = sorted(map(str, set(past.data.data_vars) ^ set(future.data.data_vars)))
    if alone:
        raise ForcingError(
            f"{', '.join(alone)}: only in one of the {name} and the forcing before it; give both the same variables"
        )
    years = sorted({year for each in (past, future) for year in each.years if year >= first})
    common = next((year for year in years if year in past.years and year in future.years), None)

    def origin(year: int) -> tuple[bool, bool]:
        return year in past.years and (year <= last or year not in future.years), year == common

    pieces = []
    for (from_past, compared), run in groupby(years, origin):
        these, sides = list(run), (past, future) if from_past else (future, past)
        own, other = (each.data.sel(time=[y for y in these if y in each.years]) for each in sides)
        pieces.append(_compared(own, other, past.grid, these[0], name) if compared else own)
    joined: xr.Dataset = xr.concat(pieces, "time", combine_attrs="override")
    return joined.assign_attrs(future.data.attrs)


def _compared(own: xr.Dataset, other: xr.Dataset, grid: Grid, year: int, name: str) -> xr.Dataset:
    """Return the states of a year, which are compared with those of another forcing when they are computed."""
    found = {}
    for variable, array in own.data_vars.items():
        theirs = other[variable].data.rechunk(array.data.chunks)
        check = partial(_refuse_difference, grid=grid, year=year, name=name, variable=str(variable))
        data = da.map_blocks(check, array.data, theirs, dtype=array.dtype, meta=np.empty((0, 0, 0), array.dtype))
        found[variable] = (array.dims, data, array.attrs)
    return own.assign(found)


def _refuse_difference(
    own: NDArray[Any], other: NDArray[Any], *, grid: Grid, year: int, name: str, variable: str, block_info: Any = None
) -> NDArray[Any]:
    with np.errstate(invalid="ignore"):
        scale = np.where(np.abs(own) > 1, np.abs(own), 1)  # ages and biomass are not shares
        different = (np.abs(own - other) > SUM_TOLERANCE * scale) | (np.isnan(own) != np.isnan(other))
    if different.any():
        _, rows, columns = block_info[0]["array-location"]
        place = grid.latitude[slice(*rows)], grid.longitude[slice(*columns)]
        most = np.nanmax(np.abs(own - other), initial=0)
        fault = f"not those of the forcing before the {name} in {year} (up to {most:.3g} apart)"
        remedy = "they do not share a past: give a scenario that begins with this history, or leave the history out"
        raise ForcingError(ValueProblem.at(variable, different[0], place, fault, remedy).sentence)
    return own
