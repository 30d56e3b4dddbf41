"""An invented landscape, and how its fields, pastures, woods and towns change from year to year."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import reduce

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
    coordinates,
)
from xland.geo.grid import Grid
from xland.vocabulary import CROPLAND, FOREST, GRASS_SHRUB, OCEAN, OTHER, PASTURE, URBAN, WATER

Field = NDArray[np.float32]

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


def make_noise(random: np.random.Generator, shape: tuple[int, int]) -> tuple[Callable[[], Field], Callable[[], Field]]:
    """Return two sources of noise of mean 0 and deviation 1, which take their random numbers in turn.

    In fields of the first, patches of all sizes stand out; those of the second rise and fall over large parts of the
    map.
    """
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
    fine, broad = make_noise(random, grid.shape)
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
    fields |= _climate(warmth, wetness) | _people(suitability[URBAN], land, grid)
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


def _climate(warmth: Field, wetness: Field) -> dict[str, Field]:
    """Months and rain that fit warmth and wetness: seasons are strong where it is cold."""
    season = 4 + 0.5 * np.maximum(25 - warmth, 0)
    rain = 700 * np.exp(0.6 * wetness)
    return {
        "coldest_month": warmth - season,
        "warmest_month": warmth + season,
        "precipitation": rain,
        "driest_month": rain / 12 * np.clip(0.5 + 0.2 * wetness, 0, 1),
        "warm_precipitation": 0.6 * rain,
    }


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
    return xr.Dataset(variables, coordinates(grid))


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


def simulate(landscape: Landscape, years: Sequence[int], random: np.random.Generator) -> Iterator[ChangingLand]:
    """Yield the land in each of the years, which ascend; the years between them are simulated as well."""
    land = ChangingLand(landscape, random)
    for year in range(years[0], years[-1] + 1):
        if year > years[0]:
            land.change(year - years[0])
        if year in years:
            yield land


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
