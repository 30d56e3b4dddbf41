"""Pairs and patches, counted whole and in strips."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from xland.scores.counts import BLANK, majorities
from xland.scores.patch_counts import (
    AT_EDGES,
    ELSEWHERE,
    HORIZONTAL,
    VERTICAL,
    count_pairs,
    cut_strip,
    join_strips,
    label_patches,
)

CODES = st.sampled_from(np.array([1, 2, 4, BLANK], np.uint8))
MAPS = hnp.arrays(np.uint8, hnp.array_shapes(min_dims=2, max_dims=2, max_side=12), elements=CODES)


def in_strips(codes, cuts, factor=1, wrap=False):
    """Count a map in strips that begin at the cuts, every cell of row n with n + 1 m2."""
    starts = sorted({0, *(cut for cut in cuts if cut < len(codes))})
    strips = [
        cut_strip(codes[start:end], 1.0 + np.arange(len(codes))[start:end], factor=factor, offset=(start, 0), wrap=wrap)
        for start, end in zip(starts, [*starts[1:], len(codes)], strict=True)
    ]
    return join_strips(strips, factor=factor, wrap=wrap)


def as_set(patches):
    return sorted(zip(patches.classes.tolist(), patches.cells.tolist(), patches.area.tolist(), strict=True))


@settings(max_examples=60)
@given(MAPS, st.lists(st.integers(1, 11), max_size=4), st.integers(1, 4), st.booleans())
def test_strips_of_any_height_give_the_pairs_and_patches_of_the_whole_map(codes, cuts, factor, wrap):
    pairs, patches = in_strips(codes, cuts, factor, wrap)
    np.testing.assert_array_equal(pairs, count_pairs(codes, factor=factor, wrap=wrap))
    whole = in_strips(codes, [], factor, wrap)
    assert as_set(patches) == as_set(whole[1])


@settings(max_examples=60)
@given(MAPS, st.integers(0, 11))
def test_a_map_that_closes_the_circle_has_no_first_column(codes, columns):
    turned = np.roll(codes, columns, axis=1)
    (pairs, patches), (same_pairs, same) = (in_strips(each, [], wrap=True) for each in (codes, turned))
    np.testing.assert_array_equal(pairs, same_pairs)
    assert as_set(patches) == as_set(same)


@settings(max_examples=60)
@given(MAPS)
def test_every_cell_is_in_one_patch_of_its_class(codes):
    numbers, classes = label_patches(codes)
    assert ((numbers >= 0) == (codes != BLANK)).all()
    np.testing.assert_array_equal(classes[numbers[numbers >= 0]], codes[codes != BLANK])
    _, patches = in_strips(codes, [])
    assert patches.cells.sum() == (codes != BLANK).sum()
    assert patches.area.sum() == ((codes != BLANK) * (1 + np.arange(len(codes)))[:, None]).sum()


def test_cells_that_touch_at_a_corner_are_one_patch_also_between_strips():
    codes = np.full((4, 4), BLANK, np.uint8)
    codes[[0, 1, 2, 3], [0, 1, 2, 3]] = 4
    codes[0, 2:] = 2
    _, patches = in_strips(codes, [1, 2, 3])
    assert as_set(patches) == [(2, 2, 2.0), (4, 4, 10.0)]
    codes[3] = [4, BLANK, BLANK, BLANK]
    assert as_set(in_strips(codes, [2])[1]) == [(2, 2, 2.0), (4, 1, 4.0), (4, 3, 6.0)]
    # around the circle, the cell in the last column of the row above is its neighbour
    codes[2, 3] = 4
    assert as_set(in_strips(codes, [3], wrap=True)[1])[1:] == [(4, 5, 13.0)]


def test_pairs_are_told_by_direction_and_edges_of_coarse_cells():
    codes = np.array([[1, 1, 2, 2], [1, 4, 2, BLANK]], np.uint8)
    pairs = count_pairs(codes, factor=2)
    assert pairs[HORIZONTAL, AT_EDGES].sum() == 2
    assert (pairs[HORIZONTAL, AT_EDGES, 1, 2], pairs[HORIZONTAL, AT_EDGES, 4, 2]) == (1, 1)
    assert (pairs[HORIZONTAL, ELSEWHERE, 1, 1], pairs[HORIZONTAL, ELSEWHERE, 1, 4]) == (1, 1)
    assert pairs[VERTICAL, AT_EDGES].sum() == 0
    assert pairs[VERTICAL, ELSEWHERE].sum() == 3
    moved = count_pairs(codes, factor=2, offset=(1, 1))
    assert moved[VERTICAL, AT_EDGES].sum() == 3
    assert (moved[HORIZONTAL, AT_EDGES, 1, 1], moved[HORIZONTAL, AT_EDGES, 2, 2]) == (1, 1)
    assert count_pairs(codes, wrap=True)[HORIZONTAL, ELSEWHERE, 2, 1] == 1


@settings(max_examples=10)
@given(
    hnp.arrays(np.uint8, st.tuples(st.sampled_from([24, 48]), st.just(24)), elements=CODES),
    st.sets(st.sampled_from([1, 2, 3, 4, 6, 8, 24]), min_size=1),
)
def test_a_coarsened_map_is_that_of_the_most_frequent_classes_of_its_blocks(codes, scales):
    found = majorities(codes, tuple(scales))
    assert list(found) == sorted(scales)
    for scale, each in found.items():
        for row, column in np.ndindex(each.shape):
            block = codes[row * scale : (row + 1) * scale, column * scale : (column + 1) * scale]
            counts = np.bincount(block.ravel(), minlength=BLANK)[:BLANK]
            assert each[row, column] == (counts.argmax() if counts.any() else BLANK)


@pytest.mark.parametrize("wrap", [False, True])
def test_a_map_of_background_has_neither_pairs_nor_patches(wrap):
    pairs, patches = in_strips(np.full((5, 4), BLANK, np.uint8), [2], factor=2, wrap=wrap)
    assert not pairs.any()
    assert not len(patches.classes)
    assert (majorities(np.full((4, 4), BLANK, np.uint8), (1, 2))[2] == BLANK).all()
