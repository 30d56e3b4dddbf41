"""What was found in a Dataset, as a table to print, to show in a notebook or to go on with."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from typing import Any, Literal

import pandas as pd

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")
_WIDTH = 80  # columns of a terminal


@dataclass(frozen=True)
class Finding:
    """One thing that was found.

    Parameters
    ----------
    severity : {"error", "warning", "note"}
    variable : str
    message : str
        What was found.
    count : int or None
        Number of cells (added up over the years), where cells are concerned.
    place : str
        Year, latitude and longitude of the first of them.
    remedy : str
        What to do about it; empty where there is nothing to do.
    """

    severity: Severity
    variable: str
    message: str
    count: int | None = None
    place: str = ""
    remedy: str = ""

    @property
    def sentence(self) -> str:
        """Finding, number of cells, place and remedy in one line."""
        cells = "" if self.count is None else f", {self.count:,} cell{'' if self.count == 1 else 's'}"
        place = f", first at {self.place}" if self.place else ""
        return self.message + cells + place + (f"; {self.remedy}" if self.remedy else "")


@dataclass(frozen=True, repr=False)
class CheckTable:
    """What :func:`check` found: printable, and as a table in notebooks.

    Parameters
    ----------
    findings : tuple of Finding
        Errors first, then warnings and notes.
    facts : mapping of str to str
        How the forcing was understood: grid, years, encoding, variables, data.
    areas : DataFrame
        Area of each state in million km2 (rows) in the first and the last year (columns).
    """

    findings: tuple[Finding, ...]
    facts: Mapping[str, str]
    areas: pd.DataFrame

    @property
    def ok(self) -> bool:
        """Whether nothing was found that ``downscale`` refuses."""
        return not any(finding.severity == "error" for finding in self.findings)

    @property
    def verdict(self) -> str:
        """One line that says how many errors, warnings and notes there are."""
        counts = {severity: sum(f.severity == severity for f in self.findings) for severity in SEVERITIES}
        said = ", ".join(f"{n} {severity}{'' if n == 1 else 's'}" for severity, n in counts.items() if n)
        return ("fit for downscaling" if self.ok else "not fit for downscaling") + (f": {said}" if said else "")

    def to_dataframe(self) -> pd.DataFrame:
        """Return the findings, one in a row."""
        columns = list(Finding.__dataclass_fields__)
        rows = [[getattr(finding, column) for column in columns] for finding in self.findings]
        return pd.DataFrame(rows, columns=columns).astype({"count": "Int64"})

    def __str__(self) -> str:
        from rich.console import Console, Group
        from rich.table import Table
        from rich.text import Text

        facts, found = Table.grid(padding=(0, 2)), Table.grid(padding=(0, 2))
        for name, value in self.facts.items():
            facts.add_row(Text(name), Text(value))
        for finding in self.findings:
            found.add_row(Text(finding.severity), Text(finding.variable), Text(finding.sentence))
        areas = Table("state", *(f"{year} (Mkm2)" for year in self.areas.columns), box=None, pad_edge=False)
        for state, row in zip(self.areas.index, self.areas.to_numpy(), strict=True):
            areas.add_row(str(state), *(f"{value:.3f}" for value in row))
        parts: list[Any] = [facts, *(["", areas] if len(self.areas) else []), *(["", found] if self.findings else [])]
        console = Console(file=io.StringIO(), width=_WIDTH, record=True)
        console.print(Group(*parts, "", Text(self.verdict)))
        return "\n".join(line.rstrip() for line in console.export_text().splitlines())

    __repr__ = __str__

    def _repr_html_(self) -> str:
        row = "<tr><th style='text-align:left'>{}</th><td style='text-align:left'>{}</td></tr>"
        facts = "".join(row.format(escape(name), escape(value)) for name, value in self.facts.items())
        findings = self.to_dataframe().to_html(index=False, na_rep="") if self.findings else ""
        shown = self.areas.rename(columns=lambda year: f"{year} (Mkm2)").round(3).to_html()
        return (
            f"<b>{escape(self.verdict)}</b><table>{facts}</table>{findings}"
            f"<details><summary>areas</summary>{shown}</details>"
        )
