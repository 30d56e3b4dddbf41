"""How an invented land changes from year to year: fields, pastures, woods and towns that grow and shrink.

Every year each class gains and loses a number of cells. How many follows from how far its share of the
land is from a goal that swings over decades; where follows from how well the class suits the cell, how
much of it lies around, and a tide that favours farming in other regions every decade. A cell that has
changed rests some years.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from xland.datasets.landscape import Field, Landscape
from xland.vocabulary import CROPLAND, FOREST, GRASS_SHRUB, OCEAN, OTHER, PASTURE, URBAN, WATER

SHARES = MappingProxyType({URBAN: 0.012, CROPLAND: 0.22, PASTURE: 0.19, FOREST: 0.32, OTHER: 0.07})
"""Shares of the land, lakes left out, in the first year; the rest is grass and shrubs."""

TURNOVER = MappingProxyType({CROPLAND: 0.0035, PASTURE: 0.0035, OTHER: 0.0005})
"""Share of the land that a class gains in a year even where its share stays, and loses elsewhere."""

DRIFT = 0.003
"""Share of the land by which a class may come nearer to its goal in a year."""

REGROWTH = 0.006
"""Share of the land that may become forest again in a year."""

SWING = 0.15
"""By how much the goal of a class swings, as a part of its first share."""

PERIOD = 90
"""Years of such a swing."""

URBAN_GROWTH = 0.02
"""Growth of the urban area in a year at the beginning; it ends at :data:`URBAN_LIMIT`."""

URBAN_LIMIT = 0.05
"""Share of the land that is never passed by urban area."""

REST = 8
"""Years in which a cell that has changed stays as it is, towns apart."""

OLDEST = 200
"""Years beyond which ages are not told apart."""

_REACH = 2  # cells on either side of the square that is looked at around each
_TIDE = 60  # years after which the tide is the same again
_PHASE = MappingProxyType({CROPLAND: 0.0, PASTURE: 2.0, FOREST: 3.5})
_CHANCE = 0.8  # of a place, in deviations of suitability
_ATTRACTION = 1.0  # of a neighbourhood that is all of the class, in the same
_TOWN_ATTRACTION = 3.0


@dataclass(frozen=True)
class Cover:
    """The land in one year; arrays on the fine grid.

    Parameters
    ----------
    codes : (rows, columns) array of uint8
        Class codes.
    primary : (rows, columns) array of bool
        Forest, grass and shrubs that were never cleared.
    age : (rows, columns) array of uint8
        Years since the cell took its class, up to :data:`OLDEST`.
    """

    codes: NDArray[np.uint8]
    primary: NDArray[np.bool_]
    age: NDArray[np.uint8]


def simulate(landscape: Landscape, years: Sequence[int], random: np.random.Generator) -> Iterator[Cover]:
    """Yield the land in each of the years.

    Parameters
    ----------
    landscape : Landscape
    years : sequence of int
        Ascending; the years between them are lived through as well.
    random : numpy.random.Generator
        Everything follows from its state.
    """
    land = _ChangingLand(landscape, random)
    for year in range(years[0], years[-1] + 1):
        if year > years[0]:
            land.change(year - years[0])
        if year in years:
            yield Cover(land.codes.copy(), land.primary.copy(), land.age.copy())


class _ChangingLand:
    """The land as it is now, and the rules by which it changes."""

    def __init__(self, landscape: Landscape, random: np.random.Generator) -> None:
        self.random = random
        self.suitability = landscape.suitability
        self.tides = [landscape.noise.broad() for _ in range(2)]
        self.codes = self._settle(landscape)
        self.cells = int(np.count_nonzero(landscape.land & ~landscape.lake))
        self.first = {code: self._share(code) for code in SHARES}
        self.owed: dict[tuple[int, int], float] = {}
        natural = (self.codes == FOREST) | (self.codes == GRASS_SHRUB)
        wild = landscape.noise.fine() - 3 * self._around(CROPLAND)
        self.primary = natural & (wild > 0)
        self.age = random.integers(REST, 120, self.codes.shape, dtype=np.uint8)
        self.age[self.primary] = OLDEST

    def change(self, elapsed: int) -> None:
        """Go on by one year, to the given number of years after the first."""
        np.minimum(self.age + np.uint8(1), np.uint8(OLDEST), out=self.age)
        tide = self._tide(elapsed)
        drawn = {code: self.suitability[code] + _ATTRACTION * self._around(code) for code in (PASTURE, FOREST)}
        drawn[CROPLAND] = self.suitability[CROPLAND] + _ATTRACTION * self._around(CROPLAND) + tide
        drawn[PASTURE] -= tide
        towns = self.suitability[URBAN] + _TOWN_ATTRACTION * self._around(URBAN)
        bare = self.suitability[OTHER] + _ATTRACTION * self._around(OTHER)
        gain, loss = self._demand(elapsed)
        self._move((CROPLAND, PASTURE, FOREST, GRASS_SHRUB), URBAN, gain[URBAN], towns, rest=1)
        self._move((PASTURE, FOREST, GRASS_SHRUB), CROPLAND, gain[CROPLAND], drawn[CROPLAND])
        self._move((CROPLAND,), GRASS_SHRUB, loss[CROPLAND], -drawn[CROPLAND])
        self._move((FOREST, GRASS_SHRUB), PASTURE, gain[PASTURE], drawn[PASTURE])
        self._move((PASTURE,), GRASS_SHRUB, loss[PASTURE], -drawn[PASTURE])
        self._move((GRASS_SHRUB,), FOREST, gain[FOREST], drawn[FOREST])
        self._move((GRASS_SHRUB,), OTHER, gain[OTHER], bare)
        self._move((OTHER,), GRASS_SHRUB, loss[OTHER], -bare)

    def _settle(self, landscape: Landscape) -> NDArray[np.uint8]:
        """Give each class its first share of the land, where it suits best among what is left."""
        codes = np.full(landscape.grid.shape, OCEAN, dtype=np.uint8)
        codes[landscape.land] = GRASS_SHRUB
        codes[landscape.lake] = WATER
        cells = int(np.count_nonzero(codes == GRASS_SHRUB))
        for code in (OTHER, URBAN, CROPLAND, PASTURE, FOREST):
            free = np.flatnonzero(codes == GRASS_SHRUB)
            best = _highest(landscape.suitability[code].ravel()[free], math.ceil(SHARES[code] * cells))
            codes.ravel()[free[best]] = code
        return codes

    def _share(self, code: int) -> float:
        return int(np.count_nonzero(self.codes == code)) / self.cells

    def _around(self, code: int) -> Field:
        """Share of the class in the square around each cell."""
        rows, columns = self.codes.shape
        reach = range(2 * _REACH + 1)
        # whole rows of small integers are added one by one: many times faster than a filter of floats
        flags = np.pad((self.codes == code).view(np.uint8), _REACH, mode="edge")
        lines = reduce(np.add, [flags[at : at + rows] for at in reach])
        count = reduce(np.add, [lines[:, at : at + columns] for at in reach])
        return count * np.float32(1 / len(reach) ** 2)

    def _tide(self, elapsed: int) -> Field:
        angle = 2 * math.pi * elapsed / _TIDE
        return np.float32(math.cos(angle)) * self.tides[0] + np.float32(math.sin(angle)) * self.tides[1]

    def _demand(self, elapsed: int) -> tuple[dict[int, float], dict[int, float]]:
        """Shares of the land that classes gain and lose this year."""
        wanted = {}
        for code in (CROPLAND, PASTURE, FOREST):
            swing = math.sin(2 * math.pi * elapsed / PERIOD + _PHASE[code]) - math.sin(_PHASE[code])
            wanted[code] = self.first[code] * (1 + SWING * swing) - self._share(code)
        urban = self._share(URBAN)
        gain = {
            URBAN: max(urban * URBAN_GROWTH * (1 - urban / URBAN_LIMIT), 0),
            FOREST: _within(wanted[FOREST], REGROWTH),
        }
        gain[OTHER] = TURNOVER[OTHER]
        loss = {OTHER: TURNOVER[OTHER]}
        for code in (CROPLAND, PASTURE):
            gain[code] = TURNOVER[code] + _within(wanted[code], DRIFT)
            loss[code] = TURNOVER[code] + _within(-wanted[code], DRIFT)
        return gain, loss

    def _move(self, sources: tuple[int, ...], to: int, share: float, pull: Field, rest: int = REST) -> None:
        """Turn a share of the land, in the cells of other classes where the pull is strongest, into a class."""
        owed = self.owed.get((sources[0], to), 0.0) + share * self.cells
        count = int(owed)
        self.owed[sources[0], to] = owed - count
        may_change = np.logical_or.reduce([self.codes == code for code in sources]) & (self.age >= rest)
        places = np.flatnonzero(may_change)
        chance = self.random.random(places.size, dtype=np.float32)
        places = places[_highest(pull.ravel()[places] + np.float32(_CHANCE) * chance, min(count, places.size // 2))]
        self.codes.ravel()[places] = to
        self.primary.ravel()[places] = False
        self.age.ravel()[places] = 0


def _within(value: float, limit: float) -> float:
    return min(max(value, 0.0), limit)


def _highest(values: Field, count: int) -> NDArray[np.intp]:
    """Positions of the highest values."""
    if count <= 0:
        return np.zeros(0, dtype=np.intp)
    return np.argpartition(values, values.size - count)[values.size - count :]
