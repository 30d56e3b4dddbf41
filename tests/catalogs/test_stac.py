from __future__ import annotations

import json
import os
import runpy
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.catalogs.stand_in import source, write_catalog
from tests.exports.products import product
from xland.catalogs.catalog import Catalog
from xland.catalogs.entry import Entry, entry_of
from xland.catalogs.stac import item, licence, place, write_stac
from xland.store.reading import store_digest
from xland.store.writing import write

pystac = pytest.importorskip("pystac")
validation = pytest.importorskip("pystac.validation")


def validate(content: dict) -> list[str]:
    """Validate by the schemas of STAC, which pystac has, and by those of extensions that are on this machine."""
    folder = os.environ.get("XLAND_STAC_SCHEMAS")
    known = {} if folder is None else {f"https://{p.relative_to(folder)}": p for p in Path(folder).rglob("*.json")}
    validator = validation.JsonSchemaSTACValidator()
    validator.schema_cache |= {url: json.loads(path.read_text()) for url, path in known.items()}
    kept = {**content, "stac_extensions": [url for url in content.get("stac_extensions", []) if url in known]}
    kind = {"Feature": "Feature"}.get(content["type"], content["type"])
    return validation.validate_dict(
        kept, kind, stac_version="1.1.0", extensions=kept["stac_extensions"], validator=validator
    )


def read(path: Path) -> dict:
    return json.loads(path.read_text())


def entry(**said) -> Entry:
    return entry_of("land-use-2015", source(**said))


MAPS = {"land-use-2015": source(), "land-use-2015@1": source(superseded_by="land-use-2015")}
ACROSS = {"pacific": source(bounds=[170.0, -20.0, 190.0, 10.0], licence="Apache-2.0")}


@pytest.fixture
def catalog(tmp_path):
    catalog = write_catalog(tmp_path / "catalog.yaml", MAPS, scenarios=ACROSS)
    catalog.stac()
    return catalog


def test_catalog_collections_and_items_are_valid(catalog):
    files = sorted(catalog.stac_path.parent.rglob("*.json"))
    assert len(files) == 6
    for file in files:
        assert validate(read(file))


def test_every_extension_that_an_item_names_is_checked_where_its_schema_is_on_this_machine():
    folder = os.environ.get("XLAND_STAC_SCHEMAS")
    if folder is None:
        pytest.skip("XLAND_STAC_SCHEMAS names no folder with schemas, such as HOST/datacube/v2.2.0/schema.json")
    content = item(entry(), "catalog")
    missing = [url for url in content["stac_extensions"] if not Path(folder, url.split("://")[1]).is_file()]
    assert not missing
    assert set(content["stac_extensions"]) <= set(validate(content))


def test_pystac_walks_from_the_catalog_to_every_item_and_its_store(catalog):
    root = pystac.Catalog.from_file(str(catalog.stac_path))
    found = {each.id: each for each in root.get_items(recursive=True)}
    assert set(found) == {"land-use-2015", "land-use-2015@1", "pacific"}
    asset = found["land-use-2015"].assets["data"]
    assert Path(asset.get_absolute_href()).resolve() == catalog.path.parent / "maps" / "land_use.zarr"
    assert found["pacific"].get_collection().id == "scenarios"
    assert found["pacific"].get_collection().extent.spatial.bboxes == [[170.0, -20.0, -170.0, 10.0]]


def test_extensions_say_years_classes_and_how_numbers_are_stored(catalog):
    said = item(entry(), "catalog")
    cube, bands = said["properties"]["cube:dimensions"], said["assets"]["data"]["raster:bands"]
    assert cube["time"]["values"] == ["2015-01-01T00:00:00Z", "2016-01-01T00:00:00Z"]
    assert cube["lat"]["extent"] == [40.0, 50.0]
    assert said["properties"]["cube:variables"]["probability"]["dimensions"] == ["time", "class", "lat", "lon"]
    assert [each["name"] for each in bands[0]["classification:classes"]][:2] == ["ocean", "urban"]
    assert (bands[2]["scale"], bands[2]["nodata"], bands[2]["data_type"]) == (0.004, 255, "uint8")


def test_items_follow_what_is_published_renamed_and_removed(catalog):
    others = [catalog.stac_path.parent / "scenarios" / name for name in ("collection.json", "items/pacific.json")]
    before = [path.stat().st_mtime_ns for path in others]
    catalog.rename("land-use-2015", "renamed")
    catalog.remove("renamed@1")
    names = sorted(path.stem for path in catalog.stac_path.parent.glob("catalog/items/*.json"))
    assert names == ["renamed"]
    assert [path.stat().st_mtime_ns for path in others] == before, "another sub-catalog was written again"
    catalog.remove("pacific")
    assert [each["href"] for each in read(catalog.stac_path)["links"] if each["rel"] == "child"] == [
        "./catalog/collection.json"
    ]
    assert not any(path.exists() for path in others)


def test_what_has_no_years_or_bounds_and_what_is_foreign_is_left_out_and_no_name_leads_elsewhere(tmp_path):
    kept, victim = write_catalog(tmp_path / "kept.yaml", MAPS).stac(), tmp_path / "kept-stac" / "kept"
    theirs = {"a": source(years=[]), "b": source(bounds=None), "c": source(driver="csv"), "../../d": source()}
    evil = write_catalog(tmp_path / "catalog.yaml", theirs)
    text = evil.path.read_text()
    evil.path.write_text(text + "  ../kept-stac/kept: {driver: yaml_file_cat, args: {path: catalog.x.yaml}}\n")
    (tmp_path / "catalog.x.yaml").write_text("sources: {}")
    evil.stac()
    write_stac(evil.path, "../kept-stac/kept", ["../../kept-stac/kept/items/land-use-2015"])
    assert [path.name for path in evil.stac_path.parent.rglob("*.json")] == ["catalog.json"]
    assert len(list(victim.rglob("*.json"))) == 3
    assert kept.exists()


@given(st.floats(-720, 720), st.floats(0.5, 360), st.floats(-90, 89))
def test_a_box_is_divided_at_the_date_line_and_keeps_its_width(west, width, south):
    box, geometry = place((west, south, west + width, south + 1))
    parts = geometry["coordinates"] if geometry["type"] == "MultiPolygon" else [geometry["coordinates"]]
    rings = [part[0] for part in parts]
    assert all(-180 <= lon <= 180 for ring in rings for lon, _ in ring)
    total = sum(max(lon for lon, _ in ring) - min(lon for lon, _ in ring) for ring in rings)
    assert total == pytest.approx(width, abs=1e-5)
    assert (box[0] > box[2]) == (len(rings) == 2)


def test_the_twin_of_the_catalog_of_this_project_is_up_to_date(tmp_path):
    shipped = Path(__file__).resolve().parents[2] / "catalogs"
    catalog = Catalog(shutil.copy(shipped / "xland.yaml", tmp_path))
    twin = catalog.stac().parent
    files = sorted(path.relative_to(twin) for path in twin.rglob("*.json"))
    assert files == sorted(
        path.relative_to(shipped / "xland-stac") for path in (shipped / "xland-stac").rglob("*.json")
    )
    for file in files:
        assert read(twin / file) == read(shipped / "xland-stac" / file)
        assert validate(read(twin / file))


def test_the_command_of_this_project_enters_what_the_demo_made_in_catalog_and_twin(tmp_path):
    shipped, demo, target = Path(__file__).resolve().parents[2] / "catalogs", tmp_path / "demo", tmp_path / "target"
    store = write(product().isel(time=[0]), demo / "land_use.zarr", progress=False)
    target.mkdir()
    made = Catalog(runpy.run_path(str(shipped / "make.py"))["make"](demo, target))
    entry = made.show("land-use-2015")
    assert (entry.digest, entry.version, entry.years) == (store_digest(store), 1, (2009,))
    assert {each.name for each in made.list()} == {each.name for each in Catalog(shipped / "xland.yaml").list()}
    assert {each.status for each in made.check(progress=False).findings} == {"planned"}
    assert {each.status for each in Catalog(demo / "xland.yaml").check(progress=False).findings} == {"planned", "ok"}
    found = read(target / "xland-stac" / "xland" / "items" / "land-use-2015.json")
    assert found["assets"]["data"]["xland:digest"] == entry.digest
    for file in (target / "xland-stac").rglob("*.json"):
        assert validate(read(file))


def test_a_licence_that_is_not_one_name_is_other_and_stays_readable():
    words = "model luh2-0p05: Apache-2.0; static: MIT / CC BY 4.0"
    assert (licence("CC-BY-4.0"), licence(words), licence("")) == ("CC-BY-4.0", "other", "other")
    assert item(entry(licence=words), "catalog")["properties"]["xland:licences"] == words
