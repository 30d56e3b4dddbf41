from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tests.store.test_writing import Fuse, StopError, maps, put
from xland.errors import StoreError
from xland.store.encoding import Packing
from xland.store.reading import open_store
from xland.store.writing import write_netcdf

ENCODING = {"dtype": "uint8", "scale_factor": 0.004, "_FillValue": 255}


def uncertain(values: np.ndarray | None = None, encoding=ENCODING, lazy: bool = True) -> xr.Dataset:
    ds = maps()
    if values is None:
        values = np.random.default_rng(3).random((2, 3, 6, 8)).astype(np.float32)
        values[0, 0, 0, 0], values[1, 2, 3, 4], values[1, 1, 1, 1] = 1, 0, np.nan
    attributes = {"units": "1", "valid_range": [0.0, 1.0]}
    array = xr.Variable(("time", "class", "lat", "lon"), values, attributes)
    ds["probability"] = array.chunk({"time": 1, "lat": 3, "lon": 4}) if lazy else array
    ds.probability.encoding = dict(encoding)
    return ds


@pytest.mark.parametrize("lazy", [True, False])
def test_a_packed_variable_comes_back_within_half_a_step(tmp_path, lazy):
    ds = uncertain(lazy=lazy)
    found = open_store(put(ds, tmp_path / "a.zarr"))
    array = zarr.open_array(tmp_path / "a.zarr", path="probability", mode="r")
    assert array.dtype == np.uint8
    assert array.attrs["scale_factor"] == 0.004
    assert array.attrs["_FillValue"] == 255
    assert array.attrs["valid_range"] == [0, 250]
    assert array[1, 1, 1, 1] == 255
    assert found.probability.dtype == np.float32
    assert found.probability.chunks is not None
    np.testing.assert_allclose(found.probability, ds.probability, rtol=0, atol=0.002 + 1e-7)
    assert found.probability.attrs == ds.probability.attrs
    xr.testing.assert_identical(found.land_use.load(), ds.land_use.compute())
    again = open_store(put(found, tmp_path / "b.zarr"))
    xr.testing.assert_identical(again.load(), found.load())


def test_what_a_plain_xarray_opened_is_packed_again_as_it_was(tmp_path):
    ds = open_store(put(uncertain(), tmp_path / "a.zarr"))
    file = write_netcdf(ds, tmp_path / "a.nc", progress=False)
    for number, plain in enumerate([xr.open_zarr(tmp_path / "a.zarr"), xr.open_dataset(file, chunks={})]):
        again = open_store(put(plain, tmp_path / f"{number}.zarr"))
        np.testing.assert_array_equal(again.probability, ds.probability)
        assert again.probability.attrs["valid_range"] == ds.probability.attrs["valid_range"]


@pytest.mark.parametrize(("value", "said"), [(-0.01, "-0.01"), (np.inf, "inf"), (255 * 0.004, "1.02")])
def test_values_that_would_come_back_as_others_are_refused(tmp_path, value, said):
    values = np.full((2, 3, 6, 8), 0.5, np.float32)
    values[1, 0, 5, 7] = value
    message = rf"probability: 1 values from {said} to {said} cannot be packed.* only 0 to 1\.016 can.*encoding"
    with pytest.raises(StoreError, match=message):
        put(uncertain(values), tmp_path / "a.zarr")
    with pytest.raises(StoreError, match=message):
        write_netcdf(uncertain(values), tmp_path / "a.nc", progress=False)
    assert not (tmp_path / "a.nc").exists()


def test_resuming_with_another_packing_is_refused(tmp_path):
    def packed(encoding, fuse=None):
        ds = uncertain(encoding=encoding)
        data = ds.probability.data.map_blocks(
            fuse or Fuse(), name="uncertain", dtype=np.float32, meta=np.empty((0,) * 4)
        )
        return ds.assign(probability=ds.probability.copy(data=data))

    with pytest.raises(StopError):
        put(packed(ENCODING, Fuse(after=2)), tmp_path / "a.zarr")
    with pytest.raises(StoreError, match=r"different: variable probability \(attributes\)"):
        put(packed({**ENCODING, "scale_factor": 0.005}), tmp_path / "a.zarr", resume=True)
    put(packed(ENCODING), tmp_path / "a.zarr", resume=True)


def test_other_encodings_are_dropped(tmp_path):
    ds = uncertain(encoding={"dtype": "int16", "scale_factor": 0.1, "_FillValue": -1})
    found = open_store(put(ds, tmp_path / "a.zarr"))
    xr.testing.assert_equal(found.load(), ds.compute())


@given(
    values=arrays(np.float32, 20, elements=st.floats(-1, 1, width=32) | st.just(np.nan)),
    fill=st.integers(0, 255),
)  # fmt: skip
@settings(max_examples=30, deadline=None)
def test_packing_is_never_further_off_than_half_a_step(values, fill):
    packing = Packing("margin", 0.01, -1.0, fill)
    numbers = np.rint((values.astype(float) + 1) / 0.01)
    if (numbers == fill).any():
        with pytest.raises(StoreError, match="cannot be packed"):
            packing(values)
        return
    stored = packing(values)
    back = np.where(stored == fill, np.nan, stored * 0.01 - 1)
    np.testing.assert_allclose(back, values, rtol=0, atol=0.005 + 1e-9)


def test_encoding_is_chosen_as_in_xarray(tmp_path):
    ds = uncertain(encoding={})
    found = open_store(put(ds, tmp_path / "a.zarr", encoding={"probability": ENCODING}))
    file = write_netcdf(ds, tmp_path / "a.nc", progress=False, encoding={"probability": {**ENCODING, "complevel": 1}})
    with xr.open_dataset(file) as exported:
        for each in (found, exported):
            assert each.probability.encoding["scale_factor"] == 0.004
            np.testing.assert_allclose(each.probability, ds.probability, rtol=0, atol=0.002 + 1e-7)
    for wrong, said in (
        ({"none": {}}, "'none' must be a variable"),
        ({"probability": {"chunks": (1,)}}, "chunks cannot be chosen; known are dtype"),
        ({"probability": {"dtype": "int16"}}, "floats are packed with dtype 'uint8'"),
    ):
        with pytest.raises(StoreError, match=said):
            put(ds, tmp_path / "b.zarr", encoding=wrong)
