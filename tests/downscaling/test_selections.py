"""Selections of lazy maps: the same values as of the whole, from the windows that they touch."""

from __future__ import annotations

import subprocess
import sys

import cloudpickle
import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.downscaling.test_call import EVERYTHING
from xland.dask_internals import narrow
from xland.downscaling.block import describe
from xland.downscaling.call import downscale

few = settings(
    max_examples=10,
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
    """One cell, a stretch in either direction, every so many cells, or some cells."""
    first, last = sorted((draw(st.integers(0, length - 1)), draw(st.integers(0, length - 1))))
    step = draw(st.sampled_from([1, 1, 3, -1, -2]))
    cells = slice(first, last + 1, step) if step > 0 else slice(last, first - 1 if first else None, step)
    return draw(st.sampled_from([first, cells, cells, [first, last, first]]))


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


@few
@given(cells=st.lists(st.tuples(st.integers(0, 179), st.integers(0, 359)), min_size=1, max_size=4))
def test_points_that_are_picked_from_the_maps_are_those_of_the_whole(lazy, whole, cells):
    rows, columns = (xr.DataArray(list(each), dims="station") for each in zip(*cells, strict=True))
    picked = lazy["probability"].isel(lat=rows, lon=columns).compute(scheduler="synchronous")
    np.testing.assert_allclose(picked, whole["probability"].isel(lat=rows, lon=columns), atol=1e-5)


def test_a_point_costs_the_windows_over_it_once_for_all_outputs(lazy, whole, windows):
    row, column = np.argwhere(whole["land_use"].values[0] > 0)[900]
    point = lazy.isel(time=0, lat=row, lon=column)
    assert int(point.compute()["land_use"]) == int(whole["land_use"][0, row, column])
    assert 1 <= len(windows) <= 4
    assert "1 year of 1 of 1 x 2 blocks, " in describe(point)
    assert int(describe(point).split(", ")[1].split()[0]) >= len(windows), "some of them may be at sea"


def test_stations_cost_the_windows_over_them(lazy, whole, windows):
    rows, columns = np.argwhere(whole["land_use"].values[0] > 0)[[100, 5000]].T
    assert np.hypot(*np.diff([rows, columns])) > 60, "far from each other"
    picked = lazy["land_use"].isel(
        time=0, lat=xr.DataArray(rows, dims="station"), lon=xr.DataArray(columns, dims="station")
    )
    np.testing.assert_array_equal(picked.compute(), whole["land_use"].values[0, rows, columns])
    assert 2 <= len(windows) <= 8


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


def test_what_is_asked_of_each_cell_before_a_selection_costs_as_little(lazy, whole, windows):
    here = {"time": 0, "lat": slice(40, 44), "lon": slice(280, 284)}
    found = (lazy["margin"] > 0.1).isel(here).compute()
    np.testing.assert_array_equal(found, (whole["margin"] > 0.1).isel(here))
    assert len(windows) <= 9


def smooth(values):
    """Something that reads more cells than those that it returns."""
    return (values + np.roll(values, 5, axis=-1)) / 2


def test_where_more_is_read_than_is_selected_the_whole_block_is_computed(lazy, whole):
    blurred = lazy["margin"].data.map_blocks(smooth, dtype=np.float32)[0, 40:44, 100:104]
    expected = smooth(whole["margin"].values[:, :, :180])[0, 40:44, 100:104]
    np.testing.assert_allclose(blurred.compute(), expected, atol=1e-5)


def test_most_of_a_block_is_the_block_which_others_may_need(lazy, windows):
    with dask.config.set(scheduler="synchronous"):
        (lazy["land_use"][0, :, :180] == lazy["land_use"][0, :, 1:181]).compute()
        twice = len(windows)
        windows.clear()
        lazy["land_use"][0].compute()
    assert twice < 1.5 * len(windows)


def test_a_selection_is_kept_in_memory_and_computed_with_others_as_any_array(lazy, whole):
    here = {"time": 1, "lat": slice(60, 63), "lon": slice(170, 190)}
    part, other = lazy["margin"].isel(here), lazy["land_use"].isel(here | {"lat": slice(61, 64)})
    (persisted,) = dask.persist(part)
    np.testing.assert_allclose(persisted[1, 2:].compute(), whole["margin"].isel(here)[1, 2:], atol=1e-5)
    first, second, all_of_it = dask.compute(part, other, lazy["land_use"])
    np.testing.assert_allclose(first, whole["margin"].isel(here), atol=1e-5)
    np.testing.assert_array_equal(second, whole["land_use"].isel(here | {"lat": slice(61, 64)}))
    np.testing.assert_array_equal(all_of_it, whole["land_use"])


@pytest.mark.parametrize("change", [lambda ds: ds, from_greenwich], ids=["plain", "joined"])
def test_no_key_has_other_values_in_one_selection_than_in_another(world, model, change):
    """A cluster computes a key once, whoever asks for it."""
    coarse, static, _ = world
    lazy = downscale(change(coarse), model=model, static=static, years=2000, chunks=180, outputs=("land_use", "margin"))
    seen = {}
    for here in ({"lat": slice(40, 44)}, {"lat": slice(80, 84)}, {"lat": slice(40, 44), "lon": slice(20, 30)}, {}):
        array = lazy["margin"].isel(time=0).isel(here)[1:4].data
        graph = narrow(array.dask, array.__dask_keys__()).cull(array.__dask_keys__()).to_dict()
        keys = [key for key in graph if isinstance(key, tuple) and not isinstance(graph[key], tuple)]
        for key, value in zip(keys, dask.threaded.get(graph, keys), strict=True):
            value = value["margin"] if isinstance(value, dict) else value
            if isinstance(value, np.ndarray):
                np.testing.assert_array_equal(value, seen.setdefault(key, value), f"{key}")
    assert {"getitem", "_one_layer", "land_use"} <= {key[0].split("-")[0] for key in seen}


def test_a_selection_is_written_from_the_windows_that_it_touches(lazy, whole, windows, tmp_path):
    part = lazy[["land_use"]].isel(time=[0], lat=slice(40, 50), lon=slice(270, 290))
    part.ai4land.to_zarr(tmp_path / "part.zarr", progress=False)
    assert 1 <= len(windows) <= 9
    written = xr.open_zarr(tmp_path / "part.zarr", consolidated=False)["land_use"]
    np.testing.assert_array_equal(written, whole["land_use"].isel(time=[0], lat=slice(40, 50), lon=slice(270, 290)))


def test_maps_of_a_rollout_are_computed_in_whole_blocks(world, rolling_model):
    coarse, static, maps = world
    lazy = downscale(coarse, model=rolling_model, static=static, prior=maps.sel(time=2000), years=[2001, 2002])
    part = lazy["land_use"][1, 40:45].data
    assert narrow(part.dask, part.__dask_keys__()) is part.dask
    xr.testing.assert_equal(lazy["land_use"][1, 40:45].compute(), lazy["land_use"].compute()[1, 40:45])


def test_graphs_of_others_are_optimized_without_xland(lazy):
    """A scheduler may have no xland."""
    assert lazy["land_use"].chunks, "xland has seen to it that selections are narrow"
    array = da.ones(6, chunks=3)[:2]
    sent = cloudpickle.dumps((array.__dask_optimize__, array.dask, array.__dask_keys__()))
    script = (
        "import pickle, sys; optimize, graph, keys = pickle.load(sys.stdin.buffer); optimize(graph, keys); "
        "assert 'xland' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], input=sent, check=True)
