from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xland.models.inputs import MASKED, mask_prior
from xland.vocabulary import CLASSES


def codes(rows=120, columns=160, seed=0):
    return np.random.default_rng(seed).integers(0, 8, (rows, columns), dtype=np.uint8)


def test_the_mark_of_a_hidden_pixel_is_no_class():
    assert MASKED not in {c.code for c in CLASSES}


@settings(max_examples=30, deadline=None)
@given(st.sampled_from([0.0, 0.1, 0.6, 0.9, 1.0]), st.sampled_from([1, 2, 8]), st.integers(0, 100))
def test_the_share_that_is_hidden_is_the_one_asked_for(share, block, seed):
    hidden = mask_prior(codes(), share, np.random.default_rng(seed), block) == MASKED
    drawn = 120 * 160 / block**2
    assert hidden.mean() == pytest.approx(share, abs=5 * np.sqrt(share * (1 - share) / drawn) + 1e-12)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 9), st.integers(5, 30), st.integers(5, 30), st.integers(0, 100))
def test_blocks_are_hidden_whole(block, rows, columns, seed):
    hidden = mask_prior(codes(rows, columns), 0.5, np.random.default_rng(seed), block) == MASKED
    assert hidden.shape == (rows, columns)
    for row in range(0, rows, block):
        for column in range(0, columns, block):
            assert len(np.unique(hidden[row : row + block, column : column + block])) == 1


def test_what_is_not_hidden_stays_and_the_map_itself_is_not_touched():
    prior = codes()
    before = prior.copy()
    found = mask_prior(prior, 0.6, np.random.default_rng(0))
    np.testing.assert_array_equal(prior, before)
    assert found.dtype == np.uint8
    shown = found != MASKED
    np.testing.assert_array_equal(found[shown], prior[shown])


def test_masks_depend_on_the_generator_alone():
    def mask(seed):
        return mask_prior(codes(), 0.6, np.random.default_rng(seed))

    np.testing.assert_array_equal(mask(4), mask(4))
    assert not np.array_equal(mask(4), mask(5))
