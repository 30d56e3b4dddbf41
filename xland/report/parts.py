"""What the page of a report is made of: sections of tables, charts and maps, before any HTML."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple, TypeAlias

from markupsafe import Markup


class Cell(NamedTuple):
    """A figure in a table: its text, whether it is the best or a hit, and how dark to shade it (0 to 100)."""

    text: str
    mark: Literal["", "best", "hit", "plain"] = ""
    shade: int | None = None


class Row(NamedTuple):
    """A row of a table; ``color`` puts a swatch before its name, ``strong`` sets it apart."""

    name: str
    cells: Sequence[Cell]
    color: str | None = None
    strong: bool = False


class Table(NamedTuple):
    """A table; ``groups`` are (title, number of columns) above all columns but that of the names of the rows.

    ``folded`` is the text to click on, if the table is folded away at first.
    """

    caption: str
    header: Sequence[str]
    rows: Sequence[Row]
    groups: Sequence[tuple[str, int]] = ()
    folded: str = ""


class Legend(NamedTuple):
    """What colours mean: ``entries`` of (colour, name), or a ``ramp`` of colours between two words."""

    entries: Sequence[tuple[str, str]] = ()
    ramp: Sequence[str] = ()
    ends: tuple[str, str] = ("0", "1")


class Picture(NamedTuple):
    """A map as a data URL, its size in pixels, its width by its height on the page, what it shows, its kind."""

    source: str
    width: int
    height: int
    ratio: float
    alt: str
    caption: str
    tag: str


class Gallery(NamedTuple):
    """Maps side by side that share one legend; ``look`` says in a sentence what to look for."""

    title: str
    look: str
    legend: Legend
    pictures: Sequence[Picture]


class Chart(NamedTuple):
    """A drawing; ``look`` says in a sentence what to look for."""

    drawing: Markup
    look: str


class Text(NamedTuple):
    """A paragraph, below a small heading where it has one."""

    text: str
    title: str = ""


class Missing(NamedTuple):
    """What the page cannot show, and the command that gives what it needs."""

    text: str
    command: str


Part: TypeAlias = Table | Gallery | Chart | Text | Missing


class Section(NamedTuple):
    """A part of the page with a heading that the top of the page links to."""

    key: str
    title: str
    parts: Sequence[Part]


class Tile(NamedTuple):
    """A headline figure: what it is, its value, and what is beside it."""

    label: str
    value: str
    notes: Sequence[str] = ()
