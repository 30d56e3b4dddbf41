"""Models that are put together answer with the mean of their scores, and are one model from then on."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.models.networks.test_unet import sample
from tests.worlds import tiny_checkpoint, tiny_configuration, tiny_inputs, tiny_world
from xland.cli import main
from xland.errors import CheckpointError, ModelError
from xland.models import find_model
from xland.models.checkpoint import WEIGHTS, update_card
from xland.models.joining import join
from xland.models.networks.unet import Architecture
from xland.training.learn.calibrating import calibrate
from xland.training.run import train

CONTEXT = {"kind": "context", "depth": 1, "head": 6}


def three(folder, **architecture):
    return [tiny_checkpoint(folder / f"seed-{seed}", seed=seed, **architecture) for seed in (1, 2, 3)]


def scores(checkpoint, points=None):
    coarse, static, _ = sample(checkpoint.inputs)
    with torch.no_grad():
        return checkpoint.network()(coarse, static, points=points)


@pytest.mark.parametrize("architecture", [{}, CONTEXT], ids=["unet", "context"])
def test_scores_are_the_mean_of_those_of_the_members(tmp_path, architecture):
    models = three(tmp_path, **architecture)
    joined = join(models, tmp_path / "joined")
    torch.testing.assert_close(scores(joined), sum(scores(each) for each in models) / 3)
    points = torch.tensor([[0, 7, 1599], [3, 3, 40]])
    torch.testing.assert_close(scores(joined, points), sum(scores(each, points) for each in models) / 3)
    assert joined.card["parameters"] == 3 * models[0].card["parameters"]
    assert joined.network().pixelwise == models[0].network().pixelwise


def test_a_joined_model_counts_with_all_of_its_members(tmp_path):
    models = three(tmp_path)
    step_by_step = join([join(models[:2], tmp_path / "two"), models[2]], tmp_path / "three")
    at_once = join(models, tmp_path / "at once", name="all")
    torch.testing.assert_close(scores(step_by_step), scores(at_once))
    assert (step_by_step.name, at_once.name) == ("tiny-1", "all")
    names = [[member["name"] for member in each.card["members"]] for each in (step_by_step, at_once)]
    assert names == [["tiny-1", "tiny-2", "tiny-3"]] * 2


def test_what_a_member_says_of_its_certainty_is_not_handed_on(tmp_path):
    models = three(tmp_path)
    said = {"calibration": {"scale": [2.0] * 8, "bias": [0.0] * 8}, "decision": [0.4] * 8, "scores": {"accuracy": 1}}
    joined = join([update_card(models[0].folder, {**said, "notes": "kept"}), models[1]], tmp_path / "joined")
    assert not said.keys() & joined.card.keys()
    assert joined.card["notes"] == "kept"
    assert joined.calibration.is_none


def test_trained_models_are_joined_and_calibrated_on_the_command_line(tmp_path, capsys):
    coarse, static, maps = tiny_world((2000,))
    data = {"forcing": coarse, "static": static, "target": maps}
    for seed in (0, 1):
        train(tiny_configuration(seed=seed, epochs=1), tmp_path / f"{seed}", progress=False, **data)
    main(["join", str(tmp_path / "joined"), str(tmp_path / "0"), str(tmp_path / "1"), "--name", "both"])
    assert "2 networks" in capsys.readouterr().out
    joined = calibrate(tmp_path / "joined", **data)
    assert joined.name == "both"
    assert [member["training"]["configuration"]["schedule"]["seed"] for member in joined.card["members"]] == [0, 1]
    assert not joined.calibration.is_none
    assert 0 < joined.card["validation"]["miou"] < joined.card["validation"]["accuracy"] < 1
    found = coarse.ai4land.downscale(model=joined, static=static, outputs=("probability", "applicability"))
    assert np.isfinite(found["applicability"].isel(time=0).max().values)
    pair = coarse.ai4land.downscale(model=[tmp_path / "0", tmp_path / "1"], static=static, outputs=("probability",))
    near = abs(found["probability"] - pair["probability"]).mean()
    assert 0 < float(near) < 0.1


def test_a_training_fits_several_networks_together(tmp_path):
    coarse, static, maps = tiny_world((2000,))
    configuration = tiny_configuration(epochs=1)
    several = replace(configuration, architecture=replace(configuration.architecture, members=2))
    data = {"forcing": coarse, "static": static, "target": maps, "progress": False}
    one, two = (train(each, tmp_path / each.name, **data) for each in (configuration, replace(several, name="two")))
    assert two.card["parameters"] == 2 * one.card["parameters"]
    first, second = (body.state_dict() for body in two.network().bodies)
    assert not any(torch.equal(first[name], second[name]) for name in first if name.endswith("weight"))


def test_models_that_cannot_be_joined_are_refused_by_name(tmp_path):
    models = three(tmp_path)
    with pytest.raises(ModelError, match="1 model cannot be joined: give two or more"):
        join(models[:1], tmp_path / "joined")
    with pytest.raises(ModelError, match="given twice"):
        join([models[0], models[0]], tmp_path / "joined")
    wider = tiny_checkpoint(tmp_path / "wider", seed=5, width=8)
    with pytest.raises(ModelError, match=r"built alike, but 'tiny-5' .* is width 8 in place of 4 of 'tiny-1'"):
        join([models[0], wider], tmp_path / "joined")
    other = tiny_checkpoint(tmp_path / "other", tiny_inputs("one_hot"), seed=6)
    with pytest.raises(ModelError, match="differs from the first, 'tiny-1', in"):
        join([models[0], other], tmp_path / "joined")
    (models[1].folder / WEIGHTS).write_bytes(b"x")
    with pytest.raises(CheckpointError, match="truncated or altered"):
        join([models[0], find_model(models[1].folder)], tmp_path / "joined")
    assert not (tmp_path / "joined").exists()


def test_a_number_of_members_must_be_positive():
    with pytest.raises(ModelError, match="members must be a whole number of at least 1 and at most 64, not 0"):
        Architecture(members=0)
