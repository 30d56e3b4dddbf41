"""The most probable map that keeps coarse totals: as near as pixels can be, or within a tolerance."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import Bounds, LinearConstraint, linear_sum_assignment, milp
from scipy.sparse import eye_array, kron

from tests.totals.blocks import CLASSES, FREE, blocks, make_block
from xland.errors import AllocationError
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
    assert (fitted.codes[~block.valid] == 0).all()


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


def worth(codes, block):
    """Logarithm of the probability of the map in each coarse cell, (R, C); the rest is of its best class."""
    logs = np.log(block.probability.astype(np.float64))
    logs[FREE] = logs[FREE].max(axis=0)
    chosen = np.take_along_axis(logs, codes[None].astype(int), 0)[0]
    f, (rows, columns) = block.factor, codes.shape
    return np.where(block.valid, chosen, 0).reshape(rows // f, f, columns // f, f).sum(axis=(1, 3))


def groups(values):
    """The classes with a total, and the others together."""
    return np.concatenate([np.delete(values, FREE, axis=0), values[FREE].sum(axis=0, keepdims=True)])


def errors(codes, block):
    """By how many pixels areas are off their totals, (groups, R, C)."""
    shares = groups(block.shares(codes))
    totals = np.delete(block.targets, FREE, axis=0)
    rest = block.shares(np.ones((CLASSES, *codes.shape)))[0] - totals.sum(axis=0)
    return np.abs(shares - np.concatenate([totals, rest[None]])) / block.pixel


def best_worth(block, allowed):
    """Worth of the most probable map of one coarse cell in which areas are off by so many pixels at most."""
    pixels = int(block.valid.sum())
    if pixels == 0:
        return 0.0
    logs = np.log(block.probability[:, block.valid].astype(np.float64))
    logs = np.concatenate([np.delete(logs, FREE, axis=0), logs[FREE].max(axis=0, keepdims=True)])
    size = (block.area[:, None] / block.area.sum() / block.factor * np.ones(block.valid.shape))[block.valid]
    totals = np.delete(block.targets, FREE, axis=0)[:, 0, 0]
    totals = np.append(totals, size.sum() - totals.sum()) / block.pixel[0, 0]
    one_class = LinearConstraint(kron(eye_array(pixels), np.ones((1, len(logs)))).tocsr(), 1, 1)
    areas = kron(size[None] / block.pixel[0, 0], eye_array(len(logs))).tocsr()
    within = LinearConstraint(areas, totals - allowed - 2e-5, totals + allowed + 2e-5)
    found = milp(-logs.T.ravel(), constraints=[one_class, within], integrality=1, bounds=Bounds(0, 1))
    return -found.fun


@few
@given(blocks(), st.sampled_from([0.1, 0.5, 0.9, 1.0]))
def test_a_tolerance_makes_no_cell_less_probable_and_areas_are_off_by_it_at_most(block, tolerance):
    codes, nearest = (fit_map(*block.arguments, each).codes for each in (tolerance, 0))
    assert (errors(codes, block) <= np.maximum(errors(nearest, block), tolerance) + 1e-4).all()
    assert (worth(codes, block) >= worth(nearest, block) - 1e-4).all()


@settings(max_examples=12, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([1, 2, 3, 5]),
    st.sampled_from([0.5, 2.0, 5.0]),
    st.sampled_from([0.125, 60.0, 90.0]),
    st.sampled_from([1.0, 0.7]),
)
def test_no_map_within_a_pixel_is_more_probable(seed, factor, sharpness, north, land):
    """HiGHS, a solver of mixed integer programmes, finds none."""
    block = make_block((1, 1), factor, seed=seed, sharpness=sharpness, north=north, land=land)
    codes = fit_map(*block.arguments, 1).codes
    nearest = errors(fit_map(*block.arguments, 0).codes, block)[:, 0, 0]
    assert worth(codes, block)[0, 0] == pytest.approx(best_worth(block, np.maximum(nearest, 1)), abs=1e-3)


@pytest.mark.parametrize(("factor", "north", "seed", "land"), [(10, 85, 1, 1.0), (12, 60, 2, 0.6)])
def test_no_single_pixel_can_change_for_a_more_probable_map(factor, north, seed, land):
    """In cells of up to 100 pixels the search may end early, in larger ones there is none."""
    block = make_block((1, 1), factor, seed=seed, sharpness=1.0, north=float(north), land=land)
    codes = fit_map(*block.arguments, 1).codes
    best = worth(codes, block)
    for row, column in np.ndindex(codes.shape):
        for code in (1, 2, 3, 4, 5):
            other = codes.copy()
            other[row, column] = code
            assert worth(other, block) <= best + 1e-4 or errors(other, block).max() > 1


def test_large_cells_gain_by_chains_of_moves_and_stay_within_a_pixel():
    block = make_block((1, 1), 25, sharpness=1.0)
    block.targets[1:6, 0, 0] = 0.1003, 0.2011, 0.1507, 0.2501, 0.1009
    codes, nearest = (fit_map(*block.arguments, each).codes for each in (1, 0))
    assert worth(codes, block) > worth(nearest, block) + 0.1
    assert errors(codes, block).max() <= 1 + 1e-4


def test_what_is_less_than_a_pixel_and_nowhere_likely_has_none():
    block = make_block((1, 1), 5, sharpness=0.0)
    block.probability[:] = 0.01
    block.probability[5] = 0.9
    block.targets[:] = np.nan
    block.targets[[1, 5], 0, 0] = 0.03, 0.97
    assert set(fit_map(*block.arguments, 1).codes.flat) == {5}
    assert set(fit_map(*block.arguments, 0).codes.flat) == {1, 5}


@pytest.mark.parametrize("tolerance", [-0.1, 1.5, np.nan])
def test_a_tolerance_of_no_pixel_or_of_more_than_one_is_refused(tolerance):
    with pytest.raises(AllocationError, match="by 0 to 1 pixels"):
        fit_map(*make_block().arguments, tolerance)
