"""Calibration of scores: by class of the map, and of change by class of the prior map."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from xland.errors import CheckpointError
from xland.models.calibration import Calibration
from xland.models.inputs import MASKED

CLASSES = 4
numbers = st.floats(0.2, 5), st.floats(-3, 3)


def calibration(scale, bias):
    return Calibration((1.0,) * CLASSES, (0.0,) * CLASSES, tuple(scale), tuple(bias))


@settings(deadline=None, max_examples=30)
@given(
    seed=st.integers(0, 2**31),
    scale=st.lists(numbers[0], min_size=CLASSES, max_size=CLASSES),
    bias=st.lists(numbers[1], min_size=CLASSES, max_size=CLASSES),
)
def test_the_log_odds_of_change_are_scaled_and_what_land_becomes_stays(seed, scale, bias):
    random = np.random.default_rng(seed)
    scores = torch.from_numpy(random.normal(0, 2, (2, CLASSES, 3, 5)))
    prior = torch.from_numpy(random.choice([0, 1, 2, 3, MASKED], (2, 3, 5)).astype(np.uint8))
    before = scores.softmax(dim=1)
    after = calibration(scale, bias).apply_to_change(scores, prior).softmax(dim=1)
    masked = prior == MASKED
    assert torch.equal(after.movedim(1, -1)[masked], before.movedim(1, -1)[masked])
    for code in range(CLASSES):
        here = prior == code
        old, new = (each.movedim(1, -1)[here] for each in (before, after))
        odds = [torch.log((1 - each[:, code]) / each[:, code]) for each in (old, new)]
        torch.testing.assert_close(odds[1], scale[code] * odds[0] + bias[code], atol=1e-6, rtol=1e-6)
        others = [number for number in range(CLASSES) if number != code]
        shares = [each[:, others] / each[:, others].sum(dim=1, keepdim=True) for each in (old, new)]
        torch.testing.assert_close(shares[1], shares[0], atol=1e-9, rtol=1e-6)


def test_a_scaling_by_one_changes_nothing():
    scores = torch.randn(1, CLASSES, 2, 2, dtype=torch.float64)
    prior = torch.tensor([[[0, 1], [2, 3]]], dtype=torch.uint8)
    same = calibration([1] * CLASSES, [0] * CLASSES)
    torch.testing.assert_close(same.apply_to_change(scores, prior), scores)
    assert same.of_change
    assert not Calibration.none(CLASSES).of_change


@pytest.mark.parametrize(("scale", "bias"), [((1.0,), (0.0,)), ((1.0,) * CLASSES, ()), ((), (0.0,) * CLASSES)])
def test_a_calibration_of_change_needs_all_classes(scale, bias):
    with pytest.raises(CheckpointError, match=r"calibration of change .* needs 4 of both"):
        Calibration((1.0,) * CLASSES, (0.0,) * CLASSES, scale, bias)


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan")])
def test_scales_of_change_are_above_0(scale):
    with pytest.raises(CheckpointError):
        calibration([scale] * CLASSES, [0.0] * CLASSES)
