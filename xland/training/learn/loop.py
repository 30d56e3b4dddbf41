"""A network learns: epochs, validation, the best weights; in one process or many, resumable at any step."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import xarray as xr
from torch import Tensor
from torch.utils.data import DataLoader

from xland.errors import CheckpointError, TrainingError, TrainingStoppedError
from xland.geo.split import Part
from xland.models.checkpoint import Checkpoint, read_checkpoint, save_checkpoint
from xland.models.networks.unet import DownscalingNetwork
from xland.paths import make_folder, replace_file
from xland.training.configuration import Configuration
from xland.training.data.batches import (
    check_parts,
    describe_items,
    make_dataset,
    make_order,
    sample_pixels,
    take_census,
)
from xland.training.data.loader import make_loader
from xland.training.data.material import Material, identify, open_material, sample_static
from xland.training.data.patches import Patches, patches_from
from xland.training.data.sampling import RankSampler
from xland.training.learn.calibrating import fit_card
from xland.training.learn.group import Device, Group, join_group
from xland.training.learn.state import Learner, Progress, check_folder, has_state, load_state, save_state
from xland.training.learn.steps import Stepper, make_optimizer, one_cycle, set_rate, update_average
from xland.training.learn.validation import count_pairs, score_pairs
from xland.training.learn.watching import EnergyMeter, Step, Watch
from xland.training.machine import Termination, deferred_termination
from xland.training.rollout import sampling_share

Report = Callable[[str, float, dict[str, float]], None]
"""Called with a stage (``training`` or ``epoch``), its finished share and the latest figures."""

ALONE = Group()
_CELLS = "30 x 30 of the globe, 5:1:1, xland.geo.split.assign_cells"


def learn(
    configuration: Configuration,
    output: Path,
    *,
    given: Mapping[str, Any],
    store: str | Path | None,
    generator: Any = None,
    device: Device = "auto",
    resume: bool = False,
    progress: bool = True,
    report: Report | None = None,
) -> Checkpoint:
    """Train in this process, alone or as one rank of several; see :func:`xland.training.run.train`."""
    with join_group(device) as group, shown_progress(report, enabled=progress and group.main) as say:
        configuration, material = open_material(configuration, given, store)
        factor = configuration.inputs.factor
        patches = None if generator is None else patches_from(generator, material.grid, factor)
        options: dict[str, Any] = {"resume": resume, "report": say, "group": group, "patches": patches}
        return fit(configuration, material, output, measure_energy=True, **options)


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
    """Train a network and keep the one that validates best, with calibration, decision and applicability in its card.

    All ranks of a group call this with the same arguments, and rank 0 writes model, ``log.csv``, ``steps.csv``,
    ``tensorboard`` and the last two states: after every epoch, every ``checkpoint_every`` steps, and when a process is
    asked to end. One that is resumed gives the losses and weights of one without a pause, bit for bit on a CPU.
    """
    check_folder(folder, resume=resume)
    make_folder(folder, CheckpointError)
    training = _Training(configuration, material, folder, group, patches)
    if report is not None and group.main:
        training.say = report
    energy = training.energy if measure_energy and group.main else nullcontext()
    with deferred_termination() as training.request, training.watch, energy:
        training.run()
    if group.main:
        best = read_checkpoint(folder)
        if "calibration" not in best.card:
            fit_card(best, configuration, material, batch=training.share, device=group.device)
    group.barrier()
    return read_checkpoint(folder)


class _Training:
    """A training under way: what it learns from, what it changes, and where it writes."""

    def __init__(
        self, configuration: Configuration, material: Material, folder: Path, group: Group, patches: Patches | None
    ) -> None:
        schedule = configuration.schedule
        self.configuration, self.material, self.folder, self.group = configuration, material, folder, group
        census = take_census(material.source)
        check_parts(census, material.part)
        self.train = make_dataset(configuration, material, Part.TRAIN, census, patches)
        self.validation = make_dataset(configuration, material, Part.VALIDATION, census)
        order = make_order(configuration, self.train)
        self.sampler = RankSampler(order, schedule.batch, rank=group.rank, ranks=group.ranks)
        self.steps = self.sampler.steps * schedule.epochs
        self.share = max(1, schedule.batch // (group.ranks * schedule.accumulate))  # samples in memory at once
        torch.manual_seed(schedule.seed)
        network = DownscalingNetwork(configuration.inputs, configuration.architecture)
        if network.needs_bins:
            network.fit_bins(*sample_pixels(self.train, schedule.seed))
        network.to(group.device)
        optimizer = make_optimizer(network, schedule.learning_rate, schedule.weight_decay)
        self.learner = Learner(network, copy.deepcopy(network), optimizer)
        weights = configuration.objective.class_weights(census[:, material.part == Part.TRAIN].sum(axis=1))
        self.stepper = Stepper(network, optimizer, configuration, weights.to(group.device), group)
        self.identity = identify(configuration, material, patches)
        self.progress = self._read_progress()
        self.watch = Watch(folder, main=group.main, after=self.progress.step)
        self.energy = EnergyMeter(self.progress.energy)
        self.static_sample = sample_static(material) if group.main else None
        self.request = Termination()
        self.say: Report = lambda *_: None

    def _read_progress(self) -> Progress:
        """Read the state in every rank: the first alone to begin with, as it mends what is damaged."""
        progress = Progress()
        for first in (True, False):
            if self.group.main == first and has_state(self.folder):
                progress = load_state(self.folder, self.learner, self.identity)
            self.group.barrier()
        total = int(self.group.sum(torch.tensor(progress.step)))
        if self.group.any(total != progress.step * self.group.ranks):
            raise CheckpointError(
                f"the ranks do not read the same state in {self.folder}: it must lie on a file system that shows all "
                "of them the same, and no other training may write to it"
            )
        return progress

    def run(self) -> None:
        """Learn and validate, epoch by epoch, until all are done."""
        schedule, pinned = self.configuration.schedule, self.group.device.type == "cuda"
        loader = make_loader(self.train, self.sampler, workers=schedule.workers, pinned=pinned)
        while self.progress.epoch < schedule.epochs:
            started = time.perf_counter()
            self.learn(loader)
            self.judge(started)

    def learn(self, loader: DataLoader[dict[str, Tensor]]) -> None:
        """Take the steps of the epoch that are left."""
        schedule, progress, learner = self.configuration.schedule, self.progress, self.learner
        self.sampler.set_epoch(progress.epoch, len(progress.losses))
        unread: list[Tensor] = []
        learner.network.train()
        for number, samples in enumerate(self.watch.waiting(loader), len(progress.losses)):
            own_maps = sampling_share(progress.step / self.steps, self.configuration.rollout.own_maps)
            set_rate(learner.optimizer, self._rate(progress.step))
            whole = self.sampler.batch_size(number)
            unread.append(self.stepper.take(samples, whole=whole, step=progress.step, own_maps=own_maps))
            self.watch.step(whole)
            progress.step += 1
            decay = min(schedule.averaging, (1 + progress.step) / (10 + progress.step))
            update_average(learner.average, learner.network, decay)
            writing = schedule.checkpoint_every and progress.step % schedule.checkpoint_every == 0
            if writing or len(unread) == schedule.report_every:
                stopping = self.group.any(self.request.asked)  # once: it can come at any moment
                self._read_losses(unread)
                if writing or stopping:
                    self.save()
                if stopping:
                    raise self._stopped()
        self._read_losses(unread)

    def judge(self, started: float) -> None:
        """Validate after an epoch, keep the best weights, and write log and state."""
        schedule, progress, average = self.configuration.schedule, self.progress, self.learner.average
        epoch = progress.epoch + 1
        figures = {"epoch": float(epoch), "loss": float(np.mean(progress.losses))}
        merit = -math.inf
        if epoch % schedule.validate_every == 0 or epoch == schedule.epochs:
            self.group.share_buffers(average)
            workers, check = schedule.workers, self._check_request
            pairs = count_pairs(average, self.validation, self.share, self.group, workers=workers, check=check)
            figures |= score_pairs(pairs)
            merit = figures["accuracy"] + figures["miou"]
        progress.epoch, progress.losses = epoch, []
        if merit > progress.best_merit:
            progress.best_merit, progress.best_epoch = merit, epoch
            if self.group.main:
                save_checkpoint(self.folder, average, self._card(figures))
        figures |= {"seconds": time.perf_counter() - started, **self.watch.epoch(progress.step, figures)}
        progress.history.append(figures)
        if self.group.main:
            table = pd.DataFrame(progress.history).to_csv(index=False)
            replace_file(self.folder / "log.csv", table, error=CheckpointError)
        self.save()
        self.say("epoch", epoch / schedule.epochs, figures)
        if self.group.any(self.request.asked):
            raise self._stopped()

    def save(self) -> None:
        """Write the state."""
        if self.group.main:
            self.progress.energy = self.energy.used()
            save_state(self.folder, self.learner, self.progress, self.identity)

    def _rate(self, step: int) -> float:
        schedule = self.configuration.schedule
        return schedule.learning_rate * one_cycle(step / self.steps, schedule.warmup)

    def _check_request(self) -> None:
        if self.group.any(self.request.asked):
            self.save()
            raise self._stopped()

    def _stopped(self) -> TrainingStoppedError:
        return TrainingStoppedError(
            f"the training was asked to end (SIGTERM) and stopped after step {self.progress.step} of "
            f"{self.steps}; its state is in {self.folder}: resume it to go on"
        )

    def _read_losses(self, unread: list[Tensor]) -> None:
        """Read losses of steps, report them, and refuse any that is not finite."""
        if not unread:
            return
        progress = self.progress
        first, epoch = progress.step - len(unread) + 1, progress.epoch + 1
        values = torch.stack(unread)
        unread.clear()
        pairs = zip(self.group.sum(values[:, 0]).tolist(), values[:, 1].tolist(), strict=True)
        steps = [Step(step, epoch, loss, self._rate(step - 1), norm) for step, (loss, norm) in enumerate(pairs, first)]
        pace = self.watch.report(steps)
        for step, _, loss, _, norm in steps:
            if not (math.isfinite(loss) and math.isfinite(norm)):
                what = f"the loss is {loss}" if not math.isfinite(loss) else f"the norm of the gradient is {norm}"
                items = self.sampler.batch(progress.epoch, len(progress.losses))
                raise TrainingError(
                    f"{what} in epoch {epoch}, step {step}, on the patches "
                    f"{describe_items(self.train, items)}. Look at the data there, "
                    f"or train with a lower learning_rate; the last state and the best model stay in {self.folder}"
                )
            progress.losses.append(loss)
            self.say("training", step / self.steps, {"loss": loss, **pace})

    def _card(self, figures: dict[str, float]) -> dict[str, Any]:
        configuration, progress = self.configuration, self.progress
        return {
            **{name: getattr(configuration, name) for name in ("name", "title", "licence", "notes")},
            "data": self.material.description,
            "split": {"cells": _CELLS, "seed": configuration.split_seed},
            "training": {
                "configuration": configuration.to_dict(),
                "epochs": progress.epoch,
                "best_epoch": progress.best_epoch,
                "steps": progress.step,
                "ranks": self.group.ranks,
            },
            "validation": {
                name: round(figures[name], 4) for name in figures if name.startswith(("accuracy", "miou", "iou_"))
            },
            "energy": self.energy.used(),
            "coverage": asdict(self.material.coverage),
            "static_sample": self.static_sample and asdict(self.static_sample),
            "versions": {"torch": torch.__version__, "numpy": np.__version__, "xarray": xr.__version__},
        }


@contextmanager
def shown_progress(report: Report | None, *, enabled: bool) -> Iterator[Report]:
    """Yield what a training reports to: that of the caller, or a rich progress bar with a line for every epoch."""
    if report is not None:
        yield report
        return
    from rich.progress import BarColumn, TextColumn, TimeRemainingColumn

    from xland.progress import Bar

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:.0f} %"))
    bar = Bar(*columns, TimeRemainingColumn(), disable=not enabled)
    task = bar.add_task("training", total=1.0)

    def show(stage: str, done: float, figures: dict[str, float]) -> None:
        bar.start()  # now, as those of the data and the cluster are done
        if stage == "training":
            text = "training, loss {loss:.3f}, {samples_per_second:.3g} samples/s, waiting {waiting:.0%}"
            bar.update(task, completed=done, description=text.format(**figures))
        elif enabled:
            bar.console.print("  ".join(f"{name} {value:.4g}" for name, value in figures.items()))

    try:
        yield show
    finally:
        bar.stop()
