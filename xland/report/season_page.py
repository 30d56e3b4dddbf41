"""The season on a page: cycles of the months, scores, and maps of the largest and the smallest month."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import xarray as xr

from xland.errors import GridError
from xland.geo.orientation import orient
from xland.pages import render
from xland.paths import check_ending, local_path, replace_file
from xland.plot import stride
from xland.report import charts
from xland.report.judgement import MAX_PIXELS
from xland.report.parts import Cell, Chart, Gallery, Legend, Part, Row, Section, Table, Tile
from xland.report.pictures import cividis, extent, scale_picture
from xland.scores.seasonality import SEASON_SCORES, SeasonScores
from xland.scores.tables import figure

_MONTHS = (
    "January", "February", "March", "April", "May", "June",
    "July", "August", "September", "October", "November", "December",
)  # fmt: skip
_TICKS = {number: name[0] for number, name in enumerate(_MONTHS, 1)}


def season_section(scores: SeasonScores, maps: Mapping[str, xr.DataArray] | None = None) -> Section:
    """Return the season as a section of a page; parameters and errors as of :func:`season_page`."""
    parts: list[Part] = [] if not maps else _galleries(scores, maps)
    about = "; ".join(f"{name}: {text}" for name, text in SEASON_SCORES.items())
    for part, found in scores.values.items():
        count = scores.cells[part]
        if not count:
            continue
        cycles = {name: (list(_TICKS), cycle) for name, cycle in scores.cycles[part].items()}
        label = f"Lines of the mean of each month, {part}; figures in the table below"
        drawing = charts.both(charts.lines, label, cycles, "month", "mean", ticks=_TICKS)
        parts.append(Chart(drawing, f"{part}, {count} cells: mean of each month. Look for the height and the peak."))
        rows = [Row(name, [Cell(figure(value)) for value in each.values()]) for name, each in found.items()]
        parts.append(Table(f"{part}. {about}." if part == "all" else part, ["", *SEASON_SCORES], rows))
    return Section("season", "Season", parts)


def season_page(
    scores: SeasonScores,
    path: str | os.PathLike[str],
    *,
    maps: Mapping[str, xr.DataArray] | None = None,
    title: str = "Leaf area index beside the observed one",
    notes: Sequence[str] = (),
) -> Path:
    """Write scores of the season as one HTML page.

    Parameters
    ----------
    scores : SeasonScores
        From :func:`xland.scores.seasonality.assess_season`; the first prediction is the one that is judged.
    path : path
        The file; an existing one is replaced at once or not at all.
    maps : mapping of name to DataArray (month, latitude, longitude), optional
        Values of the twelve months from January, to be drawn for the largest and the smallest month.
    title : str
    notes : sequence of str
        What a reader must know before the figures.

    Returns
    -------
    Path

    Raises
    ------
    GridError
        If a map has no twelve months, or its coordinates are not a grid.
    """
    check_ending(path, "a web page", ".html", ".htm")
    model, judged = next(iter(scores["all"].items()))
    tiles = [Tile(name.upper(), figure(judged[name]), (SEASON_SCORES[name],)) for name in ("rmse", "bias", "phase")]
    grids = [orient(each, what=f"map {name!r}")[1].grid for name, each in (maps or {}).items()]
    page = render(
        "report.html.j2",
        title=title,
        model=model,
        extent=extent(grids[0]) if grids else "",
        years="",
        cells=f"{scores.cells['all']} with observations in all months",
        reference={},
        notes=notes,
        tiles=tiles,
        sections=[season_section(scores, maps)],
        card=None,
        provenance=None,
    )
    return replace_file(local_path(path, what="a report"), page)


def _galleries(scores: SeasonScores, maps: Mapping[str, xr.DataArray]) -> list[Part]:
    """Draw the months in which the observed mean is largest and smallest, all on one scale."""
    drawn = {}
    for name, given in maps.items():
        data, orientation = orient(given, what=f"map {name!r}")
        months = [dim for dim in data.dims if dim not in ("lat", "lon")]
        if len(months) != 1 or data.sizes[months[0]] != len(_MONTHS):
            raise GridError(f"map {name!r} has the dimensions {dict(data.sizes)}: it needs twelve months on a grid")
        thin = stride(orientation.grid, MAX_PIXELS)
        drawn[name] = data[..., ::thin, ::thin].values, orientation.grid
    cycle = scores.cycles["all"]["observed"]
    highest = max(float(np.nanmax(values)) for values, _ in drawn.values())
    found: list[Part] = []
    for word, month in (("largest", int(np.argmax(cycle))), ("smallest", int(np.argmin(cycle)))):
        pictures = [
            scale_picture(
                values[month], None, cividis(), (0.0, highest), grid, f"Map of {_MONTHS[month]}, {name}.", name
            )
            for name, (values, grid) in drawn.items()
        ]
        legend = Legend(ramp=cividis(9), ends=("0", f"{highest:.3g}"))
        look = f"{_MONTHS[month]}, in which the observed mean is {word}. Look where the maps differ."
        found.append(Gallery(f"The {word} month", look, legend, pictures))
    return found
