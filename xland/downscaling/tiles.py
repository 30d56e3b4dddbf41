"""Blocks of networks whose head decides pixel by pixel: the head runs once a pixel, however many windows are over it.

A tile is one step of the lattice of windows high and wide, and a few windows are over it. What they know of their
surroundings is blended with the weights with which probabilities are blended otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from xland.downscaling.engine import Engine
from xland.downscaling.fields import Block, blend_weights

if TYPE_CHECKING:
    from torch import Tensor

    from xland.downscaling.predict import Static

TOGETHER = 4
"""Windows whose coarse fields go through the network together: small images use a core better in batches."""

_Known = Future[list[list[Any]]]
"""What an engine knows of some windows, for each of its networks."""

_Tiles = list[tuple[int, int, "Future[Tensor]"]]
"""The member, the first column and the probabilities of some tiles of one row."""


def finished_tiles(
    engines: Sequence[Engine],
    block: Block,
    static: Static,
    coarse: NDArray[np.float32],
    prior: NDArray[np.uint8] | None,
    check: Callable[[], None] | None,
) -> Iterator[tuple[int, list[Tensor]]]:
    """Yield the first of some whole rows, counted in the halo, and each member's (classes, rows, core columns)."""
    import torch

    columns, classes = block.core[1], len(engines[0].network.inputs.classes)
    rows = list(_submit_rows(engines, block, static, coarse, prior, check))
    try:
        for top, windows, tiles in rows:
            bands = [torch.zeros((classes, block.stride, columns.stop - columns.start)) for _ in engines]
            for member, left, future in tiles:
                start, stop = max(left, columns.start), min(left + block.stride, columns.stop)
                inside = slice(start - columns.start, stop - columns.start)
                bands[member][:, :, inside] = future.result()[:, :, start - left : stop - left]
            windows.clear()
            tiles.clear()
            yield top, bands
    finally:
        for _, windows, tiles in rows:
            for window in windows:
                window.cancel()
            for *_, tile in tiles:
                tile.cancel()


def _submit_rows(
    engines: Sequence[Engine],
    block: Block,
    static: Static,
    coarse: NDArray[np.float32],
    prior: NDArray[np.uint8] | None,
    check: Callable[[], None] | None,
) -> Iterator[tuple[int, list[_Known], _Tiles]]:
    """Start all windows and tiles with land in the block, row by row: a tile waits for none that starts after it."""
    import torch

    size, stride = block.size, block.stride
    maps = None if prior is None else torch.from_numpy(prior)
    weights = blend_weights(size, stride).copy()
    inside = np.zeros_like(static.land)
    inside[block.core] = static.land[block.core]
    tops, lefts = block.windows
    known: dict[tuple[int, int], tuple[list[_Known], int]] = {}
    for top in tops:
        wanted = [left for left in lefts if inside[top : top + size, left : left + size].any()]
        known = {place: each for place, each in known.items() if place[0] > top - size}
        windows, tiles = [], []
        for some in (wanted[first : first + TOGETHER] for first in range(0, len(wanted), TOGETHER)):
            futures = _start_windows(engines, static, torch.from_numpy(coarse), maps, top, some, size, check)
            known |= {(top, left): (futures, number) for number, left in enumerate(some)}
            windows += futures
        for left in lefts:
            place = slice(top, top + stride), slice(left, left + stride)
            points = np.flatnonzero(inside[place])
            if not len(points):
                continue
            over = [
                (*known[above, beside], top - above, left - beside)
                for above in range(top, top - size, -stride)
                for beside in range(left, left - size, -stride)
                if (above, beside) in known
            ]
            fields = static.fields[:, *place], None if maps is None else maps[..., *place], torch.from_numpy(points)
            for member, engine in enumerate(engines):
                its = [(futures[member], *where) for futures, *where in over]
                tiles.append((member, left, engine.start(engine.decide, *fields, its, weights, check=check)))
        yield top, windows, tiles


def _start_windows(
    engines: Sequence[Engine],
    static: Static,
    coarse: Tensor,
    maps: Tensor | None,
    top: int,
    lefts: Sequence[int],
    size: int,
    check: Callable[[], None] | None,
) -> list[_Known]:
    """Start some windows of one row, once the fields that they read are there."""
    factor = engines[0].network.inputs.factor
    after = [future for rows, future in static.pending if rows.start < top + size and rows.stop > top]
    fine = [(..., slice(top, top + size), slice(left, left + size)) for left in lefts]
    rows = slice(top // factor, (top + size) // factor)
    low = [(..., rows, slice(left // factor, (left + size) // factor)) for left in lefts]
    windows = (
        [coarse[place] for place in low],
        [static.fields[place] for place in fine],
        None if maps is None else [maps[place] for place in fine],
    )
    return [engine.start(engine.around, *windows, after=after, check=check) for engine in engines]
