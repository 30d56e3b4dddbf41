from __future__ import annotations

import math

import dask.array as da
import numpy as np
import pytest
import xarray as xr
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.store.test_writing import Fuse, StopError, digest, maps, put
from xland.errors import StoreError
from xland.store import blocks
from xland.store.blocks import CHUNK_BYTES, SHARDED_BYTES, align
from xland.store.reading import open_store
from xland.store.writing import write


def files(path, name: str = "land_use") -> int:
    return sum(each.is_file() for each in (path / name / "c").rglob("*"))


def test_a_block_of_many_chunks_becomes_one_file(tmp_path):
    ds = maps(years=2, rows=8, columns=12, block=(4, 6))
    chunks = {"lat": 2, "lon": 3}
    plain = write(ds, tmp_path / "plain.zarr", chunks=chunks, shards=False, progress=False)
    sharded = write(ds, tmp_path / "sharded.zarr", chunks=chunks, shards=True, progress=False)
    xr.testing.assert_identical(open_store(sharded).load(), open_store(plain).load())
    array = zarr.open_array(sharded, path="land_use", mode="r")
    assert array.chunks == (1, 2, 3)
    assert array.shards == (1, 4, 6)
    # one block of each year is ocean, and never written
    assert files(plain) == 2 * (16 - 4)
    assert files(sharded) == 2 * (4 - 1)


def test_chunks_of_ocean_within_a_shard_take_no_space(tmp_path):
    codes = np.random.default_rng(1).integers(1, 8, (1, 64, 64)).astype(np.uint8)
    ocean = codes.copy()
    ocean[:, 8:] = 0
    sizes = []
    for number, values in enumerate((codes, ocean)):
        ds = xr.Dataset({"land_use": (("time", "lat", "lon"), da.from_array(values, chunks=(1, 64, 64)))})
        path = write(ds, tmp_path / f"{number}.zarr", chunks={"lat": 8, "lon": 8}, shards=True, progress=False)
        sizes.append(sum(each.stat().st_size for each in (path / "land_use" / "c").rglob("*") if each.is_file()))
    assert sizes[1] < sizes[0] / 2


@given(
    years=st.integers(1, 2), rows=st.integers(1, 9), columns=st.integers(2, 9),
    block=st.tuples(st.integers(2, 5), st.integers(2, 5)), uneven=st.booleans(), kill=st.integers(0, 9),
    asked=st.none() | st.fixed_dictionaries({"lat": st.integers(1, 4), "lon": st.integers(1, 4)}),
)  # fmt: skip
@settings(max_examples=3, deadline=None)
def test_shards_hold_the_same_maps_at_ragged_edges_and_after_a_crash(
    tmp_path_factory, years, rows, columns, block, uneven, kill, asked
):
    folder = tmp_path_factory.mktemp("shards")

    def build(fuse=None):
        ds = maps(years, rows, columns, block, fuse)
        if uneven and rows > 3:
            ds = ds.chunk(lat=(1, 2, rows - 3))
        ds["probability"] = ds.land_use.astype("float32").expand_dims({"class": 2}, 1) / 8
        return ds.drop_vars("class", errors="ignore")

    options = {"shards": True, "chunks": asked}
    try:
        put(build(Fuse(after=kill)), folder / "a.zarr", **options)
    except StopError:
        put(build(), folder / "a.zarr", resume=True, **options)
    xr.testing.assert_identical(open_store(folder / "a.zarr").load(), build().compute())
    assert digest(folder / "a.zarr") == digest(put(build(), folder / "b.zarr", **options))


def test_stores_of_many_chunks_are_sharded_by_themselves(tmp_path, monkeypatch):
    ds = maps(years=2, rows=8, columns=12, block=(4, 6))
    monkeypatch.setattr(blocks, "MOST_FILES", 31)
    few = write(ds, tmp_path / "a.zarr", chunks={"lat": 2, "lon": 3}, progress=False)
    assert zarr.open_array(few, path="land_use", mode="r").shards == (1, 4, 6)
    monkeypatch.setattr(blocks, "MOST_FILES", 32)
    many = write(ds, tmp_path / "b.zarr", chunks={"lat": 2, "lon": 3}, progress=False)
    assert zarr.open_array(many, path="land_use", mode="r").shards is None


def test_probabilities_of_the_globe_would_be_a_million_files_and_become_as_many_as_blocks():
    blocks_of = {"land_use": (1, 1200, 1200), "probability": (1, 8, 1200, 1200)}
    ds = xr.Dataset(
        {
            "land_use": (
                ("time", "lat", "lon"),
                da.zeros((25, 18000, 36000), dtype="u1", chunks=blocks_of["land_use"]),
            ),
            "probability": (
                ("time", "class", "lat", "lon"),
                da.zeros((25, 8, 18000, 36000), dtype="u1", chunks=blocks_of["probability"]),
            ),
        }
    )
    aligned, encoding = align(ds, None, None)
    for name, shape in blocks_of.items():
        assert encoding[name]["shards"] == shape
        chunks = encoding[name]["chunks"]
        assert math.prod(chunks) <= SHARDED_BYTES
        assert all(block % chunk == 0 for block, chunk in zip(shape, chunks, strict=True))
        assert aligned[name].data.chunksize == shape


def test_blocks_without_a_good_divisor_keep_whole_chunks_in_their_shards():
    data = da.zeros((1, 2 * 1201, 2 * 1201), dtype="u1", chunks=(1, 1201, 1201))
    _, encoding = align(xr.Dataset({"land_use": (("time", "lat", "lon"), data)}), None, True)
    assert encoding["land_use"]["chunks"] == (1, 1201, 1201)


def test_resuming_with_or_without_shards_is_refused(tmp_path):
    with pytest.raises(StopError):
        put(maps(fuse=Fuse(after=1)), tmp_path / "a.zarr", shards=True)
    with pytest.raises(StoreError, match=r"variable land_use \(shards\)"):
        put(maps(), tmp_path / "a.zarr", resume=True)


def test_chunks_divide_blocks_and_stay_small():
    for block in (1200, 3600, 2048, 2050):
        data = da.zeros((2, 2 * block, 3 * block), dtype="u1", chunks=(1, block, block))
        ds, encoding = align(xr.Dataset({"land_use": (("time", "lat", "lon"), data)}), None)
        time, rows, columns = encoding["land_use"]["chunks"]
        assert time == 1
        assert block % rows == 0
        assert block % columns == 0
        assert CHUNK_BYTES / 16 <= rows * columns <= CHUNK_BYTES
        assert ds.land_use.data.chunksize == (1, block, block)


def test_blocks_without_a_common_divisor_become_even():
    data = da.zeros((1, 3000, 3001), dtype="u1", chunks=(1, (137, 1200, 1200, 463), 3001))
    ds, encoding = align(xr.Dataset({"land_use": (("time", "lat", "lon"), data)}), None)
    assert encoding["land_use"]["chunks"] == (1, 1024, 1501)
    assert ds.land_use.chunks[1] == (1024, 1024, 952)


def test_chunks_that_are_asked_for_are_kept(tmp_path):
    path = write(maps(), tmp_path / "a.zarr", chunks={"lat": 2, "lon": 8}, progress=False)
    assert zarr.open_array(path, path="land_use", mode="r").chunks == (1, 2, 8)
    xr.testing.assert_identical(open_store(path).load(), maps().compute())
    with pytest.raises(StoreError, match="x=2"):
        write(maps(), tmp_path / "b.zarr", chunks={"x": 2})
