"""The pattern of a map as landscape ecology describes it: boundaries, patches, aggregation and contrast by class.

Definitions are those of FRAGSTATS 4 (McGarigal, Cushman and Ene 2012) and pylandstats (Bosch 2019, doi
10.1371/journal.pone.0225734), with patches of eight neighbours and without boundaries to the background. Pairs,
boundaries, aggregation and sizes of patches are counted in cells, whatever area a cell has at its latitude; areas of
classes and patches in km2 are those on the sphere.

Background is what is not a land class: ocean, inland water, cells without an observation, cells out of the mask, and
everything south of 60 S. The edge of a region or mask cuts patches, as in FRAGSTATS.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import dask
import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from xland.arguments import Count, checked, is_count, items_of
from xland.errors import GridError, NothingToScoreError
from xland.geo.grid import Grid
from xland.reading.variables import ClassMap
from xland.scores.counts import BLANK, SOUTHERN_LIMIT, majorities
from xland.scores.frames import Block, common_cells, one_step, pair_years
from xland.scores.measures import ratio
from xland.scores.patch_counts import AT_EDGES, ELSEWHERE, Patches, Strip, cut_strip, join_strips
from xland.scores.tables import Tabular, TextTable, figure, frame_of, plain
from xland.vocabulary import CLASS_NAMES, LAND_CLASSES, class_code

if TYPE_CHECKING:
    import pandas as pd

OBSERVED = "observed"
"""Name of the observed map among the maps that are compared."""

SCALES = (1, 2, 4, 8)
"""Cells along the squares to which a map is coarsened by default."""

RANKS = (1, 10, 100, 1000, 10_000)
"""Ranks of patches whose sizes are written into JSON files."""

_HEMEROBY = {"urban": 7, "cropland": 5, "pasture": 4, "grass_shrub": 3, "forest": 2, "other": 1}
_STRIP = 4_000_000  # cells of a strip at most: about 100 MB while it is counted
_LARGEST_SCALE = 256
_WIDEST = 180.0  # degrees of the squares in which cells of all scales fit
_MEASURES = ("boundary_density", "aggregation_index", "edge_contrast", "patches", "mean_patch", "largest_patch")


def _hemeroby_contrast() -> NDArray[np.float64]:
    contrast = np.full((len(CLASS_NAMES),) * 2, np.nan)
    degrees = {class_code(name): degree for name, degree in _HEMEROBY.items()}
    for code, degree in degrees.items():
        for other, against in degrees.items():
            contrast[code, other] = abs(degree - against) / 6
    contrast.flags.writeable = False
    return contrast


HEMEROBY_CONTRAST = _hemeroby_contrast()
"""Contrast of two classes, 0 to 1: how far apart they are in hemeroby, the degree of human influence.

The degrees, from 1 (almost none) to 7 (excessive), follow Walz and Stein (2014), doi 10.1016/j.jnc.2014.01.007; which
of them our broader classes have is our choice: urban 7, cropland 5, pasture 4, grass and shrub 3, forest 2, other 1.
"""


def _divided(above: NDArray[np.float64], below: NDArray[np.float64]) -> NDArray[np.float64]:
    """Divide; infinity where only the denominator is 0, NaN where both are."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(above / below)


def _most_pairs(cells: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the most pairs of like cells that so many cells can have."""
    side = np.array([math.isqrt(int(each)) for each in cells], dtype=np.int64)
    rest = cells - side**2
    return 2 * side * (side - 1) + np.where(rest == 0, 0, np.where(rest <= side, 2 * rest - 1, 2 * rest - 2))


def kolmogorov_distance(first: NDArray[np.int64], second: NDArray[np.int64]) -> float:
    """Largest difference between the distributions of two samples of sizes, 0 to 1; NaN if one is empty."""
    if not (len(first) and len(second)):
        return math.nan
    sizes = np.union1d(first, second)
    shares = [np.searchsorted(np.sort(each), sizes, side="right") / len(each) for each in (first, second)]
    return float(np.abs(shares[0] - shares[1]).max())


@dataclass(frozen=True, eq=False)
class Pattern:
    """The pattern of a map at one scale. Arrays by class have the shape ``(classes,)`` in the order of the codes.

    Parameters
    ----------
    pairs : (2, 2, classes, classes) array
        Pairs of neighbouring cells as of :func:`xland.scores.patch_counts.count_pairs`.
    patch_list : Patches
        Class, cells and area (m2) of every patch.
    contrast : (classes, classes) array
        Contrast of two classes, 0 to 1.

    Attributes
    ----------
    cells, class_cells, class_km2
        Cells of all classes and of each; area of each class in km2.
    boundary_density, class_boundary_density
        Boundaries between classes, divided by the pairs of neighbouring cells; boundaries of each class, divided by all
        pairs, as edge density in FRAGSTATS is relative to the whole landscape. Every boundary belongs to two classes.
    edge_ratio, squares
        Boundary density at edges of coarse cells, divided by that elsewhere, horizontally and vertically, (2,): 1 is a
        map without squares, infinity a map that has no boundaries but at the edges, NaN a coarsened map. The worse of
        both, or its inverse.
    aggregation_index, class_aggregation_index
        Per cent: pairs of like cells, each counted once, divided by the most that as many cells can have (He, DeZonia
        and Mladenoff 2000, doi 10.1023/A:1008102521322): 100 for one square, 0 without neighbours, NaN for classes of
        less than two cells. The mean of the classes is weighted by their cells.
    edge_contrast, class_edge_contrast
        Total edge contrast index (TECI), per cent: mean contrast of all boundaries, and of those of each class.
    patches, class_patches, mean_patch, class_mean_patch, largest_patch, class_largest_patch
        Number of patches; cells of the mean and of the largest one, 0 if there is none.
    """

    pairs: NDArray[np.int64]
    patch_list: Patches
    contrast: NDArray[np.float64]
    cells: int = field(init=False)
    class_cells: NDArray[np.int64] = field(init=False)
    class_km2: NDArray[np.float64] = field(init=False)
    boundary_density: float = field(init=False)
    class_boundary_density: NDArray[np.float64] = field(init=False)
    edge_ratio: NDArray[np.float64] = field(init=False)
    squares: float = field(init=False)
    aggregation_index: float = field(init=False)
    class_aggregation_index: NDArray[np.float64] = field(init=False)
    edge_contrast: float = field(init=False)
    class_edge_contrast: NDArray[np.float64] = field(init=False)
    patches: int = field(init=False)
    class_patches: NDArray[np.int64] = field(init=False)
    mean_patch: float = field(init=False)
    class_mean_patch: NDArray[np.float64] = field(init=False)
    largest_patch: int = field(init=False)
    class_largest_patch: NDArray[np.int64] = field(init=False)

    def __post_init__(self) -> None:
        codes, size = self.patch_list.classes, len(CLASS_NAMES)
        cells = np.bincount(codes, self.patch_list.cells, size).astype(np.int64)
        count, largest = np.bincount(codes, minlength=size), np.zeros(size, np.int64)
        np.maximum.at(largest, codes, self.patch_list.cells)
        pairs = self.pairs.sum(axis=(0, 1))
        every, boundaries = int(pairs.sum()), pairs.sum(axis=0) + pairs.sum(axis=1) - 2 * np.diag(pairs)
        of_place = self.pairs.sum(axis=(2, 3))
        density = ratio(of_place - np.trace(self.pairs, axis1=2, axis2=3), of_place)
        edges = _divided(density[:, AT_EDGES], density[:, ELSEWHERE])
        aggregation = 100 * ratio(np.diag(pairs), _most_pairs(cells))
        known = np.isfinite(aggregation)
        between = np.nan_to_num(self.contrast) * (1 - np.eye(size))
        contrasts = 100 * ratio(((pairs + pairs.T) * between).sum(axis=1), boundaries)
        vars(self).update(
            cells=int(cells.sum()),
            class_cells=cells,
            class_km2=np.bincount(codes, self.patch_list.area, size) / 1e6,
            boundary_density=float(ratio(boundaries.sum() // 2, every)),
            class_boundary_density=ratio(boundaries, np.full(size, every)),
            edge_ratio=edges,
            squares=float(np.maximum(edges, _divided(np.ones(2), edges)).max()),
            aggregation_index=float(ratio((aggregation[known] * cells[known]).sum(), cells.sum())),
            class_aggregation_index=aggregation,
            edge_contrast=float(ratio(np.nansum(contrasts * boundaries), boundaries.sum())),
            class_edge_contrast=contrasts,
            patches=len(codes),
            class_patches=count,
            mean_patch=float(ratio(cells.sum(), len(codes))),
            class_mean_patch=ratio(cells, count),
            largest_patch=int(largest.max()),
            class_largest_patch=largest,
        )

    def sizes(self, name: str | None = None) -> NDArray[np.int64]:
        """Return the sizes of all patches, or of those of a class, in cells and from the largest: areas by rank."""
        return np.sort(self._of(name).cells)[::-1]

    def areas(self, name: str | None = None) -> NDArray[np.float64]:
        """Return the areas of all patches, or of those of a class, in km2 and from the largest."""
        return np.sort(self._of(name).area)[::-1] / 1e6

    def patch_distance(self, other: Pattern, name: str | None = None) -> float:
        """Return the Kolmogorov distance between the sizes of the patches of two maps, of all or of one class."""
        return kolmogorov_distance(self.sizes(name), other.sizes(name))

    def to_dict(self) -> dict[str, Any]:
        """Return plain numbers for JSON: None where one is not defined or infinite. Of patches, sizes by rank."""
        classes = {
            name: {
                "cells": int(self.class_cells[code]),
                "km2": float(self.class_km2[code]),
                **{each: plain(float(getattr(self, f"class_{each}")[code])) for each in _MEASURES},
                "ranks": self._ranks(name),
            }
            for code, name in enumerate(CLASS_NAMES)
            if code in LAND_CLASSES
        }
        return {
            "cells": self.cells,
            "km2": float(self.class_km2.sum()),
            **{name: plain(getattr(self, name)) for name in _MEASURES},
            "edge_ratio": [float(each) if math.isfinite(each) else None for each in self.edge_ratio],
            "ranks": self._ranks(),
            "classes": classes,
        }

    def _of(self, name: str | None) -> Patches:
        return self.patch_list if name is None else self.patch_list.of(class_code(name))

    def _ranks(self, name: str | None = None) -> dict[str, dict[str, float]]:
        sizes, areas = self.sizes(name), self.areas(name)
        ranks = [rank for rank in RANKS if rank <= len(sizes)]
        return {str(rank): {"cells": int(sizes[rank - 1]), "km2": float(areas[rank - 1])} for rank in ranks}


@dataclass(frozen=True, eq=False, repr=False)
class LandscapeScores(Tabular):
    """The patterns of maps on the same cells, at several scales; the observed map first, if there is one.

    Parameters
    ----------
    maps : dict of str to dict of int to Pattern
        By name of the map, then by scale: cells along the squares to which the map was coarsened by majority.
    factor : int
        Fine cells along a coarse cell.
    cells : str
        Which cells were counted.
    """

    maps: dict[str, dict[int, Pattern]]
    factor: int
    cells: str = "all"

    def __getitem__(self, name: str) -> Pattern:
        """Return the pattern of a map at its own scale, or at the finest that was asked for."""
        return next(iter(self.maps[name].values()))

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the maps."""
        return tuple(self.maps)

    @property
    def scales(self) -> tuple[int, ...]:
        """Cells along the squares to which the maps were coarsened, in ascending order."""
        return tuple(next(iter(self.maps.values())))

    def patch_distance(self, name: str, scale: int | None = None, of_class: str | None = None) -> float:
        """Return the Kolmogorov distance of the sizes of patches from those of the observed map; NaN without one."""
        if OBSERVED not in self.maps:
            return math.nan
        scale = self.scales[0] if scale is None else scale
        return self.maps[name][scale].patch_distance(self.maps[OBSERVED][scale], of_class)

    def to_dict(self) -> dict[str, Any]:
        """Return plain numbers for JSON, by map and scale."""
        maps: dict[str, Any] = {}
        for name, patterns in self.maps.items():
            maps[name] = {}
            for scale, pattern in patterns.items():
                written = pattern.to_dict()
                written["patch_distance"] = plain(self.patch_distance(name, scale))
                for each, measures in written["classes"].items():
                    measures["patch_distance"] = plain(self.patch_distance(name, scale, each))
                maps[name][str(scale)] = written
        return {"cells": self.cells, "factor": self.factor, "maps": maps}

    def to_dataframe(self) -> pd.DataFrame:
        """Return a row for each map, scale and class; the class ``all`` is the whole landscape."""
        kept = ("cells", "km2", *_MEASURES, "patch_distance")
        rows = {
            (name, int(scale), each): {key: measures[key] for key in kept}
            for name, scales in self.to_dict()["maps"].items()
            for scale, written in scales.items()
            for each, measures in {"all": written, **written["classes"]}.items()
        }
        return frame_of(rows, ["map", "scale", "class"]).astype(float)

    def _tables(self) -> list[TextTable]:
        title = (
            f"cells: {self.cells}\n"
            f"boundaries per pair of cells; edges: at edges of {self.factor} x {self.factor} cells / elsewhere\n"
            "aggregation and edge contrast, %; mean patch, cells; distance of patch sizes"
        )
        header = ["map", "scale", "bound.", "edges", "aggr.", "contr.", "patches", "mean", "dist."]
        rows = []
        for name, patterns in self.maps.items():
            for scale, found in patterns.items():
                measures = [figure(found.boundary_density), figure(found.squares, 2)]
                measures += [figure(found.aggregation_index, 1), figure(found.edge_contrast, 1)]
                measures += [str(found.patches), figure(found.mean_patch, 1), figure(self.patch_distance(name, scale))]
                rows.append([name, str(scale), *measures])
        codes = [code for code in LAND_CLASSES if any(self[name].class_cells[code] for name in self.maps)]
        densities = {name: self[name].class_boundary_density[codes] for name in self.maps}
        by_class = [[name, *map(figure, each)] for name, each in densities.items()]
        classes = ["map", *(CLASS_NAMES[code] for code in codes)]
        return [(title, header, rows), ("boundaries of each class per pair of cells", classes, by_class)]


@checked(GridError)
def assess_landscape(
    land_use: xr.DataArray | xr.Dataset | Mapping[str, xr.DataArray | xr.Dataset],
    observed: xr.DataArray | xr.Dataset | None = None,
    *,
    factor: Count = 5,
    scales: Sequence[int] = SCALES,
    within: xr.DataArray | NDArray[np.bool_] | None = None,
    contrast: ArrayLike = HEMEROBY_CONTRAST,
    match_years: bool = True,
    cells: str | None = None,
) -> LandscapeScores:
    """Measure the landscape pattern of a map, or of several maps on the same cells; each is read once.

    Cells that are not a land class are background, see :mod:`xland.scores.landscape`; with an observed map, cells that
    are not land there are background in all maps. Maps are counted in strips of rows, so that large ones need little
    memory. On a map of the whole circle of latitude the date line is not an edge, if the coarsened cells divide the
    circle.

    Parameters
    ----------
    land_use : DataArray, Dataset with ``land_use``, or mapping of names to these
        Class codes of one time step. A single map is called ``map``; those of a DataArray with a dimension ``draw``,
        ``draw 0``, ``draw 1`` and so on.
    observed : DataArray or Dataset, optional
        Class codes on the same grid; may cover more or less.
    factor : int
        Fine cells along a coarse cell, counted from 90 N and 180 W: for boundaries at the edges of coarse cells.
    scales : sequence of int
        Cells along the squares to which the maps are coarsened by majority, counted from 90 N and 180 W; 1 is the map
        itself. Background cells do not vote.
    within : DataArray or (rows, columns) array of bool, optional
        Cells to count; an array lies on the observed map, or the first map without one.
    contrast : (classes, classes) array, optional
        Contrast of two classes, 0 to 1, symmetric, for the edge contrast; by default
        :data:`xland.scores.landscape.HEMEROBY_CONTRAST`. NaN counts as 0.
    match_years : bool
        Refuse an observed map of another year.
    cells : str, optional
        Name of the cells that are counted, for tables.

    Returns
    -------
    LandscapeScores
        By name of the map and scale; the observed map is called ``observed``.

    Raises
    ------
    GridError
        If the cells differ in size or do not coincide, a scale is not a whole number from 1 to 256, ``contrast`` has
        another shape or range, or a map is called ``observed`` beside an observed map.
    RegionError
        If the maps have no cell in common, or none of them is land (:class:`~xland.errors.NothingToScoreError`).
    TimeError
        If a map has several time steps, or another year than the observed one.
    VocabularyError
        If a map has unknown codes.
    """
    weights, sizes = _checked_contrast(contrast), _checked_scales(scales)
    maps, truth = _given(land_use, observed, match_years=match_years)
    reference, unit = next(iter(maps.values())), math.lcm(factor, *sizes)
    if unit * reference.grid.resolution > _WIDEST:
        raise GridError(
            f"scales {', '.join(map(str, sizes))} and factor {factor} need squares of {unit} cells, "
            f"{unit * reference.grid.resolution:g} degrees; leave large scales out"
        )
    frame = common_cells([*maps.values()], reference, within, unit)
    rows, columns = frame.counted.shape
    height = max(_STRIP // columns // unit, 1) * unit
    frame = replace(frame, counted=frame.counted.rechunk((min(height, rows), -1)))
    grid = frame.frame.grid
    wrap = grid.is_global and frame.width == grid.columns
    lazy = {
        name: frame.each_block(
            _count_strip,
            [(each, 0), None if truth is None else (truth, 0)],
            scales=sizes,
            factor=factor,
            wrap=wrap,
            resolution=grid.resolution,
        )
        for name, each in maps.items()
    }
    (strips,) = dask.compute(lazy)
    patterns: dict[str, dict[int, Pattern]] = {name: {} for name in maps}
    for scale in sizes:
        for name, parts in strips.items():
            joined = join_strips([part[scale] for part in parts.ravel()], factor=_edges_at(scale, factor), wrap=wrap)
            patterns[name][scale] = Pattern(*joined, weights)
    if not any(found[sizes[0]].cells for found in patterns.values()):
        raise NothingToScoreError("no cell is left to measure: no cell of the maps is land and in the mask `within`")
    return LandscapeScores(patterns, factor, cells or ("all" if within is None else "a chosen part of the map"))


def _given(
    land_use: Any, observed: xr.DataArray | xr.Dataset | None, *, match_years: bool
) -> tuple[dict[str, ClassMap], ClassMap | None]:
    """Return all maps by name, the observed one first, and the observed one."""
    if isinstance(land_use, xr.DataArray) and "draw" in land_use.dims:
        land_use = {f"draw {n}": land_use.isel(draw=n, drop=True) for n in range(land_use.sizes["draw"])}
    several = isinstance(land_use, Mapping) and not isinstance(land_use, xr.Dataset)
    given = dict(land_use) if several else {"map": land_use}
    if not given:
        raise GridError("nothing to measure: pass at least one map")
    maps = {str(name): one_step(each, f"map {name!r}") for name, each in given.items()}
    if observed is None:
        return maps, None
    if OBSERVED in maps:
        raise GridError(f"a map has the name {OBSERVED!r} of the observed map; give it another one")
    truth = one_step(observed, "observed map")
    for each in maps.values():
        pair_years(each, truth, match_years=match_years)
    return {OBSERVED: truth, **maps}, truth


def _edges_at(scale: int, factor: int) -> int:
    """Return the factor to which edges of coarse cells are counted at a scale; 1 is none."""
    return factor if scale == 1 else 1


def fitting_scales(grid: Grid, factor: int) -> tuple[int, ...]:
    """Return those of :data:`SCALES` at which a map has at least two squares along each side."""
    shortest = min(grid.shape)
    return tuple(
        scale
        for scale in SCALES
        if scale == 1 or (2 * scale <= shortest and math.lcm(scale, factor) * grid.resolution <= _WIDEST)
    )


def _count_strip(
    block: Block,
    codes: NDArray[np.uint8],
    truth: NDArray[np.uint8] | None,
    *,
    scales: Sequence[int],
    factor: int,
    wrap: bool,
    resolution: float,
) -> dict[int, Strip]:
    """Count a strip of a map at every scale."""
    counted = block.counted & (block.latitude > SOUTHERN_LIMIT)[:, None] & np.isin(codes, LAND_CLASSES)
    if truth is not None:
        counted &= np.isin(truth, LAND_CLASSES)
    land = np.where(counted, codes, np.uint8(BLANK))
    top = round((90 - float(block.latitude[0])) / resolution - 0.5)
    found = {}
    for scale, each in majorities(land, scales).items():
        area = block.area.reshape(-1, scale).sum(axis=1) * scale
        found[scale] = cut_strip(each, area, factor=_edges_at(scale, factor), offset=(top // scale, 0), wrap=wrap)
    return found


def _checked_scales(scales: Sequence[int]) -> tuple[int, ...]:
    found = items_of(scales, "scales", GridError)
    wrong = [each for each in found if not (is_count(each) and each <= _LARGEST_SCALE)]
    if wrong or not found:
        said = ", ".join(map(repr, wrong)) or "none"
        raise GridError(f"scales are whole numbers of cells from 1 to {_LARGEST_SCALE}, not {said}")
    return tuple(sorted({int(each) for each in found}))


def _checked_contrast(contrast: ArrayLike) -> NDArray[np.float64]:
    found, size = np.asarray(contrast, dtype=np.float64), len(CLASS_NAMES)
    if found.shape != (size, size):
        raise GridError(f"the contrast of classes is an array of {size} x {size}, not of shape {found.shape}")
    values = np.nan_to_num(found)
    if not (((values >= 0) & (values <= 1)).all() and np.array_equal(values, values.T)):
        raise GridError("the contrast of classes must be between 0 and 1, and the same in both directions")
    return found
