"""Scores of several maps on the same cells, side by side: what :func:`xland.evaluation.scores.compare` returns."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xland.addresses import local_path
from xland.atomic import replace_file
from xland.evaluation.confusion import DOMAINS
from xland.evaluation.measures import Scores
from xland.evaluation.tables import figure, html_table, text_table, years_in_words
from xland.vocabulary import CLASS_NAMES, LAND_CLASSES

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False, repr=False)
class Evaluation:
    """Scores of one map in several domains and both weightings.

    Parameters
    ----------
    area, pixels : dict of str to Scores
        By domain: ``all``, ``land``, ``mixed``.
    factor : int
        Fine cells along one coarse cell, which says what is mixed.
    years : tuple of (predicted year, observed year)
        What was compared with what; None where a map does not say its year.
    cells : str
        Which cells were scored.
    """

    area: dict[str, Scores]
    pixels: dict[str, Scores]
    factor: int
    years: tuple[tuple[int | None, int | None], ...]
    cells: str = "all"

    @property
    def domains(self) -> tuple[str, ...]:
        """Names of the domains, in the order asked for."""
        return tuple(self.pixels)

    def __getitem__(self, domain: str) -> Scores:
        """Return the area-weighted scores of a domain; those by pixel count are in :attr:`pixels`."""
        return self.area[domain]

    def to_dict(self) -> dict[str, Any]:
        """Return plain numbers for JSON, by domain and weighting."""
        return {
            domain: {"area": self.area[domain].to_dict(), "pixels": self.pixels[domain].to_dict()}
            for domain in self.domains
        }

    def to_dataframe(self) -> pd.DataFrame:
        """Return a row for each domain and weighting."""
        return Comparison({"map": self}).to_dataframe().droplevel("map")

    def __str__(self) -> str:
        return str(Comparison({"map": self}))

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return Comparison({"map": self})._repr_html_()


@dataclass(frozen=True, eq=False, repr=False)
class Comparison:
    """Scores of several maps, a model and its baselines, on the same cells.

    Parameters
    ----------
    evaluations : dict of str to Evaluation
        By name of the map, in the order they were given.
    """

    evaluations: dict[str, Evaluation] = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the maps."""
        return tuple(self.evaluations)

    @property
    def domains(self) -> tuple[str, ...]:
        """Names of the domains."""
        return next(iter(self.evaluations.values())).domains

    def __getitem__(self, name: str) -> Evaluation:
        """Return the scores of one map."""
        return self.evaluations[name]

    def to_dict(self) -> dict[str, Any]:
        """Return everything for JSON: how it was scored, then scores by map, domain and weighting."""
        first = next(iter(self.evaluations.values()))
        return {
            "cells": first.cells,
            "factor": first.factor,
            "domains": {domain: DOMAINS[domain] for domain in self.domains},
            "years": {
                name: [{"predicted": predicted, "observed": observed} for predicted, observed in each.years]
                for name, each in self.evaluations.items()
            },
            "scores": {name: each.to_dict() for name, each in self.evaluations.items()},
        }

    def to_json(self, path: str | os.PathLike[str]) -> Path:
        """Write :meth:`to_dict` as JSON and return the path; an existing file is replaced at once or not at all."""
        text = json.dumps(self.to_dict(), indent=1, allow_nan=False) + "\n"
        return replace_file(local_path(path, what="a file of scores"), text)

    def to_dataframe(self) -> pd.DataFrame:
        """Return a row for each domain, weighting and map: accuracy, mIoU, kappa and IoU of each class."""
        import pandas as pd

        rows = {
            (domain, weighting, name): {
                "accuracy": scores.accuracy,
                "miou": scores.miou,
                "kappa": scores.kappa,
                **{f"iou_{CLASS_NAMES[code]}": scores.iou[code] for code in range(len(CLASS_NAMES))},
            }
            for domain in self.domains
            for weighting in ("area", "pixels")
            for name, each in self.evaluations.items()
            for scores in [getattr(each, weighting)[domain]]
        }
        frame = pd.DataFrame.from_dict(rows, orient="index")
        frame.index = pd.MultiIndex.from_tuples(list(rows), names=["domain", "weighting", "map"])
        return frame

    def _table(self) -> tuple[str, list[str], list[list[str]]]:
        codes = [
            code for code in LAND_CLASSES if any(e[d].support[code] for e in self.evaluations.values() for d in e.area)
        ]
        header = ["cells", "map", "accuracy", "mIoU", "acc. (px)", "mIoU (px)", *(CLASS_NAMES[code] for code in codes)]
        rows = []
        for domain in self.domains:
            for name, each in self.evaluations.items():
                area, pixels = each.area[domain], each.pixels[domain]
                values = (area.accuracy, area.miou, pixels.accuracy, pixels.miou, *(area.iou[c] for c in codes))
                rows.append([domain, name, *(figure(value) for value in values)])
        return (
            f"{self._heading()}\naccuracy, mean IoU and IoU of each class by area; (px) by pixel counts",
            header,
            rows,
        )

    def _heading(self) -> str:
        """Say what was compared: cells, years and the factor by which cells count as mixed."""
        first = next(iter(self.evaluations.values()))
        years = {name: years_in_words(each.years) or "not given" for name, each in self.evaluations.items()}
        if len(set(years.values())) == 1:
            said = years[self.names[0]]
        else:
            said = "; ".join(f"{name} {each}" for name, each in years.items())
        return (
            f"cells: {first.cells} | years: {said} | factor: {first.factor} x {first.factor} fine cells a coarse cell"
        )

    def __str__(self) -> str:
        return text_table(*self._table())

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return html_table(*self._table())
