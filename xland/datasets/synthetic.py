"""Synthetic worlds: coarse states and fine maps of many years that agree with each other exactly.

The maps come first: an invented landscape (:mod:`xland.datasets.landscape`) on which land use changes every year.
The coarse states of a year are then measured on its map: each state is the share of the coarse cell's area that its
fine cells take, so that the states of a class add up to its share of
:func:`xland.totals.aggregation.aggregate_classes`, to the rounding of single precision. The land that the states do not
take is bare ground, water or ocean, which LUH2 states do not know.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from xland.datasets.landscape import ChangingLand, Landscape, make_landscape, simulate
from xland.datasets.prepared import coordinates
from xland.errors import DatasetError, GridError, TimeError
from xland.geo.conventions import check_years
from xland.geo.grid import Grid, expand
from xland.vocabulary import (
    CLASSES,
    CROP_STATES,
    CROPLAND,
    FOREST,
    GRASS_SHRUB,
    LUH2_STATES,
    LUH_SECONDARY,
    PASTURE,
    URBAN,
    flag_attributes,
)

SMALLEST_WORLD = 32  # fine cells along a side, so that every class finds a place
CENTRE = (45.0, 60.0)  # degrees north and east in whose middle a world lies, where the globe's edges leave room

_NO_STATE = len(LUH2_STATES)
_SECDF, _SECDN = LUH2_STATES.index("secdf"), LUH2_STATES.index("secdn")
_PRIMARY = np.uint8(2 * len(CROP_STATES) * len(CLASSES))  # where primary land begins in the table of states
_CROP_ORDER = {"c3per": 0.12, "c3ann": 0.6, "c3nfx": 0.72, "c4per": 0.8, "c4ann": 1.0}
_LONG_NAMES = {
    "primf": "forested primary land", "primn": "non-forested primary land",
    "secdf": "potentially forested secondary land", "secdn": "potentially non-forested secondary land",
    "pastr": "managed pasture", "range": "rangeland", "urban": "urban land",
    "c3ann": "C3 annual crops", "c3per": "C3 perennial crops", "c4ann": "C4 annual crops",
    "c4per": "C4 perennial crops", "c3nfx": "C3 nitrogen-fixing crops",
    "secma": "mean age of secondary land", "secmb": "mean biomass carbon density of secondary land",
}  # fmt: skip
_BIOMASS = {FOREST: 14.0, GRASS_SHRUB: 2.0}  # kg of carbon a square metre, of old stands
_MATURITY = 40.0  # years until two thirds of that


@dataclass(frozen=True)
class SyntheticWorld:
    """A world to train, test and measure on.

    Parameters
    ----------
    forcing : Dataset
        The twelve LUH2 states, ``secma`` (years) and ``secmb`` (kg m-2), float32, dims (time, lat, lon)
        on the coarse grid; NaN where there is ocean only.
    land_use : DataArray
        Class codes, uint8, dims (time, lat, lon) on the fine grid, for the same years.
    static : Dataset
        Predictors, float32, dims (lat, lon) on the fine grid: those of
        :func:`xland.datasets.static_predictors`, and ``clay``, ``sand`` and ``organic_matter`` (percent).
    """

    forcing: xr.Dataset
    land_use: xr.DataArray
    static: xr.Dataset


def synthetic_world(
    shape: tuple[int, int], factor: int, years: Sequence[int], seed: int = 0, *, resolution: float = 0.25
) -> SyntheticWorld:
    """Invent a world: fine maps of land use, the coarse states that they add up to, and static predictors.

    About a fifth is sea, and there are lakes. From year to year 1 to 3 % of the land changes class. Towns
    only grow; fields and pastures move where slope, climate, soil and their neighbours favour them, at the
    expense of forest and grassland; forest comes back where they are given up. Primary land never grows.

    The states are measured on the maps by area: ``aggregate_classes(world.land_use, factor)`` gives the sum
    of the states of each class to the rounding of single precision.

    Parameters
    ----------
    shape : (rows, columns)
        Fine cells: multiples of ``factor``, at least two coarse cells and 32 fine ones in each direction.
    factor : int
        Fine cells along one coarse cell.
    years : sequence of int
        Calendar years, ascending. The world begins in the first; years that are left out are simulated as well.
    seed : int
        The same arguments give the same world.
    resolution : float
        Coarse resolution in degrees; 180 degrees must hold a whole number of cells. The world lies on the
        lattice of that resolution, around 45 N and 60 E as far as the globe leaves room.

    Returns
    -------
    SyntheticWorld
        In memory: a byte for each fine cell and year and 64 for each fine cell; while it is made, about
        200 for each fine cell.

    Raises
    ------
    GridError
        If the shape is not a multiple of the factor, too small or larger than the globe, or the factor or resolution
        is impossible.
    TimeError
        If years are missing, not whole numbers, unsorted, or outside 850 to 2500.
    DatasetError
        If the seed is not a whole number of at least 0.

    Examples
    --------
    >>> world = synthetic_world((64, 96), factor=4, years=range(2000, 2003))
    >>> dict(world.land_use.sizes), dict(world.forcing.sizes)
    ({'time': 3, 'lat': 64, 'lon': 96}, {'time': 3, 'lat': 16, 'lon': 24})
    """
    coarse = _place(shape, factor, resolution)
    wrong = [year for year in years if not _whole(year)]
    if wrong or not len(years):
        raise TimeError(
            f"the years of a synthetic world must be whole numbers, not {wrong[0]!r}"
            if wrong
            else "a synthetic world needs at least one year, such as years=range(1980, 2020)"
        )
    steps = tuple(map(int, years))
    check_years(steps)
    if not _whole(seed) or seed < 0:
        raise DatasetError(f"the seed of a synthetic world must be a whole number of at least 0, not {seed!r}")
    random = np.random.default_rng(seed)
    landscape = make_landscape(coarse.refine(factor), random)
    measure = _measure(landscape, coarse, factor)
    maps = np.empty((len(steps), *landscape.grid.shape), dtype=np.uint8)
    states = np.empty((len(_LONG_NAMES), len(steps), *coarse.shape), dtype=np.float32)
    for step, land in enumerate(simulate(landscape, steps, random)):
        maps[step] = land.codes
        states[:, step] = measure(land)
    about = {
        "title": "Synthetic world",
        "source": f"xland.datasets.synthetic_world(shape={tuple(map(int, shape))}, factor={factor}, "
        f"years={steps[0]} to {steps[-1]} ({len(steps)}), seed={seed}, resolution={coarse.resolution:g})",
        "comment": "Invented: nothing in it was observed. States are area shares measured on the fine maps.",
    }
    time = {"time": ("time", np.array(steps, dtype=np.int64), {"long_name": "calendar year", "axis": "T"})}
    dims = ("time", "lat", "lon")
    forcing = {
        name: (dims, states[at], {"long_name": long_name, "units": LUH_SECONDARY.get(name, "1")})
        for at, (name, long_name) in enumerate(_LONG_NAMES.items())
    }
    attributes = {**flag_attributes(), **about}
    return SyntheticWorld(
        forcing=xr.Dataset(forcing, {**time, **coordinates(coarse)}, about),
        land_use=xr.DataArray(maps, {**time, **coordinates(landscape.grid)}, dims, "land_use", attributes),
        static=landscape.static.assign_attrs(about),
    )


def _measure(landscape: Landscape, coarse: Grid, factor: int) -> Callable[[ChangingLand], NDArray[np.float32]]:
    """Return what measures the states, age and biomass of the land by area, in the order of their names.

    They are NaN where there is ocean only.
    """
    rows, columns = coarse.shape
    length = (_NO_STATE + 1) * rows * columns
    first = expand(np.arange(rows * columns).reshape(rows, columns) * (_NO_STATE + 1), factor).ravel()
    area = np.broadcast_to(landscape.grid.cell_area()[:, None], landscape.grid.shape).ravel()
    block_area = np.bincount(first, area)[:: _NO_STATE + 1].reshape(rows, columns)
    empty = ~landscape.land.reshape(rows, factor, columns, factor).any(axis=(1, 3))
    table = _state_table().ravel()
    crop = np.digitize(landscape.crops, list(_CROP_ORDER.values())[:-1]).astype(np.uint8)
    kind = np.uint8(len(CLASSES)) * (crop + np.uint8(len(CROP_STATES)) * landscape.dry)

    def sums(bins: NDArray[np.intp], weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """Sum of weights for each state and coarse cell; the last is land without state, water and ocean."""
        summed = np.bincount(bins, weights, length).astype(np.float64)
        return np.moveaxis(summed.reshape(rows, columns, _NO_STATE + 1), -1, 0)

    def states(land: ChangingLand) -> NDArray[np.float32]:
        state = table.take(kind + land.codes + _PRIMARY * land.primary)
        shares = sums(first + state.ravel(), area)[: len(LUH2_STATES)] / block_area
        places = np.flatnonzero((state == _SECDF) | (state == _SECDN))
        there, age = area[places], land.age.ravel()[places]
        block, forest = first[places] + _SECDF, state.ravel()[places] == _SECDF
        carbon = np.where(forest, _BIOMASS[FOREST], _BIOMASS[GRASS_SHRUB]) * -np.expm1(-np.arange(256) / _MATURITY)[age]
        whole = sums(block, there)[_SECDF]
        means = [
            np.divide(sums(block, there * each)[_SECDF], whole, out=np.zeros(coarse.shape), where=whole > 0)
            for each in (age, carbon)
        ]
        return np.where(empty, np.nan, np.concatenate([shares, means])).astype(np.float32)

    return states


def _state_table() -> NDArray[np.uint8]:
    """Return the number of the state by whether land is primary, kind (crop; dry or not) and class code."""
    crops = len(CROP_STATES)
    table = np.full((2, 2 * crops, len(CLASSES)), _NO_STATE, dtype=np.uint8)
    for primary, (forest, open_land) in enumerate((("secdf", "secdn"), ("primf", "primn"))):
        table[primary, :, FOREST] = LUH2_STATES.index(forest)
        table[primary, :, GRASS_SHRUB] = LUH2_STATES.index(open_land)
    table[:, :, URBAN] = LUH2_STATES.index("urban")
    table[:, :crops, PASTURE] = LUH2_STATES.index("pastr")
    table[:, crops:, PASTURE] = LUH2_STATES.index("range")
    for kind, name in enumerate(_CROP_ORDER):
        table[:, kind::crops, CROPLAND] = LUH2_STATES.index(name)
    return table


def _place(shape: tuple[int, int], factor: int, resolution: float) -> Grid:
    """Return the coarse grid of a world, on the lattice that counts from 90 N and 180 W."""
    if not _whole(factor) or factor < 1:
        raise GridError(f"the factor of a synthetic world must be a whole number of at least 1, not {factor!r}")
    if len(shape) != 2 or not all(map(_whole, shape)):
        raise GridError(f"the shape of a synthetic world must be two whole numbers, rows and columns, not {shape!r}")
    if any(cells % factor for cells in shape):
        raise GridError(
            f"{shape[0]} x {shape[1]} fine cells cannot be grouped by {factor} x {factor}: choose multiples of {factor}"
        )
    if min(shape) < max(SMALLEST_WORLD, 2 * factor):
        raise GridError(
            f"{shape[0]} x {shape[1]} fine cells are too few for a synthetic world: it needs {SMALLEST_WORLD}, and two "
            f"coarse cells ({2 * factor}), in each direction"
        )
    across = 180 / resolution if np.isfinite(resolution) and resolution > 0 else 0.0
    if across < 1 or abs(across - round(across)) > 1e-6 * across:
        raise GridError(
            f"resolution: 180 degrees must hold a whole number of coarse cells, not {across:g} ({resolution!r})"
        )
    world = Grid.world(resolution)
    rows, columns = (int(cells) // factor for cells in shape)
    if rows > world.rows or columns > world.columns:
        raise GridError(
            f"{rows} x {columns} coarse cells of {resolution:g} degree are more than the globe has ({world.rows} x "
            f"{world.columns}): choose a smaller shape or resolution"
        )
    row = round((90 - CENTRE[0]) / world.resolution - rows / 2)
    column = round((CENTRE[1] + 180) / world.resolution - columns / 2)
    row, column = min(max(row, 0), world.rows - rows), min(max(column, 0), world.columns - columns)
    return world.window(slice(row, row + rows), slice(column, column + columns))


def _whole(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)
