"""Scores of values of each month, such as the leaf area index, and of their season: plain arrays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from xland.errors import GridError, NothingToScoreError
from xland.scores.tables import Tabular, TextTable, figure, plain

SEASONAL = 0.5
"""Difference between the largest and the smallest month from which a cell has a season to be scored."""

SEASON_SCORES: Mapping[str, str] = {
    "rmse": "root of the mean squared difference of all months",
    "bias": "mean difference of all months, predicted less observed",
    "r2": "1 less the squared differences over those from the observed mean",
    "amplitude": "mean difference of the amplitude (largest less smallest month), predicted less observed",
    "phase": f"share of cells with an observed amplitude above {SEASONAL} whose largest month is right within one",
    "delay": "months by which the first harmonic of these cells is late, on average; early is negative",
}
"""What is scored."""


@dataclass(frozen=True, eq=False, repr=False)
class SeasonScores(Tabular):
    """Scores of a model and of what it is compared with.

    Parameters
    ----------
    values : dict by part, by name of the prediction, by score
        NaN where a score is not defined.
    cells : dict by part
        Number of cells with a weight.
    cycles : dict by part, by name
        Mean of each month, (12,), with the one observed under ``observed``.
    """

    values: dict[str, dict[str, dict[str, float]]]
    cells: dict[str, int]
    cycles: dict[str, dict[str, NDArray[np.float64]]]

    def __getitem__(self, part: str) -> dict[str, dict[str, float]]:
        """Return the scores of a part, by prediction and score."""
        return self.values[part]

    def to_dict(self) -> dict[str, Any]:
        """Return everything for JSON; None where a score is not defined."""
        return {
            part: {
                "cells": self.cells[part],
                "scores": {name: {key: plain(value) for key, value in each.items()} for name, each in found.items()},
                "months": {name: [plain(value) for value in each] for name, each in self.cycles[part].items()},
            }
            for part, found in self.values.items()
        }

    def _tables(self) -> list[TextTable]:
        rows = [
            [part, name, *map(figure, each.values())]
            for part, found in self.values.items()
            for name, each in found.items()
        ]
        return [("scores of the months", ["cells", "prediction", *SEASON_SCORES], rows)]


def assess_season(
    observed: ArrayLike,
    predictions: Mapping[str, ArrayLike],
    *,
    parts: Mapping[str, ArrayLike] | None = None,
    weights: ArrayLike | None = None,
) -> SeasonScores:
    """Score predictions of every month against observed values.

    Parameters
    ----------
    observed : (cells, 12) array
        NaN in cells that are not scored.
    predictions : mapping of name to (cells, 12) array
        The model first, then what it is compared with.
    parts : mapping of name to (cells,) array, optional
        What is scored separately beside all cells: masks of regions or climate zones, or shares of a class, which then
        weigh each cell.
    weights : (cells,) array, optional
        Such as the area of the cells; equal by default.

    Returns
    -------
    SeasonScores
        By part, of which the first is ``all``.

    Raises
    ------
    GridError
        If shapes differ, or a prediction is not finite where there is an observation.
    NothingToScoreError
        If no cell has an observation.
    """
    truth = np.asarray(observed, np.float64)
    found = {name: np.asarray(each, np.float64) for name, each in predictions.items()}
    if truth.ndim != 2 or truth.shape[1] != 12:
        raise GridError(f"observed values must be (cells, 12), not {truth.shape}")
    known = np.isfinite(truth).all(axis=1)
    for name, each in found.items():
        if each.shape != truth.shape:
            raise GridError(f"{name!r} has the shape {each.shape}, and the observed values {truth.shape}")
        wrong = int((~np.isfinite(each[known])).any(axis=1).sum())
        if wrong:
            raise GridError(f"{name!r} is not finite in {wrong} of {int(known.sum())} observed cells; leave these out")
    area = np.ones(len(truth)) if weights is None else np.asarray(weights, np.float64)
    every = {"all": np.ones(len(truth)), **(parts or {})}
    weighed = {part: np.where(known, area * np.asarray(each, np.float64), 0.0) for part, each in every.items()}
    if not (weighed["all"] > 0).any():
        raise NothingToScoreError("no cell has an observed value in all months")
    values, cells, cycles = {}, {}, {}
    for part, weight in weighed.items():
        used = weight > 0
        cells[part] = int(used.sum())
        values[part] = {name: _scores(truth[used], each[used], weight[used]) for name, each in found.items()}
        means = {"observed": truth, **found}
        cycles[part] = {name: _mean(each[used], weight[used]) for name, each in means.items()}
    return SeasonScores(values, cells, cycles)


def _scores(truth: NDArray[np.float64], found: NDArray[np.float64], weight: NDArray[np.float64]) -> dict[str, float]:
    """Return each of :data:`SEASON_SCORES`."""
    if not weight.size:
        return dict.fromkeys(SEASON_SCORES, np.nan)
    squared = float(_mean((found - truth) ** 2, weight).mean())
    variance = float(_mean((truth - _mean(truth, weight).mean()) ** 2, weight).mean())
    amplitudes = np.ptp(truth, axis=1)
    season = amplitudes > SEASONAL
    off = (found.argmax(axis=1) - truth.argmax(axis=1) + 6) % 12 - 6
    late = (_peak(found) - _peak(truth) + 6) % 12 - 6
    return {
        "rmse": squared**0.5,
        "bias": float(_mean(found - truth, weight).mean()),
        "r2": 1 - squared / variance if variance > 0 else np.nan,
        "amplitude": float(_mean(np.ptp(found, axis=1) - amplitudes, weight)),
        "phase": float(_mean(np.abs(off) <= 1, weight * season)) if season.any() else np.nan,
        "delay": float(_mean(late, weight * season)) if season.any() else np.nan,
    }


def _mean(values: NDArray[Any], weight: NDArray[np.float64]) -> NDArray[np.float64]:
    """Weighted mean over cells; NaN without weight."""
    total = weight.sum()
    return np.asarray(np.tensordot(weight, values, 1) / total if total > 0 else np.full(values.shape[1:], np.nan))


def _peak(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Month, from 0, at which the first harmonic is largest."""
    turns = np.exp(2j * np.pi * np.arange(12) / 12)
    return np.asarray(np.angle(values @ turns) * 12 / (2 * np.pi))
