"""Moves of single pixels, or of several along a chain of classes, that make the map of a coarse cell more probable."""

from __future__ import annotations

import numpy as np

from xland.allocation.compiled import Floats, Integers, compiled

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
