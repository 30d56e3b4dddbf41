"""A network learns: epochs, validation, the best weights; in one process or many, resumable at any step."""

from __future__ import annotations

import copy
import csv
import io
import math
import time
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from xland.atomic import make_folder, replace_file
from xland.errors import CheckpointError, ConfigurationError, TrainingError, TrainingStoppedError
from xland.geo.split import Part
from xland.models.checkpoint import Checkpoint, read_checkpoint, save_checkpoint
from xland.models.networks.unet import DownscalingNetwork
from xland.training.configuration import Configuration
from xland.training.data.loader import PatchDataset, make_loader
from xland.training.data.material import Material, identify
from xland.training.data.patches import Patches
from xland.training.data.samples import (
    check_parts,
    describe_items,
    make_dataset,
    make_order,
    sample_pixels,
    take_census,
)
from xland.training.data.sampling import RankSampler
from xland.training.learn.calibrating import fit_card
from xland.training.learn.state import Learner, Progress, has_state, load_state, save_state
from xland.training.learn.steps import Stepper, make_optimizer, one_cycle, set_rate, update_average
from xland.training.learn.validation import count_pairs, score_pairs
from xland.training.learn.watching import EnergyMeter, Step, Watch
from xland.training.ranks.group import Group
from xland.training.rollout import sampling_share
from xland.training.stopping import Termination, deferred_termination, ignore_termination

Report = Callable[[str, float, dict[str, float]], None]

ALONE = Group()


def fit(
    configuration: Configuration,
    material: Material,
    folder: Path,
    *,
    resume: bool = False,
    report: Report | None = None,
    group: Group = ALONE,
    patches: Patches | None = None,
    measure_energy: bool = False,
) -> Checkpoint:
    """Train a network and keep the one that validates best.

    The state is written after every epoch, every ``checkpoint_every`` steps of the schedule, and when
    a process is asked to end (SIGTERM, in the main thread). A training that goes on from it gives
    the same losses and weights as one without a pause, bit for bit on a CPU.

    Parameters
    ----------
    configuration : Configuration
        With normalised inputs.
    material : Material
    folder : path
        Receives the model (``weights.safetensors``, ``card.json``), ``log.csv`` (epochs), ``steps.csv``,
        ``tensorboard`` and the last two states.
    resume : bool
        Whether to go on from the state in the folder.
    report : callable, optional
        Called with a stage, its finished share and the latest figures: ``training`` for the loss of
        each step, with samples a second and the share of time spent waiting for data; ``epoch`` for the
        scores of each epoch.
    group : Group, optional
        The processes that learn together; all of them call this function with the same arguments, and
        rank 0 writes the files. By default this one is alone.
    patches : Patches, optional
        The patches to learn from, in place of those of the schedule.
    measure_energy : bool
        Whether the card tells the electricity that the machine used; see
        :class:`xland.training.learn.watching.EnergyMeter`.

    Returns
    -------
    Checkpoint
        The best model, with calibration, decision and applicability in its card;
        see :func:`xland.training.learn.calibrating.fit_card`.

    Raises
    ------
    ConfigurationError
        If no patch holds a training pixel, a class is in other cells but in no training cell, there are fewer
        samples than ranks, or the folder holds a state and resume was not asked for.
    CheckpointError
        If the states in the folder are damaged or belong to another configuration or other data, or a
        state or the model cannot be written.
    TrainingError
        If the loss or its gradient is not finite; the message names the step and its patches. The last
        state and the best model are kept.
    TrainingStoppedError
        If a process was asked to end. The step in hand is finished and the state written.
    """
    schedule = configuration.schedule
    make_folder(folder, CheckpointError)
    if has_state(folder) and not resume:
        raise ConfigurationError(f"{folder} holds a training state: resume it, or choose another folder")
    census = take_census(material.source)
    check_parts(census, material.part)
    train = make_dataset(configuration, material, Part.TRAIN, census, patches)
    validation = make_dataset(configuration, material, Part.VALIDATION, census)
    sampler = RankSampler(make_order(configuration, train), schedule.batch, rank=group.rank, ranks=group.ranks)
    torch.manual_seed(schedule.seed)
    network = DownscalingNetwork(configuration.inputs, configuration.architecture)
    if network.needs_bins:
        network.fit_bins(*sample_pixels(train, schedule.seed))
    network.to(group.device)
    optimizer = make_optimizer(network, schedule.learning_rate, schedule.weight_decay)
    learner = Learner(network, copy.deepcopy(network), optimizer)
    identity = identify(configuration, material, patches)
    progress = _read_progress(folder, learner, identity, group)
    weights = configuration.objective.class_weights(census[:, material.part == Part.TRAIN].sum(axis=1))
    with (
        deferred_termination() as request,
        Watch(folder, main=group.main, after=progress.step) as watch,
        EnergyMeter(progress.energy) if measure_energy and group.main else nullcontext(EnergyMeter()) as energy,
    ):
        training = _Training(
            configuration,
            material,
            folder,
            train,
            validation,
            sampler,
            learner,
            Stepper(network, optimizer, configuration, weights.to(group.device), group),
            identity,
            progress,
            group,
            watch,
            energy,
            _silent if report is None or not group.main else report,
        )
        training.run(request)
    return training.finish()


def _read_progress(folder: Path, learner: Learner, identity: dict[str, Any], group: Group) -> Progress:
    """Read the state in every rank: the first alone to begin with, as it mends what is damaged."""
    progress = Progress()
    for first in (True, False):
        if group.main == first and has_state(folder):
            progress = load_state(folder, learner, identity)
        group.barrier()
    if group.any(int(group.sum(torch.tensor(progress.step))) != progress.step * group.ranks):
        raise CheckpointError(
            f"the ranks do not read the same state in {folder}: it must lie on a file system that shows all of them "
            "the same, and no other training may write to it"
        )
    return progress


@dataclass(frozen=True)
class _Training:
    """A training under way: what it learns from, what it changes, and where it writes."""

    configuration: Configuration
    material: Material
    folder: Path
    train: PatchDataset
    validation: PatchDataset
    sampler: RankSampler
    learner: Learner
    stepper: Stepper
    identity: dict[str, Any]
    progress: Progress
    group: Group
    watch: Watch
    energy: EnergyMeter
    say: Report

    def run(self, request: Termination) -> None:
        """Learn and validate, epoch by epoch, until all are done."""
        schedule = self.configuration.schedule
        loader = make_loader(
            self.train,
            self.sampler,
            workers=schedule.workers,
            pinned=self.group.device.type == "cuda",
            prepare_worker=ignore_termination,
        )
        while self.progress.epoch < schedule.epochs:
            started = time.perf_counter()
            self.learn(loader, request)
            self.judge(request, started)

    def learn(self, loader: DataLoader[dict[str, Tensor]], request: Termination) -> None:
        """Take the steps of the epoch that are not done."""
        schedule, progress, learner = self.configuration.schedule, self.progress, self.learner
        self.sampler.set_epoch(progress.epoch, len(progress.losses))
        unread: list[Tensor] = []
        learner.network.train()
        for number, samples in enumerate(self.watch.waiting(loader), len(progress.losses)):
            done = progress.step / self._steps
            set_rate(learner.optimizer, self._rate(progress.step))
            own_maps = sampling_share(done, self.configuration.rollout.own_maps)
            whole = self.sampler.batch_size(number)
            unread.append(self.stepper.take(samples, whole=whole, step=progress.step, own_maps=own_maps))
            self.watch.step(whole)
            progress.step += 1
            decay = min(schedule.averaging, (1 + progress.step) / (10 + progress.step))
            update_average(learner.average, learner.network, decay)
            writing = schedule.checkpoint_every and progress.step % schedule.checkpoint_every == 0
            if writing or len(unread) == schedule.report_every:
                stopping = self.group.any(request.asked)  # once: it can come at any moment
                self._read_losses(unread)
                if writing or stopping:
                    self.save()
                if stopping:
                    raise self._stopped()
        self._read_losses(unread)

    def judge(self, request: Termination, started: float) -> None:
        """Validate after an epoch, keep the best weights, and write log and state."""
        schedule, progress = self.configuration.schedule, self.progress
        epoch = progress.epoch + 1
        figures = {"epoch": float(epoch), "loss": float(np.mean(progress.losses))}
        best = None
        if epoch % schedule.validate_every == 0 or epoch == schedule.epochs:
            self.group.share_buffers(self.learner.average)
            check = partial(self.heed, request)
            pairs = count_pairs(
                self.learner.average, self.validation, self._share, self.group, workers=schedule.workers, check=check
            )
            figures |= score_pairs(pairs)
            best = figures["accuracy"] + figures["miou"]
        progress.epoch, progress.losses = epoch, []
        if best is not None and best > progress.best_merit:
            progress.best_merit, progress.best_epoch = best, epoch
            if self.group.main:
                save_checkpoint(self.folder, self.learner.average, self._card(figures))
        figures |= {"seconds": time.perf_counter() - started, **self.watch.epoch(progress.step, figures)}
        progress.history.append(figures)
        if self.group.main:
            _write_log(self.folder / "log.csv", progress.history)
        self.save()
        self.say("epoch", epoch / schedule.epochs, figures)
        if self.group.any(request.asked):
            raise self._stopped()

    def finish(self) -> Checkpoint:
        """Fit what follows the training, if that is not done, and return the best model."""
        if self.group.main:
            best = read_checkpoint(self.folder)
            if "calibration" not in best.card:
                fit_card(best, self.configuration, self.material, self.group)
        self.group.barrier()
        return read_checkpoint(self.folder)

    def save(self) -> None:
        """Write the state."""
        if self.group.main:
            self.progress.energy = self.energy.used()
            save_state(self.folder, self.learner, self.progress, self.identity)

    def heed(self, request: Termination) -> None:
        """Write the state and stop, if that is asked for."""
        if self.group.any(request.asked):
            self.save()
            raise self._stopped()

    def _stopped(self) -> TrainingStoppedError:
        return TrainingStoppedError(
            f"the training was asked to end (SIGTERM) and stopped after step {self.progress.step} of "
            f"{self._steps}; its state is in {self.folder}: resume it to go on"
        )

    @property
    def _share(self) -> int:
        """Samples that a rank has in memory at once."""
        schedule = self.configuration.schedule
        return max(1, schedule.batch // (self.group.ranks * schedule.accumulate))

    def _rate(self, step: int) -> float:
        """Learning rate after so many steps."""
        schedule = self.configuration.schedule
        return schedule.learning_rate * one_cycle(step / self._steps, schedule.warmup)

    @property
    def _steps(self) -> int:
        return self.sampler.steps * self.configuration.schedule.epochs

    def _read_losses(self, unread: list[Tensor]) -> None:
        """Read losses of steps, report them, and refuse any that is not finite."""
        if not unread:
            return
        progress = self.progress
        before = progress.step - len(unread)
        values = torch.stack(unread)
        losses = self.group.sum(values[:, 0]).tolist()
        norms = values[:, 1].tolist()
        pace = self.watch.report(
            [
                Step(step, progress.epoch + 1, loss, self._rate(step - 1), norm)
                for step, (loss, norm) in enumerate(zip(losses, norms, strict=True), before + 1)
            ]
        )
        for step, (loss, norm) in enumerate(zip(losses, norms, strict=True), before + 1):
            if not (math.isfinite(loss) and math.isfinite(norm)):
                what = f"the loss is {loss}" if not math.isfinite(loss) else f"the norm of the gradient is {norm}"
                items = self.sampler.batch(progress.epoch, len(progress.losses))
                raise TrainingError(
                    f"{what} in epoch {progress.epoch + 1}, step {step}, on the patches "
                    f"{describe_items(self.train, items)}. Look at the data there, "
                    f"or train with a lower learning_rate; the last state and the best model stay in {self.folder}"
                )
            progress.losses.append(loss)
            self.say("training", step / self._steps, {"loss": loss, **pace})
        unread.clear()

    def _card(self, figures: dict[str, float]) -> dict[str, Any]:
        import xarray

        configuration, progress = self.configuration, self.progress
        return {
            "name": configuration.name,
            "title": configuration.title,
            "licence": configuration.licence,
            "notes": configuration.notes,
            "data": self.material.description,
            "split": {
                "cells": "30 x 30 of the globe, 5:1:1, xland.geo.split.assign_cells",
                "seed": configuration.split_seed,
            },
            "training": {
                "configuration": configuration.to_dict(),
                "epochs": progress.epoch,
                "best_epoch": progress.best_epoch,
                "steps": progress.step,
                "ranks": self.group.ranks,
            },
            "validation": {
                name: round(value, 4)
                for name, value in figures.items()
                if name.startswith(("accuracy", "miou", "iou_"))
            },
            "energy": self.energy.used(),
            "coverage": self.material.coverage.to_dict(),
            "versions": {"torch": torch.__version__, "numpy": np.__version__, "xarray": xarray.__version__},
        }


def _silent(_stage: str, _done: float, _figures: dict[str, float]) -> None:
    """Report nothing."""


def _write_log(path: Path, history: Iterable[dict[str, float]]) -> None:
    rows = list(history)
    names = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, names)
    writer.writeheader()
    writer.writerows(rows)
    replace_file(path, text.getvalue(), error=CheckpointError)
