"""Where a block's values are: the lattice of windows, the blocks of a target grid, and the fields that blocks read.

Windows are anchored to the globe, not to blocks. A span of cells along an axis of that lattice is a ``range``: rows
count from 90 N, columns from 180 W, and it may reach over the edge.

A file that was opened lazily is read inside the task, just the cells that are needed: nothing of it is in the graph
or stays in memory while other years need it again. A dask array is what its owner made of it, so its chunks are
dependencies of the task.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from numbers import Integral
from typing import Any, NamedTuple

import dask.array as da
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from xland.errors import GridError, PriorError, XlandError
from xland.forcing.read import Forcing
from xland.geo.conventions import listed
from xland.geo.grid import Grid
from xland.geo.orientation import find_horizontal, find_names, orient
from xland.models.inputs import MASKED, InputSpec
from xland.reading.variables import map_years, read_codes
from xland.vocabulary import check_codes

Key = tuple[Hashable, ...]
Chunks = Mapping[Key, NDArray[Any]]
EVERY = slice(None)

_BLOCK = 1800
"""Least cells along a default block of a large grid."""

TWICE = 0.15
"""Most windows that default blocks may compute more than once, as a share of all that are needed."""


def coarse_spans(rows: range, columns: range, factor: int) -> tuple[range, range]:
    """Return the coarse cells that have these rows and columns."""
    low, across = (range(span.start // factor, -(-span.stop // factor)) for span in (rows, columns))
    return low, across


def spans_of(grid: Grid) -> tuple[range, range]:
    """Rows and columns of a grid on the world's lattice."""
    top, left = grid.corner
    return range(top, top + grid.rows), range(left, left + grid.columns)


def halo(block: range, size: int, stride: int) -> range:
    """Return the cells that are read by all windows that touch a block, along one axis."""
    return range(((block.start - size) // stride + 1) * stride, (block.stop - 1) // stride * stride + size)


@lru_cache(maxsize=8)
def blend_weights(size: int, stride: int) -> NDArray[np.float32]:
    """Weight of each pixel of a window, ``(size, size)``: those of all windows over a pixel sum to 1.

    They are Gaussian, with a standard deviation of 1/8 of the window and at least 0.001 of the middle's weight, as in
    nnU-Net and MONAI. The lattice is regular, so their sum depends on nothing but the pixel's place in the window.
    """
    line = np.exp(-0.5 * ((np.arange(size) - (size - 1) / 2) / (size / 8)) ** 2)
    weights = np.maximum(np.outer(line, line), 1e-3).astype(np.float32).astype(np.float64)
    share = -(-size // stride)
    padded = np.zeros((share * stride, share * stride))
    padded[:size, :size] = weights
    total = padded.reshape(share, stride, share, stride).sum(axis=(0, 2))
    weights = (weights / np.tile(total, (share, share))[:size, :size]).astype(np.float32)
    weights.flags.writeable = False
    return weights


class Placement(NamedTuple):
    """Some cells of a span, and where they are in an array on a grid: rows and columns of each."""

    target: tuple[slice, slice]
    source: tuple[slice, slice]


def placements(grid: Grid, rows: range, columns: range, height: int = 0) -> list[Placement]:
    """Where the cells of a span of rows and columns are in an array on a grid, as far as it has them.

    A span may go round the globe, and meet both ends of an array that is almost global. With `height`, placements are
    cut into strips that end at multiples of so many rows of the array.
    """
    row, column = grid.corner
    top, first = rows.start - row, columns.start - column
    start, stop, height = max(top, 0), min(top + len(rows), grid.rows), height or grid.rows
    around, found = round(360 / grid.resolution), []
    for turn in range(first // around * around, first + len(columns), around):
        across = slice(max(first - turn, 0), min(first + len(columns) - turn, grid.columns))
        left = across.start + turn - first
        if start < stop and across.start < across.stop:
            for edge in range(start // height * height, stop, height):
                down = slice(max(edge, start), min(edge + height, stop))
                target = slice(down.start - top, down.stop - top), slice(left, left + across.stop - across.start)
                found.append(Placement(target, (down, across)))
    return found


def crop(array: da.Array, grid: Grid, target: Grid) -> da.Array:
    """Return the cells of a target grid, lazily; the last two axes of the array are rows and columns of ``grid``."""
    if grid == target:
        return array
    parts = [array[(..., *place.source)] for place in placements(grid, *spans_of(target))]
    return parts[0] if len(parts) == 1 else da.concatenate(parts, axis=-1)


@dataclass(frozen=True)
class Block:
    """A block of the output and the cells that its windows read, all on the world's lattice."""

    rows: range
    columns: range
    size: int
    stride: int

    @cached_property
    def halo(self) -> tuple[range, range]:
        """Rows and columns that the windows read."""
        return halo(self.rows, self.size, self.stride), halo(self.columns, self.size, self.stride)

    @property
    def windows(self) -> tuple[list[int], list[int]]:
        """First rows and first columns of the windows, counted from the corner of the halo."""
        rows, columns = (list(range(0, len(side) - self.size + 1, self.stride)) for side in self.halo)
        return rows, columns

    @property
    def count(self) -> int:
        """Number of windows, on land or not."""
        rows, columns = ((len(side) - self.size) // self.stride + 1 for side in self.halo)
        return rows * columns

    @property
    def core(self) -> tuple[slice, slice]:
        """Rows and columns of the block within its halo."""
        (top, left), rows, columns = (side.start for side in self.halo), self.rows, self.columns
        return slice(rows.start - top, rows.stop - top), slice(columns.start - left, columns.stop - left)


@dataclass(frozen=True)
class Layout:
    """How the target grid is cut into blocks: the rows and columns of each, and those that its windows read."""

    grid: Grid
    rows: tuple[range, ...]
    columns: tuple[range, ...]
    halos: tuple[tuple[range, ...], ...]
    size: int
    stride: int

    @classmethod
    def cut(cls, grid: Grid, inputs: InputSpec, chunks: int | None = None) -> Layout:
        """Cut a grid into blocks of ``chunks`` cells, a multiple of the model's factor; else GridError.

        By default the blocks are even, at least 1800 cells wide where the grid is, and so large
        that no more than :data:`TWICE` of the windows are computed more than once.
        """
        if chunks is not None and (not isinstance(chunks, Integral) or chunks < 1 or chunks % inputs.factor):
            raise GridError(f"chunks must be a multiple of the model's factor {inputs.factor}, not {chunks!r}")
        size, stride = inputs.window, inputs.stride
        strides = max(-(-_BLOCK // stride), 15)
        while True:
            most = strides * stride
            spans = []
            for whole in spans_of(grid):
                # the fewest blocks of at most so many cells, in whole strides
                step = int(chunks or -(-len(whole) // -(-len(whole) // most) // stride) * stride)
                spans.append(tuple(range(start, min(start + step, whole.stop)) for start in whole[::step]))
            halos = tuple(tuple(halo(each, size, stride) for each in along) for along in spans)
            layout = cls(grid, spans[0], spans[1], halos, size, stride)
            if chunks is not None or most >= max(grid.rows, grid.columns) or layout.windows[1] <= TWICE:
                return layout
            strides += 1

    @property
    def windows(self) -> tuple[int, float]:
        """Number of windows that touch the grid, on land or not, and the share that blocks compute again."""
        rows, columns = (
            [(len(each) - self.size) // self.stride + 1 for each in (range(along[0].start, along[-1].stop), *along)]
            for along in self.halos
        )
        once = rows[0] * (self.grid.columns // self.stride if self.grid.is_global else columns[0])
        return once, sum(rows[1:]) * sum(columns[1:]) / once - 1

    def block(self, row: int, column: int) -> Block:
        """Return one block."""
        return Block(self.rows[row], self.columns[column], self.size, self.stride)


@dataclass(frozen=True, eq=False)
class FileField:
    """Two-dimensional variables that are not dask arrays, latitude first, read where they are needed.

    `rows` and `columns` say where each row and column of the grid is in the variables.
    """

    grid: Grid
    variables: tuple[xr.Variable, ...]
    rows: NDArray[np.intp]
    columns: NDArray[np.intp]

    def read(
        self,
        rows: slice,
        columns: slice,
        chunks: Chunks,  # noqa: ARG002
        year: int = 0,  # noqa: ARG002
        only: slice = EVERY,
    ) -> Sequence[NDArray[Any]]:
        """Return layers, all or only some, at rows and columns of the grid, ``(rows, columns)`` each."""
        down, across = _runs(self.rows[rows]), _runs(self.columns[columns])
        return [
            _joined([[np.asarray(each[r, c].values) for c in across] for r in down]) for each in self.variables[only]
        ]


@dataclass(frozen=True)
class ChunkField:
    """Chunks of a dask array, by its name in the graph and their sizes along each axis.

    The last two axes lie on a grid. The first counts years, or layers of all years in one chunk; others are in one.
    """

    grid: Grid
    name: str
    chunks: tuple[tuple[int, ...], ...]

    def keys(self, rows: range, columns: range, year: int = 0) -> Iterator[Key]:
        """Graph keys of the chunks that have these cells."""
        first = (self.name, year, *(0,) * (len(self.chunks) - 3))
        return ((*first, *numbers) for numbers in _numbers(self.grid, *self.chunks[-2:], rows, columns))

    def read(
        self, rows: slice, columns: slice, chunks: Chunks, year: int = 0, only: slice = EVERY
    ) -> Sequence[NDArray[Any]]:
        """Return layers, all or only some, at rows and columns of the grid, ``(rows, columns)`` each."""
        first = (self.name, year, *(0,) * (len(self.chunks) - 3))
        down, across = list(_overlaps(self.chunks[-2], rows)), list(_overlaps(self.chunks[-1], columns))
        found: Any = _joined([[_layers(chunks[*first, i, j])[only, r, c] for j, c in across] for i, r in down])
        return found  # type: ignore[no-any-return]


Field = FileField | ChunkField


def read_codes_of(
    field: Field, rows: range, columns: range, chunks: Chunks, year: int = 0, *, classes: int | None
) -> NDArray[np.uint8]:
    """Read the class codes of some cells, 255 where the field has none; PriorError for unknown ones.

    ``classes`` is None for maps of our own, which need no check.
    """
    codes = np.full((len(rows), len(columns)), MASKED, dtype=np.uint8)
    for target, source in placements(field.grid, rows, columns):
        values = field.read(*source, chunks, year)[0]
        if classes is not None:
            values = check_codes(
                values,
                what="prior map",
                latitude=field.grid.latitude[source[0]],
                longitude=field.grid.longitude[source[1]],
                classes=classes,
                hidden=MASKED,
                error=PriorError,
            )
        codes[target] = values
    return codes


def coarse_field(
    forcing: Forcing, variables: Sequence[str], inputs: InputSpec, layout: Layout
) -> tuple[ChunkField, da.Array]:
    """Stack variables of the forcing, as far as the windows of a layout reach.

    The array is ``(years, variables, rows, columns)`` with one year a chunk; its chunks are
    :class:`WithoutSea`, to be read through the field only.
    """
    rows, columns = (range(side[0].start, side[-1].stop) for side in layout.halos)
    rows, columns = coarse_spans(rows, columns, inputs.factor)
    sources = [place.source for place in placements(forcing.grid, rows, columns)]
    part = (sources[0][0], sources[0][1] if len(sources) == 1 else slice(None))
    # asking a lazily opened array for its data would read it; chunks of others stay as they are
    layers = [forcing.data[name].chunk().data[:, *part] for name in variables]
    stacked = da.stack(layers, axis=1).rechunk({0: 1, 1: -1})
    packed = stacked.map_blocks(WithoutSea, dtype=np.float32, meta=np.empty((0, 0, 0, 0), np.float32))
    return ChunkField(forcing.grid.window(*part), packed.name, packed.chunks), packed


def prior_fields(
    prior: xr.DataArray | xr.Dataset, target: Grid, year: int, beyond: int = 0
) -> dict[int, tuple[Field, da.Array | None]]:
    """Return the map of a year: what a rollout starts with, or what changes are applied to.

    Also returned are those of up to ``beyond`` years after it (before it, where negative) that are there.
    PriorError if it is of other years, has fractions instead of codes, or does not nest in or cover the target.
    """
    codes = read_codes(prior, what="prior map", error=PriorError, empty=MASKED)
    years, names = map_years(codes, "prior map"), find_names(codes, "time", what="prior map")
    if None in years and len(years) > 1:
        raise PriorError(f"prior map has {len(years)} time steps that do not say their years; select one with isel")
    if None not in years and year not in years:
        there = listed([each for each in years if each is not None])
        raise PriorError(f"prior map is of {there}, but the first map needs the one of {year}")
    if names is None or None in years:  # a map that does not say its year is taken as it is
        chosen = codes if names is None else codes.isel({names.dimension: 0})
        return {year: field_of([chosen], "prior map", target, PriorError)}
    wanted = range(year, year + beyond + 1) if beyond >= 0 else range(year, year + beyond - 1, -1)
    return {
        each: field_of([codes.isel({names.dimension: years.index(each)})], "prior map", target, PriorError)
        for each in wanted
        if each in years
    }


def field_of(
    layers: Sequence[xr.DataArray], what: str, target: Grid, error: type[XlandError], dtype: Any = None
) -> tuple[Field, da.Array | None]:
    """Return layers as they are read inside a task, or stacked where they are dask arrays or (lon, lat).

    The error given, if their grid does not nest in or cover the target.
    """
    latitude, longitude = find_horizontal(layers[0], what=what)
    dims = latitude.dimension, longitude.dimension
    lazy = any(layer.chunks is not None or layer.dims != dims for layer in layers)
    if lazy:
        given = xr.Dataset({f"{n}": layer.variable for n, layer in enumerate(layers)}, layers[0].coords)
    else:
        coords = {name: each for name, each in layers[0].coords.items() if set(each.dims) <= set(dims)}
        given = xr.Dataset({f"__{dim}": (dim, np.arange(layers[0].sizes[dim])) for dim in dims}, coords)
    canonical, orientation = orient(given, what=what)
    grid = orientation.grid
    if abs(grid.resolution / target.resolution - 1) > 1e-4:
        raise error(
            f"{what}: cells of {grid.resolution:g} degree, but the model maps cells of {target.resolution:g} degree"
        )
    off = (abs(step / target.resolution % 1) for step in (grid.north - target.north, grid.west - target.west))
    if any(min(value, 1 - value) > 0.01 for value in off):
        raise error(f"{what}: the edges of its cells do not meet those of the forcing's grid ({target}): regrid it")
    covered = [place.source for place in placements(grid, *spans_of(target))]
    cells = sum((rows.stop - rows.start) * (columns.stop - columns.start) for rows, columns in covered)
    if cells < target.rows * target.columns:
        raise error(f"{what} ({grid}) does not cover the region to be mapped ({target})")
    if not lazy:
        rows, columns = (canonical[f"__{dim}"].values for dim in dims)
        return FileField(grid, tuple(layer.variable for layer in layers), rows, columns), None
    stacked = da.stack([canonical[f"{n}"].transpose("lat", "lon").chunk().data for n in range(len(layers))])
    stacked = stacked.astype(dtype or stacked.dtype).rechunk({0: -1})
    return ChunkField(grid, stacked.name, stacked.chunks), stacked


@lru_cache(maxsize=4096)
def _numbers(
    grid: Grid, heights: tuple[int, ...], widths: tuple[int, ...], rows: range, columns: range
) -> tuple[tuple[int, int], ...]:
    """Numbers of the chunks that have some cells, each once: the same for all years."""
    found = {}
    for _, (down, across) in placements(grid, rows, columns):
        found.update(dict.fromkeys((i, j) for i, _ in _overlaps(heights, down) for j, _ in _overlaps(widths, across)))
    return tuple(found)


def _joined(parts: list[list[NDArray[Any]]]) -> NDArray[Any]:
    """Put parts side by side along the last two axes; a single one is not copied."""
    if len(parts) == 1 and len(parts[0]) == 1:
        return parts[0][0]
    return np.concatenate([np.concatenate(part, axis=-1) for part in parts], axis=-2)


class WithoutSea:
    """A chunk of which only cells with data are kept: most of a globe is sea, which land fields say nothing about.

    `there` (rows, columns) says where at least one layer is not NaN; `values` (layers, cells) are those of these cells,
    row by row.
    """

    def __init__(self, chunk: NDArray[Any]) -> None:
        layers = chunk.reshape(-1, *chunk.shape[-2:])
        self.there = ~np.isnan(layers).all(axis=0)
        self.values = layers[:, self.there]

    def __getitem__(self, where: tuple[slice, slice, slice]) -> NDArray[Any]:
        """Return layers at rows and columns, ``(layers, rows, columns)``, NaN in cells without data."""
        only, rows, columns = where
        number = self.there.cumsum(dtype=np.int32).reshape(self.there.shape)[rows, columns] - 1
        inside, values = self.there[rows, columns], self.values[only]
        layers = np.full((len(values), *inside.shape), np.nan, dtype=values.dtype)
        layers[:, inside] = values[:, number[inside]]
        return layers


def _layers(chunk: Any) -> Any:
    return chunk if isinstance(chunk, WithoutSea) else chunk.reshape(-1, *chunk.shape[-2:])


def _overlaps(sizes: tuple[int, ...], where: slice) -> Iterator[tuple[int, slice]]:
    """Numbers of the chunks that a slice touches, and the slice within each."""
    stop = 0
    for number, size in enumerate(sizes):
        start, stop = stop, stop + size
        if start < where.stop and stop > where.start:
            yield number, slice(max(where.start, start) - start, min(where.stop, stop) - start)


def _runs(positions: NDArray[np.intp]) -> list[slice]:
    """Slices with step 1 or -1 that visit positions in their order."""
    runs = []
    for part in np.split(positions, np.flatnonzero(np.abs(np.diff(positions)) != 1) + 1):
        first, last = int(part[0]), int(part[-1])
        runs.append(slice(first, last + 1) if last >= first else slice(first, last - 1 if last else None, -1))
    return runs
