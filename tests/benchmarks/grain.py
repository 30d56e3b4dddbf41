"""Whether maps have the grain of observed land: squares, boundaries, patches, and draws; one JSON object a line.

Run as ``python -m tests.benchmarks.grain [--quick] [--only MODEL ...]``. ``squares_map`` and ``squares_draw`` are
figures of the whole globe, all others of the land in the held-out cells of the split, in pixels and beside MODIS 2019.
A draw is one of ``downscale(draws=)``. Needs the reference data (``make data``) and, for ``luh2-0p05``, the LUH2 file
of 2015 in ``../shared/data`` or ``XLAND_TEST_DATA``. ``--quick`` takes Europe and Africa alone, and fewer draws.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Iterator, Mapping

import numpy as np
import xarray as xr

from tests.benchmarks import harness
from tests.benchmarks.harness import LUH2, Result, missing, show, skipped
from tests.benchmarks.skill import Scene, lay_on
from xland.downscaling.call import downscale
from xland.errors import ModelError
from xland.scores.evaluation import compare
from xland.scores.landscape import OBSERVED, LandscapeScores, Pattern, assess_landscape
from xland.scores.reliability import assess_reliability
from xland.scores.tables import plain
from xland.vocabulary import CLASS_NAMES, LAND_CLASSES

MODELS = {"luh2": "luh2-0p05", "fractions": "fractions-0p05"}
TARGETS = {
    "squares_map": 1.06,
    "squares_draw": 1.03,
    "grain_density": 0.15,
    "grain_density_by_class": 0.30,
    "grain_patches": 0.10,
    "draws_calibration": 0.02,
}
"""Figures that have a limit, and the largest allowed value; those of grain are of a draw."""

DRAWS, QUICK_DRAWS, MEASURED = 32, 8, 3
"""Draws that are made, and how many of them are measured one by one."""


BAND = 200  # rows whose probabilities are in memory at once


def lines(prefix: str, *, quick: bool) -> Iterator[Result]:
    """Measure the map of a model, those that need no learning, and its draws."""
    scene = Scene.open(MODELS[prefix], quick=quick)
    started = time.perf_counter()
    count = QUICK_DRAWS if quick else DRAWS
    made, why = _predict(scene, count)
    seconds = round(time.perf_counter() - started, 1)
    predicted = made["land_use"]
    drawn = {} if why else {f"draw {n}": made["draws"].isel(draw=n, drop=True) for n in range(MEASURED)}
    observed = lay_on(scene.observed, predicted)
    whole = _measure(scene, {"map": predicted, **drawn}, observed)
    simple = {name: lay_on(each, predicted) for name, each in scene.simple().items()}
    held_out = _measure(scene, {"map": predicted, **drawn, **simple}, observed, within=scene.within(observed))
    shown = ["map", *simple] if why else ["draw 0", "map", *simple]
    yield _squares(scene, f"{prefix}_squares_map", "map", whole)
    for name in shown:
        yield from _grain(scene, prefix, name, held_out)
    if why:
        for name in (*TARGETS, "draw_accuracy"):
            if name != "squares_map":
                yield skipped(f"{prefix}_{name}", why)
        return
    yield _squares(scene, f"{prefix}_squares_draw", "draw 0", whole)
    yield from _judge(scene, prefix, made, observed, count)
    yield {"name": f"{prefix}_seconds", "figure": seconds, "draws": count, **scene.common}


def _predict(scene: Scene, count: int) -> tuple[xr.Dataset, str]:
    """Return the most probable map, some draws, and how often each class is drawn, or why there are no draws.

    No more is kept in memory. Draws are called ``draws``, how often each class is drawn ``counts``.
    """
    if "draws" not in inspect.signature(downscale).parameters:
        return scene.predict()[["land_use"]], "downscale has no keyword draws"
    try:
        lazy = scene.downscale(draws=count, seed=0)
    except ModelError as error:
        return scene.predict()[["land_use"]], str(error)
    drawn = next(each for each in lazy.data_vars.values() if "draw" in each.dims)
    made = {"land_use": lazy["land_use"], "draws": drawn.isel(draw=slice(MEASURED)), "counts": _counts(drawn)}
    return xr.Dataset(made).compute(), ""


def _measure(
    scene: Scene, maps: Mapping[str, xr.DataArray], observed: xr.DataArray, within: xr.DataArray | None = None
) -> LandscapeScores:
    factor = scene.configuration.inputs.factor
    return assess_landscape(maps, observed, factor=factor, scales=[1], within=within, match_years=False)


def _squares(scene: Scene, name: str, of: str, found: LandscapeScores) -> Result:
    """Return boundaries at edges of coarse cells / elsewhere: the ratio furthest from 1, or its inverse."""

    def both(pattern: Pattern) -> list[float]:
        return [round(float(each), 3) for each in pattern.edge_ratio]

    common = {**scene.common, "cells": "land of Europe and Africa" if scene.region else "land of the globe"}
    return {
        "name": name,
        "figure": round(found[of].squares, 4),
        "at_most": TARGETS[name.partition("_")[2]],
        "west_east_and_north_south": both(found[of]),
        "draws": {each: both(found[each]) for each in found.names if each.startswith("draw")},
        "observed": both(found[OBSERVED]),
        "boundaries_elsewhere": [_density(each) for each in found[of].pairs[:, 0]],
        "observed_elsewhere": [_density(each) for each in found[OBSERVED].pairs[:, 0]],
        **common,
    }


def _density(pairs: np.ndarray) -> float:
    return round(float(1 - np.trace(pairs) / pairs.sum()), 4)


def _grain(scene: Scene, prefix: str, name: str, found: LandscapeScores) -> Iterator[Result]:
    """Yield how far boundaries and patches of a map are from those of the observed map."""
    is_draw = name.startswith("draw")
    suffix = "" if is_draw else f"_{name.replace(' ', '_')}"
    truth, ours = found[OBSERVED], found[name]
    names = [CLASS_NAMES[code] for code in LAND_CLASSES]
    of_class = {
        CLASS_NAMES[code]: ours.class_boundary_density[code] / truth.class_boundary_density[code] - 1
        for code in LAND_CLASSES
    }
    distances = {each: found.patch_distance(name, of_class=each) for each in names}
    others = [each for each in found.names if each.startswith("draw")] if is_draw else []

    def line(figure: str, value: float, **more: object) -> Result:
        target = {"at_most": TARGETS[figure]} if is_draw else {}
        return {"name": f"{prefix}_{figure}{suffix}", "figure": round(value, 4), **target, **more, **scene.common}

    yield line(
        "grain_density",
        abs(ours.boundary_density / truth.boundary_density - 1),
        density=round(ours.boundary_density, 4),
        observed=round(truth.boundary_density, 4),
        **({"density_of_draws": [round(found[each].boundary_density, 4) for each in others]} if is_draw else {}),
    )
    yield line(
        "grain_density_by_class",
        float(np.nanmax(np.abs([*of_class.values()]))),
        by_class={each: plain(round(value, 3)) for each, value in of_class.items()},
    )
    yield line(
        "grain_patches",
        found.patch_distance(name),
        by_class={each: plain(round(value, 3)) for each, value in distances.items()},
        patches=ours.patches,
        observed_patches=truth.patches,
        mean_patch=round(ours.mean_patch, 2),
        observed_mean_patch=round(truth.mean_patch, 2),
    )
    yield {
        "name": f"{prefix}_grain_aggregation{suffix}",
        "figure": round(ours.aggregation_index, 2),
        "observed": round(truth.aggregation_index, 2),
        "edge_contrast": plain(round(ours.edge_contrast, 2)),
        "observed_edge_contrast": plain(round(truth.edge_contrast, 2)),
        **scene.common,
    }


def _judge(scene: Scene, prefix: str, made: xr.Dataset, observed: xr.DataArray, count: int) -> Iterator[Result]:
    """Yield the calibration error of the mean over draws, and the scores of a draw beside the most probable map."""
    within = scene.within(observed)
    predicted, probability = made["land_use"], made["counts"].chunk(lat=BAND) / np.float32(count)
    land = within & observed.isin(LAND_CLASSES)
    of_map = assess_reliability(probability, observed, decided=predicted, within=land, match_years=False)
    of_draws = assess_reliability(probability, observed, within=land, match_years=False)
    yield {
        "name": f"{prefix}_draws_calibration",
        "figure": round(of_draws.expected_calibration_error, 4),
        "at_most": TARGETS["draws_calibration"],
        "judged": "the class that is drawn most often",
        "of_the_class_on_the_map": round(of_map.expected_calibration_error, 4),
        "by_class": round(of_draws.classwise_calibration_error, 4),
        "brier": round(of_draws.brier, 4),
        "draws": count,
        "pixels": int(land.sum()),
        **scene.common,
    }
    maps = {"map": predicted, "draw": made["draws"].isel(draw=0, drop=True)}
    factor = scene.configuration.inputs.factor
    scores = compare(maps, observed, factor=factor, within=within, domains=("land",), match_years=False)
    for name in ("draw", "map"):
        found = scores[name].pixels["land"]
        yield {
            "name": f"{prefix}_{name}_accuracy",
            "figure": round(found.accuracy, 4),
            "miou": round(found.miou, 4),
            "pixels": int(found.total),
            **scene.common,
        }


def _counts(draws: xr.DataArray) -> xr.DataArray:
    """Return how often each class is drawn, (class, lat, lon), lazily and in one byte."""
    counts = [(draws == code).sum("draw", dtype=np.uint8) for code in range(len(CLASS_NAMES))]
    return xr.concat(counts, "class", coords="minimal", compat="override").assign_coords({"class": list(CLASS_NAMES)})


def worst(found: list[Result]) -> Iterator[Result]:
    """Yield the worst of the shipped models for each figure that has a limit."""
    for figure, limit in TARGETS.items():
        names = {f"{prefix}_{figure}": model for prefix, model in MODELS.items()}
        of = {names[line["name"]]: line["figure"] for line in found if line["name"] in names and "figure" in line}
        if len(of) == len(MODELS):
            yield {"name": figure, "figure": max(of.values()), "at_most": limit, "models": of}


def main() -> None:
    options = harness.options(__doc__, MODELS)
    found = []
    for name in options.only:
        if name == "luh2" and not LUH2.exists():
            show(missing(name, LUH2))
            continue
        for line in lines(name, quick=options.quick):
            show(line)
            found.append(line)
    for line in worst(found):
        show(line)


if __name__ == "__main__":
    main()
