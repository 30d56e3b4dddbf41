"""Observed land change predicted on Plum Island, beside rivals: one JSON object a line.

Run as ``python -m tests.benchmarks.plum_island [--quick] [--folds]``; the maps are looked for
in ``../shared/data`` or ``XLAND_TEST_DATA``. Everything is fitted on the change from 1985 to 1991 and
judged on that from 1991 to 1999, of which every rival is given the same: how many pixels each class gains
or loses in each coarse cell. ``--folds`` judges the models on blocks of 1985 to 1991 that they did not learn
from, which is how they were chosen; nothing was chosen by what it does in 1999.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from scipy import ndimage

from tests.benchmarks import harness
from tests.benchmarks.harness import PLUM_ISLAND, hardware, missing, show
from tests.benchmarks.land_change import LandChange, fit_land_change
from xland.geo.grid import Grid, class_shares
from xland.scores.change import ChangeScores, assess_change
from xland.totals.changes import fit_changes
from xland.totals.crosswalk import Crosswalk
from xland.vocabulary import CLASS_NAMES, FOREST, GRASS_SHRUB, OCEAN, STATE_CLASSES, URBAN

DATES = (1985, 1991, 1999)
LEGEND = {1: FOREST, 2: URBAN, 3: GRASS_SHRUB}
CODES = tuple(sorted(LEGEND.values()))
CELL = 25
"""Pixels along a coarse cell of the forcing: 0.25 degree in pixels of 0.01 degree, and 2.5 km here."""
CELLS = (500, 100, CELL, 10, 5)
"""500 pixels hold the whole area."""
DRAWS = 20
BLOCK, FOLDS = 50, 5
UNPROTECTED = Crosswalk(STATE_CLASSES, protected=())

Predictors = dict[str, np.ndarray]


@dataclass(frozen=True)
class Area:
    """Maps of the dates in the classes of xland, ocean outside the area, and fields that do not change."""

    maps: dict[int, np.ndarray]
    static: Predictors

    @property
    def land(self) -> np.ndarray:
        return self.maps[DATES[0]] != OCEAN


@dataclass(frozen=True)
class Step:
    """A change to predict: the first map is known, of the second one the totals of coarse cells."""

    start: np.ndarray
    end: np.ndarray
    cell: int

    def shares(self, codes: np.ndarray) -> np.ndarray:
        return class_shares(codes, self.cell, np.ones(len(codes)), len(CLASS_NAMES))

    def allocate(self, probability: np.ndarray) -> np.ndarray:
        """Change as few pixels as the totals need, of these the most probable ones."""
        return fit_changes(
            probability,
            self.start,
            self.shares(self.end),
            self.shares(self.start),
            self.start,
            np.ones(len(self.start)),
            self.start != OCEAN,
            UNPROTECTED,
        ).codes

    def greedy(self, probability: np.ndarray) -> np.ndarray:
        """Take the changes that the totals need in the order of their probability."""
        gains = np.rint((self.shares(self.end) - self.shares(self.start)) * self.cell**2).astype(int)
        rows, columns = (each // self.cell for each in np.indices(self.start.shape))
        shrinking = (self.start != OCEAN) & (gains[self.start, rows, columns] < 0)
        land = range(OCEAN + 1, len(gains))
        wanted = [np.argwhere(shrinking & (gains[code, rows, columns] > 0)) for code in land]
        pixels = np.concatenate(wanted)
        code = np.repeat(land, [len(each) for each in wanted])
        found = self.start.copy()
        for place in np.argsort(-probability[code, *pixels.T], kind="stable"):
            at, to = tuple(pixels[place]), code[place]
            old, cell = self.start[at], (rows[at], columns[at])
            if found[at] == old and gains[to, *cell] > 0 and gains[old, *cell] < 0:
                gains[to, *cell] -= 1
                gains[old, *cell] += 1
                found[at] = to
        return found

    def judge(self, predicted: np.ndarray) -> ChangeScores:
        """Score a map, each pixel alike: the grid is an invented place, the pixels are of one size."""
        grid = Grid(0.01, 50.0, 0.0, *self.start.shape)
        place = {"lat": grid.latitude, "lon": grid.longitude}
        maps = (xr.DataArray(each, place, ("lat", "lon")) for each in (self.start, self.end, predicted))
        return assess_change(*maps, weighting="pixels")


def read_area(folder: Path) -> Area:
    """Read the maps and predictors; the area lies in an array that whole coarse cells of all sizes fill."""
    import rasterio

    def read(name: str, fill: float) -> np.ndarray:
        with rasterio.open(folder / name) as file:
            values = file.read(1)
        return np.pad(values, [(0, max(CELLS) - size) for size in values.shape], constant_values=fill)

    maps = {}
    for date in DATES:
        found = read(f"pie_lu_pie_{date}.tif", 255)
        maps[date] = np.select([found == code for code in LEGEND], list(LEGEND.values()), OCEAN).astype(np.uint8)
    land = maps[DATES[0]] != OCEAN
    names = ("elevation", "slope", "distance")
    static = {name: np.where(land, read(f"pie_ef_00{n}.tif", 0), 0) for n, name in enumerate(names, 1)}
    return Area(maps, static)


def terrain(area: Area) -> Predictors:
    """Return what the model of land change gets beside the map: no field that stems from a map of land use."""
    return {name: area.static[name] for name in ("elevation", "slope")}


def logistic(area: Area, *, recomputed: bool) -> np.ndarray:
    """Regress the class of 1991 on elevation, slope and distance to built land, by class of 1985; apply it to 1991.

    The distance comes as it is published, that of 1985, or is computed for the map that change starts from.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    first, second, _ = (area.maps[date] for date in DATES)

    def predictors(codes: np.ndarray) -> np.ndarray:
        distance = ndimage.distance_transform_edt(codes != URBAN) if recomputed else area.static["distance"]
        return np.stack([area.static["elevation"], area.static["slope"], distance], axis=-1)

    probability = np.zeros((len(CLASS_NAMES), *first.shape))
    for code in CODES:
        regression = make_pipeline(StandardScaler(), LogisticRegression(max_iter=300))
        regression.fit(predictors(first)[first == code], second[first == code])
        where = second == code
        found = np.zeros((len(CLASS_NAMES), where.sum()))
        found[regression.classes_] = regression.predict_proba(predictors(second)[where]).T
        probability[:, where] = found
    return probability


def drawn(shape: tuple[int, int], seed: int) -> np.ndarray:
    """Draw probabilities that know nothing."""
    return np.random.default_rng(seed).random((len(CLASS_NAMES), *shape)) + 0.01


def certain(codes: np.ndarray) -> np.ndarray:
    """Give the classes of a map nearly all probability; totals of net change leave the rest out even so."""
    return np.where(codes == np.arange(len(CLASS_NAMES))[:, None, None], 1.0, 1e-3)


def name_of(cell: int) -> str:
    """Return the prefix of the lines for coarse cells of that size."""
    return {CELL: "plum_island", max(CELLS): "plum_island_whole"}.get(cell, f"plum_island_{cell}")


def lines(quick: bool = False) -> Iterator[dict[str, Any]]:
    """Yield the scores of the model and its rivals, for each size of the coarse cells whose totals are given."""
    if not PLUM_ISLAND.exists():
        yield missing("plum_island", PLUM_ISLAND)
        return
    area = read_area(PLUM_ISLAND)
    first, second, third = (area.maps[date] for date in DATES)
    started = time.perf_counter()
    model = fit_land_change(first, second, terrain(area))
    probability = model.probability(second, terrain(area))
    seconds = time.perf_counter() - started
    regressed, original = (logistic(area, recomputed=recomputed) for recomputed in (True, False))
    for cell in (CELL,) if quick else (CELL, *(each for each in CELLS if each != CELL)):
        step = Step(second, third, cell)
        rivals: dict[str, Callable[[], np.ndarray]] = {
            "": lambda step=step: step.allocate(probability),
            "_persistence": lambda: second,
            "_logistic": lambda step=step: step.greedy(regressed),
            "_logistic_original": lambda step=step: step.greedy(original),
            "_logistic_optimal": lambda step=step: step.allocate(regressed),
            "_greedy": lambda step=step: step.greedy(probability),
            "_limit": lambda step=step: step.allocate(certain(third)),
        }
        for rival, predict in rivals.items():
            yield line(cell, rival, [step.judge(predict())])
        draws = range(2 if quick else DRAWS)
        yield line(cell, "_random", [step.judge(step.allocate(drawn(second.shape, seed))) for seed in draws])
    yield {"name": "plum_island_fit_seconds", "figure": round(seconds, 1), "hardware": hardware()}


def line(cell: int, rival: str, scores: list[ChangeScores]) -> dict[str, Any]:
    """Return the mean scores of the maps of one rival, in pixels and shares of the area."""

    def mean(figure: str, digits: int = 4) -> float:
        return round(float(np.mean([getattr(each, figure) for each in scores])), digits)

    parts = ("hits", "misses", "false_alarms", "wrong_hits", "quantity", "allocation", "exchange", "shift")
    return {
        "name": f"{name_of(cell)}_fom{rival}",
        "figure": mean("figure_of_merit"),
        "pixels_along_a_coarse_cell": cell,
        "maps": len(scores),
        **{part: mean(part, 5) for part in parts},
        "fitted": f"{DATES[0]}-{DATES[1]}",
        "judged": f"{DATES[1]}-{DATES[2]}",
    }


def fold_lines() -> Iterator[dict[str, Any]]:
    """Yield the scores of the model and of each of its parts on blocks of 1985 to 1991 that it did not learn from."""
    area = read_area(PLUM_ISLAND)
    first, second, _ = (area.maps[date] for date in DATES)
    models = [fit_land_change(first, second, terrain(area), within=fold_of(first.shape) != n) for n in range(FOLDS)]
    parts: dict[str, Callable[[LandChange], LandChange]] = {
        "both": lambda model: model,
        "trees": lambda model: only(model, 0),
        "regression": lambda model: only(model, 1),
    }
    for name, part in parts.items():
        probability = held_out([part(model) for model in models], area)
        for cell in (CELL, max(CELLS)):
            step = Step(first, second, cell)
            found = line(cell, f"_folds_{name}", [step.judge(step.allocate(probability))])
            yield found | {"judged": f"{FOLDS} folds of blocks of {BLOCK} x {BLOCK} pixels of {found['fitted']}"}


def only(model: LandChange, part: int) -> LandChange:
    """Return the model with one of its two classifiers."""
    return replace(model, experts={code: (both[part],) for code, both in model.experts.items()})


def fold_of(shape: tuple[int, int]) -> np.ndarray:
    """Return the fold of each pixel: blocks in five colours, none beside one of its own."""
    rows, columns = (np.arange(size) // BLOCK for size in shape)
    return (2 * rows[:, None] + columns[None, :]) % FOLDS


def held_out(models: list[LandChange], area: Area) -> np.ndarray:
    """Return the probabilities of 1991 in each fold, from the model that did not learn from it."""
    first = area.maps[DATES[0]]
    fold, probability = fold_of(first.shape), np.zeros((len(CLASS_NAMES), *first.shape), dtype=np.float32)
    for number, model in enumerate(models):
        here = fold == number
        probability[:, here] = model.probability(first, terrain(area))[:, here]
    return probability


def main() -> None:
    held_out = {"action": "store_true", "help": "judge on held-out blocks of 1985 to 1991 in place of 1999"}
    options = harness.options(__doc__, folds=held_out)
    for each in fold_lines() if options.folds else lines(quick=options.quick):
        show(each)


if __name__ == "__main__":
    main()
