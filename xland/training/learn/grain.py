"""The grain of maps that are drawn: fitted so that they have as many class boundaries as observed land has.

The random field of a class is self-affine: from each octave to the next, whose spacing is twice as wide, the variance
grows by one factor. A small factor makes a fine grain. So one number a class is fitted to one number that is observed,
its boundaries per pair of neighbouring land pixels, and sizes and shapes of patches follow.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xland.draws.gumbel import Place, draw_classes
from xland.draws.octaves import Grain
from xland.vocabulary import LAND_CLASSES

_WIDEST = 8  # coarse cells that the widest spacing may have
_FIRST = 1.6  # factor to begin with
_LEAST, _MOST = 0.25, 8.0
_STEP = 1.2  # change of the logarithm of a factor for each unit of that of a density, about the inverse of its slope
_LONGEST = 0.7
_ROUNDS = 8
_CLOSE = 0.04
_DRAWS = 2  # maps whose boundaries are counted each time
_FEW = 200  # boundaries of a class below which it is fitted with all classes together


@dataclass(frozen=True)
class Tile:
    """Observed land with its probabilities.

    `probability` is (classes, rows, columns), `target` (rows, columns) class codes, `valid` where both are known.
    """

    place: Place
    probability: NDArray[np.float32]
    target: NDArray[np.uint8]
    valid: NDArray[np.bool_]


def make_tiles(
    probability: NDArray[np.float32],
    target: NDArray[np.uint8],
    row: NDArray[np.integer[Any]],
    column: NDArray[np.integer[Any]],
    number: NDArray[np.integer[Any]],
    around: int,
) -> list[Tile]:
    """Put pixels back to where they are, in the smallest rectangle for each number, on a globe of so many columns."""
    tiles = []
    for each in np.unique(number):
        chosen = np.flatnonzero(number == each)
        rows, columns = row[chosen], column[chosen]
        top, left = int(rows.min()), int(columns.min())
        place = Place(range(top, int(rows.max()) + 1), range(left, int(columns.max()) + 1), around)
        shape, at = (len(place.rows), len(place.columns)), (rows - top, columns - left)
        shares = np.zeros((probability.shape[1], *shape), np.float32)
        codes, valid = np.zeros(shape, np.uint8), np.zeros(shape, np.bool_)
        shares[:, *at] = probability[chosen].T
        codes[at], valid[at] = target[chosen], True
        tiles.append(Tile(place, shares, codes, valid))
    return tiles


def fit_grain(tiles: Sequence[Tile], factor: int) -> tuple[Grain, dict[str, Any]] | None:
    """Fit the grain of each class to the boundaries on observed land; None where there are too few.

    Also returned is how far the boundary density of draws is from the observed one, of all classes and of each.
    """
    if not tiles:
        return None
    classes = len(tiles[0].probability)
    observed = np.sum([count_boundaries(tile.target, tile.valid, classes) for tile in tiles], axis=0)
    if observed[-1] < _FEW:
        return None
    spacings = tuple(2**octave for octave in range((_WIDEST * factor).bit_length()))
    enough = observed[:-1] >= _FEW
    growth, best = np.full(classes, np.log(_FIRST)), (np.inf, np.empty(0), np.empty(0))
    for _ in range(_ROUNDS):
        grain = self_affine(np.exp(growth), spacings)
        found = np.zeros_like(observed)
        for tile, draw in product(tiles, range(_DRAWS)):
            codes = draw_classes(tile.probability, tile.valid, tile.place, grain, 0, draw)
            found += count_boundaries(codes, tile.valid, classes)
        off = np.log(np.maximum(found, 1) / _DRAWS / np.maximum(observed, 1))
        wrong = np.where(enough, off[:-1], off[-1])
        if (merit := float(np.mean(wrong**2))) < best[0]:
            best = merit, growth, off
        if np.abs(wrong).max() < _CLOSE:
            break
        growth = np.clip(growth + np.clip(_STEP * wrong, -_LONGEST, _LONGEST), np.log(_LEAST), np.log(_MOST))
    _, growth, off = best
    errors = {
        "all": round(float(np.expm1(off[-1])), 4),
        "by_class": [
            round(float(np.expm1(each)), 4) if there else None for each, there in zip(off, enough, strict=False)
        ],
    }
    return self_affine(np.exp(growth), spacings), errors


def self_affine(growth: NDArray[np.float64], spacings: Sequence[int]) -> Grain:
    """Return the grain of classes whose variance grows by a factor, ``(classes,)``, from octave to octave."""
    variance = growth[:, None] ** np.arange(len(spacings))
    weights = np.sqrt(variance / variance.sum(axis=1, keepdims=True))
    return Grain(tuple(spacings), tuple(tuple(round(float(each), 5) for each in line) for line in weights))


def count_boundaries(codes: NDArray[np.uint8], valid: NDArray[np.bool_], classes: int) -> NDArray[np.int64]:
    """Count boundaries of each class between neighbouring valid pixels of land, and last those of all classes."""
    valid = valid & np.isin(codes, LAND_CLASSES)
    found = np.zeros(classes + 1, np.int64)
    for one, other, both in (
        (codes[1:], codes[:-1], valid[1:] & valid[:-1]),
        (codes[:, 1:], codes[:, :-1], valid[:, 1:] & valid[:, :-1]),
    ):
        apart = both & (one != other)
        for side in (one, other):
            found[:-1] += np.bincount(side[apart], minlength=classes)
        found[-1] += np.count_nonzero(apart)
    return found
