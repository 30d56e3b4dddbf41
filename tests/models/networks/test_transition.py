from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.worlds import tiny_inputs, tiny_network
from xland.errors import ModelError
from xland.models.inputs import MASKED
from xland.models.networks.architecture import Architecture
from xland.models.networks.unet import DownscalingNetwork, encode_history

INPUTS = replace(tiny_inputs("one_hot", steps=(0, -1)), intervals=(1, 2, 4), history=3)


def fields(batch=2, size=40, seed=0):
    random = torch.Generator().manual_seed(seed)
    small = size // INPUTS.factor
    coarse = torch.randn(batch, INPUTS.coarse_channels, small, small, generator=random)
    static = torch.randn(batch, len(INPUTS.static), size, size, generator=random).half()
    maps = torch.randint(1, 8, (batch, 4, size, size), generator=random, dtype=torch.uint8)
    return coarse, static, maps


def test_what_a_pixel_was_raises_its_score_by_as_much_everywhere_and_for_a_hidden_map_by_nothing():
    network = tiny_network(INPUTS, kind="transition")
    coarse, static, maps = fields()
    (body,) = network.bodies
    with torch.no_grad():
        scores = network(coarse, static, maps)
        before = body.stay.clone()
        body.stay += 3
        raised = network(coarse, static, maps) - scores
        np.testing.assert_allclose(raised.gather(1, maps[:, :1].long()), 3, atol=1e-4)
        np.testing.assert_allclose(raised.sum(dim=1), 3, atol=1e-3)
        hidden = network(coarse, static, torch.full_like(maps, MASKED))
        body.stay.copy_(before)
        torch.testing.assert_close(network(coarse, static), hidden)


def test_the_interval_and_maps_beyond_the_prior_map_matter():
    network = tiny_network(INPUTS, kind="transition")
    coarse, static, maps = fields()
    longer = coarse.clone()
    longer[:, -1] += 0.5
    other = maps.clone()
    other[:, 2] = other[:, 2] % 7 + 1
    with torch.no_grad():
        scores = network(coarse, static, maps)
        for changed in (network(longer, static, maps), network(coarse, static, other)):
            assert not torch.allclose(changed, scores)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.sampled_from([*range(8), MASKED]), min_size=2, max_size=6))
def test_the_history_of_a_pixel_is_counted_as_one_would_by_hand(codes):
    found = encode_history(torch.tensor(codes, dtype=torch.uint8).reshape(1, -1, 1, 1), 8, torch.float32).flatten()
    prior, *beyond = codes
    known = [code for code in beyond if code != MASKED]
    for code in range(8):
        assert found[code] == pytest.approx(known.count(code) / max(len(known), 1))
    same = 0
    while same < len(beyond) and beyond[same] == prior != MASKED:
        same += 1
    assert found[8] == pytest.approx(same / len(beyond))
    assert found[9] == pytest.approx(len(known) / len(beyond))


def test_a_network_of_transition_needs_the_classes_of_the_prior_map():
    with pytest.raises(ModelError, match="prior='one_hot', not 'code'"):
        DownscalingNetwork(tiny_inputs("code"), Architecture(kind="transition", depth=2))
