from __future__ import annotations

import fcntl
import hashlib
import re
import shutil
import threading
import warnings
from pathlib import Path

import dask.array as da
import numpy as np
import pytest
import xarray as xr
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.store.test_writing import BESIDE, Fuse, StopError, put
from tests.store.test_writing import maps as breaking_maps
from xland.catalogs import Catalog, open_entry, publish, read_catalog
from xland.errors import CatalogError, StoreError
from xland.store.provenance import describe_product
from xland.store.reading import open_store, store_digest
from xland.store.writing import write, write_netcdf
from xland.vocabulary import CLASS_NAMES

SHIPPED = Path(__file__).resolve().parents[2] / "catalogs" / "xland.yaml"


def maps() -> xr.Dataset:
    codes = np.random.default_rng(3).integers(0, 8, (2, 8, 12)).astype(np.uint8)
    ds = xr.Dataset(
        {"land_use": (("time", "lat", "lon"), da.from_array(codes, chunks=(1, 4, 6)))},
        coords={
            "time": [2015, 2016],
            "lat": 50 - 0.25 * (np.arange(8) + 0.5),
            "lon": 10 + 0.25 * (np.arange(12) + 0.5),
        },
    )
    return describe_product(ds, summary="for a test", model={"name": "luh2-0p05", "sha256": "ab", "licence": "MIT"})


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return write(maps(), tmp_path_factory.mktemp("catalog") / "land_use.zarr", progress=False)


@pytest.fixture
def store(tmp_path, written):
    return shutil.copytree(written, tmp_path / "land_use.zarr")


def catalog_of(folder: Path, **entry: object) -> Path:
    path = folder / "hostile.yaml"
    path.write_text(yaml.safe_dump({"sources": {"a": {"driver": "zarr", **entry}}}))
    return path


def test_intake_opens_what_was_published_without_a_template_engine_also_where_it_was_moved(
    store, tmp_path, monkeypatch
):
    import builtins

    import intake

    ours = builtins.__import__

    def without_jinja(name, *args, **kwargs):
        if name.split(".")[0] == "jinja2":
            raise ImportError(name)
        return ours(name, *args, **kwargs)

    (tmp_path / "here" / "maps").mkdir(parents=True)
    store = store.rename(tmp_path / "here" / "maps" / "land_use.zarr")
    publish(tmp_path / "here" / "catalog.yaml", name="land-use-2015", store=store)
    (tmp_path / "here").rename(tmp_path / "there")
    monkeypatch.chdir(tmp_path / "there")
    assert not re.search(rf"{{{{|{tmp_path}", Path("catalog.yaml").read_text())
    monkeypatch.setattr(builtins, "__import__", without_jinja)
    found = intake.open_catalog("catalog.yaml")["land-use-2015"].to_dask()
    assert found.land_use.chunks == ((1, 1), (4, 4), (6, 6))
    assert found.land_use.dtype == np.uint8
    xr.testing.assert_equal(found.load().set_coords(BESIDE), maps().compute())
    opened = open_entry("catalog.yaml", "land-use-2015").load()
    xr.testing.assert_identical(opened, open_store("maps/land_use.zarr").load())


def test_intake_opens_netcdf_files_also_those_of_an_earlier_catalog(store, tmp_path):
    import intake

    file = write_netcdf(open_store(store), tmp_path / "land_use.nc4", progress=False)
    args = {"urlpath": "{{ CATALOG_DIR }}/land_use.nc4", "chunks": {}, "xarray_kwargs": {"engine": "netcdf4"}}
    catalog = publish(catalog_of(tmp_path, driver="netcdf", args=args), name="new", store=file)
    for name in ("a", "new"):
        for found in (intake.open_catalog(catalog)[name].to_dask(), open_entry(catalog, name)):
            assert found.land_use.chunks is not None
            xr.testing.assert_equal(found.load().set_coords(BESIDE), maps().compute())
            found.close()


TEMPLATE = "{{ cycler.__init__.__globals__.os.system('touch %s') }}"


@pytest.mark.parametrize("attribute", ["title", "summary", "license", "xland_model", "geospatial_lat_resolution"])
def test_a_template_in_an_attribute_of_the_store_is_not_published(tmp_path, attribute):
    ds = maps().assign_attrs({attribute: TEMPLATE % (tmp_path / "RAN")})
    ds.attrs.pop("xland_versions")  # of products of ours the writer says anew what they cover
    store = write(ds, tmp_path / "a.zarr", progress=False)
    with pytest.raises(CatalogError, match="has a template"):
        publish(tmp_path / "c.yaml", name="a", store=store)
    assert not (tmp_path / "c.yaml").exists()


def test_a_template_in_a_path_or_key_is_not_published(store, tmp_path):
    evil = store.rename(tmp_path / (TEMPLATE % "RAN").replace("/", "_"))
    with pytest.raises(CatalogError, match="rename it"):
        publish(tmp_path / "c.yaml", name="a", store=evil)
    with pytest.raises(CatalogError, match="has a template"):
        publish(tmp_path / "c.yaml", name="a", store=evil.rename(store), metadata={"{% x %}": 1})
    (tmp_path / "{{ x }}").mkdir()
    with pytest.raises(CatalogError, match="rename the folder"):
        publish(tmp_path / "{{ x }}" / "c.yaml", name="a", store=store.rename(tmp_path / "{{ x }}" / "a.zarr"))


@given(text=st.text(max_size=40), key=st.sampled_from(["title", "summary", "license", "xland_model", "history"]))
@settings(max_examples=5, deadline=None)
def test_no_text_of_a_store_makes_a_catalog_unreadable(tmp_path_factory, text, key):
    import intake

    folder = tmp_path_factory.mktemp("text")
    ds = xr.Dataset({"land_use": (("lat", "lon"), np.eye(2, dtype=np.uint8))}, attrs={key: text})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ds.to_zarr(folder / "a.zarr", zarr_format=3, consolidated=True)
    catalog = (
        publish(folder / "c.yaml", name="other", store=folder / "a.zarr") if "{" not in text else folder / "c.yaml"
    )
    try:
        publish(catalog, name="a", store=folder / "a.zarr", description=text)
    except CatalogError:
        if not catalog.exists():
            return
    for name in read_catalog(catalog)["sources"]:
        assert intake.open_catalog(str(catalog))[name].to_dask().sizes == {"lat": 2, "lon": 2}


def test_what_readers_would_refuse_is_not_published(store, tmp_path, monkeypatch):
    path = publish(tmp_path / "c.yaml", name="a", store=store)
    before = path.read_bytes()
    nested: list[object] = []
    for _ in range(30):
        nested = [nested]
    with pytest.raises(CatalogError, match="left as it was"):
        publish(path, name="b", store=store, metadata={"a": nested})
    monkeypatch.setattr("xland.untrusted.plain_yaml.MOST_BYTES", len(before) + 100)
    with pytest.raises(CatalogError, match="larger than a catalog may be"):
        publish(path, name="b", store=store)
    assert path.read_bytes() == before
    path.write_text("sources: [")
    with pytest.raises(CatalogError, match="damaged"):
        publish(path, name="b", store=store)
    assert path.read_text() == "sources: ["


def test_a_lock_that_is_never_released_or_is_a_planted_link_is_named(store, tmp_path, monkeypatch):
    monkeypatch.setattr("xland.catalogs.yaml_files._WAIT_SECONDS", 0.0)
    with (tmp_path / ".c.yaml.lock").open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        with pytest.raises(CatalogError, match="another process"):
            publish(tmp_path / "c.yaml", name="a", store=store)
    (tmp_path / ".d.yaml.lock").symlink_to(tmp_path / "made")
    with pytest.raises(CatalogError, match="cannot be locked"):
        publish(tmp_path / "d.yaml", name="a", store=store)
    assert not (tmp_path / "made").exists()


def test_years_that_xarray_cannot_decode_stay_as_they_are(tmp_path):
    import intake

    ds = maps().compute().assign_coords(time=("time", [1165.0, 1166.0], {"units": "years since 850-01-01 0:0:0"}))
    ds.to_netcdf(tmp_path / "states.nc")
    catalog = publish(tmp_path / "c.yaml", name="luh2", store=tmp_path / "states.nc")
    for found in (open_entry(catalog, "luh2"), intake.open_catalog(str(catalog))["luh2"].to_dask()):
        assert list(found.time.values) == [1165.0, 1166.0]
        assert found.time.attrs["units"] == "years since 850-01-01 0:0:0"
        found.close()


def test_an_entry_says_what_its_store_is(store, tmp_path):
    entry = read_catalog(
        publish(tmp_path / "c.yaml", name="a", store=store, metadata={"doi": "none", "n": np.int64(3)})
    )
    entry = entry["sources"]["a"]
    assert entry["description"] == "Land use on 0.25 degree, 2015-2016"
    metadata = entry["metadata"]
    assert metadata["bounds"] == [10.0, 48.0, 13.0, 50.0]
    assert metadata["years"] == [2015, 2016]
    assert metadata["classes"] == dict(enumerate(CLASS_NAMES))
    assert metadata["crs"] == "EPSG:4326"
    assert (metadata["model"], metadata["licence"], metadata["summary"]) == ("luh2-0p05", "MIT", "for a test")
    assert metadata["xland_version"]
    assert (metadata["doi"], metadata["n"]) == ("none", 3)


def test_publishing_twice_replaces_the_entry_and_keeps_the_others(store, tmp_path):
    path = tmp_path / "catalog.yaml"
    theirs = {"driver": "zarr", "args": {"urlpath": "theirs.zarr"}}
    path.write_text(yaml.safe_dump({"metadata": {"version": 1, "owner": "me"}, "sources": {"theirs": theirs}}))
    publish(path, name="a", store=store, description="first")
    publish(path, name="b", store=store)
    publish(path, name="a", store=store, description="second")
    content = yaml.safe_load(path.read_text())
    assert list(content["sources"]) == list(content["entries"]) == ["theirs", "a", "b"]
    assert content["sources"]["a"]["description"] == "second"
    assert content["sources"]["theirs"] == theirs
    assert content["metadata"]["owner"] == "me"


@pytest.mark.parametrize(
    "theirs",
    [{"driver": "csv", "args": {"urlpath": "a*.csv"}}, {"driver": "zarr", "args": {"urlpath": "/data/a.zarr"}}],
)
def test_sources_that_are_not_ours_stay_as_they_are_for_intake_and_ours_open_beside_them(
    store, tmp_path, monkeypatch, theirs
):
    import intake

    path = publish(tmp_path / "catalog.yaml", name="a", store=store)
    content = yaml.safe_load(path.read_text())
    content["sources"]["theirs"] = theirs
    path.write_text(yaml.safe_dump(content))
    publish(path, name="b", store=store)
    assert yaml.safe_load(path.read_text())["sources"]["theirs"] == theirs
    monkeypatch.chdir("/")
    opened = intake.open_catalog(str(path))
    assert set(opened) == {"a", "b", "theirs"}
    for name in ("a", "b"):
        assert opened[name].to_dask().sizes["lon"] == open_entry(path, name).sizes["lon"] == 12


def test_a_store_that_was_replaced_is_not_opened_as_the_one_that_was_published(store, tmp_path):
    catalog = publish(tmp_path / "c.yaml", name="a", store=store)
    assert read_catalog(catalog)["sources"]["a"]["metadata"]["digest"] == store_digest(store)
    write(maps().assign_attrs(title="another"), store, overwrite=True, progress=False)
    with pytest.raises(StoreError, match="not what was published"):
        open_entry(catalog, "a")
    assert open_entry(publish(catalog, name="a", store=store), "a").attrs["title"] == "another"


def test_a_netcdf_file_that_was_replaced_is_not_opened_and_one_that_stays_is_compared_once(
    store, tmp_path, monkeypatch
):
    file = write_netcdf(open_store(store), tmp_path / "a.nc", progress=False)
    catalog = publish(tmp_path / "c.yaml", name="a", store=file)
    published = read_catalog(catalog)["sources"]["a"]["metadata"]["digest"]
    assert published == hashlib.sha256(file.read_bytes()).hexdigest()
    with monkeypatch.context() as patch:
        patch.setattr("hashlib.file_digest", None)
        open_entry(catalog, "a").close()
        file.touch()
        with pytest.raises(StoreError, match="cannot be read: TypeError"):
            open_entry(catalog, "a")
    open_entry(catalog, "a").close()
    write_netcdf(maps().assign(land_use=maps()["land_use"][::-1]), file, overwrite=True, progress=False)
    with pytest.raises(StoreError, match=rf"a\.nc is not what was published: its digest is not {published[:12]}"):
        open_entry(catalog, "a")


def test_concurrent_publishers_lose_no_entry(store, tmp_path):
    path, failed = tmp_path / "catalog.yaml", []

    def work(number: int) -> None:
        try:
            for name in (f"entry-{number}", "shared"):
                publish(path, name=name, store=store)
                read_catalog(path)
        except CatalogError as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert set(read_catalog(path)["sources"]) == {"shared", *(f"entry-{number}" for number in range(4))}


def test_an_incomplete_store_is_not_published(tmp_path):
    with pytest.raises(StopError):
        put(breaking_maps(fuse=Fuse(after=1)), tmp_path / "land_use.zarr")
    with pytest.raises(StoreError, match="resume=True"):
        publish(tmp_path / "catalog.yaml", name="a", store=tmp_path / "land_use.zarr")
    with pytest.raises(StoreError, match="incomplete"):
        publish(tmp_path / "catalog.yaml", name="a", store=next(tmp_path.glob("*.partial/data-*")))
    assert not (tmp_path / "catalog.yaml").exists()


@pytest.mark.parametrize(
    ("path", "options", "error", "named"),
    [
        ("catalogs/catalog.yaml", {}, CatalogError, "outside"),
        *(
            ("catalog.yaml", {"name": name}, CatalogError, "cannot name an entry")
            for name in ("../a", "a/b", "{{ x }}", "a\n", "a@2", "")
        ),
        ("catalog.txt", {}, CatalogError, r"end in \.yaml"),
        ("catalog.yaml", {"metadata": {"x": ["{{ env(HOME) }}"]}}, CatalogError, "template"),
        ("catalog.yaml", {"store": "none.nc"}, StoreError, "NetCDF"),
    ],
)
def test_what_cannot_be_published_is_named(store, tmp_path, monkeypatch, path, options, error, named):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=named):
        publish(path, **{"name": "a", "store": store, **options})


@pytest.mark.parametrize(
    "url",
    [
        "/etc/passwd",
        "../outside.zarr",
        "{{ CATALOG_DIR }}/../outside.zarr",
        "{{ CATALOG_DIR }}//etc",
        "{{ CATALOG_DIR }}",
        "~/outside.zarr",
        "",
        "file:///etc/passwd",
        "https://example.org/a.zarr",
        "{{ CATALOG_DIR }}/https://example.org/a.zarr",
        "simplecache::https://example.org/a.zarr",
        "zip://*.zarr::/tmp/outside.zip",
        "link.zarr",
        "linked/outside.zarr",
        "inside.zarr",
        "*.zarr",
        "{{ env(HOME) }}/a.zarr",
        "{% set a = 1 %}a.zarr",
        "{{ CATALOG_DIR.parent }}/a.zarr",
        "a\0.zarr",
    ],
)
def test_paths_that_leave_the_folder_are_refused(tmp_path, url):
    outside, folder = tmp_path / "outside.zarr", tmp_path / "folder"
    outside.mkdir()
    (outside / "zarr.json").write_text("{}")
    folder.mkdir()
    (folder / "link.zarr").symlink_to(outside)
    (folder / "linked").symlink_to(tmp_path)
    (folder / "inside.zarr").mkdir()
    (folder / "inside.zarr" / "zarr.json").symlink_to(outside / "zarr.json")
    path = catalog_of(folder, args={"urlpath": url})
    with pytest.raises(CatalogError, match="'a'"):
        open_entry(path, "a")
    with pytest.raises(CatalogError, match="'a'"):
        read_catalog(path)
    assert Catalog(path).check(progress=False).findings[0].status == "unsafe"


@given(parts=st.lists(st.sampled_from(["..", ".", "a", "link", "back", "/", "land_use.zarr"]), min_size=1, max_size=6))
@settings(max_examples=20, deadline=None)
def test_no_path_opens_anything_outside_the_folder(tmp_path_factory, parts):
    root = tmp_path_factory.mktemp("confined")
    folder = root / "folder"
    (folder / "a").mkdir(parents=True)
    (folder / "link").symlink_to(root)
    (folder / "a" / "back").symlink_to(folder)
    url = "/".join(parts)
    try:
        read_catalog(catalog_of(folder, args={"urlpath": url}))
    except CatalogError:
        return
    assert ((folder / url).resolve()).is_relative_to(folder)


@pytest.mark.parametrize(
    ("entry", "named"),
    [
        ({"driver": "csv", "args": {"urlpath": "a.csv"}}, "driver 'csv'"),
        ({"driver": "intake_xarray.xzarr.ZarrSource", "args": {"urlpath": "a.zarr"}}, "driver"),
        ({"driver": ["zarr"], "args": {"urlpath": "a.zarr"}}, "driver"),
        ({"args": {"urlpath": ["a.zarr"]}}, "one urlpath"),
        ({"args": None}, "needs args"),
        ({"args": {"urlpath": "a.zarr", "engine": "kerchunk"}}, "engine"),
        ({"args": {"urlpath": "a.zarr", "storage_options": {"key": "x"}}}, "storage_options"),
        ({"args": {"urlpath": "a.zarr", "consolidated": "yes"}}, "consolidated"),
        ({"args": {"urlpath": "a.zarr", "chunks": {"lat": 0}}}, "chunks"),
        ({"args": {"urlpath": "a.zarr", "chunks": [1]}}, "chunks"),
        ({"args": {"urlpath": "a.zarr"}, "description": ["a"]}, "description"),
        ({"args": {"urlpath": "a.zarr"}, "metadata": "a"}, "metadata"),
        ({"args": {"urlpath": "a.zarr"}, "metadata": {"{# a": 1}}, "template"),
        ({"args": {"urlpath": "a.zarr"}, "metadata": {"a": "data(b)"}}, "template"),
        ({"args": {"urlpath": "a" * 5000}}, "cannot be read"),
        ({"driver": "netcdf", "args": {"urlpath": "a.nc", "xarray_kwargs": {"engine": "mine"}}}, "xarray_kwargs"),
        ({"args": {"urlpath": "a.zarr"}, "parameters": {"x": {"default": "{{ env(HOME) }}"}}}, "parameters"),
        ({"args": {"urlpath": "a.zarr"}, "description": "{{ shell(ls) }}"}, "template"),
        ({"args": {"urlpath": "http://127.0.0.1:9/a", "storage_options": {"headers": {"X": "y"}}}}, "storage_options"),
        ({"args": {"urlpath": "http://127.0.0.1:9/a", "storage_options": {"anon": True}}}, "storage_options"),
        ({"args": {"urlpath": "s3://a/b", "storage_options": {"key": "a", "secret": "b"}}}, "storage_options"),
    ],
)
def test_entries_that_ask_for_more_than_data_are_refused(tmp_path, entry, named):
    path = catalog_of(tmp_path, **entry)
    with pytest.raises(CatalogError, match=named):
        open_entry(path, "a", allowed_schemes=("http", "s3"))


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("sources: {a: !!python/object/apply:os.system ['echo unsafe > touched']}", "unsafe or damaged"),
        ("sources: {a: !!python/name:os.system }", "unsafe or damaged"),
        ("plugins: {source: [{module: os}]}\nsources: {}", "plugins"),
        ("a: &a [x, x]\nsources: {b: *a}", "references"),
        ("sources: [a, b]", "not an intake catalog"),
        ("- a", "not an intake catalog"),
        ("", "not an intake catalog"),
        ("sources: " + "[" * 50000, "nested deeper"),
        ("sources: {a: 3}", "not a mapping"),
    ],
)
def test_files_that_are_no_plain_catalog_are_refused(tmp_path, monkeypatch, text, named):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "catalog.yaml"
    path.write_text(text)
    with pytest.raises(CatalogError, match=named):
        read_catalog(path)
    assert not (tmp_path / "touched").exists()


def test_addresses_open_only_with_schemes_that_the_caller_allows(store, tmp_path):
    path = catalog_of(tmp_path, args={"urlpath": f"file://{store}", "consolidated": True})
    with pytest.raises(CatalogError, match="allowed_schemes"):
        open_entry(path, "a", allowed_schemes=("https",))
    xr.testing.assert_equal(open_entry(path, "a", allowed_schemes=("file",)).load(), maps().compute())
    assert Catalog(path, allowed_schemes=("file",)).check(progress=False).ok


def test_the_table_of_entries_says_what_can_be_opened(store, tmp_path):
    path = publish(tmp_path / "catalog.yaml", name="a", store=store)
    content = yaml.safe_load(path.read_text())
    content["sources"]["b"] = {"driver": "zarr", "args": {"urlpath": "later.zarr"}, "metadata": {"status": "planned"}}
    content["sources"]["c"] = 3
    path.write_text(yaml.safe_dump(content))
    found = Catalog(path).check(progress=False)
    assert [(each.name, each.status) for each in found.findings] == [("a", "ok"), ("b", "planned"), ("c", "foreign")]
    assert Catalog(path).list()[0].years == (2015, 2016)
    with pytest.raises(StoreError, match="there is no store"):
        open_entry(path, "b")
    with pytest.raises(CatalogError, match=r"no entry 'd'\. There are: a, b, c"):
        open_entry(path, "d")


def test_the_shipped_catalog_is_valid_and_says_how_each_product_comes_to_be():
    content = read_catalog(SHIPPED)
    assert "land-use-2015" in content["sources"]
    for entry in content["sources"].values():
        assert entry["metadata"]["status"]
        assert entry["metadata"]["years"]
    for each in Catalog(SHIPPED).check(progress=False).findings:
        assert (each.status, each.reason) == ("planned", content["sources"][each.name]["metadata"]["status"])
