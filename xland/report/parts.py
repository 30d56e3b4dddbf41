"""What the page of a report is made of: sections of tables, charts and maps, before any HTML."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Table:
    """A table with the caption that says what it shows.

    The header has a name for the rows and one for each column. ``groups`` are (title, number of columns) above the
    columns; they span all but the first. ``folded`` is the text to click on, if the table is folded away at first.
    """

    caption: str
    header: Sequence[str]
    rows: Sequence[Row]
    groups: Sequence[tuple[str, int]] = ()
    folded: str = ""


@dataclass(frozen=True)
class Legend:
    """What colours mean: ``entries`` of (colour, name), or a ``ramp`` of colours between two words."""

    entries: Sequence[tuple[str, str]] = ()
    ramp: Sequence[str] = ()
    ends: tuple[str, str] = ("0", "1")


@dataclass(frozen=True)
class Picture:
    """A map ready for the page: the image as a data URL, its size in pixels, and width by height on the page.

    ``alt`` says what it shows; ``tag`` is the kind of map.
    """

    source: str
    width: int
    height: int
    ratio: float
    alt: str
    caption: str = ""
    tag: str = ""


@dataclass(frozen=True)
class Gallery:
    """Maps side by side that share one legend; ``look`` says in a sentence what to look for."""

    title: str
    look: str
    legend: Legend
    pictures: Sequence[Picture]


@dataclass(frozen=True)
class Chart:
    """A drawing; ``look`` says in a sentence what to look for."""

    drawing: Markup
    look: str


@dataclass(frozen=True)
class Text:
    """A paragraph, below a small heading where it has one."""

    text: str
    title: str = ""


@dataclass(frozen=True)
class Missing:
    """What the page cannot show, and how to give what it needs."""

    text: str
    command: str


Part: TypeAlias = Table | Gallery | Chart | Text | Missing


class Section(NamedTuple):
    """A part of the page with a heading that the top of the page links to."""

    key: str
    title: str
    parts: Sequence[Part]


class Tile(NamedTuple):
    """A headline figure: what it is, its value, and what stands beside it."""

    label: str
    value: str
    notes: Sequence[str] = ()


def pictures_of(sections: Sequence[Section]) -> list[Picture]:
    """Return all maps that the sections show."""
    galleries = (part for section in sections for part in section.parts if isinstance(part, Gallery))
    return [picture for gallery in galleries for picture in gallery.pictures]
