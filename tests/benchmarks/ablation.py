"""What each part of the recipe of ``luh2-0p05`` brings: short trainings that differ from it in one thing.

Run as ``python -m tests.benchmarks.ablation [--only NAME ...] [--minutes M] [--write]``. Each variant is
trained for the same number of steps with the same seed and scored on the validation cells of the split;
the test cells stay untouched. One JSON line a variant. What is finished is kept in a file, so that a run that was
stopped goes on; ``--write`` draws the tables of docs/ablation.md from it. Needs the reference data (``make
data``) and the LUH2 file of 2015 in ``../shared/data`` or ``XLAND_TEST_DATA``.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.benchmarks import prior_masking
from tests.benchmarks.harness import PROJECT, show
from tests.benchmarks.material import LUH2
from tests.benchmarks.place_scores import PLACES, count_most_probable, count_with_offsets, difference, figures
from tests.benchmarks.short_training import choose_patches, coarsened, judge, learn, load, narrow
from tests.benchmarks.tables import ablation_table, prior_table, write_between
from tests.benchmarks.variants import REFERENCE, Variant, list_variants
from xland.atomic import replace_file
from xland.datasets import cache_dir
from xland.forcing.read import read_forcing
from xland.geo.split import Part
from xland.training.configuration import read_configuration
from xland.training.data.material import Material, open_data
from xland.training.data.patches import Patches
from xland.vocabulary import CLASS_NAMES

PAGE = PROJECT / "docs" / "ablation.md"

STEPS_A_MINUTE = 100
"""Steps of 32 patches that one core takes in a minute, judging included (Xeon, 2.5 GHz)."""

SHOWN = {
    "accuracy": "accuracy", "miou": "mIoU", "urban": "urban", "water": "water", "pasture": "pasture",
    "cropland": "cropland", "forest": "forest", "grass_shrub": "grass, shrub", "other": "other",
}  # fmt: skip
"""Columns of the table."""

Results = dict[str, dict[str, Any]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--only", nargs="+", metavar="NAME", help="variants or groups of variants; the reference always"
    )
    parser.add_argument("--minutes", type=float, default=2, help="of one core for each variant")
    parser.add_argument("--list", action="store_true", help="name the variants and stop")
    parser.add_argument("--write", action="store_true", help="draw the tables of docs/ablation.md")
    parser.add_argument(
        "--results", type=Path, default=cache_dir() / "ablation.json", help="where what is done is kept"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    configuration = read_configuration("luh2-0p05")
    variants = list_variants(configuration)
    if options.list:
        for variant in variants:
            show({"name": variant.name, "group": variant.group})
        return
    if not LUH2.exists():
        show({"name": "ablation", "skipped": f"{LUH2.name} is not at hand: set XLAND_TEST_DATA"})
        return
    steps = max(1, round(options.minutes * STEPS_A_MINUTE))
    chosen = [each for each in variants if _asked_for(options.only, each.name, each.group)]
    results = read_results(options.results)
    for each in run(chosen, steps, results, options.results):
        show(each)
    if _asked_for(options.only, "prior"):
        for each in run_prior(steps, results, options.results):
            show(each)
    if options.write:
        done = [results[key(each, steps)] for each in variants if key(each, steps) in results]
        write_between(PAGE, "ablation", ablation_table([line(each, done[0]) for each in done], SHOWN))
        shares = [results[name] for name in prior_keys(steps) if name in results]
        write_between(PAGE, "prior", prior_table(shares))


def run(variants: list[Variant], steps: int, results: Results, path: Path) -> Iterator[dict[str, Any]]:
    """Train and score what is not done yet, and yield a line a variant; the reference comes first."""
    reference = None
    for variant in variants:
        name = key(variant, steps)
        if name not in results:
            results[name] = measure(variant, *material_of(variant.configuration.inputs.factor), steps)
            write_results(path, results)
        reference = results[name] if variant.name == REFERENCE else reference
        assert reference is not None
        yield line(results[name], reference)


def measure(variant: Variant, material: Material, patches: Patches, steps: int) -> dict[str, Any]:
    """Train a variant and count what it says on the validation cells."""
    material = narrow(material, variant.configuration.inputs)
    configuration = replace(variant.configuration, inputs=material.source.inputs)
    network, seconds = learn(configuration, material, patches, steps=steps, seed=variant.seed)
    judged = judge(network, configuration, material, material.part == Part.VALIDATION)
    return {
        "name": variant.name,
        "group": variant.group,
        "steps": steps,
        "seed": variant.seed,
        "parameters": sum(each.numel() for each in network.parameters()),
        "seconds": round(seconds, 1),
        "plain": _sparse(count_most_probable(judged)),
        "offset": _sparse(count_with_offsets(judged)),
    }


def line(result: Mapping[str, Any], reference: Mapping[str, Any]) -> dict[str, Any]:
    """What is printed of a variant: figures, with offsets as well, and how much they differ from the reference."""
    plain, offset = matrices(result["plain"]), matrices(result["offset"])
    entries = {name: result[name] for name in ("name", "group", "steps", "seed", "parameters", "seconds")}
    return {
        **entries,
        "pixels": int(plain.sum()),
        **_rounded(figures(plain.sum(axis=0))),
        "with_offsets": _rounded(figures(offset.sum(axis=0))),
        "difference": _pairs(difference(plain, matrices(reference["plain"]))),
        "difference_with_offsets": _pairs(difference(offset, matrices(reference["offset"]))),
    }


def run_prior(steps: int, results: Results, path: Path) -> Iterator[dict[str, Any]]:
    """Compare shares of the prior that are hidden in training; on a synthetic world, as LUH2 has one year here."""
    for name, share in zip(prior_keys(steps), prior_masking.SHARES, strict=True):
        if name not in results:
            results[name] = prior_masking.compare(share, steps=steps)
            write_results(path, results)
        yield {"name": f"prior hidden {share:g}", "group": "prior", **_rounded(results[name])}


@lru_cache(maxsize=1)
def material_of(factor: int) -> tuple[Material, Patches]:
    """What all variants of a factor learn from, read once."""
    configuration = read_configuration("luh2-0p05")
    opened = open_data(configuration, {"forcing": LUH2})
    times = factor // configuration.inputs.factor
    if times > 1:
        fine = read_forcing(opened["forcing"], variables=configuration.inputs.coarse_variables)
        opened["forcing"] = coarsened(fine.data, times, fine.grid.cell_area())
    configuration = replace(configuration, inputs=replace(configuration.inputs, factor=factor))
    configuration, material = load(configuration, opened)
    return material, choose_patches(configuration, material)


def key(variant: Variant, steps: int) -> str:
    """Name under which a result is kept: another recipe, number of steps or seed is another result."""
    fixed = json.dumps([variant.configuration.to_dict(), steps, variant.seed], sort_keys=True)
    return f"{variant.name} {hashlib.sha256(fixed.encode()).hexdigest()[:12]}"


def prior_keys(steps: int) -> list[str]:
    return [f"prior {share:g} {steps}" for share in prior_masking.SHARES]


def read_results(path: Path) -> Results:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def write_results(path: Path, results: Results) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, json.dumps(results))


def matrices(kept: Mapping[str, Any]) -> np.ndarray:
    """Matrices by cell of the split, of which only those that hold a pixel are kept."""
    found = np.zeros((PLACES, len(CLASS_NAMES), len(CLASS_NAMES)), dtype=np.int64)
    found[kept["places"]] = kept["matrices"]
    return found


def _sparse(found: np.ndarray) -> dict[str, Any]:
    places = np.flatnonzero(found.any(axis=(1, 2)))
    return {"places": places.tolist(), "matrices": found[places].tolist()}


def _asked_for(only: list[str] | None, *names: str) -> bool:
    return only is None or REFERENCE in names[:1] or bool({*names} & {*only})


def _rounded(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: round(value, 4) if isinstance(value, float) else value for name, value in values.items()}


def _pairs(values: Mapping[str, tuple[float, float]]) -> dict[str, list[float]]:
    return {name: [round(each, 4) for each in pair] for name, pair in values.items()}


if __name__ == "__main__":
    main()
