"""The tests beside this file run on one thread, and share what was prepared and trained once."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

from tests.threads import one_thread
from tests.worlds import tiny_configuration, tiny_world

__all__ = ["one_thread"]


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
    configuration = tiny_configuration(epochs=4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "codecarbon", None)
        model = train(
            configuration, folder, forcing=coarse, static=static, target=maps, report=lambda *call: reports.append(call)
        )
    return model, reports


@pytest.fixture
def uncalibrated(monkeypatch):
    """Trainings leave out what takes longer than they do: the fit of their card, codecarbon and TensorBoard."""
    monkeypatch.setitem(sys.modules, "codecarbon", None)
    no_package = SimpleNamespace(util=SimpleNamespace(find_spec=lambda _: None))
    monkeypatch.setattr("xland.training.learn.watching.importlib", no_package)
    monkeypatch.setattr("xland.training.learn.loop.fit_card", lambda *_, **__: None)
