"""Drawings for the report: bars, dots and lines as SVG that a page carries in itself.

Series differ by mark and dash as well as by colour, so that they can be told apart in grey, too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from xland.scores.tables import figure

SERIES = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00")
"""Colours of the series, from Okabe and Ito's set for colour-blind readers."""

_DASHES = ("", "7 3", "2 3", "9 3 2 3", "12 4", "4 4")
_WIDTH, _LEFT, _RIGHT = 720, 150, 70


@dataclass(frozen=True)
class Line:
    """A line of a chart: its points, and whether each has a mark."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    marked: bool = True


@dataclass(frozen=True)
class Axis:
    """An axis: what it shows, its ends, and where ticks stand with what words."""

    label: str
    start: float = 0.0
    end: float = 1.0
    ticks: Sequence[tuple[float, str]] = tuple((share, f"{share:g}") for share in (0, 0.25, 0.5, 0.75, 1))

    @classmethod
    def to(cls, label: str, top: float, scale: float = 1.0) -> Axis:
        """Return an axis from 0 to a round number of at least ``top``; ``scale`` 100 writes shares as per cent."""
        end = nice(top)
        return cls(label, 0.0, end, _ticks(end, scale))


def nice(top: float) -> float:
    """Return a round number at which an axis may end: 1, 2, 2.5 or 5 times a power of ten, or 1 of nothing."""
    if not top > 0:
        return 1.0
    power = 10.0 ** np.floor(np.log10(top))
    return float(next(step * power for step in (1, 2, 2.5, 5, 10) if step * power >= top * (1 - 1e-9)))


def _ticks(end: float, scale: float) -> list[tuple[float, str]]:
    return [(end * step / 5, f"{scale * end * step / 5:.6g}") for step in range(6)]


def color(position: int) -> str:
    """Return the colour of a series by its position."""
    return SERIES[position % len(SERIES)]


def key(position: int, *, line: bool = False) -> Markup:
    """Return the mark of a series as a small drawing for a legend."""
    stroke = _line([(1, 8), (31, 8)], position) if line else Markup("")
    return _svg(32, 16, stroke + _mark(16, 8, position), css="key")


def swatch(fill: str) -> Markup:
    """Return a filled square for a legend."""
    return _svg(16, 16, _tag("rect", x=2, y=2, width=12, height=12, fill=fill, css="mark"), css="key")


def bars(groups: Sequence[str], names: Sequence[str], values: Sequence[Sequence[float]], label: str) -> Markup:
    """Draw values between 0 and 1 as bars, a group of one bar for each series.

    Parameters
    ----------
    groups : sequence of str
    names : sequence of str
        Of the series; each bar ends with its figure and its series, so that no colour has to be told.
    values : (groups, series) numbers
        NaN is drawn as no bar and an en dash.
    label : str
        What the drawing shows, for readers who cannot see it.
    """
    thick, gap, span = 15, 14, _WIDTH - _LEFT - 190
    body = _grid_below(span, [(share, f"{share:g}") for share in (0, 0.25, 0.5, 0.75, 1)], _bars_height(groups, names))
    for place, (group, row) in enumerate(zip(groups, values, strict=True)):
        top = 8 + place * (len(names) * thick + gap)
        body += _text(_LEFT - 10, top + len(names) * thick / 2 + 4, group, anchor="end")
        for index, (name, value) in enumerate(zip(names, row, strict=True)):
            length = round(span * float(np.nan_to_num(value)), 1)
            y = top + index * thick
            body += _tag("rect", x=_LEFT, y=y, width=length, height=thick - 2, fill=color(index))
            body += _text(_LEFT + length + 5, y + thick - 4, f"{figure(value)} {name}", css="tick")
    return _svg(_WIDTH, _bars_height(groups, names) + 22, body, label)


def dots(groups: Sequence[str], values: Sequence[Sequence[float]], label: str) -> Markup:
    """Draw values between 0 and 1 as marks, one row for each group and one mark for each series.

    Parameters
    ----------
    groups : sequence of str
    values : (groups, series) numbers
        NaN is left out.
    label : str
    """
    left, step = 210, 26
    span, height = _WIDTH - left - 30, 8 + 26 * len(groups)
    body = _grid_below(span, [(share, f"{share:g}") for share in (0, 0.25, 0.5, 0.75, 1)], height, left)
    for place, (group, row) in enumerate(zip(groups, values, strict=True)):
        y = 8 + step * place + step / 2
        body += _text(left - 12, y + 4, group, anchor="end")
        body += _tag("line", x1=left, x2=left + span, y1=y, y2=y)
        # the first series is the model's: drawn last, it lies on top
        for index, value in reversed(list(enumerate(row))):
            if np.isfinite(value):
                body += _mark(round(left + span * float(value), 1), y, index)
    return _svg(_WIDTH, height + 22, body, label)


def stacked(rows: Sequence[tuple[str, Sequence[float]]], parts: Sequence[tuple[str, str]], label: str) -> Markup:
    """Draw shares laid end to end, one bar a row.

    Parameters
    ----------
    rows : sequence of (name, one share for each part)
    parts : sequence of (name, colour)
    label : str
    """
    thick, step, left = 26, 40, 190
    end = nice(max((float(np.nansum(shares)) for _, shares in rows), default=0.0))
    span, height = _WIDTH - left - 40, 8 + 40 * len(rows)
    ticks = [(value / end, f"{words} %") for value, words in _ticks(end, 100)]
    body = _grid_below(span, ticks, height, left)
    for place, (name, shares) in enumerate(rows):
        x, y = float(left), 8 + step * place
        body += _text(left - 12, y + thick / 2 + 4, name, anchor="end")
        for (part, fill), share in zip(parts, shares, strict=True):
            length = span * float(np.nan_to_num(share)) / end
            title = _tag("title", f"{name}, {part}: {100 * share:.2f} %")
            body += _tag("rect", title, x=round(x, 1), y=y, width=round(length, 1), height=thick, fill=fill)
            if length > 8 * len(part) + 8:
                body += _text(
                    x + length / 2, y + thick / 2 + 4, part, anchor="middle", css="inside", style=f"fill:{_ink(fill)}"
                )
            x += length
    return _svg(_WIDTH, height + 22, body, label)


def lines(
    series: Sequence[Line],
    across: Axis,
    up: Axis,
    label: str,
    *,
    diagonal: bool = False,
    columns: Sequence[tuple[float, float, float]] = (),
) -> Markup:
    """Draw lines over two axes.

    Parameters
    ----------
    series : sequence of Line
        NaN breaks a line.
    across, up : Axis
    label : str
    diagonal : bool
        Draw where both axes are equal.
    columns : sequence of (start, end, height)
        Pale columns behind the lines, in units of the axes.
    """
    left, top, width, height = 70, 12, 460, 300

    def place(axis: Axis, value: float) -> float:
        return (value - axis.start) / (axis.end - axis.start)

    def x(value: float) -> float:
        return round(left + width * place(across, value), 1)

    def y(value: float) -> float:
        return round(top + height * (1 - place(up, value)), 1)

    body = Markup("")
    for start, end, tall in columns:
        foot, head = y(up.start), y(up.start + tall)
        body += _tag(
            "rect", x=x(start) + 1, y=head, width=max(x(end) - x(start) - 2, 1), height=foot - head, css="pale"
        )
    for value, words in across.ticks:
        body += _tag("line", x1=x(value), x2=x(value), y1=top, y2=top + height)
        body += _text(x(value), top + height + 16, words, anchor="middle", css="tick")
    for value, words in up.ticks:
        body += _tag("line", x1=left, x2=left + width, y1=y(value), y2=y(value))
        body += _text(left - 8, y(value) + 4, words, anchor="end", css="tick")
    if diagonal:
        body += _tag("line", x1=x(0), y1=y(0), x2=x(1), y2=y(1), css="diagonal")
    for index, each in reversed(list(enumerate(series))):
        body += _broken(each, index, x, y)
    body += _text(left + width / 2, top + height + 36, across.label, anchor="middle")
    body += _tag("text", up.label, transform=f"translate(18 {top + height / 2}) rotate(-90)", text_anchor="middle")
    return _svg(left + width + 20, top + height + 46, body, label)


def _broken(line: Line, index: int, x: Callable[[float], float], y: Callable[[float], float]) -> Markup:
    """Draw a line in the pieces that NaN leaves."""
    known = [bool(np.isfinite(a) and np.isfinite(b)) for a, b in zip(line.x, line.y, strict=True)]
    points = [(x(a), y(b)) if good else None for a, b, good in zip(line.x, line.y, known, strict=True)]
    body, piece = Markup(""), []
    for point in [*points, None]:
        if point is not None:
            piece.append(point)
            continue
        if len(piece) > 1:
            body += _line(piece, index)
        piece = []
    if line.marked:
        body += Markup("").join(_mark(*point, index) for point in points if point is not None)
    return body


def _line(points: Sequence[tuple[float, float]], index: int) -> Markup:
    path = " ".join(f"{a:g},{b:g}" for a, b in points)
    return _tag(
        "polyline", points=path, fill="none", css="series",
        style=f"stroke:{color(index)};stroke-dasharray:{_DASHES[index % len(_DASHES)] or 'none'}",
    )  # fmt: skip


_SHAPES = (
    "M-5,0a5,5 0 1,0 10,0a5,5 0 1,0 -10,0z",  # circle
    "M-4.5,-4.5h9v9h-9z",  # square
    "M0,-6L5.5,4.5H-5.5z",  # triangle
    "M0,-6.2L5,0L0,6.2L-5,0z",  # diamond
    "M-5.5,-4.5H5.5L0,6z",  # triangle that stands on its tip
    "M-5,-2h3v-3h4v3h3v4h-3v3h-4v-3h-3z",  # cross
)


def _mark(x: float, y: float, index: int) -> Markup:
    shape = _SHAPES[index % len(_SHAPES)]
    return _tag("path", d=shape, transform=f"translate({x:g} {y:g})", fill=color(index), css="mark")


def _bars_height(groups: Sequence[str], names: Sequence[str]) -> int:
    return 8 + len(groups) * (len(names) * 15 + 14)


def _grid_below(span: float, ticks: Sequence[tuple[float, str]], height: float, left: float = _LEFT) -> Markup:
    body = Markup("")
    for share, words in ticks:
        x = round(left + share * span, 1)
        body += _tag("line", x1=x, x2=x, y1=4, y2=height)
        body += _text(x, height + 14, words, anchor="middle", css="tick")
    return body


def _ink(fill: str) -> str:
    """Return black or white, whichever is read better on a colour."""
    red, green, blue = (int(fill[i : i + 2], 16) for i in (1, 3, 5))
    return "#000" if 0.299 * red + 0.587 * green + 0.114 * blue > 140 else "#fff"


def _text(x: float, y: float, words: str, *, anchor: str = "start", css: str = "", **more: str) -> Markup:
    return _tag("text", words, x=round(x, 1), y=round(y, 1), text_anchor=anchor, css=css, **more)


def _tag(name: str, inside: str = "", /, *, css: str = "", **attributes: object) -> Markup:
    if css:
        attributes["class"] = css
    written = Markup("").join(
        Markup(' {}="{}"').format(each.replace("_", "-"), value) for each, value in attributes.items()
    )
    return Markup("<{0}{1}>{2}</{0}>").format(name, written, inside)


def _svg(width: float, height: float, body: Markup, label: str = "", css: str = "chart") -> Markup:
    about: dict[str, object] = {"aria-hidden": "true"}
    if label:
        about = {"role": "img", "aria-label": label, "style": f"max-width:{width:g}px"}
    return _tag("svg", body, viewBox=f"0 0 {width:g} {height:g}", css=css, **about)
