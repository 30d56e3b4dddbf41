"""Small versions of all maps of a report, made in one reading: what its pictures are drawn from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import dask
import dask.array as da
import numpy as np
from numpy.typing import NDArray

from xland.geo.grid import Grid
from xland.reading.variables import ClassMap
from xland.report.pictures import stride
from xland.scores.frames import BLANK, as_dask, mean, mode, place, thin
from xland.scores.regions import Regions, number_map
from xland.vocabulary import OCEAN

CHANGE_KINDS = ("no change", "hit", "miss", "false alarm", "wrong hit")
"""What a prediction of change comes to in a cell, in the order of the codes."""


@dataclass(frozen=True)
class Overview:
    """Thinned maps on the cells of the model's map.

    Parameters
    ----------
    grid : Grid
        Of the model's map, before it was thinned.
    step : int
        Cells along the blocks that became one cell.
    codes : dict of str to (rows, columns) array of uint8
        Most frequent class of each map; :data:`xland.scores.frames.BLANK` where it has no cell.
    differs : dict of str to (rows, columns) array of float32
        Share of the cells with another class than the observed map; NaN over ocean and beyond.
    sea : (rows, columns) array of bool
        Where the observed map is mostly ocean.
    changes : (rows, columns) array of uint8 or None
        Positions in :data:`CHANGE_KINDS`; the most frequent kind among the cells that change.
    regions : (rows, columns) array of uint8 or None
        Number of the region, from 0.
    fields : dict of str to (array of float32, Grid, array of bool or None)
        Means of further layers, each on its own grid, and where to draw the sea.
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
    model: str,
    maps: Mapping[str, ClassMap],
    observed: ClassMap,
    *,
    start: ClassMap | None = None,
    regions: Regions | None = None,
    fields: Mapping[str, ClassMap],
    max_pixels: int,
) -> Overview:
    """Thin all maps to about ``max_pixels`` cells, reading each once.

    Parameters
    ----------
    model : str
        Name of the map whose cells are drawn.
    maps : mapping of str to ClassMap
        The model's map and its baselines.
    observed, start : ClassMap
    regions : Regions, optional
    fields : mapping of str to ClassMap
        Further layers of numbers.
    max_pixels : int
    """
    frame = maps[model]
    step = stride(frame.grid, max_pixels)
    placed = {name: _codes(each, frame) for name, each in maps.items()}
    truth = _codes(observed, frame)
    inside = (truth != BLANK) & (truth != OCEAN)
    lazy: dict[str, Any] = {
        "codes": {name: thin(each, step, mode, np.uint8) for name, each in placed.items()},
        "observed": thin(truth, step, mode, np.uint8),
        "differs": {name: thin(_differs(each, truth, inside), step, mean, np.float32) for name, each in placed.items()},
        "fields": {name: _thin_field(each, max_pixels) for name, each in fields.items()},
    }
    if start is not None:
        lazy["start"] = thin(before := _codes(start, frame), step, mode, np.uint8)
        lazy["changes"] = thin(_changes(before, truth, placed[model], inside), step, _most_change, np.uint8)
    if regions is not None:
        numbers = place(number_map(regions), frame, 0)
        lazy["regions"] = thin(da.where(numbers == 0, np.uint8(BLANK), numbers - 1), step, mode, np.uint8)
    (read,) = dask.compute(lazy)
    sea = read["observed"] == OCEAN
    codes = ({"start": read["start"]} if start is not None else {}) | {"observed": read["observed"]} | read["codes"]
    return Overview(
        frame.grid,
        step,
        codes,
        read["differs"],
        sea,
        read.get("changes"),
        read.get("regions"),
        {
            name: (read["fields"][name], each.grid, sea if each.grid.same_as(frame.grid) else None)
            for name, each in fields.items()
        },
    )


def _codes(source: ClassMap, frame: ClassMap) -> da.Array:
    return place(source, frame, BLANK).astype(np.uint8)


def _differs(codes: da.Array, truth: da.Array, inside: da.Array) -> da.Array:
    return da.where(inside & (codes != BLANK), (codes != truth).astype(np.float32), np.float32(np.nan))


def _changes(before: da.Array, truth: da.Array, forecast: da.Array, inside: da.Array) -> da.Array:
    known = inside & (before != BLANK) & (before != OCEAN) & (forecast != BLANK)
    changed, foretold, right = truth != before, forecast != before, forecast == truth
    kinds = da.where(changed, da.where(right, 1, da.where(foretold, 4, 2)), da.where(foretold, 3, 0))
    return da.where(known, kinds, BLANK).astype(np.uint8)


def _most_change(kinds: NDArray[np.uint8], step: int) -> NDArray[np.uint8]:
    moving = mode(np.where(kinds == 0, np.uint8(BLANK), kinds), step)
    return np.where(moving == BLANK, mode(kinds, step), moving)


def _thin_field(layer: ClassMap, max_pixels: int) -> da.Array:
    values = as_dask(layer.data)[0].astype(np.float32)
    return thin(values, stride(layer.grid, max_pixels), mean, np.float32)
