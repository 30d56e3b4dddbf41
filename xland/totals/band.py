"""The most probable map of one coarse cell among all whose class areas lie within a band."""

from __future__ import annotations

import numpy as np

from xland.totals.pixels import Floats, Integers, compiled

EQUAL = 1e-5
"""Difference of the logarithms of two maps' probabilities that counts as none: more than what breaks ties."""


@compiled
def move(worth: Floats, areas: Integers, low: Integers, high: Integers, choice: Integers) -> None:
    """Move pixels while that gains anything and class areas stay within their bounds.

    Of a map that is the most probable one of its class areas the next one is that, too, as long as the chain that
    gains most is taken. In the end no single pixel may change its class for a more probable map.

    Parameters
    ----------
    worth : (pixels, classes) array of float64
        Of each class at each pixel; minus infinity where it is impossible.
    areas : (pixels,) array of int64
    low, high : (classes,) arrays of int64
        Bounds of the class areas, which those of the map are within.
    choice : (pixels,) array of int64
        The class of each pixel; is changed.
    """
    totals = np.zeros(worth.shape[1], np.int64)
    for n in range(choice.size):
        totals[choice[n]] += areas[n]
    while _move_chain(worth, areas, low, high, totals, choice) or _move_pixel(worth, areas, low, high, totals, choice):
        pass


@compiled
def _move_pixel(
    worth: Floats, areas: Integers, low: Integers, high: Integers, totals: Integers, choice: Integers
) -> bool:
    """Give one pixel another class, the one that gains most; False if none does."""
    pixel, to, most = -1, -1, EQUAL
    for n in range(choice.size):
        own = choice[n]
        if totals[own] - areas[n] < low[own]:
            continue
        for k in range(totals.size):
            gain = worth[n, k] - worth[n, own]
            if k != own and gain > most and totals[k] + areas[n] <= high[k]:
                pixel, to, most = n, k, gain
    if pixel < 0:
        return False
    totals[choice[pixel]] -= areas[pixel]
    totals[to] += areas[pixel]
    choice[pixel] = to
    return True


@compiled
def _move_chain(
    worth: Floats, areas: Integers, low: Integers, high: Integers, totals: Integers, choice: Integers
) -> bool:
    """Move pixels along the chain from class to class that gains most; False if none does."""
    classes = totals.size
    least = areas.min()
    gains, places = np.empty((classes, classes)), np.empty((classes, classes), np.int64)
    _list_moves(worth, choice, gains, places)
    distance, before = np.empty(classes), np.empty(classes, np.int64)
    for k in range(classes):
        distance[k] = 0.0 if totals[k] - least >= low[k] else -np.inf
        before[k] = -1
    _find_chains(gains, distance, before)
    taken = np.empty(classes, np.int64)
    for end in np.argsort(-distance):
        if distance[end] <= EQUAL:
            return False
        if before[end] < 0:
            continue
        taken[:] = totals
        to = end
        while before[to] >= 0:
            area = areas[places[before[to], to]]
            taken[before[to]] -= area
            taken[to] += area
            to = before[to]
        if _lies_within(taken, low, high):
            totals[:] = taken
            to = end
            while before[to] >= 0:
                choice[places[before[to], to]] = to
                to = before[to]
            return True
    return False


@compiled
def _lies_within(totals: Integers, low: Integers, high: Integers) -> bool:
    return bool(np.all((low <= totals) & (totals <= high)))


@compiled
def _list_moves(worth: Floats, choice: Integers, gains: Floats, places: Integers) -> None:
    """Write what the best move from each class to each other one gains, and which pixel it moves."""
    gains[:] = -np.inf
    for n in range(choice.size):
        own = choice[n]
        for k in range(worth.shape[1]):
            gain = worth[n, k] - worth[n, own]
            if k != own and gain > gains[own, k]:
                gains[own, k] = gain
                places[own, k] = n


@compiled
def _find_chains(gains: Floats, distance: Floats, before: Integers) -> None:
    """Write what the best chain to each class gains, and the class before it (Bellman and Ford)."""
    classes = distance.size
    for _ in range(classes - 1):
        changed = False
        for k in range(classes):
            for m in range(classes):
                reached = distance[k] + gains[k, m]
                if reached > distance[m] + EQUAL and not _leads_through(before, k, m):
                    distance[m], before[m] = reached, k
                    changed = True
        if not changed:
            return


@compiled
def _leads_through(before: Integers, k: int, m: int) -> bool:
    """Whether the chain to class ``k`` comes from or through class ``m``."""
    while k >= 0:
        if k == m:
            return True
        k = before[k]
    return False


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
