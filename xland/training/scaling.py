"""Temperature and vector scaling: fitted on validation pixels, chosen by cross-validation over places."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from xland.models.calibration import Calibration

FOLDS = 5
_RIDGE = 1e-4
"""Weight of what holds numbers back that the pixels say nothing about, those of a class without any."""


@dataclass(frozen=True)
class Scaling:
    """A fitted calibration, and what spoke for it.

    Parameters
    ----------
    calibration : Calibration
    method : {"none", "temperature", "vector"}
    losses : dict of str to float
        By method: mean negative log-likelihood of pixels in places that the fit did not see.
    """

    calibration: Calibration
    method: str
    losses: dict[str, float] = field(default_factory=dict)


def fit_scaling(
    scores: NDArray[np.float32],
    target: NDArray[np.uint8],
    place: NDArray[np.integer[Any]],
    weight: NDArray[np.float64],
) -> Scaling:
    """Fit both scalings and take the one that does better on other places; temperature scaling if they are equal.

    Parameters
    ----------
    scores : (pixels, classes) array
    target : (pixels,) array of class codes
    place : (pixels,) array of int
        Which pixels belong together: neighbours are alike, so that single pixels left out would prove nothing.
    weight : (pixels,) array
        Area of each pixel.

    Returns
    -------
    Scaling
        With pixels of fewer than two places, one that changes nothing.
    """
    fold = _folds(place)
    classes = scores.shape[1]
    if fold.max(initial=-1) < 1:
        return Scaling(Calibration.none(classes), "none")
    values, codes, area = (
        torch.from_numpy(scores).double(),
        torch.from_numpy(target.astype(np.int64)),
        _mean_one(weight),
    )
    losses = {"none": _loss(values, codes, area, Calibration.none(classes))}
    for method in ("temperature", "vector"):
        total = 0.0
        for number in range(int(fold.max()) + 1):
            out = torch.from_numpy(fold == number)
            fitted = _fit(values[~out], codes[~out], area[~out], vector=method == "vector")
            total += _loss(values[out], codes[out], area[out], fitted) * float(area[out].sum())
        losses[method] = total / float(area.sum())
    method = "vector" if losses["vector"] < losses["temperature"] else "temperature"
    return Scaling(_fit(values, codes, area, vector=method == "vector"), method, losses)


def _folds(place: NDArray[np.integer[Any]]) -> NDArray[np.intp]:
    """Deal the places out to folds, in random order, and return the fold of each pixel."""
    known, which = np.unique(place, return_inverse=True)
    order = np.random.default_rng(0).permutation(len(known))
    return np.asarray((order % min(FOLDS, max(len(known), 1)))[which])


def _fit(scores: Tensor, target: Tensor, weight: Tensor, *, vector: bool) -> Calibration:
    """Make the weighted likelihood largest, by L-BFGS from the scaling that changes nothing."""
    classes = scores.shape[1]
    logs = torch.zeros(classes if vector else 1, dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(classes, dtype=torch.float64, requires_grad=vector)
    parameters = [logs, bias] if vector else [logs]
    optimizer = torch.optim.LBFGS(parameters, max_iter=50, line_search_fn="strong_wolfe", tolerance_change=1e-7)

    def closure() -> Tensor:
        optimizer.zero_grad()
        pixels = functional.cross_entropy(scores * logs.exp() + bias, target, reduction="none")
        # the mean scale is free: it is the temperature
        apart = (logs - logs.mean()).square().sum() + bias.square().sum()
        loss = (pixels * weight).mean() + _RIDGE * apart
        loss.backward()
        return loss

    optimizer.step(closure)
    scale = logs.detach().exp().expand(classes)
    return Calibration(tuple(scale.tolist()), tuple(bias.detach().tolist()))


def _loss(scores: Tensor, target: Tensor, weight: Tensor, calibration: Calibration) -> float:
    pixels = functional.cross_entropy(calibration.apply(scores), target, reduction="none")
    return float((pixels * weight).sum() / weight.sum())


def _mean_one(weight: NDArray[np.float64]) -> Tensor:
    return torch.from_numpy(np.asarray(weight, dtype=np.float64) / np.mean(weight))
