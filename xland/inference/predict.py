"""Arrays in, maps out: one block, all windows that touch it, blended row by row.

Windows are run from north to south. Rows that no later window touches are finished at once: class,
probability and confidence are taken from them, and their probabilities are let go. So probabilities
are held for one row of windows, however large the block.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from xland.batches.masking import MASKED
from xland.inference.engine import Engine, use_one_thread
from xland.inference.layout import Block
from xland.inference.windows import blend_weights
from xland.vocabulary import OCEAN

if TYPE_CHECKING:
    from torch import Tensor

LAYERS = ("land_use", "probability", "confidence", "entropy")
"""What can be taken from the probabilities of a block."""


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


def predict_block(
    engine: Engine, block: Block, inputs: BlockInputs, layers: Sequence[str] = ("land_use",)
) -> dict[str, NDArray[Any]]:
    """Blend the probabilities of all windows that touch a block.

    Parameters
    ----------
    engine : Engine
        The network and its device.
    block : Block
    inputs : BlockInputs
    layers : sequence of str
        Of :data:`LAYERS`.

    Returns
    -------
    dict of str to array
        ``land_use`` (rows, columns) uint8, the lower code where two classes are equal; ``probability``
        (classes, rows, columns) float32, summing to 1; ``confidence``, the difference between the two
        largest, and ``entropy``, from 0 (one class is certain) to 1 (all are equal), (rows, columns) float32.
    """
    count = len(engine.network.inputs.classes)
    core_rows, core_columns = block.core
    land = inputs.land[core_rows, core_columns]
    results = ocean(land.shape, count, layers)
    if not land.any():
        return results
    use_one_thread()
    first = core_rows.start
    for top, values in _finished_rows(engine, block, inputs):
        part = slice(max(top, first), min(top + values.shape[1], core_rows.stop))
        if part.stop > part.start:
            at = slice(part.start - first, part.stop - first)
            _fill(results, values[:, part.start - top : part.stop - top], at, land[at])
    return results


def ocean(shape: tuple[int, int], classes: int, layers: Sequence[str]) -> dict[str, NDArray[Any]]:
    """Return the layers of a block without land."""
    results: dict[str, NDArray[Any]] = {}
    for name in layers:
        if name == "land_use":
            results[name] = np.full(shape, OCEAN, dtype=np.uint8)
        elif name == "probability":
            results[name] = np.zeros((classes, *shape), dtype=np.float32)
            results[name][OCEAN] = 1
        else:
            results[name] = np.full(shape, 1 if name == "confidence" else 0, dtype=np.float32)
    return results


def _finished_rows(engine: Engine, block: Block, inputs: BlockInputs) -> Iterator[tuple[int, Tensor]]:
    """Yield the first row, counted in the halo, and probabilities (classes, rows, core columns) of whole rows."""
    import torch

    size, stride, columns = block.size, block.stride, block.core[1]
    classes = len(engine.network.inputs.classes)
    band = torch.zeros((classes, size, inputs.land.shape[1]), device=engine.device)
    weights = torch.from_numpy(blend_weights(size, stride).copy()).to(engine.device)
    jobs = _submit_all(engine, block, inputs)
    try:
        for number, (top, row) in enumerate(jobs):
            for lefts, future in row:
                for left, values in zip(lefts, future.result(), strict=True):
                    band[:, :, left : left + size].addcmul_(values, weights)
            row.clear()
            if number == len(jobs) - 1:
                yield top, band[:, :, columns]
                return
            yield top, band[:, :stride, columns]
            kept = band[:, stride:].clone()
            band[:, : size - stride] = kept
            band[:, size - stride :] = 0
    finally:
        for _, row in jobs:
            for _, future in row:
                future.cancel()


def _submit_all(
    engine: Engine, block: Block, inputs: BlockInputs
) -> list[tuple[int, list[tuple[list[int], Future[Tensor]]]]]:
    """Start all windows with land in the block: for each row of windows its top, and (lefts, result) of each batch."""
    import torch

    size, factor = block.size, engine.network.inputs.factor
    core = block.core
    coarse = torch.from_numpy(inputs.coarse).to(engine.device)
    land = torch.from_numpy(inputs.land).to(engine.device)
    prior = None
    if engine.network.inputs.prior != "none":
        known = np.full(inputs.land.shape, MASKED, dtype=np.uint8) if inputs.prior is None else inputs.prior
        prior = torch.as_tensor(known).to(engine.device)
    inside = np.zeros_like(inputs.land)
    inside[core] = inputs.land[core]
    jobs = []
    for top in block.window_rows:
        strip = np.asarray(inside[top : top + size].any(axis=0))
        lefts = [left for left in block.window_columns if strip[left : left + size].any()]
        row = []
        after = [future for rows, future in inputs.pending if rows.start < top + size and rows.stop > top]
        for start in range(0, len(lefts), engine.batch):
            chosen = lefts[start : start + engine.batch]
            fine = [(..., slice(top, top + size), slice(left, left + size)) for left in chosen]
            low = [tuple(slice(s.start // factor, s.stop // factor) for s in at[1:]) for at in fine]
            future = engine.submit(
                [coarse[:, r, c] for r, c in low],
                [inputs.static[at] for at in fine],
                None if prior is None else [prior[at] for at in fine],
                [land[at] for at in fine],
                after,
            )
            row.append((chosen, future))
        jobs.append((top, row))
    return jobs


def _fill(results: dict[str, NDArray[Any]], values: Tensor, at: slice, land: NDArray[np.bool_]) -> None:
    """Take what is wanted from the probabilities of some rows, ``(classes, rows, columns)``."""
    for name, array in results.items():
        if name == "probability":
            array[:, at] = np.where(land, values.cpu().numpy(), array[:, at])
        else:
            array[at] = np.where(land, _TAKE[name](values).cpu().numpy(), array[at])


def _most_probable(values: Tensor) -> Tensor:
    """Code of the largest probability; the lower code where two are equal."""
    import torch

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


def _margin(values: Tensor) -> Tensor:
    """Difference between the two largest probabilities."""
    best, second = values.topk(2, dim=0).values
    return best - second


def _entropy(values: Tensor) -> Tensor:
    """Shannon entropy as a share of its largest value."""
    return -(values * values.clamp_min(1e-12).log()).sum(dim=0).clamp_max_(0) / float(np.log(len(values)))


_TAKE = {"land_use": _most_probable, "confidence": _margin, "entropy": _entropy}
