"""Several models that answer as one, scaled scores, and decisions that are not the most probable class."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from tests.worlds import tiny_checkpoint, tiny_inputs
from xland.downscaling.call import downscale
from xland.errors import ModelError
from xland.models.checkpoint import update_card

REGION = (-60, -20, 60, 60)
EVERYTHING = ("land_use", "probability", "margin", "entropy", "spread")


@pytest.fixture(scope="module")
def members(model, tmp_path_factory):
    """Three models that differ in their weights; the last one is calibrated."""
    folders = [tmp_path_factory.mktemp("member") for _ in range(2)]
    second, third = (tiny_checkpoint(folder, tiny_inputs(), seed) for seed, folder in enumerate(folders, 1))
    calibration = {"scale": [0.5] * 8, "bias": [0.25 * code for code in range(8)]}
    return model, second, update_card(third.folder, {"calibration": calibration})


@pytest.fixture
def ask(world):
    """Downscale the tiny world with a model."""
    coarse, static, _ = world

    def run(model, **more) -> xr.Dataset:
        options = {"static": static, "years": 2000, "region": REGION, "outputs": EVERYTHING, **more}
        return downscale(coarse, model=model, **options).compute()

    return run


def test_the_probability_of_an_ensemble_is_the_mean_of_its_members(ask, members):
    alone = [ask(member, outputs="probability")["probability"].values for member in members]
    found = ask(list(members))
    np.testing.assert_allclose(found["probability"], np.mean(alone, axis=0), atol=1e-6)
    ordered = np.sort(found["probability"].values, axis=1)
    np.testing.assert_allclose(found["margin"], ordered[:, -1] - ordered[:, -2], atol=1e-6)
    np.testing.assert_array_equal(found["land_use"], found["probability"].values.argmax(axis=1))


def test_the_spread_is_that_of_the_class_on_the_map(ask, members):
    alone = np.stack([ask(member, outputs="probability")["probability"].values for member in members])
    found = ask(members)
    chosen = np.take_along_axis(alone, found["land_use"].values[None, :, None], axis=2)[:, :, 0]
    np.testing.assert_allclose(found["spread"], chosen.std(axis=0), atol=1e-6)
    sea = found["probability"].sel(class_name="ocean").values == 1
    assert (found["spread"].values[sea] == 0).all()
    assert found["spread"].values[~sea].min() > 0, "these models disagree everywhere"


def test_an_ensemble_depends_neither_on_blocks_nor_on_the_region(ask, members):
    one, cut = ask(list(members), chunks=360), ask(list(members), chunks=44)
    part = ask(list(members), region=(-20, 2, 24, 42))
    inside = one.sel(lat=part["lat"], lon=part["lon"])
    for name in ("land_use", "probability", "margin", "spread"):
        np.testing.assert_array_equal(cut[name], one[name])
        np.testing.assert_array_equal(part[name], inside[name])


def test_an_ensemble_is_named_and_known_by_all_its_members(world, members):
    coarse, static, _ = world
    two, three = (downscale(coarse, model=list(members[:n]), static=static) for n in (2, 3))
    assert two.attrs["xland_model"] == "ensemble of tiny-0, tiny-1"
    assert len({each.attrs["xland_fingerprint"] for each in (two, three)}) == 2
    assert two["land_use"].data.name != three["land_use"].data.name
    assert three.ai4land.describe().startswith("ensemble of tiny-0, tiny-1, tiny-2")


def test_an_ensemble_rolls_out_its_own_map(world, rolling_model, tmp_path):
    coarse, static, maps = world
    other = tiny_checkpoint(tmp_path, tiny_inputs(prior="one_hot"), seed=1)
    options = {"model": [rolling_model, other], "static": static, "region": REGION, "outputs": ("land_use", "spread")}
    both = downscale(coarse, prior=maps.sel(time=2000), years=[2001, 2002], **options).compute()
    whole = downscale(coarse, prior=maps.sel(time=2000), years=2001, **{**options, "region": None})["land_use"]
    second = downscale(coarse, prior=whole.compute(), years=2002, **options).compute()
    np.testing.assert_array_equal(both.sel(year=[2002])["land_use"], second["land_use"])
    np.testing.assert_array_equal(both.sel(year=[2002])["spread"], second["spread"])


def test_a_spread_of_one_model_is_refused(world, model):
    coarse, static, _ = world
    for one in (model, [model]):
        with pytest.raises(ModelError, match=r"'spread' needs several models, and .*tiny-0.* is one"):
            downscale(coarse, model=one, static=static, outputs=("land_use", "spread"))


def test_scores_are_scaled_as_the_card_says(ask, model, tmp_path):
    """Scores that are made ever smaller leave the biases: the same shares everywhere on land."""
    copy = tiny_checkpoint(tmp_path, tiny_inputs())
    bias = [0.0, 0.5, 1.0, 0.0, -1.0, 0.0, 0.25, 0.75]
    flat = update_card(copy.folder, {"calibration": {"scale": [1e-9] * 8, "bias": bias}})
    found = ask(flat, outputs=("land_use", "probability"))
    land = found["probability"].sel(class_name="ocean").values != 1
    expected = np.exp(bias) / np.exp(bias).sum()
    np.testing.assert_allclose(found["probability"].values.transpose(0, 2, 3, 1)[land] - expected, 0, atol=1e-6)
    assert (found["land_use"].values[land] == 2).all()
    plain = ask(model, outputs=("land_use", "probability"))
    same = update_card(copy.folder, {"calibration": {"scale": [1.0] * 8, "bias": [0.0] * 8}})
    np.testing.assert_array_equal(ask(same, outputs="probability")["probability"], plain["probability"])
    assert found.attrs["xland_fingerprint"] != plain.attrs["xland_fingerprint"]


def test_a_decision_changes_the_class_and_no_probability(ask, model, tmp_path):
    copy = tiny_checkpoint(tmp_path, tiny_inputs())
    decision = np.array([0.0, 1.5, 0.0, 0.7, -0.5, 0.0, 0.0, 0.3])
    decided = ask(update_card(copy.folder, {"decision": decision.tolist()}), outputs=EVERYTHING[:4])
    plain = ask(model, outputs=EVERYTHING[:4])
    for name in ("probability", "margin", "entropy"):
        np.testing.assert_array_equal(decided[name], plain[name])
    probability = plain["probability"].values
    with np.errstate(divide="ignore"):
        expected = (np.log(probability) + decision[:, None, None]).argmax(axis=1)
    assert (expected != probability.argmax(axis=1)).mean() > 0.02, "the offsets must make a difference"
    np.testing.assert_array_equal(decided["land_use"], expected)
    assert decided.attrs["xland_fingerprint"] != plain.attrs["xland_fingerprint"]
