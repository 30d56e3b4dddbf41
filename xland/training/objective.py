"""What training minimises, and how rare classes keep their place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from xland.batches.masking import MASKED


@dataclass(frozen=True)
class Objective:
    """Cross-entropy with class weights.

    Parameters
    ----------
    class_weight_power : float
        Weight of a class is its frequency to minus this power, 1 on average over the pixels:
        0 leaves all pixels equal, 0.5 is a usual remedy for rare classes, 1 makes classes equal.
    label_smoothing : float
        Share of the target that is spread over all classes.
    """

    class_weight_power: float = 0.0
    label_smoothing: float = 0.0

    def class_weights(self, counts: NDArray[np.int64]) -> Tensor:
        """Weights of the classes for their pixel counts; a class without pixels has weight 0."""
        share = counts / max(int(counts.sum()), 1)
        raw = np.where(counts > 0, np.maximum(share, 1e-12) ** -self.class_weight_power, 0.0)
        mean = float((raw * share).sum())
        return torch.as_tensor(raw / mean if mean > 0 else raw, dtype=torch.float32)

    def loss(self, scores: Tensor, target: Tensor, weights: Tensor) -> Tensor:
        """Mean over the pixels that count.

        Parameters
        ----------
        scores : (batch, classes, ...)
        target : (batch, ...) uint8
            255 where a pixel does not count.
        weights : (classes,)
        """
        target = target.long()
        total = functional.cross_entropy(
            scores.float(),
            target,
            weight=weights,
            ignore_index=MASKED,
            reduction="sum",
            label_smoothing=self.label_smoothing,
        )
        counted = (target != MASKED).sum().clamp_min(1)
        return total / counted


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


def agreement(
    predicted: NDArray[np.integer[Any]], target: NDArray[np.uint8], count: int
) -> tuple[float, NDArray[np.float64]]:
    """Return the accuracy, and the IoU of each of ``count`` classes: NaN where a class is in neither."""
    pairs = target.astype(np.int64) * count + predicted
    matrix = np.bincount(pairs, minlength=count**2).reshape(count, count)
    hits = np.diag(matrix)
    union = matrix.sum(axis=0) + matrix.sum(axis=1) - hits
    iou = np.divide(hits, union, out=np.full(count, np.nan), where=union > 0)
    return float(hits.sum() / max(matrix.sum(), 1)), iou


def _merit(
    scores: NDArray[np.float32], target: NDArray[np.uint8], offsets: NDArray[np.float32], classes: list[int]
) -> float:
    accuracy, iou = agreement((scores + offsets).argmax(axis=1), target, scores.shape[1])
    return accuracy + float(np.mean(iou[classes])) if classes else 0.0
