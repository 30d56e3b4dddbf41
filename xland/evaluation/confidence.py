"""Sums over bins of confidence, which add up over blocks: plain arrays in and out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xland.models.calibration import bin_of

_FINE = 40
"""Parts of a bin of confidence in which risk and coverage are counted."""


@dataclass(frozen=True, eq=False)
class Counts:
    """Sums over cells.

    Parameters
    ----------
    top : (3, fine bins) array
        By the probability of the class shown: weight, weight times that probability, weight of the cells
        where that class is observed.
    classes : (classes, 3, bins) array
        The same by the probability of each class.
    brier : float
        Weight times the sum of squared errors of the probabilities.
    """

    top: NDArray[np.float64]
    classes: NDArray[np.float64]
    brier: float

    @property
    def total(self) -> float:
        """Weight of all cells."""
        return float(self.top[0].sum())

    def by_confidence(self) -> NDArray[np.float64]:
        """Return ``top`` in bins, ``(3, bins)``."""
        return np.asarray(self.top.reshape(3, -1, _FINE).sum(axis=2))

    def from_the_surest(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the weight above each confidence that occurs, from the highest on, and how much of it is wrong."""
        weight, _, correct = self.top[:, ::-1][:, self.top[0, ::-1] > 0]
        return weight.cumsum(), (weight - correct).cumsum().clip(min=0)

    def pack(self) -> NDArray[np.float64]:
        """Return all sums in one array."""
        return np.concatenate([self.top.ravel(), self.classes.ravel(), [self.brier]])

    @classmethod
    def unpack(cls, sums: NDArray[np.float64], bins: int, classes: int) -> Counts:
        """Read what :meth:`pack` returned, or a sum of such arrays."""
        middle = 3 * bins * _FINE
        return cls(sums[:middle].reshape(3, -1), sums[middle:-1].reshape(classes, 3, bins), float(sums[-1]))

    @staticmethod
    def length(bins: int, classes: int) -> int:
        """Size of the packed array."""
        return 3 * bins * _FINE + classes * 3 * bins + 1


def count_confidence(
    probability: NDArray[np.floating[Any]],
    observed: NDArray[np.integer[Any]],
    decided: NDArray[np.integer[Any]],
    weight: NDArray[np.float64],
    bins: int,
) -> Counts:
    """Sum up cells.

    Parameters
    ----------
    probability : (classes, cells) array
    observed, decided : (cells,) arrays of class codes
    weight : (cells,) array
    bins : int
    """
    confidence = probability[decided, np.arange(len(decided))].astype(np.float64)
    top = _sums(confidence, decided == observed, weight, bins * _FINE)
    classes = np.stack(
        [_sums(layer.astype(np.float64), observed == code, weight, bins) for code, layer in enumerate(probability)]
    )
    squares = np.zeros(len(weight))
    for code, layer in enumerate(probability):
        squares += (layer - (observed == code)) ** 2
    return Counts(top, classes, float(squares @ weight))


def _sums(
    values: NDArray[np.float64], correct: NDArray[np.bool_], weight: NDArray[np.float64], bins: int
) -> NDArray[np.float64]:
    place = bin_of(values, bins)
    return np.stack([np.bincount(place, each, minlength=bins) for each in (weight, weight * values, weight * correct)])
