"""From any coarse Dataset to lazy high-resolution land use: xarray and dask around the arrays."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import dask.array as da
import numpy as np
import xarray as xr
from dask.base import tokenize
from numpy.typing import NDArray

from xland.batches.masking import MASKED, known_codes
from xland.errors import ModelError, PriorError, TimeError
from xland.forcing import check_coverage, check_lattice, check_values, read_forcing
from xland.grid import Grid, aggregate
from xland.inference.layout import Layout, Source, pieces
from xland.inference.predict import Block, confidence, most_probable, predict_block
from xland.inference.sources import (
    Region,
    choose_years,
    coarse_source,
    present_variables,
    prior_source,
    spans_of,
    static_source,
    target_grid,
)
from xland.inference.windows import Span
from xland.models import DEFAULT_MODEL, find_model
from xland.models.checkpoint import Checkpoint
from xland.orientation import restore
from xland.provenance import describe_product
from xland.vocabulary import flag_attributes
from xland.years import listed

if TYPE_CHECKING:
    from xland.inputs import InputSpec

OUTPUTS = ("land_use", "probability", "confidence")
Direction = Literal["forward", "backward"]


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
        Class codes on the fine grid, wherever the forcing is, for the year before the first (after
        the last, backward).
        Only for models that read one; without it their first year starts from a hidden prior.
    years : int, sequence of int or slice, optional
        Calendar years; all that the forcing holds by default.
    region : (west, south, east, north), optional
        Degrees; grown to whole coarse cells. West may be greater than east across the date line;
        such a region comes back in one piece, 170 to 190 for example. Choose with `region` rather
        than cut the forcing: windows at its edge then still see what lies around.
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
    check_lattice(forcing.grid)
    chosen = choose_years(forcing, years, inputs.steps)
    whole = forcing.grid.refine(inputs.factor)
    target = target_grid(whole, region, inputs.factor)
    if inputs.prior == "none" and prior is not None:
        raise ModelError(f"model {checkpoint.name!r} reads no prior map: leave prior out, or choose a model that does")
    fields = Fields(
        coarse=coarse_source(forcing, chosen, inputs),
        static=static_source(static, target if inputs.prior == "none" else whole, inputs),
        variables=present_variables(forcing, inputs),
    )
    if inputs.prior == "none":
        layout = Layout.cut(target, inputs, chunks)
        probabilities = _probabilities(checkpoint, fields, layout, chosen)
    else:
        layout = Layout.cut(whole, inputs, chunks)
        if inputs.prior_step != (-1 if direction == "forward" else 1):
            learned = "forward" if inputs.prior_step == -1 else "backward"
            raise ModelError(f"model {checkpoint.name!r} has learned to go {learned}: set direction={learned!r}")
        start = chosen[0] if direction == "forward" else chosen[-1]
        first = None if prior is None else prior_source(prior, whole, start + inputs.prior_step)
        rolled = _rollout(checkpoint, fields, layout, first, chosen, direction)
        probabilities = Source(rolled, whole).read(*spans_of(target))
    fine = _dataset(probabilities, target, chosen, wanted, inputs)
    identities = {"forcing": _identity(ds)}
    identities |= {
        name: _identity(given) for name, given in (("static", static), ("prior", prior)) if given is not None
    }
    described = describe_product(
        fine,
        title=f"Land use on {inputs.resolution:g} degree, {listed(chosen)}",
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
    checkpoint: Checkpoint, fields: Fields, layout: Layout, years: tuple[int, ...], prior: Source | None = None
) -> da.Array:
    """Probabilities of all years at once; `fields` holds just these years, `prior` one map for all."""
    inputs = checkpoint.inputs
    maps = [] if prior is None else [layout.halo(prior)[None, None]]
    return da.map_blocks(
        _predict_task,
        layout.halo(fields.coarse, inputs.factor),
        layout.halo(fields.static)[None],
        *maps,
        checkpoint=checkpoint,
        geometry=Geometry(fields.coarse.grid, fields.static.grid, None if prior is None else prior.grid),
        layout=layout,
        variables=fields.variables,
        years=years,
        dtype=np.float32,
        meta=np.empty((0, 0, 0, 0), np.float32),
        chunks=((1,) * len(years), (len(inputs.classes),), *layout.chunks),
    )


def _rollout(
    checkpoint: Checkpoint,
    fields: Fields,
    layout: Layout,
    prior: Source | None,
    years: tuple[int, ...],
    direction: Direction,
) -> da.Array:
    """Probabilities year by year: the map of each is the prior of the next.

    A region needs ever more of its surroundings the longer a rollout is, so it is laid out on the
    whole grid of the forcing; only the blocks that a result depends on are computed.
    """
    gaps = sorted(set(range(years[0], years[-1] + 1)) - set(years))
    if gaps:
        raise TimeError(
            f"each year's map is the prior of the next, so years must follow each other; "
            f"{len(gaps)} are missing between {years[0]} and {years[-1]}: {listed(gaps)}"
        )
    results: dict[int, da.Array] = {}
    positions = list(range(len(years)))
    for position in positions if direction == "forward" else positions[::-1]:
        step = slice(position, position + 1)
        now = replace(fields, coarse=Source(fields.coarse.array[step], fields.coarse.grid))
        results[position] = _probabilities(checkpoint, now, layout, years[step], prior)
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
    steps = _complete(coarse[0], geometry.coarse, *low, np.nan).reshape(
        len(inputs.steps), len(variables), *map(len, low)
    )
    values = {name: steps[:, position] for position, name in enumerate(variables)}
    fields = _complete(static[0], geometry.static, rows, columns, np.nan)
    named = dict(zip(inputs.static_variables, fields, strict=True))
    land = np.nan_to_num(named[inputs.domain]) > 0
    _check_read(coarse[0], land, block, geometry.coarse, checkpoint, variables, years[block_id[0]])
    previous = None
    if prior is not None and geometry.prior is not None:
        codes = known_codes(prior[0, 0], len(inputs.classes), "prior map", PriorError)
        previous = _complete(codes, geometry.prior, rows, columns, MASKED)
    return predict_block(
        checkpoint.network(), block, inputs.coarse_array(values), inputs.static_array(named), land, previous
    )[None]


def _complete(values: NDArray[Any], grid: Grid, rows: Span, columns: Span, fill: float) -> NDArray[Any]:
    """Put cells that lie outside of the grid around what was read of it."""
    row, column = pieces(grid, rows, columns)
    width = [(0, 0)] * (values.ndim - 2) + [(row.before, row.after), (column.before, column.after)]
    return np.pad(values, width, constant_values=fill)


def _check_read(
    coarse: NDArray[np.float32],
    land: NDArray[np.bool_],
    block: Block,
    grid: Grid,
    checkpoint: Checkpoint,
    variables: tuple[str, ...],
    year: int,
) -> None:
    """Check all coarse cells that a block reads, those of its halo too: they shape the map."""
    inputs = checkpoint.inputs
    rows, columns = pieces(grid, block.read_rows.coarse(inputs.factor), block.read_columns.coarse(inputs.factor))
    latitude = np.concatenate([grid.latitude[each] for each in rows.slices])
    # a block as wide as the globe reads some cells twice, which are counted once
    longitude = np.concatenate([grid.longitude[each] for each in columns.slices])[: grid.columns]
    steps = coarse[..., : grid.columns].reshape(len(inputs.steps), len(variables), len(latitude), len(longitude))
    expected = _expected(checkpoint, grid)
    if expected is not None:
        cells = np.concatenate([expected[:, each] for each in columns.slices], axis=1)[rows.slices[0]]
        shares = aggregate(land, inputs.factor)[
            rows.before : rows.before + len(latitude), columns.before : columns.before + len(longitude)
        ]
        expected = cells[:, : grid.columns] & (shares > 0)
    for step, values in zip(inputs.steps, steps, strict=True):
        states = dict(zip(variables, values, strict=True))
        check_values(states, latitude, longitude, year + step)
        if expected is not None:
            check_coverage(states, expected, latitude, longitude, year + step)


def _expected(checkpoint: Checkpoint, grid: Grid) -> NDArray[np.bool_] | None:
    coverage = checkpoint.coverage
    return None if coverage is None else coverage.on(grid)


def _outputs(outputs: str | Sequence[str]) -> tuple[str, ...]:
    wanted = (outputs,) if isinstance(outputs, str) else tuple(outputs or ())
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
    return xr.Dataset(variables, coordinates)


def _identity(given: xr.Dataset | xr.DataArray) -> str:
    """Tell one input from another without reading it.

    Values in memory count as they are; those of a file by its path, size and time of change; those
    of a dask array by its name, which dask derives from what it is made of.
    """
    ds = given if isinstance(given, xr.Dataset) else given.to_dataset(name="map")
    path = Path(str(ds.encoding.get("source", "")))
    file = [str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns] if path.exists() else []
    variables = [
        [str(name), list(map(str, variable.dims)), list(variable.shape), str(variable.dtype), _content(variable)]
        for name, variable in ds.variables.items()
    ]
    return _digest([file, variables, {str(key): str(value) for key, value in ds.attrs.items()}])


def _content(variable: xr.Variable) -> str:
    if variable.chunks is not None:
        return str(variable.data.name)
    # xarray has no public way to ask whether asking for values would read a file
    return tokenize(variable.values) if variable._in_memory else "file"  # noqa: SLF001


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()
