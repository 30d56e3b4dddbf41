"""Everything worth knowing about a coarse forcing before it is downscaled, in one table.

:func:`check` reads the values, a few years at a time. What it calls an error is refused by
``downscale``, or would give maps of nothing; a warning may be meant; a note says how the file was
understood.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from xland.arguments import checked
from xland.errors import ForcingError, GridError, TimeError, XlandError
from xland.forcing.findings import SEVERITIES, CheckTable, Finding, Severity
from xland.forcing.read import (
    canonical_states,
    check_lattice,
    check_state,
    find_sources,
    require_dataset,
    value_problems,
    without_data,
)
from xland.geo.coordinates import check_reference
from xland.geo.grid import Grid, aggregate
from xland.geo.orientation import Orientation, orient
from xland.geo.years import check_years, decode_years, listed, missing_years
from xland.reading.limits import ValueProblem, checked_predictor, share_problem, unknown_land
from xland.reading.variables import check_array, horizontal_dims, read_static
from xland.vocabulary import CLASS_NAMES, CROP_STATES, LUH2_STATES, LUH3_STATES, LUH_SECONDARY

_YEARS_AT_ONCE = 8
_DOMAIN = "land_share"
_EMPTY_SUM = 1e-3  # what states sum to, at least, where there is any land use
_NO_DATA = (
    "no data in cells that had some when the model was trained",
    "fill them, set land_share of the static Dataset to 0 there, or choose a region without them",
)
_ALL_ZERO = ("0 in all cells that have data", "was an empty file written, or are these shares of something else?")
_SOME_ZERO = ("all 0: cells of ice or water, in LUH2", "")

_Faults = dict[tuple[Severity, str, str], dict[str, Any]]
_BIOFUEL_SHARES = ("crpbf_", "crpbf2_", "cpbf1_", "cpbf2_")


@dataclass
class _Report:
    """What has been found so far."""

    facts: dict[str, str] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    areas: dict[str, dict[str, float]] = field(default_factory=dict)

    def add(self, severity: Severity, variable: str, message: str, **details: Any) -> None:
        self.findings.append(Finding(severity, variable, message, **details))

    def add_error(self, variable: str, error: Exception) -> None:
        """Add a named error: its message has the remedy behind the last semicolon."""
        message, _, remedy = str(error).removeprefix(f"{variable}: ").rpartition("; ")
        self.add("error", variable, message or remedy, remedy=remedy if message else "")

    def table(self) -> CheckTable:
        found = sorted(self.findings, key=lambda f: SEVERITIES.index(f.severity))
        return CheckTable(tuple(found), self.facts, pd.DataFrame(self.areas))


@checked(ForcingError)
def check(
    ds: xr.Dataset,
    *,
    static: xr.Dataset | None = None,
    coverage: tuple[Grid, NDArray[np.bool_]] | None = None,
    progress: bool = True,
) -> CheckTable:
    """Look at a coarse forcing closely: structure, then every value, a few years at a time.

    Parameters
    ----------
    ds : Dataset
        Coarse states as they were opened, decoded or not; or shares of the eight classes.
    static : Dataset, optional
        Static predictors on a finer grid with ``land_share``: their values on land are looked at, and whether the
        forcing has data on all land.
    coverage : tuple of Grid and (rows, columns) array of bool, optional
        Cells that the model relies on: those that had data when it was trained. Such a cell without data is
        an error. Cells outside this grid are not looked at, nor are forcings of another resolution.
    progress : bool
        Show a progress bar on a terminal where there are more than a few years.

    Returns
    -------
    CheckTable
        Bad input does not raise: it is a finding of the table.

    Raises
    ------
    ForcingError
        If the forcing is no Dataset.
    GridError
        If the mask of ``coverage`` does not have the shape of its grid.
    """
    require_dataset(ds)
    report = _Report()
    required = _expected(ds)
    sources = find_sources(ds, required)
    missing = [name for name in required if name not in sources]
    if missing:
        report.add(
            "error", ", ".join(missing), "missing", remedy="add them from the same release, or rename yours to these"
        )
    sources.update(find_sources(ds, [n for n in (*LUH3_STATES, *LUH_SECONDARY) if n not in sources]))
    _describe_variables(report, ds, sources)
    if not sources:
        return report.table()
    kept = ds[[source for variables in sources.values() for source in variables]]
    kinds = {variable: name for name, variables in sources.items() for variable in variables}
    for variable, array in list(kept.data_vars.items()):
        if _try(report, str(variable), partial(_has_numbers, array)) is None:
            kept = kept.drop_vars([variable])
            continue
        _try(report, str(variable), partial(check_state, array, kinds[variable]))
    sources = {name: variables for name, variables in sources.items() if all(each in kept for each in variables)}
    if not sources:
        return report.table()
    try:
        check_reference(ds, "forcing")
        oriented, orientation = orient(kept, what="forcing")
    except GridError as error:
        report.add_error("grid", error)
        return report.table()
    _describe_grid(report, orientation)
    _try(report, "grid", partial(check_lattice, orientation.grid))
    expected = None if coverage is None else _expected_cells(orientation.grid, *coverage)
    years = _years(report, oriented, orientation)
    states = {}
    for name, variables in sources.items():
        made = _try(report, name, partial(canonical_states, oriented, {name: variables}, years))
        if made is not None:
            states[name] = made[name]
    if states and years:
        data = xr.Dataset(states)
        with_data = _values(report, data, orientation.grid, years, expected, progress=progress)
        if static is not None:
            _compare_with_land(report, static, with_data, orientation.grid)
    return report.table()


def _try(report: _Report, variable: str, action: Any) -> Any:
    try:
        return action()
    except (ForcingError, GridError) as error:
        report.add_error(variable, error)
        return None


def _has_numbers(array: xr.DataArray) -> bool:
    check_array(array, str(array.name), ForcingError)
    return True


def _expected(ds: xr.Dataset) -> tuple[str, ...]:
    """LUH2 states, or classes where the Dataset holds those ("urban" is both)."""
    classes = sum(name in ds.data_vars for name in CLASS_NAMES)
    return CLASS_NAMES if classes > sum(name in ds.data_vars for name in LUH2_STATES) else LUH2_STATES


def _describe_variables(report: _Report, ds: xr.Dataset, sources: Mapping[str, Sequence[Hashable]]) -> None:
    report.facts["variables"] = ", ".join(sources) or "none that is known"
    used = {name for names in sources.values() for name in names}
    others = [str(name) for name in ds.data_vars if name not in used]
    if others:
        report.facts["left aside"] = ", ".join(others[:12]) + (f", ... ({len(others)})" if len(others) > 12 else "")
    shares = [name for name in others if name.startswith(_BIOFUEL_SHARES)]
    if shares:
        report.add(
            "note", shares[0], f"{len(shares)} shares of a crop grown as biofuel: the crop states hold them already"
        )
    for name, variables in sources.items():
        if len(variables) > 1 or variables[0] != name:
            report.add("note", name, f"made of {' + '.join(map(str, variables))}")
    misspelt: dict[str, list[str]] = {}
    for variable in (v for v in ds.data_vars if v in used):
        for key in ds[variable].attrs:
            if str(key).lower() == "_fillvalue" and key != "_FillValue":
                misspelt.setdefault(str(key), []).append(str(variable))
    for key, names in misspelt.items():
        report.add("note", _few(names), f"fill value under the misspelt attribute {key}: masked all the same")


def _describe_grid(report: _Report, orientation: Orientation) -> None:
    report.facts["grid"] = str(orientation.grid)
    latitude = "from south to north" if orientation.latitude_ascending else "from north to south"
    first, last = orientation.longitude_labels[0], orientation.longitude_labels[-1]
    names = ", ".join(
        str(found.dimension)
        for found in (orientation.time, orientation.latitude, orientation.longitude)
        if found is not None
    )
    report.facts["order"] = f"{names}; latitude {latitude}, longitude from {first:g} to {last:g}"


def _years(report: _Report, oriented: xr.Dataset, orientation: Orientation) -> tuple[int, ...]:
    """Years of the forcing; its step numbers where they cannot be told, so that values are looked at all the same."""
    try:
        years = decode_years(oriented, orientation.time)
    except TimeError as error:
        report.add_error("time", error)
        return tuple(range(oriented.sizes.get("time", 1)))
    if not years:
        report.add("error", "time", "no time step", remedy="select years that are there")
        return years
    report.facts["years"] = f"{listed(sorted(set(years)))} ({len(years)})"
    if "time" in oriented.coords:
        attributes = oriented["time"].attrs
        units, calendar = str(attributes.get("units", "")), attributes.get("calendar")
        if units:
            report.facts["time encoding"] = units + (f", {calendar} calendar" if calendar else "")
        if units.lower().startswith(("year", "common_year")) and "since" in units:
            read = f"year {years[0]}" if len(years) == 1 else f"years {years[0]} to {years[-1]}"
            report.add("note", "time", f"{units!r} cannot be decoded by xarray; read as {read}")
    believed = _try(report, "time", partial(_believed, years))
    gaps = missing_years(years)
    if gaps and believed:
        report.add(
            "warning",
            "time",
            f"{len(gaps)} years are missing between the first and the last: {listed(gaps)}",
            remedy="only the years that are there can be downscaled; check that this is the whole file",
        )
    return years


def _believed(years: Sequence[int]) -> bool:
    check_years(years)
    return True


def _blocks(data: xr.Dataset, *, progress: bool) -> Iterator[tuple[int, xr.Dataset]]:
    """Years one at a time, read a few at once."""
    steps = data.sizes["time"]
    chunk = max((size for sizes in (data.chunks.get("time", (1,)),) for size in sizes), default=1)
    at_once = min(chunk, _YEARS_AT_ONCE)
    starts: Any = range(0, steps, at_once)
    if progress and len(starts) > 4:
        from rich.progress import track

        starts = track(starts, description="checking years", transient=True)
    for start in starts:
        block = data.isel(time=slice(start, start + at_once)).compute()
        for step in range(block.sizes["time"]):
            yield start + step, block.isel(time=step)


def _values(
    report: _Report,
    data: xr.Dataset,
    grid: Grid,
    years: Sequence[int],
    expected: NDArray[np.bool_] | None,
    *,
    progress: bool,
) -> NDArray[np.bool_]:
    """Look at every value; return where there is data in the first year."""
    area = grid.cell_area()[:, None] / 1e12
    fractions = [str(name) for name in data.data_vars if name not in LUH_SECONDARY]
    highest = dict.fromkeys(fractions, 0.0)
    faults: _Faults = {}
    first_mask = np.zeros(grid.shape, dtype=bool)
    moved: dict[int, int] = {}
    for step, block in _blocks(data, progress=progress):
        values = {str(name): array.values for name, array in block.data_vars.items()}
        mask = np.logical_or.reduce([np.isfinite(values[name]) for name in fractions]) if fractions else first_mask
        total = _total(values, fractions, grid.shape)
        zero = mask & (total < _EMPTY_SUM)
        errors = value_problems(values, grid.latitude, grid.longitude)
        if expected is not None and fractions:
            errors += _whole_cells(_NO_DATA, without_data(values, expected), grid)
        if (zero == mask).all():
            errors += _whole_cells(_ALL_ZERO, zero, grid)
        else:
            for problem in _whole_cells(_SOME_ZERO, zero, grid):
                _add_up(faults, "note", problem, years[step])
        for problem in errors:
            _add_up(faults, "error", problem, years[step])
        if step == 0:
            first_mask = mask
            _describe_data(report, total, mask)
        elif (mask != first_mask).any():
            moved[years[step]] = int((mask != first_mask).sum())
        for name in fractions:
            finite = np.where(np.isfinite(values[name]), values[name], 0)
            highest[name] = max(highest[name], float(np.abs(finite).max()))
            if step in (0, len(years) - 1):
                report.areas.setdefault(str(years[step]), {})[name] = float((finite * area).sum(dtype=np.float64))
    for (severity, variable, _), fault in faults.items():
        report.add(severity, variable, **fault)
    _note_zeros(report, [name for name, value in highest.items() if value == 0])
    if moved:
        year, cells = next(iter(moved.items()))
        report.add(
            "warning",
            "all states",
            f"the cells that have data are not the same in {len(moved)} years as in the first",
            count=cells,
            place=f"year {year}",
            remedy="look at the source: the land mask of a release does not change",
        )
    return first_mask


def _add_up(faults: _Faults, severity: Severity, problem: ValueProblem, year: int) -> None:
    """Add up what is wrong with the values, kind by kind; the first place is kept."""
    fault = faults.setdefault(
        (severity, problem.variable, problem.fault.partition(" (")[0]),
        {
            "message": problem.fault,
            "count": 0,
            "place": f"latitude {problem.latitude:g}, longitude {problem.longitude:g} in {year}",
            "remedy": problem.remedy,
        },
    )
    fault["count"] += problem.count


def _whole_cells(said: tuple[str, str], bad: NDArray[np.bool_], grid: Grid) -> list[ValueProblem]:
    """Cells in which all states together are at fault, with message and remedy."""
    if not bad.any():
        return []
    row, column = np.unravel_index(int(bad.argmax()), bad.shape)
    place = float(grid.latitude[row]), float(grid.longitude[column])
    return [ValueProblem("all states", said[0], int(bad.sum()), *place, said[1])]


def _total(values: Mapping[str, NDArray[Any]], fractions: Sequence[str], shape: tuple[int, int]) -> NDArray[np.float64]:
    total = np.zeros(shape)
    for name in fractions:
        total += np.where(np.isfinite(values[name]), values[name], 0)
    return total


def _expected_cells(grid: Grid, known: Grid, mask: NDArray[np.bool_]) -> NDArray[np.bool_] | None:
    """Bring a mask on another part of the same lattice to the grid; None where the lattices differ."""
    if np.shape(mask) != known.shape:
        raise GridError(f"coverage: a mask of shape {np.shape(mask)} does not belong to a grid of {known}")
    try:
        check_lattice(grid)
        check_lattice(known)
    except GridError:
        return None
    if abs(grid.resolution / known.resolution - 1) > 1e-4:
        return None
    rows = grid.row_offset - known.row_offset + np.arange(grid.rows)
    columns = (grid.column_offset - known.column_offset + np.arange(grid.columns)) % round(360 / grid.resolution)
    inside = np.ix_((rows >= 0) & (rows < known.rows), columns < known.columns)
    expected = np.zeros(grid.shape, dtype=bool)
    rows, columns = rows[inside[0].ravel()], columns[inside[1].ravel()]
    expected[inside] = np.asarray(mask, dtype=bool)[np.ix_(rows, columns)]
    return expected


def _describe_data(report: _Report, total: NDArray[np.float64], mask: NDArray[np.bool_]) -> None:
    count = int(mask.sum())
    report.facts["cells with data"] = f"{count:,} of {mask.size:,} ({count / mask.size:.1%})"
    if not count:
        report.add(
            "error",
            "all states",
            "no cell has data",
            remedy="look at fill values and at the region that was selected",
        )
        return
    whole = float((np.abs(total[mask] - 1) <= 1e-3).mean())
    report.facts["sum of states"] = f"1 in {whole:.1%} of these cells, median {float(np.median(total[mask])):.3f}"
    if whole < 0.25:
        report.add(
            "warning",
            "sum of states",
            f"only {whole:.1%} of the cells with data sum to 1",
            count=int((np.abs(total[mask] - 1) > 1e-3).sum()),
            remedy="states are fractions of the cell, water left out: is a state missing, or are these areas?",
        )


def _note_zeros(report: _Report, names: Sequence[str]) -> None:
    crops = [name for name in names if name in CROP_STATES]
    others = [name for name in names if name not in CROP_STATES]
    if crops and len(crops) < len(CROP_STATES):
        report.add("note", ", ".join(crops), "0 everywhere: crop types are not separated in this file")
    elif crops:
        others = [*crops, *others]
    if others:
        report.add("warning", ", ".join(others), "0 everywhere", remedy="look whether the source really has none")


def _compare_with_land(report: _Report, static: xr.Dataset, with_data: NDArray[np.bool_], grid: Grid) -> None:
    """Look at every predictor where there is land, and whether the forcing has data on all land."""
    if not isinstance(static, xr.Dataset) or _DOMAIN not in static.variables:
        report.add("error", "static", f"has no {_DOMAIN}", remedy="add it: 1 on land, 0 on the ocean, on the fine grid")
        return
    try:
        share, part, factor = _land_share(static, grid)
    except XlandError as error:
        report.add_error("static", error)
        return
    fine = grid.refine(factor)
    problem = share_problem(_DOMAIN, share, fine.latitude, fine.longitude)
    unknown = np.isnan(share).reshape(grid.rows, factor, grid.columns, factor).any(axis=(1, 3))
    states = {"state": np.where(with_data, 0.0, np.nan)}
    problem = problem or unknown_land(_DOMAIN, unknown, states, grid.latitude, grid.longitude)
    if problem is not None:
        _add_static(report, problem)
        return
    land = np.nan_to_num(share) > 0
    horizontal = set(horizontal_dims(static[_DOMAIN], "static"))
    for name in (str(name) for name, each in static.data_vars.items() if horizontal <= set(each.dims)):
        try:
            values = _laid(read_static(static, [name], _DOMAIN)[name], part)
            checked_predictor(name, values, land, fine.latitude, fine.longitude)
        except XlandError as error:
            report.add_error(name, error)
    empty = (aggregate(np.nan_to_num(share), factor) >= 0.5) & ~with_data
    if empty.any():
        row, column = np.unravel_index(int(empty.argmax()), empty.shape)
        report.add(
            "warning",
            "all states",
            "no data where at least half of the cell is land",
            count=int(empty.sum()),
            place=f"latitude {grid.latitude[row]:g}, longitude {grid.longitude[column]:g}",
            remedy="such land is mapped from the static predictors alone; ice sheets and islets are often left out",
        )


def _add_static(report: _Report, problem: ValueProblem) -> None:
    place = f"latitude {problem.latitude:g}, longitude {problem.longitude:g}"
    report.add("error", problem.variable, problem.fault, count=problem.count, place=place, remedy=problem.remedy)


_Part = tuple[slice, NDArray[np.intp]]


def _land_share(static: xr.Dataset, grid: Grid) -> tuple[NDArray[Any], _Part, int]:
    """Share of land on the fine cells of the forcing, where these lie in the static fields, and the factor."""
    share = read_static(static, [_DOMAIN], _DOMAIN)[_DOMAIN]
    fine = orient(share, what="static")[1].grid
    factor = round(grid.resolution / fine.resolution)
    if factor < 1 or abs(grid.resolution / fine.resolution / factor - 1) > 1e-4:
        raise GridError(f"cells of {fine.resolution:g} degree do not nest in those of {grid.resolution:g} degree")
    rows = grid.refine(factor).row_offset - fine.row_offset + np.arange(grid.rows * factor)
    columns = grid.refine(factor).column_offset - fine.column_offset + np.arange(grid.columns * factor)
    if fine.is_global:
        columns = columns % fine.columns
    if rows[0] < 0 or rows[-1] >= fine.rows or columns.min() < 0 or columns.max() >= fine.columns:
        raise GridError(f"the static grid ({fine}) does not cover the forcing ({grid})")
    part = slice(int(rows[0]), int(rows[-1]) + 1), columns
    return _laid(share, part), part, factor


def _laid(array: xr.DataArray, part: _Part) -> NDArray[Any]:
    """Read a predictor on the fine cells of the forcing."""
    canonical, _ = orient(array, what="static")
    return np.asarray(canonical.isel(lat=part[0]).values, dtype=np.float32)[:, part[1]]


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f", ... ({len(names)})" if len(names) > 3 else "")
