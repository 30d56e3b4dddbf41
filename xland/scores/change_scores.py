"""Hits, misses, figure of merit and the rest: what follows from one table of change."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xland.scores.measures import Disagreement, KappaSimulation, Weighting, disagreement, kappa_simulation
from xland.scores.tables import figure, html_table, text_table
from xland.vocabulary import CLASS_NAMES

_ROUNDING = 1e-12
"""Share of the area by which two sums over the same cells may differ in floating point."""


@dataclass(frozen=True)
class ChangeBudget:
    """Where observed and predicted change meet and where they do not, in shares of the scored cells.

    Parameters
    ----------
    hits : float
        Observed change predicted as change to the right class.
    misses : float
        Observed change predicted as persistence.
    false_alarms : float
        Observed persistence predicted as change.
    wrong_hits : float
        Observed change predicted as change to a wrong class.

    Sources
    -------
    Pontius et al. (2008), doi 10.1007/s00168-007-0138-2: misses A, hits B, wrong hits C, false alarms D.
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
        names = ("hits", "misses", "false_alarms", "wrong_hits")
        scores = ("figure_of_merit", "producers_accuracy", "users_accuracy")
        return {name: _plain(getattr(self, name)) for name in (*names, *scores)}


@dataclass(frozen=True)
class ClassChange:
    """Change of one class, in shares of the scored cells.

    Parameters
    ----------
    gain : ChangeBudget
        Of the cells that the class gains in the observed or in the predicted map. Cells that become
        another class than predicted are misses of the one and false alarms of the other, so there are
        no wrong hits.
    loss : ChangeBudget
        Of the cells that begin in the class.
    quantity, exchange, shift : float
        Disagreement of the end maps in which the class takes part.
    """

    gain: ChangeBudget
    loss: ChangeBudget
    quantity: float
    exchange: float
    shift: float

    @property
    def allocation(self) -> float:
        """Exchange and shift together."""
        return self.exchange + self.shift

    def to_dict(self) -> dict[str, Any]:
        """Return plain numbers for JSON."""
        shares = {name: _plain(getattr(self, name)) for name in ("quantity", "allocation", "exchange", "shift")}
        return {"gain": self.gain.to_dict(), "loss": self.loss.to_dict(), **shares}


@dataclass(frozen=True, eq=False, repr=False)
class ChangeScores:
    """Scores of a predicted change against the observed one, beside those of a map that stays as it was.

    Parameters
    ----------
    table : (8, 8, 8) array
        Square metres or cells by class in the start, the observed and the predicted map.
    transitions : (8, 8) array
        The same by class in the start and the observed map alone, which persistence is scored on. In
        windows of several cells this is not the sum over the table.
    weighting : {"area", "pixels"}
        What the table holds.
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

    Notes
    -----
    A score without a denominator is NaN: a figure of merit where nothing changed and nothing was said to.
    """

    table: NDArray[np.float64]
    transitions: NDArray[np.float64]
    weighting: Weighting = "area"
    factor: int = 1
    by_factor: dict[int, ChangeScores] = field(default_factory=dict)
    per_region: dict[Any, ChangeScores] = field(default_factory=dict)
    years: tuple[int | None, int | None, int | None] = (None, None, None)
    cells: str = "all"

    @property
    def total(self) -> float:
        """Square metres or cells that were scored."""
        return float(self.table.sum())

    @cached_property
    def budget(self) -> ChangeBudget:
        """Hits, misses, false alarms and wrong hits."""
        return _budget(self.table, self.total)

    @property
    def hits(self) -> float:
        """Share of the cells whose observed change is predicted right."""
        return self.budget.hits

    @property
    def misses(self) -> float:
        """Share of the cells whose observed change is predicted as persistence."""
        return self.budget.misses

    @property
    def false_alarms(self) -> float:
        """Share of the cells that persist and are predicted to change."""
        return self.budget.false_alarms

    @property
    def wrong_hits(self) -> float:
        """Share of the cells that change to another class than predicted."""
        return self.budget.wrong_hits

    @property
    def figure_of_merit(self) -> float:
        """Intersection of observed and predicted change over their union."""
        return self.budget.figure_of_merit

    @property
    def confusion(self) -> NDArray[np.float64]:
        """Rows observed, columns predicted; square metres or cells; shape ``(8, 8)``."""
        return np.asarray(self.table.sum(axis=0))

    @property
    def observed_transitions(self) -> NDArray[np.float64]:
        """Rows start, columns observed; square metres or cells; shape ``(8, 8)``."""
        return np.asarray(self.table.sum(axis=2))

    @property
    def predicted_transitions(self) -> NDArray[np.float64]:
        """Rows start, columns predicted; square metres or cells; shape ``(8, 8)``."""
        return np.asarray(self.table.sum(axis=1))

    @cached_property
    def _disagreement(self) -> Disagreement:
        return disagreement(self.confusion)

    @property
    def disagreement(self) -> float:
        """Share of the cells in which observed and predicted map differ: quantity, exchange and shift."""
        return self._share("total")

    @property
    def quantity(self) -> float:
        """Disagreement because the totals of the classes differ."""
        return self._share("quantity")

    @property
    def allocation(self) -> float:
        """Disagreement about places: exchange and shift."""
        return self._share("allocation")

    @property
    def exchange(self) -> float:
        """Disagreement because pairs of classes changed places."""
        return self._share("exchange")

    @property
    def shift(self) -> float:
        """Disagreement about places that is no exchange of pairs."""
        return self._share("shift")

    def _share(self, component: str) -> float:
        return _ratio(self._disagreement.overall(component), self.total)

    @cached_property
    def _kappa(self) -> KappaSimulation:
        return kappa_simulation(self.table)

    @property
    def kappa_simulation(self) -> float:
        """Agreement beyond what the two maps' transitions would bring at random places."""
        return self._kappa.kappa

    @property
    def kappa_transition(self) -> float:
        """Factor of kappa simulation that says whether the amounts of transitions fit."""
        return self._kappa.transition

    @property
    def kappa_transloc(self) -> float:
        """Factor of kappa simulation that says whether the places fit."""
        return self._kappa.transloc

    @cached_property
    def null(self) -> ChangeScores:
        """Scores of persistence, the map that stays as it was, on the same cells."""
        size = self.transitions.shape[0]
        table = np.zeros((size,) * 3)
        table[np.arange(size), :, np.arange(size)] = self.transitions
        return ChangeScores(
            table,
            self.transitions,
            self.weighting,
            self.factor,
            by_factor={factor: each.null for factor, each in self.by_factor.items()},
            years=(*self.years[:2], self.years[0]),
            cells=self.cells,
        )

    @cached_property
    def per_class(self) -> dict[str, ClassChange]:
        """Gain, loss and disagreement of each class, by name."""
        total = self.total
        return {name: _class_change(self.table, self._disagreement, i, total) for i, name in enumerate(CLASS_NAMES)}

    @property
    def null_resolution(self) -> int | None:
        """Cells along the smallest of the windows in which the prediction disagrees less than persistence.

        None where persistence is as good or better in all of them.
        """
        better = (f for f, each in self.by_factor.items() if each.null.disagreement - each.disagreement > _ROUNDING)
        return next(better, None)

    def to_dict(self) -> dict[str, Any]:
        """Return plain numbers for JSON: None where a score is not defined."""
        return {
            "cells": self.cells,
            "years": dict(zip(("start", "observed", "predicted"), self.years, strict=True)),
            "weighting": self.weighting,
            "unit": "m2" if self.weighting == "area" else "cells",
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
        """Return the scores of these windows alone as plain numbers, without transitions, classes and regions."""
        shares = ("quantity", "allocation", "exchange", "shift", "disagreement")
        # kappa simulation is defined for maps of one class a cell
        kappas = ("kappa_simulation", "kappa_transition", "kappa_transloc") if self.factor == 1 else ()
        return {**self.budget.to_dict(), **{name: _plain(getattr(self, name)) for name in (*shares, *kappas)}}

    def _table(self) -> tuple[str, list[str], list[list[str]]]:
        unit = "area" if self.weighting == "area" else "pixel counts"
        header = ["windows", "map", "hits", "misses", "false alarms", "wrong hits", "FoM", "quantity", "exchange"]
        rows = []
        for factor, each in (self.by_factor or {self.factor: self}).items():
            for name, one in (("prediction", each), ("persistence", each.null)):
                budget, shares = one.budget, (one.quantity, one.exchange, one.shift)
                parts = (budget.hits, budget.misses, budget.false_alarms, budget.wrong_hits)
                rows.append(
                    [
                        f"{factor} x {factor}",
                        name,
                        *(figure(100 * value, 2) for value in parts),
                        figure(one.figure_of_merit),
                        *(figure(100 * value, 2) for value in shares),
                        figure(one.kappa_simulation if factor == 1 else None),
                    ]
                )
        title = f"cells: {self.cells} | change by {unit}, in % of what was scored (not FoM and kappa)"
        return title, [*header, "shift", "kappa sim."], rows

    def __str__(self) -> str:
        return text_table(*self._table())

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return html_table(*self._table())


def _budget(table: NDArray[np.float64], total: float) -> ChangeBudget:
    start, observed, predicted = np.indices(table.shape)
    changed, foretold, right = observed != start, predicted != start, observed == predicted

    def share(where: NDArray[np.bool_]) -> float:
        return _ratio(float(table[where].sum()), total)

    return ChangeBudget(
        hits=share(changed & right),
        misses=share(changed & ~foretold),
        false_alarms=share(~changed & foretold),
        wrong_hits=share(changed & foretold & ~right),
    )


def _class_change(table: NDArray[np.float64], parts: Disagreement, code: int, total: float) -> ClassChange:
    begins = np.zeros_like(table)
    begins[code] = table[code]
    elsewhere = np.delete(table, code, axis=0)
    gained, foretold = float(elsewhere[:, code, :].sum()), float(elsewhere[:, :, code].sum())
    hits = float(elsewhere[:, code, code].sum())
    gain = ChangeBudget(_ratio(hits, total), _ratio(gained - hits, total), _ratio(foretold - hits, total), 0.0)
    shares = (_ratio(float(each[code]), total) for each in (parts.quantity, parts.exchange, parts.shift))
    return ClassChange(gain, _budget(begins, total), *shares)


def _ratio(above: float, below: float) -> float:
    return above / below if below > 0 else math.nan


def _plain(value: float) -> float | None:
    return None if math.isnan(value) else float(value)
