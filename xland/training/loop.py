"""One process learns: epochs, validation, the best weights; resumable at any step."""

from __future__ import annotations

import copy
import csv
import io
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from xland.batches.loader import NO_AUGMENTATION, Augmentation, PatchDataset, TrainingArrays, make_loader
from xland.batches.masking import MASKED
from xland.batches.patches import Patches, count_in_patches, farthest_points, make_patches, sphere_points
from xland.batches.split import Part
from xland.errors import ConfigurationError, TrainingError, TrainingStoppedError
from xland.grid import Grid
from xland.models.checkpoint import Checkpoint, read_checkpoint, save_checkpoint, write_atomically
from xland.models.unet import DownscalingNetwork
from xland.training.configuration import Configuration
from xland.training.identity import identify
from xland.training.material import Material
from xland.training.objective import agreement, proven_offsets
from xland.training.order import Order, describe_items, epoch_batches
from xland.training.state import Learner, Progress, has_state, load_state, save_state
from xland.training.steps import make_optimizer, one_cycle, set_rate, take_step, update_average
from xland.training.stopping import Termination, deferred_termination
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

    The state is written after every epoch, every ``checkpoint_every`` steps of the schedule, and when
    the process is asked to end (SIGTERM, in the main thread). A training that goes on from it gives
    the same losses and weights as one without a pause, bit for bit on a CPU.

    Parameters
    ----------
    configuration : Configuration
        With normalised inputs.
    material : Material
    folder : path
        Receives the model (``weights.safetensors``, ``card.json``), ``log.csv`` and the last two states.
    resume : bool
        Whether to go on from the state in the folder.
    report : callable, optional
        Called with a stage, its finished share and the latest figures: ``training`` for the loss of
        each step, ``epoch`` for the scores of each epoch.

    Returns
    -------
    Checkpoint
        The best model, class offsets fitted on the validation cells included.

    Raises
    ------
    ConfigurationError
        If no patch holds a training pixel, or the folder holds a state and resume was not asked for.
    CheckpointError
        If the states in the folder are damaged or belong to another configuration or other data, or a
        state or the model cannot be written.
    TrainingError
        If the loss or its gradient is not finite; the message names the step and its patches. The last
        state and the best model are kept.
    TrainingStoppedError
        If the process was asked to end. The step in hand is finished and the state written.
    """
    schedule = configuration.schedule
    folder.mkdir(parents=True, exist_ok=True)
    if has_state(folder) and not resume:
        raise ConfigurationError(f"{folder} holds a training state: resume it, or choose another folder")
    torch.manual_seed(schedule.seed)
    train = _dataset(configuration, material, Part.TRAIN)
    validation = _dataset(configuration, material, Part.VALIDATION)
    network = DownscalingNetwork(configuration.inputs, configuration.architecture)
    network.fit_bins(*_sample_pixels(train, schedule.seed))
    optimizer = make_optimizer(network, schedule.learning_rate, schedule.weight_decay)
    learner = Learner(network, copy.deepcopy(network), optimizer)
    identity = identify(configuration, material)
    progress = load_state(folder, learner, identity) if has_state(folder) else Progress()
    counts = np.bincount(train.arrays.target.ravel(), minlength=256)[: len(configuration.inputs.classes)]
    weights = configuration.objective.class_weights(counts)
    training = _Training(
        configuration,
        material,
        folder,
        train,
        validation,
        learner,
        identity,
        progress,
        weights,
        _silent if report is None else report,
    )
    with deferred_termination() as request:
        while progress.epoch < schedule.epochs:
            started = time.perf_counter()
            training.learn(request)
            training.judge(request, started)
    return _finish(configuration, material, folder, validation, progress)


@dataclass(frozen=True)
class _Training:
    """A training under way: what it learns from, what it changes, and where it writes."""

    configuration: Configuration
    material: Material
    folder: Path
    train: PatchDataset
    validation: PatchDataset
    learner: Learner
    identity: dict[str, Any]
    progress: Progress
    class_weights: Tensor
    say: Report

    def learn(self, request: Termination) -> None:
        """Take the steps of the epoch that are not done."""
        schedule, progress, learner = self.configuration.schedule, self.progress, self.learner
        self.train.epoch = progress.epoch
        if not progress.losses:
            torch.manual_seed(schedule.seed * 100_003 + progress.epoch)
        batches, order = epoch_batches(self.train, schedule, len(progress.losses))
        unread: list[Tensor] = []
        learner.network.train()
        for batch in batches:
            rate = one_cycle(progress.step / self._steps, schedule.warmup)
            set_rate(learner.optimizer, schedule.learning_rate * rate)
            unread.append(take_step(learner.network, learner.optimizer, batch, self.configuration, self.class_weights))
            progress.step += 1
            decay = min(schedule.averaging, (1 + progress.step) / (10 + progress.step))
            update_average(learner.average, learner.network, decay)
            stopping = request.asked  # once: it can come at any moment
            writing = stopping or (schedule.checkpoint_every and progress.step % schedule.checkpoint_every == 0)
            if writing or len(unread) == schedule.report_every:
                self._read_losses(unread, order)
            if writing:
                self.save()
            if stopping:
                raise self._stopped()
        self._read_losses(unread, order)

    def judge(self, request: Termination, started: float) -> None:
        """Validate after an epoch, keep the best weights, and write log and state."""
        schedule, progress = self.configuration.schedule, self.progress
        epoch = progress.epoch + 1
        figures = {"epoch": float(epoch), "loss": float(np.mean(progress.losses))}
        best = None
        if epoch % schedule.validate_every == 0 or epoch == schedule.epochs:
            check = partial(self.heed, request)
            scores, target = predict_patches(self.learner.average, self.validation, schedule.batch, check)
            figures |= score_pixels(scores, target)
            best = figures["accuracy"] + figures["miou"]
        progress.epoch, progress.losses = epoch, []
        if best is not None and best > progress.best_merit:
            progress.best_merit, progress.best_epoch = best, epoch
            card = _card(self.configuration, self.material, progress, figures)
            save_checkpoint(self.folder, self.learner.average, card)
        figures["seconds"] = time.perf_counter() - started
        progress.history.append(figures)
        _write_log(self.folder / "log.csv", progress.history)
        self.save()
        self.say("epoch", epoch / schedule.epochs, figures)
        if request.asked:
            raise self._stopped()

    def save(self) -> None:
        """Write the state."""
        save_state(self.folder, self.learner, self.progress, self.identity)

    def heed(self, request: Termination) -> None:
        """Write the state and stop, if that is asked for."""
        if request.asked:
            self.save()
            raise self._stopped()

    def _stopped(self) -> TrainingStoppedError:
        return TrainingStoppedError(
            f"the training was asked to end (SIGTERM) and stopped after step {self.progress.step} of "
            f"{self._steps}; its state is in {self.folder}: resume it to go on"
        )

    @property
    def _steps(self) -> int:
        schedule = self.configuration.schedule
        return math.ceil((schedule.samples or len(self.train)) / schedule.batch) * schedule.epochs

    def _read_losses(self, unread: list[Tensor], order: Order) -> None:
        """Read losses of steps, report them, and refuse any that is not finite."""
        progress = self.progress
        before = progress.step - len(unread)
        for step, (loss, norm) in enumerate((values.tolist() for values in unread), before + 1):
            if not (math.isfinite(loss) and math.isfinite(norm)):
                what = f"the loss is {loss}" if not math.isfinite(loss) else f"the norm of the gradient is {norm}"
                years = [year for _, year in self.material.description["pairs"]]
                raise TrainingError(
                    f"{what} in epoch {progress.epoch + 1}, step {step}, on the patches "
                    f"{describe_items(self.train, order.items[len(progress.losses)], years)}. Look at the data there, "
                    f"or train with a lower learning_rate; the last state and the best model stay in {self.folder}"
                )
            progress.losses.append(loss)
            self.say("training", step / self._steps, {"loss": loss})
        unread.clear()


def _silent(_stage: str, _done: float, _figures: dict[str, float]) -> None:
    """Report nothing."""


def predict_patches(
    network: nn.Module, dataset: PatchDataset, batch: int, check: Callable[[], None] | None = None
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Scores and targets of all pixels that count: ``(pixels, classes)`` and ``(pixels,)``.

    Parameters
    ----------
    network : Module
    dataset : PatchDataset
    batch : int
        Patches a batch.
    check : callable, optional
        Called before each batch; what it raises ends the work.
    """
    scores, targets = [], []
    network.eval()
    with torch.inference_mode():
        for samples in make_loader(dataset, batch, shuffle=False):
            if check is not None:
                check()
            output = network(samples["coarse"], samples["static"], samples.get("prior")).movedim(1, -1)
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


def _write_log(path: Path, history: Iterable[dict[str, float]]) -> None:
    rows = list(history)
    names = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, names)
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(path, text.getvalue().encode())
