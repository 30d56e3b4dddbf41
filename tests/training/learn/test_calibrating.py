from __future__ import annotations

import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import hypothesis
import numpy as np
import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

from tests.training.conftest import given
from tests.worlds import COARSE, FACTOR, tiny_checkpoint
from xland.cli import main
from xland.errors import CheckpointError, ConfigurationError, ModelError
from xland.geo.split import Part
from xland.models import join
from xland.models.applicability import static_means
from xland.models.calibration import calibration_error
from xland.models.checkpoint import APPLICABILITY, CARD, WEIGHTS, read_checkpoint
from xland.training.learn import calibrating
from xland.training.learn.calibrating import (
    calibrate,
    choose_prototypes,
    fit_class_offsets,
    fit_scaling,
    training_cells,
)

FITTED = ("calibration", "decision", "draws", "applicability", "validation")
CLASSES = 4


def data():
    return given((2000,))


@pytest.fixture
def folder(trained, tmp_path):
    return shutil.copytree(trained[0].folder, tmp_path / "model")


@pytest.mark.usefixtures("few_rounds")
def test_the_command_gives_an_old_model_what_a_training_ends_with(trained, folder, tmp_path, capsys):
    """A version that knew no calibration made it."""
    card = json.loads((folder / CARD).read_text())
    (folder / CARD).write_text(json.dumps({name: value for name, value in card.items() if name not in FITTED}))
    (folder / APPLICABILITY).unlink()
    assert read_checkpoint(folder).calibration.is_none
    joined = calibrate(join([trained[0], folder], tmp_path / "joined"), **data())
    options = []
    for name, each in data().items():
        each.to_netcdf(tmp_path / f"{name}.nc")
        options += [f"--{name}", str(tmp_path / f"{name}.nc")]
    assert main(["calibrate", str(folder), *options]) == 0
    assert f"wrote the card of {folder}: " in capsys.readouterr().out
    again, usual = read_checkpoint(folder), trained[0]
    assert again.calibration.scale == pytest.approx(usual.calibration.scale)
    assert again.decision == usual.decision
    assert again.grain == usual.grain is not None
    assert abs(again.card["draws"]["validation_boundary_error"]["all"]) < 0.3
    np.testing.assert_array_equal(again.applicability.prototypes, usual.applicability.prototypes)
    assert (folder / WEIGHTS).read_bytes() == (usual.folder / WEIGHTS).read_bytes()
    assert again.card["validation"] == usual.card["validation"]
    assert joined.calibration.scale == pytest.approx(usual.calibration.scale), "the mean of equal members"
    assert joined.card["validation"] == usual.card["validation"]
    fitted = again.card["calibration"]
    assert sum(fitted["pixels_of_classes"]) > 500
    assert fitted["cells_of_the_split"] > 20
    losses, error = fitted["cross_validated_loss"], fitted["validation_calibration_error"]
    assert losses[fitted["method"]] == min(losses["temperature"], losses["vector"])
    assert 0 <= error["after"] < error["before"]


@pytest.mark.parametrize(
    ("change", "what", "reason"),
    [
        (lambda given: given["static"].update({"elevation": given["static"].elevation / 2 + 100}), "data", "elevation"),
        (lambda given: given.update(target=given["target"].where(given["target"] != 2, 5)), "maps", "pixels"),
    ],
)
def test_other_data_than_those_of_the_training_are_refused_and_the_card_stays(folder, change, what, reason):
    given = data()
    change(given)
    before = (folder / CARD).read_bytes()
    with pytest.raises(ConfigurationError, match=f"not the {what} that 'tiny' was trained on: .* {reason}"):
        calibrate(folder, **given)
    assert (folder / CARD).read_bytes() == before


def test_several_models_and_one_whose_card_does_not_tell_of_its_training_are_refused(tmp_path, monkeypatch):
    tiny_checkpoint(tmp_path / "model")
    with pytest.raises(CheckpointError, match=r"does not say how the model was trained: a model of `xland train`"):
        calibrate(tmp_path / "model", **data())
    ensemble = SimpleNamespace(members=(1, 2))
    monkeypatch.setattr(calibrating, "find_model", lambda model: ensemble)
    with pytest.raises(ModelError, match="one by one, not 2 together"):
        calibrate(["a", "b"])


def drawn(scale, bias, seed=0, pixels=4000):
    """Scores, and classes drawn with the probabilities of the scaled ones, in ten places."""
    random = np.random.default_rng(seed)
    scores = random.normal(0, 2, size=(pixels, CLASSES)).astype(np.float32)
    probability = torch.from_numpy(scores * np.asarray(scale) + np.asarray(bias)).softmax(dim=1).numpy()
    target = (probability.cumsum(axis=1) < random.random((pixels, 1))).sum(axis=1).clip(max=CLASSES - 1)
    return scores, target.astype(np.uint8), np.arange(pixels) // (pixels // 10), np.ones(pixels)


def test_the_temperature_is_found_again_and_the_calibration_error_is_small():
    scores, target, place, weight = drawn(0.3, 0)
    calibration, _, losses = fit_scaling(scores, target, place, weight)
    assert np.mean(calibration.scale) == pytest.approx(0.3, rel=0.15)
    assert losses["temperature"] <= losses["none"] + 1e-2
    probability = calibration.apply(torch.from_numpy(scores)).softmax(dim=1).numpy()
    assert calibration_error(probability.max(axis=1), probability.argmax(axis=1) == target, weight) < 0.05


def test_scales_and_biases_of_single_classes_are_found_again():
    scale, bias = np.array([0.4, 0.6, 0.9, 1.4]), np.array([0.8, -0.6, 0.2, -0.4])
    calibration, method, losses = fit_scaling(*drawn(scale, bias, pixels=8000))
    assert method == "vector"
    assert losses["vector"] < losses["temperature"] < losses["none"]
    np.testing.assert_allclose(calibration.scale, scale, rtol=0.12)
    found = np.array(calibration.bias)
    np.testing.assert_allclose(found - found.mean(), bias - bias.mean(), atol=0.15)


def test_scaling_that_helps_in_no_other_place_is_not_taken():
    """In each place the classes are shifted in a way of its own: biases learned elsewhere harm."""
    random = np.random.default_rng(3)
    parts = [drawn(0.5, random.normal(0, 2.5, CLASSES), seed=number, pixels=400)[:2] for number in range(10)]
    scores, target = (np.concatenate(each) for each in zip(*parts, strict=True))
    *_, place, weight = drawn(0.5, 0)
    calibration, method, losses = fit_scaling(scores, target, place, weight)
    assert losses["vector"] > losses["temperature"]
    assert method == "temperature"
    assert len(set(calibration.scale)) == 1
    assert not any(calibration.bias)


def test_a_class_without_pixels_keeps_finite_numbers():
    scores, target, place, weight = drawn([1, 1, 1, 1], [0, 0, 0, -40])
    assert not (target == 3).any()
    calibration, *_ = fit_scaling(scores, target, place, weight)
    assert np.abs(calibration.bias).max() < 20
    assert 0.01 < min(calibration.scale) < max(calibration.scale) < 100


def test_pixels_count_by_their_area_and_one_place_alone_proves_nothing():
    """Half of the pixels come from sharper scores; with all the area they decide alone."""
    parts = zip(drawn(2.0, 0, seed=1), drawn(0.5, 0, seed=2), strict=True)
    scores, target, place, _ = (np.concatenate(each) for each in parts)
    weight = np.repeat([1.0, 1e-6], len(place) // 2)
    assert np.mean(fit_scaling(scores, target, place, weight)[0].scale) == pytest.approx(2.0, rel=0.1)
    calibration, method, _ = fit_scaling(scores, target, np.zeros_like(place), weight)
    assert method == "none"
    assert calibration.is_none


def merit(predicted, target):
    found = [(predicted == c, target == c) for c in np.unique(target)]
    return (predicted == target).mean() + np.mean([(one & two).sum() / (one | two).sum() for one, two in found])


@settings(max_examples=5, deadline=None)
@hypothesis.given(st.integers(0, 1000))
def test_offsets_never_lower_the_merit_they_are_fitted_for(seed):
    random = np.random.default_rng(seed)
    target = random.choice([1, 2, 4], 600, p=[0.05, 0.6, 0.35]).astype(np.uint8)
    scores = random.normal(size=(600, 8)).astype(np.float32)
    scores[np.arange(600), target] += 1
    offsets = fit_class_offsets(scores, target)
    assert merit((scores + offsets).argmax(1), target) >= merit(scores.argmax(1), target) - 1e-9
    assert not offsets[[0, 3, 5, 6, 7]].any(), "only classes that are there have an offset"
    assert np.abs(offsets).max() <= 4


def test_offsets_bring_back_a_neglected_class():
    random = np.random.default_rng(0)
    target = np.where(random.random(4000) < 0.1, 1, 2).astype(np.uint8)
    scores = random.normal(0, 0.5, (4000, 8)).astype(np.float32)
    scores[:, [0, *range(3, 8)]] = -10
    scores[np.arange(4000), target] += 1.5
    scores[:, 1] -= 3
    before, after = scores.argmax(1), (scores + fit_class_offsets(scores, target)).argmax(1)
    assert (before == 1).mean() < 0.02
    assert (after == 1).mean() > 0.05
    assert merit(after, target) > merit(before, target) + 0.2


@pytest.fixture(scope="module")
def cells(tiny):
    return training_cells(tiny[1])


def test_the_inputs_of_all_training_cells_with_land_are_collected(tiny, cells):
    material, (features, fold) = tiny[1], cells
    source = material.source
    land = (source.target[0] != 255).reshape(*(45, FACTOR, 90, FACTOR)).any(axis=(1, 3))
    assert len(features) == (land & (material.part == Part.TRAIN)).sum()
    static = static_means(source.static, source.target[0] != 255, FACTOR)
    row, column = np.argwhere(land & (material.part == Part.TRAIN))[0]
    expected = np.concatenate([source.coarse[0, :, row, column], static[:, row, column]])
    assert (np.abs(features - expected).max(axis=1) < 1e-6).any()
    assert len(np.unique(fold)) > 50
    few = choose_prototypes(features, fold, count=100)
    assert len(few.prototypes) == 100
    assert cdist(features, few.prototypes).min(axis=1).max() < 0.6 * few.typical, "they stand for many inputs"
    assert choose_prototypes(features, np.zeros_like(fold)) is None, "of one place"
    nowhere = replace(tiny[1], part=np.full_like(tiny[1].part, Part.NONE))
    assert choose_prototypes(*training_cells(nowhere)) is None


def test_typical_distance_and_threshold_are_those_of_the_paper_on_a_small_table():
    """Every point is a prototype here, so that a brute-force loop over folds must give the same."""
    random = np.random.default_rng(0)
    features = random.normal(size=(300, 3)).astype(np.float16).astype(np.float32)
    fold = random.integers(0, 10, 300)
    fitted = choose_prototypes(features, fold, count=300)
    distance = cdist(features, features)
    others = fold[:, None] != fold[None]
    assert fitted.typical == pytest.approx(distance[others].mean())
    index = np.array([row[mask].min() for row, mask in zip(distance, others, strict=True)]) / distance[others].mean()
    lower, upper = np.quantile(index, [0.25, 0.75])
    assert fitted.threshold == pytest.approx(index[index <= upper + 1.5 * (upper - lower)].max())


def test_training_inputs_lie_within_and_inputs_far_from_them_outside(tiny, trained):
    material, fitted = tiny[1], trained[0].applicability
    source = material.source
    index = fitted.distance(source.coarse[0], static_means(source.static, source.target[0] != 255, FACTOR))
    assert index.shape == COARSE.shape
    known = np.isfinite(index)
    assert index[known & (material.part == Part.TRAIN)].max() < 0.05
    assert (index[known & (material.part == Part.TEST)] <= fitted.threshold).mean() > 0.85
    pushed = fitted.distance(source.coarse[0] + 10, static_means(source.static, source.target[0] != 255, FACTOR))
    assert (pushed[known] > fitted.threshold).all()
