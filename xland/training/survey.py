"""What must be known of the sources before a training store can be written: one pass over them, strip by strip."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xland.batches.split import Part, divide
from xland.errors import ConfigurationError
from xland.grid import expand
from xland.inputs import Channel
from xland.models.coverage import Coverage
from xland.training.alignment import find_covered
from xland.training.moments import Moments
from xland.training.sources import Sources


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
