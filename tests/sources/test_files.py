"""Files are opened as they were released, and refused by name."""

from __future__ import annotations

import os

import fsspec
import numpy as np
import pytest

from tests.worlds import tiny_world
from xland.errors import StoreError
from xland.sources.files import open_coarse, open_map
from xland.store.writing import write

COARSE, _, MAPS = tiny_world((2000,))


@pytest.mark.parametrize("kind", ["nc", "zarr", "nc behind a url", "zarr behind a url"])
def test_files_and_stores_are_opened_lazily_and_alike(tmp_path, kind):
    suffix, _, behind = kind.partition(" ")
    address = f"memory://test-files.{suffix}" if behind else str(tmp_path / f"states.{suffix}")
    if suffix == "zarr":
        COARSE.to_zarr(address, zarr_format=3, consolidated=bool(behind))
    else:
        COARSE.to_netcdf(tmp_path / "states.nc")
        if behind:
            fsspec.filesystem("memory").pipe_file(address, (tmp_path / "states.nc").read_bytes())
    opened = open_coarse(address)
    assert opened["primf"].chunks is not None
    np.testing.assert_array_equal(opened["primf"], COARSE["primf"])


def test_undecodable_years_do_not_stop_opening(tmp_path):
    time = COARSE["time"].copy(data=[1150.0]).assign_attrs(units="years since 850-01-01 0:0:0", calendar="365_day")
    COARSE[["primf"]].assign_coords(time=time).to_netcdf(tmp_path / "states.nc")
    assert open_coarse(tmp_path / "states.nc")["time"].values.tolist() == [1150.0]


def test_maps_come_from_files_stores_and_mappers(tmp_path):
    MAPS.to_netcdf(tmp_path / "maps.nc")
    write(MAPS.to_dataset().chunk(), tmp_path / "maps.zarr", progress=False)
    write(MAPS.to_dataset().chunk(), "memory://mapped.zarr", progress=False)
    for place in (tmp_path / "maps.nc", tmp_path / "maps.zarr", fsspec.get_mapper("memory://mapped.zarr")):
        np.testing.assert_array_equal(open_map(place), MAPS)


@pytest.mark.parametrize("damage", ["altered", "missing", "swapped"])
def test_a_store_of_ours_is_compared_with_its_digests(tmp_path, damage):
    coarse = COARSE[["primf"]]
    store = write(coarse.chunk(lat=15), tmp_path / "states.zarr", progress=False)
    np.testing.assert_array_equal(open_coarse(store)["primf"], coarse["primf"])
    first, second = sorted(path for path in (store / "primf" / "c").rglob("*") if path.is_file())[:2]
    if damage == "missing":
        first.unlink()
    else:
        content = bytearray(first.read_bytes())
        content[len(content) // 2] ^= 1
        first.write_bytes(second.read_bytes() if damage == "swapped" else bytes(content))
    opened = open_coarse(store)
    with pytest.raises(StoreError, match="primf"):
        opened["primf"].load()


@pytest.mark.parametrize("name", ["missing.nc", "damaged.nc", "empty.zarr", "pipe.nc"])
def test_what_cannot_be_opened_or_holds_no_map_is_named_and_not_waited_for(tmp_path, name):
    os.mkfifo(tmp_path / "pipe.nc")
    (tmp_path / "damaged.nc").write_text("neither this nor that")
    (tmp_path / "empty.zarr").mkdir()
    for opened in (open_coarse, open_map):
        with pytest.raises(StoreError, match=name) as error:
            opened(tmp_path / name)
        assert "\n" not in str(error.value)
        assert "http" not in str(error.value)
    COARSE.to_netcdf(tmp_path / "states.nc")
    with pytest.raises(StoreError, match=r"states.nc holds no variable 'land_use'; it holds primf"):
        open_map(tmp_path / "states.nc")


@pytest.mark.parametrize("text", ["[]", '{"zarr_format": 3, "node_type": "group", "consolidated_metadata": 5}', "x"])
def test_odd_metadata_of_a_store_are_named(tmp_path, text):
    (tmp_path / "odd.zarr").mkdir()
    (tmp_path / "odd.zarr" / "zarr.json").write_text(text)
    with pytest.raises(StoreError, match=r"odd\.zarr cannot be read as Zarr store"):
        open_coarse(tmp_path / "odd.zarr")


def test_what_is_behind_a_url_that_cannot_be_read_is_named_without_its_password():
    with pytest.raises(StoreError, match=r"memory://host/nothing\.nc cannot be read: .*check the address") as raised:
        open_coarse("memory://user:s3cr3t@host/nothing.nc")
    assert "s3cr3t" not in str(raised.value)
