"""From any coarse Dataset to lazy high-resolution land use: xarray and dask around the arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Literal

import xarray as xr
from dask.base import tokenize

from xland.arguments import checked
from xland.datasets.reference import static_identity
from xland.downscaling.block import Plan
from xland.downscaling.conserving import Conserve, base_year, choose_totals, conserving_of
from xland.downscaling.finishing import check_outputs, dataset_of
from xland.downscaling.graph import block_years
from xland.downscaling.planning import (
    Region,
    Sources,
    choose_years,
    coarse_source,
    present_variables,
    prior_source,
    spans_of,
    static_source,
    target_grid,
)
from xland.downscaling.windows import Layout, crop
from xland.errors import ModelError, TimeError
from xland.forcing.read import check_lattice, read_forcing
from xland.geo.grid import Grid
from xland.geo.orientation import Names, restore
from xland.geo.years import listed, with_years
from xland.models import DEFAULT_MODEL, Model, find_model
from xland.models.inputs import InputSpec
from xland.outputs import OUTPUTS, choose_outputs
from xland.store.identity import digest_of, identities_of
from xland.store.provenance import describe_product
from xland.totals.crosswalk import Crosswalk

Direction = Literal["forward", "backward"]
Device = Literal["auto", "cpu", "cuda"]


@checked(ModelError)
def downscale(
    ds: xr.Dataset,
    *,
    model: Model = DEFAULT_MODEL,
    static: xr.Dataset | None = None,
    prior: xr.DataArray | None = None,
    years: int | Sequence[int] | slice | None = None,
    region: Region | None = None,
    chunks: int | None = None,
    outputs: str | Sequence[str] = ("land_use",),
    direction: Direction = "forward",
    device: Device = "auto",
    flips: bool = False,
    conserve: Conserve | None = None,
    crosswalk: Crosswalk | None = None,
    tolerance: float | None = None,
) -> xr.Dataset:
    """Turn coarse land-use fractions into lazy high-resolution land-use maps.

    Nothing is read or computed until values are asked for. The answer at a pixel depends neither
    on chunks nor on the region that is asked for.

    Parameters
    ----------
    ds : Dataset
        Coarse fractions, for example LUH2 states as released, in any orientation.
    model : str, path or Checkpoint; or a list of them
        Name of a shipped model, or the folder of a trained one. Several that read and write the same
        answer as one: each blends its own windows, and their probabilities are averaged.
    static : Dataset, optional
        Static predictors on the fine grid, at least where the forcing is; by default those that
        `xland.datasets` provides.
    prior : DataArray, optional
        Class codes on the fine grid, wherever the forcing is, for the year before the first (after
        the last, backward).
        Only for models that read one; without it their first year starts from a hidden prior. With
        ``conserve="changes"`` also for others: the observed map of the base year. That is the year which the
        map says (a single ``time``), or the one before the first (after the last, backward) if it says none.
    years : int, sequence of int or slice, optional
        Calendar years; all that the forcing holds by default.
    region : (west, south, east, north), optional
        Degrees; grown to whole coarse cells. West may be greater than east across the date line;
        such a region comes back in one piece, 170 to 190 for example. Choose with `region` rather
        than cut the forcing: windows at its edge then still see what lies around.
    chunks : int, optional
        Fine cells along a block, a multiple of the model's factor. By default blocks are so large
        that at most 15 % of the windows are computed twice at their edges: 1800 cells on 0.05 degree.
    outputs : str or sequence of str
        Any of ``land_use``, ``probability``, ``confidence``, ``spread`` (of several models),
        ``applicability`` (of models that hold their training inputs) and ``conservation`` (where totals are
        kept); all come from one pass of the network.
    direction : {"forward", "backward"}
        Order of the years for models that read a prior.
    device : {"auto", "cpu", "cuda"}
        Where the network runs; by default on a GPU where the process that computes a block sees one.
    flips : bool
        Average the probabilities of four mirror images of each window, at four times the cost.
    conserve : {"fractions", "map", "changes"}, optional
        Keep the totals of the forcing in each coarse cell: in the probabilities, whose area-weighted means
        then are the coarse fractions; in the map, which becomes the most probable one with these class areas
        to within a pixel a class; or its changes since the base year, laid upon ``prior`` (and, by models
        that read a prior, upon the map of the year before). See :mod:`xland.totals`.
    crosswalk : Crosswalk, optional
        Which states of the forcing belong to which class, where totals are kept; by default those of LUH2 and
        LUH3 (:data:`xland.totals.crosswalk.LUH_CROSSWALK`). Variables named like a class are that class.
    tolerance : float, optional
        How far the area of a class in a coarse cell may be from its total with ``conserve="map"``, in fine pixels
        from 0 to 1. By default 0: areas are as near to the totals as whole pixels can be, which keeps sums over many
        cells. With 1 the most probable map of all that keep totals within a pixel is chosen: more of its pixels
        are right, but a class of which cells have less than a pixel may be given nowhere.

    Returns
    -------
    Dataset
        As asked for, in the caller's dimension names and orientation: ``land_use`` (time, lat, lon),
        uint8 class codes with CF flags; ``probability`` (time, class, lat, lon), float32; for
        ``confidence`` the variables ``confidence``, the difference between the two largest
        probabilities, and ``entropy``, from 0 (one class is certain) to 1 (all are equal); ``spread``, the
        standard deviation (of the population) between models of the probability of the class on the map;
        ``applicability``, how far the inputs of the coarse cell lie from those of the training, where 1 is
        as far as training inputs lie from each other, NaN in the sea, with the attribute ``threshold`` from
        which on scores say nothing (:mod:`xland.models.applicability`); for ``conservation`` the variable
        ``unmet``, the share of the coarse cell in which the totals could not be kept, NaN in the sea and where
        the forcing says nothing; all (time, lat, lon) float32. Probability, confidence and entropy are stored
        as uint8 in steps of 0.004, ``spread`` of 0.002; but probability as it is with ``conserve="fractions"``,
        since those steps would not keep the totals.

        A class is the one with the largest ``log(probability) + decision``, where the model card gives
        such offsets.

    Raises
    ------
    XlandError
        A subclass that names what is wrong with forcing, static fields, prior, region or model.
        Faults in values are raised when the values are computed.
    """
    trained = find_model(model)
    inputs = trained.inputs
    wanted = choose_outputs(outputs)
    check_outputs(wanted, trained, totals=conserve is not None)
    kept = choose_totals(ds, conserve, crosswalk, tolerance, inputs, prior=prior is not None)
    states = () if kept is None else kept.states
    forcing = read_forcing(ds, variables=tuple(dict.fromkeys((*inputs.coarse_variables, *states))))
    _check_factor(forcing.grid, inputs, trained.name)
    check_lattice(forcing.grid)
    chosen = choose_years(forcing, years, inputs.steps)
    whole = forcing.grid.refine(inputs.factor)
    target = target_grid(whole, region, inputs.factor)
    rollout = inputs.prior != "none"
    if rollout:
        _check_rollout(inputs, chosen, direction)
    elif prior is not None and conserve != "changes":
        raise ModelError(
            "the model reads no prior map: leave prior out, choose a model that does, or set conserve='changes' to lay "
            "the forcing's changes upon the map"
        )
    # a region needs ever more of its surroundings the longer a rollout is: only what it depends on is computed
    layout = Layout.cut(whole if rollout else target, inputs, chunks)
    first, step = (chosen[0], -1) if direction == "forward" else (chosen[-1], 1)
    before = first + step
    if prior is not None and not rollout:
        before = base_year(prior, before)
    variables = present_variables(forcing, inputs)
    layers = tuple(dict.fromkeys((*variables, *states)))
    sources = Sources(
        coarse=coarse_source(forcing, layers, inputs, layout),
        static=static_source(static, layout.grid, inputs),
        prior=None if prior is None else prior_source(prior, layout.grid, before),
    )
    identities = identities_of(forcing=ds, static=static, prior=prior)
    if static is None:
        identities["static"] = static_identity(inputs.resolution)
    fingerprint = digest_of(
        [trained.identity, identities, direction, [each.name for each in wanted]]
        + (["flips"] if flips else [])
        + (
            [member.card.get("applicability") for member in trained.members]
            if any(each.needs == "applicability" for each in wanted)
            else []
        )
        + ([asdict(kept), before if kept.mode == "changes" else None] if kept is not None else [])
    )
    plan = Plan(
        token=tokenize(fingerprint, layout, chosen, device),
        model=trained,
        layout=layout,
        years=chosen,
        coarse=sources.coarse.field,
        variables=variables,
        positions=tuple(tuple(forcing.years.index(year + step) for step in inputs.steps) for year in chosen),
        static=sources.static.field,
        own_static=static is None,
        first_prior=None if sources.prior is None else sources.prior.field,
        outputs=tuple(dict.fromkeys((OUTPUTS["land_use"], *wanted))),
        device=device,
        flips=flips,
        conserving=None
        if kept is None
        else conserving_of(kept, forcing, chosen, layers, (before, sources.prior), step=step if rollout else 0),
    )
    arrays = block_years(plan, sources.arrays)
    if layout.grid != target:
        arrays = {name: crop(array, layout.grid, *spans_of(target)) for name, array in arrays.items()}
    fine = dataset_of(arrays, target, chosen, wanted, trained, exact=conserve == "fractions")
    time = forcing.orientation.time or Names("time", "time")
    restored = with_years(restore(fine, forcing.orientation), chosen, time.dimension, time.coordinate)
    described = describe_product(
        restored,
        summary=f"Class of land use in each cell, downscaled by the model {trained.name} of xland",
        source=str(ds.attrs.get("title", "coarse land-use fractions")),
        model={"name": trained.name, "sha256": trained.digest, "licence": trained.licence},
        inputs=identities,
    )
    described.attrs["xland_fingerprint"] = fingerprint
    if kept is not None:
        described.attrs["xland_conserve"] = kept.mode
    return described


def _check_rollout(inputs: InputSpec, years: tuple[int, ...], direction: Direction) -> None:
    """Refuse a direction that the model has not learned, and years that do not follow each other."""
    if inputs.prior_step != (-1 if direction == "forward" else 1):
        learned = "forward" if inputs.prior_step == -1 else "backward"
        raise ModelError(f"the model has learned to go {learned}: set direction={learned!r}")
    gaps = sorted(set(range(years[0], years[-1] + 1)) - set(years))
    if gaps:
        raise TimeError(
            f"each year's map is the prior of the next, so years must follow each other; "
            f"{len(gaps)} are missing between {years[0]} and {years[-1]}: {listed(gaps)}"
        )


def _check_factor(grid: Grid, inputs: InputSpec, name: str) -> None:
    expected = inputs.resolution * inputs.factor
    if abs(grid.resolution / expected - 1) > 1e-4:
        raise ModelError(
            f"model {name!r} was trained for a factor of {inputs.factor} from {expected:g} to {inputs.resolution:g} "
            f"degree; the forcing has cells of {grid.resolution:g} degree: choose another model or regrid the forcing"
        )
