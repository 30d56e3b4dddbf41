"""Probabilities whose mean over each coarse cell is what the forcing has.

Of all fields with these means the one nearest to the model's (in the sense of Kullback and
Leibler) is wanted: each class is multiplied by one weight per coarse cell, and each pixel brought
back to a sum of 1. Iterative proportional fitting (Deming and Stephan, 1940,
doi 10.1214/aoms/1177731829) finds the weights in the end; Newton's method with damping on the same
concave function finds them in a few steps.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xland.compiled import compiled
from xland.totals.cells import TOLERANCE, Cells, Fitted
from xland.totals.transport import Flags, Floats, Integers, group_classes, list_pixels

_CLOSE = 1e-10
"""Share of a cell by which a mean may be off when the search ends."""

_NOTHING = 1e-13
"""Share of a cell below which a class gets none of it."""

_ROUNDS = 40
"""Steps that the search may take at each sharpness of the probabilities."""

_TURNS = 6
"""How often the sharpness is doubled until probabilities are what they are."""
_LONGEST = 30.0
"""Most that the logarithm of a weight may change in one step."""

_FARTHEST = 600.0
"""Most by which the logarithm of a weight may be from that of the largest: beyond it weights are 0."""


def fit_fractions(
    probability: NDArray[Any],
    targets: NDArray[Any],
    area: NDArray[Any],
    valid: NDArray[np.bool_],
) -> Fitted:
    """Adjust probabilities so that their area-weighted mean over each coarse cell is as asked.

    Parameters
    ----------
    probability : (classes, rows, columns) array of float
        Summing to 1 over the classes; a class of probability 0 is impossible at that pixel.
    targets : (classes, R, C) array of float
        Share of each class in the whole coarse cell. Classes that are NaN in a cell share what the others
        leave, by the model's own probabilities; a cell that is NaN in all classes is left alone.
    area : (rows,) array
    valid : (rows, columns) array of bool
        As in :func:`~xland.totals.maps.fit_map`. Pixels that are not valid are not changed.

    Returns
    -------
    Fitted
        ``values``. In cells where ``unmet`` is 0 the means differ from the targets by less than 1e-6.

    Raises
    ------
    AllocationError
        As :func:`~xland.totals.maps.fit_map` does.
    """
    cells = Cells(probability, targets, area, valid)
    possible, unmet = cells.feasible()
    values, missed = cells.probability.astype(np.float64), np.zeros_like(unmet)
    _fit_cells(values, possible, cells.area, cells.valid, cells.factor, missed)
    missed[missed <= TOLERANCE] = 0
    return Fitted(unmet + missed, values=values.astype(cells.probability.dtype))


@compiled
def _fit_cells(values: Floats, targets: Floats, area: Floats, valid: Flags, factor: int, missed: Floats) -> None:
    """Fit the probabilities of all coarse cells of a block, in place; ``missed`` is written."""
    classes, pixels = values.shape[0], factor * factor
    weights = np.empty(pixels)
    rows, columns = np.empty(pixels, np.int64), np.empty(pixels, np.int64)
    group = np.empty(classes, np.int64)
    for row in range(targets.shape[1]):
        whole = 0.0
        for i in range(row * factor, (row + 1) * factor):
            whole += factor * area[i]
        for column in range(targets.shape[2]):
            groups = group_classes(targets[:, row, column], group)
            count = list_pixels(valid, row, column, factor, rows, columns)
            if groups == 0 or count == 0:
                continue
            used = min(groups + 1, classes)
            odds, wanted = np.zeros((count, used)), np.zeros(used)
            for n in range(count):
                weights[n] = area[rows[n]] / whole
                for k in range(classes):
                    odds[n, group[k]] += values[k, rows[n], columns[n]]
                if groups < used:
                    wanted[groups] += weights[n]
            for k in range(classes):
                if group[k] < groups:
                    wanted[group[k]] = targets[k, row, column]
                    if groups < used:
                        wanted[groups] = max(wanted[groups] - targets[k, row, column], 0.0)
            logs = np.zeros(used)
            asked = wanted.copy()
            _drop_impossible(odds, wanted)
            missed[row, column] = _solve(odds, weights[:count], wanted, asked, logs)
            for k in range(used):
                logs[k] = _factor_of(logs[k], wanted[k])
            _scale(values, rows[:count], columns[:count], logs, group)


@compiled
def _drop_impossible(odds: Floats, wanted: Floats) -> None:
    """Leave what is wanted of groups that no pixel can have to the others, in proportion."""
    dropped, total = 0.0, 0.0
    for k in range(wanted.size):
        possible = False
        for n in range(odds.shape[0]):
            possible |= odds[n, k] > 0
        total += wanted[k]
        if not possible:
            dropped += wanted[k]
            wanted[k] = 0.0
    for k in range(wanted.size):
        wanted[k] *= total / max(total - dropped, 1e-300)


@compiled
def _scale(values: Floats, rows: Integers, columns: Integers, factors: Floats, group: Integers) -> None:
    """Multiply the probabilities of pixels by the weights of their groups, and bring each back to a sum of 1."""
    for n in range(rows.size):
        pixel, total = values[:, rows[n], columns[n]], 0.0
        for k in range(pixel.size):
            total += pixel[k] * factors[group[k]]
        if total > 0:
            for k in range(pixel.size):
                pixel[k] = pixel[k] * factors[group[k]] / total


@compiled
def _solve(odds: Floats, weights: Floats, wanted: Floats, asked: Floats, logs: Floats) -> float:
    """Write the logarithms of the weights; return the share of the cell by which means stay below what was asked."""
    groups = wanted.size
    means, slope = np.empty(groups), np.empty((groups, groups))
    worst = _climb(odds, weights, wanted, logs, means, slope)
    if worst >= _CLOSE:
        # nearly all pixels are certain of their class: the way leads over flattened probabilities
        logs[:] = 0.0
        flat = np.empty_like(odds)
        for turn in range(_TURNS, -1, -1):
            sharpness = 0.5**turn
            for n in range(odds.shape[0]):
                for k in range(groups):
                    flat[n, k] = odds[n, k] ** sharpness
            logs *= 2
            _climb(flat, weights, wanted, logs, means, slope)
    short = 0.0
    for k in range(groups):
        short += max(asked[k] - means[k], 0.0)
    return short


@compiled
def _climb(odds: Floats, weights: Floats, wanted: Floats, logs: Floats, means: Floats, slope: Floats) -> float:
    """Improve the logarithms of the weights, in place; return the largest error of a mean."""
    groups = wanted.size
    height = _evaluate(odds, weights, wanted, logs, means, slope)
    worst = np.abs(wanted - means).max()
    tried, tried_means, tried_slope = np.empty(groups), np.empty(groups), np.empty((groups, groups))
    damping = 1e-6
    for turn in range(_ROUNDS):
        if worst < _CLOSE:
            break
        if turn == 0:
            # a step of iterative proportional fitting
            for k in range(groups):
                tried[k] = math.log(wanted[k] / means[k]) if wanted[k] > _NOTHING and means[k] > 0 else 0.0
        else:
            _solve_newton(wanted, means, slope, damping, tried)
        _limit(logs, tried, wanted)
        tried_height = _evaluate(odds, weights, wanted, tried, tried_means, tried_slope)
        tried_worst = np.abs(wanted - tried_means).max()
        if turn == 0 or tried_height > height or tried_worst < worst:
            logs[:], means[:], slope[:] = tried, tried_means, tried_slope
            height, worst = tried_height, tried_worst
            damping = max(damping * 0.1, 1e-14)
        else:
            damping *= 10.0
    return worst


@compiled
def _solve_newton(wanted: Floats, means: Floats, slope: Floats, damping: float, step: Floats) -> None:
    """Write Newton's step, from the Cholesky factor of the damped curvature."""
    groups = wanted.size
    factor = np.zeros((groups, groups))
    for k in range(groups):
        step[k] = wanted[k] - means[k] if wanted[k] > _NOTHING else 0.0
        for m in range(k + 1):
            value = slope[k, m]
            if k == m:
                value += damping if wanted[k] > _NOTHING else 1.0
            for i in range(m):
                value -= factor[k, i] * factor[m, i]
            factor[k, m] = math.sqrt(max(value, damping * 1e-3)) if k == m else value / factor[m, m]
    for k in range(groups):
        for i in range(k):
            step[k] -= factor[k, i] * step[i]
        step[k] /= factor[k, k]
    for k in range(groups - 1, -1, -1):
        for i in range(k + 1, groups):
            step[k] -= factor[i, k] * step[i]
        step[k] /= factor[k, k]


@compiled
def _limit(logs: Floats, step: Floats, wanted: Floats) -> None:
    """Turn a step into where it leads: no further than the longest one, with a largest logarithm of 0.

    Groups of which nothing is wanted do not count: they would pull the others to where all weights are equal.
    """
    mean, many, top = 0.0, 0, -np.inf
    for k in range(logs.size):
        if wanted[k] > _NOTHING:
            mean += step[k]
            many += 1
    mean /= max(many, 1)
    for k in range(logs.size):
        if wanted[k] > _NOTHING:
            step[k] = logs[k] + min(max(step[k] - mean, -_LONGEST), _LONGEST)
            top = max(top, step[k])
    for k in range(logs.size):
        step[k] = max(step[k] - top, -_FARTHEST) if wanted[k] > _NOTHING else 0.0


@compiled
def _factor_of(log: float, wanted: float) -> float:
    """Weight of a group: 0 where nothing of it is wanted."""
    return math.exp(min(max(log, -_FARTHEST), _FARTHEST)) if wanted > _NOTHING else 0.0


@compiled
def _evaluate(odds: Floats, weights: Floats, wanted: Floats, logs: Floats, means: Floats, slope: Floats) -> float:
    """Concave function to be maximised; its gradient is ``wanted - means``, its curvature ``-slope``."""
    groups = wanted.size
    factors, shares = np.empty(groups), np.empty(groups)
    height = 0.0
    means[:], slope[:] = 0.0, 0.0
    for k in range(groups):
        factors[k] = _factor_of(logs[k], wanted[k])
        height += logs[k] * wanted[k]
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
