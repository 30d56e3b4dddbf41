"""A U-Net on the coarse grid, and a pixel-wise head on the fine one.

Most of what decides a pixel is known on the coarse grid only. Here the first step down of the
U-Net is the factor between the grids: static fields are averaged to coarse cells, and all
convolutions that see neighbours run there. The head joins their context with the pixel's own
fields, which it reads piecewise linearly between quantiles of the training data: so a small
network can draw the sharp thresholds that make trees strong on such tables (Gorishniy et al. 2022,
arXiv 2203.05556). For a factor of 5 this is several times cheaper a pixel than convolving the
expanded fields, and it learns from a few thousand places without memorising them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from xland.models.inputs import InputSpec
from xland.models.networks.architecture import Architecture

_STRIP = 8
"""Rows of coarse cells whose pixels go through the head together on a CPU, where they stay in a core's cache."""


class PiecewiseLinear(nn.Module):
    """How far each channel has gone through each of its bins, from -0.5 to 0.5: ``(batch, channels * bins, ...)``.

    The knots, ``(channels, bins + 1)``, are a buffer; a bin without width is constant.
    """

    knots: Tensor

    def __init__(self, channels: int, bins: int) -> None:
        super().__init__()
        # a list: on the device "meta" most operations on tensors import SymPy, for most of a second
        knots = torch.linspace(-2, 2, bins + 1, device="cpu").tolist()
        self.register_buffer("knots", torch.tensor([knots] * channels).reshape(channels, bins + 1))

    def fit(self, values: Tensor) -> None:
        """Put the knots at the quantiles of sample values, ``(channels, samples)``."""
        shares = torch.linspace(0, 1, self.knots.shape[1])
        for row, channel in zip(self.knots, values.double(), strict=True):
            distinct = torch.unique(torch.quantile(channel, shares.double()))
            apart = distinct[torch.cat([torch.tensor([True]), distinct.diff() > 1e-3])].float()
            if len(apart) == 1:
                apart = apart + torch.tensor([-0.5, 0.5])
            row.fill_(float(apart[-1]))
            row[: len(apart)] = apart

    def forward(self, x: Tensor) -> Tensor:
        """Encode the channels."""
        shape = (1, *self.knots.shape[:1], -1, *([1] * (x.ndim - 2)))
        low, width = self.knots[:, :-1], self.knots.diff(dim=1)
        slope = torch.where(width > 0, 1 / width.clamp_min(1e-6), 0)
        encoded = (x.unsqueeze(2) - low.reshape(shape)).mul_(slope.reshape(shape)).clamp_(0, 1).sub_(0.5)
        return encoded.flatten(1, 2)


class ContextUNet(nn.Module):
    """Coarse U-Net with a fine head.

    ``coarse`` is ``(batch, coarse_channels, rows / factor, columns / factor)``, ``fine`` ``(batch, fine_channels, rows,
    columns)``; the result ``(batch, classes, rows, columns)``, or ``(batch, classes, n)`` for flat indices ``points``
    of shape ``(batch, n)``.

    The first layer of the head is linear, so its parts are computed where they are cheapest: what comes from the coarse
    grid before it is expanded. The context is interpolated between the centres of coarse cells. So is what a cell says
    of itself with ``expansion="bilinear"``; with ``"nearest"`` the map shows the edges of coarse cells. ``detail`` says
    where in a coarse cell a class is by sub-pixel convolution (Shi et al. 2016, arXiv 1609.05158). Dropping the context
    of some samples lets the pixel-wise branch learn to work alone.
    """

    def __init__(self, inputs: InputSpec, architecture: Architecture) -> None:
        super().__init__()
        coarse_channels, fine_channels, classes = inputs.coarse_channels, inputs.fine_channels, len(inputs.classes)
        factor, widths, head, bins = inputs.factor, architecture.widths, architecture.head, architecture.bins
        dropout = architecture.dropout
        self.factor = factor
        self.context_dropout = architecture.context_dropout
        self.bilinear = architecture.expansion == "bilinear"
        self.encoder = nn.ModuleList(
            _block(a, b, dropout) for a, b in zip([coarse_channels + fine_channels, *widths[:-1]], widths, strict=True)
        )
        self.decoder = nn.ModuleList(
            _block(deep + shallow, shallow, dropout)
            for deep, shallow in zip(widths[:0:-1], widths[-2::-1], strict=True)
        )
        self.coarse_bins = PiecewiseLinear(coarse_channels, bins)
        self.fine_bins = PiecewiseLinear(fine_channels, bins)
        self.from_coarse = nn.Conv2d(coarse_channels * bins, 2 * head, 1, bias=False)
        self.from_fine = nn.Conv2d(fine_channels * bins, 2 * head, 1, bias=False)
        self.from_context = nn.Conv2d(widths[0], head, 1, bias=False)
        self.from_detail = (
            nn.Sequential(nn.Conv2d(widths[0], head * factor**2, 1, bias=False), nn.PixelShuffle(factor))
            if architecture.detail
            else None
        )
        self.joint = nn.Sequential(
            nn.BatchNorm2d(head), nn.ReLU(inplace=True), nn.Dropout(dropout), *layer(head, head, 1), nn.Dropout(dropout)
        )
        self.head = nn.Conv2d(head, classes, 1)
        self.pixel = nn.Sequential(
            nn.BatchNorm2d(head), nn.ReLU(inplace=True), *layer(head, head, 1), nn.Conv2d(head, classes, 1)
        )

    def fit_bins(self, coarse: Tensor, fine: Tensor) -> None:
        """Put the knots at the quantiles of sample pixels, ``(channels, samples)`` each."""
        self.coarse_bins.fit(coarse)
        self.fine_bins.fit(fine)

    def forward(self, coarse: Tensor, fine: Tensor, points: Tensor | None = None) -> Tensor:
        """Return one score a class and pixel."""
        context = self.context(torch.cat([functional.avg_pool2d(fine, self.factor), coarse], dim=1))
        cells = self.cells(coarse, context)
        if self.training or fine.is_cuda:
            scores = self._scores(cells, fine, points)
        elif points is None:
            height, strips = fine.shape[-2] // self.factor, []
            for top in range(0, height, _STRIP):
                rows = slice(top, min(top + _STRIP, height))
                strips.append(self._scores(cells, fine, rows=rows))
            scores = torch.cat(strips, dim=2)
        else:
            few = _STRIP * self.factor * fine.shape[-1]
            scores = torch.cat([self._scores(cells, fine, part) for part in points.split(few, 1)], dim=2)
        return scores if points is None else scores.squeeze(-1)

    def _scores(self, cells: Cells, fine: Tensor, points: Tensor | None = None, rows: slice | None = None) -> Tensor:
        """Add the head on context and own fields together to the branch beside it, pixel by pixel."""
        if points is not None:
            first = self.from_fine(self.fine_bins(pick(fine, points))) + cells.at(points, fine.shape[-2:])
        elif rows is not None:
            own = fine[:, :, rows.start * self.factor : rows.stop * self.factor]
            first = self.from_fine(self.fine_bins(own)) + cells.expanded(rows)
        else:
            first = self.from_fine(self.fine_bins(fine)) + cells.expanded()
        joint, pixel = first.chunk(2, dim=1)
        scores: Tensor = self.head(self.joint(joint))
        if self.training and self.context_dropout:
            scores = scores * (torch.rand(len(scores), 1, 1, 1, device=scores.device) >= self.context_dropout)
        return scores + self.pixel(pixel)

    def context(self, x: Tensor) -> Tensor:
        """Return what each coarse cell knows of its surroundings; ``x`` are all channels on the coarse grid."""
        skips = []
        for level, block in enumerate(self.encoder):
            x = block(functional.max_pool2d(x, 2) if level else x)
            skips.append(x)
        x = skips.pop()
        for block in self.decoder:
            x = functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
            x = block(torch.cat([x, skips.pop()], dim=1))
        return x

    def cells(self, coarse: Tensor, context: Tensor) -> Cells:
        """First layer of the head on what is known on the coarse grid."""
        own = self.from_coarse(self.coarse_bins(coarse))
        around = _beside(self.from_context(context))
        detail = None if self.from_detail is None else self.from_detail[0](context)
        if self.bilinear:
            return Cells(self.factor, around + own, None, detail)
        return Cells(self.factor, around, own, detail)


@dataclass(frozen=True, eq=False)
class Cells:
    """First layer of the head on the coarse grid, ``(batch, 2 * head, rows, columns)``.

    `smooth` is interpolated between the centres of coarse cells; `constant` is the same in a whole coarse cell;
    `detail` has ``head * factor ** 2`` channels, those of the pixels of a coarse cell, for the branch with context.
    """

    factor: int
    smooth: Tensor
    constant: Tensor | None
    detail: Tensor | None

    def expanded(self, rows: slice | None = None) -> Tensor:
        """Return the sum on the fine grid, of all coarse rows or some."""
        rows = rows or slice(0, self.smooth.shape[2])
        above = max(rows.start - 1, 0)
        low = self.smooth[:, :, above : rows.stop + 1]
        total = functional.interpolate(low, scale_factor=self.factor, mode="bilinear", align_corners=False)
        fine = slice(rows.start * self.factor, rows.stop * self.factor)
        total = total[:, :, fine.start - above * self.factor : fine.stop - above * self.factor]
        if self.constant is not None:
            total = total + functional.interpolate(self.constant[:, :, rows], scale_factor=self.factor, mode="nearest")
        return total if self.detail is None else total + self._shuffled(self.detail[:, :, rows])

    def at(self, points: Tensor, shape: torch.Size) -> Tensor:
        """Return the sum at flat indices of a fine grid, ``(batch, 2 * head, points, 1)``."""
        rows, columns = shape
        x, y = (points % columns + 0.5) / columns * 2 - 1, (points // columns + 0.5) / rows * 2 - 1
        places = torch.stack([x, y], dim=-1).unsqueeze(2).to(self.smooth.dtype)
        total = functional.grid_sample(self.smooth.contiguous(), places, padding_mode="border", align_corners=False)
        if self.constant is not None:
            cell = points // columns // self.factor * (columns // self.factor) + points % columns // self.factor
            total = total + pick(self.constant, cell)
        return total if self.detail is None else total + pick(self._shuffled(self.detail), points)

    def _shuffled(self, detail: Tensor) -> Tensor:
        return _beside(functional.pixel_shuffle(detail, self.factor))


def _beside(layer: Tensor) -> Tensor:
    """Add channels of zeros for the pixel-wise branch, which does not see the context."""
    return functional.pad(layer, (0, 0, 0, 0, 0, layer.shape[1]))


def layer(channels_in: int, channels_out: int, size: int, reach: int = 1) -> list[nn.Module]:
    """Return a convolution over ``size`` x ``size`` pixels that are ``reach`` pixels apart, and what follows it."""
    padding = size // 2 * reach
    convolution = nn.Conv2d(channels_in, channels_out, size, padding=padding, dilation=reach, bias=False)
    return [convolution, nn.BatchNorm2d(channels_out), nn.ReLU(inplace=True)]


def _block(channels_in: int, channels_out: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(
        *layer(channels_in, channels_out, 3), nn.Dropout2d(dropout), *layer(channels_out, channels_out, 3)
    )


def pick(fields: Tensor, points: Tensor) -> Tensor:
    """Values at flat indices, ``(batch, channels, points, 1)``."""
    return fields.flatten(2).gather(2, points[:, None].expand(-1, fields.shape[1], -1)).unsqueeze(-1)
