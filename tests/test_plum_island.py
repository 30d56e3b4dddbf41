"""The benchmark of observed change: every rival keeps the same totals, and the model is ahead."""

from __future__ import annotations

import numpy as np
import pytest

from tests.benchmarks import plum_island as benchmark
from tests.benchmarks.land_change import LandChange
from tests.benchmarks.plum_island import CELL, Step, drawn
from xland.vocabulary import FOREST, GRASS_SHRUB, OCEAN, URBAN

pytestmark = pytest.mark.shared_data


@pytest.fixture(scope="module")
def area(plum_island):
    return benchmark.read_area(plum_island)


@pytest.fixture(scope="module")
def found(plum_island):
    """Figures by name; takes some 15 s, most of them to fit the model once: the target is what it reaches."""
    return {each["name"]: each["figure"] for each in benchmark.lines(quick=True)}


def test_maps_of_the_three_dates_cover_the_same_area(area):
    assert {np.count_nonzero(each) for each in area.maps.values()} == {113_563}
    assert set(np.unique(area.maps[1999])) == {OCEAN, URBAN, FOREST, GRASS_SHRUB}
    assert np.count_nonzero(area.maps[1991] == URBAN) == 40_350


@pytest.mark.parametrize("way", ["allocate", "greedy"])
def test_totals_of_coarse_cells_are_kept_with_as_few_changes_as_they_need(area, way):
    step = Step(area.maps[1985], area.maps[1991], CELL)
    predicted = getattr(step, way)(drawn(step.start.shape, seed=0))
    totals, before = step.shares(step.end), step.shares(step.start)
    np.testing.assert_allclose(step.shares(predicted), totals, atol=1e-9)
    needed = np.abs(totals - before).sum() / 2 * CELL**2
    assert np.count_nonzero(predicted != step.start) == round(needed)


def test_a_greedy_pass_takes_the_most_probable_change_first():
    start = np.full((5, 5), FOREST, dtype=np.uint8)
    end = start.copy()
    end[0, 0] = URBAN
    probability = np.zeros((8, 5, 5))
    probability[URBAN, 2, 3] = 1
    assert np.argwhere(Step(start, end, 5).greedy(probability) == URBAN).tolist() == [[2, 3]]


def test_the_observed_map_is_all_hits_and_the_first_one_none(area):
    step = Step(area.maps[1991], area.maps[1999], CELL)
    assert step.judge(step.end).figure_of_merit == 1
    assert step.judge(step.start).figure_of_merit == 0
    assert step.judge(step.start).misses == pytest.approx(4756 / 113_563)


def test_folds_share_out_the_area_in_blocks_of_whole_coarse_cells(area):
    fold = benchmark.fold_of(area.land.shape)
    assert np.bincount(fold[area.land]).min() > 15_000
    corners, middles = (fold[start :: benchmark.BLOCK, start :: benchmark.BLOCK] for start in (0, CELL))
    assert (corners == middles).all()


def test_the_model_is_ahead_of_each_rival_and_no_map_of_the_observed_one(found):
    ours = found["plum_island_fom"]
    for rival in ("persistence", "random", "logistic", "logistic_original", "logistic_optimal"):
        assert ours > found[f"plum_island_fom_{rival}"], rival
    assert found["plum_island_fom_limit"] == max(found[name] for name in found if name.startswith("plum_island_fom"))


def test_a_part_of_the_model_is_one_of_its_classifiers():
    model = LandChange((URBAN, FOREST), np.eye(2), {FOREST: ("trees", "regression")})
    assert benchmark.only(model, 1).experts == {FOREST: ("regression",)}
