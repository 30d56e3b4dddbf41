from __future__ import annotations

import json
import pickle
import shutil
from dataclasses import replace

import numpy as np
import pytest

from tests.worlds import tiny_checkpoint, tiny_inputs
from xland.errors import CheckpointError, ModelError
from xland.geo.grid import Grid
from xland.models import find_model
from xland.models.applicability import Applicability
from xland.models.checkpoint import Checkpoint, update_card
from xland.models.coverage import Coverage
from xland.models.ensemble import Ensemble


@pytest.fixture
def pair(tmp_path):
    return [tiny_checkpoint(tmp_path / f"seed-{seed}", seed=seed) for seed in (1, 2)]


def test_a_list_of_models_is_an_ensemble(pair):
    ensemble = find_model([pair[0].folder, str(pair[1].folder)])
    assert ensemble == Ensemble(tuple(pair)) == find_model(tuple(pair))
    assert find_model(ensemble) is ensemble
    assert ensemble.inputs == pair[0].inputs
    assert ensemble.name == "ensemble of tiny-1, tiny-2"
    assert ensemble.licence == "Apache-2.0"


def test_it_holds_the_networks_of_its_members(pair):
    networks = find_model(pair).networks()
    assert [network is member.network() for network, member in zip(networks, pair, strict=True)] == [True, True]


def test_one_model_is_an_ensemble_of_itself_where_a_list_is_given(pair):
    assert find_model(pair[:1]).members == pair[0].members == (pair[0],)


def test_its_identity_follows_the_weights_the_calibration_and_the_order(pair):
    ensemble = find_model(pair)
    assert ensemble.digest != find_model(pair[:1]).digest
    assert ensemble.digest != find_model(pair[::-1]).digest
    update_card(pair[1].folder, {"calibration": {"scale": [2.0] * 8, "bias": [0.0] * 8}})
    again = find_model([each.folder for each in pair])
    assert again.digest == ensemble.digest
    assert again.identity != ensemble.identity
    assert again.members[1].identity != pair[1].identity
    assert again.members[0].identity == pair[0].identity


def test_every_member_keeps_its_calibration_and_the_decision_is_their_mean(pair):
    update_card(pair[0].folder, {"calibration": {"scale": [2.0] * 8, "bias": [0.0] * 8}, "decision": [0.4] + [0.0] * 7})
    ensemble = find_model([each.folder for each in pair])
    assert ensemble.calibrations[0].scale == (2.0,) * 8
    assert ensemble.calibrations[1].is_none
    assert ensemble.decision == pytest.approx((0.2,) + (0.0,) * 7)


def test_models_of_old_cards_are_neither_scaled_nor_shifted(pair):
    assert pair[0].calibration.is_none
    assert pair[0].decision == (0.0,) * 8
    assert pair[0].applicability is None
    assert find_model(pair).applicability is None


def test_it_covers_what_any_member_covers(pair):
    world = Grid.world(4)
    north, south = np.zeros(world.shape, bool), np.zeros(world.shape, bool)
    north[:10], south[-10:] = True, True
    part = world.window(slice(35, 45), slice(0, 90))
    update_card(pair[0].folder, {"coverage": Coverage(world, north).to_dict()})
    update_card(pair[1].folder, {"coverage": Coverage(part, south[35:]).to_dict()})
    covered = find_model([each.folder for each in pair]).coverage.on(world)
    np.testing.assert_array_equal(covered, north | south)
    assert find_model(pair).coverage is None


def test_the_distance_to_the_training_is_that_of_the_first_that_knows_it(pair):
    known = Applicability(np.ones((3, 10), np.float32), 2.0, 0.5)
    update_card(pair[1].folder, {}, applicability=known)
    assert find_model([each.folder for each in pair]).applicability.typical == 2.0


def test_it_travels_to_other_processes(pair):
    assert pickle.loads(pickle.dumps(find_model(pair))) == find_model(pair)


def test_members_that_read_other_inputs_are_named(pair, tmp_path):
    other = tiny_checkpoint(tmp_path / "other", replace(tiny_inputs(), stride=40), seed=3)
    with pytest.raises(ModelError, match=r"number 3, 'tiny-3' .* differs from the first, 'tiny-1', in stride"):
        find_model([*pair, other])


def test_members_that_were_normalised_otherwise_are_named_with_the_remedy(pair, tmp_path):
    inputs = tiny_inputs().normalised({"elevation": (1.0, 2.0)})
    with pytest.raises(ModelError, match=r"in static: train all with the same data, inputs and split_seed"):
        find_model([pair[0], tiny_checkpoint(tmp_path / "other", inputs, seed=3)])


def test_a_member_is_listed_once(pair, tmp_path):
    copy = shutil.copytree(pair[0].folder, tmp_path / "copy")
    with pytest.raises(ModelError, match="1 of the 3 models of the ensemble are given twice"):
        find_model([*pair, copy])


def test_an_empty_list_is_no_model():
    with pytest.raises(ModelError, match="at least one model"):
        find_model([])


def test_an_ensemble_in_a_list_is_no_member(pair):
    with pytest.raises(ModelError, match="must be the name of a shipped one or a folder"):
        find_model([find_model(pair)])


@pytest.mark.parametrize("entries", [{"decision": [0.0]}, {"calibration": {"scale": [1.0] * 8}}])
def test_a_card_with_damaged_numbers_is_refused(pair, entries):
    message = r"card\.json: (decision must hold 8 numbers|the calibration in the model card lacks bias)"
    with pytest.raises(CheckpointError, match=message):
        update_card(pair[0].folder, entries)
    assert find_model(pair[0].folder) == pair[0], "the card stays as it was"
    card = pair[0].folder / "card.json"
    card.write_text(json.dumps(json.loads(card.read_text()) | entries))
    with pytest.raises(CheckpointError, match=message):
        find_model(pair[0].folder)


def test_a_checkpoint_stays_a_checkpoint(pair):
    assert isinstance(find_model(pair[0].folder), Checkpoint)
