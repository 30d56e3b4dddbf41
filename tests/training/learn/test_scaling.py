from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from xland.models.calibration import calibration_error
from xland.training.learn.calibrating import fit_scaling

CLASSES = 4


def drawn(scale, bias, seed=0, pixels=8000):
    """Scores, and classes drawn with the probabilities of the scaled ones, in ten places."""
    random = np.random.default_rng(seed)
    scores = random.normal(0, 2, size=(pixels, CLASSES)).astype(np.float32)
    probability = torch.from_numpy(scores * np.asarray(scale) + np.asarray(bias)).softmax(dim=1).numpy()
    target = (probability.cumsum(axis=1) < random.random((pixels, 1))).sum(axis=1).clip(max=CLASSES - 1)
    return scores, target.astype(np.uint8), np.arange(pixels) // (pixels // 10), np.ones(pixels)


def error(scores, target, weight):
    probability = torch.from_numpy(scores).softmax(dim=1).numpy()
    return calibration_error(probability.max(axis=1), probability.argmax(axis=1) == target, weight)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_temperature_is_found_again(temperature):
    scaling = fit_scaling(*drawn(1 / temperature, 0))
    assert np.mean(scaling.calibration.scale) == pytest.approx(1 / temperature, rel=0.08)
    assert scaling.losses["temperature"] <= scaling.losses["none"] + 1e-4


def test_scales_and_biases_of_single_classes_are_found_again():
    scale, bias = np.array([0.4, 0.6, 0.9, 1.4]), np.array([0.8, -0.6, 0.2, -0.4])
    scaling = fit_scaling(*drawn(scale, bias))
    assert scaling.method == "vector"
    assert scaling.losses["vector"] < scaling.losses["temperature"] < scaling.losses["none"]
    np.testing.assert_allclose(scaling.calibration.scale, scale, rtol=0.12)
    found = np.array(scaling.calibration.bias)
    np.testing.assert_allclose(found - found.mean(), bias - bias.mean(), atol=0.15)


def test_scaling_that_helps_in_no_other_place_is_not_taken():
    """In each place the classes are shifted in a way of its own: biases learned elsewhere harm."""
    random = np.random.default_rng(3)
    scores, target, place, weight = drawn(0.5, 0)
    for number in range(10):
        part = slice(number * 800, number * 800 + 800)
        _, target[part], _, _ = drawn(0.5, random.normal(0, 2.5, CLASSES), seed=number, pixels=800)
        scores[part] = drawn(0.5, 0, seed=number, pixels=800)[0]
    scaling = fit_scaling(scores, target, place, weight)
    assert scaling.losses["vector"] > scaling.losses["temperature"]
    assert scaling.method == "temperature"
    assert len(set(scaling.calibration.scale)) == 1
    assert not any(scaling.calibration.bias)


@settings(max_examples=5, deadline=None)
@given(st.integers(0, 1000), st.floats(0.3, 3))
def test_the_calibration_error_is_small_after_scaling(seed, scale):
    scores, target, place, weight = drawn(scale, 0, seed)
    calibration = fit_scaling(scores, target, place, weight).calibration
    after = calibration.apply(torch.from_numpy(scores)).numpy()
    assert error(after, target, weight) < 0.03


def test_scaling_by_a_temperature_changes_no_class():
    scores, target, place, weight = drawn(0.3, 0)
    calibration = fit_scaling(scores, target, place, weight).calibration
    if len(set(calibration.scale)) == 1:
        np.testing.assert_array_equal(calibration.apply(torch.from_numpy(scores)).argmax(1), scores.argmax(1))


def test_a_class_without_pixels_keeps_finite_numbers():
    scores, target, place, weight = drawn([1, 1, 1, 1], [0, 0, 0, -40])
    assert not (target == 3).any()
    calibration = fit_scaling(scores, target, place, weight).calibration
    assert np.abs(calibration.bias).max() < 20
    assert 0.01 < min(calibration.scale) < max(calibration.scale) < 100


def test_pixels_count_by_their_area():
    """Half of the pixels come from sharper scores; with all the area they decide alone."""
    first, second = drawn(2.0, 0, seed=1), drawn(0.5, 0, seed=2)
    scores, target = np.concatenate([first[0], second[0]]), np.concatenate([first[1], second[1]])
    place = np.concatenate([first[2], second[2]])
    weight = np.repeat([1.0, 1e-6], len(first[1]))
    assert np.mean(fit_scaling(scores, target, place, weight).calibration.scale) == pytest.approx(2.0, rel=0.08)


def test_one_place_alone_proves_nothing():
    scores, target, place, weight = drawn(0.3, 0, pixels=100)
    scaling = fit_scaling(scores, target, np.zeros_like(place), weight)
    assert scaling.method == "none"
    assert scaling.calibration.is_none
