"""Scores from confusion matrices that are kept cell by cell of the split, so that differences have an error."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.benchmarks.short_training import Judged
from xland.geo.split import CELL_COLUMNS, CELL_ROWS
from xland.training.learn.calibrating import fit_class_offsets
from xland.vocabulary import CLASS_NAMES, LAND_CLASSES, OCEAN

PLACES = CELL_ROWS * CELL_COLUMNS

FIGURES = ("accuracy", "miou", *(name for name in CLASS_NAMES if name != CLASS_NAMES[OCEAN]))
"""Accuracy and mean IoU over the pixels that are land in the observed map, and IoU of each class; that of
water over all pixels that count."""


def count(target: NDArray[np.uint8], predicted: NDArray[np.integer], place: NDArray[np.int64]) -> NDArray[np.int64]:
    """Cross-tabulate target and prediction in each cell of the split: ``(900, classes, classes)``."""
    classes = len(CLASS_NAMES)
    flat = (place * classes + target) * classes + predicted
    return np.bincount(flat, minlength=PLACES * classes**2).reshape(PLACES, classes, classes)


def count_most_probable(judged: Judged) -> NDArray[np.int64]:
    """Matrices of the most probable class."""
    return count(judged.target, judged.scores.argmax(axis=1), judged.place)


def count_with_offsets(judged: Judged) -> NDArray[np.int64]:
    """Matrices of the most probable class after offsets of the classes, which other cells of the split gave.

    Cells are dealt into two halves; offsets fitted on the land of one serve the other, so that no pixel
    is judged with offsets that it had a part in.
    """
    held = np.unique(judged.place)
    half = np.isin(judged.place, held[::2])
    land = np.isin(judged.target, LAND_CLASSES)
    total = np.zeros((PLACES, len(CLASS_NAMES), len(CLASS_NAMES)), dtype=np.int64)
    for fitted, used in ((half, ~half), (~half, half)):
        offsets = fit_class_offsets(judged.scores[fitted & land], judged.target[fitted & land])
        predicted = (judged.scores[used] + offsets).argmax(axis=1)
        total += count(judged.target[used], predicted, judged.place[used])
    return total


def figures(matrix: NDArray[np.integer]) -> dict[str, float]:
    """All of :data:`FIGURES` from one matrix, rows observed."""
    return {name: float(values) for name, values in figures_of(matrix).items()}


def figures_of(matrices: NDArray[np.integer]) -> dict[str, NDArray[np.float64]]:
    """All of :data:`FIGURES` from each of many matrices, ``(..., classes, classes)``; NaN where not defined."""
    codes = list(LAND_CLASSES)
    land = np.zeros_like(matrices)
    land[..., codes, :] = matrices[..., codes, :]
    of_land, of_all = _iou(land), _iou(matrices)
    held = np.where(land.sum(axis=-1)[..., codes] > 0, of_land[..., codes], np.nan)
    right = np.diagonal(land, axis1=-2, axis2=-1).sum(axis=-1)
    by_class = {
        name: (of_land if code in LAND_CLASSES else of_all)[..., code]
        for code, name in enumerate(CLASS_NAMES)
        if name in FIGURES
    }
    number = np.isfinite(held).sum(axis=-1)
    return {
        "accuracy": _ratio(right, land.sum(axis=(-2, -1))),
        "miou": _ratio(np.nansum(held, axis=-1), number),
        **by_class,
    }


def difference(
    matrices: NDArray[np.int64], reference: NDArray[np.int64], draws: int = 200, seed: int = 0
) -> dict[str, tuple[float, float]]:
    """How much each figure differs from the reference, and the standard error of that."""
    held = np.flatnonzero(reference.sum(axis=(1, 2)))
    times = np.random.default_rng(seed).multinomial(len(held), np.full(len(held), 1 / len(held)), draws)
    whole, drawn = (
        [figures_of(np.tensordot(weights, each[held], 1)) for each in (matrices, reference)]
        for weights in (np.ones(len(held), dtype=np.int64), times)
    )
    return {
        name: (float(whole[0][name] - whole[1][name]), _deviation(drawn[0][name] - drawn[1][name])) for name in FIGURES
    }


def _iou(matrices: NDArray[np.integer]) -> NDArray[np.float64]:
    hits = np.diagonal(matrices, axis1=-2, axis2=-1)
    return _ratio(hits, matrices.sum(axis=-1) + matrices.sum(axis=-2) - hits)


def _ratio(above: NDArray[Any], below: NDArray[Any]) -> NDArray[np.float64]:
    above, below = np.asarray(above, dtype=np.float64), np.asarray(below, dtype=np.float64)
    return np.divide(above, below, out=np.full(below.shape, np.nan), where=below > 0)


def _deviation(values: NDArray[np.float64]) -> float:
    known = values[np.isfinite(values)]
    return float(known.std(ddof=1)) if len(known) > 1 else float("nan")
