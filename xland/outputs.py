"""The table of outputs: what a downscaling can return, how it follows from the probabilities, and how it is stored.

``downscale``, the accessor, the command line, the stores and the report know each entry of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter, methodcaller
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from xland.errors import ModelError
from xland.vocabulary import CLASS_NAMES, OCEAN, flag_attributes

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, eq=False)
class Pixels:
    """Some rows of a block, from which outputs are computed.

    Parameters
    ----------
    probability : (classes, rows, columns) tensor
        Calibrated; with ``totals="fractions"`` after the fit.
    members : sequence of (classes, rows, columns) tensor
        Probabilities of each model of an ensemble, or of the only one.
    land_use : (rows, columns) tensor of uint8
        Class codes that the map shows.
    unmet : (rows, columns) array of float32
        Share of the coarse cell that could not be given as asked; NaN if no totals are kept.
    distance : callable
        Returns the dissimilarity of the inputs from those of the training, (rows, columns) float32.
    draws : callable
        Returns the maps that are drawn, (draws, rows, columns) uint8.
    """

    probability: Tensor
    members: Sequence[Tensor]
    land_use: Tensor
    unmet: NDArray[np.float32]
    distance: Callable[[], NDArray[np.float32]]
    draws: Callable[[], NDArray[np.uint8]]


@dataclass(frozen=True, eq=False)
class Output:
    """One variable that ``downscale`` can return.

    Parameters
    ----------
    name : str
        Of the variable, and in ``outputs=``.
    long_name : str
        CF attribute.
    compute : callable
        Takes :class:`Pixels` and returns a (rows, columns) tensor or array, with an axis before these if it has
        `classes` or needs ``draws``.
        Must be importable by Dask workers. Pixels without land are set to `sea` afterwards.
    sea : float
        Value of pixels without land. With `classes` it is the value of all classes but the ocean, which has 1.
    dtype : str
    classes : bool
        Whether there is one layer for each class.
    needs : {"", "members", "applicability", "totals", "draws"}
        What it cannot be computed without: several models, a model with its training inputs, ``totals=``, or
        ``draws=``; with the last there is one layer for each draw.
    attributes : mapping
        CF attributes besides ``long_name``.
    encoding : mapping
        How it is stored, see :data:`PACKED`; as it is by default.
    look : str
        What a reader of the report should look for on its map; without it there is no map.
    """

    name: str
    long_name: str
    compute: Callable[[Pixels], Tensor | NDArray[Any]]
    sea: float = np.nan
    dtype: str = "float32"
    classes: bool = False
    needs: Literal["", "members", "applicability", "totals", "draws"] = ""
    attributes: Mapping[str, Any] = field(default_factory=lambda: _QUALITY)
    encoding: Mapping[str, Any] = field(default_factory=dict)
    look: str = ""

    @property
    def axis(self) -> str:
        """Dimension between time and latitude: ``class``, ``draw``, or none."""
        return "class" if self.classes else "draw" if self.needs == "draws" else ""

    def attributes_for(self, classes: tuple[str, ...] = CLASS_NAMES) -> dict[str, Any]:
        """CF attributes of the variable in a product with these classes."""
        flags = flag_attributes(classes) if self.name in ("land_use", "land_use_draws") else {}
        return {"long_name": self.long_name, **flags, **self.attributes}


OUTPUTS: dict[str, Output] = {}
"""All outputs by name. The order is that of the variables in a product."""


def register_output(output: Output) -> Output:
    """Add an output to the table.

    Raises
    ------
    ModelError
        If there is an output of that name.
    """
    if output.name in OUTPUTS:
        raise ModelError(f"there is an output {output.name!r} already: register yours under another name")
    OUTPUTS[output.name] = output
    return output


def renamed(name: str, attributes: Mapping[str, Any]) -> str:
    """Return the present name of a variable of a store: in earlier versions ``margin`` was called confidence."""
    was_margin = name == "confidence" and str(attributes.get("long_name", "")) in _LONG_NAMES_OF_MARGIN
    return "margin" if was_margin else name


_LONG_NAMES_OF_MARGIN = (
    "difference between the two largest class probabilities",
    "probability of the best class less that of the second best",
)

PACKED: Mapping[str, Any] = {"dtype": "uint8", "scale_factor": 0.004, "_FillValue": 255}
"""Encoding of shares from 0 to 1: CF packed data in steps of 1/250."""

_HALF = {**PACKED, "scale_factor": 0.002}
_QUALITY: Mapping[str, Any] = {"units": "1", "coverage_content_type": "qualityInformation"}
_SHARE: Mapping[str, Any] = {**_QUALITY, "valid_range": [0.0, 1.0]}


def _confidence(pixels: Pixels) -> Tensor:
    return pixels.probability.gather(0, pixels.land_use.long()[None])[0]


def _margin(pixels: Pixels) -> Tensor:
    best, second = pixels.probability.topk(2, dim=0).values
    return best - second


def _entropy(pixels: Pixels) -> Tensor:
    values = pixels.probability
    return -(values * values.clamp_min(1e-12).log()).sum(dim=0).clamp_max_(0) / float(np.log(len(values)))


def _spread(pixels: Pixels) -> Tensor:
    import torch

    chosen = pixels.land_use.long()[None]
    return torch.stack([member.gather(0, chosen)[0] for member in pixels.members]).std(dim=0, correction=0)


for _output in (
    Output(
        "land_use",
        "land-use class",
        attrgetter("land_use"),
        sea=OCEAN,
        dtype="uint8",
        attributes={"coverage_content_type": "thematicClassification"},
    ),
    Output(
        "probability",
        "probability of the land-use class",
        attrgetter("probability"),
        sea=0,
        classes=True,
        attributes={**_SHARE, "coverage_content_type": "modelResult"},
        encoding=PACKED,
    ),
    Output(
        "confidence",
        "probability of the land-use class on the map",
        _confidence,
        sea=1,
        attributes=_SHARE,
        encoding=PACKED,
        look="In dark places the class shown is hardly more probable than others. Look whether the map is wrong there.",
    ),
    Output(
        "margin",
        "difference between the two largest class probabilities",
        _margin,
        sea=1,
        attributes=_SHARE,
        encoding=PACKED,
        look="Dark places are nearly undecided between two classes. Look whether the map is wrong there.",
    ),
    Output(
        "entropy",
        "entropy of the class probabilities as a share of its largest value",
        _entropy,
        sea=0,
        attributes=_SHARE,
        encoding=PACKED,
        look="In bright places many classes are possible: expect errors there.",
    ),
    Output(
        "spread",
        "standard deviation between models of the probability of the class on the map",
        _spread,
        sea=0,
        needs="members",
        attributes={**_QUALITY, "valid_range": [0.0, 0.5]},
        encoding=_HALF,
        look="In bright places the models of the ensemble disagree.",
    ),
    Output(
        "applicability",
        "distance of the coarse cell to the training inputs (dissimilarity index)",
        methodcaller("distance"),
        needs="applicability",
        look="Bright places are unlike all training data: trust the map least there.",
    ),
    # equal in all fine cells of a coarse one: compressed floats take little room
    Output(
        "unmet",
        "share of the coarse cell that could not be given the class asked for",
        attrgetter("unmet"),
        needs="totals",
        attributes=_SHARE,
        look="Anything but the darkest colour is a cell whose coarse shares are impossible on its land.",
    ),
    Output(
        "land_use_draws",
        "land-use class on maps drawn from the class probabilities",
        methodcaller("draws"),
        sea=OCEAN,
        dtype="uint8",
        needs="draws",
        attributes={"coverage_content_type": "thematicClassification"},
    ),
):
    register_output(_output)
