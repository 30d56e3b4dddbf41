"""Kinds of networks, and the kind and size of one network, as model cards and training configurations give them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import entry_points
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

from xland.arguments import unknown
from xland.errors import ModelError
from xland.models.inputs import InputSpec
from xland.records import Limits, check_entries

if TYPE_CHECKING:
    from torch import nn

WIDEST = 2**15  # channels that a level may have
LARGEST_LAYER = 2**27  # bytes that one layer of a window may take: 512 x 512 cells of 128 channels


@dataclass(frozen=True)
class _Kind:
    build: Callable[[InputSpec, Architecture], nn.Module] | str
    pixelwise: bool
    channels: Callable[[Architecture], int]
    compiled: Callable[[nn.Module], nn.Module] | str | None


_kinds: dict[str, _Kind] = {}


def register_network(
    name: str,
    build: Callable[[InputSpec, Architecture], nn.Module] | str,
    *,
    pixelwise: bool = False,
    channels: Callable[[Architecture], int] = lambda architecture: 2 * architecture.width,
    compiled: Callable[[nn.Module], nn.Module] | str | None = None,
) -> None:
    """Add a kind of network, which is then built, trained, saved and read like those of the package.

    Every process that reads such a model must register its kind. A package does this for all processes with an entry
    point in the group ``xland.networks``: its name is the kind, and it points to the module that registers it.

    Parameters
    ----------
    name : str
        What ``kind`` of an :class:`Architecture` says.
    build : callable or str
        Takes the :class:`~xland.models.inputs.InputSpec` and the :class:`Architecture`, and returns a
        :class:`torch.nn.Module`; or where it is, ``"package.module:name"``, to be imported when it is needed. If the
        module has a method ``fit_bins(coarse, fine)``, it is called before a training with normalised values of sample
        pixels, ``(channels, samples)``.
    pixelwise : bool
        What ``forward`` reads. False: all channels on the fine grid, ``(batch, channels, rows, columns)``; it returns
        ``(batch, classes, rows, columns)``. True: ``forward(coarse, fine, points)``, where coarse channels are on the
        coarse grid and ``points``, ``(batch, n)``, are None or flat indices of the only pixels that are wanted; it then
        returns ``(batch, classes, n)``.
    channels : callable
        Channels of the largest layer on the fine grid, for the limit of memory. By default twice the width.
    compiled : callable or str, optional
        Takes a trained network of this kind and returns one that predicts the same faster on a CPU; or where it is.
    """
    _kinds[name] = _Kind(build, pixelwise, channels, compiled)


def list_networks() -> tuple[str, ...]:
    """Return the kinds of networks that can be built."""
    return tuple(sorted({*_kinds, *entry_points(group="xland.networks").names}))


@dataclass(frozen=True)
class Architecture:
    """Kind and size of a network.

    Parameters
    ----------
    kind : str
        One of :func:`list_networks`. ``unet`` is a plain U-Net on the fine grid, ``context`` a U-Net on the coarse grid
        with a pixel-wise head on the fine one (:mod:`xland.models.networks.context`), ``transition`` a narrow U-Net
        that changes the prior map (:mod:`xland.models.networks.transition`).
    width : int
        Channels of the first level.
    depth : int
        Number of times that the resolution is halved.
    growth : float
        Channels of each level relative to the one above it.
    dropout : float
        Share of channels dropped while training.
    head : int
        Hidden channels of the head, for the kinds ``context`` and ``transition``.
    bins : int
        Pieces in which the head reads each channel, for the kind ``context``.
    detail : bool
        Whether the coarse U-Net says where in a coarse cell a class is, for the kind ``context``.
    expansion : {"nearest", "bilinear"}
        How what a coarse cell says of itself is laid on the fine grid, for the kind ``context``. Maps of ``nearest``,
        the only way of earlier versions, show the edges of coarse cells.
    context_dropout : float
        Share of samples whose context is dropped while training, for the kind ``context``.
    members : int
        Networks whose scores are averaged. Networks that are trained apart and put together by
        :func:`xland.models.join` differ more than those that one training fits together.

    Raises
    ------
    ModelError
        If the kind is not known, or a size is not possible.
    """

    kind: Annotated[str, Limits(1, 100)] = "unet"
    width: Annotated[int, Limits(1, 4096)] = 32
    depth: Annotated[int, Limits(1, 10)] = 4
    growth: Annotated[float, Limits(1, 8)] = 2.0
    dropout: Annotated[float, Limits(0, below=1)] = 0.0
    head: Annotated[int, Limits(1, 4096)] = 48
    bins: Annotated[int, Limits(1, 256)] = 12
    detail: bool = False
    expansion: Literal["nearest", "bilinear"] = "nearest"
    context_dropout: Annotated[float, Limits(0, below=1)] = 0.0
    members: Annotated[int, Limits(1, 64)] = 1

    def __post_init__(self) -> None:
        check_entries(self, ModelError)
        if self.kind not in _kinds:
            for entry in entry_points(group="xland.networks", name=self.kind):
                entry.load()
        if self.kind not in _kinds:
            raise ModelError(unknown("kind of network", self.kind, list_networks()))
        widest = round(self.width * self.growth**self.depth)
        if widest > WIDEST:
            raise ModelError(
                f"width {self.width}, growth {self.growth:g} and depth {self.depth} give {widest} channels on "
                f"the last level; at most {WIDEST} are allowed"
            )

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each level, the first level first."""
        return tuple(round(self.width * self.growth**level) for level in range(self.depth + 1))

    @property
    def pixelwise(self) -> bool:
        """Whether convolutions run on the coarse grid, and the fine grid is read pixel by pixel."""
        return _kinds[self.kind].pixelwise

    def cells(self, size: int, factor: int) -> int:
        """Return the cells on the first level for ``size`` fine cells: they must be a multiple of ``2 ** depth``."""
        return size // factor if self.pixelwise else size

    def check_windows(self, inputs: InputSpec) -> None:
        """Refuse inputs that the network cannot read: windows that cannot be halved or are too large, no fine field."""
        kind = _kinds[self.kind]
        cells = self.cells(inputs.window, inputs.factor)
        if cells % 2**self.depth:
            raise ModelError(
                f"windows of {cells} cells cannot be halved {self.depth} times: choose a multiple of {2**self.depth}"
            )
        if kind.pixelwise and not inputs.fine_channels:
            raise ModelError(
                f"a network of the kind {self.kind!r} decides pixel by pixel on the fine grid, and its inputs have "
                "neither a static channel nor a prior map: add one, or choose the kind 'unet'"
            )
        needed = 4 * inputs.window**2 * max(kind.channels(self), inputs.coarse_channels + inputs.fine_channels)
        if needed > LARGEST_LAYER:
            raise ModelError(
                f"one layer of a window of {inputs.window} cells would need {needed / 2**20:.0f} MiB; at most "
                f"{LARGEST_LAYER / 2**20:.0f} are allowed: choose a smaller window"
            )

    def build(self, inputs: InputSpec) -> nn.Module:
        """Return one untrained network, without the parts that :class:`DownscalingNetwork` puts around it."""
        network: nn.Module = _resolved(_kinds[self.kind].build)(inputs, self)
        return network

    @property
    def compiled(self) -> Callable[[nn.Module], nn.Module] | None:
        """What makes a faster network of a trained one, for predictions on a CPU; None where nothing does."""
        compiled = _kinds[self.kind].compiled
        return None if compiled is None else _resolved(compiled)


def _resolved(function: Callable[..., Any] | str) -> Callable[..., Any]:
    """Import a function that is given by its place."""
    return cast("Callable[..., Any]", resolve_name(function)) if isinstance(function, str) else function


register_network("unet", "xland.models.networks.unet:UNet")
register_network(
    "context",
    "xland.models.networks.context:ContextUNet",
    pixelwise=True,
    channels=lambda architecture: 2 * architecture.head,
    compiled="xland.models.networks.inference:CompiledContext",
)
register_network(
    "transition",
    "xland.models.networks.transition:TransitionNetwork",
    channels=lambda architecture: 2 * max(architecture.width, architecture.head),
)
