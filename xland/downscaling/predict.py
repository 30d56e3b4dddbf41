"""Arrays in, maps out: one block, all windows that touch it, blended row by row.

Windows are run from north to south. Rows that no later window touches are finished at once: class,
probability and confidence are taken from them, and their probabilities are let go. So probabilities
are held for one row of windows (of each member of an ensemble), however large the block.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from xland.downscaling.engine import Engine, one_thread
from xland.downscaling.finishing import Finishing, ocean
from xland.downscaling.windows import Block, blend_weights
from xland.errors import ModelError
from xland.geo.grid import expand
from xland.models.applicability import Applicability, static_means
from xland.models.inputs import MASKED

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, eq=False)
class BlockInputs:
    """What the windows of a block read, over its halo.

    Parameters
    ----------
    coarse : (coarse channels, halo rows / factor, halo columns / factor) float32
    static : (static channels, halo rows, halo columns) float16 tensor
        On the engine's device.
    land : (halo rows, halo columns) array of bool
        Where a class is predicted; elsewhere it is ocean.
    prior : (halo rows, halo columns) array of class codes, optional
        255 where unknown.
    pending : sequence of (slice, Future)
        Rows of ``static`` that are still being read.
    """

    coarse: NDArray[np.float32]
    static: Tensor
    land: NDArray[np.bool_]
    prior: NDArray[np.uint8] | None = None
    pending: Sequence[tuple[slice, Future[None]]] = ()
    applicability: Applicability | None = None

    def measure(self, block: Block, at: slice) -> NDArray[np.float32]:
        """Return the distance to the training inputs of whole coarse rows of the block, on fine pixels."""
        if self.applicability is None:
            raise ModelError("the model does not contain its training inputs: add them with `xland calibrate`")
        rows, columns = block.core
        rows = slice(rows.start + at.start, rows.start + at.stop)
        factor = self.land.shape[0] // self.coarse.shape[1]
        low = [slice(side.start // factor, side.stop // factor) for side in (rows, columns)]
        means = static_means(self.static[:, rows, columns].cpu().numpy(), self.land[rows, columns], factor)
        return expand(self.applicability.distance(self.coarse[:, *low], means), factor)


def predict_block(
    engines: Sequence[Engine], block: Block, inputs: BlockInputs, finishing: Finishing | None = None
) -> dict[str, NDArray[Any]]:
    """Blend the probabilities of all windows that touch a block.

    Parameters
    ----------
    engines : sequence of Engine
        The network and its device; several for an ensemble, whose probabilities are averaged.
    block : Block
    inputs : BlockInputs
    finishing : Finishing, optional
        What is taken from the probabilities, and how; by default the class map.

    Returns
    -------
    dict of str to array
        ``land_use`` (rows, columns) uint8, the lower code where two classes are equal; ``probability``
        (classes, rows, columns) float32, summing to 1; all others (rows, columns) float32: ``confidence``,
        the difference between the two largest, ``entropy``, from 0 (one class is certain) to 1 (all are
        equal), ``spread``, the standard deviation between members of the probability of the class on the
        map, and ``unmet``, the share of the coarse cell that could not be given the class that was asked for.
    """
    finishing = finishing or Finishing()
    core_rows, core_columns = block.core
    land = inputs.land[core_rows, core_columns]
    results = ocean(land.shape, len(engines[0].network.inputs.classes), finishing.outputs)
    if not land.any():
        return results
    with one_thread():
        first = core_rows.start
        for top, members in _finished_rows(engines, block, inputs):
            part = slice(max(top, first), min(top + members[0].shape[1], core_rows.stop))
            if part.stop > part.start:
                at = slice(part.start - first, part.stop - first)
                rows = [values[:, part.start - top : part.stop - top] for values in members]
                finishing.fill(results, rows, at, land[at], partial(inputs.measure, block, at))
    return results


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
    for top in block.window_rows:
        strip = np.asarray(inside[top : top + size].any(axis=0))
        lefts = [left for left in block.window_columns if strip[left : left + size].any()]
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
