"""Everything worth knowing about a coarse forcing before it is downscaled, in one table.

``downscale`` refuses what is an error here, or its maps would be wrong. A warning may be intended; a note says how the
file was understood.
"""

from __future__ import annotations

import io
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from html import escape
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from xland.arguments import checked
from xland.errors import ForcingError, GridError, XlandError
from xland.forcing.read import (
    canonical_states,
    check_cells,
    check_lattice,
    find_sources,
    remedy_for,
    require_dataset,
    value_problems,
    without_data,
)
from xland.geo.conventions import check_years, decode_years, listed, missing_years
from xland.geo.grid import Grid, aggregate, places
from xland.geo.orientation import check_reference, find_horizontal, orient
from xland.models import Model, find_model, list_models
from xland.reading.limits import ValueProblem, check_share, check_units, check_unknown_land, checked_predictor
from xland.reading.variables import check_array, read_static
from xland.vocabulary import CLASS_NAMES, CROP_STATES, LUH2_STATES, LUH3_STATES, LUH_SECONDARY

if TYPE_CHECKING:
    from xland.models.applicability import Coverage
    from xland.models.checkpoint import Checkpoint
    from xland.models.ensemble import Ensemble

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")
_WIDTH = 80  # columns of a terminal
_YEARS_AT_ONCE = 8
_DOMAIN = "land_share"
_EMPTY_SUM = 1e-3  # what states sum to, at least, where there is any land use
_BIOFUEL_SHARES = ("crpbf_", "crpbf2_", "cpbf1_", "cpbf2_")
_NO_DATA = (
    "no data in cells that had some when the model was trained",
    "fill them, set land_share of the static Dataset to 0 there, or choose a region without them",
)
_ALL_ZERO = ("0 in all cells that have data", "was an empty file written, or are these shares of something else?")


@dataclass(frozen=True)
class Finding:
    """One thing that was found.

    Parameters
    ----------
    severity : {"error", "warning", "note"}
    variable : str
    message : str
        What was found.
    count : int or None
        Number of cells (added up over the years), where cells are concerned.
    place : str
        Year, latitude and longitude of the first of them.
    remedy : str
        What to do about it; empty where there is nothing to do.
    """

    severity: Severity
    variable: str
    message: str
    count: int | None = None
    place: str = ""
    remedy: str = ""

    @property
    def sentence(self) -> str:
        """Finding, number of cells, place and remedy in one line."""
        cells = "" if self.count is None else f", {self.count:,} cell{'' if self.count == 1 else 's'}"
        place = f", first at {self.place}" if self.place else ""
        return self.message + cells + place + (f"; {self.remedy}" if self.remedy else "")


@dataclass(frozen=True, repr=False)
class CheckTable:
    """What :func:`check` found; it prints as text, and as a table in notebooks.

    Parameters
    ----------
    findings : tuple of Finding
        Errors first, then warnings and notes.
    facts : mapping of str to str
        How the forcing was understood: grid, years, encoding, variables, data.
    areas : DataFrame
        Area of each state in million km2 (rows) in the first and the last year (columns).
    """

    findings: tuple[Finding, ...]
    facts: Mapping[str, str]
    areas: pd.DataFrame

    @property
    def ok(self) -> bool:
        """Whether nothing was found that ``downscale`` refuses."""
        return not any(finding.severity == "error" for finding in self.findings)

    @property
    def verdict(self) -> str:
        """One line that says how many errors, warnings and notes there are."""
        counts = {severity: sum(f.severity == severity for f in self.findings) for severity in SEVERITIES}
        said = ", ".join(f"{n} {severity}{'' if n == 1 else 's'}" for severity, n in counts.items() if n)
        return ("fit for downscaling" if self.ok else "not fit for downscaling") + (f": {said}" if said else "")

    def to_dataframe(self) -> pd.DataFrame:
        """Return the findings, one in a row."""
        columns = list(Finding.__dataclass_fields__)
        rows = [[getattr(finding, column) for column in columns] for finding in self.findings]
        return pd.DataFrame(rows, columns=columns).astype({"count": "Int64"})

    def __str__(self) -> str:
        from rich.console import Console, Group
        from rich.table import Table
        from rich.text import Text

        facts, found = Table.grid(padding=(0, 2)), Table.grid(padding=(0, 2))
        for name, value in self.facts.items():
            facts.add_row(Text(name), Text(value))
        for finding in self.findings:
            found.add_row(Text(finding.severity), Text(finding.variable), Text(finding.sentence))
        areas = Table("state", *(f"{year} (Mkm2)" for year in self.areas.columns), box=None, pad_edge=False)
        for state, row in zip(self.areas.index, self.areas.to_numpy(), strict=True):
            areas.add_row(str(state), *(f"{value:.3f}" for value in row))
        parts: list[Any] = [facts, *(["", areas] if len(self.areas) else []), *(["", found] if self.findings else [])]
        console = Console(file=io.StringIO(), width=_WIDTH, record=True, force_jupyter=False)
        console.print(Group(*parts, "", Text(self.verdict)))
        return "\n".join(line.rstrip() for line in console.export_text().splitlines())

    __repr__ = __str__

    def _repr_html_(self) -> str:
        row = "<tr><th style='text-align:left'>{}</th><td style='text-align:left'>{}</td></tr>"
        facts = "".join(row.format(escape(name), escape(value)) for name, value in self.facts.items())
        findings = self.to_dataframe().to_html(index=False, na_rep="") if self.findings else ""
        shown = self.areas.rename(columns=lambda year: f"{year} (Mkm2)").round(3).to_html()
        return (
            f"<b>{escape(self.verdict)}</b><table>{facts}</table>{findings}"
            f"<details><summary>areas</summary>{shown}</details>"
        )


@checked(ForcingError)
def check(
    ds: xr.Dataset, *, static: xr.Dataset | None = None, model: Model | None = "luh2-0p05", progress: bool = True
) -> CheckTable:
    """Look at a coarse forcing closely: structure, then every value, a few years at a time.

    Parameters
    ----------
    ds : Dataset
        Coarse states as they were opened, decoded or not; or shares of the eight classes.
    static : Dataset, optional
        Static predictors on a finer grid with ``land_share``. Their values on land are checked, and whether the
        forcing has data on all land.
    model : str, path or Checkpoint, or a list of them; or None
        The model that the forcing is for. Variables that it reads and that are missing, cells of another size, and
        cells without data where it had data when it was trained are errors. With None no model is compared.
    progress : bool
        Show a progress bar on a terminal if there are many years.

    Returns
    -------
    CheckTable
        Bad input does not raise: it is a finding of the table.

    Raises
    ------
    ForcingError
        If the forcing is not a Dataset.
    ModelError
        If there is no such model.
    """
    require_dataset(ds)
    known = None if model is None else find_model(model)
    coverage = None if known is None or _missing(ds, known) else known.coverage
    return examine(ds, static=static, coverage=coverage, model=known, progress=progress)


def examine(
    ds: xr.Dataset,
    *,
    static: xr.Dataset | None = None,
    coverage: Coverage | None = None,
    model: Checkpoint | Ensemble | None = None,
    progress: bool = False,
) -> CheckTable:
    """Do what :func:`check` does, given a model and the cells that had data when it was trained."""
    report = _Report()
    if model is not None:
        cells = model.inputs.resolution * model.inputs.factor
        report.facts["model"] = f"{model.name}, for cells of {cells:g} degree"
    names = _expected(ds) if model is None else (*_expected(ds), *model.inputs.coarse_variables)
    sources = find_sources(ds, tuple(dict.fromkeys((*names, *LUH3_STATES, *LUH_SECONDARY))))
    if missing := _missing(ds, model):
        others = [
            name
            for name in list_models()
            if find_model(name).inputs.prior == "none" and not _missing(ds, find_model(name))
        ]
        remedy = f"choose a model that reads what is there: model={others[0]!r}" if others else remedy_for(missing, ds)
        reads = "missing" if model is None else f"missing, and {model.name} reads them"
        report.add("error", ", ".join(missing), reads, remedy=remedy)
    _describe_variables(report, ds, sources)
    for name, variable in [(name, variable) for name, parts in sources.items() for variable in parts]:
        with report.errors_of(str(variable)):
            check_array(ds[variable], str(variable), ForcingError)
            with report.errors_of(str(variable)):
                units, fraction = ds[variable].attrs.get("units"), name not in LUH_SECONDARY
                check_units(str(variable), units, ForcingError, fraction=fraction)
            continue
        sources.pop(name, None)  # its values cannot be looked at
    if not sources:
        return report.table()
    orientation = None
    with report.errors_of("grid"):
        check_reference(ds, "forcing")
        oriented, orientation = orient(ds[[part for parts in sources.values() for part in parts]], what="forcing")
    if orientation is None:
        return report.table()
    grid, longitudes = orientation.grid, orientation.longitude_labels
    report.facts["grid"] = str(grid)
    report.facts["order"] = (
        f"{', '.join(str(found.dimension) for found in orientation.names.values())}; latitude from "
        f"{'south to north' if orientation.latitude_ascending else 'north to south'}, longitude from "
        f"{longitudes[0]:g} to {longitudes[-1]:g}"
    )
    with report.errors_of("grid"):
        check_lattice(grid)
    if model is not None:
        with report.errors_of("grid"):
            check_cells(grid, model)
    years = _years(report, oriented)
    steps = (0,) if model is None else model.inputs.steps
    if "years" in report.facts and not any({year + step for step in steps} <= set(years) for year in years):
        fault = (
            f"{report.facts['model'].partition(',')[0]} reads the years {', '.join(f'{s:+d}' for s in steps)} of a map"
        )
        report.add("error", "time", f"{fault}, and no year has them all", remedy="add the years that are missing")
    states: dict[Hashable, xr.DataArray] = {}
    for name, variables in sources.items():
        with report.errors_of(name):
            states.update(canonical_states(oriented, {name: variables}, years).data_vars)
    if states and years:
        expected = None if coverage is None else coverage.on(grid)
        with_data = _values(report, xr.Dataset(states), grid, years, expected, progress=progress)
        if static is not None:
            _compare_with_land(report, static, with_data, grid)
    return report.table()


@dataclass
class _Report:
    """What has been found so far."""

    facts: dict[str, str] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    areas: dict[str, dict[str, float]] = field(default_factory=dict)

    def add(self, severity: Severity, variable: str, message: str, **details: Any) -> None:
        self.findings.append(Finding(severity, variable, message, **details))

    @contextmanager
    def errors_of(self, variable: str) -> Iterator[None]:
        """Make a named error a finding: its message has the remedy behind the last semicolon."""
        try:
            yield
        except XlandError as error:
            message, _, remedy = str(error).removeprefix(f"{variable}: ").rpartition("; ")
            self.add("error", variable, message or remedy, remedy=remedy if message else "")

    def table(self) -> CheckTable:
        found = sorted(self.findings, key=lambda f: SEVERITIES.index(f.severity))
        return CheckTable(tuple(found), self.facts, pd.DataFrame(self.areas))


def _expected(ds: xr.Dataset) -> tuple[str, ...]:
    """LUH2 states, or classes where the Dataset holds those ("urban" is both)."""
    classes = sum(name in ds.data_vars for name in CLASS_NAMES)
    return CLASS_NAMES if classes > sum(name in ds.data_vars for name in LUH2_STATES) else LUH2_STATES


def _missing(ds: xr.Dataset, model: Checkpoint | Ensemble | None) -> list[str]:
    """Return the variables that a model reads, or else those that are expected, as far as they are not there."""
    wanted = _expected(ds) if model is None else model.inputs.coarse_variables
    there = find_sources(ds, wanted)
    return [name for name in dict.fromkeys((*_expected(ds), *wanted)) if name in wanted and name not in there]


def _describe_variables(report: _Report, ds: xr.Dataset, sources: Mapping[str, Sequence[Hashable]]) -> None:
    report.facts["variables"] = ", ".join(sources) or "none that is known"
    used = {name for names in sources.values() for name in names}
    others = [str(name) for name in ds.data_vars if name not in used]
    if others:
        report.facts["left aside"] = _few(others, 12)
    shares = [name for name in others if name.startswith(_BIOFUEL_SHARES)]
    if shares:
        fact = f"{len(shares)} shares of a crop grown as biofuel: the crop states hold them already"
        report.add("note", shares[0], fact)
    for name, variables in sources.items():
        if len(variables) > 1 or variables[0] != name:
            report.add("note", name, f"made of {' + '.join(map(str, variables))}")
    misspelt: dict[str, list[str]] = {}
    for variable in (v for v in ds.data_vars if v in used):
        for key in ds[variable].attrs:
            if str(key).lower() == "_fillvalue" and key != "_FillValue":
                misspelt.setdefault(str(key), []).append(str(variable))
    for key, names in misspelt.items():
        report.add("note", _few(names, 3), f"fill value under the misspelt attribute {key}: masked as well")


def _few(names: Sequence[str], most: int) -> str:
    return ", ".join(names[:most]) + (f", ... ({len(names)})" if len(names) > most else "")


def _years(report: _Report, oriented: xr.Dataset) -> tuple[int, ...]:
    """Years of the forcing; step numbers where it does not say them, so that the values are checked all the same."""
    years = None
    with report.errors_of("time"):
        years = decode_years(oriented)
    if years is None:
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
    with report.errors_of("time"):
        check_years(years)
        if gaps := missing_years(years):
            fault = f"{len(gaps)} years are missing between the first and the last: {listed(gaps)}"
            remedy = "only the years that are there can be downscaled; check that this is the whole file"
            report.add("warning", "time", fault, remedy=remedy)
    return years


def _blocks(data: xr.Dataset, *, progress: bool) -> Iterator[tuple[int, xr.Dataset]]:
    """Years one at a time, read a few at once."""
    from xland.progress import Bar

    at_once = min(max(data.chunks.get("time", (1,))), _YEARS_AT_ONCE)
    starts = range(0, data.sizes["time"], at_once)
    with Bar(transient=True, disable=not progress or len(starts) <= 4) as bar:
        for start in bar.track(starts, description="checking years"):
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
    """Check every value; return where there is data in the first year."""
    area, centres = grid.cell_area()[:, None] / 1e12, grid.centres
    fractions = [str(name) for name in data.data_vars if name not in LUH_SECONDARY]
    highest = dict.fromkeys(fractions, 0.0)
    # what is wrong is added up kind by kind; the first place is kept
    faults: dict[tuple[Severity, str, str], list[Any]] = {}
    first_mask = np.zeros(grid.shape, dtype=bool)
    moved: dict[int, int] = {}
    for step, block in _blocks(data, progress=progress):
        year = years[step]
        values = {str(name): array.values for name, array in block.data_vars.items()}
        finite = {name: np.where(np.isfinite(values[name]), values[name], 0) for name in fractions}
        mask = np.logical_or.reduce([np.isfinite(values[name]) for name in fractions]) if fractions else first_mask
        total = sum(finite.values(), np.zeros(grid.shape))
        zero = mask & (total < _EMPTY_SUM)
        found: list[tuple[Severity, ValueProblem]] = [("error", each) for each in value_problems(values, centres)]
        lost = without_data(values, expected) if expected is not None and fractions else np.zeros(1, dtype=bool)
        if lost.any():
            found.append(("error", ValueProblem.at("all states", lost, centres, *_NO_DATA)))
        if zero.any() and (zero == mask).all():
            found.append(("error", ValueProblem.at("all states", zero, centres, *_ALL_ZERO)))
        elif zero.any():
            fault = "all 0, as in the cells of ice and water of LUH2"
            found.append(("note", ValueProblem.at("all states", zero, centres, fault, "")))
        for severity, problem in found:
            key = severity, problem.variable, problem.fault.partition(" (")[0]
            faults.setdefault(key, [problem, year, 0])[2] += problem.count
        if step == 0:
            first_mask = mask
            _describe_data(report, total, mask)
        elif (mask != first_mask).any():
            moved[year] = int((mask != first_mask).sum())
        for name in fractions:
            highest[name] = max(highest[name], float(np.abs(finite[name]).max()))
            if step in (0, len(years) - 1):
                report.areas.setdefault(str(year), {})[name] = float((finite[name] * area).sum(dtype=np.float64))
    for (severity, name, _), (problem, year, count) in faults.items():
        place = f"{problem.where} in {year}"
        report.add(severity, name, problem.fault, count=count, place=place, remedy=problem.remedy)
    _note_zeros(report, [name for name, value in highest.items() if value == 0])
    if moved:
        year, cells = next(iter(moved.items()))
        fault = f"the cells that have data are not the same in {len(moved)} years as in the first"
        remedy = "look at the source: the land mask of a release does not change"
        report.add("warning", "all states", fault, count=cells, place=f"year {year}", remedy=remedy)
    return first_mask


def _describe_data(report: _Report, total: NDArray[np.float64], mask: NDArray[np.bool_]) -> None:
    count = int(mask.sum())
    report.facts["cells with data"] = f"{count:,} of {mask.size:,} ({count / mask.size:.1%})"
    if not count:
        remedy = "look at fill values and at the region that was selected"
        report.add("error", "all states", "no cell has data", remedy=remedy)
        return
    off = np.abs(total[mask] - 1) > 1e-3
    whole = 1 - float(off.mean())
    report.facts["sum of states"] = f"1 in {whole:.1%} of these cells, median {float(np.median(total[mask])):.3f}"
    if whole < 0.25:
        fault = f"only {whole:.1%} of the cells with data sum to 1"
        remedy = "states are fractions of the cell, water left out: is a state missing, or are these areas?"
        report.add("warning", "sum of states", fault, count=int(off.sum()), remedy=remedy)


def _note_zeros(report: _Report, names: Sequence[str]) -> None:
    crops = [name for name in names if name in CROP_STATES]
    if crops and len(crops) < len(CROP_STATES):
        report.add("note", ", ".join(crops), "0 everywhere: crop types are not separated in this file")
        names = [name for name in names if name not in crops]
    if names:
        report.add("warning", ", ".join(names), "0 everywhere", remedy="look whether the source really has none")


def _compare_with_land(report: _Report, static: xr.Dataset, with_data: NDArray[np.bool_], grid: Grid) -> None:
    """Check every predictor where there is land, and whether the forcing has data on all land."""
    if not isinstance(static, xr.Dataset) or _DOMAIN not in static.variables:
        report.add("error", "static", f"has no {_DOMAIN}", remedy="add it: 1 on land, 0 on the ocean, on the fine grid")
        return
    share = None
    with report.errors_of("static"):
        domain = read_static(static, [_DOMAIN], _DOMAIN)[_DOMAIN]
        own = orient(domain, what="static")[1].grid
        factor = max(1, round(grid.resolution / own.resolution))
        fine = grid.refine(factor)
        rows, columns = places(fine, own)
        if rows.min() < 0 or columns.min() < 0:
            raise GridError(f"the static grid ({own}) does not cover the forcing ({grid}), or its cells do not nest")
        share = _laid(domain, rows, columns)
    if share is None:
        return
    unknown = np.isnan(share).reshape(grid.rows, factor, grid.columns, factor).any(axis=(1, 3))
    before = len(report.findings)
    with report.errors_of(_DOMAIN):
        check_share(_DOMAIN, share, fine.centres)
        check_unknown_land(_DOMAIN, unknown, {"state": np.where(with_data, 0.0, np.nan)}, grid.centres)
    if len(report.findings) > before:
        return
    land = np.nan_to_num(share) > 0
    horizontal = {names.dimension for names in find_horizontal(static[_DOMAIN], what="static")}
    for name in (str(name) for name, each in static.data_vars.items() if horizontal <= set(each.dims)):
        with report.errors_of(name):
            values = _laid(read_static(static, [name], _DOMAIN)[name], rows, columns)
            checked_predictor(name, values, land, fine.centres)
    empty = (aggregate(np.nan_to_num(share), factor) >= 0.5) & ~with_data
    if empty.any():
        fault = "no data where at least half of the cell is land"
        remedy = "such land is mapped from the static predictors alone; ice sheets and islets are often left out"
        problem = ValueProblem.at("all states", empty, grid.centres, fault, remedy)
        report.add("warning", "all states", fault, count=problem.count, place=problem.where, remedy=remedy)


def _laid(array: xr.DataArray, rows: NDArray[np.intp], columns: NDArray[np.intp]) -> NDArray[Any]:
    """Read a predictor on the fine cells of the forcing."""
    canonical, _ = orient(array, what="static")
    return np.asarray(canonical.isel(lat=slice(int(rows[0]), int(rows[-1]) + 1)).values, dtype=np.float32)[:, columns]
