from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from scipy.optimize import linear_sum_assignment

from tests.totals.blocks import CLASSES, blocks, make_block
from xland.totals.maps import fit_map

few = settings(max_examples=12, deadline=None)


def log_probability(codes, block):
    return np.log(np.take_along_axis(block.probability.astype(np.float64), codes[None].astype(int), 0)[0])


@few
@given(blocks())
def test_class_areas_are_within_a_pixel_of_the_targets(block):
    fitted = fit_map(*block.arguments)
    errors = np.nanmax(np.abs(block.shares(fitted.codes) - block.targets), axis=0)
    assert (fitted.unmet == 0).all()
    assert (errors <= block.pixel * (1 + 1e-5) + 1e-9).all()


@few
@given(blocks(shape=(1, 1), north=0.125))
def test_no_map_with_these_class_areas_is_more_probable(block):
    codes = fit_map(*block.arguments).codes[block.valid]
    score = np.log(block.probability[:, block.valid].astype(np.float64)).T
    # each pixel of the remainder takes the best of its classes, which are one class here
    free = np.isnan(block.targets[:, 0, 0])
    score = np.column_stack([score[:, ~free], score[:, free].max(axis=1)])
    group = np.where(free, (~free).sum(), np.cumsum(~free) - 1)
    seats = np.sort(group[codes])
    pixels, chosen = linear_sum_assignment(-score[:, seats])
    best = score[pixels, seats[chosen]].sum()
    assert score[np.arange(codes.size), group[codes]].sum() == pytest.approx(best, abs=1e-4)


@few
@given(blocks(land=0.2))
def test_invalid_pixels_are_ocean(block):
    assert (fit_map(*block.arguments).codes[~block.valid] == 0).all()


@few
@given(blocks(shape=(3, 3)))
def test_cutting_the_block_changes_nothing(block):
    whole = fit_map(*block.arguments)
    part = fit_map(*block.part(slice(1, 3), slice(0, 2)).arguments)
    f = block.factor
    assert (part.codes == whole.codes[f : 3 * f, : 2 * f]).all()
    assert (part.unmet == whole.unmet[1:3, :2]).all()


@few
@given(blocks())
def test_a_map_that_has_the_totals_stays_as_it_is(block):
    codes = fit_map(*block.arguments).codes
    certain = np.where(np.arange(CLASSES)[:, None, None] == codes, 0.99, 0.01 / 7)
    targets = np.where(np.isnan(block.targets), np.nan, block.shares(codes))
    again = fit_map(certain, targets, *block.arguments[2:]).codes
    assert (again[block.valid] == codes[block.valid]).all()


def test_without_a_forcing_each_pixel_has_its_most_probable_class():
    block = make_block((1, 2))
    fitted = fit_map(block.probability, np.full_like(block.targets, np.nan), *block.arguments[2:])
    assert (fitted.codes == block.probability.argmax(axis=0)).all()
    assert np.isnan(fitted.unmet).all()


def test_equal_probabilities_are_told_apart_in_the_same_way_in_every_cell():
    block = make_block((1, 3), 5, sharpness=0.0)
    block.targets[:] = block.targets[:, :, :1]
    codes = fit_map(*block.arguments).codes
    assert (codes[:, :5] == codes[:, 5:10]).all()
    assert (codes[:, :5] == codes[:, 10:]).all()


def test_an_impossible_class_is_given_nowhere_and_reported():
    block = make_block((1, 1), 5)
    block.probability[4] = 0
    block.probability[4, 0, :2] = 0.5
    block.targets[:] = np.nan
    block.targets[4] = 0.4
    fitted = fit_map(*block.arguments)
    assert (np.argwhere(fitted.codes == 4) == [[0, 0], [0, 1]]).all()
    assert fitted.unmet == pytest.approx(0.4 - block.shares(fitted.codes)[4], abs=1e-6)


def test_near_the_pole_areas_count_and_not_numbers_of_pixels():
    block = make_block((1, 1), 25, north=90.0, sharpness=0.0)
    # forest in the north, where pixels are small
    block.probability[:] = 0.01
    block.probability[4, :12] = 0.9
    block.targets[:] = np.nan
    block.targets[[4, 5], 0, 0] = 0.5, 0.5
    codes = fit_map(*block.arguments).codes
    assert np.abs(block.shares(codes)[4] - 0.5) <= block.pixel
    assert (codes == 4).sum() > 13 * 25


def test_a_cell_without_valid_pixels_has_no_class():
    block = make_block((1, 1), 5)
    block.valid[:] = False
    fitted = fit_map(*block.arguments)
    assert (fitted.codes == 0).all()
    assert fitted.unmet == pytest.approx(np.nansum(block.targets))
