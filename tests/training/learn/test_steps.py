from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import nn

from tests.worlds import tiny_configuration
from xland.models.inputs import MASKED
from xland.training.learn.group import Group
from xland.training.learn.steps import (
    Stepper,
    draw_points,
    one_cycle,
    seed_step,
    update_average,
)


class Pixelwise(nn.Module):
    """A network without batch statistics."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(3, 8, 1)

    def forward(self, coarse, static, prior=None, points=None, corner=None):
        scores = self.layer(static.to(self.layer.weight.dtype))
        return scores if points is None else scores.flatten(2).gather(2, points[:, None].expand(-1, 8, -1))


def stepped(samples, *, step=0, **schedule):
    """Parameters after one step of gradient descent, and what the step returned."""
    torch.manual_seed(0)
    network = Pixelwise()
    configuration = tiny_configuration(gradient_clip=100.0, **schedule)
    stepper = Stepper(network, torch.optim.SGD(network.parameters(), 0.1), configuration, torch.ones(8), Group())
    values = stepper.take(samples, whole=6, step=step)
    return network.layer.weight.detach().clone(), values


@pytest.fixture
def samples():
    random = np.random.default_rng(0)
    target = random.integers(0, 8, (6, 8, 8)).astype(np.uint8)
    target[random.random(target.shape) < 0.3] = MASKED
    static = random.normal(size=(6, 3, 8, 8)).astype(np.float16)
    return {
        "coarse": torch.zeros(6, 7, 2, 2),
        "static": torch.from_numpy(static),
        "target": torch.from_numpy(target),
    }


def test_a_step_in_parts_in_half_precision_or_another_layout_is_nearly_the_step_as_a_whole(samples):
    expected, whole = stepped(samples)
    for parts in (4, 50):
        found, own = stepped(samples, accumulate=parts)
        torch.testing.assert_close(found, expected)
        torch.testing.assert_close(own, whole)
    torch.manual_seed(0)
    scores = Pixelwise()(samples["coarse"], samples["static"])
    mean = nn.functional.cross_entropy(scores, samples["target"].long(), ignore_index=MASKED)
    assert whole[0].item() == pytest.approx(mean.item(), rel=1e-5), "over all pixels that count"
    torch.testing.assert_close(stepped(samples, channels_last=True)[0], expected)
    half = stepped(samples, precision="bfloat16")[0]
    assert not torch.equal(expected, half)
    torch.testing.assert_close(half, expected, rtol=0.05, atol=0.01)


def test_draws_depend_on_seed_step_and_rank_alone(samples):
    first, again, other = (stepped(samples, points=5, step=step)[0] for step in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)

    def drawn(*numbers):
        seed_step(*numbers)
        return tuple(torch.rand(4).tolist())

    assert drawn(0, 1, 2) == drawn(0, 1, 2)
    assert len({drawn(seed, step, rank) for seed in (0, 1) for step in (0, 1) for rank in (0, 1)}) == 8


@settings(max_examples=25)
@given(hnp.arrays(np.uint8, (3, 5, 4), elements=st.sampled_from([0, 4, MASKED])), st.integers(1, 30))
def test_only_pixels_that_count_are_drawn(target, count):
    target[:, 2, 1] = 4  # patches without any are never taken
    points = draw_points(torch.from_numpy(target), count)
    assert points.shape == (3, count)
    assert (torch.from_numpy(target).flatten(1).gather(1, points) != MASKED).all()


def test_the_rate_rises_in_a_line_and_falls_as_half_a_cosine():
    found = [one_cycle(done, 0.1) for done in (0, 0.05, 0.1, 0.55, 1)]
    assert found == pytest.approx([0.02, 0.5, 1, 0.5, 0]), "the first step learns, too"
    assert one_cycle(0, 0) == 1, "no warmup"


def test_the_average_moves_towards_the_network_and_counts_what_is_counted():
    average, network = nn.BatchNorm1d(2), nn.BatchNorm1d(2)
    network.weight.data += 1
    network.num_batches_tracked += 7
    update_average(average, network, 0.75)
    assert average.weight.tolist() == [1.25, 1.25]
    assert average.num_batches_tracked == 7
