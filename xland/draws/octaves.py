"""How finely a class is mixed with others on maps that are drawn, as a model card says."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

from xland.errors import CheckpointError
from xland.records import Limits, check_entries


@dataclass(frozen=True)
class Grain:
    """Weights of the octaves of each class's random field; see :mod:`xland.draws.gumbel`.

    Parameters
    ----------
    spacings : tuple of int
        Fine pixels between the nodes of each octave.
    weights : tuple of tuple of float
        For each class one weight an octave, whose squares sum to 1.
    """

    spacings: tuple[Annotated[int, Limits(1, 4096)], ...]
    weights: tuple[tuple[Annotated[float, Limits(0, 1)], ...], ...]

    def __post_init__(self) -> None:
        check_entries(self, CheckpointError)
        if len(set(self.spacings)) != len(self.spacings) or not self.spacings:
            raise CheckpointError(f"draws need different spacings, not {self.spacings}")
        for number, weights in enumerate(self.weights):
            if len(weights) != len(self.spacings):
                raise CheckpointError(
                    f"draws have {len(self.spacings)} spacings, but {len(weights)} weights of class {number}"
                )
            if not math.isclose(sum(weight**2 for weight in weights), 1, abs_tol=1e-3):
                raise CheckpointError(f"the squares of the weights of class {number} must sum to 1, not {weights}")
