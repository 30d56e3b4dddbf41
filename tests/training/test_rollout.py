from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tests.worlds import tiny_inputs, tiny_network
from xland.training.rollout import sampling_share, unroll

CLASSES = 8


class Known(nn.Module):
    """A network that always finds one class and remembers the priors that it read."""

    def __init__(self, code=3):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))
        self.code, self.read = code, []

    def forward(self, coarse, static, prior, points=None, corner=None):
        self.read.append(prior)
        scores = torch.zeros(len(prior), CLASSES, *prior.shape[1:])
        scores[:, self.code] = 1
        scores = scores * self.weight
        return scores if points is None else scores.flatten(2).gather(2, points[:, None].expand(-1, CLASSES, -1))


def samples(batch=4, years=3, size=40, seed=0):
    random, inputs = torch.Generator().manual_seed(seed), tiny_inputs("one_hot")
    small = size // inputs.factor
    prior = torch.randint(0, CLASSES, (batch, years, size, size), generator=random, dtype=torch.uint8)
    hidden = torch.rand(prior.shape, generator=random) < 0.6
    return {
        "coarse": torch.randn(batch, years, inputs.coarse_channels, small, small, generator=random),
        "static": torch.randn(batch, len(inputs.static), size, size, generator=random).half(),
        "prior": torch.where(hidden, 255, prior).to(torch.uint8),
    }


def test_each_year_reads_the_true_map_or_what_the_network_made_the_year_before():
    network, batch = tiny_network(tiny_inputs("one_hot")), samples()
    batch["prior"] = torch.randint(1, CLASSES, batch["prior"].shape, dtype=torch.uint8)
    with torch.no_grad():
        for own_share in (0.0, 1.0):
            scores, prior = unroll(network, batch, own_share), batch["prior"][:, 0]
            for year in range(3):
                expected = network(batch["coarse"][:, year], batch["static"], prior)
                torch.testing.assert_close(scores[:, year], expected)
                following = batch["prior"][:, min(year + 1, 2)]
                prior = expected.argmax(dim=1).to(torch.uint8) if own_share else following


@settings(max_examples=4, deadline=None)
@given(st.integers(0, 1000))
def test_own_maps_show_classes_only_where_the_network_knew_the_land_before(seed):
    network, batch = Known(code=3), samples(seed=seed)
    unroll(network, batch, 1.0)
    assert torch.equal(network.read[0], batch["prior"][:, 0]), "the first year reads the true map"
    hidden = batch["prior"][:, 0] == 255
    sea = (batch["prior"] == 0).any(dim=1)
    for read in network.read[1:]:
        assert (read[hidden] == 255).all(), "what is hidden stays hidden"
        assert (read[~hidden & sea] == 0).all(), "and sea is sea"
        assert (read[~hidden & ~sea] == 3).all()


def test_a_sample_reads_its_own_map_as_a_whole_or_not_at_all_and_as_often_as_asked_for():
    network, batch = Known(code=3), samples(batch=64, years=5, size=8)
    unroll(network, batch, 0.25, generator=torch.Generator().manual_seed(0))
    read = torch.stack(network.read, dim=1)[:, 1:]
    own = torch.isin(read, torch.tensor([0, 3, 255])).flatten(2).all(dim=2)
    true = (read == batch["prior"][:, 1:]).flatten(2).all(dim=2)
    assert (own ^ true).all()
    assert own.float().mean().item() == pytest.approx(0.25, abs=0.06)
    assert own.sum(dim=1).float().var().item() > 0, "drawn for each sample"
    again = Known(code=3)
    unroll(again, batch, 0.25, generator=torch.Generator().manual_seed(0))
    assert torch.equal(torch.stack(again.read), torch.stack(network.read))


def test_every_year_teaches_the_network_but_no_gradient_passes_from_one_to_the_next():
    batch = samples(batch=1, years=2)
    batch["coarse"].requires_grad_()
    scores = unroll(tiny_network(tiny_inputs("one_hot")), batch, 1.0)
    for year in range(2):
        (gradient,) = torch.autograd.grad(scores[:, year].square().sum(), batch["coarse"], retain_graph=True)
        assert gradient[:, year].any()
        assert not gradient[:, 1 - year].any()


@pytest.mark.parametrize("own_share", [0.0, 1.0])
def test_scores_at_points_are_those_of_whole_maps(own_share):
    network, batch = tiny_network(tiny_inputs("one_hot"), kind="context", depth=1, head=6).eval(), samples()
    points = torch.randint(0, 1600, (4, 3, 7))
    with torch.no_grad():
        whole = unroll(network, batch, own_share).flatten(3)
        few = unroll(network, {**batch, "points": points}, own_share)
    assert few.shape == (4, 3, CLASSES, 7)
    torch.testing.assert_close(few, whole.gather(3, points[:, :, None].expand(-1, -1, CLASSES, -1)))


def test_patches_that_begin_within_a_coarse_cell_are_read_so_in_every_year():
    network, batch = tiny_network(tiny_inputs("one_hot")), samples()
    batch |= {name: batch[name][..., :36, :36] for name in ("static", "prior")}
    corner = torch.tensor([[1, 3]]).expand(4, -1)
    with torch.no_grad():
        scores = unroll(network, {**batch, "corner": corner}, 0.0)
        last = network(batch["coarse"][:, 2], batch["static"], batch["prior"][:, 2], corner=corner)
    torch.testing.assert_close(scores[:, 2], last)
    assert not torch.equal(last, unroll(network, batch, 0.0)[:, 2])


def test_the_number_of_calls_is_that_of_a_share_of_one_even_if_no_own_map_is_drawn():
    """Processes that share batch statistics would wait for each other for ever."""
    network, batch = Known(), samples()
    unroll(network, {**batch, "points": torch.zeros(4, 3, 2, dtype=torch.int64)}, 1e-9)
    assert len(network.read) == 5


def test_the_share_of_own_maps_rises_from_nothing_to_the_peak_in_a_line():
    found = [sampling_share(done, 0.8) for done in (0, 0.1, 0.35, 0.6, 1)]
    assert found == pytest.approx([0, 0, 0.4, 0.8, 0.8])
