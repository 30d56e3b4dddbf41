"""How good a map is, on one page: scores beside baselines, by class and region, of change and of doubt.

A :class:`Report` computes each of its parts when it is first asked for. The page and the JSON file are
two forms of the same numbers.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from xland.addresses import local_path
from xland.allocation.crosswalk import Crosswalk, checked_crosswalk
from xland.arguments import checked
from xland.atomic import replace_file
from xland.errors import GridError, NothingToScoreError, TimeError, UndefinedScoreWarning
from xland.evaluation.agreement import coarse_agreement
from xland.evaluation.alignment import overlaps
from xland.evaluation.change import ChangeScores, assess_change
from xland.evaluation.coarse import CoarseAgreement, baseline_maps, pick_year, sum_up
from xland.evaluation.layers import FIELDS, extra_layers
from xland.evaluation.overview import Overview, look_over
from xland.evaluation.page import render
from xland.evaluation.parts import Section, pictures_of
from xland.evaluation.placing import fitting_factor
from xland.evaluation.regions import Regions, choose
from xland.evaluation.reliability import Reliability, assess_reliability
from xland.evaluation.scores import Comparison, check_factor, check_named, compare, compare_regions
from xland.evaluation.sections.change import change_section
from xland.evaluation.sections.coarse import coarse_section
from xland.evaluation.sections.maps import maps_section
from xland.evaluation.sections.reliability import reliability_section
from xland.evaluation.sections.scores import classes_section, regions_section, scores_section
from xland.grid import Grid
from xland.reader import ClassMap, as_map, map_years
from xland.vocabulary import CLASSES

MAX_PIXELS = 750_000
"""Cells of each map that the page carries at most."""

WINDOWS = (1, 2, 4, 8, 16, 32, 64)
"""Cells along the windows in which change is compared, as far as the map holds them."""


@dataclass(frozen=True, eq=False)
class Report:
    """A map beside an observed one, its baselines and what else is known; made by :func:`report`.

    Parameters
    ----------
    title : str
    model : str
        Name of the map that is judged, among ``maps``.
    maps : dict of str to DataArray
        Class codes of one time step: the judged map first, then its baselines.
    observed : DataArray
    layers : dict of str to DataArray
        What else the store of the map holds: probability, confidence, spread and the like.
    forcing : Dataset or None
        Coarse shares of one year.
    start : DataArray or None
        Earlier map from which change is counted.
    regions : Regions or None
    within : DataArray, array of bool or None
        Cells to score.
    cells : str
        How they are called.
    factor : int
        Fine cells along a coarse cell.
    crosswalk : Crosswalk or None
        Which states make which classes, for the coarse agreement; see :mod:`xland.allocation.crosswalk`.
    notes : sequence of str
        What a reader must know before the figures.
    card, provenance : mapping or None
    max_pixels : int
        Cells of each map on the page.
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
    notes: Sequence[str] = ()
    card: Mapping[str, Any] | None = None
    provenance: Mapping[str, Any] | None = None
    max_pixels: int = MAX_PIXELS

    @cached_property
    def scores(self) -> Comparison:
        """Scores of the map and its baselines on all, land and mixed cells."""
        return compare(self.maps, self.observed, factor=self.factor, within=self.within, cells=self.cells)

    @cached_property
    def by_region(self) -> dict[str, Comparison]:
        """Scores on the land of each region; empty without regions."""
        if self.regions is None:
            return {}
        return compare_regions(
            self.maps, self.observed, self.regions, factor=self.factor, within=self.within, cells=self.cells
        )

    @cached_property
    def change(self) -> dict[str, ChangeScores]:
        """Scores of change by name of the map, windows of many sizes for the judged one; empty without a start map.

        All NaN where no cell has land use in both the start and the observed map.

        Warns
        -----
        UndefinedScoreWarning
            If there is no such cell.
        """
        if self.start is None:
            return {}
        try:
            return self._change(self.start)
        except NothingToScoreError as error:
            self._warn("change is not scored", error)
        start, observed = (map_years(each, "map")[0] for each in (self.start, self.observed))
        size = len(CLASSES)
        return {
            name: ChangeScores(
                np.zeros((size,) * 3),
                np.zeros((size,) * 2),
                years=(start, observed, map_years(each, "map")[0]),
                cells=self.scores[name].cells,
            )
            for name, each in self.maps.items()
        }

    def _change(self, start: xr.DataArray) -> dict[str, ChangeScores]:
        shortest = min(as_map(self.maps[self.model], what="map").grid.shape)
        windows = tuple(size for size in WINDOWS if size == 1 or 2 * size <= shortest)
        return {
            name: assess_change(
                start,
                self.observed,
                each,
                factors=windows if name == self.model else (1,),
                within=self.within,
                cells=self.cells,
            )
            for name, each in self.maps.items()
        }

    @cached_property
    def reliability(self) -> Reliability | None:
        """Whether probabilities are what they say; None without probabilities, or where no land was observed.

        Warns
        -----
        UndefinedScoreWarning
            If there are probabilities, but no land.
        """
        if "probability" not in self.layers:
            return None
        try:
            return assess_reliability(
                self.layers["probability"], self.observed, decided=self.maps[self.model], within=self.within
            )
        except NothingToScoreError as error:
            self._warn("probabilities are not judged", error)
        return None

    def _warn(self, what: str, error: NothingToScoreError) -> None:
        """Say what cannot be scored; an empty mask is refused, as it leaves nothing of the other scores either."""
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
            # without its time the forcing is of the year of the map, as a reader was told where it is another
            forcing = forcing.isel(time=0, drop=True)
        return coarse_agreement(judged, forcing, factor=self.factor, crosswalk=self.crosswalk).compute()

    @cached_property
    def overview(self) -> Overview:
        """Thinned maps, for the pictures."""
        maps = {name: _single(each, f"map {name!r}") for name, each in self.maps.items()}
        fields = {name: _single(self.layers[name], name) for name in FIELDS if name in self.layers}
        if self.agreement is not None:
            name, grid = "coarse difference", maps[self.model].grid.coarsen(self.factor)
            fields[name] = ClassMap(self.agreement["largest"].expand_dims("time"), grid, (None,), name)
        return look_over(
            self.model,
            maps,
            _single(self.observed, "observed map"),
            start=None if self.start is None else _single(self.start, "start map"),
            regions=self.regions,
            fields=fields,
            max_pixels=self.max_pixels,
        )

    @cached_property
    def sections(self) -> tuple[Section, ...]:
        """What the page shows."""
        return (
            maps_section(self),
            scores_section(self),
            classes_section(self),
            regions_section(self),
            change_section(self),
            reliability_section(self),
            coarse_section(self),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return every number of the page for JSON; None where one is not defined."""
        return {
            "title": self.title,
            "model": self.model,
            **self.scores.to_dict(),
            "regions": {
                "title": self.regions.title if self.regions else None,
                "scores": {name: each.to_dict()["scores"] for name, each in self.by_region.items()},
            },
            "change": {name: each.to_dict() for name, each in self.change.items()},
            "reliability": None if self.reliability is None else self.reliability.to_dict(),
            "coarse_agreement": None if self.coarse is None else self.coarse.to_dict(),
            "pictures": [{"map": each.caption, "shows": each.alt} for each in pictures_of(self.sections)],
            "notes": list(self.notes),
        }

    def __str__(self) -> str:
        """Return the tables of the scores, and of change if there is a start map."""
        return "\n\n".join([str(self.scores), *(str(self.change[name]) for name in self.change if name == self.model)])

    def to_json(self, path: str | os.PathLike[str]) -> Path:
        """Write :meth:`to_dict` as JSON; an existing file is replaced at once or not at all."""
        text = json.dumps(self.to_dict(), indent=1, allow_nan=False) + "\n"
        return replace_file(local_path(path, what="a file of scores"), text)

    def to_html(self, path: str | os.PathLike[str]) -> Path:
        """Write the page; an existing file is replaced at once or not at all."""
        return replace_file(local_path(path, what="a report"), render(self))


@checked(GridError)
def report(
    predicted: xr.DataArray | xr.Dataset,
    observed: xr.DataArray | xr.Dataset,
    *,
    model: str = "map",
    baselines: Mapping[str, xr.DataArray] | None = None,
    forcing: xr.Dataset | None = None,
    start: xr.DataArray | xr.Dataset | None = None,
    factor: int = 5,
    year: int | None = None,
    within: xr.DataArray | NDArray[np.bool_] | None = None,
    cells: str | None = None,
    regions: str | Regions | xr.DataArray | xr.Dataset | None = "latitude",
    crosswalk: Crosswalk | None = None,
    title: str | None = None,
    notes: Sequence[str] = (),
    card: Mapping[str, Any] | None = None,
    provenance: Mapping[str, Any] | None = None,
    max_pixels: int = MAX_PIXELS,
) -> Report:
    """Put a map beside an observed one, and beside all that is given with it.

    Nothing but coordinates is read here, and the numbers of a map of regions.

    Parameters
    ----------
    predicted : DataArray or Dataset with ``land_use``
        Class codes. Of a Dataset, ``probability``, ``confidence``, ``entropy``, ``spread``,
        ``applicability`` and ``unmet`` are shown as well.
    observed : DataArray or Dataset with ``land_use``
    model : str
        How to call the map.
    baselines : mapping of str to DataArray, optional
        Maps to stand beside it; by default those that the forcing gives.
    forcing : Dataset, optional
        Coarse shares of states or classes that the map was made from: for baselines and coarse agreement.
    start : DataArray or Dataset, optional
        Earlier observed map: for scores of change.
    factor : int
        Fine cells along a coarse cell.
    year : int, optional
        Time step to judge, of maps that have several.
    within : DataArray or (rows, columns) array of bool, optional
        Cells to score, as in :func:`xland.evaluation.scores.compare`.
    cells : str, optional
        How to call them.
    regions : str, Regions, DataArray, Dataset or None
        ``latitude``, ``koppen``, ``continents``, or a map of region numbers.
    crosswalk : Crosswalk, optional
        Which states make which classes, for the coarse agreement and the baseline of that name.
    title : str, optional
    notes : sequence of str
        What a reader must know before the figures, such as what the coarse input is.
    card, provenance : mapping, optional
        Of the model and of the map.
    max_pixels : int
        Cells of each map on the page; larger maps are thinned.

    Returns
    -------
    Report

    Raises
    ------
    TimeError
        If a map has several years and none is chosen, or lacks the chosen one.
    GridError, RegionError, ForcingError
        If maps, regions or forcing do not fit each other, or a map has a name that is taken.
    """
    check_factor(factor)
    if baselines is not None:
        check_named(baselines, "baselines")
    _check_names(model, () if baselines is None else tuple(baselines))
    if not (isinstance(max_pixels, Real) and max_pixels >= 1):
        raise GridError(f"max_pixels is {max_pixels!r}; a picture needs at least one cell: pass a number from 1")
    years = as_map(observed, what="observed map").years
    judged = _step(predicted, year if year is not None or len(years) > 1 else years[0], f"map {model!r}")
    chosen = year if year is not None else judged.years[0]
    if year is not None and judged.years[0] not in (None, year):
        raise TimeError(f"the map {model!r} is of {judged.years[0]}, not of {year}; pass that of {year}, or no year")
    reference = _step(observed, chosen, "observed map")
    states = dict(checked_crosswalk(crosswalk).states)
    coarse = None if forcing is None else pick_year(forcing, chosen, states)
    if coarse is not None:
        fitting_factor(coarse, judged.grid, factor)
    if baselines is None:
        baselines = {} if coarse is None else baseline_maps(coarse, _near(reference, judged, factor), factor, states)
    maps = {model: judged.data} | {
        name: _cut(_step(each, chosen, f"map {name!r}"), judged) for name, each in baselines.items()
    }
    return Report(
        title or f"{model[0].upper()}{model[1:]} beside the observed map",
        model,
        maps,
        reference.data,
        extra_layers(predicted, chosen),
        coarse,
        None if start is None else _single(start, "start map").data,
        choose(regions, judged),
        within,
        cells,
        factor,
        crosswalk,
        tuple(notes),
        card,
        provenance,
        max_pixels,
    )


def _check_names(model: str, baselines: Sequence[str]) -> None:
    """Refuse names under which two maps of the page could not be told apart."""
    if not model:
        raise GridError("the map that is judged has an empty name; pass model='map', or what it is called")
    if model in baselines:
        raise GridError(f"a baseline is called {model!r} like the map that is judged; call one of them otherwise")
    taken = [name for name in (model, *baselines) if name in ("observed", "start")]
    if taken:
        raise GridError(
            f"a map is called {taken[0]!r}, as the page calls the observed map or that of the start; "
            "call it otherwise with model= or in baselines"
        )


def _step(obj: xr.DataArray | xr.Dataset, year: int | None, what: str) -> ClassMap:
    """Return one time step of a map: the only one, or that of a year."""
    found = as_map(obj, what=what)
    if len(found.years) == 1:
        return found
    if year not in found.years:
        asked = "select one" if year is None else f"{year} is not among them"
        raise TimeError(f"the {what} has {len(found.years)} time steps, {found.years[0]} to {found.years[-1]}; {asked}")
    return as_map(found.data.isel(time=[found.years.index(year)]), what=what)


def _single(obj: xr.DataArray | xr.Dataset, what: str) -> ClassMap:
    return _step(obj, None, what)


def _cut(source: ClassMap, frame: ClassMap) -> xr.DataArray:
    """Return the part of a map that lies on the cells of the frame."""
    pieces = sorted(overlaps(source, frame), key=lambda piece: piece.columns.start)
    rows, columns = pieces[0].predicted_rows, [piece.predicted_columns for piece in pieces]
    if rows == slice(0, source.grid.rows) and sum(each.stop - each.start for each in columns) == source.grid.columns:
        return source.data
    part = xr.concat([source.data.isel(lat=rows, lon=each) for each in columns], "lon")
    west = frame.grid.west
    return part.assign_coords(lon=west + (part["lon"] - west) % 360)


def _near(source: ClassMap, frame: ClassMap, factor: int) -> ClassMap:
    """Return the part of a map that lies in the coarse cells of the frame."""
    grid = frame.grid
    up, left = grid.row_offset % factor, grid.column_offset % factor
    down, right = -(grid.row_offset + grid.rows) % factor, -(grid.column_offset + grid.columns) % factor
    wider = Grid(
        grid.resolution,
        grid.north + up * grid.resolution,
        grid.west - left * grid.resolution,
        up + grid.rows + down,
        left + grid.columns + right,
    )
    return as_map(_cut(source, replace(frame, grid=wider)), what=source.what)
