"""Where the values of a patch come from: arrays in memory, or a training store on disk."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from xland.errors import GridError
from xland.grid import count_classes
from xland.inputs import InputSpec


class Place(NamedTuple):
    """A patch of one map.

    Parameters
    ----------
    year : int
        Position of the map among those of the source.
    rows, columns : slice
        Fine cells; they begin at the edge of a coarse cell and end anywhere.
    """

    year: int
    rows: slice
    columns: slice

    def coarse(self, factor: int) -> tuple[slice, slice]:
        """Rows and columns of the coarse cells that the patch touches."""
        rows, columns = (slice(each.start // factor, -(-each.stop // factor)) for each in (self.rows, self.columns))
        return rows, columns


class PatchSource(Protocol):
    """What a training reads its patches from; it can be pickled, and gives the same values every time."""

    @property
    def inputs(self) -> InputSpec:
        """Normalised inputs."""

    @property
    def years(self) -> tuple[int, ...]:
        """Calendar years of the maps, in order."""

    @property
    def shape(self) -> tuple[int, int]:
        """Fine rows and columns."""

    @property
    def chunk(self) -> tuple[int, int] | None:
        """Fine rows and columns that are read as a whole; None where reading less costs less."""

    @property
    def hashes(self) -> Mapping[str, str]:
        """SHA-256 of the content by name."""

    def read(self, places: Sequence[Place]) -> list[dict[str, NDArray[Any]]]:
        """Return the arrays of each place.

        Returns
        -------
        list of dict
            ``coarse`` (coarse channels, coarse rows, coarse columns) float32, ``static`` (channels, rows,
            columns) float16, ``target`` (rows, columns) uint8 with 255 where it does not count, and,
            where the inputs read one, ``prior`` (rows, columns) uint8 with 255 where it is not known.
        """

    def class_counts(self, year: int) -> NDArray[np.int64]:
        """Pixels of the target that count, ``(classes, coarse rows, coarse columns)``, of the map at a position."""


@dataclass(frozen=True)
class TrainingArrays:
    """All that a model learns from, in memory, coarse fields at their own resolution.

    Parameters
    ----------
    inputs : InputSpec
        Normalised.
    years : tuple of int
        Calendar years of the maps.
    coarse : (years, coarse channels, rows / factor, columns / factor) float32
    static : (static channels, rows, columns) float16
    target : (years, rows, columns) uint8
        Class codes; 255 where a pixel does not count.
    prior : (years, rows, columns) uint8 or None
        The map of the adjacent year of each target.
    """

    inputs: InputSpec
    years: tuple[int, ...]
    coarse: NDArray[np.float32]
    static: NDArray[np.float16]
    target: NDArray[np.uint8]
    prior: NDArray[np.uint8] | None = None

    chunk = None

    def __post_init__(self) -> None:
        years, rows, columns = self.target.shape
        factor = self.inputs.factor
        if self.static.shape[1:] != (rows, columns) or len(self.coarse) != years or len(self.years) != years:
            raise GridError(
                f"target {self.target.shape} does not fit static {self.static.shape}, coarse {self.coarse.shape} or "
                f"{len(self.years)} years"
            )
        if self.prior is not None and self.prior.shape != self.target.shape:
            raise GridError(f"target {self.target.shape} does not fit prior {self.prior.shape}")
        if (rows, columns) != (self.coarse.shape[2] * factor, self.coarse.shape[3] * factor):
            raise GridError(f"target {self.target.shape} is not {factor} times as fine as coarse {self.coarse.shape}")
        if self.inputs.prior != "none" and self.prior is None:
            raise GridError("the inputs read a prior map, but there is none")

    @property
    def shape(self) -> tuple[int, int]:
        """Fine rows and columns."""
        return self.target.shape[1], self.target.shape[2]

    @cached_property
    def hashes(self) -> dict[str, str]:
        """SHA-256 of each array."""
        arrays = {"coarse": self.coarse, "static": self.static, "target": self.target, "prior": self.prior}
        return {
            name: hashlib.sha256(np.ascontiguousarray(array).data).hexdigest()
            for name, array in arrays.items()
            if array is not None
        }

    def read(self, places: Sequence[Place]) -> list[dict[str, NDArray[Any]]]:
        """Return views of the arrays at each place; see :meth:`PatchSource.read`."""
        samples = []
        for place in places:
            rows, columns = place.coarse(self.inputs.factor)
            sample: dict[str, NDArray[Any]] = {
                "coarse": self.coarse[place.year, :, rows, columns],
                "static": self.static[:, place.rows, place.columns],
                "target": self.target[place.year, place.rows, place.columns],
            }
            if self.inputs.prior != "none" and self.prior is not None:
                sample["prior"] = self.prior[place.year, place.rows, place.columns]
            samples.append(sample)
        return samples

    def class_counts(self, year: int) -> NDArray[np.int64]:
        """Count the pixels of each class in coarse cells; see :meth:`PatchSource.class_counts`."""
        return count_classes(self.target[year], self.inputs.factor, len(self.inputs.classes))
