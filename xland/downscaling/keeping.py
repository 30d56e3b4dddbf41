"""The coarse totals that the blocks of a downscaling keep: what they need for it, and the fit of some rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from xland.downscaling.fields import Block, Chunks, Field, Key, coarse_spans, placements, read_codes_of
from xland.errors import AllocationError, TimeError
from xland.forcing.read import Forcing, require_years
from xland.geo.conventions import listed
from xland.geo.grid import Grid, expand
from xland.models.inputs import InputSpec
from xland.totals.crosswalk import class_targets
from xland.totals.modes import MODES, Mode, Start, Totals

if TYPE_CHECKING:
    from torch import Tensor

Fit = Callable[
    ["Tensor", slice, NDArray[np.bool_], Sequence[float]], tuple["Tensor", "Tensor | None", NDArray[np.float32]]
]


@dataclass(frozen=True, eq=False)
class Keeping:
    """How the blocks of a downscaling keep coarse totals.

    `layers` says where the states are among the layers of the coarse field, and `positions` where each year is.
    Changes count from the map `base` of `base_year`, at `base_position` of the coarse field; `before` says for each
    year where the year of its prior map is.
    """

    totals: Totals
    mode: Mode
    inputs: InputSpec
    coarse: Field
    years: tuple[int, ...]
    positions: tuple[int, ...]
    layers: Mapping[str, int]
    base: Field | None = None
    base_year: int = 0
    base_position: int = 0
    before: tuple[int, ...] = ()

    def keys(self, rows: range, columns: range, year: int) -> Iterator[Key]:
        """Graph keys of the chunks that the block-year of some rows and columns needs for its totals."""
        positions = [self.positions[year]]
        if self.base is not None:
            positions += [self.base_position, self.before[year]]
            yield from self.base.keys(rows, columns)
        for position in dict.fromkeys(positions):
            yield from self.coarse.keys(*coarse_spans(rows, columns, self.inputs.factor), position)

    def read(self, block: Block, chunks: Chunks, year: int, prior: NDArray[np.uint8] | None) -> Fit:
        """Read the totals of a block-year; return what fits rows of whole coarse cells to them.

        `prior` is the map of the adjacent year, if the model reads one; else changes are applied to the map of the
        base year. The returned function takes probabilities (classes, rows, columns), their rows in the block, where
        there is land, and the offsets of the decision. It returns the probabilities, the map if it does not follow
        from them, and the share of the coarse cell that could not be given.
        """
        when = self.years[year]
        targets = self._targets(block, chunks, self.positions[year], when)
        start: Start | None = None
        if self.base is not None:
            first = self._targets(block, chunks, self.base_position, self.base_year)
            # of years that are all kept, no message needs more than the year of the map
            same = self.before[year] == self.base_position
            last = first if same else self._targets(block, chunks, self.before[year], when)
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
            if start is not None:
                part = Start(start.targets[:, cells], start.prior_targets[:, cells], start.codes[at], start.prior[at])
            try:
                fitted = self.mode.fit(probability, targets[:, cells], area, land, self.totals, part)
            except AllocationError as error:
                raise AllocationError(f"{error} ({_place(rows, block.columns, resolution)} in {when})") from error
            return (
                values if fitted.values is None else values.new_tensor(fitted.values),
                None if fitted.codes is None else values.new_tensor(fitted.codes).byte(),
                expand(fitted.unmet.astype(np.float32), factor),
            )

        return fit

    def _targets(self, block: Block, chunks: Chunks, position: int, year: int) -> NDArray[np.float64]:
        """Share of each class in the coarse cells of a block."""
        rows, columns = coarse_spans(block.rows, block.columns, self.inputs.factor)
        states = {name: np.full((len(rows), len(columns)), np.nan) for name in self.layers}
        for place in placements(self.coarse.grid, rows, columns):
            values = self.coarse.read(*place.source, chunks, position)
            for name, layer in self.layers.items():
                states[name][place.target] = values[layer]
        try:
            return class_targets(states, self.totals.crosswalk, self.inputs.classes)
        except AllocationError as error:
            where = _place(block.rows, block.columns, self.inputs.resolution)
            raise AllocationError(f"{error} ({where} in {year})") from error


def keeping_of(
    totals: Totals,
    inputs: InputSpec,
    forcing: Forcing,
    coarse: Field,
    years: tuple[int, ...],
    layers: Mapping[str, int],
    base: Field | None,
    base_year: int,
    step: int,
) -> Keeping:
    """Put together what blocks need to keep totals.

    `layers` are the states and their places among the layers of the coarse field. `base` is the map that changes are
    applied to, of `base_year`. `step` is the number of years from a map to the one that is its prior, -1 or 1, or 0 if
    that is always the base map. TimeError if the forcing lacks a year of the maps or the base year.
    """
    require_years(forcing, years)
    positions = tuple(forcing.years.index(each) for each in years)
    mode = MODES[totals.mode]
    if not mode.changes:
        return Keeping(totals, mode, inputs, coarse, years, positions, layers)
    if base_year not in forcing.years:
        remedy = (
            f"say which of its years the map is of: prior.assign_coords(time={forcing.years[0]})"
            if not step
            else "give the map of one of these years as prior, and the years after it with years="
        )
        raise TimeError(
            f"totals={mode.name!r} counts changes from {base_year}, the year of the prior map, which the forcing lacks "
            f"(it has {listed(forcing.years)}): add that year to the forcing, or {remedy}"
        )
    start = forcing.years.index(base_year)
    before = tuple(forcing.years.index(each + step) if step and each + step in years else start for each in years)
    return Keeping(totals, mode, inputs, coarse, years, positions, layers, base, base_year, start, before)


@lru_cache(maxsize=4)
def _area_of_rows(resolution: float) -> NDArray[np.float64]:
    """Area of a cell in each row of the globe: the same numbers for any region."""
    return Grid.world(resolution).cell_area()


def _place(rows: range, columns: range, resolution: float) -> str:
    north, south = (90 - row * resolution for row in (rows.start, rows.stop))
    west, east = (column * resolution - 180 for column in (columns.start, columns.stop))
    return f"block from {south:g} to {north:g} N, {west:g} to {east:g} E,"
