from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from xland.errors import ConfigurationError
from xland.training.objective import Objective, lovasz_softmax


def batch(seed=0, classes=8):
    random = torch.Generator().manual_seed(seed)
    scores = torch.randn(2, classes, 5, 6, generator=random)
    target = torch.randint(0, classes, (2, 5, 6), generator=random, dtype=torch.uint8)
    return scores, target


def mean_loss(objective, scores, target, weights):
    return objective.total(scores, target, weights) / (target != 255).sum().clamp_min(1)


def by_hand(scores, target, weights):
    """Weighted cross-entropy, pixel by pixel, mean over those that count."""
    total, counted = 0.0, 0
    for item in range(len(scores)):
        for place in np.ndindex(*target.shape[1:]):
            code = int(target[item][place])
            if code != 255:
                logits = scores[(item, slice(None), *place)].double()
                total += float(weights[code]) * float(torch.logsumexp(logits, 0) - logits[code])
                counted += 1
    return total / max(counted, 1)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 1000))
def test_weights_multiply_and_pixels_that_do_not_count_are_left_out(seed):
    scores, target = batch(seed)
    weights = torch.linspace(0.2, 3, 8)
    target[0, :3] = 255
    expected = by_hand(scores, target, weights)
    found = mean_loss(Objective(), scores, target, torch.ones(8))
    torch.testing.assert_close(found, functional.cross_entropy(scores, target.long(), ignore_index=255))
    assert float(mean_loss(Objective(), scores, target, weights)) == pytest.approx(expected, rel=1e-5)
    scores[0, :, :3] = 1e4
    assert float(mean_loss(Objective(), scores, target, weights)) == pytest.approx(expected, rel=1e-5)


def test_the_loss_takes_points_as_well_as_maps():
    scores, target = batch()
    points = mean_loss(Objective(), scores.flatten(2), target.flatten(1), torch.ones(8))
    torch.testing.assert_close(points, mean_loss(Objective(), scores, target, torch.ones(8)))


def test_label_smoothing_is_that_of_torch():
    scores, target = batch()
    found = mean_loss(Objective(label_smoothing=0.1), scores, target, torch.ones(8))
    torch.testing.assert_close(found, functional.cross_entropy(scores, target.long(), label_smoothing=0.1))


def test_half_precision_scores_are_summed_in_single():
    scores, target = batch()
    found = mean_loss(Objective(), scores.bfloat16(), target, torch.ones(8))
    assert found.dtype == torch.float32
    assert float(found) == pytest.approx(float(mean_loss(Objective(), scores, target, torch.ones(8))), rel=0.02)


SEEDS = st.integers(0, 1000)
OBJECTIVES = [
    Objective(),
    Objective(focal_gamma=2.0),
    Objective(focal_gamma=0.5, class_weight_power=0.5, label_smoothing=0.1),
    Objective(lovasz=1.0),
    Objective(focal_gamma=1.0, lovasz=0.5),
]


@settings(max_examples=10, deadline=None)
@given(SEEDS, st.sampled_from([o for o in OBJECTIVES if not o.lovasz]))
def test_sums_of_parts_add_up_to_the_sum_of_all(seed, objective):
    scores, target = batch(seed)
    target[0, :4] = 255
    weights = torch.linspace(0.2, 3, 8)
    parts = [objective.total(scores[i : i + 1], target[i : i + 1], weights) for i in range(2)]
    torch.testing.assert_close(sum(parts), objective.total(scores, target, weights))


@settings(max_examples=10, deadline=None)
@given(SEEDS, st.sampled_from([0.5, 1.0, 2.0, 5.0]))
def test_the_focal_loss_is_that_of_arithmetic(seed, gamma):
    scores, target = batch(seed)
    target[0, 0] = 255
    weights = torch.linspace(0.2, 3, 8)
    shares = torch.softmax(scores.double(), dim=1).movedim(1, -1).reshape(-1, 8)
    expected = sum(
        float(weights[code]) * (1 - float(share[code])) ** gamma * -np.log(float(share[code]))
        for share, code in zip(shares, target.flatten().tolist(), strict=True)
        if code != 255
    )
    total = Objective(focal_gamma=gamma).total(scores, target, weights)
    assert float(total) == pytest.approx(expected, rel=1e-5)


def test_one_pixel_of_probability_one_half_counts_a_quarter_with_a_gamma_of_two():
    scores, target = torch.zeros(1, 2, 1), torch.ones(1, 1, dtype=torch.uint8)
    assert float(mean_loss(Objective(focal_gamma=2), scores, target, torch.ones(2))) == pytest.approx(np.log(2) / 4)


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


def test_lovasz_of_three_pixels_is_that_of_arithmetic():
    """Sorted by error, class 1 gains 1 - 1/2 with the outer pixel (0.7), then 1/2 with its own (0.4), then nothing."""
    scores = torch.tensor([[0.3, 0.4, 0.9], [0.7, 0.6, 0.1]]).log()[None]
    target = torch.tensor([[0, 1, 0]])
    first = 0.7 * 1 / 2 + 0.4 * (2 / 3 - 1 / 2) + 0.1 * (1 - 2 / 3)
    second = 0.7 * 1 / 2 + 0.4 * 1 / 2 + 0.1 * 0
    assert float(lovasz_softmax(scores, target)) == pytest.approx((first + second) / 2, abs=1e-6)


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


def test_lovasz_finds_the_best_iou_where_cross_entropy_neglects_the_rare_class():
    """Of 100 pixels of which 30 are urban, all alike: predicting only the others has a mean IoU of 0.35."""
    target = torch.cat([torch.ones(30), torch.full((70,), 2)]).to(torch.uint8)[None]
    bias = torch.zeros(3, requires_grad=True)
    for _ in range(200):
        loss = lovasz_softmax(bias[None, :, None].expand(1, 3, 100), target)
        (slope,) = torch.autograd.grad(loss, bias)
        bias.data -= slope
    assert float(bias.detach().softmax(0)[0]) < 0.05, "a class that is not in the batch gets nothing"
    assert loss < lovasz_softmax(torch.zeros(1, 3, 100), target)


@pytest.mark.parametrize("objective", OBJECTIVES)
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


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_without_any_pixel_that_counts_the_sum_is_zero_and_so_is_the_gradient(objective):
    scores, target = batch()
    scores.requires_grad_()
    total = objective.total(scores, torch.full_like(target, 255), torch.ones(8))
    total.backward()
    assert total.item() == 0
    assert not scores.grad.any()


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"focal_gamma": -1.0}, "focal_gamma must be a finite number of at least 0, not -1.0"),
        ({"focal_gamma": float("nan")}, "focal_gamma must be a finite number of at least 0, not nan"),
        ({"lovasz": float("inf")}, "lovasz must be a finite number of at least 0, not inf"),
        ({"class_weight_power": -0.5}, "class_weight_power must be a finite number of at least 0, not -0.5"),
        ({"label_smoothing": 1.0}, "label_smoothing must be a finite number of at least 0 and below 1, not 1.0"),
    ],
)
def test_values_that_cannot_be_are_refused_by_name(entries, message):
    with pytest.raises(ConfigurationError, match=message):
        Objective(**entries)


COUNTS = st.lists(st.integers(0, 10**7), min_size=2, max_size=8).filter(any)


@settings(max_examples=25, deadline=None)
@given(COUNTS, st.sampled_from([0.0, 0.25, 0.5, 1.0]))
def test_class_weights_are_one_on_average_and_higher_for_rarer_classes(counts, power):
    counts = np.array(counts)
    weights = Objective(class_weight_power=power).class_weights(counts).double().numpy()
    assert (weights * counts).sum() / counts.sum() == pytest.approx(1, rel=1e-4)
    assert (weights[counts == 0] == 0).all()
    order = np.argsort(counts, kind="stable")
    present = order[counts[order] > 0]
    assert (np.diff(weights[present]) <= 1e-4 * weights.max()).all()
    if power == 0:
        np.testing.assert_allclose(weights[counts > 0], 1, rtol=1e-6)
    if power == 1:
        shares = (weights * counts)[present]
        np.testing.assert_allclose(shares, shares[0], rtol=1e-4)


def test_class_weights_raise_the_rare_class_to_where_it_is_predicted():
    """Of 1000 pixels that look the same, 30 are urban: only weights let urban have the larger score."""
    counts = np.array([0, 30, 970])
    target = torch.cat([torch.full((30,), 1), torch.full((970,), 2)]).to(torch.uint8)[None]

    def probability_of_the_rare(power):
        objective = Objective(class_weight_power=power)
        bias = torch.zeros(3, requires_grad=True)
        optimizer = torch.optim.LBFGS([bias], max_iter=50)

        def closure():
            optimizer.zero_grad()
            scores = bias[None, :, None].expand(1, 3, 1000)
            loss = mean_loss(objective, scores, target, objective.class_weights(counts))
            loss.backward()
            return loss

        optimizer.step(closure)
        return float(bias.detach()[1:].softmax(0)[0])

    found = [probability_of_the_rare(power) for power in (0.0, 0.5, 1.0)]
    assert found[0] == pytest.approx(0.03, abs=0.005)
    assert found[1] == pytest.approx(np.sqrt(0.03) / (np.sqrt(0.03) + np.sqrt(0.97)), abs=0.01)
    assert found[2] == pytest.approx(0.5, abs=0.01)
