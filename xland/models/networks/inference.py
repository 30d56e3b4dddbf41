"""The context network for predictions on a CPU: its head in one pass over the pixels that are wanted.

The first layer of the head is linear in ramps of each channel. So what a channel gives is a piecewise linear function
of its value: one interpolation between two rows of a table, in place of a product with all of its bins. The result is
that of :class:`~xland.models.networks.context.ContextUNet` but for rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from xland.compiled import compiled
from xland.models.networks.context import ContextUNet, PiecewiseLinear

Floats = NDArray[np.float32]
Integers = NDArray[np.integer[Any]]
Around = tuple[Floats, Floats, Floats]
"""What a window knows on the coarse grid, channels last: interpolated, constant in a cell, and of pixels of a cell."""

_STRIP = 2560
"""Pixels that go through the head together: what they need stays in the cache of a core."""


class CompiledContext(nn.Module):
    """A trained :class:`ContextUNet` for predictions on a CPU; reads and returns what that does."""

    def __init__(self, network: ContextUNet) -> None:
        super().__init__()
        self.network = network.eval()
        joint, own = network.joint, network.pixel
        (scale, shift), (own_scale, own_shift) = _affine(joint[0]), _affine(own[0])
        self.scale, self.shift = torch.cat([scale, own_scale]), torch.cat([shift, own_shift])
        self.first = _FirstLayer(network.fine_bins, network.from_fine.weight.flatten(1), self.scale)
        self.own = _FirstLayer(network.coarse_bins, network.from_coarse.weight.flatten(1), self.scale)
        # the branch beside does not see the context
        self.beside = functional.pad(_matrix(network.from_context).T, (0, len(own_scale))) * self.scale
        self.encoder, self.decoder = (
            [_convolutions(block) for block in half] for half in (network.encoder, network.decoder)
        )
        self.hidden = (_folded(joint[3], joint[4]), _folded(own[2], own[3]))
        self.last = (_matrix(network.head), _matrix(own[5]))
        bias = torch.stack([cast("Tensor", layer.bias).detach() for layer in (network.head, own[5])])
        self.bias = bias.sum(dim=0)[:, None]

    @torch.inference_mode()
    def forward(self, coarse: Tensor, fine: Tensor, points: Tensor | None = None) -> Tensor:
        """Return one score a class and pixel."""
        shape = fine.shape[-2:]
        whole = np.ones(shape, np.float32)
        everywhere = torch.arange(shape.numel()).expand(len(fine), -1) if points is None else points
        scores = [
            self.scores(own[None], chosen, [(around, 0, 0)], whole)
            for own, chosen, around in zip(fine, everywhere, self.around(coarse, self.low(fine)), strict=True)
        ]
        total = torch.stack(scores)
        return total.unflatten(2, shape) if points is None else total

    def low(self, fine: Tensor) -> Tensor:
        """Return the means of coarse cells; in these two steps it takes a third of the time of ``avg_pool2d``."""
        factor = self.network.factor
        rows = fine.unflatten(2, (-1, factor)).sum(dim=3)
        return (rows.unflatten(3, (-1, factor)) @ torch.full((factor, 1), 1 / factor**2)).squeeze(-1)

    @torch.inference_mode()
    def around(self, coarse: Tensor, low: Tensor) -> list[Around]:
        """Return the first layer of the head on the coarse grid, for each window; `low` are means of fine fields."""
        network = self.network
        context = self._context(torch.cat([low, coarse], dim=1))
        around, own = _channels_last(context) @ self.beside + self.shift, self._own(coarse)
        constant = np.zeros((len(own), 0, 0, 0), np.float32)
        detail = np.zeros((len(own), 0, 0, 0, 0), np.float32)
        if network.bilinear:
            smooth = (around + own).numpy()
        else:
            smooth, constant = around.numpy(), own.numpy()
        if network.from_detail is not None:
            layers = network.from_detail[0](context).unflatten(1, (-1, network.factor**2))
            layers = layers * self.scale[: self.scale.numel() // 2, None, None, None]
            detail = layers.permute(0, 3, 4, 2, 1).contiguous().numpy()
        return list(zip(smooth, constant, detail, strict=True))

    @torch.inference_mode()
    def scores(
        self, fine: Tensor, points: Tensor, windows: Sequence[tuple[Around, int, int]], weights: Floats
    ) -> Tensor:
        """Return scores, ``(classes, points)``, at flat indices of a tile; `fine` is ``(1, channels, rows, columns)``.

        `windows` say what is around the tile, and where its first row and column are in them. What several say is
        added up with `weights` of each pixel of a window.
        """
        places, columns = points.numpy(), fine.shape[-1]
        flat, half = fine[0].flatten(1).contiguous().numpy(), len(self.scale) // 2
        first = np.empty((min(_STRIP, len(places)), len(self.scale)), np.float32)
        scores = torch.empty((len(self.bias), len(places)))
        for start in range(0, len(places), _STRIP):
            part = slice(start, min(start + _STRIP, len(places)))
            values = first[: part.stop - start]
            self.first(flat, places[part], values)
            for (smooth, constant, detail), top, left in windows:
                corner = (top, left)
                _add_cells(
                    smooth, constant, detail, weights, self.network.factor, columns, corner, places[part], values
                )
            # with pixels along the rows, these products take two thirds of the time
            layer, total = torch.from_numpy(values).relu_().T, self.bias
            for branch, (weight, bias), last in zip(layer.split(half), self.hidden, self.last, strict=True):
                total = torch.addmm(total, last, torch.addmm(bias, weight, branch).relu_())
            scores[:, part] = total
        return scores

    def _own(self, coarse: Tensor) -> Tensor:
        """Return what coarse cells say of themselves, (batch, rows, columns, channels)."""
        batch, channels, rows, columns = coarse.shape
        cells = coarse.transpose(0, 1).reshape(channels, -1).numpy()
        layer = np.empty((cells.shape[1], len(self.scale)), np.float32)
        self.own(cells, np.arange(cells.shape[1]), layer)
        return torch.from_numpy(layer).unflatten(0, (batch, rows, columns))

    def _context(self, x: Tensor) -> Tensor:
        """Do what :meth:`ContextUNet.context` does, channels last, with normalisations folded into convolutions."""
        x, skips = x.contiguous(memory_format=torch.channels_last), []
        for level, block in enumerate(self.encoder):
            x = _convolved(functional.max_pool2d(x, 2) if level else x, block)
            skips.append(x)
        x = skips.pop()
        for block in self.decoder:
            x = functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
            x = _convolved(torch.cat([x, skips.pop()], dim=1), block)
        return x


class _FirstLayer:
    """What the channels of a pixel give to the first layer, from a table of its values at their knots."""

    def __init__(self, bins: PiecewiseLinear, weight: Tensor, scale: Tensor) -> None:
        channels, count = bins.knots.shape[0], bins.knots.shape[1] - 1
        ramps = (weight.detach().double() * scale.double()[:, None]).unflatten(1, (channels, count)).permute(1, 2, 0)
        below = -0.5 * ramps.sum(dim=1, keepdim=True)
        width = bins.knots.double().diff(dim=1)
        ramps = ramps * (width > 0)[..., None]  # bins without width are constant
        at_knots = torch.cat([below, below + ramps.cumsum(dim=1)], dim=1)
        self.inner = bins.knots[:, 1:-1].contiguous().numpy()
        self.low = bins.knots[:, :-1].contiguous().numpy()
        self.inverse = torch.where(width > 0, 1 / width.clamp_min(1e-6), 0).float().numpy()
        self.table = at_knots[:, :-1].float().contiguous().numpy()
        self.rise = ramps.float().contiguous().numpy()

    def __call__(self, fine: Floats, points: Integers, into: Floats) -> None:
        shape = (len(points), len(self.low))
        bins, steps = np.empty(shape, np.int32), np.empty(shape, np.float32)
        _find_bins(fine, points, self.inner, self.low, self.inverse, bins, steps)
        _add_channels(self.table, self.rise, bins, steps, into)


@compiled
def _find_bins(
    fine: Floats, points: Integers, inner: Floats, low: Floats, inverse: Floats, bins: Integers, steps: Floats
) -> None:
    """Write in which bin each channel of each point is, and how far it has gone through it, from 0 to 1."""
    count = points.shape[0]
    values, found = np.empty(count, np.float32), np.empty(count, np.int32)
    for channel in range(fine.shape[0]):
        for point in range(count):
            values[point], found[point] = fine[channel, points[point]], 0
        for knot in range(inner.shape[1]):
            limit = inner[channel, knot]
            for point in range(count):
                found[point] += values[point] >= limit
        for point in range(count):
            step = (values[point] - low[channel, found[point]]) * inverse[channel, found[point]]
            bins[point, channel] = found[point]
            steps[point, channel] = min(max(step, np.float32(0)), np.float32(1))


@compiled
def _add_channels(table: Floats, rise: Floats, bins: Integers, steps: Floats, into: Floats) -> None:
    """Write the sum over all channels; four at a time, so that the sum is read and written less often."""
    channels, width = bins.shape[1], into.shape[1]
    whole = channels - channels % 4
    for point in range(into.shape[0]):
        row = into[point]
        row[:] = 0
        for c in range(0, whole, 4):
            a, b, d, e = bins[point, c], bins[point, c + 1], bins[point, c + 2], bins[point, c + 3]
            s, t, u, v = steps[point, c], steps[point, c + 1], steps[point, c + 2], steps[point, c + 3]
            for j in range(width):
                one = (table[c, a, j] + s * rise[c, a, j]) + (table[c + 1, b, j] + t * rise[c + 1, b, j])
                two = (table[c + 2, d, j] + u * rise[c + 2, d, j]) + (table[c + 3, e, j] + v * rise[c + 3, e, j])
                row[j] += one + two
        for c in range(whole, channels):
            a, s = bins[point, c], steps[point, c]
            for j in range(width):
                row[j] += table[c, a, j] + s * rise[c, a, j]


@compiled
def _add_cells(
    smooth: Floats,
    constant: Floats,
    detail: Floats,
    weights: Floats,
    factor: int,
    columns: int,
    corner: tuple[int, int],
    points: Integers,
    into: Floats,
) -> None:
    """Add what a window knows on the coarse grid, between the centres of its cells, with the weight of each pixel."""
    rows, width = smooth.shape[0], into.shape[1]
    wide = smooth.shape[1]
    for point in range(points.shape[0]):
        y, x = corner[0] + points[point] // columns, corner[1] + points[point] % columns
        if y >= weights.shape[0] or x >= weights.shape[1]:
            continue
        share = weights[y, x]
        cell_row, cell_column = y // factor, x // factor
        from_north = (y + 0.5) / factor - 0.5
        from_west = (x + 0.5) / factor - 0.5
        north, west = int(np.floor(from_north)), int(np.floor(from_west))
        down, right = np.float32(from_north - north), np.float32(from_west - west)
        south, east = min(north + 1, rows - 1), min(west + 1, wide - 1)
        north, west = max(north, 0), max(west, 0)
        up, left = share * (np.float32(1) - down), np.float32(1) - right
        down *= share
        nw, ne, sw, se = up * left, up * right, down * left, down * right
        row = into[point]
        for j in range(width):
            row[j] += (nw * smooth[north, west, j] + ne * smooth[north, east, j]) + (
                sw * smooth[south, west, j] + se * smooth[south, east, j]
            )
        if constant.size:
            for j in range(width):
                row[j] += share * constant[cell_row, cell_column, j]
        if detail.size:
            place = y % factor * factor + x % factor
            for j in range(detail.shape[3]):
                row[j] += share * detail[cell_row, cell_column, place, j]


_NORM = ("weight", "bias", "running_mean", "running_var")


def _affine(norm: nn.Module) -> tuple[Tensor, Tensor]:
    """Return the scale and shift that a batch normalisation is after training."""
    weight, bias, mean, variance = (cast("Tensor", getattr(norm, name)).detach() for name in _NORM)
    scale = weight / torch.sqrt(variance + cast("nn.BatchNorm2d", norm).eps)
    return scale, bias - mean * scale


def _convolutions(block: nn.Module) -> list[tuple[Tensor, Tensor]]:
    """Return the weights, channels last, and the bias of each convolution of a block and the normalisation after it."""
    layers, found = list(block.children()), []
    for convolution, norm in pairwise(layers):
        if isinstance(convolution, nn.Conv2d):
            scale, shift = _affine(norm)
            weight = convolution.weight.detach() * scale[:, None, None, None]
            found.append((weight.contiguous(memory_format=torch.channels_last), shift))
    return found


def _convolved(x: Tensor, block: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    for weight, bias in block:
        x = functional.conv2d(x, weight, bias, padding=1).relu_()
    return x


def _folded(convolution: nn.Module, norm: nn.Module) -> tuple[Tensor, Tensor]:
    """Return the matrix and the bias of a layer and the normalisation that follows it."""
    scale, shift = _affine(norm)
    return _matrix(convolution) * scale[:, None], shift[:, None]


def _matrix(convolution: nn.Module) -> Tensor:
    """Return the weights of a 1 x 1 convolution as a matrix, (channels out, channels in)."""
    return cast("nn.Conv2d", convolution).weight.detach().flatten(1)


def _channels_last(layers: Tensor) -> Tensor:
    """Put channels last: (batch, rows, columns, channels)."""
    return layers.permute(0, 2, 3, 1).contiguous()
