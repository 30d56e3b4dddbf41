"""Networks of one kind that answer as one: the mean of their scores."""

from __future__ import annotations

from collections.abc import Iterable
from functools import reduce
from typing import Any

import torch
from torch import Tensor, nn


class Committee(nn.Module):
    """Several networks whose class scores are averaged.

    The softmax of mean scores is the geometric mean of the members' probabilities, which wins about as much as
    their arithmetic mean and is scaled as one network is.

    Parameters
    ----------
    bodies : iterable of Module
        Of the same inputs and outputs.
    """

    def __init__(self, bodies: Iterable[nn.Module]) -> None:
        super().__init__()
        self.bodies = nn.ModuleList(bodies)

    @property
    def head(self) -> Any:
        """Last layer of the first member."""
        return self.bodies[0].head

    def forward(self, *inputs: Any) -> Tensor:
        """Return the mean of the members' scores."""
        # one after the other, so that the scores of two are held at most
        return reduce(torch.add, (body(*inputs) for body in self.bodies)) / len(self.bodies)

    def fit_bins(self, coarse: Tensor, fine: Tensor) -> None:
        """Fit the bins of every member."""
        body: Any
        for body in self.bodies:
            body.fit_bins(coarse, fine)
