from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from tests.worlds import tiny_checkpoint
from xland.errors import CheckpointError, ModelError
from xland.models.applicability import Applicability, nearest, static_means
from xland.models.checkpoint import APPLICABILITY, CARD, WEIGHTS, read_checkpoint, save_checkpoint, update_card

TWO = Applicability(np.array([[0.0, 0.0, 0.0], [3.0, 0.0, 4.0]], np.float32), typical=5.0, threshold=0.5)


def cell(*values):
    return np.array(values, np.float32).reshape(-1, 1, 1)


def test_the_index_is_the_distance_to_the_nearest_training_input_in_typical_distances():
    assert TWO.distance(cell(0, 0), cell(0)) == pytest.approx(0)
    assert TWO.distance(cell(0, 0), cell(1)) == pytest.approx(1 / 5)
    assert TWO.distance(cell(3, 0), cell(4 + 2.5)) == pytest.approx(2.5 / 5)
    assert TWO.distance(cell(3, 10), cell(4)) == pytest.approx(2)


def test_every_cell_gets_its_index_and_those_without_land_none():
    random = np.random.default_rng(0)
    coarse, static = random.normal(size=(2, 80, 70)), random.normal(size=(1, 80, 70))
    static[0, 3, 4] = np.nan
    index = TWO.distance(coarse, static)
    assert index.shape == (80, 70)
    assert index.dtype == np.float32
    assert np.isnan(index).sum() == 1
    assert np.isnan(index[3, 4])
    assert index[79, 5] == pytest.approx(TWO.distance(coarse[:, 79:, 5:6], static[:, 79:, 5:6])[0, 0])


def test_other_channels_than_those_of_the_training_are_refused():
    with pytest.raises(ModelError, match="learned from 3 coarse and static channels, not 2"):
        TWO.distance(cell(0), cell(0))


def test_distances_are_those_of_scipy_far_from_the_origin_too():
    random = np.random.default_rng(1)
    points, prototypes = (random.normal(100, 1, size=(n, 12)).astype(np.float32) for n in (50, 40))
    np.testing.assert_allclose(nearest(points, prototypes), cdist(points, prototypes).min(axis=1), rtol=1e-9)


def test_static_fields_are_averaged_over_land_only():
    static = np.arange(16, dtype=np.float16).reshape(1, 4, 4)
    land = np.ones((4, 4), bool)
    land[0, :2] = land[2:, 2:] = False
    means = static_means(static, land, 2)
    np.testing.assert_array_equal(means[0], [[4.5, 4.5], [10.5, np.nan]])


KEPT = Applicability(np.arange(20, dtype=np.float32).reshape(2, 10), 5.0, 0.5)
"""Of as many channels as the tiny model has."""


@pytest.fixture
def folder(tmp_path):
    tiny_checkpoint(tmp_path / "model")
    update_card(tmp_path / "model", {"notes": "kept"}, applicability=KEPT)
    return tmp_path / "model"


def test_it_is_kept_beside_the_weights(folder):
    model = read_checkpoint(folder)
    assert model.card["notes"] == "kept"
    assert model.card["applicability"]["prototypes"] == 2
    np.testing.assert_array_equal(model.applicability.prototypes, KEPT.prototypes)
    assert (model.applicability.typical, model.applicability.threshold) == (5.0, 0.5)


def test_a_model_without_it_says_so(tmp_path):
    assert tiny_checkpoint(tmp_path / "model").applicability is None


@pytest.mark.parametrize("content", [b"", b"x" * 100, None])
def test_a_damaged_or_missing_file_is_named_with_the_remedy(folder, content):
    path = folder / APPLICABILITY
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"applicability\.safetensors .* damaged: run `xland calibrate` again"):
        _ = read_checkpoint(folder).applicability


def test_a_file_of_another_training_is_refused(folder, tmp_path):
    tiny_checkpoint(tmp_path / "other")
    update_card(tmp_path / "other", {}, applicability=Applicability(2 * KEPT.prototypes, 5.0, 0.5))
    (folder / APPLICABILITY).write_bytes((tmp_path / "other" / APPLICABILITY).read_bytes())
    with pytest.raises(CheckpointError, match="damaged"):
        _ = read_checkpoint(folder).applicability


def learned(number):
    return Applicability(number * KEPT.prototypes, 5.0 * number, 0.5)


def is_of(model, number):
    same = np.array_equal(model.applicability.prototypes, learned(number).prototypes)
    return same and model.applicability.typical == model.card["number"] * 5.0 == 5.0 * number


@pytest.mark.parametrize("name", [".applicability-before.safetensors", APPLICABILITY, CARD])
def test_an_update_that_breaks_off_at_any_file_leaves_the_model_as_it_was(folder, name, breaking):
    update_card(folder, {"number": 1}, applicability=learned(1))
    for number in (2, 3):  # once broken off, it may break off again
        with breaking(name):
            update_card(folder, {"number": number}, applicability=learned(number))
        assert is_of(read_checkpoint(folder), 1)
    update_card(folder, {"number": 4}, applicability=learned(4))
    assert is_of(read_checkpoint(folder), 4)
    assert {path.name for path in folder.iterdir()} == {CARD, WEIGHTS, APPLICABILITY}


def test_an_update_that_breaks_off_after_the_card_leaves_the_new_model(folder, monkeypatch):
    update_card(folder, {"number": 1}, applicability=learned(1))
    remove = Path.unlink

    def break_off(path, **options):
        if "before" in path.name:
            raise KeyboardInterrupt
        remove(path, **options)

    monkeypatch.setattr(Path, "unlink", break_off)
    with pytest.raises(KeyboardInterrupt):
        update_card(folder, {"number": 2}, applicability=learned(2))
    assert is_of(read_checkpoint(folder), 2)


def test_a_new_model_in_the_folder_does_not_inherit_it(folder):
    save_checkpoint(folder, read_checkpoint(folder).network(), {"name": "next"})
    assert not (folder / APPLICABILITY).exists()
    assert read_checkpoint(folder).applicability is None
    assert (folder / CARD).exists()
