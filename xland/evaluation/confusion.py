"""Confusion matrices of class codes: plain arrays in, plain arrays out.

Counts are kept as whole numbers for each row of the grid and weighted with the row's cell area only
at the end. So the sum over blocks is exact, and no chunking can change a score in any digit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xland.errors import GridError, VocabularyError
from xland.vocabulary import CLASSES, LAND_CLASSES

DOMAINS: dict[str, str] = {
    "all": "every cell of the observed map, ocean and inland water included",
    "land": "cells that are land in the observed map, north of 60 S; its water and ocean are left out",
    "mixed": "land cells in coarse cells that hold more than one land class in the observed map",
}
"""The parts of a map that are scored apart, and what they hold."""

_BAND = 200_000
"""Cells that are counted at once."""

SOUTHERN_LIMIT = -60.0
"""Latitude south of which nothing counts as land: Antarctica would be one large and easy class."""


def confusion(
    observed: NDArray[Any], predicted: NDArray[Any], weights: NDArray[Any] | None = None, classes: int = len(CLASSES)
) -> NDArray[np.float64]:
    """Cross-tabulate two maps of class codes.

    Parameters
    ----------
    observed, predicted : arrays of the same shape
        Codes ``0 .. classes - 1``.
    weights : array that broadcasts to that shape, optional
        Weight of each cell: its area, 1, or 0 to leave it out. Without weights every cell counts 1.
    classes : int
        Number of classes.

    Returns
    -------
    (classes, classes) array of float64
        Rows are observed classes, columns predicted ones; the sum is the sum of the weights.

    Raises
    ------
    VocabularyError
        Codes outside ``0 .. classes - 1``.
    """
    observed, predicted = np.asarray(observed), np.asarray(predicted)
    for codes, what in ((observed, "observed"), (predicted, "predicted")):
        if codes.size and (codes.min() < 0 or codes.max() >= classes):
            outside = int(((codes < 0) | (codes >= classes)).sum())
            raise VocabularyError(f"the {what} map holds {outside} cells with codes outside 0 to {classes - 1}")
    index = observed.astype(np.intp).ravel() * classes + predicted.astype(np.intp).ravel()
    flat = None if weights is None else np.broadcast_to(weights, observed.shape).astype(np.float64).ravel()
    return np.bincount(index, flat, classes * classes).astype(np.float64).reshape(classes, classes)


def mixed_cells(observed: NDArray[Any], factor: int) -> NDArray[np.bool_]:
    """Find the coarse cells that hold more than one land class: where downscaling has something to do.

    Parameters
    ----------
    observed : (rows, columns) array of class codes 0..7
        Begins at the edge of a coarse cell; rows and columns are multiples of ``factor``.
    factor : int
        Fine cells along one coarse cell.

    Returns
    -------
    (rows, columns) array of bool
        True in every fine cell, water and ocean too, of a coarse cell with two or more of the
        classes :data:`xland.vocabulary.LAND_CLASSES`.
    """
    rows, columns = observed.shape
    if factor < 1 or rows % factor or columns % factor:
        raise GridError(f"{rows} x {columns} cells cannot be grouped by {factor} x {factor} without remainder")
    lookup = np.zeros(len(CLASSES), dtype=np.uint8)
    lookup[list(LAND_CLASSES)] = [1 << code for code in LAND_CLASSES]
    present = lookup[observed].reshape(rows // factor, factor, columns // factor, factor)
    present = np.bitwise_or.reduce(np.bitwise_or.reduce(present, axis=3), axis=1)
    several = (present & (present - (present > 0))) != 0  # more than one bit is set
    return several.repeat(factor, axis=0).repeat(factor, axis=1)


def count_rows(
    observed: NDArray[Any],
    predicted: NDArray[Any],
    labels: NDArray[np.bool_ | np.uint8],
    latitude: NDArray[Any],
    *,
    factor: int,
    domains: Sequence[str],
    regions: int = 1,
) -> NDArray[np.int64]:
    """Count pairs of classes in every row of a block, for each region and domain.

    Parameters
    ----------
    observed, predicted : (rows, columns) arrays of class codes
        The block begins and ends at edges of coarse cells.
    labels : (rows, columns) array of bool or uint8
        Number of the region in which a cell is counted, from 1; cells with 0 (or False) are not
        counted, but still say whether a coarse cell is mixed.
    latitude : (rows,) array
        Degrees north of the cell centres.
    factor : int
        Fine cells along one coarse cell.
    domains : sequence of str
        Names in :data:`DOMAINS`.
    regions : int
        Number of regions.

    Returns
    -------
    (rows, regions, domains, 64) array of int64
        Pairs ``8 * observed + predicted``.
    """
    rows, columns = observed.shape
    pairs = len(CLASSES) ** 2
    is_land = np.isin(np.arange(len(CLASSES)), LAND_CLASSES)
    latitude = np.asarray(latitude)
    result = np.empty((rows, regions, len(domains), pairs), dtype=np.int64)
    # bands keep the eight-byte indices of the counting small beside the one-byte maps
    band = max(_BAND // max(columns * factor, 1), 1) * factor
    for start in range(0, rows, band):
        part = slice(start, min(start + band, rows))
        truth, label, height = observed[part], labels[part], part.stop - start
        counted = label != 0
        index = truth.astype(np.int64) * len(CLASSES) + predicted[part]
        index += np.arange(height)[:, None] * (regions * pairs)
        if regions > 1:
            index += (label.astype(np.int64) - 1) * pairs
        land = counted & is_land[truth] & (latitude[part] > SOUTHERN_LIMIT)[:, None]
        for position, domain in enumerate(domains):
            if domain == "all":
                chosen = counted
            elif domain == "land":
                chosen = land
            else:
                chosen = land & mixed_cells(truth, factor)
            counts = np.bincount(index[chosen], minlength=height * regions * pairs)
            result[part, :, position] = counts.reshape(height, regions, pairs)
    return result
