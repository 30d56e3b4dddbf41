"""What becomes far larger than was declared is found out before it is unpacked."""

from __future__ import annotations

import gzip
import json
import tracemalloc
import uuid
import zlib

import fsspec
import numcodecs
import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.untrusted import maps as untrusted_maps
from xland.errors import StoreError
from xland.sources.files import open_coarse
from xland.store.reading import open_store
from xland.untrusted.stores import fits

ZEROS = bytes(2**24)
PACKERS = {
    "gzip": lambda content: gzip.compress(content) + gzip.compress(content[:9]),
    "zlib": zlib.compress,
    "zstd": numcodecs.Zstd().encode,
    "blosc": numcodecs.Blosc("zstd").encode,
    "lz4": numcodecs.LZ4().encode,
}


def zstd_without_size(blocks: int) -> bytes:
    """Frame of blocks that each repeat one byte 128 KiB long, which does not say what it becomes."""
    head = (0xFD2FB528).to_bytes(4, "little") + bytes([0, 0x38])
    each = [((2**17 << 3) | 2 | (number == blocks - 1)).to_bytes(3, "little") + b"\0" for number in range(blocks)]
    return head + b"".join(each)


@pytest.mark.parametrize("name", sorted(PACKERS))
def test_what_a_chunk_becomes_is_known_within_the_memory_that_is_allowed(name):
    packed, size = PACKERS[name](ZEROS), len(ZEROS) + 9 * (name == "gzip")
    assert len(packed) < 2**17
    assert fits(packed, [{"id": name}], size, size)
    assert not fits(packed, [{"name": f"numcodecs.{name}", "configuration": {}}], size, size - 1)
    tracemalloc.start()
    try:
        assert not fits(packed, [{"name": "bytes"}, {"name": name}], 10, 2**20)
        assert tracemalloc.get_traced_memory()[1] < len(ZEROS)
    finally:
        tracemalloc.stop()


def test_packing_twice_hides_nothing():
    twice = gzip.compress(zlib.compress(ZEROS))
    assert not fits(twice, [{"id": "zlib"}, {"id": "gzip"}], 10, 2**20)
    checked = numcodecs.CRC32().encode(zlib.compress(ZEROS)).tobytes()
    assert not fits(checked, [{"id": "zlib"}, {"id": "crc32"}], 10, 2**20)
    assert fits(twice, [{"id": "zlib"}, {"id": "gzip"}], 10, 2**24)


def test_frames_of_zstandard_that_do_not_say_their_size_are_counted():
    packed = zstd_without_size(64)
    np.testing.assert_array_equal(np.frombuffer(numcodecs.Zstd().decode(packed), "u1"), np.zeros(2**23, "u1"))
    assert fits(packed, ["zstd"], 1, 2**23)
    assert not fits(packed, ["zstd"], 1, 2**23 - 1)
    assert not fits(PACKERS["zstd"](b"a" * 9) + packed, ["zstd"], 1, 2**23)


def test_text_may_not_be_more_pieces_than_cells():
    packed = numcodecs.VLenUTF8().encode(np.array(["a", "bc"], dtype=object))
    assert fits(packed, [{"id": "vlen-utf8"}], 2, 100)
    assert not fits((2**31).to_bytes(4, "little") + packed[4:], [{"id": "vlen-utf8"}], 2, 100)


@settings(max_examples=40, deadline=None)
@given(st.binary(max_size=60), st.sampled_from([*PACKERS, "crc32c", "vlen-utf8", "sharding_indexed", "unknown"]))
def test_damage_is_left_to_readers(content, name):
    for head in (b"", (0xFD2FB528).to_bytes(4, "little")):
        assert fits(head + content, [{"name": name, "configuration": {}}], 2**40, 2**65)


def maps() -> xr.Dataset:
    return untrusted_maps.maps(day=("lat", np.arange(6), {"units": "days since 2000-01-01"}))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("variable", ["lat", "day"])
@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("behind", [False, True])
@pytest.mark.parametrize("opened", [open_store, open_coarse])
def test_a_bomb_in_a_coordinate_is_refused_by_name(tmp_path, variable, version, behind, opened):
    path = tmp_path / "a.zarr"
    maps().to_zarr(path, zarr_format=version, consolidated=False)
    assert opened(path)["lat"].size == 6
    (path / variable / ("0" if version == 2 else "c/0")).write_bytes(PACKERS["zstd"](bytes(2**25)))
    if version == 2:
        metadata = json.loads((path / variable / ".zarray").read_text())
        (path / variable / ".zarray").write_text(json.dumps({**metadata, "compressor": {"id": "zstd", "level": 0}}))
    if behind:
        url = f"memory://{uuid.uuid4().hex}/a.zarr"
        fsspec.filesystem("memory").put(str(path), url.removeprefix("memory:/"), recursive=True)
    with pytest.raises(StoreError, match=rf"'{variable}': its chunk \S*0 becomes more than"):
        opened(url if behind else path)


@pytest.mark.filterwarnings("ignore")
def test_shards_are_looked_into(tmp_path):
    path = tmp_path / "a.zarr"
    encoding = {"lat": {"chunks": (3,), "shards": (6,)}}
    maps().to_zarr(path, zarr_format=3, consolidated=False, encoding=encoding)
    shard = path / "lat" / "c" / "0"
    xr.testing.assert_equal(open_store(path).load(), xr.decode_cf(maps()))
    packed, content = PACKERS["zstd"](bytes(2**25)), shard.read_bytes()
    table = np.frombuffer(content[-36:-4], "<u8").reshape(2, 2).copy()
    table[1] = len(content) - 36, len(packed)
    index = numcodecs.CRC32C(location="end").encode(table.tobytes())
    shard.write_bytes(content[:-36] + packed + bytes(np.asarray(index)))
    with pytest.raises(StoreError, match="'lat': its chunk c/0 becomes more than"):
        open_store(path)
