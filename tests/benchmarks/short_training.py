"""Short trainings with the recipe of a configuration, and scores of what they learned, cell by cell of the split.

Confusion matrices are kept by cell of the split, so that differences of scores have an error.
"""

from __future__ import annotations

import copy
import math
import time
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray

from xland.geo.split import CELL_COLUMNS, CELL_ROWS, Part, cell_of
from xland.models.inputs import MASKED, InputSpec
from xland.models.networks.unet import DownscalingNetwork
from xland.scores.measures import accuracy, iou, mean_iou
from xland.training.configuration import Configuration
from xland.training.data.batches import make_dataset, make_order, sample_pixels, take_census
from xland.training.data.loader import TrainingArrays, make_loader
from xland.training.data.material import Material
from xland.training.data.patches import Patches
from xland.training.data.sampling import RankSampler
from xland.training.learn.calibrating import fit_class_offsets
from xland.training.learn.group import Group
from xland.training.learn.steps import Stepper, call, make_optimizer, one_cycle, set_rate, update_average
from xland.vocabulary import CLASS_NAMES, LAND_CLASSES, OCEAN

STEPS_A_MINUTE = 100
"""Steps of 32 patches that one core takes in a minute, judging included (Xeon, 2.5 GHz)."""

EVERY = 7
"""Of the pixels that count, one in so many is judged: no multiple of a patch's width or of the factor."""

PLACES = CELL_ROWS * CELL_COLUMNS

FIGURES = ("accuracy", "miou", *(name for name in CLASS_NAMES if name != CLASS_NAMES[OCEAN]))
"""Accuracy and mean IoU over the pixels that are land in the observed map, and IoU of each class; that of
water over all pixels that count."""


@dataclass(frozen=True)
class Judged:
    """What a network says of a sample of pixels."""

    scores: NDArray[np.float32]
    target: NDArray[np.uint8]
    place: NDArray[np.int64]


def narrow(material: Material, inputs: InputSpec) -> Material:
    """Return the material with some of its channels only."""
    source = material.source
    assert isinstance(source, TrainingArrays)
    known = (*source.inputs.coarse, *source.inputs.static)
    some = inputs.normalised({each.name: (each.mean, each.scale) for each in known})
    coarse, static = (
        [[each.name for each in getattr(source.inputs, kind)].index(each.name) for each in getattr(some, kind)]
        for kind in ("coarse", "static")
    )
    steps = np.arange(len(some.steps))[:, None] * len(source.inputs.coarse)
    chosen = replace(
        source, inputs=some, coarse=source.coarse[:, (steps + coarse).ravel()], static=source.static[static]
    )
    return replace(material, source=chosen)


def coarsened(forcing: xr.Dataset, factor: int, area: NDArray[np.float64]) -> xr.Dataset:
    """Average a forcing of fractions over blocks of cells, by area; NaN where all of a block are."""
    weights = xr.DataArray(area, {"lat": forcing["lat"]}, ("lat",))
    with xr.set_options(keep_attrs=True):
        sums = (forcing.fillna(0) * weights).coarsen(lat=factor, lon=factor).sum()
        means = sums / (weights.coarsen(lat=factor).sum() * factor)
    known = forcing.notnull().coarsen(lat=factor, lon=factor).max()
    return means.where(known).astype(np.float32)


def choose_patches(configuration: Configuration, material: Material) -> Patches:
    """Choose the patches that the schedule learns from, once for all trainings."""
    return make_dataset(configuration, material, Part.TRAIN, take_census(material.source)).patches


def learn(
    configuration: Configuration, material: Material, patches: Patches, *, steps: int, seed: int = 0
) -> tuple[DownscalingNetwork, float]:
    """Train as :func:`xland.training.learn.loop.fit` does, but for so many steps in one epoch."""
    started = time.process_time()
    schedule = replace(configuration.schedule, samples=steps * configuration.schedule.batch, seed=seed)
    configuration = replace(configuration, schedule=schedule)
    census = take_census(material.source)
    train = make_dataset(configuration, material, Part.TRAIN, census, patches)
    sampler = RankSampler(make_order(configuration, train), schedule.batch)
    torch.manual_seed(seed)
    network = DownscalingNetwork(configuration.inputs, configuration.architecture)
    if network.needs_bins:
        network.fit_bins(*sample_pixels(train, seed))
    average = copy.deepcopy(network)
    optimizer = make_optimizer(network, schedule.learning_rate, schedule.weight_decay)
    weights = configuration.objective.class_weights(census[:, material.part == Part.TRAIN].sum(axis=1))
    stepper = Stepper(network, optimizer, configuration, weights, Group())
    for step, samples in enumerate(make_loader(train, sampler)):
        set_rate(optimizer, schedule.learning_rate * one_cycle(step / steps, schedule.warmup))
        loss, _ = stepper.take(samples, whole=sampler.batch_size(step), step=step)
        assert torch.isfinite(loss), f"the loss is {loss} in step {step}"
        update_average(average, network, min(schedule.averaging, (2 + step) / (11 + step)))
    return average.eval(), time.process_time() - started


def judge(
    network: DownscalingNetwork,
    configuration: Configuration,
    material: Material,
    cells: NDArray[np.bool_],
    *,
    every: int = EVERY,
) -> Judged:
    """Let a network say what some coarse cells hold, at one in ``every`` of the pixels that count."""
    part = np.where(cells, np.int8(Part.VALIDATION), np.int8(Part.NONE))
    dataset = make_dataset(configuration, replace(material, part=part), Part.VALIDATION, take_census(material.source))
    grid, size = material.grid, dataset.patches.size
    cell_rows, _ = cell_of(grid.latitude, np.zeros(grid.rows))
    _, cell_columns = cell_of(np.zeros(grid.columns), grid.longitude)
    found: list[tuple[NDArray[Any], ...]] = []
    network.eval()
    for item in range(len(dataset)):
        sample = dataset[item]
        target = sample["target"].numpy().ravel()
        chosen = np.flatnonzero(target != MASKED)[::every]
        if not chosen.size:
            continue
        batch = {name: values[None] for name, values in sample.items()} | {"points": torch.from_numpy(chosen)[None]}
        with torch.inference_mode():
            scores = call(network, batch)[0].T.float().numpy()
        place = dataset.places(item)[0]
        row, column = place.rows.start + chosen // size, place.columns.start + chosen % size
        found.append((scores, target[chosen], cell_rows[row] * CELL_COLUMNS + cell_columns[column]))
    return Judged(*(np.concatenate(each) for each in zip(*found, strict=True)))


def count(target: NDArray[np.uint8], predicted: NDArray[np.integer], place: NDArray[np.int64]) -> NDArray[np.int64]:
    """Cross-tabulate target and prediction in each cell of the split: ``(900, classes, classes)``."""
    classes = len(CLASS_NAMES)
    flat = (place * classes + target) * classes + predicted
    return np.bincount(flat, minlength=PLACES * classes**2).reshape(PLACES, classes, classes)


def count_most_probable(judged: Judged) -> NDArray[np.int64]:
    """Matrices of the most probable class."""
    return count(judged.target, judged.scores.argmax(axis=1), judged.place)


def count_with_offsets(judged: Judged) -> NDArray[np.int64]:
    """Matrices of the most probable class after offsets of the classes, which other cells of the split gave.

    Cells are dealt into two halves; offsets fitted on the land of one serve the other, so that no pixel
    is judged with offsets that it had a part in.
    """
    half = np.isin(judged.place, np.unique(judged.place)[::2])
    land = np.isin(judged.target, LAND_CLASSES)
    total = np.zeros((PLACES, len(CLASS_NAMES), len(CLASS_NAMES)), dtype=np.int64)
    for fitted, used in ((half, ~half), (~half, half)):
        offsets = fit_class_offsets(judged.scores[fitted & land], judged.target[fitted & land])
        predicted = (judged.scores[used] + offsets).argmax(axis=1)
        total += count(judged.target[used], predicted, judged.place[used])
    return total


def figures(matrix: NDArray[np.integer]) -> dict[str, float]:
    """All of :data:`FIGURES` from one matrix, rows observed; NaN where not defined."""
    land = np.zeros_like(matrix)
    land[list(LAND_CLASSES)] = matrix[list(LAND_CLASSES)]
    of_land, of_all = iou(land), iou(matrix)
    by_class = {
        name: float((of_land if code in LAND_CLASSES else of_all)[code])
        for code, name in enumerate(CLASS_NAMES)
        if code != OCEAN
    }
    observed = [code for code in LAND_CLASSES if land[code].any()]
    return {"accuracy": accuracy(land), "miou": mean_iou(land, observed), **by_class}


def difference(
    matrices: NDArray[np.int64], reference: NDArray[np.int64], draws: int = 200, seed: int = 0
) -> dict[str, tuple[float, float]]:
    """How much each figure differs from the reference, and the standard error of that (paired bootstrap of cells)."""
    held = np.flatnonzero(reference.sum(axis=(1, 2)))
    times = np.random.default_rng(seed).multinomial(len(held), np.full(len(held), 1 / len(held)), draws)

    def differences(weights: NDArray[np.int64]) -> list[float]:
        mine, other = (figures(np.tensordot(weights, each[held], 1)) for each in (matrices, reference))
        return [mine[name] - other[name] for name in FIGURES]

    values = differences(np.ones(len(held), dtype=np.int64))
    drawn = np.array([differences(weights) for weights in times]).T
    known = [each[np.isfinite(each)] for each in drawn]
    errors = [float(each.std(ddof=1)) if len(each) > 1 else math.nan for each in known]
    return dict(zip(FIGURES, zip(values, errors, strict=True), strict=True))
