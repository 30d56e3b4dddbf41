from __future__ import annotations

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.worlds import tiny_inputs, tiny_world
from xland.errors import ModelError, StaticError
from xland.models.inputs import Channel, InputSpec, published_inputs
from xland.records import read_record
from xland.vocabulary import CROP_STATES, LUH2_STATES


def arrays(dataset):
    return {str(name): dataset[name].values for name in dataset}


@pytest.fixture
def world():
    return tiny_world()


def test_published_inputs_have_35_channels_at_two_steps():
    inputs = published_inputs()
    assert inputs.channels == 35
    assert inputs.coarse_channels == 2 * (12 + 2)
    assert len(inputs.static) == 6
    assert inputs.fine_channels == 6 + 1
    assert set(inputs.coarse_variables) == set(LUH2_STATES)
    assert inputs.optional_coarse_variables == ("secma", "secmb")
    assert inputs.factor == 25
    assert inputs.resolution * inputs.factor == 0.25
    inputs = tiny_inputs("one_hot", (0, -1))
    assert (inputs.coarse_channels, inputs.fine_channels, inputs.channels) == (14, 3 + 8, 25)
    assert inputs.static_variables == ("elevation", "abs_latitude", "land_share")


def read_inputs(entries):
    return read_record(InputSpec, entries, "inputs", ModelError)


@pytest.mark.parametrize("inputs", [tiny_inputs(), tiny_inputs("one_hot", (0, -1)), published_inputs()])
def test_a_specification_survives_the_model_card(inputs):
    assert read_inputs(json.loads(json.dumps(asdict(inputs)))) == inputs


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prior": "all"}, "prior must be one of 'none', 'code', 'one_hot', not 'all'"),
        ({"window": 42}, "window 42 and stride 20 must be multiples of factor 4"),
        ({"factor": 0}, "factor must be a whole number of at least 1 and at most 1000, not 0"),
        ({"stride": 60}, "stride 60 must be at most the window 40, and at least 1/16 of it"),
        ({"window": 160, "stride": 8}, "stride 8 must be at most the window 160, and at least 1/16 of it"),
        ({"stride": 16}, "360 cells round the globe must be a multiple of stride 16"),
        ({"steps": ()}, "steps must be a list of at least 1 and at most 50 entries"),
        ({"steps": (0, 0)}, "steps must be different years"),
        ({"static": tiny_inputs().static * 2}, "channel names must be unique"),
        ({"classes": ("urban", "cropland")}, "order of their codes"),
        ({"coarse": (Channel("has_data", ()),)}, "coarse channel"),
        ({"resolution": 0.0}, "resolution must be a finite number of at least 0.0001"),
    ],
)
def test_contradictions_in_a_specification_are_named(change, message):
    with pytest.raises(ValueError, match=message) as caught:
        replace(tiny_inputs(), **change)
    assert type(caught.value).__module__ == "xland.errors"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"colour": 1}, "unknown entries 'colour'"),
        ({"coarse": 3}, "coarse must be a list of at least 1 and at most 500 entries, each a table of entries, not 3"),
        ({"steps": [True]}, "steps must be a list .* each a whole number .* not .True,"),
        ({"static": [{"name": "a", "sources": []}]}, "static channels need at least one variable as source, but a has"),
        (
            {"static": [{"name": "a", "sources": ["a"], "transform": "exp"}]},
            "static 1: channel 'a': transform must be one of .*, not 'exp'",
        ),
        (
            {"static": [{"name": "a", "sources": ["a"], "mean": float("nan")}]},
            "mean must be a finite number .*, not nan",
        ),
    ],
)
def test_entries_that_cannot_be_read_are_named(change, message):
    with pytest.raises(ModelError, match=message):
        read_inputs({**asdict(tiny_inputs()), **change})


def test_coarse_channels_come_in_order_all_of_one_step_before_the_next(world):
    states = arrays(world[0])
    inputs = tiny_inputs(steps=(0, -1))
    stacked = inputs.coarse_array(states)
    assert stacked.dtype == np.float32
    assert stacked.shape == (14, 45, 90)
    data = np.isfinite(states["primf"])
    for step in (0, 1):
        layers = stacked[7 * step : 7 * step + 7]
        crops = sum(states[name][step] for name in CROP_STATES)
        np.testing.assert_allclose(layers[0], np.nan_to_num(states["primf"][step] + states["secdf"][step]), atol=1e-7)
        np.testing.assert_allclose(layers[1], np.nan_to_num(crops), atol=1e-7)
        np.testing.assert_allclose(layers[4], np.nan_to_num(np.sqrt(states["urban"][step])), atol=1e-7)
        np.testing.assert_array_equal(layers[6], data[step])
    assert not np.array_equal(stacked[1], stacked[8]), "cropland differs from year to year"


def test_cells_without_data_are_zero_in_every_channel(world):
    states = arrays(world[0].isel(time=[0]))
    inputs = tiny_inputs().normalised({"forest": (0.3, 0.1), "secma": (3.0, 0.5)})
    stacked = inputs.coarse_array(states)
    empty = np.isnan(states["primf"][0])
    assert empty.any()
    assert (stacked[:, empty] == 0).all()
    assert np.isfinite(stacked).all()
    np.testing.assert_allclose(
        stacked[0, ~empty], ((states["primf"] + states["secdf"])[0, ~empty] - 0.3) / 0.1, rtol=2e-4, atol=1e-5
    )


def test_a_missing_optional_channel_is_its_mean_and_a_missing_state_is_named(world):
    states = arrays(world[0].isel(time=[0]))
    with_age = tiny_inputs().coarse_array(states)
    del states["secma"]
    without = tiny_inputs().coarse_array(states)
    assert with_age[5].any()
    assert not without[5].any()
    np.testing.assert_array_equal(np.delete(with_age, 5, 0), np.delete(without, 5, 0))
    del states["range"], states["c3per"]
    with pytest.raises(ModelError, match="needs the forcing variables c3per, range"):
        tiny_inputs().coarse_array(states)


def test_static_fields_are_normalised_and_kept_in_half_precision(world):
    fields = arrays(world[1])
    stacked = tiny_inputs().static_array(fields)
    assert stacked.dtype == np.float16
    assert stacked.shape == (3, 180, 360)
    np.testing.assert_allclose(stacked[0], (np.sqrt(fields["elevation"]) - 20) / 20, atol=2e-3)
    np.testing.assert_allclose(stacked[1], (fields["abs_latitude"] - 45) / 25, atol=2e-3)


def test_static_gaps_in_the_ocean_are_filled_and_on_land_named(world):
    fields = arrays(world[1])
    ocean = fields["land_share"] == 0
    fields["elevation"] = np.where(ocean, np.nan, fields["elevation"])
    assert (tiny_inputs().static_array(fields)[0][ocean] == 0).all()
    row, column = np.argwhere(~ocean)[5]
    fields["elevation"][row, column] = np.inf
    fields["elevation"][row, column + 1 if not ocean[row, column + 1] else column] = np.nan
    bad = int((~np.isfinite(fields["elevation"]) & ~ocean).sum())
    with pytest.raises(StaticError, match=f"'elevation' is NaN or infinite in {bad} cells of land"):
        tiny_inputs().static_array(fields)


def test_missing_and_large_static_fields(world):
    fields = arrays(world[1])
    fields["elevation"] = np.full_like(fields["elevation"], 1e30)
    assert np.isfinite(tiny_inputs().static_array(fields)).all(), "half precision does not overflow"
    inputs = replace(tiny_inputs(), static=())
    assert inputs.static_array(fields).shape == (0, 180, 360)
    del fields["elevation"], fields["land_share"]
    with pytest.raises(StaticError, match="lack elevation, land_share"):
        tiny_inputs().static_array(fields)
    with pytest.raises(StaticError, match="land_share"):
        inputs.static_array({})


@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from(["none", "sqrt", "signed_sqrt", "log1p"]),
    st.floats(-50, 50),
    st.floats(0.01, 50),
    st.lists(st.floats(-5000, 9000, width=32), min_size=1, max_size=20),
)
def test_channels_keep_order_and_their_mean_is_zero(transform, mean, scale, values):
    channel = Channel("x", ("x",), transform, mean, scale)
    given_values = np.sort(np.array(values, dtype=np.float32))
    found = channel.compute({"x": given_values})
    assert found.dtype == np.float32
    assert (np.diff(found) >= 0).all()
    assert np.isfinite(found).all()
    plain = Channel("x", ("x",), transform).compute({"x": given_values}).astype(np.float64)
    tolerance = 1e-5 * (np.abs(plain).max() + abs(mean) + 1) / scale
    np.testing.assert_allclose(found, (plain - mean) / scale, atol=tolerance, rtol=1e-5)


@pytest.mark.parametrize("kind", ["float64", "float16"])
def test_nan_stays_nan_in_a_channel(kind):
    values = {"a": np.array([1.0, np.nan], kind), "b": np.array([3.0, 1.0], kind)}
    np.testing.assert_array_equal(Channel("x", ("a", "b"), "sqrt").compute(values), np.array([2, np.nan], "f4"))
    assert values["a"][0] == 1, "the field itself is not touched"
