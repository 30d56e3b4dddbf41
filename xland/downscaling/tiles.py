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

_Windows = dict[tuple[int, int], list["Future[list[Any]]"]]
"""What each engine knows of some windows, by their first row and column."""

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
) -> Iterator[tuple[int, list[Future[list[Any]]], _Tiles]]:
    """Start all windows and tiles with land in the block, row by row: a tile waits for none that starts after it."""
    import torch

    size, stride, factor = block.size, block.stride, engines[0].network.inputs.factor
    low, known = torch.from_numpy(coarse), None if prior is None else torch.from_numpy(prior)
    weights = blend_weights(size, stride).copy()
    inside = np.zeros_like(static.land)
    inside[block.core] = static.land[block.core]
    tops, lefts = block.windows
    started: _Windows = {}
    for top in tops:
        after = [future for rows, future in static.pending if rows.start < top + size and rows.stop > top]
        row: _Windows = {}
        for left in lefts:
            at = slice(top, top + size), slice(left, left + size)
            if inside[at].any():
                cells = tuple(slice(side.start // factor, side.stop // factor) for side in at)
                window = low[:, *cells], static.fields[:, *at], None if known is None else known[..., *at]
                row[top, left] = [engine.start(engine.around, *window, after=after, check=check) for engine in engines]
        started = {place: futures for place, futures in started.items() if place[0] > top - size} | row
        tiles: _Tiles = []
        for left in lefts:
            at = slice(top, top + stride), slice(left, left + stride)
            points = np.flatnonzero(inside[at])
            if not len(points):
                continue
            over = [
                (started[above, beside], top - above, left - beside)
                for above in range(top, top - size, -stride)
                for beside in range(left, left - size, -stride)
                if (above, beside) in started
            ]
            fields = static.fields[:, *at], None if known is None else known[..., *at], torch.from_numpy(points)
            for member, engine in enumerate(engines):
                windows = [(futures[member], down, right) for futures, down, right in over]
                tiles.append((member, left, engine.start(engine.decide, *fields, windows, weights, check=check)))
        yield top, [future for futures in row.values() for future in futures], tiles
