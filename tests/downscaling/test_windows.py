"""Windows belong to the world, whatever block is asked for."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xland.downscaling.windows import Span, gaussian, halo, locate, window_starts


@st.composite
def lattices(draw):
    factor = draw(st.sampled_from([1, 4, 5]))
    stride = factor * draw(st.integers(1, 12))
    size = stride + factor * draw(st.integers(0, 20))
    start = draw(st.integers(-500, 500))
    return Span(start, start + draw(st.integers(1, 300))), size, stride


@given(lattices())
def test_every_cell_of_a_block_lies_in_a_window(lattice):
    block, size, stride = lattice
    starts = window_starts(block, size, stride)
    cells = np.arange(block.start, block.stop)
    covered = ((cells[:, None] >= starts) & (cells[:, None] < starts + size)).sum(axis=1)
    assert covered.min() >= 1
    assert covered.max() <= -(-size // stride)


@given(lattices(), st.integers(1, 299))
def test_a_cell_has_the_same_windows_in_any_block(lattice, cut):
    block, size, stride = lattice
    cell = min(block.start + cut, block.stop - 1)
    whole = window_starts(block, size, stride)
    alone = window_starts(Span(cell, cell + 1), size, stride)
    touching = whole[(whole <= cell) & (whole + size > cell)]
    np.testing.assert_array_equal(touching, alone)


@given(lattices())
def test_windows_begin_at_multiples_of_the_stride_and_all_touch_the_block(lattice):
    block, size, stride = lattice
    starts = window_starts(block, size, stride)
    assert (starts % stride == 0).all()
    assert ((starts < block.stop) & (starts + size > block.start)).all()


@given(lattices())
def test_the_halo_holds_all_windows(lattice):
    block, size, stride = lattice
    starts = window_starts(block, size, stride)
    assert halo(block, size, stride) == Span(starts[0], starts[-1] + size)


@given(st.integers(1, 12), st.integers(0, 12), st.integers(0, 60))
def test_normalised_weights_of_overlapping_windows_sum_to_one(stride, more, cell):
    size = stride + more
    line = gaussian(size)[:, size // 2].astype(np.float64)
    starts = window_starts(Span(cell, cell + 1), size, stride)
    weights = np.array([line[cell - start] for start in starts])
    assert (weights > 0).all()
    assert abs((weights / weights.sum()).sum() - 1) < 1e-6


def test_the_gaussian_has_a_sigma_of_an_eighth_of_the_window():
    weights = gaussian(81)
    assert weights[40, 40] == 1
    assert weights[40, 40 + 81 // 8] == pytest.approx(np.exp(-0.5 * (10 / (81 / 8)) ** 2), rel=1e-5)
    np.testing.assert_allclose(weights, weights[::-1, ::-1])


@given(st.integers(-800, 800), st.integers(1, 900), st.integers(1, 400), st.integers(-50, 50))
def test_a_span_round_the_globe_wraps(start, length, period, first):
    pieces = locate(Span(start, start + length), first, period, period=period)
    cells = np.concatenate([np.arange(period)[s] for s in pieces.slices])
    np.testing.assert_array_equal(cells, (np.arange(start, start + length) - first) % period)
    assert (pieces.before, pieces.after) == (0, 0)


@given(st.integers(-100, 200), st.integers(1, 100), st.integers(-20, 20), st.integers(1, 60))
def test_what_lies_outside_a_regional_array_is_counted(start, length, first, size):
    pieces = locate(Span(start, start + length), first, size, period=None)
    positions = np.arange(start, start + length) - first
    inside = positions[(positions >= 0) & (positions < size)]
    found = np.concatenate([np.arange(size)[s] for s in pieces.slices]) if pieces.slices else np.array([], int)
    np.testing.assert_array_equal(found, inside)
    assert pieces.before + len(found) + pieces.after == length


def test_a_regional_array_across_the_date_line_is_found_from_either_side():
    # 100 cells round the globe; an array holds cells 95..104, that is 95..99 and 0..4
    there = locate(Span(0, 5), 95, 10, period=100)
    assert there.slices == (slice(5, 10),)
    assert locate(Span(96, 99), 95, 10, period=100).slices == (slice(1, 4),)
