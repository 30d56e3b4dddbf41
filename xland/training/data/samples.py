"""Which samples a training takes from its material: patches, years, order, and what they hold of each class."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from xland.errors import ConfigurationError, TimeError
from xland.geo.conventions import listed
from xland.geo.split import Part
from xland.models.inputs import MASKED
from xland.training.configuration import NO_AUGMENTATION, Configuration
from xland.training.data.loader import PatchDataset, PatchSource
from xland.training.data.material import Material
from xland.training.data.patches import (
    Patches,
    chunk_groups,
    count_in_patches,
    farthest_points,
    make_patches,
    sphere_points,
)
from xland.training.data.sampling import Order, sampling_rule
from xland.vocabulary import CLASS_NAMES, LAND_CLASSES


def take_census(source: PatchSource) -> NDArray[np.int64]:
    """Add up the pixels that count over all maps, ``(classes, coarse rows, coarse columns)``."""
    census = source.class_counts(0)
    for year in range(1, len(source.years)):
        census += source.class_counts(year)
    return census


def check_parts(census: NDArray[np.int64], part: NDArray[np.int8]) -> None:
    """Refuse a split whose training or validation cells hold no land class, or whose training cells lack one.

    Raises ConfigurationError; classes that are in no other cells may be missing.
    """
    held = {each: census[:, part == each].sum(axis=1) for each in Part}
    for each in (Part.TRAIN, Part.VALIDATION):
        if not held[each][list(LAND_CLASSES)].any():
            raise ConfigurationError(f"no {each.name.lower()} cell of the split holds a pixel of a land class")
    elsewhere = held[Part.VALIDATION] + held[Part.TEST]
    missing = [code for code in LAND_CLASSES if code < len(census) and elsewhere[code] and not held[Part.TRAIN][code]]
    if missing:
        named = ", ".join(f"{CLASS_NAMES[code]} ({elsewhere[code]} pixels)" for code in missing)
        raise ConfigurationError(
            f"the split leaves {named} out of the training: validation and test cells hold what no training cell does. "
            "Choose another split_seed, a larger region or more years"
        )


def make_dataset(
    configuration: Configuration,
    material: Material,
    part: Part,
    census: NDArray[np.int64],
    patches: Patches | None = None,
) -> PatchDataset:
    """Return the samples of one part of the split.

    Training patches overlap, are chosen evenly and are changed at random; those of other parts do not overlap, so that
    no pixel is judged twice, and only their prior is hidden. ``census`` is that of :func:`take_census`; ``patches``
    replace those of the schedule, and all of them that hold a pixel of the part are taken.
    Raises ConfigurationError if none does, TimeError if there are not as many consecutive maps as a sample needs.
    """
    schedule, factor = configuration.schedule, configuration.inputs.factor
    cells = material.part == part
    training = part == Part.TRAIN
    # a patch that ends within a coarse cell would leave a gap to the next, or overlap it
    size = schedule.patch if training or not schedule.patch % factor else configuration.inputs.window
    given = patches is not None
    if patches is None:
        patches = make_patches(material.grid, size, schedule.patch_stride if training else size, factor)
    patches = patches[count_in_patches(census.sum(axis=0) * cells, patches, factor) > 0]
    if not len(patches):
        raise ConfigurationError(f"no patch of {patches.size} cells holds a pixel for {part.name.lower()}")
    augmentation = configuration.augmentation
    if training and not given:
        rows, columns = (
            np.minimum(first + patches.size // 2, cells - 1)
            for first, cells in zip((patches.rows, patches.columns), material.grid.shape, strict=True)
        )
        points = sphere_points(material.grid.latitude[rows], material.grid.longitude[columns])
        patches = patches[farthest_points(points, schedule.candidates, schedule.seed)]
    if not training:
        augmentation = replace(
            NO_AUGMENTATION, prior_masked=augmentation.prior_masked, prior_block=augmentation.prior_block
        )
    return PatchDataset(
        material.source,
        patches,
        cells=cells,
        sequences=_sequences(material.source, configuration.rollout.years),
        augmentation=augmentation,
        seed=schedule.seed,
    )


def make_order(configuration: Configuration, dataset: PatchDataset) -> Order:
    """Return which samples the epochs of a training take, and in which order.

    Where the source is read in chunks, samples of a chunk come near each other.
    """
    schedule, source = configuration.schedule, dataset.source
    weights = None
    if schedule.samples or schedule.rare_classes or schedule.sampling != "rare_classes":
        weights = sampling_rule(schedule.sampling)(count_samples(dataset), schedule.rare_classes)
    groups = None
    if source.chunk is not None:
        # maps of all years of a place share its static fields, and each is the target of one and the prior of another
        groups = np.tile(chunk_groups(dataset.patches, source.chunk), len(dataset.sequences))
    return Order(
        len(dataset),
        schedule.seed,
        weights=weights,
        draws=(schedule.samples or len(dataset)) if weights is not None else None,
        groups=groups,
        locality=schedule.locality,
    )


def count_samples(dataset: PatchDataset) -> NDArray[np.int64]:
    """Count the pixels of each class in each sample, ``(samples, classes)``.

    A coarse cell in which a patch ends is counted whole.
    """
    factor = dataset.source.inputs.factor
    source, patches = dataset.source, dataset.patches
    by_year = np.stack(
        [
            [count_in_patches(counts * dataset.cells, patches, factor) for counts in source.class_counts(year)]
            for year in range(len(source.years))
        ]
    )
    by_sequence = by_year[dataset.sequences].sum(axis=1)
    return np.moveaxis(by_sequence, 1, 2).reshape(len(dataset), -1)


def sample_pixels(dataset: PatchDataset, seed: int, count: int = 100_000) -> tuple[Tensor, Tensor]:
    """Coarse and static channels at random pixels that count, ``(channels, about count)`` each."""
    random = np.random.default_rng(seed)
    factor = dataset.source.inputs.factor
    items = random.permutation(len(dataset))[:400]
    each = -(-count // len(items))
    coarse, static = [], []
    for item in items.tolist():
        place = dataset.places(item)[0]
        (values,) = dataset.source.read([place])
        cells = dataset.cells[place.coarse(factor)].repeat(factor, axis=0).repeat(factor, axis=1)
        counted = (values["target"] != MASKED) & cells[: dataset.patches.size, : dataset.patches.size]
        row, column = np.nonzero(counted)
        chosen = random.permutation(len(row))[:each]
        row, column = row[chosen], column[chosen]
        coarse.append(values["coarse"][:, row // factor, column // factor])
        static.append(values["static"][:, row, column])
    return torch.from_numpy(np.concatenate(coarse, axis=1)), torch.from_numpy(np.concatenate(static, axis=1))


def describe_items(dataset: PatchDataset, items: list[int]) -> str:
    """Name patches by their rows and columns on the fine grid, counted from the north-west, and their years."""
    named = []
    for item in items:
        places = dataset.places(item)
        (rows, columns), years = places[0][1:], listed([dataset.source.years[place.year] for place in places])
        named.append(f"rows {rows.start}-{rows.stop - 1}, columns {columns.start}-{columns.stop - 1}, {years}")
    return "; ".join(named)


def _sequences(source: PatchSource, length: int) -> NDArray[np.intp]:
    """Positions of maps that follow each other, in the direction in which a prior leads on."""
    position = {year: number for number, year in enumerate(source.years)}
    step = -source.inputs.prior_step
    runs = [[year + step * ahead for ahead in range(length)] for year in source.years]
    found = [[position[year] for year in run] for run in runs if all(year in position for year in run)]
    if not found:
        raise TimeError(
            f"samples of {length} consecutive maps need as many years in a row; there are {listed(source.years)}"
        )
    return np.array(found, dtype=np.intp)
