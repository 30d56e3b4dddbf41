"""LUH2 states of 2015 through the shipped model, in any orientation."""

from __future__ import annotations

import numpy as np
import pytest

import xland  # noqa: F401 - registers .ai4land
from xland.datasets import luh2_2015

pytestmark = [pytest.mark.pip_data, pytest.mark.usefixtures("reference_data")]
REGION = (5, 43, 15, 49)


@pytest.fixture(scope="module")
def luh2():
    return luh2_2015()


@pytest.fixture(scope="module")
def alps(luh2, reference_data):
    return luh2.ai4land.downscale(region=REGION)["land_use"].compute()


def test_the_file_checks_out_and_names_its_year(luh2):
    table = luh2.ai4land.check()
    assert table.ok
    assert "2015" in str(table)


def test_the_map_holds_what_everyone_knows(alps):
    def at(lat, lon):
        return int(alps.sel(lat=lat, lon=lon, method="nearest").squeeze())

    assert alps["year"].values.tolist() == [2015]
    assert alps.shape == (1, 120, 200)
    assert at(44.0, 9.0) == 0, "the Gulf of Genoa is sea"
    assert at(45.2, 9.3) == 2, "the Po valley is cropland"
    assert at(46.5, 14.4) == 4, "the Karawanks are forest"
    assert at(46.62, 14.31) == 1, "Klagenfurt is a town"


def test_the_same_map_by_label_in_any_orientation(luh2, alps):
    turned = luh2.assign_coords(lon=luh2["lon"] % 360).sortby("lon").sortby("lat").rename(lat="y", lon="x")
    turned = turned.transpose("x", "y", "time", ...).chunk(y=100, x=200)
    found = turned.ai4land.downscale(region=REGION)["land_use"]
    assert bool(found["y"][0] < found["y"][-1])
    found = found.compute().rename(y="lat", x="lon")
    found = found.assign_coords(lon=(found["lon"] + 180) % 360 - 180).transpose("time", "lat", "lon")
    found = found.sortby("lon").sortby("lat", ascending=False)
    np.testing.assert_array_equal(found, alps)
    np.testing.assert_allclose(found["lat"], alps["lat"], atol=1e-5)
    np.testing.assert_allclose(found["lon"], alps["lon"], atol=1e-5)


def test_a_slice_of_the_world_is_the_same_as_the_region(luh2, alps):
    whole = luh2.ai4land.downscale(chunks=100)["land_use"]
    assert whole.shape == (1, 3600, 7200)
    part = whole.sel(lat=slice(46, 45), lon=slice(8, 10)).compute()
    np.testing.assert_array_equal(part, alps.sel(lat=part["lat"], lon=part["lon"]))
