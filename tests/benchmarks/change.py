"""Change of land in Brazil predicted by networks of transition, beside rivals: one JSON object a line.

Run as ``python -m tests.benchmarks.change [--quick] [--only PART ...] [--fit FOLDER]``. The maps are looked for in
``../shared/data`` or ``XLAND_TEST_DATA``. The shipped models were fitted on 2000 to 2008, outside of held-out blocks of
25 x 25 pixels, a fifth of all; ``--fit`` trains them again into a folder, and judges those. They are given the maps
until 2008, and the class areas of 2012 in coarse cells of 5 x 5 or 25 x 25 pixels. Nothing was chosen by what the maps
show after 2008. Trees and regressions, which take minutes, are left out with ``--quick``.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

import xland
from tests.benchmarks import harness
from tests.benchmarks.harness import DATA, Result, all_of, line, median, missing, rounded, show, side, take_turns, tell
from tests.benchmarks.land_change import fit_land_change, neighbourhood
from tests.benchmarks.plum_island import Step, certain, drawn, only
from tests.benchmarks.sides import run_cost
from xland.downscaling.call import downscale
from xland.geo.grid import Grid, class_shares, expand
from xland.models import Model
from xland.models.calibration import calibration_error
from xland.scores.change import assess_change
from xland.totals.modes import Totals
from xland.training.configuration import Configuration, read_configuration
from xland.vocabulary import (
    CLASS_NAMES,
    CROPLAND,
    FOREST,
    GRASS_SHRUB,
    OCEAN,
    OTHER,
    PASTURE,
    URBAN,
    WATER,
    flag_attributes,
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
"""Whole coarse cells of the lattice of the globe. The cells of 0.044966 degree are put into it one by one, from
:data:`CORNER` on: none is more than a cell from its place."""
CORNER = (16, 8)
CODES = tuple(sorted(LEGEND))
BLOCK, SEED = 25, 14
FIRST_RECORDED, FIRST_ROLLED, LAST_FITTED, JUDGED = 2000, 2004, 2008, 2012
MODELS = {5: "brazil-change", 25: "brazil-change-25"}
PAST = "brazil-change-past"
AROUND = 1
"""Of :data:`tests.benchmarks.land_change.SCALES`, the window in which the proportional rival counts: 2 pixels."""
EXCHANGE = 4.0
"""Of 1, 2, 3, 4, 6 and 8, the one with the largest figure of merit from 2004 to 2008 in held-out blocks (5 x 5)."""


@dataclass(frozen=True)
class Brazil:
    """Maps of all years, and what is made of them with coarse cells of a size."""

    factor: int
    path: Path = FILE

    @cached_property
    def maps(self) -> xr.DataArray:
        """Class codes (time, lat, lon)."""
        table = np.zeros(256, dtype=np.uint8)
        for code, there in LEGEND.items():
            table[list(there)] = code
        with xr.open_dataset(self.path) as opened:
            found = table[opened["land_cover"].values]
            years = opened["year"].values
        codes = np.full((len(years), *GRID.shape), OCEAN, dtype=np.uint8)
        codes[:, CORNER[0] :, CORNER[1] :][:, : found.shape[1], : found.shape[2]] = found
        place = {"time": years, "lat": GRID.latitude, "lon": GRID.longitude}
        return xr.DataArray(codes, place, ("time", "lat", "lon"), "land_use", flag_attributes())

    def codes(self, year: int) -> np.ndarray:
        return np.asarray(self.maps.sel(time=year).values)

    @cached_property
    def land(self) -> np.ndarray:
        return self.codes(JUDGED) != OCEAN

    @cached_property
    def held_out(self) -> np.ndarray:
        """Blocks that no model has learned from."""
        blocks = np.random.default_rng(SEED).random([size // BLOCK for size in GRID.shape]) < 0.2
        return self.land & expand(blocks, BLOCK)

    @cached_property
    def forcing(self) -> xr.Dataset:
        """Shares of the classes in coarse cells."""
        area, coarse = GRID.cell_area(), GRID.coarsen(self.factor)
        shares = np.stack([class_shares(codes, self.factor, area, len(CLASS_NAMES)) for codes in self.maps.values])
        place = {"time": self.maps["time"].values, "lat": coarse.latitude, "lon": coarse.longitude}
        values = np.where(shares[:, OCEAN] == 1, np.nan, np.moveaxis(shares, 1, 0)).astype(np.float32)
        dims = ("time", "lat", "lon")
        return xr.Dataset(
            {CLASS_NAMES[code]: (dims, values[code], {"units": "1"}) for code in range(len(CLASS_NAMES))}, place
        )

    @cached_property
    def static(self) -> xr.Dataset:
        place = {"lat": GRID.latitude, "lon": GRID.longitude}
        return xr.Dataset({"land_share": (("lat", "lon"), self.land.astype(np.float32), {"units": "1"})}, place)

    def fit(self, folder: Path, configuration: Configuration) -> Path:
        """Train a model on the years until 2008, outside of the blocks that are held out."""
        known = self.maps.sel(time=slice(None, LAST_FITTED))
        target = known.where(~xr.DataArray(self.held_out, dims=("lat", "lon")), 255).astype(np.uint8)
        given = {"forcing": self.forcing.sel(time=known["time"]), "target": target, "static": self.static}
        xland.train(configuration, folder, prior=known, progress=False, **given)
        return folder

    def predict(self, model: Model, start: int, years: list[int], **options: Any) -> xr.Dataset:
        """Predict maps from those until ``start``, or, backward, from those since then."""
        back = years[0] < start
        given: dict[str, Any] = {"static": self.static, "direction": "backward" if back else "forward"}
        prior = self.maps.sel(time=slice(start, None) if back else slice(None, start))
        return downscale(self.forcing, model=model, prior=prior, years=years, **given, **options).compute()

    def judge(self, predicted: np.ndarray, start: int, year: int, within: np.ndarray, *, stable: bool = False) -> Any:
        """Score a map; ``stable`` counts only what does not change in three years up to either end."""
        place = {"lat": GRID.latitude, "lon": GRID.longitude}
        maps = (xr.DataArray(each, place, ("lat", "lon")) for each in (self.codes(start), self.codes(year), predicted))
        ends = self.maps.sel(time=slice(start - 2, year)) if stable else None
        chosen = xr.DataArray(within, place, ("lat", "lon"))
        return assess_change(*maps, weighting="pixels", within=chosen, stable_ends=ends)


def configuration_of(factor: int) -> Configuration:
    """Return the shipped configuration, with coarse cells of another size if asked for."""
    shipped = read_configuration(MODELS[5])
    if factor == shipped.inputs.factor:
        return shipped
    inputs = replace(shipped.inputs, factor=factor, window=200, stride=100)
    title = shipped.title.replace("0.225", f"{GRID.resolution * factor:g}")
    notes = shipped.notes.replace("5 x 5.", f"{factor} x {factor}.").replace("a cell of\n5", f"a cell of\n{factor}")
    schedule = replace(shipped.schedule, patch=100, patch_stride=25)
    return replace(shipped, name=MODELS[factor], title=title, notes=notes, inputs=inputs, schedule=schedule)


def configuration_of_past() -> Configuration:
    """Return the shipped configuration, for a model that goes from a map to those before it."""
    shipped = read_configuration(MODELS[5])
    inputs = replace(shipped.inputs, prior_step=1, steps=(0, 1))
    title = shipped.title.replace("Earlier", "Later").replace("later on", "earlier on")
    notes = shipped.notes.replace("The model learns where", "The model goes back in time: it learns where")
    return replace(shipped, name=PAST, title=title, notes=notes, inputs=inputs)


def train(name: str, folder: Path) -> Path:
    """Train one of the models of Brazil again."""
    tell(f"training of {name}")
    if name == PAST:
        return Brazil(5).fit(folder, configuration_of_past())
    factor = {named: factor for factor, named in MODELS.items()}[name]
    return Brazil(factor).fit(folder, configuration_of(factor))


def change_lines(factor: int, model: Model, *, quick: bool) -> Iterator[Result]:
    """Figures of merit from 2008 to 2012, on all land and on held-out blocks, beside those of rivals."""
    area = Brazil(factor)
    start = area.codes(LAST_FITTED)
    step = Step(start, area.codes(JUDGED), factor)
    totals = Totals("map", exchange=EXCHANGE)
    tell(f"cells of {factor} x {factor}")
    ours = area.predict(model, LAST_FITTED, [JUDGED], totals=totals, flips=True)["land_use"].values[0]
    plain = area.predict(model, LAST_FITTED, [JUDGED], totals=Totals("map"))["land_use"].values[0]
    rivals: dict[str, Callable[[], np.ndarray]] = {
        "persistence": lambda: start,
        "random": lambda: step.allocate(drawn(start.shape, 0)),
        "limit": lambda: step.allocate(certain(step.end)),
    }
    rivals["proportional"] = lambda: step.allocate(shares_around(start))
    if not quick:
        both = fit_land_change(area.codes(2004), area.codes(LAST_FITTED), {}, within=~area.held_out)
        trees, regression = (only(both, part).probability(start, {}) for part in range(2))
        rivals["logistic_greedy"] = lambda: step.greedy(regression)
        rivals["trees"] = lambda: step.allocate(trees)
        rivals["trees_and_regression"] = lambda: step.allocate((trees + regression) / 2)
    found = {"": ours, "without_exchange_and_flips": plain, **{name: make() for name, make in rivals.items()}}
    for suffix, within, target in (
        ("", area.land, {5: 0.25, 25: 0.16}),
        ("_blocks", area.held_out, {5: 0.25, 25: 0.16}),
    ):
        scores = {name: area.judge(each, LAST_FITTED, JUDGED, within) for name, each in found.items()}
        merits = {name or "ours": score.figure_of_merit for name, score in scores.items()}
        stable = {name or "ours": _stable(area, each, within) for name, each in found.items()}
        parts = ("hits", "misses", "false_alarms", "wrong_hits", "quantity", "exchange", "shift")
        yield line(
            f"fom_{factor}{suffix}",
            merits["ours"],
            "figure of merit, 2008 to 2012",
            f">= {target[factor]}",
            runs=1,
            sizes=f"{int(within.sum())} cells",
            merits=rounded(merits),
            stable_ends=rounded(stable),
            **rounded({part: getattr(scores[""], part) for part in parts}, 5),
            accuracy=round(float((ours == step.end)[within].mean()), 5),
            persistence=round(float((start == step.end)[within].mean()), 5),
        )


def shares_around(codes: np.ndarray) -> np.ndarray:
    """Return the share of each class in the pixels around: growth in proportion to what is there."""
    around = neighbourhood(codes, {}, CODES)  # per class five windows and a distance, after the size of the patch
    found = np.zeros((len(CLASS_NAMES), *codes.shape))
    for number, code in enumerate(CODES):
        found[code] = around[..., 1 + 6 * number + AROUND]
    return found + 1e-6


def _stable(area: Brazil, predicted: np.ndarray, within: np.ndarray) -> float:
    return float(area.judge(predicted, LAST_FITTED, JUDGED, within, stable=True).figure_of_merit)


ROLLED = {"totals": Totals("map", tolerance=1), "exactly": Totals("map"), "changes": "changes", "without": None}
"""How the maps of a rollout keep totals; the tolerance was chosen by rollouts from 2000 to 2008 in held-out blocks."""


def rollout_lines(model: Model, *, back: bool = False) -> Iterator[Result]:
    """Maps made year by year with the totals of each year and without: 2005 to 2012, or back from 2007 to 2000."""
    area = Brazil(5)
    first, last = (LAST_FITTED, FIRST_RECORDED) if back else (FIRST_ROLLED, JUDGED)
    years = list(range(first - 1, last - 1, -1) if back else range(first + 1, last + 1))
    start = area.codes(first)
    leads, merits, blocks = {}, {}, {}
    for name, totals in ROLLED.items():
        tell(f"rollout, {name}")
        maps = area.predict(model, first, years, totals=totals)["land_use"].sel(year=years).values
        right = [(found == area.codes(year))[area.land].mean() for found, year in zip(maps, years, strict=True)]
        kept = [(start == area.codes(year))[area.land].mean() for year in years]
        leads[name] = [round(float(one - other), 5) for one, other in zip(right, kept, strict=True)]
        merits[name] = area.judge(maps[-1], first, last, area.land).figure_of_merit
        blocks[name] = area.judge(maps[-1], first, last, area.held_out).figure_of_merit
    suffix = "_backward" if back else ""
    sizes = f"{int(area.land.sum())} cells, {years[0]} to {years[-1]}"
    more = {"all": rounded(merits), "held_out_blocks": rounded(blocks)}
    versus = f"{first} to {last}"
    yield line(f"rollout_fom_5{suffix}", merits["totals"], versus, ">= 0.2", runs=1, sizes=sizes, **more)
    versus = f"smallest lead in accuracy of a year over persistence of {first}"
    yield line(f"rollout_margin{suffix}", min(leads["totals"]), versus, ">= 0", runs=1, sizes=sizes, leads=leads)


def calibration_lines(model: Model) -> Iterator[Result]:
    """How far the probability of change from 2008 to 2012 is from how often land changes, in held-out blocks."""
    area = Brazil(5)
    start, end = area.codes(LAST_FITTED), area.codes(JUDGED)
    shares = area.predict(model, LAST_FITTED, [JUDGED], outputs="probability")["probability"].values[0]
    changes = 1 - np.take_along_axis(shares, start[None].astype(np.intp), axis=0)[0]
    error = {"all": _error(changes, start != end, area.held_out)}
    for code in CODES:
        here = area.held_out & (start == code)
        error[CLASS_NAMES[code]] = _error(changes, start != end, here)
    mean = float(changes[area.held_out].mean()), float((start != end)[area.held_out].mean())
    sizes = f"{int(area.held_out.sum())} cells"
    versus = "expected calibration error of P(changed), 15 bins"
    by = {"by_class_of_origin": rounded(error), "mean_probability": mean[0], "changed": mean[1]}
    yield line("change_calibration", error["all"], versus, "<= 0.01", runs=1, sizes=sizes, **by)


SMALL = (90.0, 30.0, 120.0, 60.0)
"""A block of 600 x 600 cells of Mongolia and China, all land: what ``--quick`` maps in place of the globe."""


def cost_lines(*, quick: bool) -> Iterator[Result]:
    """Time of the network of transition beside that of ``luh2-0p05``."""
    box, runs = (SMALL, 1) if quick else (None, 3)
    with tempfile.TemporaryDirectory() as folder:
        sides = {kind: side(run_cost, kind=kind, folder=folder, box=box) for kind in ("transition", "luh2")}
        results = take_turns(sides, runs)
    figure = median(results["transition"], "seconds") / median(results["luh2"], "seconds")
    sizes = "600 x 600 cells of Mongolia and China" if quick else "3600 x 7200 cells, the globe"
    seconds = all_of(results, "seconds")
    versus = "time of one year on 0.05 degree / that of luh2-0p05"
    yield line("transition_cost", figure, versus, "<= 1", runs=runs, sizes=sizes, seconds=seconds)


def _error(probability: np.ndarray, changed: np.ndarray, within: np.ndarray) -> float:
    return calibration_error(probability[within], changed[within])


def main() -> None:
    parts = ("fom_5", "fom_25", "rollout", "backward", "calibration", "cost")
    fit = {"type": Path, "help": "train the models again into this folder, and judge them"}
    options = harness.options(__doc__, parts, fit=fit)
    if not FILE.exists():
        show(missing("change", FILE))
        return

    @cache
    def model(name: str) -> Model:
        return name if options.fit is None else train(name, options.fit / name)

    lines = {
        "fom_5": lambda: change_lines(5, model(MODELS[5]), quick=options.quick),
        "fom_25": lambda: change_lines(25, model(MODELS[25]), quick=options.quick),
        "rollout": lambda: rollout_lines(model(MODELS[5])),
        "backward": lambda: rollout_lines(model(PAST), back=True),
        "calibration": lambda: calibration_lines(model(MODELS[5])),
        "cost": lambda: cost_lines(quick=options.quick),
    }
    for part in options.only:
        for each in lines[part]():
            show(each)


if __name__ == "__main__":
    main()
