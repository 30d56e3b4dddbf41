from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load, save

from tests.worlds import tiny_network
from xland.errors import CheckpointError
from xland.training.state import STATE, Progress, load_state, save_state


def learner(seed=0, steps=0):
    network, average = tiny_network(seed=seed), tiny_network(seed=seed + 1)
    optimizer = torch.optim.AdamW(network.parameters(), 1e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        sum(p.square().sum() for p in network.parameters()).backward()
        optimizer.step()
    return network, average, optimizer


PROGRESS = {"epoch": 3, "step": 21, "best_merit": 0.9, "best_epoch": 2, "history": [{"epoch": 1.0, "loss": 0.5}]}


@pytest.fixture
def saved(tmp_path):
    made = learner(steps=3)
    save_state(tmp_path, *made, Progress(**PROGRESS), "key")
    return tmp_path, made


def test_everything_comes_back(saved):
    folder, (network, average, optimizer) = saved
    other = learner(seed=5)
    progress = load_state(folder, *other, "key")
    assert progress == Progress(**PROGRESS)
    for own, found in ((network, other[0]), (average, other[1])):
        for name, value in own.state_dict().items():
            assert torch.equal(found.state_dict()[name], value), name
    own, found = optimizer.state_dict()["state"], other[2].state_dict()["state"]
    assert own.keys() == found.keys()
    for number, entry in own.items():
        for name, value in entry.items():
            assert torch.equal(torch.as_tensor(found[number][name]), torch.as_tensor(value)), (number, name)


def test_the_next_steps_after_a_pause_are_those_without_one(saved):
    folder, made = saved
    other = learner(seed=5)
    load_state(folder, *other, "key")
    for network, _, optimizer in (made, other):
        for _ in range(3):
            optimizer.zero_grad()
            sum(p.square().sum() for p in network.parameters()).backward()
            optimizer.step()
    for name, value in made[0].state_dict().items():
        assert torch.equal(other[0].state_dict()[name], value), name


def test_a_state_before_the_first_validation_can_be_kept(tmp_path):
    made = learner()
    save_state(tmp_path, *made, Progress(), "key")
    assert load_state(tmp_path, *made, "key") == Progress()


def test_loaded_weights_do_not_hang_on_the_file(saved):
    folder, _ = saved
    other = learner(seed=5)
    load_state(folder, *other, "key")
    before = {name: value.clone() for name, value in other[0].state_dict().items()}
    save_state(folder, *learner(seed=8), Progress(), "key")
    for name, value in other[0].state_dict().items():
        assert torch.equal(before[name], value), name


@pytest.mark.parametrize("kept", [0, 5, 200, -1])
def test_a_truncated_state_is_named(saved, kept):
    path = saved[0] / STATE
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(CheckpointError, match=r"state\.safetensors is damaged: .*delete it to start again"):
        load_state(saved[0], *learner(), "key")


def test_a_state_of_another_configuration_is_named(saved):
    with pytest.raises(CheckpointError, match="belongs to another configuration or other data"):
        load_state(saved[0], *learner(), "another key")


def test_a_state_without_any_key_is_named(saved):
    path = saved[0] / STATE
    path.write_bytes(save(load(path.read_bytes())))
    with pytest.raises(CheckpointError, match="belongs to another configuration"):
        load_state(saved[0], *learner(), "key")


def test_a_missing_state_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"state\.safetensors"):
        load_state(tmp_path, *learner(), "key")


def test_the_state_is_one_safetensors_file(saved):
    folder, _ = saved
    assert [path.name for path in folder.iterdir()] == [STATE]
    content = (folder / STATE).read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    assert json.loads(header["__metadata__"]["progress"])["epoch"] == 3
