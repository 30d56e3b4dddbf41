from __future__ import annotations

import json
import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xland.scores.change import ChangeScores
from xland.scores.counts import cross_tabulate
from xland.vocabulary import CLASS_NAMES

QUICK = settings(max_examples=25, deadline=None)
PARTS = ("hits", "misses", "false_alarms", "wrong_hits")


def scores(start, observed, predicted, **more):
    table = cross_tabulate(*(np.atleast_2d(each) for each in (start, observed, predicted)))
    return ChangeScores(table, table.sum(axis=2), "pixels", **more)


def random_scores(seed, size=60):
    return scores(*np.random.default_rng(seed).integers(0, 5, (3, size)))


def test_the_budget_of_ten_cells_worked_by_hand():
    start = [1, 1, 1, 2, 2, 2, 4, 4, 4, 4]
    observed = [1, 2, 2, 2, 4, 4, 4, 4, 1, 1]
    predicted = [1, 2, 1, 4, 4, 1, 4, 4, 1, 1]
    found = scores(start, observed, predicted)
    # hits: cells 2, 5, 9, 10; missed: 3; false alarm: 4; to the wrong class: 6; right about persistence: 1, 7, 8
    assert [getattr(found, name) for name in PARTS] == pytest.approx([0.4, 0.1, 0.1, 0.1])
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


def test_six_cells_score_as_in_another_implementation():
    # the example by which evoland-plus (R) tests its figure of merit: one cell of each kind, two that persist
    found = scores([1, 1, 1, 1, 2, 2], [2, 2, 1, 1, 1, 2], [2, 1, 2, 1, 3, 2])
    assert [6 * getattr(found, name) for name in PARTS] == pytest.approx([1, 1, 1, 1])
    budget = found.budget
    assert (budget.figure_of_merit, budget.producers_accuracy, budget.users_accuracy) == pytest.approx(
        (1 / 4, 1 / 3, 1 / 3)
    )


@QUICK
@given(st.integers(0, 10_000))
def test_parts_add_up_to_what_changed_and_to_what_was_predicted_to(seed):
    found = random_scores(seed)
    budget, total = found.budget, found.total
    changed = 1 - np.trace(found.observed_transitions) / total
    foretold = 1 - np.trace(found.predicted_transitions) / total
    assert budget.hits + budget.misses + budget.wrong_hits == pytest.approx(changed)
    assert budget.hits + budget.false_alarms + budget.wrong_hits == pytest.approx(foretold)
    assert found.quantity + found.exchange + found.shift == pytest.approx(found.disagreement)
    assert found.quantity + found.allocation == pytest.approx(found.disagreement)
    assert budget.misses + budget.false_alarms + budget.wrong_hits == pytest.approx(found.disagreement)
    assert found.null.disagreement == pytest.approx(changed)


@QUICK
@given(st.integers(0, 10_000))
def test_parts_of_the_classes_add_up_to_those_of_the_map(seed):
    found = random_scores(seed)
    gains = [each.gain for each in found.per_class.values()]
    losses = [each.loss for each in found.per_class.values()]
    assert sum(each.hits for each in gains) == pytest.approx(found.hits)
    assert sum(each.misses for each in gains) == pytest.approx(found.misses + found.wrong_hits)
    assert sum(each.false_alarms for each in gains) == pytest.approx(found.false_alarms + found.wrong_hits)
    for name in PARTS:
        assert sum(getattr(each, name) for each in losses) == pytest.approx(getattr(found, name))
    for name in ("quantity", "allocation", "exchange", "shift"):
        parts = [getattr(each, name) for each in found.per_class.values()]
        assert sum(parts) / 2 == pytest.approx(getattr(found, name))


@QUICK
@given(st.integers(0, 10_000))
def test_swapping_observed_and_predicted_swaps_misses_and_false_alarms(seed):
    start, one, other = np.random.default_rng(seed).integers(0, 5, (3, 60))
    found, turned = scores(start, one, other), scores(start, other, one)
    assert found.misses == turned.false_alarms
    assert found.false_alarms == turned.misses
    for name in ("hits", "wrong_hits", "figure_of_merit", "quantity", "exchange", "shift"):
        assert getattr(found, name) == pytest.approx(getattr(turned, name), nan_ok=True)


def test_scores_without_a_denominator_are_nan_and_none_in_json():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        unchanged = scores([1, 2, 4], [1, 2, 4], [1, 2, 4])
        assert math.isnan(unchanged.figure_of_merit)
        assert math.isnan(unchanged.null.figure_of_merit)
        assert math.isnan(unchanged.kappa_simulation)
        assert (unchanged.hits, unchanged.disagreement) == (0, 0)
        written = json.loads(json.dumps(unchanged.to_dict(), allow_nan=False))
        assert written["figure_of_merit"] is None
        assert written["null"]["kappa_simulation"] is None
        empty = ChangeScores(np.zeros((8, 8, 8)), np.zeros((8, 8)))
        assert all(math.isnan(getattr(empty, name)) for name in (*PARTS, "quantity", "figure_of_merit"))
    # change that was only predicted is a false alarm, and the figure of merit is a plain 0
    assert scores([1, 2, 4], [1, 2, 4], [1, 2, 2]).figure_of_merit == 0


def test_the_null_resolution_is_the_smallest_window_that_beats_persistence():
    worse = scores([1, 1, 1, 1], [1, 1, 1, 2], [2, 2, 1, 1])
    better = scores([1, 1, 1, 1], [1, 1, 2, 2], [1, 1, 1, 2])
    assert scores([1], [1], [1], by_factor={1: worse, 2: better, 4: better}).null_resolution == 2
    assert scores([1], [1], [1], by_factor={1: worse}).null_resolution is None


def test_json_and_tables_say_what_was_scored():
    one = random_scores(1)
    found = scores(
        *np.random.default_rng(1).integers(0, 5, (3, 60)),
        by_factor={1: one, 4: ChangeScores(one.table, one.transitions, "pixels", factor=4)},
        per_region={"north": one},
        years=(1985, 1999, 1999),
        cells="held-out <cells>",
    )
    written = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert written["years"] == {"start": 1985, "observed": 1999, "predicted": 1999}
    assert (written["unit"], written["total"]) == ("cells", 60)
    assert written["per_region"]["north"]["hits"] == one.hits
    assert written["by_factor"]["4"]["null"]["misses"] == one.null.misses
    # kappa simulation is a score of maps with one class a cell
    assert "kappa_simulation" in written["by_factor"]["1"]
    assert "kappa_simulation" not in written["by_factor"]["4"]
    assert written["per_class"]["forest"]["gain"]["hits"] == one.per_class["forest"].gain.hits
    assert list(written["per_class"]) == list(CLASS_NAMES)
    assert np.sum(written["observed_transitions"]) == 60
    assert found.null.years == (1985, 1999, 1985)
    assert "cells: held-out <cells>" in str(found)
    assert "persistence" in repr(found)
    assert "held-out &lt;cells&gt;" in found._repr_html_()
