"""How good a map is, on one page: scores beside baselines, by class and region, of change and of doubt.

A :class:`Report` computes each of its parts when it is first asked for. The page and the JSON file are two forms of the
same numbers. Everything is inside the page: pictures as data, style inline, no script and no request to anywhere; a
content security policy in the page says so to the browser as well.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from xland.arguments import Count, checked
from xland.errors import GridError, TimeError
from xland.pages import render
from xland.paths import check_ending, check_file_place, local_path, replace_file
from xland.reading.variables import ClassMap, as_map
from xland.report.judgement import MAX_PIXELS, Judgement, extra_layers
from xland.report.parts import Gallery, Section
from xland.report.pictures import extent
from xland.report.sections import headline, sections_of
from xland.scores.agreement import fitting_factor
from xland.scores.baselines import baseline_maps, pick_year
from xland.scores.evaluation import maps_are_named
from xland.scores.frames import one_step, overlaps, pair_years, whole_cells
from xland.scores.measures import choose_scores
from xland.scores.regions import Regions, choose
from xland.scores.tables import write_json, years_in_words
from xland.totals.crosswalk import Crosswalk, checked_crosswalk


@dataclass(frozen=True, eq=False)
class Report(Judgement):
    """A judgement, and how it is shown: text, JSON or one page of HTML; made by :func:`report`."""

    @cached_property
    def sections(self) -> tuple[Section, ...]:
        """What the page shows."""
        return sections_of(self)

    def to_dict(self) -> dict[str, Any]:
        """Return every number of the page for JSON; None where one is not defined."""
        return {
            "title": self.title,
            "model": self.model,
            "observed": dict(self.reference),
            **self.scores.to_dict(),
            "regions": {
                "title": self.regions.title if self.regions else None,
                "scores": {region: each.to_dict()["scores"] for region, each in self.by_region.items()},
            },
            "landscape": None if self.landscape is None else self.landscape.to_dict(),
            "change": {name: each.to_dict() for name, each in self.change.items()},
            "reliability": None if self.reliability is None else self.reliability.to_dict(),
            "coarse_agreement": None if self.coarse is None else asdict(self.coarse),
            "pictures": [
                {"map": each.caption, "shows": each.alt}
                for section in self.sections
                for part in section.parts
                if isinstance(part, Gallery)
                for each in part.pictures
            ],
            "notes": list(self.notes),
        }

    def __str__(self) -> str:
        """Return the tables of the scores, and of change if there is a start map."""
        return "\n\n".join([str(self.scores), *(str(self.change[name]) for name in self.change if name == self.model)])

    def to_json(self, path: str | os.PathLike[str]) -> Path:
        """Write :meth:`to_dict` as JSON; an existing file is replaced at once or not at all."""
        return write_json(path, self.to_dict())

    def to_html(self, path: str | os.PathLike[str]) -> Path:
        """Write the page; an existing file is replaced at once or not at all."""
        check_ending(path, "a web page", ".html", ".htm")
        check_file_place(local_path(path, what="a report"))
        return replace_file(local_path(path, what="a report"), self._page())

    def _page(self) -> str:
        sections, judged = self.sections, self.scores[self.model]
        return render(
            "report.html.j2",
            title=self.title,
            model=self.model,
            extent=extent(as_map(self.maps[self.model], what="map").grid),
            years=years_in_words(judged.years),
            cells=judged.cells,
            reference=self.reference,
            notes=self.notes,
            tiles=headline(self),
            sections=sections,
            card=self.card,
            provenance={name: _parsed(value) for name, value in (self.provenance or {}).items()},
        )


@checked(GridError)
def report(
    predicted: xr.DataArray | xr.Dataset,
    observed: xr.DataArray | xr.Dataset,
    *,
    model: str = "map",
    baselines: Mapping[str, xr.DataArray] | None = None,
    forcing: xr.Dataset | None = None,
    start: xr.DataArray | xr.Dataset | None = None,
    scores: str | Sequence[str] | None = None,
    factor: Count | None = None,
    year: int | None = None,
    match_years: bool = True,
    within: xr.DataArray | NDArray[np.bool_] | None = None,
    cells: str | None = None,
    regions: str | Regions | xr.DataArray | xr.Dataset | None = "latitude",
    crosswalk: Crosswalk | None = None,
    title: str | None = None,
    notes: Sequence[str] = (),
    card: Mapping[str, Any] | None = None,
    provenance: Mapping[str, Any] | None = None,
    max_pixels: Count = MAX_PIXELS,
) -> Report:
    """Compare a map with an observed map and with baselines.

    Only coordinates and the region map are read here.

    Parameters
    ----------
    predicted, observed : DataArray or Dataset with ``land_use``
        Class codes. Of a predicted Dataset, ``probability``, ``confidence``, ``margin``, ``entropy``, ``spread``,
        ``applicability`` and ``unmet`` are shown as well.
    model : str
        Name of the map.
    baselines : mapping of str to DataArray, optional
        Maps to show beside it; by default those that follow from the forcing.
    forcing : Dataset, optional
        Coarse shares of states or classes that the map was made from: for baselines and coarse agreement.
    start : DataArray or Dataset, optional
        Earlier observed map: for scores of change.
    factor : int, optional
        Fine cells along a coarse cell; by default as the grids of map and forcing have it, 5 without a forcing.
    year : int, optional
        Time step to judge, of maps that have several.
    scores : str or sequence of str, optional
        Which of the registered scores to show; by default all.
    match_years : bool
        Refuse an observed map of another year.
    within : DataArray or (rows, columns) array of bool, optional
        Cells to score, as in :func:`xland.scores.evaluation.compare`.
    cells : str, optional
        Their name.
    regions : str, Regions, DataArray, Dataset or None
        ``latitude``, ``koppen``, ``continents``, or a map of region numbers.
    crosswalk : Crosswalk, optional
        Which states make which classes, for the coarse agreement and the baseline of that name.
    title : str, optional
    notes : sequence of str
        What a reader must know before the figures.
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
        If a map has several years and none is chosen, lacks the chosen one, or is of another year than the observed
        map.
    GridError, RegionError, ForcingError
        If maps, regions or forcing do not fit each other, a score is not known, or two maps have one name.
    """
    if baselines is not None:
        maps_are_named(baselines, "baselines")
    if not model:
        raise GridError("the map that is judged has an empty name; pass model='map', or another name")
    if model in (baselines or {}):
        raise GridError(f"a baseline has the name {model!r} of the map that is judged; give one of them another name")
    taken = {"observed", "start"} & {model, *(baselines or {})}
    if taken:
        raise GridError(
            f"a map has the name {taken.pop()!r}, which the page uses for the observed or the start map; "
            "give it another one with model= or in baselines"
        )
    names = choose_scores(scores)
    years = as_map(observed, what="observed map").years
    judged = one_step(predicted, f"map {model!r}", year if year is not None or len(years) > 1 else years[0])
    chosen = year if year is not None else judged.years[0]
    if year is not None and judged.years[0] not in (None, year):
        raise TimeError(f"the map {model!r} is of {judged.years[0]}, not of {year}; pass that of {year}, or no year")
    reference = one_step(observed, "observed map", chosen)
    pair_years(judged, reference, match_years=match_years)
    states = dict(checked_crosswalk(crosswalk).states)
    coarse = None if forcing is None else pick_year(forcing, chosen, states)
    factor = fitting_factor(coarse, judged.grid, factor) if coarse is not None else 5 if factor is None else factor
    if baselines is None:
        near = replace(judged, grid=whole_cells(judged.grid, factor))
        around = as_map(_cut(reference, near), what=reference.what) if coarse is not None else None
        baselines = {} if coarse is None or around is None else baseline_maps(coarse, around, factor, states)
    maps = {model: judged.data} | {
        name: _cut(one_step(each, f"map {name!r}", chosen), judged) for name, each in baselines.items()
    }
    return Report(
        title=title or f"{model[0].upper()}{model[1:]} beside the observed map",
        model=model,
        maps=maps,
        observed=reference.data,
        layers=extra_layers(predicted, chosen),
        forcing=coarse,
        start=None if start is None else one_step(start, "start map").data,
        regions=choose(regions, judged),
        within=within,
        cells=cells,
        factor=factor,
        crosswalk=crosswalk,
        names=names,
        notes=tuple(notes),
        reference=_named(observed),
        card=card,
        provenance=provenance,
        max_pixels=max_pixels,
    )


def _named(observed: xr.DataArray | xr.Dataset) -> dict[str, str]:
    """Return name, source and licence of the observed map, as far as it states them."""
    said = {**observed.attrs, **(observed["land_use"].attrs if isinstance(observed, xr.Dataset) else {})}
    found = {
        "title": said.get("title") or said.get("long_name"),
        "source": said.get("source"),
        "license": said.get("license") or said.get("licence"),
    }
    return {name: str(value) for name, value in found.items() if value}


def _parsed(value: Any) -> Any:
    """Return what an attribute holds as JSON, such as the table of inputs and licences; any other as it is."""
    if isinstance(value, str) and value[:1] in ("{", "["):
        with suppress(ValueError):
            return json.loads(value)
    return value


def _cut(source: ClassMap, frame: ClassMap) -> xr.DataArray:
    """Return the part of a map that lies on the cells of the frame."""
    pieces = sorted(overlaps(source, frame), key=lambda piece: piece.columns.start)
    rows, columns = pieces[0].source_rows, [piece.source_columns for piece in pieces]
    if rows == slice(0, source.grid.rows) and sum(each.stop - each.start for each in columns) == source.grid.columns:
        return source.data
    part = xr.concat([source.data.isel(lat=rows, lon=each) for each in columns], "lon")
    west = frame.grid.west
    return part.assign_coords(lon=west + (part["lon"] - west) % 360)
