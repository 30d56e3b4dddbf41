"""Cards and weights of strangers end in a named error, or in a network of the shapes of the weights."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load, save

from tests.worlds import tiny_checkpoint, tiny_inputs, tiny_world
from xland.downscaling.call import downscale
from xland.errors import CheckpointError, ModelError
from xland.models.checkpoint import CARD, WEIGHTS, read_checkpoint, update_card

NUMBERS = st.one_of(st.integers(), st.floats(), st.sampled_from([10**18, -1, 0, 2**63, 10**400, 1e308, 1e-320]))
ANYTHING = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, st.text(max_size=20)),
    lambda inner: st.one_of(st.lists(inner, max_size=9), st.dictionaries(st.text(max_size=9), inner, max_size=4)),
    max_leaves=12,
)
FEW = settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stranger") / "model"
    tiny_checkpoint(folder, tiny_inputs(), seed=11)
    update_card(folder, {"decision": [0.5] * 8, "calibration": {"scale": [1.0] * 8, "bias": [0.25] * 8}})
    return folder


@pytest.fixture
def folder(original, tmp_path):
    return Path(shutil.copytree(original, tmp_path / "model"))


def places(value, at=()):
    """Where each entry of a card stands."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in items:
        yield (*at, key)
        yield from places(each, (*at, key))


def shapes(folder):
    return {name: tuple(each.shape) for name, each in load((folder / WEIGHTS).read_bytes()).items()}


def put_weights(folder, content):
    (folder / WEIGHTS).write_bytes(content)
    card = json.loads((folder / CARD).read_text())
    (folder / CARD).write_text(json.dumps({**card, "weights_sha256": hashlib.sha256(content).hexdigest()}))


@FEW
@given(data=st.data())
def test_anything_in_place_of_an_entry_is_named_or_fits_the_weights(original, folder, data):
    card = json.loads((original / CARD).read_text())
    place = data.draw(st.sampled_from(list(places(card))))
    table = card
    for key in place[:-1]:
        table = table[key]
    table[place[-1]] = data.draw(ANYTHING)
    (folder / CARD).write_text(json.dumps(card))
    try:
        found = read_checkpoint(folder)
        network = found.network()
    except ModelError:
        return
    assert {name: tuple(each.shape) for name, each in network.state_dict().items()} == shapes(original)
    assert len(found.calibration.scale) == len(found.decision) == len(found.inputs.classes)


@FEW
@given(content=st.one_of(st.binary(max_size=200), st.text(max_size=100).map(str.encode), ANYTHING.map(json.dumps)))
def test_any_content_in_place_of_a_card_is_named(folder, content):
    (folder / CARD).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(CheckpointError, match=r"card\.json"):
        read_checkpoint(folder)


@FEW
@given(data=st.data())
def test_anything_in_the_header_of_the_weights_is_named_or_says_the_same(original, folder, data):
    content = (original / WEIGHTS).read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    changed = copy.deepcopy(header)
    name = data.draw(st.sampled_from(sorted(set(changed) - {"__metadata__"})))
    entry = data.draw(st.sampled_from([None, "dtype", "shape", "data_offsets"]))
    sizes = st.lists(st.integers(-1, 2**40), max_size=4)
    value = data.draw(st.one_of(ANYTHING, sizes, st.sampled_from(["F16", "F64", "I8", "BF16"])))
    if entry is None:
        changed[name] = value
    else:
        changed[name][entry] = value
    text = json.dumps(changed).encode()
    put_weights(folder, len(text).to_bytes(8, "little") + text + content[8 + length :])
    if changed == header:
        read_checkpoint(folder).network()
        return
    with pytest.raises(CheckpointError, match=r"weights\.safetensors"):
        read_checkpoint(folder).network()


@FEW
@given(length=st.integers(0, 2**64 - 1), rest=st.binary(max_size=100))
def test_any_length_of_a_header_is_named(folder, length, rest):
    put_weights(folder, length.to_bytes(8, "little") + rest)
    with pytest.raises(CheckpointError, match=r"weights\.safetensors"):
        read_checkpoint(folder).network()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_not_finite_are_named(folder, value):
    tensors = load((folder / WEIGHTS).read_bytes())
    tensors["body.head.bias"][2] = value
    put_weights(folder, save(tensors))
    with pytest.raises(CheckpointError, match=r"body\.head\.bias is NaN or infinite in 1 places"):
        read_checkpoint(folder).network()


def test_a_network_that_overflows_gives_no_map(folder):
    tensors = load((folder / WEIGHTS).read_bytes())
    for name, tensor in tensors.items():
        if name.endswith("weight"):
            tensor.fill_(3e38)
    put_weights(folder, save(tensors))
    coarse, static, _ = tiny_world()
    lazy = downscale(coarse, model=folder, static=static, years=2000, region=(-20, 0, 20, 40))
    with pytest.raises(ModelError, match="the network gives no finite probability in"):
        lazy.compute(scheduler="synchronous")


def test_large_weights_that_do_not_fit_are_not_read(folder):
    with (folder / WEIGHTS).open("r+b") as file:
        file.truncate(2**36)
    with pytest.raises(CheckpointError, match=r"weights\.safetensors has 68719476736 bytes, more than"):
        read_checkpoint(folder).network()


@pytest.mark.parametrize("name", [CARD, WEIGHTS])
@pytest.mark.parametrize("kind", ["pipe", "folder", "device", "circle"])
def test_what_is_not_a_file_is_named(folder, name, kind):
    (folder / name).unlink()
    if kind == "pipe":
        os.mkfifo(folder / name)
    elif kind == "folder":
        (folder / name).mkdir()
    else:
        (folder / name).symlink_to("/dev/zero" if kind == "device" else name)
    with pytest.raises(ModelError, match=r"cannot be read|holds no card"):
        read_checkpoint(folder).network()


@pytest.mark.parametrize(
    ("part", "entry", "value", "message"),
    [
        ("architecture", "members", 10**6, "members must be a whole number of at least 1 and at most 64, not 1000000"),
        ("architecture", "depth", 10**18, "depth must be a whole number"),
        ("architecture", "width", 10**4, "width must be a whole number of at least 1 and at most 4096, not 10000"),
        ("architecture", "width", 1000, "does not fit its card: .* the channels or the architecture differ"),
        ("inputs", "window", 10**9, "window must be a whole number of at least 1 and at most 16384, not 1000000000"),
        ("inputs", "window", 6000, "one layer of a window of 6000 cells would need 1373 MiB; at most 128 are allowed"),
        ("inputs", "domain", 5, "domain must be a text of 1 to 200 characters, not 5"),
    ],
)
def test_networks_that_no_weights_could_fit_are_not_built(folder, part, entry, value, message):
    card = json.loads((folder / CARD).read_text())
    card[part][entry] = value
    if value == 6000:
        card[part] |= {"factor": 1, "stride": 6000, "resolution": 0.06}
    (folder / CARD).write_text(json.dumps(card))
    with pytest.raises(CheckpointError, match=message):
        read_checkpoint(folder).network()
