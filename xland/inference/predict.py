"""Arrays in, class probabilities out: one block, all windows that touch it, blended."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from xland.batches.masking import MASKED
from xland.inference.windows import Span, gaussian, halo, window_starts
from xland.vocabulary import OCEAN

if TYPE_CHECKING:
    from xland.models.unet import DownscalingNetwork

BATCH = 1
"""Windows that go through the network together: on a CPU one at a time stays in its cache.

Measured for the shipped models on two cores, one thread each: 1.1 s a million pixels, 1.7 s for 8.
"""

_thread = threading.local()


@dataclass(frozen=True)
class Block:
    """A block of the output and the cells that its windows read, all on the world's lattice."""

    rows: Span
    columns: Span
    size: int
    stride: int

    @property
    def read_rows(self) -> Span:
        """Rows of the halo."""
        return halo(self.rows, self.size, self.stride)

    @property
    def read_columns(self) -> Span:
        """Columns of the halo."""
        return halo(self.columns, self.size, self.stride)

    def windows(self) -> list[tuple[int, int]]:
        """First row and column of the windows, counted from the corner of the halo."""
        rows = window_starts(self.rows, self.size, self.stride) - self.read_rows.start
        columns = window_starts(self.columns, self.size, self.stride) - self.read_columns.start
        return [(int(r), int(c)) for r in rows for c in columns]

    @property
    def core(self) -> tuple[slice, slice]:
        """Rows and columns of the block within its halo."""
        row = self.rows.start - self.read_rows.start
        column = self.columns.start - self.read_columns.start
        return slice(row, row + len(self.rows)), slice(column, column + len(self.columns))


def predict_block(
    network: DownscalingNetwork,
    block: Block,
    coarse: NDArray[np.float32],
    static: NDArray[np.float16],
    land: NDArray[np.bool_],
    prior: NDArray[np.uint8] | None = None,
) -> NDArray[np.float32]:
    """Blend the probabilities of all windows that touch a block.

    Parameters
    ----------
    network : DownscalingNetwork
        In evaluation mode.
    block : Block
    coarse : (coarse channels, halo rows / factor, halo columns / factor) array
    static : (static channels, halo rows, halo columns) array
    land : (halo rows, halo columns) array of bool
        Where a class is predicted; elsewhere it is ocean.
    prior : (halo rows, halo columns) array of class codes, optional
        255 where unknown.

    Returns
    -------
    (classes, rows, columns) array of float32
        Summing to 1 over the classes.
    """
    count = len(network.inputs.classes)
    core = block.core
    inside = land[core]
    result = np.zeros((count, *inside.shape), dtype=np.float32)
    if inside.any():
        total = np.zeros((count, *land.shape), dtype=np.float32)
        weight = np.zeros(land.shape, dtype=np.float32)
        importance = gaussian(block.size)
        touching = np.zeros_like(land)
        touching[core] = inside
        windows = [(r, c) for r, c in block.windows() if touching[r : r + block.size, c : c + block.size].any()]
        for start in range(0, len(windows), BATCH):
            chosen = windows[start : start + BATCH]
            for (row, column), probabilities in zip(
                chosen, _run(network, block.size, chosen, coarse, static, prior), strict=True
            ):
                at = (slice(row, row + block.size), slice(column, column + block.size))
                total[(slice(None), *at)] += probabilities * importance
                weight[at] += importance
        np.divide(total[(slice(None), *core)], weight[core], out=result, where=inside)
    result[OCEAN] = np.where(inside, result[OCEAN], 1.0)
    return result


def _use_one_thread(torch: Any) -> None:
    """Keep torch to one thread inside a dask worker thread: dask already uses all cores.

    Two threads that each wait busily for a second one slow a block down several times.
    """
    if threading.current_thread() is not threading.main_thread() and not hasattr(_thread, "limited"):
        torch.set_num_threads(1)
        _thread.limited = True


def most_probable(probabilities: NDArray[np.float32], axis: int = 0) -> NDArray[np.uint8]:
    """Code of the most probable class; the lower code where two are equal."""
    return probabilities.argmax(axis=axis).astype(np.uint8)


def confidence(probabilities: NDArray[np.float32], axis: int = 0) -> NDArray[np.float32]:
    """Difference between the two largest probabilities, from 0 (undecided) to 1 (certain)."""
    best = np.partition(probabilities, -2, axis=axis)
    return np.take(best, -1, axis=axis) - np.take(best, -2, axis=axis)


def _run(
    network: DownscalingNetwork,
    size: int,
    windows: list[tuple[int, int]],
    coarse: NDArray[np.float32],
    static: NDArray[np.float16],
    prior: NDArray[np.uint8] | None,
) -> NDArray[np.float32]:
    import torch

    _use_one_thread(torch)
    factor = network.inputs.factor
    small = size // factor
    fine = [(slice(r, r + size), slice(c, c + size)) for r, c in windows]
    low = [(slice(r // factor, r // factor + small), slice(c // factor, c // factor + small)) for r, c in windows]
    tensors = [
        torch.from_numpy(np.stack([coarse[:, r, c] for r, c in low])),
        torch.from_numpy(np.stack([static[:, r, c] for r, c in fine])),
    ]
    if network.inputs.prior != "none":
        known = np.full(static.shape[1:], MASKED, dtype=np.uint8) if prior is None else prior
        tensors.append(torch.from_numpy(np.stack([known[r, c] for r, c in fine])))
    with torch.inference_mode():
        return network(*tensors).float().softmax(dim=1).numpy()
