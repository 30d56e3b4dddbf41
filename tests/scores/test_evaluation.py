from __future__ import annotations

import json
import math

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.scores.maps import on_grid, same, turned
from xland.errors import GridError, RegionError, TimeError, VocabularyError
from xland.geo.grid import Grid
from xland.scores.counts import confusion, mixed_cells
from xland.scores.evaluation import compare, evaluate
from xland.scores.frames import edges
from xland.scores.measures import SCORES, register_score
from xland.vocabulary import LAND_CLASSES

QUICK = settings(max_examples=3)


def two_maps(seed=0, rows=18, columns=36, resolution=10.0):
    rng = np.random.default_rng(seed)
    observed = rng.integers(0, 8, (rows, columns)).astype(np.uint8)
    predicted = np.where(rng.random(observed.shape) < 0.6, observed, rng.integers(0, 8, observed.shape))
    return on_grid(predicted.astype(np.uint8), resolution), on_grid(observed, resolution)


def test_land_leaves_out_water_ocean_and_the_far_south():
    observed = np.full((18, 36), 4, dtype=np.uint8)
    observed[0], observed[1] = 0, 7
    result = evaluate(on_grid(observed), on_grid(observed), domains=("all", "land"))
    assert result.pixels["all"].total == 18 * 36
    # 70 N to 60 S: the row from 60 S to 70 S is out
    assert result.pixels["land"].total == result.pixels["land"].support[4] == 13 * 36
    assert (result.area["all"].accuracy, result["land"].miou, result["land"].kappa) == pytest.approx(
        (1, 1, math.nan), nan_ok=True
    )


def test_the_rows_weigh_what_they_cover_on_the_sphere():
    predicted, observed = two_maps(3)
    observed[:6, :6] = 4
    result = evaluate(predicted, observed, factor=6)
    area = np.broadcast_to(Grid.world(10.0).cell_area()[:, None], (18, 36))
    np.testing.assert_allclose(result["all"].matrix, confusion(observed.values, predicted.values, area), rtol=1e-12)
    assert result["all"].total == pytest.approx(4 * math.pi * 6_371_007.181**2)
    np.testing.assert_array_equal(result.pixels["all"].matrix, confusion(observed.values, predicted.values))
    land = np.isin(observed.values, LAND_CLASSES) & (observed["lat"].values > -60)[:, None]
    mixed = land & mixed_cells(observed.values, 6)
    np.testing.assert_array_equal(result.pixels["mixed"].matrix, confusion(observed.values, predicted.values, mixed))


@QUICK
@given(st.integers(0, 1000), st.integers(1, 18), st.integers(1, 36), st.integers(1, 6), st.booleans())
def test_chunks_orientation_and_names_change_no_bit_of_the_matrices(seed, rows, columns, factor, other):
    predicted, observed = two_maps(seed)
    lazy = predicted.chunk(lat=rows, lon=columns)
    found = evaluate(turned(lazy) if other else lazy, observed.chunk(lat=columns // 2 + 1, lon=rows), factor=factor)
    same(evaluate(predicted, observed, factor=factor), found)


def test_blocks_cut_through_no_coarse_cell(monkeypatch):
    factor = 7
    predicted, observed = two_maps(1, rows=45, columns=90, resolution=4.0)
    whole = evaluate(predicted, observed, factor=factor)
    monkeypatch.setattr("xland.scores.frames._SMALLEST", 4)
    monkeypatch.setattr("xland.scores.frames._LARGEST", 23)
    same(whole, evaluate(predicted.chunk(lat=11, lon=13), observed, factor=factor))
    assert all(size % factor == 0 for size in edges((11,) * 35, factor))


@pytest.mark.parametrize("pick", [np.r_[11:33], np.r_[67:72, 0:8]])
def test_a_region_is_scored_where_both_have_cells_and_mixed_as_in_the_whole_map(pick):
    predicted, observed = two_maps(5, rows=36, columns=72, resolution=5.0)
    part = predicted.isel(lat=slice(7, 20), lon=pick)
    if pick[0] > pick[-1]:  # across the date line
        part = part.assign_coords(lon=part["lon"] % 360)
    inside = xr.zeros_like(observed, dtype=bool)
    inside[7:20, pick] = True
    # the region cuts coarse cells in two; what the observed map shows beyond it still makes them mixed
    same(evaluate(part, observed), evaluate(predicted, observed, within=inside))


@pytest.mark.parametrize("west", [0.0, -130.0])
def test_no_coarse_cell_passes_the_date_line_where_the_factor_does_not_divide_the_globe(west):
    predicted, observed = two_maps(4)
    moved = [each.assign_coords(lon=(each["lon"] - west) % 360 + west).sortby("lon") for each in (predicted, observed)]
    plain = evaluate(predicted, observed, factor=7)
    same(plain, evaluate(*moved, factor=7))
    same(plain, evaluate(moved[0], observed, factor=7))
    # the last coarse cell before 180 E has one column, and no other cell makes it mixed
    single = np.full((18, 36), 4, dtype=np.uint8)
    single[:, 0] = 2
    assert evaluate(on_grid(single), on_grid(single), factor=7).pixels["mixed"].support[4] == 15 * 6
    # an error counts a wrong cell once
    single[3, 0] = 99
    for each in (on_grid(single), on_grid(single).assign_coords(lon=moved[0]["lon"].values[0] + 10 * np.arange(36))):
        with pytest.raises(VocabularyError, match=r"99 \(1 cells\)"):
            evaluate(each, each, factor=7)


def test_a_mask_is_placed_by_its_coordinates_or_lies_as_the_observed_map():
    predicted, observed = two_maps(7)
    mask = np.zeros((18, 36), dtype=bool)
    mask[4:9, 20:30] = True
    by_array = evaluate(predicted, observed, within=mask)
    assert by_array.pixels["all"].total == 50
    same(by_array, evaluate(predicted, observed, within=on_grid(mask).isel(lat=slice(None, None, -1))))
    same(by_array, evaluate(predicted, observed, within=on_grid(mask).isel(lat=slice(2, 12), lon=slice(15, 35))))


def test_maps_of_different_years_are_compared_only_if_asked_for():
    predicted, observed = two_maps()
    early, late = predicted.expand_dims(time=[2015]), observed.assign_coords(time=np.datetime64("2019-01-01"))
    with pytest.raises(TimeError, match=r"\(2015\).*\(2019\) have no year in common; pass match_years=False"):
        evaluate(early, late)
    assert evaluate(early, late, match_years=False).years == ((2015, 2019),)
    assert evaluate(predicted, observed).years == ((None, None),)


def test_common_years_are_scored_together():
    predicted, observed = two_maps()
    first = xr.concat([predicted, observed], "time").assign_coords(time=[2000, 2001])
    second = xr.concat([observed, observed, predicted], "time").assign_coords(time=[1999, 2000, 2001])
    result = evaluate(first, second)
    assert result.years == ((2000, 2000), (2001, 2001))
    expected = evaluate(predicted, observed).pixels["all"].matrix + evaluate(observed, predicted).pixels["all"].matrix
    np.testing.assert_array_equal(result.pixels["all"].matrix, expected)
    with pytest.raises(TimeError, match="no year in common; select one step"):
        evaluate(first, observed.expand_dims(time=[2019]))
    with pytest.raises(TimeError, match="need calendar years"):
        evaluate(first, observed)


def test_the_scores_that_are_asked_for_are_shown_and_no_name_is_registered_twice():
    alone = evaluate(*two_maps(9), scores="accuracy", domains="land")
    assert list(alone["land"].values) == ["accuracy"]
    assert "kappa" not in str(alone)
    with pytest.raises(GridError, match="there is a score 'kappa' already"):
        register_score(SCORES["kappa"])


def shifted(part):
    return part.isel(lat=slice(3, 9), lon=slice(3, 9)).assign_coords(lon=part["lon"][3:9] + 3)


@pytest.mark.parametrize(
    ("change", "options", "error", "message"),
    [
        (lambda p, o: (two_maps(rows=36, columns=72, resolution=5.0)[0], o), {}, GridError, "cells of .* degrees and"),
        (lambda p, o: (shifted(p), o), {}, GridError, r"0\.30 cells beside those of the .* in longitude"),
        (lambda p, o: (p[:5], o[5:]), {}, RegionError, "no cell in common"),
        (lambda p, o: (p.expand_dims({"class": 8}), o), {}, GridError, r"class \(8\).*codes rather than probabilities"),
        (lambda p, o: (p.to_dataset(name="other"), o), {}, GridError, "without `land_use`"),
        (lambda p, o: (p.where(p > 0, 99), o), {}, VocabularyError, r"the map 'map' .* 99 \(\d+ cells\), the first at"),
        (lambda p, o: (p, o.where(o > 0, 99)), {}, VocabularyError, "the observed map"),
        (None, {"scores": ["acuracy"]}, GridError, "unknown scores 'acuracy': did you mean 'accuracy'.* are accuracy,"),
        (None, {"scores": ()}, GridError, "scores is empty: choose from accuracy"),
        (None, {"within": np.zeros((18, 36), bool)}, RegionError, "no cell is left"),
        (None, {"within": np.ones((3, 3), bool)}, GridError, r"shape \(3, 3\)"),
        (None, {"within": on_grid(np.ones((18, 36)))}, GridError, "must be boolean, not float64"),
        (
            None,
            {"within": on_grid(np.ones((18, 36), bool)).expand_dims(time=[1, 2])},
            GridError,
            "has 2 time steps; select",
        ),
        (None, {"within": on_grid(np.ones((18, 36), bool)).to_dataset(name="a")}, GridError, "is a Dataset; pass the"),
        (None, {"domains": ("sea",)}, GridError, "unknown domains 'sea'. Known are all, land, mixed"),
        (None, {"domains": ()}, GridError, "domains is empty: choose from all, land"),
        (None, {"classes": (4, 9, "forest")}, VocabularyError, "no class has the code 9 or 'forest'"),
        *((None, {"factor": each}, GridError, "factor.* whole number") for each in ("a", None, [5], 2.5, 0, True)),
    ],
)
def test_what_cannot_be_compared_is_refused(change, options, error, message):
    maps = two_maps() if change is None else change(*two_maps())
    with pytest.raises(error, match=message):
        evaluate(*maps, **options)


def test_a_comparison_scores_every_map_as_if_alone_and_writes_json(tmp_path):
    predicted, observed = two_maps(9)
    baseline = xr.full_like(observed, 4).to_dataset(name="land_use")
    both = compare({"model": predicted, "most frequent": baseline}, observed, cells="held-out cells")
    same(both["model"], evaluate(predicted, observed))
    same(both["most frequent"], evaluate(baseline, observed))
    read = json.loads(both.to_json(tmp_path / "scores.json").read_text())
    assert read["cells"] == "held-out cells"
    assert list(read["scores"]) == ["model", "most frequent"]
    assert set(read["scores"]["model"]) == {"all", "land", "mixed"}
    land, scores = read["scores"]["model"]["land"]["pixels"], both["model"].pixels["land"]
    assert (land["accuracy"], land["iou"]["urban"]) == (scores.accuracy, scores.iou[1])
    assert land["miou_classes"] == ["urban", "cropland", "pasture", "forest", "grass_shrub", "other"]
    assert [each.name for each in tmp_path.iterdir()] == ["scores.json"]
    listed, array = (evaluate(predicted, observed, classes=codes) for codes in ((1, 4), np.array([1, 4])))
    assert array.area["land"].miou == listed.area["land"].miou


def test_maps_of_different_cells_and_maps_without_names_are_refused():
    predicted, observed = two_maps(9)
    with pytest.raises(GridError, match=r"'model' and 'part' cover different cells .*\(648 and 360 cells\)"):
        compare({"model": predicted, "part": predicted.isel(lat=slice(0, 10))}, observed)
    with pytest.raises(GridError, match=r"maps are given by name, not as a DataArray; pass \{'model': map\}"):
        compare(predicted, observed)


def test_tables_name_maps_cells_years_and_figures_and_fit_a_terminal():
    predicted, observed = two_maps(9)
    dated = {"model <b>": predicted.assign_coords(time=2015), "copy": observed.assign_coords(time=2019)}
    both = compare(dated, observed.assign_coords(time=2019), match_years=False, factor=4, cells="held-out <cells>")
    text, page = str(both), both._repr_html_()
    assert text.startswith("cells: held-out <cells> | years: model <b> 2015, observed 2019; copy 2019 | factor: 4 x 4")
    assert max(map(len, text.splitlines()[1:])) <= 80
    assert "model &lt;b&gt;" in page
    assert "<b>" not in page
    assert "held-out &lt;cells&gt;" in page
    assert both.to_dataframe().loc[("mixed", "pixels", "copy"), "accuracy"] == 1
    single = both["copy"]
    assert "1.000" in str(single)
    assert "years: 2019 |" in str(single)
    assert "<table" in single._repr_html_()
    assert single.to_dataframe().loc[("land", "area"), "miou"] == 1
    for shown in (str(single["land"]), single["land"]._repr_html_()):
        assert "cropland" in shown
    assert single["land"].to_dataframe().loc["cropland", "iou"] == 1
    assert str(evaluate(predicted, observed)).startswith("cells: all | years: not given |")
