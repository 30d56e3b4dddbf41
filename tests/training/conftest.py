"""The tests beside this file run on one thread, and share what was prepared and trained once."""

from __future__ import annotations

import sys
from dataclasses import replace

import pytest

from tests.threads import one_thread
from tests.worlds import tiny_configuration, tiny_world

__all__ = ["one_thread"]


def given(years=(2000, 2001)):
    """Forcing, static predictors and maps of the tiny world, as a training takes them."""
    coarse, static, maps = tiny_world(years)
    return {"forcing": coarse, "static": static, "target": maps}


def paired(configuration, forcing, target=None):
    """The configuration with years of forcing and target that belong together."""
    return replace(
        configuration,
        data=replace(configuration.data, forcing_years=forcing, target_years=forcing if target is None else target),
    )


FEW_ROUNDS = ("xland.training.learn.grain._ROUNDS", 2)
"""Nearly all time of a card goes into the grain of draws, on many small tiles."""


@pytest.fixture(scope="session")
def tiny():
    """The configuration with normalised inputs, and the material, of a training on one year of the tiny world."""
    from xland.training.data.material import gather

    return gather(tiny_configuration(), **given((2000,)))


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A model that a whole training of four epochs made, and what it reported."""
    from xland.training.run import train

    reports, folder = [], tmp_path_factory.mktemp("trained") / "model"
    with pytest.MonkeyPatch.context() as patch:
        for name in ("codecarbon", "tensorboard"):
            patch.setitem(sys.modules, name, None)
        patch.setattr(*FEW_ROUNDS)
        model = train(tiny_configuration(epochs=4), folder, **given((2000,)), report=lambda *call: reports.append(call))
    return model, reports


@pytest.fixture
def uncalibrated(monkeypatch):
    """Trainings leave out what takes longer than they do: the fit of their card, codecarbon and TensorBoard."""
    for name in ("codecarbon", "tensorboard"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setattr("xland.training.learn.loop.fit_card", lambda *_, **__: None)


@pytest.fixture
def few_rounds(monkeypatch):
    """The grain of draws is fitted as that of the model `trained`, and not too well."""
    monkeypatch.setattr(*FEW_ROUNDS)
