from __future__ import annotations

from itertools import chain

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from xland.errors import ConfigurationError
from xland.training.data.sampling import SAMPLING_RULES, Order, RankSampler, rare_class_weights, sampling_rule

quick = settings(max_examples=15, deadline=None)


def joined(lists):
    return list(chain.from_iterable(lists))


def shares(order, batch, ranks, epoch=0):
    """The shares of every step, a list a step with one list a rank."""
    samplers = [RankSampler(order, batch, rank=rank, ranks=ranks) for rank in range(ranks)]
    for sampler in samplers:
        sampler.set_epoch(epoch)
    assert len({len(sampler) for sampler in samplers}) == 1
    return list(zip(*map(items, samplers), strict=True))


def items(sampler):
    """The samples of a rank, a list a step, without the epoch that each of them carries."""
    return [[sample.item for sample in share] for share in sampler]


def batches(order, batch, ranks, epoch=0):
    """The samples of every step over all ranks, whichever rank has them."""
    return [sorted(joined(step)) for step in shares(order, batch, ranks, epoch)]


@st.composite
def orders(draw):
    """All samples once, samples by weight, each with and without groups."""
    items = draw(st.integers(1, 200))
    order = {"items": items, "seed": draw(st.integers(0, 100))}
    if draw(st.booleans()):
        order["weights"] = np.random.default_rng(items).random(items) + 0.01
        order["draws"] = draw(st.none() | st.integers(1, 300))
    if draw(st.booleans()):
        order["groups"] = np.random.default_rng(items).integers(0, draw(st.integers(1, 30)), items)
        order["locality"] = draw(st.integers(1, 5))
    return Order(**order)


@st.composite
def divisions(draw):
    """An order, and a batch and a number of ranks that it can be divided among."""
    order = draw(orders())
    ranks = draw(st.integers(1, min(9, len(order))))
    return order, draw(st.integers(ranks, 80)), ranks


@quick
@given(divisions(), st.integers(0, 50))
def test_ranks_take_every_sample_of_an_epoch_once_in_even_shares_and_batches(division, epoch):
    order, batch, ranks = division
    steps = shares(order, batch, ranks, epoch)
    taken = sorted(joined(joined(steps)))
    assert taken == sorted(order.epoch(epoch).tolist())
    assert order.weights is not None or taken == list(range(order.items))
    sizes = [[len(share) for share in step] for step in steps]
    whole = [sum(step) for step in sizes]
    assert min(map(min, sizes)) >= 1
    assert all(max(step) - min(step) <= 1 for step in sizes)
    assert max(whole) - min(whole) <= 1
    if batch >= 2 * ranks:
        assert len(steps) == -(-len(order) // batch)
        assert max(whole) <= batch
    else:
        assert max(whole) <= batch + ranks - 1
        assert max(map(max, sizes)) <= 2


@quick
@given(orders(), st.integers(2, 80), st.data())
def test_any_number_of_ranks_up_to_half_a_batch_sees_the_same_batches(order, batch, data):
    ranks = data.draw(st.integers(1, min(len(order), batch // 2)))
    assert batches(order, batch, ranks) == batches(order, batch, 1)


@quick
@given(divisions(), st.integers(0, 20), st.data())
def test_an_epoch_goes_on_from_any_step_and_every_rank_knows_the_whole_batches(division, epoch, data):
    order, batch, ranks = division
    sampler = RankSampler(order, batch, rank=ranks - 1, ranks=ranks)
    sampler.set_epoch(epoch)
    whole = list(sampler)
    step = data.draw(st.integers(0, len(whole)))
    sampler.set_epoch(epoch, step)
    assert list(sampler) == whole[step:]
    assert len(sampler) == len(whole) - step
    assert {sample.epoch for share in whole for sample in share} == {epoch}
    again = Order(order.items, order.seed, order.weights, order.draws, order.groups, order.locality)
    for number, taken in enumerate(shares(again, batch, ranks, epoch)):
        assert sampler.batch(epoch, number) == joined(taken)
        assert sampler.batch_size(number) == len(joined(taken))


@pytest.mark.parametrize("groups", [None, np.arange(100) // 5])
@pytest.mark.parametrize("weights", [None, np.ones(100)])
def test_epochs_and_seeds_differ(groups, weights):
    epochs = [tuple(Order(100, seed, weights, groups=groups).epoch(epoch)) for seed in range(5) for epoch in range(5)]
    assert len(set(epochs)) == 25


@quick
@given(orders().filter(lambda order: order.groups is not None), st.integers(0, 5))
def test_only_so_many_groups_are_mixed_with_each_other(order, epoch):
    """All samples of the first groups come before those of the next, whichever are together."""
    taken = order.groups[order.epoch(epoch)]
    left = len(set(taken.tolist()))
    while left:
        mixed = min(order.locality, left)
        together = np.isin(taken, [*dict.fromkeys(taken.tolist())][:mixed])
        end = int(together.sum())
        assert together[:end].all()
        taken, left = taken[end:], left - mixed


WEIGHTS = hnp.arrays(np.float64, st.integers(1, 60), elements=st.just(0.0) | st.floats(1e-3, 1e3)).filter(np.any)


@quick
@given(WEIGHTS, st.integers(1, 500), st.integers(0, 20))
def test_samples_are_drawn_in_proportion_to_their_weights(weights, draws, epoch):
    counts = np.bincount(Order(len(weights), weights=weights, draws=draws).epoch(epoch), minlength=len(weights))
    expected = draws * weights / weights.sum()
    assert counts.sum() == draws
    assert not counts[weights == 0].any()
    assert (np.abs(counts - expected) < 1 + 1e-6).all()


COUNTS = hnp.arrays(np.int64, st.tuples(st.integers(1, 30), st.integers(1, 8)), elements=st.integers(0, 1000)).filter(
    np.any
)


@quick
@given(COUNTS)
def test_without_strength_all_pixels_weigh_the_same_and_with_full_strength_all_classes(counts):
    np.testing.assert_allclose(rare_class_weights(counts, 0), counts.sum(axis=1) / counts.sum())
    held = counts[:, counts.any(axis=0)]
    np.testing.assert_allclose(rare_class_weights(held, 1), (held / held.sum(axis=0)).mean(axis=1))


@quick
@given(st.integers(1, 50), st.integers(51, 5000), st.floats(0, 1))
def test_samples_of_a_rare_class_are_drawn_more_often_in_proportion(rare, common, strength):
    weights = rare_class_weights(np.array([[rare, 0], [0, common]]), strength)
    assert weights[0] / weights[1] == pytest.approx((rare / common) ** (1 - strength))


def sampler(items, batch, rank=0, ranks=1, *, start=(0, 0)):
    RankSampler(Order(items), batch, rank=rank, ranks=ranks).set_epoch(*start)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Order(0), "0 samples and seed 0: at least 1 and 0 are needed"),
        (lambda: Order(3, seed=-1), "3 samples and seed -1"),
        (lambda: Order(3, weights=np.ones(2)), r"weights of shape \(2,\) for 3 samples; give one a sample"),
        (lambda: Order(3, groups=np.ones((3, 1), int)), r"groups of shape \(3, 1\) for 3 samples"),
        (lambda: Order(3, weights=np.array([1, -1, np.nan])), "2 of 3 weights are negative or not finite"),
        (lambda: Order(3, weights=np.zeros(3)), "all 3 weights are 0: there is no sample to draw"),
        (lambda: Order(3, draws=5), "draws per epoch is 5: give weights"),
        (lambda: Order(3, weights=np.ones(3), draws=0), "draws per epoch is 0: give weights, and at least 1"),
        (lambda: Order(3, groups=np.ones(3, int), locality=0), "locality is 0; at least 1 group is needed"),
        (lambda: sampler(3, 8, 0, 4), "an epoch of 3 samples is too short for 4 ranks; use fewer"),
        (lambda: sampler(30, 3, 0, 4), "a batch of 3 samples is too small for 4 ranks; give each at least 1"),
        (lambda: sampler(30, 8, 4, 4), "rank 4 is not one of 4 ranks, which count from 0"),
        (lambda: sampler(30, 8, 0, 0), "rank 0 is not one of 0 ranks"),
        (lambda: sampler(30, 8, start=(-1, 0)), "no step 0 in epoch -1; an epoch has 4 steps"),
        (lambda: sampler(30, 8, start=(0, 5)), "no step 5 in epoch 0; an epoch has 4 steps"),
        (lambda: rare_class_weights(np.ones((2, 2)), 1.5), "strength 1.5 of rare classes must be between 0 and 1"),
        (lambda: rare_class_weights(np.ones(4)), r"counts of shape \(4,\); give pixels by samples and classes"),
        (lambda: rare_class_weights(np.array([[1, -1]])), "1 of 2 counts are negative or not finite"),
        (lambda: rare_class_weights(np.zeros((2, 2))), "all 4 counts are 0: there is no sample to draw"),
        (lambda: sampling_rule("town_only"), r"unknown sampling rule 'town_only': did you mean 'towns_only'.* rare_cl"),
    ],
)
def test_what_cannot_be_is_named(monkeypatch, call, message):
    monkeypatch.setitem(SAMPLING_RULES, "towns_only", lambda counts, strength: counts[:, 1] * (1 + strength))
    assert sampling_rule("towns_only")(np.array([[3, 1], [2, 0]]), 1.0).tolist() == [2, 0]
    with pytest.raises(ConfigurationError, match=message):
        call()
