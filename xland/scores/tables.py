"""Scores as text for a terminal and as HTML for a notebook."""

from __future__ import annotations

import html
import io
import math
from collections.abc import Sequence


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
    """Return a table as plain text: first column to the left, figures to the right."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD)
    for position, name in enumerate(header):
        table.add_column(Text(name), justify="right" if position else "left", no_wrap=True)
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    stream = io.StringIO()
    Console(file=stream, width=160, color_system=None).print(table)
    return "\n".join([title, *(line.rstrip() for line in stream.getvalue().rstrip().splitlines())])


def html_table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table as HTML with everything escaped."""
    head = "".join(f'<th scope="col">{html.escape(name)}</th>' for name in header)
    body = "".join(
        "<tr>"
        + "".join(
            f'<th scope="row" style="text-align:left">{html.escape(cell)}</th>'
            if position == 0
            else f"<td>{html.escape(cell)}</td>"
            for position, cell in enumerate(row)
        )
        + "</tr>"
        for row in rows
    )
    caption = html.escape(title).replace("\n", "<br>")
    return f"<table><caption>{caption}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
