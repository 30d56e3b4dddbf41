"""Maps side by side, where they differ, and what else the store of the map holds."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from xland.reading.variables import map_years
from xland.report.charts import SERIES
from xland.report.judgement import Judgement, drawn_fields
from xland.report.parts import Gallery, Legend, Missing, Part, Section
from xland.report.pictures import CHANGE_KINDS, SEA, Overview, cividis, code_picture, extent, ramp, scale_picture
from xland.scores.frames import BLANK
from xland.scores.regions import Regions
from xland.vocabulary import CLASSES

SAME, OTHER_CLASS = "#f6f5f1", "#6d1a60"
"""Ends of the scale that shows how much of a place differs; apart in lightness, so that anyone can tell them."""

CHANGE_COLORS = ("#f6f5f1", "#1b6ca8", "#f0b429", "#b3245e", "#2b2b2b")
"""Colours of no change, hits, misses, false alarms and wrong hits."""


def maps_section(report: Judgement) -> Section:
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
    return Section("maps", "Maps", parts)


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
    pictures = []
    for name, share in overview.differs.items():
        land = np.isfinite(share)
        percent = 100 * float(share[land].mean()) if land.any() else float("nan")
        alt = f"Map of where {name} differs from the observed map: on {percent:.1f} % of the land that is drawn."
        tag = "judged" if name == report.model else "baseline"
        colors = ramp(SAME, OTHER_CLASS)
        pictures.append(
            scale_picture(share, overview.sea, colors, (0, 1), overview.grid, alt, f"{name}: {percent:.1f} %", tag)
        )
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
    top = float(np.percentile(known, 99)) if known.size else 1.0
    ends = layer.ends or (0.0, top if top > 0 else 1.0)
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
        Legend(ramp=cividis(9), ends=(f"{ends[0]:g}", f"{ends[1]:.3g}" + ("" if layer.ends else " and more"))),
        [scale_picture(values, sea, cividis(), ends, grid, alt, layer.title)],
    )


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
