"""Neighbours and patches on a map of classes: plain arrays in, plain arrays out.

Cells that hold :data:`~xland.scores.counts.BLANK` are background in the sense of FRAGSTATS: they are in no pair and in
no patch. A large map is counted in strips of rows, which are then joined; the result is that of the whole map.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from xland.scores.counts import present_codes
from xland.vocabulary import CLASSES

HORIZONTAL, VERTICAL = 0, 1
"""Directions in which a pair of cells lies."""

ELSEWHERE, AT_EDGES = 0, 1
"""Whether the edge between a pair of cells is one of coarse cells."""

_COUNT = len(CLASSES)
_KINDS = _COUNT + 1  # classes, and background
_PAIRS = 1_000_000  # counted at once: their indices have eight bytes, the maps one
_NOWHERE = -1  # number of the patch of a background cell


@dataclass(frozen=True, eq=False)
class Patches:
    """Patches of a map: class code, number of cells and area (m2) of each; arrays of one length, in any order.

    A patch is made of cells of one class that touch each other along an edge or at a corner.
    """

    classes: NDArray[np.uint8]
    cells: NDArray[np.int64]
    area: NDArray[np.float64]

    def of(self, code: int) -> Patches:
        """Return the patches of one class."""
        chosen = self.classes == code
        return Patches(self.classes[chosen], self.cells[chosen], self.area[chosen])


class Strip(NamedTuple):
    """Some rows of a map: its pairs and patches, and what is needed to join it to the strips above and below.

    ``top`` is the row of its first cells, counted from an edge of coarse cells. ``codes`` and ``numbers`` (2, columns)
    are the classes and patches of the first and the last row. ``links`` (n, 2) are numbers of patches that are one.
    """

    top: int
    pairs: NDArray[np.int64]
    patches: Patches
    codes: NDArray[np.uint8]
    numbers: NDArray[np.int32]
    links: NDArray[np.int64]


def cut_strip(
    codes: NDArray[np.uint8],
    area: NDArray[np.float64],
    *,
    factor: int = 1,
    offset: tuple[int, int] = (0, 0),
    wrap: bool = False,
) -> Strip:
    """Count the pairs and patches of some rows of a map, (rows, columns).

    ``area`` (rows,) is that of a cell in m2; it is rounded, so that sums are exact. For the rest see
    :func:`count_pairs`.
    """
    pairs = count_pairs(codes, factor=factor, offset=offset, wrap=wrap)
    numbers, classes = label_patches(codes)
    place = (numbers - _NOWHERE).ravel()  # the background comes first
    cells = np.bincount(place, minlength=1 + len(classes))[1:]
    sizes = np.bincount(place, np.rint(area).repeat(codes.shape[1]), 1 + len(classes))[1:].astype(np.float64)
    last, first = ((numbers[:, column], codes[:, column]) for column in (-1, 0))
    links = _touching(*last, *first) if wrap else _no_links()
    ends = [0, -1]
    return Strip(offset[0], pairs, Patches(classes, cells, sizes), codes[ends], numbers[ends], links)


def join_strips(strips: Sequence[Strip], *, factor: int = 1, wrap: bool = False) -> tuple[NDArray[np.int64], Patches]:
    """Return the pairs, as :func:`count_pairs` does, and the patches of a map from its strips, from north to south."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    parts = [each.patches for each in strips]
    starts = np.cumsum([0, *(len(each.classes) for each in parts)])
    pairs = np.sum([each.pairs for each in strips], axis=0)
    links = [each.links + start for each, start in zip(strips, starts[:-1], strict=True)]
    for above, below, first, second in zip(strips[:-1], strips[1:], starts[:-2], starts[1:-1], strict=True):
        place = AT_EDGES if factor > 1 and below.top % factor == 0 else ELSEWHERE
        pairs[VERTICAL, place] += _tabulate(_index(above.codes[1], below.codes[0]))
        found = _touching(above.numbers[1], above.codes[1], below.numbers[0], below.codes[0], around=wrap)
        links.append(found + np.array([first, second]))
    left, right = np.concatenate(links).T
    total = int(starts[-1])
    network = coo_array((np.ones(len(left), dtype=np.int8), (left, right)), shape=(total, total))
    count, whole = connected_components(network, directed=False)
    classes = np.zeros(count, dtype=np.uint8)
    classes[whole] = np.concatenate([each.classes for each in parts])
    cells = np.bincount(whole, np.concatenate([each.cells for each in parts]), count)
    area = np.bincount(whole, np.concatenate([each.area for each in parts]), count)
    return pairs, Patches(classes, cells.astype(np.int64), area.astype(np.float64))


def count_pairs(
    codes: NDArray[np.uint8], *, factor: int = 1, offset: tuple[int, int] = (0, 0), wrap: bool = False
) -> NDArray[np.int64]:
    """Count pairs of neighbouring cells by their classes: (directions, places, classes, classes).

    Directions are :data:`HORIZONTAL` and :data:`VERTICAL`, places :data:`ELSEWHERE` and :data:`AT_EDGES`; the first
    class is that of the western or northern cell. Each pair is counted once. ``factor`` are cells along a coarse cell,
    1 for none; ``offset``, the rows and columns from an edge of coarse cells to the first cell. With ``wrap``, the last
    column is beside the first.
    """
    pairs = np.zeros((2, 2, _COUNT, _COUNT), dtype=np.int64)
    beside = np.concatenate([codes, codes[:, :1]], axis=1) if wrap else codes
    tables = {HORIZONTAL: _index(beside[:, :-1], beside[:, 1:]).T, VERTICAL: _index(codes[:-1], codes[1:])}
    starts = {HORIZONTAL: offset[1], VERTICAL: offset[0]}
    for direction, index in tables.items():
        if factor > 1:
            # between cells i and i + 1 is an edge of coarse cells where i + 1 + start is a multiple of the factor
            pairs[direction, AT_EDGES] = _tabulate(index[-(starts[direction] + 1) % factor :: factor])
        pairs[direction, ELSEWHERE] = _tabulate(index) - pairs[direction, AT_EDGES]
    return pairs


def _index(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return a number for the classes of cells and their neighbours."""
    index = np.minimum(first, _COUNT)
    index *= _KINDS
    index += np.minimum(second, _COUNT)
    return index


def _tabulate(index: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Count pairs of classes, without background."""
    flat = index.ravel(order="K")
    total = np.zeros(_KINDS**2, dtype=np.int64)
    for start in range(0, flat.size, _PAIRS):
        total += np.bincount(flat[start : start + _PAIRS], minlength=total.size)
    return total.reshape(_KINDS, _KINDS)[:_COUNT, :_COUNT]


def label_patches(codes: NDArray[np.uint8]) -> tuple[NDArray[np.int32], NDArray[np.uint8]]:
    """Return the number of the patch of each cell, from 0 and -1 in the background, and the class of each patch."""
    from scipy.ndimage import label

    numbers = np.full(codes.shape, _NOWHERE, dtype=np.int32)
    classes = [np.zeros(0, dtype=np.uint8)]
    total = 0
    for code in present_codes(codes):
        here = codes == code
        labels, count = label(here, np.ones((3, 3), dtype=bool))
        labels += total - 1
        np.copyto(numbers, labels, where=here)
        classes.append(np.full(count, code))
        total += count
    return numbers, np.concatenate(classes)


def _touching(
    first: NDArray[np.int32],
    first_codes: NDArray[np.uint8],
    second: NDArray[np.int32],
    second_codes: NDArray[np.uint8],
    *,
    around: bool = False,
) -> NDArray[np.int64]:
    """Return the numbers of patches that touch across two lines of cells side by side, (n, 2).

    With ``around``, the ends of the lines are neighbours, too.
    """
    found = [_no_links()]
    size = len(first)
    for shift in (-1, 0, 1):
        here = np.arange(size) if around else np.arange(max(0, -shift), min(size, size - shift))
        there = (here + shift) % size
        same = (first_codes[here] == second_codes[there]) & (first[here] != _NOWHERE)
        found.append(np.stack([first[here[same]], second[there[same]]], axis=1).astype(np.int64))
    return np.unique(np.concatenate(found), axis=0)


def _no_links() -> NDArray[np.int64]:
    return np.zeros((0, 2), dtype=np.int64)
