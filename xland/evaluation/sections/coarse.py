"""Whether a map keeps the coarse totals that it was made from."""

from __future__ import annotations

from typing import TYPE_CHECKING

from xland.evaluation.parts import Cell, Missing, Part, Row, Section, Table, Text
from xland.evaluation.tables import figure
from xland.vocabulary import CLASSES, class_code

if TYPE_CHECKING:
    from xland.evaluation.report import Report


def coarse_section(report: Report) -> Section:
    """Compare the class areas of coarse cells with those of the forcing."""
    title = "Agreement with the coarse forcing"
    if report.forcing is None:
        missing = Missing(
            "No forcing was given, so the page cannot say whether the map keeps the coarse totals.",
            "xland evaluate ... --forcing STATES.nc",
        )
        return Section("coarse", title, [missing])
    found = report.coarse
    if found is None:
        return Section("coarse", title, [Text("The forcing and the map have no coarse cell to compare.")])
    parts: list[Part] = [
        Text(
            f"In {100 * found.within_a_pixel:.1f} % of {found.cells:,} coarse cells every class has the area that the "
            f"forcing has, within one fine pixel. The largest difference is {100 * found.largest:.1f} % of the "
            "cell. A map of the differences is above. Classes that are not in the forcing are left out."
        )
    ]
    rows = [
        Row(
            CLASSES[class_code(name)].long_name,
            [Cell(figure(100 * v, 2)) for v in (each.mean, each.mean_absolute, each.largest)],
            CLASSES[class_code(name)].color,
        )
        for name, each in found.classes.items()
    ]
    caption = (
        "Difference between the share of a class in the map and in the forcing, per cent. Look for a mean far from 0: "
        "the map then has too much or too little of the class in total."
    )
    parts.append(Table(caption, ["class", "mean", "mean of absolute", "largest of any cell"], rows))
    return Section("coarse", title, parts)
