from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import nn

from xland.batches.masking import MASKED
from xland.training.steps import draw_points, make_optimizer, one_cycle, set_rate, update_average


@given(hnp.arrays(np.uint8, (3, 5, 4), elements=st.sampled_from([0, 4, MASKED])), st.integers(1, 30))
def test_only_pixels_that_count_are_drawn(target, count):
    target[:, 2, 1] = 4  # patches without any are never taken
    points = draw_points(torch.from_numpy(target), count)
    assert points.shape == (3, count)
    assert (torch.from_numpy(target).flatten(1).gather(1, points) != MASKED).all()


def test_every_pixel_that_counts_is_drawn_as_often():
    target = torch.full((1, 10, 10), MASKED, dtype=torch.uint8)
    target.view(-1)[[3, 50, 97, 99]] = 2
    torch.manual_seed(0)
    drawn, times = draw_points(target, 40_000).unique(return_counts=True)
    assert drawn.tolist() == [3, 50, 97, 99]
    assert (times / 10_000).tolist() == pytest.approx([1, 1, 1, 1], abs=0.05)


def test_the_rate_rises_in_a_line_and_falls_as_half_a_cosine():
    assert one_cycle(0, 0.1) == 0.02, "the first step learns, too"
    assert one_cycle(0.05, 0.1) == pytest.approx(0.5)
    assert one_cycle(0.1, 0.1) == 1
    assert one_cycle(0.55, 0.1) == pytest.approx(0.5)
    assert one_cycle(1, 0.1) == pytest.approx(0)
    assert one_cycle(0, 0) == 1, "no warmup"


def test_only_matrices_decay_and_all_parameters_get_the_rate():
    optimizer = make_optimizer(nn.Linear(3, 2), 0.1, 0.5)
    assert [(group["weight_decay"], [p.ndim for p in group["params"]]) for group in optimizer.param_groups] == [
        (0.5, [2]),
        (0.0, [1]),
    ]
    set_rate(optimizer, 0.25)
    assert [group["lr"] for group in optimizer.param_groups] == [0.25, 0.25]


def test_the_average_moves_towards_the_network_and_counts_what_is_counted():
    average, network = nn.BatchNorm1d(2), nn.BatchNorm1d(2)
    network.weight.data += 1
    network.num_batches_tracked += 7
    update_average(average, network, 0.75)
    assert average.weight.tolist() == [1.25, 1.25]
    assert average.num_batches_tracked == 7
