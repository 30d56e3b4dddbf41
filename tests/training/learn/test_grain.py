"""The grain of drawn maps is that of the observed map that it is fitted to."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xland.draws.gumbel import Place, draw_classes
from xland.training.learn.grain import Tile, count_boundaries, fit_grain, make_tiles, self_affine

PLACES = [Place(range(100, 220), range(left, left + 120), 720) for left in range(-60, 660, 120)]
SPACINGS = (1, 2, 4, 8, 16)


def shares(classes: int = 5) -> np.ndarray:
    """Probabilities of land classes that vary slowly, none of the ocean."""
    row, column = np.meshgrid(np.arange(120), np.arange(120), indexing="ij")
    waves = [np.exp(np.sin(row / 23 + 2 * n) + np.cos(column / 31 + n * n)) for n in range(1, classes)]
    found = np.stack([np.zeros((120, 120)), *waves])
    return (found / found.sum(axis=0)).astype(np.float32)


def drawn(grain, seed: int) -> list[Tile]:
    """Maps that were drawn with a known grain, at several places."""
    land = np.ones((120, 120), bool)
    return [Tile(place, shares(), draw_classes(shares(), land, place, grain, seed, 0), land) for place in PLACES]


def boundaries(tiles: list[Tile]) -> np.ndarray:
    return np.sum([count_boundaries(tile.target, tile.valid, 5) for tile in tiles], axis=0)


@pytest.mark.parametrize("growth", [[1.6, 0.7, 0.7, 0.7, 0.7], [1.6, 2.5, 2.5, 2.5, 2.5], [1.6, 0.8, 2.5, 1.2, 2.5]])
def test_draws_have_as_many_boundaries_of_each_class_as_the_observed_map(growth):
    observed = drawn(self_affine(np.array(growth), SPACINGS), seed=99)
    grain, errors = fit_grain(observed, 2)
    assert grain.spacings == SPACINGS
    np.testing.assert_allclose(boundaries(drawn(grain, seed=5))[1:], boundaries(observed)[1:], rtol=0.15)
    assert abs(errors["all"]) < 0.1
    assert errors["by_class"][0] is None, "there is no ocean"
    assert max(map(abs, errors["by_class"][1:])) < 0.15


def test_what_has_too_few_boundaries_is_not_fitted():
    tile = drawn(self_affine(np.full(5, 1.6), SPACINGS), seed=99)[0]
    same = Tile(PLACES[0], tile.probability, np.full_like(tile.target, 2), tile.valid)
    assert fit_grain([same], 2) is None
    assert fit_grain([], 2) is None


@settings(max_examples=20, deadline=None)
@given(st.lists(st.floats(0.25, 8), min_size=1, max_size=8))
def test_a_self_affine_field_grows_by_its_factor_from_octave_to_octave(growth):
    grain = self_affine(np.array(growth), SPACINGS)
    for factor, weights in zip(growth, grain.weights, strict=True):
        variance = np.square(weights)
        assert variance.sum() == pytest.approx(1, abs=1e-3)
        np.testing.assert_allclose(variance[1:], factor * variance[:-1], rtol=0.02, atol=1e-4)


def test_boundaries_are_counted_between_valid_pixels_of_land():
    codes = np.array([[1, 1, 2], [1, 3, 2], [0, 3, 7]], np.uint8)
    every = np.ones(codes.shape, bool)
    # across: 1|2, 1|3, 3|2; down: 1|3. Those of ocean and inland water do not count
    assert count_boundaries(codes, every, 8).tolist() == [0, 3, 2, 3, 0, 0, 0, 0, 4]
    every[0, 2] = False
    assert count_boundaries(codes, every, 8)[-1] == 3


def test_pixels_come_back_to_their_places():
    random = np.random.default_rng(0)
    row, column = np.divmod(random.permutation(600), 30)
    target, probability = (row + column).astype(np.uint8) % 7, random.random((600, 7)).astype(np.float32)
    kept = target != 3
    tiles = make_tiles(probability[kept], target[kept], row[kept], column[kept], column[kept] // 10, 90)
    assert [(tile.place.columns.start, tile.place.columns.stop) for tile in tiles] == [(0, 10), (10, 20), (20, 30)]
    for tile in tiles:
        there = np.add.outer(np.asarray(tile.place.rows), np.asarray(tile.place.columns)) % 7
        np.testing.assert_array_equal(tile.valid, there != 3)
        np.testing.assert_array_equal(tile.target[tile.valid], there[tile.valid])
    one = int(np.flatnonzero(kept)[0])
    tile = tiles[column[one] // 10]
    np.testing.assert_array_equal(tile.probability[:, row[one], column[one] % 10], probability[one])
