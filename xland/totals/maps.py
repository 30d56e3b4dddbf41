"""The most probable map that keeps coarse totals, cell by cell."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from xland.compiled import compiled
from xland.errors import AllocationError
from xland.totals.cells import TOLERANCE, Cells, Fitted
from xland.totals.transport import UNIT, Flags, Floats, Integers, assign, group_classes, list_pixels, scatter
from xland.vocabulary import OCEAN

UNKNOWN = 255
"""Code of a pixel of which no class is known."""

_ROUNDING = 1e-5
"""Part of a pixel that areas may be beyond the tolerance: what is lost where shares come in single precision."""

_MOVE = 1e6
"""Worth of staying, in logarithms of probability: more than anything that a chain of moves may gain."""

_FLOOR = -104.0
"""Least logarithm of the probability that a pixel keeps its class: that of the smallest float32."""


def fit_map(
    probability: NDArray[Any],
    targets: NDArray[Any],
    area: NDArray[Any],
    valid: NDArray[np.bool_],
    tolerance: float = 0.0,
) -> Fitted:
    """Choose the most probable map whose class areas are as asked, to within a pixel for each class.

    Parameters
    ----------
    probability : (classes, rows, columns) array of float
        A class of probability 0 is impossible at that pixel.
    targets : (classes, R, C) array of float
        Share of each class in the whole coarse cell; the block holds whole coarse cells. Classes that are NaN in a
        cell share what the others leave: each pixel is of the most probable of them. A cell that is NaN in all
        classes gets the most probable class everywhere.
    area : (rows,) array
        Of the pixels of each row, in any unit.
    valid : (rows, columns) array of bool
        Pixels that get a class. Others count as area of the cell.
    tolerance : float
        How far the area of a class may be from its total, in pixels, the largest of the cell. A class with less than
        one pixel may then get none, if it is nowhere the most probable class. With 0 areas are as near to the totals as
        whole pixels can be, which keeps sums over many cells. More than 0 is at least 1e-5.

    Returns
    -------
    Fitted
        ``codes``. With ``tolerance=0`` no map with the same class areas in each cell is more probable. Else pixels of
        that map are moved along chains from class to class as long as that makes it more probable: in the end no single
        pixel can be changed for a more probable map. In cells of up to 100 pixels, as far as a search comes to its end
        (:mod:`xland.totals.transport`), no map whose class areas are within the tolerance is more probable.

    Raises
    ------
    AllocationError
        If shapes do not fit, values are not shares or probabilities, all classes together are given less than
        the valid pixels, or `tolerance` is outside 0 to 1.
    """
    if not 0 <= tolerance <= 1:
        raise AllocationError(f"tolerance is {tolerance}; class areas may be off their totals by 0 to 1 pixels")
    cells = Cells(probability, targets, area, valid)
    possible, unmet = cells.feasible()
    prior = np.full(valid.shape, UNKNOWN, dtype=np.uint8)
    closed = np.zeros(possible.shape, dtype=np.bool_)
    codes, missed = allocate(cells, possible, prior, closed, tolerance)
    return Fitted(unmet + missed, codes=codes)


def allocate(
    cells: Cells,
    targets: NDArray[np.float64],
    prior: NDArray[np.uint8],
    closed: NDArray[np.bool_],
    tolerance: float = 0.0,
) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """Choose classes so that as few pixels as possible leave the prior map, and then the most probable ones.

    `targets` are what the valid pixels can have (:meth:`~xland.totals.cells.Cells.feasible`). `prior` (rows, columns)
    are classes to be kept if possible, 255 where there is none. `closed` (classes, R, C) are classes that no pixel may
    be given that does not have them in the prior map. Returns the codes, and the share (R, C) that could not be given.
    """
    codes = np.full(cells.valid.shape, OCEAN, dtype=np.uint8)
    missed = np.zeros(targets.shape[1:])
    with np.errstate(divide="ignore"):
        worth = np.log(cells.probability).astype(np.float64)
    slack = tolerance + _ROUNDING if tolerance > 0 else 0.0
    _allocate_cells(worth, targets, cells.area, cells.valid, cells.factor, prior, closed, slack, codes, missed)
    missed[missed <= TOLERANCE] = 0
    return codes, missed


@compiled
def _allocate_cells(
    logs: Floats,
    targets: Floats,
    area: Floats,
    valid: Flags,
    factor: int,
    prior: NDArray[np.uint8],
    closed: Flags,
    slack: float,
    codes: NDArray[np.uint8],
    missed: Floats,
) -> None:
    """Allocate all coarse cells of a block; ``codes`` and ``missed`` are written."""
    classes, pixels = logs.shape[0], factor * factor
    scores, rest = np.empty(pixels * classes), np.empty(pixels, np.int64)
    amounts = np.empty(pixels * classes, np.int64)
    ties = scatter(pixels * classes)
    areas, choice = np.empty(pixels, np.int64), np.empty(pixels, np.int64)
    rows, columns = np.empty(pixels, np.int64), np.empty(pixels, np.int64)
    group, named, units = np.empty(classes, np.int64), np.empty(classes, np.int64), np.empty(factor, np.int64)
    for row in range(targets.shape[1]):
        whole, largest = _count_units(area[row * factor : (row + 1) * factor], units)
        for column in range(targets.shape[2]):
            groups = group_classes(targets[:, row, column], group)
            count = list_pixels(valid, row, column, factor, rows, columns)
            if count == 0:
                continue
            used = min(groups + 1, classes)
            worth = scores[: count * used].reshape(count, used)
            there = 0
            for n in range(count):
                i, j = rows[n], columns[n]
                areas[n] = units[i - row * factor]
                there += areas[n]
                rest[n] = _score(
                    logs[:, i, j],
                    prior[i, j],
                    closed[:, row, column],
                    group,
                    groups,
                    areas[n] / UNIT,
                    ties[n * classes : (n + 1) * classes],
                    worth[n],
                )
            demands = _demand(targets[:, row, column], group, groups, used, whole, there)
            short = assign(
                worth,
                areas[:count],
                demands,
                largest,
                choice,
                amounts[: count * used].reshape(count, used),
                int(slack * largest),
            )
            missed[row, column] = short / whole
            for k in range(classes):
                named[group[k]] = k
            for n in range(count):
                codes[rows[n], columns[n]] = named[choice[n]] if choice[n] < groups else rest[n]


@compiled
def _count_units(area: Floats, units: Integers) -> tuple[int, int]:
    """Write the area of a pixel of each row as a whole number; return that of the cell and of its largest pixel."""
    mean = 0.0
    for i in range(area.size):
        mean += area[i] / area.size
    whole, largest = 0, 0
    for i in range(area.size):
        units[i] = int(np.rint(area[i] / mean * UNIT))
        whole += units[i] * area.size
        largest = max(largest, units[i])
    return whole, largest


@compiled
def _demand(targets: Floats, group: Integers, groups: int, used: int, whole: int, there: int) -> Integers:
    """Areas of the groups as whole numbers that sum to what is there."""
    demands = np.zeros(used, np.int64)
    left = there
    for k in range(group.size):
        if not np.isnan(targets[k]):
            demands[group[k]] = min(int(np.rint(targets[k] * whole)), left)
            left -= demands[group[k]]
    last = used - 1
    if groups == used:
        for k in range(used):
            if demands[k] > demands[last]:
                last = k
    demands[last] += left
    return demands


@compiled
def _score(
    logs: Floats,
    known: int,
    closed: Flags,
    group: Integers,
    groups: int,
    size: float,
    ties: Floats,
    scores: Floats,
) -> int:
    """Write the worth of each group at a pixel; return the class that it has if it falls to the last one."""
    rest, most = 0, -np.inf
    for k in range(group.size):
        worth = logs[k] / size
        if k == known:
            worth = max(logs[k], _FLOOR) / size + _MOVE
        elif closed[k] and known != UNKNOWN:
            worth = -np.inf
        if group[k] < groups:
            scores[group[k]] = worth + ties[group[k]]
        elif worth > most:
            rest, most = k, worth
    if groups < group.size:
        scores[groups] = most + ties[groups]
    return rest
