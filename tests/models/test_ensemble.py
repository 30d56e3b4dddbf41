"""Models are found by name or folder; several answer as one, in a list or joined into one folder."""

from __future__ import annotations

import pickle
import shutil
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch

from tests.models.networks.test_unet import sample
from tests.worlds import tiny_checkpoint, tiny_inputs, tiny_world
from xland import models
from xland.cli import main
from xland.downscaling.call import downscale
from xland.errors import CheckpointError, ModelError
from xland.geo.grid import Grid
from xland.models import find_model, join, list_models
from xland.models.applicability import Applicability, Coverage
from xland.models.checkpoint import CARD, WEIGHTS, update_card
from xland.models.ensemble import Ensemble


@pytest.fixture
def pair(three, tmp_path):
    """Two models to change."""
    return [find_model(shutil.copytree(each.folder, tmp_path / each.name)) for each in three[:2]]


def again(members):
    return find_model([each.folder for each in members])


def test_models_are_found_by_the_name_of_a_shipped_one_and_by_folder(three, tmp_path, monkeypatch):
    monkeypatch.setattr(models, "_SHIPPED", tmp_path)
    shutil.copytree(three[0].folder, tmp_path / "first")
    (tmp_path / "notes").mkdir()
    assert list_models() == ("first",)
    assert find_model("first").folder == tmp_path / "first"
    assert find_model(three[1].folder) == find_model(str(three[1].folder)) == find_model(three[1]) == three[1]
    for name in ("second", tmp_path / "first" / CARD):
        with pytest.raises(ModelError, match=r"no model '.*'[.:].* Give the folder of a trained model or one of first"):
            find_model(name)
    with pytest.raises(ModelError, match=r"notes is not a model: it holds no card\.json"):
        find_model(tmp_path / "notes")
    with pytest.raises(ModelError, match="must be the name of a shipped one or a folder, not 3"):
        find_model(3)
    (tmp_path / "first" / CARD).write_text("{")
    with pytest.raises(CheckpointError, match="damaged"):
        find_model("first")


@pytest.mark.parametrize("name", list_models())
def test_shipped_models_load_and_are_small(name):
    checkpoint = find_model(name)
    assert checkpoint.network().inputs == checkpoint.inputs
    assert sum(path.stat().st_size for path in checkpoint.folder.iterdir()) < 10_000_000
    assert checkpoint.name == name
    for entry in ("title", "licence", "data", "split", "validation", "versions"):
        assert checkpoint.card.get(entry), entry
    regions = {"brazil-change": (185, 185), "brazil-change-past": (185, 185), "brazil-change-25": (37, 37)}
    assert checkpoint.coverage.grid.shape == regions.get(name, (720, 1440))
    assert 0.15 < checkpoint.coverage.mask.mean() <= 1
    assert checkpoint.applicability.prototypes.shape[1] == checkpoint.inputs.coarse_channels + len(
        checkpoint.inputs.static
    )


def test_a_list_of_models_is_an_ensemble(three):
    ensemble = find_model([three[0].folder, str(three[1].folder)])
    assert ensemble == Ensemble(three[:2]) == find_model(three[:2]) == find_model([find_model(three[:2])])
    assert find_model(ensemble) is ensemble
    assert ensemble == pickle.loads(pickle.dumps(ensemble))
    assert (ensemble.name, ensemble.licence) == ("ensemble of tiny-1, tiny-2", "Apache-2.0")
    assert ensemble.inputs == three[0].inputs
    assert find_model(three[:1]).members == three[0].members == (three[0],)
    assert ensemble.coverage is ensemble.applicability is None
    assert three[0].calibration.is_none
    assert three[0].decision == (0.0,) * 8


def test_its_identity_follows_the_weights_the_calibration_and_the_order(pair):
    ensemble = find_model(pair)
    assert len({each.digest for each in (ensemble, find_model(pair[:1]), find_model(pair[::-1]))}) == 3
    update_card(pair[1].folder, {"calibration": {"scale": [2.0] * 8, "bias": [0.0] * 8}, "decision": [0.4] * 8})
    other = again(pair)
    assert other.digest == ensemble.digest
    assert other.identity != ensemble.identity
    assert [one.identity == two.identity for one, two in zip(other.members, pair, strict=True)] == [True, False]
    assert other.decision == pytest.approx((0.2,) * 8)


def test_it_covers_what_any_member_covers_and_knows_the_training_of_the_first_that_does(pair):
    world = Grid.world(4)
    north, south = np.zeros(world.shape, bool), np.zeros(world.shape, bool)
    north[:10], south[-10:] = True, True
    part = world.window(slice(35, 45), slice(0, 90))
    update_card(pair[0].folder, {"coverage": asdict(Coverage.of(world, north))})
    known = Applicability(np.ones((3, 10), np.float32), 2.0, 0.5)
    update_card(pair[1].folder, {"coverage": asdict(Coverage.of(part, south[35:]))}, applicability=known)
    np.testing.assert_array_equal(again(pair).coverage.on(world), north | south)
    assert again(pair).applicability.typical == 2.0


def test_members_that_do_not_fit_are_named_with_the_remedy(three, tmp_path):
    other = tiny_checkpoint(tmp_path / "other", replace(tiny_inputs(), stride=40), seed=3)
    with pytest.raises(ModelError, match=r"number 3, 'tiny-3' .* differs from the first, 'tiny-1', in stride"):
        find_model([*three[:2], other])
    other = tiny_checkpoint(tmp_path / "other", tiny_inputs().normalised({"elevation": (1.0, 2.0)}), seed=3)
    with pytest.raises(ModelError, match=r"in static: train all with the same data, inputs and split_seed"):
        find_model([three[0], other])
    with pytest.raises(ModelError, match="1 of the 3 models of the ensemble are given twice"):
        find_model([*three[:2], shutil.copytree(three[0].folder, tmp_path / "copy")])
    with pytest.raises(ModelError, match="at least one model"):
        find_model([])


def scores(checkpoint, points=None):
    coarse, static, _ = sample(checkpoint.inputs)
    with torch.no_grad():
        return checkpoint.network()(coarse, static, points=points)


@pytest.mark.parametrize("kind", ["unet", "context"])
def test_scores_of_a_joined_model_are_the_mean_of_those_of_its_members_however_they_were_joined(
    three, tmp_path, kind, capsys
):
    sizes = {"kind": "context", "depth": 1, "head": 6}
    members = three if kind == "unet" else [tiny_checkpoint(tmp_path / f"{n}", seed=n, **sizes) for n in (1, 2, 3)]
    two = join(members[:2], tmp_path / "two")
    main(["join", str(tmp_path / "joined"), str(two.folder), str(members[2].folder), "--name", "all"])
    assert "3 networks" in capsys.readouterr().out
    joined, points = find_model(tmp_path / "joined"), torch.tensor([[0, 7, 1599], [3, 3, 40]])
    torch.testing.assert_close(scores(joined), sum(scores(each) for each in members) / 3)
    torch.testing.assert_close(scores(joined, points), sum(scores(each, points) for each in members) / 3)
    assert (joined.name, two.name) == ("all", "tiny-1")
    assert [member["name"] for member in joined.card["members"]] == ["tiny-1", "tiny-2", "tiny-3"]
    assert joined.card["parameters"] == 3 * members[0].card["parameters"]
    assert joined.network().pixelwise == members[0].network().pixelwise


CERTAINTY = {"calibration": {"scale": [2.0] * 8, "bias": [0.0] * 8}, "decision": [0.4] * 8}


def test_what_a_member_says_of_its_certainty_is_not_handed_on_and_a_joined_model_is_calibrated_itself(pair, tmp_path):
    member = update_card(pair[0].folder, {**CERTAINTY, "scores": {"accuracy": 1}, "notes": "kept"})
    joined = join([member, pair[1]], tmp_path / "joined")
    assert not {*CERTAINTY, "scores"} & joined.card.keys()
    assert joined.notes == "kept"
    assert joined.calibration.is_none
    calibrated = find_model(update_card(joined.folder, CERTAINTY).folder)
    assert (calibrated.calibration.scale, calibrated.decision) == ((2.0,) * 8, (0.4,) * 8)
    assert calibrated.identity != joined.identity
    coarse, static, _ = tiny_world()
    here = {"static": static, "years": 2000, "region": (-20, 0, 20, 40), "outputs": "probability"}
    plain, sharp = (
        downscale(coarse, model=each, **here)["probability"].compute(scheduler="synchronous").transpose("class", ...)
        for each in (joined, calibrated)
    )
    expected = plain.values**2 / (plain.values**2).sum(axis=0)
    np.testing.assert_allclose(sharp.values, expected, atol=2e-3)


def test_models_that_cannot_be_joined_are_refused_by_name(pair, tmp_path):
    with pytest.raises(ModelError, match="1 model cannot be joined: give two or more"):
        join(pair[:1], tmp_path / "joined")
    wider = tiny_checkpoint(tmp_path / "wider", seed=5, width=8)
    with pytest.raises(ModelError, match=r"same architecture as 'tiny-1', but 'tiny-5' .* has width 8 and not 4"):
        join([pair[0], wider], tmp_path / "joined")
    (pair[1].folder / WEIGHTS).write_bytes(b"x")
    with pytest.raises(CheckpointError, match="truncated or altered"):
        join(pair, tmp_path / "joined")
    assert not (tmp_path / "joined").exists()


def test_a_model_is_not_replaced_by_a_joined_one_unless_asked_for(pair, tmp_path, capsys):
    before = tiny_checkpoint(tmp_path / "model", seed=9)
    command = ["join", str(before.folder), *(str(each.folder) for each in pair)]
    assert main(command) == 1
    assert "holds a model: pass --overwrite to replace it, or choose another folder" in capsys.readouterr().err
    assert find_model(before.folder) == before
    assert main([*command, "--overwrite"]) == 0
    assert find_model(before.folder).card["architecture"]["members"] == 2
