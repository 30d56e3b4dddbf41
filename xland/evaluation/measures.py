"""Accuracy, IoU, precision, recall, F1 and kappa: what follows from one confusion matrix."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from xland.errors import GridError
from xland.evaluation.tables import figure, html_table, text_table
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
