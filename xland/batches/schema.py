"""Patches of a user's own xbatcher generator, found from its schema: nothing is read."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from functools import cache
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from xland.batches.patches import Patches
from xland.coordinates import Names, find_names
from xland.errors import GridError
from xland.grid import Grid
from xland.orientation import orient

_WHAT = "the generator's data"
_OFF = 1e-2
"""Share of a cell by which cells may be off the grid."""


def patches_from(generator: Any, grid: Grid, factor: int) -> Patches:
    """Return the patches of an xbatcher ``BatchGenerator`` over fields on a fine grid.

    Each of its batches is one patch, whatever the names, order and range of latitude and longitude.
    What it does with other dimensions does not matter: a patch that comes again for each year is one
    patch. No value is read and no batch is loaded.

    Parameters
    ----------
    generator : xbatcher.BatchGenerator
        Over a Dataset or DataArray on the grid or a part of it.
    grid : Grid
        Fine grid of the samples.
    factor : int
        Fine cells along a coarse cell.

    Returns
    -------
    Patches
        In the generator's order.

    Raises
    ------
    GridError
        If it is no such generator, its cells are not those of the grid, or batches are not single
        squares of contiguous cells that begin at coarse cells; the message says which, where and how many.
    """
    import xbatcher

    if not isinstance(generator, xbatcher.BatchGenerator):
        raise GridError(f"patches come from an xbatcher.BatchGenerator, not from {type(generator).__name__}")
    latitude, longitude = _names(generator.ds, "latitude"), _names(generator.ds, "longitude")
    rows, columns = _lay_on(generator.ds, latitude, longitude, grid)
    corners, size = _corners(generator, latitude.dimension, longitude.dimension, rows, columns)
    outside = (corners < 0).any(axis=1)
    if outside.any():
        raise GridError(
            f"{outside.sum()} of {len(corners)} patches of the generator reach beyond the grid of the samples "
            f"({grid}) or are torn apart by its eastern edge: select the part that both share"
        )
    within = (corners % factor != 0).any(axis=1)
    if within.any():
        row, column = corners[within][0].tolist()
        raise GridError(
            f"{within.sum()} of {len(corners)} patches of the generator begin within a coarse cell, the first at row "
            f"{row} and column {column} from the north-west: input_dims less input_overlap must be a multiple of the "
            f"factor {factor}, and so must the place where its data begin"
        )
    return Patches(corners[:, 0], corners[:, 1], size)


def _names(ds: xr.Dataset | xr.DataArray, kind: str) -> Names:
    found = find_names(ds, kind, what=_WHAT)
    if found is None or found.coordinate is None:  # for mypy: find_names raises for these two
        raise GridError(f"{_WHAT}: no {kind} found")
    return found


def _lay_on(
    ds: xr.Dataset | xr.DataArray, latitude: Names, longitude: Names, grid: Grid
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Row and column of the grid for each of the caller's labels; -1 outside of the grid."""
    numbers = {
        "row": (latitude.dimension, np.arange(ds.sizes[latitude.dimension])),
        "column": (longitude.dimension, np.arange(ds.sizes[longitude.dimension])),
    }
    labels = {each.coordinate: ds[each.coordinate].variable for each in (latitude, longitude)}
    oriented, orientation = orient(xr.Dataset(numbers, coords=labels), what=_WHAT)
    own = orientation.grid
    down, right = (grid.north - own.north) / grid.resolution, (own.west - grid.west) % 360 / grid.resolution
    longest = max(own.shape) * abs(own.resolution / grid.resolution - 1)
    if max(abs(down - round(down)), abs(right - round(right)), longest) > _OFF:
        raise GridError(
            f"{_WHAT} ({own}) are not on the grid of the samples ({grid}): make the generator of the target or of "
            "static predictors"
        )
    rows = np.arange(own.rows) + round(down)
    columns = (np.arange(own.columns) + round(right)) % round(360 / grid.resolution)
    placed = []
    for name, there, count in (("row", rows, grid.rows), ("column", columns, grid.columns)):
        found = np.empty(there.size, dtype=np.intp)
        found[oriented[name].values] = np.where((there >= 0) & (there < count), there, -1)
        placed.append(found)
    return placed[0], placed[1]


def _corners(
    generator: Any, latitude: Hashable, longitude: Hashable, rows: NDArray[np.intp], columns: NDArray[np.intp]
) -> tuple[NDArray[np.intp], int]:
    """First row and column of each patch, ``(patches, 2)``, -1 where a patch is not whole on the grid; and its size."""

    @cache
    def first(along: Hashable, start: int, stop: int) -> int:
        there = np.sort((rows if along == latitude else columns)[start:stop])
        return int(there[0]) if (np.diff(there) == 1).all() else -1

    found: dict[tuple[int, int], tuple[int, int]] = {}
    sizes = set()
    for cut in _cuts(generator):
        down = slice(*cut.get(latitude, slice(None)).indices(rows.size))
        right = slice(*cut.get(longitude, slice(None)).indices(columns.size))
        sizes.add((down.stop - down.start, right.stop - right.start))
        place = first(latitude, down.start, down.stop), first(longitude, right.start, right.stop)
        found.setdefault((down.start, right.start), place)
    ((height, width), *more) = sorted(sizes)
    if more or height != width:
        raise GridError(
            f"batches of the generator are {height} x {width} cells: patches are squares; give latitude and longitude "
            "the same size in input_dims"
        )
    return np.array(list(found.values()), dtype=np.intp), height


def _cuts(generator: Any) -> Iterator[Mapping[Hashable, slice]]:
    """Slices of each batch."""
    import xbatcher

    schema = xbatcher.BatchSchema(
        generator.ds, generator.input_dims, generator.input_overlap, generator.batch_dims, generator.concat_input_dims
    )
    for cuts in schema.selectors.values():
        if len(cuts) != 1:
            raise GridError(
                f"a batch of the generator is made of {len(cuts)} pieces: make it without concat_input_dims, so that "
                "each batch is one patch"
            )
        yield cuts[0]
