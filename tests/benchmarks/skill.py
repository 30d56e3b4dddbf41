"""Scores of the shipped models beside their rivals on held-out cells: one JSON object a line.

Run as ``python -m tests.benchmarks.skill [--quick] [--only luh2|fractions]``. Needs the reference
data (``make data``) and, for ``luh2-0p05``, the LUH2 file of 2015 in ``../shared/data`` or
``XLAND_TEST_DATA``. ``--quick`` scores the held-out cells of Europe and Africa only and skips the trees.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import xarray as xr

import xland.accessor  # noqa: F401 - registers .ai4land
from xland.batches.split import Part
from xland.evaluation.scores import compare
from xland.inputs import InputSpec
from xland.models import find_model
from xland.models.baselines import as_map, fit_trees, pixel_features, simple_maps
from xland.models.checkpoint import update_card
from xland.training.configuration import read_configuration
from xland.training.material import Material, gather, open_data
from xland.training.objective import proven_offsets
from xland.vocabulary import LAND_CLASSES

DATA = Path(os.environ.get("XLAND_TEST_DATA", Path(__file__).parents[3] / "shared" / "data"))
QUICK_REGION = (-20.0, -36.0, 60.0, 72.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="Europe and Africa only, no trees")
    parser.add_argument("--only", choices=["luh2", "fractions"], help="one of the two models")
    parser.add_argument("--card", action="store_true", help="write the scores into the cards of the models, too")
    options = parser.parse_args()
    if options.card and options.quick:
        parser.error("--card needs the scores of the whole globe: leave --quick out")
    for short, name in (("luh2", "luh2-0p05"), ("fractions", "fractions-0p05")):
        if options.only in (None, short):
            found = list(lines(short, name, quick=options.quick))
            for line in found:
                print(json.dumps(line), flush=True)
            if options.card and "skipped" not in found[0]:
                _write_card(name, found)


def _write_card(name: str, found: list[dict[str, object]]) -> None:
    scores = {f"{line['name']} ({line['weighting']})": line["figure"] for line in found if "weighting" in line}
    update_card(find_model(name).folder, {"scores": {"cells": found[0]["cells"], **scores}})


def lines(short: str, name: str, *, quick: bool) -> Iterator[dict[str, object]]:
    path = DATA / "luh2_2015" / "states_2015.nc"
    if short == "luh2" and not path.exists():
        yield {"name": short, "skipped": f"{path.name} is not at hand: set XLAND_TEST_DATA"}
        return
    configuration = read_configuration(name)
    opened = open_data(configuration, path if short == "luh2" else None)
    configuration, material = gather(configuration, **opened)
    observed = opened["target"]
    held_out = xr.DataArray(
        material.part == Part.TEST, {"lat": observed["lat"], "lon": observed["lon"]}, ("lat", "lon")
    )

    started = time.perf_counter()
    fine = opened["forcing"].ai4land.downscale(model=name, region=QUICK_REGION if quick else None)
    predicted = fine["land_use"].compute()
    seconds = time.perf_counter() - started

    part = observed.sel(lat=predicted["lat"], lon=predicted["lon"], method="nearest", tolerance=1e-4)
    maps = {"model": predicted}
    training = material.part == Part.TRAIN
    maps |= simple_maps(opened["forcing"], observed, configuration.inputs.factor, training)
    if not quick:
        maps |= _trees(configuration.inputs, material, observed)
    maps = {
        key: each.sel(lat=part["lat"], lon=part["lon"], method="nearest", tolerance=1e-4) for key, each in maps.items()
    }
    within = held_out.sel(lat=part["lat"], lon=part["lon"], method="nearest", tolerance=1e-4)
    scores = compare(maps, part, factor=configuration.inputs.factor, within=within, domains=("land", "mixed"))
    common = {
        "versus": [key for key in maps if key != "model"],
        "model": name,
        "weights_sha256": find_model(name).digest[:12],
        "cells": "held-out cells of the split" + (", Europe and Africa" if quick else ""),
        "hardware": f"{platform.machine()}, {os.cpu_count()} cores",
    }
    for key in maps:
        for domain in ("land", "mixed"):
            for weighting in ("pixels", "area"):
                each = getattr(scores[key], weighting)[domain]
                prefix = f"{short}_{domain}" + ("" if key == "model" else f"_{key.replace(' ', '_')}")
                figures = {"accuracy": each.accuracy, "miou": each.miou, "urban_iou": float(each.iou[1])}
                for figure, value in figures.items():
                    yield {
                        "name": f"{prefix}_{figure}",
                        "figure": round(value, 4),
                        "weighting": weighting,
                        "pixels": int(scores[key].pixels[domain].total),
                        **common,
                    }
    yield {"name": f"{short}_seconds", "figure": round(seconds, 1), "pixels": int(predicted.size), **common}


def _trees(inputs: InputSpec, material: Material, observed: xr.DataArray) -> dict[str, xr.DataArray]:
    """Fit the pixel-wise rival on the training cells and map the held-out ones, as it is and with class offsets.

    The offsets are fitted on the validation cells, in the way of the models.
    """
    arrays, target = material.arrays, material.arrays.target[0]
    land = np.isin(target, LAND_CLASSES)

    def pixels(part: Part, limit: int | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        rows, columns = np.nonzero(land & (material.part == part))
        if limit is not None:
            chosen = np.random.default_rng(0).permutation(len(rows))[:limit]
            rows, columns = rows[chosen], columns[chosen]
        features = pixel_features(inputs, arrays.coarse[0], arrays.static, rows, columns)
        return features, target[rows, columns], rows, columns

    trees = fit_trees(*pixels(Part.TRAIN, 400_000)[:2])

    def scores(features: np.ndarray) -> np.ndarray:
        shares = np.full((len(features), 8), 1e-6, np.float32)
        shares[:, trees.classes_] = trees.predict_proba(features).clip(1e-6)
        return np.log(shares)

    features, known, _, _ = pixels(Part.VALIDATION)
    offsets = proven_offsets(scores(features), known, LAND_CLASSES)
    features, _, rows, columns = pixels(Part.TEST)
    judged = scores(features)
    maps = {}
    for name, added in (("trees", 0), ("trees with class offsets", offsets)):
        codes = np.zeros(target.shape, np.uint8)
        codes[rows, columns] = (judged + added).argmax(axis=1)
        maps[name] = as_map(codes, observed, name)
    return maps


if __name__ == "__main__":
    main()
