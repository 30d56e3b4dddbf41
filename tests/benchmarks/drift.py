"""Worlds with several dates, the models that learn from them, and how far their free rollouts drift."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

import xland
import xland.accessor
from xland.datasets import synthetic_world
from xland.geo.grid import Grid, class_shares, expand
from xland.geo.split import Part, divide
from xland.models.inputs import Channel, InputSpec
from xland.models.networks.unet import Architecture
from xland.training.configuration import Augmentation, Configuration, Data, Schedule
from xland.training.rollout import Rollout
from xland.vocabulary import CLASS_NAMES, FOREST, GRASS_SHRUB, LUH2_STATES, OCEAN, URBAN

BATCH = 8
FACTOR = 4
OBSERVED = (1985, 1991, 1999)
"""Dates of the maps of Plum Island."""

_PLUM_ISLAND_CLASSES = {1: FOREST, 2: URBAN, 3: GRASS_SHRUB}
_PLUM_ISLAND_STATES = {"secdf": FOREST, "urban": URBAN, "secdn": GRASS_SHRUB}


@dataclass(frozen=True)
class Case:
    """A world, and how a model learns from it; the first year of the rollout follows ``start``."""

    forcing: xr.Dataset
    maps: xr.DataArray
    static: xr.Dataset
    configuration: Configuration
    start: int

    @property
    def years(self) -> list[int]:
        return [int(year) for year in self.forcing["time"].values if year > self.start]

    def truth(self, year: int) -> np.ndarray:
        return self.maps.sel(time=year).values

    def held_out(self) -> np.ndarray:
        """Land in cells of the split that serve for the test."""
        grid = Grid.from_centres(self.maps["lat"].values, self.maps["lon"].values)
        part = divide(grid, self.configuration.split_seed)
        return (part == Part.TEST) & (self.static["land_share"].values > 0)


def synthetic(seed: int, steps: int) -> Case:
    """Fifty years, of which the first twenty are learned from."""
    world = synthetic_world((192, 192), FACTOR, range(1980, 2030), seed, resolution=2.0)
    static = ("elevation", "slope", "abs_latitude", "clay", "sand")
    inputs = InputSpec(
        coarse=tuple(Channel(name, (name,)) for name in LUH2_STATES),
        static=tuple(Channel(name, (name,)) for name in static),
        steps=(0, -1),
        prior="one_hot",
        factor=FACTOR,
        resolution=0.5,
        window=48,
        stride=48,
    )
    data = Data(forcing="synthetic", train_years=(1981, 2000), test_years=(2001, 2029))
    configuration = _configuration("synthetic", inputs, data, seed, steps, together=3)
    return Case(world.forcing, world.land_use, world.static, configuration, start=2000)


def plum_island(folder: Path, seed: int, steps: int) -> Case:
    """Three real dates of forest, built land and the rest, with the years between them.

    Each coarse cell changes from one date to the next in a year drawn at random. The coarse states are
    measured on the maps. The area is laid on an invented place of the globe, so that its cells of the split
    are 48 x 96 cells (about 5 x 10 km): some are learned from, in all years, and others judged.
    """
    coarse = Grid(0.5, 72.0, 29.0, 108, 123)
    fine = coarse.refine(FACTOR)
    codes = _years_between({date: _read_map(folder, date, fine) for date in OBSERVED}, coarse, seed)
    years = np.arange(OBSERVED[0], OBSERVED[-1] + 1)
    shares = np.stack([class_shares(each, FACTOR, fine.cell_area(), len(CLASS_NAMES)) for each in codes])
    states = {
        name: np.where(shares[:, OCEAN] == 1, np.nan, shares[:, code]).astype(np.float32)
        for name, code in _PLUM_ISLAND_STATES.items()
    }
    fields = {
        name: np.maximum(_read(folder / f"pie_ef_00{number}.tif", fine), 0)
        for number, name in enumerate(("elevation", "slope", "distance"), 1)
    }
    fields["land_share"] = (codes[0] != OCEAN).astype(np.float32)
    dims, place = ("time", "lat", "lon"), {"lat": fine.latitude, "lon": fine.longitude}
    inputs = InputSpec(
        coarse=tuple(Channel(name, (name,)) for name in states),
        static=tuple(Channel(name, (name,), "sqrt") for name in ("elevation", "slope", "distance")),
        steps=(0, -1),
        prior="one_hot",
        factor=FACTOR,
        resolution=fine.resolution,
        window=96,
        stride=96,
    )
    return Case(
        forcing=xr.Dataset(
            {name: (dims, values, {"units": "1"}) for name, values in states.items()},
            {"time": years, "lat": coarse.latitude, "lon": coarse.longitude},
        ),
        maps=xr.DataArray(codes, {"time": years, **place}, dims, "land_use"),
        static=xr.Dataset({name: (dims[1:], values) for name, values in fields.items()}, place),
        configuration=_configuration("plum-island", inputs, Data(forcing="plum-island"), seed, steps, together=6),
        start=OBSERVED[0],
    )


def _read(path: Path, grid: Grid) -> np.ndarray:
    import rasterio

    with rasterio.open(path) as file:
        return file.read(1)[: grid.rows, : grid.columns]


def _read_map(folder: Path, date: int, grid: Grid) -> np.ndarray:
    found = _read(folder / f"pie_lu_pie_{date}.tif", grid)
    codes = np.full(found.shape, OCEAN, dtype=np.uint8)
    for code, known in _PLUM_ISLAND_CLASSES.items():
        codes[found == code] = known
    return codes


def _years_between(observed: dict[int, np.ndarray], coarse: Grid, seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    maps = [observed[OBSERVED[0]]]
    for first, last in pairwise(OBSERVED):
        drawn = expand(random.random(coarse.shape), FACTOR)
        for year in range(first + 1, last + 1):
            changed = drawn < (year - first) / (last - first)
            maps.append(np.where(changed, observed[last], observed[first]))
    return np.stack(maps)


def drift(case: Case, folder: Path, own_maps: float) -> dict[str, Any]:
    """Train a model and follow its free rollout over the held-out cells, year by year."""
    configuration = replace(case.configuration, rollout=replace(case.configuration.rollout, own_maps=own_maps))
    xland.train(
        configuration,
        folder,
        forcing=case.forcing,
        target=case.maps[1:],
        static=case.static,
        prior=case.maps,
        progress=False,
    )
    return judge(case, rollout(case, folder))


def rollout(case: Case, model: Path) -> Callable[[int], np.ndarray]:
    """Maps that the model makes from its own, the first from the true one."""
    prior = case.maps.sel(time=[case.start])
    found = case.forcing.ai4land.downscale(model=model, static=case.static, prior=prior, years=case.years)
    maps = found["land_use"].compute()
    return lambda year: maps.sel(year=year).values


def persistence(case: Case) -> Callable[[int], np.ndarray]:
    """The map that the rollout begins with, in every year."""
    first = case.truth(case.start)
    return lambda _: first


def judge(case: Case, found: Callable[[int], np.ndarray]) -> dict[str, Any]:
    """Accuracy on the held-out cells in each year, and on those pixels whose class is not that of the first map."""
    within, first = case.held_out(), case.truth(case.start)
    accuracy, changed = [], []
    for year in case.years:
        truth = case.truth(year)
        right = found(year) == truth
        accuracy.append(float(right[within].mean()))
        changed.append(float(right[within & (truth != first)].mean()))
    return {"accuracy": accuracy, "changed": changed, "loss": accuracy[0] - accuracy[-1], "last": accuracy[-1]}


def _configuration(name: str, inputs: InputSpec, data: Data, seed: int, steps: int, *, together: int) -> Configuration:
    return Configuration(
        name=name,
        title="A model of the benchmark of free rollouts",
        data=data,
        inputs=inputs,
        architecture=Architecture(width=8, depth=2),
        augmentation=Augmentation(flip=True, prior_masked=0.6),
        schedule=Schedule(
            epochs=1,
            batch=BATCH,
            samples=BATCH * steps,
            patch=24,
            patch_stride=inputs.factor * 2,
            learning_rate=8e-3,
            seed=seed,
        ),
        rollout=Rollout(years=together),
        split_seed=seed,
    )
