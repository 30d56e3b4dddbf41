from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from xland.training.objective import Objective, lovasz_softmax


def batch(seed=0, classes=8):
    random = torch.Generator().manual_seed(seed)
    scores = torch.randn(2, classes, 5, 6, generator=random)
    target = torch.randint(0, classes, (2, 5, 6), generator=random, dtype=torch.uint8)
    return scores, target


SEEDS = st.integers(0, 1000)


@settings(max_examples=10, deadline=None)
@given(SEEDS, st.sampled_from([0.0, 0.5, 1.0, 2.0, 5.0]))
def test_the_loss_is_that_of_arithmetic_over_the_pixels_that_count(seed, gamma):
    """Weighted cross-entropy, focal where gamma is above 0; of maps, of points, and as the sum of its parts."""
    scores, target = batch(seed)
    target[0, :3] = 255
    weights, objective = torch.linspace(0.2, 3, 8), Objective(focal_gamma=gamma)
    shares = torch.softmax(scores.double(), dim=1).movedim(1, -1).reshape(-1, 8)
    expected = pytest.approx(
        sum(
            float(weights[code]) * (1 - float(share[code])) ** gamma * -np.log(float(share[code]))
            for share, code in zip(shares, target.flatten().tolist(), strict=True)
            if code != 255
        ),
        rel=1e-5,
    )
    assert float(objective.total(scores, target, weights)) == expected
    assert float(objective.total(scores.flatten(2), target.flatten(1), weights)) == expected
    assert sum(float(objective.total(scores[[i]], target[[i]], weights)) for i in range(2)) == expected
    scores[0, :, :3] = 1e4
    assert float(objective.total(scores, target, weights)) == expected


def test_label_smoothing_is_that_of_torch_and_half_precision_is_summed_in_single():
    (scores, target), objective = batch(), Objective(label_smoothing=0.1)
    expected = functional.cross_entropy(scores, target.long(), label_smoothing=0.1, reduction="sum")
    torch.testing.assert_close(objective.total(scores, target, torch.ones(8)), expected)
    half = objective.total(scores.bfloat16(), target, torch.ones(8))
    assert half.dtype == torch.float32
    assert float(half) == pytest.approx(float(expected), rel=0.02)


@settings(max_examples=15, deadline=None)
@given(SEEDS, st.integers(2, 8))
def test_lovasz_is_one_minus_iou_where_one_class_has_all_the_probability(seed, classes):
    _, target = batch(seed, classes)
    _, predicted = batch(seed + 1, classes)
    target[0, 1] = 255
    scores = 1e4 * functional.one_hot(predicted.long(), classes).movedim(-1, 1).float()
    counted = target != 255
    expected = [
        1 - ((predicted == c) & (target == c)).sum() / (((predicted == c) & counted) | (target == c)).sum()
        for c in range(classes)
        if (target == c).any()
    ]
    assert float(lovasz_softmax(scores, target)) == pytest.approx(float(np.mean(expected)), abs=1e-5)


@settings(max_examples=10, deadline=None)
@given(SEEDS)
def test_lovasz_has_the_gradient_of_its_differences(seed):
    scores, target = batch(seed, 3)
    scores = scores.double().requires_grad_()
    target[0, 0] = 255
    lovasz_softmax(scores, target).backward()
    place, step = (1, 2, 3, 4), 1e-3
    with torch.no_grad():
        around = [scores.clone() for _ in range(2)]
        around[0][place] += step
        around[1][place] -= step
        slope = (lovasz_softmax(around[0], target) - lovasz_softmax(around[1], target)) / (2 * step)
    assert float(scores.grad[place]) == pytest.approx(float(slope), abs=2e-3)
    assert not scores.grad[0, :, 0].any(), "pixels that do not count have no gradient"


@pytest.mark.parametrize(
    "objective", [Objective(), Objective(focal_gamma=0.5, label_smoothing=0.1), Objective(focal_gamma=2.0, lovasz=1.0)]
)
@pytest.mark.parametrize("size", [0.0, 1.0, 200.0])
def test_gradients_are_finite_however_sure_the_network_is(objective, size):
    scores, target = batch()
    scores = (scores * size).requires_grad_()
    target[0, 0] = 255
    total = objective.total(scores, target, torch.ones(8))
    total.backward()
    assert torch.isfinite(total)
    assert torch.isfinite(scores.grad).all()
    assert not scores.grad[0, :, 0].any()
    scores.grad = None
    nothing = objective.total(scores, torch.full_like(target, 255), torch.ones(8))
    nothing.backward()
    assert nothing.item() == 0
    assert not scores.grad.any()


COUNTS = st.lists(st.integers(0, 10**7), min_size=2, max_size=8).filter(any)


@settings(max_examples=25, deadline=None)
@given(COUNTS, st.sampled_from([0.0, 0.25, 0.5, 1.0]))
def test_class_weights_are_one_on_average_and_higher_for_rarer_classes(counts, power):
    counts = np.array(counts)
    weights = Objective(class_weight_power=power).class_weights(counts).double().numpy()
    assert (weights * counts).sum() / counts.sum() == pytest.approx(1, rel=1e-4)
    assert (weights[counts == 0] == 0).all()
    present = counts > 0
    shares = weights[present] * counts[present].astype(float) ** power
    np.testing.assert_allclose(shares, shares[0], rtol=1e-4)
