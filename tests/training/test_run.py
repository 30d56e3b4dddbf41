from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from xbatcher import BatchGenerator

from tests.training.commands import write_files
from tests.worlds import tiny_configuration, tiny_inputs, tiny_world
from xland.errors import CheckpointError, ConfigurationError
from xland.models import find_model
from xland.training.configuration import read_configuration
from xland.training.data.prepare import prepare
from xland.training.learn.state import STATE
from xland.training.run import train


@pytest.fixture
def files(tmp_path):
    write_files(tmp_path, (2000,), depth=1, epochs=1, patch_stride=40, checkpoint_every=0)
    return tmp_path


def test_a_file_alone_trains_a_model(files):
    checkpoint = train(files / "tiny.toml", files / "model", progress=False)
    assert checkpoint == find_model(files / "model")
    assert checkpoint.name == "tiny"
    assert checkpoint.card["data"]["forcing"]["name"] == "states.nc"
    assert str(files) not in str(checkpoint.card["data"]), "cards do not tell where the data lay"
    assert (files / "model" / "log.csv").is_file()


def test_data_in_memory_stand_in_for_files(files):
    coarse, static, maps = tiny_world((2000,))
    from_files = train(files / "tiny.toml", files / "a", progress=False)
    in_memory = train(files / "tiny.toml", files / "b", forcing=coarse, static=static, target=maps, progress=False)
    own, other = from_files.network().state_dict(), in_memory.network().state_dict()
    assert all(torch.equal(own[name], other[name]) for name in own)


def test_a_path_replaces_the_forcing_of_the_configuration(files):
    (files / "states.nc").rename(files / "moved.nc")
    with pytest.raises(ConfigurationError, match=r"forcing = .* does not exist"):
        train(files / "tiny.toml", files / "model", progress=False)
    train(files / "tiny.toml", files / "model", forcing=files / "moved.nc", progress=False)
    assert (files / "model" / "card.json").is_file()


def test_progress_is_shown_and_can_be_silent(files, capsys):
    train(files / "tiny.toml", files / "loud")
    shown = capsys.readouterr().out
    assert "loss" in shown
    assert "accuracy" in shown
    train(files / "tiny.toml", files / "silent", progress=False)
    assert capsys.readouterr().out == ""


def test_training_resumes_where_it_was(files):
    train(files / "tiny.toml", files / "model", progress=False)
    with pytest.raises(ConfigurationError, match="resume it"):
        train(files / "tiny.toml", files / "model", progress=False)
    train(files / "tiny.toml", files / "model", resume=True, progress=False)
    with pytest.raises(CheckpointError, match=r"split_seed \(0 there, 1 here\)"):
        train(replace(read_configuration(files / "tiny.toml"), split_seed=1), files / "model", resume=True)
    content = (files / "model" / STATE).read_bytes()
    (files / "model" / STATE).write_bytes(content[: len(content) // 2])
    with pytest.raises(CheckpointError, match="damaged"):
        train(files / "tiny.toml", files / "model", resume=True, progress=False)


def test_an_unknown_configuration_is_named(tmp_path):
    with pytest.raises(ConfigurationError, match="there is no configuration 'luh9'"):
        train("luh9", tmp_path, progress=False)


def test_a_prior_is_handed_on(tmp_path):
    coarse, static, maps = tiny_world((2000, 2001))
    configuration = tiny_configuration(tiny_inputs("one_hot"), epochs=1)
    data = replace(configuration.data, forcing_years=(2001,), target_years=(2001,))
    checkpoint = train(
        replace(configuration, data=data),
        tmp_path,
        forcing=coarse,
        static=static,
        target=maps,
        prior=maps.sel(time=[2000]),
        progress=False,
    )
    assert checkpoint.inputs.prior == "one_hot"
    assert 0 < checkpoint.card["validation"]["accuracy"] <= 1


def test_a_store_stands_in_for_all_data(files):
    from_files = train(files / "tiny.toml", files / "a", progress=False)
    prepare(files / "tiny.toml", files / "store.zarr", progress=False)
    from_store = train(files / "tiny.toml", files / "b", store=files / "store.zarr", progress=False)
    for entry in ("data", "coverage", "split", "inputs"):
        assert from_store.card[entry] == from_files.card[entry], entry
    assert (files / "b" / "steps.csv").read_text().count("\n") == (files / "a" / "steps.csv").read_text().count("\n")


def test_patches_of_a_generator_are_learned_from(files):
    maps = tiny_world((2000,))[2]
    generator = BatchGenerator(maps, input_dims={"lat": 40, "lon": 40}, preload_batch=False)
    given, other = files / "given", files / "other"
    train(files / "tiny.toml", given, generator=generator, progress=False)
    with pytest.raises(CheckpointError, match=r"arrays\.patches"):
        train(files / "tiny.toml", given, resume=True, progress=False)
    train(files / "tiny.toml", other, generator=generator, progress=False)
    assert (given / "steps.csv").read_text().split(",")[:9] == (other / "steps.csv").read_text().split(",")[:9]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"store": "a", "forcing": "b"}, "a store holds all data, but forcing are given too"),
        ({"workers": 2}, "workers are for a training on a cluster: say which, or leave them out"),
        ({"cluster": "local", "client": object()}, "give a cluster to open, or a client of one that is open"),
        ({"cluster": "local", "generator": object()}, "patches of a generator are for a training here"),
    ],
)
def test_arguments_that_contradict_each_other_are_named(files, arguments, message):
    with pytest.raises(ConfigurationError, match=message):
        train(files / "tiny.toml", files / "model", **arguments)


def test_a_report_of_ones_own_takes_the_place_of_the_bar(files, capsys):
    told = []
    train(files / "tiny.toml", files / "model", report=lambda *call: told.append(call))
    assert {stage for stage, _, _ in told} == {"training", "epoch"}
    assert "samples_per_second" in told[0][2]
    assert capsys.readouterr().out == ""
