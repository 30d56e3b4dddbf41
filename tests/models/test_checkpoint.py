from __future__ import annotations

import ast
import hashlib
import json
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load, save

import xland
from tests.worlds import tiny_checkpoint, tiny_inputs, tiny_network
from xland.errors import CheckpointError, ModelError
from xland.models import checkpoint
from xland.models.checkpoint import CARD, WEIGHTS, Checkpoint, read_checkpoint, save_checkpoint, update_card

PACKAGE = Path(xland.__file__).parent


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """A model folder that no test loads, so that no network of it is kept in memory."""
    folder = tmp_path_factory.mktemp("models") / "original"
    tiny_checkpoint(folder, tiny_inputs("one_hot"), seed=7)
    return folder


@pytest.fixture
def folder(original, tmp_path):
    return Path(shutil.copytree(original, tmp_path / "model"))


def edit_card(folder, **entries):
    card = json.loads((folder / CARD).read_text()) | entries
    (folder / CARD).write_text(json.dumps({name: value for name, value in card.items() if value is not ...}))


def put_weights(folder, content):
    """Write weights and make the card agree with them, as an attacker would."""
    (folder / WEIGHTS).write_bytes(content)
    edit_card(folder, weights_sha256=hashlib.sha256(content).hexdigest())


def test_a_checkpoint_gives_back_the_same_network(tmp_path):
    inputs = tiny_inputs("code", (0, -1))
    network = tiny_network(inputs, seed=3)
    checkpoint = save_checkpoint(tmp_path / "deep" / "model", network, {"name": "mine", "licence": "CC0-1.0"})
    assert checkpoint == read_checkpoint(tmp_path / "deep" / "model")
    assert checkpoint.name == "mine"
    assert checkpoint.inputs == inputs
    assert checkpoint.card["licence"] == "CC0-1.0"
    assert checkpoint.card["parameters"] == sum(p.numel() for p in network.parameters())
    loaded = checkpoint.network()
    assert loaded.architecture == network.architecture
    assert not loaded.training
    assert not any(p.requires_grad for p in loaded.parameters())
    for name, value in network.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name


def test_a_model_is_a_card_and_safetensors_and_nothing_else(folder):
    assert sorted(path.name for path in folder.iterdir()) == [CARD, WEIGHTS]
    assert load((folder / WEIGHTS).read_bytes())
    digest = hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()
    assert json.loads((folder / CARD).read_text())["weights_sha256"] == digest == read_checkpoint(folder).digest


def test_a_network_is_loaded_once_a_process(folder):
    checkpoint = read_checkpoint(folder)
    assert checkpoint.network() is read_checkpoint(folder).network()


def test_a_checkpoint_travels_small_to_other_processes(folder):
    checkpoint = read_checkpoint(folder)
    checkpoint.network()
    content = pickle.dumps(checkpoint)
    assert len(content) < 20_000
    assert pickle.loads(content) == checkpoint


def test_reading_a_card_needs_no_torch(folder):
    code = (
        "import sys; from xland.models import find_model; "
        f"print(find_model({str(folder)!r}).inputs.factor, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["4", "False"]


def test_loading_a_shipped_network_does_not_import_sympy():
    code = "import sys; from xland.models import find_model; find_model().network(); print('sympy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False"]


@pytest.mark.parametrize("kept", [0, 7, 8, 100, -1])
def test_truncated_weights_are_named(folder, kept):
    path = folder / WEIGHTS
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(CheckpointError, match=r"weights\.safetensors .* is truncated or altered"):
        read_checkpoint(folder).network()


@pytest.mark.parametrize("where", [0.02, 0.5, 0.999])
def test_one_altered_byte_in_the_weights_is_found(folder, where):
    path = folder / WEIGHTS
    content = bytearray(path.read_bytes())
    content[int(where * len(content))] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="truncated or altered"):
        read_checkpoint(folder).network()


def test_missing_weights_are_named(folder):
    (folder / WEIGHTS).unlink()
    with pytest.raises(CheckpointError, match=r"weights\.safetensors cannot be read: No such file"):
        read_checkpoint(folder).network()


class Trap:
    """Runs when it is unpickled."""

    def __reduce__(self):
        return (Path("sprung").touch, ())


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_pickle_is_refused_and_never_run(folder, protocol, monkeypatch):
    monkeypatch.chdir(folder)
    put_weights(folder, pickle.dumps({"weight": Trap()}, protocol=protocol))
    with pytest.raises(CheckpointError, match="is a pickle"):
        read_checkpoint(folder).network()
    assert not (folder / "sprung").exists()


def test_a_file_of_torch_save_is_refused(folder):
    torch.save({"weight": torch.zeros(3)}, folder / WEIGHTS)
    put_weights(folder, (folder / WEIGHTS).read_bytes())
    with pytest.raises(CheckpointError, match="is a pickle"):
        read_checkpoint(folder).network()


def test_safetensors_whose_length_looks_like_a_pickle_are_read(folder):
    # headers are padded to eight bytes: one of 0x..80 bytes begins as a pickle does
    tensors = load((folder / WEIGHTS).read_bytes())
    for length in range(400):
        content = save(tensors, metadata={"format": "xland", "padding": "x" * length})
        if content[0] == 0x80:
            break
    assert content[0] == 0x80
    put_weights(folder, content)
    assert read_checkpoint(folder).network().inputs == read_checkpoint(folder).inputs


@pytest.mark.parametrize("content", [b"", b"weights", b"\xff" * 100, b"\x10" + b"\0" * 7 + b"{" * 16])
def test_weights_that_are_no_safetensors_are_named_even_with_the_right_hash(folder, content):
    put_weights(folder, content)
    with pytest.raises(CheckpointError, match="is not a safetensors file"):
        read_checkpoint(folder).network()


def test_weights_of_other_channels_are_named(folder, tmp_path):
    other = tiny_checkpoint(tmp_path / "other", tiny_inputs("none"), seed=7)
    put_weights(folder, (other.folder / WEIGHTS).read_bytes())
    with pytest.raises(
        CheckpointError, match=r"does not fit its card: .*shape \(4, 10, 3, 3\).*\(4, 18, 3, 3\).*chann"
    ):
        read_checkpoint(folder).network()


def test_weights_with_a_missing_and_a_foreign_tensor_are_named(folder):
    tensors = load((folder / WEIGHTS).read_bytes())
    name = next(iter(sorted(tensors)))
    put_weights(folder, save({n: t for n, t in tensors.items() if n != name}))
    with pytest.raises(CheckpointError, match=f"{name} is missing, expected has shape"):
        read_checkpoint(folder).network()
    put_weights(folder, save({**tensors, "a.backdoor": torch.zeros(2)}))
    with pytest.raises(CheckpointError, match=r"a\.backdoor has shape \(2,\) of F32, expected is missing"):
        read_checkpoint(folder).network()


def test_a_card_with_other_channels_does_not_fit_weights_loaded_before(folder):
    assert read_checkpoint(folder).network().inputs.prior == "one_hot"
    edit_card(folder, inputs=tiny_inputs("code").to_dict())
    with pytest.raises(CheckpointError, match="does not fit its card"):
        read_checkpoint(folder).network()


def test_a_card_with_another_normalisation_gives_another_network(folder):
    first = read_checkpoint(folder).network()
    inputs = tiny_inputs("one_hot").normalised({"elevation": (1.0, 2.0)})
    edit_card(folder, inputs=inputs.to_dict())
    assert read_checkpoint(folder).network().inputs == inputs
    assert first.inputs != inputs


@pytest.mark.parametrize("entry", ["name", "inputs", "architecture", "weights_sha256"])
def test_missing_entries_of_the_card_are_named(folder, entry):
    edit_card(folder, **{entry: ...})
    with pytest.raises(CheckpointError, match=rf"card\.json lacks {entry}"):
        read_checkpoint(folder)


@pytest.mark.parametrize("version", [2, 0, "1", None, ...])
def test_another_format_is_named(folder, version):
    edit_card(folder, format=version)
    with pytest.raises(CheckpointError, match=r"has format .*; this version of xland reads 1"):
        read_checkpoint(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"colour": "red"}, "unknown entries colour"),
        ({"prior": "sometimes"}, "prior must be one of"),
        ({"classes": ["ocean", "wetland"]}, "wetland"),
        ({"window": 41}, "window 41"),
        ({"static": [{"name": "a", "sources": ["a"], "shift": 1}]}, "shift"),
        ({"coarse": "all"}, "coarse must be a list of at least 1 and at most 500 entries, each a table"),
    ],
)
def test_inputs_that_cannot_be_used_are_a_damaged_card(folder, change, message):
    edit_card(folder, inputs={**tiny_inputs("one_hot").to_dict(), **change})
    with pytest.raises(CheckpointError, match=rf"card\.json, \[inputs\].*{message}"):
        read_checkpoint(folder)


@pytest.mark.parametrize("inputs", [None, 3, [], "tiny"])
def test_inputs_of_another_kind_are_a_damaged_card(folder, inputs):
    edit_card(folder, inputs=inputs)
    with pytest.raises(CheckpointError, match=r"card\.json, \[inputs\]( must be a table| lacks coarse)"):
        read_checkpoint(folder)


@pytest.mark.parametrize(
    ("architecture", "message"),
    [
        ({"attention": True}, "unknown entries attention"),
        ({"width": 0}, "width must be a whole number of at least 1 and at most 4096, not 0"),
        ({"width": "wide"}, "width must be a whole number of at least 1 and at most 4096, not 'wide'"),
        ({"depth": 9}, "cannot be halved 9 times"),
        ([], "architecture\\] must be a table"),
        (4, "architecture\\] must be a table"),
    ],
)
def test_architectures_that_cannot_be_built_are_a_damaged_card(folder, architecture, message):
    edit_card(folder, architecture=architecture)
    with pytest.raises(CheckpointError, match=message):
        read_checkpoint(folder).network()


@pytest.mark.parametrize("content", [b"", b'{"name": "a"', b"\xff\xfe\x00", b"\x80\x04N."])
def test_a_card_that_is_no_json_is_named(folder, content):
    (folder / CARD).write_bytes(content)
    with pytest.raises(CheckpointError, match=r"card\.json is damaged"):
        read_checkpoint(folder)


def test_a_card_that_is_no_object_is_named(folder):
    (folder / CARD).write_text("[1, 2]")
    with pytest.raises(CheckpointError, match="must hold one JSON object"):
        read_checkpoint(folder)


def test_a_folder_without_card_is_no_model(tmp_path):
    with pytest.raises(ModelError, match=r"is not a model: it holds no card\.json"):
        read_checkpoint(tmp_path)


def test_new_entries_of_a_card_keep_the_weights(folder):
    before = read_checkpoint(folder)
    after = update_card(folder, {"scores": {"accuracy": 0.75}})
    assert after.card["scores"] == {"accuracy": 0.75}
    assert after.digest == before.digest
    assert {name: after.card[name] for name in before.card} == dict(before.card)
    after.network()


def test_the_card_says_what_was_written_and_not_what_was_claimed(tmp_path):
    claimed = {"name": "a", "weights_sha256": "0" * 64, "inputs": {}, "parameters": 1}
    network = tiny_network()
    checkpoint = save_checkpoint(tmp_path, network, claimed)
    assert checkpoint.inputs == network.inputs
    assert checkpoint.digest == hashlib.sha256((tmp_path / WEIGHTS).read_bytes()).hexdigest()


def test_a_model_is_replaced_by_saving_again(folder):
    network = tiny_network(tiny_inputs(), seed=9)
    checkpoint = save_checkpoint(folder, network, {"name": "second"})
    assert checkpoint.name == "second"
    assert sorted(path.name for path in folder.iterdir()) == [CARD, WEIGHTS]
    assert checkpoint.network().inputs == tiny_inputs()


FORBIDDEN_MODULES = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}
FORBIDDEN_CALLS = {("torch", "load"), ("torch", "save"), ("yaml", "unsafe_load"), ("yaml", "full_load")}


def unsafe_uses(source):
    """What in a module could run code out of a file."""
    found = []
    tree = ast.parse(source)
    classes = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    safe = {c.name for c in classes if any(ast.unparse(b).endswith("SafeLoader") for b in c.bases)} | {
        "yaml.SafeLoader"
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [a.name for a in node.names if a.name.split(".")[0] in FORBIDDEN_MODULES]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found += [node.module] if node.module.split(".")[0] in FORBIDDEN_MODULES else []
            found += [f"{node.module}.{a.name}" for a in node.names if (node.module, a.name) in FORBIDDEN_CALLS]
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            found += [f"{node.value.id}.{node.attr}"] if (node.value.id, node.attr) in FORBIDDEN_CALLS else []
        elif isinstance(node, ast.Call):
            found += [k.arg for k in node.keywords if k.arg == "allow_pickle" and getattr(k.value, "value", 1)]
            loaders = {ast.unparse(k.value) for k in node.keywords if k.arg == "Loader"}
            if ast.unparse(node.func) == "yaml.load" and not loaders & safe:
                found.append("yaml.load")
            if isinstance(node.func, ast.Name) and node.func.id in {"eval", "exec", "__import__"}:
                found.append(node.func.id)
    return found


@pytest.mark.parametrize(
    "source",
    ["import pickle", "from dill import load", "torch.load(x)", "from torch import load", "eval('1')", "yaml.load(x)"],
)
def test_the_search_for_unsafe_readers_finds_them(source):
    assert unsafe_uses(source)


def test_no_module_of_the_package_unpickles_anything():
    modules = sorted(PACKAGE.rglob("*.py"))
    assert len(modules) > 30
    unsafe = {str(path.relative_to(PACKAGE)): unsafe_uses(path.read_text(encoding="utf-8")) for path in modules}
    assert {path: uses for path, uses in unsafe.items() if uses} == {}


def test_checkpoints_compare_by_folder_and_card(folder):
    checkpoint = read_checkpoint(folder)
    assert checkpoint == Checkpoint(folder, dict(checkpoint.card))


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
    tiny_checkpoint(folder, tiny_inputs("one_hot"), seed=9)
    assert {path.name for path in folder.iterdir()} == {CARD, WEIGHTS}


@pytest.mark.parametrize(
    "entries", [{"name": "x" * 300}, {"notes": "x" * 2**23}, {"f1": float("nan")}, {"a": object()}]
)
@pytest.mark.parametrize("write", ["save", "update"])
def test_a_card_that_could_not_be_read_again_is_not_written_and_the_model_stays(tmp_path, entries, write):
    model = tiny_checkpoint(tmp_path, tiny_inputs())
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    other = tiny_network(seed=5)
    with pytest.raises(CheckpointError, match=r"was not written|name must be"):
        save_checkpoint(tmp_path, other, {**model.card, **entries}) if write == "save" else update_card(
            tmp_path, entries
        )
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert read_checkpoint(tmp_path).digest == model.digest
