"""Score predicted change on maps larger than memory, in windows of any size, and region by region.

Windows are counted from 90 N and 180 W, as coarse cells are everywhere in xland, so that a window is
the same whatever part of the globe the maps show; across the date line only where their size divides
the number of columns round the globe. Windows that the edge of the maps, a mask or a region cuts are
scored with the cells that they have.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import dask
import dask.array as da
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from xland.arguments import checked, is_count, items_of
from xland.errors import GridError, NothingToScoreError, RegionError, TimeError, UndefinedScoreWarning
from xland.reading.variables import ClassMap, as_map
from xland.scores.change_scores import ChangeScores
from xland.scores.counting import place_mask
from xland.scores.counts import cross_tabulate, tabulate_windows
from xland.scores.frames import as_dask, edges, overlaps, pad, place
from xland.scores.measures import Weighting
from xland.vocabulary import CLASSES, OCEAN, check_codes

__all__ = ["ChangeScores", "assess_change"]

_EVERYWHERE = None
"""Stands for all cells among the labels of regions."""


@dataclass(frozen=True, eq=False)
class _Tables:
    """Cross-tables of some cells: ``cross`` (8, 8, 8) of three maps, ``transitions`` (8, 8) of the first two."""

    cross: NDArray[np.float64]
    transitions: NDArray[np.float64]

    def __add__(self, other: _Tables) -> _Tables:
        return _Tables(self.cross + other.cross, self.transitions + other.transitions)


@dataclass(frozen=True, eq=False)
class _Scene:
    """Everything on the cells of one frame: lazy arrays of its shape."""

    frame: ClassMap
    start: da.Array
    observed: da.Array
    predicted: da.Array
    counted: da.Array
    labels: da.Array | None
    names: tuple[str, str, str]


@checked(GridError)
def assess_change(
    start: xr.DataArray | xr.Dataset,
    observed: xr.DataArray | xr.Dataset,
    predicted: xr.DataArray | xr.Dataset,
    *,
    factors: Sequence[int] = (1,),
    within: xr.DataArray | NDArray[np.bool_] | None = None,
    regions: xr.DataArray | None = None,
    weighting: Weighting = "area",
    cells: str | None = None,
) -> ChangeScores:
    """Score a predicted map by the change that leads to it, beside persistence.

    The maps are brought together by label and compared where all three have cells. Cells that are
    ocean or no data (class 0) in the start or in the observed map are left out: what begins or ends
    without data is no change. Blocks are read once, counted and forgotten.

    Parameters
    ----------
    start, observed, predicted : DataArray or Dataset with ``land_use``
        Class codes 0..7 of one time step: the map from which change is counted, the later (for a
        hindcast: earlier) map as observed, and as predicted. Lazy arrays stay lazy.
    factors : sequence of int
        Cells along the windows in which the maps are compared by the areas of their classes; 1, cell
        by cell, is always among them. A window should fit into memory.
    within : DataArray or (rows, columns) array of bool, optional
        Cells to score; placed as by :func:`xland.scores.evaluation.evaluate`.
    regions : DataArray of int or str, optional
        A label for each cell. Cells that the array does not cover, NaN and empty labels belong to no region.
    weighting : {"area", "pixels"}
        Weigh every cell with its area on the sphere, or count cells.
    cells : str, optional
        How to call the cells that are scored, in tables.

    Returns
    -------
    ChangeScores

    Raises
    ------
    GridError
        Grids whose cells differ in size or do not coincide; arguments that make no sense.
    RegionError
        Maps without a common cell, or no cell left to score (:class:`~xland.errors.NothingToScoreError`).
    TimeError
        A map of several time steps.
    VocabularyError
        Codes other than 0..7 in any of the maps.

    Warns
    -----
    UndefinedScoreWarning
        If nothing changes between the start and the observed map.

    Sources
    -------
    Figure of merit: Pontius et al. (2008), doi 10.1007/s00168-007-0138-2. Windows: Pontius, Peethambaram
    and Castella (2011), doi 10.1080/00045608.2010.517742.
    """
    sizes = _checked_factors(factors)
    maps = {
        "start": as_map(start, what="start map"),
        "observed": as_map(observed, what="observed map"),
        "predicted": as_map(predicted, what="predicted map"),
    }
    for each in maps.values():
        if len(each.years) > 1:
            raise TimeError(f"the {each.what} has {len(each.years)} time steps; select one")
    scene = _scene(maps, within, regions)
    (blocks,) = dask.compute({factor: _tabulate(scene, factor, weighting) for factor in sizes})
    tables = {factor: _gather(found.ravel()) for factor, found in blocks.items()}
    if not tables[1][_EVERYWHERE].cross.any():
        raise NothingToScoreError(
            "no cell is left to score: the mask `within` and the cells with data (class 1 to 7) in the start "
            "and the observed map have none in common"
        )
    about = {
        "weighting": weighting,
        "years": tuple(each.years[0] for each in maps.values()),
        "cells": cells or ("all" if within is None else "a chosen part of the map"),
    }
    labels = sorted(label for label in tables[1] if label is not _EVERYWHERE)
    per_region = {label: _scores({f: each[label] for f, each in tables.items()}, about) for label in labels}
    result = _scores({f: each[_EVERYWHERE] for f, each in tables.items()}, about, per_region)
    _warn_of_no_change(result)
    return result


def _checked_factors(factors: Sequence[int]) -> tuple[int, ...]:
    if not isinstance(factors, Iterable):
        raise GridError(f"`factors` is a sequence of sizes of windows, not {factors!r}; pass factors=({factors!r},)")
    wrong = [each for each in items_of(factors, "factors", GridError) if not is_count(each)]
    if wrong:
        raise GridError(
            f"windows are a whole number of cells along a side, at least 1, not {', '.join(map(repr, wrong))}"
        )
    return tuple(sorted({1, *(int(factor) for factor in factors)}))


def _scene(
    maps: dict[str, ClassMap], within: xr.DataArray | NDArray[np.bool_] | None, regions: xr.DataArray | None
) -> _Scene:
    observed = maps["observed"]
    rows, columns = slice(0, observed.grid.rows), slice(0, observed.grid.columns)
    for other in (maps["start"], maps["predicted"]):
        pieces = overlaps(other, observed)
        rows = slice(max(rows.start, pieces[0].rows.start), min(rows.stop, pieces[0].rows.stop))
        columns = slice(
            max(columns.start, min(piece.columns.start for piece in pieces)),
            min(columns.stop, max(piece.columns.stop for piece in pieces)),
        )
    if rows.start >= rows.stop or columns.start >= columns.stop:
        raise RegionError("the start, the observed and the predicted map have no cell in common; check their regions")
    frame = ClassMap(
        observed.data.isel(lat=rows, lon=columns), observed.grid.window(rows, columns), observed.years, observed.what
    )
    reference = as_dask(frame.data)[0]
    # cells that a map does not cover are as good as no data
    counted = _coverage(maps["start"], frame, reference.chunks) & _coverage(maps["predicted"], frame, reference.chunks)
    if within is not None:
        counted = counted & place_mask(within, observed)[rows, columns]
    return _Scene(
        frame=frame,
        start=place(maps["start"], frame, OCEAN),
        observed=reference,
        predicted=place(maps["predicted"], frame, OCEAN),
        counted=counted,
        labels=None if regions is None else _labels(regions, frame),
        names=("start map", "observed map", "predicted map"),
    )


def _coverage(source: ClassMap, frame: ClassMap, chunks: tuple[tuple[int, ...], ...]) -> da.Array:
    """Say which cells of the frame a map covers."""
    rows, columns = np.zeros(frame.grid.rows, dtype=bool), np.zeros(frame.grid.columns, dtype=bool)
    for piece in overlaps(source, frame):
        rows[piece.rows], columns[piece.columns] = True, True
    return da.from_array(rows, chunks[:1])[:, None] & da.from_array(columns, chunks[1:])[None, :]


def _labels(regions: xr.DataArray, frame: ClassMap) -> da.Array:
    """Return the labels of the frame's cells; NaN where a cell is not covered."""
    if not isinstance(regions, xr.DataArray) or regions.dtype.kind not in "iufbUO":
        raise GridError("`regions` must be a DataArray of whole numbers or names, with latitude and longitude")
    placed = as_map(regions, what="map of regions", holds="labels")
    if len(placed.years) > 1:
        raise GridError("the map of regions has several time steps; select one")
    labels = as_dask(placed.data)
    labels = labels.astype(np.float64 if labels.dtype.kind in "iufb" else object)
    data = xr.DataArray(labels, placed.data.coords, placed.data.dims)
    return place(ClassMap(data, placed.grid, placed.years, placed.what), frame, np.nan)


def _tabulate(scene: _Scene, factor: int, weighting: Weighting) -> da.Array:
    """Return an array with a dictionary of tables by region for each block."""
    grid = scene.frame.grid
    before = grid.row_offset % factor, grid.column_offset % factor
    margins = [(first, -(first + size) % factor) for first, size in zip(before, grid.shape, strict=True)]
    observed = pad(scene.observed, margins)
    chunks = tuple(edges(sizes, factor) for sizes in observed.chunks)

    def aligned(array: da.Array, fill: Any = 0) -> da.Array:
        return pad(array, margins, fill).rechunk(chunks)

    weights = grid.cell_area() if weighting == "area" else np.ones(grid.rows)
    rows = np.arange(sum(chunks[0])) - margins[0][0] + 0.5
    columns = np.arange(sum(chunks[1])) - margins[1][0] + 0.5
    labels = (None, None) if scene.labels is None else (aligned(scene.labels, np.nan), "yx")
    return da.blockwise(
        _tabulate_block,
        "yx",
        aligned(scene.start),
        "yx",
        observed.rechunk(chunks),
        "yx",
        aligned(scene.predicted),
        "yx",
        aligned(scene.counted),
        "yx",
        da.from_array(np.pad(weights, margins[0]), chunks=(chunks[0],)),
        "y",
        da.from_array(grid.north - rows * grid.resolution, chunks=(chunks[0],)),
        "y",
        da.from_array(grid.west + columns * grid.resolution, chunks=(chunks[1],)),
        "x",
        *labels,
        adjust_chunks={"y": lambda _: 1, "x": lambda _: 1},
        factor=factor,
        names=scene.names,
        dtype=object,
        meta=np.empty((0, 0), dtype=object),
    )


def _tabulate_block(
    start: NDArray[Any],
    observed: NDArray[Any],
    predicted: NDArray[Any],
    counted: NDArray[np.bool_],
    weights: NDArray[np.float64],
    latitude: NDArray[np.float64],
    longitude: NDArray[np.float64],
    labels: NDArray[Any] | None,
    *,
    factor: int,
    names: tuple[str, str, str],
) -> NDArray[Any]:
    maps = [
        check_codes(codes, what=name, latitude=latitude, longitude=longitude)
        for codes, name in zip((start, observed, predicted), names, strict=True)
    ]
    counted = counted & (maps[0] != OCEAN) & (maps[1] != OCEAN)
    found = {_EVERYWHERE: _tables(maps, counted, weights, factor)}
    if labels is not None:
        for label, inside in _regions(labels, counted):
            found[label] = _tables(maps, inside, weights, factor)
    result = np.empty((1, 1), dtype=object)
    result[0, 0] = found
    return result


def _tables(
    maps: list[NDArray[np.uint8]], counted: NDArray[np.bool_], weights: NDArray[np.float64], factor: int
) -> _Tables:
    if not counted.any():
        return _Tables(np.zeros((len(CLASSES),) * 3), np.zeros((len(CLASSES),) * 2))
    if factor == 1:
        cross = cross_tabulate(*maps, counted=counted, row_weights=weights)
        return _Tables(cross, cross.sum(axis=2))
    start, observed, predicted = maps
    return _Tables(*tabulate_windows(start, observed, predicted, factor, counted=counted, row_weights=weights))


def _regions(labels: NDArray[Any], counted: NDArray[np.bool_]) -> Iterable[tuple[Any, NDArray[np.bool_]]]:
    """Yield the labels of a block with the cells to count of each."""
    import pandas as pd

    codes, names = pd.factorize(labels.ravel())
    numbers = codes.reshape(labels.shape)
    for number, name in enumerate(names):
        if name != "":
            yield _plain_label(name), counted & (numbers == number)


def _plain_label(name: Any) -> int | str:
    if isinstance(name, str):
        return name
    if int(name) != name:
        raise GridError(f"the map of regions holds {name}; labels are whole numbers or names")
    return int(name)


def _gather(blocks: Iterable[dict[Any, _Tables]]) -> dict[Any, _Tables]:
    total: dict[Any, _Tables] = {}
    for block in blocks:
        for label, tables in block.items():
            total[label] = total[label] + tables if label in total else tables
    return total


def _scores(
    tables: dict[int, _Tables], about: dict[str, Any], per_region: dict[Any, ChangeScores] | None = None
) -> ChangeScores:
    by_factor = {
        factor: ChangeScores(each.cross, each.transitions, factor=factor, **about) for factor, each in tables.items()
    }
    return ChangeScores(
        tables[1].cross, tables[1].transitions, by_factor=by_factor, per_region=per_region or {}, **about
    )


def _warn_of_no_change(scores: ChangeScores) -> None:
    changed = scores.transitions - np.diag(np.diag(scores.transitions))
    if not changed.any():
        years = [year for year in scores.years[:2] if year is not None]
        named = f" ({' and '.join(map(str, years))})" if years else ""
        warnings.warn(
            f"no cell changes between the start and the observed map{named}: the figure of merit of persistence "
            "and other scores of change are not defined (NaN); check that the maps show two dates",
            UndefinedScoreWarning,
            stacklevel=3,
        )
