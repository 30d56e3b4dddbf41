"""The most probable map of one coarse cell among all whose class areas lie within a band: branch and bound.

Prices on area say how much any map within the band can be worth at most (Lagrangian relaxation; the prices
are improved by steps along the subgradient, as of Held, Wolfe and Crowder, 1974, doi 10.1007/BF01580223).
At these prices each pixel has a best class, and every other one means a regret. Pixels are then given
classes one after the other, best first, and a branch is left as soon as its regrets sum to more than
what lies between that bound and the best map found so far (Land and Doig, 1960, doi 10.2307/1910129).
The first map is one that chains of moves lead to (:mod:`xland.allocation.chains`).
"""

from __future__ import annotations

import numpy as np

from xland.allocation.chains import EQUAL, move
from xland.allocation.compiled import Floats, Integers, compiled

_MOST_PIXELS = 100
"""Largest cells that are searched; in larger ones nothing but chains of moves is tried."""

_MOST_BRANCHES = 50_000
"""After as many the search of a cell ends with the best map that it has found."""

_STEPS = 40
"""Steps in which prices are improved."""


@compiled
def improve(worth: Floats, areas: Integers, demands: Integers, slack: int, choice: Integers) -> None:
    """Make a map as probable as it can be while class areas stay within a band around the demands.

    Parameters
    ----------
    worth : (pixels, classes) array of float64
        Of each class at each pixel: logarithms of probabilities; minus infinity where it is impossible.
    areas : (pixels,) array of int64
    demands : (classes,) array of int64
    slack : int
        Half the width of the band; where the map is further from a demand than that, this far.
    choice : (pixels,) array of int64
        The class of each pixel; is changed.
    """
    pixels, classes = worth.shape
    low, high = np.zeros(classes, np.int64), np.zeros(classes, np.int64)
    for n in range(pixels):
        low[choice[n]] += areas[n]
    for k in range(classes):
        far = max(abs(low[k] - demands[k]), slack)
        low[k], high[k] = demands[k] - far, demands[k] + far
    move(worth, areas, low, high, choice)
    if pixels > _MOST_PIXELS:
        return
    prices = np.zeros(classes)
    gap = _find_prices(worth, areas, low, high, choice, prices)
    if gap > EQUAL:
        _search(worth, areas, low, high, prices, gap, choice)


@compiled
def _find_prices(
    worth: Floats, areas: Integers, low: Integers, high: Integers, choice: Integers, kept: Floats
) -> float:
    """Write the prices with the least bound; return how far the map is below it."""
    pixels, classes = worth.shape
    reached = 0.0
    for n in range(pixels):
        reached += worth[n, choice[n]]
    prices, slope = np.zeros(classes), np.zeros(classes)
    totals = np.zeros(classes, np.int64)
    unit = float(areas.max())
    least = np.inf
    for _ in range(_STEPS):
        bound = _choose_freely(worth, areas, unit, prices, totals)
        square = 0.0
        for k in range(classes):
            bound += prices[k] * ((high[k] if prices[k] > 0 else low[k]) / unit)
            slope[k] = 0.0
            if totals[k] > high[k] or prices[k] > 0:
                slope[k] = (totals[k] - high[k]) / unit
            elif totals[k] < low[k] or prices[k] < 0:
                slope[k] = (totals[k] - low[k]) / unit
            square += slope[k] ** 2
        if bound < least:
            least = bound
            kept[:] = prices
        if square == 0 or least - reached <= EQUAL:
            break
        step = (bound - reached) / square
        for k in range(classes):
            price = prices[k] + step * slope[k]
            prices[k] = 0.0 if prices[k] * price < 0 else price
    for k in range(classes):
        kept[k] /= unit
    return least - reached


@compiled
def _choose_freely(worth: Floats, areas: Integers, unit: float, prices: Floats, totals: Integers) -> float:
    """Write the class areas if each pixel has its best class at these prices; return what they are worth then."""
    value = 0.0
    totals[:] = 0
    for n in range(areas.size):
        best, most = 0, -np.inf
        for k in range(prices.size):
            each = worth[n, k] - prices[k] * (areas[n] / unit)
            if each > most:
                best, most = k, each
        totals[best] += areas[n]
        value += most
    return value


@compiled
def _search(
    worth: Floats, areas: Integers, low: Integers, high: Integers, prices: Floats, gap: float, choice: Integers
) -> None:
    """Try classes, the pixels with most to lose first; ``choice`` is each time the best map found."""
    pixels, classes = worth.shape
    order, options, regrets, left = _sort_options(worth, areas, prices)
    totals, spent = np.zeros(classes, np.int64), np.zeros(pixels + 1)
    place, tried = np.full(pixels, -1), 0
    depth = 0
    while depth >= 0 and tried < _MOST_BRANCHES:
        n = order[depth]
        if place[depth] >= 0:
            totals[options[n, place[depth]]] -= areas[n]
        found = False
        while not found and place[depth] < classes - 1:
            place[depth] += 1
            tried += 1
            if spent[depth] + regrets[n, place[depth]] >= gap - EQUAL:
                break
            found = _fits(totals, low, high, options[n, place[depth]], areas[n], left[depth + 1])
        if not found:
            place[depth] = -1
            depth -= 1
            continue
        totals[options[n, place[depth]]] += areas[n]
        spent[depth + 1] = spent[depth] + regrets[n, place[depth]]
        if depth < pixels - 1:
            depth += 1
            continue
        # what the bound is above the whole map: areas that stay away from the edge of the band count, too
        short = float(spent[pixels])
        for k in range(classes):
            short += prices[k] * ((high[k] if prices[k] > 0 else low[k]) - totals[k])
        if short < gap - EQUAL:
            gap = short
            for i in range(pixels):
                choice[order[i]] = options[order[i], place[i]]


@compiled
def _sort_options(worth: Floats, areas: Integers, prices: Floats) -> tuple[Integers, Integers, Floats, Integers]:
    """Order of the pixels; classes of each, the best first, with their regrets; area of the pixels from each on."""
    pixels, classes = worth.shape
    options, regrets = np.empty((pixels, classes), np.int64), np.empty((pixels, classes))
    second = np.zeros(pixels)
    for n in range(pixels):
        values = prices * areas[n] - worth[n]
        options[n, :] = np.argsort(values)
        for k in range(classes):
            regrets[n, k] = values[options[n, k]] - values[options[n, 0]]
        if classes > 1:
            second[n] = -regrets[n, 1]
    order = np.argsort(second)
    left = np.zeros(pixels + 1, np.int64)
    for i in range(pixels - 1, -1, -1):
        left[i] = left[i + 1] + areas[order[i]]
    return order, options, regrets, left


@compiled
def _fits(totals: Integers, low: Integers, high: Integers, k: int, area: int, left: int) -> bool:
    """Whether a pixel may be of class ``k`` if all classes shall have enough of what is left after it."""
    if totals[k] + area > high[k]:
        return False
    needed = 0
    for m in range(totals.size):
        total = totals[m] + (area if m == k else 0)
        needed += max(low[m] - total, 0)
    return needed <= left
