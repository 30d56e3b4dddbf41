"""One step of a training: points, loss, gradient, rate and the moving average of the weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from xland.models.inputs import MASKED
from xland.training.configuration import Configuration
from xland.training.learn.group import Group
from xland.training.response import PushBack, more_cropland
from xland.training.rollout import unroll

_STEP = 2  # keeps the random numbers of a step apart from those of the order and of a sample


@dataclass(frozen=True)
class Stepper:
    """Changes the weights of a network, together with the other ranks of its group, which all take the same steps."""

    network: nn.Module
    optimizer: torch.optim.Optimizer
    configuration: Configuration
    class_weights: Tensor
    group: Group

    @cached_property
    def wrapped(self) -> nn.Module:
        """The network, wrapped so that gradients are those of the group."""
        if self.configuration.schedule.channels_last:
            self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return self.group.wrap(self.network, common_statistics=self.configuration.schedule.common_statistics)

    @cached_property
    def model(self) -> Callable[..., Tensor]:
        """What is called: the wrapped network, compiled if the schedule says so."""
        return torch.compile(self.wrapped) if self.configuration.schedule.compile else self.wrapped

    def take(self, samples: Mapping[str, Tensor], *, whole: int, step: int, own_maps: float = 0.0) -> Tensor:
        """Change the weights once, by this rank's share of a batch that has ``whole`` samples in all ranks.

        Seed, rank and step fix all that is drawn. Returned is a tensor of this rank's part of the mean loss over the
        pixels of all ranks, and the norm of the gradient before it was clipped. Reading it waits for the device.
        """
        schedule, group = self.configuration.schedule, self.group
        seed_step(schedule.seed, step, group.rank)
        samples = {name: tensor.to(group.device, non_blocking=True) for name, tensor in samples.items()}
        if schedule.points:
            points = draw_points(samples["target"].flatten(0, -3), schedule.points)
            samples["points"] = points.unflatten(0, samples["target"].shape[:-2])
            samples["target"] = samples["target"].flatten(-2).gather(-1, samples["points"])
        counted = group.sum((samples["target"] != MASKED).sum().float()).clamp_min(1)
        # as many as every rank has samples for: where batch statistics are common, all make the same calls
        parts = min(schedule.accumulate, max(whole // group.ranks, 1))
        cut = {name: tensor.tensor_split(parts) for name, tensor in samples.items()}
        self.optimizer.zero_grad(set_to_none=True)
        loss = torch.zeros((), device=group.device)
        for number in range(parts):
            # ranks exchange gradients only with the last part
            alone = number < parts - 1 and isinstance(self.wrapped, nn.parallel.DistributedDataParallel)
            with self.wrapped.no_sync() if alone else nullcontext():  # type: ignore[operator]
                own = self._total({name: tensors[number] for name, tensors in cut.items()}, own_maps) / counted
                # the mean of the ranks' gradients is then the gradient of the mean over all pixels
                (own * group.ranks).backward()
            loss += own.detach()
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), schedule.gradient_clip)
        self.optimizer.step()
        return torch.stack([loss, norm.detach()])

    def _total(self, samples: Mapping[str, Tensor], own_maps: float) -> Tensor:
        """Sum of the loss over the pixels of some samples."""
        precision = self.configuration.schedule.precision
        with torch.autocast(self.group.device.type, torch.bfloat16, enabled=precision == "bfloat16"):
            if self.push_back is not None:
                samples = _beside(samples, self.push_back)
            scores, target = predict(self.model, samples, self.configuration.rollout.years, own_maps)
        objective = self.configuration.objective
        if self.push_back is None:
            return objective.total(scores, target, self.class_weights)
        # the second half has the same targets, and less land under use
        (scores, pushed), (target, _) = scores.float().chunk(2), target.chunk(2)
        more = more_cropland(pushed, scores)[target != MASKED].sum()
        return objective.total(scores, target, self.class_weights) + objective.response * more

    @cached_property
    def push_back(self) -> PushBack | None:
        """What scales the land under use, where the objective asks how the model answers to that."""
        return PushBack(self.configuration.inputs) if self.configuration.objective.response else None


def _beside(samples: Mapping[str, Tensor], push_back: PushBack) -> dict[str, Tensor]:
    """Return the samples, and the same with a random part of the land under use in each."""
    coarse = samples["coarse"]
    keep = torch.rand(coarse.shape[:-3], device=coarse.device)
    pushed = push_back(coarse.flatten(0, -4), keep.flatten()).unflatten(0, coarse.shape[:-3])
    return {name: torch.cat([each, pushed if name == "coarse" else each]) for name, each in samples.items()}


def call(network: Callable[..., Tensor], samples: Mapping[str, Tensor]) -> Tensor:
    """Scores of a batch of single years."""
    return network(*(samples.get(name) for name in ("coarse", "static", "prior", "points", "corner")))


def predict(
    network: Callable[..., Tensor], samples: Mapping[str, Tensor], years: int, own_maps: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Scores and targets of a batch whose samples have so many years, which are put one after the other."""
    if years == 1:
        return call(network, samples), samples["target"]
    return unroll(network, samples, own_maps).flatten(0, 1), samples["target"].flatten(0, 1)


def seed_step(seed: int, step: int, rank: int) -> None:
    """Fix what is drawn in a step, so that one that is repeated after an interruption draws the same."""
    drawn = np.random.SeedSequence((seed, step, rank), spawn_key=(_STEP,)).generate_state(1, np.uint64)
    torch.manual_seed(int(drawn[0]))


def draw_points(target: Tensor, count: int) -> Tensor:
    """Flat indices of pixels that count, drawn with replacement, ``(batch, count)``."""
    flat = (target != MASKED).flatten(1)
    total = flat.sum(dim=1, keepdim=True)
    rank = (torch.rand(len(flat), count, device=target.device) * total).long() + 1
    return torch.searchsorted(flat.cumsum(dim=1), rank.clamp_max(total)).clamp_max(flat.shape[1] - 1)


def make_optimizer(network: nn.Module, rate: float, decay: float) -> torch.optim.Optimizer:
    """AdamW whose decay leaves biases and normalisation alone."""
    matrices = {"params": [p for p in network.parameters() if p.ndim > 1], "weight_decay": decay}
    vectors = {"params": [p for p in network.parameters() if p.ndim <= 1], "weight_decay": 0.0}
    return torch.optim.AdamW([matrices, vectors], rate)


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of all parameters."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def one_cycle(done: float, warmup: float) -> float:
    """Share of the peak rate when a share of all steps is done: a linear rise, then half a cosine."""
    if done < warmup:
        return max(done / warmup, 0.02)
    return 0.5 * (1 + math.cos(math.pi * min((done - warmup) / (1 - warmup), 1.0)))


@torch.no_grad()
def update_average(average: nn.Module, network: nn.Module, decay: float) -> None:
    """Move the average of the weights towards those of the network, and copy what is counted."""
    pairs = list(zip(average.state_dict().values(), network.state_dict().values(), strict=True))
    moving = [(old, new) for old, new in pairs if old.dtype.is_floating_point]
    get_ema_multi_avg_fn(decay)([old for old, _ in moving], [new for _, new in moving], None)
    for old, new in pairs:
        if not old.dtype.is_floating_point:
            old.copy_(new)
