"""The benchmark of change in Brazil: what is held out stays hidden, and the shipped model is far ahead of chance."""

from __future__ import annotations

import numpy as np
import pytest

from tests.benchmarks import change as benchmark
from tests.benchmarks.change_calibration import fit_change
from tests.benchmarks.plum_island import Step, drawn
from xland.models import find_model
from xland.totals.modes import Totals
from xland.vocabulary import CLASS_NAMES, OCEAN

pytestmark = pytest.mark.shared_data


@pytest.fixture(scope="module")
def area():
    if not benchmark.FILE.exists():
        pytest.skip(f"{benchmark.FILE} is not there: set XLAND_TEST_DATA")
    return benchmark.Brazil(5)


def test_all_cells_of_the_file_are_mapped_and_a_fifth_of_the_blocks_is_held_out(area):
    assert {np.count_nonzero(codes) for codes in area.maps.values} == {354_607}
    blocks = area.held_out.reshape(37, 25, 37, 25).swapaxes(1, 2).reshape(-1, 625)
    land = area.land.reshape(37, 25, 37, 25).swapaxes(1, 2).reshape(-1, 625)
    assert all((block == there).all() or not block.any() for block, there in zip(blocks, land, strict=True))
    assert 0.15 < area.held_out.sum() / area.land.sum() < 0.25


def test_the_forcing_has_the_shares_of_the_maps(area):
    total = area.forcing.to_dataarray().sum("variable", skipna=False).values
    assert np.nanmax(np.abs(total - 1)) < 1e-5
    step = Step(area.codes(2004), area.codes(2008), 5)
    there = np.isfinite(area.forcing["forest"].sel(time=2008).values)
    expected = step.shares(step.end)[CLASS_NAMES.index("forest")]
    np.testing.assert_allclose(area.forcing["forest"].sel(time=2008).values[there], expected[there], atol=1e-3)


@pytest.mark.parametrize("name", [*benchmark.MODELS.values(), benchmark.PAST])
def test_shipped_models_say_what_they_were_trained_on(name):
    model = find_model(name)
    assert model.licence == "CC-BY-SA-4.0"
    assert max(year for pair in model.card["data"]["pairs"] for year in pair) == benchmark.LAST_FITTED
    assert "held_out" in model.card["data"]
    assert sum(path.stat().st_size for path in model.folder.iterdir()) < 5e6


def test_the_shipped_model_hits_more_change_in_held_out_blocks_than_chance(area):
    start, end = area.codes(2008), area.codes(2012)
    maps = {1: None, 4: None}
    for exchange in maps:
        totals = Totals("map", exchange=exchange)
        maps[exchange] = area.predict("brazil-change", 2008, [2012], totals=totals)["land_use"].values[0]
    chance = Step(start, end, 5).allocate(drawn(start.shape, 0))
    merits = [
        area.judge(found, 2008, 2012, area.held_out).figure_of_merit for found in (start, chance, maps[1], maps[4])
    ]
    assert merits == sorted(merits)
    assert merits[2] > 1.7 * merits[1]
    shares = Step(start, end, 5).shares
    assert np.abs(shares(maps[4]) - shares(end)).max() < 1 / 25 + 0.01
    assert (maps[4][~area.land] == OCEAN).all()


def test_a_model_of_the_past_goes_back_with_a_lead_over_chance(area):
    model = find_model(benchmark.PAST)
    assert model.inputs.prior_step == 1
    start, end = area.codes(2004), area.codes(2000)
    found = area.predict(model, 2004, [2000], totals="map")["land_use"].values[0]
    chance = Step(start, end, 5).allocate(drawn(start.shape, 0))
    merits = [area.judge(each, 2004, 2000, area.held_out).figure_of_merit for each in (chance, found)]
    assert merits[1] > 1.5 * merits[0]


def test_stable_ends_leave_out_cells_that_flicker(area):
    both = [area.judge(area.codes(2008), 2008, 2012, area.land, stable=stable) for stable in (False, True)]
    assert both[1].total < both[0].total
    assert both[1].misses < both[0].misses


def test_odds_of_change_that_are_off_by_a_scale_and_a_bias_are_set_right():
    random = np.random.default_rng(0)
    origin = random.integers(1, 3, 200_000)
    truth = random.normal(-2, 1.5, origin.size)
    changed = random.random(origin.size) < 1 / (1 + np.exp(-truth))
    said = np.where(origin == 1, truth / 0.5, truth - 1)
    scale, bias = fit_change(1 / (1 + np.exp(-said)), origin, changed)
    np.testing.assert_allclose([scale[1], scale[2]], [0.5, 1], atol=0.03)
    np.testing.assert_allclose([bias[1], bias[2]], [0, 1], atol=0.06)
    assert (scale[3], bias[3]) == (1, 0)


@pytest.mark.parametrize("name", [benchmark.MODELS[5], benchmark.PAST])
def test_the_odds_of_change_were_calibrated_on_years_of_the_training(name):
    entry = find_model(name).card["calibration"]
    assert max(year for pair in entry["change_pairs"] for year in pair) <= benchmark.LAST_FITTED


def test_greedy_allocation_changes_all_classes_that_the_totals_ask_for(area):
    step = Step(area.codes(2004), area.codes(2008), 25)
    found = step.greedy(drawn(step.start.shape, 0))
    missed = np.abs(step.shares(found) - step.shares(step.end)).sum() / 2
    before = np.abs(step.shares(step.start) - step.shares(step.end)).sum() / 2
    assert missed < 0.05 * before
