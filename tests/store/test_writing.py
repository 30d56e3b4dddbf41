from __future__ import annotations

import fcntl
import hashlib
import json
import os
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr
import zarr
from dask.base import tokenize

from xland.errors import StoreError
from xland.geo.conventions import for_files, with_years
from xland.store.blocks import BlockWriter
from xland.store.provenance import bounds, describe_product
from xland.store.reading import is_complete, open_store
from xland.store.writing import write, write_netcdf


class StopError(Exception):
    pass


class Fuse:
    """Counts the blocks that are computed, and breaks off before one of them."""

    def __init__(self, after: int | None = None, error: type[BaseException] = StopError):
        self.after, self.error, self.count = after, error, 0

    def __call__(self, block: np.ndarray) -> np.ndarray:
        if self.after is not None and self.count >= self.after:
            raise self.error
        self.count += 1
        return block


BESIDE = ["lat_bnds", "lon_bnds", "time_bnds", "spatial_ref"]
"""What a plain xarray does not take for coordinates."""


def maps(
    years: int = 2, rows: int = 6, columns: int = 8, block: tuple[int, int] = (3, 4), fuse: Fuse | None = None
) -> xr.Dataset:
    codes = np.random.default_rng(7).integers(1, 8, (years, rows, columns)).astype(np.uint8)
    codes[:, : block[0], : block[1]] = 0
    # called after what they are, whatever the fuse does
    data = da.from_array(codes, chunks=(1, *block)).map_blocks(
        fuse or Fuse(), name=f"maps-{tokenize(codes, block)}", dtype=np.uint8, meta=np.empty((0, 0, 0), np.uint8)
    )
    ds = xr.Dataset(
        {"land_use": (("time", "lat", "lon"), data, {"flag_values": np.arange(8, dtype=np.uint8)})},
        coords={
            "lat": ("lat", 60 - 0.25 * (np.arange(rows) + 0.5)),
            "lon": ("lon", 0.25 * (np.arange(columns) + 0.5)),
        },
        attrs={"title": "a test", "history": "made today"},
    )
    return for_files(with_years(ds, range(2000, 2000 + years)))


def with_plain_years(ds: xr.Dataset) -> xr.Dataset:
    """Return maps as earlier versions wrote them."""
    return (
        ds.drop_vars(["year", "time_bnds", "lat_bnds", "lon_bnds"]).assign_coords(time=ds.year.values).drop_encoding()
    )


def digest(store: Path) -> dict[str, str]:
    return {
        str(file.relative_to(store)): json.dumps(json.loads(file.read_text()), sort_keys=True)
        if file.name == "zarr.json"
        else hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(store.rglob("*"))
        if file.is_file()
    }


@contextmanager
def on_threads(count: int) -> Iterator[None]:
    """Have dask compute on so many threads, none of which is at work afterwards; on the caller's if none."""
    if not count:
        with dask.config.set(scheduler="synchronous"):
            yield
        return
    with ThreadPoolExecutor(count) as pool, dask.config.set(scheduler="threads", pool=pool):
        yield


def put(ds: xr.Dataset, path: Path, **options: Any) -> Path:
    with dask.config.set(scheduler="synchronous"):
        return write(ds, path, progress=False, **options)


def test_a_store_reads_back_as_it_was_written(tmp_path):
    ds = maps()
    ds["probability"] = (
        ("time", "class", "lat", "lon"),
        da.random.default_rng(1).random((2, 8, 6, 8), chunks=(1, 4, 6, 8)).astype("float32").persist(),
    )
    ds["mask"] = (("lat", "lon"), da.ones((6, 8), dtype="int16", chunks=(2, 8)))
    ds["share"] = (("lat", "lon"), np.full((6, 8), np.nan))
    ds["scalar"] = 3
    ds = ds.assign_coords({"class": list("abcdefgh")})
    path = write(ds, tmp_path / "new" / "a.zarr", progress=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = open_store(path)
        xr.testing.assert_identical(found.load(), ds.compute())
    assert [entry.name for entry in path.parent.iterdir()] == ["a.zarr"]
    assert found.land_use.dtype == np.uint8
    assert found.land_use.attrs["flag_values"].dtype == np.uint8


def test_zero_stays_a_class_and_blocks_of_ocean_are_not_written(tmp_path):
    path = put(maps(years=1), tmp_path / "a.zarr")
    array = zarr.open_array(path, path="land_use", mode="r")
    assert array.fill_value == 0
    assert array.metadata.zarr_format == 3
    assert "_FillValue" not in array.attrs
    assert sorted(str(f.relative_to(path)) for f in (path / "land_use" / "c").rglob("*") if f.is_file()) == [
        "land_use/c/0/0/1", "land_use/c/0/1/0", "land_use/c/0/1/1",
    ]  # fmt: skip
    assert xr.open_zarr(path).land_use.dtype == np.uint8


def test_an_interruption_says_how_to_go_on(tmp_path):
    with pytest.raises(KeyboardInterrupt) as caught:
        put(maps(fuse=Fuse(after=3, error=KeyboardInterrupt)), tmp_path / "a.zarr")
    assert "3 of 8 blocks are safe" in caught.value.__notes__[0]
    assert "resume=True" in caught.value.__notes__[0]
    assert not list((tmp_path / "a.zarr.partial").glob("active-*"))


@pytest.mark.parametrize("how", [{"overwrite": True}, {"resume": True}, {}, {"mode": "w"}])
def test_folders_and_files_that_are_not_a_store_are_never_deleted(tmp_path, how):
    folder, file = tmp_path / "home", tmp_path / "thesis.txt"
    (folder / "photos").mkdir(parents=True)
    (folder / "photos" / "a.jpg").write_text("dear")
    file.write_text("dear")
    for path in (folder, file):
        with pytest.raises(StoreError):
            put(maps(), path, **how)
    assert (folder / "photos" / "a.jpg").read_text() == file.read_text() == "dear"
    assert sorted(each.name for each in tmp_path.iterdir()) == ["home", "thesis.txt"]
    with pytest.raises(StoreError, match="is a folder"):
        write_netcdf(maps(), folder, overwrite=True, progress=False)


def test_what_appears_while_a_store_is_written_is_not_deleted_either(tmp_path):
    path = put(maps(), tmp_path / "a.zarr")
    with pytest.raises(StopError):
        put(maps(years=3, fuse=Fuse(after=1)), path, overwrite=True)
    path.rename(tmp_path / "elsewhere")
    path.mkdir()
    (path / "notes.txt").write_text("dear")
    with pytest.raises(StoreError, match="left alone"):
        put(maps(years=3), path, resume=True)
    assert (path / "notes.txt").read_text() == "dear"


def test_empty_folders_and_stores_of_either_zarr_format_are_replaced(tmp_path):
    (tmp_path / "empty.zarr").mkdir()
    maps().to_zarr(tmp_path / "two.zarr", zarr_format=2)
    for name in ("empty.zarr", "two.zarr"):
        xr.testing.assert_equal(open_store(put(maps(), tmp_path / name, overwrite=True)).load(), maps().compute())


def test_resuming_with_other_work_is_refused_and_says_what_differs(tmp_path):
    ds = maps()
    others = {
        r"attributes \(xland_fingerprint\)": ds.assign_attrs(xland_fingerprint="another model"),
        r"variable time \(digest\)": ds.assign_coords(time=[1990, 1991]),
        "variable cover": ds.rename(land_use="cover"),
        r"variable land_use \(chunks|variable land_use \(dtype": ds.astype("int16"),
        r"variable land_use \(blocks, chunks\)": ds.chunk(lat=2),
        "variable lon": ds.isel(lon=slice(4)),
        r"values of variable land_use \(values drawn at random": (ds + 0).assign_attrs(ds.attrs),
    }
    with pytest.raises(StopError):
        put(maps(fuse=Fuse(after=1)), tmp_path / "a.zarr")
    for named, other in others.items():
        with pytest.raises(StoreError, match=named):
            put(other, tmp_path / "a.zarr", resume=True)
    put(ds, tmp_path / "a.zarr", resume=True)
    for other in others.values():
        with pytest.raises(StoreError, match="complete and has other content"):
            put(other, tmp_path / "a.zarr", resume=True)


def test_overwriting_keeps_the_old_store_until_the_new_one_is_whole(tmp_path):
    path = put(maps(), tmp_path / "a.zarr")
    old = digest(path)
    new = maps(years=3)
    with pytest.raises(StopError):
        put(maps(years=3, fuse=Fuse(after=4)), path, overwrite=True)
    assert digest(path) == old
    xr.testing.assert_identical(open_store(path).load(), maps().compute())
    put(new, path, resume=True)
    xr.testing.assert_identical(open_store(path).load(), new.compute())


@pytest.mark.parametrize("how", [{"resume": True}, {"overwrite": True}])
def test_a_crash_between_the_two_renames_of_overwriting_loses_neither_store(tmp_path, monkeypatch, how):
    path = put(maps(), tmp_path / "a.zarr")
    rename, calls = Path.rename, []

    def crash(self, target):
        calls.append(target)
        if len(calls) == 2:
            raise StopError
        return rename(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", crash)
        with pytest.raises(StopError):
            put(maps(years=3), path, overwrite=True)
    assert not path.exists()
    if "resume" in how:
        put(maps(years=3, fuse=Fuse(after=0)), path, **how)
    else:  # the one that was moved aside comes back until the next is whole
        with pytest.raises(StopError):
            put(maps(years=3, fuse=Fuse(after=1)), path, **how)
    xr.testing.assert_identical(open_store(path).load(), maps(years=3 if "resume" in how else 2).compute())


def test_two_writers_of_one_store_are_refused(tmp_path):
    partial = tmp_path / "a.zarr.partial"
    partial.mkdir()
    with (partial / "lock").open("a") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        with pytest.raises(StoreError, match="another process"):
            put(maps(), tmp_path / "a.zarr")
    assert is_complete(put(maps(), tmp_path / "a.zarr"))


def test_an_incomplete_store_is_refused_wherever_it_lies(tmp_path):
    with pytest.raises(StopError):
        put(maps(fuse=Fuse(after=1)), tmp_path / "a.zarr")
    next((tmp_path / "a.zarr.partial").glob("data-*")).rename(tmp_path / "copied.zarr")
    for address, options in (
        (tmp_path / "copied.zarr", {}),
        (f"file://{tmp_path}/copied.zarr", {"consolidated": False}),
    ):
        with pytest.raises(StoreError, match="incomplete"):
            open_store(address, **options)


def test_what_is_not_a_store_is_named(tmp_path):
    with pytest.raises(StoreError, match="there is no store"):
        open_store(tmp_path / "none.zarr")
    with pytest.raises(StoreError, match=r"not a Zarr store.*open NetCDF with xr\.open_dataset"):
        open_store(tmp_path)
    for content, said in (("{", "damaged"), ('{"node_type": "array"}', "not a Zarr group")):
        (tmp_path / "zarr.json").write_text(content)
        with pytest.raises(StoreError, match=said):
            open_store(tmp_path)
    with pytest.raises(StoreError, match=r"nowhere://bucket/a\.zarr.*cannot be reached"):
        write(maps(), "nowhere://bucket/a.zarr")
    with pytest.raises(StoreError, match="no variable"):
        write(xr.Dataset(), tmp_path / "a.zarr")


@pytest.mark.parametrize("folder", ["of others", "a::b", "what?#100%20", "{c}[d]*"])
def test_stores_of_others_open(tmp_path, folder):
    tmp_path = tmp_path / folder
    tmp_path.mkdir()
    theirs = with_plain_years(maps())
    theirs.to_zarr(zarr.storage.LocalStore(tmp_path / "two.zarr"), zarr_format=2)
    theirs.to_zarr(zarr.storage.LocalStore(tmp_path / "three.zarr"), zarr_format=3, consolidated=False)
    for name in ("two.zarr", "three.zarr"):
        found = open_store(tmp_path / name).load()
        xr.testing.assert_equal(found.drop_vars("year"), theirs.compute())
        xr.testing.assert_equal(found.sel(year=2001), found.sel(time=2001))


def test_stores_that_an_earlier_version_wrote_open_and_join_with_later_ones(tmp_path):
    with_plain_years(maps()).assign_attrs(xland_complete=True).to_zarr(tmp_path / "whole.zarr", consolidated=False)
    found = open_store(tmp_path / "whole.zarr")
    xr.testing.assert_equal(found.time.load(), maps().time)
    np.testing.assert_array_equal(found.land_use.sel(year=2001), maps().land_use.sel(year=2001))
    joined = xr.concat([found, with_years(maps(years=1), [2002])], "time", join="exact", combine_attrs="override")
    assert joined.sel(time="2002").year.item() == 2002
    assert joined.time_bnds.dims == ("time", "bnds")
    assert open_store(put(joined, tmp_path / "joined.zarr")).year.values.tolist() == [2000, 2001, 2002]
    with_plain_years(maps()).assign_attrs(xland_complete=False).to_zarr(tmp_path / "a.zarr", consolidated=False)
    with pytest.raises(StoreError, match="is incomplete"):
        open_store(tmp_path / "a.zarr")


def test_years_are_written_as_dates_that_all_tools_read(tmp_path):
    """Whatever the time is called; days in the file, years and dates to select by when it is opened."""
    years = [850, 1855, 2100]
    plain = with_plain_years(maps(years=3)).assign_coords(time=years)
    for name in ("time", "t", "year"):
        path = put(plain.rename({} if name == "time" else {"time": name}), tmp_path / f"{name}.zarr")
        date = "time" if name == "year" else name
        raw = xr.open_zarr(path, decode_times=False, consolidated=False)
        assert raw[date].attrs["units"] == "days since 1850-01-01"
        assert raw[date].attrs["calendar"] == "proleptic_gregorian"
        assert raw[f"{name}_bnds"].values.tolist() == [[-365242, -364877], [1826, 2191], [91311, 91676]]
        found = open_store(path)
        assert found[date].dtype == "datetime64[s]"
        assert found.sel(year=850)[date].values == np.datetime64("0850-01-01")
        xr.testing.assert_equal(found.sel({date: "1855"}).squeeze(), found.sel(year=1855))
        np.testing.assert_array_equal(found.land_use.sel(year=2100), plain.land_use.sel(time=2100))
    # labels that were assigned anew count, not the years and bounds that are still beside them
    found = open_store(put(maps().assign_coords(time=[1990, 1991]), tmp_path / "anew.zarr"))
    assert found.year.values.tolist() == [1990, 1991]
    assert found.time_bnds.dt.year.values.tolist() == [[1990, 1991], [1991, 1992]]


def test_dates_of_others_stay_as_they_are(tmp_path):
    """Months are not years: only their units are set."""
    monthly = with_plain_years(maps()).assign_coords(time=np.array(["2015-01-01", "2015-02-01"], "datetime64[ns]"))
    found = open_store(put(monthly, tmp_path / "a.zarr"))
    assert found.time.values.astype("datetime64[D]").astype(str).tolist() == ["2015-01-01", "2015-02-01"]
    assert "time_bnds" not in found
    assert found.year.values.tolist() == [2015, 2015]


def test_netcdf_export_reads_back_with_its_coordinate_system(tmp_path):
    import rioxarray

    ds = describe_product(maps(rows=40, columns=60, block=(20, 20)))
    path = write_netcdf(open_store(put(ds, tmp_path / "a.zarr")), tmp_path / "a.nc", progress=False)
    with xr.open_dataset(path, decode_coords="all") as found:
        xr.testing.assert_equal(found.load(), ds.compute())
        assert found.encoding["unlimited_dims"] == {"time"}
        assert "spatial_ref" not in found.land_use.encoding["coordinates"]
        assert found.land_use.dtype == np.uint8
        assert found.land_use.encoding["zlib"]
        assert found.land_use.encoding["chunksizes"] == (1, 20, 20)
        assert found.rio.crs == "EPSG:4326"
    with rioxarray.open_rasterio(path, variable="land_use") as raster:
        assert raster.rio.crs == "EPSG:4326"
        assert raster.rio.bounds() == bounds(ds)
    with pytest.raises(StoreError, match="overwrite=True"):
        write_netcdf(ds, path)
    write_netcdf(ds.isel(time=[0]), path, overwrite=True)
    with xr.open_dataset(path) as found:
        assert found.sizes["time"] == 1


def test_a_broken_netcdf_export_leaves_the_old_file(tmp_path):
    path = write_netcdf(maps(), tmp_path / "a.nc", progress=False)
    before = path.read_bytes()
    with pytest.raises(StopError):
        write_netcdf(maps(fuse=Fuse(after=2)), path, overwrite=True, progress=False)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["a.nc"]  # noqa: PTH208


def test_a_block_that_starts_after_its_run_was_broken_off_writes_nothing(tmp_path):
    with pytest.raises(StopError):
        put(maps(fuse=Fuse(after=1)), tmp_path / "a.zarr")
    partial = tmp_path / "a.zarr.partial"
    before = digest(partial)
    late = BlockWriter(
        str(partial),
        next(partial.glob("data-*")).name,
        "gone",
        "time,latitude,longitude",
        ("time", "lat", "lon"),
        ("land_use",),
    )
    places = [np.array([[1, 1]]), np.array([[1, 3]]), np.array([[1, 4]])]
    with pytest.raises(StoreError, match=r"the run that writes to .* was stopped"):
        late(*places, np.ones((1, 3, 4), np.uint8))
    assert digest(partial) == before
