"""The U-Net, and the network around it, or around several, that expands the coarse fields and encodes the prior."""

from __future__ import annotations

import copy
from functools import reduce
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from xland.models.inputs import MASKED, InputSpec
from xland.models.networks.architecture import Architecture
from xland.models.networks.context import layer, pick


class UNet(nn.Module):
    """A plain U-Net (Ronneberger et al. 2015, arXiv 1505.04597) with batch normalisation."""

    def __init__(self, inputs: InputSpec, architecture: Architecture) -> None:
        super().__init__()
        widths = architecture.widths
        self.encoder = nn.ModuleList(
            _two_layers(a, b) for a, b in zip([inputs.channels, *widths[:-1]], widths, strict=True)
        )
        self.upsample = nn.ModuleList(
            nn.ConvTranspose2d(deep, shallow, 2, stride=2)
            for deep, shallow in zip(widths[:0:-1], widths[-2::-1], strict=True)
        )
        self.decoder = nn.ModuleList(_two_layers(2 * width, width) for width in widths[-2::-1])
        self.dropout = nn.Dropout2d(architecture.dropout)
        self.head = nn.Conv2d(widths[0], len(inputs.classes), 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return one score a class and pixel."""
        skips = []
        for level, block in enumerate(self.encoder):
            x = block(x if level == 0 else functional.max_pool2d(x, 2))
            skips.append(x)
        x = self.dropout(skips.pop())
        for up, block in zip(self.upsample, self.decoder, strict=True):
            x = block(torch.cat([skips.pop(), up(x)], dim=1))
            x = self.dropout(x) if skips else x
        return self.head(x)


def _two_layers(channels_in: int, channels_out: int) -> nn.Sequential:
    return nn.Sequential(*layer(channels_in, channels_out, 3), *layer(channels_out, channels_out, 3))


class Committee(nn.Module):
    """Several networks whose class scores are averaged: the geometric mean of their probabilities."""

    def __init__(self, bodies: list[nn.Module]) -> None:
        super().__init__()
        self.bodies = nn.ModuleList(bodies)

    def forward(self, *inputs: Any) -> Tensor:
        """Return the mean of the members' scores."""
        # one after the other, so that at most the scores of two are in memory
        return reduce(torch.add, (body(*inputs) for body in self.bodies)) / len(self.bodies)


class DownscalingNetwork(nn.Module):
    """Coarse fields, static fields and a prior map in; class scores on the fine grid out.

    ``picks`` is the share of wanted pixels below which it is faster to ask a CPU for these ``points`` only.
    """

    def __init__(self, inputs: InputSpec, architecture: Architecture) -> None:
        super().__init__()
        self.inputs = inputs
        self.architecture = architecture
        self.pixelwise = architecture.pixelwise
        self.picks = 0.6 if self.pixelwise else 0.0
        architecture.check_windows(inputs)
        bodies = [architecture.build(inputs) for _ in range(architecture.members)]
        self.body: Any = bodies[0] if len(bodies) == 1 else Committee(bodies)

    def forward(
        self,
        coarse: Tensor,
        static: Tensor,
        prior: Tensor | None = None,
        points: Tensor | None = None,
        corner: Tensor | None = None,
    ) -> Tensor:
        """Return class scores, ``(batch, classes, rows, columns)``, or ``(batch, classes, n)`` for points.

        ``coarse`` is ``(batch, coarse_channels, rows / factor, columns / factor)``, rounded up; ``static`` ``(batch,
        static channels, rows, columns)``; ``prior`` ``(batch, rows, columns)`` uint8 class codes, 255 where masked or
        unknown, or with a history ``(batch, 1 + history, rows, columns)``; ``points`` ``(batch, n)`` flat indices of
        the only pixels wanted; ``corner`` ``(batch, 2)`` the fine rows and columns of the first coarse cells that lie
        outside, none by default.
        """
        fine = self.fine(static, prior)
        coarse = coarse.to(fine.dtype)
        scores: Tensor
        if self.pixelwise:
            scores = self.body(coarse, fine, points)
            return scores
        expanded = _expand(coarse, self.inputs.factor, fine.shape[-2:], corner)
        scores = self.body(torch.cat([expanded, fine], dim=1))
        return scores if points is None else pick(scores, points).squeeze(-1)

    def fine(self, static: Tensor, prior: Tensor | None) -> Tensor:
        """Return the channels on the fine grid: static fields, and the prior map and those beyond it, encoded."""
        dtype = next(self.body.parameters()).dtype
        fine = static.to(dtype)
        if self.inputs.prior != "none":
            if prior is None:
                maps = (1 + self.inputs.history,) if self.inputs.history else ()
                shape = (*static.shape[:1], *maps, *static.shape[2:])
                prior = torch.full(shape, MASKED, dtype=torch.uint8, device=static.device)
            last = prior[:, 0] if self.inputs.history else prior
            fine = torch.cat([fine, self._encode_prior(last, dtype)], dim=1)
            if self.inputs.history:
                fine = torch.cat([fine, encode_history(prior, len(self.inputs.classes), dtype)], dim=1)
        return fine

    @property
    def bodies(self) -> tuple[Any, ...]:
        """The networks whose scores are averaged; mostly one."""
        return tuple(self.body.bodies) if isinstance(self.body, Committee) else (self.body,)

    def compiled(self) -> DownscalingNetwork:
        """Return the network for predictions on a CPU, with the same weights; itself if there is no faster form."""
        build = self.architecture.compiled
        if build is None:
            return self
        faster = copy.deepcopy(self, {id(self.body): self.body})
        bodies = [build(body) for body in self.bodies]
        faster.body, faster.picks = bodies[0] if len(bodies) == 1 else Committee(bodies), 1.0
        return faster

    @property
    def needs_bins(self) -> bool:
        """Whether :meth:`fit_bins` changes anything."""
        return hasattr(self.bodies[0], "fit_bins")

    @torch.no_grad()
    def fit_bins(self, coarse: Tensor, static: Tensor) -> None:
        """Fit what depends on the spread of inputs, from values at training pixels, ``(channels, samples)``."""
        prior = torch.linspace(0, 1, static.shape[1]).expand(self.inputs.fine_channels - len(self.inputs.static), -1)
        for body in self.bodies if self.needs_bins else ():
            body.fit_bins(coarse.float(), torch.cat([static.float(), prior]))

    def _encode_prior(self, prior: Tensor, dtype: torch.dtype) -> Tensor:
        count = len(self.inputs.classes)
        if self.inputs.prior == "code":
            return torch.where(prior != MASKED, prior, 0).to(dtype).div(count).unsqueeze(1)
        codes = torch.arange(count, device=prior.device, dtype=torch.uint8)
        return (prior.unsqueeze(1) == codes[None, :, None, None]).to(dtype)


def encode_history(maps: Tensor, classes: int, dtype: torch.dtype) -> Tensor:
    """Describe maps beyond the prior map, ``(batch, classes + 2, rows, columns)``, of codes with the prior map first.

    Returned are the share of each class among the known maps and, as shares of the history, the maps before the class
    changed, and those that are known.
    """
    prior, beyond = maps[:, :1], maps[:, 1:]
    counts = torch.stack([(beyond == code).sum(dim=1) for code in range(classes)], dim=1).to(dtype)
    known = counts.sum(dim=1, keepdim=True)
    same = ((beyond == prior) & (prior != MASKED)).to(torch.uint8).cumprod(dim=1).sum(dim=1, keepdim=True)
    return torch.cat([counts / known.clamp_min(1), torch.cat([same.to(dtype), known], dim=1) / beyond.shape[1]], dim=1)


def _expand(coarse: Tensor, factor: int, shape: torch.Size, corner: Tensor | None) -> Tensor:
    """Coarse cells repeated on the fine grid, from the corner of each sample on."""
    if corner is None:
        return coarse.repeat_interleave(factor, dim=-2).repeat_interleave(factor, dim=-1)[..., : shape[0], : shape[1]]
    rows, columns = (
        (start[:, None] + torch.arange(length, device=start.device)) // factor
        for start, length in zip(corner.unbind(1), shape, strict=True)
    )
    rows = rows[:, None, :, None].expand(-1, coarse.shape[1], -1, coarse.shape[3])
    columns = columns[:, None, None, :].expand(-1, coarse.shape[1], shape[0], -1)
    return coarse.gather(2, rows).gather(3, columns)
