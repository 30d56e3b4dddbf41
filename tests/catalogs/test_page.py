from __future__ import annotations

import base64
import json
import re

import numpy as np
import pytest
from PIL import Image

from tests.catalogs.stand_in import source, write_catalog
from tests.exports.products import product
from xland.catalogs.page import area, link, read_picture, write_preview
from xland.cli import main
from xland.geo.grid import Grid
from xland.store.writing import write
from xland.vocabulary import CLASSES

HOSTILE = '<script>alert(1)</script>"><img src=x onerror=alert(1)>'


@pytest.fixture
def catalog(tmp_path):
    write_preview(product(), tmp_path / "previews" / "land-use-2015.png")
    old = source(superseded_by="land-use-2015", superseded_because="a corrected input")
    return write_catalog(tmp_path / "catalog.yaml", {"land-use-2015": source(), "land-use-2015@1": old})


def test_the_page_shows_picture_years_area_licence_report_and_how_to_open(catalog):
    text = catalog.page().read_text()
    shown = re.search(r'src="data:image/png;base64,([^"]+)', text)[1]
    assert base64.b64decode(shown) == (catalog.path.parent / "previews" / "land-use-2015.png").read_bytes()
    for said in ("2015-2016", "40°N to 50°N, 10°E to 20°E", "https://spdx.org/licenses/CC-BY-4.0.html", "report.html"):
        assert said in text
    assert 'intake.open_catalog("catalog.yaml")["land-use-2015"].to_dask()' in text.replace("&#34;", '"')
    assert "a corrected input" in text
    assert "1 product " in text


def test_the_page_needs_nothing_from_elsewhere_and_runs_nothing(catalog):
    text = catalog.page().read_text()
    assert "default-src 'none'" in text
    assert not re.search(r"<script|<link|@import|url\(|\ssrc=\"(?!data:)", text)


def test_what_strangers_write_is_text(tmp_path):
    said = dict.fromkeys(("title", "description", "model", "licence", "scenario"), HOSTILE)
    theirs = source(**said, report="javascript:alert(1)", doi='10.1234/"><script>')
    catalog = write_catalog(tmp_path / "a.yaml", {HOSTILE: theirs, "other": source(driver=HOSTILE)}, b={"b": theirs})
    text = catalog.path.read_text().replace("  b:\n", f"  {json.dumps('p' + HOSTILE)}:\n")
    catalog.path.write_text(text.replace("title: Maps\n", f"title: {json.dumps(HOSTILE)}\n"))
    assert catalog.products == ("p" + HOSTILE,)
    text = catalog.page().read_text()
    assert "<script" not in text
    assert "<img src=x" not in text
    assert "javascript:" not in text


@pytest.mark.parametrize(
    ("target", "found"),
    [
        ("maps/a.zarr", "maps/a.zarr"),
        ("https://maps.org/a.zarr", "https://maps.org/a.zarr"),
        ("javascript:alert(1)", ""),
        ("data:text/html,x", ""),
        ("../../etc/passwd", ""),
        ("/etc/passwd", ""),
        ("s3://bucket/a.zarr", ""),
    ],
)
def test_links_lead_into_the_folder_or_to_the_web(target, found):
    assert link(target) == found


def test_pictures_are_png_files_of_the_folder_alone(tmp_path):
    folder = tmp_path.resolve() / "catalog"
    folder.mkdir()
    write_preview(product(), tmp_path / "outside.png")
    write_preview(product(), folder / "inside.png")
    (folder / "text.png").write_text("secret")
    (folder / "linked.png").symlink_to(tmp_path / "outside.png")
    assert read_picture(folder, "inside.png").startswith("data:image/png;base64,")
    for name in ("../outside.png", "text.png", "linked.png", "missing.png", "", str(tmp_path / "outside.png")):
        assert read_picture(folder, name) == ""


def test_a_picture_has_the_colours_of_the_last_map(tmp_path):
    path = write_preview(product(), tmp_path / "a.png")
    found = np.asarray(Image.open(path).convert("RGB"))
    codes = product()["land_use"].values[-1]
    assert found.shape[1] == codes.shape[1]
    color = tuple(bytes.fromhex(CLASSES[codes[0, 0]].color.lstrip("#")))
    assert tuple(found[0, 0]) == color


def test_a_picture_of_a_large_map_is_thinned_and_small(tmp_path):
    path = write_preview(product(Grid(0.25, 90.0, -180.0, 720, 1440), years=(2009,)), tmp_path / "a.png")
    with Image.open(path) as found:
        assert found.width * found.height <= 80_000
    assert path.stat().st_size < 2**17


def test_shares_are_drawn_where_there_are_no_classes_and_nothing_where_there_is_no_map(tmp_path):
    assert write_preview(product()[["confidence"]], tmp_path / "a.png") == tmp_path / "a.png"
    assert write_preview(product()[[]], tmp_path / "b.png") is None


def test_a_page_of_many_entries_stays_small_and_says_what_it_leaves_out(catalog):
    many = {f"maps-{number}": source() for number in range(310)}
    again = {f"again-{number}": each for number, each in enumerate(many.values())}
    text = write_catalog(catalog.path, many, hist=again, others={"a": source(), "a@1": source()}).page().read_text()
    assert text.count("<article") == 500
    assert "621 products" in text
    assert "121 more are in the catalog" in text


def test_the_area_of_a_region_across_the_date_line_is_said_in_degrees_east_and_west():
    assert area((170.0, -20.0, 190.0, 10.0)) == "20°S to 10°N, 170°E to 170°W"
    assert area((-180.0, -90.0, 180.0, 90.0)) == "the globe"


def test_the_commands_write_page_and_twin_which_then_follow_a_publication(tmp_path, capsys):
    path = tmp_path / "catalog.yaml"
    for name, seed in (("first", 1), ("second", 2)):
        store = write(product(seed=seed).isel(time=[0]), tmp_path / f"{name}.zarr", progress=False)
        assert main(["catalog", "publish", str(path), "--name", name, "--store", str(store), "-q"]) == 0
        if name == "first":
            assert main(["catalog", "page", str(path)]) == main(["catalog", "stac", str(path)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"wrote {tmp_path / 'catalog.html'}",
        f"wrote {tmp_path / 'catalog-stac' / 'catalog.json'}",
    ]
    assert 'id="second"' in path.with_suffix(".html").read_text()
    assert (tmp_path / "catalog-stac" / "catalog" / "items" / "second.json").exists()
