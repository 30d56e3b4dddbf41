"""One self-contained HTML page from the sections of a report.

Everything is inside the file: pictures as data, style inline, no script and no request to anywhere;
a content security policy in the page says so to the browser as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from xland.reading.variables import as_map
from xland.report.pictures import extent
from xland.report.sections.doubt import reliability_tile
from xland.report.sections.skill import score_tiles
from xland.report.sections.transitions import change_tile
from xland.scores.tables import years_in_words

if TYPE_CHECKING:
    from xland.report.judgement import Judgement
    from xland.report.parts import Section


def render(report: Judgement, sections: Sequence[Section]) -> str:
    """Return the page of a report as HTML.

    Parameters
    ----------
    report : Judgement
    sections : sequence of Section

    Returns
    -------
    str
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("xland.report", "templates"),
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
        sections=sections,
        card=report.card,
        provenance=report.provenance,
    )
