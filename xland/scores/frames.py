"""Bring maps onto the same cells and years, by label and without reading, and go over them block by block."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import dask.array as da
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from xland.errors import GridError, RegionError, TimeError, XlandError
from xland.geo.conventions import classes_along
from xland.geo.grid import Grid
from xland.geo.orientation import orient
from xland.reading.variables import ClassMap, Holds, as_map, read_values
from xland.vocabulary import CLASS_NAMES, check_codes

OFF_LATTICE = 0.05
"""Share of a cell by which two grids may be apart and still count as the same cells."""

_SMALLEST, _LARGEST = 512, 1536  # cells along a block: fewer cost tasks, more cost memory


class Block(NamedTuple):
    """Cells of a block: their latitudes and longitudes, the area of a cell of each row in m2, and which count."""

    latitude: NDArray[np.float64]
    longitude: NDArray[np.float64]
    area: NDArray[np.float64]
    counted: NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Cells:
    """The cells on which maps are compared: whole coarse cells around the smallest of the maps.

    ``frame`` has their grid; ``counted`` (rows, columns) is lazy, and true where all the maps have cells and the mask
    is true. Columns from ``width`` on only complete coarse cells, and are empty.
    """

    frame: ClassMap
    counted: da.Array
    width: int

    def layer(self, source: ClassMap, fill: float = 0, step: int = 0) -> da.Array:
        """Return a time step of a map on these cells; ``fill`` where it has none."""
        return place(source, self.frame, fill, step, self.width)

    def each_block(
        self, function: Callable[..., Any], maps: Sequence[tuple[ClassMap, int] | None], *layers: Any, **options: Any
    ) -> da.Array:
        """Call ``function(block, *codes, *layers, **options)`` for each :class:`Block` of whole coarse cells, lazily.

        ``maps`` are class maps with the time step to take; their codes are checked. ``layers`` are dask arrays. Either
        may contain None, which is passed on. The result is a (blocks, blocks) array of objects.
        """
        grid, (rows, columns) = self.frame.grid, self.counted.chunks
        arguments: list[Any] = [da.from_array(grid.latitude, (rows,)), "y", da.from_array(grid.longitude, (columns,))]
        arguments += ["x", da.from_array(grid.cell_area(), (rows,)), "y", self.counted, "yx"]
        placed = [None if each is None else self.layer(each[0], step=each[1]) for each in maps]
        for layer in (*placed, *layers):
            if layer is None:
                arguments += [None, None]
            else:
                arguments += [layer.rechunk({-2: rows, -1: columns}), "cyx"[-layer.ndim :]]
        names = ["" if each is None else each[0].what for each in maps]
        return da.blockwise(
            partial(_boxed, partial(function, **options), names),
            "yx",
            *arguments,
            adjust_chunks={"y": lambda _: 1, "x": lambda _: 1},
            concatenate=True,
            dtype=object,
            meta=np.empty((0, 0), object),
        )


def _boxed(function: Callable[..., Any], names: Sequence[str], *arrays: Any) -> NDArray[Any]:
    """Check the codes of a block and call the function; the result has the shape (1, 1)."""
    block, layers = Block(*arrays[:4]), list(arrays[4:])
    for position, (what, codes) in enumerate(zip(names, layers, strict=False)):
        if codes is not None:
            layers[position] = check_codes(codes, what=what, latitude=block.latitude, longitude=block.longitude)
    box = np.empty((1, 1), dtype=object)
    box[0, 0] = function(block, *layers)
    return box


def common_cells(
    maps: Sequence[ClassMap], observed: ClassMap, within: xr.DataArray | NDArray[np.bool_] | None, factor: int = 1
) -> Cells:
    """Return the cells that all maps have, ``within`` a mask that lies on the observed map or has coordinates.

    Raises :class:`GridError` for cells that do not coincide or a mask that is not one, and :class:`RegionError` where
    there is no common cell.
    """
    smallest = min(maps, key=lambda each: each.grid.rows * each.grid.columns)
    frame = replace(smallest, grid=whole_cells(smallest.grid, factor))
    around, width = _around(frame.grid), frame.grid.columns
    if around and around % factor:  # no coarse cell passes the date line
        width = min(width, around - frame.grid.corner[1] % around)
    rows, columns = np.ones(frame.grid.rows, bool), np.ones(frame.grid.columns, bool)
    for each in maps:
        pieces = overlaps(each, frame, width)
        rows &= np.isin(np.arange(rows.size), np.r_[*(piece.rows for piece in pieces)])
        columns &= np.isin(np.arange(columns.size), np.r_[*(piece.columns for piece in pieces)])
    if not (rows.any() and columns.any()):
        names = ", ".join(f"the {each.what} ({each.grid})" for each in maps)
        raise RegionError(f"{names} have no cell in common; check their regions")
    sizes = place(smallest, frame, 0, width=width).chunks[-2:]
    chunks = edges(sizes[0], factor), edges(sizes[1], factor)
    counted = da.from_array(rows, chunks[:1])[:, None] & da.from_array(columns, chunks[1:])[None, :]
    if within is not None:
        counted = counted & place(_mask(within, observed), frame, 0).rechunk(chunks)
    return Cells(frame, counted, width)


def whole_cells(grid: Grid, factor: int) -> Grid:
    """Return a grid extended to edges of coarse cells, which are counted from 90 N and 180 W.

    The last coarse cell before 180 E is cut if the factor does not divide the columns around the globe. A grid that
    passes the date line then becomes the whole circle from 180 W, so that it has the coarse cells of other grids.
    """
    if factor * grid.resolution > 180:
        raise GridError(f"factor {factor:g} gives coarse cells of more than 180 degrees: choose a smaller one")
    around, (row, column) = _around(grid), grid.corner
    up, left, columns = row % factor, column % factor, grid.columns
    if around and around % factor:
        offset = column % around
        left = offset % factor
        if offset + columns > around:
            left, columns = offset, around - offset
    return Grid(
        grid.resolution,
        grid.north + up * grid.resolution,
        grid.west - left * grid.resolution,
        -(-(up + grid.rows) // factor) * factor,
        -(-(left + columns) // factor) * factor,
    )


def _around(grid: Grid) -> int:
    """Return the columns around the globe; 0 if cells of this size do not close the circle."""
    columns = round(360 / grid.resolution)
    return columns if abs(360 / grid.resolution - columns) < OFF_LATTICE else 0


def _mask(within: xr.DataArray | NDArray[np.bool_], observed: ClassMap) -> ClassMap:
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
    return one_step(within, "mask `within`", holds="mask", error=GridError)


def one_step(
    obj: Any, what: str, year: int | None = None, *, holds: Holds = "classes", error: type[XlandError] = TimeError
) -> ClassMap:
    """Return one time step of a map: the only one, or that of a year; an ``error`` if there are several others."""
    found = as_map(obj, what=what, holds=holds)
    if len(found.years) == 1:
        return found
    if year is None or year not in found.years:
        span = "" if None in found.years else f", {found.years[0]} to {found.years[-1]}"
        asked = "select one" if year is None else f"{year} is not among them"
        raise error(f"the {what} has {len(found.years)} time steps{span}; {asked}")
    return as_map(found.data.isel(time=[found.years.index(year)]), what=what, holds=holds)


def class_dimension(data: xr.DataArray, what: str) -> str:
    """Return the dimension of an oriented array beside time, latitude and longitude; :class:`GridError` for others."""
    spare = [str(dim) for dim in data.dims if dim not in {"time", "lat", "lon"}]
    if len(spare) != 1:
        raise GridError(
            f"{what} has the dimensions {', '.join(map(str, data.dims))}: beside time, lat and lon it needs one of "
            "classes, and no other"
        )
    return spare[0]


def read_probability(probability: xr.DataArray, error: type[XlandError]) -> ClassMap:
    """Return probabilities as (time, class, lat, lon), lazily, with the classes in the order of the codes.

    Classes that have names may have another order; an ``error`` if they are not those of :mod:`xland.vocabulary`.
    """
    data, _ = orient(read_values(probability, what="probability", error=error), what="probability")
    dim = class_dimension(data, "probability")
    names, size = classes_along(data, dim) or CLASS_NAMES, data.sizes[dim]
    if size != len(CLASS_NAMES) or set(names) != set(CLASS_NAMES):
        raise error(
            f"the {size} classes of the probability along {dim!r} must be {', '.join(CLASS_NAMES)}, not "
            f"{', '.join(names[:10])}; rename them, or drop the coordinate {dim!r} where they are in this order"
        )
    if names != CLASS_NAMES:
        data = data.isel({dim: [names.index(name) for name in CLASS_NAMES]})
    if data.chunks is None:
        data = data.chunk({**dict.fromkeys(data.dims, "auto"), dim: -1})
    frame = as_map(data.isel({dim: 0}, drop=True), what="probability", holds="values")
    if "time" not in data.dims:
        data = data.drop_vars("time", errors="ignore").expand_dims("time")
    return replace(frame, data=data.transpose("time", dim, "lat", "lon"))


def as_dask(data: xr.DataArray) -> da.Array:
    """Return a map as a dask array; one in memory is cut into views."""
    if data.chunks is None:
        # a stored array is read along its own chunks
        stored = "preferred_chunks" in data.encoding
        data = data.chunk({} if stored else {"time": 1, "lat": _LARGEST, "lon": _LARGEST})
    array: da.Array = data.data
    return array


def place(source: ClassMap, frame: ClassMap, fill: float, step: int = 0, width: int | None = None) -> da.Array:
    """Return a time step of a map on the cells of a frame, lazily; ``fill`` where it has none, and from ``width`` on.

    Further dimensions between time and latitude are kept. Errors are those of :func:`overlaps`.
    """
    values = as_dask(source.data)[step]
    if values.dtype.kind in "iu" and not np.iinfo(values.dtype).min <= fill <= np.iinfo(values.dtype).max:
        values = values.astype(np.result_type(values.dtype, np.min_scalar_type(fill)))
    pieces = sorted(overlaps(source, frame, width), key=lambda piece: piece.columns.start)
    rows = pieces[0].rows

    def blank(columns: int) -> list[da.Array]:
        shape = (*values.shape[:-2], rows.stop - rows.start, columns)
        return [da.full(shape, fill, dtype=values.dtype, chunks=_LARGEST)] if columns else []

    strips, column = [], 0
    for piece in pieces:
        strips += [*blank(piece.columns.start - column), values[..., piece.source_rows, piece.source_columns]]
        column = piece.columns.stop
    strips += blank(frame.grid.columns - column)
    band = da.concatenate(strips, axis=-1) if len(strips) > 1 else strips[0]
    margins = [(0, 0)] * (values.ndim - 2) + [(rows.start, frame.grid.rows - rows.stop), (0, 0)]
    return da.pad(band, margins, constant_values=fill) if any(map(any, margins)) else band


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


def pair_years(predicted: ClassMap, observed: ClassMap, *, match_years: bool = True) -> list[tuple[int, int]]:
    """Return the positions in time, predicted and observed, of the years that both have.

    Two maps of one step each are also compared if one of them does not say its year, and those of different years
    unless ``match_years``. Raises :class:`TimeError` if no step of one belongs to a step of the other.
    """
    single = len(predicted.years) == len(observed.years) == 1
    unknown = None in predicted.years or None in observed.years
    if single and (unknown or not match_years):
        return [(0, 0)]
    if unknown:
        raise TimeError("maps of several time steps need calendar years along `time` to be compared")
    common = [year for year in predicted.years if year in observed.years]
    if not common:
        hint = "pass match_years=False to compare them all the same" if single else "select one step of each"
        raise TimeError(
            f"the {predicted.what} ({_span(predicted.years)}) and the {observed.what} ({_span(observed.years)}) "
            f"have no year in common; {hint}"
        )
    return [(predicted.years.index(year), observed.years.index(year)) for year in common]


def _span(years: Sequence[int | None]) -> str:
    return f"{years[0]}" if len(years) == 1 else f"{len(years)} years, {years[0]} to {years[-1]}"


class Overlap(NamedTuple):
    """The rows and columns of a frame and of a map that show the same places."""

    rows: slice
    columns: slice
    source_rows: slice
    source_columns: slice


def overlaps(source: ClassMap, frame: ClassMap, width: int | None = None) -> list[Overlap]:
    """Return where two maps have the same cells in the first ``width`` columns of the frame, at most once each.

    There is one piece, or several across the date line. Raises :class:`GridError` if the cells differ in size or do
    not coincide, and :class:`RegionError` if there is no common cell.
    """
    fine, reference = source.grid, frame.grid
    size = reference.resolution
    longest = max(*fine.shape, *reference.shape)
    if abs(fine.resolution / size - 1) * longest > OFF_LATTICE:
        raise GridError(
            f"the {source.what} has cells of {fine.resolution:g} degrees and the {frame.what} of {size:g}; "
            "aggregate or regrid one of them first"
        )
    down, right = (reference.north - fine.north) / size, (fine.west - reference.west) / size
    for offset, direction in ((down, "latitude"), (right, "longitude")):
        if abs(offset - round(offset)) > OFF_LATTICE:
            raise GridError(
                f"cells of the {source.what} lie {abs(offset - round(offset)):.2f} cells beside those of the "
                f"{frame.what} in {direction}; bring one onto the other's grid by nearest neighbour first"
            )
    down, right = round(down), round(right)
    around, width = _around(reference), reference.columns if width is None else width
    width = min(width, around) if around else width
    top, bottom = max(0, down), min(reference.rows, down + fine.rows)
    found = []
    for start in sorted({right - around, right, right + around}):
        left, end = max(0, start), min(width, start + fine.columns)
        if left < end and top < bottom:
            source_rows, source_columns = slice(top - down, bottom - down), slice(left - start, end - start)
            found.append(Overlap(slice(top, bottom), slice(left, end), source_rows, source_columns))
    if not found:
        raise RegionError(
            f"the {source.what} ({fine}) and the {frame.what} ({reference}) have no cell in common; "
            "check the region of both"
        )
    return found
