"""Kind and size of a network, as model cards and training configurations give them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal

from xland.errors import ModelError
from xland.models.inputs import InputSpec
from xland.records import Limits, check_entries, read_record

WIDEST = 2**15
"""Channels that a level may have."""

LARGEST_LAYER = 2**27
"""Bytes that one layer of a window may take: 512 x 512 cells of 128 channels."""


@dataclass(frozen=True)
class Architecture:
    """Kind and size of a network.

    Parameters
    ----------
    kind : {"unet", "context"}
        A plain U-Net on the fine grid, or a U-Net on the coarse grid with a pixel-wise head on the
        fine one (:mod:`xland.models.networks.context`).
    width : int
        Channels of the first level.
    depth : int
        Number of times that the resolution is halved.
    growth : float
        Channels of each level relative to the one above it.
    dropout : float
        Share of channels dropped while training.
    head : int
        Hidden channels of the head, for the kind ``context``.
    bins : int
        Pieces in which the head reads each channel, for the kind ``context``.
    detail : bool
        Whether the coarse U-Net tells where in a coarse cell a class is, for the kind ``context``.
    context_dropout : float
        Share of samples whose context is dropped while training, for the kind ``context``.
    members : int
        Networks whose scores are averaged. Those that are trained apart and put together by
        :func:`xland.models.joining.join` differ more than those that one training fits together.
    """

    kind: Literal["unet", "context"] = "unet"
    width: Annotated[int, Limits(1, 4096)] = 32
    depth: Annotated[int, Limits(1, 10)] = 4
    growth: Annotated[float, Limits(1, 8)] = 2.0
    dropout: Annotated[float, Limits(0, below=1)] = 0.0
    head: Annotated[int, Limits(1, 4096)] = 48
    bins: Annotated[int, Limits(1, 256)] = 12
    detail: bool = False
    context_dropout: Annotated[float, Limits(0, below=1)] = 0.0
    members: Annotated[int, Limits(1, 64)] = 1

    def __post_init__(self) -> None:
        check_entries(self, ModelError)
        if self.widths[-1] > WIDEST:
            raise ModelError(
                f"width {self.width}, growth {self.growth:g} and depth {self.depth} give {self.widths[-1]} channels on "
                f"the last level; at most {WIDEST} are allowed"
            )

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each level, the first level first."""
        return tuple(round(self.width * self.growth**level) for level in range(self.depth + 1))

    def cells(self, size: int, factor: int) -> int:
        """Cells on the first level for ``size`` fine cells: must be a multiple of ``2 ** depth``."""
        return size // factor if self.kind == "context" else size

    def check_windows(self, inputs: InputSpec) -> None:
        """Refuse windows that cannot be halved so often, and those that would need too much memory.

        Raises
        ------
        ModelError
            It says which windows are possible.
        """
        cells = self.cells(inputs.window, inputs.factor)
        if cells % 2**self.depth:
            raise ModelError(
                f"windows of {cells} cells cannot be halved {self.depth} times: choose a multiple of {2**self.depth}"
            )
        own = 2 * self.width if self.kind == "unet" else 2 * self.head
        needed = 4 * inputs.window**2 * max(own, inputs.channels)
        if needed > LARGEST_LAYER:
            raise ModelError(
                f"one layer of a window of {inputs.window} cells would need {needed / 2**20:.0f} MiB; at most "
                f"{LARGEST_LAYER / 2**20:.0f} are allowed: choose a smaller window"
            )

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for the model card."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Any) -> Architecture:
        """Build from a model card; :class:`ModelError` names unknown and wrong entries."""
        return read_record(cls, values, "architecture", ModelError)
