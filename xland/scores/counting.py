"""Count pairs of classes over maps larger than memory, in blocks that begin at edges of coarse cells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from xland.errors import GridError
from xland.geo.grid import Grid
from xland.reading.variables import ClassMap, as_map
from xland.scores.counts import count_rows
from xland.scores.frames import Overlap, as_dask, edges, overlaps, pad, place
from xland.vocabulary import CLASSES, check_codes


@dataclass(frozen=True, eq=False)
class Weightings:
    """Confusion matrices of each region and domain: ``pixels`` and ``area`` are (regions, domains, 8, 8) arrays."""

    pixels: NDArray[np.float64]
    area: NDArray[np.float64]


def count_lazily(
    predicted: ClassMap,
    observed: ClassMap,
    pairs: Sequence[tuple[int, int]],
    within: xr.DataArray | NDArray[np.bool_] | None,
    factor: int,
    domains: tuple[str, ...],
    regions: da.Array | None = None,
    count: int = 1,
) -> list[tuple[int, da.Array]]:
    """Return the lazy counts of every piece and time step.

    Parameters
    ----------
    predicted, observed : ClassMap
    pairs : sequence of (predicted step, observed step)
    within : DataArray, array of bool or None
        Cells to count.
    factor : int
        Fine cells along one coarse cell.
    domains : tuple of str
    regions : (rows, columns) dask array of uint8, optional
        Number of the region of each cell of the observed map, from 1; 0 leaves a cell out.
    count : int
        Number of regions.

    Returns
    -------
    list of (first row, (rows, regions, domains, 64) dask array of int64)
        The first row is one of the observed grid, negative where its first coarse cell begins
        north of the grid.
    """
    mask = None if within is None else place_mask(within, observed)
    if regions is not None:
        mask = regions if mask is None else da.where(mask, regions, np.uint8(0))
    forecast, reference = as_dask(predicted.data), as_dask(observed.data)
    return [
        _count(overlap, forecast[i], reference[j], mask, predicted.what, observed, factor, domains, count)
        for overlap in overlaps(predicted, observed)
        for i, j in pairs
    ]


def weigh(pieces: Sequence[tuple[int, NDArray[np.int64]]], grid: Grid) -> Weightings:
    """Sum the counts of all pieces into confusion matrices, by pixels and by cell area on the sphere."""
    rows = np.zeros((grid.rows, *pieces[0][1].shape[1:]), dtype=np.int64)
    for first, counts in pieces:
        # rows beyond the grid only fill up coarse cells and hold no counts
        start, stop = max(first, 0), min(first + counts.shape[0], grid.rows)
        rows[start:stop] += counts[start - first : stop - first]
    shape = (*rows.shape[1:3], len(CLASSES), len(CLASSES))
    area = np.einsum("rkdp,r->kdp", rows, grid.cell_area())
    return Weightings(rows.sum(axis=0).astype(np.float64).reshape(shape), area.reshape(shape))


def place_mask(within: xr.DataArray | NDArray[np.bool_], observed: ClassMap) -> da.Array:
    """Return the cells to count as an array on the observed grid, without reading.

    Parameters
    ----------
    within : DataArray or (rows, columns) array of bool
        A DataArray is placed by its coordinates; an array has the observed map's cells.
    observed : ClassMap

    Raises
    ------
    GridError
        If the mask is not boolean, has several time steps or other cells.
    """
    if isinstance(within, xr.Dataset):
        raise GridError("the mask `within` is a Dataset; pass the variable that is true where cells count")
    if not isinstance(within, xr.DataArray):
        within = np.asarray(within)
        if within.shape != observed.grid.shape:
            raise GridError(
                f"the mask `within` has shape {within.shape} and the {observed.what} {observed.grid.shape}; "
                "pass a DataArray to have it placed by its coordinates"
            )
        within = xr.DataArray(within, {"lat": observed.data["lat"], "lon": observed.data["lon"]}, ("lat", "lon"))
    if within.dtype != np.bool_:
        raise GridError(f"the mask `within` must be boolean, not {within.dtype}; compare it with a value first")
    placed = as_map(within, what="mask `within`", holds="mask")
    if len(placed.years) > 1:
        raise GridError("the mask `within` has several time steps; select one")
    return place(placed, observed, 0)


def _count(
    overlap: Overlap,
    forecast: da.Array,
    reference: da.Array,
    mask: da.Array | None,
    what: str,
    observed: ClassMap,
    factor: int,
    domains: tuple[str, ...],
    regions: int,
) -> tuple[int, da.Array]:
    grid = observed.grid
    rows = _whole_cells(overlap.rows, grid.row_offset, factor)
    columns = _whole_cells(overlap.columns, grid.column_offset, factor)
    # The observed map fills up coarse cells that the predicted one covers in part, as far as it goes.
    inner = slice(max(rows.start, 0), min(rows.stop, grid.rows))
    across = slice(max(columns.start, 0), min(columns.stop, grid.columns))
    beyond = [
        (inner.start - rows.start, rows.stop - inner.stop),
        (across.start - columns.start, columns.stop - across.stop),
    ]
    margins = [
        (overlap.rows.start - rows.start, rows.stop - overlap.rows.stop),
        (overlap.columns.start - columns.start, columns.stop - overlap.columns.stop),
    ]
    predicted = pad(forecast[overlap.predicted_rows, overlap.predicted_columns], margins)
    chunks = tuple(edges(sizes, factor) for sizes in predicted.chunks)
    covered = () if mask is None else (pad(mask[overlap.rows, overlap.columns], margins).rechunk(chunks), "yx")
    latitude = grid.north - (np.arange(rows.start, rows.stop) + 0.5) * grid.resolution
    longitude = grid.west + (np.arange(columns.start, columns.stop) + 0.5) * grid.resolution
    counts = da.blockwise(
        _count_block,
        "yxkdp",
        pad(reference[inner, across], beyond).rechunk(chunks),
        "yx",
        predicted.rechunk(chunks),
        "yx",
        _inside(overlap.rows, rows, chunks[0]),
        "y",
        _inside(overlap.columns, columns, chunks[1]),
        "x",
        da.from_array(latitude, chunks=(chunks[0],)),
        "y",
        da.from_array(longitude, chunks=(chunks[1],)),
        "x",
        *covered,
        new_axes={"k": regions, "d": len(domains), "p": len(CLASSES) ** 2},
        adjust_chunks={"x": lambda _: 1},
        factor=factor,
        domains=domains,
        regions=regions,
        names=(observed.what, what),
        dtype=np.int64,
        meta=np.empty((0, 0, 0, 0, 0), dtype=np.int64),
    )
    return rows.start, counts.sum(axis=1, split_every=4)


def _count_block(
    observed: NDArray[Any],
    predicted: NDArray[Any],
    inside_rows: NDArray[np.bool_],
    inside_columns: NDArray[np.bool_],
    latitude: NDArray[np.float64],
    longitude: NDArray[np.float64],
    mask: NDArray[np.bool_ | np.uint8] | None = None,
    *,
    factor: int,
    domains: tuple[str, ...],
    regions: int,
    names: tuple[str, str],
) -> NDArray[np.int64]:
    observed = check_codes(observed, what=names[0], latitude=latitude, longitude=longitude)
    predicted = check_codes(predicted, what=names[1], latitude=latitude, longitude=longitude)
    inside = inside_rows[:, None] & inside_columns[None, :]
    labels = inside if mask is None else np.where(inside, mask, 0)
    counts = count_rows(observed, predicted, labels, latitude, factor=factor, domains=domains, regions=regions)
    return counts[:, None]


def _inside(part: slice, whole: slice, chunks: tuple[int, ...]) -> da.Array:
    """Say which rows or columns of the whole belong to the part."""
    places = np.arange(whole.start, whole.stop)
    return da.from_array((places >= part.start) & (places < part.stop), chunks=(chunks,))


def _whole_cells(part: slice, offset: int, factor: int) -> slice:
    """Return the part extended to edges of coarse cells, which are counted from 90 N and 180 W."""
    before = (part.start + offset) % factor
    after = -(part.stop + offset) % factor
    return slice(part.start - before, part.stop + after)
