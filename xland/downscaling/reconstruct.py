"""One product through time: history backward from an observed record, the record itself, and futures forward from it.

The parts are downscalings like any other, put behind each other along time. Scenarios are a dimension, so that each of
them is one series from the first year to the last; the maps of the past are computed once, and stored with each.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from os import PathLike
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from xland.arguments import checked, shown, unknown
from xland.downscaling.call import Device, Region, downscale, whole_years
from xland.downscaling.fields import crop, field_of
from xland.errors import ForcingError, ModelError, PriorError, TimeError, VocabularyError
from xland.forcing.read import Forcing, find_sources, join_forcing, read_forcing
from xland.geo.conventions import index_by, listed, missing_years, with_years
from xland.geo.grid import Grid
from xland.geo.orientation import Names, Orientation, orient, restore
from xland.models import DEFAULT_MODEL, Model, find_model
from xland.models.inputs import InputSpec
from xland.reading.limits import ValueProblem
from xland.reading.variables import ClassMap, as_map, map_of
from xland.scores.frames import as_dask
from xland.store.provenance import Publisher, describe_product, digest_of, identity_of, list_licences, read_publisher
from xland.totals.modes import MODES, Totals
from xland.vocabulary import OCEAN, check_codes, flag_attributes

_META = np.empty((0, 0, 0), np.uint8)

SOURCES = ("reconstructed", "observed", "projected")
"""What a year of a product is, in the order of the codes of ``source``."""

Years = int | Sequence[int] | slice | None


@dataclass(frozen=True)
class _Part:
    """Maps of some years, (years, rows, columns), and what they say of themselves."""

    source: int
    scenario: str
    years: tuple[int, ...]
    maps: da.Array
    about: Mapping[str, Any]


@checked(ModelError)
def reconstruct(
    *,
    history: xr.Dataset | None = None,
    observed: xr.DataArray | None = None,
    futures: Mapping[str, xr.Dataset] | xr.Dataset | None = None,
    model: Model = DEFAULT_MODEL,
    past_model: Model | None = None,
    static: xr.Dataset | None = None,
    other_static: bool = False,
    years: int | Sequence[int] | slice | None = None,
    region: Region | None = None,
    chunks: int | None = None,
    device: Device = "auto",
    flips: bool = False,
    totals: str | Totals | None = "changes",
    publisher: str | PathLike[str] | None = None,
) -> xr.Dataset:
    """Join history, an observed record and one or several futures into one lazy product.

    History is computed backward from the first observed year, and futures forward from the last. Any of the three may
    be missing, but not both history and futures. Without an observed record, futures begin after the last year of
    history. Write the product with :func:`xland.store.writing.write`, which resumes it after an interruption.

    Parameters
    ----------
    history : Dataset, optional
        Coarse states of the past, as for `downscale`. With ``totals="changes"`` they have the first observed year, too.
    observed : DataArray, optional
        Class codes on the fine grid, one map for each year, wherever the forcing is. Where the first of these maps has
        ocean or no data, the product has so in all years; elsewhere it has land, or water within it, in all years.
    futures : Dataset, or mapping of name to Dataset, optional
        Coarse states after the record. Scenarios by name are along the dimension ``scenario`` of the product; they have
        the same years and share the past. Years after the record that a future lacks are taken from history.
    model : str, path or Checkpoint; or a list of them
        As for `downscale`. A model that reads a prior has to go forward for futures, and backward for history.
    past_model : str, path or Checkpoint; or a list of them, optional
        Model for history, by default the same.
    static : Dataset, optional
        Static predictors on the fine grid; by default those of `xland.datasets`.
    other_static : bool
        Let a model that was trained with static predictors of its own read others.
    years : int, sequence of int or slice, optional
        Calendar years of the product; by default all from the first of history to the last of the futures, which then
        must follow each other.
    region : (west, south, east, north), optional
        Degrees; grown to whole coarse cells.
    chunks : int, optional
        Fine cells along a block, a multiple of the model's factor.
    device : {"auto", "cpu", "cuda"}
        Where the network runs.
    flips : bool
        Average over four mirror images, at four times the cost.
    totals : str or Totals, optional
        Coarse totals that are kept, by default as changes since the first or the last observed year, so that class
        areas do not jump where the record begins and ends. This needs an observed record.
    publisher : path, optional
        TOML file with the licence, institution, contact and DOI that the product states.

    Returns
    -------
    Dataset
        ``land_use`` (time, lat, lon), uint8 class codes, or (time, scenario, lat, lon) if futures have names, which are
        in ``scenario_name``: ``product.sel(scenario_name="ssp245")``. ``source`` (time) says of each year whether it is
        reconstructed (0), observed (1) or projected (2). The attribute ``xland_parts`` has the years, model and inputs
        of each part as JSON.

    Raises
    ------
    XlandError
        What `downscale` raises, and before: ForcingError if neither history nor futures are given, or are on different
        cells; TimeError if years are missing between the parts, or scenarios have different years; PriorError if the
        observed record does not say its years or has a hole. When values are computed: PriorError if observed years
        disagree on where land is, ForcingError if scenarios do not share the past.
    """
    scenarios = _by_name(futures)
    kept = Totals(totals) if totals is not None and not isinstance(totals, Totals) else totals
    changes = kept is not None and MODES[kept.mode].changes
    if kept is not None and changes and observed is None:
        raise ModelError(
            f"totals={kept.mode!r} applies changes to an observed map: give observed=, or choose totals=None, "
            "'fractions' or 'map'"
        )
    backward, forward = find_model(past_model or model).inputs, find_model(model).inputs
    if history is not None and backward.prior != "none" and backward.prior_step == -1:
        raise ModelError(
            "history goes backward, and the model has learned to go forward: give one that goes backward as past_model="
        )
    past = None if history is None else _read(history, backward, kept)
    after = {name: _read(each, forward, kept) for name, each in scenarios.items()}
    if past is None and not after:
        raise ForcingError("there is nothing to reconstruct: give the forcing of history=, of futures=, or both")
    record = None if observed is None else _read_record(observed)
    span = _span(past, record, after)
    shared = past or next(iter(after.values()))
    if past is None:  # the years that scenarios share
        common = tuple(year for year in shared.years if year <= span[1])
        shared = replace(shared, data=shared.data.sel(time=list(common)), years=common)
    joined = {name: _join(shared, each, span[1], forward, name) for name, each in after.items()}
    chosen = _choose_years(past, joined, record, span, years, (backward, forward))
    how: dict[str, Any] = {
        "static": static,
        "other_static": other_static,
        "region": region,
        "chunks": chunks,
        "device": device,
        "flips": flips,
        "totals": kept,
        "publisher": publisher,
    }
    made: list[_Part] = []
    start = None if record is None else record.data
    if past is not None and chosen[0]:
        prior = _prior(start, 0, backward, changes=changes)
        way: dict[str, Any] = {"years": chosen[0], "direction": "backward"}
        maps = downscale(past.data, model=past_model or model, prior=prior, **way, **how)
        made.append(_Part(0, "", tuple(chosen[0]), maps["land_use"].data, maps.attrs))
        start = maps["land_use"] if start is None else start
    for name, states in joined.items() if chosen[2] else ():
        prior = _prior(start, -1, forward, changes=changes)
        maps = downscale(states, model=model, prior=prior, years=chosen[2], direction="forward", **how)
        made.append(_Part(2, name, tuple(chosen[2]), maps["land_use"].data, maps.attrs))
    if not made:
        raise TimeError(f"no year is left to reconstruct or to project beside the observed {listed(chosen[1])}")
    grid = orient(maps, what="maps")[1].grid
    if record is not None:
        made = _with_record(made, record, observed, grid, chosen[1])
    product = _put_together(made, grid, tuple(filter(None, scenarios)))
    return _describe(product, made, (past or next(iter(after.values()))).orientation, read_publisher(publisher))


def choose_scenario(product: xr.Dataset, name: str | None) -> xr.Dataset:
    """Return one scenario of a product; VocabularyError if there is none of that name, or the name is missing."""
    there = [] if "scenario_name" not in product.coords else product["scenario_name"].values.tolist()
    if not there and name is None:
        return product
    if name not in there:
        raise VocabularyError(unknown("scenario", name, there))
    return product.isel(scenario=there.index(name))


def _by_name(futures: Any) -> dict[str, xr.Dataset]:
    """Return scenarios by their names; one without a name is called ``""``."""
    if futures is None or isinstance(futures, xr.Dataset):
        return {} if futures is None else {"": futures}
    if not isinstance(futures, Mapping) or not all(isinstance(name, str) and name.strip() for name in futures):
        raise ForcingError(f"futures must be a Dataset, or a mapping of names to Datasets, not {shown(futures)}")
    return dict(futures)


def _read(ds: xr.Dataset, inputs: InputSpec, totals: Totals | None) -> Forcing:
    """Bring a forcing to the canonical form, with all that the model reads or totals need as far as it is there."""
    names = [*inputs.coarse_variables, *inputs.optional_coarse_variables]
    if totals is not None:
        names += [*dict(totals.crosswalk.states), *inputs.classes]
    there = find_sources(ds, list(dict.fromkeys(names)))
    forcing = read_forcing(ds, variables=tuple(dict.fromkeys([*inputs.coarse_variables, *there])))
    return replace(forcing, data=forcing.data[[name for name in dict.fromkeys(names) if name in forcing.data]])


def _read_record(observed: Any) -> ClassMap:
    """Read the observed record: a map for each year, without a hole."""
    record = as_map(observed, what="observed record", error=PriorError)
    years = [year for year in record.years if year is not None]
    if len(years) < len(record.years):
        raise PriorError("the observed record does not say its years: give it time, observed.assign_coords(time=[...])")
    if years != sorted(years) or missing_years(years):
        gaps = missing_years(years)
        fault = f"has no map of {listed(gaps)}" if gaps else f"is not in the order of its years: {listed(years)}"
        raise PriorError(
            f"the observed record {fault}; add or sort them, or give the part that is whole: "
            f"observed.sel(time=slice({years[0]}, ...))"
        )
    return record


def _span(past: Forcing | None, record: ClassMap | None, after: Mapping[str, Forcing]) -> tuple[int, int]:
    """Return the first and the last observed year; without any, the years around the seam of history and future."""
    if record is not None:
        return int(record.years[0] or 0), int(record.years[-1] or 0)
    if past is not None:
        return past.years[-1] + 1, past.years[-1]
    last = min(each.years[0] for each in after.values()) - 1
    return last + 1, last


def _join(shared: Forcing, future: Forcing, last: int, inputs: InputSpec, name: str) -> xr.Dataset:
    what = f"scenario {name!r}" if name else "future"
    first = last + min(0, *(step + 1 for step in inputs.steps)) * max(inputs.intervals)
    return join_forcing(shared, future, first, last, name=what)


def _choose_years(
    past: Forcing | None,
    joined: Mapping[str, xr.Dataset],
    record: ClassMap | None,
    span: tuple[int, int],
    years: Years,
    inputs: tuple[InputSpec, InputSpec],
) -> tuple[list[int], list[int], list[int]]:
    """Return the years that are reconstructed, observed and projected; TimeError if some are missing."""

    def mapped(there: Sequence[int], spec: InputSpec) -> list[int]:
        if not (years is None or isinstance(years, slice)):
            return list(there)  # whether their states are there is checked when they are mapped
        known = set(there)
        return [year for year in there if any(known >= {*spec.states_of(year, each)} for each in spec.intervals)]

    before = [] if past is None else [year for year in mapped(past.years, inputs[0]) if year < span[0]]
    seen = [] if record is None else [int(year or 0) for year in record.years]
    futures = {
        name: [year for year in mapped(each["time"].values.tolist(), inputs[1]) if year > span[1]]
        for name, each in joined.items()
    }
    wanted = _wanted(years, [*before, *seen, *(year for each in futures.values() for year in each)])
    own = {name: [year for year in each if year in wanted] for name, each in futures.items()}
    if len({tuple(each) for each in own.values()}) > 1:
        listing = "; ".join(f"{name} {listed(each) or 'none'}" for name, each in own.items())
        raise TimeError(
            f"scenarios along one dimension need the same years, and these have {listing}: choose those that all have "
            "with years=, or reconstruct each alone"
        )
    parts = [year for year in before if year in wanted], [year for year in seen if year in wanted]
    after = next(iter(own.values()), [])
    gaps = missing_years([*parts[0], *parts[1], *after]) if years is None else ()
    if gaps:
        raise TimeError(
            f"the parts do not follow each other: no forcing or map has {listed(gaps)}; add these years, or choose "
            "those of the product with years="
        )
    return *parts, after


def _wanted(years: Years, there: Sequence[int]) -> set[int]:
    """Return which years are in the product; TimeError for those that no part has."""
    if years is None or isinstance(years, slice):
        ends = slice(None) if years is None else years
        first = -np.inf if ends.start is None else whole_years(ends.start)[0]
        last = np.inf if ends.stop is None else whole_years(ends.stop)[0]
        return {year for year in there if first <= year <= last}
    chosen = set(whole_years(years))
    if missing := sorted(chosen - set(there)):
        raise TimeError(f"no part of the product has {listed(missing)}; there are {listed(sorted(set(there)))}")
    return chosen


def _prior(maps: xr.DataArray | None, edge: int, inputs: InputSpec, *, changes: bool) -> xr.DataArray | None:
    """Return the maps that a part begins with: all that a rollout may read, or the one that changes are applied to."""
    if maps is None or (inputs.prior == "none" and not changes):
        return None
    return maps.isel(time=[edge]) if inputs.prior == "none" else maps


def _with_record(
    parts: Sequence[_Part], record: ClassMap, observed: Any, grid: Grid, years: Sequence[int]
) -> list[_Part]:
    """Return the parts with that of the observed record, which says for all of them where land is."""
    field_of([record.data.isel(time=0)], "observed record", grid, PriorError)  # refuses other cells
    blocks = parts[0].maps.chunks[1:]
    cells = crop(as_dask(record.data), record.grid, grid).rechunk((1, *blocks))
    found = []
    for part in parts:
        edge = cells[:1] if part.source == 0 else cells[-1:]
        data = da.map_blocks(_on_land, part.maps.rechunk((1, *blocks)), edge, dtype=np.uint8, meta=_META)
        found.append(replace(part, maps=data))
    if not years:
        return found
    check = [partial(_check_land, grid=grid, year=year, first=record.years[0]) for year in years]
    at = [record.years.index(year) for year in years]
    maps = [
        da.map_blocks(one, cells[n : n + 1], cells[:1], dtype=np.uint8, meta=_META)
        for one, n in zip(check, at, strict=True)
    ]
    licences = list_licences({}, {"observed": map_of(observed, "observed record")})[1:]
    about = {"xland_fingerprint": identity_of(observed), "xland_licences": json.dumps(licences)}
    return [*found, _Part(1, "", tuple(years), da.concatenate(maps), about)]


def _on_land(codes: NDArray[np.uint8], edge: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return maps that have ocean where the nearest observed one has, and its class where the model knows no land."""
    return np.where((codes == OCEAN) | (edge == OCEAN), edge, codes).astype(np.uint8, copy=False)


def _check_land(
    codes: NDArray[Any], first_codes: NDArray[Any], *, grid: Grid, year: int, first: int | None, block_info: Any = None
) -> NDArray[np.uint8]:
    """Return the observed map of a year; PriorError if it has land where the first one has ocean, or ocean on land."""
    _, rows, columns = block_info[0]["array-location"]
    place = grid.latitude[slice(*rows)], grid.longitude[slice(*columns)]
    begin, found = (
        check_codes(each, what="observed record", latitude=place[0], longitude=place[1], error=PriorError)
        for each in (first_codes, codes)
    )
    different = ((found == OCEAN) != (begin == OCEAN))[0]
    if different.any():
        fault = f"of {year} are ocean or no data where the map of {first} has land, or the other way round"
        remedy = "give maps that agree on where land is, or fill the cells that a year lacks"
        raise PriorError(ValueProblem.at("observed record", different, place, fault, remedy).sentence)
    return found


def _put_together(parts: Sequence[_Part], grid: Grid, names: Sequence[str]) -> xr.Dataset:
    """Put parts behind each other along time; scenarios are stacked, and the past stands in each."""
    by_source = {source: [part for part in parts if part.source == source] for source in range(len(SOURCES))}
    sources = [source for source, found in by_source.items() if found]
    series = [
        da.concatenate([by_source[source][min(number, len(by_source[source]) - 1)].maps for source in sources])
        for number in range(max(1, len(names)))
    ]
    dims = ("time", "scenario", "lat", "lon") if names else ("time", "lat", "lon")
    years = [year for source in sources for year in by_source[source][0].years]
    flags = [source for source in sources for _ in by_source[source][0].years]
    about = {"flag_values": np.arange(len(SOURCES), dtype=np.int8), "flag_meanings": " ".join(SOURCES)}
    coordinates: dict[str, Any] = {
        "time": ("time", np.array(years, dtype=np.int64)),
        "lat": ("lat", grid.latitude),
        "lon": ("lon", grid.longitude),
        "source": ("time", np.array(flags, dtype=np.int8), {"long_name": "what the map of a year is", **about}),
    }
    if names:
        numbers = np.arange(len(names), dtype=np.int8)
        coordinates["scenario"] = ("scenario", numbers, {"long_name": "number of the scenario"})
        coordinates["scenario_name"] = ("scenario", np.array(names), {"long_name": "name of the scenario"})
    maps = da.stack(series, axis=1) if names else series[0]
    return xr.Dataset({"land_use": (dims, maps, flag_attributes())}, coordinates)


def _describe(
    product: xr.Dataset, parts: Sequence[_Part], orientation: Orientation, publisher: Publisher | None
) -> xr.Dataset:
    """Bring a product to the caller's order and names, and let it say what each of its years is made from."""
    time = orientation.names.get("time", Names("time", "time"))
    years = product["time"].values.tolist()
    product = with_years(restore(product, orientation), years, time.dimension, time.coordinate)
    table: dict[str, dict[str, str]] = {}
    listing, models = [], {}
    for part in sorted(parts, key=lambda each: each.source):
        said = part.about
        entry: dict[str, Any] = {"source": SOURCES[part.source], "scenario": part.scenario, "years": listed(part.years)}
        entry |= {"model": said.get("xland_model"), "model_sha256": said.get("xland_model_sha256")}
        entry |= {"totals": said.get("xland_conserve"), "inputs": json.loads(said.get("xland_inputs", "{}"))}
        entry["fingerprint"] = said["xland_fingerprint"]
        listing.append({name: value for name, value in entry.items() if value})
        models[said.get("xland_model", "")] = said.get("xland_model_sha256", "")
        table |= {json.dumps(row, sort_keys=True): row for row in json.loads(said.get("xland_licences", "[]"))}
    models.pop("", None)
    described = describe_product(
        index_by(product, "scenario_name"),
        summary="Class of land use in each cell and year: reconstructed, observed and projected by xland",
        source="; ".join(f"{each['years']} {each['source']}" for each in listing),
        model={"name": ", ".join(models), "sha256": ", ".join(models.values())},
        inputs={f"{each['source']} {each.get('scenario', '')}".strip(): each["fingerprint"] for each in listing},
        licences=list(table.values()),
        publisher=publisher,
        extent=False,
    )
    return described.assign_attrs(xland_parts=json.dumps(listing), xland_fingerprint=digest_of(listing))
