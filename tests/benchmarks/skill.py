"""Skill of the shipped models beside their rivals, conservation, change and calibration: one JSON object a line.

Run as ``python -m tests.benchmarks.skill [--quick] [--only PART ...] [--card]``. Scores are those of the held-out
cells of the split on real data. Needs the reference data (``make data``) and, for ``luh2-0p05`` and Plum Island, the
files in ``../shared/data`` or ``XLAND_TEST_DATA``. ``--quick`` scores the held-out cells of Europe and Africa only and
skips the trees.
"""

from __future__ import annotations

import argparse
import json
import time
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import xarray as xr

from tests.benchmarks import allocation, plum_island
from tests.benchmarks.allocation import fractions_error
from tests.benchmarks.material import DATA, LUH2
from tests.benchmarks.scene import Scene, Trees, lay_on, open_scene, without
from xland.geo.split import Part
from xland.models import find_model
from xland.models.checkpoint import update_card
from xland.scores.agreement import coarse_agreement
from xland.scores.baselines import as_map, simple_maps
from xland.scores.evaluation import compare
from xland.scores.reliability import assess_reliability
from xland.totals.modes import Totals
from xland.training.learn.calibrating import proven_offsets
from xland.vocabulary import CLASS_NAMES, LAND_CLASSES, URBAN

Line = dict[str, Any]
FIGURES = {"accuracy": lambda s: s.accuracy, "miou": lambda s: s.miou, "urban_iou": lambda s: float(s.iou[URBAN])}
NEEDS = {"luh2": LUH2, "conservation": LUH2, "calibration": LUH2, "plum_island": DATA / "plum_island"}


def main() -> None:
    parts: dict[str, Callable[[bool], Iterator[Line]]] = {
        "luh2": luh2,
        "fractions": fractions,
        "conservation": conservation,
        "plum_island": plum_island.lines,
        "calibration": calibration,
        "throughput": throughput,
    }
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="Europe and Africa only, no trees")
    parser.add_argument("--only", nargs="+", choices=list(parts), help="parts to run")
    parser.add_argument("--card", action="store_true", help="write the scores into the cards of the models, too")
    options = parser.parse_args()
    if options.card and options.quick:
        parser.error("--card needs the scores of the whole globe: leave --quick out")
    for name, run in parts.items():
        if options.only is not None and name not in options.only:
            continue
        if name in NEEDS and not NEEDS[name].exists():
            print(json.dumps({"name": name, "skipped": f"{NEEDS[name].name} is not at hand: set XLAND_TEST_DATA"}))
            continue
        found = []
        for line in run(options.quick):
            print(json.dumps(line), flush=True)
            found.append(line)
        if options.card and name in ("luh2", "fractions"):
            _write_card(found)


def luh2(quick: bool) -> Iterator[Line]:
    """Score ``luh2-0p05`` on held-out land."""
    scene = open_scene("luh2-0p05", quick=quick)
    started = time.perf_counter()
    predicted = scene.predict()["land_use"]
    seconds = time.perf_counter() - started
    maps = {"model": predicted, **_simple(scene)}
    if not quick:
        maps |= _trees(scene)
    yield from _scores(scene, "luh2", "land", maps, predicted)
    yield {"name": "luh2_seconds", "figure": round(seconds, 1), "pixels": int(predicted.size), **scene.common}


def fractions(quick: bool) -> Iterator[Line]:
    """Score ``fractions-0p05`` with its totals kept, on held-out land cells that hold more than one class."""
    scene = open_scene("fractions-0p05", quick=quick)
    ways = {"model": {"mode": "map", "tolerance": 1}, "model_nearest": {"mode": "map", "tolerance": 0}}
    kept = {name: scene.predict(totals=Totals(**way), outputs=("land_use", "unmet")) for name, way in ways.items()}
    maps = {**{name: each["land_use"] for name, each in kept.items()}, "model_free": scene.predict()["land_use"]}
    maps |= _simple(scene)
    if not quick:
        maps |= _trees(scene)
    yield from _scores(scene, "fractions", "mixed", maps, maps["model"], ways)
    for name, each in kept.items():
        yield from (line | ways[name] for line in _totals(scene, name.replace("model", "fractions"), each))


def _totals(scene: Scene, prefix: str, kept: xr.Dataset) -> Iterator[Line]:
    """Yield how far class areas are from the forcing's: in the worst coarse cell, and on all of them together."""
    found = coarse_agreement(kept["land_use"], scene.forcing)
    off, difference = found["pixels"], found["difference"]
    unmet = kept["unmet"].reindex_like(off, method="nearest", tolerance=1e-4)
    common = {**scene.common, "cells": "all coarse cells with land"}
    yield {
        "name": f"{prefix}_worst_cell_pixels",
        "figure": round(float(off.where(unmet == 0).max()), 4),
        "at_most": 1.0,
        "coarse_cells": int((unmet == 0).sum()),
        "infeasible_cells": int((unmet > 0).sum()),
        "infeasible": [[float(each["lat"]), float(each["lon"])] for each in _places(unmet > 0)],
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


def _places(chosen: xr.DataArray) -> list[xr.DataArray]:
    """Return the cells of a map that are chosen."""
    return [chosen[tuple(place)] for place in np.argwhere(chosen.values)]


def conservation(quick: bool) -> Iterator[Line]:
    """Measure how exactly probabilities keep the states of LUH2 2015, and count cells where that cannot be."""
    scene = open_scene("luh2-0p05", quick=quick)
    kept = scene.predict(totals="fractions", outputs=("probability", "unmet"))
    found = fractions_error(kept["probability"], kept["unmet"], scene.forcing)
    yield {
        "name": "conserve_fractions_error",
        "figure": found.pop("largest_error"),
        "at_most": 1e-6,
        **found,
        **scene.common,
        "cells": "all coarse cells with data" + (", Europe and Africa" if quick else ""),
    }


def calibration(quick: bool) -> Iterator[Line]:
    """Measure the calibration error on held-out land, before and after scaling."""
    scene = open_scene("luh2-0p05", quick=quick)
    for suffix, model in (("", scene.checkpoint), ("_before", without(scene.checkpoint, "calibration"))):
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


def throughput(quick: bool) -> Iterator[Line]:
    """Time maps that keep coarse totals, at 25 x 25 pixels a coarse cell."""
    return allocation.lines(cells=16 if quick else 40, runs=5)


def _scores(
    scene: Scene,
    prefix: str,
    domain: str,
    maps: Mapping[str, xr.DataArray],
    like: xr.DataArray,
    ways: Mapping[str, Line] = types.MappingProxyType({}),
) -> Iterator[Line]:
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


def _simple(scene: Scene) -> dict[str, xr.DataArray]:
    """Make the maps that need no learning."""
    training = scene.part.values == Part.TRAIN
    observed = scene.observed.expand_dims(time=[0])
    return simple_maps(scene.forcing, observed, scene.configuration.inputs.factor, training)


def _trees(scene: Scene) -> dict[str, xr.DataArray]:
    """Map the held-out cells with trees, as they are and with class offsets fitted as the model's decision is."""
    trees = Trees(scene)
    shares, known, _ = trees.probabilities(Part.VALIDATION)
    offsets = proven_offsets(np.log(shares), known)
    shares, _, where = trees.probabilities(Part.TEST)
    maps = {}
    for name, added in (("trees", 0), ("trees with class offsets", offsets)):
        codes = np.zeros(scene.observed.shape, np.uint8)
        codes[where] = (np.log(shares) + added).argmax(axis=1)
        maps[name] = as_map(codes, scene.observed, name)
    return maps


def _write_card(found: list[Line]) -> None:
    scores = {line["name"]: line["figure"] for line in found if "domain" in line}
    kept = {name: found[0][name] for name in ("cells", "mode", "tolerance") if name in found[0]}
    update_card(find_model(found[0]["model"]).folder, {"scores": {**kept, **scores}})


if __name__ == "__main__":
    main()
