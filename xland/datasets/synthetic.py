"""Synthetic worlds: coarse states and fine maps of many years that agree with each other exactly.

The maps come first: an invented landscape, on which fields, pastures, woods and towns change every year.
The coarse states of a year are then measured on its map: each state is the share of the coarse cell's area that its
fine cells take, so that the states of a class add up to its share of
:func:`xland.totals.aggregation.aggregate_classes`, to the rounding of single precision. The land that the states do not
take is bare ground, water or ocean, which LUH2 states do not know.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy import fft, ndimage

from xland.datasets import predictors
from xland.datasets.prepared import (
    COAST_CAP,
    FARTHEST,
    KOPPEN_ZONES,
    POPULATION_RADII,
    PREDICTORS,
    RUGGEDNESS_REACH,
)
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
    OCEAN,
    OTHER,
    PASTURE,
    URBAN,
    WATER,
    flag_attributes,
)

Field = NDArray[np.float32]

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

SEA_SHARE = 0.22  # share of the cells that lies below the level of the sea
LAKE_SHARE = 0.012  # share of the land under lakes, beside the basins that the sea does not reach
SMALLEST = 6.0  # shortest wavelength in fine cells: patches are several cells wide
_SEAS = 8  # a basin is a sea, not a lake, from this part of the largest one on
_BETWEEN_TOWNS = 33  # cells: places are compared with others no further away
_LAPSE = 5.5  # degrees Celsius a kilometre
_SOILS = {
    "clay": "share of clay in the soil",
    "sand": "share of sand in the soil",
    "organic_matter": "share of organic matter in the soil",
}
# shares of the land, lakes left out, in the first year; the rest is grass and shrubs
SHARES = {URBAN: 0.012, CROPLAND: 0.22, PASTURE: 0.19, FOREST: 0.32, OTHER: 0.07}
# share of the land that a class gains in a year even where its share stays, and loses elsewhere
TURNOVER = {CROPLAND: 0.0035, PASTURE: 0.0035, OTHER: 0.0005}
DRIFT = 0.003  # share of the land by which a class may come nearer to its goal in a year
REGROWTH = 0.006  # share of the land that may become forest again in a year
SWING, PERIOD = 0.15, 90  # by how much of its first share the goal of a class swings, in how many years
URBAN_GROWTH, URBAN_LIMIT = 0.02, 0.05  # growth of the urban area in the first year; share of the land where it ends
REST = 8  # years in which a cell that has changed stays as it is, towns apart
OLDEST = 200  # years beyond which ages are all the same
_REACH = 2  # cells on either side of the square that is looked at around each
_TIDE = 60  # years after which the tide is the same again
_PHASE = {CROPLAND: 0.0, PASTURE: 2.0, FOREST: 3.5}
_CHANCE = 0.8  # of a place, in deviations of suitability
_ATTRACTION, _TOWN_ATTRACTION = 1.0, 3.0  # of a neighbourhood that is all of the class, in the same


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
    land = ChangingLand(landscape, random)
    for year in range(steps[0], steps[-1] + 1):
        if year > steps[0]:
            land.change(year - steps[0])
        if year in steps:
            maps[steps.index(year)] = land.codes
            states[:, steps.index(year)] = measure(land)
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
        forcing=xr.Dataset(forcing, {**time, **coarse.coordinates}, about),
        land_use=xr.DataArray(maps, {**time, **landscape.grid.coordinates}, dims, "land_use", attributes),
        static=landscape.static.assign_attrs(about),
    )


def _measure(landscape: Landscape, coarse: Grid, factor: int) -> Callable[[ChangingLand], NDArray[np.float32]]:
    """Return what measures states, age and biomass of the land by area; NaN where there is ocean only."""
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


def _make_noise(random: np.random.Generator, shape: tuple[int, int]) -> tuple[Callable[[], Field], Callable[[], Field]]:
    """Return two sources of noise of mean 0 and deviation 1: patches of all sizes, and large parts of the map."""
    number = np.hypot(fft.fftfreq(shape[0])[:, None], fft.rfftfreq(shape[1])).astype(np.float32)
    edge = np.exp(-((number * np.float32(SMALLEST / 2)) ** 2) / 2)
    number += np.float32(1 / max(shape))

    def source(amplitudes: Field) -> Callable[[], Field]:
        amplitudes[0, 0] = 0

        def field() -> Field:
            waves = fft.rfft2(random.standard_normal(shape, dtype=np.float32))
            waves *= amplitudes
            made = fft.irfft2(waves, s=shape, overwrite_x=True)
            return np.asarray(made / made.std(), dtype=np.float32)

        return field

    return source(edge * number ** np.float32(-1.3)), source(edge / number**2)


@dataclass(frozen=True)
class Landscape:
    """What does not change from year to year; every array (rows, columns) on the fine grid.

    ``static`` are predictors, float32; ``land`` includes lakes; ``suitability`` says how well a class suits a cell, by
    class code, with mean 0 and deviation 1 on land (of ``OTHER``, how bare the cell is by nature); along ``crops``,
    evenly spread over 0 to 1 on land, one crop follows another; where it is ``dry``, grazing is rangeland. ``fine`` and
    ``broad`` are the sources of noise.
    """

    grid: Grid
    static: xr.Dataset
    land: NDArray[np.bool_]
    lake: NDArray[np.bool_]
    suitability: dict[int, Field]
    crops: Field
    dry: NDArray[np.bool_]
    fine: Callable[[], Field]
    broad: Callable[[], Field]


def make_landscape(grid: Grid, random: np.random.Generator) -> Landscape:
    """Invent a landscape on a fine grid of at least 32 cells in both directions."""
    fine, broad = _make_noise(random, grid.shape)
    relief = broad() + np.float32(0.12) * fine()
    below = relief < np.quantile(relief, SEA_SHARE)
    labels, count = ndimage.label(below)
    sizes = np.bincount(labels.ravel(), minlength=count + 1)
    sizes[0] = 0
    sea = (sizes >= sizes.max() / _SEAS)[labels] & below
    land, basins = ~sea, below & ~sea  # basins lie below the level of the sea, which does not reach them
    height = np.maximum(relief - np.quantile(relief, SEA_SHARE).astype(np.float32), 0)
    elevation = np.where(land, 250 * height + 200 * height**2, 0).astype(np.float32)
    fields = _terrain(elevation, land, grid)
    near_sea = np.exp(-fields["coast_distance"] / 150)
    # degrees Celsius, mean of the year: warm at the equator, colder poleward and upward
    level = 27 - 0.0085 * grid.latitude[:, None] ** 2
    warmth = np.asarray(level - _LAPSE / 1000 * elevation, dtype=np.float32) + 2 * broad()
    wetness = _standard(broad() + 0.6 * near_sea, land)
    clay, sand = fine(), fine()
    fields |= _zones(warmth, wetness, land) | _soils(clay, sand, warmth, wetness, land)

    steep = _standard(np.sqrt(fields["slope"]), land)
    low = -_standard(fields["relative_elevation"], land)
    mild = -_standard(np.abs(warmth - 12), land)
    places = fine()
    towns = _standard(places - ndimage.uniform_filter(places, _BETWEEN_TOWNS), land)
    suited = {
        URBAN: 0.3 * low - 0.4 * steep + 0.5 * near_sea + 0.3 * mild + 1.2 * towns,
        CROPLAND: 0.6 * mild - 0.8 * steep + 0.8 * clay + 0.5 * low + 0.2 * fine(),
        PASTURE: -0.6 * wetness - 0.3 * steep - 0.4 * clay + 0.5 * sand + 0.3 * mild + 0.2 * fine(),
        FOREST: wetness + 0.5 * steep - 0.4 * sand + 0.2 * mild + 0.2 * fine(),
        OTHER: -_standard(warmth, land) - wetness + 0.2 * fine(),
    }
    suitability = {code: _standard(field, land) for code, field in suited.items()}
    lake = basins | (land & _highest(low - steep + fine(), land, LAKE_SHARE))
    fields |= _climate(warmth, wetness, grid) | _people(suitability[URBAN], land, grid)
    fields["lake_share"] = lake.astype(np.float32)
    return Landscape(
        grid=grid,
        static=_dataset(fields, grid),
        land=land,
        lake=lake,
        suitability=suitability,
        crops=_evenly_spread(_standard(warmth, land) + 1.5 * fine(), land),
        dry=wetness < 0,
        fine=fine,
        broad=broad,
    )


def _terrain(elevation: Field, land: NDArray[np.bool_], grid: Grid) -> dict[str, Field]:
    reach = min(max(1, round(RUGGEDNESS_REACH / grid.resolution)), (min(grid.shape) - 1) // 2)
    fields = {
        **predictors.terrain(elevation, grid, reach),
        "land_share": land,
        "abs_latitude": np.broadcast_to(np.abs(grid.latitude)[:, None], grid.shape),
        "coast_distance": predictors.coast_distance(land, grid, COAST_CAP),
    }
    return {name: np.ascontiguousarray(field, dtype=np.float32) for name, field in fields.items()}


def _zones(warmth: Field, wetness: Field, land: NDArray[np.bool_]) -> dict[str, Field]:
    """One climate zone a cell, in the manner of Koeppen: by temperature, and arid where it is dry and not polar."""
    zone = np.digitize(warmth, (18, 5, -6)) + (warmth <= 18)
    zone = np.where((wetness < -0.9) & (warmth > -6), KOPPEN_ZONES.index("arid"), zone)
    return {f"koppen_{name}": ((zone == code) & land).astype(np.float32) for code, name in enumerate(KOPPEN_ZONES)}


def _climate(warmth: Field, wetness: Field, grid: Grid) -> dict[str, Field]:
    """Months and rain that fit warmth and wetness: seasons are strong where it is cold."""
    season = 4 + 0.5 * np.maximum(25 - warmth, 0)
    rain = 700 * np.exp(0.6 * wetness)
    driest = rain / 12 * np.clip(0.5 + 0.2 * wetness, 0, 1)
    # a year of waves: July is warmest, and July is wettest, too
    wave = -np.cos(2 * np.pi * np.arange(12) / 12)[:, None, None]
    months = rain / 12 + (rain / 12 - driest) * wave
    return {
        "coldest_month": warmth - season,
        "warmest_month": warmth + season,
        "precipitation": rain,
        "driest_month": driest,
        "warm_precipitation": 0.6 * rain,
        **_single(predictors.growing_conditions(warmth + season * wave, months, grid.latitude)),
        **_single(predictors.place(grid)),
    }


def _single(fields: dict[str, NDArray[np.float64]]) -> dict[str, Field]:
    return {name: field.astype(np.float32) for name, field in fields.items()}


def _people(suited: Field, land: NDArray[np.bool_], grid: Grid) -> dict[str, Field]:
    """People and towns where towns do well: the best hundredth of the land is town."""
    town = land & _highest(suited, land, 0.01)
    people = np.where(land, np.minimum(np.exp(2 * suited), 1e4), 0)
    cells = predictors.KILOMETRE / grid.resolution  # in a kilometre
    from_town = ndimage.distance_transform_edt(~town) / max(5 * cells, 1)
    return {
        **{f"population_{radius}km": ndimage.gaussian_filter(people, radius * cells) for radius in POPULATION_RADII},
        "settlements_8km": 0.01 * ndimage.gaussian_filter(town.astype(np.float32), 8 * cells),
        "town_distance": np.minimum(from_town, FARTHEST),
    }


def _soils(clay: Field, sand: Field, warmth: Field, wetness: Field, land: NDArray[np.bool_]) -> dict[str, Field]:
    """Parts of the soil in percent; clay and sand leave some silt."""
    clay = np.clip(24 + 9 * clay, 2, 55)
    sand = np.clip(42 - 0.5 * (clay - 24) + 10 * sand, 2, 95 - clay)
    organic = np.clip(4 + 2 * wetness - 0.15 * (warmth - 10), 0.2, 30)
    return {name: np.where(land, field, 0) for name, field in zip(_SOILS, (clay, sand, organic), strict=True)}


def _dataset(fields: dict[str, Field], grid: Grid) -> xr.Dataset:
    attributes = {each.name: {"long_name": each.long_name, "units": each.units} for each in PREDICTORS}
    attributes |= {name: {"long_name": long_name, "units": "%"} for name, long_name in _SOILS.items()}
    variables = {
        name: (("lat", "lon"), np.asarray(fields[name], dtype=np.float32), attributes[name]) for name in attributes
    }
    return xr.Dataset(variables, grid.coordinates)


def _standard(field: NDArray[np.floating], land: NDArray[np.bool_]) -> Field:
    """Mean 0 and deviation 1 on land."""
    known = field[land]
    deviation = float(known.std(dtype=np.float64)) or 1.0
    return np.asarray((field - known.mean(dtype=np.float64)) / deviation, dtype=np.float32)


def _highest(field: Field, among: NDArray[np.bool_], share: float) -> NDArray[np.bool_]:
    """Cells at least as high as all but a share of those among which they are counted."""
    return np.asarray(field >= np.quantile(field[among], 1 - share))


def _evenly_spread(field: Field, land: NDArray[np.bool_]) -> Field:
    """Share of the land that is lower, from a hundred steps."""
    steps = np.quantile(field[land], np.linspace(0, 1, 101))
    return np.interp(field, steps, np.linspace(0, 1, 101)).astype(np.float32)


class ChangingLand:
    """The land as it is now, and the rules by which it changes.

    ``codes`` of classes, whether the land is ``primary`` (never cleared), and ``age``, the years since it took its
    class, at most ``OLDEST``; (rows, columns) each.
    """

    def __init__(self, landscape: Landscape, random: np.random.Generator) -> None:
        self.random = random
        self.suitability = landscape.suitability
        self.tides = [landscape.broad() for _ in range(2)]
        self.codes = self._settle(landscape)
        self.cells = int(np.count_nonzero(landscape.land & ~landscape.lake))
        self.first = {code: self._share(code) for code in SHARES}
        self.owed: dict[tuple[int, int], float] = {}
        natural = (self.codes == FOREST) | (self.codes == GRASS_SHRUB)
        wild = landscape.fine() - 3 * self._around(CROPLAND)
        self.primary = natural & (wild > 0)
        self.age = random.integers(REST, 120, self.codes.shape, dtype=np.uint8)
        self.age[self.primary] = OLDEST

    def change(self, elapsed: int) -> None:
        """Continue by one year, to the given number of years after the first."""
        np.minimum(self.age + np.uint8(1), np.uint8(OLDEST), out=self.age)
        angle = 2 * math.pi * elapsed / _TIDE
        tide = np.float32(math.cos(angle)) * self.tides[0] + np.float32(math.sin(angle)) * self.tides[1]
        pull = {
            code: self.suitability[code] + (_TOWN_ATTRACTION if code == URBAN else _ATTRACTION) * self._around(code)
            for code in SHARES
        }
        pull[CROPLAND] = pull[CROPLAND] + tide
        pull[PASTURE] = pull[PASTURE] - tide
        gain, loss = self._demand(elapsed)
        self._move((CROPLAND, PASTURE, FOREST, GRASS_SHRUB), URBAN, gain[URBAN], pull[URBAN], rest=1)
        self._move((PASTURE, FOREST, GRASS_SHRUB), CROPLAND, gain[CROPLAND], pull[CROPLAND])
        self._move((CROPLAND,), GRASS_SHRUB, loss[CROPLAND], -pull[CROPLAND])
        self._move((FOREST, GRASS_SHRUB), PASTURE, gain[PASTURE], pull[PASTURE])
        self._move((PASTURE,), GRASS_SHRUB, loss[PASTURE], -pull[PASTURE])
        self._move((GRASS_SHRUB,), FOREST, gain[FOREST], pull[FOREST])
        self._move((GRASS_SHRUB,), OTHER, gain[OTHER], pull[OTHER])
        self._move((OTHER,), GRASS_SHRUB, loss[OTHER], -pull[OTHER])

    def _settle(self, landscape: Landscape) -> NDArray[np.uint8]:
        """Give each class its first share of the land, where it suits best among what is left."""
        codes = np.full(landscape.grid.shape, OCEAN, dtype=np.uint8)
        codes[landscape.land] = GRASS_SHRUB
        codes[landscape.lake] = WATER
        cells = int(np.count_nonzero(codes == GRASS_SHRUB))
        for code in (OTHER, URBAN, CROPLAND, PASTURE, FOREST):
            free = np.flatnonzero(codes == GRASS_SHRUB)
            best = _highest_of(landscape.suitability[code].ravel()[free], math.ceil(SHARES[code] * cells))
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
        places = places[_highest_of(pull.ravel()[places] + np.float32(_CHANCE) * chance, min(count, places.size // 2))]
        self.codes.ravel()[places] = to
        self.primary.ravel()[places] = False
        self.age.ravel()[places] = 0


def _within(value: float, limit: float) -> float:
    return min(max(value, 0.0), limit)


def _highest_of(values: Field, count: int) -> NDArray[np.intp]:
    """Positions of the highest values."""
    if count <= 0:
        return np.zeros(0, dtype=np.intp)
    return np.argpartition(values, values.size - count)[values.size - count :]
