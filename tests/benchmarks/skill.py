"""Skill of the shipped models beside their rivals, conservation, change and calibration: one JSON object a line.

Run as ``python -m tests.benchmarks.skill [--quick] [--only PART ...] [--card]``. Scores are those of the held-out
cells of the split on real data. Needs the reference data (``make data``) and, for ``luh2-0p05`` and Plum Island, the
files in ``../shared/data`` or ``XLAND_TEST_DATA``. ``--quick`` scores the held-out cells of Europe and Africa only and
skips the trees.
"""

from __future__ import annotations

import os
import platform
import time
import types
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

import xland.accessor  # noqa: F401 - registers .ai4land
from tests.benchmarks import allocation, harness, plum_island
from tests.benchmarks.harness import LUH2, PLUM_ISLAND, Result, missing, show
from xland.geo.grid import expand
from xland.geo.split import Part
from xland.models import find_model
from xland.models.checkpoint import Checkpoint, update_card
from xland.scores.agreement import coarse_agreement
from xland.scores.baselines import as_map, simple_maps
from xland.scores.evaluation import compare
from xland.scores.reliability import assess_reliability
from xland.totals.modes import Totals
from xland.training.configuration import Configuration, parse_configuration
from xland.training.data.material import Material, gather, open_data
from xland.training.learn.calibrating import proven_offsets
from xland.vocabulary import CLASS_NAMES, LAND_CLASSES, URBAN

FIGURES = {"accuracy": lambda s: s.accuracy, "miou": lambda s: s.miou, "urban_iou": lambda s: float(s.iou[URBAN])}
NEEDS = {"luh2": LUH2, "conservation": LUH2, "calibration": LUH2, "plum_island": PLUM_ISLAND}
QUICK_REGION = (-20.0, -36.0, 60.0, 72.0)
SAMPLES = 400_000
"""Pixels that the trees learn from."""


@dataclass(frozen=True)
class Scene:
    """A shipped model with the data that it learned from."""

    checkpoint: Checkpoint
    configuration: Configuration
    material: Material
    forcing: xr.Dataset
    observed: xr.DataArray
    part: xr.DataArray
    region: tuple[float, float, float, float] | None

    @classmethod
    def open(cls, name: str, *, quick: bool) -> Scene:
        checkpoint = find_model(name)
        configuration = parse_configuration(checkpoint.card["training"]["configuration"], name)
        opened = open_data(configuration, {"forcing": LUH2} if configuration.data.forcing.endswith(".nc") else None)
        configuration, material = gather(configuration, **opened)
        observed = opened["target"].isel(time=0, drop=True)
        part = observed.copy(data=expand(material.part, configuration.inputs.factor))
        region = QUICK_REGION if quick else None
        return cls(checkpoint, configuration, material, opened["forcing"], observed, part, region)

    def predict(self, checkpoint: Checkpoint | None = None, **options: Any) -> xr.Dataset:
        """Downscale the forcing in memory."""
        return self.downscale(checkpoint, **options).compute()

    def downscale(self, checkpoint: Checkpoint | None = None, **options: Any) -> xr.Dataset:
        """Downscale the forcing, lazily."""
        model = checkpoint or self.checkpoint
        return self.forcing.ai4land.downscale(model=model, region=self.region, **options).isel(time=0)

    def within(self, like: xr.DataArray) -> xr.DataArray:
        """Return which cells of a map are held out for the test."""
        return lay_on(self.part, like) == Part.TEST

    @property
    def common(self) -> Result:
        """Entries of every line."""
        return {
            "model": self.checkpoint.name,
            "weights_sha256": self.checkpoint.digest[:12],
            "cells": "held-out cells of the split" + (", Europe and Africa" if self.region else ""),
            "hardware": f"{platform.machine()}, {os.cpu_count()} cores",
        }

    def simple(self) -> dict[str, xr.DataArray]:
        """Make the maps that need no learning."""
        training = self.part.values == Part.TRAIN
        return simple_maps(
            self.forcing, self.observed.expand_dims(time=[0]), self.configuration.inputs.factor, training
        )

    def trees(self) -> dict[str, xr.DataArray]:
        """Map the held-out cells with trees, as they are and with class offsets fitted as the model's decision is."""
        from sklearn.ensemble import HistGradientBoostingClassifier

        features, target, _ = self.pixels(Part.TRAIN, SAMPLES)
        # early stopping depends on the order: this one gives the published figures
        order = np.random.default_rng(0).permutation(len(target))
        trees = HistGradientBoostingClassifier(random_state=0).fit(features[order], target[order])

        def scores(features: NDArray[np.float32]) -> NDArray[np.float32]:
            shares = np.full((len(features), len(CLASS_NAMES)), 1e-6, np.float32)
            shares[:, trees.classes_] = trees.predict_proba(features).clip(1e-6)
            return np.log(shares)

        features, known, _ = self.pixels(Part.VALIDATION)
        offsets = proven_offsets(scores(features), known)
        features, _, where = self.pixels(Part.TEST)
        found = scores(features)
        maps = {}
        for name, added in (("trees", 0), ("trees with class offsets", offsets)):
            codes = np.zeros(self.observed.shape, np.uint8)
            codes[where] = (found + added).argmax(axis=1)
            maps[name] = as_map(codes, self.observed, name)
        return maps

    def pixels(
        self, part: Part, limit: int | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.uint8], tuple[NDArray[np.intp], ...]]:
        """Return what the network sees of the land pixels of a part, without neighbours; their class and place."""
        arrays = self.material.source
        target = arrays.target[0]
        chosen = np.flatnonzero(np.isin(target, LAND_CLASSES) & (self.part.values == part))
        if limit is not None:
            chosen = np.random.default_rng(0).permutation(chosen)[:limit]
        rows, columns = np.unravel_index(chosen, target.shape)
        factor = self.configuration.inputs.factor
        low, high = arrays.coarse[0][:, rows // factor, columns // factor], arrays.static[:, rows, columns]
        return np.concatenate([low, high.astype(np.float32)]).T, target[rows, columns], (rows, columns)


def lay_on(fine: xr.DataArray, like: xr.DataArray) -> xr.DataArray:
    """Cut a map to the cells of another one."""
    return fine.sel(lat=like["lat"], lon=like["lon"], method="nearest", tolerance=1e-4)


def luh2(quick: bool) -> Iterator[Result]:
    """Score ``luh2-0p05`` on held-out land."""
    scene = Scene.open("luh2-0p05", quick=quick)
    started = time.perf_counter()
    predicted = scene.predict()["land_use"]
    seconds = time.perf_counter() - started
    maps = {"model": predicted, **scene.simple()}
    if not quick:
        maps |= scene.trees()
    yield from _scores(scene, "luh2", "land", maps, predicted)
    yield {"name": "luh2_seconds", "figure": round(seconds, 1), "pixels": int(predicted.size), **scene.common}


def fractions(quick: bool) -> Iterator[Result]:
    """Score ``fractions-0p05`` with its totals kept, on held-out land cells that hold more than one class."""
    scene = Scene.open("fractions-0p05", quick=quick)
    ways = {"model": {"mode": "map", "tolerance": 1}, "model_nearest": {"mode": "map", "tolerance": 0}}
    kept = {name: scene.predict(totals=Totals(**way), outputs=("land_use", "unmet")) for name, way in ways.items()}
    maps = {**{name: each["land_use"] for name, each in kept.items()}, "model_free": scene.predict()["land_use"]}
    maps |= scene.simple()
    if not quick:
        maps |= scene.trees()
    yield from _scores(scene, "fractions", "mixed", maps, maps["model"], ways)
    for name, each in kept.items():
        yield from (line | ways[name] for line in _totals(scene, name.replace("model", "fractions"), each))


def _totals(scene: Scene, prefix: str, kept: xr.Dataset) -> Iterator[Result]:
    """Yield how far class areas are from the forcing's: in the worst coarse cell, and on all of them together."""
    found = coarse_agreement(kept["land_use"], scene.forcing)
    off, difference = found["pixels"], found["difference"]
    unmet = kept["unmet"].reindex_like(off, method="nearest", tolerance=1e-4)
    common = {**scene.common, "cells": "all coarse cells with land"}
    places = np.argwhere((unmet > 0).values)
    yield {
        "name": f"{prefix}_worst_cell_pixels",
        "figure": round(float(off.where(unmet == 0).max()), 4),
        "at_most": 1.0,
        "coarse_cells": int((unmet == 0).sum()),
        "infeasible_cells": int((unmet > 0).sum()),
        "infeasible": [[float(off["lat"][row]), float(off["lon"][column])] for row, column in places],
        **common,
    }
    names = list(CLASS_NAMES[1:])
    area = np.cos(np.deg2rad(off["lat"])).where(unmet == 0, 0)
    there = scene.forcing[names].isel(time=0, drop=True).to_dataarray("class")
    there = there.reindex_like(off, method="nearest", tolerance=1e-4)
    change = (difference.sel({"class": names}) * area).sum(("lat", "lon")) / (there * area).sum(("lat", "lon"))
    shares = {name: round(float(each), 4) for name, each in zip(names, change, strict=True)}
    yield {
        "name": f"{prefix}_sum_error",
        "figure": max(shares.values(), key=abs),
        "by_class": shares,
        **common,
    }


def conservation(quick: bool) -> Iterator[Result]:
    """Measure how exactly probabilities keep the states of LUH2 2015, and count cells where that cannot be."""
    scene = Scene.open("luh2-0p05", quick=quick)
    kept = scene.predict(totals="fractions", outputs=("probability", "unmet"))
    found = allocation.fractions_error(kept["probability"], kept["unmet"], scene.forcing)
    yield {
        "name": "conserve_fractions_error",
        "figure": found.pop("largest_error"),
        "at_most": 1e-6,
        **found,
        **scene.common,
        "cells": "all coarse cells with data" + (", Europe and Africa" if quick else ""),
    }


def calibration(quick: bool) -> Iterator[Result]:
    """Measure the calibration error on held-out land, before and after scaling."""
    scene = Scene.open("luh2-0p05", quick=quick)
    card = {key: value for key, value in scene.checkpoint.card.items() if key != "calibration"}
    for suffix, model in (("", scene.checkpoint), ("_before", replace(scene.checkpoint, card=card))):
        fine = scene.predict(model, outputs=("land_use", "probability"))
        observed = lay_on(scene.observed, fine)
        within = scene.within(observed) & observed.isin(LAND_CLASSES)
        found = assess_reliability(fine["probability"], observed, within=within, match_years=False)
        yield {
            "name": f"calibration_error{suffix}",
            "figure": round(found.expected_calibration_error, 4),
            "at_most": 0.03,
            "brier": round(found.brier, 4),
            "bins": len(found.share),
            "pixels": int(within.sum()),
            **scene.common,
        }


def throughput(quick: bool) -> Iterator[Result]:
    """Time maps that keep coarse totals, at 25 x 25 pixels a coarse cell."""
    return allocation.lines(cells=16 if quick else 40, runs=5)


def _scores(
    scene: Scene,
    prefix: str,
    domain: str,
    maps: Mapping[str, xr.DataArray],
    like: xr.DataArray,
    ways: Mapping[str, Result] = types.MappingProxyType({}),
) -> Iterator[Result]:
    """Yield one line for each map, figure and weighting, with the way in which totals were kept."""
    observed = lay_on(scene.observed, like)
    laid = {name: lay_on(each, like) for name, each in maps.items()}
    domains = tuple(dict.fromkeys((domain, "land", "mixed")))
    scores = compare(
        laid,
        observed,
        factor=scene.configuration.inputs.factor,
        within=scene.within(like),
        domains=domains,
        match_years=False,
    )
    for name in maps:
        rival = "" if name == "model" else f"_{name.replace(' ', '_')}"
        for each in domains:
            named = prefix if each == domain and prefix == "luh2" else f"{prefix}_{each}"
            for weighting in ("pixels", "area"):
                found = getattr(scores[name], weighting)[each]
                for figure, take in FIGURES.items():
                    # the issue names the figures of the domain that counts
                    short = prefix if figure == "urban_iou" and each == domain else named
                    yield {
                        "name": f"{short}{rival}_{figure}" + ("_by_area" if weighting == "area" else ""),
                        "figure": round(take(found), 4),
                        "domain": each,
                        "pixels": int(scores[name].pixels[each].total),
                        "versus": [key for key in maps if key != "model"],
                        **ways.get(name, {}),
                        **scene.common,
                    }


def _write_card(found: list[Result]) -> None:
    scores = {line["name"]: line["figure"] for line in found if "domain" in line}
    kept = {name: found[0][name] for name in ("cells", "mode", "tolerance") if name in found[0]}
    update_card(find_model(found[0]["model"]).folder, {"scores": {**kept, **scores}})


PARTS: dict[str, Callable[[bool], Iterator[Result]]] = {
    "luh2": luh2,
    "fractions": fractions,
    "conservation": conservation,
    "plum_island": plum_island.lines,
    "calibration": calibration,
    "throughput": throughput,
}


def main() -> None:
    card = {"action": "store_true", "help": "write the scores into the cards of the models, too"}
    options = harness.options(__doc__, PARTS, card=card)
    if options.card and options.quick:
        raise SystemExit("--card needs the scores of the whole globe: leave --quick out")
    for name in options.only:
        if name in NEEDS and not NEEDS[name].exists():
            show(missing(name, NEEDS[name]))
            continue
        found = []
        for line in PARTS[name](options.quick):
            show(line)
            found.append(line)
        if options.card and name in ("luh2", "fractions"):
            _write_card(found)


if __name__ == "__main__":
    main()
