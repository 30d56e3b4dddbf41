"""The tests beside this file run on one thread, and share untrained models that none of them changes."""

from __future__ import annotations

import hashlib
import json
import shutil
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.threads import one_thread
from tests.worlds import tiny_checkpoint, tiny_inputs
from xland.models.checkpoint import CARD, WEIGHTS, update_card

__all__ = ["one_thread"]


@pytest.fixture(scope="session")
def original(tmp_path_factory):
    """A model folder that no test loads, so that no network of it is kept in memory."""
    folder = tmp_path_factory.mktemp("models") / "original"
    tiny_checkpoint(folder, tiny_inputs("one_hot"), seed=7)
    update_card(folder, {"decision": [0.5] * 8, "calibration": {"scale": [1.0] * 8, "bias": [0.25] * 8}})
    return folder


@pytest.fixture(scope="session")
def three(tmp_path_factory):
    """Models that differ in their seed."""
    folder = tmp_path_factory.mktemp("three")
    return tuple(tiny_checkpoint(folder / f"seed-{seed}", seed=seed) for seed in (1, 2, 3))


@pytest.fixture
def folder(original, tmp_path):
    """A model folder to change."""
    return Path(shutil.copytree(original, tmp_path / "model"))


@pytest.fixture
def breaking(monkeypatch):
    """Break off what writes files when it comes to put one of this name in its place."""

    @contextmanager
    def broken(name):
        rename = Path.replace

        def break_off(path, target):
            if target.name == name:
                raise KeyboardInterrupt
            return rename(path, target)

        with monkeypatch.context() as patched:
            patched.setattr(Path, "replace", break_off)
            with pytest.raises(KeyboardInterrupt):
                yield

    return broken


def edit_card(folder, **entries):
    """Change entries of a card by hand; those that are ... are taken out."""
    card = json.loads((folder / CARD).read_text()) | entries
    (folder / CARD).write_text(json.dumps({name: value for name, value in card.items() if value is not ...}))


def put_weights(folder, content):
    """Write weights and make the card agree with them, as an attacker would."""
    (folder / WEIGHTS).write_bytes(content)
    edit_card(folder, weights_sha256=hashlib.sha256(content).hexdigest())
