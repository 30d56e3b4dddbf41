"""From any coarse Dataset to lazy high-resolution land use: xarray and dask around the arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import pairwise
from os import PathLike
from typing import Annotated, Any, Literal

import dask.array as da
import numpy as np
import xarray as xr
from dask.base import tokenize

from xland.arguments import Limits, checked, choose_names
from xland.datasets import static_predictors
from xland.datasets.prepared import static_identity
from xland.downscaling.block import Plan, block_years
from xland.downscaling.fields import ChunkField, Layout, coarse_field, crop, field_of, prior_fields
from xland.downscaling.keeping import Keeping
from xland.downscaling.predict import Drawing
from xland.errors import ModelError, PriorError, RegionError, StaticError, TimeError
from xland.forcing.read import Forcing, check_cells, check_lattice, find_sources, read_forcing, require_years
from xland.geo.conventions import index_by, listed, with_years
from xland.geo.grid import Grid
from xland.geo.orientation import Names, restore
from xland.models import DEFAULT_MODEL, Model, find_model
from xland.models.checkpoint import Checkpoint
from xland.models.ensemble import Ensemble
from xland.models.inputs import InputSpec
from xland.outputs import OUTPUTS, Output
from xland.reading.variables import map_of, map_years, read_static
from xland.store.provenance import describe_product, digest_of, identity_of, list_licences, read_publisher
from xland.totals.modes import MODES, Totals
from xland.vocabulary import class_coordinates

Direction = Literal["forward", "backward"]
Device = Literal["auto", "cpu", "cuda"]
Region = tuple[float, float, float, float]
Draws = Annotated[int, Limits(1, 1000)]
Seed = Annotated[int, Limits(0, 2**32 - 1)]


@checked(ModelError)
def downscale(
    ds: xr.Dataset,
    *,
    model: Model = DEFAULT_MODEL,
    static: xr.Dataset | None = None,
    other_static: bool = False,
    prior: xr.DataArray | None = None,
    years: int | Sequence[int] | slice | None = None,
    region: Region | None = None,
    chunks: int | None = None,
    outputs: str | Sequence[str] = ("land_use",),
    direction: Direction = "forward",
    device: Device = "auto",
    flips: bool = False,
    totals: str | Totals | None = None,
    draws: Draws | None = None,
    seed: Seed | None = None,
    publisher: str | PathLike[str] | None = None,
) -> xr.Dataset:
    """Turn coarse land-use fractions into lazy high-resolution land-use maps.

    Nothing is read or computed until values are asked for. A selection of the maps computes the windows that it
    touches, in a rollout whole blocks. The answer at a pixel depends neither on chunks nor on the region that is asked
    for.

    Parameters
    ----------
    ds : Dataset
        Coarse fractions, for example LUH2 states as released, in any orientation.
    model : str, path or Checkpoint; or a list of them
        Name of a shipped model, or the folder of a trained one. The probabilities of several, which read and write the
        same, are averaged.
    static : Dataset, optional
        Static predictors on the fine grid, at least where the forcing is; by default those of `xland.datasets`. A model
        that was trained with others needs those.
    other_static : bool
        Let a model that was trained with static predictors of its own read others.
    prior : DataArray, optional
        Class codes on the fine grid, wherever the forcing is, for the year before the first (after the last, backward).
        Only for models that read one; without it the first year is computed with a fully masked prior. A model that
        crosses several years takes the nearest map that it can, and one with a history also the maps before it (after
        it, backward) that are in the prior. With
        ``totals="changes"`` any model takes a prior: the observed map of the base year. The base year is that of its
        ``time``. Without ``time``, it is the year before the first (after the last, backward).
    years : int, sequence of int or slice, optional
        Calendar years; all that the forcing has by default.
    region : (west, south, east, north), optional
        Degrees; grown to whole coarse cells. West may be greater than east: a region across the date line comes back in
        one piece, 170 to 190 for example. Choose with `region` rather than cut the forcing: windows at its edge then
        still see what lies around.
    chunks : int, optional
        Fine cells along a block, a multiple of the model's factor. By default blocks are so large that at most 15 % of
        the windows are computed twice at their edges: 1800 cells on 0.05 degree.
    outputs : str or sequence of str
        Names of variables in the table :data:`xland.outputs.OUTPUTS`: ``land_use``, ``probability``, ``confidence``,
        ``margin``, ``entropy``, ``spread`` (of several models), ``applicability`` (of models with their training
        inputs), ``unmet`` (where totals are kept), ``land_use_draws`` (always with `draws`), and any that are
        registered. All come from one pass of the network.
    direction : {"forward", "backward"}
        Order of the years for models that read a prior.
    device : {"auto", "cpu", "cuda"}
        Where the network runs; by default on a GPU where the process that computes a block sees one.
    flips : bool
        Average the probabilities of four mirror images of each window, at four times the cost.
    totals : str or Totals, optional
        Coarse totals of the forcing that are kept in each coarse cell: ``"fractions"`` in the probabilities, ``"map"``
        in the map, ``"changes"`` as changes since a base year; or :class:`xland.totals.modes.Totals`
        with a crosswalk and a tolerance.
    draws : int, optional
        Number of maps that are drawn from the probabilities, from 1 to 1000, in the output ``land_use_draws``. They
        have the grain of observed land, and over many draws each class has its probability at each pixel. Totals of
        mode ``"fractions"`` are kept by the mean over draws, others by each draw. Not for models that read a prior.
    seed : int, optional
        Of the draws, 0 by default. The class that a draw has at a pixel depends on seed, place and probabilities alone.
    publisher : path, optional
        TOML file with the licence, institution, contact and DOI that the maps state; by default the user's, see
        :func:`xland.store.provenance.read_publisher`.

    Returns
    -------
    Dataset
        As asked for, in the caller's dimension names and orientation: ``land_use`` (time, lat, lon),
        uint8 class codes with CF flags; ``probability`` (time, class, lat, lon), float32; with `draws`
        ``land_use_draws`` (time, draw, lat, lon), uint8 class codes; all others (time, lat, lon) float32.
        ``confidence`` is the calibrated probability of the class on the map, ``margin`` the difference between the two
        largest probabilities, ``entropy`` goes from 0 (one class is certain) to 1 (all are equal);
        ``spread`` is the standard deviation (of the population) between models of the probability of the class on the
        map; ``applicability`` the distance of the inputs of the coarse cell to the training inputs, NaN in the sea:
        1 is the typical distance between training inputs, and above the attribute ``threshold`` scores do not
        apply (:mod:`xland.models.applicability`); ``unmet`` the share of the coarse cell in
        which the totals could not be kept, NaN in the sea and where the forcing says nothing. Probability, confidence,
        margin and entropy are stored as uint8 in steps of 0.004, ``spread`` of 0.002; but probability as it is with
        ``totals="fractions"``, since those steps would not keep the totals.

        A class is the one with the largest ``log(probability) + decision``, where the model card gives
        such offsets.

    Raises
    ------
    XlandError
        A subclass that names what is wrong with forcing, static fields, prior, region, totals or model.
        Faults in values are raised when the values are computed.
    """
    trained = find_model(model)
    inputs = trained.inputs
    kept = Totals(totals) if totals is not None and not isinstance(totals, Totals) else totals
    mode = None if kept is None else MODES[kept.mode]
    wanted = choose_outputs(outputs, trained, totals=kept is not None, draws=draws is not None)
    drawing = choose_drawing(trained, draws, seed)
    if mode is not None and mode.changes and prior is None:
        raise ModelError(f"totals={mode.name!r} applies changes to an observed map: give it as prior=, with its year")
    states: tuple[str, ...] = ()
    if kept is not None:
        states = tuple(find_sources(ds, [*dict.fromkeys([*dict(kept.crosswalk.states), *inputs.classes])]))
        kept.crosswalk.sources(states, inputs.classes)  # refuses a forcing that lacks some
    forcing = read_forcing(ds, variables=tuple(dict.fromkeys((*inputs.coarse_variables, *states))))
    check_cells(forcing.grid, trained)
    check_lattice(forcing.grid)
    chosen = choose_years(forcing, years, [inputs.states_of(0, interval) for interval in inputs.intervals])
    whole = forcing.grid.refine(inputs.factor)
    target = whole if region is None else target_grid(whole, region, inputs.factor)
    rollout = inputs.prior != "none"
    if rollout:
        _check_direction(inputs, direction)
    elif prior is not None and (mode is None or not mode.changes):
        raise ModelError(
            "the model reads no prior map: leave prior out, choose a model that does, or set totals='changes' to apply "
            "the forcing's changes to the map"
        )
    # a region needs ever more of its surroundings the longer a rollout is: only what it depends on is computed
    layout = Layout.cut(whole if rollout else target, inputs, chunks)
    before = min(chosen) - 1 if direction == "forward" else max(chosen) + 1
    intervals = (1,) * len(chosen)
    given_years = [] if prior is None else map_years(map_of(prior, "prior map", PriorError), "prior map")
    dated = [year for year in given_years if year is not None]
    if rollout:
        before = _start_year(dated, inputs, chosen)
        intervals = _find_intervals(inputs, chosen, before)
        require_years(
            forcing, [y for when, each in zip(chosen, intervals, strict=True) for y in inputs.states_of(when, each)]
        )
    elif dated:
        before = _base_year(dated)
    if kept is not None and kept.exchange != 1 and not rollout:
        raise ModelError(
            "exchange is of change, and the model reads no prior map: leave it out, or choose one that does"
        )
    optional = [name for name in inputs.optional_coarse_variables if name in forcing.data]
    variables = tuple(dict.fromkeys((*inputs.coarse_variables, *optional)))
    layers = tuple(dict.fromkeys((*variables, *states)))
    coarse, stacked = coarse_field(forcing, layers, inputs, layout)
    names = inputs.static_variables
    if static is None and not other_static:
        _check_default(trained)
    fields = static_predictors(inputs.resolution, chunked=False) if static is None else static
    given = read_static(fields, names, inputs.domain)
    predictors = [given[name] for name in names]
    fine, fine_array = field_of(predictors, "static predictors", layout.grid, StaticError, np.float32)
    given_maps = {} if prior is None else prior_fields(prior, layout.grid, before, inputs.prior_step * inputs.history)
    parts = (("forcing", ds), ("static", static), ("prior", prior))
    identities = {name: identity_of(each) for name, each in parts if each is not None}
    if static is None:
        identities["static"] = static_identity(inputs.resolution)
    # what makes a product another one
    what: list[Any] = [trained.identity, identities, direction, [each.name for each in wanted]]
    what += ["flips"] if flips else []
    what += [] if drawing is None else [asdict(drawing)]
    if any(each.needs == "applicability" for each in wanted):
        what.append([member.card.get("applicability") for member in trained.members])
    keeping = None
    if kept is not None and mode is not None:
        # stores of earlier versions have no exchange
        kept_as = {name: value for name, value in asdict(kept).items() if (name, value) != ("exchange", 1.0)}
        what.append([kept_as | {"states": states}, before if mode.changes else None])
        require_years(forcing, chosen)
        keeping = Keeping(
            kept,
            mode,
            inputs,
            coarse,
            there=forcing.years,
            layers={state: layers.index(state) for state in states},
            years=chosen,
            base=given_maps[before][0] if mode.changes else None,
            base_year=before,
            priors=(
                {when: inputs.maps_of(when, each)[0] for when, each in zip(chosen, intervals, strict=True)}
                if rollout
                else {}
            ),
        )
    fingerprint = digest_of(what)
    blocks = ((1,) * len(chosen), *(tuple(map(len, spans)) for spans in (layout.rows, layout.columns)))
    plan = Plan(
        maps=ChunkField(layout.grid, f"land_use-{tokenize(fingerprint, layout, chosen, device)}", blocks),
        model=trained,
        inputs=inputs,
        layout=layout,
        years=chosen,
        coarse=coarse,
        variables=variables,
        intervals=intervals,
        positions=tuple(
            tuple(map(forcing.years.index, inputs.states_of(when, each)))
            for when, each in zip(chosen, intervals, strict=True)
        ),
        static=fine,
        own_static=static is None,
        other_static=other_static,
        given_maps={year: field for year, (field, _) in given_maps.items()},
        outputs=tuple(dict.fromkeys((OUTPUTS["land_use"], *wanted))),
        device=device,
        flips=flips,
        keeping=keeping,
        drawing=drawing,
    )
    start_arrays = [array for _, array in given_maps.values()]
    arrays = block_years(plan, [each for each in (stacked, fine_array, *start_arrays) if each is not None])
    arrays = {name: crop(array, layout.grid, target) for name, array in arrays.items()}
    exact = mode is not None and not mode.chooses
    maps = restore(_dataset_of(arrays, target, chosen, wanted, trained, exact=exact), forcing.orientation)
    time = forcing.orientation.names.get("time", Names("time", "time"))
    about = {"name": trained.name, "sha256": trained.digest, "licence": trained.licence}
    described = describe_product(
        with_years(maps, chosen, time.dimension, time.coordinate),
        summary=f"Class of land use in each cell, downscaled by the model {trained.name} of xland",
        source=str(ds.attrs.get("title", "coarse land-use fractions")),
        model=about,
        inputs=identities,
        licences=list_licences(about, {"forcing": ds[[*layers]], "static": fields[[*names]], "prior": prior}),
        publisher=read_publisher(publisher),
        extent=False,
    )
    conserved = {} if mode is None else {"xland_conserve": mode.name}
    drawn = {} if drawing is None else {"xland_draws": drawing.count, "xland_seed": drawing.seed}
    return described.assign_attrs(xland_fingerprint=fingerprint, **conserved, **drawn)


def _check_default(model: Checkpoint | Ensemble) -> None:
    """Refuse the predictors of xland for a model that was trained with others."""
    for member in model.members:
        if member.static_sample is not None:
            raise StaticError(
                f"the model {member.name!r} was trained with static predictors of its own "
                f"({member.static_sample.name}): give them with static=, or pass other_static=True to take "
                "those of xland"
            )


def choose_drawing(model: Checkpoint | Ensemble, draws: int | None, seed: int | None) -> Drawing | None:
    """Return how maps are drawn, None if they are not; ModelError if the model cannot."""
    if draws is None:
        if seed is not None:
            raise ModelError("seed is that of draws: say how many maps to draw with draws=, or leave seed out")
        return None
    if model.inputs.prior != "none":
        raise ModelError(
            f"the model {model.name!r} reads a prior map, and draws of such models are not known: each draw would need "
            "the same draw of the year before. Leave draws out, or choose a model that reads no prior"
        )
    if model.grain is None:
        raise ModelError(
            f"the model {model.name!r} has no distribution of maps to draw from: add it with `xland calibrate`, or "
            "leave draws out"
        )
    return Drawing(draws, seed or 0, model.grain, round(360 / model.inputs.resolution))


def choose_outputs(
    outputs: str | Sequence[str], model: Checkpoint | Ensemble, *, totals: bool, draws: bool = False
) -> tuple[Output, ...]:
    """Return the entries that a caller names, in the caller's order, and with `draws` the maps that are drawn.

    ModelError for those that cannot be given.
    """
    names = choose_names(outputs, OUTPUTS, "outputs", ModelError)
    chosen = tuple(OUTPUTS[name] for name in dict.fromkeys((*names, *(["land_use_draws"] if draws else []))))
    for each in chosen:
        lacks = ""
        if each.needs == "members" and len(model.members) < 2:
            lacks = f"needs several models, and {model.name!r} is one: give more, model=['a', 'b']"
        elif each.needs == "applicability" and model.applicability is None:
            lacks = (
                f"is a distance to the training inputs, which the model {model.name!r} does not contain: add them with "
                "`xland calibrate`"
            )
        elif each.needs == "totals" and not totals:
            lacks = "says where totals could not be kept: choose how with totals="
        elif each.needs == "draws" and not draws:
            lacks = "is maps that are drawn: say how many with draws="
        if lacks:
            raise ModelError(f"the output {each.name!r} {lacks}, or leave {each.name!r} out")
    return chosen


def choose_years(
    forcing: Forcing, years: int | Sequence[int] | slice | None, offsets: Sequence[tuple[int, ...]]
) -> tuple[int, ...]:
    """Return the years to map, by default all whose states the forcing has; TimeError if one is missing or none left.

    ``offsets`` are the years of states that a map reads, relative to it: of several, one is enough.
    """
    if isinstance(years, slice) and years.step is not None:
        raise TimeError(f"years={years}: a step is not understood here; give the years as a list")
    if years is None or isinstance(years, slice):
        ends = slice(None) if years is None else years
        first = -np.inf if ends.start is None else whole_years(ends.start)[0]
        last = np.inf if ends.stop is None else whole_years(ends.stop)[0]
        there = set(forcing.years)
        chosen = [
            year
            for year in forcing.years
            if first <= year <= last and any({year + step for step in steps} <= there for steps in offsets)
        ]
    else:
        chosen = sorted(set(whole_years(years)))
        require_years(forcing, [year + step for year in chosen for step in set.intersection(*map(set, offsets))])
    if not chosen:
        needed = " or ".join(", ".join(f"{step:+d}" for step in steps if step) for steps in offsets)
        raise TimeError(
            f"no year to map: the forcing has {listed(forcing.years)}"
            + (f", and each map needs the years {needed} relative to it too" if needed.strip(" or") else "")
        )
    return tuple(chosen)


def whole_years(years: Any) -> list[int]:
    """Return calendar years that a caller gives, one or several; TimeError if they are not whole numbers."""
    values = np.atleast_1d(np.asarray(None if isinstance(years, xr.Dataset) else years))
    if values.dtype.kind not in "iu" or values.ndim != 1:
        raise TimeError(f"years={years!r}: give calendar years as whole numbers, such as 2015 or [2014, 2015]")
    return [int(value) for value in values]


def _base_year(there: Sequence[int]) -> int:
    """Return the year of the map that changes are applied to."""
    if len(there) > 1:
        raise PriorError(
            f"prior map is of {listed(there)}: choose the year from which changes count, prior.sel(time={there[-1]})"
        )
    return there[0]


def _check_direction(inputs: InputSpec, direction: Direction) -> None:
    """Refuse a direction that the model has not learned."""
    if inputs.prior_step != (-1 if direction == "forward" else 1):
        learned = "forward" if inputs.prior_step == -1 else "backward"
        raise ModelError(f"the model has learned to go {learned}: set direction={learned!r}")


def _start_year(there: Sequence[int], inputs: InputSpec, years: tuple[int, ...]) -> int:
    """Return the year of the prior map that a rollout starts from: of several that the model can, the nearest."""
    first = years[0] if inputs.prior_step == -1 else years[-1]
    possible = [inputs.maps_of(first, interval)[0] for interval in sorted(inputs.intervals)]
    found = [year for year in possible if year in there or not there or len(possible) == 1]
    if not found:
        raise PriorError(
            f"prior map is of {listed(there)}, but the model crosses {listed(sorted(inputs.intervals))} years: the map "
            f"of {first} needs one of {listed(possible)}"
        )
    return found[0]


def _find_intervals(inputs: InputSpec, years: tuple[int, ...], before: int) -> tuple[int, ...]:
    """Return the years from the prior map to each map of a rollout; TimeError where the model cannot cross them."""
    line = (before, *years) if inputs.prior_step == -1 else (*years, before)
    intervals = tuple(later - earlier for earlier, later in pairwise(line))
    wrong = [(line[at], line[at + 1]) for at, each in enumerate(intervals) if each not in inputs.intervals]
    if wrong and inputs.intervals == (1,):
        gaps = sorted(set(range(years[0], years[-1] + 1)) - set(years))
        raise TimeError(
            f"each year's map is the prior of the next, so years must follow each other; "
            f"{len(gaps)} are missing between {years[0]} and {years[-1]}: {listed(gaps)}"
        )
    if wrong:
        named = ", ".join(f"{earlier} to {later}" for earlier, later in wrong[:5])
        raise TimeError(
            f"each year's map is the prior of the next, and the model crosses {listed(sorted(inputs.intervals))} "
            f"years; {len(wrong)} steps are others: {named}"
        )
    return intervals


def target_grid(grid: Grid, region: Region, factor: int) -> Grid:
    """Return the fine grid of the result: whole coarse cells that touch the region; RegionError if there are none."""
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
            f"region {west:g} to {east:g} E, {south:g} to {north:g} N contains no cell of the forcing ({coarse})"
        )
    return Grid(step / factor, grid.north - r0 * step, grid.west + c0 * step, (r1 - r0) * factor, (c1 - c0) * factor)


def _dataset_of(
    arrays: Mapping[str, da.Array],
    target: Grid,
    years: tuple[int, ...],
    outputs: Sequence[Output],
    model: Checkpoint | Ensemble,
    *,
    exact: bool,
) -> xr.Dataset:
    """Put lazy arrays on a grid into a Dataset with CF attributes; ``exact`` probabilities are not packed."""
    variables: dict[str, xr.Variable] = {}
    classes = model.inputs.classes
    ordered = [each for each in OUTPUTS.values() if each in outputs]
    for output in ordered:
        dims = ("time", output.axis, "lat", "lon") if output.axis else ("time", "lat", "lon")
        attributes = output.attributes_for(classes)
        if output.needs == "applicability" and model.applicability is not None:
            attributes["threshold"] = model.applicability.threshold
        encoding = {} if exact and output.classes else dict(output.encoding)
        variables[output.name] = xr.Variable(dims, arrays[output.name], attributes, encoding)
    coordinates: dict[str, Any] = {
        "time": ("time", np.array(years, dtype=np.int64)),
        "lat": ("lat", target.latitude, {"standard_name": "latitude", "units": "degrees_north", "axis": "Y"}),
        "lon": ("lon", target.longitude, {"standard_name": "longitude", "units": "degrees_east", "axis": "X"}),
    }
    if any(output.classes for output in ordered):
        coordinates |= class_coordinates(classes)
    for output in ordered:
        if output.axis == "draw":
            about = {"standard_name": "realization", "long_name": "number of the draw", "units": "1"}
            coordinates["draw"] = ("draw", np.arange(arrays[output.name].shape[1]), about)
    return index_by(xr.Dataset(variables, coordinates), "class_name")
