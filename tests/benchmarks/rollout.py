"""How much accuracy a free rollout loses, with scheduled sampling and without: one JSON object a line.

Run as ``python -m tests.benchmarks.rollout [--quick] [--only synthetic|plum_island] [--figure PATH]``. The maps
of Plum Island are looked for in ``../shared/data`` or ``XLAND_TEST_DATA``. Each run trains the same small U-Net
twice, from the same seed and with as many steps; the next run has another seed and other held-out cells.
``--quick`` takes too few steps to learn what is compared: it shows that everything runs.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

import xland
import xland.accessor
from tests.benchmarks import harness
from tests.benchmarks.harness import PLUM_ISLAND, Result, line, median, missing, rounded, show, tell
from tests.benchmarks.plum_island import DATES, read_area
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
SIDES = {"with": 1.0, "without": 0.0}
"""Probability of own maps at its peak."""

LOOKS = {
    "with": ("#00695c", "-", "with scheduled sampling"),
    "without": ("#c2571a", "-", "without"),
    "persistence": ("#555555", "--", "persistence: the first map, copied"),
}
"""Colour, line and label of what is drawn."""

_STATES = {"secdf": FOREST, "urban": URBAN, "secdn": GRASS_SHRUB}

Scores = dict[str, Any]


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

    def persistence(self) -> Scores:
        """Scores of the first map, copied."""
        return self.judge(lambda _: self.truth(self.start))

    def judge(self, found: Callable[[int], np.ndarray]) -> Scores:
        """Accuracy on the held-out cells by year, and on the pixels whose class is not that of the first map."""
        within, first = self.held_out(), self.truth(self.start)
        accuracy, changed = [], []
        for year in self.years:
            truth = self.truth(year)
            right = found(year) == truth
            accuracy.append(float(right[within].mean()))
            changed.append(float(right[within & (truth != first)].mean()))
        return {"accuracy": accuracy, "changed": changed, "loss": accuracy[0] - accuracy[-1], "last": accuracy[-1]}

    def drift(self, folder: Path, own_maps: float) -> Scores:
        """Train a model and follow its free rollout over the held-out cells, year by year."""
        rollout = replace(self.configuration.rollout, own_maps=own_maps)
        given = {"forcing": self.forcing, "target": self.maps[1:], "static": self.static, "prior": self.maps}
        xland.train(replace(self.configuration, rollout=rollout), folder, progress=False, **given)
        prior = self.maps.sel(time=[self.start])
        found = self.forcing.ai4land.downscale(model=folder, static=self.static, prior=prior, years=self.years)
        maps = found["land_use"].compute()
        return self.judge(lambda year: maps.sel(year=year).values)


def synthetic(seed: int, quick: bool = False) -> Case:
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
    configuration = _configuration("synthetic", inputs, data, seed, 50 if quick else 250, together=3)
    return Case(world.forcing, world.land_use, world.static, configuration, start=2000)


def plum_island(seed: int, quick: bool = False, folder: Path = PLUM_ISLAND) -> Case:
    """Three real dates of forest, built land and the rest, with the years between them.

    Each coarse cell changes from one date to the next in a year drawn at random. The coarse states are
    measured on the maps. The area is laid on an invented place of the globe, so that its cells of the split
    are 48 x 96 cells (about 5 x 10 km): some are learned from, in all years, and others judged.
    """
    coarse = Grid(0.5, 72.0, 29.0, 108, 123)
    fine = coarse.refine(FACTOR)
    area = read_area(folder)
    cut = (slice(fine.rows), slice(fine.columns))
    codes = _years_between({date: codes[cut] for date, codes in area.maps.items()}, coarse, seed)
    years = np.arange(DATES[0], DATES[-1] + 1)
    shares = np.stack([class_shares(each, FACTOR, fine.cell_area(), len(CLASS_NAMES)) for each in codes])
    dims, place = ("time", "lat", "lon"), {"lat": fine.latitude, "lon": fine.longitude}
    states = {
        name: (dims, np.where(shares[:, OCEAN] == 1, np.nan, shares[:, code]).astype(np.float32), {"units": "1"})
        for name, code in _STATES.items()
    }
    fields = {name: np.maximum(values[cut], 0) for name, values in area.static.items()}
    fields["land_share"] = (codes[0] != OCEAN).astype(np.float32)
    inputs = InputSpec(
        coarse=tuple(Channel(name, (name,)) for name in states),
        static=tuple(Channel(name, (name,), "sqrt") for name in area.static),
        steps=(0, -1),
        prior="one_hot",
        factor=FACTOR,
        resolution=fine.resolution,
        window=96,
        stride=96,
    )
    data, steps = Data(forcing="plum-island"), 100 if quick else 500
    return Case(
        forcing=xr.Dataset(states, {"time": years, "lat": coarse.latitude, "lon": coarse.longitude}),
        maps=xr.DataArray(codes, {"time": years, **place}, dims, "land_use"),
        static=xr.Dataset({name: (dims[1:], values) for name, values in fields.items()}, place),
        configuration=_configuration("plum-island", inputs, data, seed, steps, together=6),
        start=DATES[0],
    )


WORLDS = {"synthetic": synthetic, "plum_island": plum_island}


def _years_between(observed: dict[int, np.ndarray], coarse: Grid, seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    maps = [observed[DATES[0]]]
    for first, last in pairwise(DATES):
        drawn = expand(random.random(coarse.shape), FACTOR)
        for year in range(first + 1, last + 1):
            changed = drawn < (year - first) / (last - first)
            maps.append(np.where(changed, observed[last], observed[first]))
    return np.stack(maps)


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


def lines(
    world: str, *, quick: bool, drawn: dict[str, tuple[list[int], dict[str, list[Scores]]]] | None = None
) -> Iterator[Result]:
    """Train and judge in one world: loss of accuracy beside that without scheduled sampling, and what is left."""
    if world == "plum_island" and not PLUM_ISLAND.exists():
        yield missing(f"rollout_{world}", PLUM_ISLAND)
        return
    results: dict[str, list[Scores]] = {name: [] for name in LOOKS}
    for seed in range(1 if quick else 5):
        tell(f"{world}, run {seed + 1}")
        case = WORLDS[world](seed, quick)
        results["persistence"].append(case.persistence())
        for name, own_maps in SIDES.items():
            with tempfile.TemporaryDirectory() as folder:
                results[name].append(case.drift(Path(folder) / "model", own_maps))
    if drawn is not None:
        drawn[world] = case.years, results
    yield from compared(world, case, results)


def compared(world: str, case: Case, results: dict[str, list[Scores]]) -> Iterator[Result]:
    """The lines of one world: medians over the runs, and all of them."""
    entries = ("loss", "last")
    middle = {entry: {name: median(runs, entry) for name, runs in results.items()} for entry in entries}
    every = {entry: {name: [run[entry] for run in runs] for name, runs in results.items()} for entry in entries}
    by_year = {name: np.nanmedian([run["accuracy"] for run in runs], axis=0) for name, runs in results.items()}
    lost, last = middle["loss"], middle["last"]
    steps = case.configuration.schedule.samples // BATCH
    size = f"{case.maps.sizes['lat']} x {case.maps.sizes['lon']} cells, {case.years[0]}-{case.years[-1]}, {steps} steps"
    common: Result = {"runs": len(results["with"]), "sizes": size}
    yield line(
        f"rollout_{world}",
        lost["with"] / lost["without"],
        "loss of accuracy from the first to the last year, with scheduled sampling / without",
        "<= 1",
        loss=rounded(lost),
        all=every["loss"],
        accuracy={name: values.round(4).tolist() for name, values in by_year.items()},
        changed_in_last_year={name: [run["changed"][-1] for run in results[name]] for name in SIDES},
        **common,
    )
    versus = "accuracy in the last year, with scheduled sampling - without"
    difference = last["with"] - last["without"]
    yield line(f"rollout_{world}_last", difference, versus, ">= 0", last=rounded(last), all=every["last"], **common)


def draw(drawn: dict[str, tuple[list[int], dict[str, list[Scores]]]], path: Path) -> None:
    """Accuracy year by year, a panel a world: the median as a line, all runs as a band."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.6 * len(drawn), 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(drawn), squeeze=False)[0]
    for ax, (world, (years, results)) in zip(axes, drawn.items(), strict=True):
        for name, found in results.items():
            values = np.array([each["accuracy"] for each in found])
            colour, style, label = LOOKS[name]
            ax.plot(years, np.median(values, axis=0), style, color=colour, label=label)
            ax.fill_between(years, values.min(axis=0), values.max(axis=0), color=colour, alpha=0.12, lw=0)
        for year in DATES[1:] if world == "plum_island" else ():
            ax.axvline(year, color="#bbbbbb", lw=0.8, zorder=0)
        title = world.replace("_", " ").title()
        ax.set(title=title, xlabel="year", ylabel="accuracy on held-out cells")
        ax.spines[["top", "right"]].set_visible(False)
    axes[0].legend(frameon=False)
    figure.savefig(path, dpi=110)


def main() -> None:
    figure = {"type": Path, "help": "draw accuracy year by year into this PNG"}
    options = harness.options(__doc__, WORLDS, figure=figure)
    drawn: dict[str, tuple[list[int], dict[str, list[Scores]]]] = {}
    for world in options.only:
        for each in lines(world, quick=options.quick, drawn=drawn):
            show(each)
    if options.figure is not None:
        draw(drawn, options.figure)


if __name__ == "__main__":
    main()
