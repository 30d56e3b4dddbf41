"""A U-Net on the coarse grid, and a pixel-wise head on the fine one.

Most of what decides a pixel is known on the coarse grid only. Here the first step down of the
U-Net is the factor between the grids: static fields are averaged to coarse cells, all convolutions
that see neighbours run there, and the head joins their context, interpolated, with the pixel's own
fields. For a factor of 5 this is several times cheaper a pixel than convolving the expanded fields.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class ContextUNet(nn.Module):
    """Coarse U-Net with a fine head.

    Parameters
    ----------
    coarse_channels, fine_channels, classes : int
    factor : int
        Fine cells along a coarse cell.
    widths : tuple of int
        Channels of each level, the first on the coarse grid, each further one on half its resolution.
    head : int
        Hidden channels of the head and of the pixel-wise branch beside it.
    detail : int
        Channels that the coarse U-Net lays out within each coarse cell by sub-pixel convolution
        (Shi et al. 2016, arXiv 1609.05158), so that neighbours tell where in the cell a class is.
    dropout : float
        Share of channels dropped while training; the context of a whole sample is dropped as often,
        so that the pixel-wise branch learns to stand alone.

    Notes
    -----
    ``coarse`` is ``(batch, coarse_channels, rows / factor, columns / factor)``, ``fine``
    ``(batch, fine_channels, rows, columns)``; the result ``(batch, classes, rows, columns)``, or
    ``(batch, classes, points)`` for flat indices ``points`` of shape ``(batch, points)``.
    """

    def __init__(
        self,
        coarse_channels: int,
        fine_channels: int,
        classes: int,
        factor: int,
        widths: tuple[int, ...],
        head: int,
        detail: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.factor = factor
        self.dropout = dropout
        channels = coarse_channels + fine_channels
        self.encoder = nn.ModuleList(
            _block(a, b, dropout) for a, b in zip([channels, *widths[:-1]], widths, strict=True)
        )
        self.decoder = nn.ModuleList(
            _block(deep + shallow, shallow, dropout)
            for deep, shallow in zip(widths[:0:-1], widths[-2::-1], strict=True)
        )
        self.detail = (
            nn.Sequential(nn.Conv2d(widths[0], detail * factor**2, 1), nn.PixelShuffle(factor)) if detail else None
        )
        self.joint = nn.Sequential(
            *_layer(widths[0] + detail + channels, head, 1),
            nn.Dropout(dropout),
            *_layer(head, head, 1),
            nn.Dropout(dropout),
        )
        self.head = nn.Conv2d(head, classes, 1)
        self.pixel = nn.Sequential(*_layer(channels, head, 1), *_layer(head, head, 1), nn.Conv2d(head, classes, 1))

    def forward(self, coarse: Tensor, fine: Tensor, points: Tensor | None = None) -> Tensor:
        """Return one score a class and pixel."""
        context = self._context(torch.cat([functional.avg_pool2d(fine, self.factor), coarse], dim=1))
        own = self._own(coarse, fine, points)
        detail = [] if self.detail is None else [self.detail(context)]
        if points is None:
            context = functional.interpolate(context, scale_factor=self.factor, mode="bilinear", align_corners=False)
        else:
            context = functional.grid_sample(
                context.contiguous(), _places(points, fine), padding_mode="border", align_corners=False
            )
            detail = [_pick(each, points) for each in detail]
        scores: Tensor = self.head(self.joint(torch.cat([context, *detail, own], dim=1)))
        if self.training and self.dropout:
            scores = scores * (torch.rand(len(scores), 1, 1, 1, device=scores.device) >= self.dropout)
        scores = scores + self.pixel(own)
        return scores if points is None else scores.squeeze(-1)

    def _context(self, x: Tensor) -> Tensor:
        skips = []
        for level, block in enumerate(self.encoder):
            x = block(functional.max_pool2d(x, 2) if level else x)
            skips.append(x)
        x = skips.pop()
        for block in self.decoder:
            x = functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
            x = block(torch.cat([x, skips.pop()], dim=1))
        return x

    def _own(self, coarse: Tensor, fine: Tensor, points: Tensor | None) -> Tensor:
        """Return what is known of each pixel itself: its coarse cell and its fine fields."""
        if points is None:
            return torch.cat([fine, functional.interpolate(coarse, scale_factor=self.factor, mode="nearest")], dim=1)
        columns = fine.shape[-1]
        row, column = points // columns, points % columns
        cell = (row // self.factor) * (columns // self.factor) + column // self.factor
        return torch.cat([_pick(fine, points), _pick(coarse, cell)], dim=1)


def _layer(channels_in: int, channels_out: int, size: int) -> list[nn.Module]:
    return [
        nn.Conv2d(channels_in, channels_out, size, padding=size // 2, bias=False),
        nn.BatchNorm2d(channels_out),
        nn.ReLU(inplace=True),
    ]


def _block(channels_in: int, channels_out: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(
        *_layer(channels_in, channels_out, 3), nn.Dropout2d(dropout), *_layer(channels_out, channels_out, 3)
    )


def _pick(fields: Tensor, points: Tensor) -> Tensor:
    """Values at flat indices, ``(batch, channels, points, 1)``."""
    return fields.flatten(2).gather(2, points[:, None].expand(-1, fields.shape[1], -1)).unsqueeze(-1)


def _places(points: Tensor, fine: Tensor) -> Tensor:
    """Flat indices as the relative coordinates that ``grid_sample`` reads, ``(batch, points, 1, 2)``."""
    rows, columns = fine.shape[-2:]
    x = (points % columns + 0.5) / columns * 2 - 1
    y = (points // columns + 0.5) / rows * 2 - 1
    return torch.stack([x, y], dim=-1).unsqueeze(2).to(fine.dtype)
