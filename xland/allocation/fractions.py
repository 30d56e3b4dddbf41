"""Probabilities whose mean over each coarse cell is what the forcing has.

Of all fields with these means the one nearest to the model's (in the sense of Kullback and
Leibler) is wanted: each class is multiplied by one weight per coarse cell, and each pixel brought
back to a sum of 1. Iterative proportional fitting (Deming and Stephan, 1940,
doi 10.1214/aoms/1177731829) finds the weights in the end; Newton's method with damping on the same
concave function finds them in a few steps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xland.allocation.cells import TOLERANCE, Cells
from xland.allocation.compiled import Flags, Floats, Integers, compiled
from xland.allocation.pixels import group_classes, list_pixels

_CLOSE = 1e-10
"""Share of a cell by which a mean may be off when the search ends."""

_NOTHING = 1e-13
"""Share of a cell below which a class gets none of it."""

_DIRECT, _ROUNDS = 20, 40
"""Steps that the search may take at the probabilities as they are, and at each sharpness in between."""

_SHARPNESSES = (1 / 64, 1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0)
_LONGEST = 30.0
"""Most that the logarithm of a weight may change in one step."""


@dataclass(frozen=True, eq=False)
class FittedFractions:
    """Probabilities that keep coarse totals.

    Parameters
    ----------
    values : (classes, rows, columns) array
        Of the type of the probabilities; unchanged in pixels that are not valid and in cells of which the
        forcing says nothing.
    unmet : (R, C) array of float64
        Share of the cell that was asked for and could not be given, summed over classes: 0 where the
        totals are kept, NaN where the forcing says nothing.
    """

    values: NDArray[Any]
    unmet: NDArray[np.float64]


def fit_fractions(
    probability: NDArray[Any],
    targets: NDArray[Any],
    factor: int,
    area: NDArray[Any],
    valid: NDArray[np.bool_],
) -> FittedFractions:
    """Adjust probabilities so that their area-weighted mean over each coarse cell is as asked.

    Parameters
    ----------
    probability : (classes, rows, columns) array of float
        Summing to 1 over the classes; a class of probability 0 is impossible at that pixel.
    targets : (classes, R, C) array of float
        Share of each class in the whole coarse cell. Classes that are NaN in a cell share what the others
        leave, by the model's own probabilities; a cell that is NaN in all classes is left alone.
    factor : int
        Pixels along a coarse cell; the block holds whole coarse cells.
    area : (rows,) array
        Of the pixels of each row, in any unit.
    valid : (rows, columns) array of bool
        Pixels that have a class. Others are not touched, and count as area of the cell.

    Returns
    -------
    FittedFractions
        In cells where ``unmet`` is 0 the means differ from the targets by less than 1e-6.

    Raises
    ------
    AllocationError
        What :meth:`xland.allocation.cells.Cells.of` and :meth:`~xland.allocation.cells.Cells.feasible` refuse.
    """
    cells = Cells.of(probability, targets, factor, area, valid)
    possible, unmet = cells.feasible()
    values = cells.probability.copy()
    missed = np.zeros_like(unmet)
    _fit_cells(cells.probability, possible, cells.area, cells.valid, factor, values, missed)
    missed[missed <= TOLERANCE] = 0
    return FittedFractions(values, unmet + missed)


@compiled
def _fit_cells(
    probability: NDArray[Any],
    targets: Floats,
    area: Floats,
    valid: Flags,
    factor: int,
    values: NDArray[Any],
    missed: Floats,
) -> None:
    """Fit all coarse cells of a block; ``values`` and ``missed`` are written."""
    classes, pixels = probability.shape[0], factor * factor
    odds, weights = np.empty((pixels, classes)), np.empty(pixels)
    rows, columns = np.empty(pixels, np.int64), np.empty(pixels, np.int64)
    group = np.empty(classes, np.int64)
    for row in range(targets.shape[1]):
        whole = factor * area[row * factor : (row + 1) * factor].sum()
        for column in range(targets.shape[2]):
            groups = group_classes(targets[:, row, column], group)
            count = list_pixels(valid, row, column, factor, rows, columns)
            if groups == 0 or count == 0:
                continue
            used = group.max() + 1
            odds[:count, :used] = 0
            for n in range(count):
                weights[n] = area[rows[n]] / whole
                for k in range(classes):
                    odds[n, group[k]] += probability[k, rows[n], columns[n]]
            wanted = np.empty(used)
            wanted[groups:] = weights[:count].sum()
            for k in range(classes):
                if group[k] < groups:
                    wanted[group[k]] = targets[k, row, column]
                    wanted[groups:] -= targets[k, row, column]
            factors, missed[row, column] = _solve(odds[:count, :used], weights[:count], np.maximum(wanted, 0.0))
            _scale(probability, rows[:count], columns[:count], factors, group, values)


@compiled
def _scale(
    probability: NDArray[Any], rows: Integers, columns: Integers, factors: Floats, group: Integers, values: NDArray[Any]
) -> None:
    """Multiply probabilities by the weights of their groups and bring each pixel back to a sum of 1."""
    classes = probability.shape[0]
    for n in range(rows.size):
        i, j = rows[n], columns[n]
        total = 0.0
        for k in range(classes):
            total += probability[k, i, j] * factors[group[k]]
        if total > 0:
            for k in range(classes):
                values[k, i, j] = probability[k, i, j] * factors[group[k]] / total


@compiled
def _solve(odds: Floats, weights: Floats, wanted: Floats) -> tuple[Floats, float]:
    """Weights of the groups, and the share of the cell by which their means stay below what is wanted."""
    groups = wanted.size
    logs, means, slope = np.zeros(groups), np.empty(groups), np.empty((groups, groups))
    worst = _climb(odds, weights, wanted, logs, means, slope, _DIRECT)
    if worst >= _CLOSE:
        # nearly all pixels are certain of their class: the way leads over flattened probabilities
        logs[:] = 0
        for sharpness in _SHARPNESSES:
            logs *= 2
            worst = _climb(odds**sharpness, weights, wanted, logs, means, slope, _ROUNDS)
    return np.where(wanted > _NOTHING, np.exp(logs), 0.0), np.maximum(wanted - means, 0.0).sum()


@compiled
def _climb(
    odds: Floats, weights: Floats, wanted: Floats, logs: Floats, means: Floats, slope: Floats, rounds: int
) -> float:
    """Improve the logarithms of the weights, in place; return the largest error of a mean."""
    groups = wanted.size
    height = _evaluate(odds, weights, wanted, logs, means, slope)
    worst = np.abs(wanted - means).max()
    tried_means, tried_slope = np.empty(groups), np.empty((groups, groups))
    damping = 1e-6
    for turn in range(rounds):
        if worst < _CLOSE:
            break
        proportional = turn == 0
        tried = logs + _step(wanted, means, slope, 0.0 if proportional else damping)
        tried_height = _evaluate(odds, weights, wanted, tried, tried_means, tried_slope)
        tried_worst = np.abs(wanted - tried_means).max()
        if proportional or tried_height > height or tried_worst < worst:
            logs[:], means[:], slope[:] = tried, tried_means, tried_slope
            height, worst = tried_height, tried_worst
            damping = max(damping * 0.1, 1e-14)
        else:
            damping *= 10.0
    return worst


@compiled
def _step(wanted: Floats, means: Floats, slope: Floats, damping: float) -> Floats:
    """Change of the logarithms: proportional to what is wanted without damping, else Newton's."""
    kept = wanted > _NOTHING
    if damping == 0:
        step = np.where(kept & (means > 0), np.log(np.maximum(wanted, _NOTHING) / np.maximum(means, 1e-300)), 0.0)
    else:
        system = slope.copy()
        for k in range(wanted.size):
            system[k, k] += damping if kept[k] else 1.0
        step = np.linalg.solve(system, np.where(kept, wanted - means, 0.0))
    step -= step[np.argmax(wanted)]
    return step * min(1.0, _LONGEST / max(np.abs(step).max(), 1e-300))


@compiled
def _evaluate(odds: Floats, weights: Floats, wanted: Floats, logs: Floats, means: Floats, slope: Floats) -> float:
    """Concave function to be maximised; its gradient is ``wanted - means``, its curvature ``-slope``."""
    groups = wanted.size
    factors = np.where(wanted > _NOTHING, np.exp(np.minimum(np.maximum(logs, -600.0), 600.0)), 0.0)
    means[:] = 0
    slope[:] = 0
    height = (logs * wanted).sum()
    shares = np.empty(groups)
    for n in range(weights.size):
        total = 0.0
        for k in range(groups):
            shares[k] = odds[n, k] * factors[k]
            total += shares[k]
        if total <= 0:  # nothing that is wanted is possible here
            continue
        height -= weights[n] * math.log(total)
        for k in range(groups):
            shares[k] /= total
            part = weights[n] * shares[k]
            means[k] += part
            for m in range(k + 1):
                slope[k, m] -= part * shares[m]
    for k in range(groups):
        slope[k, k] += means[k]
        for m in range(k):
            slope[m, k] = slope[k, m]
    return height
