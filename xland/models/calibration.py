"""Probabilities that mean what they say: how the scores of a network are scaled before the softmax."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from numpy.typing import NDArray

from xland.errors import CheckpointError
from xland.records import Limits, check_entries

if TYPE_CHECKING:
    from torch import Tensor

BINS = 15
"""Bins of confidence of a calibration error, as in Guo et al. (2017)."""


@dataclass(frozen=True)
class Calibration:
    """Vector scaling of class scores: the probabilities are ``softmax(scores * scale + bias)``.

    Temperature scaling is the case of equal scales, 1 / temperature each, and no bias. See Guo et al.
    (2017), arXiv 1706.04599.

    Parameters
    ----------
    scale, bias : tuple of float
        One a class; scales are above 0.
    change_scale, change_bias : tuple of float, optional
        One a class of the prior map, for models that read one: the log odds that a pixel of this class changes, after
        the scaling, are multiplied by the one, and the other is added. What it becomes if it changes stays the same.
    """

    scale: tuple[Annotated[float, Limits(above=0, most=1e6)], ...]
    bias: tuple[Annotated[float, Limits(-1e6, 1e6)], ...]
    change_scale: tuple[Annotated[float, Limits(above=0, most=1e6)], ...] = ()
    change_bias: tuple[Annotated[float, Limits(-1e6, 1e6)], ...] = ()

    def __post_init__(self) -> None:
        check_entries(self, CheckpointError)
        if len(self.scale) != len(self.bias):
            raise CheckpointError(f"a calibration has {len(self.scale)} scales and {len(self.bias)} biases")
        if {len(self.change_scale), len(self.change_bias)} not in ({0}, {len(self.scale)}):
            raise CheckpointError(
                f"a calibration of change has {len(self.change_scale)} scales and {len(self.change_bias)} biases; it "
                f"needs {len(self.scale)} of both, one a class"
            )

    @classmethod
    def none(cls, classes: int) -> Calibration:
        """Return the calibration that changes nothing."""
        return cls((1.0,) * classes, (0.0,) * classes)

    @property
    def is_none(self) -> bool:
        """Whether it changes nothing."""
        return set(self.scale) <= {1.0} and set(self.bias) <= {0.0}

    @property
    def of_change(self) -> bool:
        """Whether it needs the prior map."""
        return bool(self.change_scale)

    def apply(self, scores: Tensor) -> Tensor:
        """Scale scores, ``(batch, classes, ...)``; the softmax is still to be taken."""
        if self.is_none:
            return scores
        shape = (1, -1, *(1 for _ in range(scores.ndim - 2)))
        return scores * scores.new_tensor(self.scale).view(shape) + scores.new_tensor(self.bias).view(shape)

    def apply_to_change(self, scores: Tensor, prior: Tensor) -> Tensor:
        """Scale the log odds of change; scores ``(batch, classes, ...)``, prior class codes ``(batch, ...)``.

        Where the prior map is masked or unknown, nothing changes.
        """
        known = prior < scores.shape[1]
        at = prior.where(known, 0).long()
        stays = at[:, None] == at.new_tensor(range(scores.shape[1])).view(1, -1, *(1 for _ in range(prior.ndim - 1)))
        own = scores.gather(1, at[:, None])
        others = scores.masked_fill(stays, -float("inf")).logsumexp(dim=1, keepdim=True)
        scale, bias = (scores.new_tensor(each)[at][:, None] for each in (self.change_scale, self.change_bias))
        moved = others - (scale * (others - own) + bias)
        return scores.where(~(stays & known[:, None]), moved)


def calibration_error(
    confidence: NDArray[np.floating[Any]],
    correct: NDArray[np.bool_],
    weight: NDArray[np.float64] | None = None,
    bins: int = BINS,
) -> float:
    """Return the mean distance of confidence and accuracy over bins of equal width; NaN without pixels.

    ``(pixels,)`` each; weights are areas. See Naeini et al. (2015), doi 10.1609/aaai.v29i1.9602.
    """
    weight = np.ones(len(confidence)) if weight is None else weight
    place = bin_of(confidence, bins)
    excess = np.bincount(place, weight * (correct - confidence.astype(np.float64)), minlength=bins)
    total = float(weight.sum())
    return float(np.abs(excess).sum() / total) if total > 0 else float("nan")


def bin_of(values: NDArray[np.floating[Any]], bins: int) -> NDArray[np.intp]:
    """Bin of each value from 0 to 1: bins of equal width, each with its lower edge, the last with 1 too."""
    return np.clip((values.astype(np.float64) * bins).astype(np.intp), 0, bins - 1)
