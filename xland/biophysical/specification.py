"""Entries of a model's card: what it predicts, the size of its network, and how far its climates reach."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from xland.errors import CheckpointError
from xland.records import Limits, check_entries


@dataclass(frozen=True)
class Target:
    """The variable that a model predicts.

    Parameters
    ----------
    name : str
        Name of the variable in the data, such as ``lai``.
    units : str
    least, most : float
        Plausible values: what is outside in the data of the training is refused, and no prediction exceeds them.
    long_name, standard_name : str
    loss : {"squared", "root"}
        What is squared in the training: differences, or differences of the roots.
    """

    name: Annotated[str, Limits(1, 100)]
    units: Annotated[str, Limits(1, 100)]
    most: Annotated[float, Limits(above=0, most=1e6)]
    least: Annotated[float, Limits(0, 0)] = 0.0
    long_name: Annotated[str, Limits(most=200)] = ""
    standard_name: Annotated[str, Limits(most=200)] = ""
    loss: Annotated[str, Limits(1, 20)] = "squared"

    def __post_init__(self) -> None:
        check_entries(self, CheckpointError)


@dataclass(frozen=True)
class Response:
    """Size of the network.

    Parameters
    ----------
    hidden : int
        Units of the hidden layer.
    members : int
        Networks that differ in their seed, whose mean answers.
    """

    hidden: Annotated[int, Limits(1, 512)] = 32
    members: Annotated[int, Limits(1, 64)] = 5

    def __post_init__(self) -> None:
        check_entries(self, CheckpointError)


@dataclass(frozen=True)
class Reach:
    """How far a climate may be from those learned from; see :class:`xland.models.applicability.Applicability`."""

    prototypes: Annotated[int, Limits(1, 20_000)]
    typical: Annotated[float, Limits(1e-12, 1e12)]
    threshold: Annotated[float, Limits(0, 1e12)]

    def __post_init__(self) -> None:
        check_entries(self, CheckpointError)
