from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.worlds import tiny_inputs, tiny_network
from xland.errors import ModelError
from xland.models.inputs import published_inputs
from xland.models.networks.context import PiecewiseLinear
from xland.models.networks.unet import Architecture, DownscalingNetwork

KINDS = ("unet", "context")


def sample(inputs, batch=2, size=None, seed=0):
    """Random tensors as a network reads them: coarse, static and prior."""
    random = torch.Generator().manual_seed(seed)
    size = size or inputs.window
    small = size // inputs.factor
    coarse = torch.randn(batch, inputs.coarse_channels, small, small, generator=random)
    static = torch.randn(batch, len(inputs.static), size, size, generator=random).half()
    prior = torch.randint(0, len(inputs.classes), (batch, size, size), generator=random, dtype=torch.uint8)
    return coarse, static, prior


def small(inputs, kind="unet", **sizes):
    torch.manual_seed(0)
    depth = 1 if kind == "context" else 2
    return DownscalingNetwork(
        inputs, Architecture(kind=kind, **{"width": 4, "depth": depth, "head": 6, **sizes})
    ).eval()


@pytest.mark.parametrize("kind", KINDS)
def test_the_35_published_channels_build_and_give_a_score_a_class(kind):
    inputs = published_inputs()
    network = small(inputs, kind, depth=2)
    coarse, static, prior = sample(inputs, batch=1, size=100)
    assert coarse.shape[1] + static.shape[1] + 1 == 35
    with torch.no_grad():
        scores = network(coarse, static, prior)
    assert scores.shape == (1, 8, 100, 100)
    assert torch.isfinite(scores).all()


def test_the_first_layer_of_the_plain_network_reads_all_channels():
    network = small(published_inputs())
    first = next(p for p in network.parameters() if p.ndim == 4)
    assert first.shape[1] == 35


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("prior", ["none", "code", "one_hot"])
@pytest.mark.parametrize("steps", [(0,), (0, -1)])
def test_all_inputs_give_a_score_a_class_and_pixel(kind, prior, steps):
    inputs = tiny_inputs(prior, steps)
    network = small(inputs, kind, detail=True)
    with torch.no_grad():
        assert network(*sample(inputs)).shape == (2, 8, 40, 40)
        assert network(*sample(inputs, size=80)).shape == (2, 8, 80, 80)


@pytest.mark.parametrize("kind", KINDS)
def test_a_missing_prior_is_a_hidden_one(kind):
    inputs = tiny_inputs("one_hot")
    network = small(inputs, kind)
    coarse, static, prior = sample(inputs)
    hidden = torch.full_like(prior, 255)
    with torch.no_grad():
        torch.testing.assert_close(network(coarse, static), network(coarse, static, hidden))
        assert not torch.allclose(network(coarse, static, prior), network(coarse, static, hidden))


def test_networks_without_prior_ignore_one():
    inputs = tiny_inputs()
    network = small(inputs)
    coarse, static, prior = sample(inputs)
    with torch.no_grad():
        torch.testing.assert_close(network(coarse, static, prior), network(coarse, static))


@pytest.mark.parametrize("kind", KINDS)
def test_every_input_matters(kind):
    inputs = tiny_inputs("code", (0, -1))
    network = small(inputs, kind)
    coarse, static, prior = sample(inputs)
    with torch.no_grad():
        plain = network(coarse, static, prior)
        for channel in range(inputs.coarse_channels):
            changed = coarse.clone()
            changed[:, channel] += 1
            assert not torch.allclose(network(changed, static, prior), plain), f"coarse channel {channel}"
        for channel in range(len(inputs.static)):
            changed = static.clone()
            changed[:, channel] += 1
            assert not torch.allclose(network(coarse, changed, prior), plain), f"static channel {channel}"


@pytest.mark.parametrize("kind", KINDS)
def test_coarse_cells_lie_where_their_pixels_are(kind):
    """A cell far from a changed one, beyond the reach of the network, keeps its scores."""
    inputs = replace(tiny_inputs(), window=120)
    network = small(inputs, kind, depth=1)
    coarse, static, _ = sample(inputs, batch=1)
    changed = coarse.clone()
    changed[:, :, 20, 5] += 3
    with torch.no_grad():
        difference = (network(changed, static) - network(coarse, static)).abs().sum(dim=1)[0]
    row, column = divmod(int(difference.argmax()), 120)
    assert 80 - 4 <= row < 84 + 4
    assert 20 - 4 <= column < 24 + 4
    assert difference[:20].max() == 0
    assert difference[:, 80:].max() == 0


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=10, deadline=None)
@given(indices=st.lists(st.integers(0, 1599), min_size=1, max_size=8))
def test_scores_of_chosen_points_are_those_of_the_whole_map(kind, indices):
    inputs = tiny_inputs("one_hot")
    network = small(inputs, kind, detail=True)
    coarse, static, prior = sample(inputs)
    points = torch.tensor([indices, indices[::-1]])
    with torch.no_grad():
        whole = network(coarse, static, prior).flatten(2)
        chosen = network(coarse, static, prior, points)
    expected = torch.stack([whole[item][:, points[item]] for item in range(2)])
    torch.testing.assert_close(chosen, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_dropout_acts_in_training_only(kind):
    inputs = tiny_inputs()
    network = small(inputs, kind, dropout=0.5)
    coarse, static, _ = sample(inputs)
    with torch.no_grad():
        torch.testing.assert_close(network(coarse, static), network(coarse, static))
        network.train()
        assert not torch.allclose(network(coarse, static), network(coarse, static))


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_reach_every_parameter(kind):
    network = small(tiny_inputs("one_hot"), kind, detail=True).train()
    network(*sample(tiny_inputs("one_hot"))).square().mean().backward()
    without = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    # a bias before a batch normalisation has no effect by construction
    assert not [name for name in without if not name.endswith("bias")]


def test_windows_that_cannot_be_halved_are_named():
    with pytest.raises(ModelError, match="windows of 40 cells cannot be halved 4 times: choose a multiple of 16"):
        DownscalingNetwork(tiny_inputs(), Architecture(width=2, depth=4))
    with pytest.raises(ModelError, match="windows of 10 cells cannot be halved 2 times"):
        DownscalingNetwork(tiny_inputs(), Architecture(kind="context", width=2, depth=2))


@pytest.mark.parametrize(
    "sizes", [{"width": 0}, {"depth": 0}, {"dropout": 1.0}, {"dropout": -0.1}, {"kind": "transformer"}]
)
def test_impossible_architectures_are_refused(sizes):
    with pytest.raises(ModelError, match=str(next(iter(sizes.values())))):
        Architecture(**sizes)


def test_architectures_survive_the_model_card_and_unknown_entries_are_named():
    architecture = Architecture(width=7, depth=2, dropout=0.1)
    assert Architecture.from_dict(architecture.to_dict()) == architecture
    with pytest.raises(ModelError, match="unknown entries 'attention', 'heads'"):
        Architecture.from_dict({**architecture.to_dict(), "heads": 3, "attention": True})


def test_width_and_depth_change_the_size():
    def count(**sizes):
        return sum(p.numel() for p in small(tiny_inputs(), **sizes).parameters())

    assert count(width=4) < count(width=8) < count(width=8, depth=3)


def test_the_untrained_network_of_the_tests_is_the_same_every_time_and_maps_several_classes():
    inputs = tiny_inputs()
    first, second, other = tiny_network(inputs), tiny_network(inputs), tiny_network(inputs, seed=1)
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name
    coarse, static, _ = sample(inputs)
    with torch.no_grad():
        assert len(first(coarse, static).argmax(dim=1).unique()) >= 3
        assert not torch.equal(first(coarse, static), other(coarse, static))


@pytest.mark.parametrize("channels", [0, 3])
def test_knots_begin_evenly_for_any_number_of_channels(channels):
    assert torch.equal(PiecewiseLinear(channels, 12).knots, torch.linspace(-2, 2, 13).repeat(channels, 1))
