"""What a map can contain: probabilities and how sure they are, several models that answer as one, distances."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from tests.worlds import FACTOR, FINE, tiny_checkpoint, tiny_inputs
from xland.downscaling.call import downscale
from xland.errors import ModelError
from xland.models.applicability import Applicability
from xland.models.checkpoint import update_card

REGION = (-60, -18, 60, 62)
EVERYTHING = ("land_use", "probability", "confidence", "margin", "entropy")
AS_ONE = (*EVERYTHING, "spread")


@pytest.fixture(scope="module")
def ask(world):
    """Downscale a part of the tiny world with a model."""
    coarse, static, _ = world

    def run(model, outputs=EVERYTHING, **more) -> xr.Dataset:
        options = {"static": static, "years": 2000, "region": REGION, **more}
        return downscale(coarse, model=model, outputs=outputs, **options).compute()

    return run


@pytest.fixture(scope="module")
def plain(ask, model):
    return ask(model)


@pytest.mark.parametrize("prior", [False, True])
def test_all_outputs_come_from_one_pass(ask, model, rolling_model, windows, prior):
    ask(rolling_model if prior else model, "land_use", chunks=60)
    alone = len(windows)
    windows.clear()
    ask(rolling_model if prior else model, chunks=60)
    assert len(windows) == alone > 0


def test_uncertainty_without_the_map_is_the_same(ask, model, plain):
    only = ask(model, ("confidence", "margin"))
    assert set(only.data_vars) - {"spatial_ref"} == {"confidence", "margin"}
    for name in ("confidence", "margin"):
        np.testing.assert_array_equal(only[name], plain[name])


def test_shares_are_stored_in_a_byte_and_read_back_within_half_a_step(plain, tmp_path):
    shares = ("probability", "margin", "entropy")
    for name in shares:
        encoding = plain[name].encoding
        assert (encoding["dtype"], encoding["scale_factor"], encoding["_FillValue"]) == ("uint8", 0.004, 255)
    plain.to_netcdf(tmp_path / "sure.nc")
    with xr.open_dataset(tmp_path / "sure.nc", mask_and_scale=False) as raw:
        assert {raw[name].dtype for name in ("land_use", *shares)} == {np.dtype("u1")}
        assert int(raw["probability"].max()) <= 250
    with xr.open_dataset(tmp_path / "sure.nc") as read:
        for name in shares:
            np.testing.assert_allclose(read[name], plain[name], atol=0.002 + 1e-6)
            assert 0 <= float(read[name].min()) <= float(read[name].max()) <= 1
        np.testing.assert_array_equal(read["land_use"], plain["land_use"])


def test_flips_change_the_map_a_little_and_run_each_window_once(ask, model, plain, windows):
    flipped = ask(model, flips=True)
    count = len(windows)
    windows.clear()
    ask(model)
    assert count == len(windows)
    np.testing.assert_allclose(flipped["probability"].sum("class"), 1, atol=1e-6)
    assert (flipped["probability"] != plain["probability"]).any()
    assert flipped.attrs["xland_fingerprint"] != plain.attrs["xland_fingerprint"]
    sea = plain["probability"].sel(class_name="ocean") == 1
    assert (flipped["land_use"].values[sea.values] == 0).all()


# several models, scaled scores, and decisions that are not the most probable class


@pytest.fixture(scope="module")
def members(model, tmp_path_factory):
    """Three models that differ in their weights; the last one is calibrated."""
    folders = [tmp_path_factory.mktemp("member") for _ in range(2)]
    second, third = (tiny_checkpoint(folder, tiny_inputs(), seed) for seed, folder in enumerate(folders, 1))
    calibration = {"scale": [0.5] * 8, "bias": [0.25 * code for code in range(8)]}
    return model, second, update_card(third.folder, {"calibration": calibration})


@pytest.fixture(scope="module")
def ensemble(ask, members):
    return ask(list(members), AS_ONE)


def test_an_ensemble_is_the_mean_of_its_members_and_spreads_as_they_do(ask, members, ensemble):
    alone = np.stack([ask(member, "probability")["probability"].values for member in members])
    np.testing.assert_allclose(ensemble["probability"], alone.mean(axis=0), atol=1e-6)
    ordered = np.sort(ensemble["probability"].values, axis=1)
    np.testing.assert_allclose(ensemble["margin"], ordered[:, -1] - ordered[:, -2], atol=1e-6)
    np.testing.assert_array_equal(ensemble["land_use"], ensemble["probability"].values.argmax(axis=1))
    chosen = np.take_along_axis(alone, ensemble["land_use"].values[None, :, None], axis=2)[:, :, 0]
    np.testing.assert_allclose(ensemble["spread"], chosen.std(axis=0), atol=1e-6)
    sea = ensemble["probability"].sel(class_name="ocean").values == 1
    assert (ensemble["spread"].values[sea] == 0).all()
    assert ensemble["spread"].values[~sea].min() > 0, "these models disagree everywhere"


def test_an_ensemble_depends_neither_on_blocks_nor_on_the_region(ask, members, ensemble):
    cut, part = ask(list(members), AS_ONE, chunks=44), ask(list(members), AS_ONE, region=(-20, 2, 24, 42))
    inside = ensemble.sel(lat=part["lat"], lon=part["lon"])
    for name in ("land_use", "probability", "margin", "spread"):
        np.testing.assert_array_equal(cut[name], ensemble[name])
        np.testing.assert_array_equal(part[name], inside[name])


def test_an_ensemble_is_named_and_known_by_all_its_members(world, members):
    coarse, static, _ = world
    two, three = (downscale(coarse, model=list(members[:n]), static=static) for n in (2, 3))
    assert two.attrs["xland_model"] == "ensemble of tiny-0, tiny-1"
    assert len({each.attrs["xland_fingerprint"] for each in (two, three)}) == 2
    assert two["land_use"].data.name != three["land_use"].data.name
    assert three.ai4land.describe().startswith("ensemble of tiny-0, tiny-1, tiny-2")


def test_an_ensemble_rolls_out_its_own_map(world, ask, rolling_model, tmp_path):
    models = [rolling_model, tiny_checkpoint(tmp_path, tiny_inputs(prior="one_hot"), seed=1)]
    prior = world[2].sel(time=2000)
    both = ask(models, ("land_use", "spread"), prior=prior, years=[2001, 2002])
    whole = ask(models, "land_use", prior=prior, years=2001, region=None)["land_use"]
    second = ask(models, ("land_use", "spread"), prior=whole, years=2002)
    for name in ("land_use", "spread"):
        np.testing.assert_array_equal(both.sel(year=[2002])[name], second[name])


def test_scores_are_scaled_as_the_card_says(ask, plain, tmp_path):
    """Scores that are made ever smaller leave the biases: the same shares everywhere on land."""
    copy = tiny_checkpoint(tmp_path, tiny_inputs())
    bias = [0.0, 0.5, 1.0, 0.0, -1.0, 0.0, 0.25, 0.75]
    flat = update_card(copy.folder, {"calibration": {"scale": [1e-9] * 8, "bias": bias}})
    found = ask(flat)
    land = found["probability"].sel(class_name="ocean").values != 1
    expected = np.exp(bias) / np.exp(bias).sum()
    np.testing.assert_allclose(found["probability"].values.transpose(0, 2, 3, 1)[land] - expected, 0, atol=1e-6)
    assert (found["land_use"].values[land] == 2).all()
    same = update_card(copy.folder, {"calibration": {"scale": [1.0] * 8, "bias": [0.0] * 8}})
    np.testing.assert_array_equal(ask(same)["probability"], plain["probability"])
    assert found.attrs["xland_fingerprint"] != plain.attrs["xland_fingerprint"]


def test_a_decision_changes_the_class_and_no_probability(ask, plain, tmp_path):
    copy = tiny_checkpoint(tmp_path, tiny_inputs())
    decision = np.array([0.0, 1.5, 0.0, 0.7, -0.5, 0.0, 0.0, 0.3])
    decided = ask(update_card(copy.folder, {"decision": decision.tolist()}))
    for name in ("probability", "margin", "entropy"):
        np.testing.assert_array_equal(decided[name], plain[name])
    probability = plain["probability"].values
    with np.errstate(divide="ignore"):
        expected = (np.log(probability) + decision[:, None, None]).argmax(axis=1)
    assert (expected != probability.argmax(axis=1)).mean() > 0.02, "the offsets must make a difference"
    np.testing.assert_array_equal(decided["land_use"], expected)
    assert decided.attrs["xland_fingerprint"] != plain.attrs["xland_fingerprint"]


# how far inputs lie from those of the training


@pytest.fixture(scope="module")
def learned(world, tmp_path_factory):
    """A model that has learned from the cell at 12 N, 10 E in the year 2000, and from no other."""
    coarse, static, _ = world
    inputs = tiny_inputs()
    cell = coarse.sel(time=2000, lat=12, lon=10, method="nearest")
    box = {"lat": slice(float(cell["lat"]) + 2, float(cell["lat"]) - 2)}
    box["lon"] = slice(float(cell["lon"]) - 2, float(cell["lon"]) + 2)
    low = inputs.coarse_array({name: cell[name].values.reshape(1, 1, 1) for name in cell.data_vars})
    part = static.sel(box)
    assert (part["land_share"].values > 0).all()
    high = inputs.static_array({name: part[name].values for name in part.data_vars}).astype(np.float32)
    prototype = np.concatenate([low[:, 0, 0], high.mean(axis=(1, 2))])
    folder = tmp_path_factory.mktemp("learned")
    tiny_checkpoint(folder, inputs)
    return update_card(folder, {}, applicability=Applicability(prototype[None].astype(np.float32), 0.5, 0.25)), cell


@pytest.fixture(scope="module")
def found(ask, learned) -> xr.Dataset:
    return ask(learned[0], ("land_use", "applicability"), years=[2000, 2002])


def test_the_distance_is_none_at_what_was_learned_and_grows_away_from_it(found, learned, tmp_path):
    distance = found["applicability"].sel(year=2000)
    there = distance.sel(lat=learned[1]["lat"], lon=learned[1]["lon"], method="nearest")
    np.testing.assert_allclose(there, 0, atol=2e-2)  # prototypes are kept in half precision
    assert (distance.values[np.isfinite(distance)] > 0.05).mean() > 0.9
    assert float(distance.max()) > 1
    found.ai4land.to_zarr(tmp_path / "maps.zarr", progress=False)
    with xr.open_zarr(tmp_path / "maps.zarr") as opened:
        np.testing.assert_array_equal(opened["applicability"], found["applicability"])
        assert opened["applicability"].attrs["threshold"] == found["applicability"].attrs["threshold"] == 0.25


def test_the_distance_is_one_for_each_coarse_cell_and_unknown_in_the_sea(world, found):
    land = world[1]["land_share"].sel(lat=found["lat"], lon=found["lon"]).values > 0
    for distance in found["applicability"].values:
        np.testing.assert_array_equal(np.isfinite(distance), land)
        cells = distance.reshape(distance.shape[0] // FACTOR, FACTOR, -1, FACTOR)
        low, high = np.fmin.reduce(cells, axis=(1, 3)), np.fmax.reduce(cells, axis=(1, 3))
        np.testing.assert_array_equal(low, high)


def test_years_differ_where_the_forcing_does(world, found):
    coarse = world[0].sel(time=[2000, 2002])
    states = [name for name in coarse.data_vars if name != "secmb"]
    same = np.all([(coarse[name][0] == coarse[name][1]).values for name in states], axis=0)
    fine = xr.DataArray(
        same.repeat(FACTOR, 0).repeat(FACTOR, 1), {"lat": FINE.latitude, "lon": FINE.longitude}, ("lat", "lon")
    )
    unchanged = fine.sel(lat=found["lat"], lon=found["lon"]).values
    one, two = found["applicability"].values
    land = np.isfinite(one)
    np.testing.assert_array_equal(one[unchanged & land], two[unchanged & land])
    assert (one[~unchanged & land] != two[~unchanged & land]).mean() > 0.9


def test_the_distance_depends_neither_on_blocks_nor_on_the_region_nor_on_the_map(ask, learned, found):
    whole = found["applicability"].sel(year=[2000])
    np.testing.assert_array_equal(ask(learned[0], "applicability", chunks=28)["applicability"], whole)
    part = ask(learned[0], "applicability", region=(2, 2, 22, 30))["applicability"]
    np.testing.assert_array_equal(part, whole.sel(lat=part["lat"], lon=part["lon"]))


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("applicability", r"tiny-0' does not contain: add them with `xland calibrate`"),
        ("spread", r"'spread' needs several models, and .*tiny-0.* is one"),
    ],
)
def test_what_a_model_cannot_give_is_refused(ask, model, output, message):
    for one in (model, [model]):
        with pytest.raises(ModelError, match=message):
            ask(one, ("land_use", output))


def test_other_training_inputs_make_another_product(world, learned, tmp_path):
    coarse, static, _ = world
    tiny_checkpoint(tmp_path, tiny_inputs())
    other = update_card(tmp_path, {}, applicability=Applicability(np.zeros((2, 10), np.float32), 1.0, 1.0))
    made = [
        downscale(coarse, model=each, static=static, outputs=outputs).attrs["xland_fingerprint"]
        for outputs in ("applicability", "land_use")
        for each in (learned[0], other)
    ]
    assert made[0] != made[1]
    assert made[2] == made[3], "the class map does not depend on them"
