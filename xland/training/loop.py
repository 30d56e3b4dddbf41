"""One process learns: epochs, validation, the best weights, resumable after every epoch."""

from __future__ import annotations

import copy
import csv
import hashlib
import json
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader

from xland.batches.loader import NO_AUGMENTATION, Augmentation, PatchDataset, TrainingArrays, make_loader
from xland.batches.masking import MASKED
from xland.batches.patches import Patches, count_in_patches, farthest_points, make_patches, sphere_points
from xland.batches.split import Part
from xland.errors import ConfigurationError
from xland.grid import Grid
from xland.models.checkpoint import Checkpoint, read_checkpoint, save_checkpoint
from xland.models.unet import DownscalingNetwork
from xland.training.configuration import Configuration, Schedule
from xland.training.material import Material
from xland.training.objective import agreement, proven_offsets
from xland.training.state import STATE, Progress, load_state, save_state
from xland.vocabulary import LAND_CLASSES

Report = Callable[[str, float, dict[str, float]], None]


def fit(
    configuration: Configuration,
    material: Material,
    folder: Path,
    *,
    resume: bool = False,
    report: Report | None = None,
) -> Checkpoint:
    """Train a network and keep the one that validates best.

    Parameters
    ----------
    configuration : Configuration
        With normalised inputs.
    material : Material
    folder : path
        Receives the model (``weights.safetensors``, ``card.json``), ``log.csv`` and the state.
    resume : bool
        Whether to go on from the state in the folder.
    report : callable, optional
        Called with a stage, its finished share and the latest figures.

    Returns
    -------
    Checkpoint
        The best model, class offsets fitted on the validation cells included.

    Raises
    ------
    ConfigurationError
        If no patch holds a training pixel, or the folder holds a state and resume was not asked for.
    CheckpointError
        If the state in the folder is damaged or belongs to another configuration.
    """
    schedule, say = configuration.schedule, report or (lambda *_: None)
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / STATE).exists() and not resume:
        raise ConfigurationError(f"{folder} holds a training state: resume it, or choose another folder")
    torch.manual_seed(schedule.seed)
    train = _dataset(configuration, material, Part.TRAIN)
    validation = _dataset(configuration, material, Part.VALIDATION)
    network = DownscalingNetwork(configuration.inputs, configuration.architecture)
    network.fit_bins(*_sample_pixels(train, schedule.seed))
    average = copy.deepcopy(network)
    optimizer = _optimizer(network, schedule.learning_rate, schedule.weight_decay)
    key = _key(configuration, material)
    progress = Progress()
    if resume and (folder / STATE).exists():
        progress = load_state(folder, network, average, optimizer, key)
    counts = np.bincount(train.arrays.target.ravel(), minlength=256)[: len(configuration.inputs.classes)]
    weights = configuration.objective.class_weights(counts)
    steps = math.ceil((schedule.samples or len(train)) / schedule.batch) * schedule.epochs

    while progress.epoch < schedule.epochs:
        started = time.perf_counter()
        train.epoch = progress.epoch
        torch.manual_seed(schedule.seed * 100_003 + progress.epoch)
        losses = []
        network.train()
        for batch in _epoch(train, schedule):
            _set_rate(optimizer, schedule.learning_rate * _one_cycle(progress.step / steps, schedule.warmup))
            losses.append(_step(network, optimizer, batch, configuration, weights))
            progress.step += 1
            _update_average(average, network, min(schedule.averaging, (1 + progress.step) / (10 + progress.step)))
            say("training", progress.step / steps, {"loss": losses[-1]})
        progress.epoch += 1
        figures = {"epoch": float(progress.epoch), "loss": float(np.mean(losses))}
        if progress.epoch % schedule.validate_every == 0 or progress.epoch == schedule.epochs:
            figures |= _validate(average, validation, schedule.batch)
            if figures["accuracy"] + figures["miou"] > progress.best_merit:
                progress.best_merit, progress.best_epoch = figures["accuracy"] + figures["miou"], progress.epoch
                save_checkpoint(folder, average, _card(configuration, material, progress, figures))
        figures["seconds"] = time.perf_counter() - started
        progress.history.append(figures)
        _write_log(folder / "log.csv", progress.history)
        save_state(folder, network, average, optimizer, progress, key)
        say("epoch", progress.epoch / schedule.epochs, figures)
    return _finish(configuration, material, folder, validation, progress)


def predict_patches(
    network: nn.Module, dataset: PatchDataset, batch: int
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Scores and targets of all pixels that count: ``(pixels, classes)`` and ``(pixels,)``."""
    scores, targets = [], []
    network.eval()
    with torch.inference_mode():
        for samples in make_loader(dataset, batch, shuffle=False):
            output = _forward(network, samples).movedim(1, -1)
            counted = samples["target"] != MASKED
            scores.append(output[counted].numpy())
            targets.append(samples["target"][counted].numpy())
    return np.concatenate(scores), np.concatenate(targets)


def _dataset(configuration: Configuration, material: Material, part: Part) -> PatchDataset:
    schedule, inputs, arrays = configuration.schedule, configuration.inputs, material.arrays
    target = np.where(material.part == part, arrays.target, np.uint8(MASKED))
    counted = (target != MASKED).any(axis=0)
    training = part == Part.TRAIN
    # validation patches do not overlap, so that no pixel is judged twice
    stride = schedule.patch_stride if training else schedule.patch
    patches = make_patches(material.grid, schedule.patch, stride, inputs.factor)
    patches = patches[count_in_patches(counted, patches) > 0]
    if not len(patches):
        raise ConfigurationError(f"no patch of {schedule.patch} cells holds a pixel for {part.name.lower()}")
    if not np.isin(target, LAND_CLASSES).any():
        raise ConfigurationError(f"no {part.name.lower()} cell of the split holds a pixel of a land class")
    if training:
        patches = patches[_even_choice(material.grid, patches, schedule.candidates, schedule.seed)]
    return PatchDataset(
        TrainingArrays(arrays.coarse, arrays.static, target, arrays.prior),
        patches,
        inputs,
        configuration.augmentation if training else _hidden_prior_only(configuration),
        schedule.seed,
    )


def _hidden_prior_only(configuration: Configuration) -> Augmentation:
    masked, block = configuration.augmentation.prior_masked, configuration.augmentation.prior_block
    return replace(NO_AUGMENTATION, prior_masked=masked, prior_block=block)


def _even_choice(grid: Grid, patches: Patches, samples: int, seed: int) -> NDArray[np.intp]:
    latitude = grid.latitude[np.minimum(patches.rows + patches.size // 2, grid.rows - 1)]
    longitude = grid.longitude[np.minimum(patches.columns + patches.size // 2, grid.columns - 1)]
    return farthest_points(sphere_points(latitude, longitude), samples, seed)


def _sample_pixels(dataset: PatchDataset, seed: int, count: int = 100_000) -> tuple[Tensor, Tensor]:
    """Coarse and static channels at random training pixels, ``(channels, count)`` each."""
    arrays, factor = dataset.arrays, dataset.inputs.factor
    year, row, column = np.nonzero(arrays.target != MASKED)
    chosen = np.random.default_rng(seed).permutation(len(row))[:count]
    year, row, column = year[chosen], row[chosen], column[chosen]
    coarse = arrays.coarse[year, :, row // factor, column // factor].T
    return torch.from_numpy(coarse.copy()), torch.from_numpy(arrays.static[:, row, column])


def _epoch(dataset: PatchDataset, schedule: Schedule) -> DataLoader[dict[str, Tensor]]:
    weights = None
    if schedule.samples:
        counted = dataset.arrays.target != MASKED
        weights = np.concatenate([count_in_patches(year, dataset.patches) for year in counted]).astype(np.float64)
    return make_loader(
        dataset, schedule.batch, weights=weights, samples=schedule.samples or None, workers=schedule.workers
    )


def _draw_points(target: Tensor, count: int) -> Tensor:
    """Flat indices of pixels that count, drawn with replacement, ``(batch, count)``."""
    flat = (target != MASKED).flatten(1)
    total = flat.sum(dim=1, keepdim=True)
    rank = (torch.rand(len(flat), count) * total).long() + 1
    return torch.searchsorted(flat.cumsum(dim=1), rank.clamp_max(total)).clamp_max(flat.shape[1] - 1)


def _forward(network: nn.Module, samples: dict[str, Tensor]) -> Tensor:
    return network(samples["coarse"], samples["static"], samples.get("prior"))


def _step(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    samples: dict[str, Tensor],
    configuration: Configuration,
    weights: Tensor,
) -> float:
    target, points = samples["target"], None
    if configuration.schedule.points:
        points = _draw_points(target, configuration.schedule.points)
        target = target.flatten(1).gather(1, points)
    scores = network(samples["coarse"], samples["static"], samples.get("prior"), points)
    loss = configuration.objective.loss(scores, target, weights)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(network.parameters(), configuration.schedule.gradient_clip)
    optimizer.step()
    return loss.item()


def _optimizer(network: nn.Module, rate: float, decay: float) -> torch.optim.Optimizer:
    matrices = [p for p in network.parameters() if p.ndim > 1]
    vectors = [p for p in network.parameters() if p.ndim <= 1]
    return torch.optim.AdamW(
        [{"params": matrices, "weight_decay": decay}, {"params": vectors, "weight_decay": 0.0}], rate
    )


def _set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate


def _one_cycle(done: float, warmup: float) -> float:
    if done < warmup:
        return max(done / warmup, 0.02)
    return 0.5 * (1 + math.cos(math.pi * min((done - warmup) / (1 - warmup), 1.0)))


def _update_average(average: nn.Module, network: nn.Module, decay: float) -> None:
    with torch.no_grad():
        for old, new in zip(average.state_dict().values(), network.state_dict().values(), strict=True):
            if old.dtype.is_floating_point:
                old.lerp_(new, 1 - decay)
            else:
                old.copy_(new)


def _validate(network: nn.Module, dataset: PatchDataset, batch: int) -> dict[str, float]:
    scores, target = predict_patches(network, dataset, batch)
    return score_pixels(scores, target)


def score_pixels(scores: NDArray[np.float32], target: NDArray[np.uint8]) -> dict[str, float]:
    """Accuracy, mean IoU over land classes and IoU per class on the pixels whose target is land."""
    land = np.isin(target, LAND_CLASSES)
    accuracy, shares = agreement(scores[land].argmax(axis=1), target[land], scores.shape[1])
    iou = {f"iou_{code}": float(shares[code]) for code in LAND_CLASSES if (target == code).any()}
    mean = float(np.mean(list(iou.values()))) if iou else float("nan")
    return {"accuracy": accuracy, "miou": mean, **iou}


def _finish(
    configuration: Configuration, material: Material, folder: Path, validation: PatchDataset, progress: Progress
) -> Checkpoint:
    best = read_checkpoint(folder)
    if "class_offsets" in best.card:
        return best
    network = copy.deepcopy(best.network())
    scores, target = predict_patches(network, validation, configuration.schedule.batch)
    land = np.isin(target, LAND_CLASSES)
    offsets = proven_offsets(scores[land], target[land], LAND_CLASSES)
    with torch.no_grad():
        network.add_class_offsets(torch.from_numpy(offsets))
    # scored before the offsets, which were fitted on these very pixels
    figures = score_pixels(scores, target)
    card = _card(configuration, material, progress, figures)
    return save_checkpoint(folder, network, {**card, "class_offsets": [round(float(v), 4) for v in offsets]})


def _card(
    configuration: Configuration, material: Material, progress: Progress, figures: dict[str, float]
) -> dict[str, Any]:
    import xarray

    return {
        "name": configuration.name,
        "title": configuration.title,
        "licence": configuration.licence,
        "notes": configuration.notes,
        "data": material.description,
        "split": {
            "cells": "30 x 30 of the globe, 5:1:1, xland.batches.split.assign_cells",
            "seed": configuration.split_seed,
        },
        "training": {
            "configuration": configuration.to_dict(),
            "epochs": progress.epoch,
            "best_epoch": progress.best_epoch,
            "steps": progress.step,
        },
        "validation": {name: round(value, 4) for name, value in figures.items() if name not in ("epoch", "seconds")},
        "coverage": material.coverage.to_dict(),
        "versions": {"torch": torch.__version__, "numpy": np.__version__, "xarray": xarray.__version__},
    }


def _key(configuration: Configuration, material: Material) -> str:
    content = json.dumps([configuration.to_dict(), material.description], sort_keys=True, default=str)
    return hashlib.sha256(content.encode()).hexdigest()


def _write_log(path: Path, history: Iterable[dict[str, float]]) -> None:
    rows = list(history)
    names = list(dict.fromkeys(name for row in rows for name in row))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(rows)
