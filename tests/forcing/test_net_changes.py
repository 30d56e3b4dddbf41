"""Coarse class shares from a map and net changes in km2."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from xland.errors import ForcingError, GridError, TimeError, VocabularyError
from xland.forcing.net_changes import apply_changes, states_from_changes
from xland.geo.grid import Grid
from xland.sources.hilda_changes import open_changes
from xland.sources.observed import open_hilda
from xland.vocabulary import CLASS_NAMES

DATA = Path(os.environ.get("XLAND_TEST_DATA", Path(__file__).parents[3] / "shared" / "data")) / "hilda_uk"
CHANGES = sorted(DATA.glob("*LUC_*.tif"))
needs_hilda = pytest.mark.skipif(not CHANGES, reason=f"needs HILDA+ of the United Kingdom in {DATA}")


@settings(max_examples=20)
@given(seed=st.integers(0, 999))
def test_areas_of_each_cell_stay_and_those_of_classes_change_as_they_are_told(seed):
    rng = np.random.default_rng(seed)
    before = rng.random((8, 4, 5)) * 100 + 20
    change = rng.normal(size=(8, 4, 5))
    change[0] = 0
    change[1:] -= change[1:].mean(axis=0)
    change[:, rng.random((4, 5)) < 0.3] = np.nan
    change[:, 0, 0] = 0
    after, missed = apply_changes(before, change)
    np.testing.assert_allclose(after.sum(axis=0), before.sum(axis=0))
    np.testing.assert_allclose((after - before).sum(axis=(1, 2)), np.nansum(change, axis=(1, 2)), atol=1e-9)
    assert missed == pytest.approx(0, abs=1e-9)
    np.testing.assert_array_equal(after[0], before[0])


def test_losses_of_what_is_not_there_and_gains_without_losses_are_left_out():
    before, change = np.zeros((8, 1, 2)), np.zeros((8, 1, 2))
    before[2], before[4] = 10, 5
    change[2, 0, 0], change[4, 0, 0] = -20, 20
    change[1, 0, 1] = 3
    after, missed = apply_changes(before, change)
    np.testing.assert_allclose(after[[2, 4], 0, 0], [0, 15])
    assert missed == pytest.approx(10 + 10 + 3)


def a_map(values, year=2009):
    grid = Grid(0.5, 52.0, 0.0, *values.shape)
    place = {"time": [year], "lat": grid.latitude, "lon": grid.longitude}
    return xr.DataArray(values[None].astype(np.uint8), place, ("time", "lat", "lon"), "land_use")


def some_changes(resolution=1.0, lost=-50.0, first_year=2009):
    grid = Grid(resolution, 52.0, 0.0, 2, 2)
    values = np.zeros((1, 8, 2, 2), np.float32)
    values[0, 2, 0, 0], values[0, 1, 0, 0] = lost, -lost
    place = {"time": [2010], "class": np.arange(8), "lat": grid.latitude, "lon": grid.longitude}
    return xr.DataArray(values, place, ("time", "class", "lat", "lon"), attrs={"first_year": first_year})


def test_shares_and_prior_cover_whole_coarse_cells():
    states, prior = states_from_changes(a_map(np.full((3, 4), 2)), some_changes())
    assert prior.shape == (1, 4, 4)
    assert not prior[0, 3].any()
    assert states["year"].values.tolist() == [2009, 2010]
    np.testing.assert_allclose(sum(states[name] for name in CLASS_NAMES), 1, rtol=1e-6)
    area = Grid(1.0, 52.0, 0.0, 2, 2).cell_area()[0] / 1e6
    np.testing.assert_allclose(states["urban"][1, 0] * area, [50, 0], rtol=1e-5)
    np.testing.assert_allclose(states["cropland"][0, 0], 1)


@pytest.mark.parametrize(
    ("start", "changes", "error", "message"),
    [
        (a_map(np.full((4, 4), 2), 2008), some_changes(), TimeError, r"changes begin in 2009, and .* of \(2008,\)"),
        (
            a_map(np.full((4, 4), 4)),
            some_changes(),
            ForcingError,
            r"100 of 100 km2 of changes cannot be made \(100.0%\)",
        ),
        (a_map(np.full((4, 4), 2)), some_changes(1.2), GridError, "do not nest in those of the changes"),
    ],
)
def test_maps_and_changes_that_do_not_belong_together_are_named(start, changes, error, message):
    with pytest.raises(error, match=message):
        states_from_changes(start, changes)


@needs_hilda
def test_hilda_of_the_united_kingdom_and_its_net_changes_belong_together():
    changes = open_changes(CHANGES)
    assert changes["time"].values.tolist() == [2010, 2011, 2012]
    start = open_hilda(DATA / "20221006_HILDA_UK_LULC_2009.tif", forest=True)
    states, prior = states_from_changes(start, changes)
    assert states.attrs["unplaced"] < 0.005
    area = Grid.from_centres(states["lat"].values, states["lon"].values).cell_area()[:, None] / 1e6
    for name in ("urban", "cropland", "pasture", "forest"):
        found = (states[name] * area).sum(("lat", "lon")).values
        told = changes.sel({"class": CLASS_NAMES.index(name)}).sum(("lat", "lon")).values
        np.testing.assert_allclose(np.diff(found), told, atol=15)
    assert prior.shape == (1, 1150, 1600)


@needs_hilda
def test_files_of_changes_that_leave_a_year_out_or_name_none_are_refused():
    with pytest.raises(TimeError, match="must follow each other, each once; there are 2009 to 2010, 2011 to 2012"):
        open_changes([CHANGES[0], CHANGES[2]])
    with pytest.raises(TimeError, match=r"LULC_2009.tif should name the first and the last year of its step"):
        open_changes(DATA / "20221006_HILDA_UK_LULC_2009.tif")
    with pytest.raises(VocabularyError, match=r"no class for the codes \[22, 33, 40"):
        open_changes(CHANGES[0], {11: "urban"})
