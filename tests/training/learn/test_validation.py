from __future__ import annotations

from copy import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.training.conftest import given, paired
from tests.worlds import FACTOR, tiny_configuration, tiny_inputs, tiny_network
from xland.geo.split import Part
from xland.scores.measures import Scores
from xland.training.data.batches import make_dataset, take_census
from xland.training.data.material import gather
from xland.training.learn.group import Group
from xland.training.learn.validation import collect_scores, count_pairs, score_pairs
from xland.training.rollout import Rollout
from xland.vocabulary import CLASS_NAMES, LAND_CLASSES

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def dataset():
    made = gather(tiny_configuration(), **given())
    return make_dataset(*made, Part.VALIDATION, take_census(made[1].source))


@pytest.fixture(scope="module")
def rollouts():
    """Samples of two years, with all of the prior."""
    configuration = replace(tiny_configuration(tiny_inputs("one_hot")), rollout=Rollout(years=2))
    configuration = replace(configuration, augmentation=replace(configuration.augmentation, prior_masked=0.0))
    made = gather(paired(configuration, (2000, 2001)), **given((1999, 2000, 2001)))
    return make_dataset(*made, Part.VALIDATION, take_census(made[1].source))


def test_pairs_are_those_of_the_scores(dataset):
    network = tiny_network()
    scores, target, *_ = collect_scores(network, dataset, 5, CPU)
    pairs = count_pairs(network, dataset, 5, Group())
    expected = np.bincount(target.astype(int) * 8 + scores.argmax(axis=1), minlength=64).reshape(8, 8)
    np.testing.assert_array_equal(pairs, expected)
    assert count_pairs(network, dataset, 3, Group(), workers=1).tolist() == pairs.tolist()


def test_scores_are_those_of_land():
    pairs = np.random.default_rng(0).integers(0, 9, (8, 8))
    pairs[3] = 0  # in no target
    land = pairs.copy()
    land[[code for code in range(8) if code not in LAND_CLASSES]] = 0
    expected, figures = Scores(land), score_pairs(pairs)
    assert figures["accuracy"] == pytest.approx(expected.accuracy)
    assert figures["miou"] == pytest.approx(expected.miou)
    assert {name for name in figures if name.startswith("iou")} == {
        f"iou_{CLASS_NAMES[c]}" for c in LAND_CLASSES if c != 3
    }
    assert figures["iou_cropland"] == pytest.approx(expected.iou[2])
    nothing = score_pairs(np.zeros((8, 8), dtype=np.int64))
    assert nothing["accuracy"] == 0
    assert np.isnan(nothing["miou"])


def test_every_pixel_knows_its_place_and_of_too_many_an_even_part_is_kept(dataset, rollouts):
    whole = collect_scores(tiny_network(), dataset, 4, CPU)
    fewer = collect_scores(tiny_network(), dataset, 4, CPU, most=len(dataset) * 1600 // 4)
    assert len(fewer[1]) == pytest.approx(len(whole[1]) / 4, rel=0.02)
    assert fewer[0].shape == (len(fewer[1]), whole[0].shape[1])
    several = collect_scores(tiny_network(rollouts.source.inputs), rollouts, 4, CPU)
    found = (whole, fewer, collect_scores(tiny_network(), dataset, 5, CPU, most=5000), several)
    for of, (_, target, row, column) in zip((dataset, dataset, dataset, rollouts), found, strict=True):
        assert (of.source.target[:, row, column] == target).any(axis=0).all()
        assert of.cells[row // FACTOR, column // FACTOR].all()


class _Shares(Group):
    """One of two ranks, without the other."""

    def sum(self, values):
        return values


def test_ranks_share_the_samples_out_and_are_asked_as_often_as_each_other(dataset):
    network, asked, shares = tiny_network(), [], []
    for rank in (0, 1):
        group = _Shares(rank, 2, CPU)
        shares.append(count_pairs(network, dataset, 3, group, check=lambda rank=rank: asked.append(rank)))
    assert all(share.any() for share in shares)
    np.testing.assert_array_equal(sum(shares), count_pairs(network, dataset, 3, Group()))
    assert asked.count(0) == asked.count(1) == -(-len(dataset) // 6)


def test_samples_of_several_years_are_free_rollouts(rollouts):
    """The second map is made from the network's own first one, not from the true prior."""
    network, prior = tiny_network(rollouts.source.inputs), rollouts.source.prior.copy()
    prior[1] = np.where(prior[1] == 0, 0, 4)
    changed = copy(rollouts)
    changed.source = replace(rollouts.source, prior=prior)
    np.testing.assert_array_equal(count_pairs(network, rollouts, 4, Group()), count_pairs(network, changed, 4, Group()))
