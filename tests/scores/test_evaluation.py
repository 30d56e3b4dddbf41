from __future__ import annotations

import json
import math
import warnings

import dask.array as da
import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from xland.errors import GridError, RegionError, TimeError, VocabularyError
from xland.geo.grid import Grid
from xland.scores.counts import confusion, mixed_cells
from xland.scores.evaluation import compare, evaluate
from xland.scores.frames import edges
from xland.scores.measures import Scores
from xland.vocabulary import LAND_CLASSES, check_codes

QUICK = settings(max_examples=12, deadline=None)


def on_grid(codes, resolution=1.0, north=90.0, west=-180.0, year=None):
    grid = Grid(resolution, north, west, *codes.shape)
    made = xr.DataArray(codes, {"lat": grid.latitude, "lon": grid.longitude}, ("lat", "lon"))
    return made if year is None else made.expand_dims(time=[year])


def two_maps(seed=0, rows=18, columns=36, resolution=10.0, **place):
    rng = np.random.default_rng(seed)
    observed = rng.integers(0, 8, (rows, columns)).astype(np.uint8)
    other = rng.integers(0, 8, observed.shape)
    predicted = np.where(rng.random(observed.shape) < 0.6, observed, other).astype(np.uint8)
    return on_grid(predicted, resolution, **place), on_grid(observed, resolution, **place)


def same(left, right, exact=True):
    for weighting in ("area", "pixels"):
        for domain in left.domains:
            a, b = getattr(left, weighting)[domain].matrix, getattr(right, weighting)[domain].matrix
            if exact or weighting == "pixels":
                np.testing.assert_array_equal(a, b)
            else:
                np.testing.assert_allclose(a, b, rtol=1e-12)


# ---------------------------------------------------------------- the matrix and what follows from it


def test_confusion_of_a_hand_worked_table():
    observed = np.array([[1, 1, 2], [2, 4, 4]])
    predicted = np.array([[1, 2, 2], [2, 4, 1]])
    weights = np.array([[1.0, 2.0, 4.0], [8.0, 16.0, 32.0]])
    matrix = confusion(observed, predicted, weights)
    expected = np.zeros((8, 8))
    expected[1, 1], expected[1, 2], expected[2, 2], expected[4, 4], expected[4, 1] = 1, 2, 12, 16, 32
    np.testing.assert_array_equal(matrix, expected)
    assert matrix.dtype == np.float64


def test_scores_of_a_hand_worked_table():
    # Two classes: 20 hits of urban, 5 taken for forest, 10 forest taken for urban, 15 hits of forest.
    matrix = np.zeros((8, 8))
    matrix[1, 1], matrix[1, 4], matrix[4, 1], matrix[4, 4] = 20, 5, 10, 15
    scores = Scores(matrix)
    assert scores.accuracy == pytest.approx(0.7)
    assert scores.kappa == pytest.approx(0.4)  # chance agreement is 0.5
    assert scores.iou[1] == pytest.approx(20 / 35)
    assert scores.iou[4] == pytest.approx(15 / 30)
    assert scores.precision[1] == pytest.approx(20 / 30)
    assert scores.recall[1] == pytest.approx(20 / 25)
    assert scores.f1[1] == pytest.approx(40 / 55)
    assert scores.support[1] == 25
    assert scores.miou == pytest.approx((20 / 35 + 0.5) / 2)
    assert scores.miou_classes == (1, 4)


def test_classes_that_occur_nowhere_are_nan_without_a_warning():
    matrix = np.zeros((8, 8))
    matrix[2, 2] = 3
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scores = Scores(matrix)
        empty = Scores(np.zeros((8, 8)))
        assert math.isnan(empty.accuracy)
        assert math.isnan(empty.miou)
        assert math.isnan(empty.kappa)
        assert math.isnan(scores.kappa)  # one class only: nothing beyond chance to reach
        for values in (scores.iou, scores.precision, scores.recall, scores.f1):
            assert np.isnan(np.delete(values, 2)).all()
            assert values[2] == 1
        assert json.loads(json.dumps(empty.to_dict(), allow_nan=False))["accuracy"] is None
        assert "no class" in str(empty)


def test_a_class_only_predicted_has_iou_zero_but_stays_out_of_the_mean():
    matrix = np.zeros((8, 8))
    matrix[2, 2], matrix[2, 3] = 3, 1
    scores = Scores(matrix)
    assert scores.iou[3] == 0
    assert scores.miou == pytest.approx(0.75)
    assert Scores(matrix, classes=(2, 3)).miou == pytest.approx(0.375)


def test_confusion_refuses_codes_outside_its_classes():
    with pytest.raises(VocabularyError, match="predicted map contains 2 cells with codes outside 0 to 7"):
        confusion(np.array([1, 2, 3]), np.array([1, 8, 99]))


def test_scores_refuse_a_matrix_of_another_size():
    with pytest.raises(GridError, match=r"8 x 8 entries, not \(3, 3\)"):
        Scores(np.zeros((3, 3)))


@QUICK
@given(st.integers(0, 10_000), st.integers(1, 60))
def test_scores_agree_with_scikit_learn(seed, size):
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(seed)
    observed, predicted = rng.integers(0, 8, (2, size))
    weights = rng.random(size) + 0.1
    scores = Scores(confusion(observed, predicted, weights))
    labels = [code for code in range(8) if code in observed or code in predicted]
    how = {"labels": labels, "average": None, "sample_weight": weights, "zero_division": np.nan}
    np.testing.assert_allclose(
        scores.iou[labels], metrics.jaccard_score(observed, predicted, **{**how, "zero_division": 0})
    )
    np.testing.assert_allclose(scores.f1[labels], metrics.f1_score(observed, predicted, **{**how, "zero_division": 0}))
    np.testing.assert_allclose(scores.precision[labels], metrics.precision_score(observed, predicted, **how))
    np.testing.assert_allclose(scores.recall[labels], metrics.recall_score(observed, predicted, **how))
    assert scores.accuracy == pytest.approx(metrics.accuracy_score(observed, predicted, sample_weight=weights))
    if len(labels) > 1:
        kappa = metrics.cohen_kappa_score(observed, predicted, sample_weight=weights)
        assert scores.kappa == pytest.approx(kappa, nan_ok=True)


@QUICK
@given(st.integers(0, 10_000), st.floats(1e-6, 1e9))
def test_scaling_all_weights_changes_no_score(seed, scale):
    rng = np.random.default_rng(seed)
    observed, predicted = rng.integers(0, 8, (2, 50))
    weights = rng.random(50)
    left, right = (
        Scores(confusion(observed, predicted, weights)),
        Scores(confusion(observed, predicted, weights * scale)),
    )
    np.testing.assert_allclose(left.iou, right.iou)
    np.testing.assert_allclose([left.accuracy, left.kappa], [right.accuracy, right.kappa])


# ---------------------------------------------------------------- domains


def test_mixed_cells_hold_more_than_one_land_class():
    observed = np.array([
        [4, 4, 4, 7, 1, 2],
        [4, 4, 0, 4, 7, 0],
    ])  # fmt: skip
    # forest only; forest beside water and ocean; urban beside cropland
    expected = np.array([[False, False, False, False, True, True]] * 2)
    np.testing.assert_array_equal(mixed_cells(observed, 2), expected)
    assert not mixed_cells(observed, 1).any()
    with pytest.raises(GridError, match="2 x 6 cells cannot be grouped by 4 x 4"):
        mixed_cells(observed, 4)


@QUICK
@given(st.integers(0, 10_000), st.integers(1, 4))
def test_mixed_cells_agree_with_counting_in_every_coarse_cell(seed, factor):
    observed = np.random.default_rng(seed).choice([0, 4, 5, 7], (2 * factor, 3 * factor), p=[0.4, 0.3, 0.05, 0.25])
    found = mixed_cells(observed, factor)
    for row in range(2):
        for column in range(3):
            block = np.s_[row * factor : (row + 1) * factor, column * factor : (column + 1) * factor]
            several = len(set(observed[block].ravel()) & set(LAND_CLASSES)) > 1
            assert (found[block] == several).all()


def test_land_leaves_out_water_ocean_and_the_far_south():
    observed = np.full((18, 36), 4, dtype=np.uint8)
    observed[0], observed[1] = 0, 7
    result = evaluate(on_grid(observed, 10.0), on_grid(observed, 10.0), domains=("all", "land"))
    assert result.pixels["all"].total == 18 * 36
    # 70 N to 60 S: the row from 60 S to 70 S is out
    assert result.pixels["land"].total == 13 * 36
    assert result.pixels["land"].support[4] == 13 * 36


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


# ---------------------------------------------------------------- properties of evaluate


@QUICK
@given(st.integers(0, 1000), st.integers(1, 18), st.integers(1, 36), st.integers(1, 6))
def test_any_chunking_gives_the_same_matrices_to_the_last_bit(seed, rows, columns, factor):
    predicted, observed = two_maps(seed)
    plain = evaluate(predicted, observed, factor=factor)
    chunked = evaluate(
        predicted.chunk(lat=rows, lon=columns), observed.chunk(lat=columns // 2 + 1, lon=rows), factor=factor
    )
    same(plain, chunked)


@pytest.mark.parametrize("factor", [5, 7])
def test_blocks_cut_through_no_coarse_cell(factor, monkeypatch):
    predicted, observed = two_maps(1, rows=90, columns=180, resolution=2.0)
    whole = evaluate(predicted, observed, factor=factor)
    monkeypatch.setattr("xland.scores.frames._SMALLEST", 4)
    monkeypatch.setattr("xland.scores.frames._LARGEST", 23)
    same(whole, evaluate(predicted.chunk(lat=11, lon=13), observed, factor=factor))
    assert all(size % factor == 0 for size in edges((11,) * 35, factor))


@QUICK
@given(st.integers(0, 1000), st.booleans(), st.booleans(), st.booleans())
def test_any_orientation_gives_the_same_matrices(seed, ascending, eastward, renamed):
    predicted, observed = two_maps(seed)
    plain = evaluate(predicted, observed)
    turned = predicted
    if ascending:
        turned = turned.isel(lat=slice(None, None, -1))
    if eastward:
        turned = turned.assign_coords(lon=turned["lon"] % 360).sortby("lon")
    if renamed:
        turned = turned.rename(lat="latitude", lon="longitude").transpose("longitude", "latitude")
    same(plain, evaluate(turned, observed))
    same(plain, evaluate(predicted, observed.chunk(lat=7, lon=11)))


@QUICK
@given(st.integers(0, 1000))
def test_a_map_scored_against_itself_is_perfect(seed):
    _, observed = two_maps(seed)
    result = evaluate(observed, observed)
    for domain in ("all", "land", "mixed"):
        for weighting in (result.area, result.pixels):
            assert weighting[domain].accuracy == 1
            assert weighting[domain].miou == 1
            assert weighting[domain].kappa == pytest.approx(1)


def test_a_region_is_scored_where_both_have_cells_and_mixed_as_in_the_whole_map():
    predicted, observed = two_maps(5, rows=36, columns=72, resolution=5.0)
    part = predicted.isel(lat=slice(7, 20), lon=slice(11, 33))
    inside = xr.zeros_like(observed, dtype=bool)
    inside[7:20, 11:33] = True
    # the region cuts coarse cells in two; what the observed map shows beyond it still makes them mixed
    same(evaluate(part, observed), evaluate(predicted, observed, within=inside))


def test_a_region_across_the_date_line_is_scored_whole():
    predicted, observed = two_maps(6, rows=36, columns=72, resolution=5.0)
    pick = np.r_[67:72, 0:8]
    part = predicted.isel(lon=pick)
    part = part.assign_coords(lon=np.where(part["lon"] < 0, part["lon"] + 360, part["lon"]))
    inside = xr.zeros_like(observed, dtype=bool)
    inside[:, pick] = True
    same(evaluate(part, observed), evaluate(predicted, observed, within=inside))


def test_a_mask_is_placed_by_its_coordinates_or_lies_as_the_observed_map():
    predicted, observed = two_maps(7)
    mask = np.zeros((18, 36), dtype=bool)
    mask[4:9, 20:30] = True
    placed = on_grid(mask, 10.0)
    by_array = evaluate(predicted, observed, within=mask)
    assert by_array.pixels["all"].total == 50
    same(by_array, evaluate(predicted, observed, within=placed.isel(lat=slice(None, None, -1))))
    same(by_array, evaluate(predicted, observed, within=placed.isel(lat=slice(2, 12), lon=slice(15, 35)).chunk(lat=3)))


def test_nothing_is_read_until_scores_are_computed_and_then_block_by_block():
    largest = []

    def block(block_info=None):
        (rows, columns) = block_info[None]["chunk-shape"]
        largest.append(rows * columns)
        return np.full((rows, columns), 4, dtype=np.uint8)

    codes = da.map_blocks(block, chunks=((600,) * 3, (600,) * 6), dtype=np.uint8)
    grid = Grid.world(0.1)
    world = xr.DataArray(codes, {"lat": grid.latitude, "lon": grid.longitude}, ("lat", "lon"))
    result = evaluate(world, world, domains=("all",))
    assert result["all"].accuracy == 1
    assert len(largest) == 3 * 6
    assert max(largest) == 360_000


# ---------------------------------------------------------------- years


def test_single_steps_of_different_years_are_compared_and_both_years_recorded():
    predicted, observed = two_maps()
    early, late = predicted.expand_dims(time=[2015]), observed.assign_coords(time=np.datetime64("2019-01-01"))
    assert evaluate(early, late).years == ((2015, 2019),)
    assert evaluate(predicted, observed).years == ((None, None),)
    with pytest.raises(TimeError, match=r"\(2015\).*\(2019\) have no year in common; pass match_years=False"):
        evaluate(early, late, match_years=True)


def test_common_years_are_scored_together():
    predicted, observed = two_maps()
    first = xr.concat([predicted, observed], "time").assign_coords(time=[2000, 2001])
    second = xr.concat([observed, observed, predicted], "time").assign_coords(time=[1999, 2000, 2001])
    result = evaluate(first, second, match_years=True)
    assert result.years == ((2000, 2000), (2001, 2001))
    expected = evaluate(predicted, observed).pixels["all"].matrix + evaluate(observed, predicted).pixels["all"].matrix
    np.testing.assert_array_equal(result.pixels["all"].matrix, expected)
    with pytest.raises(TimeError, match="no year in common; select one step"):
        evaluate(first, observed.expand_dims(time=[2019]))
    with pytest.raises(TimeError, match="need calendar years"):
        evaluate(first, observed)


# ---------------------------------------------------------------- bad input


def test_unknown_codes_are_named_with_their_place():
    predicted, observed = two_maps()
    predicted[2, 3] = 99
    with pytest.raises(
        VocabularyError, match=r"the map 'map' holds unknown class codes 99 \(1 cells\), the first at 65 N, -145 E"
    ):
        evaluate(predicted, observed)
    with pytest.raises(VocabularyError, match="observed map"):
        evaluate(observed, predicted)


@pytest.mark.parametrize("bad", [np.array([[1.5]]), np.array([[np.nan]]), np.array([[-1]])])
def test_fractions_nan_and_negative_codes_are_refused(bad):
    with pytest.raises(VocabularyError, match="unknown class codes"):
        check_codes(bad, what="map")


def test_text_is_no_class_code():
    with pytest.raises(VocabularyError, match="whole numbers from 0 to 7"):
        check_codes(np.array([["forest"]]), what="map")


def test_whole_floats_are_codes():
    assert check_codes(np.array([[1.0, 7.0]]), what="map").dtype == np.uint8


def test_grids_of_another_resolution_or_phase_are_refused():
    predicted, observed = two_maps()
    with pytest.raises(GridError, match="cells of 5 degrees and the observed map of 10"):
        evaluate(two_maps(rows=36, columns=72, resolution=5.0)[0], observed)
    part = predicted.isel(lat=slice(3, 9), lon=slice(3, 9))
    with pytest.raises(GridError, match=r"0\.30 cells beside those of the observed map in longitude"):
        evaluate(part.assign_coords(lon=part["lon"] + 3), observed)


@pytest.mark.parametrize("factor", ["a", None, [5], 2.5, 0, True, np.nan, np.inf])
def test_a_factor_that_is_no_number_of_cells_is_refused(factor):
    with pytest.raises(GridError, match=r"factor .*must be a whole number"):
        evaluate(*two_maps(), factor=factor)


def test_a_single_map_in_place_of_named_ones_and_unknown_classes_are_refused():
    predicted, observed = two_maps()
    with pytest.raises(GridError, match=r"maps are given by name, not as a DataArray; pass \{'model': map\}"):
        compare(predicted, observed)
    with pytest.raises(VocabularyError, match="no class has the code 9 or 'forest'; the codes are 0 to 7"):
        evaluate(predicted, observed, classes=(4, 9, "forest"))


def test_classes_may_be_an_array():
    predicted, observed = two_maps()
    listed, array = (evaluate(predicted, observed, classes=codes) for codes in ((1, 4), np.array([1, 4])))
    assert array.area["land"].miou == listed.area["land"].miou


def test_maps_of_other_places_and_empty_masks_are_region_errors():
    predicted, observed = two_maps()
    north, south = predicted.isel(lat=slice(0, 5)), observed.isel(lat=slice(9, 18))
    with pytest.raises(RegionError, match="no cell in common"):
        evaluate(north, south)
    with pytest.raises(RegionError, match="no cell is left"):
        evaluate(predicted, observed, within=np.zeros((18, 36), dtype=bool))


def test_masks_that_cannot_be_placed_are_refused():
    predicted, observed = two_maps()
    with pytest.raises(GridError, match=r"shape \(3, 3\)"):
        evaluate(predicted, observed, within=np.ones((3, 3), dtype=bool))
    with pytest.raises(GridError, match="must be boolean, not float64"):
        evaluate(predicted, observed, within=on_grid(np.ones((18, 36)), 10.0))
    with pytest.raises(GridError, match="several time steps"):
        evaluate(
            predicted, observed, within=on_grid(np.ones((18, 36), dtype=bool), 10.0).expand_dims(time=[2001, 2002])
        )


def test_probabilities_and_datasets_without_land_use_are_refused():
    predicted, observed = two_maps()
    with pytest.raises(GridError, match=r"class \(8\).*class codes rather than probabilities"):
        evaluate(predicted.expand_dims({"class": 8}), observed)
    with pytest.raises(GridError, match="without `land_use`"):
        evaluate(predicted.to_dataset(name="other"), observed)
    same(evaluate(predicted.to_dataset(name="land_use"), observed), evaluate(predicted, observed))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"domains": ("sea",)}, "unknown domains 'sea'"),
        ({"domains": ()}, "nothing to score"),
        ({"factor": 0}, "factor"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(wrong, message):
    predicted, observed = two_maps()
    with pytest.raises(GridError, match=message):
        evaluate(predicted, observed, **wrong)


# ---------------------------------------------------------------- comparisons


def test_a_comparison_scores_every_map_as_if_alone_and_writes_json(tmp_path):
    predicted, observed = two_maps(9)
    baseline = xr.full_like(observed, 4)
    both = compare({"model": predicted, "most frequent": baseline}, observed, cells="held-out cells")
    same(both["model"], evaluate(predicted, observed))
    same(both["most frequent"], evaluate(baseline, observed))
    path = both.to_json(tmp_path / "scores.json")
    read = json.loads(path.read_text())
    assert read["cells"] == "held-out cells"
    assert list(read["scores"]) == ["model", "most frequent"]
    assert set(read["scores"]["model"]) == {"all", "land", "mixed"}
    land = read["scores"]["model"]["land"]["pixels"]
    assert land["accuracy"] == both["model"].pixels["land"].accuracy
    assert land["iou"]["urban"] == both["model"].pixels["land"].iou[1]
    assert land["miou_classes"] == ["urban", "cropland", "pasture", "forest", "grass_shrub", "other"]
    assert [each.name for each in tmp_path.iterdir()] == ["scores.json"]


def test_maps_of_different_cells_are_not_put_side_by_side():
    predicted, observed = two_maps(9)
    with pytest.raises(GridError, match=r"'model' and 'part' cover different cells .*\(648 and 360 cells\)"):
        compare({"model": predicted, "part": predicted.isel(lat=slice(0, 10))}, observed)


def test_tables_name_maps_domains_and_figures():
    predicted, observed = two_maps(9)
    both = compare({"model <b>": predicted, "copy": observed}, observed)
    assert "model <b>" in str(both)
    assert "model &lt;b&gt;" in both._repr_html_()
    assert "<b>" not in both._repr_html_()
    frame = both.to_dataframe()
    assert frame.loc[("mixed", "pixels", "copy"), "accuracy"] == 1
    single = both["copy"]
    assert "1.000" in str(single)
    assert "<table>" in single._repr_html_()
    assert single.to_dataframe().loc[("land", "area"), "miou"] == 1
    assert "cropland" in str(single["land"])
    assert "cropland" in single["land"]._repr_html_()
    assert single["land"].to_dataframe().loc["cropland", "iou"] == 1


def test_tables_say_which_cells_years_and_factor_were_compared():
    predicted, observed = two_maps(9)
    one = evaluate(
        predicted.assign_coords(time=2015), observed.assign_coords(time=2019), factor=4, cells="held-out <cells>"
    )
    heading = "cells: held-out <cells> | years: 2015, observed 2019 | factor: 4 x 4 fine cells a coarse cell"
    assert str(one).splitlines()[0] == heading
    assert "cells: held-out &lt;cells&gt; | years: 2015, observed 2019 | factor: 4 x 4" in one._repr_html_()
    assert "<br>" in one._repr_html_()
    both = compare(
        {"a": predicted.assign_coords(time=2015), "b": predicted.assign_coords(time=2019)},
        observed.assign_coords(time=2019),
    )
    assert str(both).startswith("cells: all | years: a 2015, observed 2019; b 2019 | factor: 5 x 5")
    assert str(evaluate(predicted, observed)).startswith("cells: all | years: not given |")
