from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xland.errors import VocabularyError
from xland.scores.counts import (
    AREA_UNIT,
    composite_table,
    composite_transitions,
    confusion,
    count_domains,
    cross_tabulate,
    mixed_cells,
    tabulate_windows,
    window_areas,
)
from xland.vocabulary import CLASSES, LAND_CLASSES

QUICK = settings(max_examples=8)
COUNT = len(CLASSES)


def ones(codes):
    """Every cell counts, and weighs the same."""
    return np.ones(codes.shape, bool), np.ones(len(codes))


def three_maps(seed, shape, classes=4):
    return np.random.default_rng(seed).integers(0, classes, (3, *shape))


def as_published(start, observed, predicted):
    """Equations 1 to 7 and the four rules of Pontius, Peethambaram and Castella (2011), one window at a time."""
    classes = start.shape[1]
    table = np.zeros((classes,) * 3)
    for q, r, s in zip(start, observed, predicted, strict=True):
        right = np.minimum(r, s)  # equation 1
        persisting = np.minimum(q, right)  # equation 2
        rest_q = q - persisting
        for j in range(classes):
            table[j, j, j] += persisting[j]
            others = sum(q[i] - persisting[i] for i in range(classes) if i != j)
            for i in range(classes):
                if i != j and others > 0:
                    hit = (right[j] - persisting[j]) * (q[i] - persisting[i]) / others  # equation 3
                    table[i, j, j] += hit
                    rest_q[i] -= hit  # equation 4
        rest_r, rest_s = r - right, s - right  # equations 5 and 6
        products = np.einsum("i,j,k->ijk", rest_q, rest_r, rest_s)
        products[:, range(classes), range(classes)] = 0
        if products.sum() > 0:
            table += (q.sum() - right.sum()) * products / products.sum()  # equation 7
    return table


def test_a_confusion_matrix_worked_by_hand():
    weights = np.array([[1.0, 2.0, 4.0], [8.0, 16.0, 32.0]])
    expected = np.zeros((COUNT, COUNT))
    expected[1, 1], expected[1, 2], expected[2, 2], expected[4, 4], expected[4, 1] = 1, 2, 12, 16, 32
    maps = np.array([[1, 1, 2], [2, 4, 4]]), np.array([[1, 2, 2], [2, 4, 1]])
    np.testing.assert_array_equal(confusion(*maps, weights), expected)
    with pytest.raises(VocabularyError, match="predicted map contains 2 cells with codes outside 0 to 7"):
        confusion(np.array([1, 2, 3]), np.array([1, 8, 99]))


@QUICK
@given(st.integers(0, 10_000), st.integers(1, 4))
def test_mixed_cells_agree_with_counting_in_every_coarse_cell(seed, factor):
    observed = np.random.default_rng(seed).choice([0, 4, 5, 7], (2 * factor, 3 * factor), p=[0.4, 0.3, 0.05, 0.25])
    found = mixed_cells(observed, factor)
    for row, column in np.ndindex(2, 3):
        block = np.s_[row * factor : (row + 1) * factor, column * factor : (column + 1) * factor]
        assert (found[block] == (len({*observed[block].ravel()} & {*LAND_CLASSES}) > 1)).all()


def test_counts_of_domains_and_regions_do_not_depend_on_bands_of_rows(monkeypatch):
    observed, predicted = np.random.default_rng(0).integers(0, COUNT, (2, 12, 9))
    labels = np.random.default_rng(1).integers(0, 3, (12, 9)).astype(np.uint8)
    latitude, area = np.linspace(20, -90, 12), np.linspace(2e6, 1e6, 12)
    how = {"factor": 3, "domains": ("all", "land", "mixed"), "regions": 2}
    found = count_domains(observed, predicted, labels, latitude, area, **how)
    land = np.isin(observed, LAND_CLASSES) & (latitude > -60)[:, None]
    for region in (1, 2):
        for i, chosen in enumerate((True, land, land & mixed_cells(observed, 3))):
            counted = (labels == region) & chosen
            np.testing.assert_array_equal(found[0, region - 1, i], confusion(observed, predicted, counted))
            by_area = confusion(observed, predicted, counted * area[:, None])
            np.testing.assert_allclose(found[1, region - 1, i] * AREA_UNIT, by_area, rtol=1e-9)
    monkeypatch.setattr("xland.scores.counts._BAND", 30)
    np.testing.assert_array_equal(count_domains(observed, predicted, labels, latitude, area, **how), found)


@QUICK
@given(st.integers(0, 10_000), st.integers(1, 4))
def test_areas_of_windows_agree_with_counting_in_each(seed, factor):
    codes, _, _ = three_maps(seed, (2 * factor, 3 * factor))
    counted = np.random.default_rng(seed).random(codes.shape) < 0.7
    weights = np.arange(1.0, 2 * factor + 1)
    found = window_areas(codes, factor, counted, weights).reshape(2, 3, COUNT)
    area = counted * weights[:, None]
    for row, column in np.ndindex(2, 3):
        block = np.s_[row * factor : (row + 1) * factor, column * factor : (column + 1) * factor]
        expected = np.bincount(codes[block].ravel(), area[block].ravel(), COUNT)
        np.testing.assert_array_equal(found[row, column], expected)


def test_bands_of_rows_and_parts_of_windows_change_no_area(monkeypatch):
    maps = three_maps(0, (12, 8))
    how = ones(maps[0])[0], np.arange(12.0)
    areas = [window_areas(each, 4, *how) for each in maps]
    whole, combined = cross_tabulate(maps, *how), composite_table(*areas)
    expected = np.zeros((COUNT,) * 3)
    np.add.at(expected, tuple(maps), how[1][:, None])
    np.testing.assert_array_equal(whole, expected)
    monkeypatch.setattr("xland.scores.counts._BAND", 24)  # three rows: bands cut through windows
    monkeypatch.setattr("xland.scores.counts._WINDOWS", 4)
    np.testing.assert_array_equal(window_areas(maps[0], 4, *how), areas[0])
    np.testing.assert_array_equal(cross_tabulate(maps, *how), whole)
    np.testing.assert_allclose(composite_table(*areas), combined, rtol=1e-12)


@QUICK
@given(st.integers(0, 10_000), st.integers(1, 5))
def test_windows_follow_the_published_equations_and_keep_the_totals_of_every_map(seed, factor):
    maps = three_maps(seed, (3 * factor, 4 * factor))
    areas = [window_areas(each, factor, *ones(each)) for each in maps]
    table = composite_table(*areas)
    np.testing.assert_allclose(table, as_published(*areas), atol=1e-10)
    for axes, each in zip(((1, 2), (0, 2), (0, 1)), areas, strict=True):
        np.testing.assert_allclose(table.sum(axis=axes), each.sum(axis=0), atol=1e-10)
    np.testing.assert_allclose(table.sum(axis=0), composite_transitions(*areas[1:]), atol=1e-10)
    if factor == 1:
        np.testing.assert_allclose(table, cross_tabulate(maps, *ones(maps[0])), atol=1e-12)
        np.testing.assert_allclose(composite_transitions(*areas[:2]), table.sum(axis=2), atol=1e-12)


def test_rounding_of_areas_is_not_disagreement():
    areas, rounded = np.array([[0.1 + 0.2, 0.7]]), np.array([[0.3, 0.7]])
    for table in (composite_table(areas, rounded, areas), composite_table(areas, areas, rounded)):
        np.testing.assert_allclose(table.sum() - np.einsum("iii->", table), 0, atol=1e-15)


@QUICK
@given(st.integers(0, 10_000), st.integers(1, 5), st.floats(0, 1))
def test_windows_without_change_may_be_counted_apart(seed, factor, share):
    start, observed, predicted = three_maps(seed, (3 * factor, 4 * factor))
    rng = np.random.default_rng(seed)
    observed, predicted = (np.where(rng.random(start.shape) < share, each, start) for each in (observed, predicted))
    more = rng.random(start.shape) < 0.8, rng.random(3 * factor)
    table, transitions = tabulate_windows(start, observed, predicted, factor, *more)
    areas = [window_areas(each, factor, *more) for each in (start, observed, predicted)]
    np.testing.assert_allclose(table, composite_table(*areas), atol=1e-10)
    np.testing.assert_allclose(transitions, composite_transitions(*areas[:2]), atol=1e-10)
