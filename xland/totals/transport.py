"""The most probable map of one coarse cell among those that have given class areas: a transportation problem.

Pixels supply their areas, classes demand theirs. Each pixel begins in the class that suits it best, once
each class has a price that brings the areas near to the demands: a price counts the same in every map
that meets them, so that it changes nothing but where the search begins. Area is then moved from
classes that have too much to classes that have too little, each time along the cheapest chain of moves
from class to class (successive shortest paths). What comes out is optimal at every step for the
areas reached (Ahuja, Magnanti and Orlin, 1993, chapter 9), and with K classes no more than K - 1
pixels are split. These are given to one of their classes each, so that areas come as near to the
demands as they can; the map stays the most probable one of its class areas, since a split pixel is
worth the same in each of its classes.

Where a class is impossible in so many pixels that demands cannot be met, prices have a say in which class
falls short; the map is the most probable one of the areas that it reaches.

Areas are whole numbers here, so that nothing is lost by rounding on the way.
"""

from __future__ import annotations

import math

import numpy as np

from xland.totals.band import improve
from xland.totals.pixels import Floats, Integers, compiled

UNIT = 1 << 20
"""Parts of a mean pixel in which areas are counted."""

_EQUAL = 1e-9
"""Difference of costs that counts as none."""

_ROUNDS = 12
"""Rounds in which prices are found."""

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
    slack: int,
) -> int:
    """Give each pixel one class.

    Parameters
    ----------
    scores : (pixels, classes) array of float64
        Worth of a class per unit of area; minus infinity where it is impossible. Without ties, see
        :func:`scatter`: hardly a pixel is split then without need. Prices are added to it.
    areas : (pixels,) array of int64
    demands : (classes,) array of int64
        They sum to the sum of the areas.
    pixel : int
        Largest area of a pixel: the classes end within it of their demands.
    choice : (pixels,) array of int64
        Is written: the class of each pixel; may be longer.
    amounts : (pixels, classes) array of int64
        Room to work in, so that it is not asked for again in each coarse cell.
    slack : int
        Area by which classes may be off their demands in favour of a more probable map; 0 if as near to them as
        whole pixels can be is what is wanted.

    Returns
    -------
    int
        Area that could not be given as demanded.
    """
    pixels, classes = scores.shape
    totals = np.zeros(classes, np.int64)
    prices = _find_prices(scores, areas, demands, totals)
    totals[:] = 0
    for n in range(pixels):
        best = 0
        for k in range(classes):
            amounts[n, k] = 0
            scores[n, k] += prices[k]
            if scores[n, k] > scores[n, best]:
                best = k
        amounts[n, best] = areas[n]
        totals[best] += areas[n]
    _move(scores, amounts, totals, demands)
    _settle(amounts, areas, totals, pixel, choice)
    missed = _excess(totals, demands)
    if slack > 0 and missed == 0:
        improve(_worth(scores, prices, areas), areas, demands, slack, choice[: areas.size])
    return missed


@compiled
def _worth(scores: Floats, prices: Floats, areas: Integers) -> Floats:
    """Worth of whole pixels, without the prices, in pixels of mean area."""
    pixels, classes = scores.shape
    worth = np.empty((pixels, classes))
    for n in range(pixels):
        for k in range(classes):
            worth[n, k] = (scores[n, k] - prices[k]) * (areas[n] / UNIT)
    return worth


@compiled
def _find_prices(scores: Floats, areas: Integers, demands: Integers, totals: Integers) -> Floats:
    """Look for prices of the classes at which each pixel's best class gives areas near to the demands.

    In each round classes that have too little become dearer to have by the logarithm of what they lack,
    as in proportional fitting; the prices that came nearest are kept. ``totals`` is written over.
    """
    pixels, classes = scores.shape
    prices, kept = np.zeros(classes), np.zeros(classes)
    fewest = -1
    for number in range(_ROUNDS):
        totals[:] = 0
        for n in range(pixels):
            best, most = 0, scores[n, 0] + prices[0]
            for k in range(1, classes):
                value = scores[n, k] + prices[k]
                if value > most:
                    best, most = k, value
            totals[best] += areas[n]
        excess = _excess(totals, demands)
        if fewest < 0 or excess < fewest:
            fewest = excess
            for k in range(classes):
                kept[k] = prices[k]
        if excess == 0:
            break
        share = 1.0 / (1.0 + 0.1 * number)
        for k in range(classes):
            prices[k] += share * math.log((demands[k] + areas[0]) / (totals[k] + areas[0]))
    return kept


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
def _move(scores: Floats, amounts: Integers, totals: Integers, demands: Integers) -> None:
    """Move area until demands are met or nothing can be moved any more.

    A class that still has too little is not moved from: no chain that leads through it is cheaper than one that
    ends there.
    """
    classes = scores.shape[1]
    if _excess(totals, demands) == 0:
        return
    costs, places = np.full((classes, classes), np.inf), np.zeros((classes, classes), np.int64)
    for k in range(classes):
        if totals[k] >= demands[k]:
            _look(scores, amounts, costs, places, k)
    distance, before = np.empty(classes), np.empty(classes, np.int64)
    while True:
        end = _cheapest(costs, totals, demands, distance, before)
        if end < 0:
            return
        start, amount = _narrowest(amounts, places, totals, demands, before, end)
        totals[start] -= amount
        totals[end] += amount
        to = end
        while before[to] >= 0:
            source = before[to]
            n = places[source, to]
            amounts[n, source] -= amount
            amounts[n, to] += amount
            to = source
        to = end
        while to >= 0:
            if totals[to] >= demands[to]:
                _look(scores, amounts, costs, places, to)
            to = before[to]


@compiled
def _look(scores: Floats, amounts: Integers, costs: Floats, places: Integers, k: int) -> None:
    """Find the cheapest move out of class ``k`` to each other one: its cost, and its pixel."""
    pixels, classes = scores.shape
    for m in range(classes):
        costs[k, m] = np.inf
    for n in range(pixels):
        if amounts[n, k] > 0:
            own = scores[n, k]
            for m in range(classes):
                cost = own - scores[n, m]
                if cost < costs[k, m]:
                    costs[k, m] = cost
                    places[k, m] = n
    costs[k, k] = np.inf


@compiled
def _narrowest(
    amounts: Integers, places: Integers, totals: Integers, demands: Integers, before: Integers, end: int
) -> tuple[int, int]:
    """Class that a chain begins at, and the area that can be moved along it."""
    amount, start = demands[end] - totals[end], end
    while before[start] >= 0:
        source = before[start]
        amount = min(amount, amounts[places[source, start], source])
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
