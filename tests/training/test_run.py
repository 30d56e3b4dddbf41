from __future__ import annotations

import pytest
import torch
from xbatcher import BatchGenerator

from tests.training.commands import write_files
from tests.training.conftest import given
from tests.worlds import tiny_world
from xland.errors import CheckpointError, ConfigurationError
from xland.models import find_model
from xland.training.data.prepare import prepare
from xland.training.run import train

pytestmark = pytest.mark.usefixtures("uncalibrated")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    write_files(folder, epochs=1, patch_stride=40, checkpoint_every=0)
    return folder


def test_files_datasets_and_a_store_train_the_same_model(files, tmp_path, capsys):
    from_files = train(files / "tiny.toml", tmp_path / "a")
    assert {"loss", "accuracy"} <= set(capsys.readouterr().err.split())
    in_memory = train(files / "tiny.toml", tmp_path / "b", **given((2000,)), progress=False)
    prepare(files / "tiny.toml", tmp_path / "store.zarr", progress=False)
    from_store = train(files / "tiny.toml", tmp_path / "c", store=tmp_path / "store.zarr", progress=False)
    assert capsys.readouterr().out == ""
    assert from_files == find_model(tmp_path / "a")
    assert from_files.card["data"]["forcing"]["name"] == "states.nc"
    assert str(files) not in str(from_files.card["data"]), "cards do not tell where the data lay"
    own, other = from_files.network().state_dict(), in_memory.network().state_dict()
    assert all(torch.equal(own[name], other[name]) for name in own)
    for entry in ("data", "coverage", "split", "inputs"):
        assert from_store.card[entry] == from_files.card[entry], entry
    assert len({(tmp_path / name / "steps.csv").read_text().count("\n") for name in "abc"}) == 1


def test_patches_of_a_generator_are_learned_from(files, tmp_path, capsys):
    """A path replaces the forcing of the configuration, and a report of one's own the progress bar."""
    (tmp_path / "tiny.toml").write_text((files / "tiny.toml").read_text().replace("states.nc", "none.nc"))
    with pytest.raises(ConfigurationError, match=r"forcing = .* does not exist"):
        train(tmp_path / "tiny.toml", tmp_path / "model", progress=False)
    told, generator = [], BatchGenerator(tiny_world((2000,))[2], {"lat": 40, "lon": 40}, preload_batch=False)
    options = {"generator": generator, "report": lambda *call: told.append(call)}
    train(tmp_path / "tiny.toml", tmp_path / "model", forcing=files / "states.nc", **options)
    assert {stage for stage, _, _ in told} == {"training", "epoch"}
    assert "samples_per_second" in told[0][2]
    assert capsys.readouterr().out == ""
    with pytest.raises(CheckpointError, match=r"arrays\.patches"):
        train(files / "tiny.toml", tmp_path / "model", resume=True, progress=False)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"store": "a", "forcing": "b"}, "a store contains all data, but forcing are given too"),
        ({"workers": 2}, "workers are for a training on a cluster: give one, or leave them out"),
        ({"cluster": "local", "client": object()}, "give a cluster to open, or a client of one that is open"),
        ({"cluster": "local", "generator": object()}, "patches of a generator are for a training here"),
    ],
)
def test_arguments_that_contradict_each_other_are_named(files, tmp_path, arguments, message):
    with pytest.raises(ConfigurationError, match=message):
        train(files / "tiny.toml", tmp_path / "model", **arguments)
