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


def test_the_chunks_of_a_block_are_in_one_file_if_that_is_asked_for_or_there_were_too_many(tmp_path, monkeypatch):
    ds, chunks = maps(years=2, rows=8, columns=12, block=(4, 6)), {"lat": 2, "lon": 3}
    monkeypatch.setattr(blocks, "MOST_FILES", 31)
    plain, many, asked = (
        put(ds, tmp_path / f"{shards}.zarr", chunks=chunks, shards=shards) for shards in (False, None, True)
    )
    # one block of each year is ocean, and never written
    assert files(plain) == 2 * (16 - 4)
    assert files(many) == files(asked) == 2 * (4 - 1)
    array = zarr.open_array(many, path="land_use", mode="r")
    assert (array.chunks, array.shards) == ((1, 2, 3), (1, 4, 6))
    monkeypatch.setattr(blocks, "MOST_FILES", 32)
    few = put(ds, tmp_path / "few.zarr", chunks=chunks)
    assert zarr.open_array(few, path="land_use", mode="r").shards is None
    xr.testing.assert_identical(open_store(many).load(), open_store(few).load())


def lazy(*shape: int, chunks: tuple) -> xr.Dataset:
    dims = ("time", "class", "lat", "lon") if len(shape) == 4 else ("time", "lat", "lon")
    return xr.Dataset({"land_use": (dims, da.zeros(shape, dtype="u1", chunks=chunks))})


def test_probabilities_of_the_globe_would_be_a_million_files_and_become_as_many_as_blocks():
    block = (1, 8, 1200, 1200)
    ds, encoding = align(lazy(25, 8, 18000, 36000, chunks=block), None, None)
    chunks = encoding["land_use"]["chunks"]
    assert encoding["land_use"]["shards"] == ds.land_use.data.chunksize == block
    assert math.prod(chunks) <= SHARDED_BYTES
    assert all(whole % chunk == 0 for whole, chunk in zip(block, chunks, strict=True))


def test_resuming_with_or_without_shards_is_refused(tmp_path):
    with pytest.raises(StopError):
        put(maps(fuse=Fuse(after=1)), tmp_path / "a.zarr", shards=True)
    with pytest.raises(StoreError, match=r"variable land_use \(shards\)"):
        put(maps(), tmp_path / "a.zarr", resume=True)


@pytest.mark.parametrize("block", [1200, 3600, 2048, 2050])
def test_chunks_divide_blocks_and_stay_small(block):
    ds, encoding = align(lazy(2, 2 * block, 3 * block, chunks=(1, block, block)), None)
    time, rows, columns = encoding["land_use"]["chunks"]
    assert time == 1
    assert block % rows == block % columns == 0
    assert CHUNK_BYTES / 16 <= rows * columns <= CHUNK_BYTES
    assert ds.land_use.data.chunksize == (1, block, block)


def test_blocks_without_a_good_divisor_become_even_or_keep_whole_chunks_in_their_shards():
    ds, encoding = align(lazy(1, 3000, 3001, chunks=(1, (137, 1200, 1200, 463), 3001)), None)
    assert encoding["land_use"]["chunks"] == (1, 1024, 1501)
    assert ds.land_use.chunks[1] == (1024, 1024, 952)
    _, encoding = align(lazy(1, 2 * 1201, 2 * 1201, chunks=(1, 1201, 1201)), None, True)
    assert encoding["land_use"]["chunks"] == (1, 1201, 1201)


def test_chunks_that_are_asked_for_are_kept(tmp_path):
    path = write(maps(), tmp_path / "a.zarr", chunks={"lat": 2, "lon": 8}, progress=False)
    assert zarr.open_array(path, path="land_use", mode="r").chunks == (1, 2, 8)
    xr.testing.assert_identical(open_store(path).load(), maps().compute())
    with pytest.raises(StoreError, match="x=2"):
        write(maps(), tmp_path / "b.zarr", chunks={"x": 2})
