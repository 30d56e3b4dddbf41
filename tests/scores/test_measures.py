from __future__ import annotations

import json
import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xland.errors import GridError
from xland.scores.counts import confusion, cross_tabulate
from xland.scores.measures import Scores, disagreement, kappa_simulation
from xland.vocabulary import CLASSES

QUICK = settings(max_examples=8)
COUNT = len(CLASSES)
COMPONENTS = ("quantity", "exchange", "shift")

PONTIUS_MATRIX = np.array([[11, 12, 13, 14], [21, 22, 23, 24], [31, 32, 33, 34], [41, 42, 43, 44]])
"""The table of the worksheet "PontiusMatrix26" that its author hands out with Pontius and Millones (2011)."""


def matrix_of(**entries):
    matrix = np.zeros((COUNT, COUNT))
    for place, value in entries.items():
        matrix[int(place[1]), int(place[2])] = value
    return matrix


def test_scores_without_a_denominator_are_nan_without_a_warning_and_none_in_json():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        one, empty = Scores(matrix_of(_22=3)), Scores(np.zeros((COUNT, COUNT)))
        assert np.isnan([empty.accuracy, empty.miou, empty.kappa]).all()
        assert math.isnan(one.kappa)  # one class only: nothing beyond chance to reach
        for values in (one.iou, one.precision, one.recall, one.f1):
            np.testing.assert_array_equal(values, [math.nan, math.nan, 1, *[math.nan] * 5])
        assert json.loads(json.dumps(empty.to_dict(), allow_nan=False))["accuracy"] is None
        assert "no class" in str(empty)


def test_a_class_only_predicted_has_iou_zero_but_stays_out_of_the_mean():
    matrix = matrix_of(_22=3, _23=1)
    assert Scores(matrix).iou[3] == 0
    assert Scores(matrix).miou == pytest.approx(0.75)
    assert Scores(matrix, classes=(2, 3)).miou == pytest.approx(0.375)
    scores = Scores(matrix_of(_11=20, _14=5, _41=10, _44=15))
    assert scores.miou_classes == (1, 4)
    assert scores.values == pytest.approx({"accuracy": 0.7, "miou": (20 / 35 + 0.5) / 2, "kappa": 0.4})
    with pytest.raises(GridError, match=r"8 x 8 entries, not \(3, 3\)"):
        Scores(np.zeros((3, 3)))


@QUICK
@given(st.integers(0, 10_000), st.integers(1, 60))
def test_scores_agree_with_scikit_learn_and_do_not_depend_on_the_unit(seed, size):
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(seed)
    observed, predicted = rng.integers(0, COUNT, (2, size))
    weights = rng.random(size) + 0.1
    scores = Scores(confusion(observed, predicted, weights))
    labels = [code for code in range(COUNT) if code in observed or code in predicted]
    how = {"labels": labels, "average": None, "sample_weight": weights}
    for name, function, nothing in (
        ("iou", metrics.jaccard_score, 0),
        ("f1", metrics.f1_score, 0),
        ("precision", metrics.precision_score, np.nan),
        ("recall", metrics.recall_score, np.nan),
    ):
        expected = function(observed, predicted, **how, zero_division=nothing)
        np.testing.assert_allclose(getattr(scores, name)[labels], expected)
    assert scores.accuracy == pytest.approx(metrics.accuracy_score(observed, predicted, sample_weight=weights))
    if len(labels) > 1:
        kappa = metrics.cohen_kappa_score(observed, predicted, sample_weight=weights)
        assert scores.kappa == pytest.approx(kappa, nan_ok=True)
    other = Scores(confusion(observed, predicted, weights * 1e6))
    np.testing.assert_allclose([other.accuracy, other.kappa, *other.iou], [scores.accuracy, scores.kappa, *scores.iou])


def matrices(size):
    return st.lists(st.integers(0, 50), min_size=size**2, max_size=size**2).map(
        lambda values: np.array(values, dtype=float).reshape(size, size)
    )


def cell_by_cell(matrix):
    """Match cells one by one: pairs that swap first, what balances round longer circles next, the rest is quantity."""
    rest = matrix.astype(int).copy()
    np.fill_diagonal(rest, 0)
    wrong, exchange = rest.sum(), 0
    for i, j in zip(*np.tril_indices(len(rest), -1), strict=True):
        swapped = min(rest[i, j], rest[j, i])
        rest[i, j] -= swapped
        rest[j, i] -= swapped
        exchange += 2 * swapped
    quantity = sum(max(int(rest[i].sum() - rest[:, i].sum()), 0) for i in range(len(rest)))
    return {"quantity": quantity, "exchange": exchange, "shift": wrong - exchange - quantity}


def overall(matrix):
    return {name: each.sum() / 2 for name, each in disagreement(matrix).items()}


def test_quantity_and_allocation_of_the_published_worksheet():
    sample = overall(PONTIUS_MATRIX / PONTIUS_MATRIX.sum())
    assert (sample["quantity"], sample["allocation"]) == pytest.approx((0.163636, 0.586364), abs=1e-6)
    # the worksheet's second step: rows stand for 100, 200, 300 and 400 cells of the population
    population = PONTIUS_MATRIX / PONTIUS_MATRIX.sum(axis=1, keepdims=True) * np.array([[0.1], [0.2], [0.3], [0.4]])
    found = overall(population)
    assert (found["quantity"], found["allocation"]) == pytest.approx((0.182234, 0.567193), abs=1e-6)


@QUICK
@given(st.integers(2, 4).flatmap(matrices))
def test_components_agree_with_matching_cells_one_by_one(matrix):
    found = overall(matrix)
    assert {name: found[name] for name in COMPONENTS} == cell_by_cell(matrix)
    assert found["total"] == matrix.sum() - np.trace(matrix)
    assert overall(matrix.T) == found
    assert len(matrix) > 2 or not found["shift"]


def simulate(start, observed, predicted):
    maps = [np.atleast_2d(each) for each in (start, observed, predicted)]
    return kappa_simulation(cross_tabulate(maps, np.ones(maps[0].shape, bool), np.ones(1)))


def step_by_step(start, observed, predicted):
    """The definitions of van Vliet et al. (2011) with loops over probabilities within each class of the start map."""
    cells = len(start)
    chance = largest = 0.0
    for origin in set(start):
        inside = [i for i in range(cells) if start[i] == origin]
        for end in range(COUNT):
            actual = sum(observed[i] == end for i in inside) / len(inside)
            simulated = sum(predicted[i] == end for i in inside) / len(inside)
            chance += len(inside) / cells * actual * simulated
            largest += len(inside) / cells * min(actual, simulated)
    agreement = sum(o == p for o, p in zip(observed, predicted, strict=True)) / cells
    return (agreement - chance) / (1 - chance), (largest - chance) / (1 - chance), agreement, chance, largest


@pytest.mark.parametrize(
    ("start", "observed", "predicted", "expected"),
    [
        ([1, 1, 1, 2, 2], [1, 2, 2, 2, 4], [1, 2, 2, 2, 4], (1, 1, 1)),
        ([1, 1, 2, 2], [1, 2, 2, 1], [1, 1, 2, 2], (0, 0, math.nan)),  # nothing changes in the prediction
        ([1] * 4, [1, 1, 2, 2], [2, 2, 1, 1], (-1, 1, -1)),  # right amounts in wrong places
        ([1, 1, 2, 2], [1, 1, 2, 2], [1, 1, 2, 2], (math.nan,) * 3),  # no room for chance
        ([1, 1, 2, 2], [3, 3, 4, 4], [3, 3, 4, 4], (math.nan,) * 3),
        ([], [], [], (math.nan,) * 3),
    ],
)
def test_kappa_simulation_of_extremes(start, observed, predicted, expected):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        maps = (np.array(each, dtype=int) for each in (start, observed, predicted))
        assert simulate(*maps) == pytest.approx(expected, nan_ok=True)


@QUICK
@given(st.integers(0, 10_000), st.integers(5, 60))
def test_kappa_simulation_agrees_with_the_definitions_and_with_cohens_kappa(seed, size):
    start, observed, predicted = np.random.default_rng(seed).integers(0, 3, (3, size)).tolist()
    kappa, transition, agreement, chance, largest = step_by_step(start, observed, predicted)
    found = simulate(start, observed, predicted)
    assert found[:2] == pytest.approx((kappa, transition), abs=1e-9)
    if largest - chance > 1e-9:
        assert found[2] == pytest.approx((agreement - chance) / (largest - chance), abs=1e-9)
    assert simulate(start, predicted, observed)[0] == pytest.approx(kappa, abs=1e-12)
    metrics = pytest.importorskip("sklearn.metrics")
    expected = metrics.cohen_kappa_score(observed, predicted)
    assert simulate([2] * size, observed, predicted)[0] == pytest.approx(expected, abs=1e-9, nan_ok=True)
