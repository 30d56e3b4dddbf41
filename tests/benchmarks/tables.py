"""Tables of the benchmarks in the pages of the documentation, between marks that are not shown."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any


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


def ablation_table(lines: Sequence[Mapping[str, Any]], names: Mapping[str, str]) -> str:
    """The reference in shares, and of each variant the differences to it."""
    reference = lines[0]
    rows = [
        ["**reference**", *(share(reference[name]) for name in names), *_offsets(reference, absolute=True)],
        *(
            [each["name"], *(points(each["difference"][name]) for name in names), *_offsets(each, absolute=False)]
            for each in lines[1:]
        ),
    ]
    header = ["", *names.values(), "mIoU, offsets", "urban, offsets"]
    return table(header, rows)


def _offsets(line: Mapping[str, Any], *, absolute: bool) -> list[str]:
    if absolute:
        return [share(line["with_offsets"][name]) for name in ("miou", "urban")]
    return [points(line["difference_with_offsets"][name]) for name in ("miou", "urban")]


def prior_table(lines: Sequence[Mapping[str, Any]]) -> str:
    """Scores by the share of the prior that was hidden in training."""
    names = ("accuracy", "miou", "changed", "partly_accuracy", "partly_miou", "hidden_accuracy")
    header = ["hidden in training", "accuracy", "mIoU", "changed pixels", "accuracy, 60 % hidden", "mIoU, 60 % hidden"]
    rows = [[f"{each['hidden']:.0%}", *(share(each[name]) for name in names)] for each in lines]
    copy = [["a copy of the prior", share(each["copied"]), "-", share(0.0), "-", "-", "-"] for each in lines[:1]]
    return table([*header, "hidden pixels"], [*rows, *copy])
