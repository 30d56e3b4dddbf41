"""The report: one page and one JSON file that hold the same numbers."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import xarray as xr

from tests.raising_backend import raising_dataset
from tests.report.pages import Page, image, numbers
from tests.scores.maps import on_grid
from xland.errors import (
    AllocationError,
    ForcingError,
    GridError,
    OtherYearWarning,
    RegionError,
    StoreError,
    TimeError,
    UndefinedScoreWarning,
    VocabularyError,
)
from xland.geo.grid import Grid, class_shares
from xland.report.report import report
from xland.report.sections import change_parts, coarse_parts, headline, landscape_parts, regions_parts
from xland.scores.baselines import MODE
from xland.scores.evaluation import compare
from xland.scores.landscape import assess_landscape
from xland.totals.crosswalk import Crosswalk
from xland.vocabulary import CLASS_NAMES, CLASSES, OCEAN, WATER

SHAPE = (40, 60)
FACTOR = 5


def on_cells(values, year=None, north=60.0, west=0.0):
    made = on_grid(values, 0.5, north, west)
    return made if year is None else made.expand_dims(time=[year])


def a_forcing(codes):
    grid = Grid(0.5, 60.0, 0.0, *codes.shape)
    coarse = grid.coarsen(FACTOR)
    shares = class_shares(codes, FACTOR, grid.cell_area(), len(CLASSES))
    coords = {"time": [2015], "lat": coarse.latitude, "lon": coarse.longitude}
    return xr.Dataset(
        {name: (("time", "lat", "lon"), share[None]) for name, share in zip(CLASS_NAMES, shares, strict=True)}, coords
    )


class World:
    """An observed map, an earlier one, a prediction with its layers, and the forcing."""

    def __init__(self):
        rng = np.random.default_rng(0)
        observed = rng.integers(1, 7, (8, 12)).astype(np.uint8).repeat(5, 0).repeat(5, 1)
        observed = np.where(rng.random(SHAPE) < 0.2, rng.integers(1, 7, SHAPE), observed).astype(np.uint8)
        observed[:3] = OCEAN
        start = np.where(rng.random(SHAPE) < 0.1, 4, observed)
        start[:3] = OCEAN
        predicted = np.where(rng.random(SHAPE) < 0.7, observed, start)
        predicted = np.where(rng.random(SHAPE) < 0.1, 2, predicted).astype(np.uint8)
        predicted[:3] = OCEAN
        shares = rng.dirichlet(np.ones(8), SHAPE).astype(np.float32)
        np.put_along_axis(shares, predicted[..., None].astype(int), 2, axis=-1)
        shares /= shares.sum(-1, keepdims=True)
        probability = on_cells(np.moveaxis(shares, -1, 0)).assign_coords({"class": list(CLASS_NAMES)})
        applicability = on_cells(np.linspace(0, 2, 2400, dtype=np.float32).reshape(SHAPE))
        self.observed, self.start = on_cells(observed, 2015), on_cells(start.astype(np.uint8), 2001)
        self.predicted = xr.Dataset({
            "land_use": on_cells(predicted, 2015),
            "probability": probability.expand_dims(time=[2015]),
            "applicability": applicability.expand_dims(time=[2015]).assign_attrs(threshold=0.5),
        })  # fmt: skip
        self.forcing = a_forcing(observed)


@pytest.fixture(scope="module")
def world():
    return World()


@pytest.fixture(scope="module")
def full(world):
    return report(
        world.predicted,
        world.observed,
        model="model <b>",
        forcing=world.forcing,
        start=world.start,
        factor=FACTOR,
        cells="held-out cells",
        title="Map <script>alert(1)</script>",
        notes=["The coarse input is <img src=x onerror=alert(1)> fractions."],
        card={"name": "luh2-0p05", "data": {"years": [2015, 2019]}, "scores": [{"a": 1}], "licence": None},
        provenance={"<script>": "</section><script>alert(2)</script>"},
    )


@pytest.fixture(scope="module")
def page(full, tmp_path_factory):
    path = full.to_html(tmp_path_factory.mktemp("report") / "report.html")
    assert [each.name for each in path.parent.iterdir()] == ["report.html"]
    return path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def bare(world):
    return report(world.predicted["land_use"], world.observed, regions=None)


def test_the_page_is_well_formed(page):
    parsed = Page(page)
    assert not parsed.open
    assert page.startswith("<!DOCTYPE html>")
    ids = [value for _, name, value in parsed.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    targets = {value.removeprefix("#") for tag, name, value in parsed.attributes if (tag, name) == ("a", "href")}
    assert {"maps", "scores", "classes", "regions", "change", "reliability", "coarse"} <= targets <= set(ids)
    zooms = {value for tag, name, value in parsed.attributes if (tag, name) == ("label", "for")}
    assert zooms <= set(ids)


def test_the_page_asks_nothing_of_the_network(page):
    parsed = Page(page)
    for tag, name, value in parsed.attributes:
        if name in {"src", "href", "action", "poster", "srcset", "data"}:
            assert value.startswith(("data:image/png;base64,", "#")), (tag, name, value[:60])
    assert not {"script", "link", "iframe", "object", "embed", "form"} & set(parsed.tags)
    assert "url(" not in page.replace("url(#", ""), "drawings refer to their own parts"
    assert "@import" not in page
    assert "default-src 'none'" in page


def test_what_users_write_is_escaped_everywhere(page):
    assert "<script" not in page
    assert "onerror=alert(1)>" not in page
    assert "<b>" not in page.replace("<b>0", "").replace("<b>–", "")  # noqa: RUF001 - tiles alone are set in bold
    texts = "".join(Page(page).texts)
    assert "The coarse input is <img src=x onerror=alert(1)> fractions." in texts
    assert "</section><script>alert(2)</script>" in texts


def test_every_picture_and_chart_has_words_and_every_table_a_caption(full, page):
    parsed = Page(page)
    pictures = parsed.tags.count("img")
    # start, observed and four maps; four differences; confidence, applicability, coarse; change; regions
    assert pictures == 6 + 4 + 3 + 1 + 1
    alts = [value for tag, name, value in parsed.attributes if (tag, name) == ("img", "alt")]
    assert len(alts) == pictures
    assert all(len(alt) > 20 for alt in alts)
    assert alts == [each["shows"] for each in full.to_dict()["pictures"]]
    assert parsed.tags.count("table") == parsed.tags.count("caption")
    charts = [dict(each) for each in parsed.elements("svg") if "chart" in dict(each).get("class", "")]
    # each of seven is there for wide pages and for narrow ones
    assert [each["class"].split()[1] for each in charts] == 7 * ["broad", "slim"]
    assert all(len(each["aria-label"]) > 20 for each in charts)


def test_every_figure_of_the_page_is_in_the_json(full, page, tmp_path):
    written = json.loads(full.to_json(tmp_path / "report.json").read_text())
    known = numbers(written)
    rounded = {f"{scale * value:.{digits}f}" for value in known for scale in (1, 100) for digits in (1, 2, 3, 4)}
    rounded |= {text.lstrip("-") for text in rounded} | {f"{value:,.0f}" for value in known}
    cells = Page(page).cells
    assert len(cells) > 300
    shares = shares_of(written)
    missing = [text for text in cells if text and text != "–" and text not in rounded | shares | {"∞"}]  # noqa: RUF001
    assert missing == []


def shares_of(written):
    """Per cent that follow from the areas in the JSON: of confusions and of transitions."""
    judged = written["model"]
    matrix = np.array(written["scores"][judged]["land"]["area"]["confusion"])
    change = written["change"][judged]
    with np.errstate(invalid="ignore", divide="ignore"):
        tables = [
            np.round(100 * matrix / matrix.sum(1, keepdims=True), 12),
            100 * matrix.sum(1) / matrix.sum(),
            *(100 * np.array(change[f"{end}_transitions"]) / change["total"] for end in ("observed", "predicted")),
        ]
    values = np.concatenate([table.ravel() for table in tables])
    return {f"{value:.{digits}f}" for value in values[np.isfinite(values)] for digits in (1, 2)}


def test_the_landscape_is_shown_beside_the_observed_map(full, page, world):
    assert full.landscape.names == ("observed", *full.scores.names)
    assert full.landscape.scales == (1, 2, 4, 8)
    alone = assess_landscape(world.predicted, world.observed, factor=FACTOR)
    assert alone["map"].boundary_density == full.landscape["model <b>"].boundary_density
    # the crosswalk has boundaries at the edges of coarse cells alone
    assert full.landscape["crosswalk"].squares == np.inf
    text = "".join(Page(page).texts)
    assert f"{alone['observed'].boundary_density:.3f} in the observed map" in text
    (table,) = (
        part
        for part in landscape_parts(full)
        if getattr(part, "header", [""])[-1] == "patch distance" and not part.folded
    )
    distances = {row.name: row.cells[-1].text for row in table.rows}
    assert distances["observed"] == ""
    assert distances["model <b>"] == f"{alone.patch_distance('map'):.3f}"
    assert [row.cells[1].text for row in table.rows if row.name == "crosswalk"] == ["∞"]


def test_scores_stand_beside_the_baselines(full, page, world, tmp_path):
    assert full.scores.names == ("model <b>", "crosswalk", "most frequent class", "mode of the observed cell")
    alone = compare({"a": world.predicted}, world.observed, factor=FACTOR)
    written = json.loads(alone["a"].to_json(tmp_path / "scores.json").read_text())
    assert written["scores"]["map"] == full.to_dict()["scores"]["model <b>"]
    text = " ".join("".join(Page(page).texts).split())
    land = full.scores["model <b>"].area["land"]
    best = max(full.scores[name].area["land"].accuracy for name in ("crosswalk", "most frequent class"))
    assert f"{land.accuracy - best:.3f} ahead of" in text
    assert "2015" in text
    assert "held-out cells" in text
    assert "The mode of the observed cell is made from the observed map itself" in text
    assert re.search(r'<tr class="strong"><th scope="row">model &lt;b&gt;</th><td class="best">', page)


def test_regions_change_reliability_and_agreement_are_reported(full, page):
    assert re.search(r"Beyond 0\.5, as on \d\d\.\d % of the drawn cells, the scores of the model say nothing", page)
    assert list(full.by_region) == ["north of 50°N", "23.5°N to 50°N", "tropics, 23.5°S to 23.5°N", "south of 23.5°S"]
    judged = full.change["model <b>"]
    assert judged.figure_of_merit > full.change["most frequent class"].figure_of_merit
    assert set(judged.by_factor) == {1, 2, 4, 8, 16}
    assert list(full.change["crosswalk"].by_factor) == [1]
    assert full.reliability.expected_calibration_error > 0
    assert full.coarse.cells == 96
    assert 0 < full.coarse.within_a_pixel < 1


def test_what_cannot_be_shown_is_named_with_what_it_needs(bare, tmp_path):
    text = bare.to_html(tmp_path / "bare.html").read_text(encoding="utf-8")
    assert not Page(text).open
    commands = re.findall(r"To have it here: <code>([^<]*)</code>", text)
    assert [each.split("... ")[1] for each in commands] == [
        "--outputs land_use confidence",
        "--forcing STATES.nc",
        "--regions latitude",
        "--start MAP_OF_AN_EARLIER_YEAR",
        "--outputs land_use probability",
        "--forcing STATES.nc",
    ]
    assert "no baseline beside it" in text
    assert 'class="best"' not in text
    written = bare.to_dict()
    assert written["reliability"] is written["coarse_agreement"] is None
    assert written["change"] == {}


def test_the_pictures_show_the_maps(page, world):
    sources = [v for t, n, v in Page(page).attributes if (t, n) == ("img", "src")]
    colors = np.array([[int(each.color[i : i + 2], 16) for i in (1, 3, 5)] for each in CLASSES])
    for source, expected in zip(sources, (world.start, world.observed, world.predicted["land_use"]), strict=False):
        np.testing.assert_array_equal(np.asarray(image(source))[..., :3], colors[expected.values[0]])


def test_a_page_of_chosen_cells_in_blocks_and_with_arrays_among_the_provenance(world, tmp_path):
    within = np.zeros(SHAPE, dtype=bool)
    within[10:20] = True
    attributes = {"years": np.array([2000, 2015]), "box": np.arange(4.0).reshape(2, 2), "names": np.array(["a", "<b>"])}
    options = {"within": within, "max_pixels": 100, "regions": None, "provenance": attributes, "card": attributes}
    found = report(world.predicted["land_use"], world.observed, **options)
    text = found.to_html(tmp_path / "page.html").read_text(encoding="utf-8")
    assert "All cells are drawn, also those that are not scored." in text
    assert int(found.scores["map"].pixels["all"].total) == within.sum()
    assert {int(v) for t, n, v in Page(text).attributes if (t, n) == ("img", "width")} == {12}
    assert "Drawn in blocks of 5 x 5 cells" in text
    words = re.findall(r"<dt>(?:years|box|names)</dt><dd>(.*?)\s*</dd>", text)
    assert words == 2 * ["2000, 2015", "[0.0, 1.0], [2.0, 3.0]", "a, &lt;b&gt;"]


def test_a_map_of_a_single_cell_of_the_forcing_is_reported(world, full, tmp_path):
    cell = {"lat": slice(5, 10), "lon": slice(10, 15)}
    found = report(world.predicted.isel(cell), world.observed, forcing=world.forcing, factor=FACTOR)
    assert not Page(found.to_html(tmp_path / "small.html").read_text(encoding="utf-8")).open
    coarse = {name: slice(each.start // FACTOR, each.stop // FACTOR) for name, each in cell.items()}
    np.testing.assert_array_equal(found.agreement["difference"], full.agreement["difference"].isel(coarse))
    for name in ("crosswalk", "mode of the observed cell"):
        np.testing.assert_array_equal(found.maps[name], full.maps[name].isel(cell))


def test_what_has_no_cell_is_said_to_have_no_scores(world):
    found = report(world.predicted, world.observed, forcing=world.forcing * np.nan, factor=FACTOR, regions=None)
    (said,) = coarse_parts(found)
    assert said.text == "The forcing and the map have no coarse cell to compare."
    water = world.observed.copy(data=np.full((1, *SHAPE), WATER, np.uint8))
    (said,) = regions_parts(report(water, water))
    assert said.text.startswith("No cell was scored in: north of 50°N, 23.5°N to 50°N")


@pytest.mark.parametrize("which", ["observed", "start"])
def test_maps_without_land_leave_change_and_trust_undefined_as_the_other_scores(world, which, tmp_path):
    sea = world.observed.copy(data=np.full((1, *SHAPE), OCEAN, np.uint8))
    maps = {"observed": world.observed, "start": world.start} | {which: sea}
    found = report(world.predicted, model="ours", **maps)
    with pytest.warns(UndefinedScoreWarning, match="change is not scored: no cell is left to score") as told:
        scored = found.change["ours"]
    assert len(told) == 1
    assert np.isnan([scored.figure_of_merit, scored.hits, scored.null.disagreement]).all()
    assert scored.years == (int(maps["start"].time[0]), int(maps["observed"].time[0]), 2015)
    (said,) = change_parts(found)
    assert said.text == "No cell has land use in both the start and the observed map, so change is not scored."
    if which == "observed":
        with pytest.warns(UndefinedScoreWarning, match="probabilities are not judged: no cell is left to score"):
            assert found.reliability is None
        with pytest.warns(UndefinedScoreWarning, match="the landscape is not measured: no cell is left to measure"):
            assert found.landscape is None
        text = found.to_html(tmp_path / "sea.html").read_text(encoding="utf-8")
        assert not Page(text).open
        assert "No cell of land was observed, so the probabilities are not judged." in text
        written = json.loads(found.to_json(tmp_path / "sea.json").read_text())
        assert written["change"]["ours"]["figure_of_merit"] is written["reliability"] is written["landscape"] is None


def test_nothing_is_read_before_it_is_asked_for(world):
    observed = raising_dataset(world.observed.to_dataset(name="land_use"))
    lazy = report(
        raising_dataset(world.predicted),
        observed,
        start=world.start,
        forcing=raising_dataset(world.forcing),
        factor=FACTOR,
    )
    assert list(lazy.maps) == ["map", "crosswalk", "most frequent class", "mode of the observed cell"]
    for name in lazy.maps:
        with pytest.raises(StoreError, match="were read"):
            lazy.maps[name].compute()


def test_any_orientation_and_a_larger_observed_map_give_the_same_scores(world, full):
    turned = world.predicted.isel(lat=slice(None, None, -1))
    larger = world.observed.pad(lat=(0, 10), lon=(20, 10), mode="wrap")
    grid = Grid(0.5, 60.0, -10.0, 50, 90)
    larger = larger.assign_coords(lat=grid.latitude, lon=grid.longitude)
    forcing = world.forcing.reindex(
        lat=grid.coarsen(FACTOR).latitude, lon=grid.coarsen(FACTOR).longitude, fill_value=1 / 8
    )
    found = report(turned, larger, model="model <b>", forcing=forcing, factor=FACTOR)
    same_scores(found, full)


def same_scores(found, expected):
    for name in expected.scores.names:
        ours, theirs = (each.scores[name].area["land"].matrix for each in (found, expected))
        np.testing.assert_allclose(ours, theirs)


def test_a_forcing_of_the_region_suffices_beside_a_global_observed_map(world):
    east = 170
    grid = Grid.world(0.5)
    everywhere = on_cells(np.random.default_rng(1).integers(0, 8, grid.shape).astype(np.uint8), north=90, west=-180)
    given = (world.predicted, world.observed, world.forcing)
    predicted, observed, forcing = (each.assign_coords(lon=each["lon"] + east) for each in given)
    everywhere.loc[{"lat": observed["lat"], "lon": (observed["lon"] + 180) % 360 - 180}] = observed.values[0]
    found = report(predicted, everywhere, forcing=forcing, factor=FACTOR)
    alone = report(predicted, observed, forcing=forcing, factor=FACTOR)
    same_scores(found, alone)
    # as far as the coarse cells that the map touches, and no further
    inner = {"lat": slice(2, 38), "lon": slice(1, 59)}
    part = report(predicted.isel(inner), everywhere, forcing=forcing, factor=FACTOR)
    np.testing.assert_array_equal(part.maps["crosswalk"], alone.maps["crosswalk"].isel(inner))


def test_a_map_that_does_not_say_its_year_goes_with_any_forcing_and_another_year_is_reported_once(world, full):
    with pytest.warns(OtherYearWarning) as told:
        _ = report(world.predicted, world.observed, forcing=world.forcing.assign_coords(time=[2019])).coarse
    assert len(told) == 1
    timeless = world.predicted.isel(time=0, drop=True)
    found = report(timeless, world.observed, forcing=world.forcing, factor=FACTOR)
    assert found.coarse == full.coarse
    years = xr.concat([world.forcing.assign_coords(time=[year]) for year in (2015, 2016)], "time")
    assert report(timeless, world.observed, forcing=years, factor=FACTOR, year=2016).coarse == full.coarse


def test_one_year_of_many_is_chosen_and_others_are_compared_only_if_asked_for(world):
    years = [world.predicted["land_use"].assign_coords(time=[year]) for year in (2014, 2015, 2020)]
    many = xr.concat([years[0], years[1], years[2] * 0 + 1], "time")
    assert report(many, world.observed).scores["map"].years == ((2015, 2015),)
    with pytest.raises(TimeError, match=r"\(2020\) and the observed map \(2015\).*pass match_years=False"):
        report(many, world.observed, year=2020)
    last = report(many, world.observed, year=2020, match_years=False).scores["map"]
    assert last.years == ((2020, 2015),)
    assert last["land"].recall[1] == 1
    with pytest.raises(TimeError, match="3 time steps, 2014 to 2020; 2016 is not among them"):
        report(many, world.observed, year=2016)
    with pytest.raises(TimeError, match=r"start map has 3 time steps.*select one"):
        report(world.predicted, world.observed, start=many)
    with pytest.raises(TimeError, match=r"the map 'map' is of 2015, not of 2050"):
        report(world.predicted, world.observed, year=2050)
    timeless = world.predicted["land_use"].isel(time=0, drop=True)
    assert report(timeless, world.observed, year=2050).scores["map"].years == ((None, 2015),)
    with pytest.raises(TimeError, match="the map 'map' has 2 time steps; select one"):
        report(xr.concat([timeless] * 2, "time"), timeless)


def test_what_does_not_fit_is_refused(world, tmp_path):
    past = xr.concat([world.forcing.assign_coords(time=[year]) for year in (1900, 1901)], "time")
    for options, error, message in (
        ({"baselines": {"map": world.start}}, GridError, "a baseline has the name 'map' of the map that is judged"),
        ({"model": "observed"}, GridError, "a map has the name 'observed', which the page uses"),
        ({"baselines": {"start": world.start}}, GridError, "a map has the name 'start'"),
        ({"model": ""}, GridError, "has an empty name; pass model='map'"),
        ({"max_pixels": 0}, GridError, "max_pixels must be a whole number of at least 1, not 0"),
        ({"forcing": world.forcing, "crosswalk": {"forest": "forest"}}, AllocationError, "is of type dict; pass an"),
        ({"regions": "nations"}, RegionError, "unknown regions 'nations'"),
        ({"regions": 3}, RegionError, "regions are of type int; pass latitude, koppen, continents, or"),
        ({"forcing": world.forcing["forest"]}, ForcingError, "the forcing is a DataArray; pass a Dataset"),
        ({"factor": "a"}, GridError, "factor must be a whole number of at least 1 or None, not 'a'"),
        ({"start": world.start.values}, GridError, "the start map is of type ndarray; pass an xarray"),
        ({"baselines": [world.start]}, GridError, "baselines are given by name, not as a list; pass"),
        ({"forcing": past}, TimeError, "the forcing has 2 years, 1900 to 1901, but not 2015, of which the map is"),
        ({"forcing": world.forcing, "factor": 10}, GridError, "the factor is 10, but 5 cells of the map"),
        ({"forcing": world.forcing, "factor": 10, "baselines": {}}, GridError, "the factor is 10, but 5 cells"),
    ):
        with pytest.raises(error, match=message):
            report(world.predicted, world.observed, **options)
    nothing = report(world.predicted, world.observed, start=world.start, within=np.zeros(SHAPE, bool))
    for part in ("scores", "landscape", "change", "reliability"):
        with pytest.raises(RegionError, match=r"no cell is left to score: .*the mask `within`"):
            getattr(nothing, part)
    wrong = report(on_cells(np.full(SHAPE, 90)), world.observed)
    with pytest.raises(VocabularyError, match="unknown class codes 90"):
        wrong.to_html(tmp_path / "no.html")
    assert not list(tmp_path.iterdir())


def test_a_crosswalk_of_other_states_serves_agreement_and_baseline(world):
    names = {name: f"share_of_{name}" for name in CLASS_NAMES[1:]}
    forcing = world.forcing.rename(names)
    other = Crosswalk({state: name for name, state in names.items()}, remainder=("ocean",))
    options = {"factor": FACTOR, "year": 2015}
    predicted = world.predicted["land_use"]
    found = report(predicted, world.observed, forcing=forcing, crosswalk=other, **options)
    plain = report(predicted, world.observed, forcing=world.forcing, **options)
    xr.testing.assert_equal(found.maps["crosswalk"], plain.maps["crosswalk"])
    assert found.coarse.classes["forest"] == plain.coarse.classes["forest"]


def test_the_headline_compares_with_the_best_baseline_that_has_not_seen_the_answer(world, full):
    truth = {MODE: world.observed, "crosswalk": full.maps["crosswalk"]}
    found = report(world.predicted["land_use"], world.observed, baselines=truth, factor=FACTOR, regions=None)
    assert found.scores[MODE]["land"].accuracy == 1
    for tile in headline(found)[:4]:
        assert "ahead of crosswalk" in tile.notes[0]
    alone = report(world.predicted["land_use"], world.observed, baselines={MODE: world.observed}, regions=None)
    assert headline(alone)[0].notes[0] == "no baseline beside it"


def test_the_observed_map_and_the_inputs_are_named_with_their_licences(world, tmp_path):
    said = {"title": "Land cover", "source": "MODIS <2019>", "license": "CC BY 4.0"}
    observed = world.observed.to_dataset(name="land_use").assign_attrs(said)
    table = json.dumps([{"input": "forcing", "license": "MIT"}, {"input": "static", "license": "CC BY 4.0"}])
    provenance = {"xland_licences": table, "title": "[not JSON"}
    found = report(world.predicted["land_use"], observed, regions=None, provenance=provenance)
    assert found.to_dict()["observed"] == said
    page = found.to_html(tmp_path / "a.html").read_text(encoding="utf-8")
    assert "Observed map: MODIS <2019> · licence: CC BY 4.0" in " ".join("".join(Page(page).texts).split())
    assert re.findall(r"<dt>license</dt><dd>(.*?)\s*</dd>", page) == ["MIT", "CC BY 4.0"]
    assert "[not JSON" in page
    observed = world.observed.assign_attrs(long_name="land-use class")
    found = report(world.predicted["land_use"], observed, regions=None)
    words = " ".join("".join(Page(found.to_html(tmp_path / "b.html").read_text(encoding="utf-8")).texts).split())
    assert "Observed map: land-use class · licence: not stated" in words


def test_a_scale_ends_where_its_values_end(world, page):
    confidence = world.predicted["land_use"] * 0.0 + np.linspace(0.4, 0.8, 60, dtype=np.float32)
    found = report(world.predicted.assign(confidence=confidence), world.observed, regions=None, factor=FACTOR)
    (legend,) = (
        part.legend
        for part in found.sections[0].parts
        if getattr(part, "title", "").startswith("Probability of the land-use class")
    )
    assert legend.ends == ("0.4", "0.8")


def test_a_report_is_not_written_to_a_name_of_another_format(bare, tmp_path):
    with pytest.raises(StoreError, match=r"page\.zarr is the name of a Zarr store, but a web page is written"):
        bare.to_html(tmp_path / "page.zarr")
    with pytest.raises(StoreError, match="it is a folder"):
        bare.to_html(tmp_path)
