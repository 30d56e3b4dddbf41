"""Selections of lazy maps: the same values as of the whole, from the windows that they touch."""

from __future__ import annotations

import dask
import numpy as np
import pytest
import xarray as xr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.downscaling.test_call import EVERYTHING
from xland.downscaling.call import downscale
from xland.downscaling.selections import Maps

few = settings(
    max_examples=15,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.fixture(scope="module")
def lazy(world, model):
    coarse, static, _ = world
    return downscale(coarse, model=model, static=static, years=[2000, 2001], chunks=180, outputs=EVERYTHING)


@pytest.fixture(scope="module")
def whole(lazy):
    return lazy.compute()


@st.composite
def places(draw, length: int):
    """One cell, a stretch in either direction, or every so many cells."""
    first, last = sorted((draw(st.integers(0, length - 1)), draw(st.integers(0, length - 1))))
    step = draw(st.sampled_from([1, 1, 3, -1, -2]))
    cells = slice(first, last + 1, step) if step > 0 else slice(last, first - 1 if first else None, step)
    return draw(st.sampled_from([first, cells]))


@few
@given(
    time=st.sampled_from([0, slice(None), [1, 0], slice(1, 2)]),
    row=places(180),
    column=places(360),
    again=places(3),
    order=st.permutations(("lat", "lon")),
)
def test_a_selection_is_the_same_before_and_after_it_is_computed(lazy, whole, time, row, column, again, order):
    def select(ds):
        selected = ds[["land_use", "probability"]].isel(time=time).isel(lat=row).isel(lon=column)
        selected = selected.transpose(..., *(dim for dim in order if dim in selected.dims))
        return selected.isel({dim: again for dim in selected.dims if dim == order[0] and selected.sizes[dim] >= 3})

    found, expected = select(lazy).compute(scheduler="synchronous"), select(whole)
    assert found["land_use"].dims == expected["land_use"].dims
    np.testing.assert_allclose(found["probability"], expected["probability"], atol=1e-5)
    clear = select(whole.assign(land_use=whole["margin"] > 1e-5))["land_use"].values
    np.testing.assert_array_equal(found["land_use"].values[clear], expected["land_use"].values[clear])


def test_a_point_costs_the_windows_over_it_once_for_all_outputs(lazy, whole, windows):
    row, column = np.argwhere(whole["land_use"].values[0] > 0)[900]
    point = lazy.isel(time=0, lat=row, lon=column).compute()
    assert int(point["land_use"]) == int(whole["land_use"][0, row, column])
    assert 1 <= len(windows) <= 4


def from_greenwich(ds: xr.Dataset) -> xr.Dataset:
    return ds.assign_coords(lon=ds["lon"] % 360).sortby("lon")


ORIENTATIONS = {
    "ascending": lambda ds: ds.isel(lat=slice(None, None, -1)),
    "from 0 to 360": from_greenwich,
    "turned": lambda ds: ds.transpose("lon", "time", "lat"),
    "other names": lambda ds: ds.rename(lat="latitude", lon="longitude"),
}


@pytest.mark.parametrize("change", ORIENTATIONS.values(), ids=ORIENTATIONS)
def test_a_point_costs_as_little_in_any_orientation(world, model, whole, windows, change):
    coarse, static, _ = world
    lazy = downscale(change(coarse), model=model, static=static, years=2000)["land_use"]
    lat, lon = (next(dim for dim in lazy.dims if str(dim).startswith(each)) for each in ("lat", "lon"))
    expected = int(whole["land_use"].sel(year=2000, lat=45.5, lon=100.5))
    assert expected > 0, "there is land"
    assert int(lazy.sel({lat: 45.5, lon: 100.5}).compute().squeeze()) == expected
    assert len(windows) <= 4


def test_most_of_a_block_is_the_block_which_others_may_need(lazy, windows):
    with dask.config.set(scheduler="synchronous"):
        (lazy["land_use"][0, :, :180] == lazy["land_use"][0, :, 1:181]).compute()
        twice = len(windows)
        windows.clear()
        lazy["land_use"][0].compute()
    assert twice < 1.5 * len(windows)


def test_what_else_is_asked_of_them_is_as_of_any_dask_array(lazy, whole):
    array, values = lazy["land_use"].data, whole["land_use"].values
    assert isinstance(array, Maps)
    np.testing.assert_array_equal(array[0, 40:42, ..., None].compute(), values[0, 40:42, ..., None])
    np.testing.assert_array_equal(array[1, [3, 90]][:, [7, 8]].compute(), values[1, [3, 90]][:, [7, 8]])
    np.testing.assert_array_equal(
        array.vindex[[0, 1], [50, 60], [30, 200]].compute(), values[[0, 1], [50, 60], [30, 200]]
    )
    assert array[:, 3:3].compute().shape == (2, 0, 360)
    assert array[:] is array
    with pytest.raises(IndexError):
        array[0, 999]
    np.testing.assert_array_equal(np.concatenate([array[:, :1], array[:1, :1]]).compute().shape, (3, 1, 360))


def test_values_that_are_put_in_are_there_in_selections(lazy):
    changed = lazy["land_use"].copy(deep=True)
    changed[{"lat": 50, "lon": slice(20, 30)}] = 9
    assert (changed[0, 50, 18:32].values == 9).sum() == 10
    assert not (lazy["land_use"][0, 50, 18:32].values == 9).any(), "the copy was changed, not the maps"


def test_maps_of_a_rollout_are_selected_as_blocks(world, rolling_model):
    coarse, static, maps = world
    lazy = downscale(coarse, model=rolling_model, static=static, prior=maps.sel(time=2000), years=[2001, 2002])
    assert not isinstance(lazy["land_use"].data, Maps)
    xr.testing.assert_equal(lazy["land_use"][1, 40:45].compute(), lazy["land_use"].compute()[1, 40:45])
