"""Change since a start map: what was foreseen, what was missed, and in which windows it is right."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from xland.report import charts
from xland.report.judgement import Judgement
from xland.report.parts import Cell, Chart, Missing, Part, Row, Section, Table, Text, Tile
from xland.report.pictures import CHANGE_KINDS
from xland.report.sections.side_by_side import CHANGE_COLORS
from xland.scores.change import SHARES, ChangeScores
from xland.scores.tables import figure
from xland.vocabulary import CLASS_NAMES, CLASSES


def change_tile(report: Judgement) -> Tile | None:
    """Return the figure of merit, if there is a start map."""
    if not report.change:
        return None
    return Tile(
        "Figure of merit of change",
        figure(report.change[report.model].figure_of_merit),
        ("0 for a map without change", "1 if all change is in the right place"),
    )


def change_section(report: Judgement) -> Section:
    """Show how well a map foresees change, beside persistence and the baselines."""
    if not report.change:
        missing = Missing(
            "No start map was given, so the page cannot say whether the map predicts change. A copy of an earlier map "
            "also has high scores above.",
            "xland report ... --start MAP_OF_AN_EARLIER_YEAR",
        )
        return Section("change", "Change", [missing])
    judged = report.change[report.model]
    if not judged.total > 0:
        text = "No cell has land use in both the start and the observed map, so change is not scored."
        return Section("change", "Change", [Text(text)])
    rows = {**report.change, "persistence": judged.null}
    shares = {name: [getattr(each, share) for share in SHARES] for name, each in rows.items()}
    bars = charts.stacked(shares, list(zip(CHANGE_KINDS[1:], CHANGE_COLORS[1:], strict=True)))
    parts: list[Part] = [
        Text(
            "The figure of merit is the change predicted in the right place, divided by all change that was "
            "observed or predicted. Published maps of this kind reach about 0.10. Persistence, the start map, has 0."
        ),
        Chart(
            charts.svg(
                bars,
                "Bars of hits, misses, false alarms and wrong hits of each map; the figures are in the table below",
            ),
            "Share of the scored area. The longer the hits beside the other three, the better the change is predicted.",
        ),
        _table(rows, report.model),
    ]
    if len(judged.by_factor) > 1:
        cells = judged.null_resolution
        where = (
            "In none of these windows" if cells is None else f"From windows of {cells} cells on (the null resolution)"
        )
        parts += [_curve(judged), Text(f"{where}, the prediction disagrees less than persistence.")]
    parts.append(_transitions(judged.observed_transitions, "Observed transitions", "observed"))
    parts.append(_transitions(judged.predicted_transitions, "Predicted transitions", "predicted"))
    return Section("change", "Change", parts)


def _table(rows: dict[str, ChangeScores], model: str) -> Table:
    def percent(each: ChangeScores, names: Sequence[str]) -> list[Cell]:
        return [Cell(figure(100 * getattr(each, name), 2)) for name in names]

    return Table(
        "Change of each map, in per cent of the scored area, and the disagreement of its end with the observed map: "
        "because totals differ (quantity), or because places do (exchange and shift).",
        [
            *("map", "hits %", "misses %", "false alarms %", "wrong hits %", "figure of merit"),
            *("quantity %", "exchange %", "shift %", "kappa simulation"),
        ],
        [
            Row(
                name,
                [
                    *percent(each, SHARES),
                    Cell(figure(each.figure_of_merit)),
                    *percent(each, ("quantity", "exchange", "shift")),
                    Cell(figure(each.kappa_simulation)),
                ],
                strong=name == model,
            )
            for name, each in rows.items()
        ],
    )


def _curve(judged: ChangeScores) -> Chart:
    sizes = list(judged.by_factor)
    places = [math.log2(size) for size in sizes]
    ours = [100 * each.disagreement for each in judged.by_factor.values()]
    null = [100 * each.null.disagreement for each in judged.by_factor.values()]
    drawing = charts.lines(
        {"prediction": (places, ours), "persistence": (places, null)},
        "cells along a window",
        "disagreement, % of the area",
        ticks={place: str(size) for place, size in zip(places, sizes, strict=True)},
    )
    label = "Lines of the disagreement with the observed map in windows of growing size; " + "; ".join(
        f"{size} cells: {a:.2f} and {b:.2f} %" for size, a, b in zip(sizes, ours, null, strict=True)
    )
    look = (
        "The maps are compared by the areas of their classes in windows. Look where the prediction falls below "
        "persistence, and how fast. Larger windows forgive change that is predicted near its true place."
    )
    return Chart(charts.svg(drawing, label), look)


def _transitions(table: NDArray[np.float64], title: str, end: str) -> Table:
    codes = [code for code in range(len(CLASSES)) if table[code].any() or table[:, code].any()]
    shares = 100 * table / float(table.sum())
    moved = np.where(np.eye(len(table), dtype=bool), 0, shares)
    shades = np.round(100 * moved / (moved.max() or 1.0)).astype(int).tolist()
    rows = [
        Row(
            CLASSES[code].long_name,
            [Cell(figure(shares[code, to], 2), "hit" if code == to else "", shades[code][to]) for to in codes],
            CLASSES[code].color,
        )
        for code in codes
    ]
    caption = (
        f"{title}: per cent of the scored area, from the class at the start (rows) to the {end} class (columns). "
        "Outlined cells do not change. Look whether the same cells are dark in both tables."
    )
    return Table(caption, ["start", *(CLASS_NAMES[code] for code in codes)], rows)
