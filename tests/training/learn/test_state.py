from __future__ import annotations

import json
from copy import deepcopy
from functools import cache

import pytest
import torch
from safetensors.torch import load, save

from tests.worlds import tiny_network
from xland.errors import CheckpointError, CheckpointWarning
from xland.training.learn.state import PREVIOUS, STATE, Learner, Progress, _digest, has_state, load_state, save_state

IDENTITY = {"name": "tiny", "schedule": {"batch": 3, "seed": 0}}
PROGRESS = {
    "epoch": 3,
    "step": 21,
    "best_merit": 0.9,
    "best_epoch": 2,
    "history": [{"epoch": 1.0, "loss": 0.5}],
    "losses": [0.1, 1 / 3, 5e-324, 1.7976931348623157e308],
}


@cache
def untrained(seed):
    return tiny_network(seed=seed)


def learner(seed=0, steps=0):
    network, average = deepcopy(untrained(seed)), deepcopy(untrained(seed + 1))
    return learn(Learner(network, average, torch.optim.AdamW(network.parameters(), 1e-2)), steps)


def learn(made, steps):
    for _ in range(steps):
        made.optimizer.zero_grad()
        sum(p.square().sum() for p in made.network.parameters()).backward()
        made.optimizer.step()
    return made


def assert_equal(found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(torch.as_tensor(found[name]), torch.as_tensor(value)), name


@pytest.fixture
def saved(tmp_path):
    made = learner(steps=3)
    save_state(tmp_path, made, Progress(**PROGRESS), IDENTITY)
    return tmp_path, made


@pytest.fixture
def twice(saved):
    """A folder with the states of steps 21 and 22."""
    save_state(saved[0], learner(), Progress(**{**PROGRESS, "step": 22}), IDENTITY)
    return saved[0]


def test_everything_comes_back_and_the_next_steps_are_those_without_a_pause(saved):
    folder, made = saved
    other = learner(seed=5)
    assert load_state(folder, other, IDENTITY) == Progress(**PROGRESS)
    assert_equal(other.average.state_dict(), made.average.state_dict())
    save_state(folder, learner(seed=8), Progress(), IDENTITY)  # loaded weights do not depend on the file
    learn(made, 3)
    learn(other, 3)
    assert_equal(other.network.state_dict(), made.network.state_dict())


def test_a_state_before_the_first_validation_can_be_kept(tmp_path):
    made = learner()
    assert not has_state(tmp_path)
    with pytest.raises(CheckpointError, match=r"state\.safetensors"):
        load_state(tmp_path, made, IDENTITY)
    save_state(tmp_path, made, Progress(), IDENTITY)
    assert has_state(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [STATE]
    assert load_state(tmp_path, made, IDENTITY) == Progress()


def test_the_last_two_states_are_kept(twice):
    made = learner()
    (twice / f".{STATE}.{12345:032x}.partial").write_bytes(b"left by a process that was killed")
    save_state(twice, made, Progress(step=23), IDENTITY)
    assert sorted(path.name for path in twice.iterdir()) == sorted([STATE, PREVIOUS])
    assert load_state(twice, made, IDENTITY).step == 23
    (twice / STATE).unlink()
    assert load_state(twice, made, IDENTITY).step == 22, "a process was killed between two renames"


def altered(content):
    """One bit of a weight is another one: the length is right, and safetensors do not see it."""
    return content[:-9] + bytes([content[-9] ^ 1]) + content[-8:]


@pytest.mark.parametrize("damage", [altered, lambda _: b"", lambda content: content[:-1]])
def test_the_state_before_stands_in_for_a_damaged_one_and_says_so(twice, damage):
    path, made = twice / STATE, learner()
    path.write_bytes(damage(path.read_bytes()))
    message = r"state\.safetensors is damaged: .*replaced by the one before, and the training goes on after step 21"
    with pytest.warns(CheckpointWarning, match=message):
        assert load_state(twice, made, IDENTITY).step == 21
    assert load_state(twice, made, IDENTITY).step == 21, "it is the newest now, and no warning comes again"
    save_state(twice, made, Progress(step=23), IDENTITY)
    path.unlink()
    assert load_state(twice, made, IDENTITY).step == 21, "the good one is kept, not the damaged"


def test_damaged_states_are_named(twice):
    for name in (STATE, PREVIOUS):
        (twice / name).write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match=r"state\.safetensors is .*state-before\.safetensors is .*delete both"):
        load_state(twice, learner(), IDENTITY)
    (twice / PREVIOUS).unlink()
    with pytest.raises(CheckpointError, match=r"state\.safetensors is damaged: .*delete it to start again"):
        load_state(twice, learner(), IDENTITY)


def test_a_state_of_another_configuration_says_what_differs_and_changes_nothing(saved):
    made = learner(seed=5)
    before = {name: value.clone() for name, value in made.network.state_dict().items()}
    other = {"name": "tiny", "schedule": {"batch": 4, "seed": 0}}
    with pytest.raises(CheckpointError, match=r"Different are:\n  schedule\.batch \(3 there, 4 here\)$"):
        load_state(saved[0], made, other)
    assert_equal(made.network.state_dict(), before)


def test_what_differs_between_two_trainings_is_said_in_ten_lines(saved):
    other = {**IDENTITY, "arrays": {str(number): "hash" * 100 for number in range(400)}}
    with pytest.raises(CheckpointError, match=r'arrays\.7 \(absent there, "hash[^\n]*\n  and 392 more$') as refused:
        load_state(saved[0], learner(), other)
    assert len(str(refused.value).splitlines()) == 10


def test_a_state_whose_log_has_numbers_of_classes_goes_on_with_their_names(tmp_path):
    old = Progress(**{**PROGRESS, "history": [{"epoch": 1.0, "iou_1": 0.5, "iou_5": 0.25, "miou": 0.4}]})
    save_state(tmp_path, learner(), old, IDENTITY)
    (figures,) = load_state(tmp_path, learner(), IDENTITY).history
    assert figures == {"epoch": 1.0, "iou_urban": 0.5, "iou_grass_shrub": 0.25, "miou": 0.4}


def test_a_state_of_another_format_is_named(saved):
    path = saved[0] / STATE
    path.write_bytes(save(load(path.read_bytes())))
    with pytest.raises(CheckpointError, match=r"has format None; this version of xland reads '3'"):
        load_state(saved[0], learner(), IDENTITY)


@pytest.mark.parametrize(
    "change",
    [
        lambda _, about: about.pop("identity"),
        lambda _, about: about.pop("progress"),
        lambda _, about: about.update(identity="{"),
        lambda _, about: about.update(progress="[1, 2]"),
        lambda _, about: about.update(progress=json.dumps({**PROGRESS, "step": "5"})),
        lambda _, about: about.update(progress=json.dumps({**PROGRESS, "history": [5]})),
        lambda _, about: about.update(progress=json.dumps({**PROGRESS, "more": 1})),
        lambda tensors, _: tensors.pop(next(name for name in tensors if name.endswith("num_batches_tracked"))),
        lambda tensors, _: tensors.update({"network.more": torch.zeros(2)}),
        lambda tensors, _: tensors.update({"optimizer.99.step": torch.tensor(1.0)}),
        lambda tensors, _: tensors.update({"optimizer.first.step": torch.tensor(1.0)}),
        lambda tensors, _: tensors.update({"optimizer.0.exp_avg": torch.zeros(2)}),
        lambda tensors, _: tensors.pop("optimizer.0.exp_avg"),
    ],
)
def test_a_state_that_others_made_is_refused_by_name(saved, change):
    """They alter it, and give it the digest that it then needs."""
    content = (saved[0] / STATE).read_bytes()
    tensors = load(content)
    metadata = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]
    del metadata["sha256"]
    change(tensors, metadata)
    (saved[0] / STATE).write_bytes(save(tensors, metadata={**metadata, "sha256": _digest(tensors, metadata)}))
    with pytest.raises(CheckpointError, match=r"the training state in .* is not one that xland wrote .*start again"):
        load_state(saved[0], learner(), IDENTITY)
