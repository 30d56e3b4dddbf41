"""The U-Net and the network around it that expands the coarse fields on its own device."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from xland.errors import ModelError
from xland.inputs import InputSpec


@dataclass(frozen=True)
class Architecture:
    """Size of a U-Net.

    Parameters
    ----------
    width : int
        Channels of the first level; each deeper level has twice as many.
    depth : int
        Number of times that the resolution is halved; windows must be multiples of ``2 ** depth``.
    dropout : float
        Share of channels dropped in the deepest level and in the decoder while training.
    pixel_width : int
        Hidden channels of a pixel-wise branch beside the U-Net, whose scores are added; 0 for none.
    """

    width: int = 32
    depth: int = 4
    dropout: float = 0.0
    pixel_width: int = 0

    def __post_init__(self) -> None:
        if self.width < 1 or self.depth < 1 or not 0 <= self.dropout < 1 or self.pixel_width < 0:
            raise ModelError(f"a U-Net cannot have {self}")

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for the model card."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Architecture:
        """Build from a model card; :class:`ModelError` names unknown entries."""
        unknown = sorted(set(values) - {f.name for f in fields(cls)})
        if unknown:
            raise ModelError(f"architecture: unknown entries {', '.join(unknown)}")
        return cls(**values)


class _DoubleConvolution(nn.Sequential):
    def __init__(self, channels_in: int, channels_out: int) -> None:
        layers: list[nn.Module] = []
        for channels in (channels_in, channels_out):
            layers += [
                nn.Conv2d(channels, channels_out, 3, padding=1, bias=False),
                nn.BatchNorm2d(channels_out),
                nn.ReLU(inplace=True),
            ]
        super().__init__(*layers)


class UNet(nn.Module):
    """A plain U-Net (Ronneberger et al. 2015, arXiv 1505.04597) with batch normalisation.

    Parameters
    ----------
    channels_in, channels_out : int
    architecture : Architecture

    Notes
    -----
    Input ``(batch, channels_in, rows, columns)``, output ``(batch, channels_out, rows, columns)``.
    """

    def __init__(self, channels_in: int, channels_out: int, architecture: Architecture) -> None:
        super().__init__()
        widths = [architecture.width * 2**level for level in range(architecture.depth + 1)]
        self.encoder = nn.ModuleList(
            _DoubleConvolution(a, b) for a, b in zip([channels_in, *widths[:-1]], widths, strict=True)
        )
        self.upsample = nn.ModuleList(
            nn.ConvTranspose2d(deep, shallow, 2, stride=2)
            for deep, shallow in zip(widths[:0:-1], widths[-2::-1], strict=True)
        )
        self.decoder = nn.ModuleList(_DoubleConvolution(2 * width, width) for width in widths[-2::-1])
        self.dropout = nn.Dropout2d(architecture.dropout)
        self.head = nn.Conv2d(widths[0], channels_out, 1)

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


class DownscalingNetwork(nn.Module):
    """Coarse fields, static fields and a prior map in; class scores on the fine grid out.

    Parameters
    ----------
    inputs : InputSpec
        Channels; their number and order fix the first layer.
    architecture : Architecture
    """

    def __init__(self, inputs: InputSpec, architecture: Architecture) -> None:
        super().__init__()
        self.inputs = inputs
        self.architecture = architecture
        if inputs.window % 2**architecture.depth:
            raise ModelError(
                f"windows of {inputs.window} cannot be halved {architecture.depth} times: "
                f"choose a multiple of {2**architecture.depth}"
            )
        self.unet = UNet(inputs.channels, len(inputs.classes), architecture)
        hidden = architecture.pixel_width
        self.pixel = (
            nn.Sequential(
                nn.Conv2d(inputs.channels, hidden, 1),
                nn.ReLU(inplace=True),
                nn.Dropout2d(architecture.dropout),
                nn.Conv2d(hidden, hidden, 1),
                nn.ReLU(inplace=True),
                nn.Conv2d(hidden, len(inputs.classes), 1),
            )
            if hidden
            else None
        )

    def assemble(self, coarse: Tensor, static: Tensor, prior: Tensor | None) -> Tensor:
        """Expand the coarse fields, encode the prior and stack all channels.

        Parameters
        ----------
        coarse : (batch, coarse_channels, rows / factor, columns / factor) float tensor
        static : (batch, static channels, rows, columns) float tensor
        prior : (batch, rows, columns) uint8 tensor of class codes or None
            255 where the prior is masked or unknown.
        """
        dtype = self.unet.head.weight.dtype
        factor = self.inputs.factor
        expanded = coarse.to(dtype).repeat_interleave(factor, dim=-2).repeat_interleave(factor, dim=-1)
        layers = [expanded, static.to(dtype)]
        if self.inputs.prior != "none":
            if prior is None:
                prior = torch.full(static.shape[:1] + static.shape[2:], 255, dtype=torch.uint8, device=static.device)
            layers.append(self._encode_prior(prior, dtype))
        return torch.cat(layers, dim=1)

    def forward(self, coarse: Tensor, static: Tensor, prior: Tensor | None = None) -> Tensor:
        """Return scores of shape ``(batch, classes, rows, columns)``; see :meth:`assemble`."""
        x = self.assemble(coarse, static, prior)
        scores = self.unet(x)
        return scores if self.pixel is None else scores + self.pixel(x)

    @torch.no_grad()
    def add_class_offsets(self, offsets: Tensor) -> None:
        """Add an offset to the score of each class, in the bias of the last layer."""
        self.unet.head.bias += offsets

    def _encode_prior(self, prior: Tensor, dtype: torch.dtype) -> Tensor:
        known = prior != 255
        if self.inputs.prior == "code":
            count = len(self.inputs.classes)
            return torch.where(known, prior, 0).to(dtype).div(count).unsqueeze(1)
        codes = torch.arange(len(self.inputs.classes), device=prior.device, dtype=torch.uint8)
        return (prior.unsqueeze(1) == codes[None, :, None, None]).to(dtype)
