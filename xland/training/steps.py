"""One step of a training: points, loss, gradient, rate and the moving average of the weights."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from xland.batches.masking import MASKED
from xland.training.configuration import Configuration


def take_step(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    samples: dict[str, Tensor],
    configuration: Configuration,
    weights: Tensor,
) -> Tensor:
    """Change the weights once.

    Parameters
    ----------
    network : Module
    optimizer : Optimizer
    samples : dict of Tensor
        A batch of :class:`xland.batches.loader.PatchDataset`.
    configuration : Configuration
    weights : (classes,) Tensor
        Class weights of the objective.

    Returns
    -------
    (2,) Tensor
        Loss, and norm of the gradient before it was clipped; reading them waits for the device.
    """
    target, points = samples["target"], None
    if configuration.schedule.points:
        points = draw_points(target, configuration.schedule.points)
        target = target.flatten(1).gather(1, points)
    scores = network(samples["coarse"], samples["static"], samples.get("prior"), points)
    loss = configuration.objective.loss(scores, target, weights)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    norm = nn.utils.clip_grad_norm_(network.parameters(), configuration.schedule.gradient_clip)
    optimizer.step()
    return torch.stack([loss.detach(), norm.detach()])


def draw_points(target: Tensor, count: int) -> Tensor:
    """Flat indices of pixels that count, drawn with replacement, ``(batch, count)``."""
    flat = (target != MASKED).flatten(1)
    total = flat.sum(dim=1, keepdim=True)
    rank = (torch.rand(len(flat), count) * total).long() + 1
    return torch.searchsorted(flat.cumsum(dim=1), rank.clamp_max(total)).clamp_max(flat.shape[1] - 1)


def make_optimizer(network: nn.Module, rate: float, decay: float) -> torch.optim.Optimizer:
    """AdamW whose decay leaves biases and normalisation alone."""
    matrices = [p for p in network.parameters() if p.ndim > 1]
    vectors = [p for p in network.parameters() if p.ndim <= 1]
    return torch.optim.AdamW(
        [{"params": matrices, "weight_decay": decay}, {"params": vectors, "weight_decay": 0.0}], rate
    )


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of all parameters."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def one_cycle(done: float, warmup: float) -> float:
    """Share of the peak rate when a share of all steps is done: a linear rise, then half a cosine."""
    if done < warmup:
        return max(done / warmup, 0.02)
    return 0.5 * (1 + math.cos(math.pi * min((done - warmup) / (1 - warmup), 1.0)))


def update_average(average: nn.Module, network: nn.Module, decay: float) -> None:
    """Move the average of the weights towards those of the network."""
    with torch.no_grad():
        for old, new in zip(average.state_dict().values(), network.state_dict().values(), strict=True):
            if old.dtype.is_floating_point:
                old.lerp_(new, 1 - decay)
            else:
                old.copy_(new)
