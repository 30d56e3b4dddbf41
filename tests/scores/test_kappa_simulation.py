from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xland.scores.counts import cross_tabulate
from xland.scores.measures import kappa_simulation

QUICK = settings(max_examples=25, deadline=None)


def score(start, observed, predicted):
    return kappa_simulation(cross_tabulate(*(np.atleast_2d(each) for each in (start, observed, predicted))))


def step_by_step(start, observed, predicted):
    """The definitions of van Vliet et al. (2011) with loops over probabilities within each class of the start map."""
    cells = len(start)
    chance = largest = 0.0
    for origin in set(start):
        inside = [i for i in range(cells) if start[i] == origin]
        for end in range(8):
            actual = sum(observed[i] == end for i in inside) / len(inside)
            simulated = sum(predicted[i] == end for i in inside) / len(inside)
            chance += len(inside) / cells * actual * simulated
            largest += len(inside) / cells * min(actual, simulated)
    agreement = sum(o == p for o, p in zip(observed, predicted, strict=True)) / cells
    return (agreement - chance) / (1 - chance), (largest - chance) / (1 - chance), agreement, chance, largest


def test_five_cells_worked_by_hand():
    # Class 1 (two cells): half stays and half becomes 2, in both maps: chance 1/2, possible 1.
    # Class 2 (three cells): to 2, 1, 3 observed and 2, 3, 3 predicted: chance 1/9 + 2/9, possible 2/3.
    found = score([1, 1, 2, 2, 2], [2, 1, 2, 1, 3], [2, 1, 2, 3, 3])
    chance, largest = 2 / 5 / 2 + 3 / 5 / 3, 2 / 5 + 3 / 5 * 2 / 3
    assert found.kappa == pytest.approx((0.8 - chance) / (1 - chance))
    assert found.kappa == pytest.approx(2 / 3)
    assert found.transition == pytest.approx((largest - chance) / (1 - chance))
    assert found.transloc == pytest.approx(1.0)  # four of five are right, and no more can be with these amounts


def test_a_prediction_without_change_is_worth_nothing():
    # so it is in the example of the paper, where the map that stays as it was has a kappa of 0.79
    start = np.repeat([1, 2, 4], 20)
    observed = start.copy()
    observed[:5], observed[20:27] = 2, 1
    found = score(start, observed, start)
    assert found.kappa == 0
    assert found.transition == 0
    assert math.isnan(found.transloc)


def test_a_perfect_prediction_is_one():
    found = score([1, 1, 1, 2, 2], [1, 2, 2, 2, 4], [1, 2, 2, 2, 4])
    assert (found.kappa, found.transition, found.transloc) == pytest.approx((1, 1, 1))


def test_right_amounts_in_wrong_places_are_below_zero():
    found = score([1] * 4, [1, 1, 2, 2], [2, 2, 1, 1])
    assert found.transition == pytest.approx(1)
    assert found.transloc == pytest.approx(-1)
    assert found.kappa == pytest.approx(-1)


@pytest.mark.parametrize("ends", [[1, 1, 2, 2], [3, 3, 4, 4]])
def test_without_room_for_chance_it_is_not_defined(ends):
    # nothing changes in either map, or all of every class to one other
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = score([1, 1, 2, 2], ends, ends)
        nothing = kappa_simulation(np.zeros((8, 8, 8)))
    assert all(math.isnan(value) for each in (found, nothing) for value in (each.kappa, each.transition, each.transloc))


@QUICK
@given(st.integers(0, 10_000), st.integers(5, 60))
def test_it_agrees_with_the_definitions_step_by_step(seed, size):
    maps = np.random.default_rng(seed).integers(0, 3, (3, size)).tolist()
    kappa, transition, agreement, chance, largest = step_by_step(*maps)
    found = score(*maps)
    assert found.kappa == pytest.approx(kappa, abs=1e-9)
    assert found.transition == pytest.approx(transition, abs=1e-9)
    if largest - chance > 1e-9:
        assert found.transloc == pytest.approx((agreement - chance) / (largest - chance), abs=1e-9)
        assert found.kappa == pytest.approx(found.transition * found.transloc, abs=1e-9)


@QUICK
@given(st.integers(0, 10_000), st.integers(5, 60))
def test_from_a_map_of_one_class_it_is_cohens_kappa(seed, size):
    metrics = pytest.importorskip("sklearn.metrics")
    observed, predicted = np.random.default_rng(seed).integers(0, 4, (2, size))
    expected = metrics.cohen_kappa_score(observed, predicted)
    assert score(np.full(size, 2), observed, predicted).kappa == pytest.approx(expected, abs=1e-9)


@QUICK
@given(st.integers(0, 10_000))
def test_it_does_not_matter_which_of_two_maps_is_the_observed_one(seed):
    start, one, other = np.random.default_rng(seed).integers(0, 4, (3, 40))
    assert score(start, one, other).kappa == pytest.approx(score(start, other, one).kappa, abs=1e-12)
