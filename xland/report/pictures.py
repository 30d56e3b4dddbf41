"""Pictures for the report: arrays of palette indices to PNG that a page can carry in itself.

Class maps have eight colours, so an indexed PNG is several times smaller than one of RGB values.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xland.geo.grid import Grid
from xland.report.parts import Picture
from xland.scores.frames import BLANK
from xland.vocabulary import CLASSES, OCEAN

SEA = CLASSES[OCEAN].color
"""Colour of the cells that are ocean in the observed map, wherever land alone is of interest."""

STEPS = 32
"""Steps of a colour scale."""

_CLEAR = "#00000000"


def png(indices: NDArray[np.uint8], colors: Sequence[str]) -> bytes:
    """Encode an indexed PNG.

    Parameters
    ----------
    indices : (rows, columns) array of uint8
        Positions in ``colors``.
    colors : sequence of str
        Up to 256 colours as ``#rrggbb``; with two more digits of opacity, ``#rrggbbaa``.

    """
    from PIL import Image

    palette = [bytes.fromhex(color.lstrip("#").ljust(8, "f")) for color in colors]
    picture = Image.fromarray(indices, "P")
    picture.putpalette(b"".join(color[:3] for color in palette))
    file = io.BytesIO()
    picture.save(file, "png", optimize=True, transparency=bytes(color[3] for color in palette))
    return file.getvalue()


def code_picture(
    codes: NDArray[np.uint8], colors: Sequence[str], grid: Grid, alt: str, caption: str, tag: str = ""
) -> Picture:
    """Draw codes in their colours; :data:`xland.scores.frames.BLANK` is left blank.

    Parameters
    ----------
    codes : (rows, columns) array of uint8
        Positions in ``colors``.
    colors : sequence of str
    grid : Grid
        Where the map lies, before it was thinned.
    alt, caption, tag : str
        See :class:`xland.report.parts.Picture`.
    """
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
    """Draw values on a scale of colours; NaN is left blank.

    Parameters
    ----------
    values : (rows, columns) array
    sea : (rows, columns) array of bool, optional
        Cells to draw in the colour of the sea, whatever their value.
    colors : sequence of str
        From the lower to the upper end of the scale.
    ends : (lower, upper)
        Values beyond are drawn as the ends.
    grid, alt, caption, tag
        As in :func:`code_picture`.
    """
    lower, upper = ends
    known = np.isfinite(values)
    share = np.clip((np.where(known, values, lower) - lower) / max(upper - lower, 1e-12), 0, 1)
    indices = np.round(share * (len(colors) - 1)).astype(np.uint8)
    indices[~known] = len(colors)
    if sea is not None:
        indices[sea] = len(colors) + 1
    return _picture(indices, [*colors, _CLEAR, SEA], grid, alt, caption, tag)


def ramp(first: str, last: str, count: int = STEPS) -> list[str]:
    """Return colours evenly between two."""
    ends = np.array([[int(color[i : i + 2], 16) for i in (1, 3, 5)] for color in (first, last)])
    shades = ends[0] + (ends[1] - ends[0]) * np.linspace(0, 1, count)[:, None]
    return ["#{:02x}{:02x}{:02x}".format(*np.round(shade).astype(int)) for shade in shades]


def cividis(count: int = STEPS) -> list[str]:
    """Return colours from dark blue to yellow that look alike to colour-blind readers (cividis)."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    return [to_hex(color) for color in colormaps["cividis"](np.linspace(0, 1, count))]


def stride(grid: Grid, max_pixels: int) -> int:
    """Return along how many cells a map has to be thinned to have no more than ``max_pixels``."""
    return max(1, math.ceil(math.sqrt(grid.rows * grid.columns / max_pixels)))


def extent(grid: Grid) -> str:
    """Return the edges of a grid in words."""

    def side(value: float, positive: str, negative: str) -> str:
        return f"{abs(value):g}°{positive if value > 0 else negative if value < 0 else ''}"

    def east(value: float) -> str:
        return side(value if value <= 180 else value - 360, "E", "W")

    return f"{side(grid.south, 'N', 'S')} to {side(grid.north, 'N', 'S')}, {east(grid.west)} to {east(grid.east)}"


def _picture(
    indices: NDArray[np.uint8], colors: Sequence[str], grid: Grid, alt: str, caption: str, tag: str
) -> Picture:
    # a regional map is drawn with true proportions in its middle, but never stretched beyond twice
    middle = np.cos(np.deg2rad((grid.south + grid.north) / 2)) if grid.east - grid.west <= 180 else 1.0
    source = "data:image/png;base64," + base64.b64encode(png(indices, colors)).decode("ascii")
    rows, columns = indices.shape
    ratio = round(float(grid.columns * max(middle, 0.5) / grid.rows), 4)
    return Picture(source, columns, rows, ratio, alt, caption, tag)
