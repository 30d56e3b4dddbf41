from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
import xarray as xr

from xland.errors import GridError, TimeError, VocabularyError
from xland.evaluation.alignment import as_map
from xland.evaluation.pictures import confidence_picture, difference_picture, extent, png
from xland.evaluation.report import write_report
from xland.evaluation.scores import compare
from xland.grid import Grid
from xland.vocabulary import CLASSES

VOID = {"meta", "img", "input", "link", "br", "hr"}


class Page(HTMLParser):
    """Every element closed in order, with the attributes and texts seen on the way."""

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


def on_grid(values, year=None):
    grid = Grid(0.5, 60.0, 0.0, *values.shape)
    made = xr.DataArray(values, {"lat": grid.latitude, "lon": grid.longitude}, ("lat", "lon"))
    return made if year is None else made.expand_dims(time=[year])


@pytest.fixture(scope="module")
def maps():
    rng = np.random.default_rng(0)
    observed = rng.integers(0, 7, (20, 30)).astype(np.uint8)
    observed[0] = 0
    predicted = np.where(rng.random(observed.shape) < 0.7, observed, 4).astype(np.uint8)
    return {
        "crosswalk": on_grid(np.full_like(observed, 2), 2015),
        "observed": on_grid(observed, 2019),
        "model <b>": on_grid(predicted, 2015),
    }


@pytest.fixture(scope="module")
def scores(maps):
    return compare({name: maps[name] for name in ("model <b>", "crosswalk")}, maps["observed"], cells="held-out cells")


@pytest.fixture(scope="module")
def page(maps, scores, tmp_path_factory):
    path = write_report(
        tmp_path_factory.mktemp("report") / "report.html",
        title="Map <script>alert(1)</script>",
        maps=maps,
        scores=scores,
        confidence=on_grid(np.linspace(0, 1, 600).reshape(20, 30)),
        notes=["The coarse input is <img src=x onerror=alert(1)> fractions."],
        card={"name": "luh2-0p05", "data": {"years": [2015, 2019]}, "scores": [{"a": 1}], "licence": None},
        provenance={"<script>": "</section><script>alert(2)</script>"},
    )
    assert [each.name for each in path.parent.iterdir()] == ["report.html"]
    return path.read_text(encoding="utf-8")


def test_the_page_is_well_formed(page):
    parsed = Page(page)
    assert not parsed.open
    assert page.startswith("<!DOCTYPE html>")
    ids = [value for _, name, value in parsed.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    targets = {value.removeprefix("#") for tag, name, value in parsed.attributes if (tag, name) == ("a", "href")}
    assert targets <= set(ids)


def test_the_page_asks_nothing_of_the_network(page):
    parsed = Page(page)
    for tag, name, value in parsed.attributes:
        if name in {"src", "href", "action", "poster", "srcset", "data"}:
            assert value.startswith(("data:image/png;base64,", "#")), (tag, name, value[:60])
    assert not {"script", "link", "iframe", "object", "embed", "form"} & set(parsed.tags)
    assert "url(" not in page
    assert "@import" not in page
    assert "default-src 'none'" in page


def test_what_users_write_is_escaped_everywhere(page):
    assert "<script" not in page
    assert "onerror=alert(1)>" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "model &lt;b&gt;" in page
    texts = "".join(Page(page).texts)
    assert "The coarse input is <img src=x onerror=alert(1)> fractions." in texts
    assert "</section><script>alert(2)</script>" in texts


def test_every_picture_has_words_and_every_table_a_caption(page):
    parsed = Page(page)
    pictures = parsed.tags.count("img")
    assert pictures == 3 + 2 + 1  # maps, differences, confidence
    alts = [value for tag, name, value in parsed.attributes if (tag, name) == ("img", "alt")]
    assert len(alts) == pictures
    assert all(len(alt) > 20 for alt in alts)
    assert parsed.tags.count("table") == parsed.tags.count("caption") == 3 * 2 + 1


def test_figures_stand_beside_the_baselines(page, scores):
    text = " ".join("".join(Page(page).texts).split())
    land = scores["model <b>"].area["land"]
    assert f"{land.accuracy:.3f}" in text
    assert f"{land.iou[1]:.3f}" in text
    ahead = land.accuracy - scores["crosswalk"].area["land"].accuracy
    assert f"{ahead:.3f} ahead of crosswalk" in text
    assert "2015, observed 2019" in text
    assert "held-out cells" in text
    assert re.search(r'<tr class="model"><th scope="row">model &lt;b&gt;</th><td class="best">', page)


def test_the_pictures_show_the_maps(page, maps):
    image = pytest.importorskip("PIL.Image")
    sources = [v for t, n, v in Page(page).attributes if (t, n) == ("img", "src")]
    first = image.open(io.BytesIO(base64.b64decode(sources[0].split(",")[1]))).convert("RGBA")
    drawn = np.asarray(first)[..., :3]
    colors = np.array([[int(each.color[i : i + 2], 16) for i in (1, 3, 5)] for each in CLASSES])
    np.testing.assert_array_equal(drawn, colors[maps["observed"].values[0]])  # the observed map stands first


def test_a_page_of_one_map_without_extras_is_written(maps, tmp_path):
    alone = compare({"model": maps["model <b>"]}, maps["observed"], domains=("mixed",))
    path = write_report(tmp_path / "one.html", title="One", maps={"observed": maps["observed"]}, scores=alone)
    text = path.read_text(encoding="utf-8")
    assert not Page(text).open
    assert "no baseline beside it" in text
    assert 'class="best"' not in text


def test_large_maps_are_thinned(maps, scores, tmp_path):
    path = write_report(tmp_path / "thin.html", title="Thin", maps=maps, scores=scores, max_pixels=100)
    widths = {int(v) for t, n, v in Page(path.read_text(encoding="utf-8")).attributes if (t, n) == ("img", "width")}
    assert widths == {10}


def test_differences_are_drawn_by_label_and_blank_beyond_the_observed_map(maps):
    predicted, observed = maps["model <b>"], maps["observed"]
    part = as_map(observed.isel(lat=slice(4, 16), lon=slice(5, 25)), what="observed map")
    picture = difference_picture(as_map(predicted, what="model"), part, "model", 10_000)
    image = pytest.importorskip("PIL.Image")
    drawn = np.asarray(image.open(io.BytesIO(base64.b64decode(picture.source.split(",")[1]))))
    expected = np.full((20, 30), 3)
    ours, theirs = predicted.values[0, 4:16, 5:25], observed.values[0, 4:16, 5:25]
    expected[4:16, 5:25] = np.where(theirs == 0, 2, ours != theirs)
    np.testing.assert_array_equal(drawn, expected)


def test_confidence_without_a_value_is_blank():
    values = np.full((4, 4), np.nan)
    assert "no cell has a value" in confidence_picture(as_map(on_grid(values), what="confidence"), 100).alt
    values[0, 0] = 0.25
    assert "0.25" in confidence_picture(as_map(on_grid(values), what="confidence"), 100).alt


def test_a_png_is_read_back_as_it_was_written():
    image = pytest.importorskip("PIL.Image")
    indices = np.array([[0, 1, 2], [2, 1, 0]], dtype=np.uint8)
    read = np.asarray(image.open(io.BytesIO(png(indices, ["#ff0000", "#00ff00", "#0000ff00"]))).convert("RGBA"))
    table = np.array([[255, 0, 0, 255], [0, 255, 0, 255], [0, 0, 255, 0]])
    np.testing.assert_array_equal(read, table[indices])


def test_an_extent_is_said_in_words():
    assert extent(Grid(1.0, 10.0, 170.0, 20, 20)) == "10°S to 10°N, 170°E to 170°W"


def test_missing_maps_scores_and_spare_years_are_refused(maps, scores, tmp_path):
    path = tmp_path / "no.html"
    with pytest.raises(GridError, match="lack the observed one, 'truth'"):
        write_report(path, title="x", maps=maps, scores=scores, observed="truth")
    with pytest.raises(GridError, match="no scores of 'other'"):
        write_report(path, title="x", maps=maps, scores=scores, model="other")
    two = xr.concat([maps["crosswalk"], maps["crosswalk"].assign_coords(time=[2016])], "time")
    with pytest.raises(TimeError, match="has 2 time steps; select one"):
        write_report(path, title="x", maps={**maps, "crosswalk": two}, scores=scores)
    with pytest.raises(VocabularyError, match="unknown class codes 90"):
        write_report(path, title="x", maps={**maps, "crosswalk": on_grid(np.full((20, 30), 90))}, scores=scores)
    assert not path.exists()
