from __future__ import annotations

import json
import math

import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.raising_backend import raising_dataset
from tests.scores.maps import on_grid, turned
from xland.errors import GridError, RegionError, TimeError, UndefinedScoreWarning, VocabularyError
from xland.geo.grid import Grid
from xland.scores.change import SHARES, ChangeScores, assess_change
from xland.scores.counts import cross_tabulate

QUICK = settings(max_examples=3)


def three_maps(seed=0, shape=(18, 36), **place):
    """A start map with ocean and holes in it, an observed map that differs in places, a prediction of it."""
    rng = np.random.default_rng(seed)
    start = rng.integers(0, 8, shape)
    observed = np.where(rng.random(shape) < 0.7, start, rng.integers(0, 8, shape))
    predicted = np.where(rng.random(shape) < 0.5, start, observed)
    predicted = np.where(rng.random(shape) < 0.1, rng.integers(0, 8, shape), predicted)
    return tuple(on_grid(each.astype(np.uint8), **place) for each in (start, observed, predicted))


def same(left, right):
    assert left.by_factor.keys() == right.by_factor.keys()
    for factor, each in left.by_factor.items():
        scale = each.total * 1e-11
        np.testing.assert_allclose(each.table, right.by_factor[factor].table, rtol=1e-11, atol=scale)
        np.testing.assert_allclose(each.transitions, right.by_factor[factor].transitions, rtol=1e-11, atol=scale)
    assert left.per_region.keys() == right.per_region.keys()
    for label, each in left.per_region.items():
        same(each, right.per_region[label])


def test_a_map_worked_by_hand_by_pixels_and_by_area():
    start = on_grid(np.array([[1, 4, 0], [4, 4, 4]], dtype=np.uint8), north=70.0)
    observed = on_grid(np.array([[1, 1, 4], [4, 1, 4]], dtype=np.uint8), north=70.0)
    predicted = on_grid(np.array([[1, 1, 4], [1, 4, 4]], dtype=np.uint8), north=70.0)
    # ocean became forest in the upper right: not land-use change. Left are a hit, a miss and a false alarm.
    found = assess_change(start, observed, predicted, weighting="pixels")
    assert found.total == 5
    assert (found.hits, found.misses, found.false_alarms, found.wrong_hits) == pytest.approx((0.2, 0.2, 0.2, 0))
    assert found.figure_of_merit == pytest.approx(1 / 3)
    north, south = Grid(10.0, 70.0, -180.0, 2, 3).cell_area()
    by_area = assess_change(start, observed, predicted)
    assert by_area.total == pytest.approx(2 * north + 3 * south)
    assert by_area.figure_of_merit == pytest.approx(north / (north + 2 * south))
    assert (by_area.quantity, by_area.exchange) == pytest.approx((0, 2 * south / by_area.total))


def test_windows_are_counted_from_the_corner_of_the_globe_and_only_cells_of_all_maps_are_scored():
    start, observed, predicted = three_maps(4)
    inside = xr.zeros_like(start, dtype=bool)
    inside[3:15, 5:30] = True
    part = start.isel(lat=slice(3, None)), observed.isel(lon=slice(5, None)), predicted[:15, :30]
    found = assess_change(*part, factors=(4, 5, 18))
    same(found, assess_change(start, observed, predicted, factors=(4, 5, 18), within=inside))
    with pytest.raises(RegionError, match="no cell is left to score"):
        assess_change(start, observed, predicted, within=np.zeros((18, 36), dtype=bool))
    with pytest.raises(RegionError, match="no cell is left to score"):
        assess_change(xr.zeros_like(start), observed, predicted)


@QUICK
@given(st.integers(0, 10_000))
def test_larger_windows_hide_places_but_no_quantity(seed):
    found = assess_change(*three_maps(seed), factors=(2, 4, 8))
    curve = [each.disagreement for each in found.by_factor.values()]
    assert (np.diff(curve) <= 1e-12).all()
    for each in found.by_factor.values():
        assert each.quantity == pytest.approx(found.quantity)
        assert each.misses + each.false_alarms + each.wrong_hits == pytest.approx(each.disagreement)
        assert each.null.quantity == pytest.approx(found.null.quantity)
    assert curve[-1] >= found.quantity - 1e-12


def test_a_shift_by_one_cell_is_forgiven_by_windows_that_hold_it():
    start = np.full((8, 8), 4, dtype=np.uint8)
    observed, predicted = start.copy(), start.copy()
    observed[::2, 0::4], predicted[::2, 1::4] = 1, 1
    found = assess_change(*(on_grid(each) for each in (start, observed, predicted)), factors=(2, 4), weighting="pixels")
    assert found.figure_of_merit == 0
    assert found.null_resolution == 2
    assert found.by_factor[2].figure_of_merit == pytest.approx(1)
    assert found.by_factor[2].null.misses == pytest.approx(8 / 64)
    assert found.null.null_resolution is None


@QUICK
@given(st.integers(0, 1000), st.integers(4, 18), st.integers(4, 36), st.integers(2, 7), st.booleans())
def test_chunks_orientation_and_names_change_no_table(seed, rows, columns, factor, other):
    start, observed, predicted = three_maps(seed)
    regions = on_grid(np.random.default_rng(seed).integers(-1, 3, (18, 36)))
    plain = assess_change(start, observed, predicted, factors=[factor], regions=regions)
    lazy = predicted.chunk(lat=columns // 3 + 1)
    maps = start.chunk(lat=rows, lon=columns), observed.chunk(lat=columns // 2 + 1, lon=rows)
    maps = *maps, turned(lazy) if other else lazy
    same(plain, assess_change(*maps, factors=[factor], regions=regions.chunk(lat=columns // 3 + 1)))


def test_a_region_across_the_date_line_is_scored_whole_and_small_blocks_cut_through_no_window(monkeypatch):
    start, observed, predicted = three_maps(6, (36, 72), resolution=5.0)
    pick = np.r_[57:72, 0:38]
    inside = xr.zeros_like(start, dtype=bool)
    inside[:, pick] = True
    whole = assess_change(start, observed, predicted, factors=(3, 5), within=inside)
    part = predicted.isel(lon=pick)
    maps = turned(start), observed, part.assign_coords(lon=part["lon"] % 360)
    monkeypatch.setattr("xland.scores.frames._SMALLEST", 4)
    monkeypatch.setattr("xland.scores.frames._LARGEST", 16)
    same(whole, assess_change(*(each.chunk(11) for each in maps), factors=(3, 5)))


def test_building_reads_nothing_and_every_block_is_read_once_for_all_windows(monkeypatch):
    read = []

    def block(name, codes, block_info=None):
        read.append((name, *block_info[None]["chunk-location"]))
        return np.full(block_info[None]["chunk-shape"], codes, dtype=np.uint8)

    def world(name, codes):
        chunks, meta = ((120,) * 3, (120,) * 6), np.empty((0, 0), np.uint8)
        lazy = da.map_blocks(block, name, codes, chunks=chunks, dtype=np.uint8, meta=meta)
        return on_grid(lazy, 0.5)

    found = assess_change(world("a", 4), world("b", 1), world("c", 1), factors=(1, 25))
    assert found.figure_of_merit == 1
    assert found.by_factor[25].figure_of_merit == pytest.approx(1)
    assert sorted(read) == sorted({(name, i, j) for name in "abc" for i in range(3) for j in range(6)})

    def stop(*_arguments, **_options):
        raise NotImplementedError("the one computation began")

    lazy = [raising_dataset(each.to_dataset(name="land_use")) for each in three_maps()]
    within = raising_dataset(on_grid(np.ones((18, 36), dtype=bool)).to_dataset(name="mask"))["mask"]
    regions = raising_dataset(on_grid(np.ones((18, 36), dtype=int)).to_dataset(name="region"))["region"]
    monkeypatch.setattr(dask, "compute", stop)
    with pytest.raises(NotImplementedError):
        assess_change(*lazy, factors=(2, 5), regions=regions, within=within)


def test_a_region_scores_as_the_map_within_it():
    maps = three_maps(8)
    numbers = np.random.default_rng(8).integers(1, 4, (18, 36))
    found = assess_change(*maps, factors=(4,), regions=on_grid(numbers))
    assert list(found.per_region) == [1, 2, 3]
    for label, each in found.per_region.items():
        same(each, assess_change(*maps, factors=(4,), within=numbers == label))
    total = sum(each.table for each in found.per_region.values())
    np.testing.assert_allclose(total, found.table, rtol=1e-12)


def test_regions_have_numbers_or_names_and_need_not_cover_the_map():
    maps, inside = three_maps(9), np.arange(36) < 10
    names = on_grid(np.where(inside, "west", np.where(np.arange(36) < 20, "", "east"))[None].repeat(18, 0))
    found = assess_change(*maps, regions=names)
    assert list(found.per_region) == ["east", "west"]
    same(found.per_region["west"], assess_change(*maps, within=inside[None].repeat(18, 0)))
    part = assess_change(*maps, regions=names.isel(lon=slice(4, 10), lat=slice(None, None, -1)))
    inside[:4] = False
    same(part.per_region["west"], assess_change(*maps, within=inside[None].repeat(18, 0)))
    numbers = on_grid(np.where(np.arange(36) < 10, 7.0, np.nan)[None].repeat(18, 0))
    assert list(assess_change(*maps, regions=numbers).per_region) == [7]


def test_a_region_without_data_or_change_has_no_scores_but_stays_in_the_list():
    maps = [each.copy() for each in three_maps(11)]
    maps[0][:, :3] = 0
    maps[1][:, 3:6] = maps[0][:, 3:6]
    labels = np.where(np.arange(36) < 3, "ocean", np.where(np.arange(36) < 6, "quiet", "rest"))[None].repeat(18, 0)
    found = assess_change(*maps, factors=[3], regions=on_grid(labels)).per_region
    assert list(found) == ["ocean", "quiet", "rest"]
    assert found["ocean"].total == 0
    assert np.isnan([found["ocean"].hits, found["ocean"].quantity, found["ocean"].by_factor[3].hits]).all()
    assert np.isnan([found["ocean"].figure_of_merit, found["quiet"].null.figure_of_merit]).all()
    assert found["quiet"].observed_transitions.sum() == pytest.approx(found["quiet"].total)
    assert found["ocean"].null_resolution is None


def test_maps_without_change_are_warned_of_and_have_no_score():
    start, _, predicted = three_maps()
    with pytest.warns(UndefinedScoreWarning, match=r"no cell changes .* \(1985 and 1999\).*NaN.*two dates"):
        found = assess_change(start.assign_coords(time=1985), start.assign_coords(time=1999), start)
    assert found.years == (1985, 1999, None)
    assert found.null.years == (1985, 1999, 1985)
    assert np.isnan([found.figure_of_merit, found.null.figure_of_merit, found.kappa_simulation]).all()
    assert (found.hits, found.disagreement, found.null_resolution) == (0, 0, None)
    written = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert written["figure_of_merit"] is written["null"]["kappa_simulation"] is None
    with pytest.warns(UndefinedScoreWarning, match="no cell changes between the start and the observed map:"):
        found = assess_change(start, start, predicted)
    assert (found.figure_of_merit, found.hits) == (0, 0)  # change that was only predicted is a false alarm
    empty = ChangeScores(np.zeros((8, 8, 8)), np.zeros((8, 8)))
    assert all(math.isnan(getattr(empty, name)) for name in (*SHARES, "quantity", "figure_of_merit"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"factors": (0, 2.5, 3)}, r"whole number of cells along a side, at least 1, not 0, 2\.5"),
        ({"factors": ["a", np.nan, np.inf, np.int64(2), 4.0]}, "at least 1, not 'a', nan, inf"),
        ({"factors": [19]}, "factor 19 gives coarse cells of more than 180 degrees"),
        ({"factors": 5}, "factors must be a list or a tuple, not 5"),
        ({"weighting": "people"}, "weighting must be one of 'area', 'pixels', not 'people'"),
        ({"regions": np.ones((18, 36))}, "the map of regions is of type ndarray; pass an xarray"),
        ({"regions": on_grid(np.full((18, 36), 1.5))}, r"map of regions contains 1\.5"),
        (
            {"regions": on_grid(np.ones((18, 36))).expand_dims(time=[1, 2])},
            "map of regions has 2 time steps; select one",
        ),
    ],
)
def test_arguments_that_make_no_sense_are_refused(options, message):
    with pytest.raises(GridError, match=message):
        assess_change(*three_maps(), **options)


@pytest.mark.parametrize(("position", "name"), [(0, "start"), (1, "observed"), (2, "predicted")])
def test_a_map_of_other_codes_or_of_several_years_is_named(position, name):
    maps = list(three_maps())
    maps[position] = maps[position].copy()
    maps[position][2, 3] = 22
    with pytest.raises(VocabularyError, match=rf"the {name} map holds unknown class codes 22 .* 65 N, -145 E"):
        assess_change(*maps)
    maps[position] = xr.concat([maps[position]] * 2, "time")
    with pytest.raises(TimeError, match=f"the {name} map has 2 time steps; select one"):
        assess_change(*maps)


def test_a_class_that_comes_for_a_year_neither_earns_nor_costs():
    record = on_grid(np.full((2, 3), 4, np.uint8)).expand_dims(time=range(2001, 2008)).copy()
    record[3:, 0, 0] = 2  # cleared in 2004, and for good
    record[6, 0, 1] = 3  # a flicker at the end
    record[1, 0, 2] = 2  # a flicker at the start
    start, observed = record.isel(time=2), record.isel(time=6)
    predicted = observed.copy()
    predicted[1, 1] = 3  # a false alarm
    found = assess_change(start, observed, predicted, stable_ends=record, weighting="pixels")
    assert found.total == 4
    assert found.cells == "all, stable ends"
    assert (found.hits, found.misses, found.false_alarms) == pytest.approx((1 / 4, 0, 1 / 4))
    assert assess_change(start, observed, predicted, weighting="pixels").total == 6


@QUICK
@given(seed=st.integers(0, 99))
def test_stable_ends_score_as_the_mask_of_their_cells(seed):
    rng = np.random.default_rng(seed)
    first = rng.integers(0, 8, (18, 36))
    steps = [np.where(rng.random(first.shape) < 0.9, first, rng.integers(0, 8, first.shape)) for _ in range(8)]
    record = xr.concat([on_grid(each.astype(np.uint8)) for each in steps], xr.Variable("time", range(2001, 2009)))
    ends = [record.isel(time=side) for side in (slice(3), slice(-3, None))]
    stable = xr.concat([(each == each[0]).all("time").drop_vars("time", errors="ignore") for each in ends], "side")
    maps = three_maps(seed)
    same(
        assess_change(*maps, stable_ends=record.isel(lat=slice(None, None, -1)).chunk(lat=7), factors=(2,)),
        assess_change(*maps, within=stable.all("side"), factors=(2,)),
    )


@pytest.mark.parametrize(
    ("years", "message"),
    [
        (range(2001, 2006), "at least 6 yearly maps, not 5"),
        ([2001, 2002, 2003, 2004, 2006, 2007], "do not follow each other: 2001-2004, 2006-2007; give each year"),
    ],
)
def test_a_record_that_is_too_short_or_has_holes_has_no_stable_ends(years, message):
    start, observed, predicted = three_maps()
    with pytest.raises(TimeError, match=message):
        assess_change(start, observed, predicted, stable_ends=start.expand_dims(time=list(years)))


def scores(start, observed, predicted, **more):
    maps = [np.atleast_2d(each) for each in (start, observed, predicted)]
    table = cross_tabulate(maps, np.ones(maps[0].shape, bool), np.ones(1))
    return ChangeScores(table, table.sum(axis=2), "pixels", **more)


def random_scores(seed):
    return scores(*np.random.default_rng(seed).integers(0, 5, (3, 60)))


def test_the_budget_of_ten_cells_worked_by_hand():
    start = [1, 1, 1, 2, 2, 2, 4, 4, 4, 4]
    observed = [1, 2, 2, 2, 4, 4, 4, 4, 1, 1]
    predicted = [1, 2, 1, 4, 4, 1, 4, 4, 1, 1]
    found = scores(start, observed, predicted)
    # hits: cells 2, 5, 9, 10; missed: 3; false alarm: 4; to the wrong class: 6; right about persistence: 1, 7, 8
    assert [getattr(found, name) for name in SHARES] == pytest.approx([0.4, 0.1, 0.1, 0.1])
    assert found.figure_of_merit == pytest.approx(4 / 7)
    assert found.budget.producers_accuracy == pytest.approx(4 / 6)
    assert found.budget.users_accuracy == pytest.approx(4 / 6)
    np.testing.assert_array_equal(found.observed_transitions[2, [2, 4]], [1, 2])
    np.testing.assert_array_equal(found.predicted_transitions[2, [1, 4]], [1, 2])
    gain, loss = found.per_class["urban"].gain, found.per_class["urban"].loss
    assert (gain.hits, gain.misses, gain.false_alarms, gain.wrong_hits) == pytest.approx((0.2, 0, 0.1, 0))
    assert gain.figure_of_merit == pytest.approx(2 / 3)
    assert (loss.hits, loss.misses, loss.false_alarms, loss.wrong_hits) == pytest.approx((0.1, 0.1, 0, 0))
    assert found.null.misses == pytest.approx(0.6)
    assert (found.null.figure_of_merit, found.null.hits, found.null.false_alarms) == (0, 0, 0)
    assert (found.null.kappa_simulation, found.disagreement, found.null.disagreement) == pytest.approx((0, 0.3, 0.6))


@QUICK
@given(st.integers(0, 10_000))
def test_parts_add_up_in_the_map_and_over_the_classes(seed):
    found = random_scores(seed)
    changed = 1 - np.trace(found.observed_transitions) / found.total
    foretold = 1 - np.trace(found.predicted_transitions) / found.total
    assert found.hits + found.misses + found.wrong_hits == pytest.approx(changed)
    assert found.hits + found.false_alarms + found.wrong_hits == pytest.approx(foretold)
    assert found.quantity + found.exchange + found.shift == pytest.approx(found.disagreement)
    assert found.misses + found.false_alarms + found.wrong_hits == pytest.approx(found.disagreement)
    assert found.null.disagreement == pytest.approx(changed)
    gains, losses = ([getattr(each, side) for each in found.per_class.values()] for side in ("gain", "loss"))
    assert sum(each.hits for each in gains) == pytest.approx(found.hits)
    assert sum(each.misses for each in gains) == pytest.approx(found.misses + found.wrong_hits)
    assert sum(each.false_alarms for each in gains) == pytest.approx(found.false_alarms + found.wrong_hits)
    for name in SHARES:
        assert sum(getattr(each, name) for each in losses) == pytest.approx(getattr(found, name))
    for name in ("quantity", "allocation", "exchange", "shift"):
        parts = [getattr(each, name) for each in found.per_class.values()]
        assert sum(parts) / 2 == pytest.approx(getattr(found, name))


def test_json_and_tables_say_what_was_scored():
    maps, one = np.random.default_rng(1).integers(0, 5, (3, 60)), random_scores(1)
    by_factor = {1: one, 4: ChangeScores(one.table, one.transitions, "pixels", factor=4)}
    found = scores(*maps, by_factor=by_factor, per_region={"north": one}, years=(1985, 1999, 1999), cells="<cells>")
    written = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert written["years"] == {"start": 1985, "observed": 1999, "predicted": 1999}
    assert (written["unit"], written["total"]) == ("cells", 60)
    assert written["per_region"]["north"]["hits"] == one.hits
    assert written["by_factor"]["4"]["null"]["misses"] == one.null.misses
    # kappa simulation is a score of maps with one class a cell
    assert ["kappa_simulation" in written["by_factor"][factor] for factor in ("1", "4")] == [True, False]
    assert written["per_class"]["forest"]["gain"]["hits"] == one.per_class["forest"].gain.hits
    assert np.sum(written["observed_transitions"]) == 60
    assert "cells: <cells>" in str(found)
    assert "persistence" in repr(found)
    assert "&lt;cells&gt;" in found._repr_html_()


@pytest.fixture(scope="module")
def observed_change(plum_island):
    """Forest, built and other land of 1991 and 1999 as classes 1, 2 and 3, placed on a corner of all windows."""
    rasterio = pytest.importorskip("rasterio")
    maps = []
    for year in (1991, 1999):
        with rasterio.open(plum_island / f"pie_lu_pie_{year}.tif") as file:
            codes = file.read(1)
        maps.append(on_grid(np.where(codes == 255, 0, codes).astype(np.uint8), resolution=0.1))
    return maps


@pytest.mark.shared_data
def test_change_at_random_places_beats_persistence_only_in_large_windows(observed_change):
    # the example of the page on change: the totals of 1999, and nothing else
    start, observed = observed_change
    rng = np.random.default_rng(0)
    predicted = start.copy(deep=True)
    for code in (1, 3):
        places = np.flatnonzero(start.values == code)
        fewer = places.size - int((observed.values == code).sum())
        predicted.values.ravel()[rng.choice(places, fewer, replace=False)] = 2
    found = assess_change(start, observed, predicted, factors=(4, 8, 16, 32, 64), weighting="pixels")
    assert [100 * getattr(found, name) for name in SHARES] == pytest.approx([0.11, 4.02, 2.57, 0.06], abs=0.005)
    merits = [each.figure_of_merit for each in found.by_factor.values()]
    assert merits == pytest.approx([0.016, 0.070, 0.167, 0.303, 0.431, 0.570], abs=0.0005)
    curve = [100 * each.disagreement for each in found.by_factor.values()]
    assert curve == pytest.approx([6.65, 5.85, 4.67, 3.32, 2.33, 1.55], abs=0.005)
    nulls = [100 * each.null.disagreement for each in found.by_factor.values()]
    assert nulls == pytest.approx([4.19, 4.07, 3.82, 3.40, 3.04, 2.88], abs=0.005)
    assert found.null_resolution == 16
    assert found.quantity == 0
    assert found.kappa_simulation == pytest.approx(-0.004, abs=0.0005)
