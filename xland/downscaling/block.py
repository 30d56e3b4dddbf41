"""One block in one year: what it depends on, and the task that reads, checks and predicts it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from xland.downscaling.conserving import Conserving
from xland.downscaling.engine import Engine, choose_device, engine_of, give_back, residency_of, start_all
from xland.downscaling.fields import ChunkField, Chunks, Field, Key
from xland.downscaling.finishing import Finishing, ocean
from xland.downscaling.predict import BlockInputs, predict_block
from xland.downscaling.windows import Block, Layout, Placement, placements
from xland.errors import PriorError
from xland.forcing.read import check_coverage, check_values
from xland.models.applicability import Applicability
from xland.models.checkpoint import Checkpoint
from xland.models.ensemble import Ensemble
from xland.models.inputs import MASKED
from xland.outputs import OUTPUTS, Output
from xland.reading.limits import checked_predictor, refuse, share_problem, unknown_land
from xland.vocabulary import check_codes

if TYPE_CHECKING:
    from torch import Tensor

    from xland.models.inputs import InputSpec

IN_HAND = 3
"""Blocks that a process holds inputs of at once: one is computed while others are read and written."""

STRIP = 600
"""Rows of static fields that are read at a time: whole chunks of the predictors that xland prepares."""

IN_CACHE = 100
"""Rows of static fields that are normalised at a time: they stay in the cache of a core until they are rounded."""

_in_hand = threading.BoundedSemaphore(IN_HAND)


@dataclass(frozen=True, eq=False)
class Plan:
    """All that the block-years of one downscaling share; it stands in the graph once.

    Parameters
    ----------
    token : str
        Identity of the downscaling.
    model : Checkpoint or Ensemble
        The weights stay in their files: each process reads them once.
    layout : Layout
    years : tuple of int
    coarse : Field
        One year a chunk; its first layers are ``variables``.
    variables : tuple of str
        What the model reads.
    positions : tuple of tuple of int
        For each year where the years of its steps stand in ``coarse``.
    static : Field
        Layers of the model's static variables.
    own_static : bool
        Whether these are the predictors that xland makes, whose values need no look.
    first_prior : Field or None
        Map of the year that the first one adjoins.
    outputs : tuple of Output
        What each block-year returns, the class map first.
    device : str
    flips : bool
    conserving : Conserving, optional
        Coarse totals that are kept.
    """

    token: str
    model: Checkpoint | Ensemble
    layout: Layout
    years: tuple[int, ...]
    coarse: Field
    variables: tuple[str, ...]
    positions: tuple[tuple[int, ...], ...]
    static: Field
    own_static: bool
    first_prior: Field | None = None
    outputs: tuple[Output, ...] = (OUTPUTS["land_use"],)
    device: str = "auto"
    flips: bool = False
    conserving: Conserving | None = None

    @cached_property
    def inputs(self) -> InputSpec:
        """Channels and windows of the model."""
        return self.model.inputs

    @cached_property
    def expected(self) -> NDArray[np.bool_] | None:
        """Cells of the forcing's grid that had data when the model was trained."""
        coverage = self.model.coverage
        return None if coverage is None else coverage.on(self.coarse.grid)

    @cached_property
    def applicability(self) -> Applicability | None:
        """What distances to the training inputs are measured from, where they are wanted."""
        return self.model.applicability if any(each.needs == "applicability" for each in self.outputs) else None

    @cached_property
    def finishing(self) -> Finishing:
        """How probabilities become layers."""
        decision = self.model.decision
        return Finishing(self.outputs, decision if any(decision) else ())

    @property
    def rollout(self) -> bool:
        """Whether the map of each year is the prior of the next."""
        return self.inputs.prior != "none"

    @property
    def name(self) -> str:
        """Name of the array of class maps."""
        return f"land_use-{self.token}"

    @cached_property
    def own(self) -> ChunkField | None:
        """The maps of this downscaling, where each is the prior of the next."""
        if not self.rollout:
            return None
        return ChunkField.over(self.name, ((1,) * len(self.years), *self.layout.chunks), self.layout.grid)

    def prior_of(self, year: int) -> tuple[Field | None, int]:
        """Where the prior map of a year comes from, and its position there."""
        if self.own is None:
            return None, 0
        before = year + self.inputs.prior_step
        if 0 <= before < len(self.years):
            return self.own, before
        return self.first_prior, 0

    def keys(self, year: int, row: int, column: int) -> Iterator[Key]:
        """Graph keys of the chunks that a block-year needs."""
        rows, columns = self.layout.halos[0][row], self.layout.halos[1][column]
        factor = self.inputs.factor
        for position in self.positions[year]:
            yield from self.coarse.keys(rows.coarse(factor), columns.coarse(factor), position)
        yield from self.static.keys(rows, columns)
        prior, position = self.prior_of(year)
        if prior is not None:
            yield from prior.keys(rows, columns, position)
        if self.conserving is not None:
            core = self.layout.rows[row], self.layout.columns[column]
            yield from self.conserving.keys(self.coarse, *core, factor, year)


@dataclass(frozen=True, eq=False)
class _Static:
    """Static fields of a block over its halo."""

    fields: Tensor | None  # None where the block holds no land
    land: NDArray[np.bool_]
    coarse_land: NDArray[np.bool_]
    unknown: (
        NDArray[np.bool_] | None
    )  # coarse cells in which the share of land is NaN somewhere; None where it never is
    pending: tuple[tuple[slice, Future[None]], ...] = ()


def run_block_year(plan: Plan, year: int, row: int, column: int, *chunks: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """Read, check and predict one block of one year.

    Parameters
    ----------
    plan : Plan
    year, row, column : int
        Positions of the year and the block.
    *chunks : arrays
        What the keys of :meth:`Plan.keys` stand for, each once.

    Returns
    -------
    dict of str to array
        See :func:`xland.downscaling.predict.predict_block`.
    """
    named = dict(zip(dict.fromkeys(plan.keys(year, row, column)), chunks, strict=True))
    block = plan.layout.block(row, column)
    device = choose_device(plan.device)
    read = partial(_read_static, plan, block, named, device)
    with _in_hand:
        static = residency_of(device).get(plan.token, (row, column), read) if len(plan.years) > 1 else read()[0]
        if static.fields is None:
            return ocean((len(block.rows), len(block.columns)), len(plan.inputs.classes), plan.outputs)
        coarse = _read_coarse(plan, block, static, named, year)
        prior = _read_prior(plan, block, named, year)
        engines: list[Engine] = [engine_of(member, device, flips=plan.flips) for member in plan.model.members]
        block_inputs = BlockInputs(coarse, static.fields, static.land, prior, static.pending, plan.applicability)
        finishing = plan.finishing
        if plan.conserving is not None:
            before = None if prior is None else prior[block.core]
            targets = plan.conserving.read(plan.coarse, plan.inputs, block, named, year, before)
            finishing = replace(finishing, targets=targets)
        layers = predict_block(engines, block, block_inputs, finishing)
    give_back()
    return layers


def _read_static(plan: Plan, block: Block, chunks: Chunks, device: str) -> tuple[_Static, int]:
    """Begin to read the static fields of a block, and say how many bytes they take.

    Where there is land is read at once. The fields follow, strip by strip, while windows that need
    no more than what is there are computed.
    """
    import torch

    inputs = plan.inputs
    land, missing = _read_land(plan, block, chunks)
    if not land[block.core].any() and not missing.any():
        return _Static(None, np.zeros((0, 0), np.bool_), np.zeros((0, 0), np.bool_), None), 1
    # unlike torch, NumPy leaves zeros to the system until they are written: sea takes no memory
    fields = torch.from_numpy(np.zeros((len(inputs.static), *land.shape), dtype=np.float16))

    degrees = plan.static.grid.latitude, plan.static.grid.longitude

    def fill(strip: Placement) -> None:
        if not land[strip.target].any():
            return
        (rows, columns), height = strip.target, strip.target[0].stop - strip.target[0].start
        place = tuple(axis[part] for axis, part in zip(degrees, strip.source, strict=True))
        for number, channel in enumerate(inputs.static):
            named = {name: _read_variable(plan, name, strip, chunks) for name in channel.sources}
            for name in () if plan.own_static else named.keys() - {inputs.domain}:
                single = np.asarray(named[name], dtype=np.float32)
                named[name] = checked_predictor(name, single, land[strip.target], *place)
            for start in range(0, height, IN_CACHE):
                part = slice(start, min(start + IN_CACHE, height))
                at = (slice(rows.start + part.start, rows.start + part.stop), columns)
                values = {name: each[part] for name, each in named.items()}
                fields[(number, *at)] = torch.from_numpy(inputs.static_layer(channel, values, land[at]))
        give_back()

    strips = _strips(plan.static, block)
    pending = tuple(zip((strip.target[0] for strip in strips), start_all(fill, strips), strict=True))
    if device != "cpu":
        for _, future in pending:
            future.result()
    factor = inputs.factor
    coarse_land, unknown = (
        np.asarray(cells.reshape(land.shape[0] // factor, factor, -1, factor).any(axis=(1, 3)))
        for cells in (land, missing)
    )
    found = _Static(fields.to(device), land, coarse_land, unknown if unknown.any() else None, pending)
    return found, fields.nbytes + land.nbytes


def _read_land(plan: Plan, block: Block, chunks: Chunks) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Where a class is predicted, over the halo of a block, and where that is not known."""
    name, grid = plan.inputs.domain, plan.static.grid
    land, missing = np.zeros((2, len(block.read_rows), len(block.read_columns)), dtype=np.bool_)
    for strip in _strips(plan.static, block):
        share = np.asarray(_read_variable(plan, name, strip, chunks))
        refuse(share_problem(name, share, grid.latitude[strip.source[0]], grid.longitude[strip.source[1]]))
        land[strip.target] = share > 0
        missing[strip.target] = np.isnan(share)
    return land, missing


def _read_variable(plan: Plan, name: str, strip: Placement, chunks: Chunks) -> NDArray[Any]:
    """Read one static variable, ``(rows, columns)``: more than one at a time would need several times the memory."""
    number = plan.inputs.static_variables.index(name)
    (layer,) = plan.static.read(*strip.source, chunks, only=slice(number, number + 1))
    return layer


def _strips(field: Field, block: Block) -> list[Placement]:
    """Parts of a field over the halo of a block that are read one by one."""
    whole = placements(field.grid, block.read_rows, block.read_columns)
    return [strip for place in whole for strip in place.strips(STRIP)]


def _read_coarse(plan: Plan, block: Block, static: _Static, chunks: Chunks, year: int) -> NDArray[np.float32]:
    """Return the coarse channels over the halo, having checked all cells that are read: they shape the map."""
    inputs, grid = plan.inputs, plan.coarse.grid
    rows, columns = block.read_rows.coarse(inputs.factor), block.read_columns.coarse(inputs.factor)
    states = np.full((len(plan.variables), len(inputs.steps), len(rows), len(columns)), np.nan, dtype=np.float32)
    # a block as wide as the globe reads some cells twice, of which the first are enough to check
    there = np.zeros(grid.shape, dtype=np.bool_)
    for place in placements(grid, rows, columns):
        fresh = ~there[place.source]
        there[place.source] = True
        expected = None if plan.expected is None else plan.expected[place.source] & static.coarse_land[place.target]
        for step, position in enumerate(plan.positions[year]):
            values = np.asarray(plan.coarse.read(*place.source, chunks, position, slice(len(plan.variables))))
            states[:, step, place.target[0], place.target[1]] = values
            named = dict(zip(plan.variables, np.where(fresh, values, np.nan), strict=True))
            when = plan.years[year] + inputs.steps[step]
            latitude, longitude = grid.latitude[place.source[0]], grid.longitude[place.source[1]]
            check_values(named, latitude, longitude, when)
            if static.unknown is not None:
                refuse(unknown_land(inputs.domain, static.unknown[place.target], named, latitude, longitude))
            if expected is not None:
                check_coverage(named, expected & fresh, latitude, longitude, when)
    return inputs.coarse_array(dict(zip(plan.variables, states, strict=True)))


def _read_prior(plan: Plan, block: Block, chunks: Chunks, year: int) -> NDArray[np.uint8] | None:
    prior, position = plan.prior_of(year)
    if prior is None:
        return None
    rows, columns = block.read_rows, block.read_columns
    codes = np.full((len(rows), len(columns)), MASKED, dtype=np.uint8)
    for place in placements(prior.grid, rows, columns):
        values = prior.read(*place.source, chunks, position)[0]
        if prior is plan.first_prior:
            values = check_codes(
                values,
                what="prior map",
                latitude=prior.grid.latitude[place.source[0]],
                longitude=prior.grid.longitude[place.source[1]],
                classes=len(plan.inputs.classes),
                hidden=MASKED,
                error=PriorError,
            )
        codes[place.target] = values
    return codes
