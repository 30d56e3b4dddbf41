"""One self-contained HTML page that shows how good a map is, for people who would rather look than read.

Everything is inside the file: pictures as data, style inline, no script and no request to anywhere;
a content security policy in the page says so to the browser as well.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from xland.errors import GridError, TimeError
from xland.evaluation.alignment import ClassMap, as_map
from xland.evaluation.confusion import DOMAINS
from xland.evaluation.measures import Scores
from xland.evaluation.pictures import (
    OTHER_CLASS,
    SAME,
    Picture,
    class_picture,
    confidence_colors,
    confidence_picture,
    difference_picture,
    extent,
)
from xland.evaluation.scores import Comparison
from xland.evaluation.tables import figure, years_in_words
from xland.vocabulary import CLASSES, LAND_CLASSES

MAX_PIXELS = 700_000
"""Cells of each map that the page carries at most."""

_SERIES = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#8c8c8c")
"""Colours of the maps in the bars, from Okabe and Ito's set for colour-blind readers."""

_DOMAIN_TITLES = {"all": "All cells", "land": "Land", "mixed": "Mixed land cells"}


def write_report(
    path: str | os.PathLike[str],
    *,
    title: str,
    maps: Mapping[str, xr.DataArray | xr.Dataset],
    scores: Comparison,
    confidence: xr.DataArray | None = None,
    notes: Sequence[str] = (),
    card: Mapping[str, Any] | None = None,
    provenance: Mapping[str, Any] | None = None,
    observed: str = "observed",
    model: str | None = None,
    max_pixels: int = MAX_PIXELS,
) -> Path:
    """Write the report of a model beside its baselines.

    Parameters
    ----------
    path : path
        The HTML file; an existing one is replaced at once or not at all.
    title : str
    maps : mapping of str to DataArray
        Maps of class codes by name, one time step each: the observed one, the model's and the
        baselines'. Large maps are thinned for the page.
    scores : Comparison
        What :func:`xland.evaluation.scores.compare` returned, the model first.
    confidence : DataArray, optional
        Difference between the two largest probabilities, 0 to 1.
    notes : sequence of str
        What a reader must know before the figures, such as what the coarse input is.
    card : mapping, optional
        The model's card.
    provenance : mapping, optional
        Inputs, hashes, versions.
    observed : str
        Name of the observed map in ``maps``.
    model : str, optional
        Name of the model in ``scores``; by default the first.
    max_pixels : int
        Cells of each map on the page.

    Returns
    -------
    Path

    Raises
    ------
    GridError
        If ``maps`` lacks the observed map, ``scores`` lacks the model, or the maps do not share cells.
    TimeError
        If a map has several time steps.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    model = model or scores.names[0]
    if observed not in maps:
        raise GridError(f"the maps of the report lack the observed one, {observed!r}; they are {', '.join(maps)}")
    if model not in scores.names:
        raise GridError(f"there are no scores of {model!r}; the maps that were scored are {', '.join(scores.names)}")
    flat = {name: _single(each, f"map {name!r}") for name, each in maps.items()}
    environment = Environment(
        loader=PackageLoader("xland.evaluation", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template("report.html.j2").render(
        title=title,
        notes=list(notes),
        model=model,
        cells=scores[model].cells,
        factor=scores[model].factor,
        years=years_in_words(scores[model].years),
        tiles=_tiles(scores, model),
        maps=_maps(flat, observed, model, max_pixels),
        extent=extent(flat[model if model in flat else observed].grid),
        confidence=None if confidence is None else _confidence(confidence, max_pixels),
        confidence_colors=confidence_colors(9),
        classes=CLASSES,
        same=SAME,
        other=OTHER_CLASS,
        domains=[_domain(scores, domain) for domain in scores.domains],
        bars=_bars(scores, _main_domain(scores)),
        confusion=_confusion(scores[model].area[_main_domain(scores)]),
        card=card,
        provenance=provenance,
    )
    path = Path(path)
    part = path.with_name(f".{path.name}.part")
    part.write_text(page, encoding="utf-8")
    return part.replace(path)


def _single(data: xr.DataArray | xr.Dataset, what: str) -> ClassMap:
    found = as_map(data, what=what)
    if len(found.years) > 1:
        raise TimeError(f"the {what} has {len(found.years)} time steps; select one for the report")
    return found


def _main_domain(scores: Comparison) -> str:
    return "land" if "land" in scores.domains else scores.domains[0]


def _tiles(scores: Comparison, model: str) -> list[dict[str, str]]:
    """Return the headline figures, each beside the best baseline."""
    main = _main_domain(scores)
    wanted = [(f"Accuracy, {main}", main, "accuracy"), (f"Mean IoU, {main}", main, "miou")]
    if "mixed" in scores.domains and main != "mixed":
        wanted += [("Accuracy, mixed cells", "mixed", "accuracy"), ("Mean IoU, mixed cells", "mixed", "miou")]
    tiles = []
    for label, domain, name in wanted:
        value = getattr(scores[model].area[domain], name)
        rivals = {
            other: rival
            for other in scores.names
            if other != model and not math.isnan(rival := getattr(scores[other].area[domain], name))
        }
        tile = {
            "label": label,
            "value": figure(value),
            "pixels": figure(getattr(scores[model].pixels[domain], name)),
            "rival": "",
            "verdict": "",
        }
        if rivals and not math.isnan(value):
            best = max(rivals, key=rivals.__getitem__)
            ahead = value - rivals[best]
            tile["rival"] = f"{best} {figure(rivals[best])}"
            tile["verdict"] = f"{abs(ahead):.3f} {'ahead of' if ahead >= 0 else 'behind'}"
        tiles.append(tile)
    return tiles


def _maps(flat: Mapping[str, ClassMap], observed: str, model: str, max_pixels: int) -> list[dict[str, Any]]:
    names = sorted(flat, key=lambda name: (name != observed, name != model))
    pairs = []
    for name in names:
        year = flat[name].years[0]
        differs: Picture | None = None
        if name != observed:
            differs = difference_picture(flat[name], flat[observed], name, max_pixels)
        pairs.append(
            {
                "name": name,
                "year": "" if year is None or str(year) in name else str(year),
                "role": "observed" if name == observed else "model" if name == model else "baseline",
                "picture": class_picture(flat[name], name, max_pixels),
                "difference": differs,
            }
        )
    return pairs


def _confidence(confidence: xr.DataArray, max_pixels: int) -> Picture:
    return confidence_picture(_single(confidence, "confidence"), max_pixels)


def _domain(scores: Comparison, domain: str) -> dict[str, Any]:
    first = scores[scores.names[0]].area[domain]
    codes = [code for code in range(len(CLASSES)) if first.support[code] > 0]
    return {
        "title": _DOMAIN_TITLES[domain],
        "description": DOMAINS[domain],
        "total": f"{first.total / 1e12:,.2f} million km²",
        "cells": f"{int(scores[scores.names[0]].pixels[domain].total):,}",
        "miou": ", ".join(CLASSES[code].name for code in first.miou_classes),
        "classes": [CLASSES[code] for code in codes],
        "tables": [
            (label, [_row(scores, name, weighting, domain, codes) for name in scores.names])
            for label, weighting in (("weighted by area", "area"), ("by pixel counts", "pixels"))
        ],
    }


def _row(scores: Comparison, name: str, weighting: str, domain: str, codes: list[int]) -> dict[str, Any]:
    def values(each: str) -> list[float]:
        one: Scores = getattr(scores[each], weighting)[domain]
        return [one.accuracy, one.miou, one.kappa, *(float(one.iou[code]) for code in codes)]

    columns = np.array([values(each) for each in scores.names])
    known = np.where(np.isnan(columns), -np.inf, columns)
    best = known.max(axis=0)
    mine = values(name)
    # with a single map there is nothing to be best of
    marked = [len(scores.names) > 1 and value == top for value, top in zip(mine, best, strict=True)]
    return {"name": name, "cells": [(figure(value), mark) for value, mark in zip(mine, marked, strict=True)]}


def _bars(scores: Comparison, domain: str) -> dict[str, Any]:
    """Return the geometry of the bars: IoU per class, a bar for each map."""
    names = scores.names
    codes = [code for code in LAND_CLASSES if scores[names[0]].area[domain].support[code] > 0]
    thick, gap, left, width = 13, 12, 118, 520
    group = len(names) * thick + gap
    groups = []
    for position, code in enumerate(codes):
        top = 8 + position * group
        bars = []
        for index, name in enumerate(names):
            value = float(scores[name].area[domain].iou[code])
            shown = 0.0 if math.isnan(value) else value
            bars.append(
                {
                    "y": top + index * thick,
                    "width": round(shown * width, 1),
                    "text": figure(value),
                    "color": _SERIES[index % len(_SERIES)],
                    "name": name,
                }
            )
        groups.append({"name": CLASSES[code].name, "middle": top + len(names) * thick / 2, "bars": bars})
    height = 8 + len(codes) * group
    return {
        "domain": domain,
        "groups": groups,
        "series": [(name, _SERIES[index % len(_SERIES)]) for index, name in enumerate(names)],
        "left": left,
        "width": width,
        "thick": thick - 2,
        "height": height,
        "ticks": [(round(left + share * width, 1), f"{share:g}") for share in (0, 0.25, 0.5, 0.75, 1)],
    }


def _confusion(scores: Scores) -> dict[str, Any]:
    """Return the confusion matrix in per cent of each observed class."""
    rows = [code for code in range(len(CLASSES)) if scores.matrix[code].any()]
    columns = [code for code in range(len(CLASSES)) if scores.matrix[:, code].any() or code in rows]
    table = []
    for code in rows:
        share = 100 * scores.matrix[code] / scores.support[code]
        table.append(
            {
                "class": CLASSES[code],
                "cells": [
                    {"text": f"{share[other]:.1f}", "shade": round(float(share[other])), "hit": other == code}
                    for other in columns
                ],
                "share": f"{100 * scores.support[code] / scores.total:.1f}",
            }
        )
    return {"columns": [CLASSES[code] for code in columns], "rows": table}
