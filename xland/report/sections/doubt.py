"""Whether probabilities are what they say, and how much is gained by leaving doubtful places out."""

from __future__ import annotations

import numpy as np

from xland.report import charts
from xland.report.judgement import Judgement
from xland.report.parts import Cell, Chart, Missing, Part, Row, Section, Table, Text, Tile
from xland.scores.reliability import Reliability
from xland.scores.tables import figure


def reliability_tile(report: Judgement) -> Tile | None:
    """Return the calibration error, if there are probabilities."""
    if report.reliability is None:
        return None
    error = figure(report.reliability.expected_calibration_error)
    return Tile("Calibration error", error, ("how far probabilities are from the shares that are right", "0 is best"))


def reliability_section(report: Judgement) -> Section:
    """Draw the reliability and the risk-coverage curve."""
    found = report.reliability
    if found is not None:
        parts = _figures(found)
    elif "probability" in report.layers:
        parts = [Text("No cell of land was observed, so the probabilities are not judged.")]
    else:
        missing = "The store of the map contains no probabilities, so the page cannot say how reliable they are."
        parts = [Missing(missing, "xland downscale ... --outputs land_use probability")]
    return Section("reliability", "How reliable the probabilities are", parts)


def _figures(found: Reliability) -> list[Part]:
    share = np.nan_to_num(found.share)
    curve = charts.lines(
        {"map": (found.confidence, found.accuracy)},
        "probability of the class chosen",
        "share that is right",
        top=1,
        diagonal=True,
        columns=(list(found.edges), list(0.3 * share / (float(share.max()) or 1.0))),
    )
    risk = charts.lines(
        {"map": (found.coverage, found.risk)}, "share of the area kept, the surest first", "share that is wrong"
    )
    summary = [Cell(figure(v, 4)) for v in (found.expected_calibration_error, found.brier, found.risk[-1])]
    points = zip(found.edges[:-1], found.edges[1:], found.confidence, found.accuracy, found.share, strict=True)
    return [
        Chart(
            charts.svg(
                curve, "Line of the share that is right over the probability of the class chosen; figures below"
            ),
            "On the dashed diagonal, probabilities are right. Below it, the map is too confident; above it, too "
            "cautious. The pale columns show how the area is distributed over the probabilities.",
        ),
        Chart(
            charts.svg(
                risk,
                "Line of the share that is wrong over the share of the area kept; "
                f"{figure(found.risk[-1])} of the area is wrong",
            ),
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
