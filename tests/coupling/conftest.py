"""A tiny world and an untrained model, of which the emulator gives fields."""

from __future__ import annotations

import pytest

from tests.worlds import tiny_checkpoint, tiny_inputs, tiny_world
from xland.coupling.emulator import Emulator


@pytest.fixture(scope="session")
def world():
    return tiny_world((2000, 2001, 2002))


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    return tiny_checkpoint(tmp_path_factory.mktemp("model"), tiny_inputs())


@pytest.fixture
def make(world, model, monkeypatch, tmp_path):
    """Makes emulators of the tiny world; they are closed at the end."""
    monkeypatch.setenv("XLAND_CACHE", str(tmp_path / "user-cache"))
    made = []

    def emulator(forcing=None, **options):
        options = {"model": model, "static": world[1], "prefetch": False, **options}
        made.append(Emulator(world[0] if forcing is None else forcing, **options))
        return made[-1]

    yield emulator
    for each in made:
        each.close()
