from __future__ import annotations

import json
import os
import shutil
import warnings

import numpy as np
import pytest
import xarray as xr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from xland.errors import StoreError
from xland.store import open_store
from xland.strangers.stores import check_store

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
    codes = np.arange(48, dtype=np.uint8).reshape(6, 8)
    names = xr.DataArray(np.array(["a", "bc"]), dims="kind")
    return xr.Dataset(
        {"land_use": (("lat", "lon"), codes), "names": names}, {"lat": 3 - np.arange(6.0), "lon": np.arange(8.0)}
    )


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


@pytest.mark.parametrize("codec", ["pickle", "json2", "msgpack2", "vlen-bytes", "categorize", "unknown"])
def test_codecs_that_are_not_known_are_refused(store, codec):
    change(store, "land_use", **({"compressor": {"id": codec}} if is_2(store) else {"codecs": [{"name": codec}]}))
    with pytest.raises(StoreError, match=f"'land_use' wants the codec '{codec}'"):
        open_store(store)


def test_python_objects_are_refused(store):
    new = {"dtype": "|O", "filters": None} if is_2(store) else {"data_type": "variable_length_bytes"}
    change(store, "land_use", **new)
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
        ([6.5, 8], [6, 8], "whole numbers"),
        ([True, 8], [6, 8], "whole numbers"),
        ("68", [6, 8], "whole numbers"),
    ],
)
def test_sizes_that_no_machine_could_hold_are_refused(store, shape, chunks, named):
    grid = (
        {"chunks": chunks}
        if is_2(store)
        else {"chunk_grid": {"name": "regular", "configuration": {"chunk_shape": chunks}}}
    )
    change(store, "land_use", shape=shape, **grid)
    with pytest.raises(StoreError, match=named):
        open_store(store)


def test_a_coordinate_that_would_fill_the_memory_is_refused(store):
    change(store, "lat", shape=[2**23])
    with pytest.raises(StoreError, match="is a coordinate of 8388608 cells"):
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


def test_metadata_of_gigabytes_are_not_read(store):
    with (store / (".zmetadata" if is_2(store) else "zarr.json")).open("w") as stream:
        stream.truncate(2**33)
    with pytest.raises(StoreError, match="larger than metadata can be"):
        open_store(store)


def test_a_file_that_is_larger_than_a_chunk_can_be_is_refused(store):
    chunk = next(path for path in (store / "lat").rglob("*") if path.is_file() and path.name[0] not in ".z")
    with chunk.open("w") as stream:
        stream.truncate(2**33)
    with pytest.raises(StoreError, match="'lat' has a file of 8589934592 bytes"):
        open_store(store)


def test_links_that_lead_out_and_pipes_are_refused(store, tmp_path):
    (tmp_path / "secret").mkdir()
    (store / "more").symlink_to(tmp_path / "secret")
    with pytest.raises(StoreError, match="link that leads out of it: more"):
        open_store(store)
    (store / "more").unlink()
    os.mkfifo(store / "lat" / "pipe")
    with pytest.raises(StoreError, match="pipe, socket or device"):
        open_store(store)


def test_links_within_a_store_are_followed_but_not_for_ever(store):
    (store / "lat" / "back").symlink_to(store)
    (store / "other").symlink_to(store / "lat")
    check_store(str(store))


@given(data=st.data())
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
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
