"""What a block reads, on whatever grid it lies: from files inside its task, or from chunks of dask arrays.

A file that was opened lazily is read inside the task, just the cells that are needed: nothing of
it is in the graph or stays in memory while other years need it again. A dask array is what its
owner made of it, so its chunks are dependencies of the task.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from xland.datasets import static_predictors
from xland.downscaling.windows import Layout, Span, pieces, placements, spans_of
from xland.errors import PriorError, StaticError
from xland.forcing.read import Forcing
from xland.geo.grid import Grid
from xland.geo.orientation import find_names, orient
from xland.geo.years import listed
from xland.models.inputs import MASKED, InputSpec
from xland.reading.variables import horizontal_dims, map_years, read_codes, read_static
from xland.vocabulary import check_codes

Key = tuple[Hashable, ...]
Chunks = Mapping[Key, NDArray[Any]]
EVERY = slice(None)


@dataclass(frozen=True, eq=False)
class FileField:
    """Two-dimensional variables that are not dask arrays, latitude first, read where they are needed.

    `rows` and `columns` say where each row and column of the grid is in the variables.
    """

    grid: Grid
    variables: tuple[xr.Variable, ...]
    rows: NDArray[np.intp]
    columns: NDArray[np.intp]

    def keys(self, rows: Span, columns: Span, year: int = 0) -> Iterator[Key]:  # noqa: ARG002
        """Nothing is in the graph."""
        return iter(())

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
    """Chunks of a dask array, by its name in the graph, whose last two axes lie on a grid.

    Its first axis counts years, or layers of all years in one chunk. `rows` and `columns` are the first cells of the
    chunks along the last two axes, and the number of cells; `tail` the chunk numbers between the year's and those.
    """

    grid: Grid
    name: str
    rows: tuple[int, ...]
    columns: tuple[int, ...]
    tail: tuple[int, ...] = ()

    @classmethod
    def over(cls, name: str, chunks: Sequence[tuple[int, ...]], grid: Grid) -> ChunkField:
        """Describe an array by its name in the graph and the sizes of its chunks along each axis."""
        rows, columns = ((0, *np.cumsum(sizes).tolist()) for sizes in chunks[-2:])
        return cls(grid, name, rows, columns, (0,) * (len(chunks) - 3))

    def keys(self, rows: Span, columns: Span, year: int = 0) -> Iterator[Key]:
        """Graph keys of the chunks that have these cells."""
        return ((self.name, year, *self.tail, i, j) for i, j in _numbers(self, rows, columns))

    def read(
        self, rows: slice, columns: slice, chunks: Chunks, year: int = 0, only: slice = EVERY
    ) -> Sequence[NDArray[Any]]:
        """Return layers, all or only some, at rows and columns of the grid, ``(rows, columns)`` each."""
        down, across = list(_overlaps(self.rows, rows)), list(_overlaps(self.columns, columns))
        found: Any = _joined(
            [[_layers(chunks[self.name, year, *self.tail, i, j])[only, r, c] for j, c in across] for i, r in down]
        )
        return found  # type: ignore[no-any-return]


Field = FileField | ChunkField


def read_codes_of(
    field: Field, rows: Span, columns: Span, chunks: Chunks, year: int = 0, *, classes: int | None
) -> NDArray[np.uint8]:
    """Read the class codes of some cells, 255 where the field has none; PriorError for unknown ones.

    ``classes`` is None for maps of our own, which need no check.
    """
    codes = np.full((len(rows), len(columns)), MASKED, dtype=np.uint8)
    for place in placements(field.grid, rows, columns):
        values = field.read(*place.source, chunks, year)[0]
        if classes is not None:
            latitude, longitude = field.grid.latitude[place.source[0]], field.grid.longitude[place.source[1]]
            values = check_codes(
                values,
                what="prior map",
                latitude=latitude,
                longitude=longitude,
                classes=classes,
                hidden=MASKED,
                error=PriorError,
            )
        codes[place.target] = values
    return codes


def coarse_field(
    forcing: Forcing, variables: Sequence[str], inputs: InputSpec, layout: Layout
) -> tuple[ChunkField, da.Array]:
    """Stack variables of the forcing, as far as the windows of a layout reach.

    The array is ``(years, variables, rows, columns)`` with one year a chunk; its chunks are
    :class:`WithoutSea`, to be read through the field only.
    """
    (top, *_), (left, *_) = layout.halos
    rows = Span(top.start, layout.halos[0][-1].stop).coarse(inputs.factor)
    columns = Span(left.start, layout.halos[1][-1].stop).coarse(inputs.factor)
    places = [place.source for place in placements(forcing.grid, rows, columns)]
    part = (places[0][0], places[0][1] if len(places) == 1 else slice(None))
    layers = [_dask(forcing.data[name])[:, *part] for name in variables]
    stacked = da.stack(layers, axis=1).rechunk({0: 1, 1: -1})
    packed = stacked.map_blocks(_without_sea, dtype=np.float32, meta=np.empty((0, 0, 0, 0), np.float32))
    return ChunkField.over(packed.name, packed.chunks, forcing.grid.window(*part)), packed


def static_field(static: xr.Dataset | None, target: Grid, inputs: InputSpec) -> tuple[Field, da.Array | None]:
    """Return the static fields that the model names, in the order of ``inputs.static_variables``.

    StaticError if a field is missing, or the grid does not nest in or cover the target.
    """
    if static is None:
        static = static_predictors(inputs.resolution, chunked=False)
    names = list(inputs.static_variables)
    static = read_static(static, names, inputs.domain)
    return _field([static[name] for name in names], "static predictors", target, StaticError, np.float32)


def prior_field(prior: xr.DataArray | xr.Dataset, target: Grid, year: int) -> tuple[Field, da.Array | None]:
    """Return the map of a year: what a rollout starts with, or what changes are applied to.

    PriorError if it is of other years, has fractions instead of codes, or does not nest in or cover the target.
    """
    codes = read_codes(prior, what="prior map", error=PriorError, empty=MASKED)
    years, names = map_years(codes, "prior map"), find_names(codes, "time", what="prior map")
    if None in years and len(years) > 1:
        raise PriorError(f"prior map has {len(years)} time steps that do not say their years; select one with isel")
    if None not in years and year not in years:
        there = listed([each for each in years if each is not None])
        raise PriorError(f"prior map is of {there}, but the first map needs the one of {year}")
    # a map that does not say its year is taken as it is
    chosen = codes if names is None else codes.isel({names.dimension: 0 if None in years else years.index(year)})
    return _field([chosen], "prior map", target, PriorError)


def _field(
    layers: list[xr.DataArray], what: str, target: Grid, error: type[StaticError | PriorError], dtype: Any = None
) -> tuple[Field, da.Array | None]:
    """Return layers as they are read inside a task, or stacked where they are dask arrays or (lon, lat)."""
    dims = horizontal_dims(layers[0], what)
    if any(layer.chunks is not None or layer.dims != dims for layer in layers):
        canonical, orientation = orient(
            xr.Dataset({f"{n}": layer.variable for n, layer in enumerate(layers)}, layers[0].coords), what=what
        )
        _check_cover(orientation.grid, target, what, error)
        stacked = da.stack([_dask(canonical[f"{n}"].transpose("lat", "lon")) for n in range(len(layers))])
        stacked = stacked.rechunk({0: -1}) if dtype is None else stacked.astype(dtype).rechunk({0: -1})
        return ChunkField.over(stacked.name, stacked.chunks, orientation.grid), stacked
    coords = {name: each for name, each in layers[0].coords.items() if set(each.dims) <= set(dims)}
    places = xr.Dataset({f"__{dim}": (dim, np.arange(layers[0].sizes[dim])) for dim in dims}, coords)
    canonical, orientation = orient(places, what=what)
    _check_cover(orientation.grid, target, what, error)
    rows, columns = (canonical[f"__{dim}"].values for dim in dims)
    return FileField(orientation.grid, tuple(layer.variable for layer in layers), rows, columns), None


def _check_cover(grid: Grid, target: Grid, what: str, error: type[StaticError | PriorError]) -> None:
    if abs(grid.resolution / target.resolution - 1) > 1e-4:
        raise error(
            f"{what}: cells of {grid.resolution:g} degree, but the model maps cells of {target.resolution:g} degree"
        )
    off = (abs(step / target.resolution % 1) for step in (grid.north - target.north, grid.west - target.west))
    if any(min(value, 1 - value) > 0.01 for value in off):
        raise error(f"{what}: the edges of its cells do not meet those of the forcing's grid ({target}): regrid it")
    rows, columns = pieces(grid, *spans_of(target))
    if not (rows.slices and columns.slices) or any((rows.before, rows.after, columns.before, columns.after)):
        raise error(f"{what} ({grid}) does not cover the region to be mapped ({target})")


def _dask(values: xr.DataArray) -> da.Array:
    # asking a lazily opened array for its data would read it
    return values.chunk().data if values.chunks is None else values.data


@lru_cache(maxsize=4096)
def _numbers(field: ChunkField, rows: Span, columns: Span) -> tuple[tuple[int, int], ...]:
    """Numbers of the chunks that have some cells: the same for all years."""
    return tuple(
        dict.fromkeys(
            (i, j)
            for place in placements(field.grid, rows, columns)
            for i, _ in _overlaps(field.rows, place.source[0])
            for j, _ in _overlaps(field.columns, place.source[1])
        )
    )


def _joined(parts: list[list[NDArray[Any]]]) -> NDArray[Any]:
    """Put parts side by side along the last two axes; a single one is not copied."""
    if len(parts) == 1 and len(parts[0]) == 1:
        return parts[0][0]
    return np.concatenate([np.concatenate(part, axis=-1) for part in parts], axis=-2)


@dataclass(frozen=True, eq=False)
class WithoutSea:
    """Layers of which only cells with data are kept: most of a globe is sea, which land fields say nothing about.

    `there` (rows, columns) says where at least one layer is not NaN; `values` (layers, cells) are those of these cells,
    row by row.
    """

    there: NDArray[np.bool_]
    values: NDArray[Any]

    def __getitem__(self, where: tuple[slice, slice, slice]) -> NDArray[Any]:
        """Return layers at rows and columns, ``(layers, rows, columns)``, NaN in cells without data."""
        only, rows, columns = where
        number = self.there.cumsum(dtype=np.int32).reshape(self.there.shape)[rows, columns] - 1
        inside, values = self.there[rows, columns], self.values[only]
        layers = np.full((len(values), *inside.shape), np.nan, dtype=values.dtype)
        layers[:, inside] = values[:, number[inside]]
        return layers


def _without_sea(chunk: NDArray[Any]) -> WithoutSea:
    """Keep the cells with data of a chunk, ``(..., rows, columns)``."""
    layers = _layers(chunk)
    there = ~np.isnan(layers).all(axis=0)
    return WithoutSea(there, layers[:, there])


def _layers(chunk: Any) -> Any:
    return chunk if isinstance(chunk, WithoutSea) else chunk.reshape(-1, *chunk.shape[-2:])


def _overlaps(bounds: tuple[int, ...], where: slice) -> Iterator[tuple[int, slice]]:
    """Chunks that a slice touches, and the slice within each."""
    first = bisect_right(bounds, where.start) - 1
    for number, (start, stop) in enumerate(pairwise(bounds[first:]), first):
        if start >= where.stop:
            return
        yield number, slice(max(where.start, start) - start, min(where.stop, stop) - start)


def _runs(positions: NDArray[np.intp]) -> list[slice]:
    """Slices with step 1 or -1 that visit positions in their order."""
    runs = []
    for part in np.split(positions, np.flatnonzero(np.abs(np.diff(positions)) != 1) + 1):
        first, last = int(part[0]), int(part[-1])
        runs.append(slice(first, last + 1) if last >= first else slice(first, last - 1 if last else None, -1))
    return runs
