"""What training minimises, and how rare classes keep their place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

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
    """

    class_weight_power: Annotated[float, Limits(0)] = 0.0
    label_smoothing: Annotated[float, Limits(0, below=1)] = 0.0
    focal_gamma: Annotated[float, Limits(0)] = 0.0
    lovasz: Annotated[float, Limits(0)] = 0.0

    def __post_init__(self) -> None:
        check_entries(self, ConfigurationError)

    def class_weights(self, counts: NDArray[np.int64]) -> Tensor:
        """Weights of the classes for their pixel counts; a class without pixels has weight 0."""
        share = counts / max(int(counts.sum()), 1)
        raw = np.where(counts > 0, np.maximum(share, 1e-12) ** -self.class_weight_power, 0.0)
        mean = float((raw * share).sum())
        return torch.as_tensor(raw / mean if mean > 0 else raw, dtype=torch.float32)

    def total(self, scores: Tensor, target: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Sum over the pixels that count, and their number.

        Where several processes learn together, sums and numbers are added up over all of them before
        one is divided by the other, so that each pixel counts the same.

        Parameters
        ----------
        scores : (batch, classes, ...)
        target : (batch, ...) uint8
            255 where a pixel does not count.
        weights : (classes,)

        Returns
        -------
        total, counted : Tensor
            Scalars on the device of the scores; neither is waited for. The Lovasz term belongs to all
            pixels of this process together and enters the sum as often as there are pixels that count.
        """
        scores, target = scores.float(), target.long()
        total = self._cross_entropy(scores, target, weights)
        counted = (target != MASKED).sum()
        if self.lovasz:
            total = total + self.lovasz * counted * lovasz_softmax(scores, target)
        return total, counted

    def _cross_entropy(self, scores: Tensor, target: Tensor, weights: Tensor) -> Tensor:
        loss = functional.cross_entropy(
            scores,
            target,
            weight=weights,
            ignore_index=MASKED,
            reduction="none" if self.focal_gamma else "sum",
            label_smoothing=self.label_smoothing,
        )
        if not self.focal_gamma:
            return loss
        known = torch.where(target != MASKED, target, 0).unsqueeze(1)
        missed = -torch.expm1(scores.log_softmax(dim=1).gather(1, known).squeeze(1))
        # powers below 1 have no finite slope at 0
        return (missed.clamp_min(1e-6) ** self.focal_gamma * loss).sum()


def lovasz_softmax(scores: Tensor, target: Tensor) -> Tensor:
    """Lovasz-softmax loss of all pixels together (Berman et al. 2018, arXiv 1705.08790).

    The mean, over the classes that are in the target, of a piecewise linear extension of 1 - IoU to
    probabilities. Where one class has all the probability, it is 1 - IoU.

    Parameters
    ----------
    scores : (batch, classes, ...)
    target : (batch, ...) integer
        255 where a pixel does not count.

    Returns
    -------
    Tensor
        Scalar; 0 without any pixel that counts.
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
    """Slope of the Lovasz extension for each pixel: what 1 - IoU gains when it is missed after all with larger errors.

    It is constant until errors change places, so that it needs no gradient, and only one class at a
    time is sorted.
    """
    order = error.argsort(descending=True)
    hits = inside[order].cumsum(0)
    wrong = torch.arange(1, len(order) + 1, device=error.device) - hits
    size = inside.sum()
    missed = 1 - (size - hits).double() / (size + wrong)
    gains = missed.diff(prepend=missed.new_zeros(1)).float()
    return torch.empty_like(gains).scatter_(0, order, gains)


def fit_class_offsets(
    scores: NDArray[np.float32], target: NDArray[np.uint8], classes: tuple[int, ...], rounds: int = 2
) -> NDArray[np.float32]:
    """Offsets of the class scores that make accuracy plus mean IoU largest.

    A network trained on cross-entropy neglects rare classes in the most probable class. Offsets
    fitted on validation pixels (coordinate ascent) correct this and cost nothing: they are added
    to the bias of the last layer.

    Parameters
    ----------
    scores : (pixels, classes) array
    target : (pixels,) array of class codes
    classes : tuple of int
        Codes over which the mean IoU is taken and whose offsets are fitted.
    rounds : int
        Passes over the classes at each step size.

    Returns
    -------
    (classes,) array of float32
    """
    offsets = np.zeros(scores.shape[1], dtype=np.float32)
    present = [code for code in classes if (target == code).any()]
    best = _merit(scores, target, offsets, present)
    for step in (0.4, 0.2, 0.1):
        for _ in range(rounds):
            for code in present:
                for change in (step, -step):
                    while True:
                        trial = offsets.copy()
                        trial[code] += change
                        merit = _merit(scores, target, trial, present)
                        if merit <= best + 1e-6 or abs(trial[code]) > 4:
                            break
                        offsets, best = trial, merit
    return offsets


def proven_offsets(
    scores: NDArray[np.float32], target: NDArray[np.uint8], classes: tuple[int, ...], stretch: int = 20_000
) -> NDArray[np.float32]:
    """Fit offsets, or return none if those of one half of the places do not help the other half.

    Parameters
    ----------
    scores, target, classes
        As in :func:`fit_class_offsets`; pixels in the order of places.
    stretch : int
        Pixels that belong to one place.
    """
    half = (np.arange(len(target)) // stretch) % 2 == 0
    gain = 0.0
    for fitted, judged in ((half, ~half), (~half, half)):
        if judged.any() and fitted.any():
            offsets = fit_class_offsets(scores[fitted], target[fitted], classes)
            present = [code for code in classes if (target[judged] == code).any()]
            gain += _merit(scores[judged], target[judged], offsets, present)
            gain -= _merit(scores[judged], target[judged], np.zeros_like(offsets), present)
    return fit_class_offsets(scores, target, classes) if gain > 0 else np.zeros(scores.shape[1], np.float32)


def tabulate_pairs(target: NDArray[np.uint8], predicted: NDArray[np.integer[Any]], count: int) -> NDArray[np.int64]:
    """Count the pixels of every pair of target (rows) and predicted class (columns); shape ``(count, count)``.

    :func:`xland.training.learn.validation.count_pairs` does the same for pixels that are still on the device.
    """
    pairs = target.astype(np.int64) * count + predicted
    return np.bincount(pairs, minlength=count**2).reshape(count, count)


def agreement(
    predicted: NDArray[np.integer[Any]], target: NDArray[np.uint8], count: int
) -> tuple[float, NDArray[np.float64]]:
    """Return the accuracy, and the IoU of each of ``count`` classes: NaN where a class is in neither."""
    matrix = tabulate_pairs(target, predicted, count)
    hits = np.diag(matrix)
    union = matrix.sum(axis=0) + matrix.sum(axis=1) - hits
    iou = np.divide(hits, union, out=np.full(count, np.nan), where=union > 0)
    return float(hits.sum() / max(matrix.sum(), 1)), iou


def _merit(
    scores: NDArray[np.float32], target: NDArray[np.uint8], offsets: NDArray[np.float32], classes: list[int]
) -> float:
    accuracy, iou = agreement((scores + offsets).argmax(axis=1), target, scores.shape[1])
    return accuracy + float(np.mean(iou[classes])) if classes else 0.0
