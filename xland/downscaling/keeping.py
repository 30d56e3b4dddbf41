"""The coarse totals that the blocks of a downscaling keep: what they need for it, and the fit of some rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from xland.downscaling.fields import Block, Chunks, Field, coarse_spans, placements, read_codes_of
from xland.errors import AllocationError, TimeError
from xland.geo.conventions import listed
from xland.geo.grid import Grid, expand
from xland.models.inputs import MASKED, InputSpec
from xland.totals.crosswalk import class_targets
from xland.totals.modes import Mode, Start, Totals

if TYPE_CHECKING:
    from torch import Tensor

Fit = Callable[
    ["Tensor", slice, NDArray[np.bool_], Sequence[float]], tuple["Tensor", "Tensor | None", NDArray[np.float32]]
]


@dataclass(frozen=True, eq=False)
class Keeping:
    """How the blocks of a downscaling keep coarse totals.

    `coarse` has the years `there`, and `layers` says where the states are among its layers. `years` are mapped.
    Changes count from the map `base` of `base_year`. `priors` are the years of the prior maps of a rollout; without
    them each map has the base map as its prior. TimeError if the base year is not there.
    """

    totals: Totals
    mode: Mode
    inputs: InputSpec
    coarse: Field
    there: tuple[int, ...]
    layers: Mapping[str, int]
    years: tuple[int, ...]
    base: Field | None = None
    base_year: int = 0
    priors: Mapping[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.base is not None and self.base_year not in self.there:
            remedy = (
                "give the map of one of these years as prior, and the years after it with years="
                if self.priors
                else f"say which of its years the map is of: prior.assign_coords(time={self.there[0]})"
            )
            raise TimeError(
                f"totals={self.mode.name!r} counts changes from {self.base_year}, the year of the prior map. The "
                f"forcing does not have this year, but {listed(self.there)}: add that year to the forcing, or {remedy}"
            )

    def year_before(self, year: int) -> int:
        """Year of the map that is the prior of a year."""
        before = self.priors.get(year, self.base_year)
        return before if before in self.years else self.base_year

    def fields_read(self, rows: range, columns: range, year: int) -> Iterator[tuple[Field, range, range, int]]:
        """Fields that the block-year of some rows and columns reads for its totals: where, and at which position."""
        needed = [self.years[year]]
        if self.base is not None:
            needed += [self.base_year, self.year_before(self.years[year])]
            yield self.base, rows, columns, 0
        for each in dict.fromkeys(needed):
            yield self.coarse, *coarse_spans(rows, columns, self.inputs.factor), self.there.index(each)

    def read(self, block: Block, chunks: Chunks, year: int, prior: NDArray[np.uint8] | None) -> Fit:
        """Read the totals of a block-year; return what fits rows of whole coarse cells to them.

        `prior` is the map of the adjacent year, if the model reads one; else changes are applied to the map of the
        base year. The returned function takes probabilities (classes, rows, columns), their rows in the block, where
        there is land, and the offsets of the decision. It returns the probabilities, the map if it does not follow
        from them, and the share of the coarse cell that could not be given.
        """
        when = self.years[year]
        targets = self._targets(block, chunks, when)
        start: Start | None = None
        if self.base is not None:
            before = self.year_before(when)
            first = self._targets(block, chunks, self.base_year)
            last = first if before == self.base_year else self._targets(block, chunks, before)
            codes = read_codes_of(self.base, block.rows, block.columns, chunks, classes=len(self.inputs.classes))
            start = Start(first, last, codes, codes if prior is None else prior)

        def fit(
            values: Tensor, at: slice, land: NDArray[np.bool_], decision: Sequence[float]
        ) -> tuple[Tensor, Tensor | None, NDArray[np.float32]]:
            factor, resolution = self.inputs.factor, self.inputs.resolution
            cells = slice(at.start // factor, at.stop // factor)
            rows = range(block.rows.start + at.start, block.rows.start + at.stop)
            area = _area_of_rows(resolution)[rows.start : rows.stop]
            probability, part = values.cpu().numpy(), None
            if decision and self.mode.chooses:
                probability = probability * np.exp(np.asarray(decision, dtype=probability.dtype))[:, None, None]
            if prior is not None and self.totals.exchange != 1:
                probability = _favour_change(probability, prior[at], self.totals.exchange)
            if start is not None:
                part = Start(start.targets[:, cells], start.prior_targets[:, cells], start.codes[at], start.prior[at])
            with _placed(rows, block.columns, resolution, when):
                fitted = self.mode.fit(probability, targets[:, cells], area, land, self.totals, part)
            return (
                values if fitted.values is None else values.new_tensor(fitted.values),
                None if fitted.codes is None else values.new_tensor(fitted.codes).byte(),
                expand(fitted.unmet.astype(np.float32), factor),
            )

        return fit

    def _targets(self, block: Block, chunks: Chunks, year: int) -> NDArray[np.float64]:
        """Share of each class in the coarse cells of a block."""
        rows, columns = coarse_spans(block.rows, block.columns, self.inputs.factor)
        states = {name: np.full((len(rows), len(columns)), np.nan) for name in self.layers}
        for target, source in placements(self.coarse.grid, rows, columns):
            values = self.coarse.read(*source, chunks, self.there.index(year))
            for name, layer in self.layers.items():
                states[name][target] = values[layer]
        with _placed(block.rows, block.columns, self.inputs.resolution, year):
            return class_targets(states, self.totals.crosswalk, self.inputs.classes)


def _favour_change(probability: NDArray[np.float32], prior: NDArray[np.uint8], factor: float) -> NDArray[np.float32]:
    """Raise the probability of all classes but that of the prior map, relative to it."""
    known = prior != MASKED
    kept = prior == np.arange(len(probability), dtype=np.uint8)[:, None, None]
    raised = np.where(known & ~kept, probability * np.float32(factor), probability)
    return np.asarray(raised / np.maximum(raised.sum(axis=0), np.finfo(np.float32).tiny))


@lru_cache(maxsize=4)
def _area_of_rows(resolution: float) -> NDArray[np.float64]:
    """Area of a cell in each row of the globe: the same numbers for any region."""
    return Grid.world(resolution).cell_area()


@contextmanager
def _placed(rows: range, columns: range, resolution: float, year: int) -> Iterator[None]:
    """Add the place and the year to the message of an AllocationError."""
    try:
        yield
    except AllocationError as error:
        north, south = (90 - row * resolution for row in (rows.start, rows.stop))
        west, east = (column * resolution - 180 for column in (columns.start, columns.stop))
        where = f"block from {south:g} to {north:g} N, {west:g} to {east:g} E, in {year}"
        raise AllocationError(f"{error} ({where})") from error
