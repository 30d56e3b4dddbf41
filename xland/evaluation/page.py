"""One self-contained HTML page from the sections of a report.

Everything is inside the file: pictures as data, style inline, no script and no request to anywhere;
a content security policy in the page says so to the browser as well.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from xland.evaluation.pictures import extent
from xland.evaluation.sections.change import change_tile
from xland.evaluation.sections.reliability import reliability_tile
from xland.evaluation.sections.scores import score_tiles
from xland.evaluation.tables import years_in_words
from xland.reader import as_map

if TYPE_CHECKING:
    from xland.evaluation.report import Report


def render(report: Report) -> str:
    """Return the page of a report as HTML.

    Parameters
    ----------
    report : Report

    Returns
    -------
    str
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("xland.evaluation", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["kind"] = lambda part: type(part).__name__
    judged = report.scores[report.model]
    more = [tile for tile in (change_tile(report), reliability_tile(report)) if tile is not None]
    return environment.get_template("report.html.j2").render(
        title=report.title,
        model=report.model,
        extent=extent(as_map(report.maps[report.model], what="map").grid),
        years=years_in_words(judged.years),
        cells=judged.cells,
        notes=report.notes,
        tiles=[*score_tiles(report), *more],
        sections=report.sections,
        card=report.card,
        provenance=report.provenance,
    )
