"""How far inputs lie from those of the training, on the map."""

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
    land = part["land_share"].values > 0
    assert land.all()
    high = inputs.static_array({name: part[name].values for name in part.data_vars}).astype(np.float32)
    prototype = np.concatenate([low[:, 0, 0], high.mean(axis=(1, 2))])
    folder = tmp_path_factory.mktemp("learned")
    tiny_checkpoint(folder, inputs)
    return update_card(folder, {}, applicability=Applicability(prototype[None].astype(np.float32), 0.5, 0.25)), cell


@pytest.fixture(scope="module")
def found(world, learned) -> xr.Dataset:
    coarse, static, _ = world
    options = {"static": static, "years": [2000, 2002], "region": REGION, "outputs": ("land_use", "applicability")}
    return downscale(coarse, model=learned[0], **options).compute()


def test_the_distance_is_none_at_what_was_learned_and_grows_away_from_it(found, learned):
    distance = found["applicability"].sel(year=2000)
    there = distance.sel(lat=learned[1]["lat"], lon=learned[1]["lon"], method="nearest")
    np.testing.assert_allclose(there, 0, atol=2e-2)  # prototypes are kept in half precision
    assert (distance.values[np.isfinite(distance)] > 0.05).mean() > 0.9
    assert found["applicability"].attrs["threshold"] == 0.25


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


def test_the_distance_depends_neither_on_blocks_nor_on_the_region_nor_on_the_map(world, learned, found):
    coarse, static, _ = world
    options = {"model": learned[0], "static": static, "years": 2000, "outputs": "applicability"}
    cut = downscale(coarse, chunks=28, region=REGION, **options)["applicability"].compute()
    np.testing.assert_array_equal(cut, found["applicability"].sel(year=[2000]))
    part = downscale(coarse, region=(2, 2, 22, 30), **options)["applicability"].compute()
    np.testing.assert_array_equal(part, found["applicability"].sel(year=[2000], lat=part["lat"], lon=part["lon"]))


def test_distances_beyond_one_survive_a_store(found, tmp_path):
    assert float(found["applicability"].max()) > 1
    found.ai4land.to_zarr(tmp_path / "maps.zarr", progress=False)
    with xr.open_zarr(tmp_path / "maps.zarr") as opened:
        np.testing.assert_array_equal(opened["applicability"], found["applicability"])
        assert opened["applicability"].attrs["threshold"] == 0.25


def test_a_model_without_its_training_inputs_has_no_distance(world, model):
    coarse, static, _ = world
    with pytest.raises(ModelError, match=r"'tiny-0' does not contain: add them with `xland calibrate`"):
        downscale(coarse, model=model, static=static, outputs="applicability")


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
