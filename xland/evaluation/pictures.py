"""Pictures for the report: arrays of palette indices to PNG that a page can carry in itself.

Class maps have eight colours, so an indexed PNG is several times smaller than one of RGB values, and
the report needs neither a plotting library nor any state of one.
"""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xland.evaluation.alignment import ClassMap, overlaps
from xland.grid import Grid
from xland.vocabulary import CLASSES, OCEAN, check_codes

SAME, OTHER_CLASS, SEA = "#f6f5f1", "#8c2d7c", CLASSES[OCEAN].color
"""Colours of the maps that show differences; apart in lightness, so that anyone can tell them."""


@dataclass(frozen=True)
class Picture:
    """A picture ready for a page: its source, size in pixels, shape on the page and what it shows in words."""

    source: str
    width: int
    height: int
    ratio: float
    alt: str


def png(indices: NDArray[np.uint8], colors: Sequence[str]) -> bytes:
    """Encode an indexed PNG.

    Parameters
    ----------
    indices : (rows, columns) array of uint8
        Positions in ``colors``.
    colors : sequence of str
        Up to 256 colours as ``#rrggbb``; with two more digits of opacity, ``#rrggbbaa``.

    Returns
    -------
    bytes
        Per the PNG specification (ISO/IEC 15948), with the chunks IHDR, PLTE, tRNS, IDAT and IEND.
    """
    rows, columns = indices.shape
    palette = [bytes.fromhex(color.lstrip("#").ljust(8, "f")) for color in colors]
    lines = np.zeros((rows, columns + 1), dtype=np.uint8)  # a line begins with its filter: 0, none
    lines[:, 1:] = indices
    parts = (
        (b"IHDR", struct.pack(">IIBBBBB", columns, rows, 8, 3, 0, 0, 0)),
        (b"PLTE", b"".join(color[:3] for color in palette)),
        (b"tRNS", bytes(color[3] for color in palette)),
        (b"IDAT", zlib.compress(lines.tobytes(), 9)),
        (b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in parts
    )


def class_picture(map_: ClassMap, name: str, max_pixels: int) -> Picture:
    """Return a map of class codes as a picture, thinned to about ``max_pixels``."""
    codes = _thinned(map_, *_places(map_.grid, max_pixels))
    counts = np.bincount(codes.ravel(), minlength=len(CLASSES))
    largest = [CLASSES[code].long_name for code in np.argsort(-counts, kind="stable")[:3] if counts[code]]
    alt = f"Map of land use, {name}, {extent(map_.grid)}; the largest classes are {', '.join(largest)}."
    return _picture(codes, [each.color for each in CLASSES], map_.grid, alt)


def difference_picture(predicted: ClassMap, observed: ClassMap, name: str, max_pixels: int) -> Picture:
    """Return where a map has another class than the observed one; blank where the observed map has no cell."""
    rows, columns = _places(predicted.grid, max_pixels)
    ours = _thinned(predicted, rows, columns)
    shown = np.full(ours.shape, 3, dtype=np.uint8)
    for overlap in overlaps(predicted, observed):
        down = np.flatnonzero((rows >= overlap.predicted_rows.start) & (rows < overlap.predicted_rows.stop))
        right = np.flatnonzero(
            (columns >= overlap.predicted_columns.start) & (columns < overlap.predicted_columns.stop)
        )
        theirs = _thinned(
            observed,
            rows[down] - overlap.predicted_rows.start + overlap.rows.start,
            columns[right] - overlap.predicted_columns.start + overlap.columns.start,
        )
        index = np.ix_(down, right)
        shown[index] = np.where(theirs == OCEAN, 2, theirs != ours[index])
    land = shown < 2
    share = 100 * (shown == 1).sum() / max(int(land.sum()), 1)
    alt = f"Map of where {name} differs from the observed map: in about {share:.0f} % of the cells that are drawn."
    return _picture(shown, [SAME, OTHER_CLASS, SEA, "#00000000"], predicted.grid, alt)


def confidence_picture(map_: ClassMap, max_pixels: int) -> Picture:
    """Return a confidence, 0 to 1, as a picture in 64 steps; NaN is blank."""
    rows, columns = _places(map_.grid, max_pixels)
    values = np.asarray(map_.data[0].isel(lat=rows, lon=columns).values, dtype=np.float64)
    known = np.isfinite(values)
    steps = np.where(known, np.clip(np.nan_to_num(values), 0, 1) * 63, 64).round().astype(np.uint8)
    middle = f"half of the cells lie above {np.median(values[known]):.2f}" if known.any() else "no cell has a value"
    alt = f"Map of the confidence of the model, {extent(map_.grid)}; {middle}."
    return _picture(steps, [*confidence_colors(64), "#00000000"], map_.grid, alt)


def confidence_colors(count: int) -> list[str]:
    """Return the colours of the confidence scale, from 0 to 1."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    return [to_hex(color) for color in colormaps["cividis"](np.linspace(0, 1, count))]


def extent(grid: Grid) -> str:
    """Return the edges of a grid in words."""

    def side(value: float, positive: str, negative: str) -> str:
        return f"{abs(value):g}°{positive if value > 0 else negative if value < 0 else ''}"

    def east(value: float) -> str:
        return side(value if value <= 180 else value - 360, "E", "W")

    return f"{side(grid.south, 'N', 'S')} to {side(grid.north, 'N', 'S')}, {east(grid.west)} to {east(grid.east)}"


def _places(grid: Grid, max_pixels: int) -> tuple[NDArray[Any], NDArray[Any]]:
    step = max(1, int(np.ceil(np.sqrt(grid.rows * grid.columns / max_pixels))))
    first = step // 2
    return np.arange(min(first, grid.rows - 1), grid.rows, step), np.arange(
        min(first, grid.columns - 1), grid.columns, step
    )


def _thinned(map_: ClassMap, rows: NDArray[Any], columns: NDArray[Any]) -> NDArray[np.uint8]:
    return check_codes(map_.data[0].isel(lat=rows, lon=columns).values, what=map_.what)


def _picture(indices: NDArray[np.uint8], colors: Sequence[str], grid: Grid, alt: str) -> Picture:
    # a regional map is drawn with true proportions in its middle, but never stretched beyond twice
    middle = np.cos(np.deg2rad((grid.south + grid.north) / 2)) if grid.east - grid.west <= 180 else 1.0
    source = "data:image/png;base64," + base64.b64encode(png(indices, colors)).decode("ascii")
    rows, columns = indices.shape
    return Picture(source, columns, rows, round(float(grid.columns * max(middle, 0.5) / grid.rows), 4), alt)
