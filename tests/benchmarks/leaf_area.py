"""Leaf area index on blocks that were left out, beside trees, a table and means; one JSON object a line.

Run as ``python -m tests.benchmarks.leaf_area [--quick] [--only PART ...]``. Needs ``lai`` in ``../shared/data`` or
``XLAND_TEST_DATA`` and the reference data. Blocks: Europe north of 37 N is divided at 15 E; North Africa is south of
37 N; southwest China and Rondonia are whole files. Japan and Queensland were used for no choice. ``--quick`` learns
with a fifth of the steps.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from tests.benchmarks import harness
from tests.benchmarks.harness import DATA, Result, line, missing, show
from xland.biophysical.fit import left_out, rmse
from xland.biophysical.model import BiophysicalModel
from xland.biophysical.samples import Block, Cells, VegetationConfiguration, read_block, read_blocks, read_vegetation
from xland.biophysical.season import FEATURES
from xland.vocabulary import CROPLAND, FOREST, GRASS_SHRUB, OCEAN, PASTURE, URBAN, WATER

LAI = DATA / "lai"
TABLE = LAI / "tables" / "noahmp_modis20_monthly_lai.csv"
TRANSITIONS = {
    "forest to cropland": (FOREST, CROPLAND), "forest to pasture": (FOREST, PASTURE),
    "cropland to urban": (CROPLAND, URBAN), "grass and shrub to cropland": (GRASS_SHRUB, CROPLAND),
    "pasture to forest": (PASTURE, FOREST),
}  # fmt: skip
ZONES = "ABCDE"
SEASON = 0.5  # amplitude from which a cell has a season


@cache
def _data(quick: bool) -> tuple[VegetationConfiguration, dict[str, Cells], dict[str, dict[str, NDArray[Any]]]]:
    """Return the configuration, the blocks, and by way the predictions of each block from the others."""
    configuration = read_vegetation("leaf-area")
    if quick:
        configuration = replace(configuration, schedule=replace(configuration.schedule, steps=120))
    blocks = read_blocks(configuration, LAI)
    ways: dict[str, dict[str, NDArray[Any]]] = {"model": left_out(configuration, blocks)}
    for name, way in {"trees": _trees, "class means": _means}.items():
        ways[name] = {
            block: way([each for other, each in blocks.items() if other != block], cells)
            for block, cells in blocks.items()
        }
    ways["Noah-MP table"] = {
        block.name: _table(LAI / block.file, block, configuration, blocks[block.name]) for block in configuration.blocks
    }
    return configuration, blocks, ways


def _trees(learned: list[Cells], cells: Cells) -> NDArray[Any]:
    from sklearn.ensemble import HistGradientBoostingRegressor

    def rows(part: Cells) -> NDArray[Any]:
        shares = np.repeat(part.shares[:, None], 12, axis=1)
        return np.concatenate([shares, part.features], axis=-1).reshape(-1, shares.shape[-1] + len(FEATURES))

    trees = HistGradientBoostingRegressor(random_state=0)
    trees.fit(np.concatenate(list(map(rows, learned))), np.concatenate([each.target.ravel() for each in learned]))
    return trees.predict(rows(cells)).reshape(-1, 12)


def zones(cells: Cells) -> NDArray[np.intp]:
    """Main zones of Koeppen: 0 tropical, 1 arid, 2 temperate, 3 cold, 4 polar, from the climate of the year."""
    year = dict(zip(FEATURES, cells.features[:, 0].T, strict=True))
    rain, coldest, warmest = year["annual_rain"] ** 2, year["coldest"], year["warmest"]
    cold = np.where(coldest < 0, 3, np.where(coldest < 18, 2, 0))
    zone = np.where(rain < 20 * year["mean_warmth"] + 140, 1, cold)  # as for rain in all seasons
    return np.where(warmest < 10, 4, zone)


def _means(learned: list[Cells], cells: Cells) -> NDArray[Any]:
    """Means of class x zone x month of the main class of a cell; months count from midsummer of the hemisphere."""

    def shifted(values: NDArray[Any], part: Cells) -> NDArray[Any]:
        return np.where((part.latitude < 0)[:, None], np.roll(values, 6, axis=1), values)

    every = [(zones(each), each.shares.argmax(axis=1), shifted(each.target, each)) for each in learned]
    zone, main, target = (np.concatenate(parts) for parts in zip(*every, strict=True))
    found = np.empty_like(cells.target)
    for row, (at, most) in enumerate(zip(zones(cells), cells.shares.argmax(axis=1), strict=True)):
        key = (int(at), int(most))
        found[row] = _mean_of(key, zone, main, target)
    return shifted(found, cells)


def _mean_of(key: tuple[int, int], zone: Any, main: Any, target: Any, cached: dict[Any, Any] = {}) -> NDArray[Any]:  # noqa: B006 - remembers
    where = (id(target), key)
    if where not in cached:
        both = (zone == key[0]) & (main == key[1])
        alone = main == key[1]
        cached[where] = target[both if both.any() else alone if alone.any() else slice(None)].mean(axis=0), target
    return cached[where][0]


def _table(path: Any, block: Block, configuration: VegetationConfiguration, cells: Cells) -> NDArray[Any]:
    """Table of Noah-MP by category, half a year later in the south; at the cells of a block."""
    table = np.loadtxt(TABLE, delimiter=",")
    with xr.open_dataset(path) as ds:
        fractions = ds.land_use_fraction.sel(category=slice(1, 20)).fillna(0)
        found = fractions.transpose("lat", "lon", "category").values @ table[: fractions.sizes["category"]]
        rows = ds.get_index("lat").get_indexer(cells.latitude, method="nearest")
        columns = ds.get_index("lon").get_indexer(cells.longitude, method="nearest")
    values = found[rows, columns]
    return np.where((cells.latitude < 0)[:, None], np.roll(values, 6, axis=1), values)


def skill(quick: bool) -> Iterator[Result]:
    """Error of each left-out block, and the smallest lead."""
    configuration, blocks, ways = _data(quick)
    errors = {way: {name: rmse(found[name], blocks[name].target) for name in blocks} for way, found in ways.items()}
    sizes = {name: len(cells.target) for name, cells in blocks.items()}
    for name in blocks:
        rivals = {way: errors[way][name] for way in errors if way != "model"}
        bias = float((ways["model"][name] - blocks[name].target).mean())
        show(
            {"name": "left_out_block", "block": name, "figure": errors["model"][name], "bias": round(bias, 3), **rivals}
        )
    mean = float(np.mean(list(errors["model"].values())))
    runs = configuration.response.members
    also = {way: round(float(np.mean(list(each.values()))), 4) for way, each in errors.items()}
    yield line("left_out_rmse", mean, "observed", "<= 0.55", runs=runs, sizes=sizes, means=also)
    lead = min(min(errors[way][name] for way in errors if way != "model") - errors["model"][name] for name in blocks)
    yield line("lead", lead, "best of trees, Noah-MP table, class means", ">= 0", runs=runs, sizes=sizes)
    right = [_phase(ways["model"][name], blocks[name].target) for name in blocks]
    figure = sum(hit for hit, _ in right) / max(sum(count for _, count in right), 1)
    seasons = {name: count for name, (_, count) in zip(blocks, right, strict=True)}
    yield line("phase", figure, "month of the largest, within one", ">= 0.80", runs=runs, sizes=seasons)


def _phase(found: NDArray[Any], observed: NDArray[Any]) -> tuple[int, int]:
    has = np.ptp(observed, axis=1) > SEASON
    apart = np.abs(found.argmax(axis=1) - observed.argmax(axis=1))[has]
    return int((np.minimum(apart, 12 - apart) <= 1).sum()), int(has.sum())


def unseen(quick: bool) -> Iterator[Result]:
    """Regions that were used for no choice, with the shipped model."""
    model = BiophysicalModel.load()
    for name, limit in (("japan", "<= 0.60"), ("queensland", "<= 0.45")):
        cells = read_block(LAI / f"{name}.nc", Block(name, f"{name}.nc"), model.target)
        found = model.predict(cells.shares, cells.features)
        outside = float((model.dissimilarity(cells.features) > model.reach.threshold).mean())
        more = {
            "bias": round(float((found - cells.target).mean()), 3),
            "outside_of_what_was_learned": round(outside, 3),
        }
        more["phase"] = round(np.divide(*_phase(found, cells.target)), 3)
        yield line(
            f"{name}_rmse", rmse(found, cells.target), "observed", limit, runs=1, sizes=len(cells.target), **more
        )


def additive(quick: bool) -> Iterator[Result]:
    """Prediction of mean shares beside the mean of predictions; zeros."""
    model, cells = BiophysicalModel.load(), _data(quick)[1]["western Europe"]
    shares, features = cells.shares[:2500].reshape(100, 25, -1), cells.features[:100]
    fine = model.predict(shares.reshape(2500, -1), np.repeat(features, 25, axis=0)).reshape(100, 25, 12)
    apart = float(np.abs(fine.mean(axis=1) - model.predict(shares.mean(axis=1), features)).max())
    answers = model.responses(cells.features)
    zero = bool((answers[..., [OCEAN, WATER]] == 0).all())
    yield line(
        "additive", apart, "prediction of mean shares", "<= 0.00001", runs=1, sizes=2500,
        zero_on_water_and_ocean=zero, never_negative=bool((answers >= 0).all()),
    )  # fmt: skip


def change(quick: bool) -> Iterator[Result]:
    """Effect of five transitions in each climate zone on the annual mean, and on the months."""
    model, blocks = BiophysicalModel.load(), _data(quick)[1]
    parts: Mapping[str, list[Any]] = {zone: [] for zone in ZONES}
    for cells in blocks.values():
        answers, at = model.responses(cells.features), zones(cells)
        north = np.where((cells.latitude < 0)[:, None, None], np.roll(answers, 6, axis=1), answers)
        for code, zone in enumerate(ZONES):
            parts[zone].append(north[at == code])
    wrong = 0
    for zone, found in parts.items():
        answers = np.concatenate(found)
        if not len(answers):
            continue
        for name, (old, new) in TRANSITIONS.items():
            months = (answers[..., new] - answers[..., old]).mean(axis=0)
            show({
                "name": "effect", "transition": name, "zone": zone, "figure": round(float(months.mean()), 3),
                "from_midwinter": [round(float(each), 2) for each in months], "cells": len(answers),
            })  # fmt: skip
            wrong += name == "forest to cropland" and zone in "ACD" and bool(months.mean() >= 0)
    yield line("forest_to_cropland_raises", wrong, "zones A, C, D", "== 0", runs=1, sizes=3)


PARTS = {"skill": skill, "unseen": unseen, "additive": additive, "change": change}


def main() -> None:
    options = harness.options(__doc__ or "", PARTS)
    for name in options.only:
        for result in PARTS[name](options.quick) if LAI.is_dir() else [missing(name, LAI)]:
            show(result)


if __name__ == "__main__":
    main()
