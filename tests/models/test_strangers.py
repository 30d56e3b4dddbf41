"""Cards and weights of strangers end in a named error, or in a network of the shapes of the weights."""

from __future__ import annotations

import copy
import json
import os
import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load, save

import xland
from tests.models.conftest import put_weights
from tests.worlds import tiny_world
from xland.downscaling.call import downscale
from xland.errors import CheckpointError, ModelError
from xland.models.checkpoint import CARD, WEIGHTS, read_checkpoint

NUMBERS = st.one_of(st.integers(), st.floats(), st.sampled_from([10**18, -1, 0, 2**63, 10**400, 1e308, 1e-320]))
ANYTHING = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, st.text(max_size=20)),
    lambda inner: st.one_of(st.lists(inner, max_size=9), st.dictionaries(st.text(max_size=9), inner, max_size=4)),
    max_leaves=12,
)
FEW = settings(deadline=None, max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])


def test_no_module_of_the_package_lets_an_array_file_be_unpickled():
    texts = [path.read_text(encoding="utf-8") for path in Path(xland.__file__).parent.rglob("*.py")]
    assert len(texts) > 30
    loophole = r"allow_pickle(?!=False\b)|noqa:.*(?:TID251|S3\d\d)|ruff: noqa(?!:)|__import__|import_module\([\"']"
    assert not any(re.search(loophole, text) for text in texts), "see banned-api in pyproject.toml"


def places(value, at=()):
    """Where each entry of a card stands."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in items:
        yield (*at, key)
        yield from places(each, (*at, key))


def shapes(folder):
    return {name: tuple(each.shape) for name, each in load((folder / WEIGHTS).read_bytes()).items()}


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
    assert len(found.decision) == len(found.inputs.classes)
    assert found.calibration.is_none or len(found.calibration.scale) == len(found.decision)


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
@given(
    content=st.one_of(
        st.binary(max_size=50),
        st.tuples(st.integers(0, 2**64 - 1), st.binary(max_size=100)).map(lambda p: p[0].to_bytes(8, "little") + p[1]),
        st.just(b"\x10" + b"\0" * 7 + b"{" * 16),
    )
)
def test_weights_that_are_not_safetensors_are_named_even_with_the_right_hash(folder, content):
    put_weights(folder, content)
    with pytest.raises(CheckpointError, match=r"weights\.safetensors is (not a safetensors file|a pickle)"):
        read_checkpoint(folder).network()


def test_a_network_that_overflows_gives_no_map(three, folder):
    tensors = load((three[0].folder / WEIGHTS).read_bytes())
    for name, tensor in tensors.items():
        if name.endswith("weight"):
            tensor.fill_(3e38)
    (folder / CARD).write_bytes((three[0].folder / CARD).read_bytes())
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
