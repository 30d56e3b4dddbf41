"""Coarse totals that a downscaling keeps: in probabilities, in maps, and as changes upon a prior map."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import xarray as xr

from tests.raising_backend import raising_dataset
from tests.worlds import FACTOR, FINE, tiny_checkpoint, tiny_inputs
from xland.downscaling.call import downscale
from xland.errors import AllocationError, ModelError, PriorError, TimeError, XlandError
from xland.geo.grid import aggregate, class_shares
from xland.models.checkpoint import update_card
from xland.models.inputs import Channel
from xland.totals.aggregation import aggregate_classes
from xland.totals.crosswalk import LUH_CROSSWALK, Crosswalk, class_targets
from xland.totals.modes import Totals
from xland.vocabulary import CLASS_NAMES, FOREST, GRASS_SHRUB, PASTURE, STATE_CLASSES

REGION = (-60, -18, 60, 62)
EVERYTHING = ("land_use", "probability", "margin", "entropy", "unmet")
PIXEL = 1.05 / FACTOR**2
"""Share of the largest pixel in its coarse cell, north of 18 S and south of 62 N."""


@pytest.fixture(scope="module")
def ask(world, model):
    """Downscale a part of the tiny world, keeping totals."""
    coarse, static, maps = world

    @cache
    def run(mode: str | None, **more) -> xr.Dataset:
        prior = {"prior": maps.sel(time=[2000])} if mode == "changes" else {}
        options = {"static": static, "region": REGION, "years": 2002, "outputs": EVERYTHING, **prior, **more}
        if mode is None:
            options["outputs"] = EVERYTHING[:4]
        return downscale(coarse, model=model, totals=mode, **options).compute()

    return run


def wanted(coarse: xr.Dataset, found: xr.Dataset, year: int = 2002, crosswalk=LUH_CROSSWALK) -> np.ndarray:
    """Share of each class that the forcing has in the coarse cells of a result."""
    lat, lon = (found[name].values for name in ("lat", "lon"))
    part = coarse.sel(time=year, lat=slice(lat[0], lat[-1]), lon=slice(lon[0], lon[-1]))
    states = {str(name): part[name].values for name in part.data_vars if name not in ("secma", "secmb")}
    return class_targets(states, crosswalk, CLASS_NAMES)


def cell_area(found: xr.Dataset) -> np.ndarray:
    return FINE.cell_area()[np.isin(FINE.latitude, found["lat"].values)]


def shares(found: xr.Dataset, codes: np.ndarray | None = None) -> np.ndarray:
    """Area share of each class in the coarse cells of a result."""
    codes = found["land_use"].values[-1] if codes is None else codes
    return class_shares(codes, FACTOR, cell_area(found), len(CLASS_NAMES))


def unmet(found: xr.Dataset) -> np.ndarray:
    """What could not be kept, once a coarse cell; NaN in cells without land."""
    cells = found["unmet"].values[-1].reshape(found.sizes["lat"] // FACTOR, FACTOR, -1, FACTOR)
    low, high = np.fmin.reduce(cells, axis=(1, 3)), np.fmax.reduce(cells, axis=(1, 3))
    np.testing.assert_array_equal(low, high)
    return low


def test_probabilities_have_the_fractions_of_the_forcing_and_all_follows_from_them(world, ask):
    found, plain = ask("fractions"), ask(None)
    mean = aggregate(found["probability"].values[0].astype(np.float64), FACTOR, cell_area(found)[:, None])
    kept = unmet(found) == 0
    assert kept.mean() > 0.5
    assert np.nanmax(np.abs(mean - wanted(world[0], found))[:, kept]) <= 1e-6
    np.testing.assert_allclose(found["probability"].sum("class"), 1, atol=1e-5)
    assert (found["probability"] != plain["probability"]).mean() > 0.2
    probability = found["probability"].values
    np.testing.assert_array_equal(found["land_use"], probability.argmax(axis=1))
    ordered = np.sort(probability, axis=1)
    np.testing.assert_allclose(found["margin"], ordered[:, -1] - ordered[:, -2], atol=1e-6)


def test_kept_fractions_are_stored_as_they_are(ask, tmp_path):
    """Probabilities in steps of a byte would lose every class that is rare throughout a coarse cell."""
    found = ask("fractions")
    found.ai4land.to_zarr(tmp_path / "kept.zarr", progress=False)
    with xr.open_zarr(tmp_path / "kept.zarr") as read:
        np.testing.assert_array_equal(read["probability"], found["probability"])
    assert ask("map")["probability"].encoding["dtype"] == "uint8"


def test_a_map_has_the_class_areas_of_the_forcing_to_within_a_pixel(world, ask):
    found, plain = ask("map"), ask(None)
    kept = unmet(found) == 0
    assert kept.mean() > 0.5
    assert np.nanmax(np.abs(shares(found) - wanted(world[0], found))[:, kept]) <= PIXEL
    assert np.nanmax(np.abs(shares(plain) - wanted(world[0], plain))) > 0.5, "the model alone keeps none"
    for name in ("probability", "margin", "entropy"):
        np.testing.assert_array_equal(found[name], plain[name])


def test_a_tolerance_gives_a_more_probable_map_that_still_has_the_areas_to_within_a_pixel(world, ask):
    nearest, found = ask("map"), ask(Totals("map", tolerance=1))
    off, less = (
        np.nan_to_num(np.abs(shares(each) - wanted(world[0], each)))[:, unmet(each) == 0] for each in (found, nearest)
    )
    assert less.mean() < off.mean()
    assert off.max() <= PIXEL
    worth = {}
    for name, each in (("found", found), ("nearest", nearest)):
        chosen = each["probability"].isel({"class": each["land_use"].astype(int)})
        worth[name] = float(np.log(chosen.clip(1e-6)).sum())
    assert worth["found"] > worth["nearest"]


def test_changes_are_applied_to_the_map_of_the_base_year(world, ask):
    coarse, _, maps = world
    found = ask("changes")
    base = maps.sel(time=2000, lat=found["lat"], lon=found["lon"]).values
    change = wanted(coarse, found) - wanted(coarse, found, 2000)
    kept = unmet(found) == 0
    off = shares(found) - shares(found, base) - change
    assert np.nanmax(np.abs(off)[:, kept]) <= PIXEL
    still = np.abs(np.nan_to_num(change)).max(axis=0).repeat(FACTOR, 0).repeat(FACTOR, 1) < 1e-6
    assert 0.5 < still.mean() < 1
    moved = found["land_use"].values[0] != base
    assert not moved[still].any(), "what the forcing leaves, the map keeps"
    assert moved.any()
    shrinks = (change[FOREST] < -1e-6).repeat(FACTOR, 0).repeat(FACTOR, 1)
    new = (found["land_use"].values[0] == FOREST) & (base != FOREST)
    assert shrinks.any()
    assert not new[shrinks].any(), "a protected class does not grow where the forcing says that it shrinks"


def test_the_base_year_keeps_its_map_and_years_do_not_depend_on_each_other(world, model, ask):
    coarse, static, maps = world
    options = {"model": model, "static": static, "region": REGION, "totals": "changes"}
    lazy = downscale(coarse, prior=maps.sel(time=2000), **options)["land_use"]
    assert lazy["year"].values.tolist() == [2000, 2001, 2002]
    land = static["land_share"].sel(lat=lazy["lat"], lon=lazy["lon"]) > 0
    base = maps.sel(time=2000, lat=lazy["lat"], lon=lazy["lon"]).where(land, 0)
    np.testing.assert_array_equal(lazy.sel(year=2000), base)
    np.testing.assert_array_equal(lazy.sel(year=2002), ask("changes")["land_use"][0])
    needed = lazy.sel(year=2002).data.__dask_optimize__(
        lazy.sel(year=2002).data.dask, lazy.sel(year=2002).data.__dask_keys__()
    )
    assert not [key for key in needed if isinstance(key, tuple) and key[0] == lazy.data.name and key[1] in (0, 1)]


@pytest.mark.parametrize(
    ("direction", "of", "years"), [("forward", 2000, [2001, 2002]), ("backward", 2002, [2000, 2001])]
)
def test_a_map_that_does_not_say_its_year_is_that_of_the_year_before(world, model, direction, of, years):
    coarse, static, maps = world
    options = {"model": model, "static": static, "region": REGION, "totals": "changes", "direction": direction}
    said = downscale(coarse, prior=maps.sel(time=[of]), years=years, **options)["land_use"].compute()
    silent = downscale(coarse, prior=maps.sel(time=of, drop=True), years=years, **options)["land_use"].compute()
    np.testing.assert_array_equal(silent, said)


def test_a_rollout_applies_changes_to_its_own_map_and_counts_them_from_the_base_year(world, rolling_model):
    coarse, static, maps = world
    options = {"model": rolling_model, "static": static, "years": [2001, 2002], "totals": "changes"}
    options |= {"prior": maps.sel(time=2000), "region": REGION, "outputs": ("land_use", "unmet")}
    found = downscale(coarse, **options).compute()
    base = maps.sel(time=2000, lat=found["lat"], lon=found["lon"]).values
    change = wanted(coarse, found) - wanted(coarse, found, 2000)
    kept = unmet(found) == 0
    assert np.nanmax(np.abs(shares(found) - shares(found, base) - change)[:, kept]) <= PIXEL
    latest = wanted(coarse, found) - wanted(coarse, found, 2001)
    still = np.abs(np.nan_to_num(latest)).max(axis=0).repeat(FACTOR, 0).repeat(FACTOR, 1) < 1e-6
    moved = (found["land_use"][1] != found["land_use"][0]).values
    assert moved.any()
    assert not moved[still].any(), "it begins with the map that was made for the year before"


def test_a_rollout_does_not_make_up_for_lowered_gains_of_forest_in_a_year_of_loss(world, rolling_model):
    """Forest should replace pasture that the map does not have, and in the next year some of it goes again."""
    coarse, static, maps = world
    changing = coarse.copy(deep=True)
    known = np.isfinite(coarse["primf"].values)
    parts = {"c3ann": (0.4, 0.4, 0.25), "pastr": (0.4, 0.1, 0.3), "secdf": (0.1, 0.4, 0.35), "primn": (0.1, 0.1, 0.1)}
    for name in STATE_CLASSES.keys() & set(coarse.data_vars):
        share = np.array(parts.get(name, (0.0, 0.0, 0.0)), dtype=np.float32)[:, None, None]
        changing[name].values[:] = np.where(known, share, np.nan)
    base = maps.sel(time=2000).where(maps.sel(time=2000) != PASTURE, GRASS_SHRUB)
    options = {"static": static, "region": REGION, "years": [2001, 2002], "totals": "changes"}
    found = downscale(changing, model=rolling_model, prior=base, **options)["land_use"].compute()
    first, second = (found.sel(year=year) == FOREST for year in (2001, 2002))
    assert first.any()
    assert not (second & ~first).any()


def test_where_the_forcing_says_nothing_the_decision_of_the_model_holds(world, tmp_path):
    coarse, static, _ = world
    known = coarse.where((coarse["lat"] > 30) | (coarse["lat"] < 10))
    plain = tiny_checkpoint(tmp_path)
    model = update_card(tmp_path, {"decision": [8.0 if name == "cropland" else 0.0 for name in CLASS_NAMES]})
    options = {"static": static, "region": REGION, "years": 2002}
    free = downscale(known, model=model, **options)["land_use"].compute()
    silent = (free["lat"] < 30) & (free["lat"] > 10)
    assert (free != downscale(known, model=plain, **options)["land_use"]).where(silent).sum() > 0
    for mode in ("map", "fractions"):
        kept = downscale(known, model=model, totals=mode, **options)["land_use"].compute()
        np.testing.assert_array_equal(kept.sel(lat=silent), free.sel(lat=silent))


def test_class_shares_are_a_forcing_too(world, tmp_path):
    """With the share of the ocean, and of all classes that LUH does not know."""
    _, static, maps = world
    coarse = aggregate_classes(maps.sel(time=[2002]), FACTOR).compute()
    channels = tuple(Channel(name, (name,)) for name in CLASS_NAMES)
    model = tiny_checkpoint(tmp_path, replace(tiny_inputs(), coarse=channels))
    options = {"model": model, "static": static, "region": REGION, "outputs": EVERYTHING}
    found = downscale(coarse, totals="map", **options).compute()
    assert (unmet(found)[np.isfinite(unmet(found))] == 0).all()
    part = coarse.sel(lat=slice(62, -18), lon=slice(-60, 60)).isel(time=0)
    expected = np.stack([part[name].values for name in CLASS_NAMES])
    assert np.abs(shares(found) - expected).max() <= PIXEL
    fitted = downscale(coarse, totals="fractions", **options).compute()["probability"].values[0]
    mean = aggregate(fitted.astype(np.float64), FACTOR, cell_area(found)[:, None])
    assert np.abs(mean - expected).max() <= 2e-6
    broken = coarse.assign(forest=0.9 * coarse["forest"])
    with pytest.raises(AllocationError, match=r"sum to as little as .* in place of 1 .*N, .*E, in 2002"):
        downscale(broken, totals="map", **options).compute()


def test_what_cannot_be_kept_is_said(world, model):
    """Where half of a cell is sea by the fine grid, a forcing that fills it asks for too much."""
    coarse, static, _ = world
    states = coarse[[*STATE_CLASSES.keys() & set(coarse.data_vars)]].sel(time=2002, lat=slice(58, -14))
    full = states.sel(lon=slice(-56, 56)).to_dataarray().sum("variable").stack(cell=("lat", "lon"))
    lat, lon = full["cell"].values[int(np.argmax(full.values > 0.999))]
    there = (abs(static["lat"] - lat) < 2) & (static["lon"] > lon) & (static["lon"] < lon + 2)
    half = static.assign(land_share=static["land_share"].where(~there, 0))
    options = {"model": model, "static": half, "years": 2002, "region": REGION, "outputs": ("land_use", "unmet")}
    for mode in ("fractions", "map"):
        found = downscale(coarse, totals=mode, **options).compute()
        row, column = int((62 - lat) // 4), int((lon + 60) // 4)
        assert unmet(found)[row, column] == pytest.approx(0.5, abs=0.01)
        assert np.nanmean(unmet(found) > 0) < 0.1
    sea = half["land_share"].sel(lat=found["lat"], lon=found["lon"]).values == 0
    np.testing.assert_array_equal(np.isnan(found["unmet"].values[0]), sea)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"totals": "maps"}, AllocationError, "unknown mode of totals 'maps': did you mean 'map'"),
        ({"totals": "changes"}, ModelError, "applies changes to an observed map: give it as prior="),
        ({"totals": "map", "prior": xr.DataArray()}, ModelError, "reads no prior map: .* set totals='changes'"),
        ({"outputs": "unmet"}, ModelError, "'unmet' says where totals could not be kept: choose how with totals="),
        (
            {"totals": Totals("map", Crosswalk({"urban": "urban"}, protected=()))},
            AllocationError,
            "leaves cropland, pasture, forest, grass_shrub without a state",
        ),
    ],
)
def test_wishes_that_cannot_be_met_are_named_before_anything_is_read(world, model, options, error, message):
    coarse, static, _ = world
    with pytest.raises(error, match=message):
        downscale(raising_dataset(coarse), model=model, static=raising_dataset(static), **options)


def test_base_maps_that_cannot_be_used_are_named(world, model):
    coarse, static, maps = world
    options = {"model": model, "static": static, "totals": "changes"}
    later = coarse.sel(time=[2001, 2002])
    with pytest.raises(TimeError, match=r"counts changes from 2000, .* does not have this year, but 2001-2002"):
        downscale(later, prior=maps.sel(time=2000), **options)
    with pytest.raises(TimeError, match=r"prior.assign_coords\(time=2001\)"):
        downscale(later, prior=maps.sel(time=2000, drop=True), **options)
    with pytest.raises(PriorError, match=r"prior map is of 2000-2002: choose the year from which changes count"):
        downscale(coarse, prior=maps, **options)
    strange = maps.sel(time=2000).copy(deep=True)
    strange[90, 100:110] = 44
    with pytest.raises(PriorError, match=r"44 \(10 cells\)"):
        downscale(coarse, prior=strange, years=2002, **options)["land_use"].compute()
    holes = maps.sel(time=2000).copy(deep=True)
    row, column = np.argwhere(static["land_share"].values > 0)[500]
    holes[row, column] = 255
    with pytest.raises(XlandError, match=r"no class in 1 valid pixels.* N, .* E, in 2002"):
        downscale(coarse, prior=holes, years=2002, **options)["land_use"].compute()


def test_each_way_to_keep_totals_is_a_product_of_its_own(world, model):
    coarse, static, _ = world
    states = {**STATE_CLASSES, "pastr": "grass_shrub", "range": "grass_shrub"}
    crosswalk = Crosswalk(states, remainder=("ocean", "other", "water", "pasture"))
    ways = [None, "map", "fractions", Totals("map", tolerance=1), Totals("map", crosswalk)]
    options = {"model": model, "static": static, "region": REGION, "years": 2002}
    made = {downscale(coarse, totals=way, **options).attrs["xland_fingerprint"] for way in ways}
    assert len(made) == len(ways)
    found = downscale(coarse, totals=ways[-1], outputs=("land_use", "unmet"), **options).compute()
    off = np.abs(shares(found) - wanted(coarse, found, crosswalk=crosswalk))
    assert np.nanmax(off[:, unmet(found) == 0]) <= PIXEL
    assert found.attrs["xland_conserve"] == "map"
