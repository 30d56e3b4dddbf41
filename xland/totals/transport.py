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
from numpy.typing import NDArray

from xland.compiled import compiled

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Flags = NDArray[np.bool_]

UNIT = 1 << 20
"""Parts of a mean pixel in which areas are counted."""

_EQUAL = 1e-9
"""Difference of costs that counts as none."""

_ROUNDS = 12
"""Rounds in which prices are found."""

_MOST_SPLIT = 10
_ADMIXTURE = 1e-7
"""How far equal scores are told apart."""

_SAME = 1e-5
"""Difference of the logarithms of two maps' probabilities that counts as none: more than what breaks ties."""

_MOST_PIXELS = 100
"""Largest cells that are searched; in larger ones nothing but chains of moves is tried."""

_MOST_BRANCHES = 50_000
"""After as many the search of a cell ends with the best map that it has found."""

_STEPS = 40
"""Steps in which prices are improved."""


@compiled
def list_pixels(valid: Flags, row: int, column: int, factor: int, rows: Integers, columns: Integers) -> int:
    """Write where the valid pixels of a coarse cell are, row by row; return how many they are."""
    count = 0
    for i in range(row * factor, (row + 1) * factor):
        for j in range(column * factor, (column + 1) * factor):
            if valid[i, j]:
                rows[count], columns[count] = i, j
                count += 1
    return count


@compiled
def group_classes(targets: Floats, group: Integers) -> int:
    """Write a number for each class that has a target, and one, the last, for all others; return how many have one."""
    groups = 0
    for k in range(targets.size):
        if not np.isnan(targets[k]):
            group[k] = groups
            groups += 1
    for k in range(targets.size):
        if np.isnan(targets[k]):
            group[k] = groups
    return groups


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
    """Give each pixel one class, written into `choice`; return the area that could not be given as demanded.

    `scores` (pixels, classes) is the worth of a class per unit of area, minus infinity where it is impossible, without
    ties (:func:`scatter`); prices are added to it. `demands` sum to the sum of the areas. `pixel` is the largest area:
    classes end within it of their demands. `amounts` (pixels, classes) is room to work in. `slack` is the area by which
    classes may be off their demands in favour of a more probable map; with 0 they are as near as whole pixels can be.
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
        # worth of whole pixels, in pixels of mean area
        improve((scores - prices) * (areas / UNIT).reshape(-1, 1), areas, demands, slack, choice[: areas.size])
    return missed


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
            kept[:] = prices
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
    """Return small numbers that look random and are always the same: added to scores, they break ties."""
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
    gains, places = np.full((classes, classes), -np.inf), np.zeros((classes, classes), np.int64)
    for k in range(classes):
        if totals[k] >= demands[k]:
            _list_moves_from(scores, amounts, gains, places, k)
    before = np.empty(classes, np.int64)
    while True:
        distance = np.where(totals > demands, 0.0, -np.inf)
        _find_chains(gains, _EQUAL, distance, before)
        end = -1
        for k in range(classes):
            if totals[k] < demands[k] and distance[k] > -np.inf and (end < 0 or distance[k] > distance[end]):
                end = k
        if end < 0:
            return
        amount, start = demands[end] - totals[end], end
        while before[start] >= 0:
            source = before[start]
            amount = min(amount, amounts[places[source, start], source])
            start = source
        amount = min(amount, totals[start] - demands[start])
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
                _list_moves_from(scores, amounts, gains, places, to)
            to = before[to]


@compiled
def _list_moves_from(scores: Floats, amounts: Integers, gains: Floats, places: Integers, k: int) -> None:
    """Write what the best move from class ``k`` to each other one gains, and which pixel it moves."""
    pixels, classes = scores.shape
    gains[k] = -np.inf
    for n in range(pixels):
        if amounts[n, k] > 0:
            for m in range(classes):
                gain = scores[n, m] - scores[n, k]
                if m != k and gain > gains[k, m]:
                    gains[k, m] = gain
                    places[k, m] = n


@compiled
def _find_chains(gains: Floats, least: float, distance: Floats, before: Integers) -> None:
    """Write what the best chain of moves to each class gains, and the class before it (Bellman and Ford).

    `distance` is 0 where a chain may begin, minus infinity elsewhere; gains up to `least` count as none.
    """
    classes = distance.size
    before[:] = -1
    for _ in range(classes):
        changed = False
        for k in range(classes):
            for m in range(classes):
                reached = distance[k] + gains[k, m]
                if reached > distance[m] + least and not _leads_through(before, k, m):
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


@compiled
def _settle(amounts: Integers, areas: Integers, totals: Integers, pixel: int, choice: Integers) -> None:
    """Give each pixel to one class: a split one so that class areas come as near as can be to the totals."""
    pixels, classes = amounts.shape
    split, many = np.empty(_MOST_SPLIT, np.int64), np.empty(_MOST_SPLIT, np.int64)
    options = np.empty((_MOST_SPLIT, classes), np.int64)
    errors, sizes = -totals / pixel, np.empty(_MOST_SPLIT)
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
        tried[:] = errors
        for i in range(found):
            tried[options[i, digits[i]]] += sizes[i]
        worth = 0.0
        for k in range(errors.size):
            worth += tried[k] ** 2 + 1e6 * max(abs(tried[k]) - 1.0, 0.0)
        if worth < best - _EQUAL:
            best = worth
            kept[:] = digits
        place = 0
        while place < found:
            digits[place] += 1
            if digits[place] < many[place]:
                break
            digits[place] = 0
            place += 1
    return kept


@compiled
def _move_pixel(
    worth: Floats, areas: Integers, low: Integers, high: Integers, totals: Integers, choice: Integers
) -> bool:
    """Give one pixel another class, the one that gains most; False if none does."""
    pixel, to, most = -1, -1, _SAME
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
    distance, before = np.where(totals - least >= low, 0.0, -np.inf), np.empty(classes, np.int64)
    _find_chains(gains, _SAME, distance, before)
    taken = np.empty(classes, np.int64)
    for end in np.argsort(-distance):
        if distance[end] <= _SAME:
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
        if ((low <= taken) & (taken <= high)).all():
            totals[:] = taken
            to = end
            while before[to] >= 0:
                choice[places[before[to], to]] = to
                to = before[to]
            return True
    return False


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
def improve(worth: Floats, areas: Integers, demands: Integers, slack: int, choice: Integers) -> None:
    """Make a map as probable as it can be with class areas within `slack` of the demands, or as near as they were.

    Of a map that is the most probable one of its class areas the next one is that, too, as long as the chain that
    gains most is taken. In the end no single pixel can change its class for a more probable map.
    """
    pixels, classes = worth.shape
    totals = np.zeros(classes, np.int64)
    for n in range(pixels):
        totals[choice[n]] += areas[n]
    far = np.maximum(np.abs(totals - demands), slack)
    low, high = demands - far, demands + far
    while _move_chain(worth, areas, low, high, totals, choice) or _move_pixel(worth, areas, low, high, totals, choice):
        pass
    if pixels > _MOST_PIXELS:
        return
    prices = np.zeros(classes)
    gap = _bound_prices(worth, areas, low, high, choice, prices)
    if gap > _SAME:
        _search(worth, areas, low, high, prices, gap, choice)


@compiled
def _bound_prices(
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
        if square == 0 or least - reached <= _SAME:
            break
        step = (bound - reached) / square
        for k in range(classes):
            price = prices[k] + step * slope[k]
            prices[k] = 0.0 if prices[k] * price < 0 else price
    kept /= unit
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
            if spent[depth] + regrets[n, place[depth]] >= gap - _SAME:
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
        if short < gap - _SAME:
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
