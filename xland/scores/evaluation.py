"""Scores of land-use maps against an observed map, beside baselines, lazily on dask."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dask
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from xland.addresses import local_path
from xland.arguments import checked, is_count, items_of
from xland.atomic import replace_file
from xland.errors import GridError, NothingToScoreError, VocabularyError
from xland.reading.variables import as_map
from xland.scores.counting import Weightings, count_lazily, weigh
from xland.scores.counts import DOMAINS, confusion, mixed_cells
from xland.scores.frames import pair_years, place
from xland.scores.measures import Scores, Weighting
from xland.scores.regions import Regions, number_map
from xland.scores.tables import figure, html_table, text_table, years_in_words
from xland.vocabulary import CLASS_NAMES, CLASSES, LAND_CLASSES, check_codes

if TYPE_CHECKING:
    import pandas as pd


__all__ = [
    "DOMAINS",
    "Comparison",
    "Evaluation",
    "Scores",
    "check_codes",
    "compare",
    "compare_regions",
    "confusion",
    "evaluate",
    "mixed_cells",
]


@checked(GridError)
def evaluate(
    predicted: xr.DataArray | xr.Dataset,
    observed: xr.DataArray | xr.Dataset,
    *,
    factor: int = 5,
    within: xr.DataArray | NDArray[np.bool_] | None = None,
    domains: Sequence[str] = ("all", "land", "mixed"),
    classes: Sequence[int] | None = None,
    match_years: bool = False,
    cells: str | None = None,
) -> Evaluation:
    """Score a map of class codes against an observed one.

    Both are brought together by label, whatever their order of latitude, range of longitude and names
    of dimensions, and compared where both have cells. Blocks are read, counted and forgotten.

    Parameters
    ----------
    predicted, observed : DataArray or Dataset with ``land_use``
        Class codes 0..7 on the same grid or on parts of it.
    factor : int
        Fine cells along one coarse cell of the model's input, counted from 90 N and 180 W; says
        which land cells are ``mixed``.
    within : DataArray or (rows, columns) array of bool, optional
        Cells to score, such as the held-out cells of the split. A DataArray is placed by its
        coordinates; an array has the observed map's cells, north first, from west to east.
    domains : sequence of str
        Any of ``all``, ``land``, ``mixed``: see :data:`DOMAINS`.
    classes : sequence of int, optional
        Classes of the mean IoU; by default the land classes that occur in the observed map.
    match_years : bool
        Maps with one time step each are compared even if their years differ, which the result
        records, unless this is True. Of longer maps, the years that both have are scored together.
    cells : str, optional
        How to call the cells that are scored, in tables and reports.

    Returns
    -------
    Evaluation

    Raises
    ------
    VocabularyError
        Codes other than 0..7 in either map, or among ``classes``.
    GridError
        Grids whose cells differ in size or do not coincide; a factor that is no whole number from 1.
    RegionError
        Maps without a common cell, or an empty ``within`` (:class:`~xland.errors.NothingToScoreError`).
    TimeError
        Time steps that do not belong together.
    """
    return compare(
        {"map": predicted},
        observed,
        factor=factor,
        within=within,
        domains=domains,
        classes=classes,
        match_years=match_years,
        cells=cells,
    )["map"]


@checked(GridError)
def compare(
    predictions: Mapping[str, xr.DataArray | xr.Dataset],
    observed: xr.DataArray | xr.Dataset,
    *,
    factor: int = 5,
    within: xr.DataArray | NDArray[np.bool_] | None = None,
    domains: Sequence[str] = ("all", "land", "mixed"),
    classes: Sequence[int] | None = None,
    match_years: bool = False,
    cells: str | None = None,
) -> Comparison:
    """Score a model and its baselines on the same cells, reading the observed map once.

    Parameters
    ----------
    predictions : mapping of str to DataArray or Dataset
        Maps of class codes by name: the model first, then its baselines.
    observed, factor, within, domains, classes, match_years, cells
        As in :func:`evaluate`.

    Returns
    -------
    Comparison

    Raises
    ------
    GridError
        If the maps cover different parts of the observed map, besides the errors of :func:`evaluate`.
    """
    (whole,) = _compare(
        predictions, observed, None, factor, within, domains, classes, match_years=match_years, cells=cells
    )
    return whole


@checked(GridError)
def compare_regions(
    predictions: Mapping[str, xr.DataArray | xr.Dataset],
    observed: xr.DataArray | xr.Dataset,
    regions: Regions,
    *,
    factor: int = 5,
    within: xr.DataArray | NDArray[np.bool_] | None = None,
    domains: Sequence[str] = ("land",),
    classes: Sequence[int] | None = None,
    match_years: bool = False,
    cells: str | None = None,
) -> dict[str, Comparison]:
    """Score a model and its baselines in each region, reading every map once.

    Parameters
    ----------
    predictions, observed, factor, within, domains, classes, match_years, cells
        As in :func:`compare`.
    regions : Regions
        See :mod:`xland.scores.regions`.

    Returns
    -------
    dict of str to Comparison
        By name of the region; the scores of a region that holds no cell are NaN.
    """
    found = _compare(
        predictions, observed, regions, factor, within, domains, classes, match_years=match_years, cells=cells
    )
    return dict(zip(regions.names, found, strict=True))


def _compare(
    predictions: Mapping[str, xr.DataArray | xr.Dataset],
    observed: xr.DataArray | xr.Dataset,
    regions: Regions | None,
    factor: int,
    within: xr.DataArray | NDArray[np.bool_] | None,
    domains: Sequence[str],
    classes: Sequence[int] | None,
    *,
    match_years: bool,
    cells: str | None,
) -> list[Comparison]:
    """Return the scores of each region, or of everything as one."""
    _check_request(predictions, factor, domains, classes)
    reference = as_map(observed, what="observed map")
    maps = {name: as_map(each, what=f"map {name!r}") for name, each in predictions.items()}
    pairs = {name: pair_years(each, reference, match_years=match_years) for name, each in maps.items()}
    numbers = None if regions is None else place(number_map(regions), reference, 0)
    count = 1 if regions is None else len(regions.names)
    lazy = {
        name: count_lazily(each, reference, pairs[name], within, int(factor), tuple(domains), numbers, count)
        for name, each in maps.items()
    }
    (counts,) = dask.compute(lazy)
    matrices = {name: weigh(each, reference.grid) for name, each in counts.items()}
    if regions is None:
        _not_empty(matrices)
    _same_cells(matrices)
    label = cells or ("all" if within is None else "a chosen part of the map")

    def scores(each: NDArray[np.float64], weighting: Weighting) -> dict[str, Scores]:
        return {domain: Scores(each[i], weighting, classes) for i, domain in enumerate(domains)}

    return [
        Comparison(
            {
                name: Evaluation(
                    scores(matrices[name].area[region], "area"),
                    scores(matrices[name].pixels[region], "pixels"),
                    factor=int(factor),
                    years=tuple((maps[name].years[i], reference.years[j]) for i, j in pairs[name]),
                    cells=label,
                )
                for name in predictions
            }
        )
        for region in range(count)
    ]


def check_factor(factor: object) -> None:
    """Refuse what cannot be the number of fine cells along a coarse cell."""
    if not is_count(factor):
        raise GridError(
            f"the factor between coarse and fine cells must be a whole number of at least 1, not {factor!r}"
        )


def check_named(maps: object, what: str) -> None:
    """Refuse maps that are not given by name."""
    if not isinstance(maps, Mapping):
        raise GridError(f"{what} are given by name, not as a {type(maps).__name__}; pass {{'model': map}}")


def _check_request(
    predictions: Mapping[str, Any], factor: int, domains: Sequence[str], classes: Sequence[int] | None
) -> None:
    check_named(predictions, "maps")
    domains = items_of(domains, "domains", GridError)
    unknown = [domain for domain in domains if not isinstance(domain, str) or domain not in DOMAINS]
    if unknown or not domains or not predictions:
        raise GridError(
            f"unknown domains {', '.join(map(repr, unknown))}; known are {', '.join(DOMAINS)}"
            if unknown
            else "nothing to score: name at least one map and one domain"
        )
    check_factor(factor)
    codes = () if classes is None else items_of(classes, "classes", VocabularyError)
    strange = [code for code in codes if code not in range(len(CLASSES))]
    if strange:
        raise VocabularyError(
            f"no class has the code {' or '.join(map(repr, strange))}; the codes are 0 to {len(CLASSES) - 1}"
        )


def _not_empty(matrices: Mapping[str, Weightings]) -> None:
    if not any(each.pixels.any() for each in matrices.values()):
        raise NothingToScoreError(
            "no cell is left to score: the mask `within` and the domains hold no cell of the maps"
        )


def _same_cells(matrices: Mapping[str, Weightings]) -> None:
    """Refuse to put scores side by side which were taken on different cells."""
    names = list(matrices)
    support = {name: each.pixels.sum(axis=-1) for name, each in matrices.items()}
    totals = {name: int(each.sum(axis=(0, -1)).max()) for name, each in support.items()}
    for name in names[1:]:
        if not np.array_equal(support[name], support[names[0]]):
            raise GridError(
                f"{names[0]!r} and {name!r} cover different cells or years of the observed map "
                f"({totals[names[0]]} and {totals[name]} cells); select the same region and years of both"
            )


@dataclass(frozen=True, eq=False, repr=False)
class Evaluation:
    """Scores of one map in several domains and both weightings.

    Parameters
    ----------
    area, pixels : dict of str to Scores
        By domain: ``all``, ``land``, ``mixed``.
    factor : int
        Fine cells along one coarse cell, which says what is mixed.
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
        return {
            domain: {"area": self.area[domain].to_dict(), "pixels": self.pixels[domain].to_dict()}
            for domain in self.domains
        }

    def to_dataframe(self) -> pd.DataFrame:
        """Return a row for each domain and weighting."""
        return Comparison({"map": self}).to_dataframe().droplevel("map")

    def __str__(self) -> str:
        return str(Comparison({"map": self}))

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return Comparison({"map": self})._repr_html_()


@dataclass(frozen=True, eq=False, repr=False)
class Comparison:
    """Scores of several maps, a model and its baselines, on the same cells.

    Parameters
    ----------
    evaluations : dict of str to Evaluation
        By name of the map, in the order they were given.
    """

    evaluations: dict[str, Evaluation] = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the maps."""
        return tuple(self.evaluations)

    @property
    def domains(self) -> tuple[str, ...]:
        """Names of the domains."""
        return next(iter(self.evaluations.values())).domains

    def __getitem__(self, name: str) -> Evaluation:
        """Return the scores of one map."""
        return self.evaluations[name]

    def to_dict(self) -> dict[str, Any]:
        """Return everything for JSON: how it was scored, then scores by map, domain and weighting."""
        first = next(iter(self.evaluations.values()))
        return {
            "cells": first.cells,
            "factor": first.factor,
            "domains": {domain: DOMAINS[domain] for domain in self.domains},
            "years": {
                name: [{"predicted": predicted, "observed": observed} for predicted, observed in each.years]
                for name, each in self.evaluations.items()
            },
            "scores": {name: each.to_dict() for name, each in self.evaluations.items()},
        }

    def to_json(self, path: str | os.PathLike[str]) -> Path:
        """Write :meth:`to_dict` as JSON and return the path; an existing file is replaced at once or not at all."""
        text = json.dumps(self.to_dict(), indent=1, allow_nan=False) + "\n"
        return replace_file(local_path(path, what="a file of scores"), text)

    def to_dataframe(self) -> pd.DataFrame:
        """Return a row for each domain, weighting and map: accuracy, mIoU, kappa and IoU of each class."""
        import pandas as pd

        rows = {
            (domain, weighting, name): {
                "accuracy": scores.accuracy,
                "miou": scores.miou,
                "kappa": scores.kappa,
                **{f"iou_{CLASS_NAMES[code]}": scores.iou[code] for code in range(len(CLASS_NAMES))},
            }
            for domain in self.domains
            for weighting in ("area", "pixels")
            for name, each in self.evaluations.items()
            for scores in [getattr(each, weighting)[domain]]
        }
        frame = pd.DataFrame.from_dict(rows, orient="index")
        frame.index = pd.MultiIndex.from_tuples(list(rows), names=["domain", "weighting", "map"])
        return frame

    def _table(self) -> tuple[str, list[str], list[list[str]]]:
        codes = [
            code for code in LAND_CLASSES if any(e[d].support[code] for e in self.evaluations.values() for d in e.area)
        ]
        header = ["cells", "map", "accuracy", "mIoU", "acc. (px)", "mIoU (px)", *(CLASS_NAMES[code] for code in codes)]
        rows = []
        for domain in self.domains:
            for name, each in self.evaluations.items():
                area, pixels = each.area[domain], each.pixels[domain]
                values = (area.accuracy, area.miou, pixels.accuracy, pixels.miou, *(area.iou[c] for c in codes))
                rows.append([domain, name, *(figure(value) for value in values)])
        return (
            f"{self._heading()}\naccuracy, mean IoU and IoU of each class by area; (px) by pixel counts",
            header,
            rows,
        )

    def _heading(self) -> str:
        """Say what was compared: cells, years and the factor by which cells count as mixed."""
        first = next(iter(self.evaluations.values()))
        years = {name: years_in_words(each.years) or "not given" for name, each in self.evaluations.items()}
        if len(set(years.values())) == 1:
            said = years[self.names[0]]
        else:
            said = "; ".join(f"{name} {each}" for name, each in years.items())
        return (
            f"cells: {first.cells} | years: {said} | factor: {first.factor} x {first.factor} fine cells a coarse cell"
        )

    def __str__(self) -> str:
        return text_table(*self._table())

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return html_table(*self._table())
