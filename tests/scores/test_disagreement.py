from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xland.errors import GridError
from xland.scores.measures import disagreement

QUICK = settings(max_examples=25, deadline=None)
COMPONENTS = ("quantity", "exchange", "shift")

PONTIUS_MATRIX = np.array([[11, 12, 13, 14], [21, 22, 23, 24], [31, 32, 33, 34], [41, 42, 43, 44]])
"""The table of the worksheet "PontiusMatrix26" that its author hands out with Pontius and Millones (2011)."""


def matrices(size=4):
    return st.lists(st.integers(0, 50), min_size=size**2, max_size=size**2).map(
        lambda values: np.array(values, dtype=float).reshape(size, size)
    )


def cell_by_cell(matrix):
    """Match cells one by one: pairs that swap first, what balances round longer circles next, the rest is quantity."""
    rest = matrix.astype(int).copy()
    np.fill_diagonal(rest, 0)
    wrong, exchange = rest.sum(), 0
    for i in range(len(rest)):
        for j in range(i):
            swapped = min(rest[i, j], rest[j, i])
            rest[i, j] -= swapped
            rest[j, i] -= swapped
            exchange += 2 * swapped
    quantity = sum(max(int(rest[i].sum() - rest[:, i].sum()), 0) for i in range(len(rest)))
    return {"quantity": quantity, "exchange": exchange, "shift": wrong - exchange - quantity}


def test_quantity_and_allocation_of_the_published_worksheet():
    sample = disagreement(PONTIUS_MATRIX / PONTIUS_MATRIX.sum())
    assert sample.overall("quantity") == pytest.approx(0.163636, abs=1e-6)
    assert sample.overall("allocation") == pytest.approx(0.586364, abs=1e-6)
    # the worksheet's second step: rows stand for 100, 200, 300 and 400 cells of the population
    population = PONTIUS_MATRIX / PONTIUS_MATRIX.sum(axis=1, keepdims=True) * np.array([[0.1], [0.2], [0.3], [0.4]])
    found = disagreement(population)
    assert found.overall("quantity") == pytest.approx(0.182234, abs=1e-6)
    assert found.overall("allocation") == pytest.approx(0.567193, abs=1e-6)


def test_a_swap_of_two_classes_is_exchange_and_a_circle_of_three_is_shift():
    swap = np.array([[5.0, 2, 0], [2, 5, 0], [0, 0, 5]])
    circle = np.array([[5.0, 2, 0], [0, 5, 2], [2, 0, 5]])
    gain = np.array([[5.0, 2, 0], [0, 5, 0], [0, 0, 5]])
    for matrix, component, size in ((swap, "exchange", 4), (circle, "shift", 6), (gain, "quantity", 2)):
        found = disagreement(matrix)
        assert {name: found.overall(name) for name in COMPONENTS} == {**dict.fromkeys(COMPONENTS, 0), component: size}


def test_the_components_of_each_class_worked_by_hand():
    # Rows one map, columns the other: classes A, B, C.
    found = disagreement(np.array([[10.0, 4, 1], [2, 20, 3], [0, 0, 30]]))
    np.testing.assert_array_equal(found.quantity, [3, 1, 4])  # A 15 and 12, B 25 and 24, C 30 and 34
    np.testing.assert_array_equal(found.exchange, [4, 4, 0])  # two cells of A and two of B swap
    np.testing.assert_array_equal(found.shift, [0, 4, 0])  # B gains two from A and loses two of three to C
    np.testing.assert_array_equal(found.total, [7, 9, 4])
    assert [found.overall(name) for name in (*COMPONENTS, "allocation", "total")] == [4, 4, 2, 6, 10]


@QUICK
@given(matrices())
def test_components_agree_with_matching_cells_one_by_one(matrix):
    found = disagreement(matrix)
    assert {name: found.overall(name) for name in COMPONENTS} == cell_by_cell(matrix)


@QUICK
@given(matrices(3))
def test_components_sum_to_all_disagreement_and_do_not_depend_on_direction(matrix):
    found, turned = disagreement(matrix), disagreement(matrix.T)
    assert found.overall("total") == matrix.sum() - np.trace(matrix)
    for name in COMPONENTS:
        np.testing.assert_array_equal(getattr(found, name), getattr(turned, name))


@QUICK
@given(matrices(2))
def test_two_classes_cannot_shift(matrix):
    assert not disagreement(matrix).shift.any()


def test_matrices_that_are_none_are_refused():
    with pytest.raises(GridError, match=r"square, not of shape \(2, 3\)"):
        disagreement(np.zeros((2, 3)))
    with pytest.raises(GridError, match="2 of its numbers are negative or not finite"):
        disagreement(np.array([[-1.0, np.nan], [0, 1]]))
