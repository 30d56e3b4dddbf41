"""The accessor is a thin door: these tests go through it to the whole chain, on small and on real data."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import xarray as xr

import xland
from tests.worlds import tiny_checkpoint, tiny_inputs, tiny_world
from xland.errors import VocabularyError


@pytest.fixture(scope="module")
def fine(tmp_path_factory):
    coarse, static, maps = tiny_world((2000,))
    checkpoint = tiny_checkpoint(tmp_path_factory.mktemp("model"), tiny_inputs())
    return coarse.ai4land.downscale(model=checkpoint, static=static, outputs=("land_use", "confidence")), maps


def test_importing_xland_does_not_import_torch_or_other_heavy_packages():
    heavy = "('torch', 'matplotlib', 'rioxarray', 'intake', 'distributed', 'sklearn', 'scipy')"
    code = f"import sys, xland; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_public_functions_are_there_and_others_are_not():
    for name in xland.__all__:
        assert getattr(xland, name) is not None
    assert "downscale" in dir(xland)
    with pytest.raises(AttributeError, match="upscale"):
        xland.upscale  # noqa: B018 - reading it is the test


def test_maps_travel_through_store_and_catalog(fine, tmp_path):
    import intake

    maps, _ = fine
    store = maps.ai4land.to_zarr(tmp_path / "land_use.zarr", progress=False)
    catalog = maps.ai4land.publish(tmp_path / "catalog.yaml", name="tiny", store=store)
    opened = intake.open_catalog(str(catalog))["tiny"].to_dask()
    np.testing.assert_array_equal(opened["land_use"], maps["land_use"])
    assert opened["land_use"].dtype == np.uint8
    assert opened.attrs["Conventions"].startswith("CF-1.11")
    assert opened.attrs["xland_model"] == "tiny-0"


def test_maps_can_be_exported_to_netcdf(fine, tmp_path):
    maps, _ = fine
    path = maps.ai4land.to_netcdf(tmp_path / "land_use.nc", progress=False)
    with xr.open_dataset(path) as opened:
        np.testing.assert_array_equal(opened["land_use"], maps["land_use"])


def test_a_slice_plots(fine):
    maps, _ = fine
    axes = maps["land_use"].sel(lat=slice(50, 0), lon=slice(0, 60)).ai4land.plot()
    assert len(axes.images) == 1
    assert len(maps["confidence"].ai4land.plot().images) == 1
    assert maps.ai4land.plot(legend=False).get_legend() is None


def test_evaluate_on_dataset_and_dataarray_agree(fine):
    maps, observed = fine
    one = maps.ai4land.evaluate(observed, factor=4)
    two = maps["land_use"].ai4land.evaluate(observed, factor=4)
    assert one.to_dict() == two.to_dict()
    assert maps["land_use"].ai4land.evaluate(maps["land_use"], factor=4)["all"].accuracy == 1


def test_a_dataset_without_maps_is_refused_by_name():
    coarse, _, _ = tiny_world((2000,))
    with pytest.raises(VocabularyError, match="no variable 'land_use'"):
        coarse.ai4land.plot()


def test_aggregating_the_maps_gives_back_the_coarse_shares():
    coarse, _, maps = tiny_world((2000,))
    shares = maps.ai4land.aggregate(4)
    assert sum(shares.data_vars.values()).values == pytest.approx(1, abs=1e-6)
    forest = (coarse["primf"] + coarse["secdf"]).fillna(0)
    np.testing.assert_allclose(shares["forest"], forest, atol=1e-6)
    xr.testing.assert_allclose(maps.to_dataset().ai4land.aggregate(4), shares)


def test_aggregating_is_lazy_and_independent_of_chunks_and_order():
    _, _, maps = tiny_world((2000, 2001))
    expected = maps.ai4land.aggregate(4)
    turned = maps.chunk(lat=50, lon=70, time=1).isel(lat=slice(None, None, -1)).rename(lat="y", lon="x")
    found = turned.ai4land.aggregate(4)
    assert found["urban"].chunks is not None
    assert float(found["y"][0]) < 0
    back = found.rename(y="lat", x="lon").isel(lat=slice(None, None, -1))
    for name in expected:
        np.testing.assert_allclose(back[name], expected[name], atol=1e-6)


def test_codes_that_no_class_has_are_refused_when_aggregating():
    _, _, maps = tiny_world((2000,))
    broken = maps.copy(deep=True)
    broken[0, 3, 4:9] = 44
    with pytest.raises(VocabularyError, match="5 cells"):
        broken.ai4land.aggregate(4).compute()
