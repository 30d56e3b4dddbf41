"""Networks of every kind read all inputs, put coarse cells where their pixels are, and can be registered."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from tests.worlds import tiny_inputs, tiny_network, tiny_world
from xland.downscaling.call import downscale
from xland.errors import CheckpointError, ModelError
from xland.models import find_model
from xland.models.checkpoint import save_checkpoint
from xland.models.inputs import published_inputs
from xland.models.networks import architecture as kinds
from xland.models.networks.architecture import Architecture, list_networks, register_network
from xland.models.networks.unet import DownscalingNetwork

each_kind = pytest.mark.parametrize("kind", ["unet", "context"])


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


@each_kind
def test_the_35_published_channels_give_a_score_a_class(kind):
    inputs = published_inputs()
    network = small(inputs, kind, depth=2)
    coarse, static, prior = sample(inputs, batch=1, size=100)
    assert coarse.shape[1] + static.shape[1] + 1 == next(p for p in network.parameters() if p.ndim == 4).shape[1] == 35
    with torch.no_grad():
        scores = network(coarse, static, prior)
    assert scores.shape == (1, 8, 100, 100)
    assert torch.isfinite(scores).all()


@each_kind
@pytest.mark.parametrize("prior", ["none", "code", "one_hot"])
@torch.no_grad()
def test_every_input_matters_and_a_missing_prior_is_a_hidden_one(kind, prior):
    inputs = tiny_inputs(prior, (0, -1))
    network = small(inputs, kind)
    coarse, static, codes = sample(inputs)
    plain = network(coarse, static, codes)
    assert plain.shape == (2, 8, 40, 40)
    assert network(*sample(inputs, size=80)).shape == (2, 8, 80, 80)
    hidden = network(coarse, static, torch.full_like(codes, 255))
    torch.testing.assert_close(network(coarse, static), hidden)
    assert torch.allclose(hidden, plain) == (prior == "none")
    for channels, other in ((coarse, (static, codes)), (static, (coarse, codes))):
        for channel in range(channels.shape[1]):
            changed = channels.clone()
            changed[:, channel] += 1
            found = network(changed, *other) if channels is coarse else network(other[0], changed, other[1])
            assert not torch.allclose(found, plain), f"channel {channel} of {tuple(channels.shape)}"


@each_kind
@torch.no_grad()
def test_coarse_cells_lie_where_their_pixels_are(kind):
    """A cell far from a changed one, beyond the reach of the network, keeps its scores."""
    inputs = replace(tiny_inputs(), window=120)
    network = small(inputs, kind, depth=1)
    coarse, static, _ = sample(inputs, batch=1)
    changed = coarse.clone()
    changed[:, :, 20, 5] += 3
    difference = (network(changed, static) - network(coarse, static)).abs().sum(dim=1)[0]
    row, column = divmod(int(difference.argmax()), 120)
    assert 80 - 4 <= row < 84 + 4
    assert 20 - 4 <= column < 24 + 4
    assert difference[:20].max() == 0
    assert difference[:, 80:].max() == 0


@each_kind
@torch.no_grad()
def test_scores_of_chosen_points_are_those_of_the_whole_map(kind):
    inputs = tiny_inputs("one_hot")
    network = small(inputs, kind, detail=True)
    tensors = sample(inputs)
    points = torch.randint(0, 1600, (2, 300), generator=torch.Generator().manual_seed(1))
    whole = network(*tensors).flatten(2)
    expected = torch.stack([whole[item][:, points[item]] for item in range(2)])
    torch.testing.assert_close(network(*tensors, points), expected, atol=1e-4, rtol=1e-4)


@each_kind
def test_gradients_reach_every_parameter_and_dropout_acts_in_training_only(kind):
    network = small(tiny_inputs("one_hot"), kind, detail=True, dropout=0.5)
    tensors = sample(tiny_inputs("one_hot"))
    torch.testing.assert_close(network(*tensors), network(*tensors))
    assert not torch.allclose(network.train()(*tensors), network(*tensors))
    network(*tensors).square().mean().backward()
    without = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    # a bias before a batch normalisation has no effect by construction
    assert not [name for name in without if not name.endswith("bias")]


@pytest.mark.parametrize(
    ("changes", "sizes", "message"),
    [
        ({}, {"depth": 4}, "windows of 40 cells cannot be halved 4 times: choose a multiple of 16"),
        ({}, {"kind": "context", "depth": 2}, "windows of 10 cells cannot be halved 2 times"),
        ({"static": ()}, {"kind": "context", "depth": 1}, "'context' .* neither a static channel nor a prior map"),
        ({}, {"width": 0}, "width must be .*, not 0"),
        ({}, {"depth": 0}, "depth must be .*, not 0"),
        ({}, {"members": 0}, "members must be a whole number of at least 1 and at most 64, not 0"),
        ({}, {"dropout": 1.0}, r"dropout must be .*, not 1\.0"),
        ({}, {"width": 4000, "depth": 10}, "channels on the last level; at most 32768 are allowed"),
        (
            {},
            {"kind": "contxet"},
            "unknown kind of network 'contxet': did you mean 'context'.* Known are context, transition, unet",
        ),
    ],
)
def test_networks_that_cannot_be_built_are_refused(changes, sizes, message):
    with pytest.raises(ModelError, match=message):
        DownscalingNetwork(replace(tiny_inputs(), **changes), Architecture(**{"width": 2, **sizes}))


class PixelByPixel(nn.Module):
    """A kind of network from outside the package: one convolution, and a record of its bins."""

    def __init__(self, inputs, architecture):
        super().__init__()
        self.head = nn.Conv2d(inputs.channels, len(inputs.classes), 1)
        self.register_buffer("seen", torch.zeros(1))

    def forward(self, x):
        return self.head(x)

    def fit_bins(self, coarse, fine):
        self.seen += len(coarse) + len(fine)


def test_a_kind_from_outside_is_built_saved_read_listed_and_downscales(tmp_path, monkeypatch):
    monkeypatch.setattr(kinds, "_kinds", dict(kinds._kinds))
    register_network("pixels", PixelByPixel)
    assert list_networks() == ("context", "pixels", "transition", "unet")
    network = tiny_network(kind="pixels", members=2)
    network.fit_bins(torch.zeros(7, 9), torch.zeros(3, 9))
    assert [body.seen.item() for body in network.bodies] == [10, 10]
    saved = save_checkpoint(tmp_path / "model", tiny_network(kind="pixels"), {"name": "mine"})
    assert saved.architecture.kind == "pixels"
    coarse, static, _ = tiny_world()
    region = (-20, 0, 20, 40)
    found = downscale(coarse, model=saved.folder, static=static, years=2000, region=region)
    assert found["land_use"].load().max() > 0
    monkeypatch.setattr(kinds, "_kinds", {name: each for name, each in kinds._kinds.items() if name != "pixels"})
    with pytest.raises(
        CheckpointError, match=r"unknown kind of network 'pixels'.* Known are context, transition, unet"
    ):
        find_model(saved.folder)
    monkeypatch.setattr(kinds, "entry_points", lambda group, name=None: [Entry()] if name == "pixels" else [])
    assert find_model(saved.folder).architecture.kind == "pixels", "an installed package registers its kinds"


class Entry:
    """An entry point of an installed package."""

    def load(self):
        register_network("pixels", f"{__name__}:PixelByPixel")
