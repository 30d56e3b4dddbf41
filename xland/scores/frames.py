"""Bring maps onto the same cells and years, by label and without reading."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from xland.errors import GridError, RegionError, TimeError
from xland.reading.variables import ClassMap

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


OFF_LATTICE = 0.05
"""Share of a cell by which two grids may be apart and still count as the same cells."""


@dataclass(frozen=True)
class Overlap:
    """The rows and columns of two maps that show the same places."""

    rows: slice
    columns: slice
    predicted_rows: slice
    predicted_columns: slice


def pair_years(predicted: ClassMap, observed: ClassMap, *, match_years: bool) -> list[tuple[int, int]]:
    """Return the positions in time, predicted and observed, that belong together.

    Two maps of one step each are compared even if their years differ, unless ``match_years``;
    otherwise the years that both have.

    Raises
    ------
    TimeError
        If no step of one belongs to a step of the other.
    """
    if len(predicted.years) == len(observed.years) == 1 and (
        not match_years or None in predicted.years + observed.years
    ):
        return [(0, 0)]
    if None in predicted.years or None in observed.years:
        raise TimeError("maps of several time steps need calendar years along `time` to be compared")
    common = [year for year in predicted.years if year in observed.years]
    if not common:
        hint = "pass match_years=False to compare them all the same" if match_years else "select one step of each"
        raise TimeError(
            f"the {predicted.what} ({_span(predicted.years)}) and the {observed.what} ({_span(observed.years)}) "
            f"have no year in common; {hint}"
        )
    return [(predicted.years.index(year), observed.years.index(year)) for year in common]


def _span(years: Sequence[int | None]) -> str:
    return f"{years[0]}" if len(years) == 1 else f"{len(years)} years, {years[0]} to {years[-1]}"


def overlaps(predicted: ClassMap, observed: ClassMap) -> list[Overlap]:
    """Return where two maps show the same cells: one piece, or two if one of them passes the date line.

    Raises
    ------
    GridError
        If the cells differ in size or do not coincide.
    RegionError
        If the maps have no cell in common.
    """
    fine, reference = predicted.grid, observed.grid
    size = reference.resolution
    longest = max(*fine.shape, *reference.shape)
    if abs(fine.resolution / size - 1) * longest > OFF_LATTICE:
        raise GridError(
            f"the {predicted.what} has cells of {fine.resolution:g} degrees and the {observed.what} of {size:g}; "
            "aggregate or regrid one of them first"
        )
    down = _whole((reference.north - fine.north) / size, "latitude", predicted, observed)
    right = _whole((fine.west - reference.west) / size, "longitude", predicted, observed)
    top, bottom = max(0, down), min(reference.rows, down + fine.rows)
    around = round(360 / size)
    turns = (-around, 0, around) if abs(360 / size - around) < OFF_LATTICE else (0,)
    found = []
    for turn in turns:
        left, end = max(0, right + turn), min(reference.columns, right + turn + fine.columns)
        if left < end and top < bottom:
            found.append(
                Overlap(
                    slice(top, bottom),
                    slice(left, end),
                    slice(top - down, bottom - down),
                    slice(left - right - turn, end - right - turn),
                )
            )
    if not found:
        raise RegionError(
            f"the {predicted.what} ({fine}) and the {observed.what} ({reference}) have no cell in common; "
            "check the region of both"
        )
    return found


def _whole(offset: float, direction: str, predicted: ClassMap, observed: ClassMap) -> int:
    nearest = round(offset)
    if abs(offset - nearest) > OFF_LATTICE:
        raise GridError(
            f"cells of the {predicted.what} lie {abs(offset - nearest):.2f} cells beside those of the "
            f"{observed.what} in {direction}; bring one onto the other's grid by nearest neighbour first"
        )
    return nearest
