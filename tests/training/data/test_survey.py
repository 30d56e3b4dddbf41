from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from xland.training.data.material import Moments

PIECES = st.lists(
    hnp.arrays(np.float32, st.integers(0, 20), elements=st.floats(-1e4, 1e4, width=32) | st.just(float("nan"))),
    min_size=1,
    max_size=6,
)


@given(PIECES, st.integers(1, 3))
def test_pieces_have_the_mean_and_deviation_of_all_values_together(pieces, times):
    whole = np.concatenate(pieces * times).astype(np.float64)
    whole = whole[np.isfinite(whole)]
    moments = Moments()
    for piece in pieces:
        moments += Moments.of(piece) * times
    assert moments.count == whole.size
    mean, scale = moments.normalisation
    if not whole.size:
        assert (mean, scale) == (0, 1)
        return
    assert mean == pytest.approx(whole.mean(), rel=1e-9, abs=1e-9)
    if whole.std() > 1e-3:
        assert scale == pytest.approx(whole.std(), rel=1e-9)


def test_a_constant_is_not_scaled():
    assert Moments.of(np.full(5, 7.0)).normalisation == (7, 1)


def test_a_large_mean_does_not_hide_the_deviation():
    values = 1e8 + np.random.default_rng(0).normal(size=1000)
    moments = sum((Moments.of(part) for part in np.array_split(values, 7)), Moments())
    assert moments.normalisation == pytest.approx((values.mean(), values.std()), rel=1e-9)
