"""Versions, names, comments, indexes, sub-catalogs, checks and servers of a catalog that is kept."""

from __future__ import annotations

import re
import shutil

import pytest
import xarray as xr
import yaml

import xland
from tests.catalogs.stand_in import served
from tests.catalogs.test_publishing import maps
from tests.killing import run_until_killed
from xland import Catalog
from xland.catalogs import open_entry, publish, read_catalog, yaml_files
from xland.catalogs.text import changed, lay_out
from xland.catalogs.yaml_files import index_of, read_file
from xland.cli import main
from xland.errors import CatalogError
from xland.store.writing import write
from xland.typed import open_input
from xland.untrusted.plain_yaml import Places, parse

BY_HAND = """# Our maps
metadata:
  title: Ours   # short
  publisher: {institution: Institute of Maps, licence: CC-BY-4.0, publisher_email: maps@institute.org, contact: A. Map}

sources:
    # the first one
    first:
        driver: zarr
        args: {urlpath: first.zarr}   # as it was
        metadata:
            doi: 10.5281/zenodo.1
# what follows is for intake
aliases: {}
# the end
"""


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stores")
    write(maps(), folder / "first.zarr", progress=False)
    write(maps().assign_attrs(title="second"), folder / "second.zarr", progress=False)
    return folder


@pytest.fixture
def folder(tmp_path, written):
    return shutil.copytree(written, tmp_path / "kept")


@pytest.fixture
def by_hand(folder):
    path = folder / "catalog.yaml"
    path.write_text(BY_HAND)
    return path


@pytest.fixture
def with_index(monkeypatch):
    """Let small files have an index, too."""
    monkeypatch.setattr(yaml_files, "INDEXED", 1)


def comments(path):
    return re.findall(r"#.*", path.read_text())


def test_comments_and_order_of_a_file_written_by_hand_stay(by_hand, folder):
    publish(by_hand, name="second", store=folder / "second.zarr")
    publish(by_hand, name="first", store=folder / "first.zarr")
    Catalog(by_hand).rename("second", "other")
    Catalog(by_hand).remove("other")
    expected = [each for each in re.findall(r"#.*", BY_HAND) if each != "# as it was"]
    assert comments(by_hand) == expected
    assert list(yaml.safe_load(by_hand.read_text()))[:3] == ["metadata", "sources", "aliases"]
    assert Catalog(by_hand).check(progress=False, deep=True).ok


@pytest.mark.parametrize(
    "text", ["a: {b: 1}\n", 'a:\n  b: |\n    x\n\n  # c\n  d: "y\n# z"\ne: 1\n# f\n', "{a: {b: 1}}\n"]
)
def test_a_text_is_changed_to_the_content_that_is_asked_for_or_not_at_all(text):
    places = Places()
    old = parse(text, "it", places)
    layout = lay_out(text, old, places)
    if layout is None:
        assert text.startswith("{")
        return
    assert layout.text == text
    new = {"a": {"new": [1, {"x": None}], **old["a"]}, "added": {"k": "v"}}
    assert parse(changed(layout, old, new, {}).text, "it") == new


def test_publishing_the_same_name_anew_keeps_the_earlier_version_and_says_why(folder):
    import intake

    path = folder / "catalog.yaml"
    publish(path, name="maps", store=folder / "first.zarr", metadata={"doi": "10.5281/zenodo.1"})
    publish(path, name="maps", store=folder / "second.zarr", because="a better model")
    catalog = Catalog(path)
    assert [each.name for each in catalog.list()] == ["maps"]
    assert [each.name for each in catalog.list(versions=True)] == ["maps", "maps@1"]
    old, new = catalog.show("maps@1"), catalog.show("maps@latest")
    assert (old.superseded_by, old.metadata["superseded_because"], old.doi) == (
        "maps@2",
        "a better model",
        "10.5281/zenodo.1",
    )
    assert new == catalog.show("maps@2") == catalog.show("maps")
    assert (new.version, new.doi) == (2, "")
    opened = intake.open_catalog(str(path))
    assert opened["maps@2"].to_dask().attrs["title"] == catalog.open("maps").attrs["title"] == "second"
    assert opened["maps@1"].to_dask().attrs["title"] == catalog.open("maps@1").attrs["title"] != "second"
    assert catalog.remove("maps@2") == ["maps"]
    assert catalog.show("maps").store == "first.zarr"
    assert not catalog.show("maps").superseded_by


def test_a_doi_given_by_hand_stays_where_the_same_store_is_published_again(folder):
    path = publish(folder / "catalog.yaml", name="maps", store=folder / "first.zarr")
    path.write_text(path.read_text().replace("      title:", "      doi: 10.5281/zenodo.7\n      title:", 1))
    publish(path, name="maps", store=folder / "first.zarr", description="again")
    entry = Catalog(path).show("maps")
    assert (entry.doi, entry.version, entry.description) == ("10.5281/zenodo.7", 1, "again")
    write(maps().assign_attrs(title="third"), folder / "first.zarr", overwrite=True, progress=False)
    publish(path, name="maps", store=folder / "first.zarr")
    assert (Catalog(path).show("maps").doi, Catalog(path).show("maps").version) == ("10.5281/zenodo.7", 2)


def test_who_publishes_is_set_once_in_the_header_and_is_in_entries_and_new_stores(by_hand, folder):
    publish(by_hand, name="second", store=folder / "second.zarr")
    entry = Catalog(by_hand).show("second")
    assert (entry.licence, entry.metadata["contact"]) == ("CC-BY-4.0", "A. Map")
    maps().ai4land.publish(by_hand, name="new", progress=False)
    attributes = xland.open_store(folder / "new.zarr").attrs
    said = {"institution": "Institute of Maps", "publisher_name": "Institute of Maps", "contact": "A. Map"}
    assert said | {"license": "CC-BY-4.0"} == {key: attributes.get(key) for key in [*said, "license"]}
    by_hand.write_text(BY_HAND.replace("CC-BY-4.0", "CC BY 4.0"))
    with pytest.raises(CatalogError, match=r"not an SPDX identifier: did you mean 'CC-BY-4\.0'"):
        publish(by_hand, name="second", store=folder / "second.zarr")


def test_lazy_maps_are_written_beside_the_catalog_once_and_another_version_for_others(tmp_path):
    path = tmp_path / "catalog.yaml"
    for _ in range(2):
        maps().ai4land.publish(path, name="maps", progress=False)
    assert [each.version for each in Catalog(path).list(versions=True)] == [1]
    other = maps().assign(land_use=maps().land_use[:, ::-1].chunk(lat=4))
    other.ai4land.publish(path, name="maps", progress=False)
    assert [each.store for each in Catalog(path).list(versions=True)] == ["maps.v2.zarr", "maps.zarr"]
    with pytest.raises(CatalogError, match="nothing to publish"):
        publish(path, name="maps")


def test_a_rename_takes_all_versions_along_and_refuses_names_that_are_taken(folder):
    path = folder / "catalog.yaml"
    for store in ("first", "second"):
        publish(path, name="maps", store=folder / f"{store}.zarr")
    publish(path, name="other", store=folder / "first.zarr", product="more")
    catalog = Catalog(path)
    with pytest.raises(CatalogError, match="has an entry 'other' already"):
        catalog.rename("maps", "other")
    with pytest.raises(CatalogError, match="is a version"):
        catalog.rename("maps@1", "x")
    for strange in ("a/b", "{{ x }}", "a\n", "a@2"):
        with pytest.raises(CatalogError, match="cannot name an entry"):
            catalog.rename("maps", strange)
    catalog.rename("maps", "renamed")
    assert [each.name for each in catalog.list(versions=True)] == ["renamed", "renamed@1", "other"]
    assert catalog.show("renamed@1").superseded_by == "renamed@2"
    assert catalog.check(progress=False).ok


def test_stores_are_deleted_only_if_asked_for_and_no_other_entry_has_them(folder):
    publish(folder / "catalog.yaml", name="maps", store=folder / "first.zarr")
    publish(folder / "other.yaml", name="maps", store=folder / "first.zarr")
    catalog = Catalog(folder / "catalog.yaml")
    with pytest.raises(CatalogError, match=r"also the store of maps in other\.yaml"):
        catalog.remove("maps", stores=True)
    catalog.remove("maps")
    assert (folder / "first.zarr").exists()
    Catalog(folder / "other.yaml").remove("maps", stores=True)
    assert not (folder / "first.zarr").exists()
    assert not catalog.list()


def test_sub_catalogs_are_opened_by_intake_and_their_entries_found_by_name(folder):
    import intake

    path = publish(folder / "catalog.yaml", name="maps", store=folder / "first.zarr", product="hist")
    publish(path, name="plain", store=folder / "second.zarr")
    (folder.parent / "moved").mkdir()
    path = folder.rename(folder.parent / "moved" / "there") / "catalog.yaml"
    found = intake.open_catalog(str(path))["hist"]["maps"].to_dask()
    assert found.sizes == open_entry(path, "maps").sizes
    assert Catalog(path).products == ("hist",)
    assert [each.name for each in Catalog(path).list(product="hist")] == ["maps"]
    with pytest.raises(CatalogError, match="in the product 'hist'"):
        publish(path, name="maps", store=path.parent / "first.zarr")
    with pytest.raises(CatalogError, match="name of a sub-catalog"):
        publish(path, name="hist", store=path.parent / "first.zarr")
    (path.parent / "catalog.hist.yaml").unlink()
    (path.parent / "catalog.hist.yaml").symlink_to("/etc/hostname")
    with pytest.raises(CatalogError, match="leads out of"):
        Catalog(path).list()


def test_a_file_takes_no_more_entries_than_plain_intake_opens_soon_and_says_what_to_do(folder, monkeypatch):
    monkeypatch.setattr(yaml_files, "MOST_ENTRIES", 1)
    path = publish(folder / "catalog.yaml", name="a", store=folder / "first.zarr")
    with pytest.raises(CatalogError, match="product='luh2-hist'"):
        publish(path, name="b", store=folder / "second.zarr")
    publish(path, name="a", store=folder / "first.zarr", description="again")


@pytest.mark.usefixtures("with_index")
def test_an_index_has_the_same_content_as_its_file_and_is_not_used_where_that_changed(folder):
    path = folder / "catalog.yaml"
    for name, store in (("a", "first"), ("b", "second"), ("a", "second")):
        publish(path, name=name, store=folder / f"{store}.zarr", metadata={"scale": float("nan")})
    assert read_file(path).indexed
    assert repr(read_file(path).content) == repr(parse(path.read_text(), "it"))
    shutil.copytree(folder, folder.with_name("copied"))
    assert read_file(folder.with_name("copied") / "catalog.yaml").indexed
    path.write_text(path.read_text().replace("  b:", "  c:"))
    assert not read_file(path).indexed
    assert [each.name for each in Catalog(path).list()] == ["a", "c"]
    for theirs in ("{" * 100_000, "of another program"):
        index_of(path).write_text(theirs)
        publish(path, name="c", store=folder / "first.zarr", description="again")
        assert index_of(path).read_text() == theirs
        assert "c" in read_catalog(path)["sources"]


def test_entries_are_found_by_year_region_variable_and_model(folder):
    path = publish(folder / "catalog.yaml", name="a", store=folder / "first.zarr", metadata={"scenario": "ssp245"})
    catalog = Catalog(path)
    for asked in ({"year": 2015}, {"region": (370, 48, 371, 49)}, {"variable": "land_use"}, {"scenario": "ssp245"}):
        assert [each.name for each in catalog.list(**asked)] == ["a"], asked
    for asked in ({"year": 2014}, {"region": (13, 48, 20, 49)}, {"variable": "urban"}, {"model": "x"}):
        assert not catalog.list(**asked), asked
    assert "luh2-0p05" in str(catalog.list())


def test_a_check_names_stores_that_are_missing_replaced_incomplete_or_damaged(folder):
    path = folder / "catalog.yaml"
    for name in ("a", "b", "c", "d"):
        shutil.copytree(folder / "first.zarr", folder / f"{name}.zarr")
        publish(path, name=name, store=folder / f"{name}.zarr")
    text = path.read_text()
    path.write_text(text.replace("sources:\n", "sources:\n  theirs: {driver: csv, args: {urlpath: x.csv}}\n"))
    shutil.rmtree(folder / "a.zarr")
    write(maps().assign_attrs(title="x"), folder / "b.zarr", overwrite=True, progress=False)
    (folder / "c.zarr" / "zarr.json").unlink()
    chunk = next(each for each in (folder / "d.zarr" / "land_use" / "c").rglob("*") if each.is_file())
    chunk.write_bytes(b"damaged")
    found = {each.name: each.status for each in Catalog(path).check(progress=False).findings}
    assert found == {"theirs": "foreign", "a": "missing", "b": "changed", "c": "unread", "d": "ok"}
    deep = Catalog(path).check(progress=False, deep=True)
    assert {each.name for each in deep.faults} == {"a", "b", "c", "d"}
    assert "if it was moved" in str(deep)
    assert main(["catalog", "check", str(path), "-q"]) == 1


@pytest.mark.usefixtures("with_index")
def test_a_catalog_on_a_plain_server_is_listed_checked_and_opened_but_not_changed(folder):
    path = publish(folder / "catalog.yaml", name="maps", store=folder / "first.zarr", product="hist")
    with served(folder) as url:
        catalog = Catalog(f"{url}/catalog.yaml")
        assert [each.name for each in catalog.list()] == ["maps"]
        assert catalog.check(progress=False).ok
        for opened in (catalog.open("maps"), open_input(f"{url}/catalog.yaml:maps")):
            xr.testing.assert_identical(opened.load(), open_entry(path, "maps").load())
        with pytest.raises(CatalogError, match="read only"):
            catalog.remove("maps")
        part = folder / "catalog.hist.yaml"
        for strange in ("../first.zarr", "%2e%2e/first.zarr", "/first.zarr", "file:///etc"):
            part.write_text(f"sources: {{maps: {{driver: zarr, args: {{urlpath: '{strange}'}}}}}}")
            with pytest.raises(CatalogError, match=r"outside the catalog's folder|allowed_schemes"):
                catalog.open("maps")


def test_entries_are_inputs_of_the_command_line(folder, capsys):
    path = publish(folder / "catalog.yaml", name="maps", store=folder / "first.zarr")
    assert main(["evaluate", f"{path}:maps", f"{path}:maps@latest", "-q"]) == 0
    assert "1.000" in capsys.readouterr().out
    assert main(["evaluate", f"{path}:none", f"{path}:maps"]) == 1
    assert "has no entry 'none'" in capsys.readouterr().err


def test_the_commands_of_catalogs_say_what_they_did(folder, capsys):
    path = str(folder / "catalog.yaml")
    assert main(["catalog", "publish", path, "--name", "a", "--store", str(folder / "first.zarr"), "-q"]) == 0
    assert main(["catalog", "rename", path, "a", "b"]) == 0
    assert main(["-q", "catalog", "show", path, "b"]) == 0
    assert main(["catalog", "list", path, "--year", "2015"]) == 0
    assert main(["catalog", "check", path]) == 0
    assert main(["catalog", "remove", path, "b"]) == 0
    shown = capsys.readouterr().out
    assert all(text in shown for text in ("renamed a to b", "digest:", "2015-2016", "1 ok", "removed b"))
    assert main(["catalog", "lst", path]) == 2
    assert "did you mean 'list'" in capsys.readouterr().err


@pytest.mark.parametrize("moment", ["replacing the catalog", "after the catalog", "after the index"])
def test_a_publisher_that_is_killed_leaves_a_catalog_that_is_read_and_gone_on_from(folder, moment):
    path = publish(folder / "catalog.yaml", name="a", store=folder / "first.zarr")
    code = """
        import sys
        from pathlib import Path
        import xland.catalogs.yaml_files as files
        from tests.killing import kill_this_process
        from xland.catalogs import publish
        files.INDEXED, (path, store, moment) = 1, sys.argv[1:]
        if moment == "replacing the catalog":
            Path.replace = lambda *_: kill_this_process()
        elif moment == "after the catalog":
            files._write_index = lambda *_: kill_this_process()
        else:
            import xland.catalogs.publishing as publishing
            publishing.follow = lambda *_: kill_this_process()
        publish(path, name="b", store=store)
        """
    run_until_killed(code, path, folder / "second.zarr", moment)
    assert Catalog(path).check(progress=False).ok
    publish(path, name="c", store=folder / "second.zarr")
    names = [each.name for each in Catalog(path).list()]
    assert names == (["a", "c"] if moment == "replacing the catalog" else ["a", "b", "c"])
