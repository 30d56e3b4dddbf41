"""What each part of the recipe of ``luh2-0p05`` brings: short trainings that differ from it in one thing.

Run as ``python -m tests.benchmarks.ablation [--only NAME ...] [--minutes M] [--write]``. Each variant is
trained for the same number of steps with the same seed and scored on the validation cells of the split;
the test cells stay untouched. One JSON line a variant. What is finished is kept in a file, so that a run that was
stopped goes on; ``--write`` draws the table of docs/ablation.md from it. Needs the reference data (``make
data``) and the LUH2 file of 2015 in ``../shared/data`` or ``XLAND_TEST_DATA``.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.benchmarks.harness import LUH2, PROJECT, missing, rounded, show
from tests.benchmarks.short_training import (
    PLACES,
    STEPS_A_MINUTE,
    choose_patches,
    coarsened,
    count_most_probable,
    count_with_offsets,
    difference,
    figures,
    judge,
    learn,
    narrow,
)
from tests.benchmarks.tables import points, share, table, write_between
from xland.datasets import cache_dir
from xland.datasets.prepared import PREDICTORS
from xland.forcing.read import read_forcing
from xland.geo.split import Part
from xland.models.inputs import InputSpec
from xland.paths import replace_file
from xland.training.configuration import Configuration, read_configuration
from xland.training.data.material import Material, gather, open_data
from xland.training.data.patches import Patches
from xland.vocabulary import CLASS_NAMES

PAGE = PROJECT / "docs" / "ablation.md"
REFERENCE = "reference"
RECIPE = "luh2-0p05"

SHOWN = {
    "accuracy": "accuracy", "miou": "mIoU", "urban": "urban", "water": "water", "pasture": "pasture",
    "cropland": "cropland", "forest": "forest", "grass_shrub": "grass, shrub", "other": "other",
}  # fmt: skip
"""Columns of the table."""

Results = dict[str, dict[str, Any]]

_SOURCES = {"topography": "terrain", "land-mask": "land and sea", "koppen": "climate zones"}
"""What groups of predictors are called whose source has another name."""

_WEIGHTS = (("equal weights", 0), ("weights 0.25", 0.25), ("weights 0.5", 0.5))
_ONE_ENTRY: tuple[tuple[str, str, str, tuple[tuple[str, Any], ...]], ...] = (
    ("rare classes", "objective", "class_weight_power", _WEIGHTS),
    ("rare classes", "objective", "focal_gamma", (("no focal loss", 0), ("focal loss 2", 2.0))),
    ("rare classes", "objective", "lovasz", (("no Lovasz term", 0), ("Lovasz term 0.5", 0.5))),
    ("rare classes", "schedule", "rare_classes", (("plain sampling", 0), ("rare sampling 0.5", 0.5))),
    ("regularisation", "architecture", "dropout", (("no dropout", 0),)),
    ("regularisation", "architecture", "context_dropout", (("context never dropped", 0),)),
    ("regularisation", "augmentation", "flip_north_south", (("no north-south flips", False),)),
    ("regularisation", "augmentation", "channel_dropout", (("no channels dropped", 0),)),
)  # fmt: skip
"""Group, section and entry of the configuration, and what it is called at each value."""


@dataclass(frozen=True)
class Variant:
    """One training of the ablation."""

    name: str
    group: str
    configuration: Configuration
    seed: int = 0


def list_variants(configuration: Configuration) -> list[Variant]:
    """Return the reference, which is the configuration itself, and every variant of it."""
    return [
        Variant(REFERENCE, REFERENCE, configuration),
        *_one_entry(configuration, "rare classes"),
        *_predictors(configuration),
        Variant("another seed", REFERENCE, configuration, seed=1),
        *_one_entry(configuration, "regularisation"),
        *_sizes(configuration),
    ]


def predictor_groups(inputs: InputSpec) -> dict[str, tuple[str, ...]]:
    """Static channels by the source that they come from; those without one go by their own name."""
    source = {each.name: each.sources[0] for each in PREDICTORS if each.sources}
    groups: dict[str, list[str]] = {}
    for channel in inputs.static:
        name = source.get(channel.sources[0], channel.name)
        groups.setdefault(_SOURCES.get(name, name), []).append(channel.name)
    return {name: tuple(channels) for name, channels in groups.items()}


def fits(configuration: Configuration, *, depth: int = 0, factor: int = 0) -> bool:
    """Whether the patches of a configuration can be halved as often as a depth and a factor ask for."""
    depth, factor = depth or configuration.architecture.depth, factor or configuration.inputs.factor
    patch, stride = configuration.schedule.patch, configuration.schedule.patch_stride
    whole = not (patch % factor or stride % factor)
    return whole and not configuration.architecture.cells(patch, factor) % 2**depth


def _one_entry(configuration: Configuration, wanted: str) -> Iterator[Variant]:
    for group, section, entry, values in _ONE_ENTRY:
        if group != wanted:
            continue
        part = getattr(configuration, section)
        for name, value in values:
            if value != getattr(part, entry):
                changed = replace(configuration, **{section: replace(part, **{entry: value})})
                yield Variant(name, group, changed)


def _predictors(configuration: Configuration) -> Iterator[Variant]:
    inputs = configuration.inputs
    for group, channels in predictor_groups(inputs).items():
        kept = tuple(channel for channel in inputs.static if channel.name not in channels)
        yield Variant(f"without {group}", "predictors", replace(configuration, inputs=replace(inputs, static=kept)))
    land = tuple(channel for channel in inputs.static if channel.sources == (inputs.domain,))
    yield Variant("land share alone", "predictors", replace(configuration, inputs=replace(inputs, static=land)))
    total = max(inputs.coarse, key=lambda channel: len(channel.sources))
    bare = tuple(channel for channel in inputs.coarse if channel == total or not channel.sources)
    yield Variant("sum of the states alone", "predictors", replace(configuration, inputs=replace(inputs, coarse=bare)))


def _sizes(configuration: Configuration) -> Iterator[Variant]:
    inputs, architecture = configuration.inputs, configuration.architecture
    for name, times in (("half width", 0.5), ("double width", 2)):
        wider = {each: max(1, round(getattr(architecture, each) * times)) for each in ("width", "head")}
        yield Variant(name, "size", replace(configuration, architecture=replace(architecture, **wider)))
    if fits(configuration, depth=architecture.depth + 1):
        deeper = replace(architecture, depth=architecture.depth + 1)
        yield Variant("one level more", "size", replace(configuration, architecture=deeper))
    factor = 2 * inputs.factor
    if fits(configuration, factor=factor):
        coarser = replace(configuration, inputs=replace(inputs, factor=factor))
        yield Variant(f"states on {factor * inputs.resolution:g} degree", "factor", coarser)


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
        **rounded(figures(plain.sum(axis=0))),
        "with_offsets": rounded(figures(offset.sum(axis=0))),
        "difference": _pairs(difference(plain, matrices(reference["plain"]))),
        "difference_with_offsets": _pairs(difference(offset, matrices(reference["offset"]))),
    }


@lru_cache(maxsize=1)
def material_of(factor: int) -> tuple[Material, Patches]:
    """What all variants of a factor learn from, read once."""
    configuration = read_configuration(RECIPE)
    opened = open_data(configuration, {"forcing": LUH2})
    times = factor // configuration.inputs.factor
    if times > 1:
        fine = read_forcing(opened["forcing"], variables=configuration.inputs.coarse_variables)
        opened["forcing"] = coarsened(fine.data, times, fine.grid.cell_area())
    configuration = replace(configuration, inputs=replace(configuration.inputs, factor=factor))
    configuration, material = gather(configuration, **opened)
    return material, choose_patches(configuration, material)


def key(variant: Variant, steps: int) -> str:
    """Name under which a result is kept: another recipe, number of steps or seed is another result."""
    fixed = json.dumps([variant.configuration.to_dict(), steps, variant.seed], sort_keys=True)
    return f"{variant.name} {hashlib.sha256(fixed.encode()).hexdigest()[:12]}"


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


def _pairs(values: Mapping[str, tuple[float, float]]) -> dict[str, list[float]]:
    return {name: [round(each, 4) for each in pair] for name, pair in values.items()}


def ablation_table(lines: Sequence[Mapping[str, Any]]) -> str:
    """The reference in shares, and of each variant the differences to it; then both with offsets."""
    offsets = ("miou", "urban")
    reference, *others = lines
    shares = [reference[name] for name in SHOWN] + [reference["with_offsets"][name] for name in offsets]
    rows = [["**reference**", *map(share, shares)]]
    for each in others:
        pairs = [each["difference"][name] for name in SHOWN]
        pairs += [each["difference_with_offsets"][name] for name in offsets]
        rows.append([each["name"], *map(points, pairs)])
    return table(["", *SHOWN.values(), "mIoU, offsets", "urban, offsets"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", metavar="NAME", help="variants or groups of them; the reference always")
    parser.add_argument("--minutes", type=float, default=2, help="of one core for each variant")
    parser.add_argument("--list", action="store_true", help="name the variants and stop")
    parser.add_argument("--write", action="store_true", help="draw the table of docs/ablation.md")
    options = parser.parse_args()
    torch.set_num_threads(1)
    variants = list_variants(read_configuration(RECIPE))
    if options.list:
        for variant in variants:
            show({"name": variant.name, "group": variant.group})
        return
    if not LUH2.exists():
        show(missing("ablation", LUH2))
        return
    steps = max(1, round(options.minutes * STEPS_A_MINUTE))
    wanted = set(options.only or [each.name for each in variants])
    chosen = [each for each in variants if each.name == REFERENCE or wanted & {each.name, each.group}]
    path = cache_dir() / "ablation.json"
    results = read_results(path)
    for each in run(chosen, steps, results, path):
        show(each)
    if options.write:
        done = [results[key(each, steps)] for each in variants if key(each, steps) in results]
        write_between(PAGE, "ablation", ablation_table([line(each, done[0]) for each in done]))


if __name__ == "__main__":
    main()
