"""What a report judges: a map, the observed one, baselines, and the scores of them, without any page."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from xland.errors import GridError, NothingToScoreError, TimeError, UndefinedScoreWarning
from xland.geo.orientation import orient
from xland.outputs import OUTPUTS
from xland.reading.variables import ClassMap, as_map, map_years
from xland.report.pictures import Overview, look_over
from xland.scores.agreement import CoarseAgreement, coarse_agreement, sum_up
from xland.scores.change import ChangeScores, assess_change
from xland.scores.evaluation import Comparison, compare
from xland.scores.regions import Regions
from xland.scores.reliability import Reliability, assess_reliability
from xland.totals.crosswalk import Crosswalk
from xland.vocabulary import CLASSES

MAX_PIXELS = 750_000
"""Cells of each map that the page shows at most."""

WINDOWS = (1, 2, 4, 8, 16, 32, 64)
"""Cells along the windows in which change is compared, as far as they fit into the map."""


@dataclass(frozen=True, eq=False)
class Judgement:
    """A map beside an observed one and its baselines; each score is computed when it is first asked for.

    ``maps`` are class codes of one time step by name, the judged map ``model`` first; ``layers``, what else its store
    contains; ``forcing``, coarse shares of one year; ``start``, the map from which change is counted; ``names``, the
    scores to show. For the rest see :func:`xland.report.report.report`.
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
        if self.start is None:
            return {}
        shortest = min(as_map(self.maps[self.model], what="map").grid.shape)
        windows = tuple(size for size in WINDOWS if size == 1 or 2 * size <= shortest)
        try:
            return {
                name: assess_change(
                    self.start, self.observed, each, factors=windows if name == self.model else (1,), **self._how
                )
                for name, each in self.maps.items()
            }
        except NothingToScoreError as error:
            self._warn("change is not scored", error)
        years = [map_years(each, "map")[0] for each in (self.start, self.observed, *self.maps.values())]
        empty = np.zeros((len(CLASSES),) * 3)
        return {
            name: ChangeScores(empty, empty[0], years=(years[0], years[1], year), cells=self.scores[name].cells)
            for name, year in zip(self.maps, years[2:], strict=True)
        }

    @cached_property
    def reliability(self) -> Reliability | None:
        """Whether probabilities are what they say; None without probabilities.

        None, with an UndefinedScoreWarning, where no land was observed.
        """
        if "probability" not in self.layers:
            return None
        try:
            return assess_reliability(
                self.layers["probability"],
                self.observed,
                decided=self.maps[self.model],
                within=self.within,
                match_years=False,
            )
        except NothingToScoreError as error:
            self._warn("probabilities are not judged", error)
        return None

    def _warn(self, what: str, error: NothingToScoreError) -> None:
        """Warn of what cannot be scored; an empty mask is refused, as it leaves nothing of the other scores either."""
        _ = self.scores
        warnings.warn(f"{what}: {error}", UndefinedScoreWarning, stacklevel=4)

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


def one_step(obj: xr.DataArray | xr.Dataset, what: str, year: int | None = None) -> ClassMap:
    """Return one time step of a map: the only one, or that of a year."""
    found = as_map(obj, what=what)
    if len(found.years) == 1:
        return found
    if year not in found.years:
        asked = "select one" if year is None else f"{year} is not among them"
        raise TimeError(f"the {what} has {len(found.years)} time steps, {found.years[0]} to {found.years[-1]}; {asked}")
    return as_map(found.data.isel(time=[found.years.index(year)]), what=what)


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
        spare = [dim for dim in probability.dims if dim not in {"time", "lat", "lon"}]
        if len(spare) != 1:
            raise GridError(
                f"the layer 'probability' has the dimensions {', '.join(map(str, probability.dims))}: beside time, lat "
                "and lon it needs one of classes, and no other"
            )
        found["margin"] = xr.apply_ufunc(
            _margin,
            probability.chunk({spare[0]: -1}),
            input_core_dims=[spare],
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
