"""The maps of the page: pictures that it contains in itself, side by side and with what to look for.

Class maps have few colours, so an indexed PNG is several times smaller than one of RGB values.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xland.geo.grid import Grid
from xland.plot import degrees, indexed_png, stretch
from xland.reading.variables import map_years
from xland.report.charts import SERIES
from xland.report.judgement import CHANGE_KINDS, Judgement, Overview, drawn_fields
from xland.report.parts import Gallery, Legend, Missing, Part, Picture
from xland.scores.counts import BLANK
from xland.scores.regions import Regions
from xland.vocabulary import CLASSES, OCEAN

SEA = CLASSES[OCEAN].color
"""Colour of the cells that are ocean in the observed map, wherever land alone is of interest."""

SAME, OTHER_CLASS = "#f6f5f1", "#6d1a60"
"""Ends of the scale that shows how much of a place differs; apart in lightness, so that anyone can tell them."""

CHANGE_COLORS = ("#f6f5f1", "#1b6ca8", "#f0b429", "#b3245e", "#2b2b2b")
"""Colours of no change, hits, misses, false alarms and wrong hits."""

_CLEAR = "#00000000"
_STEPS = 32  # of a colour scale


def maps_parts(report: Judgement) -> list[Part]:
    """Show every map of the report on one scale."""
    overview = report.overview
    parts: list[Part] = [_class_maps(report, overview), _differences(report, overview)]
    parts += [_field(report, name, overview) for name in overview.fields]
    if not any(name in overview.fields for name in ("confidence", "margin", "entropy")):
        parts.append(
            Missing(
                "The store of the map contains neither confidence nor probability, so the page has no map of them.",
                "xland downscale ... --outputs land_use confidence",
            )
        )
    if overview.changes is not None:
        parts.append(_changes(report.model, overview, overview.changes))
    regions = report.regions
    if regions is not None and overview.regions is not None and len(regions.names) <= len(SERIES):
        parts.append(_regions(regions, overview, overview.regions))
    return parts


def _thinning(overview: Overview, how: str) -> str:
    return f" Drawn in blocks of {overview.step} x {overview.step} cells, {how}." if overview.step > 1 else ""


def _class_maps(report: Judgement, overview: Overview) -> Gallery:
    pictures = []
    for name, codes in overview.codes.items():
        counts = np.bincount(codes[codes != BLANK], minlength=len(CLASSES))
        largest = [CLASSES[code].long_name for code in np.argsort(-counts, kind="stable")[:3] if counts[code]]
        alt = f"Map of land use, {name}, {extent(overview.grid)}; the largest classes are {', '.join(largest)}."
        tag = "" if name in ("observed", "start") else "judged" if name == report.model else "baseline"
        source = {"observed": report.observed, "start": report.start}.get(name, report.maps.get(name))
        year = None if source is None else map_years(source, name)[0]
        caption = name if year is None or str(year) in name else f"{name} {year}"
        pictures.append(code_picture(codes, [each.color for each in CLASSES], overview.grid, alt, caption, tag))
    look = "Compare each map with the observed one. Towns, forest edges and the texture of fields show most."
    return Gallery(
        "Land use",
        look + _thinning(overview, "each in its most frequent class"),
        Legend([(each.color, each.long_name) for each in CLASSES]),
        pictures,
    )


def _differences(report: Judgement, overview: Overview) -> Gallery:
    pictures, colors = [], ramp(SAME, OTHER_CLASS)
    for name, share in overview.differs.items():
        land = np.isfinite(share)
        percent = 100 * float(share[land].mean()) if land.any() else float("nan")
        alt = f"Map of where {name} differs from the observed map: on {percent:.1f} % of the land that is drawn."
        caption, tag = f"{name}: {percent:.1f} %", "judged" if name == report.model else "baseline"
        pictures.append(scale_picture(share, overview.sea, colors, (0, 1), overview.grid, alt, caption, tag))
    scored = "" if report.within is None else " All cells are drawn, also those that are not scored."
    return Gallery(
        "Where they differ from the observed map",
        "The paler the better: dark places have another class than the observed map. The figure is the share of the "
        "drawn cells, not weighted by area; scores by area are below."
        + scored
        + _thinning(overview, "each in the share that differs"),
        Legend([(SEA, "ocean in the observed map")], ramp(SAME, OTHER_CLASS, 7), ("same class", "another class")),
        pictures,
    )


def _field(report: Judgement, name: str, overview: Overview) -> Gallery:
    values, grid, sea = overview.fields[name]
    layer = drawn_fields()[name]
    known = values[np.isfinite(values) & ~sea] if sea is not None else values[np.isfinite(values)]
    ends = _ends(known, limited=layer.ends is not None)
    middle = f"half of the cells are above {np.median(known):.3g}" if known.size else "no cell has a value"
    look, stored = layer.look, report.layers.get(name)
    if stored is not None and "threshold" in stored.attrs and known.size:
        threshold = float(stored.attrs["threshold"])
        share = 100 * float((known > threshold).mean())
        look += f" Beyond {threshold:.3g}, as on {share:.1f} % of the drawn cells, the scores of the model say nothing."
    alt = f"Map of the {layer.title[0].lower()}{layer.title[1:]}, {extent(grid)}; {middle}."
    return Gallery(
        layer.title,
        look,
        Legend(ramp=cividis(9), ends=(f"{ends[0]:.3g}", f"{ends[1]:.3g}" + ("" if layer.ends else " and more"))),
        [scale_picture(values, sea, cividis(), ends, grid, alt, layer.title)],
    )


def _ends(known: NDArray[np.floating[Any]], *, limited: bool) -> tuple[float, float]:
    """Return where a scale begins and ends: where the values do; of values without a limit, at the largest but 1 %."""
    if not known.size:
        return 0.0, 1.0
    lower, upper = float(known.min()), float(known.max() if limited else np.percentile(known, 99))
    return (lower, upper) if upper > lower else (lower, lower + 1.0)


def _changes(model: str, overview: Overview, kinds: NDArray[np.uint8]) -> Gallery:
    counts = np.bincount(kinds[kinds != BLANK], minlength=len(CHANGE_KINDS))
    said = ", ".join(f"{count} of {kind}" for kind, count in zip(CHANGE_KINDS, counts, strict=True))
    alt = f"Map of predicted and observed change; drawn cells: {said}."
    colors = (*CHANGE_COLORS, SEA)
    shown = np.where(overview.sea, np.uint8(len(CHANGE_KINDS)), kinds)
    return Gallery(
        "Change since the start map",
        "Hits are change that was predicted. Misses and false alarms close together are change predicted near its true "
        "place." + _thinning(overview, "each in the most frequent kind of change, if there is any"),
        Legend(list(zip(colors, (*CHANGE_KINDS, "ocean"), strict=True))),
        [code_picture(shown, colors, overview.grid, alt, model, "judged")],
    )


def _regions(regions: Regions, overview: Overview, numbers: NDArray[np.uint8]) -> Gallery:
    present = [number for number in range(len(regions.names)) if (numbers[~overview.sea] == number).any()]
    alt = f"Map of the regions that are scored separately: {', '.join(regions.names[number] for number in present)}."
    shown = np.where(overview.sea, np.uint8(len(SERIES)), numbers)
    return Gallery(
        "Regions",
        "The scores of each region are further below.",
        Legend([(SERIES[number], regions.names[number]) for number in present]),
        [code_picture(shown, (*SERIES, SEA), overview.grid, alt, regions.title)],
    )


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


def _picture(
    indices: NDArray[np.uint8], colors: Sequence[str], grid: Grid, alt: str, caption: str, tag: str
) -> Picture:
    """Draw positions in up to 256 colours, ``#rrggbb`` or with opacity ``#rrggbbaa``."""
    source = "data:image/png;base64," + base64.b64encode(indexed_png(indices, colors)).decode("ascii")
    rows, columns = indices.shape
    ratio = round(grid.columns / stretch(grid) / grid.rows, 4)
    return Picture(source, columns, rows, ratio, alt, caption, tag)


def ramp(first: str, last: str, count: int = _STEPS) -> list[str]:
    """Return colours evenly between two."""
    from matplotlib.colors import to_hex, to_rgb

    start, end = np.array(to_rgb(first)), np.array(to_rgb(last))
    return [to_hex(start + (end - start) * share) for share in np.linspace(0, 1, count)]


def cividis(count: int = _STEPS) -> list[str]:
    """Return colours from dark blue to yellow that look alike to colour-blind readers (cividis)."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    return [to_hex(color) for color in colormaps["cividis"](np.linspace(0, 1, count))]


def extent(grid: Grid) -> str:
    """Return the edges of a grid in words."""
    west, east = (degrees(each if each <= 180 else each - 360, "E", "W") for each in (grid.west, grid.east))
    return f"{degrees(grid.south, 'N', 'S')} to {degrees(grid.north, 'N', 'S')}, {west} to {east}"
