"""Pyramids: the same maps on ever larger cells, for viewers that show the whole globe first.

A coarse cell of a class map has the most frequent class of all finest cells below it, of equally frequent ones that
with the lower code. A coarse cell of a share or another number has the area-weighted mean of those that are known.
Both are computed from the finest level, not from the level before: the mode of modes is not the mode.

Levels are groups of one Zarr store, described by three of the conventions on github.com/zarr-conventions, which
OpenLayers, rio-tiler and titiler read: ``multiscales``, ``spatial:`` and ``proj:``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import dask.array as da
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from xland.geo.conventions import CRS
from xland.geo.grid import Grid
from xland.geo.orientation import orient

SMALLEST = 256
"""Cells along the longer side of the coarsest level at most: what a viewer shows at once."""

CHUNK = 512
"""Cells along a chunk of each level: a tile of a map viewer needs few of them."""

_BLOCK = 2048  # cells along what is held in memory at a time
_CONVENTIONS = [
    {
        "uuid": uuid,
        "name": name,
        "schema_url": f"https://raw.githubusercontent.com/zarr-conventions/{place}/refs/tags/v1/schema.json",
        "spec_url": f"https://github.com/zarr-conventions/{place}/blob/v1/README.md",
        "description": text,
    }
    for uuid, name, place, text in (
        ("d35379db-88df-4056-af3a-620245f8e347", "multiscales", "multiscales", "Levels of resolution"),
        ("689b58e2-cf7b-45e0-9fff-9cfc0883d6b4", "spatial:", "spatial", "Place of the cells"),
        ("f17cb550-5864-4468-aeb7-f3180cfb622f", "proj:", "geo-proj", "Reference system"),
    )
]


class Level(NamedTuple):
    """One level: finest cells along one of its cells, and its grid, whose last cells may be covered in part."""

    factor: int
    grid: Grid


def is_class_map(array: xr.DataArray) -> bool:
    """Whether a variable has codes, of which no mean can be taken."""
    return array.dtype.kind in "iub" or "flag_values" in array.attrs


def levels_of(grid: Grid, smallest: int = SMALLEST) -> list[Level]:
    """Return the levels of a grid, the finest first.

    From one to the next cells grow by 2, 3 or 5, the smallest of these that divides rows and columns; by 2 if none
    does. Nothing is left out at the edges, and no cell has its centre beyond a pole.
    """
    found = [Level(1, grid)]
    while max(found[-1].grid.shape) > smallest:
        last = found[-1]
        step = next((each for each in (2, 3, 5) if not any(size % each for size in last.grid.shape)), 2)
        factor = last.factor * step
        rows, columns = (math.ceil(size / factor) for size in grid.shape)
        coarser = Grid(grid.resolution * factor, grid.north, grid.west, rows, columns)
        if coarser.latitude[-1] < -90:
            break
        found.append(Level(factor, coarser))
    return found


def mode(codes: NDArray[Any], factor: int) -> NDArray[Any]:
    """Most frequent code in blocks of cells along the last two axes; of equally frequent ones the lowest.

    Parameters
    ----------
    codes : (..., rows, columns) array
        NaN, in codes that are floats, does not count.
    factor : int
        Cells along a block; the last ones may have fewer.

    Returns
    -------
    (..., ceil(rows / factor), ceil(columns / factor)) array of the same type
        NaN where all codes of a block are.
    """
    rows, columns = (math.ceil(size / factor) for size in codes.shape[-2:])
    most = np.zeros((*codes.shape[:-2], rows, columns), np.int32)
    best = np.full(most.shape, np.nan if codes.dtype.kind == "f" else 0, codes.dtype)
    for code in np.unique(codes):  # in ascending order, and NaN, which equals nothing, at the end
        count = _sums(codes == code, factor, np.int32)
        best[count > most] = code
        most = np.maximum(most, count)
    return best


def mean(values: NDArray[Any], factor: int, area: NDArray[np.float64]) -> NDArray[np.float32]:
    """Area-weighted mean of what is known in blocks of cells along the last two axes.

    Parameters
    ----------
    values : (..., rows, columns) array
    factor : int
        Cells along a block; the last ones may have fewer.
    area : (..., rows, 1) array
        Area of a cell in each row.

    Returns
    -------
    (..., ceil(rows / factor), ceil(columns / factor)) array of float32
        NaN where nothing is known.
    """
    known = np.isfinite(values)
    total = _sums(known * area, factor, np.float64)
    summed = _sums(np.where(known, values, 0) * area, factor, np.float64)
    return np.divide(summed, total, out=np.full(total.shape, np.nan), where=total > 0).astype(np.float32)


def _sums(values: NDArray[Any], factor: int, dtype: Any) -> NDArray[Any]:
    """Sum of each block of cells along the last two axes."""
    rows, columns = (np.arange(0, size, factor) for size in values.shape[-2:])
    along = np.add.reduceat(values, rows, axis=-2, dtype=dtype)
    return np.asarray(np.add.reduceat(along, columns, axis=-1, dtype=dtype))


def make_levels(ds: xr.Dataset, smallest: int = SMALLEST) -> tuple[list[Level], list[xr.Dataset]]:
    """Return the levels, and the Dataset on each of them, lazily: north up, its dimensions called time, lat, lon."""
    ds, orientation = orient(ds, what="maps")
    grid, levels = orientation.grid, levels_of(orientation.grid, smallest)
    across = levels[-1].factor * max(1, _BLOCK // levels[-1].factor)
    ds = ds.chunk({dim: across if dim in ("lat", "lon") else 1 if dim == "time" else -1 for dim in ds.dims})
    maps = [name for name in ds.data_vars if {"lat", "lon"} <= set(ds[name].dims)]
    others = ds.drop_vars([name for name in ds.variables if {"lat", "lon"} & set(ds[name].dims)])
    made = []
    for level in levels:
        place = {"lat": ("lat", level.grid.latitude), "lon": ("lon", level.grid.longitude)}
        coarse = others.assign_coords({dim: (*each, ds[dim].attrs) for dim, each in place.items()})
        coarse = coarse.assign({name: _coarsened(ds[name], level.factor, grid.cell_area()) for name in maps})
        said = attributes_of([level])
        made.append(coarse.drop_attrs(deep=False).assign_attrs(said).chunk({"lat": CHUNK, "lon": CHUNK}))
    return levels, made


def _coarsened(array: xr.DataArray, factor: int, area: NDArray[np.float64]) -> xr.Variable:
    """Return a map (..., lat, lon) on larger cells, in chunks of whole ones."""
    array = array.transpose(..., "lat", "lon")
    if factor == 1:
        return array.variable
    data, leading = array.data, array.ndim - 2
    chunks = (*data.chunks[:-2], *(tuple(math.ceil(size / factor) for size in each) for each in data.chunks[-2:]))
    if is_class_map(array):
        data = da.map_blocks(partial(mode, factor=factor), data, chunks=chunks, dtype=data.dtype)
    else:
        weights = da.from_array(area.reshape(*(1,) * leading, -1, 1), chunks=(*(1,) * leading, data.chunks[-2], 1))
        data = da.map_blocks(_mean_of, data, weights, factor=factor, chunks=chunks, dtype=np.float32)
    return xr.Variable(array.dims, data, array.attrs, array.encoding)


def _mean_of(values: NDArray[Any], area: NDArray[np.float64], factor: int) -> NDArray[np.float32]:
    return mean(values, factor, area)


def attributes_of(levels: Sequence[Level]) -> dict[str, Any]:
    """Return what a group of several levels says of them, or the group of one level of itself."""
    first = levels[0].grid
    said: dict[str, Any] = {
        "zarr_conventions": _CONVENTIONS[1:],
        "proj:code": CRS,
        "spatial:dimensions": ["lat", "lon"],
        "spatial:bbox": [first.west, first.south, first.east, first.north],
        "spatial:transform": _transform(first),
        "spatial:shape": list(first.shape),
    }
    if len(levels) == 1:
        return said
    layout: list[dict[str, Any]] = []
    for number, (factor, grid) in enumerate(levels):
        # the centre of a cell lies in the middle of the finest cells below it
        relative = {"scale": [float(factor)] * 2, "translation": [(factor - 1) / 2] * 2}
        place = {"spatial:transform": _transform(grid), "spatial:shape": list(grid.shape)}
        layout.append(
            {"asset": str(number), "transform": relative, **({"derived_from": "0"} if number else {}), **place}
        )
    scales = {"layout": layout, "resampling_method": "mode of classes, area-weighted mean of other variables"}
    return {**said, "zarr_conventions": _CONVENTIONS, "multiscales": scales}


def _transform(grid: Grid) -> list[float]:
    """Return the affine transform from columns and rows to degrees."""
    return [grid.resolution, 0.0, grid.west, 0.0, -grid.resolution, grid.north]
