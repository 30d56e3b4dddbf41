from __future__ import annotations

import json
import math
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.training.commands import CONFIGURATION
from xland.errors import ConfigurationError
from xland.geo.split import Part, assign_years
from xland.models.inputs import published_inputs
from xland.training.configuration import (
    Configuration,
    Schedule,
    list_configurations,
    parse_configuration,
    read_configuration,
)
from xland.training.rollout import Rollout

SCHEDULE = "epochs = 3\npatch = 40\npatch_stride = 20"
YEARS = "forcing_years = [2015]\ntarget_years = [2019]\n[inputs]"
TOML = CONFIGURATION.format(folder=".", schedule=SCHEDULE).replace("depth = 1", "depth = 2").replace("[inputs]", YEARS)


def values(**changes):
    """Values of the file, with sections changed by key and a value of ... taken out."""
    found = tomllib.loads(TOML)
    for name, change in changes.items():
        found[name] = {**found.get(name, {}), **change} if isinstance(change, dict) else change
        if change is ...:
            del found[name]
    return found


def test_a_file_is_read_with_everything_it_says(tmp_path):
    path = tmp_path / "tiny.toml"
    path.write_text(TOML)
    configuration = read_configuration(path)
    assert configuration == read_configuration(str(path)) == parse_configuration(values())
    assert (configuration.name, configuration.data.forcing_years) == ("tiny", (2015,))
    assert configuration.inputs.coarse[0].sources == ("primf", "secdf")
    assert configuration.inputs.static[0].transform == "signed_sqrt"
    assert (configuration.architecture.width, configuration.schedule.epochs) == (4, 3)
    assert configuration.schedule.batch == Schedule().batch


@pytest.mark.parametrize("name", list_configurations())
def test_shipped_configurations_are_read_by_name_and_build_their_network(name):
    from xland.models.networks.unet import DownscalingNetwork

    configuration = read_configuration(name)
    assert isinstance(configuration, Configuration)
    assert configuration.name == name
    network = DownscalingNetwork(configuration.inputs, configuration.architecture)
    assert 4 * sum(p.numel() for p in network.parameters()) < 10_000_000, "shipped models stay under 10 MB"


@pytest.mark.parametrize(("to", "step", "adjacent"), [("future", -1, "before"), ("past", 1, "after")])
def test_published_configurations_differ_in_direction_alone_and_say_what_is_ours(to, step, adjacent):
    configuration, future = read_configuration(f"published-{to}"), read_configuration("published-future")
    same = {"name": f"published-{to}", "title": configuration.title, "notes": configuration.notes}
    assert f"the year {adjacent}" in configuration.title
    assert configuration == replace(future, inputs=replace(future.inputs, prior_step=step), **same)
    assert configuration.inputs == replace(published_inputs(), prior_step=step)
    assert configuration.inputs.channels == 35
    assert (configuration.augmentation.prior_masked, configuration.schedule.patch) == (0.6, 256)
    assert not configuration.augmentation.flip_north_south, "the aspect would change its sign"
    assert (configuration.architecture.kind, configuration.rollout) == ("unet", Rollout(years=3, own_maps=1.0))
    years = assign_years(range(1959, 2017), configuration.data.train_years, configuration.data.test_years)
    assert [year for year, part in years.items() if part == Part.TRAIN] == [*range(1960, 2001)]
    assert [year for year, part in years.items() if part == Part.TEST] == [*range(2001, 2016)]
    published, _, ours = configuration.notes.partition("Ours:")
    assert "arXiv 2606.11793" in published
    assert "scheduled sampling" in ours


@pytest.mark.parametrize("source", ["no-such-name", "folder/none.toml", Path("none.toml")])
def test_a_configuration_that_does_not_exist_is_named_with_the_shipped_ones(source):
    with pytest.raises(ConfigurationError, match=r"no configuration .*none|no-such-name.*fractions-0p05, luh2-0p05"):
        read_configuration(source)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"colour": "red"}, "^mine: unknown entries 'colour'"),
        ({"schedule": {"epoch": 3, "bacth": 2}}, r"\[schedule\]: unknown entries 'bacth', 'epoch': did you mean 'b"),
        ({"inputs": {"coarse": [{"name": "a", "sources": ["a"], "unit": "1"}]}}, "unit"),
        *(({entry: ...}, f"mine lacks {entry}") for entry in ("name", "title", "data", "inputs")),
        (
            {"inputs": {"static": [{"name": "a", "sources": ["a"], "transform": "exp"}]}},
            r"\[inputs\], static 1: channel 'a': transform must be one of .*, not 'exp'",
        ),
        ({"schedule": {"batch": 0}}, "batch must be a whole number of at least 1"),
        ({"schedule": {"patch_stride": 18}}, "patch_stride 18 must be a multiple of factor 4"),
        ({"schedule": {"patch": 42}}, "patches of 42 cells cannot be halved 2 times"),
        (
            {"schedule": {"patch": 42}, "architecture": {"kind": "context", "depth": 1}},
            "patch 42 must be a multiple of factor 4 for the architecture 'context'",
        ),
        ({"schedule": {"precision": "float16"}}, "precision must be one of 'float32', 'bfloat16', not 'float16'"),
        ({"rollout": {"own_maps": 0.5}}, "with own_maps 0.5 a sample needs more than one year"),
        ({"objective": {"label_smoothing": 1.0}}, "label_smoothing must be .* below 1, not 1.0"),
        ({"rollout": {"years": 2}}, "rollouts of several years need inputs with a prior map"),
        ({"schedule": {"patch_stride": 44}}, "patch_stride 44 leaves gaps between patches of 40"),
        ({"architecture": {"depth": 3}, "schedule": {"patch": 36}}, "patches of 36 cells cannot be halved 3 times"),
        ({"data": {"forcing": ...}}, r"\[data\] lacks forcing"),
        ({"data": 5}, r"\[data\] must be a table of entries, not 5"),
        ({"data": {"train_years": [1960]}}, "train_years must be a list of 2 entries: .* or an empty list"),
        ({"schedule": {"learning_rate": math.inf}}, "learning_rate must be a finite number above 0, not inf"),
        ({"schedule": {"seed": 10**5000}}, "seed must be a whole number .*, not a number of about 5000 digits"),
    ],
)
def test_unknown_wrong_and_contradictory_entries_are_named(changes, message):
    changed = values(**changes)
    for section in changed.values():
        if isinstance(section, dict) and ... in section.values():
            del section[next(name for name, value in section.items() if value is ...)]
    with pytest.raises(ConfigurationError, match=message):
        parse_configuration(changed, "mine")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"name = ", "damaged and cannot be read as TOML"),
        (b"\xff\xfe", "damaged and cannot be read as TOML"),
        (b"a = " + b"[" * 10_000, "nested too deep"),
        (b"a." * 100_000 + b"a = 1", "a line has more than 250 dots"),
        (b"#" * 2**21, "has 2097152 bytes, more than the 262144 that are read"),
    ],
)
def test_a_file_that_is_damaged_or_would_cost_too_much_is_named(tmp_path, content, message):
    (tmp_path / "bad.toml").write_bytes(content)
    with pytest.raises(ConfigurationError, match=rf"bad\.toml .*{message}"):
        read_configuration(tmp_path / "bad.toml")


ANYTHING = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=9)),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=9), inner, max_size=4)),
    max_leaves=9,
)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_anything_in_place_of_an_entry_is_named_or_a_configuration(data):
    changed = values()
    section = data.draw(st.sampled_from([None, *(name for name, each in changed.items() if isinstance(each, dict))]))
    table = changed if section is None else changed[section]
    name = data.draw(st.sampled_from(sorted(table)))
    table[name] = data.draw(ANYTHING)
    try:
        found = parse_configuration(changed)
    except ConfigurationError:
        return
    assert parse_configuration(json.loads(json.dumps(found.to_dict(), allow_nan=False))) == found
