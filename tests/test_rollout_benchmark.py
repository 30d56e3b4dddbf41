"""The benchmark of free rollouts: what it judges is what it says."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from tests.benchmarks import rollout
from tests.benchmarks.plum_island import DATES
from xland.geo.grid import Grid
from xland.geo.split import Part, divide
from xland.vocabulary import FOREST, GRASS_SHRUB, OCEAN, URBAN


@pytest.fixture(scope="module")
def case():
    """The last years that are learned from, and two to judge."""
    whole = rollout.synthetic(seed=0, quick=True)
    years = {"time": slice(1997, 2002)}
    schedule = replace(whole.configuration.schedule, samples=2 * rollout.BATCH, candidates=16)
    configuration = replace(whole.configuration, schedule=schedule)
    return replace(whole, forcing=whole.forcing.sel(years), maps=whole.maps.sel(years), configuration=configuration)


def test_only_land_of_the_cells_of_the_test_is_judged(case):
    grid = Grid.from_centres(case.maps["lat"].values, case.maps["lon"].values)
    within = case.held_out()
    assert within.sum() > 1000
    assert (divide(grid, seed=0)[within] == Part.TEST).all()
    assert (case.truth(2000)[within] != OCEAN).all()


def test_persistence_loses_what_changes_and_the_truth_nothing(case):
    within = case.held_out()
    moved = [float((case.truth(year) != case.truth(2000))[within].mean()) for year in (2001, 2002)]
    copied = case.persistence()
    assert copied["accuracy"] == pytest.approx([1 - moved[0], 1 - moved[1]])
    assert copied["changed"] == [0, 0]
    assert copied["loss"] == pytest.approx(moved[1] - moved[0])
    perfect = case.judge(case.truth)
    assert (perfect["accuracy"], perfect["changed"], perfect["loss"]) == ([1, 1], [1, 1], 0)


def test_a_model_learns_and_its_rollout_is_judged(case, tmp_path):
    drifted = case.drift(tmp_path / "model", own_maps=1.0)
    assert len(drifted["accuracy"]) == 2
    found = {
        "with": [drifted],
        "without": [case.judge(case.truth) | {"loss": 0.5}],
        "persistence": [case.persistence()],
    }
    lost, last = rollout.compared("synthetic", case, found)
    assert lost["figure"] == pytest.approx(2 * drifted["loss"], abs=1e-6)
    assert last["figure"] == pytest.approx(drifted["last"] - 1, abs=1e-6)
    rollout.draw({"synthetic": (case.years, found)}, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 5000


@pytest.fixture(scope="module")
def observed(plum_island):
    return rollout.plum_island(seed=0, quick=True, folder=plum_island)


def test_maps_of_plum_island_are_those_observed_and_change_once_between_two_dates(observed):
    assert set(np.unique([observed.truth(year) for year in DATES])) == {OCEAN, URBAN, FOREST, GRASS_SHRUB}
    for first, last in pairwise(DATES):
        between = np.stack([observed.truth(year) for year in range(first, last + 1)])
        assert ((between[1:] != between[:-1]).sum(axis=0) == (between[0] != between[-1])).all()
    assert observed.years == [*range(1986, 2000)]


def test_states_of_plum_island_are_measured_on_its_maps(observed):
    forcing = observed.forcing.sel(time=1993)
    blocks = observed.truth(1993).reshape(108, 4, 123, 4)
    inland = (blocks != OCEAN).all(axis=(1, 3))
    assert inland.sum() > 1000
    share = (blocks == URBAN).mean(axis=(1, 3))
    np.testing.assert_allclose(forcing["urban"].values[inland], share[inland], atol=4e-3)
    total = sum(forcing[name].values for name in ("urban", "secdf", "secdn"))
    np.testing.assert_allclose(total[inland], 1, rtol=1e-5)
