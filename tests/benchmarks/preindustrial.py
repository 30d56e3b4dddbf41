"""A model under forcings pushed back towards pre-industrial levels: does less cropland in give less cropland out?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

import xland.accessor  # noqa: F401 - registers .ai4land
from xland.forcing.read import read_forcing
from xland.geo.grid import Grid, aggregate
from xland.models import Model
from xland.scores.agreement import coarse_agreement
from xland.totals.modes import Totals
from xland.vocabulary import CROP_STATES, CROPLAND, LUH2_STATES

SCALES = (1.0, 0.75, 0.5, 0.25, 0.1)
"""Of today's land under use."""

REGIONS: Mapping[str, tuple[float, float, float, float]] = {
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
    regions: Mapping[str, tuple[float, float, float, float]],
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


def applicability_by_scale(
    forcing: xr.Dataset, model: Model, regions: Mapping[str, tuple[float, float, float, float]]
) -> Iterator[dict[str, Any]]:
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
