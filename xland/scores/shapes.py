"""Shapes of countries and other regions, as geopandas has them, on the cells of a map."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import dask.array as da
import numpy as np
from numpy.typing import NDArray

from xland.arguments import unknown
from xland.errors import RegionError
from xland.geo.grid import Grid

_TILE = 1024  # cells along a side of what is rasterised at once, counted from 90 N and 180 W


def rasterise(shapes: Any, grid: Grid) -> da.Array:
    """Return the position of the shape that holds the centre of each cell, from 1, lazily; 0 where there is none.

    The last one counts where shapes overlap. Longitudes of the shapes may be counted from -180 or from 0. Tiles have
    their places on the globe, so that the answer does not depend on the part of it that the grid shows.
    """
    rows, columns = (_edges(first, size) for first, size in zip(grid.corner, grid.shape, strict=True))
    function = partial(_tile, shapes=list(enumerate(shapes, 1)), resolution=grid.resolution)
    return da.map_blocks(
        function,
        da.from_array(np.arange(grid.rows) + grid.corner[0], (rows,))[:, None],
        da.from_array(np.arange(grid.columns) + grid.corner[1], (columns,))[None, :],
        chunks=(rows, columns),
        dtype=np.uint32,
        meta=np.empty((0, 0), np.uint32),
    )


def _edges(first: int, size: int) -> tuple[int, ...]:
    """Chunks of cells that end where tiles do."""
    ends = np.unique([first, *range(-(-(first + 1) // _TILE) * _TILE, first + size, _TILE), first + size])
    return tuple(np.diff(ends).tolist())


def _tile(
    rows: NDArray[np.intp], columns: NDArray[np.intp], *, shapes: Sequence[tuple[int, Any]], resolution: float
) -> NDArray[np.uint32]:
    from rasterio import Affine
    from rasterio.features import rasterize

    top, left = rows[0, 0] // _TILE * _TILE, columns[0, 0] // _TILE * _TILE
    north, west = 90 - top * resolution, left * resolution - 180
    south, east = north - _TILE * resolution, west + _TILE * resolution
    found = np.zeros((_TILE, _TILE), np.uint32)
    for turn in (-360, 0, 360):
        near = [
            (shape, number)
            for number, shape in shapes
            if shape.bounds[0] < east + turn
            and shape.bounds[2] > west + turn
            and shape.bounds[1] < north
            and shape.bounds[3] > south
        ]
        if near:
            place = Affine(resolution, 0, west + turn, 0, -resolution, north)
            values = rasterize(near, found.shape, transform=place, dtype=np.uint32)
            found = np.where(values > 0, values, found)
    return found[rows[:, 0] - top][:, columns[0] - left]


def read_shapes(frame: Any, names: str | None) -> tuple[list[Any], tuple[str, ...], tuple[int, ...]]:
    """Return the shapes of a GeoDataFrame or GeoSeries in degrees, with their names and numbers.

    ``names`` is the column of names, by default the index. :class:`RegionError` for shapes that are not in degrees,
    are empty or have no name.
    """
    if getattr(frame, "crs", None) is not None:
        frame = frame.to_crs("EPSG:4326")
    shapes = list(frame.geometry)
    empty = sum(shape is None or shape.is_empty for shape in shapes)
    if empty or not shapes:
        raise RegionError(f"{empty} of {len(shapes)} shapes have no area; drop them, or read the file again")
    bounds = np.array([shape.bounds for shape in shapes])
    (west, south), (east, north) = bounds[:, :2].min(axis=0), bounds[:, 2:].max(axis=0)
    if south < -90.001 or north > 90.001 or west < -360 or east > 360:
        raise RegionError(
            f"the shapes lie from {west:g} to {east:g} and {south:g} to {north:g} and do not say their projection: "
            "they are not in degrees; set their crs (frame.set_crs)"
        )
    if names is not None and names not in getattr(frame, "columns", ()):
        raise RegionError(unknown("column of names", names, getattr(frame, "columns", ())))
    called = frame.index if names is None else frame[names]
    nameless = int(called.isna().sum())
    if nameless:
        raise RegionError(f"{nameless} of {len(shapes)} shapes have no name in {names!r}; name them, or drop them")
    whole = frame.index.dtype.kind in "iu" and frame.index.is_unique
    return shapes, tuple(map(str, called)), tuple(frame.index.tolist() if whole else range(1, 1 + len(shapes)))
