"""Models on disk: what is written is read again, what breaks off leaves the old model, what is damaged is named."""

from __future__ import annotations

import hashlib
import pickle
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load, save

from tests.models.conftest import edit_card, put_weights
from tests.worlds import tiny_checkpoint, tiny_inputs, tiny_network
from xland.errors import CheckpointError, ModelError
from xland.models import checkpoint
from xland.models.applicability import StaticSample
from xland.models.checkpoint import CARD, WEIGHTS, read_checkpoint, save_checkpoint, update_card

SAMPLE = asdict(StaticSample.of("own.nc", np.zeros((2, 2, 4)), top=0, left=0, step=8))


def test_a_checkpoint_gives_back_the_same_network(tmp_path):
    inputs = tiny_inputs("code", (0, -1))
    network = tiny_network(inputs, seed=3)
    claimed = {"name": "mine", "licence": "CC0-1.0", "weights_sha256": "0" * 64, "inputs": {}, "parameters": 1}
    checkpoint = save_checkpoint(tmp_path / "deep" / "model", network, claimed)
    assert checkpoint == read_checkpoint(tmp_path / "deep" / "model")
    assert sorted(path.name for path in checkpoint.folder.iterdir()) == [CARD, WEIGHTS]
    assert checkpoint.digest == hashlib.sha256((checkpoint.folder / WEIGHTS).read_bytes()).hexdigest()
    assert (checkpoint.name, checkpoint.licence, checkpoint.inputs) == ("mine", "CC0-1.0", inputs)
    assert checkpoint.card["parameters"] == sum(p.numel() for p in network.parameters())
    loaded = checkpoint.network()
    assert loaded is read_checkpoint(checkpoint.folder).network(), "a network is loaded once a process"
    assert loaded.architecture == network.architecture
    assert not loaded.training
    assert not any(p.requires_grad for p in loaded.parameters())
    for name, value in network.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name
    content = pickle.dumps(checkpoint)
    assert len(content) < 20_000, "it travels small to other processes"
    assert pickle.loads(content) == checkpoint


def test_reading_a_card_needs_no_torch_and_loading_a_network_no_sympy(original, monkeypatch):
    code = "import sys; from xland.models import find_model; find_model(); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False"]
    for name in ("sympy", "torch.fx.experimental.symbolic_shapes"):  # importing them takes most of a second
        monkeypatch.setitem(sys.modules, name, None)
    checkpoint._load_network(read_checkpoint(original))


@pytest.mark.parametrize("damage", [0, 7, 100, -1, 0.02, 0.5, 0.999], ids=str)
def test_truncated_and_altered_weights_are_named(folder, damage):
    content = bytearray((folder / WEIGHTS).read_bytes())
    if isinstance(damage, float):
        content[int(damage * len(content))] ^= 1
    (folder / WEIGHTS).write_bytes(content if isinstance(damage, float) else content[:damage])
    with pytest.raises(CheckpointError, match=r"weights\.safetensors .* is truncated or altered"):
        read_checkpoint(folder).network()


class Trap:
    """Runs when it is unpickled."""

    def __reduce__(self):
        return (Path("sprung").touch, ())


@pytest.mark.parametrize("protocol", [2, 4, 5, "torch"])
def test_a_pickle_is_refused_and_never_run(folder, protocol, monkeypatch):
    monkeypatch.chdir(folder)
    if protocol == "torch":
        torch.save({"weight": torch.zeros(3)}, folder / WEIGHTS)
    else:
        (folder / WEIGHTS).write_bytes(pickle.dumps({"weight": Trap()}, protocol=protocol))
    put_weights(folder, (folder / WEIGHTS).read_bytes())
    with pytest.raises(CheckpointError, match="is a pickle"):
        read_checkpoint(folder).network()
    assert not (folder / "sprung").exists()


def test_safetensors_whose_length_looks_like_a_pickle_are_read(folder):
    # headers are padded to eight bytes: one of 0x..80 bytes begins as a pickle does
    tensors = load((folder / WEIGHTS).read_bytes())
    contents = (save(tensors, metadata={"format": "xland", "padding": "x" * length}) for length in range(400))
    put_weights(folder, next(content for content in contents if content[0] == 0x80))
    assert read_checkpoint(folder).network().inputs == read_checkpoint(folder).inputs


def test_weights_of_other_tensors_are_named(folder, tmp_path):
    tensors = load((folder / WEIGHTS).read_bytes())
    name = next(iter(sorted(tensors)))
    put_weights(folder, save({n: t for n, t in tensors.items() if n != name}))
    with pytest.raises(CheckpointError, match=f"{name} is missing, expected has shape"):
        read_checkpoint(folder).network()
    put_weights(folder, save({**tensors, "a.backdoor": torch.zeros(2)}))
    with pytest.raises(CheckpointError, match=r"a\.backdoor has shape \[2\] of 'F32', expected is missing"):
        read_checkpoint(folder).network()
    other = tiny_checkpoint(tmp_path / "other", tiny_inputs("none"), seed=7)
    put_weights(folder, (other.folder / WEIGHTS).read_bytes())
    with pytest.raises(CheckpointError, match=r"not fit its card: .*shape \[4, 10, 3, 3\].*\[4, 18, 3, 3\].*chann"):
        read_checkpoint(folder).network()


@pytest.mark.parametrize(
    ("tensor", "value", "message"),
    [
        ("body.head.bias", float("nan"), r"body\.head\.bias is NaN or infinite in 1 places"),
        ("body.head.bias", float("-inf"), r"body\.head\.bias is NaN or infinite in 1 places"),
        ("body.encoder.0.1.running_var", -1.0, r"running_var is a variance, but below 0 in 1 places"),
    ],
)
def test_weights_that_no_network_could_have_are_named(folder, tensor, value, message):
    tensors = load((folder / WEIGHTS).read_bytes())
    tensors[tensor][2] = value
    put_weights(folder, save(tensors))
    with pytest.raises(CheckpointError, match=message):
        read_checkpoint(folder).network()


def test_another_card_for_weights_loaded_before_gives_another_network_or_an_error(folder):
    first = read_checkpoint(folder).network()
    inputs = tiny_inputs("one_hot").normalised({"elevation": (1.0, 2.0)})
    edit_card(folder, inputs=asdict(inputs))
    assert read_checkpoint(folder).network().inputs == inputs != first.inputs
    edit_card(folder, inputs=asdict(tiny_inputs("code")))
    with pytest.raises(CheckpointError, match="does not fit its card"):
        read_checkpoint(folder).network()


INPUTS = asdict(tiny_inputs("one_hot"))
UNET = {"kind": "unet", "width": 4, "depth": 2}


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        *(({name: ...}, rf"card\.json lacks {name}") for name in ("name", "inputs", "architecture", "weights_sha256")),
        *(({"format": each}, r"has format .*; this version of xland reads 1") for each in (2, 0, "1", None, ...)),
        *(({"inputs": each}, r"\[inputs\]( must be a table| lacks coarse)") for each in (None, 3, [], "tiny", {})),
        ({"inputs": {**INPUTS, "window": 10**9}}, "window must be a whole number of at least 1 and at most 16384"),
        (
            {"inputs": {**INPUTS, "factor": 1, "window": 6000, "stride": 6000, "resolution": 0.06}},
            "would need 2472 MiB",
        ),
        ({"architecture": {**UNET, "width": "wide"}}, "width must be a whole number of at least 1 and at most 4096"),
        ({"architecture": {**UNET, "depth": 9}}, "cannot be halved 9 times"),
        (
            {"architecture": {**UNET, "width": 1000}},
            "does not fit its card: .* the channels or the architecture differ",
        ),
        ({"architecture": []}, r"architecture\] must be a table"),
        ({"decision": [0.0]}, "decision must hold 8 numbers"),
        ({"calibration": {"scale": [1.0], "bias": [0.0]}}, "calibration must hold 8 numbers"),
        ({"draws": 5}, r"grain must be a table of entries"),
        ({"draws": {"spacings": [1]}}, r"grain lacks weights"),
        ({"static_sample": SAMPLE}, "static_sample must hold 3 channels, not 4"),
        ({"draws": {"spacings": [1], "weights": [[1.0]]}}, r"draws must hold the weights of 8 classes, not 1"),
        ({"draws": {"spacings": [0], "weights": [[1.0]] * 8}}, r"spacings must be a list.* of at least 1"),
        ({"draws": {"spacings": [2, 2], "weights": [[0.6, 0.8]] * 8}}, r"different spacings"),
        ({"draws": {"spacings": [1, 2], "weights": [[1.0]] * 8}}, r"2 spacings, but 1 weights of class 0"),
        ({"draws": {"spacings": [1, 2], "weights": [[0.6, 0.6]] * 8}}, r"squares of the weights of class 0 must sum"),
    ],
)
def test_cards_that_cannot_be_used_are_named(folder, entries, message):
    edit_card(folder, **entries)
    with pytest.raises(CheckpointError, match=message):
        read_checkpoint(folder).network()


def test_new_entries_of_a_card_keep_the_weights(folder):
    before = read_checkpoint(folder)
    after = update_card(folder, {"scores": {"accuracy": 0.75}})
    assert dict(after.card) == {**before.card, "scores": {"accuracy": 0.75}}
    assert after.digest == before.digest
    after.network()


@pytest.mark.parametrize("name", [".weights-before.safetensors", WEIGHTS, CARD])
def test_a_writer_that_breaks_off_at_any_file_leaves_the_old_model(folder, name, breaking):
    before = read_checkpoint(folder).network().state_dict()
    for seed in (8, 10):  # once broken off, it may break off again
        with breaking(name):
            save_checkpoint(folder, tiny_network(tiny_inputs("one_hot"), seed=seed), {"name": "new"})
        checkpoint._networks.clear()
        left = read_checkpoint(folder)
        assert left.name != "new"
        assert all(torch.equal(value, before[name]) for name, value in left.network().state_dict().items())
    assert tiny_checkpoint(folder, tiny_inputs(), seed=9).network().inputs == tiny_inputs()
    assert {path.name for path in folder.iterdir()} == {CARD, WEIGHTS}


@pytest.mark.parametrize(
    "entries", [{"name": "x" * 300}, {"notes": "x" * 2**23}, {"f1": float("nan")}, {"a": object()}]
)
@pytest.mark.parametrize("write", ["save", "update"])
def test_a_card_that_could_not_be_read_again_is_not_written_and_the_model_stays(folder, entries, write):
    model = read_checkpoint(folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(CheckpointError, match=r"was not written|name must be"):
        save_checkpoint(folder, model.network(), {**model.card, **entries}) if write == "save" else update_card(
            folder, entries
        )
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_folder_without_card_is_not_a_model(tmp_path):
    with pytest.raises(ModelError, match=r"is not a model: it holds no card\.json"):
        read_checkpoint(tmp_path)
