"""From what the windows of one block read to its outputs.

Windows are run from north to south. Rows that no later window touches are finished at once: the outputs are computed
from their probabilities, which are then let go. So probabilities are kept for one row of windows (of each member of an
ensemble), however large the block.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from xland.downscaling.engine import Engine, one_thread
from xland.downscaling.fields import Block, blend_weights
from xland.downscaling.keeping import Fit
from xland.downscaling.tiles import finished_tiles
from xland.draws.octaves import Grain
from xland.errors import ModelError
from xland.geo.grid import expand
from xland.models.applicability import Applicability, static_means
from xland.models.inputs import MASKED
from xland.outputs import OUTPUTS, Output, Pixels
from xland.vocabulary import OCEAN

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, eq=False)
class Static:
    """Static fields of a block over its halo, and where it has land.

    `fields` is (channels, rows, columns) float16 on the engine's device; `land` (rows, columns) where a class is
    predicted, elsewhere it is ocean; `pending` are rows of the fields that are still being read. `coarse_land` are
    coarse cells with land; `unknown` those in which the share of land is NaN somewhere, None if there are none.
    """

    fields: Tensor
    land: NDArray[np.bool_]
    pending: Sequence[tuple[slice, Future[None]]] = ()
    coarse_land: NDArray[np.bool_] | None = None
    unknown: NDArray[np.bool_] | None = None


@dataclass(frozen=True)
class Drawing:
    """How many maps are drawn, and how: with what grain, from which seed, on a globe of how many columns."""

    count: int
    seed: int
    grain: Grain
    around: int

    def maps(
        self,
        probability: Tensor,
        land: NDArray[np.bool_],
        rows: range,
        columns: range,
        at: slice,
        fit: Fit | None,
    ) -> NDArray[np.uint8]:
        """Draw all maps of some rows of a block, ``(draws, rows, columns)``.

        `rows` and `columns` count on the globe, and `at` says which rows of the block they are. `fit` chooses a map
        that keeps coarse totals: it then chooses each draw.
        """
        # compiled code, which takes a second to load, only where maps are drawn
        from xland.draws.gumbel import Place, draw_classes, perturb

        place, values = Place(rows, columns, self.around), probability.cpu().numpy()
        found = np.zeros((self.count, *land.shape), dtype=np.uint8)
        for number, codes in enumerate(found):
            if fit is None:
                codes[...] = draw_classes(values, land, place, self.grain, self.seed, number)
                continue
            perturbed = perturb(values, land, place, self.grain, self.seed, number)
            _, chosen, _ = fit(probability.new_tensor(perturbed), at, land, ())
            if chosen is not None:
                codes[...] = chosen.cpu().numpy()
        return found


def predict_block(
    engines: Sequence[Engine],
    block: Block,
    static: Static,
    coarse: NDArray[np.float32],
    prior: NDArray[np.uint8] | None = None,
    *,
    outputs: Sequence[Output] = (OUTPUTS["land_use"],),
    decision: Sequence[float] = (),
    fit: Fit | None = None,
    applicability: Applicability | None = None,
    drawing: Drawing | None = None,
    check: Callable[[], None] | None = None,
) -> dict[str, NDArray[Any]]:
    """Blend the probabilities of all windows that touch a block, average those of the engines, and compute outputs.

    `coarse` is (channels, rows / factor, columns / factor), `prior` (rows, columns) class codes, 255 where unknown,
    over the halo, with a history (maps, rows, columns). `decision` is added to the log-probability of each class where
    one is chosen; `fit` makes rows keep coarse totals, `drawing` says how maps are drawn, and `check` raises an error
    once nobody waits. Returns (rows, columns) arrays, or (classes, rows, columns) and (draws, rows, columns), as the
    table of outputs says.
    """
    core_rows, core_columns = block.core
    land = static.land[block.core]
    results = ocean(land.shape, layers_of(len(engines[0].network.inputs.classes), drawing), outputs)
    if not land.any():
        return results
    first = core_rows.start
    with one_thread():
        if all(engine.apart for engine in engines):
            finished = finished_tiles(engines, block, static, coarse, prior, check)
        else:
            finished = _finished_rows(engines, block, _submit_all(engines, block, static, coarse, prior, check))
        for top, members in finished:
            part = slice(max(top, first), min(top + members[0].shape[1], core_rows.stop))
            if part.stop > part.start:
                at = slice(part.start - first, part.stop - first)
                rows = [values[:, part.start - top : part.stop - top] for values in members]
                chosen, values, unmet = _fit_rows(rows, at, land[at], decision, fit)
                codes = _most_probable(values, decision) if chosen is None else chosen
                distance = partial(_distance, applicability, static, coarse, part, core_columns)
                draws = partial(_draws, drawing, block, values, land[at], at, None if chosen is None else fit)
                pixels = Pixels(values, rows, codes, unmet, distance, draws)
                for output in outputs:
                    layer = output.compute(pixels)
                    layer = layer if isinstance(layer, np.ndarray) else layer.cpu().numpy()
                    np.copyto(results[output.name][..., at, :], layer, where=land[at], casting="same_kind")
    return results


def _fit_rows(
    members: Sequence[Tensor], at: slice, land: NDArray[np.bool_], decision: Sequence[float], fit: Fit | None
) -> tuple[Tensor | None, Tensor, NDArray[np.float32]]:
    """Return the map of some rows if totals choose it, their mean probabilities, and the share that is not kept."""
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
    return codes, values, unmet


def _distance(
    applicability: Applicability | None, static: Static, coarse: NDArray[np.float32], rows: slice, columns: slice
) -> NDArray[np.float32]:
    """Distance of whole coarse cells to the training inputs, on their pixels; rows and columns of the halo."""
    if applicability is None:
        raise ModelError("the model does not contain its training inputs: add them with `xland calibrate`")
    factor = static.land.shape[0] // coarse.shape[1]
    low = [slice(side.start // factor, side.stop // factor) for side in (rows, columns)]
    means = static_means(static.fields[:, rows, columns].cpu().numpy(), static.land[rows, columns], factor)
    return expand(applicability.distance(coarse[:, *low], means), factor)


def _draws(
    drawing: Drawing | None, block: Block, values: Tensor, land: NDArray[np.bool_], at: slice, fit: Fit | None
) -> NDArray[np.uint8]:
    """Draw maps of some rows of a block; `values` are their probabilities."""
    if drawing is None:
        raise ModelError("no map is drawn: say how many with draws=")
    return drawing.maps(values, land, block.rows[at], block.columns, at, fit)


def layers_of(classes: int, drawing: Drawing | None) -> dict[str, int]:
    """Return the length of each dimension between time and latitude that an output may have."""
    return {"class": classes, "draw": 0 if drawing is None else drawing.count}


def ocean(shape: tuple[int, int], layers: Mapping[str, int], outputs: Sequence[Output]) -> dict[str, NDArray[Any]]:
    """Return the outputs of a block without land; `layers` are those of :func:`layers_of`."""
    results = {}
    for output in outputs:
        size = (layers[output.axis], *shape) if output.axis else shape
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


_Row = tuple[int, list[tuple[int, list[int], "Future[Tensor]"]]]
"""Windows of one row: its top, and for some windows at a time the member, their first columns and their result."""


def _finished_rows(engines: Sequence[Engine], block: Block, jobs: Sequence[_Row]) -> Iterator[tuple[int, list[Tensor]]]:
    """Yield the first of some whole rows, counted in the halo, and each member's (classes, rows, core columns)."""
    import torch

    size, stride, columns, device = block.size, block.stride, block.core[1], engines[0].device
    classes = len(engines[0].network.inputs.classes)
    bands = [torch.zeros((classes, size, len(block.halo[1])), device=device) for _ in engines]
    weights = torch.from_numpy(blend_weights(size, stride).copy()).to(device)
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
    engines: Sequence[Engine],
    block: Block,
    static: Static,
    coarse: NDArray[np.float32],
    prior: Any,
    check: Callable[[], None] | None,
) -> list[_Row]:
    """Start all windows with land in the block."""
    import torch

    first, size = engines[0], block.size
    factor, device = first.network.inputs.factor, first.device
    low_fields, land = torch.from_numpy(coarse).to(device), torch.from_numpy(static.land).to(device)
    known = None
    if first.network.inputs.prior != "none":
        maps = (1 + first.network.inputs.history,) if first.network.inputs.history else ()
        hidden = np.full((*maps, *static.land.shape), MASKED, dtype=np.uint8) if prior is None else prior
        known = torch.as_tensor(hidden).to(device)
    inside = np.zeros_like(static.land)
    inside[block.core] = static.land[block.core]
    jobs = []
    tops, all_lefts = block.windows
    for top in tops:
        strip = np.asarray(inside[top : top + size].any(axis=0))
        lefts = [left for left in all_lefts if strip[left : left + size].any()]
        row = []
        after = [future for rows, future in static.pending if rows.start < top + size and rows.stop > top]
        for start in range(0, len(lefts), first.batch):
            chosen = lefts[start : start + first.batch]
            fine = [(..., slice(top, top + size), slice(left, left + size)) for left in chosen]
            low = [tuple(slice(s.start // factor, s.stop // factor) for s in at[1:]) for at in fine]
            windows = (
                [low_fields[:, r, c] for r, c in low],
                [static.fields[at] for at in fine],
                None if known is None else [known[at] for at in fine],
                [land[at] for at in fine],
            )
            for member, engine in enumerate(engines):
                row.append((member, chosen, engine.start(engine.run, *windows, after=after, check=check)))
        jobs.append((top, row))
    return jobs
