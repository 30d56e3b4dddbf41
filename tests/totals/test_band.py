"""Maps whose class areas may be off their totals by part of a pixel, in favour of a more probable map."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import eye_array, kron

from tests.totals.blocks import CLASSES, FREE, blocks, make_block
from xland.errors import AllocationError
from xland.totals.maps import fit_map
from xland.totals.transport import move

few = settings(max_examples=12, deadline=None)
tolerances = st.sampled_from([0.1, 0.5, 0.9, 1.0])


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


@few
@given(blocks(), tolerances)
def test_areas_are_off_by_the_tolerance_at_most_where_pixels_are_that_small(block, tolerance):
    codes, nearest = (fit_map(*block.arguments, each).codes for each in (tolerance, 0))
    allowed = np.maximum(errors(nearest, block), tolerance)
    assert (errors(codes, block) <= allowed + 1e-4).all()


@few
@given(blocks(), tolerances)
def test_a_tolerance_makes_no_cell_less_probable(block, tolerance):
    codes, nearest = (fit_map(*block.arguments, each).codes for each in (tolerance, 0))
    assert (worth(codes, block) >= worth(nearest, block) - 1e-4).all()


@settings(max_examples=20, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 3),
    st.sampled_from([0.5, 2.0, 5.0]),
    st.sampled_from([0.125, 60.0, 90.0]),
    st.sampled_from([1.0, 0.7]),
)
def test_no_map_within_a_pixel_is_more_probable(seed, factor, sharpness, north, land):
    """HiGHS, a solver of mixed integer programmes, finds none."""
    assert_most_probable(make_block((1, 1), factor, seed=seed, sharpness=sharpness, north=north, land=land))


@pytest.mark.parametrize("seed", range(5))
def test_no_map_of_five_by_five_pixels_is_more_probable(seed):
    assert_most_probable(make_block((1, 1), 5, seed=seed, sharpness=2.0))


def assert_most_probable(block):
    codes = fit_map(*block.arguments, 1).codes
    nearest = errors(fit_map(*block.arguments, 0).codes, block)[:, 0, 0]
    assert worth(codes, block)[0, 0] == pytest.approx(best_worth(block, np.maximum(nearest, 1)), abs=1e-3)


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


@pytest.mark.parametrize("seed", range(4))
def test_large_cells_gain_by_chains_of_moves_and_stay_within_a_pixel(seed):
    block = make_block((1, 1), 25, seed=seed, sharpness=1.0)
    block.targets[1:6, 0, 0] = 0.1003, 0.2011, 0.1507, 0.2501, 0.1009
    codes, nearest = (fit_map(*block.arguments, each).codes for each in (1, 0))
    assert worth(codes, block) > worth(nearest, block) + 0.1
    assert errors(codes, block).max() <= 1 + 1e-4


@pytest.mark.parametrize("north", [60.0, 85.0])
@pytest.mark.parametrize("factor", [7, 10, 12])
@pytest.mark.parametrize(("seed", "land"), [(0, 1.0), (1, 1.0), (2, 0.6)])
def test_no_single_pixel_may_change_for_a_more_probable_map(factor, north, seed, land):
    block = make_block((1, 1), factor, seed=seed, sharpness=1.0, north=north, land=land)
    codes = fit_map(*block.arguments, 1).codes
    best = worth(codes, block)
    for row, column in np.ndindex(codes.shape):
        for code in (1, 2, 3, 4, 5):
            other = codes.copy()
            other[row, column] = code
            assert worth(other, block) <= best + 1e-4 or errors(other, block).max() > 1


def test_what_is_less_than_a_pixel_and_nowhere_likely_has_none():
    block = make_block((1, 1), 5, sharpness=0.0)
    block.probability[:] = 0.01
    block.probability[5] = 0.9
    block.targets[:] = np.nan
    block.targets[[1, 5], 0, 0] = 0.03, 0.97
    assert set(fit_map(*block.arguments, 1).codes.flat) == {5}
    assert set(fit_map(*block.arguments, 0).codes.flat) == {1, 5}


@pytest.mark.parametrize("factor", [5, 7, 10])
def test_a_search_that_ends_early_is_no_worse_than_moves_along_chains(factor):
    """Whether it is the search or the moves that end with the map, the worth is what can be compared."""
    block = make_block((2, 8), factor, seed=3, sharpness=1.0)
    nearest, found = (fit_map(*block.arguments, each).codes for each in (0, 1))
    moved = moved_along_chains(nearest, block)
    assert (worth(found, block) >= worth(moved, block) - 1e-3).all()


def moved_along_chains(codes, block):
    """The map after moves along chains alone, coarse cell by coarse cell."""
    moved, f = codes.copy(), block.factor
    logs = np.log(block.probability.astype(np.float64))
    names = [code for code in range(CLASSES) if code not in FREE]
    for row, column in np.ndindex(block.targets.shape[1:]):
        cell = (slice(row * f, (row + 1) * f), slice(column * f, (column + 1) * f))
        inside = (slice(None), *cell)
        table = np.concatenate([logs[inside][names], logs[inside][FREE].max(axis=0, keepdims=True)])
        group = np.where(np.isin(codes[cell], FREE), len(names), np.searchsorted(names, codes[cell])).ravel()
        area = np.rint(block.area[cell[0]] * 2**20 / block.area[cell[0]].mean()).astype(np.int64).repeat(f)
        totals = block.targets[names, row, column] * area.sum()
        totals = np.rint(np.append(totals, area.sum() - totals.sum())).astype(np.int64)
        off = np.abs(np.bincount(group, weights=area, minlength=len(totals)) - totals)
        far = np.maximum(off, area.max()).astype(np.int64)
        move(np.ascontiguousarray(table.reshape(len(table), -1).T), area, totals - far, totals + far, group)
        best = np.array(FREE)[logs[inside][FREE].argmax(axis=0)].ravel()
        moved[cell] = np.where(group == len(names), best, np.array([*names, 0])[group]).reshape(f, f)
    return moved


@few
@given(blocks(shape=(3, 3)), tolerances)
def test_cutting_the_block_changes_nothing(block, tolerance):
    whole = fit_map(*block.arguments, tolerance).codes
    part = fit_map(*block.part(slice(1, 3), slice(0, 2)).arguments, tolerance).codes
    f = block.factor
    assert (part == whole[f : 3 * f, : 2 * f]).all()


@pytest.mark.parametrize("tolerance", [-0.1, 1.5, np.nan])
def test_a_tolerance_of_no_pixel_or_of_more_than_one_is_refused(tolerance):
    with pytest.raises(AllocationError, match="by 0 to 1 pixels"):
        fit_map(*make_block().arguments, tolerance)
