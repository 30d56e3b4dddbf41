"""Score predicted change on maps larger than memory, in windows of any size, and region by region.

Windows are counted from 90 N and 180 W, as coarse cells are everywhere in xland, so that a window is the same whatever
part of the globe the maps show. Windows that the edge of the maps, a mask or a region cuts are scored with the cells
that they have.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any

import dask
import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from xland.arguments import checked, is_count, items_of
from xland.errors import GridError, NothingToScoreError, TimeError, UndefinedScoreWarning
from xland.geo.conventions import listed
from xland.reading.variables import ClassMap, as_map
from xland.scores.counts import cross_tabulate, tabulate_windows
from xland.scores.frames import Block, as_dask, common_cells, one_step, pair_years
from xland.scores.measures import ROUNDING, UNITS, Weighting, disagreement, kappa_simulation
from xland.scores.tables import Tabular, TextTable, figure, plain
from xland.vocabulary import CLASS_NAMES, CLASSES, OCEAN

SHARES = ("hits", "misses", "false_alarms", "wrong_hits")
"""The parts of a budget of change, as attributes."""

_SHOWN = ("quantity", "exchange", "shift")
_PARTS = ("quantity", "allocation", "exchange", "shift")
_KAPPAS = ("kappa_simulation", "kappa_transition", "kappa_transloc")
_ENDS = 3  # years at each end of a record in which a cell has to stay what it is
_EVERYWHERE = None  # stands for all cells among the labels of regions

Tables = tuple[NDArray[np.float64], NDArray[np.float64]]
"""Cross-tables of some cells: of the three maps, and of the first two."""


@checked(GridError)
def assess_change(
    start: xr.DataArray | xr.Dataset,
    observed: xr.DataArray | xr.Dataset,
    predicted: xr.DataArray | xr.Dataset,
    *,
    factors: Sequence[int] = (1,),
    within: xr.DataArray | NDArray[np.bool_] | None = None,
    stable_ends: xr.DataArray | xr.Dataset | None = None,
    regions: xr.DataArray | None = None,
    weighting: Weighting = "area",
    match_years: bool = True,
    cells: str | None = None,
) -> ChangeScores:
    """Score the change that a map predicts, beside persistence.

    The maps are brought together by label and compared where all three have cells. Cells that are ocean or no data
    (class 0) in the start or in the observed map are left out: what starts or ends without data is not change. Each
    block is read once.

    Parameters
    ----------
    start, observed, predicted : DataArray or Dataset with ``land_use``
        Class codes of one time step: the map from which change is counted, the later (for a hindcast: earlier) map as
        observed, and as predicted. Lazy arrays stay lazy.
    factors : sequence of int
        Cells along the windows in which the maps are compared by the areas of their classes; 1, cell by cell, is always
        among them. A window should fit into memory.
    within : DataArray or (rows, columns) array of bool, optional
        Cells to score; placed as by :func:`xland.scores.evaluation.evaluate`.
    stable_ends : DataArray or Dataset with ``land_use``, optional
        Observed maps of six years or more that follow each other. Only cells count whose class is the same in the first
        three of them, and the same in the last three: a class that is there for a year, and gone in the next, is
        neither a change nor an error then. The maps to score should be of these years at both ends.
    regions : DataArray of int or str, optional
        A label for each cell. Cells that the array does not cover, NaN and empty labels belong to no region.
    weighting : {"area", "pixels"}
        Weigh every cell with its area on the sphere, or count cells.
    match_years : bool
        Refuse an observed and a predicted map of different years.
    cells : str, optional
        Name of the cells that are scored, for tables.

    Returns
    -------
    ChangeScores

    Raises
    ------
    GridError
        If the cells differ in size or do not coincide, or an argument has an unknown value.
    RegionError
        If the maps have no common cell, or none is left to score (:class:`~xland.errors.NothingToScoreError`).
    TimeError
        If a map has several time steps, the observed and the predicted map are of different years, or the years of
        `stable_ends` are fewer than six or do not follow each other.
    VocabularyError
        If a map has unknown codes.

    Warns
    -----
    UndefinedScoreWarning
        If nothing changes between the start and the observed map.

    Sources
    -------
    Figure of merit: Pontius et al. (2008), doi 10.1007/s00168-007-0138-2. Windows: Pontius, Peethambaram and Castella
    (2011), doi 10.1080/00045608.2010.517742.
    """
    wrong = [each for each in items_of(factors, "factors", GridError) if not is_count(each)]
    if wrong:
        raise GridError(
            f"windows are a whole number of cells along a side, at least 1, not {', '.join(map(repr, wrong))}"
        )
    given = {"start map": start, "observed map": observed, "predicted map": predicted}
    found = [one_step(each, what) for what, each in given.items()]
    # dask arrays from here on, so that placing a map several times does not cut it each time
    maps = [replace(each, data=each.data.copy(data=as_dask(each.data))) for each in found]
    pair_years(maps[2], maps[1], match_years=match_years)
    ends = [] if stable_ends is None else _ends_of(stable_ends)
    labels = None
    if regions is not None:
        labels = one_step(regions, "map of regions", holds="labels", error=GridError)
        numeric = labels.data.dtype.kind in "iufb"
        labels = replace(labels, data=labels.data.copy(data=as_dask(labels.data).astype(float if numeric else object)))
    lazy = {}
    for factor in sorted({1, *map(int, factors)}):
        frame = common_cells([*maps, *(record for record, _ in ends[:1])], maps[1], within, factor)
        lazy[factor] = frame.each_block(
            _tabulate,
            [*((each, 0) for each in maps), *ends],
            None if labels is None else frame.layer(labels, np.nan),
            factor=factor,
            by_area=weighting == "area",
        )
    (blocks,) = dask.compute(lazy)
    tables: dict[int, dict[Any, Tables]] = {factor: {} for factor in blocks}
    for factor, each in blocks.items():
        for label, (cross, transitions) in (item for block in each.ravel() for item in block.items()):
            before = tables[factor].get(label, (0, 0))
            tables[factor][label] = (before[0] + cross, before[1] + transitions)
    if not tables[1][_EVERYWHERE][0].any():
        raise NothingToScoreError(
            f"no cell is left to score: the mask `within`{', `stable_ends`' if ends else ''} and the cells with data "
            f"(class 1 to {len(CLASSES) - 1}) in the start and the observed map have none in common"
        )
    years = (maps[0].years[0], maps[1].years[0], maps[2].years[0])
    named = cells or ("all" if within is None else "a chosen part of the map") + (", stable ends" if ends else "")

    def scores(region: Any) -> ChangeScores:
        by_factor = {f: ChangeScores(*t[region], weighting, f, years=years, cells=named) for f, t in tables.items()}
        return replace(by_factor[1], by_factor=by_factor)

    names = sorted(region for region in tables[1] if region is not _EVERYWHERE)
    result = replace(scores(_EVERYWHERE), per_region={name: scores(name) for name in names})
    if not np.any(result.transitions - np.diag(np.diag(result.transitions))):
        known = " and ".join(str(year) for year in years[:2] if year is not None)
        warnings.warn(
            f"no cell changes between the start and the observed map{known and f' ({known})'}: the figure of merit of "
            "persistence and other scores of change are not defined (NaN); check that the maps show two dates",
            UndefinedScoreWarning,
            stacklevel=3,
        )
    return result


def _ends_of(record: xr.DataArray | xr.Dataset) -> list[tuple[ClassMap, int]]:
    """Return the first and the last years of a record of maps; TimeError if it is too short or has gaps."""
    found = as_map(record, what="record of stable_ends")
    years = [year for year in found.years if year is not None]
    if len(found.years) < 2 * _ENDS:
        raise TimeError(
            f"stable_ends needs at least {2 * _ENDS} yearly maps, not {len(found.years)}: give a longer record"
        )
    if len(years) == len(found.years) and years != list(range(years[0], years[0] + len(years))):
        raise TimeError(f"the years of stable_ends do not follow each other: {listed(years)}; give each year, in order")
    found = replace(found, data=found.data.copy(data=as_dask(found.data)))
    return [(found, step) for step in (*range(_ENDS), *range(len(found.years) - _ENDS, len(found.years)))]


def _tabulate(block: Block, *layers: Any, factor: int, by_area: bool) -> dict[Any, Tables]:
    """Return the tables of a block by region: of start, observed and predicted map, and those at the stable ends."""
    start, observed, predicted, *ends, labels = layers
    counted = block.counted & (start != OCEAN) & (observed != OCEAN)
    for side in (ends[:_ENDS], ends[_ENDS:]):
        for other in side[1:]:
            counted = counted & (other == side[0])
    weights = block.area if by_area else np.ones_like(block.area)

    def tables(chosen: NDArray[np.bool_]) -> Tables:
        if factor > 1 and chosen.any():
            return tabulate_windows(start, observed, predicted, factor, chosen, weights)
        cross = cross_tabulate([start, observed, predicted], chosen, weights)
        return cross, cross.sum(axis=2)

    found: dict[Any, Tables] = {_EVERYWHERE: tables(counted)}
    if labels is None:
        return found
    codes, names = pd.factorize(labels.ravel())
    numbers = codes.reshape(labels.shape)
    for number, name in enumerate(names):
        if not isinstance(name, str) and int(name) != name:
            raise GridError(f"the map of regions contains {name}; labels are whole numbers or names")
        if name != "":
            found[name if isinstance(name, str) else int(name)] = tables(counted & (numbers == number))
    return found


@dataclass(frozen=True)
class ChangeBudget:
    """Where observed and predicted change meet and where they do not, in shares of the scored cells.

    Of the observed change, ``hits`` is predicted as change to the right class, ``wrong_hits`` as change to another one,
    and ``misses`` as persistence; ``false_alarms`` is persistence predicted as change. In Pontius et al. (2008), doi
    10.1007/s00168-007-0138-2, misses are A, hits B, wrong hits C, false alarms D.
    """

    hits: float
    misses: float
    false_alarms: float
    wrong_hits: float

    @property
    def figure_of_merit(self) -> float:
        """Intersection of observed and predicted change over their union, B / (A + B + C + D)."""
        return _ratio(self.hits, self.hits + self.misses + self.false_alarms + self.wrong_hits)

    @property
    def producers_accuracy(self) -> float:
        """Share of the observed change that is hit, B / (A + B + C)."""
        return _ratio(self.hits, self.hits + self.misses + self.wrong_hits)

    @property
    def users_accuracy(self) -> float:
        """Share of the predicted change that hits, B / (B + C + D)."""
        return _ratio(self.hits, self.hits + self.wrong_hits + self.false_alarms)

    def to_dict(self) -> dict[str, float | None]:
        """Return plain numbers for JSON: None where a score is not defined."""
        names = (*SHARES, "figure_of_merit", "producers_accuracy", "users_accuracy")
        return {name: plain(getattr(self, name)) for name in names}


@dataclass(frozen=True)
class ClassChange:
    """Gain, loss and disagreement of one class, in shares of the scored cells.

    ``gain`` is the budget of the cells that the class gains in the observed or in the predicted map: cells that become
    another class than predicted are misses of the one and false alarms of the other, so there are no wrong hits.
    ``loss`` is that of the cells that start in the class.
    """

    gain: ChangeBudget
    loss: ChangeBudget
    quantity: float
    allocation: float
    exchange: float
    shift: float

    def to_dict(self) -> dict[str, Any]:
        """Return plain numbers for JSON."""
        parts = {name: plain(getattr(self, name)) for name in _PARTS}
        return {"gain": self.gain.to_dict(), "loss": self.loss.to_dict(), **parts}


@dataclass(frozen=True, eq=False, repr=False)
class ChangeScores(Tabular):
    """Scores of a predicted change against the observed one, beside those of a map that stays as it was.

    A score without a denominator is NaN: a figure of merit where nothing changed and no change was predicted.

    Parameters
    ----------
    table : (classes, classes, classes) array
        Square metres or cells by class in the start, the observed and the predicted map.
    transitions : (classes, classes) array
        The same by class in the start and the observed map alone, on which persistence is scored. In windows of several
        cells this is not the sum over the table.
    weighting : {"area", "pixels"}
        What the table counts.
    factor : int
        Cells along the windows in which the maps are compared; 1 compares cell by cell.
    by_factor : dict of int to ChangeScores
        The same cells in windows of several sizes, in ascending order, 1 among them.
    per_region : dict of label to ChangeScores
        Each region alone, in ascending order of labels; empty where no regions were given.
    years : tuple of (start, observed, predicted) year
        None where a map does not say its year.
    cells : str
        Which cells were scored.

    Attributes
    ----------
    total : float
        Square metres or cells that were scored.
    budget : ChangeBudget
        Shares of the total; also as ``hits``, ``misses``, ``false_alarms``, ``wrong_hits``, ``figure_of_merit``.
    disagreement, quantity, allocation, exchange, shift : float
        Share of the cells in which the observed and the predicted map differ. It is quantity, because the totals of the
        classes differ, and allocation: exchange, because pairs of classes changed places, and shift, the rest.
    kappa_simulation, kappa_transition, kappa_transloc : float
        Agreement beyond what the two maps' transitions would give at random places; and its factors: whether the
        amounts of transitions fit, and whether their places do.
    """

    table: NDArray[np.float64]
    transitions: NDArray[np.float64]
    weighting: Weighting = "area"
    factor: int = 1
    by_factor: dict[int, ChangeScores] = field(default_factory=dict)
    per_region: dict[Any, ChangeScores] = field(default_factory=dict)
    years: tuple[int | None, int | None, int | None] = (None, None, None)
    cells: str = "all"
    total: float = field(init=False)
    budget: ChangeBudget = field(init=False)
    hits: float = field(init=False)
    misses: float = field(init=False)
    false_alarms: float = field(init=False)
    wrong_hits: float = field(init=False)
    figure_of_merit: float = field(init=False)
    disagreement: float = field(init=False)
    quantity: float = field(init=False)
    allocation: float = field(init=False)
    exchange: float = field(init=False)
    shift: float = field(init=False)
    kappa_simulation: float = field(init=False)
    kappa_transition: float = field(init=False)
    kappa_transloc: float = field(init=False)

    def __post_init__(self) -> None:
        total = float(self.table.sum())
        budget = _budget(self.table, total)
        parts = {name: _ratio(float(each.sum()) / 2, total) for name, each in disagreement(self.confusion).items()}
        kappas = zip(_KAPPAS, kappa_simulation(self.table), strict=True)
        merit, differing = budget.figure_of_merit, parts.pop("total")
        vars(self).update(total=total, budget=budget, figure_of_merit=merit, disagreement=differing)
        vars(self).update(asdict(budget), **parts, **dict(kappas))

    @property
    def confusion(self) -> NDArray[np.float64]:
        """Rows observed, columns predicted; square metres or cells; shape ``(classes, classes)``."""
        return np.asarray(self.table.sum(axis=0))

    @property
    def observed_transitions(self) -> NDArray[np.float64]:
        """Rows start, columns observed; square metres or cells; shape ``(classes, classes)``."""
        return np.asarray(self.table.sum(axis=2))

    @property
    def predicted_transitions(self) -> NDArray[np.float64]:
        """Rows start, columns predicted; square metres or cells; shape ``(classes, classes)``."""
        return np.asarray(self.table.sum(axis=1))

    @cached_property
    def null(self) -> ChangeScores:
        """Scores of persistence, the map that stays as it was, on the same cells."""
        at = np.arange(len(self.transitions))
        table = np.zeros((at.size,) * 3)
        table[at, :, at] = self.transitions
        by_factor = {factor: each.null for factor, each in self.by_factor.items()}
        return replace(self, table=table, by_factor=by_factor, per_region={}, years=(*self.years[:2], self.years[0]))

    @cached_property
    def per_class(self) -> dict[str, ClassChange]:
        """Gain, loss and disagreement of each class, by name."""
        parts = disagreement(self.confusion)
        return {
            name: ClassChange(
                _gain(self.table, code, self.total),
                _budget(self.table, self.total, code),
                *(_ratio(float(parts[part][code]), self.total) for part in _PARTS),
            )
            for code, name in enumerate(CLASS_NAMES)
        }

    @property
    def null_resolution(self) -> int | None:
        """Cells along the smallest of the windows in which the prediction disagrees less than persistence.

        None where persistence is as good or better in all of them.
        """
        better = (f for f, each in self.by_factor.items() if each.null.disagreement - each.disagreement > ROUNDING)
        return next(better, None)

    def to_dict(self) -> dict[str, Any]:
        """Return plain numbers for JSON: None where a score is not defined."""
        return {
            "cells": self.cells,
            "years": dict(zip(("start", "observed", "predicted"), self.years, strict=True)),
            "weighting": self.weighting,
            "unit": UNITS[self.weighting],
            "total": self.total,
            **self.figures(),
            "null": self.null.figures(),
            "per_class": {name: each.to_dict() for name, each in self.per_class.items()},
            "observed_transitions": self.observed_transitions.tolist(),
            "predicted_transitions": self.predicted_transitions.tolist(),
            "by_factor": {
                str(factor): {**each.figures(), "null": each.null.figures()} for factor, each in self.by_factor.items()
            },
            "null_resolution": self.null_resolution,
            "per_region": {str(label): each.to_dict() for label, each in self.per_region.items()},
        }

    def figures(self) -> dict[str, float | None]:
        """Return the scores of all cells as plain numbers for JSON."""
        # kappa simulation is defined for maps of one class a cell
        names = (*_PARTS, "disagreement", *(_KAPPAS if self.factor == 1 else ()))
        return {**self.budget.to_dict(), **{name: plain(getattr(self, name)) for name in names}}

    def _tables(self) -> list[TextTable]:
        change, ends = [], []
        for factor, each in (self.by_factor or {self.factor: self}).items():
            for name, one in (("prediction", each), ("persistence", each.null)):
                shown = [[figure(100 * getattr(one, part), 2) for part in parts] for parts in (SHARES, _SHOWN)]
                change.append([name, f"{factor}", *shown[0], figure(one.figure_of_merit)])
                ends.append([name, f"{factor}", *shown[1], figure(one.kappa_simulation if factor == 1 else None)])
        unit = "area" if self.weighting == "area" else "pixel counts"
        title = f"cells: {self.cells} | change by {unit}, in %,\nin windows of so many cells along a side"
        budgets = ["map", "cells", *(share.replace("_", " ") for share in SHARES), "figure of merit"]
        parts = ["map", "cells", *_SHOWN, "kappa simulation"]
        return [(title, budgets, change), ("disagreement of the end maps", parts, ends)]


def _budget(table: NDArray[np.float64], total: float, code: int | None = None) -> ChangeBudget:
    """Return the budget of all cells, or of those that start in a class."""
    start, observed, predicted = np.indices(table.shape)
    chosen = True if code is None else start == code
    changed, foretold, right = observed != start, predicted != start, observed == predicted
    kinds = (changed & right, changed & ~foretold, ~changed & foretold, changed & foretold & ~right)
    return ChangeBudget(*(_ratio(float(table[chosen & kind].sum()), total) for kind in kinds))


def _gain(table: NDArray[np.float64], code: int, total: float) -> ChangeBudget:
    elsewhere = np.delete(table, code, axis=0)
    gained, foretold = float(elsewhere[:, code, :].sum()), float(elsewhere[:, :, code].sum())
    hits = float(elsewhere[:, code, code].sum())
    return ChangeBudget(_ratio(hits, total), _ratio(gained - hits, total), _ratio(foretold - hits, total), 0.0)


def _ratio(above: float, below: float) -> float:
    return above / below if below > 0 else math.nan
