"""Scores of land-use maps against an observed map, beside baselines, lazily on dask.

Two weightings stand side by side, since they differ: ``area`` weighs every cell with its area on the
sphere, ``pixels`` counts cells of a latitude/longitude grid as most published figures do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import dask
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from xland.arguments import checked, is_count, items_of
from xland.errors import GridError, NothingToScoreError, VocabularyError
from xland.evaluation.alignment import pair_years
from xland.evaluation.blocks import Weightings, count_lazily, weigh
from xland.evaluation.comparison import Comparison, Evaluation
from xland.evaluation.confusion import DOMAINS, confusion, mixed_cells
from xland.evaluation.frames import place
from xland.evaluation.measures import Scores, Weighting
from xland.evaluation.regions import Regions, number_map
from xland.reader import as_map
from xland.vocabulary import CLASSES, check_codes

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
        See :mod:`xland.evaluation.regions`.

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
