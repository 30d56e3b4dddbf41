from __future__ import annotations

import dask.array as da
import numpy as np
import pytest

from xland.report.judgement import mean, thin
from xland.scores.counts import BLANK, mode
from xland.scores.frames import edges


def test_the_most_frequent_code_stands_for_a_block_and_the_lowest_of_equals():
    codes = np.array([[3, 3, 1, 2], [3, 0, 2, 1], [BLANK, BLANK, BLANK, BLANK], [BLANK, 6, BLANK, BLANK]], np.uint8)
    np.testing.assert_array_equal(mode(codes, 2), [[3, 1], [6, BLANK]])
    np.testing.assert_array_equal(mode(codes, 1), codes)
    np.testing.assert_array_equal(mode(codes, 3), [[3, 1], [6, BLANK]])  # blocks at the edge are smaller


def test_means_leave_out_what_has_no_value():
    values = np.array([[0.0, 1.0, np.nan], [np.nan, 0.5, np.nan]], np.float32)
    np.testing.assert_allclose(mean(values, 2), [[0.5, np.nan]])
    np.testing.assert_array_equal(mean(values, 1), values)


@pytest.mark.parametrize("chunks", [7, (11, 40), 40])
@pytest.mark.parametrize("step", [1, 3, 7])
def test_no_chunking_changes_a_thinned_map(chunks, step, monkeypatch):
    monkeypatch.setattr("xland.scores.frames._SMALLEST", 4)
    monkeypatch.setattr("xland.scores.frames._LARGEST", 16)
    codes = np.random.default_rng(0).integers(0, 8, (37, 40)).astype(np.uint8)
    lazy = thin(da.from_array(codes, chunks=chunks), step, mode)
    np.testing.assert_array_equal(lazy.compute(), mode(codes, step))
    assert lazy.shape == mode(codes, step).shape
    assert all(size % step == 0 for size in edges((11,) * 4, step)[:-1])
