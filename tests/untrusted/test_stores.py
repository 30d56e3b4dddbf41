from __future__ import annotations

import gzip
import json
import os
import shutil
import warnings

import numpy as np
import pytest
import xarray as xr
import zarr.codecs as zarr_codecs
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.untrusted import maps as untrusted_maps
from xland.errors import StoreError
from xland.store.reading import is_complete, open_store, store_digest, verify
from xland.store.writing import write
from xland.untrusted.stores import check_store

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.sampled_from([-1, 0, 1, 2, 2**31, 2**62, 10**40, 0.5, float("nan"), "", "|O", "|V8", "pickle", "json2", ".."])
    | st.sampled_from(["float64", "zstd", "regular", "x" * 2000, "days since 9999999-01-01", "bytes"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["id", "name", "a"]), inner, max_size=3)
    ),
    max_leaves=6,
)


def maps() -> xr.Dataset:
    return untrusted_maps.maps(names=("kind", np.array(["a", "bc"])))


@pytest.fixture(scope="module", params=[2, 3])
def made(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("made") / "m.zarr"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        maps().to_zarr(path, zarr_format=request.param, consolidated=True)
    return path


@pytest.fixture
def store(made, tmp_path):
    return shutil.copytree(made, tmp_path / "m.zarr")


def change(store, name, **new):
    """Change the metadata of an array in both places where they stand."""
    if (store / "zarr.json").exists():
        own, whole = store / name / "zarr.json", store / "zarr.json"
        root = json.loads(whole.read_text())
        entries, key = root["consolidated_metadata"]["metadata"], name
    else:
        own, whole = store / name / ".zarray", store / ".zmetadata"
        root = json.loads(whole.read_text())
        entries, key = root["metadata"], f"{name}/.zarray"
    entries[key] = {**json.loads(own.read_text()), **new}
    own.write_text(json.dumps(entries[key]))
    whole.write_text(json.dumps(root))


def is_2(store):
    return not (store / "zarr.json").exists()


def test_stores_of_both_versions_are_opened(store):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        xr.testing.assert_equal(open_store(store).load(), maps())


def with_codecs(store, *codecs):
    new = {"filters": [{"id": codec} for codec in codecs[:-1]], "compressor": {"id": codecs[-1]}}
    return new if is_2(store) else {"codecs": [{"name": name} for name in ("bytes", *codecs)]}


@pytest.mark.parametrize("codec", ["pickle", "json2", "msgpack2", "vlen-bytes", "categorize", "unknown"])
def test_codecs_that_are_not_known_two_of_a_kind_and_python_objects_are_refused(store, codec):
    change(store, "land_use", **with_codecs(store, codec))
    with pytest.raises(StoreError, match=f"'land_use' wants the codec '{codec}'"):
        check_store(str(store))
    for two in (("zstd", "gzip"), ("sharding_indexed", "sharding_indexed")):
        change(store, "land_use", **with_codecs(store, *two))
        with pytest.raises(StoreError, match="one may compress"):
            open_store(store)
    new = {"dtype": "|O", "filters": None, "compressor": None}
    plain = {"data_type": "variable_length_bytes", "codecs": [{"name": "bytes"}]}
    change(store, "land_use", **(new if is_2(store) else plain))
    with pytest.raises(StoreError, match="has the type"):
        open_store(store)


@pytest.mark.parametrize(
    ("shape", "chunks", "named"),
    [
        ([2**40, 2**40], [2**40, 2**40], "says that it has"),
        ([2**20, 2**20], [2**20, 2**20], "more than can be read at once"),
        ([2**21, 2**21], [1, 2**20], "chunks"),
        ([2**19, 2**10], [1, 1], "files are there"),
        ([-6, 8], [6, 8], "whole numbers from 0"),
        ([6, 8], [0, 8], "whole numbers from 1"),
        ([6, 8], [6], "dimensions"),
        ([True, 8], [6, 8], "whole numbers"),
        ("68", [6, 8], "whole numbers"),
    ],
)
def test_sizes_that_no_machine_could_hold_are_refused(store, shape, chunks, named):
    grid = {"chunk_grid": {"name": "regular", "configuration": {"chunk_shape": chunks}}}
    change(store, "land_use", shape=shape, **({"chunks": chunks} if is_2(store) else grid))
    with pytest.raises(StoreError, match=named):
        open_store(store)


def test_metadata_that_differ_in_their_two_places_are_refused(store):
    own = store / "land_use" / (".zarray" if is_2(store) else "zarr.json")
    own.write_text(json.dumps({**json.loads(own.read_text()), "shape": [6, 9]}))
    with pytest.raises(StoreError, match=r"other metadata \(shape\)"):
        open_store(store)


@pytest.mark.parametrize(
    "content", ['{"a":' * 50_000, "9" * 10_000, "[]", '{"zarr_format": ' + "9" * 10_000 + "}", "\0"]
)
def test_damaged_metadata_are_named(store, content):
    (store / (".zmetadata" if is_2(store) else "zarr.json")).write_text(content)
    with pytest.raises(StoreError, match="damaged"):
        open_store(store)


def test_a_file_that_is_larger_than_a_chunk_can_be_is_refused(store):
    chunk = next(path for path in (store / "lat").rglob("*") if path.is_file() and path.name[0] not in ".z")
    with chunk.open("w") as stream:
        stream.truncate(2**33)
    with pytest.raises(StoreError, match="'lat' has a file of 8589934592 bytes"):
        open_store(store)


def test_links_that_lead_out_and_pipes_are_refused_and_others_not_followed_for_ever(store, tmp_path):
    (store / "lat" / "back").symlink_to(store)
    (store / "other").symlink_to(store / "lat")
    check_store(str(store))
    (tmp_path / "secret").mkdir()
    (store / "more").symlink_to(tmp_path / "secret")
    with pytest.raises(StoreError, match="link that leads out of it: more"):
        open_store(store)
    (store / "more").unlink()
    os.mkfifo(store / "lat" / "pipe")
    with pytest.raises(StoreError, match="pipe, socket or device"):
        open_store(store)


@given(data=st.data())
@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
def test_any_metadata_end_in_a_map_or_a_named_error(made, tmp_path_factory, data):
    store = shutil.copytree(made, tmp_path_factory.mktemp("any") / "m.zarr")
    name = data.draw(st.sampled_from(["land_use", "lat", "names"]))
    own = store / name / (".zarray" if is_2(store) else "zarr.json")
    key = data.draw(st.sampled_from(sorted(json.loads(own.read_text()))))
    change(store, name, **{key: data.draw(VALUES)})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            open_store(store)
        except StoreError:
            return


def array(shape, chunks, *, kind="float64", codec="bytes", dims=None):
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": shape,
        "data_type": kind,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": chunks}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": "" if kind != "float64" else 0,
        "codecs": [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": codec}][: 1 + (codec != "bytes")],
        "attributes": {},
        "dimension_names": dims,
    }


def store_of(path, arrays, **attributes):
    path.mkdir()
    together = {"kind": "inline", "must_understand": False, "metadata": arrays}
    root = {"zarr_format": 3, "node_type": "group", "attributes": attributes, "consolidated_metadata": together}
    (path / "zarr.json").write_text(json.dumps(root))
    for name, each in arrays.items():
        (path / name).mkdir()
        (path / name / "zarr.json").write_text(json.dumps(each))
    return path


TEXT = {"name": "fixed_length_utf32", "configuration": {"length_bytes": 4096}}
BOMBS = {
    "a coordinate": ({"c": array([2**23], [2**10], dims=["c"])}, "is a coordinate of 8388608 cells"),
    "many coordinates": ({f"c{i}": array([2**22], [2**22], dims=[f"c{i}"]) for i in range(3)}, "all read at once"),
    "long text": ({"c": array([2**20], [2**10], kind=TEXT, dims=["c"])}, "all read at once"),
    "text of any length": ({"c": array([2**22], [2**22], kind="string", codec="vlen-utf8", dims=["c"])}, "all read"),
    "a large chunk of a coordinate": ({"c": array([2**20], [2**24], dims=["c"])}, "all read at once"),
    "a large chunk of a small array": ({"v": array([8], [2**28 - 1])}, "but only 8 cells"),
    "many chunks": ({f"v{i}": array([10**6], [1]) for i in range(3)}, "chunks along dimensions"),
    "many arrays": ({f"v{i}": array([1], [1]) for i in range(1001)}, "has 1001 arrays"),
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_what_is_small_alone_and_too_much_together_is_refused(tmp_path, bomb):
    arrays, named = BOMBS[bomb]
    with pytest.raises(StoreError, match=named):
        check_store(str(store_of(tmp_path / "m.zarr", arrays)))


def test_a_file_that_unpacks_into_more_than_a_chunk_is_refused(tmp_path):
    store = store_of(tmp_path / "m.zarr", {"c": array([8], [8], codec="gzip", dims=["c"])})
    (store / "c" / "c").mkdir()
    (store / "c" / "c" / "0").write_bytes(gzip.compress(bytes(2**24)))
    with pytest.raises(StoreError, match="becomes more than 4194432 bytes when it is unpacked; 8 values were declared"):
        open_store(store)


@pytest.mark.parametrize("read", [open_store, verify, store_digest, is_complete])
def test_metadata_that_would_fill_the_memory_are_not_read(store, read):
    with (store / (".zmetadata" if is_2(store) and read is open_store else "zarr.json")).open("wb") as file:
        file.truncate(2**40)
    if read is is_complete:
        assert not read(store)
    else:
        with pytest.raises(StoreError, match="more than 4 MiB"):
            read(store)


def test_what_could_not_be_opened_is_refused_before_it_is_written(tmp_path, monkeypatch):
    ds = maps().assign_attrs(note="x" * (5 * 2**20))
    with pytest.raises(StoreError, match=r"zarr\.json is larger than metadata can be: shorten the attributes"):
        write(ds, tmp_path / "m.zarr", progress=False)
    codecs = {"land_use": {"compressors": (zarr_codecs.ZstdCodec(), zarr_codecs.GzipCodec())}}
    with pytest.raises(StoreError, match="what is to be written: 'land_use' names 3 codecs, of which one may compress"):
        write(maps(), tmp_path / "m.zarr", encoding=codecs, progress=False)
    monkeypatch.setattr("xland.untrusted.stores._MOST_ARRAYS", 10)
    with pytest.raises(StoreError, match="what is to be written has 12 arrays; more than 10 are not opened"):
        write(xr.Dataset({f"v{n}": 0 for n in range(12)}), tmp_path / "m.zarr", progress=False)
    assert list(tmp_path.iterdir()) == []
