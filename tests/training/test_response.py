"""Forcings are pushed back in training as they are in the benchmark, and cropland that appears is a loss."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from xland.errors import ConfigurationError
from xland.models.inputs import Channel, InputSpec
from xland.training.configuration import read_configuration
from xland.training.response import PushBack, more_cropland
from xland.vocabulary import CROP_STATES, CROPLAND, LUH2_STATES

USED = (*CROP_STATES, "pastr", "range", "urban")


def luh2_inputs() -> InputSpec:
    """The channels of the shipped model, normalised by numbers of their own."""
    inputs = read_configuration("luh2-0p05").inputs
    names = [channel.name for channel in inputs.coarse]
    return inputs.normalised({name: (0.1 + 0.01 * n, 0.3 + 0.02 * n) for n, name in enumerate(names)})


def states(seed: int, shape=(2, 3)) -> dict[str, np.ndarray]:
    """Fractions of a cell that sum to 1, one step."""
    random = np.random.default_rng(seed)
    shares = random.dirichlet(np.full(len(LUH2_STATES), 0.4), size=(1, *shape)).astype(np.float32)
    return {name: shares[..., number] for number, name in enumerate(sorted(LUH2_STATES))}


def push_states(values: dict[str, np.ndarray], keep: float) -> dict[str, np.ndarray]:
    """What the benchmark of distant periods does with the states themselves."""
    free = (1 - keep) * sum(values[name] for name in USED)
    forest, grass = values["primf"] + values["secdf"], values["primn"] + values["secdn"]
    wooded = np.where(forest + grass > 1e-6, forest / np.maximum(forest + grass, 1e-6), 0)
    used = {name: values[name] * keep for name in USED}
    primary = {"primf": values["primf"] + free * wooded, "primn": values["primn"] + free * (1 - wooded)}
    return {**values, **used, **primary}


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 999), st.floats(0, 1))
def test_channels_are_those_of_the_states_pushed_back(seed, keep):
    inputs, values = luh2_inputs(), states(seed)
    coarse = torch.from_numpy(inputs.coarse_array(values))[None]
    found = PushBack(inputs)(coarse, torch.tensor([keep]))[0].numpy()
    expected = inputs.coarse_array({name: each.astype(np.float32) for name, each in push_states(values, keep).items()})
    np.testing.assert_allclose(found, expected, atol=2e-3)


def test_cells_without_data_stay_as_they_are():
    inputs = luh2_inputs()
    empty = torch.zeros(1, inputs.coarse_channels, 2, 2)
    assert torch.equal(PushBack(inputs)(empty, torch.tensor([0.3])), empty)


def test_fractions_of_classes_are_pushed_back_too():
    inputs = read_configuration("fractions-0p05").inputs
    names = [channel.name for channel in inputs.coarse]
    shares = {name: np.full((1, 1, 1), 1 / 8, np.float32) for name in inputs.coarse_variables}
    coarse = torch.from_numpy(inputs.coarse_array(shares))[None]
    found = PushBack(inputs)(coarse, torch.tensor([0.0]))[0, :, 0, 0]
    plain = {name: n for n, name in enumerate(names) if inputs.coarse[n].transform == "none"}
    assert found[plain["cropland"]] == 0
    assert found[plain["forest"]] == pytest.approx(1 / 8 + 3 / 16)
    assert found[plain["other"]] == pytest.approx(1 / 8)


@pytest.mark.parametrize(
    ("channels", "message"),
    [
        ((Channel("mixed", ("urban", "primf")), Channel("primn", ("primn",))), "'mixed' adds land under use"),
        ((Channel("urban", ("urban",)),), "no coarse channel is primary land"),
    ],
)
def test_channels_that_cannot_be_pushed_back_are_refused(channels, message):
    with pytest.raises(ConfigurationError, match=message):
        PushBack(replace(luh2_inputs(), coarse=channels))


def test_only_cropland_that_appears_is_a_loss():
    scores = torch.zeros(1, 8, 3)
    scores[0, CROPLAND] = torch.tensor([-1.0, -1.0, 2.0])
    pushed = torch.zeros(1, 8, 3)
    pushed[0, CROPLAND] = torch.tensor([1.0, -2.0, 5.0])
    pushed.requires_grad_()
    found = more_cropland(pushed, scores)
    torch.testing.assert_close(found, torch.tensor([[1.3, 0.0, 0.0]]))
    found.sum().backward()
    assert pushed.grad[0, CROPLAND].tolist() == [1, 0, 0]
