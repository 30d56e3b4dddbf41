from __future__ import annotations

import json
import os

import dask.array as da
import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tests.raising_backend import raising_dataset
from tests.store.test_writing import Fuse, maps, put
from xland.store.provenance import bounds, describe_product, identity_of, source_file
from xland.store.reading import open_store


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


def test_the_edges_of_a_torn_region_are_those_of_its_cells():
    ds = xr.Dataset(coords={"lat": [1.5, 0.5], "lon": [-179.5, -178.5, 178.5, 179.5]})
    assert bounds(ds) == (178.0, 0.0, 182.0, 2.0)
    assert bounds(ds.isel(lon=[0, 1])) == (-180.0, 0.0, -178.0, 2.0)
    assert bounds(ds.assign_coords(lon=[0.5, 1.5, 8.5, 9.5])) == (0.0, 0.0, 10.0, 2.0)


def test_a_product_says_what_it_is_and_where_it_came_from(tmp_path, monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1600000000")
    ds = describe_product(
        maps(),
        summary="for a test",
        model={"name": "luh2-0p05", "sha256": "ab12", "licence": "Apache-2.0"},
        inputs={"states": "cd34"},
        command="xland downscale",
    )
    found = open_store(put(ds, tmp_path / "a.zarr"))
    assert found.attrs["Conventions"] == "CF-1.11, ACDD-1.3"
    assert found.attrs["history"] == "made today\n2020-09-13T12:26:40Z: xland downscale"
    assert found.attrs["license"] == "Apache-2.0"
    assert found.attrs["xland_model_sha256"] == "ab12"
    assert json.loads(found.attrs["xland_inputs"]) == {"states": "cd34"}
    assert {"xland", "xarray", "zarr"} <= json.loads(found.attrs["xland_versions"]).keys()
    assert (found.attrs["geospatial_lat_min"], found.attrs["geospatial_lat_max"]) == (58.5, 60.0)
    assert (found.attrs["geospatial_lon_min"], found.attrs["geospatial_lon_max"]) == (0.0, 2.0)
    assert (found.attrs["time_coverage_start"], found.attrs["time_coverage_end"]) == ("2000-01-01", "2001-12-31")
    assert found.lat.attrs["standard_name"] == "latitude"
    assert found.time.attrs == {"standard_name": "time", "long_name": "time", "axis": "T"}
    assert found.land_use.attrs["flag_meanings"].startswith("ocean urban")
    assert found.land_use.encoding["grid_mapping"] == "spatial_ref"
    assert found.rio.crs == "EPSG:4326"


def test_describing_reads_nothing_and_names_other_outputs_as_ancillary_to_the_map():
    ds = maps(fuse=Fuse(after=0))
    ds["confidence"] = ds.land_use.astype("float32").drop_attrs()
    described = describe_product(ds)
    assert described.land_use.chunks is not None
    assert described.attrs["title"] == "a test"
    assert described.land_use.attrs["ancillary_variables"] == "confidence"
    assert described.confidence.attrs["units"] == "1"
    assert "ancillary_variables" not in ds.land_use.attrs
    assert describe_product(maps().drop_attrs()).attrs["title"] == "Land use on 0.25 degree, 2000-2001"
