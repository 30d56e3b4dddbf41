"""What a training is made from: its sources, laid on grids that nest, and one pass over them for normalisation."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, NamedTuple

import dask
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from xland.errors import ConfigurationError, PriorError, StaticError, TimeError, VocabularyError
from xland.forcing.read import check_values, read_forcing
from xland.geo.conventions import listed
from xland.geo.grid import Grid, expand, nesting_factor
from xland.geo.orientation import orient
from xland.geo.split import Part, assign_years, divide
from xland.models.applicability import Coverage
from xland.models.inputs import MASKED, Channel
from xland.reading.limits import check_share, check_unknown_land, checked_predictor
from xland.reading.variables import as_map, read_static
from xland.training.configuration import Configuration
from xland.vocabulary import LUH_SECONDARY, check_codes

Fields = dict[str, NDArray[np.float32]]
_ERRORS = {"target": VocabularyError, "prior": PriorError}


class Sources:
    """Forcing, maps and static predictors of a training, lazy, from north to south, on grids that nest.

    ``target`` and ``prior`` are class codes (time, lat, lon), ``static`` has (lat, lon); ``pairs`` are the years of
    forcing and map that belong together; ``prior`` is None where the inputs read none, and the target itself unless it
    is given; ``part`` is the part of the split of each coarse cell. No map is read, and an XlandError names what does
    not fit.
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
        self.forcing_years = sorted({year + step for year, _ in self.pairs for step in inputs.steps})
        self.target_years = sorted({mapped for _, mapped in self.pairs})
        self.prior_years: list[int] = []
        if self.prior is not None:
            self.prior_years = [year + inputs.prior_step for year in self.target_years]
            there = self.prior["time"].values.tolist()
            missing = sorted(set(self.prior_years) - set(there))
            if missing:
                raise TimeError(f"prior lacks the years {listed(missing)}; it holds {listed(there)}")

    def states(self, year: int) -> Fields:
        """Read and check the forcing of one year, ``(1, coarse rows, coarse columns)`` each."""
        at = self.forcing.years.index(year)
        (states,) = dask.compute(self.forcing.data[list(self.variables)].isel(time=slice(at, at + 1)))
        values = {str(name): array.values for name, array in states.data_vars.items()}
        check_values({name: array[0] for name, array in values.items()}, self.forcing.grid.centres, year)
        return values

    def strip(self, rows: slice) -> tuple[Fields, NDArray[np.bool_]]:
        """Read and check the static predictors of a strip; return them, and where a class is learned (rows, columns).

        Values in the sea that cannot be are replaced by NaN.
        """
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
        missing = [year + step for step in configuration.inputs.steps if year + step not in forcing]
        if missing:
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
    """Number, mean and sum of squared deviations of some values, which add up without loss where the mean is large.

    See Chan, Golub and LeVeque (1979).
    """

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


class Survey(NamedTuple):
    """What one pass over the sources finds.

    Mean and scale of each channel over the training cells; fine cells that count, by the name of their part of the
    split; and the coarse cells that have data in all years.
    """

    statistics: dict[str, tuple[float, float]]
    cells: dict[str, int]
    coverage: Coverage


def survey(
    sources: Sources,
    strips: Iterable[tuple[slice, Fields, NDArray[np.bool_]]],
    states: Iterable[tuple[list[Fields], int]],
) -> Survey:
    """Measure sources as they are read.

    ``strips`` are rows with what :meth:`Sources.strip` returns; ``states`` are some years of forcing, and how often
    they count.
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
    return Survey(statistics, dict(cells), Coverage.of(sources.forcing.grid, covered))
