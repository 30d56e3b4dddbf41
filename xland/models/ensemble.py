"""Several models that answer as one: the mean of their probabilities, and how far they disagree."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import numpy as np

from xland.draws.octaves import Grain
from xland.errors import ModelError
from xland.geo.grid import Grid
from xland.models.applicability import Applicability, Coverage
from xland.models.checkpoint import Checkpoint

if TYPE_CHECKING:
    from xland.models.inputs import InputSpec


@dataclass(frozen=True)
class Ensemble:
    """A deep ensemble (Lakshminarayanan et al. 2017, arXiv 1612.01474): trainings that differ in their seed.

    Small and picklable, as its members are.

    Parameters
    ----------
    members : tuple of Checkpoint
        Of the same inputs: channels, normalisation, classes, factor and windows.

    Raises
    ------
    ModelError
        If there is no member, one is given twice, or the inputs differ; the message names the entries.
    """

    members: tuple[Checkpoint, ...]

    def __post_init__(self) -> None:
        if not self.members:
            raise ModelError("an ensemble needs at least one model, and the list is empty")
        first = self.members[0]
        for number, member in enumerate(self.members[1:], 2):
            entries = (each.name for each in fields(first.inputs))
            different = [name for name in entries if getattr(member.inputs, name) != getattr(first.inputs, name)]
            if different:
                raise ModelError(
                    f"models of an ensemble must read and write the same, but number {number}, {member.name!r} "
                    f"({member.folder}), differs from the first, {first.name!r}, in {', '.join(different)}: "
                    "train all with the same data, inputs and split_seed, and each with a seed of its own"
                )
        identities = [member.identity for member in self.members]
        twice = len(identities) - len(set(identities))
        if twice:
            raise ModelError(f"{twice} of the {len(identities)} models of the ensemble are given twice: list each once")

    @property
    def name(self) -> str:
        """Names of the members."""
        return "ensemble of " + ", ".join(member.name for member in self.members)

    @property
    def digest(self) -> str:
        """SHA-256 of the members' digests."""
        return _hash([member.digest for member in self.members])

    @property
    def identity(self) -> str:
        """SHA-256 of the members' identities."""
        return _hash([member.identity for member in self.members])

    @property
    def licence(self) -> str:
        """Licences of the members."""
        return ", ".join(dict.fromkeys(member.licence for member in self.members))

    @property
    def inputs(self) -> InputSpec:
        """Channels, classes, factor and windows of all members."""
        return self.members[0].inputs

    @property
    def coverage(self) -> Coverage | None:
        """Coarse cells that had data in the training of any member; None where no card says."""
        known = [member.coverage for member in self.members if member.coverage is not None]
        if not known:
            return None
        grid = known[0].grid
        grid = grid if all(each.grid.same_as(grid) for each in known) else Grid.world(grid.resolution)
        return Coverage.of(grid, np.any([each.on(grid) for each in known], axis=0))

    @property
    def decision(self) -> tuple[float, ...]:
        """Mean of the members' offsets."""
        return tuple(np.mean([member.decision for member in self.members], axis=0).tolist())

    @property
    def grain(self) -> Grain | None:
        """How maps are drawn from the mean of the probabilities: as from those of the first member that says it."""
        return next((member.grain for member in self.members if member.grain is not None), None)

    @property
    def applicability(self) -> Applicability | None:
        """Training inputs of the first member that has them: all members have read the same."""
        return next((each for member in self.members if (each := member.applicability) is not None), None)


def _hash(parts: list[str]) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
