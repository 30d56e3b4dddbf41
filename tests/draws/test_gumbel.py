"""Random fields: their moments, and that nothing but seed and place decides."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xland.draws.gumbel import Place, draw_classes, normal_field, perturb
from xland.draws.octaves import Grain

AROUND = 360
GRAIN = Grain((1, 2, 8), ((0.6, 0.8, 0.0), (0.0, 0.6, 0.8), (1.0, 0.0, 0.0)))
ROWS, COLUMNS = range(40, 70), range(-30, 60)
WHOLE = Place(ROWS, COLUMNS, AROUND)


def some_probability(rows: range = ROWS, columns: range = COLUMNS) -> np.ndarray:
    """Three classes whose probabilities vary from place to place, with zeros and ones."""
    row, column = np.meshgrid(np.asarray(rows), np.asarray(columns) % AROUND, indexing="ij")
    shares = np.stack([np.maximum(np.sin(0.3 * row + n) + np.cos(0.2 * column * (n + 1)), 0) for n in range(3)])
    shares[2] += 0.01
    shares[:, row % 7 == 0] = np.array([0, 1, 0])[:, None]
    return (shares / shares.sum(axis=0)).astype(np.float32)


def some_land(rows: range = ROWS, columns: range = COLUMNS) -> np.ndarray:
    row, column = np.meshgrid(np.asarray(rows), np.asarray(columns) % AROUND, indexing="ij")
    return (row * 7 + column * 3) % 5 > 0


def drawn(seed: int = 0, draw: int = 0, place: Place = WHOLE) -> np.ndarray:
    sides = place.rows, place.columns
    return draw_classes(some_probability(*sides), some_land(*sides), place, GRAIN, seed, draw)


@pytest.mark.parametrize("spacing", [1, 2, 3, 8, 32])
def test_each_octave_is_standard_normal_at_every_place(spacing):
    """100 independent fields: means and variances of single places scatter as those of 100 numbers do."""
    land = np.ones((12, 40), bool)
    place = Place(range(80, 92), range(100, 140), AROUND)
    fields = np.stack([normal_field(land, place, (spacing,), (1.0,), (seed, 0, 0)) for seed in range(100)])
    assert abs(fields.mean()) < 0.1
    assert fields.std() == pytest.approx(1, abs=0.1)
    assert abs(fields.mean(axis=0)).max() < 0.5
    assert 0.6 < fields.std(axis=0).min() < fields.std(axis=0).max() < 1.5
    assert np.abs(fields).max() < 6.8


def test_near_places_are_alike_as_far_as_the_spacing_goes():
    land = np.ones((60, 300), bool)
    place = Place(range(60), range(300), AROUND)

    def alike(spacing: int, apart: int) -> float:
        field = normal_field(land, place, (spacing,), (1.0,), (3, 1, 2))
        return float(np.corrcoef(field[:, apart:].ravel(), field[:, :-apart].ravel())[0, 1])

    assert abs(alike(1, 1)) < 0.05
    assert 0.75 < alike(2, 1) < 0.9
    assert alike(8, 1) > 0.97
    assert abs(alike(2, 10)) < 0.1


@pytest.mark.parametrize("spacing", [2, 7, 8, 32])
def test_fields_go_on_across_the_date_line(spacing):
    """Neighbours on either side of it differ as others do, also where the spacing does not divide the globe."""
    field = normal_field(
        np.ones((180, AROUND), bool), Place(range(180), range(AROUND), AROUND), (spacing,), (1.0,), (4,)
    )
    steps = np.abs(np.diff(field, axis=1, append=field[:, :1])).mean(axis=0)
    assert steps[-1] < 1.5 * steps[:-1].max()
    assert steps[-1] > 0


@settings(max_examples=60, deadline=None)
@given(
    top=st.integers(40, 68),
    left=st.integers(-30, 58),
    height=st.integers(1, 12),
    width=st.integers(1, 30),
    turn=st.integers(-1, 2),
    seed=st.integers(0, 2**32 - 1),
    draw=st.integers(0, 999),
)
def test_a_draw_at_a_pixel_depends_on_seed_and_place_alone(top, left, height, width, turn, seed, draw):
    """Any part of the block, on either side of the date line and however often round the globe."""
    rows, columns = range(top, min(top + height, 70)), range(left, min(left + width, 60))
    part = Place(rows, range(columns.start + turn * AROUND, columns.stop + turn * AROUND), AROUND)
    within = np.s_[rows.start - 40 : rows.stop - 40, columns.start + 30 : columns.stop + 30]
    np.testing.assert_array_equal(drawn(seed, draw, part), drawn(seed, draw)[within])


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_what_is_sea_and_what_other_classes_there_are_changes_no_field(seed):
    land = some_land()
    every = normal_field(np.ones_like(land), WHOLE, (1, 2, 8), (0.6, 0.8, 0.0), (seed, 0, 1))
    some = normal_field(land, WHOLE, (1, 2, 8), (0.6, 0.8, 0.0), (seed, 0, 1))
    np.testing.assert_array_equal(some, np.where(land, every, 0))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.integers(0, 1000))
def test_other_seeds_and_other_draws_are_other_maps(seed, draw):
    found = [drawn(*each) for each in ((seed, draw), (seed + 1, draw), (seed, draw + 1), (draw + 1001, seed))]
    for other in found[1:]:
        assert 0.05 < (found[0] != other)[some_land()].mean() < 0.95


def test_each_class_is_drawn_as_often_as_its_probability_says():
    """Over 400 draws frequencies scatter around the probabilities as those of independent draws."""
    probability, land, draws = some_probability(), some_land(), 400
    counts = np.zeros(probability.shape)
    for draw in range(draws):
        counts += drawn(draw=draw) == np.arange(3)[:, None, None]
    expected = probability[:, land].astype(np.float64)
    off = (counts[:, land] / draws - expected) / np.sqrt(np.maximum(expected * (1 - expected), 1e-9) / draws)
    certain = (expected < 1e-9) | (expected > 1 - 1e-9)
    assert certain.any()
    assert (counts[:, land][certain] == draws * np.round(expected[certain])).all()
    assert off[~certain].std() == pytest.approx(1, abs=0.1)
    assert np.abs(off[~certain]).mean() < 0.95
    assert (counts[:, ~land].argmax(axis=0) == 0).all(), "sea is ocean"


def test_the_largest_perturbed_share_is_the_class_that_is_drawn():
    shares = perturb(some_probability(), some_land(), WHOLE, GRAIN, 5, 2)
    np.testing.assert_allclose(shares.sum(axis=0), 1, atol=1e-6)
    assert ((shares > 0) == (some_probability() > 0)).all(), "what is possible stays possible"
    np.testing.assert_array_equal(shares.argmax(axis=0)[some_land()], drawn(5, 2)[some_land()])


def test_a_field_is_the_weighted_sum_of_its_octaves():
    land, key = some_land(), (1, 2, 3)
    fine, coarse = (normal_field(land, WHOLE, (spacing,), (1.0,), key) for spacing in (1, 8))
    np.testing.assert_allclose(normal_field(land, WHOLE, (1, 8), (0.6, 0.8), key), 0.6 * fine + 0.8 * coarse, atol=1e-6)
