"""Confusion matrices and tables of change: plain arrays in, plain arrays out."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xland.errors import VocabularyError
from xland.vocabulary import CLASSES, LAND_CLASSES

DOMAINS: dict[str, str] = {
    "all": "every cell of the observed map, ocean and inland water included",
    "land": "cells that are land in the observed map, north of 60 S; its water and ocean are left out",
    "mixed": "land cells in coarse cells that contain more than one land class in the observed map",
}
"""The parts of a map that are scored separately."""

BLANK = 255
"""Stands for no data among codes that are drawn."""

SOUTHERN_LIMIT = -60.0
"""Latitude south of which nothing counts as land: Antarctica would be one large and easy class."""

AREA_UNIT = 1e-3
"""Square metres in which areas are summed as whole numbers, so that the sum does not depend on the blocks."""

_COUNT = len(CLASSES)
_BAND = 200_000  # cells that are counted at once: the indices have eight bytes, the maps one
_ROUNDING = 1e-12  # share of a window below which an area is the rounding of a sum
_BYTE = 15  # cells along a block whose number fits into one byte
_WINDOWS = 20_000  # windows whose classes are combined at once


def confusion(
    observed: NDArray[Any], predicted: NDArray[Any], weights: NDArray[Any] | None = None, classes: int = _COUNT
) -> NDArray[np.float64]:
    """Cross-tabulate two maps of codes ``0 .. classes - 1``: rows observed, columns predicted.

    ``weights`` broadcast to the maps: the area of each cell, or 0 to leave it out; by default every cell counts 1.
    Raises :class:`VocabularyError` for other codes.
    """
    for name, codes in (("observed", observed), ("predicted", predicted)):
        outside = np.count_nonzero((codes < 0) | (codes >= classes))
        if outside:
            raise VocabularyError(f"the {name} map contains {outside} cells with codes outside 0 to {classes - 1}")
    index = observed.astype(np.intp).ravel() * classes + predicted.astype(np.intp).ravel()
    flat = None if weights is None else np.broadcast_to(weights, observed.shape).astype(np.float64).ravel()
    return np.bincount(index, flat, classes * classes).astype(np.float64).reshape(classes, classes)


def mixed_cells(observed: NDArray[Any], factor: int) -> NDArray[np.bool_]:
    """Find the fine cells, water and ocean too, of the coarse cells with more than one of the land classes.

    ``observed`` (rows, columns) starts at the edge of a coarse cell of ``factor`` x ``factor`` cells and contains
    whole ones.
    """
    rows, columns = (size // factor for size in observed.shape)
    lookup = np.zeros(_COUNT, dtype=np.uint8)
    lookup[list(LAND_CLASSES)] = [1 << code for code in LAND_CLASSES]
    present = lookup[observed].reshape(rows, factor, columns, factor)
    present = np.bitwise_or.reduce(np.bitwise_or.reduce(present, axis=3), axis=1)
    several = (present & (present - (present > 0))) != 0  # more than one bit is set
    return several.repeat(factor, axis=0).repeat(factor, axis=1)


def cross_tabulate(
    maps: Sequence[NDArray[Any]],
    counted: NDArray[np.bool_],
    weights: NDArray[Any],
    sizes: Sequence[int] | None = None,
) -> NDArray[Any]:
    """Sum up weights over the cells of each combination of codes in several maps, (rows, columns) each.

    Only cells where ``counted`` is true count. ``weights`` ([kinds,] rows) are those of a cell in each row, normally
    its area; sums of whole numbers are exact. ``sizes`` are the numbers of codes of the maps, by default of class
    codes. Returns ([kinds,] *sizes) sums.
    """
    sizes = (_COUNT,) * len(maps) if sizes is None else tuple(sizes)
    total = np.zeros((*weights.shape[:-1], math.prod(sizes)), weights.dtype)
    for part, rows in _bands(counted.shape):
        index = rows
        for codes, size in zip(maps, sizes, strict=True):
            index = index * size + codes[part]
        counts = np.bincount(index[counted[part]], minlength=len(rows) * total.shape[-1])
        total += weights[..., part] @ counts.reshape(len(rows), -1)
    return total.reshape(*weights.shape[:-1], *sizes)


def area_units(area: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return areas in m2 as whole numbers of :data:`AREA_UNIT`."""
    return np.rint(area / AREA_UNIT).astype(np.int64)


def count_domains(
    observed: NDArray[Any],
    predicted: NDArray[Any],
    labels: NDArray[np.bool_ | np.uint8],
    latitude: NDArray[Any],
    area: NDArray[np.float64],
    *,
    factor: int,
    domains: Sequence[str],
    regions: int = 1,
) -> NDArray[np.int64]:
    """Count pairs of classes in a block of whole coarse cells, for each region and domain.

    ``labels`` (rows, columns) are the numbers of the regions from 1; cells with 0 are not counted, but still say
    whether a coarse cell is mixed. ``latitude`` and ``area`` (m2 of a cell) are those of the rows. Returns
    ``(2, regions, domains, observed, predicted)``: cells, and area in units of :data:`AREA_UNIT`.
    """
    land = np.isin(np.arange(_COUNT), LAND_CLASSES)[observed] & (latitude > SOUTHERN_LIMIT)[:, None]
    place = land.astype(np.uint8)  # 0, 1 on land, 2 on mixed land
    if "mixed" in domains:
        place += land & mixed_cells(observed, factor)
    weights = np.stack([np.ones_like(area, np.int64), area_units(area)])
    sizes = (1 + regions, 3, _COUNT, _COUNT)
    found = cross_tabulate([labels, place, observed, predicted], labels != 0, weights, sizes)[:, 1:]
    sums = {"all": found.sum(axis=2), "land": found[:, :, 1:].sum(axis=2), "mixed": found[:, :, 2]}
    return np.stack([sums[domain] for domain in domains], axis=2)


def window_areas(
    codes: NDArray[Any], factor: int, counted: NDArray[np.bool_], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Area of each class in windows of ``factor`` x ``factor`` cells: (windows, classes), row by row of windows.

    A window that is counted in part has the area of that part; other arguments as of :func:`cross_tabulate`.
    """
    down, across = (size // factor for size in codes.shape)
    areas = np.zeros((down, across * _COUNT))
    place = np.arange(codes.shape[1]) // factor * _COUNT
    for part, rows in _bands(codes.shape):
        index = rows * areas.shape[1] + place + codes[part]
        counts = np.bincount(index[counted[part]], minlength=len(rows) * areas.shape[1]).reshape(len(rows), -1)
        window = np.arange(part.start, part.stop) // factor
        starts = np.flatnonzero(np.diff(window, prepend=-1))
        areas[window[starts]] += np.add.reduceat(counts * weights[part, None], starts, axis=0)
    return areas.reshape(-1, _COUNT)


def _bands(shape: tuple[int, ...]) -> Iterator[tuple[slice, NDArray[np.intp]]]:
    """Yield bands of rows that are counted at once, each with the numbers of its rows, (rows, 1)."""
    height = max(_BAND // max(shape[1], 1), 1)
    for first in range(0, shape[0], height):
        part = slice(first, min(first + height, shape[0]))
        yield part, np.arange(part.stop - first)[:, None]


def tabulate_windows(
    start: NDArray[Any],
    observed: NDArray[Any],
    predicted: NDArray[Any],
    factor: int,
    counted: NDArray[np.bool_],
    weights: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Compare three maps in windows of ``factor`` x ``factor`` cells; other arguments as of :func:`cross_tabulate`.

    Returns the :func:`composite_table` of all windows, and the :func:`composite_transitions` from the start to the
    observed map.
    """
    maps = start, observed, predicted
    down, across = (size // factor for size in start.shape)

    def windows(cells: NDArray[Any]) -> NDArray[Any]:
        return cells.reshape(down, factor, across, factor).transpose(0, 2, 1, 3)

    # where the three maps are the same there is nothing to combine, and that is most of a real map
    differ = windows(counted & ((start != observed) | (start != predicted))).any(axis=(2, 3))
    alike = counted & ~differ.repeat(factor, axis=0).repeat(factor, axis=1)
    table = cross_tabulate(maps, alike, weights)
    transitions = table.sum(axis=2)
    if differ.any():
        own = windows(np.broadcast_to(weights[:, None], counted.shape))[differ][:, :, 0].ravel()
        chosen = windows(counted)[differ].reshape(-1, factor)
        areas = [window_areas(windows(codes)[differ].reshape(-1, factor), factor, chosen, own) for codes in maps]
        table += composite_table(*areas)
        transitions += composite_transitions(*areas[:2])
    return table, transitions


def composite_table(
    start: NDArray[np.float64], observed: NDArray[np.float64], predicted: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Cross-tabulate three maps that are known by the areas of their classes in windows, (windows, classes) each.

    The sums over the classes must be the same in all three. Where every window contains one class, the table equals
    that of :func:`cross_tabulate`.

    Notes
    -----
    With q, r, s the areas of a class in the three maps, equations 1 to 7 of Pontius et al. (2011) say: min(r, s) is
    predicted right, min(q, r, s) of it as persistence; the rest of r is taken for the rest of s in proportion. Both
    kinds of rest come from the classes of the start map in proportion to what does not persist of them.
    """
    classes = start.shape[1]
    table = np.zeros((classes,) * 3)
    diagonal = np.arange(classes)
    for first in range(0, start.shape[0], _WINDOWS):
        before, after, foretold = (each[first : first + _WINDOWS] for each in (start, observed, predicted))
        right = np.minimum(after, foretold)
        persisting = np.minimum(before, right)
        origin = _shares(before - persisting, before)
        invented = _shares(foretold - right, foretold)
        ends = (after - right)[:, :, None] * invented[:, None, :]
        ends[:, diagonal, diagonal] += right - persisting
        table += (origin.T @ ends.reshape(-1, classes**2)).reshape(table.shape)
        table[diagonal, diagonal, diagonal] += persisting.sum(axis=0)
    return table


def composite_transitions(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
    """Cross-tabulate two maps that are known by the areas of their classes in windows, (windows, classes) each.

    The composite matrix of Kuzera and Pontius (2008), doi 10.2747/1548-1603.45.3.249: what can agree does, the rest is
    distributed in proportion. Rows are classes of the first map.
    """
    same = np.minimum(first, second)
    matrix = (first - same).T @ _shares(second - same, second)
    matrix[np.diag_indices_from(matrix)] += same.sum(axis=0)
    return np.asarray(matrix)


def _shares(rest: NDArray[np.float64], whole: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the shares of the classes in the rest of each window; 0 where the rest is only rounding."""
    total = rest.sum(axis=1, keepdims=True)
    real = total > _ROUNDING * whole.sum(axis=1, keepdims=True)
    return np.divide(rest, total, out=np.zeros_like(rest), where=real)


def mode(codes: NDArray[np.uint8], step: int) -> NDArray[np.uint8]:
    """Return the most frequent code of each block, as :func:`majorities` does; blocks at the edges may be smaller."""
    whole = np.pad(codes, [(0, -size % step) for size in codes.shape], constant_values=BLANK)
    return majorities(whole, (step,))[step]


def majorities(codes: NDArray[np.uint8], scales: Sequence[int]) -> dict[int, NDArray[np.uint8]]:
    """Coarsen a map to the most frequent code of ``scale`` x ``scale`` cells, for each scale, in ascending order.

    Of equally frequent codes it is the lowest. :data:`BLANK` counts only where there is nothing else. Every scale must
    divide the rows and the columns.
    """
    present = present_codes(codes)
    if not present.size:
        return {scale: codes[::scale, ::scale] for scale in sorted(scales)}
    number = np.uint8 if max(scales) <= _BYTE else np.uint32
    counts: dict[int, NDArray[Any]] = {1: (codes == present[:, None, None]).view(np.uint8)}
    found = {}
    for scale in sorted(scales):
        if scale == 1:
            found[1] = codes
            continue
        finer = max(each for each in counts if scale % each == 0)
        counts[scale] = _sum_blocks(counts[finer], scale // finer, number)
        most = present[counts[scale].argmax(axis=0)]
        found[scale] = np.where(counts[scale].any(axis=0), most, np.uint8(BLANK))
    return found


def present_codes(codes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the codes on a map but :data:`BLANK`, in ascending order."""
    return np.flatnonzero(np.bincount(codes.ravel(), minlength=BLANK + 1)[:BLANK]).astype(np.uint8)


def _sum_blocks(counts: NDArray[Any], step: int, number: type[np.unsignedinteger[Any]]) -> NDArray[Any]:
    """Sum blocks of ``step`` x ``step`` cells, (codes, rows, columns)."""
    rows = counts[:, ::step].astype(number)
    for start in range(1, step):
        rows += counts[:, start::step]
    total = rows[..., ::step].copy()
    for start in range(1, step):
        total += rows[..., start::step]
    return total


def blocks_of(values: NDArray[Any], step: int, fill: float) -> NDArray[Any]:
    """Return blocks of ``step`` x ``step`` cells: (rows, step, columns, step), completed with ``fill``."""
    rows, columns = values.shape
    padded = np.pad(values, [(0, -rows % step), (0, -columns % step)], constant_values=fill)
    return padded.reshape(padded.shape[0] // step, step, padded.shape[1] // step, step)
