"""Scores as text for a terminal, as HTML for a notebook, and as JSON."""

from __future__ import annotations

import html
import io
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from xland.paths import check_ending, local_path, replace_file

if TYPE_CHECKING:
    import pandas as pd

TextTable: TypeAlias = tuple[str, list[str], list[list[str]]]
"""A table of texts: title, header and rows."""


def figure(value: float | None, digits: int = 3) -> str:
    """Return a score as text; an en dash where it is not defined."""
    if value is None or math.isnan(value):
        return "–"  # noqa: RUF001
    text = f"{value:.{digits}f}"
    return text if float(text) else text.lstrip("-")


def plain(value: float) -> float | None:
    """Return a number for JSON, None for NaN."""
    return None if math.isnan(value) else float(value)


def years_in_words(pairs: Sequence[tuple[int | None, int | None]]) -> str:
    """Return which (predicted, observed) years were compared; empty where the maps do not say theirs."""
    known = [pair for pair in pairs if None not in pair]
    if not known:
        return ""
    if len(known) > 1:
        return f"{len(known)} years, {known[0][0]} to {known[-1][0]}"
    predicted, observed = known[0]
    return f"{predicted}" if predicted == observed else f"{predicted}, observed {observed}"


class Tabular:
    """Scores that are shown as tables: text of 80 columns in a terminal, HTML in a notebook; and written as JSON."""

    def _tables(self) -> list[TextTable]:
        raise NotImplementedError

    def to_dict(self) -> dict[str, Any]:
        """Return plain numbers for JSON: None where one is not defined."""
        raise NotImplementedError

    def to_json(self, path: str | os.PathLike[str]) -> Path:
        """Write :meth:`to_dict` as JSON and return the path; an existing file is replaced at once or not at all."""
        return write_json(path, self.to_dict())

    def __str__(self) -> str:
        from rich.box import SIMPLE_HEAD
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        texts = []
        for title, header, rows in self._tables():
            table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
            for position, name in enumerate(header):
                words = all(row[position][:1].isalpha() for row in rows)
                table.add_column(Text(name), justify="left" if words or not position else "right", no_wrap=not words)
            for row in rows:
                table.add_row(*map(Text, row))
            stream = io.StringIO()
            Console(file=stream, width=80, color_system=None, force_jupyter=False).print(table)
            texts.append("\n".join([title, *filter(None, map(str.rstrip, stream.getvalue().splitlines()))]))
        return "\n\n".join(texts)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        import pandas as pd

        shown = []
        for title, header, rows in self._tables():
            caption = html.escape(title).replace("\n", "<br>")
            with pd.option_context("display.max_colwidth", None):  # names are not cut
                table = pd.DataFrame(rows, columns=header).to_html(index=False, border=0)
            shown.append(table.replace(">", f"><caption>{caption}</caption>", 1))
        return "".join(shown)


def frame_of(rows: dict[Any, Any], names: Sequence[str]) -> pd.DataFrame:
    """Return a data frame of rows by the values of several levels with these names."""
    import pandas as pd

    frame = pd.DataFrame.from_dict(rows, orient="index")
    frame.index = pd.MultiIndex.from_tuples(list(rows), names=list(names))
    return frame


def write_json(path: str | os.PathLike[str], content: Mapping[str, Any]) -> Path:
    """Write numbers as JSON; an existing file is replaced at once or not at all."""
    check_ending(path, "a JSON file", ".json")
    text = json.dumps(content, indent=1, allow_nan=False) + "\n"
    return replace_file(local_path(path, what="a file of scores"), text)
