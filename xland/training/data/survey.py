"""What a training store is made from: its sources, and one pass over them for counts and moments."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import dask
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from xland.errors import ConfigurationError, PriorError, TimeError, VocabularyError
from xland.forcing.read import Forcing, check_values, read_forcing
from xland.geo.grid import Grid, expand
from xland.geo.split import Part, divide
from xland.geo.years import listed
from xland.models.coverage import Coverage
from xland.models.inputs import Channel, InputSpec
from xland.training.configuration import Configuration
from xland.training.data.material import Moments, describe_data
from xland.training.data.pairing import compute_codes, find_covered, find_land, lay_maps, lay_static, pair_years

_ERRORS = {"target": VocabularyError, "prior": PriorError}


@dataclass(frozen=True)
class Sources:
    """Forcing, maps and static predictors of a training, lazy, on grids that nest.

    Parameters
    ----------
    configuration : Configuration
    forcing : Forcing
    static : Dataset
        ``(lat, lon)`` on the fine grid, from north to south.
    target : DataArray
        Class codes, ``(time, lat, lon)``.
    prior : DataArray or None
        The same for the adjacent years, where the inputs read one.
    pairs : list of (int, int)
        Years of forcing and map that belong together.
    description : dict
        For the card.
    """

    configuration: Configuration
    forcing: Forcing
    static: xr.Dataset
    target: xr.DataArray
    prior: xr.DataArray | None
    pairs: list[tuple[int, int]]
    description: dict[str, Any]

    @property
    def inputs(self) -> InputSpec:
        """Inputs of the configuration."""
        return self.configuration.inputs

    @property
    def grid(self) -> Grid:
        """Fine grid."""
        return self.forcing.grid.refine(self.inputs.factor)

    @property
    def variables(self) -> tuple[str, ...]:
        """Forcing variables that the channels are made of, those that need not be there if they are."""
        optional = [name for name in self.inputs.optional_coarse_variables if name in self.forcing.data]
        return tuple(dict.fromkeys((*self.inputs.coarse_variables, *optional)))

    @property
    def forcing_years(self) -> list[int]:
        """Years of the forcing that any map needs."""
        return sorted({year + step for year, _ in self.pairs for step in self.inputs.steps})

    @property
    def target_years(self) -> list[int]:
        """Years of the maps to learn from."""
        return sorted({mapped for _, mapped in self.pairs})

    @property
    def prior_years(self) -> list[int]:
        """Years of the prior maps; none where the inputs read none."""
        if self.prior is None:
            return []
        return [year + self.inputs.prior_step for year in self.target_years]

    def states(self, year: int) -> dict[str, NDArray[np.float32]]:
        """Read and check the forcing of one year, ``(1, coarse rows, coarse columns)`` each."""
        at = self.forcing.years.index(year)
        (states,) = dask.compute(self.forcing.data[list(self.variables)].isel(time=slice(at, at + 1)))
        values = {str(name): array.values for name, array in states.data_vars.items()}
        grid = self.forcing.grid
        check_values({name: array[0] for name, array in values.items()}, grid.latitude, grid.longitude, year)
        return values

    def fields(self, rows: slice) -> dict[str, NDArray[np.float32]]:
        """Read the static predictors of a strip, ``(rows, columns)`` each."""
        (strip,) = dask.compute(self.static.isel(lat=rows))
        return {str(name): array.values.astype(np.float32) for name, array in strip.data_vars.items()}

    def land(self, fields: dict[str, NDArray[np.float32]], rows: slice) -> NDArray[np.bool_]:
        """Fine cells of a strip whose class is learned, having checked the predictors there."""

        def states() -> dict[str, NDArray[np.float32]]:
            factor = self.inputs.factor
            first = self.forcing.data[list(self.variables)].isel(
                time=self.forcing.years.index(self.forcing_years[0]),
                lat=slice(rows.start // factor, rows.stop // factor),
            )
            return {str(name): array.values for name, array in first.compute().data_vars.items()}

        return find_land(fields, self.inputs, self.grid.window(rows, slice(0, self.grid.columns)), states)

    def codes(self, what: str, year: int, rows: slice) -> NDArray[np.uint8]:
        """Read and check the class codes of a strip of the ``target`` or ``prior`` of a year, ``(rows, columns)``."""
        maps = self.target if what == "target" or self.prior is None else self.prior
        return compute_codes(maps.sel(time=year).isel(lat=rows), self.inputs, f"{what} of {year}", _ERRORS[what])

    def strips(self, tile: int) -> list[slice]:
        """Rows that are held at a time: whole tiles, and at least as many as a chunk of the sources."""
        lazy = [self.target, *self.static.data_vars.values(), *([] if self.prior is None else [self.prior])]
        tallest = max([max(each.chunksizes["lat"]) for each in lazy if "lat" in each.chunksizes], default=1)
        height = -(-tallest // tile) * tile
        return [slice(first, min(first + height, self.grid.rows)) for first in range(0, self.grid.rows, height)]


def check_sources(
    configuration: Configuration,
    *,
    forcing: xr.Dataset,
    target: xr.DataArray,
    static: xr.Dataset,
    prior: xr.DataArray | None = None,
) -> Sources:
    """Check the structure of the sources without reading a map; errors are those of :func:`~.material.gather`.

    Parameters
    ----------
    configuration : Configuration
    forcing, target, static : optional
        As :func:`xland.training.data.material.gather` takes them.
    prior : DataArray, optional
        Maps of the adjacent years; by default those of the target, where the inputs read any.
    """
    inputs = configuration.inputs
    coarse = read_forcing(forcing, variables=inputs.coarse_variables)
    maps = lay_maps(target, coarse.grid, inputs.factor, "target")
    pairs = pair_years(configuration, coarse.years, maps["time"].values.tolist())
    description = describe_data(forcing=forcing, target=target, static=static)
    description["pairs"] = [list(pair) for pair in pairs]
    sources = Sources(
        configuration=configuration,
        forcing=coarse,
        static=lay_static(static, coarse.grid.refine(inputs.factor), inputs),
        target=maps,
        prior=_adjacent(maps, prior, coarse.grid, inputs),
        pairs=pairs,
        description=description,
    )
    if sources.prior is not None:
        there = sources.prior["time"].values.tolist()
        missing = sorted(set(sources.prior_years) - set(there))
        if missing:
            raise TimeError(f"prior lacks the years {listed(missing)}; it holds {listed(there)}")
    return sources


def _adjacent(target: xr.DataArray, prior: xr.DataArray | None, coarse: Grid, inputs: InputSpec) -> xr.DataArray | None:
    if inputs.prior == "none":
        return None
    return target if prior is None else lay_maps(prior, coarse, inputs.factor, "prior")


def survey(sources: Sources, tile: int, done: Callable[[], None]) -> dict[str, Any]:
    """Measure normalisation, cells and coverage, and compare prior maps with targets.

    Parameters
    ----------
    sources : Sources
    tile : int
        Rows of the tiles of the store, whole numbers of which are read at a time.
    done : callable
        Called after each of :func:`count_steps` steps.

    Returns
    -------
    dict
        JSON-ready: ``statistics`` (mean and scale by channel, over training cells), ``cells`` (fine cells
        that count, by part of the split), ``coverage``, and ``prior``: ``none``, ``target`` (prior and
        target agree in the years that both have) or ``own``.

    Raises
    ------
    ConfigurationError
        If no cell of the split's training part is land.
    """
    split = divide(sources.forcing.grid, sources.configuration.split_seed, sources.configuration.data.southern_limit)
    statistics, cells, training = _survey_static(sources, split, tile, done)
    if not cells["train"]:
        raise ConfigurationError(
            "no cell of the training part of the split is land: choose another split_seed or region"
        )
    coarse, covered = _survey_forcing(sources, training, done)
    return {
        "statistics": {name: list(each.normalisation) for name, each in {**coarse, **statistics}.items()},
        "cells": cells,
        "coverage": Coverage(sources.forcing.grid, covered).to_dict(),
        "prior": _survey_prior(sources, tile, done),
    }


def count_steps(sources: Sources, tile: int) -> int:
    """Count the steps of a survey."""
    shared = set(sources.target_years) & set(sources.prior_years) if _differs(sources) else ()
    return len(sources.strips(tile)) + len(sources.forcing_years) + len(shared)


def _survey_static(
    sources: Sources, split: NDArray[np.int8], tile: int, done: Callable[[], None]
) -> tuple[dict[str, Moments], dict[str, int], NDArray[np.bool_]]:
    """Moments of the static channels, fine cells by part, and the coarse cells that hold training cells."""
    factor = sources.inputs.factor
    plain = [Channel(channel.name, channel.sources, channel.transform) for channel in sources.inputs.static]
    moments = {channel.name: Moments() for channel in plain}
    cells: Counter[str] = Counter({part.name.lower(): 0 for part in Part})
    training = np.zeros(split.shape, dtype=np.bool_)
    for rows in sources.strips(tile):
        coarse_rows = slice(rows.start // factor, rows.stop // factor)
        fields = sources.fields(rows)
        land = sources.land(fields, rows)
        part = expand(split[coarse_rows], factor)
        learned = land & (part == Part.TRAIN)
        for channel in plain:
            moments[channel.name] += Moments.of(channel.compute(fields)[learned])
        for each in Part:
            cells[each.name.lower()] += int(np.count_nonzero(land & (part == each)))
        blocks = learned.reshape(-1, factor, split.shape[1], factor)
        training[coarse_rows] = blocks.any(axis=(1, 3))
        done()
    return moments, dict(cells), training


def _survey_forcing(
    sources: Sources, training: NDArray[np.bool_], done: Callable[[], None]
) -> tuple[dict[str, Moments], NDArray[np.bool_]]:
    """Moments of the coarse channels, each year as often as maps read it, and coarse cells with data in all years."""
    channels = [
        replace(channel, mean=0.0, scale=1.0)
        for channel in sources.inputs.coarse
        if channel.sources and set(channel.sources) <= set(sources.variables)
    ]
    moments = {channel.name: Moments() for channel in channels}
    covered = np.ones(training.shape, dtype=np.bool_)
    times = Counter(year + step for year, _ in sources.pairs for step in sources.inputs.steps)
    for year in sources.forcing_years:
        values = sources.states(year)
        for channel in channels:
            moments[channel.name] += Moments.of(channel.compute(values)[:, training]) * times[year]
        covered &= find_covered([values])
        done()
    return moments, covered


def _survey_prior(sources: Sources, tile: int, done: Callable[[], None]) -> str:
    if sources.prior is None:
        return "none"
    if not _differs(sources):
        return "target"
    agree = True
    for year in sorted(set(sources.target_years) & set(sources.prior_years)):
        agree = agree and all(
            np.array_equal(sources.codes("target", year, rows), sources.codes("prior", year, rows))
            for rows in sources.strips(tile)
        )
        done()
    return "target" if agree else "own"


def _differs(sources: Sources) -> bool:
    """Whether the maps of the prior are given for themselves."""
    return sources.prior is not None and sources.prior is not sources.target
