"""The most probable map of one coarse cell among those that have given class areas: a transportation problem.

Pixels supply their areas, classes demand theirs. Each pixel begins in the class that suits it best.
Area is then moved from classes that have too much to classes that have too little, each time along
the cheapest chain of moves from class to class (successive shortest paths). What comes out is
optimal at every step for the areas reached (Ahuja, Magnanti and Orlin, 1993, chapter 9), and
with K classes no more than K - 1 pixels are split. These are given to one of their classes each,
so that areas come as near to the demands as they can; the map stays the most probable one of its
class areas, since a split pixel is worth the same in each of its classes.

Areas are whole numbers here, so that nothing is lost by rounding on the way.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from xland.allocation.compiled import Flags, Floats, Integers, compiled

_EQUAL = 1e-9
"""Difference of costs that counts as none."""

_MOST_SPLIT = 10
_ADMIXTURE = 1e-7
"""How far equal scores are told apart."""


@compiled
def assign(
    scores: Floats,
    areas: Integers,
    demands: Integers,
    pixel: int,
    choice: Integers,
    amounts: Integers,
    heaps: NDArray[np.int32],
    listed: Flags,
) -> int:
    """Give each pixel one class.

    Parameters
    ----------
    scores : (pixels, classes) array of float64
        Worth of a class per unit of area; minus infinity where it is impossible. Without ties, see
        :func:`scatter`: hardly a pixel is split then without need.
    areas : (pixels,) array of int64
    demands : (classes,) array of int64
        They sum to the sum of the areas.
    pixel : int
        Largest area of a pixel: the classes end within it of their demands.
    choice : (pixels,) array of int64
        Is written: the class of each pixel.
    amounts : (pixels, classes) array of int64
    heaps, listed : (classes * classes, pixels) arrays of int32 and bool
        Room to work in, so that it is not asked for again in each coarse cell.

    Returns
    -------
    int
        Area that could not be given as demanded.
    """
    pixels, classes = scores.shape
    totals = np.zeros(classes, np.int64)
    for n in range(pixels):
        best = 0
        for k in range(classes):
            amounts[n, k] = 0
            if scores[n, k] > scores[n, best]:
                best = k
        amounts[n, best] = areas[n]
        totals[best] += areas[n]
    _move(scores, amounts, totals, demands, heaps, listed)
    _settle(amounts, areas, totals, pixel, choice)
    return _excess(totals, demands)


@compiled
def _excess(totals: Integers, demands: Integers) -> int:
    """Area by which classes have more than they should."""
    excess = 0
    for k in range(totals.size):
        excess += max(totals[k] - demands[k], 0)
    return excess


@compiled
def scatter(count: int) -> Floats:
    """Return small numbers that look random and are always the same: added to scores, they break ties.

    They are fractional parts of multiples of the golden ratio, stirred once.
    """
    numbers = np.empty(count)
    for n in range(count):
        part = (n + 1) * 0.6180339887498949
        part = (part - math.floor(part)) * 9973.0
        numbers[n] = _ADMIXTURE * (part - math.floor(part))
    return numbers


@compiled
def _move(
    scores: Floats,
    amounts: Integers,
    totals: Integers,
    demands: Integers,
    heaps: NDArray[np.int32],
    listed: Flags,
) -> None:
    """Move area until demands are met or nothing can be moved any more."""
    pixels, classes = scores.shape
    if _excess(totals, demands) == 0:
        return
    sizes = np.zeros(classes * classes, np.int64)
    for pair in range(classes * classes):
        for n in range(pixels):
            listed[pair, n] = False
    costs = np.full((classes, classes), np.inf)
    for k in range(classes):
        if totals[k] >= demands[k]:
            _open(scores, amounts, heaps, sizes, listed, costs, k)
    distance, before = np.empty(classes), np.empty(classes, np.int64)
    while True:
        end = _cheapest(costs, totals, demands, distance, before)
        if end < 0:
            return
        start, amount = _narrowest(amounts, heaps, totals, demands, before, end)
        totals[start] -= amount
        totals[end] += amount
        to = end
        while before[to] >= 0:
            source = before[to]
            n = int(heaps[source * classes + to, 0])
            amounts[n, source] -= amount
            amounts[n, to] += amount
            if to != end:
                _offer(scores, heaps, sizes, listed, n, to)
            to = source
        to = end
        while before[to] >= 0:
            to = before[to]
            _look(scores, amounts, heaps, sizes, listed, costs, to)
        if totals[end] == demands[end]:
            _open(scores, amounts, heaps, sizes, listed, costs, end)


@compiled
def _open(
    scores: Floats,
    amounts: Integers,
    heaps: NDArray[np.int32],
    sizes: Integers,
    listed: Flags,
    costs: Floats,
    k: int,
) -> None:
    """Put all pixels of class ``k`` into its heaps.

    A class that still has too little needs none: no chain that leads through it is cheaper than one that ends there.
    """
    for n in range(amounts.shape[0]):
        if amounts[n, k] > 0:
            _offer(scores, heaps, sizes, listed, n, k)
    _look(scores, amounts, heaps, sizes, listed, costs, k)


@compiled
def _narrowest(
    amounts: Integers, heaps: NDArray[np.int32], totals: Integers, demands: Integers, before: Integers, end: int
) -> tuple[int, int]:
    """Class that a chain begins at, and the area that can be moved along it."""
    classes = totals.size
    amount, start = demands[end] - totals[end], end
    while before[start] >= 0:
        source = before[start]
        amount = min(amount, amounts[heaps[source * classes + start, 0], source])
        start = source
    return start, min(amount, totals[start] - demands[start])


@compiled
def _cheapest(costs: Floats, totals: Integers, demands: Integers, distance: Floats, before: Integers) -> int:
    """Shortest chains of moves from classes with too much (Bellman and Ford); the best class to end at, or -1."""
    classes = totals.size
    for k in range(classes):
        distance[k] = 0.0 if totals[k] > demands[k] else np.inf
        before[k] = -1
    for _ in range(classes):
        changed = False
        for k in range(classes):
            if distance[k] == np.inf or totals[k] < demands[k]:
                continue
            for m in range(classes):
                reached = distance[k] + costs[k, m]
                if reached < distance[m] - _EQUAL and m != k:
                    distance[m] = reached
                    before[m] = k
                    changed = True
        if not changed:
            break
    end = -1
    for k in range(classes):
        if totals[k] < demands[k] and distance[k] < np.inf and (end < 0 or distance[k] < distance[end]):
            end = k
    return end


@compiled
def _offer(scores: Floats, heaps: NDArray[np.int32], sizes: Integers, listed: Flags, n: int, k: int) -> None:
    """Put a pixel that has come into class ``k`` into the heaps of what may leave it, cheapest first."""
    for m in range(scores.shape[1]):
        pair = k * scores.shape[1] + m
        if m == k or listed[pair, n] or scores[n, m] == -np.inf:
            continue
        listed[pair, n] = True
        heap, place = heaps[pair], sizes[pair]
        sizes[pair] += 1
        cost = scores[n, k] - scores[n, m]
        while place > 0:
            parent = (place - 1) // 2
            above = heap[parent]
            if scores[above, k] - scores[above, m] <= cost:
                break
            heap[place] = above
            place = parent
        heap[place] = n


@compiled
def _look(
    scores: Floats,
    amounts: Integers,
    heaps: NDArray[np.int32],
    sizes: Integers,
    listed: Flags,
    costs: Floats,
    k: int,
) -> None:
    """Cost of the cheapest move out of class ``k`` to each other; pixels that have left it are dropped."""
    for m in range(scores.shape[1]):
        if m == k:
            continue
        pair = k * scores.shape[1] + m
        heap = heaps[pair]
        while sizes[pair] > 0 and amounts[heap[0], k] == 0:
            listed[pair, heap[0]] = False
            sizes[pair] -= 1
            _sink(scores, heap, sizes[pair], k, m)
        costs[k, m] = scores[heap[0], k] - scores[heap[0], m] if sizes[pair] > 0 else np.inf


@compiled
def _sink(scores: Floats, heap: NDArray[np.int32], size: int, k: int, m: int) -> None:
    """Put the last of a heap in place of its first."""
    if size == 0:
        return
    n = heap[size]
    cost = scores[n, k] - scores[n, m]
    place = 0
    while True:
        child = 2 * place + 1
        if child >= size:
            break
        low = scores[heap[child], k] - scores[heap[child], m]
        if child + 1 < size:
            other = scores[heap[child + 1], k] - scores[heap[child + 1], m]
            if other < low:
                child, low = child + 1, other
        if cost <= low:
            break
        heap[place] = heap[child]
        place = child
    heap[place] = n


@compiled
def _settle(amounts: Integers, areas: Integers, totals: Integers, pixel: int, choice: Integers) -> None:
    """Give each pixel to one class: a split one so that class areas come as near as can be to the totals."""
    pixels, classes = amounts.shape
    split, many = np.empty(_MOST_SPLIT, np.int64), np.empty(_MOST_SPLIT, np.int64)
    options = np.empty((_MOST_SPLIT, classes), np.int64)
    errors, sizes = np.empty(classes), np.empty(_MOST_SPLIT)
    for k in range(classes):
        errors[k] = -totals[k] / pixel
    found = 0
    for n in range(pixels):
        largest = 0
        for k in range(classes):
            if amounts[n, k] > amounts[n, largest]:
                largest = k
        choice[n] = largest
        if amounts[n, largest] == areas[n] or found == _MOST_SPLIT:
            errors[largest] += areas[n] / pixel
            continue
        split[found], options[found, 0], many[found] = n, largest, 1
        sizes[found] = areas[n] / pixel
        for k in range(classes):
            if amounts[n, k] > 0 and k != largest:
                options[found, many[found]] = k
                many[found] += 1
        found += 1
    if found > 0:
        chosen = _choose(errors, sizes[:found], options, many)
        for i in range(found):
            choice[split[i]] = options[i, chosen[i]]


@compiled
def _choose(errors: Floats, sizes: Floats, options: Integers, many: Integers) -> Integers:
    """Try all choices of a class for each split pixel: the sum of squared errors shall be smallest.

    An error beyond one pixel counts far more than all others: there is always a choice without.
    """
    found = sizes.size
    digits, kept = np.zeros(found, np.int64), np.zeros(found, np.int64)
    tried = np.empty(errors.size)
    best = np.inf
    place = 0
    while place < found:
        for k in range(errors.size):
            tried[k] = errors[k]
        for i in range(found):
            tried[options[i, digits[i]]] += sizes[i]
        worth = 0.0
        for k in range(errors.size):
            worth += tried[k] ** 2 + 1e6 * max(abs(tried[k]) - 1.0, 0.0)
        if worth < best - _EQUAL:
            best = worth
            for i in range(found):
                kept[i] = digits[i]
        place = 0
        while place < found:
            digits[place] += 1
            if digits[place] < many[place]:
                break
            digits[place] = 0
            place += 1
    return kept
