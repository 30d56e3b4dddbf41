"""Drawings for the report, made with matplotlib: bars, dots and lines as SVG that a page carries in itself.

Series differ by marker and dash as well as by colour, so that they can be told apart in grey, too.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from xland.scores.tables import figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SERIES = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00")
"""Colours of the series, from Okabe and Ito's set for colour-blind readers."""

MARKERS = ("o", "s", "^", "D", "v", "P")
DASHES: tuple[tuple[float, tuple[float, ...]], ...] = (
    (0, ()), (0, (5, 2)), (0, (1.5, 2)), (0, (6, 2, 1.5, 2)), (0, (8, 3)), (0, (3, 3)),
)  # fmt: skip

_GREY = "#8a949a"  # is read on white and on black
_MOST_MARKERS = 30
_INCH = 72.0

Points = tuple[Sequence[float] | NDArray[np.float64], Sequence[float] | NDArray[np.float64]]
"""Positions of the points of a line, across and up."""


def bars(groups: Sequence[str], names: Sequence[str], values: Sequence[Sequence[float]]) -> Figure:
    """Draw values between 0 and 1, (groups, series), as bars, a group of one bar for each series.

    Each bar ends with its figure and its series, so that it is known without its colour; NaN is an en dash.
    """
    chart, axes = _axes(40 + len(groups) * (15 * len(names) + 14))
    thick = 0.85 / len(names)
    for index, name in enumerate(names):
        column = [row[index] for row in values]
        places = np.arange(len(groups)) + (index - (len(names) - 1) / 2) * thick
        drawn = axes.barh(places, np.nan_to_num(column), thick * 0.88, color=color(index), label=name)
        axes.bar_label(drawn, [f"{figure(value)} {name}" for value in column], padding=4, fontsize=9)
    axes.set_xlim(0, 1.3)
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1])
    _name_rows(axes, groups)
    return chart


def dots(groups: Sequence[str], names: Sequence[str], values: Sequence[Sequence[float]]) -> Figure:
    """Draw values between 0 and 1, (groups, series), as markers, one row for each group; NaN is left out."""
    chart, axes = _axes(75 + 26 * len(groups))
    for index, name in enumerate(names):
        column = [row[index] for row in values]
        marker, above = MARKERS[index % len(MARKERS)], 3 + len(names) - index  # the first series is the model's
        axes.plot(column, range(len(groups)), marker, color=color(index), markersize=8, label=name, zorder=above)
    axes.grid(visible=True, axis="y")
    axes.set_xlim(0, 1)
    _name_rows(axes, groups)
    _explain(axes)
    return chart


def stacked(rows: Mapping[str, Sequence[float]], parts: Sequence[tuple[str, str]]) -> Figure:
    """Draw shares, one for each part (name, colour), end to end in per cent, one bar a row."""
    chart, axes = _axes(75 + 40 * len(rows))
    shares = 100 * np.nan_to_num(np.array(list(rows.values()), dtype=np.float64))
    starts = np.cumsum(shares, axis=1) - shares
    for index, (part, fill) in enumerate(parts):
        axes.barh(range(len(rows)), shares[:, index], 0.65, starts[:, index], color=fill, label=part)
    axes.xaxis.set_major_formatter("{x:g} %")
    _name_rows(axes, list(rows))
    _explain(axes)
    return chart


def lines(
    series: Mapping[str, Points],
    across: str,
    up: str,
    *,
    top: float | None = None,
    diagonal: bool = False,
    columns: Points | None = None,
    ticks: Mapping[float, str] | None = None,
) -> Figure:
    """Draw lines over two axes that start at 0 and end at ``top``, or where the values do; NaN breaks a line.

    ``diagonal`` draws where both axes are equal; ``columns`` are (edges, heights) of pale columns behind the lines;
    ``ticks`` name positions of the axis across.
    """
    chart, axes = _axes(330, width=560)
    if columns is not None:
        edges, heights = columns
        axes.bar(edges[:-1], heights, np.diff(edges), align="edge", color=_GREY, alpha=0.25, linewidth=0)
    if diagonal:
        axes.plot([0, 1], [0, 1], color=_GREY, dashes=(4, 3), linewidth=1)
    for index, (name, (x, y)) in enumerate(series.items()):
        marker = MARKERS[index % len(MARKERS)] if len(x) <= _MOST_MARKERS else None
        dash = DASHES[index % len(DASHES)]
        axes.plot(x, y, color=color(index), linestyle=dash, marker=marker, linewidth=2, label=name, zorder=9 - index)
    axes.set(xlabel=across, ylabel=up, ylim=(0, top), xlim=(0, top))
    axes.grid(visible=True, axis="y")
    if ticks is not None:
        axes.set_xticks(list(ticks), list(ticks.values()))
    if len(series) > 1:
        _explain(axes, 3)
    return chart


def svg(chart: Figure, label: str) -> Markup:
    """Return a figure as an SVG element that says what it shows to readers who cannot see it.

    The same figure gives the same text. Text without a colour of its own takes that of the page.
    """
    from matplotlib import rc_context

    file = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": label}):
        about = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        chart.savefig(file, format="svg", transparent=True, metadata=about)
    text = file.getvalue()
    text = re.sub(r' id="[a-z0-9.]+_\d+"', "", text[text.index("<svg") :])  # each page has several drawings
    width = f"{float(chart.get_figwidth()) * _INCH:g}"
    opening = Markup('<svg class="chart" role="img" aria-label="{}" style="max-width:{}px" ').format(label, width)
    return opening + Markup(text.removeprefix("<svg "))  # noqa: S704 - matplotlib escapes the text of a figure


def color(position: int) -> str:
    """Return the colour of a series by its position."""
    return SERIES[position % len(SERIES)]


def _axes(height: float, width: float = 720) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    chart = Figure((width / _INCH, height / _INCH), layout="constrained")
    axes = chart.add_subplot()
    axes.set_axisbelow(True)
    axes.grid(visible=True, axis="x")
    axes.spines[:].set_visible(False)
    axes.tick_params(color=_GREY, length=0)
    return chart, axes


def _name_rows(axes: Axes, names: Sequence[str]) -> None:
    """Name rows from the first, which is at the top."""
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)


def _explain(axes: Axes, columns: int = 6) -> None:
    """Name the series below the axes."""
    axes.figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=columns, frameon=False)
