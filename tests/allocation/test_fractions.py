from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings

from tests.allocation.blocks import FREE, Block, blocks, make_block
from xland.allocation.fractions import fit_fractions
from xland.errors import AllocationError

few = settings(max_examples=30, deadline=None)


@few
@given(blocks())
def test_means_are_the_targets(block):
    fitted = fit_fractions(*block.arguments)
    errors = np.nanmax(np.abs(block.shares(fitted.values) - block.targets), axis=0)
    assert (fitted.unmet == 0).all()
    assert errors.max() <= 1e-6


@few
@given(blocks())
def test_pixels_still_sum_to_one(block):
    values = fit_fractions(*block.arguments).values
    assert values.dtype == block.probability.dtype
    assert values.min() >= 0
    assert np.abs(values.sum(axis=0) - 1).max() < 1e-5


@few
@given(blocks(land=0.2))
def test_invalid_pixels_are_not_touched(block):
    values = fit_fractions(*block.arguments).values
    assert (values[:, ~block.valid] == block.probability[:, ~block.valid]).all()


@few
@given(blocks())
def test_what_has_been_fitted_stays_as_it_is(block):
    once = fit_fractions(*block.arguments).values
    twice = fit_fractions(once, *block.arguments[1:]).values
    assert np.abs(twice - once).max() < 1e-5


@few
@given(blocks(shape=(3, 3)))
def test_cutting_the_block_changes_nothing(block):
    whole = fit_fractions(*block.arguments)
    part = fit_fractions(*block.part(slice(1, 3), slice(1, 2)).arguments)
    f = block.factor
    assert (part.values == whole.values[:, f : 3 * f, f : 2 * f]).all()
    assert (part.unmet == whole.unmet[1:3, 1:2]).all()


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


def test_a_cell_without_valid_pixels_reports_all_that_was_asked_for():
    block = make_block((1, 1), 4)
    block.valid[:] = False
    fitted = fit_fractions(*block.arguments)
    assert fitted.unmet == pytest.approx(np.nansum(block.targets))
    assert (fitted.values == block.probability).all()


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


def test_shares_of_all_classes_that_do_not_sum_to_one_are_refused():
    block = make_block((1, 1), 4)
    with pytest.raises(AllocationError, match=r"sum to less than the valid pixels in 1 coarse.*0\.8 in place of 1"):
        fit_fractions(block.probability, np.full((8, 1, 1), 0.1), *block.arguments[2:])


def test_targets_out_of_range_are_refused():
    block = make_block((2, 2), 2)
    block.targets[4, 1, 0] = -0.25
    with pytest.raises(
        AllocationError, match=r"outside 0 to 1 in 1 coarse cells, the first \(-0\.25, class 4\) in row 1"
    ):
        fit_fractions(*block.arguments)


def test_probabilities_that_are_no_numbers_are_refused():
    block = make_block((1, 1), 4)
    block.probability[3, 1, 2] = np.nan
    with pytest.raises(AllocationError, match=r"in 1 valid pixels, the first in row 1 and column 2"):
        fit_fractions(*block.arguments)
    block.valid[1, 2] = False
    assert (fit_fractions(*block.arguments).unmet == 0).all()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"targets": np.zeros((8, 2, 1))}, r"targets has the shape \(8, 2, 1\)"),
        ({"area": np.ones(3)}, r"area has the shape \(3,\)"),
        ({"area": np.zeros(4)}, "areas of pixels must be positive"),
        ({"factor": 3, "targets": np.zeros((8, 1, 1))}, "no whole coarse cells of 3 x 3"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(changed, message):
    block = make_block((1, 1), 4)
    with pytest.raises(AllocationError, match=message):
        fit_fractions(*Block(**{**vars(block), **changed}).arguments)
