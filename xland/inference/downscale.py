"""From any coarse Dataset to lazy high-resolution land use: xarray and dask around the arrays."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import dask.array as da
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from xland.batches.masking import MASKED
from xland.errors import GridError, ModelError, PriorError, RegionError, StaticError, TimeError
from xland.forcing import Forcing, check_values, read_forcing
from xland.grid import Grid
from xland.inference.layout import Layout, Source, pieces
from xland.inference.predict import Block, confidence, most_probable, predict_block
from xland.inference.windows import Span
from xland.models import DEFAULT_MODEL, find_model
from xland.models.checkpoint import Checkpoint
from xland.observed import with_crs
from xland.orientation import orient, restore
from xland.provenance import describe_product
from xland.vocabulary import flag_attributes

if TYPE_CHECKING:
    from xland.inputs import InputSpec

OUTPUTS = ("land_use", "probability", "confidence")
Direction = Literal["forward", "backward"]
Region = tuple[float, float, float, float]


def downscale(
    ds: xr.Dataset,
    *,
    model: str | Path | Checkpoint = DEFAULT_MODEL,
    static: xr.Dataset | None = None,
    prior: xr.DataArray | None = None,
    years: int | Sequence[int] | slice | None = None,
    region: Region | None = None,
    chunks: int | None = None,
    outputs: str | Sequence[str] = ("land_use",),
    direction: Direction = "forward",
) -> xr.Dataset:
    """Turn coarse land-use fractions into lazy high-resolution land-use maps.

    Nothing is read or computed until values are asked for. The answer at a pixel depends neither
    on chunks nor on the region that is asked for.

    Parameters
    ----------
    ds : Dataset
        Coarse fractions, for example LUH2 states as released, in any orientation.
    model : str, path or Checkpoint
        Name of a shipped model, or the folder of a trained one.
    static : Dataset, optional
        Static predictors on the fine grid, at least where the forcing is; by default those that
        `xland.datasets` provides.
    prior : DataArray, optional
        Class codes on the fine grid for the year before the first (after the last, backward).
        Only for models that read one; without it their first year starts from a hidden prior.
    years : int, sequence of int or slice, optional
        Calendar years; all that the forcing holds by default.
    region : (west, south, east, north), optional
        Degrees; grown to whole coarse cells. West may be greater than east across the date line;
        the columns come back in the caller's order.
    chunks : int, optional
        Fine cells along a block, a multiple of the model's factor; about 1200 by default.
    outputs : str or sequence of str
        Any of ``land_use``, ``probability`` and ``confidence`` (difference between the two
        largest probabilities).
    direction : {"forward", "backward"}
        Order of the years for models that read a prior.

    Returns
    -------
    Dataset
        ``land_use`` (time, lat, lon) uint8 class codes with CF flags, ``probability``
        (time, class, lat, lon) and ``confidence`` (time, lat, lon) float32, as asked for, in the
        caller's dimension names and orientation.

    Raises
    ------
    XlandError
        A subclass that names what is wrong with forcing, static fields, prior, region or model.
        Faults in values are raised when the values are computed.
    """
    checkpoint = find_model(model)
    inputs = checkpoint.inputs
    wanted = _outputs(outputs)
    if direction not in ("forward", "backward"):
        raise ModelError(f"direction must be 'forward' or 'backward', not {direction!r}")
    forcing = read_forcing(ds, variables=inputs.coarse_variables)
    _check_factor(forcing.grid, inputs, checkpoint.name)
    chosen = _years(forcing, years, inputs.steps)
    target = _target(forcing.grid.refine(inputs.factor), region, inputs.factor)
    fields = Fields(
        coarse=_coarse_source(forcing, chosen, inputs),
        static=_static_source(static, target, inputs),
        variables=_present(forcing, inputs),
    )
    layout = Layout.cut(target, inputs, chunks)
    first = None if prior is None else _prior_source(prior, target, inputs, checkpoint.name)
    probabilities = _probabilities(checkpoint, fields, layout, first, chosen, direction)
    fine = _dataset(probabilities, target, chosen, wanted, inputs)
    identities = {"forcing": _identity(ds)}
    identities |= {
        name: _identity(given) for name, given in (("static", static), ("prior", prior)) if given is not None
    }
    described = describe_product(
        fine,
        title=f"Land use on {inputs.resolution:g} degree, {chosen[0]} to {chosen[-1]}",
        summary=f"Class of land use in each cell, downscaled by the model {checkpoint.name} of xland",
        source=str(ds.attrs.get("title", "coarse land-use fractions")),
        model={"name": checkpoint.name, "sha256": checkpoint.digest, "licence": checkpoint.card.get("licence", "")},
        inputs=identities,
    )
    described.attrs["xland_fingerprint"] = _digest([checkpoint.digest, inputs.to_dict(), identities, direction, wanted])
    return restore(described, forcing.orientation)


@dataclass(frozen=True)
class Fields:
    """The sources of one downscaling."""

    coarse: Source
    static: Source
    variables: tuple[str, ...]


@dataclass(frozen=True)
class Geometry:
    """Grids of what a block reads, to know what lies outside of them."""

    coarse: Grid
    static: Grid
    prior: Grid | None


def _probabilities(
    checkpoint: Checkpoint,
    fields: Fields,
    layout: Layout,
    prior: Source | None,
    years: tuple[int, ...],
    direction: Direction,
) -> da.Array:
    inputs = checkpoint.inputs
    coarse = layout.halo(fields.coarse, inputs.factor)
    static = layout.halo(fields.static)[None]

    def predict(steps: slice, previous: Source | None) -> da.Array:
        maps = [] if previous is None else [layout.halo(previous)[None, None]]
        return da.map_blocks(
            _predict_task,
            coarse[steps],
            static,
            *maps,
            checkpoint=checkpoint,
            geometry=Geometry(fields.coarse.grid, fields.static.grid, None if previous is None else previous.grid),
            layout=layout,
            variables=fields.variables,
            years=years[steps],
            dtype=np.float32,
            meta=np.empty((0, 0, 0, 0), np.float32),
            chunks=((1,) * len(years[steps]), (len(inputs.classes),), *layout.chunks),
        )

    if inputs.prior == "none":
        return predict(slice(None), None)
    results: dict[int, da.Array] = {}
    positions = list(range(len(years)))
    for position in positions if direction == "forward" else positions[::-1]:
        results[position] = predict(slice(position, position + 1), prior)
        prior = Source(_classes(results[position])[0], layout.grid)
    return da.concatenate([results[position] for position in positions], axis=0)


def _predict_task(
    coarse: NDArray[np.float32],
    static: NDArray[np.float32],
    prior: NDArray[np.uint8] | None = None,
    *,
    checkpoint: Checkpoint,
    geometry: Geometry,
    layout: Layout,
    variables: tuple[str, ...],
    years: tuple[int, ...],
    block_id: tuple[int, int, int, int],
) -> NDArray[np.float32]:
    """Check, complete and predict one block of one year; shapes ``(1, n, halo rows, halo columns)``."""
    inputs = checkpoint.inputs
    block = layout.block(*block_id[2:])
    rows, columns = block.read_rows, block.read_columns
    low = rows.coarse(inputs.factor), columns.coarse(inputs.factor)
    _check_core(coarse[0], block, geometry.coarse, inputs, variables, years[block_id[0]])
    steps = _complete(coarse[0], geometry.coarse, *low, np.nan).reshape(
        len(inputs.steps), len(variables), *map(len, low)
    )
    values = {name: steps[:, position] for position, name in enumerate(variables)}
    fields = _complete(static[0], geometry.static, rows, columns, np.nan)
    named = dict(zip(inputs.static_variables, fields, strict=True))
    land = np.nan_to_num(named[inputs.domain]) > 0
    previous = None
    if prior is not None and geometry.prior is not None:
        previous = _complete(_checked_prior(prior[0, 0], inputs), geometry.prior, rows, columns, MASKED)
    return predict_block(
        checkpoint.network(), block, inputs.coarse_array(values), inputs.static_array(named), land, previous
    )[None]


def _complete(values: NDArray[Any], grid: Grid, rows: Span, columns: Span, fill: float) -> NDArray[Any]:
    """Put cells that lie outside of the grid around what was read of it."""
    row, column = pieces(grid, rows, columns)
    width = [(0, 0)] * (values.ndim - 2) + [(row.before, row.after), (column.before, column.after)]
    return np.pad(values, width, constant_values=fill)


def _check_core(
    coarse: NDArray[np.float32], block: Block, grid: Grid, inputs: InputSpec, variables: tuple[str, ...], year: int
) -> None:
    """Check the coarse cells of the block itself; those of its halo are checked in their own block."""
    read = pieces(grid, block.read_rows.coarse(inputs.factor), block.read_columns.coarse(inputs.factor))
    own = []
    for span, whole, piece in zip(
        (block.rows, block.columns), (block.read_rows, block.read_columns), read, strict=True
    ):
        start = span.start // inputs.factor - whole.start // inputs.factor - piece.before
        own.append(slice(start, start + len(span) // inputs.factor))
    core = coarse[:, own[0], own[1]].reshape(len(inputs.steps), len(variables), len(block.rows) // inputs.factor, -1)
    first_row = block.rows.start // inputs.factor
    first_column = block.columns.start // inputs.factor
    latitude = 90 - (first_row + np.arange(core.shape[-2]) + 0.5) * grid.resolution
    longitude = -180 + (first_column + np.arange(core.shape[-1]) + 0.5) * grid.resolution
    for step, states in zip(inputs.steps, core, strict=True):
        check_values(dict(zip(variables, states, strict=True)), latitude, longitude, year + step)


def _checked_prior(codes: NDArray[Any], inputs: InputSpec) -> NDArray[np.uint8]:
    unknown = ~np.isin(codes, [*range(len(inputs.classes)), MASKED])
    if unknown.any():
        values, counts = np.unique(codes[unknown], return_counts=True)
        listed = ", ".join(f"{value} ({count} cells)" for value, count in zip(values[:8], counts[:8], strict=True))
        raise PriorError(
            f"prior map: unknown codes {listed}; it must hold class codes 0 to {len(inputs.classes) - 1}: "
            "translate it with xland.vocabulary.translate"
        )
    return codes.astype(np.uint8)


def _outputs(outputs: str | Sequence[str]) -> tuple[str, ...]:
    wanted = (outputs,) if isinstance(outputs, str) else tuple(outputs)
    unknown = [name for name in wanted if name not in OUTPUTS]
    if unknown or not wanted:
        raise ModelError(f"unknown outputs {', '.join(unknown) or '(none given)'}; choose from {', '.join(OUTPUTS)}")
    return wanted


def _check_factor(grid: Grid, inputs: InputSpec, name: str) -> None:
    expected = inputs.resolution * inputs.factor
    if abs(grid.resolution / expected - 1) > 1e-4:
        raise ModelError(
            f"model {name!r} was trained for a factor of {inputs.factor} from {expected:g} to {inputs.resolution:g} "
            f"degree; the forcing has cells of {grid.resolution:g} degree: choose another model or regrid the forcing"
        )


def _years(forcing: Forcing, years: int | Sequence[int] | slice | None, steps: tuple[int, ...]) -> tuple[int, ...]:
    """Years to map; without a wish, all whose steps the forcing holds."""
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


def _target(grid: Grid, region: Region | None, factor: int) -> Grid:
    """Return the fine grid of the result: whole coarse cells that touch the region."""
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


def _present(forcing: Forcing, inputs: InputSpec) -> tuple[str, ...]:
    optional = [name for name in inputs.optional_coarse_variables if name in forcing.data]
    return tuple(dict.fromkeys((*inputs.coarse_variables, *optional)))


def _coarse_source(forcing: Forcing, years: tuple[int, ...], inputs: InputSpec) -> Source:
    names = _present(forcing, inputs)
    index = {year: position for position, year in enumerate(forcing.years)}
    steps = [[index[year + step] for year in years] for step in inputs.steps]
    layers = [_dask(forcing.data[name])[positions] for positions in steps for name in names]
    stacked = da.stack(layers, axis=1).rechunk({0: 1, 1: -1})
    return Source(stacked, forcing.grid)


def _static_source(static: xr.Dataset | None, target: Grid, inputs: InputSpec) -> Source:
    if static is None:
        from xland.datasets import static_predictors

        static = static_predictors(inputs.resolution)
    missing = [name for name in inputs.static_variables if name not in static]
    if missing:
        raise StaticError(f"static predictors lack {', '.join(missing)}, which the model needs")
    canonical, _ = orient(static[list(inputs.static_variables)], what="static predictors")
    grid = Grid.from_centres(canonical["lat"].values, canonical["lon"].values)
    _check_cover(grid, target, "static predictors", StaticError)
    layers = [_dask(canonical[name].transpose("lat", "lon")).astype(np.float32) for name in inputs.static_variables]
    return Source(da.stack(layers).rechunk({0: -1}), grid)


def _prior_source(prior: xr.DataArray, target: Grid, inputs: InputSpec, name: str) -> Source:
    if inputs.prior == "none":
        raise ModelError(f"model {name!r} reads no prior map: leave prior out, or choose a model that does")
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
    rows, columns = pieces(
        grid,
        Span(target.row_offset, target.row_offset + target.rows),
        Span(target.column_offset, target.column_offset + target.columns),
    )
    if not (rows.slices and columns.slices) or any((rows.before, rows.after, columns.before, columns.after)):
        raise error(f"{what} ({grid}) does not cover the region to be mapped ({target})")


def _classes(probabilities: da.Array) -> da.Array:
    return probabilities.map_blocks(
        most_probable, axis=1, drop_axis=1, dtype=np.uint8, meta=np.empty((0, 0, 0), np.uint8)
    )


def _dataset(
    probabilities: da.Array,
    target: Grid,
    years: tuple[int, ...],
    outputs: tuple[str, ...],
    inputs: InputSpec,
) -> xr.Dataset:
    dims = ("time", "lat", "lon")
    variables: dict[str, Any] = {}
    if "land_use" in outputs:
        variables["land_use"] = (dims, _classes(probabilities), flag_attributes(inputs.classes))
    if "probability" in outputs:
        attributes = {"long_name": "probability of the land-use class", "units": "1", "valid_range": [0.0, 1.0]}
        variables["probability"] = (("time", "class", "lat", "lon"), probabilities, attributes)
    if "confidence" in outputs:
        margin = probabilities.map_blocks(
            confidence, axis=1, drop_axis=1, dtype=np.float32, meta=np.empty((0, 0, 0), np.float32)
        )
        attributes = {"long_name": "difference between the two largest class probabilities", "units": "1"}
        variables["confidence"] = (dims, margin, attributes)
    coordinates: dict[str, Any] = {
        "time": ("time", np.array(years, dtype=np.int64), {"long_name": "calendar year"}),
        "lat": ("lat", target.latitude, {"standard_name": "latitude", "units": "degrees_north", "axis": "Y"}),
        "lon": ("lon", target.longitude, {"standard_name": "longitude", "units": "degrees_east", "axis": "X"}),
    }
    if "probability" in outputs:
        coordinates["class"] = ("class", list(inputs.classes))
    return with_crs(xr.Dataset(variables, coordinates))


def _identity(given: xr.Dataset | xr.DataArray) -> str:
    """Tell one input from another without reading it: names, shapes, attributes, and the file if there is one."""
    ds = given if isinstance(given, xr.Dataset) else given.to_dataset(name="map")
    path = Path(str(ds.encoding.get("source", "")))
    file = [path.name, path.stat().st_size] if path.is_file() else []
    variables = [[str(name), list(map(str, v.dims)), list(v.shape), str(v.dtype)] for name, v in ds.variables.items()]
    coordinates = [_digest(index.values.tolist()) for index in ds.indexes.values()]
    return _digest([file, variables, coordinates, {str(key): str(value) for key, value in ds.attrs.items()}])


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


def _dask(values: xr.DataArray) -> da.Array:
    # asking a lazily opened array for its data would read it
    return values.chunk().data if values.chunks is None else values.data
