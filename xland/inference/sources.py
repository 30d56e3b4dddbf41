"""What a downscaling reads: the years, the target grid, and each input as a lazy array on its grid."""

from __future__ import annotations

from collections.abc import Sequence

import dask.array as da
import numpy as np
import xarray as xr

from xland.datasets import static_predictors
from xland.errors import GridError, PriorError, RegionError, StaticError, TimeError
from xland.forcing import Forcing
from xland.grid import Grid
from xland.inference.layout import Source, pieces
from xland.inference.windows import Span
from xland.inputs import InputSpec
from xland.orientation import orient

Region = tuple[float, float, float, float]


def choose_years(
    forcing: Forcing, years: int | Sequence[int] | slice | None, steps: tuple[int, ...]
) -> tuple[int, ...]:
    """Return the years to map; without a wish, all whose steps the forcing holds.

    Raises
    ------
    TimeError
        If the forcing lacks a year that is needed, or no year is left.
    """
    there = set(forcing.years)
    if years is None or isinstance(years, slice):
        start, stop = (years.start, years.stop) if isinstance(years, slice) else (None, None)
        chosen = [
            year
            for year in forcing.years
            if (start is None or year >= start)
            and (stop is None or year <= stop)
            and all(year + step in there for step in steps)
        ]
    else:
        chosen = sorted({int(year) for year in np.atleast_1d(np.asarray(years))})
        missing = sorted({year + step for year in chosen for step in steps} - there)
        if missing:
            raise TimeError(
                f"the forcing lacks the years {', '.join(map(str, missing[:10]))} ({len(missing)} in all); "
                f"it holds {forcing.years[0]} to {forcing.years[-1]}"
            )
    if not chosen:
        raise TimeError(
            f"no year to map: the forcing holds {forcing.years[0]} to {forcing.years[-1]} and the model reads the "
            f"years {', '.join(f'{step:+d}' for step in steps)} relative to the map"
        )
    return tuple(chosen)


def target_grid(grid: Grid, region: Region | None, factor: int) -> Grid:
    """Return the fine grid of the result: whole coarse cells that touch the region.

    Raises
    ------
    RegionError
        If the region is upside down, larger than the globe, or holds no cell.
    """
    if region is None:
        return grid
    west, south, east, north = map(float, region)
    if not (-90 <= south < north <= 90):
        raise RegionError(f"region: south {south:g} must be less than north {north:g}, both within -90 to 90")
    if east <= west:
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


def coarse_source(forcing: Forcing, years: tuple[int, ...], inputs: InputSpec) -> Source:
    """Stack what the model reads of the forcing.

    The array is ``(years, steps * variables, rows, columns)`` with one year a chunk, NaN without data.
    """
    names = present_variables(forcing, inputs)
    index = {year: position for position, year in enumerate(forcing.years)}
    steps = [[index[year + step] for year in years] for step in inputs.steps]
    layers = [_dask(forcing.data[name])[positions] for positions in steps for name in names]
    stacked = da.stack(layers, axis=1).rechunk({0: 1, 1: -1})
    return Source(stacked, forcing.grid)


def static_source(static: xr.Dataset | None, target: Grid, inputs: InputSpec) -> Source:
    """Stack the static fields that the model names, ``(variables, rows, columns)``.

    Raises
    ------
    StaticError
        If a field is missing, or the grid does not nest in or cover the target.
    """
    if static is None:
        static = static_predictors(inputs.resolution)
    missing = [name for name in inputs.static_variables if name not in static]
    if missing:
        raise StaticError(f"static predictors lack {', '.join(missing)}, which the model needs")
    canonical, _ = orient(static[list(inputs.static_variables)], what="static predictors")
    grid = Grid.from_centres(canonical["lat"].values, canonical["lon"].values)
    _check_cover(grid, target, "static predictors", StaticError)
    layers = [_dask(canonical[name].transpose("lat", "lon")).astype(np.float32) for name in inputs.static_variables]
    return Source(da.stack(layers).rechunk({0: -1}), grid)


def prior_source(prior: xr.DataArray, target: Grid) -> Source:
    """Return the prior map, ``(rows, columns)``.

    Raises
    ------
    PriorError
        If it holds several years, fractions instead of codes, or does not nest in or cover the target.
    """
    canonical, _ = orient(prior, what="prior map")
    if "time" in canonical.dims:
        if canonical.sizes["time"] != 1:
            raise PriorError(
                f"prior map holds {canonical.sizes['time']} time steps: select the one year before the first map"
            )
        canonical = canonical.isel(time=0)
    if canonical.dtype.kind not in "iu":
        raise PriorError(f"prior map must hold whole class codes, not {canonical.dtype}: convert it to uint8")
    grid = Grid.from_centres(canonical["lat"].values, canonical["lon"].values)
    _check_cover(grid, target, "prior map", PriorError)
    return Source(_dask(canonical.transpose("lat", "lon")), grid)


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
