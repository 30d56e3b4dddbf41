"""A model far from its training inputs: forcings pushed back, and errors by the distance to the training inputs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy.stats import spearmanr

import xland.accessor  # noqa: F401 - registers .ai4land
from tests.benchmarks.tables import share, table
from xland.forcing.read import read_forcing
from xland.geo.grid import Grid, aggregate
from xland.geo.split import CELL_COLUMNS, CELL_ROWS, LAND_CELLS, Part, assign_cells
from xland.models import Model
from xland.scores.agreement import coarse_agreement
from xland.totals.modes import Totals
from xland.vocabulary import CROP_STATES, CROPLAND, LAND_CLASSES, LUH2_STATES

Box = tuple[float, float, float, float]

SCALES = (1.0, 0.75, 0.5, 0.25, 0.1)
"""Of today's land under use."""

REGIONS: Mapping[str, Box] = {
    "europe": (0.0, 42.0, 30.0, 56.0),
    "north america": (-104.0, 32.0, -80.0, 48.0),
    "india": (72.0, 10.0, 88.0, 30.0),
    "south america": (-64.0, -38.0, -46.0, -18.0),
}
"""Where much cropland is: west, south, east, north."""

WAYS: Mapping[str, Mapping[str, Any]] = {
    "plain": {},
    "fractions": {"totals": "fractions"},
    "map": {"totals": "map"},
    "map within a pixel": {"totals": Totals("map", tolerance=1)},
}
"""How totals are kept, by the name of the way."""

LEAST_LAND = 5
"""Fine pixels of land that a coarse cell must hold to have a share of errors."""

_USED = (*CROP_STATES, "pastr", "range", "urban")
_FIRST_YEAR = 2000


def push_back(forcing: xr.Dataset, scales: tuple[float, ...] = SCALES) -> xr.Dataset:
    """Scale the land under use in the first year of a forcing; what becomes free is primary land.

    Forest and other land share it as the natural land of the cell does today; where there is none left, it is
    no forest.
    """
    data = read_forcing(forcing, variables=list(LUH2_STATES)).data[list(LUH2_STATES)].isel(time=0, drop=True).load()
    forest, total = data["primf"] + data["secdf"], data["primf"] + data["secdf"] + data["primn"] + data["secdn"]
    wooded = (forest / total.where(total > 0)).fillna(0).where(total.notnull())
    years = []
    for scale in scales:
        free = (1 - scale) * sum(data[name] for name in _USED)
        pushed = data.assign({name: data[name] * scale for name in _USED})
        years.append(pushed.assign(primf=data["primf"] + free * wooded, primn=data["primn"] + free * (1 - wooded)))
    time = xr.DataArray(np.arange(_FIRST_YEAR, _FIRST_YEAR + len(scales)), dims="time", name="time")
    pushed = xr.concat(years, time).astype(np.float32)
    return pushed.assign({name: pushed[name].assign_attrs(units="1") for name in pushed.data_vars})


def respond(
    forcing: xr.Dataset,
    model: Model,
    regions: Mapping[str, Box],
    way: str,
    static: xr.Dataset | None = None,
) -> Iterator[dict[str, Any]]:
    """Downscale the pushed forcings of each region, and say where cropland rises although it should fall."""
    pushed = push_back(forcing)
    for name, region in regions.items():
        fine = pushed.ai4land.downscale(
            model=model, static=static, region=region, outputs=("land_use", "probability"), **WAYS[way]
        ).compute()
        yield {"region": name, "way": way, **score(fine, pushed)}


def score(fine: xr.Dataset, pushed: xr.Dataset) -> dict[str, Any]:
    """Compare maps of all scales with each other and with their forcings."""
    grid = Grid.from_centres(fine["lat"].values, fine["lon"].values)
    factor = round(abs(float(pushed["lat"][1] - pushed["lat"][0])) / grid.resolution)
    area = grid.cell_area()
    coarse_area = area.reshape(-1, factor).sum(axis=1)[:, None] * factor
    shown = [aggregate(codes == CROPLAND, factor, area[:, None]) for codes in fine["land_use"].values]
    likely = [aggregate(np.nan_to_num(each), factor, area[:, None]) for each in _cropland_probability(fine)]
    asked = [_cropland(pushed, year, grid.coarsen(factor)) for year in range(len(SCALES))]
    known = np.isfinite(asked[0]) & (np.nan_to_num(asked[0]) > 0)
    agreement = [
        coarse_agreement(fine["land_use"].isel(time=year), pushed.isel(time=[year]))["difference"]
        for year in range(len(SCALES))
    ]
    return {
        "cells": int(known.sum()),
        "rise": rise(shown, known, coarse_area, 0.5 / factor**2),
        "rise_of_probability": rise(likely, known, coarse_area, 0.5 / factor**2),
        "cropland_asked": [_mean(each, known, coarse_area) for each in asked],
        "cropland_shown": [_mean(each, known, coarse_area) for each in shown],
        "cropland_likely": [_mean(each, known, coarse_area) for each in likely],
        "off_by": [round(float(np.abs(each.sel({"class": "cropland"}).values[known]).mean()), 4) for each in agreement],
    }


def rise(
    shares: list[NDArray[np.float64]], known: NDArray[np.bool_], area: NDArray[np.float64], least: float
) -> dict[str, float]:
    """Say how much of a class rises from one scale to the next smaller one, which should not happen."""
    steps = np.diff(np.stack(shares), axis=0)
    up = np.where((steps > least) & known, steps, 0.0)
    first = float((np.where(known, shares[0], 0) * area).sum())
    return {
        "cells": round(float((up > 0).any(axis=0).sum() / max(int(known.sum()), 1)), 5),
        "area": round(float((up * area).sum() / first), 5) if first else 0.0,
    }


def applicability_by_scale(forcing: xr.Dataset, model: Model, regions: Mapping[str, Box]) -> Iterator[dict[str, Any]]:
    """Mean distance to the training inputs in each region by scale, and the part of it beyond the threshold."""
    pushed = push_back(forcing)
    for name, region in regions.items():
        found = pushed.ai4land.downscale(model=model, region=region, outputs="applicability")["applicability"]
        values = found.compute()
        threshold = float(values.attrs["threshold"])
        yield {
            "region": name,
            "distance": [round(float(each.mean()), 4) for each in values],
            "beyond": [round(float((each > threshold).sum() / each.notnull().sum()), 4) for each in values],
            "threshold": round(threshold, 4),
        }


def _cropland_probability(fine: xr.Dataset) -> NDArray[np.float32]:
    return fine["probability"].sel(class_name="cropland").transpose("time", "lat", "lon").values


def _cropland(pushed: xr.Dataset, year: int, coarse: Grid) -> NDArray[np.float64]:
    total = sum(pushed[name].isel(time=year) for name in CROP_STATES)
    assert isinstance(total, xr.DataArray)
    near = total.sel(lat=coarse.latitude, lon=coarse.longitude, method="nearest", tolerance=1e-3)
    return near.values.astype(np.float64)


def _mean(share: NDArray[np.float64], known: NDArray[np.bool_], area: NDArray[np.float64]) -> float:
    weights = known * area
    return round(float((np.nan_to_num(share) * weights).sum() / weights.sum()), 4)


def held_out_boxes(seed: int) -> list[Box]:
    """West, south, east and north of the cells of the split that serve for the test."""
    height, width = 180 / CELL_ROWS, 360 / CELL_COLUMNS
    rows, columns = np.nonzero(assign_cells(LAND_CELLS, seed) == Part.TEST)
    return [
        (-180 + width * column, 90 - height * (row + 1), -180 + width * (column + 1), 90 - height * row)
        for row, column in zip(rows.tolist(), columns.tolist(), strict=True)
    ]


def distance_and_error(
    forcing: xr.Dataset, observed: xr.DataArray, model: Model, boxes: Iterable[Box]
) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
    """Distance to the training inputs and share of wrong land pixels of the coarse cells of some boxes."""
    distances, errors, threshold = [], [], float("nan")
    for box in boxes:
        fine = forcing.ai4land.downscale(model=model, region=box, outputs=("land_use", "applicability")).compute()
        factor = round(abs(float(forcing["lat"][1] - forcing["lat"][0]) / float(fine["lat"][1] - fine["lat"][0])))
        codes = fine["land_use"].isel(time=0, drop=True)
        known = observed.sel(lat=codes["lat"], lon=codes["lon"], method="nearest", tolerance=1e-4).values
        land = np.isin(known, LAND_CLASSES)
        number = aggregate(land, factor) * factor**2
        wrong = aggregate(land & (codes.values != known), factor) * factor**2
        far = fine["applicability"].isel(time=0).values[::factor, ::factor]
        kept = (number >= LEAST_LAND) & np.isfinite(far)
        distances.append(far[kept].astype(np.float64))
        errors.append(wrong[kept] / number[kept])
        threshold = float(fine["applicability"].attrs["threshold"])
    return np.concatenate(distances), np.concatenate(errors), threshold


def relate(distance: NDArray[np.float64], error: NDArray[np.float64], threshold: float) -> dict[str, Any]:
    """Rank correlation of distance and error, and the error by fifths of the distance and beyond the threshold."""
    bounds = np.quantile(distance, [0.2, 0.4, 0.6, 0.8])
    fifth = np.searchsorted(bounds, distance, side="right")
    beyond = distance > threshold
    return {
        "cells": len(distance),
        "rank_correlation": round(float(spearmanr(distance, error).statistic), 4),
        "error_by_fifth": [round(float(error[fifth == each].mean()), 4) for each in range(5)],
        "beyond": round(float(beyond.mean()), 4),
        "error_within": round(float(error[~beyond].mean()), 4) if (~beyond).any() else None,
        "error_beyond": round(float(error[beyond].mean()), 4) if beyond.any() else None,
    }


def preindustrial_table(lines: Sequence[Mapping[str, Any]]) -> str:
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


def applicability_table(lines: Sequence[Mapping[str, Any]]) -> str:
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
