"""The coarse totals that a downscaling keeps: what a caller asks for, and the fit of each block."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from xland.addresses import local_path
from xland.downscaling.fields import Chunks, Field, Key
from xland.downscaling.planning import Source, years_of_map
from xland.downscaling.windows import Block, Span, placements
from xland.errors import AllocationError, ModelError, PriorError, TimeError
from xland.forcing.read import Forcing, find_sources, require_years
from xland.geo.grid import Grid, expand
from xland.geo.years import listed
from xland.models.inputs import MASKED, InputSpec
from xland.records import read_toml
from xland.totals.crosswalk import Crosswalk, checked_crosswalk, class_targets
from xland.vocabulary import check_codes

if TYPE_CHECKING:
    from torch import Tensor


_LARGEST = 2**18


@dataclass(frozen=True)
class Totals:
    """Totals that are to be kept.

    Parameters
    ----------
    mode : {"fractions", "map", "changes"}
    crosswalk : Crosswalk
    states : tuple of str
        Variables of the forcing that they are made of.
    tolerance : float
        How far class areas of a map may be from them, in fine pixels.
    """

    mode: Conserve
    crosswalk: Crosswalk
    states: tuple[str, ...]
    tolerance: float


def choose_totals(
    ds: xr.Dataset,
    conserve: Conserve | None,
    crosswalk: Crosswalk | None,
    tolerance: float | None,
    inputs: InputSpec,
    *,
    prior: bool,
) -> Totals | None:
    """Return the totals that are to be kept; None where none are.

    Parameters
    ----------
    ds : Dataset
        Forcing as given.
    conserve, crosswalk, tolerance
        As given to :func:`xland.downscaling.call.downscale`.
    inputs : InputSpec
        Says what the classes are.
    prior : bool
        Whether there is a prior map.

    Raises
    ------
    ModelError
        For a value of ``conserve`` that is not known, changes without a prior map, and a crosswalk
        where no totals are kept; a tolerance where no map has totals, or outside 0 to 1.
    AllocationError
        If the crosswalk is of another type, leaves a class without a state or counts one twice, or the forcing lacks
        a state.
    """
    if tolerance is not None and conserve != "map":
        raise ModelError("tolerance says how nearly a map keeps its totals: set conserve='map', or leave tolerance out")
    if conserve is None:
        if crosswalk is not None:
            raise ModelError("crosswalk says which totals are kept: choose how with conserve=, or leave crosswalk out")
        return None
    if not isinstance(conserve, str) or conserve not in get_args(Conserve):
        known = ", ".join(map(repr, get_args(Conserve)))
        raise ModelError(f"conserve must be one of {known} or None, not {conserve!r}")
    crosswalk = checked_crosswalk(crosswalk)
    if conserve == "changes" and not prior:
        raise ModelError("conserve='changes' lays changes upon an observed map: give it as prior=, with its year")
    names = dict.fromkeys([*(state for state, _ in crosswalk.states), *inputs.classes])
    found = tuple(find_sources(ds, tuple(names)))
    crosswalk.sources(found, inputs.classes)
    return Totals(conserve, crosswalk, found, _checked_tolerance(tolerance))


def _checked_tolerance(tolerance: float | None) -> float:
    if tolerance is None:
        return 0.0
    if isinstance(tolerance, bool) or not isinstance(tolerance, Real) or not 0 <= tolerance <= 1:
        raise ModelError(f"tolerance must be a number of fine pixels from 0 to 1, not {tolerance!r}")
    return float(tolerance)


def base_year(prior: xr.DataArray | xr.Dataset, neighbour: int) -> int:
    """Return the year of the map that changes are laid upon: its own, or else the neighbour of the first map.

    Raises
    ------
    PriorError
        If the map has several years.
    """
    years = years_of_map(prior)
    if len(years) > 1:
        raise PriorError(
            f"prior map is of {listed(years)}: choose the year from which changes count, prior.sel(time={years[-1]})"
        )
    return years[0] if years else neighbour


def conserving_of(
    totals: Totals,
    forcing: Forcing,
    years: tuple[int, ...],
    layers: Sequence[str],
    base: tuple[int, Source | None],
    *,
    step: int,
) -> Conserving:
    """Put together what blocks need to keep totals.

    Parameters
    ----------
    totals : Totals
    forcing : Forcing
    years : tuple of int
        Of the maps.
    layers : sequence of str
        Variables of the coarse field.
    base : (int, Source)
        Year and map that changes are laid upon, if changes are kept.
    step : int
        Years from a map to the one that is its prior: -1, or 1 back in time; 0 where that is the map of the base year.

    Raises
    ------
    TimeError
        If the forcing lacks a year of the maps or the base year.
    """
    require_years(forcing, years)
    start, (year, source) = None, base
    before: tuple[int, ...] = ()
    if totals.mode == "changes" and source is not None:
        if year not in forcing.years:
            remedy = (
                f"say which of its years the map stands for: prior.assign_coords(time={forcing.years[0]})"
                if not step
                else "give the map of a year that it holds as prior, and the years after it with years="
            )
            raise TimeError(
                f"conserve='changes' counts changes from {year}, the year of the prior map, which the forcing lacks "
                f"(it holds {listed(forcing.years)}): add that year to the forcing, or {remedy}"
            )
        start = Base(year, forcing.years.index(year), source.field)
        before = tuple(
            forcing.years.index(each + step) if step and each + step in years else start.position for each in years
        )
    positions = tuple(forcing.years.index(each) for each in years)
    places = {name: layers.index(name) for name in totals.states}
    return Conserving(totals.mode, totals.crosswalk, years, positions, places, start, before, totals.tolerance)


def read_crosswalk(path: str | Path) -> Crosswalk:
    """Read a crosswalk from a TOML file: a table ``states``, and lists ``remainder`` and ``protected``.

    Raises
    ------
    AllocationError
        If it cannot be read, or holds other entries.
    """
    entries = read_toml(local_path(path, what="a crosswalk"), _LARGEST, AllocationError)
    try:
        return Crosswalk(**entries)
    except (TypeError, ValueError) as error:
        if isinstance(error, AllocationError):
            raise AllocationError(f"{path}: {error}") from error
        raise AllocationError(
            f'{path} is no crosswalk ({error}): it needs a table [states] of state = "class", and may have the lists '
            "remainder and protected"
        ) from error


Conserve = Literal["fractions", "map", "changes"]
"""What is fitted to the coarse totals."""


@dataclass(frozen=True, eq=False)
class Base:
    """What the changes of a forcing are laid upon.

    Parameters
    ----------
    year : int
        Calendar year from which changes count.
    position : int
        Where it stands in the coarse field.
    map : Field
        Observed classes of that year.
    """

    year: int
    position: int
    map: Field

    def read(self, block: Block, chunks: Chunks, classes: int) -> NDArray[np.uint8]:
        """Read the class codes of a block; :class:`PriorError` for unknown ones."""
        codes = np.full((len(block.rows), len(block.columns)), MASKED, dtype=np.uint8)
        for place in placements(self.map.grid, block.rows, block.columns):
            values = self.map.read(*place.source, chunks)[0]
            codes[place.target] = check_codes(
                values,
                what="prior map",
                latitude=self.map.grid.latitude[place.source[0]],
                longitude=self.map.grid.longitude[place.source[1]],
                classes=classes,
                hidden=MASKED,
                error=PriorError,
            )
        return codes


@dataclass(frozen=True, eq=False)
class Conserving:
    """How the blocks of a downscaling keep coarse totals.

    Parameters
    ----------
    mode : {"fractions", "map", "changes"}
    crosswalk : Crosswalk
        Which classes follow which states.
    years : tuple of int
        Calendar years of the maps.
    positions : tuple of int
        For each year where it stands in the coarse field.
    layers : mapping of str to int
        Where the states that the crosswalk reads stand among the layers of the coarse field.
    base : Base, optional
        From when and what changes count.
    before : tuple of int
        For each year where the year of its prior map stands in the coarse field; read where changes count.
    tolerance : float
        How far class areas of a map may be from their totals, in fine pixels.
    """

    mode: Conserve
    crosswalk: Crosswalk
    years: tuple[int, ...]
    positions: tuple[int, ...]
    layers: Mapping[str, int]
    base: Base | None = None
    before: tuple[int, ...] = ()
    tolerance: float = 0.0

    def keys(self, coarse: Field, rows: Span, columns: Span, factor: int, year: int) -> Iterator[Key]:
        """Graph keys of the chunks that a block-year needs for its totals."""
        positions = dict.fromkeys([self.positions[year]])
        if self.base is not None:
            positions |= dict.fromkeys([self.base.position, self.before[year]])
            yield from self.base.map.keys(rows, columns)
        for position in positions:
            yield from coarse.keys(rows.coarse(factor), columns.coarse(factor), position)

    def read(
        self, coarse: Field, inputs: InputSpec, block: Block, chunks: Chunks, year: int, prior: NDArray[np.uint8] | None
    ) -> BlockTargets:
        """Read the totals of a block-year.

        Parameters
        ----------
        coarse : Field
        inputs : InputSpec
            Says what the classes and the factor are.
        block : Block
        chunks : mapping
            What the keys stand for.
        year : int
            Position of the year.
        prior : (rows, columns) array of class codes, optional
            Of the adjacent year, where the model reads one; else changes are laid upon the map of the base year.

        Raises
        ------
        AllocationError
            Fractions that no map can have; the message says where and in which year.
        PriorError
            Unknown class codes in the map of the base year.
        """
        when = self.years[year]
        targets = self._targets(coarse, inputs, block, chunks, self.positions[year], when)
        start = None
        if self.base is not None:
            base, before = self.base, self.before[year]
            first = self._targets(coarse, inputs, block, chunks, base.position, base.year)
            # of years that are all kept, no message needs more than the year of the map
            last = first if before == base.position else self._targets(coarse, inputs, block, chunks, before, when)
            codes = base.read(block, chunks, len(inputs.classes))
            start = Start(first, last, codes, codes if prior is None else prior)
        return BlockTargets(self.mode, self.crosswalk, inputs, block, when, targets, start, self.tolerance)

    def _targets(
        self, coarse: Field, inputs: InputSpec, block: Block, chunks: Chunks, position: int, year: int
    ) -> NDArray[np.float64]:
        """Share of each class in the coarse cells of a block."""
        rows, columns = block.rows.coarse(inputs.factor), block.columns.coarse(inputs.factor)
        states = {name: np.full((len(rows), len(columns)), np.nan) for name in self.layers}
        for place in placements(coarse.grid, rows, columns):
            values = coarse.read(*place.source, chunks, position)
            for name, layer in self.layers.items():
                states[name][place.target] = values[layer]
        try:
            return class_targets(states, self.crosswalk, inputs.classes)
        except AllocationError as error:
            raise AllocationError(
                f"{error} ({_place(block.rows, block.columns, inputs.resolution)} in {year})"
            ) from error


@dataclass(frozen=True, eq=False)
class Start:
    """What the changes of a block-year begin with.

    Parameters
    ----------
    targets, prior_targets : (classes, R, C) array
        Share of each class in each coarse cell in the base year, and in the year of the prior map.
    codes, prior : (rows, columns) array of class codes
        Maps of the base year and of the adjacent year.
    """

    targets: NDArray[np.float64]
    prior_targets: NDArray[np.float64]
    codes: NDArray[np.uint8]
    prior: NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class BlockTargets:
    """Coarse totals of a block-year.

    Parameters
    ----------
    mode : {"fractions", "map", "changes"}
    crosswalk : Crosswalk
    inputs : InputSpec
        Says what the factor and the resolution are.
    block : Block
    year : int
        Calendar year, for messages.
    targets : (classes, R, C) array
        Share of each class in each coarse cell; NaN where the forcing does not say.
    start : Start, optional
        What changes begin with.
    tolerance : float
        How far class areas of a map may be from their totals, in fine pixels.
    """

    mode: Conserve
    crosswalk: Crosswalk
    inputs: InputSpec
    block: Block
    year: int
    targets: NDArray[np.float64]
    start: Start | None = None
    tolerance: float = 0.0

    def fit(
        self, values: Tensor, at: slice, land: NDArray[np.bool_], decision: Sequence[float] = ()
    ) -> tuple[Tensor, Tensor | None, NDArray[np.float32]]:
        """Fit some rows of whole coarse cells.

        Parameters
        ----------
        values : (classes, rows, columns) tensor
            Probabilities.
        at : slice
            Their rows in the block.
        land : (rows, columns) array of bool
            Where there is a class.
        decision : sequence of float
            Added to the log-probability of each class where one is chosen; empty where nothing is added.

        Returns
        -------
        values : tensor
            Probabilities, fitted if that is wanted.
        codes : (rows, columns) tensor, optional
            Class map, where it does not follow from the probabilities.
        unmet : (rows, columns) array
            Share of the coarse cell that could not be given as asked.
        """
        factor, first = self.inputs.factor, self.block.rows.start
        cells = slice(at.start // factor, at.stop // factor)
        rows = Span(first + at.start, first + at.stop)
        probability, targets = values.cpu().numpy(), self.targets[:, cells]
        common = (factor, _area_of_rows(self.inputs.resolution)[rows.start : rows.stop], land)
        # compiled code, which takes a second and some memory to load, only where totals are kept
        from xland.totals.changes import fit_changes
        from xland.totals.fractions import fit_fractions
        from xland.totals.maps import fit_map

        try:
            if self.mode == "fractions":
                fractions = fit_fractions(probability, targets, *common)
                return values.new_tensor(fractions.values), None, _expanded(fractions.unmet, factor)
            if decision:
                probability = probability * np.exp(np.asarray(decision, dtype=probability.dtype))[:, None, None]
            if self.start is None:
                fitted = fit_map(probability, targets, *common, self.tolerance)
            else:
                start = self.start
                base, last = start.targets[:, cells], start.prior_targets[:, cells]
                fitted = fit_changes(
                    probability,
                    start.prior[at],
                    targets,
                    base,
                    start.codes[at],
                    *common,
                    self.crosswalk,
                    prior_targets=last,
                )
        except AllocationError as error:
            place = _place(rows, self.block.columns, self.inputs.resolution)
            raise AllocationError(f"{error} ({place} in {self.year})") from error
        return values, values.new_tensor(fitted.codes).byte(), _expanded(fitted.unmet, factor)


@lru_cache(maxsize=4)
def _area_of_rows(resolution: float) -> NDArray[np.float64]:
    """Area of a cell in each row of the globe: the same numbers for any region."""
    return Grid.world(resolution).cell_area()


def _expanded(unmet: NDArray[np.float64], factor: int) -> NDArray[np.float32]:
    return expand(unmet.astype(np.float32), factor)


def _place(rows: Span, columns: Span, resolution: float) -> str:
    north, south = (90 - row * resolution for row in (rows.start, rows.stop))
    west, east = (column * resolution - 180 for column in (columns.start, columns.stop))
    return f"block from {south:g} to {north:g} N, {west:g} to {east:g} E,"
