"""A network of transition: what land becomes, given what it is.

Most land stays what it is. So the network does not learn to draw the map: each pixel begins with the class of the prior
map, and the network learns what changes it. It sees the states of both years, how far apart they are, and what the
pixel was before, at the pixel itself and around it.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from xland.errors import ModelError
from xland.models.inputs import InputSpec
from xland.models.networks.architecture import Architecture
from xland.models.networks.context import layer

_REACHES = (1, 2, 4)
"""Distances between the pixels that the layers of the lowest level join (dilation)."""

_STAY = 2.0
"""Score that the class of the prior map begins with."""


class TransitionNetwork(nn.Module):
    """A narrow U-Net (Ronneberger et al. 2015, arXiv 1505.04597) with a pixel-wise head, beside the class that was.

    Dilated layers on the lowest level (Yu and Koltun 2016, arXiv 1511.07122) see far at little cost. Changes of the
    states from other steps to the first are inputs too, as signed square roots: most are small.
    """

    def __init__(self, inputs: InputSpec, architecture: Architecture) -> None:
        super().__init__()
        if inputs.prior != "one_hot":
            raise ModelError(f"a network of transition needs inputs with prior='one_hot', not {inputs.prior!r}")
        widths, classes = architecture.widths, len(inputs.classes)
        start = inputs.coarse_channels + len(inputs.static)
        self.prior = slice(start, start + classes)
        self.states, self.steps = len(inputs.coarse), len(inputs.steps)
        channels = inputs.channels + self.states * (self.steps - 1)
        self.first = nn.Sequential(*layer(channels, widths[0], 3))
        self.down = nn.ModuleList(nn.Sequential(*layer(a, b, 3), *layer(b, b, 3)) for a, b in pairwise(widths[:-1]))
        low = widths[-1]
        far = (each for reach in _REACHES for each in layer(low, low, 3, reach))
        self.low = nn.Sequential(*layer(widths[-2], low, 3), *far)
        self.dropped = nn.Dropout2d(architecture.dropout)
        self.up = nn.ModuleList(
            nn.Sequential(*layer(deep + shallow, shallow, 3))
            for deep, shallow in zip(widths[:0:-1], widths[-2::-1], strict=True)
        )
        self.hidden = nn.Sequential(
            *layer(widths[0] + channels, architecture.head, 1), nn.Dropout(architecture.dropout)
        )
        self.head = nn.Conv2d(architecture.head, classes, 1)
        self.stay = nn.Parameter(torch.full((classes, 1, 1), _STAY))

    def forward(self, x: Tensor) -> Tensor:
        """Return one score a class and pixel."""
        stay = self.stay * x[:, self.prior]
        now, *others = x[:, : self.states * self.steps].split(self.states, dim=1)
        x = torch.cat([x, *(_signed_root(now - other) for other in others)], dim=1)
        skips = [self.first(x)]
        for block in self.down:
            skips.append(block(functional.max_pool2d(skips[-1], 2)))
        found = self.dropped(self.low(functional.max_pool2d(skips[-1], 2)))
        for block in self.up:
            found = functional.interpolate(found, scale_factor=2, mode="nearest")
            found = block(torch.cat([found, skips.pop()], dim=1))
        scores: Tensor = self.head(self.hidden(torch.cat([found, x], dim=1)))
        return scores + stay


def _signed_root(change: Tensor) -> Tensor:
    return change.sign() * change.abs().sqrt()
