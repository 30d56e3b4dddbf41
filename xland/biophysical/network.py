"""What each class answers to the season: networks from the predictors of a month to one number a class."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from xland.biophysical.season import YEARLY

if TYPE_CHECKING:
    from xland.biophysical.specification import Response

_DRY = 300.0  # mm of evaporation a year, of which a desert has less
_FAR = 4.0  # standard deviations beyond which predictors say nothing more


class ResponseNetwork(nn.Module):
    """Several small networks; responses are positive and below the largest value of the target.

    ``alive`` (classes,) is 1 for classes that answer and 0 for those that are always 0.
    """

    mean: torch.Tensor
    scale: torch.Tensor
    alive: torch.Tensor
    prototypes: torch.Tensor

    def __init__(self, size: Response, names: tuple[str, ...], alive: list[bool], most: float, prototypes: int) -> None:
        super().__init__()
        self.most = most
        self.water, self.warmest = names.index("annual_evaporation"), names.index("warmest")
        features = len(names)
        self.yearly = [names.index(name) for name in YEARLY]
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("scale", torch.ones(features))
        self.register_buffer("prototypes", torch.zeros(prototypes, len(YEARLY)))
        self.register_buffer("alive", torch.tensor(alive, dtype=torch.float32))
        inner, members = size.hidden, size.members
        self.first = nn.Parameter(torch.randn(members, features, inner) / features**0.5)
        self.first_bias = nn.Parameter(torch.zeros(members, 1, inner))
        self.last = nn.Parameter(torch.randn(members, inner, len(alive)) / inner**0.5)
        self.last_bias = nn.Parameter(torch.full((members, 1, len(alive)), -1.5))

    def forward(self, features: torch.Tensor, noise: float = 0.0) -> torch.Tensor:
        """Return ``(members, cells, months, classes)`` for predictors ``(cells, months, predictors)``.

        ``noise`` is added to the normalised predictors, the same in all months of a cell.
        """
        x = ((features - self.mean) / self.scale).clamp(-_FAR, _FAR)
        if noise:
            x = x + noise * torch.randn(len(x), 1, x.shape[-1])
        hidden = torch.tanh(x.flatten(0, 1) @ self.first + self.first_bias)
        scores = (hidden @ self.last + self.last_bias).unflatten(1, x.shape[:2])
        # plants need water in the year, and do not grow where no month is above freezing: ice answers exactly 0
        water = 1 - torch.exp(-((features[..., self.water] ** 2 / _DRY) ** 2))
        limit = water * (features[..., self.warmest] > 0)
        return nn.functional.softplus(scores).clamp(max=self.most) * limit[..., None] * self.alive

    def standard(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the normalised predictors of the year, ``(cells, len(YEARLY))``."""
        mean, scale = (each.numpy()[self.yearly] for each in (self.mean, self.scale))
        return np.asarray((features[:, 0, self.yearly] - mean) / scale)
