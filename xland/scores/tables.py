"""Scores as text for a terminal, as HTML for a notebook, and as JSON."""

from __future__ import annotations

import html
import io
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from xland.addresses import local_path
from xland.atomic import replace_file

WIDTH = 80
"""Columns of a terminal."""


def figure(value: float | None, digits: int = 3) -> str:
    """Return a score as text; an en dash where it is not defined."""
    if value is None or math.isnan(value):
        return "–"  # noqa: RUF001
    text = f"{value:.{digits}f}"
    return text if float(text) else text.lstrip("-")


def years_in_words(pairs: Sequence[tuple[int | None, int | None]]) -> str:
    """Return which (predicted, observed) years were compared; empty where the maps do not say theirs."""
    known = [pair for pair in pairs if None not in pair]
    if not known:
        return ""
    if len(known) > 1:
        return f"{len(known)} years, {known[0][0]} to {known[-1][0]}"
    predicted, observed = known[0]
    return f"{predicted}" if predicted == observed else f"{predicted}, observed {observed}"


def text_table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table as plain text of 80 columns: names to the left, figures to the right."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for position, name in enumerate(header):
        words = all(row[position][:1].isalpha() for row in rows)
        table.add_column(Text(name), justify="left" if words or not position else "right", no_wrap=not words)
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    stream = io.StringIO()
    Console(file=stream, width=WIDTH, color_system=None).print(table)
    return "\n".join([title, *filter(None, map(str.rstrip, stream.getvalue().splitlines()))])


def html_table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table as HTML with everything escaped."""
    head = "".join(f'<th scope="col">{html.escape(name)}</th>' for name in header)
    body = "".join(
        f'<tr><th scope="row" style="text-align:left">{html.escape(row[0])}</th>'
        + "".join(f"<td>{html.escape(cell)}</td>" for cell in row[1:])
        + "</tr>"
        for row in rows
    )
    caption = html.escape(title).replace("\n", "<br>")
    return f"<table><caption>{caption}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


class Tabular:
    """What is shown as tables: text in a terminal, HTML in a notebook."""

    def _tables(self) -> list[tuple[str, list[str], list[list[str]]]]:
        raise NotImplementedError

    def __str__(self) -> str:
        return "\n\n".join(text_table(*table) for table in self._tables())

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return "".join(html_table(*table) for table in self._tables())


def write_json(path: str | os.PathLike[str], content: Mapping[str, Any]) -> Path:
    """Write numbers as JSON; an existing file is replaced at once or not at all."""
    text = json.dumps(content, indent=1, allow_nan=False) + "\n"
    return replace_file(local_path(path, what="a file of scores"), text)
