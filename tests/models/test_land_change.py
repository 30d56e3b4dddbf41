"""Where land changes next: what the model sees, what it learns, what it refuses."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from xland.errors import MissingDependencyError, ModelError, StaticError, VocabularyError
from xland.models.land_change import ENOUGH_CHANGES, fit_land_change, neighbourhood
from xland.vocabulary import FOREST, GRASS_SHRUB, OCEAN, URBAN, WATER

SHAPE = (60, 80)
CLASSES = (URBAN, FOREST, GRASS_SHRUB)


def towns(seed: int) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """Forest in which towns grow by a ring of pixels where the land is low; grass to the north, sea to the east."""
    random = np.random.default_rng(seed)
    elevation = np.linspace(0, 100, SHAPE[0])[:, None] + np.zeros(SHAPE)
    start = np.where(random.random(SHAPE) < 0.01, URBAN, FOREST).astype(np.uint8)
    start[:6] = GRASS_SHRUB
    start[:, -5:] = OCEAN
    grown = ndimage.binary_dilation(start == URBAN, iterations=1) & (start == FOREST) & (elevation < 70)
    return start, np.where(grown, URBAN, start).astype(np.uint8), {"elevation": elevation}


@pytest.fixture(scope="module")
def model():
    return fit_land_change(*towns(seed=0))


def test_towns_are_expected_to_grow_where_they_grew(model):
    start, end, static = towns(seed=1)
    urban = model.probability(start, static)[URBAN]
    forest, grown = start == FOREST, (start == FOREST) & (end == URBAN)
    assert grown.sum() > 50
    assert np.median(urban[grown]) > 0.8
    assert np.quantile(urban[forest & ~grown], 0.9) < 0.2


def test_probabilities_sum_to_one_and_every_class_of_the_training_is_possible_on_land(model):
    start, _, static = towns(seed=2)
    probability = model.probability(start, static)
    assert (probability.shape, probability.dtype) == ((8, *SHAPE), np.float32)
    np.testing.assert_allclose(probability.sum(axis=0), 1, atol=1e-5)
    assert (probability[OCEAN] == (start == OCEAN)).all()
    assert (probability[np.ix_(CLASSES)][:, start != OCEAN] > 0).all()
    assert probability[WATER].max() == 0


def test_a_class_that_hardly_changed_keeps_its_mean_rates():
    start, end, static = towns(seed=0)
    end[0, :20] = FOREST
    found = fit_land_change(start, end, static)
    grass = (start == GRASS_SHRUB).sum()
    assert ENOUGH_CHANGES > 20
    assert set(found.experts) == {FOREST}
    expected = 20 / (grass + 1)
    np.testing.assert_allclose(found.probability(start, static)[FOREST][start == GRASS_SHRUB], expected, rtol=1e-4)


def test_only_pixels_within_the_mask_are_learned_from():
    start, end, static = towns(seed=0)
    within = np.zeros(SHAPE, dtype=bool)
    within[:, :60] = True
    other = np.where(within, end, start)
    found = [fit_land_change(start, each, static, within=within).probability(start, static) for each in (end, other)]
    np.testing.assert_array_equal(*found)


def test_a_model_without_static_fields_sees_the_map_alone():
    start, end, _ = towns(seed=0)
    found = fit_land_change(start, end, {})
    assert found.fields == ()
    assert np.isfinite(found.probability(start, {})).all()


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([np.flipud, np.fliplr, np.transpose]))
def test_a_turned_map_has_the_same_neighbourhoods_turned(seed, turn):
    random = np.random.default_rng(seed)
    codes = random.choice([OCEAN, *CLASSES], (20, 24)).astype(np.uint8)
    height = random.random(codes.shape)
    features = np.moveaxis(neighbourhood(codes, {"height": height}, CLASSES), -1, 0)
    turned = np.moveaxis(neighbourhood(turn(codes), {"height": turn(height)}, CLASSES), -1, 0)
    for one, other in zip(features, turned, strict=True):
        np.testing.assert_allclose(turn(one), other, atol=2e-5)


def test_shares_around_a_pixel_leave_the_ocean_out():
    codes = np.full((9, 9), OCEAN, dtype=np.uint8)
    codes[4, 3:6] = FOREST, URBAN, FOREST
    urban = neighbourhood(codes, {}, (URBAN,))[4, 4]
    weight = np.exp(-0.5)
    assert urban[1] == pytest.approx(1 / (1 + 2 * weight), rel=1e-4)


def test_maps_without_change_are_refused():
    start, _, static = towns(seed=0)
    with pytest.raises(ModelError, match=r"nothing changes between the two maps in the 4500 pixels"):
        fit_land_change(start, start, static)


def test_maps_of_two_shapes_are_refused():
    start, end, static = towns(seed=0)
    with pytest.raises(ModelError, match=r"one shape, not \(60, 80\), \(59, 80\)"):
        fit_land_change(start, end[1:], static)


def test_unknown_codes_are_refused(model):
    start, _, static = towns(seed=0)
    with pytest.raises(VocabularyError, match="255"):
        model.probability(np.where(start == OCEAN, 255, start), static)


def test_a_class_that_the_model_has_not_seen_is_refused(model):
    start, _, static = towns(seed=0)
    start[7, 3:5] = WATER
    with pytest.raises(ModelError, match=r"the map holds water in 2 pixels; .* hold urban, forest, grass_shrub only"):
        model.probability(start, static)


def test_static_fields_that_do_not_fit_are_refused(model):
    start, end, static = towns(seed=0)
    with pytest.raises(StaticError, match="the model learned from elevation"):
        model.probability(start, {"slope": static["elevation"]})
    with pytest.raises(StaticError, match=r"elevation has the shape \(60, 79\), the map \(60, 80\)"):
        model.probability(start, {"elevation": static["elevation"][:, 1:]})
    gap = static["elevation"].copy()
    gap[8, 2:4] = np.nan
    with pytest.raises(StaticError, match="not finite in 2 land pixels, the first in row 8 and column 2"):
        fit_land_change(start, end, {"elevation": gap})


def test_gaps_of_static_fields_in_the_ocean_do_no_harm(model):
    start, _, static = towns(seed=0)
    gap = np.where(start == OCEAN, np.nan, static["elevation"])
    np.testing.assert_array_equal(model.probability(start, {"elevation": gap}), model.probability(start, static))


def test_without_scikit_learn_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.ensemble", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'xland\[trees\]'"):
        fit_land_change(*towns(seed=0))
