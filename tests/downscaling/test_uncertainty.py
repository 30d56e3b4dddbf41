"""Probabilities and how sure they are: from one pass of the network, stored in few bytes."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from xland.downscaling.call import downscale
from xland.downscaling.engine import Engine

EVERYTHING = ("land_use", "probability", "confidence", "margin", "entropy")
REGION = (-60, -20, 60, 60)


@pytest.fixture
def windows(monkeypatch):
    """How many windows went through the network."""
    counted = []
    run = Engine.run

    def count(self, coarse, static, prior, land):
        counted.append(len(static))
        return run(self, coarse, static, prior, land)

    monkeypatch.setattr("xland.downscaling.engine.Engine.run", count)
    return counted


@pytest.fixture(scope="module")
def sure(world, model):
    """All outputs of two years, computed."""
    coarse, static, _ = world
    return downscale(
        coarse, model=model, static=static, years=[2000, 2001], region=REGION, outputs=EVERYTHING
    ).compute()


@pytest.mark.parametrize("prior", [False, True])
def test_all_outputs_come_from_one_pass(world, model, rolling_model, windows, prior):
    coarse, static, _ = world
    options = {"model": rolling_model if prior else model, "static": static, "region": REGION, "chunks": 60}
    downscale(coarse, **options)["land_use"].compute()
    alone = sum(windows)
    windows.clear()
    downscale(coarse, **options, outputs=EVERYTHING).compute()
    assert sum(windows) == alone > 0


def test_uncertainty_without_the_map_is_the_same(world, model, sure):
    coarse, static, _ = world
    only = downscale(coarse, model=model, static=static, years=2000, region=REGION, outputs=("confidence", "margin"))
    assert set(only.data_vars) - {"spatial_ref"} == {"confidence", "margin"}
    for name in ("confidence", "margin"):
        np.testing.assert_array_equal(only[name], sure[name].sel(year=[2000]))


def test_shares_are_stored_in_a_byte_and_read_back_within_half_a_step(sure, tmp_path):
    for name in ("probability", "margin", "entropy"):
        encoding = sure[name].encoding
        assert (encoding["dtype"], encoding["scale_factor"], encoding["_FillValue"]) == ("uint8", 0.004, 255)
    sure.to_netcdf(tmp_path / "sure.nc")
    with xr.open_dataset(tmp_path / "sure.nc", mask_and_scale=False) as raw:
        assert {raw[name].dtype for name in ("land_use", "probability", "margin", "entropy")} == {np.dtype("u1")}
        assert int(raw["probability"].max()) <= 250
    with xr.open_dataset(tmp_path / "sure.nc") as read:
        for name in ("probability", "margin", "entropy"):
            np.testing.assert_allclose(read[name], sure[name], atol=0.002 + 1e-6)
            assert 0 <= float(read[name].min()) <= float(read[name].max()) <= 1
        np.testing.assert_array_equal(read["land_use"], sure["land_use"])


def test_flips_change_the_map_a_little_and_run_each_window_once(world, model, sure, windows):
    coarse, static, _ = world
    options = {"model": model, "static": static, "years": 2000, "region": REGION, "outputs": EVERYTHING}
    flipped = downscale(coarse, flips=True, **options).compute()
    count = sum(windows)
    windows.clear()
    plain = downscale(coarse, **options).compute()
    assert count == sum(windows)
    np.testing.assert_allclose(flipped["probability"].sum("class"), 1, atol=1e-6)
    assert (flipped["probability"] != plain["probability"]).any()
    assert flipped.attrs["xland_fingerprint"] != plain.attrs["xland_fingerprint"]
    sea = sure["probability"].sel(year=[2000], class_name="ocean") == 1
    assert (flipped["land_use"].values[sea.values] == 0).all()
