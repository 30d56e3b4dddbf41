"""Small versions of all maps of a report, made in one reading, and pictures of them that a page contains in itself.

Class maps have few colours, so an indexed PNG is several times smaller than one of RGB values.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import dask
import dask.array as da
import numpy as np
from numpy.typing import NDArray

from xland.geo.grid import Grid
from xland.reading.variables import ClassMap
from xland.report.parts import Picture
from xland.scores.frames import BLANK, as_dask, edges, place
from xland.scores.regions import Regions, number_map
from xland.vocabulary import CLASSES, OCEAN

CHANGE_KINDS = ("no change", "hit", "miss", "false alarm", "wrong hit")
"""What a prediction of change comes to in a cell, in the order of the codes."""

SEA = CLASSES[OCEAN].color
"""Colour of the cells that are ocean in the observed map, wherever land alone is of interest."""

_CLEAR = "#00000000"
_STEPS = 32  # of a colour scale


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
    step = _stride(frame.grid, max_pixels)
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
            name: thin(as_dask(each.data)[0].astype(np.float32), _stride(each.grid, max_pixels), mean)
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


def mode(codes: NDArray[np.uint8], step: int) -> NDArray[np.uint8]:
    """Return the most frequent code of each block, the lowest of those that are equally frequent.

    :data:`BLANK` counts only where a block contains nothing else.
    """
    blocks = _blocks(codes, step, BLANK)
    best = np.full((blocks.shape[0], blocks.shape[2]), BLANK, dtype=np.uint8)
    most = np.zeros(best.shape, dtype=np.int64)
    for code in np.unique(codes):
        if code != BLANK:
            count = np.count_nonzero(blocks == code, axis=(1, 3))
            best[count > most] = code
            np.maximum(most, count, out=most)
    return best


def mean(values: NDArray[np.floating[Any]], step: int) -> NDArray[np.float32]:
    """Return the mean of each block over the cells that have a value; NaN where none has."""
    blocks = _blocks(values, step, np.nan)
    known = np.isfinite(blocks)
    count = known.sum(axis=(1, 3))
    total = np.where(known, blocks, 0).sum(axis=(1, 3), dtype=np.float64)
    return np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0).astype(np.float32)


def _blocks(values: NDArray[Any], step: int, fill: float) -> NDArray[Any]:
    rows, columns = values.shape
    padded = np.pad(values, [(0, -rows % step), (0, -columns % step)], constant_values=fill)
    return padded.reshape(padded.shape[0] // step, step, padded.shape[1] // step, step)


def _stride(grid: Grid, max_pixels: int) -> int:
    """Return along how many cells a map has to be thinned to have no more than ``max_pixels``."""
    return max(1, math.ceil(math.sqrt(grid.rows * grid.columns / max_pixels)))


def code_picture(
    codes: NDArray[np.uint8], colors: Sequence[str], grid: Grid, alt: str, caption: str, tag: str = ""
) -> Picture:
    """Draw codes (rows, columns) in their colours; :data:`BLANK` is left blank. ``grid`` is that before thinning."""
    indices = np.where(codes == BLANK, np.uint8(len(colors)), codes)
    return _picture(indices, [*colors, _CLEAR], grid, alt, caption, tag)


def scale_picture(
    values: NDArray[np.floating[Any]],
    sea: NDArray[np.bool_] | None,
    colors: Sequence[str],
    ends: tuple[float, float],
    grid: Grid,
    alt: str,
    caption: str,
    tag: str = "",
) -> Picture:
    """Draw values (rows, columns) on a scale of colours between two ends; NaN is left blank, ``sea`` in its colour."""
    lower, upper = ends
    known = np.isfinite(values)
    share = np.clip((np.where(known, values, lower) - lower) / max(upper - lower, 1e-12), 0, 1)
    indices = np.round(share * (len(colors) - 1)).astype(np.uint8)
    indices[~known] = len(colors)
    if sea is not None:
        indices[sea] = len(colors) + 1
    return _picture(indices, [*colors, _CLEAR, SEA], grid, alt, caption, tag)


def ramp(first: str, last: str, count: int = _STEPS) -> list[str]:
    """Return colours evenly between two."""
    ends = np.array([[int(color[i : i + 2], 16) for i in (1, 3, 5)] for color in (first, last)])
    shades = ends[0] + (ends[1] - ends[0]) * np.linspace(0, 1, count)[:, None]
    return ["#{:02x}{:02x}{:02x}".format(*np.round(shade).astype(int)) for shade in shades]


def cividis(count: int = _STEPS) -> list[str]:
    """Return colours from dark blue to yellow that look alike to colour-blind readers (cividis)."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    return [to_hex(color) for color in colormaps["cividis"](np.linspace(0, 1, count))]


def extent(grid: Grid) -> str:
    """Return the edges of a grid in words."""

    def side(value: float, positive: str, negative: str) -> str:
        return f"{abs(value):g}°{positive if value > 0 else negative if value < 0 else ''}"

    west, east = (side(each if each <= 180 else each - 360, "E", "W") for each in (grid.west, grid.east))
    return f"{side(grid.south, 'N', 'S')} to {side(grid.north, 'N', 'S')}, {west} to {east}"


def _picture(
    indices: NDArray[np.uint8], colors: Sequence[str], grid: Grid, alt: str, caption: str, tag: str
) -> Picture:
    # a regional map is drawn with true proportions in its middle, but never stretched beyond twice
    middle = np.cos(np.deg2rad((grid.south + grid.north) / 2)) if grid.east - grid.west <= 180 else 1.0
    source = "data:image/png;base64," + base64.b64encode(_png(indices, colors)).decode("ascii")
    rows, columns = indices.shape
    ratio = round(float(grid.columns * max(middle, 0.5) / grid.rows), 4)
    return Picture(source, columns, rows, ratio, alt, caption, tag)


def _png(indices: NDArray[np.uint8], colors: Sequence[str]) -> bytes:
    """Encode positions in up to 256 colours, ``#rrggbb`` or with opacity ``#rrggbbaa``."""
    from PIL import Image

    palette = [bytes.fromhex(color.lstrip("#").ljust(8, "f")) for color in colors]
    picture = Image.fromarray(indices, "P")
    picture.putpalette(b"".join(color[:3] for color in palette))
    file = io.BytesIO()
    picture.save(file, "png", optimize=True, transparency=bytes(color[3] for color in palette))
    return file.getvalue()
