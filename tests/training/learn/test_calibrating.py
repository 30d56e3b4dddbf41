from __future__ import annotations

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tests.worlds import tiny_checkpoint, tiny_configuration, tiny_world
from xland.cli import main
from xland.errors import CheckpointError, ConfigurationError, ModelError
from xland.models.checkpoint import APPLICABILITY, CARD, WEIGHTS, read_checkpoint
from xland.training.data.material import gather
from xland.training.learn import calibrating
from xland.training.learn.calibrating import calibrate
from xland.training.learn.validation import collect_scores
from xland.training.ranks.group import Group
from xland.training.run import train

FITTED = ("calibration", "decision", "applicability")


def data():
    coarse, static, maps = tiny_world((2000,))
    return {"forcing": coarse, "target": maps, "static": static}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("trained") / "model"
    return train(tiny_configuration(epochs=2), folder, **data(), progress=False)


@pytest.fixture
def folder(trained, tmp_path):
    return shutil.copytree(trained.folder, tmp_path / "model")


def strip(folder):
    """Make the model as one of a version that knew no calibration."""
    card = json.loads((folder / CARD).read_text())
    (folder / CARD).write_text(json.dumps({name: value for name, value in card.items() if name not in FITTED}))
    (folder / APPLICABILITY).unlink()


def test_it_gives_an_old_model_what_a_training_ends_with(trained, folder):
    strip(folder)
    assert read_checkpoint(folder).calibration.is_none
    again = calibrate(folder, **data())
    assert again.calibration.scale == pytest.approx(trained.calibration.scale)
    assert again.decision == trained.decision
    np.testing.assert_array_equal(again.applicability.prototypes, trained.applicability.prototypes)
    assert (folder / WEIGHTS).read_bytes() == (trained.folder / WEIGHTS).read_bytes()
    assert again.card["validation"] == trained.card["validation"]


def test_the_card_says_how_it_was_fitted(trained):
    fitted = trained.card["calibration"]
    assert fitted["method"] in ("temperature", "vector")
    assert sum(fitted["pixels_of_classes"]) > 500
    assert fitted["cells_of_the_split"] > 20
    losses = fitted["cross_validated_loss"]
    assert losses[fitted["method"]] == min(losses["temperature"], losses["vector"])
    assert 0 <= fitted["validation_calibration_error"]["after"] <= 1


def test_a_network_that_is_twice_too_sure_is_told_so(trained, folder, monkeypatch):
    """With all scores doubled the scales are half of what they were."""
    strip(folder)
    network = read_checkpoint(folder).network()
    plain = type(network).forward
    monkeypatch.setattr(type(network), "forward", lambda *given, **named: 2 * plain(*given, **named))
    again = calibrate(folder, **data())
    if trained.card["calibration"]["method"] == "temperature":
        assert again.calibration.scale == pytest.approx([each / 2 for each in trained.calibration.scale], rel=1e-3)
    error, usual = (each.card["calibration"]["validation_calibration_error"] for each in (again, trained))
    assert error["after"] < error["before"]
    assert error["after"] == pytest.approx(usual["after"], abs=0.01)


def test_other_data_than_those_of_the_training_are_refused(folder):
    given = data()
    given["static"]["elevation"] = given["static"]["elevation"] / 2 + 100
    before = (folder / CARD).read_bytes()
    with pytest.raises(
        ConfigurationError, match=r"not the data that 'tiny' was trained on: .* 1 channels differ: elev"
    ):
        calibrate(folder, **given)
    assert (folder / CARD).read_bytes() == before


def test_a_model_whose_card_does_not_tell_of_its_training_is_refused(tmp_path):
    tiny_checkpoint(tmp_path / "model")
    with pytest.raises(CheckpointError, match=r"does not say how the model was trained: a model of `xland train`"):
        calibrate(tmp_path / "model", **data())


def test_several_models_are_refused(folder, monkeypatch):
    monkeypatch.setattr(calibrating, "find_model", lambda model: SimpleNamespace(members=(1, 2)))
    with pytest.raises(ModelError, match="one by one, not 2 together"):
        calibrate(["a", "b"])


def test_the_command_takes_the_data_as_files(folder, tmp_path, capsys):
    strip(folder)
    options = []
    for name, each in data().items():
        each.to_netcdf(tmp_path / f"{name}.nc")
        options += [f"--{name}", str(tmp_path / f"{name}.nc")]
    assert main(["calibrate", str(folder), *options]) == 0
    assert f"wrote the card of {folder}: " in capsys.readouterr().out
    assert read_checkpoint(folder).applicability is not None


def test_a_rank_of_many_has_no_more_samples_in_memory_than_in_its_training(folder, monkeypatch):
    configuration, material = gather(tiny_configuration(batch=6), **data())
    batches = []

    def note(network, dataset, batch, *given, **named):
        batches.append(batch)
        return collect_scores(network, dataset, batch, *given, **named)

    monkeypatch.setattr(calibrating, "collect_scores", note)
    calibrating.fit_card(read_checkpoint(folder), configuration, material, Group(0, 3, torch.device("cpu")))
    assert batches == [2]


def test_other_maps_than_those_of_the_training_are_refused_and_the_card_stays(folder):
    before = (folder / CARD).read_bytes()
    given = data()
    given["target"] = given["target"].where(given["target"] != 2, 5)
    with pytest.raises(ConfigurationError, match="these are not the maps that 'tiny' was trained on"):
        calibrate(folder, **given)
    assert (folder / CARD).read_bytes() == before
