"""What each class answers to the season: networks from the predictors of a month to one number a class."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from xland.biophysical.season import YEARLY

if TYPE_CHECKING:
    from xland.biophysical.specification import Response


class ResponseNetwork(nn.Module):
    """Several small networks; responses are positive and below the largest value of the target.

    ``alive`` (classes,) is 1 for classes that answer and 0 for those that are always 0.
    """

    def __init__(self, size: Response, names: tuple[str, ...], alive: list[bool], most: float, prototypes: int) -> None:
        super().__init__()
        self.most = most
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
        self.last_bias = nn.Parameter(torch.zeros(members, 1, len(alive)))

    def forward(self, features: Any) -> Any:
        """Return ``(members, rows, classes)`` for rows of predictors."""
        x = (features - self.mean) / self.scale
        hidden = torch.tanh(x @ self.first + self.first_bias)
        return self.most * torch.sigmoid(hidden @ self.last + self.last_bias - 2) * self.alive

    def standard(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the normalised predictors of the year, ``(cells, len(YEARLY))``."""
        mean, scale = (each.numpy()[self.yearly] for each in (self.mean, self.scale))
        return np.asarray((features[:, 0, self.yearly] - mean) / scale)
