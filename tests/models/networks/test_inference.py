"""The compiled network gives the scores of the plain one, for every form of the head and any knots."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.models.networks.test_unet import sample
from tests.worlds import tiny_inputs
from xland.models.networks.architecture import Architecture
from xland.models.networks.context import PiecewiseLinear
from xland.models.networks.inference import _FirstLayer
from xland.models.networks.unet import DownscalingNetwork


def trained(prior="none", **sizes):
    """A network whose normalisations and knots are as a training leaves them: different in each channel."""
    torch.manual_seed(0)
    inputs = tiny_inputs(prior)
    network = DownscalingNetwork(inputs, Architecture(kind="context", width=4, depth=1, head=6, bins=5, **sizes))
    coarse, static, codes = sample(inputs, batch=4)
    network.fit_bins(*(fields.float().transpose(0, 1).flatten(1) for fields in (coarse, static)))
    network.train()
    for _ in range(3):
        network(coarse, static, codes)
    return network.eval()


@pytest.mark.parametrize("members", [1, 2])
@pytest.mark.parametrize("detail", [False, True])
@pytest.mark.parametrize("expansion", ["nearest", "bilinear"])
@torch.no_grad()
def test_scores_are_those_of_the_plain_network(expansion, detail, members):
    network = trained("one_hot", expansion=expansion, detail=detail, members=members)
    compiled = network.compiled()
    tensors = sample(network.inputs, seed=1)
    torch.testing.assert_close(compiled(*tensors), network(*tensors), atol=1e-5, rtol=1e-5)
    points = torch.randint(0, 1600, (2, 300), generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(compiled(*tensors, points), network(*tensors, points), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("detail", [False, True])
@torch.no_grad()
def test_a_tile_is_decided_from_a_blend_of_what_windows_know(detail):
    body = trained(detail=detail, expansion="bilinear" if detail else "nearest").compiled().body
    random = torch.Generator().manual_seed(0)
    first, second = torch.randn(2, 1, 7, 10, 10, generator=random)
    fine = torch.randn(1, 3, 40, 40, generator=random)
    one, two = (body.around(coarse, body.low(fine))[0] for coarse in (first, second))
    points = torch.arange(0, 25 * 30, 7)
    tile, ones = fine[:, :, 10:35, 4:34], np.ones((40, 40), np.float32)
    alone = body.scores(tile, points, [(one, 10, 4)], ones)
    whole = body(first, fine)[0, :, 10:35, 4:34]
    torch.testing.assert_close(alone, whole.flatten(1)[:, points], atol=1e-5, rtol=1e-5)
    mean = tuple((a + b) / 2 for a, b in zip(one, two, strict=True))
    torch.testing.assert_close(
        body.scores(tile, points, [(one, 10, 4), (two, 10, 4)], ones / 2),
        body.scores(tile, points, [(mean, 10, 4)], ones),
        atol=1e-5,
        rtol=1e-5,
    )
    beyond = body.scores(tile, points, [(one, 10, 4), (two, 40, 4)], ones)
    torch.testing.assert_close(
        beyond, alone, atol=0, rtol=0, msg="a window that ends before a pixel says nothing of it"
    )


def test_a_kind_without_a_faster_form_is_used_as_it_is():
    network = DownscalingNetwork(tiny_inputs(), Architecture(kind="unet", width=2, depth=1))
    assert network.compiled() is network


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.lists(st.integers(-6, 6), min_size=4, max_size=4), min_size=1, max_size=6),
    st.lists(st.floats(-8, 8, width=32), min_size=1, max_size=20),
)
def test_a_table_is_read_as_ramps_are_added_up_also_at_knots_and_in_bins_without_width(knots, values):
    bins = PiecewiseLinear(len(knots), 3)
    bins.knots.copy_(torch.tensor(knots).sort(dim=1).values / 2)
    weight = torch.randn(5, 3 * len(knots), generator=torch.Generator().manual_seed(0))
    fine = torch.tensor(values).expand(len(knots), -1).contiguous()
    found = np.empty((len(values), 5), np.float32)
    scale = torch.arange(1.0, 6)
    _FirstLayer(bins, weight, scale)(fine.numpy(), np.arange(len(values)), found)
    expected = (bins(fine[None])[0].T @ weight.T) * scale
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-4)
