from __future__ import annotations

import dask.array as da
import numpy as np
import pytest

from tests.raising_backend import raising_dataset
from tests.scores.maps import a_map
from xland.errors import StoreError
from xland.reading.variables import as_map
from xland.report.judgement import mean, thin
from xland.scores.counts import BLANK, mode
from xland.scores.frames import edges, place


def test_a_map_is_placed_by_its_coordinates_and_filled_beyond():
    small = np.arange(6, dtype=np.int8).reshape(2, 3)  # too narrow for the filling
    placed = place(a_map(small, north=58, west=2), a_map(np.zeros((5, 6), np.uint8)), BLANK).compute()
    expected = np.full((5, 6), BLANK)
    expected[2:4, 2:5] = small
    np.testing.assert_array_equal(placed, expected)


def test_a_map_of_the_globe_is_placed_on_both_sides_of_the_date_line():
    world = np.tile(np.arange(36, dtype=np.uint8), (18, 1))
    frame = a_map(np.zeros((2, 4), np.uint8), 10, 10, 160)
    np.testing.assert_array_equal(place(a_map(world, 10, 90, -180), frame, BLANK)[0], [34, 35, 0, 1])
    back = place(a_map(np.ones((2, 4), np.uint8), 10, 10, 160), a_map(world, 10, 90, -180), BLANK).compute()
    assert np.flatnonzero(back[8] == 1).tolist() == [0, 1, 34, 35]


def test_nothing_is_read_when_a_map_is_placed_and_thinned():
    stored = a_map(np.zeros((20, 20), np.uint8)).data.to_dataset(name="land_use")
    lazy = as_map(raising_dataset(stored)["land_use"], what="map")
    thinned = thin(place(lazy, lazy, 0), 5, mode)
    assert thinned.shape == (4, 4)
    with pytest.raises(StoreError, match="were read"):
        thinned.compute()


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
