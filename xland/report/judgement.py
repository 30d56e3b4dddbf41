"""What a report judges: a map, the observed one and baselines; their scores, and thinned maps to draw. No page."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple, TypeVar

import dask
import dask.array as da
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from xland.errors import NothingToScoreError, TimeError, UndefinedScoreWarning
from xland.geo.grid import Grid
from xland.geo.orientation import orient
from xland.outputs import OUTPUTS
from xland.plot import stride
from xland.reading.variables import ClassMap, as_map, map_years
from xland.scores.agreement import CoarseAgreement, coarse_agreement, sum_up
from xland.scores.change import ChangeScores, assess_change
from xland.scores.counts import BLANK, blocks_of, mode
from xland.scores.evaluation import Comparison, compare
from xland.scores.frames import as_dask, class_dimension, edges, one_step, place
from xland.scores.landscape import LandscapeScores, assess_landscape, fitting_scales
from xland.scores.regions import Regions, number_map
from xland.scores.reliability import Reliability, assess_reliability
from xland.totals.crosswalk import Crosswalk
from xland.vocabulary import CLASSES, OCEAN

MAX_PIXELS = 750_000
"""Cells of each map that the page shows at most."""

CHANGE_KINDS = ("no change", "hit", "miss", "false alarm", "wrong hit")
"""What a prediction of change comes to in a cell, in the order of the codes."""

_Found = TypeVar("_Found")

WINDOWS = (1, 2, 4, 8, 16, 32, 64)
"""Cells along the windows in which change is compared, as far as they fit into the map."""


@dataclass(frozen=True, eq=False)
class Judgement:
    """A map beside an observed one and its baselines; each score is computed when it is first asked for.

    ``maps`` are class codes of one time step by name, the judged map ``model`` first; ``layers``, what else its
    store contains; ``reference``, name, source and licence of the observed map; ``forcing``, coarse shares of one
    year; ``start``, the map from which change is counted; ``names``, the scores to show. For the rest see
    :func:`xland.report.report.report`.
    """

    title: str
    model: str
    maps: dict[str, xr.DataArray]
    observed: xr.DataArray
    layers: dict[str, xr.DataArray] = field(default_factory=dict)
    forcing: xr.Dataset | None = None
    start: xr.DataArray | None = None
    regions: Regions | None = None
    within: xr.DataArray | NDArray[np.bool_] | None = None
    cells: str | None = None
    factor: int = 5
    crosswalk: Crosswalk | None = None
    names: Sequence[str] | None = None
    notes: Sequence[str] = ()
    reference: Mapping[str, str] = field(default_factory=dict)
    card: Mapping[str, Any] | None = None
    provenance: Mapping[str, Any] | None = None
    max_pixels: int = MAX_PIXELS

    @cached_property
    def scores(self) -> Comparison:
        """Scores of the map and its baselines on all, land and mixed cells, and in each region."""
        return compare(
            self.maps, self.observed, regions=self.regions, scores=self.names, factor=self.factor, **self._how
        )

    @property
    def by_region(self) -> dict[str, Comparison]:
        """Scores of each region by its name; empty without regions."""
        return self.scores.by_region

    @property
    def _how(self) -> dict[str, Any]:
        """Options of all scores; whether years match was checked when the report was made."""
        return {"within": self.within, "cells": self.cells, "match_years": False}

    @cached_property
    def change(self) -> dict[str, ChangeScores]:
        """Scores of change by name of the map, windows of many sizes for the judged one; empty without a start map.

        All NaN, with an UndefinedScoreWarning, where no cell has land use in both the start and the observed map.
        """
        start = self.start
        if start is None:
            return {}
        shortest = min(as_map(self.maps[self.model], what="map").grid.shape)
        windows = tuple(size for size in WINDOWS if size == 1 or 2 * size <= shortest)
        factors = {name: windows if name == self.model else (1,) for name in self.maps}
        found = self._unless_empty(
            "change is not scored",
            lambda: {
                name: assess_change(start, self.observed, each, factors=factors[name], **self._how)
                for name, each in self.maps.items()
            },
        )
        if found is not None:
            return found
        years = [map_years(each, "map")[0] for each in (start, self.observed, *self.maps.values())]
        empty = np.zeros((len(CLASSES),) * 3)
        return {
            name: ChangeScores(empty, empty[0], years=(years[0], years[1], year), cells=self.scores[name].cells)
            for name, year in zip(self.maps, years[2:], strict=True)
        }

    @cached_property
    def landscape(self) -> LandscapeScores | None:
        """Landscape pattern of the observed map, the judged one and the baselines, at several scales.

        None, with an UndefinedScoreWarning, where no land was observed.
        """
        scales = fitting_scales(as_map(self.maps[self.model], what="map").grid, self.factor)
        how = {"factor": self.factor, "scales": scales, **self._how}
        return self._unless_empty("the landscape is not measured", assess_landscape, self.maps, self.observed, **how)

    @cached_property
    def reliability(self) -> Reliability | None:
        """Whether probabilities are what they say; None without probabilities.

        None, with an UndefinedScoreWarning, where no land was observed.
        """
        if "probability" not in self.layers:
            return None
        how = {"decided": self.maps[self.model], "within": self.within, "match_years": False}
        probability = self.layers["probability"]
        return self._unless_empty("probabilities are not judged", assess_reliability, probability, self.observed, **how)

    def _unless_empty(self, undefined: str, assess: Callable[..., _Found], *maps: Any, **how: Any) -> _Found | None:
        """Return scores; None, with a warning, where nothing is left to score. An empty mask is refused."""
        try:
            return assess(*maps, **how)
        except NothingToScoreError as error:
            _ = self.scores  # an empty mask leaves nothing of the other scores either
            warnings.warn(f"{undefined}: {error}", UndefinedScoreWarning, stacklevel=4)
        return None

    @cached_property
    def coarse(self) -> CoarseAgreement | None:
        """Agreement of the map with the coarse forcing; None without a forcing."""
        return None if self.agreement is None else sum_up(self.agreement)

    @cached_property
    def agreement(self) -> xr.Dataset | None:
        """Differences between the map and the coarse forcing, cell by cell, in memory; None without a forcing."""
        if self.forcing is None:
            return None
        judged, forcing = self.maps[self.model], self.forcing
        if None not in as_map(judged, what="map").years:
            # without its time the forcing is of the year of the map: a warning of another one was given
            forcing = forcing.isel(time=0, drop=True)
        return coarse_agreement(judged, forcing, factor=self.factor, crosswalk=self.crosswalk).compute()

    @cached_property
    def overview(self) -> Overview:
        """Thinned maps, for the pictures."""
        maps = {name: one_step(each, f"map {name!r}") for name, each in self.maps.items()}
        fields = {name: one_step(self.layers[name], name) for name in drawn_fields() if name in self.layers}
        if self.agreement is not None:
            name, grid = "coarse difference", maps[self.model].grid.coarsen(self.factor)
            fields[name] = ClassMap(self.agreement["largest"].expand_dims("time"), grid, (None,), name)
        return look_over(
            maps,
            one_step(self.observed, "observed map"),
            start=None if self.start is None else one_step(self.start, "start map"),
            regions=self.regions,
            fields=fields,
            max_pixels=self.max_pixels,
        )


class Layer(NamedTuple):
    """A layer of numbers: its name on the page, what to look for, and its fixed range, if it has one."""

    title: str
    look: str
    ends: tuple[float, float] | None = None


def drawn_fields() -> dict[str, Layer]:
    """Return the layers that are drawn, in this order: those of the store, and one that is made from the forcing."""
    stored = {
        each.name: Layer(each.long_name.capitalize(), each.look, tuple(each.attributes.get("valid_range", ())) or None)
        for each in OUTPUTS.values()
        if each.look
    }
    look = "Bright cells have more or less of a class than the forcing."
    return {**stored, "coarse difference": Layer("Largest difference from the coarse shares", look)}


def extra_layers(predicted: xr.DataArray | xr.Dataset, year: int | None) -> dict[str, xr.DataArray]:
    """Return ``probability`` and those of :func:`drawn_fields` that a Dataset has, for one year; none of a plain map.

    Without ``margin`` it is made from the probabilities, lazily. Raises :class:`TimeError` if a layer of several steps
    lacks the year, :class:`GridError` if the probabilities do not have exactly one dimension of classes.
    """
    if not isinstance(predicted, xr.Dataset):
        return {}
    names = [name for name in ("probability", *drawn_fields()) if name in predicted.data_vars]
    found = {name: _at(predicted[name], year, name) for name in names}
    if "probability" in found and "margin" not in found:
        probability = found["probability"]
        dim = class_dimension(probability, "the layer 'probability'")
        found["margin"] = xr.apply_ufunc(
            _margin,
            probability.chunk({dim: -1}),
            input_core_dims=[[dim]],
            dask="parallelized",
            output_dtypes=[np.float32],
        )
    return found


def _at(layer: xr.DataArray, year: int | None, name: str) -> xr.DataArray:
    data, _ = orient(layer, what=f"layer {name!r}")
    if data.sizes.get("time", 1) == 1:
        return data
    years = map_years(data, f"layer {name!r}")
    if year not in years:
        raise TimeError(f"the layer {name!r} has {len(years)} years, but not {year}")
    return data.isel(time=[years.index(year)])


def _margin(probability: NDArray[np.float32]) -> NDArray[np.float32]:
    second, best = np.moveaxis(np.partition(probability, -2, axis=-1)[..., -2:], -1, 0)
    return (best - second).astype(np.float32)


@dataclass(frozen=True)
class Overview:
    """Thinned maps on the cells of the judged map.

    ``grid`` is that of the judged map, ``step`` the cells along the blocks that became one cell. ``codes`` are the most
    frequent classes, :data:`BLANK` where a map has no cell; ``differs``, the shares of the cells with another class
    than the observed map, NaN over ocean and beyond; ``sea``, where the observed map is mostly ocean; ``changes``,
    positions in :data:`CHANGE_KINDS`, the most frequent kind among the cells that change; ``regions``, numbers from 0;
    ``fields``, means of further layers, each with its own grid and where to draw the sea.
    """

    grid: Grid
    step: int
    codes: dict[str, NDArray[np.uint8]]
    differs: dict[str, NDArray[np.float32]]
    sea: NDArray[np.bool_]
    changes: NDArray[np.uint8] | None = None
    regions: NDArray[np.uint8] | None = None
    fields: dict[str, tuple[NDArray[np.float32], Grid, NDArray[np.bool_] | None]] = field(default_factory=dict)


def look_over(
    maps: Mapping[str, ClassMap],
    observed: ClassMap,
    *,
    start: ClassMap | None = None,
    regions: Regions | None = None,
    fields: Mapping[str, ClassMap],
    max_pixels: int,
) -> Overview:
    """Thin all maps, the judged one first, and further layers to about ``max_pixels`` cells, reading each once."""
    frame = next(iter(maps.values()))
    step = stride(frame.grid, max_pixels)
    given = {**({} if start is None else {"start": start}), "observed": observed, **maps}
    placed = {name: place(each, frame, BLANK).astype(np.uint8) for name, each in given.items()}
    truth = placed["observed"]
    inside = (truth != BLANK) & (truth != OCEAN)
    lazy: dict[str, Any] = {
        "codes": {name: thin(each, step, mode) for name, each in placed.items()},
        "differs": {
            name: thin(
                da.where(
                    inside & (placed[name] != BLANK), (placed[name] != truth).astype(np.float32), np.float32(np.nan)
                ),
                step,
                mean,
            )
            for name in maps
        },
        "fields": {
            name: thin(as_dask(each.data)[0].astype(np.float32), stride(each.grid, max_pixels), mean)
            for name, each in fields.items()
        },
    }
    if start is not None:
        changes = _changes(placed["start"], truth, placed[next(iter(maps))], inside)
        lazy["changes"] = thin(changes, step, _most_change)
    if regions is not None:
        numbers = place(number_map(regions), frame, 0)
        lazy["regions"] = thin(da.where(numbers == 0, np.uint8(BLANK), numbers - 1), step, mode)
    (read,) = dask.compute(lazy)
    sea = read["codes"]["observed"] == OCEAN
    drawn = {
        name: (read["fields"][name], each.grid, sea if each.grid.same_as(frame.grid) else None)
        for name, each in fields.items()
    }
    changed, numbered = read.get("changes"), read.get("regions")
    return Overview(frame.grid, step, read["codes"], read["differs"], sea, changed, numbered, drawn)


def _changes(before: da.Array, truth: da.Array, forecast: da.Array, inside: da.Array) -> da.Array:
    known = inside & (before != BLANK) & (before != OCEAN) & (forecast != BLANK)
    changed, foretold, right = truth != before, forecast != before, forecast == truth
    kinds = da.where(changed, da.where(right, 1, da.where(foretold, 4, 2)), da.where(foretold, 3, 0))
    return da.where(known, kinds, BLANK).astype(np.uint8)


def _most_change(kinds: NDArray[np.uint8], step: int) -> NDArray[np.uint8]:
    moving = mode(np.where(kinds == 0, np.uint8(BLANK), kinds), step)
    return np.where(moving == BLANK, mode(kinds, step), moving)


def thin(values: da.Array, step: int, reduce: Callable[[NDArray[Any], int], NDArray[Any]]) -> da.Array:
    """Reduce blocks of ``step`` x ``step`` cells with :func:`mode` or :func:`mean`, lazily."""
    values = values.rechunk(tuple(edges(sizes, step) for sizes in values.chunks))
    chunks = tuple(tuple(-(-size // step) for size in sizes) for sizes in values.chunks)
    return values.map_blocks(reduce, step, dtype=values.dtype, chunks=chunks, meta=np.empty((0, 0), values.dtype))


def mean(values: NDArray[np.floating[Any]], step: int) -> NDArray[np.float32]:
    """Return the mean of each block over the cells that have a value; NaN where none has."""
    blocks = blocks_of(values, step, np.nan)
    known = np.isfinite(blocks)
    count = known.sum(axis=(1, 3))
    total = np.where(known, blocks, 0).sum(axis=(1, 3), dtype=np.float64)
    return np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0).astype(np.float32)
