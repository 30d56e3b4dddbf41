"""Scores beside baselines, by domain, class and region, and the agreement with coarse totals."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from xland.report import charts
from xland.report.judgement import Judgement
from xland.report.parts import Cell, Chart, Missing, Part, Row, Section, Table, Text, Tile
from xland.scores.baselines import MODE
from xland.scores.counts import DOMAINS
from xland.scores.measures import SCORES, Weighting
from xland.scores.tables import figure
from xland.vocabulary import CLASS_NAMES, CLASSES, LAND_CLASSES, class_code

_TITLES = {"all": "All cells", "land": "Land", "mixed": "Mixed land cells"}


def score_tiles(report: Judgement) -> list[Tile]:
    """Return the headline figures, each beside the best baseline."""
    tiles = []
    for domain, where in (("land", "land"), ("mixed", "mixed cells")):
        for score, label in (("accuracy", "Accuracy"), ("miou", "Mean IoU")):
            values = {name: getattr(report.scores[name].area[domain], score) for name in report.scores.names}
            value = values.pop(report.model)
            rivals = {name: rival for name, rival in values.items() if not math.isnan(rival)}
            beside = "no baseline beside it"
            if rivals and not math.isnan(value):
                best = max(rivals, key=rivals.__getitem__)
                ahead = value - rivals[best]
                beside = f"{abs(ahead):.3f} {'ahead of' if ahead >= 0 else 'behind'} {best} {figure(rivals[best])}"
            pixels = figure(getattr(report.scores[report.model].pixels[domain], score))
            tiles.append(Tile(f"{label}, {where}", figure(value), (beside, f"{pixels} by pixel counts")))
    return tiles


def scores_section(report: Judgement) -> Section:
    """Put the scores of every domain into tables, by area and folded away by pixel counts."""
    lead = (
        "Accuracy is the share with the observed class. For a class, intersection over union (IoU) is the area where "
        "both maps have it, divided by the area where either has it. Its mean is over the land classes named above "
        "each table. The best of each column is in bold: look whether that is the judged map, and by how much. A dash "
        "means that a score is not defined."
    )
    if MODE in report.scores.names:
        lead += (
            f" The {MODE} is made from the observed map itself: it shows what coarse cells without error would reach."
        )
    parts: list[Part] = [Text(lead)]
    if len(report.scores.names) == 1:
        parts.append(
            Missing(
                "There is no baseline beside the map, so the scores say little: a map without skill can score high.",
                "xland report ... --forcing STATES.nc",
            )
        )
    for domain in report.scores.domains:
        first = report.scores[report.model].area[domain]
        about = f"{DOMAINS[domain][0].upper()}{DOMAINS[domain][1:]}."
        if domain == "mixed":
            about += f" A coarse cell is {report.factor} × {report.factor} cells."  # noqa: RUF001
        pixels = int(report.scores[report.model].pixels[domain].total)
        parts.append(Text(f"{about} {first.total / 1e12:,.2f} million km², {pixels:,} cells.", _TITLES[domain]))
        parts += [
            _domain_table(report, domain, "area", "weighted by area"),
            _domain_table(report, domain, "pixels", "by pixel counts"),
        ]
    return Section("scores", "Scores beside baselines", parts)


def _domain_table(report: Judgement, domain: str, weighting: Weighting, how: str) -> Table:
    scores = {name: getattr(report.scores[name], weighting)[domain] for name in report.scores.names}
    first = scores[report.model]
    codes = [code for code in range(len(CLASSES)) if first.support[code] > 0]
    values = [[*one.values.values(), *(one.iou[code] for code in codes)] for one in scores.values()]
    rows = zip(*(_best_cells(column) for column in zip(*values, strict=True)), strict=True)
    over = ", ".join(CLASS_NAMES[code] for code in first.miou_classes) or "no class"
    titles = [SCORES[name].title or name for name in first.values]
    return Table(
        f"{_TITLES[domain]}, {how}. Mean IoU over: {over}.",
        ["map", *titles, *(CLASS_NAMES[code] for code in codes)],
        [Row(name, cells, strong=name == report.model) for name, cells in zip(scores, rows, strict=True)],
        groups=[("", len(titles)), ("IoU of", len(codes))] if codes else (),
        folded="The same by pixel counts" if weighting == "pixels" else "",
    )


def _best_cells(values: Sequence[float]) -> list[Cell]:
    """Return figures, the largest marked; of a single map there is nothing to be best of."""
    best = np.nanmax(values) if len(values) > 1 and np.isfinite(values).any() else math.nan
    return [Cell(figure(value), "best" if value == best else "") for value in values]


def classes_section(report: Judgement) -> Section:
    """Draw the IoU of each class, and show what is taken for what."""
    names = report.scores.names
    codes = [code for code in LAND_CLASSES if report.scores[report.model].area["land"].support[code] > 0]
    drawing = charts.bars(
        [CLASS_NAMES[code] for code in codes],
        names,
        [[float(report.scores[name].area["land"].iou[code]) for name in names] for code in codes],
    )
    label = "Bars of the IoU of each class for each map; the figures are in the tables above"
    chart = Chart(
        charts.svg(drawing, label), "IoU on land, weighted by area. Longer is better; rare classes are the hard ones."
    )
    return Section("classes", "Class by class", [chart, _confusion(report)])


def _confusion(report: Judgement) -> Table:
    """Return the confusion matrix in per cent of each observed class."""
    scores = report.scores[report.model].area["land"]
    rows = [code for code in range(len(CLASSES)) if scores.matrix[code].any()]
    columns = [code for code in range(len(CLASSES)) if scores.matrix[:, code].any() or code in rows]
    table = []
    for code in rows:
        share = 100 * scores.matrix[code] / scores.support[code]
        cells = [Cell(f"{share[to]:.1f}", "hit" if to == code else "", round(float(share[to]))) for to in columns]
        whole = Cell(f"{100 * scores.support[code] / scores.total:.1f}", "plain")
        table.append(Row(CLASSES[code].long_name, [*cells, whole], CLASSES[code].color))
    return Table(
        f"What {report.model} takes for what, on land: per cent of the area of each observed class (rows) that is "
        "predicted as each class (columns). Outlined cells are hits. Look for dark cells beside them.",
        ["observed", *(CLASS_NAMES[code] for code in columns), "share of area"],
        table,
    )


def regions_section(report: Judgement) -> Section:
    """Compare the maps region by region."""
    if not report.by_region:
        missing = Missing("No regions were chosen.", "xland report ... --regions latitude")
        return Section("regions", "Region by region", [missing])
    names, model = report.scores.names, report.model
    found = {region: each for region, each in report.by_region.items() if each[model]["land"].total > 0}
    title = f"Region by region: {report.regions.title if report.regions else 'regions'}"
    empty = [region for region in report.by_region if region not in found]
    nowhere = [Text(f"No cell was scored in: {', '.join(empty)}.")] if empty else []
    if not found:
        return Section("regions", title, nowhere)
    merits = {
        region: {score: [getattr(each[name]["land"], score) for name in names] for score in ("accuracy", "miou")}
        for region, each in found.items()
    }
    dots = charts.dots(list(found), names, [each["miou"] for each in merits.values()])
    label = f"Mean IoU of each map in each region ({', '.join(found)}); the figures are in the table below"
    codes = [code for code in LAND_CLASSES if any(each[model]["land"].support[code] > 0 for each in found.values())]
    parts: list[Part] = [
        Chart(
            charts.svg(dots, label),
            "Mean IoU on land in each region. Look for regions in which the marker of the judged map is not the one "
            "furthest to the right, and for markers far to the left of the others.",
        ),
        Table(
            "Land in each region, weighted by area. The best map of each region is in bold.",
            ["region", *names, *names],
            [
                Row(region, [cell for values in each.values() for cell in _best_cells(values)])
                for region, each in merits.items()
            ],
            groups=[("accuracy", len(names)), ("mean IoU", len(names))],
        ),
        Table(
            f"IoU of each class in each region, {model}. In pale cells, the map is least right.",
            ["region", *(CLASS_NAMES[code] for code in codes)],
            [Row(region, [_shaded(each[model]["land"].iou[code]) for code in codes]) for region, each in found.items()],
        ),
        *nowhere,
    ]
    return Section("regions", title, parts)


def _shaded(value: float) -> Cell:
    return Cell(figure(value), shade=None if math.isnan(value) else round(100 * value))


def coarse_section(report: Judgement) -> Section:
    """Compare the class areas of coarse cells with those of the forcing."""
    found = report.coarse
    if report.forcing is None:
        parts: list[Part] = [
            Missing(
                "No forcing was given, so the page cannot say whether the map keeps the coarse totals.",
                "xland report ... --forcing STATES.nc",
            )
        ]
    elif found is None:
        parts = [Text("The forcing and the map have no coarse cell to compare.")]
    else:
        rows = [
            Row(
                CLASSES[class_code(name)].long_name,
                [Cell(figure(100 * v, 2)) for v in (each.mean, each.mean_absolute, each.largest)],
                CLASSES[class_code(name)].color,
            )
            for name, each in found.classes.items()
        ]
        lead = (
            f"In {100 * found.within_a_pixel:.1f} % of {found.cells:,} coarse cells every class has the area that the "
            f"forcing has, within one fine pixel. The largest difference is {100 * found.largest:.1f} % of the "
            "cell. A map of the differences is above. Classes that are not in the forcing are left out."
        )
        caption = (
            "Difference between the share of a class in the map and in the forcing, per cent. Look for a mean far from "
            "0: the map then has too much or too little of the class in total."
        )
        parts = [Text(lead), Table(caption, ["class", "mean", "mean of absolute", "largest of any cell"], rows)]
    return Section("coarse", "Agreement with the coarse forcing", parts)
