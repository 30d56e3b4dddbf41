"""An invented landscape: relief, sea, lakes, climate and soils, and what they are good for.

Fields are made of noise between two wavelengths and follow from one another: the sea lies where the
relief is lowest, heights are cold, coasts are moist, and how well a class suits a cell follows from
terrain, climate and soil, so that a network can learn it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy import fft, ndimage

from xland import predictors
from xland.datasets.reference import KOPPEN_ZONES
from xland.datasets.settlements import FARTHEST, KILOMETRE
from xland.datasets.static import COAST_CAP, POPULATION_RADII, PREDICTORS, RUGGEDNESS_REACH
from xland.grid import Grid
from xland.vocabulary import CROPLAND, FOREST, OTHER, PASTURE, URBAN

Field = NDArray[np.float32]

SEA_SHARE = 0.22
"""Share of the cells that lies below the level of the sea."""

LAKE_SHARE = 0.012
"""Share of the land under lakes, beside the basins below sea level that the sea does not reach."""

SMALLEST = 6.0
"""Shortest wavelength in fine cells: patches are several cells wide."""

_SEAS = 8  # a basin is a sea, not a lake, from this part of the largest one on
_BETWEEN_TOWNS = 33  # cells: places are compared with others no further away
_LAPSE = 5.5  # degrees Celsius a kilometre
_SOILS = {
    "clay": "share of clay in the soil",
    "sand": "share of sand in the soil",
    "organic_matter": "share of organic matter in the soil",
}


class Noise:
    """Fields of noise of mean 0 and deviation 1, one after the other from the same source of chance.

    Parameters
    ----------
    random : numpy.random.Generator
    shape : (rows, columns)
    """

    def __init__(self, random: np.random.Generator, shape: tuple[int, int]) -> None:
        self.random, self.shape = random, shape
        number = np.hypot(fft.fftfreq(shape[0])[:, None], fft.rfftfreq(shape[1])).astype(np.float32)
        edge = np.exp(-((number * np.float32(SMALLEST / 2)) ** 2) / 2)
        number += np.float32(1 / max(shape))
        self._fine, self._broad = edge * number ** np.float32(-1.3), edge / number**2
        self._fine[0, 0] = self._broad[0, 0] = 0

    def fine(self) -> Field:
        """Return a field in which patches of all sizes stand out."""
        return self._field(self._fine)

    def broad(self) -> Field:
        """Return a field that rises and falls over large parts of the map."""
        return self._field(self._broad)

    def _field(self, amplitudes: Field) -> Field:
        waves = fft.rfft2(self.random.standard_normal(self.shape, dtype=np.float32))
        waves *= amplitudes
        field = fft.irfft2(waves, s=self.shape, overwrite_x=True)
        field /= field.std()
        return np.asarray(field, dtype=np.float32)


@dataclass(frozen=True)
class Landscape:
    """What does not change from year to year; every array on the fine grid.

    Parameters
    ----------
    grid : Grid
    static : Dataset
        Predictors, float32, dims (lat, lon).
    land, lake : (rows, columns) array of bool
        Land includes lakes.
    suitability : dict of int to (rows, columns) array of float32
        How well a class suits a cell, by class code: mean 0 and deviation 1 on land. Of ``OTHER``, how
        bare the cell is by nature.
    crops : (rows, columns) array of float32
        Along this gradient, evenly spread over 0 to 1 on land, one crop follows another.
    dry : (rows, columns) array of bool
        Where grazing is rangeland.
    noise : Noise
        More fields of the same make.
    """

    grid: Grid
    static: xr.Dataset
    land: NDArray[np.bool_]
    lake: NDArray[np.bool_]
    suitability: dict[int, Field]
    crops: Field
    dry: NDArray[np.bool_]
    noise: Noise


def make_landscape(grid: Grid, random: np.random.Generator) -> Landscape:
    """Invent a landscape on a fine grid.

    Parameters
    ----------
    grid : Grid
        At least 32 cells in both directions.
    random : numpy.random.Generator
        Everything follows from its state.
    """
    noise = Noise(random, grid.shape)
    fine, broad = noise.fine, noise.broad
    relief = broad() + np.float32(0.12) * fine()
    land, basins = _land_and_basins(relief)
    height = np.maximum(relief - np.quantile(relief, SEA_SHARE).astype(np.float32), 0)
    elevation = np.where(land, 250 * height + 200 * height**2, 0).astype(np.float32)
    fields = _terrain(elevation, land, grid)
    near_sea = np.exp(-fields["coast_distance"] / 150)
    warmth = _temperature(grid, elevation) + 2 * broad()
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
        noise=noise,
    )


def _land_and_basins(relief: Field) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return what is land, and which of it lies below the level of the sea without being reached by it."""
    below = relief < np.quantile(relief, SEA_SHARE)
    labels, count = ndimage.label(below)
    sizes = np.bincount(labels.ravel(), minlength=count + 1)
    sizes[0] = 0
    sea = (sizes >= sizes.max() / _SEAS)[labels] & below
    return ~sea, below & ~sea


def _terrain(elevation: Field, land: NDArray[np.bool_], grid: Grid) -> dict[str, Field]:
    slope, aspect = predictors.slope_aspect(elevation, grid)
    reach = min(max(1, round(RUGGEDNESS_REACH / grid.resolution)), (min(grid.shape) - 1) // 2)
    rugged, relative = predictors.ruggedness(elevation, grid, reach)
    fields = {
        "elevation": elevation,
        "slope": slope,
        "cos_aspect": predictors.cos_aspect(slope, aspect),
        "ruggedness": rugged,
        "relative_elevation": relative,
        "land_share": land,
        "abs_latitude": np.broadcast_to(np.abs(grid.latitude)[:, None], grid.shape),
        "coast_distance": predictors.coast_distance(land, grid, COAST_CAP),
    }
    return {name: np.ascontiguousarray(field, dtype=np.float32) for name, field in fields.items()}


def _temperature(grid: Grid, elevation: Field) -> Field:
    """Mean of the year in degrees Celsius: warm at the equator, colder poleward and upward."""
    level = 27 - 0.0085 * grid.latitude[:, None] ** 2
    return np.asarray(level - _LAPSE / 1000 * elevation, dtype=np.float32)


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
    cells = KILOMETRE / grid.resolution
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


def coordinates(grid: Grid) -> dict[str, tuple[str, NDArray[np.float64], dict[str, str]]]:
    """Latitude and longitude of a grid with their CF attributes."""
    return {
        "lat": ("lat", grid.latitude, {"standard_name": "latitude", "units": "degrees_north", "axis": "Y"}),
        "lon": ("lon", grid.longitude, {"standard_name": "longitude", "units": "degrees_east", "axis": "X"}),
    }


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
