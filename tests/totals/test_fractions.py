from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.totals.blocks import FREE, blocks, make_block
from xland.errors import AllocationError
from xland.totals.fractions import fit_fractions
from xland.totals.maps import fit_map

few = settings(max_examples=12, deadline=None)


@few
@given(blocks())
def test_means_are_the_targets_and_pixels_still_sum_to_one(block):
    fitted = fit_fractions(*block.arguments)
    values = fitted.values
    assert (fitted.unmet == 0).all()
    assert np.nanmax(np.abs(block.shares(values) - block.targets)) <= 1e-6
    assert values.dtype == block.probability.dtype
    assert values.min() >= 0
    assert np.abs(values.sum(axis=0) - 1).max() < 1e-5
    assert (values[:, ~block.valid] == block.probability[:, ~block.valid]).all()


@few
@given(blocks())
def test_what_has_been_fitted_stays_as_it_is(block):
    once = fit_fractions(*block.arguments).values
    twice = fit_fractions(once, *block.arguments[1:]).values
    assert np.abs(twice - once).max() < 1e-5


def test_remainder_classes_keep_their_proportions():
    block = make_block()
    values = fit_fractions(*block.arguments).values
    before = block.probability[6] / block.probability[7]
    assert np.allclose(values[6] / values[7], before, rtol=1e-4)


def test_the_answer_is_the_nearest_field_with_these_means():
    block = make_block((1, 1), 4)
    fitted = fit_fractions(*block.arguments).values.astype(np.float64)
    # a first-order condition: the ratio of new to old is one weight a class times one a pixel
    ratio = np.log(fitted) - np.log(block.probability)
    weights = ratio - ratio.mean(axis=0)
    assert np.ptp(weights, axis=(1, 2)).max() < 1e-3


def test_a_cell_that_the_forcing_says_nothing_of_is_left_alone():
    block = make_block((1, 2))
    block.targets[:, 0, 1] = np.nan
    fitted = fit_fractions(*block.arguments)
    f = block.factor
    assert (fitted.values[:, :, f:] == block.probability[:, :, f:]).all()
    assert np.isnan(fitted.unmet[0, 1])
    assert fitted.unmet[0, 0] == 0


def test_more_than_the_coast_holds_is_given_in_proportion():
    block = make_block((1, 1), 4)
    block.valid[2:] = False
    block.targets[:] = np.nan
    block.targets[[2, 4], 0, 0] = 0.6, 0.3
    there = block.shares(np.ones((8, 4, 4)))[0]
    fitted = fit_fractions(*block.arguments)
    assert fitted.unmet == pytest.approx(0.9 - there)
    assert block.shares(fitted.values)[[2, 4], 0, 0] == pytest.approx(np.array([2, 1]) / 3 * there[0, 0], abs=1e-6)


def test_a_class_that_is_impossible_everywhere_is_reported():
    block = make_block((1, 1), 4)
    block.probability[4] = 0
    block.targets[4] = 0.2
    block.targets[[1, 2, 3, 5]] = 0.1
    fitted = fit_fractions(*block.arguments)
    assert fitted.unmet == pytest.approx(0.2, abs=1e-6)
    assert np.isfinite(fitted.values).all()
    assert (fitted.values[4] == 0).all()


@pytest.mark.parametrize("sharpness", [15.0, 25.0])
def test_models_that_are_certain_of_every_pixel_are_bent_all_the_same(sharpness):
    block = make_block((3, 3), 5, sharpness=sharpness, seed=4)
    probability = np.maximum(block.probability, 1e-38)
    fitted = fit_fractions(probability, *block.arguments[1:])
    assert (fitted.unmet == 0).all()
    assert np.nanmax(np.abs(block.shares(fitted.values) - block.targets)) <= 1e-6


def test_all_classes_given_need_no_remainder():
    block = make_block((2, 2), 4)
    targets = np.nan_to_num(block.targets)
    targets[FREE] = (1 - targets.sum(axis=0)) / 3
    fitted = fit_fractions(block.probability, targets, *block.arguments[2:])
    assert np.abs(block.shares(fitted.values) - targets).max() <= 1e-6


def with_value(array, value, *place):
    changed = array.copy()
    changed[place] = value
    return changed


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda b: {"targets": np.zeros((8, 2, 1))}, r"probability has the shape \(8, 4, 4\) in place of \(8, 4, 2\)"),
        (lambda b: {"targets": np.zeros((8, 3, 3))}, r"in place of \(8, 3, 3\): blocks hold whole coarse cells"),
        (
            lambda b: {"targets": np.full((8, 1, 1), 0.1)},
            r"less than the valid pixels \(0\.8 in place of 1\) in 1 coarse",
        ),
        (
            lambda b: {"targets": with_value(b.targets, -0.25, 4, 0, 0)},
            r"outside 0 to 1, such as -0\.25 of class 4, in 1 coarse cells, the first in row 0",
        ),
        (lambda b: {"area": np.ones(3)}, r"area has the shape \(3,\)"),
        (lambda b: {"area": np.zeros(4)}, "areas of pixels must be positive"),
        (lambda b: {"probability": b.probability[0]}, r"they need the dimensions \(classes, rows, columns\)"),
        (
            lambda b: {"probability": with_value(b.probability, np.nan, 3, 1, 2)},
            r"in 1 valid pixels, the first in row 1 and column 2",
        ),
    ],
)
def test_arrays_that_do_not_fit_and_values_that_cannot_be_are_refused(change, message):
    block = make_block((1, 1), 4)
    with pytest.raises(AllocationError, match=message):
        fit_fractions(*replace(block, **change(block)).arguments)


def test_pixels_without_a_class_may_hold_anything():
    block = make_block((1, 1), 4)
    block.probability[3, 1, 2] = np.nan
    block.valid[1, 2] = False
    assert (fit_fractions(*block.arguments).unmet == 0).all()


def on_ice():
    """A cell of 2 x 2 pixels, three of which are certainly ice, and what is asked of it: forest nearly everywhere."""
    probability = np.zeros((3, 2, 2), np.float32)
    probability[0] = 1
    probability[:, 0, 0] = 0.2, 0.6, 0.2
    return probability, np.array([np.nan, 0.05, 0.9])[:, None, None], np.ones(2), np.ones((2, 2), dtype=bool)


def test_where_too_much_is_asked_there_is_as_much_of_it_as_there_can_be():
    arguments = on_ice()
    fitted = fit_fractions(*arguments)
    assert fitted.values[2].mean() == pytest.approx(0.25, abs=0.02)
    assert (
        fitted.unmet[0, 0] == pytest.approx(fit_map(*arguments).unmet[0, 0], abs=1e-3) == pytest.approx(0.7, abs=1e-3)
    )


@few
@given(st.integers(0, 10_000))
def test_never_more_than_all_of_a_cell_is_unmet(seed):
    generator = np.random.default_rng(seed)
    probability = generator.random((5, 2, 2)) * (generator.random((5, 2, 2)) > 0.7)
    probability[0] += probability.sum(axis=0) == 0
    targets = generator.dirichlet(np.full(5, 0.3))[:, None, None]
    fitted = fit_fractions(probability / probability.sum(axis=0), targets, np.ones(2), np.ones((2, 2), dtype=bool))
    assert 0 <= fitted.unmet[0, 0] <= 1


@pytest.mark.parametrize(("given", "kept"), [("float16", "float32"), (">f4", "float32"), (">f8", "float64")])
def test_probabilities_of_any_float_are_fitted(given, kept):
    block = make_block((1, 2))
    given_values = block.probability.astype(given)
    fitted = fit_fractions(given_values / given_values.sum(axis=0), *block.arguments[1:])
    assert fitted.values.dtype == kept
    expected = fit_fractions(*block.arguments).values
    assert np.abs(fitted.values - expected).max() < (0.02 if given == "float16" else 1e-5)


def test_whole_numbers_are_weights_of_classes():
    counts = np.stack([np.full((2, 2), 3), np.full((2, 2), 1)])
    targets = np.array([0.5, 0.5])[:, None, None]
    fitted = fit_fractions(counts, targets, np.ones(2), np.ones((2, 2), dtype=bool))
    assert np.allclose(fitted.values, 0.5)
