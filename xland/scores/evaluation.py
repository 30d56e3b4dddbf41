"""Scores of land-use maps against an observed map, beside baselines, lazily on dask."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dask
import dask.array as da
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from xland.arguments import Count, checked, choose_names, items_of
from xland.errors import GridError, NothingToScoreError, RegionError, VocabularyError
from xland.reading.variables import ClassMap, as_map
from xland.scores.counts import AREA_UNIT, DOMAINS, count_domains
from xland.scores.frames import Block, Cells, common_cells, overlaps, pair_years
from xland.scores.measures import SCORES, Scores, choose_scores
from xland.scores.regions import Regions, choose, number_map
from xland.scores.tables import Tabular, TextTable, figure, frame_of, years_in_words
from xland.vocabulary import CLASS_NAMES, CLASSES, LAND_CLASSES

if TYPE_CHECKING:
    import pandas as pd


@checked(GridError)
def evaluate(
    predicted: xr.DataArray | xr.Dataset,
    observed: xr.DataArray | xr.Dataset,
    *,
    scores: str | Sequence[str] | None = None,
    factor: Count = 5,
    within: xr.DataArray | NDArray[np.bool_] | None = None,
    domains: Sequence[str] = ("all", "land", "mixed"),
    classes: Sequence[int] | None = None,
    match_years: bool = True,
    cells: str | None = None,
) -> Evaluation:
    """Score a map of class codes against an observed one.

    Both are brought together by label, whatever their order of latitude, range of longitude and names of dimensions,
    and compared where both have cells. Each block is read once.

    Parameters
    ----------
    predicted, observed : DataArray or Dataset with ``land_use``
        Class codes on the same grid or on parts of it.
    scores : str or sequence of str, optional
        Which of the registered scores to show, see :data:`xland.scores.measures.SCORES`; by default all.
    factor : int
        Fine cells along one coarse cell, counted from 90 N and 180 W. It decides which land cells are ``mixed``.
    within : DataArray or (rows, columns) array of bool, optional
        Cells to score, such as the held-out cells of the split. A DataArray is placed by its coordinates; an array has
        the observed map's cells, north first, from west to east.
    domains : sequence of str
        Any of ``all``, ``land``, ``mixed``: see :data:`xland.scores.counts.DOMAINS`.
    classes : sequence of int, optional
        Classes of the mean IoU; by default the land classes that occur in the observed map.
    match_years : bool
        Refuse maps of different years; the years that both have are scored together. With False, two maps of one time
        step each are compared whatever their years, and the result records it.
    cells : str, optional
        Name of the cells that are scored, for tables and reports.

    Returns
    -------
    Evaluation

    Raises
    ------
    VocabularyError
        If either map or ``classes`` has unknown codes.
    GridError
        If the cells differ in size or do not coincide, a score or domain is not known, or ``factor`` is not a whole
        number from 1.
    RegionError
        If the maps have no common cell, or ``within`` is empty (:class:`~xland.errors.NothingToScoreError`).
    TimeError
        If the maps have no year in common.
    """
    found = compare(
        {"map": predicted},
        observed,
        scores=scores,
        factor=factor,
        within=within,
        domains=domains,
        classes=classes,
        match_years=match_years,
        cells=cells,
    )
    return found["map"]


@checked(GridError)
def compare(
    predictions: Mapping[str, xr.DataArray | xr.Dataset],
    observed: xr.DataArray | xr.Dataset,
    *,
    regions: str | Regions | xr.DataArray | xr.Dataset | None = None,
    scores: str | Sequence[str] | None = None,
    factor: Count = 5,
    within: xr.DataArray | NDArray[np.bool_] | None = None,
    domains: Sequence[str] = ("all", "land", "mixed"),
    classes: Sequence[int] | None = None,
    match_years: bool = True,
    cells: str | None = None,
) -> Comparison:
    """Score a model and its baselines on the same cells, reading every map once.

    Parameters
    ----------
    predictions : mapping of str to DataArray or Dataset
        Maps of class codes by name: the model first, then its baselines.
    observed, scores, factor, within, domains, classes, match_years, cells
        As in :func:`evaluate`.
    regions : str, Regions, DataArray or Dataset, optional
        Parts that are scored separately as well: ``latitude``, ``koppen``, ``continents``, or a map of region numbers.

    Returns
    -------
    Comparison

    Raises
    ------
    GridError
        If the maps cover different parts of the observed map, besides the errors of :func:`evaluate`.
    """
    maps_are_named(predictions, "maps")
    names, domains = choose_scores(scores), choose_names(domains, DOMAINS, "domains", GridError)
    classes = None if classes is None else items_of(classes, "classes", VocabularyError)
    strange = [code for code in classes or () if code not in range(len(CLASSES))]
    if strange:
        raise VocabularyError(
            f"no class has the code {' or '.join(map(repr, strange))}; the codes are 0 to {len(CLASSES) - 1}"
        )
    if not predictions:
        raise GridError("nothing to score: pass at least one map")
    reference = as_map(observed, what="observed map")
    maps = {name: as_map(each, what=f"map {name!r}") for name, each in predictions.items()}
    pairs = {name: pair_years(each, reference, match_years=match_years) for name, each in maps.items()}
    parts = choose(regions, reference)
    numbers = None if parts is None else number_map(parts)
    lazy = {}
    for name, each in maps.items():
        frame = common_cells([reference, each], reference, within, factor)
        lazy[name] = [
            frame.each_block(
                _count_block,
                [(reference, theirs), (each, ours)],
                None if numbers is None else _regions_on(frame, numbers, reference),
                factor=factor,
                domains=domains,
                regions=1 if parts is None else 1 + len(parts.names),
            )
            for ours, theirs in pairs[name]
        ]
    (blocks,) = dask.compute(lazy)
    # cells and areas of a year are whole numbers: their sum does not depend on the blocks and regions
    units = np.array([1, AREA_UNIT])[:, None, None, None]
    counts = {name: [sum(step.ravel()) for step in steps] for name, steps in blocks.items()}
    if not any(step.any() for steps in counts.values() for step in steps):
        raise NothingToScoreError(
            "no cell is left to score: no cell of the maps is in the mask `within` and the domains"
        )
    _check_same_cells({name: sum(step[0] for step in steps).sum(axis=-1) for name, steps in counts.items()})
    label = cells or ("all" if within is None else "a chosen part of the map")

    def comparison(part: slice, by_region: dict[str, Comparison]) -> Comparison:
        found = {}
        for name, each in maps.items():
            pixels, area = sum(step[:, part].sum(axis=1) * units for step in counts[name])
            years = tuple((each.years[i], reference.years[j]) for i, j in pairs[name])
            found[name] = Evaluation(
                {domain: Scores(area[i], "area", classes, names) for i, domain in enumerate(domains)},
                {domain: Scores(pixels[i], "pixels", classes, names) for i, domain in enumerate(domains)},
                factor,
                years,
                label,
            )
        return Comparison(found, by_region)

    regional = {} if parts is None else {n: comparison(slice(i, i + 1), {}) for i, n in enumerate(parts.names, 1)}
    return comparison(slice(None), regional)


def _regions_on(frame: Cells, numbers: ClassMap, reference: ClassMap) -> da.Array:
    """Place a map of regions on a frame; all cells are in no region where only the observed map meets it."""
    try:
        return frame.layer(numbers)
    except RegionError:
        overlaps(numbers, reference)
        return da.zeros_like(frame.counted, dtype=np.uint8)


def _count_block(
    block: Block,
    observed: NDArray[np.uint8],
    predicted: NDArray[np.uint8],
    numbers: NDArray[np.uint8] | None,
    **options: Any,
) -> NDArray[np.int64]:
    labels = block.counted if numbers is None else np.where(block.counted, 1 + numbers, 0)
    return count_domains(observed, predicted, labels, block.latitude, block.area, **options)


def maps_are_named(maps: object, what: str) -> None:
    """Refuse maps that are not given by name."""
    if not isinstance(maps, Mapping):
        raise GridError(f"{what} are given by name, not as a {type(maps).__name__}; pass {{'model': map}}")


def _check_same_cells(support: Mapping[str, NDArray[np.float64]]) -> None:
    """Refuse to compare scores of different cells; ``support`` are observed cells (regions, domains, classes)."""
    (first, ours), *others = support.items()
    for name, theirs in others:
        if not np.array_equal(ours, theirs):
            cells = [int(each.sum(axis=(0, -1)).max()) for each in (ours, theirs)]
            raise GridError(
                f"{first!r} and {name!r} cover different cells or years of the observed map ({cells[0]} and {cells[1]} "
                "cells); select the same region and years of both"
            )


@dataclass(frozen=True, eq=False, repr=False)
class Evaluation(Tabular):
    """Scores of one map in several domains and both weightings.

    Parameters
    ----------
    area, pixels : dict of str to Scores
        By domain: ``all``, ``land``, ``mixed``.
    factor : int
        Fine cells along one coarse cell, which decides what is mixed.
    years : tuple of (predicted year, observed year)
        What was compared with what; None where a map does not say its year.
    cells : str
        Which cells were scored.
    """

    area: dict[str, Scores]
    pixels: dict[str, Scores]
    factor: int
    years: tuple[tuple[int | None, int | None], ...]
    cells: str = "all"

    @property
    def domains(self) -> tuple[str, ...]:
        """Names of the domains, in the order asked for."""
        return tuple(self.pixels)

    def __getitem__(self, domain: str) -> Scores:
        """Return the area-weighted scores of a domain; those by pixel count are in :attr:`pixels`."""
        return self.area[domain]

    def to_dict(self) -> dict[str, Any]:
        """Return plain numbers for JSON, by domain and weighting."""
        return {name: {"area": self.area[name].to_dict(), "pixels": self.pixels[name].to_dict()} for name in self.area}

    def to_json(self, path: str | os.PathLike[str]) -> Path:
        """Write :meth:`Comparison.to_dict` of this map as JSON and return the path."""
        return Comparison({"map": self}).to_json(path)

    def to_dataframe(self) -> pd.DataFrame:
        """Return a row for each domain and weighting."""
        return Comparison({"map": self}).to_dataframe().droplevel("map")

    def _tables(self) -> list[TextTable]:
        return Comparison({"map": self})._tables()  # noqa: SLF001 - the tables of a single map


@dataclass(frozen=True, eq=False, repr=False)
class Comparison(Tabular):
    """Scores of several maps, a model and its baselines, on the same cells.

    Parameters
    ----------
    evaluations : dict of str to Evaluation
        By name of the map, in the order they were given.
    by_region : dict of str to Comparison
        Scores of each region by its name, NaN where it has no cell; empty without regions.
    """

    evaluations: dict[str, Evaluation]
    by_region: dict[str, Comparison] = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the maps."""
        return tuple(self.evaluations)

    @property
    def _first(self) -> Evaluation:
        return next(iter(self.evaluations.values()))

    @property
    def domains(self) -> tuple[str, ...]:
        """Names of the domains."""
        return self._first.domains

    @property
    def scores(self) -> tuple[str, ...]:
        """Names of the scores that are shown."""
        return tuple(self._first.area[self.domains[0]].values)

    def __getitem__(self, name: str) -> Evaluation:
        """Return the scores of one map."""
        return self.evaluations[name]

    def to_dict(self) -> dict[str, Any]:
        """Return everything for JSON: how it was scored, then scores by map, domain and weighting."""
        return {
            "cells": self._first.cells,
            "factor": self._first.factor,
            "domains": {domain: DOMAINS[domain] for domain in self.domains},
            "years": {
                name: [{"predicted": predicted, "observed": observed} for predicted, observed in each.years]
                for name, each in self.evaluations.items()
            },
            "scores": {name: each.to_dict() for name, each in self.evaluations.items()},
        }

    def to_dataframe(self) -> pd.DataFrame:
        """Return a row for each domain, weighting and map: the scores and the IoU of each class."""
        rows = {}
        for domain in self.domains:
            for weighting in ("area", "pixels"):
                for name, each in self.evaluations.items():
                    found: Scores = getattr(each, weighting)[domain]
                    ious = {f"iou_{n}": value for n, value in zip(CLASS_NAMES, found.iou, strict=True)}
                    rows[domain, weighting, name] = {**found.values, **ious}
        return frame_of(rows, ["domain", "weighting", "map"])

    def _tables(self) -> list[TextTable]:
        # what was compared: cells, years and the factor by which cells count as mixed
        factor = self._first.factor
        years = {name: years_in_words(each.years) or "not given" for name, each in self.evaluations.items()}
        said = "; ".join(f"{name} {each}" for name, each in years.items())
        said = said if len(set(years.values())) > 1 else years[self.names[0]]
        heading = f"cells: {self._first.cells} | years: {said} | factor: {factor} x {factor} fine cells a coarse cell"
        found = [(d, n, each.area[d], each.pixels[d]) for d in self.domains for n, each in self.evaluations.items()]
        titles = [title for name in self.scores for title in (SCORES[name].title or name, "px")]
        scores = [
            [d, n, *(figure(value) for name in self.scores for value in (area.values[name], pixels.values[name]))]
            for d, n, area, pixels in found
        ]
        codes = [code for code in LAND_CLASSES if any(area.support[code] for _, _, area, _ in found)]
        classes = [[d, n, *(figure(area.iou[code]) for code in codes)] for d, n, area, _ in found]
        return [
            (f"{heading}\nby area, and by pixel counts (px)", ["cells", "map", *titles], scores),
            ("IoU of each class, by area", ["cells", "map", *(CLASS_NAMES[code] for code in codes)], classes),
        ]
