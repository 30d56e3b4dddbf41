"""Scores that follow from a confusion matrix, and the register of those that are reported."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from xland.arguments import choose_names
from xland.errors import GridError
from xland.scores.tables import Tabular, TextTable, figure, plain
from xland.vocabulary import CLASS_NAMES, LAND_CLASSES

if TYPE_CHECKING:
    import pandas as pd

Weighting = Literal["area", "pixels"]
Matrix = NDArray[np.float64]

UNITS = {"area": "m2", "pixels": "cells"}
"""What the matrices of each weighting count."""

ROUNDING = 1e-12
"""Share of a total below which a difference is the rounding of a sum."""

_PER_CLASS = ("iou", "precision", "recall", "f1", "support")


@dataclass(frozen=True)
class Score:
    """One number that says how good a map is.

    Parameters
    ----------
    name : str
        In ``scores=`` of :func:`xland.evaluate`, in JSON and in data frames.
    compute : callable
        Takes the (classes, classes) confusion matrix, rows observed and columns predicted, in square metres or cells,
        and the codes over which means are taken. Returns a number; NaN where it is not defined.
    title : str
        Heading of its column in tables; by default the name.
    """

    name: str
    compute: Callable[[Matrix, tuple[int, ...]], float]
    title: str = ""


SCORES: dict[str, Score] = {}
"""All scores by name, in the order of the columns."""


def register_score(score: Score) -> Score:
    """Add a score: it is then shown in evaluations, on the command line and in reports.

    Raises
    ------
    GridError
        If there is a score of that name.
    """
    if score.name in SCORES:
        raise GridError(f"there is a score {score.name!r} already: register yours under another name")
    SCORES[score.name] = score
    return score


def choose_scores(names: str | Sequence[str] | None) -> tuple[str, ...]:
    """Return names of scores, by default all; :class:`GridError` for unknown ones."""
    return choose_names(SCORES if names is None else names, SCORES, "scores", GridError)


def accuracy(matrix: Matrix) -> float:
    """Share of cells with the observed class."""
    return float(ratio(np.trace(matrix), matrix.sum()))


def iou(matrix: NDArray[Any]) -> NDArray[np.float64]:
    """Intersection over union of each class, TP / (TP + FP + FN); NaN where it is in neither map."""
    hits = np.diag(matrix)
    return ratio(hits, matrix.sum(axis=1) + matrix.sum(axis=0) - hits)


def mean_iou(matrix: Matrix, classes: Sequence[int]) -> float:
    """Mean IoU over those of some classes that are in either map."""
    values = iou(matrix)[list(classes)]
    values = values[np.isfinite(values)]
    return float(values.mean()) if values.size else math.nan


def kappa(matrix: Matrix) -> float:
    """Cohen's kappa (1960), doi 10.1177/001316446002000104: accuracy beyond what the totals of the maps would give."""
    chance = float(ratio(matrix.sum(axis=1) @ matrix.sum(axis=0), matrix.sum() ** 2))
    return float(ratio(accuracy(matrix) - chance, 1 - chance)) if matrix.any() else math.nan


register_score(Score("accuracy", lambda matrix, _: accuracy(matrix)))
register_score(Score("miou", mean_iou, "mean IoU"))
register_score(Score("kappa", lambda matrix, _: kappa(matrix)))


def ratio(above: Any, below: Any) -> NDArray[np.float64]:
    """Divide; NaN where there is no denominator."""
    above, below = np.asarray(above, dtype=np.float64), np.asarray(below, dtype=np.float64)
    return np.divide(above, below, out=np.full(below.shape, np.nan), where=below != 0)


@dataclass(frozen=True, eq=False, repr=False)
class Scores(Tabular):
    """Scores that follow from one confusion matrix; NaN where a denominator is zero.

    Parameters
    ----------
    matrix : (classes, classes) array
        Rows observed, columns predicted; square metres or cells.
    weighting : {"pixels", "area"}
        Cells or square metres.
    classes : sequence of int, optional
        Codes over which the mean IoU is taken; by default the land classes that occur in the observed map. Ocean and
        inland water are not among them unless asked for.
    names : sequence of str, optional
        Registered scores that are shown; by default all.

    Attributes
    ----------
    total : float
        Square metres or cells that were scored.
    accuracy, kappa, miou : float
        Share of cells with the observed class; Cohen's kappa, the accuracy beyond what the totals of both maps would
        give; mean IoU over those of ``miou_classes`` that occur in either map.
    miou_classes : tuple of int
        Codes over which the mean IoU is taken.
    support, iou, precision, recall, f1 : (classes,) arrays
        Square metres or cells of each observed class; intersection over union; share of a predicted class that is
        observed there (user's accuracy); share of an observed class that is predicted (producer's accuracy); harmonic
        mean of these two, 2 TP / (2 TP + FP + FN).
    """

    matrix: Matrix
    weighting: Weighting = "pixels"
    classes: Sequence[int] | None = None
    names: Sequence[str] | None = None
    total: float = field(init=False)
    accuracy: float = field(init=False)
    kappa: float = field(init=False)
    miou: float = field(init=False)
    miou_classes: tuple[int, ...] = field(init=False)
    support: NDArray[np.float64] = field(init=False)
    iou: NDArray[np.float64] = field(init=False)
    precision: NDArray[np.float64] = field(init=False)
    recall: NDArray[np.float64] = field(init=False)
    f1: NDArray[np.float64] = field(init=False)

    def __post_init__(self) -> None:
        matrix, size = np.asarray(self.matrix, dtype=np.float64), len(CLASS_NAMES)
        if matrix.shape != (size, size):
            raise GridError(f"a confusion matrix has {size} x {size} entries, not {matrix.shape}")
        hits, observed, predicted = np.diag(matrix), matrix.sum(axis=1), matrix.sum(axis=0)
        codes = [code for code in LAND_CLASSES if observed[code] > 0] if self.classes is None else self.classes
        parts = {"support": observed, "precision": ratio(hits, predicted), "recall": ratio(hits, observed)}
        parts |= {"iou": iou(matrix), "f1": ratio(2 * hits, observed + predicted)}
        means = {"accuracy": accuracy(matrix), "kappa": kappa(matrix), "miou": mean_iou(matrix, codes)}
        vars(self).update(
            matrix=matrix, total=float(matrix.sum()), miou_classes=tuple(map(int, codes)), **parts, **means
        )

    @cached_property
    def values(self) -> dict[str, float]:
        """The registered scores that are shown, by name."""
        return {name: SCORES[name].compute(self.matrix, self.miou_classes) for name in choose_scores(self.names)}

    def to_dict(self) -> dict[str, Any]:
        """Return plain numbers for JSON: None where a score is not defined."""
        return {
            "weighting": self.weighting,
            "unit": UNITS[self.weighting],
            "total": self.total,
            **{name: plain(value) for name, value in self.values.items()},
            "miou_classes": [CLASS_NAMES[code] for code in self.miou_classes],
            **{each: dict(zip(CLASS_NAMES, map(plain, getattr(self, each)), strict=True)) for each in _PER_CLASS},
            "confusion": self.matrix.tolist(),
        }

    def to_dataframe(self) -> pd.DataFrame:
        """Return a row for each class: IoU, precision, recall, F1, support."""
        import pandas as pd

        columns = {each: getattr(self, each) for each in _PER_CLASS}
        return pd.DataFrame(columns, index=pd.Index(CLASS_NAMES, name="class"))

    def _tables(self) -> list[TextTable]:
        over = ", ".join(CLASS_NAMES[code] for code in self.miou_classes) or "no class"
        said = ", ".join(f"{SCORES[name].title or name} {figure(value)}" for name, value in self.values.items())
        title = f"{said}\nmean IoU over {over}; by {'area' if self.weighting == 'area' else 'pixel counts'}"
        columns = [getattr(self, each) for each in _PER_CLASS[:4]]
        share = 100 * self.support / (self.total or 1)
        rows = [
            [name, *(figure(values[code]) for values in columns), figure(share[code], 2)]
            for code, name in enumerate(CLASS_NAMES)
            if self.matrix[code].any() or self.matrix[:, code].any()
        ]
        return [(title, ["class", "IoU", "precision", "recall", "F1", "observed %"], rows)]


def disagreement(matrix: Matrix) -> dict[str, NDArray[np.float64]]:
    """Split the disagreement of two maps into parts, for each class and in the unit of the matrix.

    ``quantity`` is the difference of the totals of a class; ``exchange``, cells that changed places with those of
    another class, pair by pair; ``shift``, the rest, which takes three or more classes. ``allocation`` is exchange and
    shift, ``total`` all three. Every cell in disagreement belongs to two classes, so the map has half the sum over the
    classes. The transposed matrix has the same parts. Sources: Pontius and Millones (2011), doi
    10.1080/01431161.2011.552923; Pontius and Santacruz (2014), doi 10.1080/2150704X.2014.969814.
    """
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not (matrix >= 0).all():
        raise GridError(f"a confusion matrix is square and nowhere negative; this one has the shape {matrix.shape}")
    rows, columns, diagonal = matrix.sum(axis=1), matrix.sum(axis=0), np.diag(matrix)
    quantity = np.abs(rows - columns)
    exchange = 2 * (np.minimum(matrix, matrix.T).sum(axis=1) - diagonal)
    # a shift of zero may come out as a rounding below it
    shift = np.maximum(rows + columns - 2 * diagonal - quantity - exchange, 0.0)
    parts = {"quantity": quantity, "exchange": exchange, "shift": shift}
    return {**parts, "allocation": exchange + shift, "total": quantity + (exchange + shift)}


def kappa_simulation(table: NDArray[np.float64]) -> tuple[float, float, float]:
    """Return kappa simulation, and its factors of the amounts and of the places of transitions; NaN if not defined.

    ``table`` (classes, classes, classes) are areas or counts by class in the start, the observed and the predicted map.
    It is Cohen's kappa with the agreement by chance, and the largest possible one, taken within each class of the start
    map: 1 for a perfect prediction, 0 for one as good as the same transitions at random places. Where neither map
    leaves room for chance (no change in both, or all of every class to one other) it is not defined. Source: van Vliet,
    Bregt and Hagen-Zanker (2011), doi 10.1016/j.ecolmodel.2011.01.017.
    """
    total = float(table.sum())
    if total == 0:
        return math.nan, math.nan, math.nan
    observed, predicted = table.sum(axis=2) / total, table.sum(axis=1) / total
    origin = observed.sum(axis=1, keepdims=True)
    agreement = float(np.einsum("ijj->", table)) / total
    chance = float((np.divide(observed, origin, out=np.zeros_like(observed), where=origin > 0) * predicted).sum())
    largest = float(np.minimum(observed, predicted).sum())
    return (
        _beyond_rounding(agreement - chance, 1 - chance),
        _beyond_rounding(largest - chance, 1 - chance),
        _beyond_rounding(agreement - chance, largest - chance),
    )


def _beyond_rounding(above: float, below: float) -> float:
    if below <= ROUNDING:
        return math.nan
    return above / below if abs(above) > ROUNDING else 0.0
