"""Damage of a file that shows when values are read has a name: which variable, of which file, and what to do."""

from __future__ import annotations

import pickle
import re

import dask.array as da
import h5py
import numpy as np
import pytest
import xarray as xr

from tests.raising_backend import raising_dataset
from tests.worlds import tiny_checkpoint, tiny_inputs, tiny_world
from xland.downscaling.call import downscale
from xland.errors import StoreError, XlandError
from xland.forcing.read import read_forcing
from xland.reading.variables import with_named_reads
from xland.scores.evaluation import evaluate
from xland.sources.files import open_coarse, open_map
from xland.store.reading import open_store
from xland.store.writing import write, write_netcdf


@pytest.fixture(scope="module")
def world():
    return tiny_world((2000, 2001))


def damaged_netcdf(ds, path, variable):
    """Write a compressed file, and over the middle of the last chunk of a variable."""
    ds.to_netcdf(path, encoding={name: {"zlib": True, "shuffle": True} for name in ds.data_vars})
    with h5py.File(path) as file:
        chunks = file[variable].id
        last = chunks.get_chunk_info(chunks.get_num_chunks() - 1)
    with path.open("r+b") as file:
        file.seek(last.byte_offset + last.size // 2)
        file.write(b"\xff" * min(16, last.size // 2))
    return path


def damaged_zarr(ds, path, variable):
    """Write a store as others do, without digests, and junk into the last chunk of a variable."""
    ds.drop_encoding().to_zarr(path, zarr_format=3, consolidated=False)
    last = max(file for file in (path / variable / "c").rglob("*") if file.is_file())
    last.write_bytes(b"junk" + last.read_bytes()[4:])
    return path


OPENERS = {
    "netcdf": (damaged_netcdf, xr.open_dataset),
    "h5netcdf in chunks": (damaged_netcdf, lambda path: xr.open_dataset(path, engine="h5netcdf", chunks={})),
    "open_coarse, netcdf": (damaged_netcdf, open_coarse),
    "zarr": (damaged_zarr, lambda path: xr.open_zarr(path, chunks=None, consolidated=False)),
    "zarr in chunks": (damaged_zarr, lambda path: xr.open_zarr(path, consolidated=False)),
    "open_store": (damaged_zarr, open_store),
}


def said_of(error, path):
    assert re.search(r"primf'?: values cannot be read from ", str(error.value))
    assert str(path) in str(error.value)
    assert "copy or download it again" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", sorted(OPENERS))
def test_damage_of_a_forcing_is_named_also_in_another_process_and_what_is_whole_is_read_as_before(
    kind, world, tmp_path
):
    damage, opened = OPENERS[kind]
    path = damage(world[0], tmp_path / "states", "primf")
    ds = opened(path)
    sent = pickle.loads(pickle.dumps(read_forcing(ds).data["primf"].data))
    with pytest.raises(StoreError) as error:
        sent.compute()
    said_of(error, path)
    assert str(pickle.loads(pickle.dumps(error.value))) == str(error.value)
    named = with_named_reads(ds["secdf"], "secdf")
    np.testing.assert_array_equal(named, world[0]["secdf"])
    if ds["secdf"].chunks is not None:
        assert named.chunks == ds["secdf"].chunks
        assert named.data.__dask_keys__() == ds["secdf"].data.__dask_keys__()
        assert set(named.data.dask) == set(ds["secdf"].data.dask)


def test_damage_of_a_forcing_is_named_when_a_map_is_computed(world, tmp_path):
    path = damaged_netcdf(world[0], tmp_path / "states", "primf")
    model = tiny_checkpoint(tmp_path / "model", tiny_inputs())
    maps = downscale(open_coarse(path), model=model, static=world[1])
    with pytest.raises(StoreError) as error:
        maps["land_use"].compute()
    said_of(error, path)


@pytest.mark.parametrize("damage", [damaged_netcdf, damaged_zarr])
def test_damage_of_a_map_is_named_by_scores_and_writers(world, tmp_path, damage):
    path = damage(world[2].to_dataset().chunk(time=1), tmp_path / "maps", "land_use")
    maps, said = open_map(path), rf"land_use.* cannot be read from {re.escape(str(path))}"
    with pytest.raises(StoreError, match=said):
        evaluate(maps, world[2])
    for writer, name in ((write, "copy.zarr"), (write_netcdf, "copy.nc")):
        with pytest.raises(StoreError, match=said):
            writer(maps.to_dataset(), tmp_path / name, progress=False)
        if damage is damaged_netcdf:
            with pytest.raises(StoreError, match=said):
                writer(xr.open_dataset(path), tmp_path / f"plain-{name}", progress=False)


def test_naming_reads_nothing_and_leaves_values_in_memory_alone(world):
    coarse, _, _ = world
    raising = raising_dataset(coarse)["primf"]
    named = with_named_reads(raising, "primf")
    assert with_named_reads(named, "again") is named
    with pytest.raises(StoreError, match=r"primf: values cannot be read .* were read"):
        named.isel(lat=0).load()
    for kept in (coarse["primf"], coarse["primf"].chunk(lat=10), raising.copy(data=coarse["primf"].values)):
        assert with_named_reads(kept, "primf") is kept


def test_errors_that_have_a_name_keep_it():
    class Refusing:
        shape, dtype, ndim = (4,), np.dtype("f4"), 1

        def __getitem__(self, key):
            raise XlandError("of ours")

    array = xr.DataArray(da.from_array(Refusing(), chunks=2, meta=np.empty(0, "f4")), dims="x")
    with pytest.raises(XlandError, match="of ours"):
        with_named_reads(array, "x").compute()


def test_sources_that_are_not_of_xarray_are_named_too(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["a"] = np.arange(8.0)
    source = h5py.File(tmp_path / "a.h5")["a"]
    array = xr.DataArray(da.from_array(source, chunks=4), dims="x")
    named = with_named_reads(array, "a")
    np.testing.assert_array_equal(named, np.arange(8.0))
    source.file.close()
    with pytest.raises(StoreError, match="a: values cannot be read from its file"):
        named.compute()
