"""Confusion matrices and tables of change: plain arrays in, plain arrays out."""

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


_WINDOWS = 20_000
"""Windows whose classes are combined at once."""

_ROUNDING = 1e-12
"""Share of a window below which an area is the rounding of a sum."""


def cross_tabulate(
    start: NDArray[Any],
    observed: NDArray[Any],
    predicted: NDArray[Any],
    *,
    counted: NDArray[np.bool_] | None = None,
    row_weights: NDArray[Any] | None = None,
    classes: int = len(CLASSES),
) -> NDArray[np.float64]:
    """Cross-tabulate three maps of class codes.

    Parameters
    ----------
    start, observed, predicted : (rows, columns) arrays of class codes
        Codes ``0 .. classes - 1``.
    counted : (rows, columns) array of bool, optional
        Cells to count; all by default.
    row_weights : (rows,) array, optional
        Weight of a cell in each row, normally its area; 1 by default.
    classes : int
        Number of classes.

    Returns
    -------
    (classes, classes, classes) array of float64
        Weight of the cells by class in the start, the observed and the predicted map.

    Raises
    ------
    GridError
        Maps of different shapes.
    VocabularyError
        Codes outside ``0 .. classes - 1``.
    """
    maps = _checked({"start": start, "observed": observed, "predicted": predicted}, classes)
    rows, columns = maps[0].shape
    weights = np.ones(rows) if row_weights is None else np.asarray(row_weights, dtype=np.float64)
    total = np.zeros(classes**3)
    # bands keep the eight-byte indices of the counting small beside the one-byte maps
    band = max(_BAND // max(columns, 1), 1)
    for first in range(0, rows, band):
        part = slice(first, min(first + band, rows))
        index = np.arange(part.stop - first)[:, None]
        for codes in maps:
            index = index * classes + codes[part]
        chosen = index.ravel() if counted is None else index[counted[part]]
        counts = np.bincount(chosen, minlength=(part.stop - first) * classes**3)
        total += weights[part] @ counts.reshape(-1, classes**3)
    return total.reshape(classes, classes, classes)


def window_areas(
    codes: NDArray[Any],
    factor: int,
    *,
    counted: NDArray[np.bool_] | None = None,
    row_weights: NDArray[Any] | None = None,
    classes: int = len(CLASSES),
) -> NDArray[np.float64]:
    """Area of each class in windows of ``factor`` x ``factor`` cells.

    Parameters
    ----------
    codes : (rows, columns) array of class codes
        Rows and columns are multiples of ``factor``.
    factor : int
        Cells along a window.
    counted, row_weights, classes
        As in :func:`cross_tabulate`. A window that is counted in part has the area of that part.

    Returns
    -------
    (windows, classes) array of float64
        Row by row of windows.

    Raises
    ------
    GridError
        If the cells cannot be grouped without remainder.
    """
    (codes,) = _checked({"": codes}, classes)
    rows, columns = codes.shape
    _check_windows(rows, columns, factor)
    weights = np.ones(rows) if row_weights is None else np.asarray(row_weights, dtype=np.float64)
    across = columns // factor * classes
    areas = np.zeros((rows // factor, across))
    place = np.arange(columns) // factor * classes
    band = max(_BAND // max(columns, 1), 1)
    for first in range(0, rows, band):
        part = slice(first, min(first + band, rows))
        height = part.stop - first
        index = np.arange(height)[:, None] * across + place + codes[part]
        chosen = index.ravel() if counted is None else index[counted[part]]
        counts = np.bincount(chosen, minlength=height * across).reshape(height, across)
        window = np.arange(first, part.stop) // factor
        begins = np.flatnonzero(np.diff(window, prepend=-1))
        areas[window[begins]] += np.add.reduceat(counts * weights[part, None], begins, axis=0)
    return areas.reshape(-1, classes)


def tabulate_windows(
    start: NDArray[Any],
    observed: NDArray[Any],
    predicted: NDArray[Any],
    factor: int,
    *,
    counted: NDArray[np.bool_] | None = None,
    row_weights: NDArray[Any] | None = None,
    classes: int = len(CLASSES),
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Compare three maps of class codes in windows of ``factor`` x ``factor`` cells.

    Parameters
    ----------
    start, observed, predicted : (rows, columns) arrays of class codes
        Rows and columns are multiples of ``factor``.
    factor : int
        Cells along a window.
    counted, row_weights, classes
        As in :func:`cross_tabulate`.

    Returns
    -------
    (classes, classes, classes) array of float64
        :func:`composite_table` of all windows.
    (classes, classes) array of float64
        :func:`composite_transitions` from the start to the observed map.

    Raises
    ------
    GridError
        Maps of different shapes, or cells that cannot be grouped without remainder.
    VocabularyError
        Codes outside ``0 .. classes - 1``.
    """
    maps = _checked({"start": start, "observed": observed, "predicted": predicted}, classes)
    rows, columns = maps[0].shape
    _check_windows(rows, columns, factor)
    counted = np.ones((rows, columns), dtype=bool) if counted is None else counted
    weights = np.ones(rows) if row_weights is None else np.asarray(row_weights, dtype=np.float64)

    def windows(cells: NDArray[Any]) -> NDArray[Any]:
        return cells.reshape(rows // factor, factor, columns // factor, factor).transpose(0, 2, 1, 3)

    # where the three maps are the same there is nothing to combine, and that is most of a real map
    differ = windows(counted & ((maps[0] != maps[1]) | (maps[0] != maps[2]))).any(axis=(2, 3))
    alike = counted & ~differ.repeat(factor, axis=0).repeat(factor, axis=1)
    table = cross_tabulate(*maps, counted=alike, row_weights=weights, classes=classes)
    transitions = table.sum(axis=2)
    if differ.any():
        own = windows(np.broadcast_to(weights[:, None], (rows, columns)))[differ][:, :, 0].ravel()
        chosen = windows(counted)[differ].reshape(-1, factor)
        before, after, foretold = (
            window_areas(
                windows(codes)[differ].reshape(-1, factor), factor, counted=chosen, row_weights=own, classes=classes
            )
            for codes in maps
        )
        table += composite_table(before, after, foretold)
        transitions += composite_transitions(before, after)
    return table, transitions


def composite_table(
    start: NDArray[np.float64], observed: NDArray[np.float64], predicted: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Cross-tabulate three maps that are known by the areas of their classes in windows.

    Parameters
    ----------
    start, observed, predicted : (windows, classes) arrays
        Areas, whose sums over the classes are the same in all three.

    Returns
    -------
    (classes, classes, classes) array of float64
        As :func:`cross_tabulate`, which it equals where every window holds one class.

    Notes
    -----
    With q, r, s the areas of a class in the three maps, equations 1 to 7 of Pontius et al. (2011) say:
    min(r, s) is predicted right, min(q, r, s) of it as persistence; the rest of r is taken for the rest
    of s in proportion. Both kinds of rest come from the classes of the start map in proportion to what
    does not persist of them.
    """
    classes = start.shape[1]
    table = np.zeros((classes,) * 3)
    diagonal = np.arange(classes)
    for first in range(0, start.shape[0], _WINDOWS):
        before, after, foretold = (each[first : first + _WINDOWS] for each in (start, observed, predicted))
        right = np.minimum(after, foretold)
        persisting = np.minimum(before, right)
        origin = _shares(_without_rounding(before - persisting, before))
        invented = _shares(_without_rounding(foretold - right, foretold))
        ends = (after - right)[:, :, None] * invented[:, None, :]
        ends[:, diagonal, diagonal] += right - persisting
        table += (origin.T @ ends.reshape(-1, classes**2)).reshape(table.shape)
        table[diagonal, diagonal, diagonal] += persisting.sum(axis=0)
    return table


def composite_transitions(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
    """Cross-tabulate two maps that are known by the areas of their classes in windows.

    The composite matrix of Kuzera and Pontius (2008), doi 10.2747/1548-1603.45.3.249: what can agree
    does, the rest is distributed in proportion.

    Parameters
    ----------
    first, second : (windows, classes) arrays
        Areas, whose sums over the classes are the same in both.

    Returns
    -------
    (classes, classes) array of float64
        Rows are classes of the first map.
    """
    same = np.minimum(first, second)
    matrix = (first - same).T @ _shares(_without_rounding(second - same, second))
    matrix[np.diag_indices_from(matrix)] += same.sum(axis=0)
    return np.asarray(matrix)


def _shares(areas: NDArray[np.float64]) -> NDArray[np.float64]:
    total = areas.sum(axis=1, keepdims=True)
    return np.divide(areas, total, out=np.zeros_like(areas), where=total > 0)


def _without_rounding(rest: NDArray[np.float64], whole: NDArray[np.float64]) -> NDArray[np.float64]:
    """Set to zero the rests of windows that are only rounding."""
    real = rest.sum(axis=1, keepdims=True) > _ROUNDING * whole.sum(axis=1, keepdims=True)
    return np.where(real, rest, 0.0)


def _check_windows(rows: int, columns: int, factor: int) -> None:
    if factor < 1 or rows % factor or columns % factor:
        raise GridError(f"{rows} x {columns} cells cannot be grouped by {factor} x {factor} without remainder")


def _checked(maps: dict[str, NDArray[Any]], classes: int) -> list[NDArray[Any]]:
    arrays = {name: np.asarray(codes) for name, codes in maps.items()}
    shapes = {codes.shape for codes in arrays.values()}
    if len(shapes) > 1:
        listed = ", ".join(f"{name} {codes.shape}" for name, codes in arrays.items())
        raise GridError(f"the maps have different shapes: {listed}; select the same cells of each")
    for name, codes in arrays.items():
        if codes.size and (codes.min() < 0 or codes.max() >= classes):
            outside = int(((codes < 0) | (codes >= classes)).sum())
            what = f"{name} map".strip()
            raise VocabularyError(f"the {what} holds {outside} cells with codes outside 0 to {classes - 1}")
    return list(arrays.values())
