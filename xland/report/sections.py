"""The sections of the page: scores beside baselines, by class and region, of change and of doubt, coarse totals."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from xland.report import charts
from xland.report.judgement import CHANGE_KINDS, Judgement
from xland.report.parts import Cell, Chart, Missing, Part, Row, Section, Table, Text, Tile
from xland.report.pictures import CHANGE_COLORS, maps_parts
from xland.scores.baselines import MODE
from xland.scores.change import SHARES, ChangeScores
from xland.scores.counts import DOMAINS
from xland.scores.landscape import OBSERVED, LandscapeScores, Pattern
from xland.scores.measures import SCORES, Weighting
from xland.scores.tables import figure
from xland.vocabulary import CLASS_NAMES, CLASSES, LAND_CLASSES, class_code

_WIDEST_PATCH = 12  # binary logarithm of the cells of the largest patch that is drawn

_TITLES = {"all": "All cells", "land": "Land", "mixed": "Mixed land cells"}


def headline(report: Judgement) -> list[Tile]:
    """Return the headline figures: scores, each beside the best baseline, and those of change and of probabilities.

    The baseline that is made from the observed map has seen the answer, and is not one of them.
    """
    tiles = []
    for domain, where in (("land", "land"), ("mixed", "mixed cells")):
        for score, label in (("accuracy", "Accuracy"), ("miou", "Mean IoU")):
            values = {name: getattr(report.scores[name].area[domain], score) for name in report.scores.names}
            value = values.pop(report.model)
            rivals = {name: rival for name, rival in values.items() if name != MODE and not math.isnan(rival)}
            beside = "no baseline beside it"
            if rivals and not math.isnan(value):
                best = max(rivals, key=rivals.__getitem__)
                ahead = value - rivals[best]
                beside = f"{abs(ahead):.3f} {'ahead of' if ahead >= 0 else 'behind'} {best} {figure(rivals[best])}"
            pixels = figure(getattr(report.scores[report.model].pixels[domain], score))
            tiles.append(Tile(f"{label}, {where}", figure(value), (beside, f"{pixels} by pixel counts")))
    if report.landscape is not None:
        found, truth = report.landscape[report.model], report.landscape[OBSERVED]
        beside = f"{figure(truth.boundary_density)} in the observed map"
        pairs = "boundaries between classes per pair of neighbouring cells"
        tiles.append(Tile("Boundary density, land", figure(found.boundary_density), (beside, pairs)))
    if report.change:
        merit = figure(report.change[report.model].figure_of_merit)
        ends = ("0 for a map without change", "1 if all change is in the right place")
        tiles.append(Tile("Figure of merit of change", merit, ends))
    if report.reliability is not None:
        error = figure(report.reliability.expected_calibration_error)
        ends = ("how far probabilities are from the shares that are right", "0 is best")
        tiles.append(Tile("Calibration error", error, ends))
    return tiles


def scores_parts(report: Judgement) -> list[Part]:
    """Put the scores of every domain into tables, by area and folded away by pixel counts."""
    lead = (
        "Accuracy is the share with the observed class. For a class, intersection over union (IoU) is the area where "
        "both maps have it, divided by the area where either has it. Its mean is over the land classes named above "
        "each table. The best of each column is in bold: look whether that is the judged map, and by how much. A dash "
        "means that a score is not defined."
    )
    if MODE in report.scores.names:
        lead += (
            f" The {MODE} is made from the observed map itself, so it has seen the answer: it shows what coarse cells "
            "without error would reach, and the headline figures leave it out."
        )
    parts: list[Part] = [Text(lead)]
    if len(report.scores.names) == 1:
        alone = "There is no baseline beside the map, so the scores say little: a map without skill can score high."
        parts.append(Missing(alone, "xland report ... --forcing STATES.nc"))
    judged = report.scores[report.model]
    for domain in report.scores.domains:
        about = f"{DOMAINS[domain][0].upper()}{DOMAINS[domain][1:]}."
        if domain == "mixed":
            about += f" A coarse cell is {report.factor} × {report.factor} cells."  # noqa: RUF001
        size = f"{judged.area[domain].total / 1e12:,.2f} million km², {int(judged.pixels[domain].total):,} cells."
        parts.append(Text(f"{about} {size}", _TITLES[domain]))
        parts += [
            _domain_table(report, domain, "area", "weighted by area"),
            _domain_table(report, domain, "pixels", "by pixel counts"),
        ]
    return parts


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


def classes_parts(report: Judgement) -> list[Part]:
    """Draw the IoU of each class, and show what is taken for what."""
    names, judged = report.scores.names, report.scores[report.model].area["land"]
    codes = [code for code in LAND_CLASSES if judged.support[code] > 0]
    values = [[float(report.scores[name].area["land"].iou[code]) for name in names] for code in codes]
    label = "Bars of the IoU of each class for each map; the figures are in the tables above"
    drawing = charts.both(charts.bars, label, [CLASS_NAMES[code] for code in codes], names, values)
    look = "IoU on land, weighted by area. Longer is better; rare classes are the hard ones."
    rows = [code for code in range(len(CLASSES)) if judged.matrix[code].any()]
    columns = [code for code in range(len(CLASSES)) if judged.matrix[:, code].any() or code in rows]
    table = []
    for code in rows:
        share = 100 * judged.matrix[code] / judged.support[code]
        cells = [Cell(f"{share[to]:.1f}", "hit" if to == code else "", round(float(share[to]))) for to in columns]
        whole = Cell(f"{100 * judged.support[code] / judged.total:.1f}", "plain")
        table.append(Row(CLASSES[code].long_name, [*cells, whole], CLASSES[code].color))
    confusion = Table(
        f"What {report.model} takes for what, on land: per cent of the area of each observed class (rows) that is "
        "predicted as each class (columns). Outlined cells are hits. Look for dark cells beside them.",
        ["observed", *(CLASS_NAMES[code] for code in columns), "share of area"],
        table,
    )
    return [Chart(drawing, look), confusion]


def regions_parts(report: Judgement) -> list[Part]:
    """Compare the maps region by region."""
    if not report.by_region:
        return [Missing("No regions were chosen.", "xland report ... --regions latitude")]
    names, model = report.scores.names, report.model
    found = {region: each for region, each in report.by_region.items() if each[model]["land"].total > 0}
    empty = [region for region in report.by_region if region not in found]
    nowhere: list[Part] = [Text(f"No cell was scored in: {', '.join(empty)}.")] if empty else []
    if not found:
        return nowhere
    merits = {
        region: {score: [getattr(each[name]["land"], score) for name in names] for score in ("accuracy", "miou")}
        for region, each in found.items()
    }
    places = [each["miou"] for each in merits.values()]
    label = f"Mean IoU of each map in each region ({', '.join(found)}); the figures are in the table below"
    codes = [code for code in LAND_CLASSES if any(each[model]["land"].support[code] > 0 for each in found.values())]
    by_class = []
    for region, each in found.items():
        ious = [each[model]["land"].iou[code] for code in codes]
        cells = [Cell(figure(value), shade=None if math.isnan(value) else round(100 * value)) for value in ious]
        by_class.append(Row(region, cells))
    parts: list[Part] = [
        Chart(
            charts.both(charts.dots, label, list(found), names, places),
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
            by_class,
        ),
    ]
    return [*parts, *nowhere]


def landscape_parts(report: Judgement) -> list[Part]:
    """Compare the boundaries and patches of the maps with those of the observed map."""
    found = report.landscape
    if found is None:
        return [Text("No cell of land was observed, so boundaries and patches are not compared.")]
    lead = (
        "How the classes are arranged on land, beside the observed map, in measures of FRAGSTATS. They are counted in "
        "fine cells. A map of the most probable classes has fewer boundaries and larger patches than real land. A draw "
        "from the probabilities should have those of real land. At the edges of coarse cells, boundaries should be as "
        "frequent as elsewhere. If they are more frequent, the map shows the squares of its forcing."
    )
    # the observed map comes last, so that the others have the colours of the other charts
    order = [*(name for name in found.names if name != OBSERVED), OBSERVED]
    distances = "; ".join(f"{name}: {figure(found.patch_distance(name))}" for name in order[:-1])
    sizes = charts.both(
        charts.lines,
        f"Lines of the sizes of patches; distance of each map from the observed: {distances}",
        {name: _patch_sizes(found[name]) for name in order},
        "cells of a patch",
        "share of the patches that are not larger",
        ticks={place: str(2**place) for place in range(0, _WIDEST_PATCH + 1, 2)},
    )
    parts: list[Part] = [
        Text(lead),
        Chart(
            sizes,
            "Sizes of patches (cells of one class that touch, at corners too). Look how far the line of the judged map "
            "is from that of the observed map: the largest vertical distance is the patch distance below.",
        ),
        _landscape_table(report, found, found.scales[0]),
        _boundary_table(report, found),
    ]
    parts += [_landscape_table(report, found, scale) for scale in found.scales[1:]]
    return parts


def _patch_sizes(pattern: Pattern) -> charts.Points:
    """Return the binary logarithm of sizes, and the share of the patches that are not larger."""
    places = list(range(_WIDEST_PATCH + 1))
    sizes = pattern.sizes()[::-1]
    shares = np.searchsorted(sizes, [2**place for place in places], side="right") / max(len(sizes), 1)
    return places, shares


def _landscape_table(report: Judgement, found: LandscapeScores, scale: int) -> Table:
    rows = []
    for name, patterns in found.maps.items():
        each = patterns[scale]
        ratios = ["∞" if math.isinf(value) else figure(value, 2) for value in each.edge_ratio if scale == 1]
        largest = float(each.areas()[0]) if each.patches else math.nan
        shown = [figure(each.boundary_density), *ratios, figure(each.aggregation_index, 1)]
        shown += [figure(each.edge_contrast, 1), f"{each.patches:,}", figure(each.mean_patch, 1), f"{largest:,.0f}"]
        distance = "" if name == OBSERVED else figure(found.patch_distance(name, scale))
        rows.append(Row(name, [Cell(text) for text in (*shown, distance)], strong=name == report.model))
    edges = ["west-east", "north-south"] if scale == 1 else []
    groups = [("", 1), ("at coarse edges / elsewhere", len(edges)), ("", 6)] if edges else []
    caption = (
        "Boundaries per pair of neighbouring cells, and how frequent they are at edges of coarse cells, divided by how "
        "frequent they are elsewhere; aggregation index and edge contrast in per cent; number of patches, their mean "
        "in cells, the largest in km²; distance of the sizes of patches from those of the observed map, 0 to 1."
    )
    if scale > 1:
        caption = f"The same after the map was coarsened to the most frequent class of {scale} by {scale} cells."
    header = ["map", "boundaries", *edges, "aggregation %", "contrast %", "patches", "mean patch", "largest km²"]
    folded = f"Coarsened to {scale} by {scale} cells" if scale > 1 else ""
    return Table(caption, [*header, "patch distance"], rows, groups, folded)


def _boundary_table(report: Judgement, found: LandscapeScores) -> Table:
    codes = [code for code in LAND_CLASSES if any(found[name].class_cells[code] for name in found.names)]
    rows = []
    for name in found.names:
        each = found[name]
        values = [figure(each.class_boundary_density[code], 4) for code in codes]
        values += [figure(each.class_mean_patch[code], 1) for code in codes]
        rows.append(Row(name, [Cell(text) for text in values], strong=name == report.model))
    caption = "Boundaries of each class per pair of neighbouring cells, and mean patch of each class in cells."
    names = [CLASS_NAMES[code] for code in codes]
    groups = [("boundaries of", len(codes)), ("mean patch of", len(codes))]
    return Table(caption, ["map", *names, *names], rows, groups=groups)


def change_parts(report: Judgement) -> list[Part]:
    """Show how well a map foresees change, beside persistence and the baselines."""
    if not report.change:
        missing = Missing(
            "No start map was given, so the page cannot say whether the map predicts change. A copy of an earlier map "
            "also has high scores above.",
            "xland report ... --start MAP_OF_AN_EARLIER_YEAR",
        )
        return [missing]
    judged = report.change[report.model]
    if not judged.total > 0:
        return [Text("No cell has land use in both the start and the observed map, so change is not scored.")]
    rows = {**report.change, "persistence": judged.null}
    shares = {name: [getattr(each, share) for share in SHARES] for name, each in rows.items()}
    kinds = list(zip(CHANGE_KINDS[1:], CHANGE_COLORS[1:], strict=True))
    label = "Bars of hits, misses, false alarms and wrong hits of each map; the figures are in the table below"
    parts: list[Part] = [
        Text(
            "The figure of merit is the change predicted in the right place, divided by all change that was "
            "observed or predicted. Published maps of this kind reach about 0.10. Persistence, the start map, has 0."
        ),
        Chart(
            charts.both(charts.stacked, label, shares, kinds),
            "Share of the scored area. The longer the hits beside the other three, the better the change is predicted.",
        ),
        _change_table(rows, report.model),
    ]
    if len(judged.by_factor) > 1:
        cells = judged.null_resolution
        where = (
            "In none of these windows" if cells is None else f"From windows of {cells} cells on (the null resolution)"
        )
        parts += [_window_curve(judged), Text(f"{where}, the prediction disagrees less than persistence.")]
    parts.append(_transitions(judged.observed_transitions, "Observed transitions", "observed"))
    parts.append(_transitions(judged.predicted_transitions, "Predicted transitions", "predicted"))
    return parts


def _change_table(rows: dict[str, ChangeScores], model: str) -> Table:
    table = []
    for name, each in rows.items():
        shares = [figure(100 * getattr(each, part), 2) for part in (*SHARES, "quantity", "exchange", "shift")]
        shown = [*shares[:4], figure(each.figure_of_merit), *shares[4:], figure(each.kappa_simulation)]
        table.append(Row(name, [Cell(text) for text in shown], strong=name == model))
    return Table(
        "Change of each map, in per cent of the scored area, and the disagreement of its end with the observed map: "
        "because totals differ (quantity), or because places do (exchange and shift).",
        [
            *("map", "hits %", "misses %", "false alarms %", "wrong hits %", "figure of merit"),
            *("quantity %", "exchange %", "shift %", "kappa simulation"),
        ],
        table,
    )


def _window_curve(judged: ChangeScores) -> Chart:
    """Draw the disagreement over the size of the windows, beside that of persistence."""
    sizes = list(judged.by_factor)
    places = [math.log2(size) for size in sizes]
    ours = [100 * each.disagreement for each in judged.by_factor.values()]
    null = [100 * each.null.disagreement for each in judged.by_factor.values()]
    label = "Lines of the disagreement with the observed map in windows of growing size; " + "; ".join(
        f"{size} cells: {a:.2f} and {b:.2f} %" for size, a, b in zip(sizes, ours, null, strict=True)
    )
    look = (
        "The maps are compared by the areas of their classes in windows. Look where the prediction falls below "
        "persistence, and how fast. Larger windows forgive change that is predicted near its true place."
    )
    drawing = charts.both(
        charts.lines,
        label,
        {"prediction": (places, ours), "persistence": (places, null)},
        "cells along a window",
        "disagreement, % of the area",
        ticks={place: str(size) for place, size in zip(places, sizes, strict=True)},
    )
    return Chart(drawing, look)


def _transitions(table: NDArray[np.float64], title: str, end: str) -> Table:
    codes = [code for code in range(len(CLASSES)) if table[code].any() or table[:, code].any()]
    shares = 100 * table / float(table.sum())
    moved = np.where(np.eye(len(table), dtype=bool), 0, shares)
    shades = np.round(100 * moved / (moved.max() or 1.0)).astype(int).tolist()
    rows = []
    for code in codes:
        cells = [Cell(figure(shares[code, to], 2), "hit" if code == to else "", shades[code][to]) for to in codes]
        rows.append(Row(CLASSES[code].long_name, cells, CLASSES[code].color))
    caption = (
        f"{title}: per cent of the scored area, from the class at the start (rows) to the {end} class (columns). "
        "Outlined cells do not change. Look whether the same cells are dark in both tables."
    )
    return Table(caption, ["start", *(CLASS_NAMES[code] for code in codes)], rows)


def reliability_parts(report: Judgement) -> list[Part]:
    """Draw the reliability and the risk-coverage curve."""
    found = report.reliability
    if found is None and "probability" in report.layers:
        return [Text("No cell of land was observed, so the probabilities are not judged.")]
    if found is None:
        missing = "The store of the map contains no probabilities, so the page cannot say how reliable they are."
        return [Missing(missing, "xland downscale ... --outputs land_use probability")]
    share = np.nan_to_num(found.share)
    wrong = figure(found.risk[-1])
    curve = charts.both(
        charts.lines,
        "Line of the share that is right over the probability of the class chosen; figures below",
        {"map": (found.confidence, found.accuracy)},
        "probability of the class chosen",
        "share that is right",
        top=1,
        diagonal=True,
        columns=(list(found.edges), list(0.3 * share / (float(share.max()) or 1.0))),
    )
    risk = charts.both(
        charts.lines,
        f"Line of the share that is wrong over the share of the area kept; {wrong} of the area is wrong",
        {"map": (found.coverage, found.risk)},
        "share of the area kept, the surest first",
        "share that is wrong",
    )
    summary = [Cell(figure(v, 4)) for v in (found.expected_calibration_error, found.brier, found.risk[-1])]
    points = zip(found.edges[:-1], found.edges[1:], found.confidence, found.accuracy, found.share, strict=True)
    return [
        Chart(
            curve,
            "On the dashed diagonal, probabilities are right. Below it, the map is too confident; above it, too "
            "cautious. The pale columns show how the area is distributed over the probabilities.",
        ),
        Chart(
            risk,
            "The lower the line on the left, the better the map knows its weak places. You may leave those out.",
        ),
        Table(
            "On land. Calibration error: mean distance from the diagonal. Brier score: squared errors of the "
            "probabilities of all classes, summed, from 0 to 2.",
            ["", "calibration error", "Brier score", "share wrong"],
            [Row("map", summary)],
        ),
        Table(
            "The points of the reliability curve.",
            ["probability", "its mean", "share that is right", "% of the area"],
            [
                Row(f"{low:.2f} to {high:.2f}", [Cell(figure(c)), Cell(figure(a)), Cell(figure(100 * s, 2))])
                for low, high, c, a, s in points
            ],
            folded="The figures of the curve",
        ),
    ]


def coarse_parts(report: Judgement) -> list[Part]:
    """Compare the class areas of coarse cells with those of the forcing."""
    found = report.coarse
    if report.forcing is None:
        missing = "No forcing was given, so the page cannot say whether the map keeps the coarse totals."
        return [Missing(missing, "xland report ... --forcing STATES.nc")]
    if found is None:
        return [Text("The forcing and the map have no coarse cell to compare.")]
    rows = []
    for name, differences in found.classes.items():
        each = CLASSES[class_code(name)]
        rows.append(Row(each.long_name, [Cell(figure(100 * v, 2)) for v in differences.values()], each.color))
    lead = (
        f"In {100 * found.within_a_pixel:.1f} % of {found.cells:,} coarse cells every class has the area that the "
        f"forcing has, within one fine pixel. The largest difference is {100 * found.largest:.1f} % of the "
        "cell. A map of the differences is above. Classes that are not in the forcing are left out."
    )
    caption = (
        "Difference between the share of a class in the map and in the forcing, per cent. Look for a mean far from "
        "0: the map then has too much or too little of the class in total."
    )
    table = Table(caption, ["class", "mean", "mean of absolute", "largest of any cell"], rows)
    return [Text(lead), table]


_SECTIONS = {
    "maps": ("Maps", maps_parts),
    "scores": ("Scores beside baselines", scores_parts),
    "classes": ("Class by class", classes_parts),
    "regions": ("Region by region", regions_parts),
    "landscape": ("Landscape", landscape_parts),
    "change": ("Change", change_parts),
    "reliability": ("How reliable the probabilities are", reliability_parts),
    "coarse": ("Agreement with the coarse forcing", coarse_parts),
}


def sections_of(report: Judgement) -> tuple[Section, ...]:
    """Return the sections of the page, in order."""
    _ = report.scores  # first: maps that cannot be scored are refused
    names = {"regions": f": {report.regions.title}"} if report.regions is not None else {}
    return tuple(Section(key, title + names.get(key, ""), make(report)) for key, (title, make) in _SECTIONS.items())
