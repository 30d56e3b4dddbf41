from __future__ import annotations

import os

import dask.array as da
import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tests.raising_backend import raising_dataset
from xland.store.identity import identity_of, source_file


def made(values=None) -> xr.Dataset:
    values = np.arange(12.0).reshape(3, 4) if values is None else values
    return xr.Dataset({"a": (("time", "lat"), values)}, {"lat": np.arange(4.0)}, {"title": "a test"})


@pytest.fixture(params=["netcdf4", "h5netcdf", "zarr"])
def opened(tmp_path, request):
    path = tmp_path / "a"
    made().to_zarr(path) if request.param == "zarr" else made().to_netcdf(path, engine=request.param)
    return lambda **options: xr.open_dataset(path, engine=request.param, **options)


def test_values_in_memory_are_known_by_themselves_wherever_one_is(tmp_path, monkeypatch):
    before = identity_of(made())
    monkeypatch.chdir(tmp_path)
    (tmp_path / "new").touch()
    assert identity_of(made()) == before
    ds = made()
    ds.encoding["source"] = ""
    assert identity_of(ds) == before
    assert source_file(ds) is None


@given(arrays(np.float64, (3, 4), elements=st.integers(0, 2)), arrays(np.float64, (3, 4), elements=st.integers(0, 2)))
@settings(max_examples=15)
def test_two_arrays_share_an_identity_only_if_they_are_equal(one, other):
    assert (identity_of(made(one)) == identity_of(made(other))) == np.array_equal(one, other)
    assert (identity_of(made(one).chunk()) == identity_of(made(other).chunk())) == np.array_equal(one, other)


@pytest.mark.parametrize("attributes", [{"_FillValue": 5.0}, {"units": "%"}])
def test_the_same_numbers_that_mean_something_else_are_another_input(attributes):
    for ds in (made(), made().chunk()):
        assert identity_of(ds.assign(a=ds.a.assign_attrs(attributes))) != identity_of(ds)
        filled = ds.copy()
        filled.a.encoding["_FillValue"] = 5.0
        assert identity_of(filled) != identity_of(ds)


def test_a_file_that_was_not_read_is_known_by_itself_and_what_was_chosen_of_it(opened):
    whole = opened()
    assert identity_of(whole) == identity_of(opened())
    one, other = (identity_of(opened().isel(time=at, drop=True)) for at in (0, 1))
    assert one != other == identity_of(opened().isel(time=1, drop=True))
    assert not whole.a._in_memory


@pytest.mark.parametrize("chosen", [{}, {"time": [0]}])
def test_chunks_of_a_file_have_the_same_names_each_time(opened, chosen):
    assert len({identity_of(opened().isel(chosen).chunk(time=1)) for _ in range(2)}) == 1
    assert identity_of(opened().chunk(time=1)) != identity_of(opened().isel(time=[0]).chunk(time=1))


def test_a_file_that_changed_is_another(opened, tmp_path):
    before = identity_of(opened()), opened().chunk().a.data.name
    for file in (tmp_path / "a", *(tmp_path / "a").glob("zarr.json")):
        os.utime(file, (1, 1))
    assert identity_of(opened()) != before[0]
    assert opened().chunk().a.data.name != before[1]


def test_nothing_is_read():
    assert identity_of(raising_dataset(made()))


def test_what_dask_draws_at_random_is_never_taken_for_the_same():
    assert identity_of(made(da.random.random((3, 4)))) != identity_of(made(da.random.random((3, 4))))
