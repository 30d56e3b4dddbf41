from __future__ import annotations

import json
from dataclasses import replace

import pytest

from tests.worlds import tiny_configuration, tiny_inputs, tiny_world
from xland.models.inputs import Channel
from xland.training.data.material import differences, gather, identify


@pytest.fixture(scope="module")
def tiny():
    coarse, static, maps = tiny_world((2000,))
    return gather(tiny_configuration(), forcing=coarse, static=static, target=maps)


def changed(tiny, **entries):
    return identify(replace(tiny[0], **entries), tiny[1])


def found(tiny, **entries):
    return differences(changed(tiny, **entries), identify(*tiny))


def test_the_same_training_does_not_differ_after_a_round_through_json(tiny):
    assert differences(identify(*tiny), json.loads(json.dumps(identify(*tiny)))) == []


def test_an_entry_is_named_with_both_values(tiny):
    schedule = replace(tiny[0].schedule, batch=5, seed=3)
    assert found(tiny, schedule=schedule) == ["schedule.batch (3 there, 5 here)", "schedule.seed (0 there, 3 here)"]


def test_what_changes_no_loss_may_differ(tiny):
    schedule = replace(tiny[0].schedule, workers=3, checkpoint_every=7, report_every=5)
    assert found(tiny, schedule=schedule, title="Another", notes="more", licence="MIT") == []


def test_channels_are_named(tiny):
    inputs = tiny[0].inputs
    scaled = replace(inputs.coarse[1], transform="sqrt")
    assert found(tiny, inputs=replace(inputs, coarse=(inputs.coarse[0], scaled, *inputs.coarse[2:]))) == [
        'inputs.coarse.cropland.transform ("none" there, "sqrt" here)'
    ]


def test_another_channel_and_another_order_are_named(tiny):
    inputs = tiny[0].inputs
    more = replace(inputs, static=(*inputs.static, Channel("slope", ("slope",))))
    names = found(tiny, inputs=more)
    assert names[0].startswith("inputs.static (")
    assert any(name.startswith("inputs.static.slope.sources (absent there") for name in names)
    turned = found(tiny, inputs=replace(inputs, coarse=inputs.coarse[::-1]))
    assert len(turned) == 1
    assert turned[0].startswith("inputs.coarse (")


def test_another_input_spec_is_named(tiny):
    assert 'inputs.prior ("none" there, "code" here)' in found(tiny, inputs=tiny_inputs("code"))


@pytest.mark.parametrize("name", ["coarse", "static", "target"])
def test_an_array_with_another_value_is_named(tiny, name):
    array = getattr(tiny[1].source, name).copy()
    array.flat[array.size // 2] = 1 if array.flat[array.size // 2] == 0 else 0
    other = identify(tiny[0], replace(tiny[1], source=replace(tiny[1].source, **{name: array})))
    assert [text.split(" ")[0] for text in differences(other, identify(*tiny))] == [f"arrays.{name}"]


def test_a_copy_of_a_store_is_the_same_data(tiny):
    """Its token, which holds the path, is another one; the content is not."""
    configuration, material = tiny
    assert "token" in material.description["forcing"]
    moved = {**material.description, "forcing": {**material.description["forcing"], "token": "another"}}
    assert differences(identify(configuration, replace(material, description=moved)), identify(*tiny)) == []
    other = {**material.description, "forcing": {"name": "other.nc", "sha256": "0"}}
    assert differences(identify(configuration, replace(material, description=other)), identify(*tiny)) == [
        'sources.forcing.name ("in memory" there, "other.nc" here)',
        'sources.forcing.sha256 (absent there, "0" here)',
    ]
