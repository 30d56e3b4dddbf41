"""Which places train, validate and test a model: whole cells of a 30 x 30 grid of the globe.

A land-use map is strongly correlated in space, so scattered test pixels would measure memory, not
skill. The globe is therefore cut into 30 rows of 6 degrees and 30 columns of 12 degrees (the split
of the AI4Land system, arXiv 2606.11793) and every cell serves one purpose only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import IntEnum
from types import MappingProxyType
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from xland.errors import ConfigurationError
from xland.geo.grid import Grid

T = TypeVar("T", bound=np.generic)

CELL_ROWS = 30
CELL_COLUMNS = 30

# Cells that hold land north of 60 S in MODIS land cover of 2019, by the continent that most of that land
# belongs to: fixed, so that a seed always gives the same split, whatever map, region or resolution a model
# learns from. Europe ends at 60 E and at the Aegean; islands far out belong to the nearest continent.
_LAND = (
    "..............................",
    ".....nnnnnnnnnneeeeeiiii......",
    "....nnnnnnnnnn..ee.eiiiiiiii..",
    "innnnnnnnnnnnne.eeeeiiiiiiiiii",
    "innnnnnnnnnnneeeeeeeiiiiiiiiii",
    "nnnnnnnnnnnn..eeeeeeiiiiiiiiii",
    "nn.nnnnnnnn...eeeeeeiiiiiiiiii",
    "....nnnnnnn...eeeeeeiiiiiiii..",
    "....nnnnnn..e.eeeiiiiiiiiii...",
    "....nnnnn....aaaaaiiiiiiiii...",
    ".....nnnn....aaaaaiiiiiiii....",
    ".oo..nnnnn...aaaaaiiiiiiii.o..",
    "......nnnnn.aaaaaaai.iiiii.o..",
    ".......nsss..aaaaaaa.iiiiio.o.",
    ".o.....ssss...aaaaaa.iiiii..o.",
    "..o....ssssss..aaaaa...iiiooo.",
    "...o....sssssa..aaaa...iiiooo.",
    "o.o.....ssss..aaaaaa.....ooooo",
    "ooo......sss...aaaaaa...oooooo",
    "o.o.o....sss....aaa.....oooo..",
    "........sss.....aa......oooo.o",
    "........sss..aa......a....oo.o",
    "o.......ss........aa.......ooo",
    "........sss.........aa......oo",
    "........ss.ss...............o.",
    "..............................",
    "..............................",
    "..............................",
    "..............................",
    "..............................",
)
LAND_CELLS: NDArray[np.bool_] = np.array([[mark != "." for mark in row] for row in _LAND])
"""Which cells of the split hold land; shape (30, 30), rows from north to south."""

CONTINENTS: Mapping[str, NDArray[np.bool_]] = MappingProxyType(
    {
        name: np.array([[mark == letter for mark in row] for row in _LAND])
        for name, letter in {
            "africa": "a",
            "asia": "i",
            "europe": "e",
            "north-america": "n",
            "oceania": "o",
            "south-america": "s",
        }.items()
    }
)
"""Cells of the split on each continent, (30, 30) arrays; every cell with land is on exactly one.

Boundaries are those of cells of 6 x 12 degrees, good for leaving out what is far away, not for statistics.
"""


class Part(IntEnum):
    """What a cell of the split serves for."""

    NONE = -1
    TRAIN = 0
    VALIDATION = 1
    TEST = 2


def assign_cells(
    has_land: NDArray[np.bool_], seed: int = 0, shares: tuple[int, int, int] = (5, 1, 1)
) -> NDArray[np.int8]:
    """Assign the cells that hold land to training, validation and test.

    Cells are walked row by row, in alternating direction, and each run of ``sum(shares)``
    consecutive cells receives exactly its shares in random order. So every part sees every
    latitude and continent, and no part is a matter of luck alone.

    Parameters
    ----------
    has_land : (30, 30) array of bool
        Cells that take part; rows from north to south, columns from 180 W eastwards.
    seed : int
        Seed of the assignment.
    shares : tuple of int
        Cells for training, validation and test in each run; 5:1:1 are the shares of the
        published sample counts (320k, 64k, 64k).

    Returns
    -------
    (30, 30) array of int8
        Values of :class:`Part`; ``Part.NONE`` where there is no land.
    """
    random = np.random.default_rng(seed)
    columns = np.arange(CELL_COLUMNS)
    walk = [
        (row, column)
        for row in range(CELL_ROWS)
        for column in (columns if row % 2 == 0 else columns[::-1])
        if has_land[row, column]
    ]
    block = np.repeat([Part.TRAIN, Part.VALIDATION, Part.TEST], shares).astype(np.int8)
    parts = np.full(has_land.shape, Part.NONE, dtype=np.int8)
    for start in range(0, len(walk), len(block)):
        for place, part in zip(walk[start : start + len(block)], random.permutation(block), strict=False):
            parts[place] = part
    return parts


def assign_years(
    years: Sequence[int], train: tuple[int, int] = (1960, 2000), test: tuple[int, int] = (2001, 2015)
) -> dict[int, Part]:
    """Assign years to training and test, so that no map of a tested year was learned from.

    Parameters
    ----------
    years : sequence of int
    train, test : (first, last) year
        Both included; the defaults are those of the published system. Other years are left out.

    Raises
    ------
    ConfigurationError
        If the two ranges overlap, or one ends before it begins.
    """
    if train[0] > train[1] or test[0] > test[1] or (train[0] <= test[1] and test[0] <= train[1]):
        raise ConfigurationError(f"years {train} for training and {test} for the test must be ranges without overlap")
    ranges = {Part.TRAIN: train, Part.TEST: test}
    return {
        year: next((part for part, (first, last) in ranges.items() if first <= year <= last), Part.NONE)
        for year in map(int, years)
    }


def cell_of(latitude: NDArray[np.float64], longitude: NDArray[np.float64]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Row and column of the split's cell for points given in degrees.

    Parameters
    ----------
    latitude, longitude : arrays of float
        Degrees north and degrees east, in any range of longitude.

    Returns
    -------
    rows, columns : arrays of int
        Each between 0 and 29; row 0 is the northernmost, column 0 begins at 180 W.
    """
    rows = np.floor((90.0 - np.asarray(latitude)) / (180.0 / CELL_ROWS)).astype(np.intp)
    columns = np.floor(((np.asarray(longitude) + 180.0) % 360.0) / (360.0 / CELL_COLUMNS)).astype(np.intp)
    return np.clip(rows, 0, CELL_ROWS - 1), np.clip(columns, 0, CELL_COLUMNS - 1)


def divide(grid: Grid, seed: int = 0, southern_limit: float = -60.0) -> NDArray[np.int8]:
    """Lay the split of the globe on a fine grid: what each cell serves for.

    Parameters
    ----------
    grid : Grid
        The globe or any part of it; a place serves for the same in all of them.
    seed : int
        Seed of the split.
    southern_limit : float
        Degrees north; what lies south of it takes no part.

    Returns
    -------
    (rows, columns) array of int8
        Values of :class:`Part`.
    """
    part = _lay(assign_cells(LAND_CELLS, seed), grid)
    return np.where((grid.latitude >= southern_limit)[:, None], part, np.int8(Part.NONE))


def find_cells(grid: Grid, cells: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Find what lies in some cells of the split, such as those of a continent.

    Parameters
    ----------
    grid : Grid
        The globe or any part of it, at any resolution.
    cells : (30, 30) array of bool
        For example one of :data:`CONTINENTS`.

    Returns
    -------
    (rows, columns) array of bool
    """
    if cells.shape != LAND_CELLS.shape:
        raise ConfigurationError(
            f"cells of the split are an array of {CELL_ROWS} x {CELL_COLUMNS}, not of shape {cells.shape}"
        )
    return _lay(cells, grid)


def leave_out(part: NDArray[np.int8], places: NDArray[np.bool_]) -> NDArray[np.int8]:
    """Keep some places from the training, to see how a model does far from what it learned.

    What they held for training and validation serves for nothing; their test cells stay what they are, so
    that a model with and one without the places can be scored on the same cells.

    Parameters
    ----------
    part : (rows, columns) array of int8
        From :func:`divide`.
    places : (rows, columns) array of bool
        What to leave out, for example from :func:`find_cells`.

    Returns
    -------
    (rows, columns) array of int8
        Values of :class:`Part`; the given array is not changed.

    Raises
    ------
    ConfigurationError
        If the shapes differ, or no training or validation cell would be left.
    """
    if places.shape != part.shape:
        raise ConfigurationError(f"places to leave out have shape {places.shape}, the split has {part.shape}")
    kept = np.where(places & (part != Part.TEST), np.int8(Part.NONE), part)
    for each in (Part.TRAIN, Part.VALIDATION):
        if (part == each).any() and not (kept == each).any():
            raise ConfigurationError(
                f"leaving out {int(places.sum())} of {places.size} cells takes all {int((part == each).sum())} that "
                f"serve for {each.name.lower()}: leave out less"
            )
    return kept


def _lay(values: NDArray[T], grid: Grid) -> NDArray[T]:
    """Lay values of the cells of the split on a grid."""
    rows, _ = cell_of(grid.latitude, np.zeros(grid.rows))
    _, columns = cell_of(np.zeros(grid.columns), grid.longitude)
    return values[rows][:, columns]
