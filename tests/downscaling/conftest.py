"""Untrained tiny models: what matters here is where values come from, not how good they are."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.worlds import tiny_checkpoint, tiny_inputs, tiny_world
from xland.downscaling.engine import Engine


@pytest.fixture(scope="session")
def world():
    return tiny_world((2000, 2001, 2002))


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    return tiny_checkpoint(tmp_path_factory.mktemp("model"), tiny_inputs())


@pytest.fixture(scope="session")
def context_model(tmp_path_factory):
    architecture = {"kind": "context", "depth": 1, "head": 4, "detail": True}
    return tiny_checkpoint(tmp_path_factory.mktemp("context"), tiny_inputs(), **architecture)


@pytest.fixture(scope="session")
def rolling_model(tmp_path_factory):
    return tiny_checkpoint(tmp_path_factory.mktemp("rolling"), tiny_inputs(prior="one_hot"))


@pytest.fixture(scope="session")
def past_model(tmp_path_factory):
    inputs = replace(tiny_inputs(prior="one_hot"), prior_step=1)
    return tiny_checkpoint(tmp_path_factory.mktemp("past"), inputs)


@pytest.fixture(scope="session")
def two_step_model(tmp_path_factory):
    return tiny_checkpoint(tmp_path_factory.mktemp("steps"), tiny_inputs(steps=(0, -1)))


@pytest.fixture
def windows(monkeypatch):
    """How many windows went through the network."""
    run, counted = Engine.run, []

    def count(self, coarse, *given):
        counted.extend(coarse)
        return run(self, coarse, *given)

    monkeypatch.setattr(Engine, "run", count)
    return counted
