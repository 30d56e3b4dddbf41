"""The changes of a forcing, applied to a prior map.

A forcing and an observed map rarely agree on what a class is, so their shares of a cell differ at the start. Here the
change of the forcing since a base year is applied to the observed map of that year: the trend survives the difference
in definitions. Changes count from the base year, so those of less than a pixel a year add up.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from xland.errors import AllocationError
from xland.totals.cells import TOLERANCE, Cells, Fitted, largest_pixel, refuse
from xland.totals.crosswalk import Crosswalk
from xland.totals.maps import UNKNOWN, allocate
from xland.vocabulary import class_code


def fit_changes(
    probability: NDArray[Any],
    prior_codes: NDArray[Any],
    targets: NDArray[Any],
    base_targets: NDArray[Any],
    base_codes: NDArray[Any],
    area: NDArray[Any],
    valid: NDArray[np.bool_],
    crosswalk: Crosswalk,
    prior_targets: NDArray[Any] | None = None,
) -> Fitted:
    """Apply the changes of a forcing since a base year to a map.

    Pixels keep their class in the prior map unless the totals of their coarse cell need a move:
    as few as possible are moved, and of these the most probable ones.

    Parameters
    ----------
    probability : (classes, rows, columns) array of float
    prior_codes : (rows, columns) array of class codes
        Map of the adjacent year; 255 where nothing is known.
    targets, base_targets : (classes, R, C) array of float
        Shares of the whole coarse cell that the forcing has in this year and in the base year. NaN for classes that are
        not in the forcing: the sum of their areas is kept. Also NaN in cells without data: the prior map is kept there.
    base_codes : (rows, columns) array of class codes
        Observed map of the base year.
    area : (rows,) array
    valid : (rows, columns) array of bool
        As in :func:`~xland.totals.maps.fit_map`.
    crosswalk : Crosswalk
        Its protected classes get no new pixel where their total is less than a pixel above that of the prior map, or
        where the forcing has less of them than in the year of the prior map. A class that the forcing does not know
        cannot be protected.
    prior_targets : (classes, R, C) array of float, optional
        Shares that the forcing has in the year of the prior map; by default those of the base year.

    Returns
    -------
    Fitted
        ``codes``; ``unmet`` is the share of the cell in which the forcing takes away a class that the map does not have
        there, or gives one that is impossible.

    Raises
    ------
    AllocationError
        If shapes do not fit, values are not shares or probabilities, maps have unknown codes, or the base map is
        without a class in valid pixels.
    """
    cells = Cells(probability, targets, area, valid)
    classes = len(cells.probability)
    base_shares = cells.check_targets(base_targets)
    before = base_shares if prior_targets is None else cells.check_targets(prior_targets)
    prior = _codes(cells, prior_codes, "map of the adjacent year")
    base = _codes(cells, base_codes, "map of the base year")
    unknown = cells.valid & (base == UNKNOWN)
    remedy = "changes can only be counted from a complete map"
    refuse(unknown, "the map of the base year has no class", remedy, cells="valid pixels")
    wanted, unmet = _changed(cells, _shares(cells, base), base_shares)
    present = _shares(cells, prior)
    closed = np.zeros(wanted.shape, dtype=np.bool_)
    step = largest_pixel(cells.area, cells.factor)[:, None]
    for code in (class_code(name) for name in crosswalk.protected):
        if code >= classes:
            continue  # a model of fewer classes has none of it to protect
        # what could not be given in an earlier year is not made up for while the forcing takes away
        closed[code] = (wanted[code] < present[code] + step) | (cells.targets[code] < before[code])
        spare = np.where(closed[code], np.maximum(wanted[code] - present[code], 0), 0)
        wanted[code] -= spare
        # what a protected class does not get stays with those that would have lost it, in proportion
        losing = np.maximum(np.nan_to_num(present - wanted), 0)
        total = losing.sum(axis=0)
        wanted += losing * np.minimum(np.divide(spare, total, out=np.zeros_like(spare), where=total > 0), 1)
    codes, missed = allocate(cells, wanted, prior, closed)
    return Fitted(unmet + missed, codes=codes)


def _codes(cells: Cells, codes: NDArray[Any], what: str) -> NDArray[np.uint8]:
    """Return the codes of a map, 255 where there is none."""
    found = np.asarray(codes)
    if found.shape != cells.valid.shape:
        raise AllocationError(f"the {what} has the shape {found.shape} in place of {cells.valid.shape}")
    with np.errstate(invalid="ignore"):
        known = (found >= 0) & (found < len(cells.probability)) & (found == np.floor(found))
    wrong = cells.valid & ~known & (found != UNKNOWN)
    if wrong.any():
        raise AllocationError(
            f"the {what} has codes that are not a class in {np.count_nonzero(wrong)} valid pixels, such as "
            f"{found[wrong][0]}; codes go from 0 to {len(cells.probability) - 1}, and {UNKNOWN} is unknown"
        )
    return np.where(known, found, UNKNOWN).astype(np.uint8)


def _shares(cells: Cells, codes: NDArray[Any]) -> NDArray[np.float64]:
    return np.stack([cells.share(cells.valid & (codes == code)) for code in range(len(cells.probability))])


def _changed(
    cells: Cells, base: NDArray[np.float64], base_targets: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Shares of the base map with the changes of the forcing, and the share of the cell that cannot change so.

    What a class does not have cannot be taken from it: all gains are lowered in the same proportion.
    """
    change = cells.targets - base_targets
    free = np.isnan(change)
    silent = free.all(axis=0)
    change = np.where(free, 0, change)
    # classes that the forcing does not know change together, by what the others leave
    rest = np.where(free, base, 0).sum(axis=0)
    left = -change.sum(axis=0)
    losses = np.minimum(np.maximum(-change, 0), base)
    shortfall = np.maximum(-change, 0).sum(axis=0) - losses.sum(axis=0) + np.maximum(-left - rest, 0)
    gains = np.maximum(change, 0)
    gained = gains.sum(axis=0) + np.maximum(left, 0)
    kept = np.divide(gained - shortfall, gained, out=np.ones_like(gained), where=gained > 0)
    wanted = np.where(free, np.nan, base - losses + gains * kept)
    unmet = np.where(shortfall > TOLERANCE, shortfall, 0)
    unmet[silent] = np.nan
    return wanted, unmet
