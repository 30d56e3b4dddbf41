"""Drawings for the report, made with matplotlib: bars, dots and lines as SVG that a page carries in itself.

Series differ by marker and dash as well as by colour, so that they can be told apart in grey, too.
"""

from __future__ import annotations

import io
import re
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

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

WIDE, NARROW = 720.0, 360.0
"""Pixels along a drawing on a page that is wide, or as narrow as a telephone."""

_TEXT = 12  # pixels, in both
_LABEL = 175  # pixels beside the longest bar, for its figure and name
_LETTER = 6.5  # pixels, about

_GREY = "#8a949a"  # is read on white and on black
_MOST_MARKERS = 30
_INCH = 72.0

Points = tuple[Sequence[float] | NDArray[np.float64], Sequence[float] | NDArray[np.float64]]
"""Positions of the points of a line, across and up."""


def bars(groups: Sequence[str], names: Sequence[str], values: Sequence[Sequence[float]], width: float = WIDE) -> Figure:
    """Draw values between 0 and 1, (groups, series), as bars, a group of one bar for each series.

    Each bar ends with its figure and its series, so that it is known without its colour; NaN is an en dash.
    """
    chart, axes = _axes(40 + len(groups) * (16 * len(names) + 14), width)
    thick = 0.85 / len(names)
    for index, name in enumerate(names):
        column = [row[index] for row in values]
        places = np.arange(len(groups)) + (index - (len(names) - 1) / 2) * thick
        drawn = axes.barh(places, np.nan_to_num(column), thick * 0.88, color=color(index), label=name)
        axes.bar_label(drawn, [f"{figure(value)} {name}" for value in column], padding=4, fontsize=_TEXT - 1)
    longest = float(np.nanmax([value for row in values for value in row] or [0.0], initial=0.05))
    _name_rows(axes, groups, width)
    room = width - _LETTER * max(map(len, "\n".join(_wrapped(groups, width)).split("\n")), default=0)
    axes.set_xlim(0, longest / (1 - min(_LABEL / room, 0.75)))
    axes.set_xticks([tick for tick in (0, 0.25, 0.5, 0.75, 1) if tick <= longest + 0.1])
    return chart


def dots(groups: Sequence[str], names: Sequence[str], values: Sequence[Sequence[float]], width: float = WIDE) -> Figure:
    """Draw values between 0 and 1, (groups, series), as markers, one row for each group; NaN is left out.

    The scale ends at the tenths around the values.
    """
    rows = 1 + max((label.count("\n") for label in _wrapped(groups, width)), default=0)
    chart, axes = _axes(50 + _legend_height(names, width) + (12 + 15 * rows) * len(groups), width)
    for index, name in enumerate(names):
        column = [row[index] for row in values]
        marker, above = MARKERS[index % len(MARKERS)], 3 + len(names) - index  # the first series is the model's
        axes.plot(column, range(len(groups)), marker, color=color(index), markersize=8, label=name, zorder=above)
    axes.grid(visible=True, axis="y")
    known = [value for row in values for value in row if np.isfinite(value)] or [0.0, 1.0]
    lower, upper = np.floor(10 * min(known)) / 10, np.ceil(10 * max(known)) / 10
    axes.set_xlim(lower - 0.02, max(upper, lower + 0.1) + 0.02)
    _name_rows(axes, groups, width)
    _explain(axes, width)
    return chart


def stacked(rows: Mapping[str, Sequence[float]], parts: Sequence[tuple[str, str]], width: float = WIDE) -> Figure:
    """Draw shares, one for each part (name, colour), end to end in per cent, one bar a row."""
    chart, axes = _axes(50 + _legend_height([name for name, _ in parts], width) + 44 * len(rows), width)
    shares = 100 * np.nan_to_num(np.array(list(rows.values()), dtype=np.float64))
    starts = np.cumsum(shares, axis=1) - shares
    for index, (part, fill) in enumerate(parts):
        axes.barh(range(len(rows)), shares[:, index], 0.65, starts[:, index], color=fill, label=part)
    axes.xaxis.set_major_formatter("{x:g} %")
    axes.margins(x=0)
    _name_rows(axes, list(rows), width)
    _explain(axes, width)
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
    width: float = WIDE,
) -> Figure:
    """Draw lines over two axes that start at 0 and end at ``top``, or where the values do; NaN breaks a line.

    ``diagonal`` draws where both axes are equal; ``columns`` are (edges, heights) of pale columns behind the lines;
    ``ticks`` name positions of the axis across.
    """
    chart, axes = _axes(300 + _legend_height(series, width), min(width, 560))
    if columns is not None:
        edges, heights = columns
        axes.bar(edges[:-1], heights, np.diff(edges), align="edge", color=_GREY, alpha=0.25, linewidth=0)
    if diagonal:
        axes.plot([0, 1], [0, 1], color=_GREY, dashes=(4, 3), linewidth=1)
    for index, (name, (x, y)) in enumerate(series.items()):
        marker = MARKERS[index % len(MARKERS)] if len(x) <= _MOST_MARKERS else None
        dash = DASHES[index % len(DASHES)]
        axes.plot(x, y, color=color(index), linestyle=dash, marker=marker, linewidth=2, label=name, zorder=9 - index)
        axes.lines[-1].set_clip_on(False)  # markers at the ends of the scales are whole
    axes.margins(0)
    axes.set(xlabel=across, ylabel=up, ylim=(0, top), xlim=(0, top))
    axes.grid(visible=True, axis="y")
    if ticks is not None:
        axes.set_xticks(list(ticks), list(ticks.values()))
    if len(series) > 1:
        _explain(axes, width)
    return chart


def both(draw: Callable[..., Figure], label: str, *data: Any, **options: Any) -> Markup:
    """Return a drawing twice, for wide pages and for narrow ones; its text has the same size on both."""
    from matplotlib import rc_context

    drawn = []
    for kind, width in (("broad", WIDE), ("slim", NARROW)):
        with rc_context({"font.size": _TEXT}):
            drawn.append(svg(draw(*data, **options, width=width), label, kind))
    return Markup("\n").join(drawn)


def svg(chart: Figure, label: str, kind: str = "broad") -> Markup:
    """Return a figure as an SVG element that says what it shows to readers who cannot see it.

    The same figure gives the same text. Text without a colour of its own takes that of the page.
    """
    from matplotlib import rc_context

    file = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": f"{label} {kind}"}):
        about = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        chart.savefig(file, format="svg", transparent=True, metadata=about)
    text = file.getvalue()
    text = re.sub(r' id="[a-z0-9.]+_\d+"', "", text[text.index("<svg") :])  # each page has several drawings
    width = f"{float(chart.get_figwidth()) * _INCH:g}"
    opening = Markup('<svg class="chart {}" role="img" aria-label="{}" style="max-width:{}px" ').format(
        kind, label, width
    )
    return opening + Markup(text.removeprefix("<svg "))  # noqa: S704 - matplotlib escapes the text of a figure


def color(position: int) -> str:
    """Return the colour of a series by its position."""
    return SERIES[position % len(SERIES)]


def _axes(height: float, width: float) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    chart = Figure((width / _INCH, height / _INCH), layout="constrained")
    axes = chart.add_subplot()
    axes.set_axisbelow(True)
    axes.grid(visible=True, axis="x")
    axes.spines[:].set_visible(False)
    axes.tick_params(color=_GREY, length=0)
    return chart, axes


def _name_rows(axes: Axes, names: Sequence[str], width: float) -> None:
    """Name rows from the first, which is at the top."""
    axes.set_yticks(range(len(names)), _wrapped(names, width))
    axes.set_ylim(len(names) - 0.4, -0.6)


def _wrapped(names: Sequence[str], width: float) -> list[str]:
    """Return the names of rows, on narrow drawings in several lines."""
    return list(names) if width >= WIDE else [textwrap.fill(name, 15) for name in names]


def _legend(names: Iterable[str], width: float) -> int:
    """Return how many names fit beside each other below a drawing."""
    longest = max(map(len, names), default=1)
    return max(1, min(6, int(width / (_LETTER * longest + 55))))


def _legend_height(names: Sequence[str] | Mapping[str, Any], width: float) -> float:
    return 20.0 * -(-len(names) // _legend(names, width))


def _explain(axes: Axes, width: float) -> None:
    """Name the series below the axes."""
    handles, names = axes.get_legend_handles_labels()
    axes.figure.legend(
        handles, names, loc="outside lower center", ncols=_legend(names, width), frameon=False, fontsize=_TEXT
    )
