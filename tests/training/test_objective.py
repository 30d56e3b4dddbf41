from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from xland.training.objective import Objective, fit_class_offsets


def batch(seed=0, classes=8):
    random = torch.Generator().manual_seed(seed)
    scores = torch.randn(2, classes, 5, 6, generator=random)
    target = torch.randint(0, classes, (2, 5, 6), generator=random, dtype=torch.uint8)
    return scores, target


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
def test_the_loss_is_the_cross_entropy_of_torch_and_of_arithmetic(seed):
    scores, target = batch(seed)
    weights = torch.ones(8)
    found = Objective().loss(scores, target, weights)
    torch.testing.assert_close(found, functional.cross_entropy(scores, target.long()))
    assert float(found) == pytest.approx(by_hand(scores, target, weights), rel=1e-5)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 1000))
def test_weights_multiply_and_pixels_that_do_not_count_are_left_out(seed):
    scores, target = batch(seed)
    weights = torch.linspace(0.2, 3, 8)
    target[0, :3] = 255
    expected = by_hand(scores, target, weights)
    assert float(Objective().loss(scores, target, weights)) == pytest.approx(expected, rel=1e-5)
    scores[0, :, :3] = 1e4
    assert float(Objective().loss(scores, target, weights)) == pytest.approx(expected, rel=1e-5)


def test_a_batch_without_any_pixel_that_counts_has_no_loss_and_no_gradient():
    scores, target = batch()
    scores.requires_grad_()
    loss = Objective().loss(scores, torch.full_like(target, 255), torch.ones(8))
    loss.backward()
    assert loss.item() == 0
    assert not scores.grad.any()


def test_the_loss_takes_points_as_well_as_maps():
    scores, target = batch()
    points = Objective().loss(scores.flatten(2), target.flatten(1), torch.ones(8))
    torch.testing.assert_close(points, Objective().loss(scores, target, torch.ones(8)))


def test_label_smoothing_is_that_of_torch():
    scores, target = batch()
    found = Objective(label_smoothing=0.1).loss(scores, target, torch.ones(8))
    torch.testing.assert_close(found, functional.cross_entropy(scores, target.long(), label_smoothing=0.1))


def test_half_precision_scores_are_summed_in_single():
    scores, target = batch()
    found = Objective().loss(scores.bfloat16(), target, torch.ones(8))
    assert found.dtype == torch.float32
    assert float(found) == pytest.approx(float(Objective().loss(scores, target, torch.ones(8))), rel=0.02)


COUNTS = st.lists(st.integers(0, 10**7), min_size=2, max_size=8).filter(any)


@settings(max_examples=50, deadline=None)
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
            loss = objective.loss(scores, target, objective.class_weights(counts))
            loss.backward()
            return loss

        optimizer.step(closure)
        return float(bias.detach()[1:].softmax(0)[0])

    found = [probability_of_the_rare(power) for power in (0.0, 0.5, 1.0)]
    assert found[0] == pytest.approx(0.03, abs=0.005)
    assert found[1] == pytest.approx(np.sqrt(0.03) / (np.sqrt(0.03) + np.sqrt(0.97)), abs=0.01)
    assert found[2] == pytest.approx(0.5, abs=0.01)


def merit(predicted, target, classes):
    iou = [
        ((predicted == c) & (target == c)).sum() / ((predicted == c) | (target == c)).sum()
        for c in classes
        if (target == c).any()
    ]
    return (predicted == target).mean() + np.mean(iou)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 1000))
def test_offsets_never_lower_the_merit_they_are_fitted_for(seed):
    random = np.random.default_rng(seed)
    target = random.choice([1, 2, 4], 600, p=[0.05, 0.6, 0.35]).astype(np.uint8)
    scores = random.normal(size=(600, 8)).astype(np.float32)
    scores[np.arange(600), target] += 1
    offsets = fit_class_offsets(scores, target, (1, 2, 3, 4))
    assert offsets.dtype == np.float32
    before = merit(scores.argmax(1), target, (1, 2, 3, 4))
    assert merit((scores + offsets).argmax(1), target, (1, 2, 3, 4)) >= before - 1e-9
    assert not offsets[[0, 3, 5, 6, 7]].any(), "only classes that are there have an offset"
    assert np.abs(offsets).max() <= 4


def test_offsets_bring_back_a_neglected_class():
    random = np.random.default_rng(0)
    target = np.where(random.random(4000) < 0.1, 1, 2).astype(np.uint8)
    scores = random.normal(0, 0.5, (4000, 3)).astype(np.float32)
    scores[:, 0] = -10
    scores[np.arange(4000), target] += 1.5
    scores[:, 1] -= 3
    offsets = fit_class_offsets(scores, target, (1, 2))
    before, after = scores.argmax(1), (scores + offsets).argmax(1)
    assert (before == 1).mean() < 0.02
    assert (after == 1).mean() > 0.05
    assert merit(after, target, (1, 2)) > merit(before, target, (1, 2)) + 0.2


def test_without_any_class_of_land_there_is_nothing_to_fit():
    scores = np.zeros((5, 8), np.float32)
    assert not fit_class_offsets(scores, np.zeros(5, np.uint8), (1, 2)).any()
    assert not fit_class_offsets(scores[:0], np.zeros(0, np.uint8), (1, 2)).any()
