"""What a downscaling is asked to keep of the coarse totals, checked before anything is read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import get_args

import xarray as xr

from xland.addresses import local_path
from xland.allocation.crosswalk import Crosswalk, checked_crosswalk
from xland.errors import AllocationError, ModelError, PriorError, TimeError
from xland.forcing import Forcing, find_sources, require_years
from xland.inference.sources import Source, years_of_map
from xland.inference.targets import Base, Conserve, Conserving
from xland.inputs import InputSpec
from xland.records import read_toml
from xland.years import listed

_LARGEST = 2**18


@dataclass(frozen=True)
class Totals:
    """Totals that are to be kept.

    Parameters
    ----------
    mode : {"fractions", "map", "changes"}
    crosswalk : Crosswalk
    states : tuple of str
        Variables of the forcing that they are made of.
    tolerance : float
        How far class areas of a map may be from them, in fine pixels.
    """

    mode: Conserve
    crosswalk: Crosswalk
    states: tuple[str, ...]
    tolerance: float


def choose_totals(
    ds: xr.Dataset,
    conserve: Conserve | None,
    crosswalk: Crosswalk | None,
    tolerance: float | None,
    inputs: InputSpec,
    *,
    prior: bool,
    outputs: Sequence[str],
) -> Totals | None:
    """Return the totals that are to be kept; None where none are.

    Parameters
    ----------
    ds : Dataset
        Forcing as given.
    conserve, crosswalk, tolerance
        As given to :func:`xland.inference.downscale.downscale`.
    inputs : InputSpec
        Says what the classes are.
    prior : bool
        Whether there is a prior map.
    outputs : sequence of str
        What is asked for.

    Raises
    ------
    ModelError
        For a value of ``conserve`` that is not known, changes without a prior map, and a crosswalk or the output
        ``conservation`` where no totals are kept; a tolerance where no map has totals, or outside 0 to 1.
    AllocationError
        If the crosswalk is of another type, leaves a class without a state or counts one twice, or the forcing lacks
        a state.
    """
    if tolerance is not None and conserve != "map":
        raise ModelError("tolerance says how nearly a map keeps its totals: set conserve='map', or leave tolerance out")
    if conserve is None:
        if crosswalk is not None:
            raise ModelError("crosswalk says which totals are kept: choose how with conserve=, or leave crosswalk out")
        if "conservation" in outputs:
            raise ModelError("the output 'conservation' says where totals could not be kept: choose conserve=, too")
        return None
    if not isinstance(conserve, str) or conserve not in get_args(Conserve):
        known = ", ".join(map(repr, get_args(Conserve)))
        raise ModelError(f"conserve must be one of {known} or None, not {conserve!r}")
    crosswalk = checked_crosswalk(crosswalk)
    if conserve == "changes" and not prior:
        raise ModelError("conserve='changes' lays changes upon an observed map: give it as prior=, with its year")
    names = dict.fromkeys([*(state for state, _ in crosswalk.states), *inputs.classes])
    found = tuple(find_sources(ds, tuple(names)))
    crosswalk.sources(found, inputs.classes)
    return Totals(conserve, crosswalk, found, _checked_tolerance(tolerance))


def _checked_tolerance(tolerance: float | None) -> float:
    if tolerance is None:
        return 0.0
    if isinstance(tolerance, bool) or not isinstance(tolerance, Real) or not 0 <= tolerance <= 1:
        raise ModelError(f"tolerance must be a number of fine pixels from 0 to 1, not {tolerance!r}")
    return float(tolerance)


def base_year(prior: xr.DataArray | xr.Dataset, neighbour: int) -> int:
    """Return the year of the map that changes are laid upon: its own, or else the neighbour of the first map.

    Raises
    ------
    PriorError
        If the map has several years.
    """
    years = years_of_map(prior)
    if len(years) > 1:
        raise PriorError(
            f"prior map is of {listed(years)}: choose the year from which changes count, prior.sel(time={years[-1]})"
        )
    return years[0] if years else neighbour


def conserving_of(
    totals: Totals,
    forcing: Forcing,
    years: tuple[int, ...],
    layers: Sequence[str],
    base: tuple[int, Source | None],
    *,
    step: int,
) -> Conserving:
    """Put together what blocks need to keep totals.

    Parameters
    ----------
    totals : Totals
    forcing : Forcing
    years : tuple of int
        Of the maps.
    layers : sequence of str
        Variables of the coarse field.
    base : (int, Source)
        Year and map that changes are laid upon, if changes are kept.
    step : int
        Years from a map to the one that is its prior: -1, or 1 back in time; 0 where that is the map of the base year.

    Raises
    ------
    TimeError
        If the forcing lacks a year of the maps or the base year.
    """
    require_years(forcing, years)
    start, (year, source) = None, base
    before: tuple[int, ...] = ()
    if totals.mode == "changes" and source is not None:
        if year not in forcing.years:
            remedy = (
                f"say which of its years the map stands for: prior.assign_coords(time={forcing.years[0]})"
                if not step
                else "give the map of a year that it holds as prior, and the years after it with years="
            )
            raise TimeError(
                f"conserve='changes' counts changes from {year}, the year of the prior map, which the forcing lacks "
                f"(it holds {listed(forcing.years)}): add that year to the forcing, or {remedy}"
            )
        start = Base(year, forcing.years.index(year), source.field)
        before = tuple(
            forcing.years.index(each + step) if step and each + step in years else start.position for each in years
        )
    positions = tuple(forcing.years.index(each) for each in years)
    places = {name: layers.index(name) for name in totals.states}
    return Conserving(totals.mode, totals.crosswalk, years, positions, places, start, before, totals.tolerance)


def read_crosswalk(path: str | Path) -> Crosswalk:
    """Read a crosswalk from a TOML file: a table ``states``, and lists ``remainder`` and ``protected``.

    Raises
    ------
    AllocationError
        If it cannot be read, or holds other entries.
    """
    entries = read_toml(local_path(path, what="a crosswalk"), _LARGEST, AllocationError)
    try:
        return Crosswalk(**entries)
    except (TypeError, ValueError) as error:
        if isinstance(error, AllocationError):
            raise AllocationError(f"{path}: {error}") from error
        raise AllocationError(
            f'{path} is no crosswalk ({error}): it needs a table [states] of state = "class", and may have the lists '
            "remainder and protected"
        ) from error
