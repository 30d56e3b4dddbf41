from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from xland.errors import CheckpointError
from xland.models.calibration import Calibration, bin_of, calibration_error

SCORES = torch.linspace(-3, 3, 2 * 4 * 5 * 6).reshape(2, 4, 5, 6)


def test_nothing_changes_where_nothing_was_fitted():
    none = Calibration.none(4)
    assert none.is_none
    assert none.apply(SCORES) is SCORES


@pytest.mark.parametrize("scores", [SCORES, SCORES.flatten(2)], ids=["maps", "points"])
def test_each_class_has_its_scale_and_bias(scores):
    scaled = Calibration((1.0, 2.0, 0.5, 1.0), (0.0, 0.0, 1.0, -1.0)).apply(scores)
    assert torch.equal(scaled[:, 0], scores[:, 0])
    assert torch.equal(scaled[:, 1], 2 * scores[:, 1])
    assert torch.allclose(scaled[:, 2], scores[:, 2] / 2 + 1)
    assert torch.equal(scaled[:, 3], scores[:, 3] - 1)


def test_it_survives_the_card():
    calibration = Calibration((0.5, 1.25), (0.1, -0.1))
    assert Calibration.from_dict(calibration.to_dict(), 2) == calibration


@pytest.mark.parametrize(
    "values",
    [
        {"scale": [1.0, 1.0]},
        {"scale": [1.0], "bias": [0.0]},
        {"scale": [1.0, "x"], "bias": [0.0, 0.0]},
        {"scale": [1.0, float("nan")], "bias": [0.0, 0.0]},
        [],
    ],
)
def test_damage_in_the_card_is_named(values):
    with pytest.raises(
        CheckpointError,
        match=r"the calibration in the model card( lacks bias|: scale must be| has 1 scales, not 2| must be a table)",
    ):
        Calibration.from_dict(values, 2)


def test_scales_that_would_turn_scores_round_are_refused():
    with pytest.raises(CheckpointError, match="each a finite number above 0"):
        Calibration((1.0, -1.0), (0.0, 0.0))


def test_the_calibration_error_of_ten_pixels_by_hand():
    """Four pixels of 0.9 of which two are right, six of 0.3 of which three are: 0.4 * 0.4 + 0.6 * 0.2."""
    confidence = np.array([0.9] * 4 + [0.3] * 6)
    correct = np.array([True, True, False, False] + [True, False] * 3)
    assert calibration_error(confidence, correct, bins=10) == pytest.approx(0.4 * 0.4 + 0.6 * 0.2)


def test_pixels_count_by_their_area():
    confidence, correct = np.array([0.9, 0.3]), np.array([True, False])
    assert calibration_error(confidence, correct, np.array([3.0, 1.0])) == pytest.approx((3 * 0.1 + 0.3) / 4)


def test_without_pixels_there_is_no_calibration_error():
    assert np.isnan(calibration_error(np.zeros(0), np.zeros(0, bool)))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000))
def test_probabilities_that_are_right_as_often_as_they_say_have_a_small_error(seed):
    random = np.random.default_rng(seed)
    confidence = random.random(20_000)
    assert calibration_error(confidence, random.random(20_000) < confidence) < 0.03


@pytest.mark.parametrize(("value", "place"), [(0.0, 0), (0.0999, 0), (0.1, 1), (0.95, 9), (1.0, 9)])
def test_bins_have_their_lower_edge_and_the_last_has_both(value, place):
    assert bin_of(np.array([value]), 10)[0] == place
