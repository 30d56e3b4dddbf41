"""Tables of the page on distant periods, from the lines of its benchmark."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tests.benchmarks.preindustrial import SCALES
from tests.benchmarks.tables import points, share, table

Lines = Sequence[Mapping[str, Any]]

_BASELINES = {"crosswalk": "crosswalk", "mode of the observed cell": "mode of the cell"}


def left_out_table(lines: Lines) -> str:
    """A row for each place: a model that did not see it beside one that did, and beside simple maps."""
    header = [
        "scored on the test cells of", "land and water pixels", "accuracy, not seen", "seen", "difference",
        "mIoU, not seen", "seen", "difference", *_BASELINES.values(),
    ]  # fmt: skip
    rows = []
    for line in lines:
        cells = [line["name"].replace("-", " "), f"{line['pixels']:,}"]
        for figure in ("accuracy", "miou"):
            cells += [
                share(line["without"][figure]) if "without" in line else "-",
                share(line["with"][figure]),
                points(line["difference"][figure]) if "difference" in line else "-",
            ]
        simple = [line["baselines"][name] for name in _BASELINES]
        rows.append([*cells, *(f"{share(each['accuracy'])}, {share(each['miou'])}" for each in simple)])
    return table(header, rows)


def preindustrial_table(lines: Lines) -> str:
    """A row for each region and way of keeping totals."""
    scales = [f"{scale:.0%}" for scale in SCALES]
    header = [
        "region, totals kept", "rises: cells", "area", "probability rises: cells", "area",
        f"cropland asked at {scales[0]}, {scales[-1]}", "shown", f"off by at {scales[0]}", scales[-1],
    ]  # fmt: skip
    rows = [
        [
            f"{line['region']}, {'none' if line['way'] == 'plain' else line['way']}",
            *(_percent(line[kind][what]) for kind in ("rise", "rise_of_probability") for what in ("cells", "area")),
            *(f"{share(line[kind][0])}, {share(line[kind][-1])}" for kind in ("cropland_asked", "cropland_shown")),
            *(share(line["off_by"][which]) for which in (0, -1)),
        ]
        for line in lines
    ]
    return table(header, rows)


def applicability_table(lines: Lines) -> str:
    """The error by fifths of the distance, then the distance in each region by scale."""
    held_out = [line for line in lines if "error_by_fifth" in line]
    fifths = ["nearest fifth", "second", "third", "fourth", "farthest fifth", "beyond the threshold"]
    first = table(
        [f"{line['cells']:,} coarse cells of {line['held_out_places']} held-out places" for line in held_out[:1]]
        + fifths,
        [["share of wrong pixels", *map(share, (*line["error_by_fifth"], line["error_beyond"]))] for line in held_out],
    )
    told = "".join(
        f"\nRank correlation of distance and error: {line['rank_correlation']:.2f}; "
        f"{_percent(line['beyond'])} of the cells lie beyond the threshold.\n\n"
        for line in held_out
    )
    regions = [line for line in lines if "distance" in line]
    second = table(
        ["mean distance, and part beyond the threshold", *(f"{scale:.0%}" for scale in SCALES)],
        [
            [
                line["region"],
                *(f"{d:.2f}, {_percent(b)}" for d, b in zip(line["distance"], line["beyond"], strict=True)),
            ]
            for line in regions
        ],
    )
    return first + told + second


def _percent(value: float) -> str:
    return f"{100 * value:.2g} %" if value else "0"
