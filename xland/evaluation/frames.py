"""Put maps of any extent on the cells of one of them, and thin them for a page, without reading.

A frame is the map whose grid the others are brought to. Thinned maps show the most frequent class, or
the mean, of square blocks of cells, so that a picture of a large map leaves nothing out by chance.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from xland.evaluation.alignment import overlaps
from xland.reader import ClassMap

BLANK = 255
"""Stands for no data among codes that are drawn."""

_SMALLEST, _LARGEST = 512, 1536
"""Cells along a block: fewer cost tasks, more cost memory."""


def as_dask(data: xr.DataArray) -> da.Array:
    """Return a map as a dask array; one in memory is cut into views."""
    if data.chunks is None:
        # a stored array is read along its own chunks
        stored = "preferred_chunks" in data.encoding
        data = data.chunk({} if stored else {"time": 1, "lat": _LARGEST, "lon": _LARGEST})
    array: da.Array = data.data
    return array


def place(source: ClassMap, frame: ClassMap, fill: float) -> da.Array:
    """Put the first time step of a map on the cells of a frame.

    Parameters
    ----------
    source, frame : ClassMap
        Their cells must coincide; they may cover different parts of the globe.
    fill : number
        Value of the cells that the source does not cover.

    Returns
    -------
    (rows, columns) dask array

    Raises
    ------
    GridError
        If the cells differ in size or do not coincide.
    RegionError
        If the two have no cell in common.
    """
    values = as_dask(source.data)[0]
    if values.dtype.kind in "iu" and not np.iinfo(values.dtype).min <= fill <= np.iinfo(values.dtype).max:
        values = values.astype(np.result_type(values.dtype, np.min_scalar_type(fill)))
    pieces = sorted(overlaps(source, frame), key=lambda piece: piece.columns.start)
    strips, column, height = [], 0, pieces[0].rows.stop - pieces[0].rows.start
    for piece in pieces:
        strips.append(_full((height, piece.columns.start - column), fill, values.dtype))
        strips.append(values[piece.predicted_rows, piece.predicted_columns])
        column = piece.columns.stop
    strips.append(_full((height, frame.grid.columns - column), fill, values.dtype))
    band = da.concatenate([each for each in strips if each.shape[1]], axis=1)
    rows = pieces[0].rows
    return pad(band, ((rows.start, frame.grid.rows - rows.stop), (0, 0)), fill)


def pad(array: da.Array, margins: Sequence[tuple[int, int]], fill: float = 0) -> da.Array:
    """Add margins to an array, if there are any."""
    return da.pad(array, margins, constant_values=fill) if any(map(any, margins)) else array


def edges(sizes: Sequence[int], factor: int) -> tuple[int, ...]:
    """Return chunks near the given ones that end at edges of coarse cells and are neither small nor large."""
    total = sum(sizes)
    wanted = np.unique(np.cumsum(sizes) // factor * factor)
    largest = max(_LARGEST // factor, 1) * factor
    ends = [0]
    for end in (*(int(each) for each in wanted if each < total - _SMALLEST), total):
        if end < total and end - ends[-1] < _SMALLEST:
            continue
        # a long stretch is cut evenly, so that no sliver is left
        pieces = -(-(end - ends[-1]) // largest)
        step = -(-(end - ends[-1]) // (pieces * factor)) * factor
        ends.extend(range(ends[-1] + step, end, step))
        ends.append(end)
    return tuple(int(size) for size in np.diff(ends) if size)


def thin(values: da.Array, step: int, reduce: Callable[[NDArray[Any], int], NDArray[Any]], dtype: Any) -> da.Array:
    """Reduce blocks of ``step`` x ``step`` cells with :func:`mode` or :func:`mean`, lazily.

    Returns
    -------
    (ceil(rows / step), ceil(columns / step)) dask array
    """
    values = values.rechunk(tuple(edges(sizes, step) for sizes in values.chunks))
    chunks = tuple(tuple(-(-size // step) for size in sizes) for sizes in values.chunks)
    return values.map_blocks(reduce, step, dtype=dtype, chunks=chunks, meta=np.empty((0, 0), dtype))


def mode(codes: NDArray[np.uint8], step: int) -> NDArray[np.uint8]:
    """Return the most frequent code of each block, the lowest of those that are equally frequent.

    :data:`BLANK` counts only where a block holds nothing else.
    """
    if step == 1:
        return codes
    blocks = _blocks(codes, step, BLANK)
    best = np.full((blocks.shape[0], blocks.shape[2]), BLANK, dtype=np.uint8)
    most = np.zeros(best.shape, dtype=np.int64)
    for code in np.unique(codes):
        if code != BLANK:
            count = np.count_nonzero(blocks == code, axis=(1, 3))
            best[count > most] = code
            np.maximum(most, count, out=most)
    return best


def mean(values: NDArray[np.floating[Any]], step: int) -> NDArray[np.float32]:
    """Return the mean of each block over the cells that have a value; NaN where none has."""
    if step == 1:
        return np.asarray(values, dtype=np.float32)
    blocks = _blocks(values, step, np.nan)
    known = np.isfinite(blocks)
    count = known.sum(axis=(1, 3))
    total = np.where(known, blocks, 0).sum(axis=(1, 3), dtype=np.float64)
    return np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0).astype(np.float32)


def _blocks(values: NDArray[Any], step: int, fill: float) -> NDArray[Any]:
    rows, columns = values.shape
    margins = [(0, -rows % step), (0, -columns % step)]
    padded = np.pad(values, margins, constant_values=fill) if any(map(any, margins)) else values
    return padded.reshape(padded.shape[0] // step, step, padded.shape[1] // step, step)


def _full(shape: tuple[int, int], fill: float, dtype: Any) -> da.Array:
    return da.full(shape, fill, dtype=dtype, chunks=_LARGEST)
