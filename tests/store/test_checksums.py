from __future__ import annotations

import hashlib
import os
import pickle
import shutil
import uuid
import warnings
from functools import partial
from pathlib import Path

import dask
import dask.array as da
import h5py
import numpy as np
import pytest
import xarray as xr
import zarr

import tests.store.elsewhere  # noqa: F401
from tests.store.damage import change_root, flip
from tests.store.test_writing import Fuse, StopError, maps, put
from xland.cli import main
from xland.errors import StoreError, StoreWarning
from xland.store.reading import is_complete, open_store, store_digest, verify
from xland.store.workplace import Workplace, note, notes, parse_manifest
from xland.store.writing import write_netcdf
from xland.untrusted.folders import files_at

CHUNK = "land_use/c/1/1/1"


def make(folder: Path, *, shards: bool) -> Path:
    ds = maps(rows=8)
    ds["odds"] = (("time", "lat", "lon"), da.random.default_rng(1).random((2, 8, 8), chunks=(1, 3, 4)).astype("f4"))
    return put(ds.chunk(lat=4), folder / "a.zarr", shards=shards, chunks={"lat": 2, "lon": 2})


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return make(tmp_path_factory.mktemp("whole"), shards=False)


@pytest.fixture
def store(tmp_path, whole):
    return shutil.copytree(whole, tmp_path / "a.zarr")


def served(path) -> xr.Dataset:
    return open_store(path).load(scheduler="synchronous")


def test_the_table_is_that_of_sha256sum_and_no_reader_of_zarr_sees_it(store):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plain = xr.open_zarr(store, consolidated=False).load()
    beside = {"year", "time_bnds", "lat_bnds", "lon_bnds"}
    assert set(plain.variables) == {"land_use", "odds", "time", "lat", "lon"} | beside
    table = plain.attrs["xland_checksums"]
    lines = [line.split("  ") for line in (store / table).read_text().splitlines()]
    files = {file.relative_to(store).as_posix() for file in store.rglob("*") if file.is_file()}
    assert {name for _, name in lines} == files - {table}
    assert all(hashlib.sha256((store / name).read_bytes()).hexdigest() == digest for digest, name in lines)
    assert "xland_checksums" not in open_store(store).attrs
    assert (len(store_digest(store)), store_digest(store)) == (64, verify(store))


def test_chunks_carry_a_checksum_that_other_readers_compare(store):
    flip(store / CHUNK, 25)
    with pytest.raises(Exception, match=r"(?i)zstd|checksum"):
        zarr.open_array(store, path="land_use", mode="r")[:]


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (lambda s: (s / CHUNK).unlink(), f"{CHUNK} is missing"),
        (lambda s: flip(s / CHUNK, 9), f"{CHUNK} was altered"),
        (lambda s: (s / CHUNK).write_bytes((s / CHUNK).read_bytes()[:-1]), f"{CHUNK} was altered"),
        (lambda s: (s / CHUNK).write_bytes((s / "land_use/c/0/1/1").read_bytes()), f"{CHUNK} was altered"),
        (lambda s: shutil.rmtree(s / "land_use"), "land_use/.* is missing"),
        (lambda s: shutil.rmtree(s / "lat" / "c"), "lat/c/0 is missing"),
        (lambda s: flip(s / "lat" / "c" / "0", 70), "lat/c/0 was altered"),
        (lambda s: (s / "land_use" / "checksums.sha256").unlink(), "land_use/checksums.sha256 is missing"),
        (lambda s: flip(s / "land_use" / "checksums.sha256", 100), "was altered"),
        (lambda s: (s / "land_use" / "checksums.sha256").write_bytes(b""), "was altered"),
        (lambda s: alter(s / "zarr.json", b"a test", b"a rest"), "zarr.json was altered"),
        (lambda s: alter(s / "zarr.json", b"xland_checksums", b"xland_checksumz"), "zarr.json was altered"),
        (lambda s: alter(s / "zarr.json", b"consolidated_metadata", b"consolidated_metadatb"), "zarr.json was altered"),
    ],
)  # fmt: skip
def test_damage_is_named_when_it_is_read_and_when_all_is_verified(store, damage, named):
    damage(store)
    with pytest.raises(StoreError, match=rf"a\.zarr is damaged.*{named}.*copy the store again"):
        served(store)
    with pytest.raises(StoreError, match=named):
        open_store(store, verify=True)


@pytest.mark.parametrize("shards", [False, True])
def test_damage_behind_a_url_and_in_shards_is_named(tmp_path, shards):
    store = make(tmp_path, shards=shards)
    flip(store / CHUNK, 9)
    for address in (store, f"elsewhere://{store}"):
        with pytest.raises(StoreError, match=f"{CHUNK} was altered"):
            served(address)
        with pytest.raises(StoreError, match=f"{CHUNK} was altered"):
            verify(address)


def test_metadata_that_were_swapped_are_named_before_they_are_believed(store):
    (store / "lat" / "zarr.json").replace(store / "old")
    shutil.copyfile(store / "land_use" / "zarr.json", store / "lat" / "zarr.json")
    (store / "old").replace(store / "land_use" / "zarr.json")
    named = r"in 2 of \d+ files: land_use/zarr\.json was altered; lat/zarr\.json was altered; copy the store again"
    for read in (verify, partial(open_store, verify=True)):
        with pytest.raises(StoreError, match=named):
            read(store)


def alter(file: Path, old: bytes, new: bytes) -> None:
    content = file.read_bytes()
    assert old in content
    file.write_bytes(content.replace(old, new, 1))


def test_a_chunk_that_is_not_in_the_table_is_neither_sea_nor_data(tmp_path):
    store = put(maps(), tmp_path / "a.zarr")
    sea = store / "land_use" / "c" / "0" / "0" / "0"
    assert not sea.exists()
    shutil.copyfile(store / CHUNK, sea)
    (store / ".DS_Store").touch()
    with pytest.raises(StoreError, match="land_use/c/0/0/0 has no line in the table of digests"):
        served(store)
    with pytest.raises(StoreError, match=r"in 1 of \d+ files: land_use/c/0/0/0 does not belong to it;"):
        verify(store)


def test_lazy_values_are_compared_when_they_are_computed_also_in_another_process(store):
    lazy = open_store(store)
    copy = pickle.loads(pickle.dumps(lazy))
    flip(store / CHUNK, 9)
    for ds in (lazy, copy):
        assert ds.odds[0].values.any()
        with pytest.raises(StoreError, match=CHUNK), dask.config.set(scheduler="synchronous"):
            ds.land_use.compute()


def test_a_store_that_was_replaced_is_not_read_on_and_has_other_names_for_dask(tmp_path):
    path = put(maps(), tmp_path / "a.zarr")
    opened = open_store(path)
    old, name = pickle.dumps(opened), opened.land_use.data.name
    assert open_store(path).land_use.data.name == name
    put(maps().assign_attrs(title="another"), path, overwrite=True)
    assert open_store(path).land_use.data.name != name
    with pytest.raises(StoreError, match="was replaced after it had been opened; open it again"):
        pickle.loads(old).load(scheduler="synchronous")


def test_the_digest_is_that_of_all_that_is_stored(tmp_path):
    one, two = (put(maps(), tmp_path / name) for name in ("a.zarr", "b.zarr"))
    assert store_digest(one) == store_digest(two)
    change_root(two, lambda attributes: attributes.update(title="another"))
    assert store_digest(one) != verify(two)
    url = put(maps(), f"memory://{uuid.uuid4().hex}/a.zarr")
    assert store_digest(url) == store_digest(one)


def test_stores_without_digests_open_and_cannot_be_verified(tmp_path):
    maps().to_zarr(tmp_path / "b.zarr", zarr_format=3)
    xr.testing.assert_equal(served(tmp_path / "b.zarr"), maps().compute())
    assert store_digest(tmp_path / "b.zarr") is None
    with pytest.raises(StoreError, match="has no checksums"):
        verify(tmp_path / "b.zarr")


def test_the_command_says_what_is_damaged(store, capsys):
    assert main(["verify", str(store)]) == 0
    assert f"is whole; sha256 {store_digest(store)}" in capsys.readouterr().out
    for name in ("land_use/c/0/1/1", CHUNK):
        flip(store / name, 9)
    assert main(["verify", str(store)]) == 1
    assert "damaged in 2 of" in (said := capsys.readouterr().err)
    assert CHUNK in said


@pytest.mark.parametrize(
    ("behind", "damage"),
    [
        ("", lambda data: shutil.rmtree(data / "land_use" / "c")),
        ("elsewhere://", lambda data: flip(next(f for f in data.glob("land_use/c/**/*") if f.is_file()), 9)),
        ("", lambda data: (data / "lat" / "c" / "0").unlink()),
        ("elsewhere://", lambda data: flip(data / "zarr.json", 30)),
        ("", lambda data: (data / "land_use" / "c" / "1" / "0" / "0").write_bytes(b"not of this store")),
    ],
)
def test_what_a_growing_store_lost_is_written_again(tmp_path, damage, behind):
    target = f"{behind}{tmp_path}/a.zarr"
    options = {"shards": bool(behind), "chunks": {"lat": 2, "lon": 2}}
    with pytest.raises(StopError):
        put(maps(rows=7, block=(4, 4), fuse=Fuse(after=3)), target, **options)
    damage(tmp_path / "a.zarr" if behind else next((tmp_path / "a.zarr.partial").glob("data-*")))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", StoreWarning)
        put(maps(rows=7, block=(4, 4)), target, resume=True, **options)
    verify(target)
    xr.testing.assert_identical(served(target), maps(rows=7, block=(4, 4)).compute())


def test_a_lost_block_is_reported_and_only_it_is_computed_again(tmp_path):
    with pytest.raises(StopError):
        put(maps(fuse=Fuse(after=6)), tmp_path / "a.zarr")
    next((tmp_path / "a.zarr.partial").glob("data-*/land_use/c/0/1/1")).unlink()
    fuse = Fuse()
    with pytest.warns(StoreWarning, match=r"1 of 6 finished blocks .* are written again"):
        put(maps(fuse=fuse), tmp_path / "a.zarr", resume=True)
    assert fuse.count == 8 - 6 + 1


def test_chunks_lost_while_the_run_goes_on_are_not_published(tmp_path):
    class Thief(Fuse):
        def __call__(self, block):
            if self.count == 7:
                shutil.rmtree(next((tmp_path / "a.zarr.partial").glob("data-*")) / "land_use" / "c" / "0")
            return super().__call__(block)

    with pytest.raises(StoreError, match=r"files that were written are gone .* write again with resume=True"):
        put(maps(fuse=Thief()), tmp_path / "a.zarr")
    assert not is_complete(tmp_path / "a.zarr")
    with pytest.warns(StoreWarning):
        put(maps(), tmp_path / "a.zarr", resume=True)
    xr.testing.assert_identical(served(tmp_path / "a.zarr"), maps().compute())


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"NaN", b'{"format": 2}', b'{"sha256": "0", "manifest": "{}"}'])
def test_a_damaged_manifest_is_named_with_the_remedy(content):
    with pytest.raises(StoreError, match=r"manifest\.json is damaged; start again with overwrite=True"):
        parse_manifest(content, "manifest.json")


def test_a_store_begun_by_another_release_is_named_and_can_be_overwritten(tmp_path):
    (tmp_path / "a.zarr.partial").mkdir()
    (tmp_path / "a.zarr.partial" / "manifest.json").write_text('{"format": 1, "data": "data-1.zarr"}')
    with pytest.raises(StoreError, match="begun by another release of xland"):
        put(maps(), tmp_path / "a.zarr", resume=True)
    assert is_complete(put(maps(), tmp_path / "a.zarr", overwrite=True))


@pytest.mark.parametrize("scheme", ["", "elsewhere://"])
def test_notes_that_are_damaged_do_not_count(tmp_path, scheme):
    files = files_at(f"{scheme}{tmp_path}")
    note(files, "a:0", "run", {"x/c/0": "12"})
    note(files, "a:1", "run", {})
    assert notes(files) == {"a:0": [{"x/c/0": "12"}], "a:1": [{}]}
    for file in (tmp_path / "journal").iterdir():
        file.write_bytes(file.read_bytes().replace(b"12", b"13") + b"\xff torn")
    assert set(notes(files)) == {"a:1"}


def test_a_link_in_place_of_the_working_folder_is_not_followed(tmp_path):
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "lock").write_text("dear")
    (tmp_path / "a.zarr.partial").symlink_to(victim)
    for how in ({}, {"resume": True}, {"overwrite": True}):
        with pytest.raises(StoreError, match="exists, but the store is written to a folder of this name"):
            put(maps(), tmp_path / "a.zarr", **how)
    (tmp_path / "a.zarr.partial").unlink()
    (tmp_path / "a.zarr.partial").mkdir()
    for name in ("lock", "journal", "manifest.json"):
        (tmp_path / "a.zarr.partial" / name).symlink_to(victim / "lock")
        with pytest.raises(StoreError, match=rf"contains links \({name}\)"):
            put(maps(), tmp_path / "a.zarr", overwrite=True)
        (tmp_path / "a.zarr.partial" / name).unlink()
    assert (victim / "lock").read_text() == "dear"
    assert [each.name for each in victim.iterdir()] == ["lock"]


def test_a_working_folder_of_another_user_is_refused(tmp_path, monkeypatch):
    (tmp_path / "a.zarr.partial").mkdir()
    lstat = Path.lstat

    def of_another(self):
        return os.stat_result([*lstat(self)[:4], 12345, *lstat(self)[5:]])

    monkeypatch.setattr(Path, "lstat", of_another)
    with pytest.raises(StoreError, match="belongs to the user 12345"):
        Workplace(tmp_path / "a.zarr").refuse(overwrite=True, resume=False)


def test_links_that_lead_nowhere_and_paths_that_cannot_be_are_named(tmp_path):
    (tmp_path / "broken.zarr").symlink_to(tmp_path / "gone")
    (tmp_path / "loop.zarr").symlink_to(tmp_path / "loop.zarr")
    (tmp_path / "file").touch()
    for name, said in (
        ("broken.zarr", "broken.zarr"),
        ("loop.zarr", "loop.zarr"),
        ("a" * 250, "longer than the file system allows"),
        ("file/a.zarr", "is a file, not a folder"),
    ):
        for how in ({}, {"resume": True}, {"overwrite": True}):
            with pytest.raises(StoreError, match=said):
                put(maps(), tmp_path / name, **how)
        with pytest.raises(StoreError, match=name[:100]):
            open_store(tmp_path / name)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["broken.zarr", "file", "loop.zarr"]


def test_a_finished_store_on_a_disk_that_is_read_only_needs_nothing_to_be_resumed(tmp_path, monkeypatch):
    path = put(maps(), tmp_path / "a.zarr")

    def refuse(self, *arguments, **options):
        raise AssertionError("something was written")

    monkeypatch.setattr(Path, "mkdir", refuse)
    assert put(maps(), path, resume=True) == path


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda ds: ds.assign_attrs(made=object()), "attribute 'made' of the Dataset is of the type object"),
        (lambda ds: ds.assign_attrs({3: "three"}), "attribute 3 of the Dataset"),
        (lambda ds: ds.assign(land_use=ds.land_use.assign_attrs(z=1j)), "attribute 'z' of land_use .* complex"),
        (lambda ds: ds.stack(cell=("lat", "lon")), "index of several levels"),
        (lambda ds: ds.rename(lat="grid/lat"), "'grid/lat' cannot be the name of a variable"),
        (lambda ds: ds.rename(lon=".lon"), "'.lon' cannot be the name"),
        (lambda ds: ds.rename(land_use="zarr.json"), "'zarr.json' cannot be the name"),
        (lambda ds: ds.rename(land_use=5), "5 cannot be the name"),
        (lambda ds: ds.assign_coords({"a b": ("time", [1, 2])}), "coordinate 'a b' contains a blank"),
        (
            lambda ds: ds.assign_coords(time=np.array(["2000-01-01", "NaT"], "datetime64[ns]")),
            r"time has dates that are missing \(NaT\)",
        ),
    ],
)  # fmt: skip
def test_what_no_file_can_hold_is_named(tmp_path, change, named):
    with pytest.raises(StoreError, match=named):
        put(change(maps()), tmp_path / "a.zarr")
    with pytest.raises(StoreError, match=named):
        write_netcdf(change(maps()), tmp_path / "a.nc", progress=False)
    assert not list(tmp_path.iterdir())


def test_values_in_a_netcdf_file_carry_a_checksum_that_every_reader_compares(tmp_path):
    whole = write_netcdf(maps(), tmp_path / "a.nc", progress=False).read_bytes()
    with h5py.File(tmp_path / "a.nc") as file:
        places = {name: file[name].id.get_chunk_info(0) for name in file if file[name].chunks}
    assert {"land_use", "lat", "lon", "time", "year", "time_bnds", "lat_bnds", "lon_bnds"} <= places.keys()
    for name, place in places.items():
        damaged = bytearray(whole)
        damaged[place.byte_offset + place.size // 3] ^= 4
        (tmp_path / "b.nc").write_bytes(damaged)
        with h5py.File(tmp_path / "b.nc") as file, pytest.raises(OSError, match="filter returned failure"):
            file[name][...]


def test_a_failure_of_the_netcdf_library_is_named(tmp_path, monkeypatch):
    def fail(self, *arguments, **options):
        raise RuntimeError("NetCDF: HDF error")

    monkeypatch.setattr(xr.Dataset, "to_netcdf", fail)
    with pytest.raises(StoreError, match=r"a\.nc was not written .*MiB free, is full or cannot be written"):
        write_netcdf(maps(), tmp_path / "a.nc", progress=False)
    assert not list(tmp_path.iterdir())
