"""The tests beside this file run on one thread, and share what was prepared and trained once."""

from __future__ import annotations

import sys

import pytest

from tests.threads import one_thread
from tests.worlds import tiny_configuration, tiny_world

__all__ = ["one_thread"]

FEW_ROUNDS = ("xland.training.learn.grain._ROUNDS", 2)
"""Nearly all time of a card goes into the grain of draws, on many small tiles."""


@pytest.fixture(scope="session")
def tiny():
    """The configuration with normalised inputs, and the material, of a training on one year of the tiny world."""
    from xland.training.data.material import gather

    coarse, static, maps = tiny_world((2000,))
    return gather(tiny_configuration(), forcing=coarse, static=static, target=maps)


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A model that a whole training of four epochs made, and what it reported."""
    from xland.training.run import train

    coarse, static, maps = tiny_world((2000,))
    reports, folder = [], tmp_path_factory.mktemp("trained") / "model"
    data = {"forcing": coarse, "static": static, "target": maps}
    with pytest.MonkeyPatch.context() as patch:
        for name in ("codecarbon", "tensorboard"):
            patch.setitem(sys.modules, name, None)
        patch.setattr(*FEW_ROUNDS)
        model = train(tiny_configuration(epochs=4), folder, **data, report=lambda *call: reports.append(call))
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
