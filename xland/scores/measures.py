"""Accuracy, IoU, precision, recall, F1, kappa and disagreement, from confusion matrices and tables of change."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from xland.errors import GridError
from xland.scores.tables import figure, html_table, text_table
from xland.vocabulary import CLASS_NAMES, LAND_CLASSES

if TYPE_CHECKING:
    import pandas as pd


Weighting = Literal["area", "pixels"]


@dataclass(frozen=True, eq=False, repr=False)
class Scores:
    """Scores that follow from one confusion matrix.

    Parameters
    ----------
    matrix : (8, 8) array
        Rows observed, columns predicted; square metres or cells.
    weighting : {"pixels", "area"}
        What the matrix holds.
    classes : sequence of int, optional
        Codes over which the mean IoU is taken; by default the land classes 1..6 that occur in the
        observed map. Ocean and inland water are never among them unless asked for.

    Notes
    -----
    Intersection over union is TP / (TP + FP + FN), F1 is 2 TP / (2 TP + FP + FN), and kappa follows
    Cohen (1960), doi 10.1177/001316446002000104. A score whose denominator is zero is NaN.
    """

    matrix: NDArray[np.float64]
    weighting: Weighting = "pixels"
    classes: Sequence[int] | None = None

    def __post_init__(self) -> None:
        matrix = np.asarray(self.matrix, dtype=np.float64)
        if matrix.shape != (len(CLASS_NAMES),) * 2:
            raise GridError(
                f"a confusion matrix has {len(CLASS_NAMES)} x {len(CLASS_NAMES)} entries, not {matrix.shape}"
            )
        object.__setattr__(self, "matrix", matrix)

    @property
    def total(self) -> float:
        """Square metres or cells that were scored."""
        return float(self.matrix.sum())

    @property
    def support(self) -> NDArray[np.float64]:
        """Square metres or cells of each class in the observed map; shape ``(8,)``."""
        return np.asarray(self.matrix.sum(axis=1))

    @property
    def accuracy(self) -> float:
        """Share of cells with the observed class."""
        return float(_ratio(np.trace(self.matrix), self.matrix.sum()))

    @property
    def kappa(self) -> float:
        """Cohen's kappa: accuracy beyond what the two maps' totals alone would bring."""
        if self.total == 0:
            return math.nan
        chance = float(self.matrix.sum(axis=1) @ self.matrix.sum(axis=0)) / self.total**2
        return float(_ratio(self.accuracy - chance, 1 - chance))

    @cached_property
    def iou(self) -> NDArray[np.float64]:
        """Intersection over union of each class; shape ``(8,)``."""
        hits = np.diag(self.matrix)
        return _ratio(hits, self.matrix.sum(axis=1) + self.matrix.sum(axis=0) - hits)

    @cached_property
    def precision(self) -> NDArray[np.float64]:
        """Share of each predicted class that is observed there (user's accuracy); shape ``(8,)``."""
        return _ratio(np.diag(self.matrix), self.matrix.sum(axis=0))

    @cached_property
    def recall(self) -> NDArray[np.float64]:
        """Share of each observed class that is predicted (producer's accuracy); shape ``(8,)``."""
        return _ratio(np.diag(self.matrix), self.matrix.sum(axis=1))

    @cached_property
    def f1(self) -> NDArray[np.float64]:
        """Harmonic mean of precision and recall of each class; shape ``(8,)``."""
        return _ratio(2 * np.diag(self.matrix), self.matrix.sum(axis=1) + self.matrix.sum(axis=0))

    @property
    def miou_classes(self) -> tuple[int, ...]:
        """Codes over which the mean IoU is taken."""
        if self.classes is not None:
            return tuple(int(code) for code in self.classes)
        return tuple(code for code in LAND_CLASSES if self.support[code] > 0)

    @property
    def miou(self) -> float:
        """Mean IoU over :attr:`miou_classes`, those that occur in either map."""
        values = self.iou[list(self.miou_classes)]
        values = values[np.isfinite(values)]
        return float(values.mean()) if values.size else math.nan

    def to_dict(self) -> dict[str, Any]:
        """Return plain numbers for JSON: None where a score is not defined."""
        per_class = {
            name: {CLASS_NAMES[code]: _plain(value) for code, value in enumerate(getattr(self, name))}
            for name in ("iou", "precision", "recall", "f1", "support")
        }
        return {
            "weighting": self.weighting,
            "unit": "m2" if self.weighting == "area" else "cells",
            "total": self.total,
            "accuracy": _plain(self.accuracy),
            "miou": _plain(self.miou),
            "miou_classes": [CLASS_NAMES[code] for code in self.miou_classes],
            "kappa": _plain(self.kappa),
            **per_class,
            "confusion": self.matrix.tolist(),
        }

    def to_dataframe(self) -> pd.DataFrame:
        """Return a row for each class: IoU, precision, recall, F1, support."""
        import pandas as pd

        columns = {name: getattr(self, name) for name in ("iou", "precision", "recall", "f1", "support")}
        return pd.DataFrame(columns, index=pd.Index(CLASS_NAMES, name="class"))

    def _table(self) -> tuple[str, list[str], list[list[str]]]:
        unit = "area" if self.weighting == "area" else "pixel counts"
        title = (
            f"accuracy {figure(self.accuracy)}, mean IoU {figure(self.miou)} "
            f"(over {', '.join(CLASS_NAMES[code] for code in self.miou_classes) or 'no class'}), "
            f"kappa {figure(self.kappa)}; by {unit}"
        )
        share = _ratio(self.support, np.full(8, self.total))
        rows = [
            [
                CLASS_NAMES[code],
                *(figure(values[code]) for values in (self.iou, self.precision, self.recall, self.f1)),
                figure(100 * share[code], 2),
            ]
            for code in range(len(CLASS_NAMES))
            if self.matrix[code].any() or self.matrix[:, code].any()
        ]
        return title, ["class", "IoU", "precision", "recall", "F1", "observed %"], rows

    def __str__(self) -> str:
        return text_table(*self._table())

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return html_table(*self._table())


def _ratio(above: Any, below: Any) -> NDArray[np.float64]:
    above, below = np.asarray(above, dtype=np.float64), np.asarray(below, dtype=np.float64)
    return np.divide(above, below, out=np.full(below.shape, np.nan), where=below != 0)


def _plain(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


@dataclass(frozen=True, eq=False)
class Disagreement:
    """What two maps disagree about, for each class, in the unit of the matrix.

    Parameters
    ----------
    quantity : (classes,) array
        Difference of the two maps' totals of the class.
    exchange : (classes,) array
        Cells of the class that changed places with cells of another one, pair by pair.
    shift : (classes,) array
        The rest: the class's total stays, but it takes three or more classes to swap.

    Notes
    -----
    Every cell in disagreement belongs to two classes, so the sums over both maps are halves of the sums
    over the classes: :meth:`overall`.
    """

    quantity: NDArray[np.float64]
    exchange: NDArray[np.float64]
    shift: NDArray[np.float64]

    @property
    def allocation(self) -> NDArray[np.float64]:
        """Exchange and shift together: what is in the wrong place although the totals fit."""
        return self.exchange + self.shift

    @property
    def total(self) -> NDArray[np.float64]:
        """All disagreement in which the class takes part."""
        return self.quantity + self.allocation

    def overall(self, component: str) -> float:
        """Sum of a component over the map, with every cell counted once."""
        return float(getattr(self, component).sum()) / 2


def disagreement(matrix: NDArray[np.float64]) -> Disagreement:
    """Split the disagreement of a confusion matrix into quantity, exchange and shift.

    Parameters
    ----------
    matrix : (classes, classes) array
        Areas, counts or shares; rows of one map, columns of the other. The transposed matrix has the
        same disagreement.

    Returns
    -------
    Disagreement

    Raises
    ------
    GridError
        A matrix that is not square or holds negative or undefined numbers.

    Sources
    -------
    Quantity and allocation disagreement: Pontius and Millones (2011), doi 10.1080/01431161.2011.552923;
    exchange and shift: Pontius and Santacruz (2014), doi 10.1080/2150704X.2014.969814.
    """
    matrix = np.asarray(matrix, dtype=np.float64)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise GridError(f"a confusion matrix is square, not of shape {matrix.shape}")
    wrong = int((~(matrix >= 0) | np.isinf(matrix)).sum())
    if wrong:
        raise GridError(f"a confusion matrix holds areas or counts; {wrong} of its numbers are negative or not finite")
    rows, columns = matrix.sum(axis=1), matrix.sum(axis=0)
    diagonal = np.diag(matrix)
    quantity = np.abs(rows - columns)
    exchange = 2 * (np.minimum(matrix, matrix.T).sum(axis=1) - diagonal)
    # a shift of zero may come out as a rounding below it
    shift = np.maximum(rows + columns - 2 * diagonal - quantity - exchange, 0.0)
    return Disagreement(quantity, exchange, shift)


_ROUNDING = 1e-12
"""Share of the map below which a difference is rounding and a score has no denominator."""


@dataclass(frozen=True)
class KappaSimulation:
    """Kappa simulation and its two factors; NaN where not defined.

    Parameters
    ----------
    kappa : float
        1 for a perfect prediction, 0 for one as good as the same transitions at random places.
    transition : float
        Agreement of the amounts of each transition.
    transloc : float
        Agreement of the places, given the amounts.
    """

    kappa: float
    transition: float
    transloc: float


def kappa_simulation(table: NDArray[np.float64]) -> KappaSimulation:
    """Score a prediction of change by kappa simulation.

    Parameters
    ----------
    table : (classes, classes, classes) array
        Areas or counts by class in the start, the observed and the predicted map, as
        :func:`xland.scores.counts.cross_tabulate` gives them.

    Returns
    -------
    KappaSimulation

    Notes
    -----
    Cohen's kappa, with chance agreement and the largest possible agreement taken within each class of
    the start map. A prediction that changes nothing has kappa 0 if there was change; where neither map
    leaves room for chance (no change in both, or all of every class to one other) it is not defined.

    Sources
    -------
    Van Vliet, Bregt and Hagen-Zanker (2011), doi 10.1016/j.ecolmodel.2011.01.017.
    """
    total = float(table.sum())
    if total == 0:
        return KappaSimulation(math.nan, math.nan, math.nan)
    observed, predicted = table.sum(axis=2) / total, table.sum(axis=1) / total
    origin = observed.sum(axis=1, keepdims=True)
    agreement = float(np.einsum("ijj->", table)) / total
    chance = float((np.divide(observed, origin, out=np.zeros_like(observed), where=origin > 0) * predicted).sum())
    largest = float(np.minimum(observed, predicted).sum())
    return KappaSimulation(
        kappa=_ratio_beyond_rounding(agreement - chance, 1 - chance),
        transition=_ratio_beyond_rounding(largest - chance, 1 - chance),
        transloc=_ratio_beyond_rounding(agreement - chance, largest - chance),
    )


def _ratio_beyond_rounding(above: float, below: float) -> float:
    if below <= _ROUNDING:
        return math.nan
    return above / below if abs(above) > _ROUNDING else 0.0
