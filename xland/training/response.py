"""How a model answers to forcings with less land under use: trained so that it then never shows more of it.

A forcing is pushed back in training as a distant past is: cropland, pasture and urban land of a sample are scaled, and
what becomes free is primary land, forest or not as the natural land of the cell is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from xland.errors import ConfigurationError
from xland.models.inputs import Channel, InputSpec, Transform
from xland.vocabulary import CLASS_NAMES, CROPLAND, PASTURE, STATE_CLASSES, URBAN

_USED = frozenset(CLASS_NAMES[code] for code in (URBAN, CROPLAND, PASTURE))
_PRIMARY = {"primf": "forest", "primn": "grass_shrub"}

_FORWARD: dict[Transform, Callable[[Tensor], Tensor]] = {
    "none": lambda values: values,
    "sqrt": lambda values: values.clamp_min(0).sqrt(),
    "log1p": lambda values: values.clamp_min(0).log1p(),
    "signed_sqrt": lambda values: values.abs().sqrt() * values.sign(),
}
_BACK: dict[Transform, Callable[[Tensor], Tensor]] = {
    "none": lambda values: values,
    "sqrt": torch.square,
    "log1p": torch.expm1,
    "signed_sqrt": lambda values: values.square() * values.sign(),
}


def class_of(name: str) -> str:
    """Return the class of a forcing variable: of a state of LUH, or of a class fraction itself."""
    return STATE_CLASSES.get(name, name)


@dataclass(frozen=True)
class PushBack:
    """Scales the land under use in normalised coarse channels, where no channel mixes it with other land."""

    inputs: InputSpec

    def __post_init__(self) -> None:
        for channel in self.inputs.coarse:
            used = self._used(channel)
            if any(used) and not all(used) and not self._everything(channel):
                raise ConfigurationError(
                    f"response: channel {channel.name!r} adds land under use to other land, so that it cannot be "
                    "pushed back: give them as channels of their own, or leave response at 0"
                )
        if not any(self._receives(channel) for channel in self.inputs.coarse):
            raise ConfigurationError(
                "response: no coarse channel is primary land (primf, primn, or the fractions forest and grass_shrub), "
                "which land under use could become: leave response at 0"
            )

    def __call__(self, coarse: Tensor, keep: Tensor) -> Tensor:
        """Return coarse channels, (batch, channels, rows, columns), of which a share ``keep`` (batch,) stays in use."""
        keep = keep[:, None, None]
        channels = self.inputs.coarse
        parts = []
        for layers in coarse.split(len(channels), dim=1):  # one part a step
            values = [_BACK[each.transform](layers[:, n] * each.scale + each.mean) for n, each in enumerate(channels)]
            free = (1 - keep) * self._sum(values, self._once(used=True)).clamp_min(0)
            forest, natural = (self._sum(values, self._once(used=False, only=only)) for only in ("forest", ""))
            wooded = torch.where(natural > 1e-6, forest / natural.clamp_min(1e-6), 0.0).clamp(0, 1)
            pushed = []
            for channel, value, layer in zip(channels, values, layers.unbind(1), strict=True):
                if channel.sources and all(self._used(channel)):
                    changed = value * keep
                elif name := self._receives(channel):
                    changed = value + free * (wooded if name == "forest" else 1 - wooded)
                else:
                    pushed.append(layer)
                    continue
                pushed.append((_FORWARD[channel.transform](changed) - channel.mean) / channel.scale)
            # cells without data are 0 in all channels
            there = (layers != 0).any(dim=1, keepdim=True)
            parts.append(torch.where(there, torch.stack(pushed, dim=1), layers))
        return torch.cat(parts, dim=1)

    def _once(self, *, used: bool, only: str = "") -> list[int]:
        """Return numbers of channels that cover land under use, or natural land, each variable once."""
        covered: set[str] = set()
        found = []
        for number, channel in enumerate(self.inputs.coarse):
            classes = {class_of(name) for name in channel.sources}
            fits = classes <= _USED if used else classes <= ({only} if only else {"forest", "grass_shrub"})
            if channel.sources and fits and not covered & set(channel.sources):
                covered |= set(channel.sources)
                found.append(number)
        return found

    @staticmethod
    def _sum(values: Sequence[Tensor], numbers: Sequence[int]) -> Tensor:
        return sum((values[number] for number in numbers), torch.zeros_like(values[0]))

    @staticmethod
    def _used(channel: Channel) -> list[bool]:
        return [class_of(name) in _USED for name in channel.sources]

    def _everything(self, channel: Channel) -> bool:
        """Whether a channel is the sum of all that the model reads, which a push does not change."""
        every = {name for each in self.inputs.coarse for name in each.sources}
        return len(every) > 1 and set(channel.sources) == every

    def _receives(self, channel: Channel) -> str:
        """Return the class of primary land that a channel is; nothing for others."""
        names = {_PRIMARY.get(name, name if name in ("forest", "grass_shrub") else "") for name in channel.sources}
        return names.pop() if len(names) == 1 else ""


def more_cropland(pushed: Tensor, scores: Tensor, margin: float = 0.3) -> Tensor:
    """Return how clearly cropland is chosen, or nearly, with less land under use where it was not chosen before.

    Of class scores, ``(batch, classes, ...)``: how far its margin over the others is above what it was, and
    ``-margin``.
    """
    before = _ahead(scores.detach())
    allowed = before.clamp_min(-margin)
    return torch.where(before < 0, (_ahead(pushed) - allowed).clamp_min(0), 0.0)


def _ahead(scores: Tensor) -> Tensor:
    """Return by how much cropland is ahead of the best other class."""
    others = scores.index_fill(1, torch.tensor([CROPLAND], device=scores.device), -torch.inf).amax(dim=1)
    return scores[:, CROPLAND] - others
