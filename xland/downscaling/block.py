"""One block in one year: what it depends on, and the task that reads, checks and predicts it.

Windows are run from north to south. Rows that no later window touches are finished at once: the outputs are computed
from their probabilities, which are then let go. So probabilities are kept for one row of windows (of each member of an
ensemble), however large the block.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from xland.downscaling.engine import (
    Engine,
    choose_device,
    engine_of,
    give_back,
    one_thread,
    residency_of,
    start_all,
)
from xland.downscaling.fields import ChunkField, Chunks, Field, Key, read_codes_of
from xland.downscaling.keeping import Fit, Keeping
from xland.downscaling.windows import Block, Layout, Placement, blend_weights, placements
from xland.errors import ModelError
from xland.forcing.read import check_coverage, check_values
from xland.geo.grid import expand
from xland.models.applicability import Applicability, static_means
from xland.models.checkpoint import Checkpoint
from xland.models.ensemble import Ensemble
from xland.models.inputs import MASKED, InputSpec
from xland.outputs import OUTPUTS, Output, Pixels
from xland.reading.limits import checked_predictor, refuse, share_problem, unknown_land
from xland.vocabulary import OCEAN

if TYPE_CHECKING:
    from torch import Tensor

AT_ONCE = 3
"""Blocks that a process has inputs of at once: one is computed while others are read and written."""

STRIP = 600
"""Rows of static fields that are read at a time: whole chunks of the predictors that xland prepares."""

IN_CACHE = 100
"""Rows of static fields that are normalised at a time: they stay in the cache of a core until they are rounded."""

_at_once = threading.BoundedSemaphore(AT_ONCE)


@dataclass(frozen=True, eq=False)
class Plan:
    """All that the block-years of one downscaling share; it is in the graph once.

    `name` is that of the array of class maps. `coarse` has one year a chunk; its first layers are `variables`, which
    the model reads. `positions` says for each year where the years of its steps are in `coarse`. The values of
    `own_static` predictors, which xland provides, need no check. `first_prior` is the map that the first year adjoins,
    `own` are the maps of this downscaling where each is the prior of the next. `outputs` begins with the class map.
    """

    name: str
    model: Checkpoint | Ensemble
    inputs: InputSpec
    layout: Layout
    years: tuple[int, ...]
    coarse: Field
    variables: tuple[str, ...]
    positions: tuple[tuple[int, ...], ...]
    static: Field
    own_static: bool
    first_prior: Field | None = None
    own: ChunkField | None = None
    outputs: tuple[Output, ...] = (OUTPUTS["land_use"],)
    device: str = "auto"
    flips: bool = False
    keeping: Keeping | None = None

    @cached_property
    def expected(self) -> NDArray[np.bool_] | None:
        """Cells of the forcing's grid that had data when the model was trained."""
        coverage = self.model.coverage
        return None if coverage is None else coverage.on(self.coarse.grid)

    @cached_property
    def applicability(self) -> Applicability | None:
        """What distances to the training inputs are measured from, where they are wanted."""
        wanted = any(output.needs == "applicability" for output in self.outputs)
        return self.model.applicability if wanted else None

    @cached_property
    def decision(self) -> tuple[float, ...]:
        """Offsets of the log-probabilities where a class is chosen; empty without any."""
        return self.model.decision if any(self.model.decision) else ()

    def prior_of(self, year: int) -> tuple[Field | None, int]:
        """Where the prior map of a year comes from, and its position there."""
        if self.own is None:
            return None, 0
        before = year + self.inputs.prior_step
        return (self.own, before) if 0 <= before < len(self.years) else (self.first_prior, 0)

    def keys(self, year: int, row: int, column: int) -> Iterator[Key]:
        """Graph keys of the chunks that a block-year needs."""
        rows, columns = self.layout.halos[0][row], self.layout.halos[1][column]
        low = rows.coarse(self.inputs.factor), columns.coarse(self.inputs.factor)
        for position in self.positions[year]:
            yield from self.coarse.keys(*low, position)
        yield from self.static.keys(rows, columns)
        prior, position = self.prior_of(year)
        if prior is not None:
            yield from prior.keys(rows, columns, position)
        if self.keeping is not None:
            yield from self.keeping.keys(self.layout.rows[row], self.layout.columns[column], year)


@dataclass(frozen=True, eq=False)
class _Static:
    """Static fields of a block over its halo; no `fields` where it has no land.

    `unknown` are coarse cells in which the share of land is NaN somewhere; None if there are none.
    `pending` are rows that are still being read.
    """

    fields: Tensor | None
    land: NDArray[np.bool_]
    coarse_land: NDArray[np.bool_]
    unknown: NDArray[np.bool_] | None = None
    pending: tuple[tuple[slice, Future[None]], ...] = ()


@dataclass(frozen=True, eq=False)
class BlockInputs:
    """What the windows of a block read, over its halo.

    `coarse` is (channels, rows / factor, columns / factor) float32; `static` (channels, rows, columns) float16, on the
    engine's device; `land` (rows, columns) where a class is predicted, elsewhere it is ocean; `prior` (rows, columns)
    class codes, 255 where unknown; `pending` are rows of `static` that are still being read.
    """

    coarse: NDArray[np.float32]
    static: Tensor
    land: NDArray[np.bool_]
    prior: NDArray[np.uint8] | None = None
    pending: Sequence[tuple[slice, Future[None]]] = ()


def run_block_year(plan: Plan, year: int, row: int, column: int, *chunks: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """Read, check and predict one block of one year, given by positions; return its outputs.

    `chunks` are what the keys of :meth:`Plan.keys` stand for, each once.
    """
    named = dict(zip(dict.fromkeys(plan.keys(year, row, column)), chunks, strict=True))
    block = plan.layout.block(row, column)
    device = choose_device(plan.device)
    read = partial(_read_static, plan, block, named, device)
    with _at_once:
        static = residency_of(device).get(plan.name, (row, column), read) if len(plan.years) > 1 else read()[0]
        if static.fields is None:
            return ocean((len(block.rows), len(block.columns)), len(plan.inputs.classes), plan.outputs)
        coarse = _read_coarse(plan, block, static, named, year)
        source, position = plan.prior_of(year)
        classes = len(plan.inputs.classes) if source is plan.first_prior else None
        prior = None if source is None else read_codes_of(source, *block.halo, named, position, classes=classes)
        engines = [engine_of(member, device, flips=plan.flips) for member in plan.model.members]
        fit = None
        if plan.keeping is not None:
            fit = plan.keeping.read(block, named, year, None if prior is None else prior[block.core])
        inputs = BlockInputs(coarse, static.fields, static.land, prior, static.pending)
        results = predict_block(engines, block, inputs, plan.outputs, plan.decision, fit, plan.applicability)
    give_back()
    return results


def _read_static(plan: Plan, block: Block, chunks: Chunks, device: str) -> tuple[_Static, int]:
    """Begin to read the static fields of a block, and say how many bytes they take.

    Where there is land is read at once. The fields follow, strip by strip, while windows that need
    no more than what is there are computed.
    """
    import torch

    inputs = plan.inputs
    land, missing = _read_land(plan, block, chunks)
    if not land[block.core].any() and not missing.any():
        return _Static(None, land[:0], land[:0]), 1
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
    land, missing = np.zeros((2, *map(len, block.halo)), dtype=np.bool_)
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
    whole = placements(field.grid, *block.halo)
    return [strip for place in whole for strip in place.strips(STRIP)]


def _read_coarse(plan: Plan, block: Block, static: _Static, chunks: Chunks, year: int) -> NDArray[np.float32]:
    """Return the coarse channels over the halo, having checked all cells that are read: they shape the map."""
    inputs, grid = plan.inputs, plan.coarse.grid
    rows, columns = (side.coarse(inputs.factor) for side in block.halo)
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


def predict_block(
    engines: Sequence[Engine],
    block: Block,
    inputs: BlockInputs,
    outputs: Sequence[Output] = (OUTPUTS["land_use"],),
    decision: Sequence[float] = (),
    fit: Fit | None = None,
    applicability: Applicability | None = None,
) -> dict[str, NDArray[Any]]:
    """Blend the probabilities of all windows that touch a block, average those of the engines, and compute outputs.

    `decision` is added to the log-probability of each class where one is chosen; `fit` makes rows keep coarse totals.
    Returns (rows, columns) arrays, or (classes, rows, columns), as the table of outputs says.
    """
    core_rows, core_columns = block.core
    land = inputs.land[block.core]
    results = ocean(land.shape, len(engines[0].network.inputs.classes), outputs)
    if not land.any():
        return results
    with one_thread():
        first = core_rows.start
        for top, members in _finished_rows(engines, block, inputs):
            part = slice(max(top, first), min(top + members[0].shape[1], core_rows.stop))
            if part.stop > part.start:
                at = slice(part.start - first, part.stop - first)
                rows = [values[:, part.start - top : part.stop - top] for values in members]
                codes, values, unmet = _decide(rows, at, land[at], decision, fit)
                distance = partial(_distance, applicability, inputs, part, core_columns)
                pixels = Pixels(values, rows, codes, unmet, distance)
                for output in outputs:
                    layer = output.compute(pixels)
                    layer = layer if isinstance(layer, np.ndarray) else layer.cpu().numpy()
                    np.copyto(results[output.name][..., at, :], layer, where=land[at], casting="same_kind")
    return results


def _decide(
    members: Sequence[Tensor], at: slice, land: NDArray[np.bool_], decision: Sequence[float], fit: Fit | None
) -> tuple[Tensor, Tensor, NDArray[np.float32]]:
    """Return the map of some rows, their mean probabilities, and the share of totals that is not kept."""
    import torch

    values = members[0] if len(members) == 1 else torch.stack(list(members)).mean(dim=0)
    if not math.isfinite(float(values.sum())):
        count = int((~values.isfinite()).any(dim=0).sum())
        raise ModelError(
            f"the network gives no finite probability in {count} pixels: its weights, or the mean and scale of its "
            "channels, are damaged; train it again, or fetch it from where it came from"
        )
    codes, unmet = None, np.full(land.shape, np.nan, np.float32)
    if fit is not None:
        values, codes, unmet = fit(values, at, land, decision)
    return _most_probable(values, decision) if codes is None else codes, values, unmet


def _distance(
    applicability: Applicability | None, inputs: BlockInputs, rows: slice, columns: slice
) -> NDArray[np.float32]:
    """Distance of whole coarse cells to the training inputs, on their pixels; rows and columns of the halo."""
    if applicability is None:
        raise ModelError("the model does not contain its training inputs: add them with `xland calibrate`")
    factor = inputs.land.shape[0] // inputs.coarse.shape[1]
    low = [slice(side.start // factor, side.stop // factor) for side in (rows, columns)]
    means = static_means(inputs.static[:, rows, columns].cpu().numpy(), inputs.land[rows, columns], factor)
    return expand(applicability.distance(inputs.coarse[:, *low], means), factor)


def ocean(shape: tuple[int, int], classes: int, outputs: Sequence[Output]) -> dict[str, NDArray[Any]]:
    """Return the outputs of a block without land."""
    results = {}
    for output in outputs:
        size = (classes, *shape) if output.classes else shape
        results[output.name] = np.full(size, output.sea, dtype=output.dtype)
        if output.classes:
            results[output.name][OCEAN] = 1
    return results


def _most_probable(values: Tensor, decision: Sequence[float] = ()) -> Tensor:
    """Code of the largest probability, each times ``exp(decision)``; the lower code where two are equal."""
    import torch

    if decision:
        values = values * torch.tensor(decision, device=values.device).exp()[:, None, None]
    if values.is_cuda:
        return values.argmax(dim=0).to(torch.uint8)
    # torch needs three times as long for this on a CPU, and argmax ten times
    layers = values.numpy()
    best = layers[0].copy()
    code = np.zeros(best.shape, dtype=np.uint8)
    for number, layer in enumerate(layers[1:], 1):
        np.copyto(code, number, where=layer > best)
        np.maximum(best, layer, out=best)
    return torch.from_numpy(code)


def _finished_rows(engines: Sequence[Engine], block: Block, inputs: BlockInputs) -> Iterator[tuple[int, list[Tensor]]]:
    """Yield the first of some whole rows, counted in the halo, and each member's (classes, rows, core columns)."""
    import torch

    size, stride, columns, device = block.size, block.stride, block.core[1], engines[0].device
    classes = len(engines[0].network.inputs.classes)
    bands = [torch.zeros((classes, size, inputs.land.shape[1]), device=device) for _ in engines]
    weights = torch.from_numpy(blend_weights(size, stride).copy()).to(device)
    jobs = _submit_all(engines, block, inputs)
    try:
        for number, (top, row) in enumerate(jobs):
            for member, lefts, future in row:
                for left, values in zip(lefts, future.result(), strict=True):
                    bands[member][:, :, left : left + size].addcmul_(values, weights)
            row.clear()
            if number == len(jobs) - 1:
                yield top, [band[:, :, columns] for band in bands]
                return
            yield top, [band[:, :stride, columns] for band in bands]
            for band in bands:
                kept = band[:, stride:].clone()
                band[:, : size - stride] = kept
                band[:, size - stride :] = 0
    finally:
        for _, row in jobs:
            for _, _, future in row:
                future.cancel()


def _submit_all(
    engines: Sequence[Engine], block: Block, inputs: BlockInputs
) -> list[tuple[int, list[tuple[int, list[int], Future[Tensor]]]]]:
    """Start all windows with land in the block: for each row of windows its top, and (member, lefts, result)."""
    import torch

    first = engines[0]
    size, factor = block.size, first.network.inputs.factor
    core = block.core
    coarse = torch.from_numpy(inputs.coarse).to(first.device)
    land = torch.from_numpy(inputs.land).to(first.device)
    prior = None
    if first.network.inputs.prior != "none":
        known = np.full(inputs.land.shape, MASKED, dtype=np.uint8) if inputs.prior is None else inputs.prior
        prior = torch.as_tensor(known).to(first.device)
    inside = np.zeros_like(inputs.land)
    inside[core] = inputs.land[core]
    jobs = []
    tops, all_lefts = block.windows
    for top in tops:
        strip = np.asarray(inside[top : top + size].any(axis=0))
        lefts = [left for left in all_lefts if strip[left : left + size].any()]
        row = []
        after = [future for rows, future in inputs.pending if rows.start < top + size and rows.stop > top]
        for start in range(0, len(lefts), first.batch):
            chosen = lefts[start : start + first.batch]
            fine = [(..., slice(top, top + size), slice(left, left + size)) for left in chosen]
            low = [tuple(slice(s.start // factor, s.stop // factor) for s in at[1:]) for at in fine]
            windows = (
                [coarse[:, r, c] for r, c in low],
                [inputs.static[at] for at in fine],
                None if prior is None else [prior[at] for at in fine],
                [land[at] for at in fine],
            )
            row += [(member, chosen, engine.submit(*windows, after)) for member, engine in enumerate(engines)]
        jobs.append((top, row))
    return jobs
