from __future__ import annotations

import hashlib
import multiprocessing
import pickle
import shutil
from functools import lru_cache

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.store.damage import change_root, flip
from tests.training.data.region import COLUMNS, ROWS, YEARS, make
from tests.worlds import FACTOR
from xland.errors import StoreError
from xland.training.data.loader import Place
from xland.training.data.material import gather
from xland.training.data.stored import (
    CONTENTS,
    ChunkedArray,
    StoredArrays,
    hash_array,
    open_chunks,
    open_training_store,
)


@lru_cache(maxsize=2)
def in_memory(*, own_prior):
    configuration, sources = make(own_prior=own_prior)
    return gather(configuration, **sources)[1].source


@pytest.fixture
def copied(stores, tmp_path):
    """Return a store that may be damaged."""
    return shutil.copytree(stores(), tmp_path / "copy.zarr")


@st.composite
def places(draw):
    row = draw(st.integers(0, ROWS // FACTOR - 1)) * FACTOR
    column = draw(st.integers(0, COLUMNS // FACTOR - 1)) * FACTOR
    height, width = draw(st.integers(1, min(50, ROWS - row))), draw(st.integers(1, min(50, COLUMNS - column)))
    return Place(draw(st.integers(0, len(YEARS) - 1)), slice(row, row + height), slice(column, column + width))


def assert_equal_samples(stored, wanted):
    for one, other in zip(stored, wanted, strict=True):
        assert one.keys() == other.keys()
        for name, values in other.items():
            assert one[name].dtype == values.dtype
            np.testing.assert_array_equal(one[name], values, name)


@settings(max_examples=8, deadline=None)
@given(
    st.lists(places(), min_size=1, max_size=4),
    st.sampled_from([(12, False), (40, True), (1000, False)]),
    st.sampled_from([0, 20_000, 10**8]),
)
def test_patches_are_those_of_the_arrays_in_memory(stores, wanted, store, cache):
    tile, own_prior = store
    source = open_training_store(stores(tile, own_prior=own_prior), cache=cache)
    for _ in range(2):
        assert_equal_samples(source.read(wanted), in_memory(own_prior=own_prior).read(wanted))


def test_what_a_source_says_of_itself_depends_on_content_but_not_on_tiles(stores):
    source, other, memory = open_training_store(stores()), open_training_store(stores(12)), in_memory(own_prior=False)
    assert (source.years, source.shape, source.chunk) == (YEARS, (ROWS, COLUMNS), (40, 40))
    for year in range(2):
        np.testing.assert_array_equal(source.class_counts(year), memory.class_counts(year))
    assert source.hashes.keys() == {"coarse", "static", "counted", "maps", "class_counts"}
    assert other.hashes == source.hashes
    own = open_training_store(stores(40, own_prior=True)).hashes
    assert own["static"] == source.hashes["static"]
    assert own["maps"] != source.hashes["maps"]


def test_a_chunk_is_decoded_once_for_all_patches_and_years_that_need_it(stores, monkeypatch):
    decoded = []
    read = ChunkedArray.read
    monkeypatch.setattr(
        ChunkedArray, "read", lambda own, index: decoded.append((own.folder.name, index)) or read(own, index)
    )
    around = [Place(year, slice(20, 60), slice(column, column + 40)) for year in (0, 1) for column in (20, 40, 60)]
    source = open_training_store(stores(), cache=0)
    source.read(around)
    assert len(decoded) == len(set(decoded))
    # tiles of 2 rows and 3 columns: static channels, which pixels count, maps of three years; forcing of three
    assert len(decoded) == 6 * (1 + 1 + 3) + 3
    source = open_training_store(stores(), cache=10**8)
    source.read(around[:3])
    decoded.clear()
    source.read(around[3:])
    assert {name for name, _ in decoded} == {"maps", "coarse"}
    assert {index[0] for _, index in decoded} == {2}, "the map of 2000 was a target before, and is a prior now"


def test_a_copy_in_another_process_reads_the_same(stores):
    wanted = [Place(1, slice(20, 60), slice(40, 80))]
    source = open_training_store(stores())
    expected = source.read(wanted)
    assert_equal_samples(pickle.loads(pickle.dumps(source)).read(wanted), expected)
    assert len(pickle.dumps(source)) < 20_000, "decoded chunks stay behind"
    with multiprocessing.get_context("fork").Pool(1) as pool:
        assert_equal_samples(pool.apply(source.read, (wanted,)), expected)


def test_what_is_not_a_training_store_is_refused(tmp_path):
    zarr.open_group(tmp_path / "other.zarr", mode="w")
    for path, message in (
        (tmp_path / "none.zarr", "there is no store at"),
        (tmp_path / "other.zarr", r"other\.zarr is not a training store: make one with `xland prepare`"),
        ("s3://bucket/store.zarr", "has to be on this machine"),
    ):
        with pytest.raises(StoreError, match=message):
            open_training_store(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a[CONTENTS].update(format=7), "of format 7, and this release reads 1"),
        (lambda a: a[CONTENTS].pop("grid"), "table of contents of .* is damaged: KeyError"),
        (lambda a: a[CONTENTS]["years"].update(maps=[2000]), "table of contents of .* is damaged: .*years of pairs"),
        (lambda a: a[CONTENTS]["inputs"].update(factor=0), "table of contents of .* is damaged"),
        (lambda a: a.update(xland_complete=False), "is incomplete"),
    ],
)
def test_a_store_of_another_kind_is_refused_by_name(copied, change, message):
    change_root(copied, change)
    with pytest.raises(StoreError, match=message):
        open_training_store(copied)


def test_a_map_that_was_damaged_is_found_when_it_is_read_with_digests_or_without(copied):
    """Without digests, by the checksums of the chunks."""
    contents = open_training_store(copied).contents
    where = [Place(0, slice(40, 64), slice(0, COLUMNS))]
    file = copied / "maps" / "c" / "1" / "1" / "0"
    content = file.read_bytes()

    def damaged(own):
        with pytest.raises(StoreError, match=r"is damaged: maps/c/1/1/0 was altered"):
            pickle.loads(pickle.dumps(open_training_store(copied))).read(where)
        if own:
            with pytest.raises(StoreError, match=own):
                StoredArrays(str(copied), contents).read(where)

    flip(file, len(content) // 2)
    damaged(r"maps: chunk 1\.1\.\d cannot be read .*the store is damaged")
    file.write_bytes(content[:50])
    damaged(r"maps: chunk 1\.1\.0 cannot be read .*fewer than its index")
    shutil.copyfile(copied / "maps" / "c" / "1" / "0" / "0", file)
    damaged(None)
    shutil.rmtree(copied / "maps")
    with pytest.raises(StoreError, match="lacks the array maps"):
        open_training_store(copied).read(where)


def test_an_array_that_was_altered_is_found_when_the_store_is_verified(copied):
    contents = open_training_store(copied, verify=True).contents
    StoredArrays(str(copied), contents).verify()
    zarr.open_array(copied / "static", mode="r+")[0, 30, 100] += 1
    with pytest.raises(StoreError, match=r"damaged in 1 of \d+ files: static/c/0/\d+/\d+ was altered"):
        open_training_store(copied, verify=True)
    with pytest.raises(StoreError, match="is damaged: static no longer have the content"):
        StoredArrays(str(copied), contents).verify()


@pytest.mark.parametrize("shards", [None, (2, 8, 6)])
@pytest.mark.parametrize("compressor", [zarr.codecs.ZstdCodec(), zarr.codecs.BloscCodec()])
def test_chunks_are_those_that_zarr_reads_and_a_hash_is_that_of_the_content_field_by_field(
    tmp_path, shards, compressor
):
    values = np.arange(3 * 13 * 9, dtype=np.float32).reshape(3, 13, 9)
    values[2, 8:] = 0
    with zarr.config.set({"array.write_empty_chunks": True}):
        array = zarr.create_array(
            tmp_path / "a", shape=values.shape, chunks=(1, 4, 3), shards=shards, dtype="f4", compressors=(compressor,)
        )
        array[:] = values
    chunks = open_chunks(tmp_path / "a")
    padded = np.zeros((3, 16, 9), np.float32)
    padded[:, :13] = values
    for index in np.ndindex(3, 4, 3):
        wanted = padded[index[0], None, index[1] * 4 : index[1] * 4 + 4, index[2] * 3 : index[2] * 3 + 3]
        np.testing.assert_array_equal(chunks.read(index), wanted)
    fields = b"".join(hashlib.sha256(field.tobytes()).digest() for field in values)
    assert hash_array(chunks) == hashlib.sha256(fields).hexdigest()


@pytest.mark.parametrize("shards", [None, (1, 8, 6)])
def test_chunks_that_are_not_there_are_named_and_never_taken_for_0(tmp_path, shards):
    array = zarr.create_array(tmp_path / "a", shape=(2, 8, 6), chunks=(1, 4, 3), shards=shards, dtype="f4")
    array[0, :4, :3] = 1
    chunks = open_chunks(tmp_path / "a")
    assert (chunks.read((0, 0, 0)) == 1).all()
    for index in ((0, 1, 1), (1, 0, 0)):
        with pytest.raises(StoreError, match=rf"chunk {index[0]}\.{index[1]}\.{index[2]} cannot be read"):
            chunks.read(index)


@pytest.mark.parametrize("layout", [{"compressors": (zarr.codecs.GzipCodec(),)}, {"compressors": None}])
def test_arrays_of_another_make_are_refused(tmp_path, layout):
    zarr.create_array(tmp_path / "a", data=np.zeros((4, 4)), **layout)
    with pytest.raises(StoreError, match="is not that of a training store: expected"):
        open_chunks(tmp_path / "a")
