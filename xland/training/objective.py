"""What a training minimises."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from xland.errors import ConfigurationError
from xland.models.inputs import MASKED
from xland.records import Limits, check_entries


@dataclass(frozen=True)
class Objective:
    """Cross-entropy with class weights; focal, and with a term for the IoU, if asked for.

    Parameters
    ----------
    class_weight_power : float
        Weight of a class is its frequency to minus this power, 1 on average over the pixels:
        0 leaves all pixels equal, 0.5 is a usual remedy for rare classes, 1 makes classes equal.
    label_smoothing : float
        Share of the target that is spread over all classes.
    focal_gamma : float
        The cross-entropy of a pixel counts ``(1 - p) ** focal_gamma`` times, with ``p`` the probability
        of the true class: pixels that are already right count less (focal loss, Lin et al. 2017, arXiv
        1708.02002, where 2 is best). 0 for plain cross-entropy.
    lovasz : float
        Weight of the Lovasz-softmax term, which stands for 1 - IoU on average over the classes of the
        batch (:func:`lovasz_softmax`). 0 for none.
    response : float
        Weight of the term that keeps a model from showing cropland where it showed none before, when land under use is
        pushed back (:mod:`xland.training.response`). 0 for none; a step takes about twice as long otherwise.
    """

    class_weight_power: Annotated[float, Limits(0)] = 0.0
    label_smoothing: Annotated[float, Limits(0, below=1)] = 0.0
    focal_gamma: Annotated[float, Limits(0)] = 0.0
    lovasz: Annotated[float, Limits(0)] = 0.0
    response: Annotated[float, Limits(0)] = 0.0

    def __post_init__(self) -> None:
        check_entries(self, ConfigurationError)

    def class_weights(self, counts: NDArray[np.int64]) -> Tensor:
        """Weights of the classes for their pixel counts; a class without pixels has weight 0."""
        share = counts / max(int(counts.sum()), 1)
        raw = np.where(counts > 0, np.maximum(share, 1e-12) ** -self.class_weight_power, 0.0)
        mean = float((raw * share).sum())
        return torch.as_tensor(raw / mean if mean > 0 else raw, dtype=torch.float32)

    def total(self, scores: Tensor, target: Tensor, weights: Tensor) -> Tensor:
        """Loss of scores (batch, classes, ...), as a sum over the pixels whose target (batch, ...) is not 255.

        The Lovasz term of all pixels enters the sum as often as there are pixels that count. The device is not waited
        for.
        """
        scores, target = scores.float(), target.long()
        loss = functional.cross_entropy(
            scores,
            target,
            weight=weights,
            ignore_index=MASKED,
            reduction="none" if self.focal_gamma else "sum",
            label_smoothing=self.label_smoothing,
        )
        if self.focal_gamma:
            known = torch.where(target != MASKED, target, 0).unsqueeze(1)
            missed = -torch.expm1(scores.log_softmax(dim=1).gather(1, known).squeeze(1))
            # powers below 1 have no finite slope at 0
            loss = (missed.clamp_min(1e-6) ** self.focal_gamma * loss).sum()
        if self.lovasz:
            loss = loss + self.lovasz * (target != MASKED).sum() * lovasz_softmax(scores, target)
        return loss


def lovasz_softmax(scores: Tensor, target: Tensor) -> Tensor:
    """Lovasz-softmax loss of all pixels together (Berman et al. 2018, arXiv 1705.08790).

    The mean, over the classes that are in the target, of a piecewise linear extension of 1 - IoU to
    probabilities. Where one class has all the probability, it is 1 - IoU. Scores are (batch, classes, ...),
    targets (batch, ...) with 255 where a pixel does not count. The loss is 0 if no pixel counts.
    """
    classes = scores.shape[1]
    probability = scores.float().softmax(dim=1).movedim(1, 0).reshape(classes, -1)
    flat = target.reshape(-1)
    counted = flat != MASKED
    total, present = probability.new_zeros(()), probability.new_zeros(())
    for code, share in enumerate(probability):
        inside = flat == code
        # pixels that do not count come last, without an error
        error = torch.where(inside, 1 - share, share) * counted
        total = total + torch.dot(error, _slope(error.detach(), inside)) * inside.any()
        present = present + inside.any()
    return total / present.clamp_min(1)


@torch.no_grad()
def _slope(error: Tensor, inside: Tensor) -> Tensor:
    """Slope of the Lovasz extension for each pixel, constant until two errors change their order."""
    order = error.argsort(descending=True)
    hits = inside[order].cumsum(0)
    wrong = torch.arange(1, len(order) + 1, device=error.device) - hits
    size = inside.sum()
    missed = 1 - (size - hits).double() / (size + wrong)
    gains = missed.diff(prepend=missed.new_zeros(1)).float()
    return torch.empty_like(gains).scatter_(0, order, gains)
