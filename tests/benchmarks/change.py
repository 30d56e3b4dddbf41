"""Change of land predicted in Brazil by networks of transition, beside rivals: one JSON object a line.

Run as ``python -m tests.benchmarks.change [--quick] [--only PART ...] [--fit FOLDER]``. The maps are looked for in
``../shared/data`` or ``XLAND_TEST_DATA``. The shipped models were fitted on 2000 to 2008 outside of blocks of 25 x 25
pixels, a fifth of all, that are held out; ``--fit`` trains them again by their configurations, into a folder, and judges
those. They are given the maps until 2008 and the class areas of 2012 in coarse cells of 5 x 5 or 25 x 25 pixels. Nothing
was chosen by what the maps show after 2008.
"""

from __future__ import annotations

from tests.benchmarks.harness import DATA
from xland.geo.grid import Grid
from xland.vocabulary import (
    CROPLAND,
    FOREST,
    GRASS_SHRUB,
    OTHER,
    PASTURE,
    URBAN,
    WATER,
)

FILE = DATA / "brazil_mapbiomas" / "mapbiomas23_2000_2012.nc"
LEGEND = {
    FOREST: (3, 4, 5, 9),
    GRASS_SHRUB: (11, 12, 13),
    PASTURE: (15, 21),
    CROPLAND: (18,),
    OTHER: (22, 23, 25, 27),
    URBAN: (24,),
    WATER: (26,),
}
GRID = Grid(0.045, 6.75, -75.375, 925, 925)
"""Whole coarse cells of 25 x 25 pixels of the globe's lattice. Cells of 0.044966 degree are laid on it one by one, so
that none is more than a cell from its place."""
CORNER = (16, 8)
BLOCK, SEED = 25, 14
MODELS = {5: "brazil-change", 25: "brazil-change-25"}
