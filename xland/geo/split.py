"""Which places train, validate and test a model: whole cells of a 30 x 30 grid of the globe.

Land-use maps are correlated in space, so that scattered test pixels would measure memory, not skill. The globe is cut
into 30 rows of 6 degrees and 30 columns of 12 degrees (as in AI4Land, arXiv 2606.11793); each serves one purpose only.
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

# Cells that hold land north of 60 S in MODIS land cover of 2019, by the continent that most of that land belongs to:
# fixed, so that a seed gives the same split for all maps, regions and resolutions. Europe ends at 60 E and at the
# Aegean; remote islands belong to the nearest continent.
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

_LETTERS = {
    "africa": "a", "asia": "i", "europe": "e", "north-america": "n", "oceania": "o", "south-america": "s",
}  # fmt: skip
CONTINENTS: Mapping[str, NDArray[np.bool_]] = MappingProxyType({
    name: np.array([[mark == letter for mark in row] for row in _LAND]) for name, letter in _LETTERS.items()
})  # fmt: skip
"""Cells of the split on each continent, (30, 30) arrays; every cell with land is on exactly one.

Boundaries are those of cells of 6 x 12 degrees, good for leaving out what is far away, not for statistics.
"""


class Part(IntEnum):
    """What a cell of the split serves for."""

    NONE = -1
    TRAIN = 0
    VALIDATION = 1
    TEST = 2


def assign_cells(has_land: NDArray[np.bool_], seed: int = 0) -> NDArray[np.int8]:
    """Assign the (30, 30) cells that hold land to training, validation and test: values of :class:`Part`.

    Cells are walked row by row, in alternating direction, and each run of seven is divided 5:1:1 in random order, so
    that every part sees every latitude and continent. These are the published sample counts (320k, 64k, 64k).
    """
    random = np.random.default_rng(seed)
    columns = np.arange(CELL_COLUMNS)
    order = [(row, column) for row in range(CELL_ROWS) for column in (columns if row % 2 == 0 else columns[::-1])]
    walk = [place for place in order if has_land[place]]
    block = np.repeat([Part.TRAIN, Part.VALIDATION, Part.TEST], (5, 1, 1)).astype(np.int8)
    parts = np.full(has_land.shape, Part.NONE, dtype=np.int8)
    for start in range(0, len(walk), len(block)):
        for place, part in zip(walk[start : start + len(block)], random.permutation(block), strict=False):
            parts[place] = part
    return parts


def assign_years(
    years: Sequence[int], train: tuple[int, int] = (1960, 2000), test: tuple[int, int] = (2001, 2015)
) -> dict[int, Part]:
    """Assign years to training and test by their (first, last) year; by default as the published system does.

    :class:`ConfigurationError` if the two ranges overlap, or one ends before it begins.
    """
    if train[0] > train[1] or test[0] > test[1] or (train[0] <= test[1] and test[0] <= train[1]):
        raise ConfigurationError(f"years {train} for training and {test} for the test must be ranges without overlap")
    ranges = {Part.TRAIN: train, Part.TEST: test}
    return {
        year: next((part for part, (first, last) in ranges.items() if first <= year <= last), Part.NONE)
        for year in map(int, years)
    }


def cell_of(latitude: NDArray[np.float64], longitude: NDArray[np.float64]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Row and column, each from 0 to 29, of the split's cell for points given in degrees, in any range of longitude."""
    rows = np.floor((90.0 - np.asarray(latitude)) / (180.0 / CELL_ROWS)).astype(np.intp)
    columns = np.floor(((np.asarray(longitude) + 180.0) % 360.0) / (360.0 / CELL_COLUMNS)).astype(np.intp)
    return np.clip(rows, 0, CELL_ROWS - 1), np.clip(columns, 0, CELL_COLUMNS - 1)


def divide(grid: Grid, seed: int = 0, southern_limit: float = -60.0) -> NDArray[np.int8]:
    """Return the :class:`Part` of each cell of a grid, (rows, columns); cells south of the limit serve for nothing.

    The grid is the globe or any part of it: a place serves for the same in all of them.
    """
    part = _on(assign_cells(LAND_CELLS, seed), grid)
    return np.where((grid.latitude >= southern_limit)[:, None], part, np.int8(Part.NONE))


def find_cells(grid: Grid, cells: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which cells of a grid lie in some of the (30, 30) cells of the split, such as those of a continent."""
    if cells.shape != LAND_CELLS.shape:
        raise ConfigurationError(
            f"cells of the split are an array of {CELL_ROWS} x {CELL_COLUMNS}, not of shape {cells.shape}"
        )
    return _on(cells, grid)


def _on(values: NDArray[T], grid: Grid) -> NDArray[T]:
    """Values of the cells of the split in which the cells of a grid lie."""
    rows, _ = cell_of(grid.latitude, np.zeros(grid.rows))
    _, columns = cell_of(np.zeros(grid.columns), grid.longitude)
    return values[rows][:, columns]
