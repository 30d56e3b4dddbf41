"""What a downscaling reads: the years, the target grid, and each input as a lazy array on its grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr

from xland.datasets import static_predictors
from xland.downscaling.fields import ChunkField, Field, FileField, WithoutSea
from xland.downscaling.windows import Layout, Span, pieces, placements
from xland.errors import GridError, PriorError, RegionError, StaticError, TimeError
from xland.forcing.read import Forcing, require_years
from xland.geo.grid import Grid
from xland.geo.orientation import find_names, orient
from xland.geo.years import listed
from xland.models.inputs import MASKED, InputSpec
from xland.reading.variables import horizontal_dims, map_of, map_years, read_codes, read_static

Region = tuple[float, float, float, float]


def choose_years(
    forcing: Forcing, years: int | Sequence[int] | slice | None, steps: tuple[int, ...]
) -> tuple[int, ...]:
    """Return the years to map; without a wish, all whose steps the forcing holds.

    Raises
    ------
    TimeError
        If the years are not whole numbers, the forcing lacks one that is needed, or none is left.
    """
    there = set(forcing.years)
    if years is None or isinstance(years, slice):
        first, last = _bounds(years)
        chosen = [
            year for year in forcing.years if first <= year <= last and all(year + step in there for step in steps)
        ]
    else:
        chosen = sorted(set(_whole_years(years)))
        require_years(forcing, [year + step for year in chosen for step in steps])
    if not chosen:
        needed = ", ".join(f"{step:+d}" for step in steps if step)
        raise TimeError(
            f"no year to map: the forcing holds {listed(forcing.years)}"
            + (f", and each map needs the years {needed} relative to it, too" if needed else "")
        )
    return tuple(chosen)


def _bounds(years: slice | None) -> tuple[float, float]:
    if years is None:
        return -np.inf, np.inf
    if years.step is not None:
        raise TimeError(f"years={years}: a step is not understood here; give the years as a list")
    first = -np.inf if years.start is None else _whole_years(years.start)[0]
    last = np.inf if years.stop is None else _whole_years(years.stop)[0]
    return first, last


def _whole_years(years: Any) -> list[int]:
    values = np.atleast_1d(np.asarray(None if isinstance(years, xr.Dataset) else years))
    if values.dtype.kind not in "iu" or values.ndim != 1:
        raise TimeError(f"years={years!r}: give calendar years as whole numbers, such as 2015 or [2014, 2015]")
    return [int(value) for value in values]


def target_grid(grid: Grid, region: Region | None, factor: int) -> Grid:
    """Return the fine grid of the result: whole coarse cells that touch the region.

    Raises
    ------
    RegionError
        If the region is upside down, larger than the globe, or holds no cell.
    """
    if region is None:
        return grid
    try:
        west, south, east, north = map(float, region)
    except (TypeError, ValueError):
        raise RegionError(f"region={region!r}: give four numbers, west, south, east and north in degrees") from None
    if not np.isfinite([west, south, east, north]).all():
        raise RegionError(f"region={region!r}: all four must be finite numbers of degrees")
    if not (-90 <= south < north <= 90):
        raise RegionError(f"region: south {south:g} must be less than north {north:g}, both within -90 to 90")
    if east == west:
        raise RegionError(f"region: west and east are both {west:g}: it is empty; the whole circle is -180 to 180")
    if east < west:
        east += 360
    if east - west > 360:
        raise RegionError(f"region: {west:g} to {east:g} E is more than once round the globe")
    coarse = grid.coarsen(factor)
    step, slack = coarse.resolution, 1e-6
    r0 = max(int(np.floor((grid.north - north) / step + slack)), 0)
    r1 = min(int(np.ceil((grid.north - south) / step - slack)), coarse.rows)
    turn = 360.0 * np.floor((west - grid.west) / 360.0 + 1e-9)
    c0 = int(np.floor((west - turn - grid.west) / step + slack))
    c1 = int(np.ceil((east - turn - grid.west) / step - slack))
    if not grid.is_global:
        if c0 >= coarse.columns and c1 > round(360 / step):
            c0, c1 = c0 - round(360 / step), c1 - round(360 / step)
        c0, c1 = max(c0, 0), min(c1, coarse.columns)
    if r1 <= r0 or c1 <= c0:
        raise RegionError(
            f"region {west:g} to {east:g} E, {south:g} to {north:g} N holds no cell of the forcing ({coarse})"
        )
    return Grid(step / factor, grid.north - r0 * step, grid.west + c0 * step, (r1 - r0) * factor, (c1 - c0) * factor)


def present_variables(forcing: Forcing, inputs: InputSpec) -> tuple[str, ...]:
    """Names of the forcing variables that the model reads and the forcing has, in a fixed order."""
    optional = [name for name in inputs.optional_coarse_variables if name in forcing.data]
    return tuple(dict.fromkeys((*inputs.coarse_variables, *optional)))


@dataclass(frozen=True)
class Source:
    """A field that blocks read, and the dask arrays that it is chunks of."""

    field: Field
    arrays: tuple[da.Array, ...] = ()


@dataclass(frozen=True)
class Sources:
    """All that a downscaling reads."""

    coarse: Source
    static: Source
    prior: Source | None

    @property
    def arrays(self) -> tuple[da.Array, ...]:
        """Dask arrays that the fields are chunks of."""
        return tuple(array for each in (self.coarse, self.static, self.prior) if each for array in each.arrays)


def coarse_source(forcing: Forcing, variables: Sequence[str], inputs: InputSpec, layout: Layout) -> Source:
    """Stack variables of the forcing, as far as the windows of a layout reach.

    The array is ``(years, variables, rows, columns)`` with one year a chunk; its chunks are
    :class:`~xland.downscaling.fields.WithoutSea`, to be read through the field only.
    """
    first, last = layout.block(0, 0), layout.block(-1, -1)
    rows = Span(first.read_rows.start, last.read_rows.stop).coarse(inputs.factor)
    columns = Span(first.read_columns.start, last.read_columns.stop).coarse(inputs.factor)
    places = [place.source for place in placements(forcing.grid, rows, columns)]
    part = (places[0][0], places[0][1] if len(places) == 1 else slice(None))
    layers = [_dask(forcing.data[name])[:, *part] for name in variables]
    stacked = da.stack(layers, axis=1).rechunk({0: 1, 1: -1})
    packed = stacked.map_blocks(WithoutSea.of, dtype=np.float32, meta=np.empty((0, 0, 0, 0), np.float32))
    return _chunked(packed, forcing.grid.window(*part))


def static_source(static: xr.Dataset | None, target: Grid, inputs: InputSpec) -> Source:
    """Return the static fields that the model names, in the order of ``inputs.static_variables``.

    Raises
    ------
    StaticError
        If a field is missing, or the grid does not nest in or cover the target.
    """
    if static is None:
        static = static_predictors(inputs.resolution, chunked=False)
    names = list(inputs.static_variables)
    static = read_static(static, names, inputs.domain)
    field = _file_field([static[name] for name in names], "static predictors")
    if field is not None:
        _check_cover(field.grid, target, "static predictors", StaticError)
        return Source(field)
    canonical, orientation = orient(static, what="static predictors")
    grid = orientation.grid
    _check_cover(grid, target, "static predictors", StaticError)
    layers = [_dask(canonical[name].transpose("lat", "lon")).astype(np.float32) for name in names]
    return _chunked(da.stack(layers).rechunk({0: -1}), grid)


def prior_source(prior: xr.DataArray | xr.Dataset, target: Grid, year: int) -> Source:
    """Return the prior map of a year: of what a rollout starts with, or what changes are laid upon.

    Raises
    ------
    PriorError
        If it is of other years, holds fractions instead of codes, or does not nest in or cover the target.
    """
    chosen = _of_year(read_codes(prior, what="prior map", error=PriorError, empty=MASKED), year)
    field = _file_field([chosen], "prior map")
    if field is not None:
        _check_cover(field.grid, target, "prior map", PriorError)
        return Source(field)
    canonical, orientation = orient(chosen, what="prior map")
    grid = orientation.grid
    _check_cover(grid, target, "prior map", PriorError)
    return _chunked(_dask(canonical.transpose("lat", "lon"))[None], grid)


def _chunked(array: da.Array, grid: Grid) -> Source:
    return Source(ChunkField.of(array, grid), (array,))


def _file_field(layers: Sequence[xr.DataArray], what: str) -> FileField | None:
    """Return layers as they can be read inside a task, or None for dask arrays and other orders of dimensions."""
    dims = horizontal_dims(layers[0], what)
    if any(layer.chunks is not None or layer.dims != dims for layer in layers):
        return None
    coords = {
        name: layers[0].coords[name] for name in layers[0].coords if set(layers[0].coords[name].dims) <= set(dims)
    }
    places = xr.Dataset({f"__{dim}": (dim, np.arange(layers[0].sizes[dim])) for dim in dims}, coords)
    canonical, orientation = orient(places, what=what)
    rows, columns = (canonical[f"__{dim}"].values for dim in dims)
    return FileField(orientation.grid, tuple(layer.variable for layer in layers), rows, columns)


def years_of_map(prior: xr.DataArray | xr.Dataset) -> tuple[int, ...]:
    """Calendar years of a prior map; none if it does not say.

    Raises
    ------
    PriorError
        If it is no map.
    TimeError
        If its years cannot be decoded.
    """
    years = map_years(map_of(prior, "prior map", PriorError), "prior map")
    return tuple(year for year in years if year is not None)


def _of_year(prior: xr.DataArray, year: int) -> xr.DataArray:
    """Select the map of a year; one that does not say its year is taken as it is."""
    years, names = map_years(prior, "prior map"), find_names(prior, "time", what="prior map")
    if None in years and len(years) > 1:
        raise PriorError(f"prior map has {len(years)} time steps that do not say their years; select one with isel")
    if None not in years and year not in years:
        held = listed([each for each in years if each is not None])
        raise PriorError(f"prior map is of {held}, but the first map needs the one of {year}")
    return prior if names is None else prior.isel({names.dimension: 0 if None in years else years.index(year)})


def _check_cover(
    grid: Grid, target: Grid, what: str, error: type[GridError] | type[StaticError] | type[PriorError]
) -> None:
    if abs(grid.resolution / target.resolution - 1) > 1e-4:
        raise error(
            f"{what}: cells of {grid.resolution:g} degree, but the model maps cells of {target.resolution:g} degree"
        )
    off = (
        abs((grid.north - target.north) / target.resolution % 1),
        abs((grid.west - target.west) / target.resolution % 1),
    )
    if any(min(value, 1 - value) > 0.01 for value in off):
        raise error(f"{what}: the edges of its cells do not meet those of the forcing's grid ({target}): regrid it")
    rows, columns = pieces(grid, *spans_of(target))
    if not (rows.slices and columns.slices) or any((rows.before, rows.after, columns.before, columns.after)):
        raise error(f"{what} ({grid}) does not cover the region to be mapped ({target})")


def spans_of(grid: Grid) -> tuple[Span, Span]:
    """Rows and columns of a grid on the world's lattice."""
    return (
        Span(grid.row_offset, grid.row_offset + grid.rows),
        Span(grid.column_offset, grid.column_offset + grid.columns),
    )


def _dask(values: xr.DataArray) -> da.Array:
    # asking a lazily opened array for its data would read it
    return values.chunk().data if values.chunks is None else values.data
