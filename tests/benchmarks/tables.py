"""Tables of the benchmarks in the pages of the documentation, between marks that are not shown."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from pathlib import Path


def write_between(page: Path, name: str, text: str) -> None:
    """Replace what stands between ``<!-- name -->`` and ``<!-- /name -->`` in a page.

    Raises
    ------
    ValueError
        If the page does not hold this pair of marks exactly once.
    """
    found = page.read_text(encoding="utf-8")
    pattern = re.compile(rf"(<!-- {re.escape(name)} -->\n).*?(<!-- /{re.escape(name)} -->)", re.DOTALL)
    written, times = pattern.subn(lambda marks: f"{marks[1]}{text}{marks[2]}", found)
    if times != 1:
        raise ValueError(f"{page} must hold <!-- {name} --> and <!-- /{name} --> once, but holds them {times} times")
    page.write_text(written, encoding="utf-8")


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; the first column is text, the others are numbers."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def share(value: float | None) -> str:
    """A share in three digits, a dash where there is none."""
    return "-" if value is None or not math.isfinite(value) else f"{value:.3f}"


def points(pair: Sequence[float]) -> str:
    """A difference of shares and its standard error in hundredths."""
    value, error = pair
    if not math.isfinite(value):
        return "-"
    return f"{100 * value:+.1f} ± {100 * error:.1f}" if math.isfinite(error) else f"{100 * value:+.1f}"
