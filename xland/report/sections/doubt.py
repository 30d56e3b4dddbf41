"""Whether probabilities are what they say, and how much is gained by leaving doubtful places out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from xland.report import charts
from xland.report.parts import Cell, Chart, Missing, Row, Section, Table, Text, Tile
from xland.scores.reliability import Reliability
from xland.scores.tables import figure

if TYPE_CHECKING:
    from xland.report.judgement import Judgement


def reliability_tile(report: Judgement) -> Tile | None:
    """Return the calibration error, if there are probabilities."""
    found = report.reliability
    if found is None:
        return None
    error = figure(found.expected_calibration_error)
    return Tile("Calibration error", error, ("how far probabilities are from the shares that are right", "0 is best"))


def reliability_section(report: Judgement) -> Section:
    """Draw the reliability and the risk-coverage curve."""
    found = report.reliability
    title = "How reliable the probabilities are"
    if found is None and "probability" in report.layers:
        return Section(
            "reliability", title, [Text("No cell of land was observed, so the probabilities are not judged.")]
        )
    if found is None:
        missing = Missing(
            "The store of the map contains no probabilities, so the page cannot say how reliable they are.",
            "xland downscale ... --outputs land_use probability",
        )
        return Section("reliability", title, [missing])
    return Section("reliability", title, [_curve(found), _risk(found), _summary(found), _bins(found)])


def _curve(found: Reliability) -> Chart:
    edges, share = np.asarray(found.edges), np.nan_to_num(np.asarray(found.share, dtype=np.float64))
    tallest = float(share.max()) or 1.0
    drawing = charts.lines(
        {"map": (found.confidence, found.accuracy)},
        "probability of the class chosen",
        "share that is right",
        top=1,
        diagonal=True,
        columns=(list(edges), list(0.3 * share / tallest)),
    )
    label = "Line of the share that is right over the probability of the class chosen; figures in the table below"
    look = (
        "On the dashed diagonal, probabilities are right. Below it, the map is too confident; above it, too cautious. "
        "The pale columns show how the area is distributed over the probabilities."
    )
    return Chart(charts.svg(drawing, label), look)


def _risk(found: Reliability) -> Chart:
    points = (found.coverage, found.risk)
    drawing = charts.lines({"map": points}, "share of the area kept, the surest first", "share that is wrong")
    wrong = figure(found.risk[-1])
    label = f"Line of the share that is wrong over the share of the area kept; {wrong} of the area is wrong"
    look = "The lower the line on the left, the better the map knows its weak places. You may leave those out."
    return Chart(charts.svg(drawing, label), look)


def _summary(found: Reliability) -> Table:
    cells = [
        Cell(figure(found.expected_calibration_error, 4)),
        Cell(figure(found.brier, 4)),
        Cell(figure(found.risk[-1], 4)),
    ]
    return Table(
        "On land. Calibration error: mean distance from the diagonal. Brier score: squared errors of the probabilities "
        "of all classes, summed, from 0 to 2.",
        ["", "calibration error", "Brier score", "share wrong"],
        [Row("map", cells)],
    )


def _bins(found: Reliability) -> Table:
    rows = [
        Row(f"{low:.2f} to {high:.2f}", [Cell(figure(c)), Cell(figure(a)), Cell(figure(100 * s, 2))])
        for low, high, c, a, s in zip(
            found.edges[:-1], found.edges[1:], found.confidence, found.accuracy, found.share, strict=True
        )
    ]
    return Table(
        "The points of the reliability curve.",
        ["probability", "its mean", "share that is right", "% of the area"],
        rows,
        folded="The figures of the curve",
    )
