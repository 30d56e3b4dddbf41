from __future__ import annotations

import pytest

from tests.worlds import tiny_checkpoint
from xland import models
from xland.errors import CheckpointError, ModelError
from xland.models import find_model, list_models


@pytest.fixture
def shelf(tmp_path, monkeypatch):
    """A folder of shipped models with one in it."""
    shipped = tmp_path / "shipped"
    tiny_checkpoint(shipped / "first")
    (shipped / "notes").mkdir()
    monkeypatch.setattr(models, "_SHIPPED", shipped)
    return shipped


def test_shipped_models_are_found_by_name(shelf):
    assert list_models() == ("first",)
    assert find_model("first").folder == shelf / "first"


def test_models_are_found_by_folder(shelf, tmp_path):
    mine = tiny_checkpoint(tmp_path / "mine", seed=2)
    assert find_model(tmp_path / "mine") == mine
    assert find_model(str(tmp_path / "mine")) == mine


def test_a_checkpoint_stands_for_itself(shelf):
    checkpoint = find_model("first")
    assert find_model(checkpoint) is checkpoint


def test_an_unknown_model_is_named_with_the_shipped_ones(shelf):
    with pytest.raises(ModelError, match=r"no model 'second': give the folder of a trained model or one of first"):
        find_model("second")


def test_a_path_to_a_file_is_no_model(shelf):
    with pytest.raises(ModelError, match="there is no model"):
        find_model(shelf / "first" / "card.json")


def test_a_folder_without_card_is_no_model(shelf):
    with pytest.raises(ModelError, match=r"notes is not a model: it holds no card\.json"):
        find_model(shelf / "notes")


def test_a_damaged_card_of_a_shipped_model_is_named(shelf):
    (shelf / "first" / "card.json").write_text("{")
    with pytest.raises(CheckpointError, match="damaged"):
        find_model("first")


@pytest.mark.parametrize("name", list_models())
def test_shipped_models_load_and_are_small(name):
    checkpoint = find_model(name)
    assert checkpoint.network().inputs == checkpoint.inputs
    assert sum(path.stat().st_size for path in checkpoint.folder.iterdir()) < 10_000_000
    assert checkpoint.name == name
    for entry in ("title", "licence", "data", "split", "validation", "versions"):
        assert checkpoint.card.get(entry), entry
