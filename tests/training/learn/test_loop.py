from __future__ import annotations

import csv
import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.training.conftest import given, paired
from tests.worlds import FACTOR, tiny_checkpoint, tiny_configuration, tiny_inputs, tiny_world
from xland.downscaling.call import downscale
from xland.errors import CheckpointError, ConfigurationError, StaticError, TrainingError
from xland.geo.grid import expand
from xland.geo.split import Part
from xland.models.checkpoint import APPLICABILITY, CARD, WEIGHTS, read_checkpoint
from xland.models.networks.unet import Architecture
from xland.training.data.batches import make_dataset, take_census
from xland.training.data.material import gather
from xland.training.learn import loop
from xland.training.learn.calibrating import training_cells
from xland.training.learn.group import Group
from xland.training.learn.loop import fit
from xland.training.learn.state import PREVIOUS, STATE
from xland.training.learn.validation import count_pairs, score_pairs
from xland.training.objective import Objective
from xland.training.rollout import Rollout
from xland.vocabulary import LAND_CLASSES

YEARS = (2001, 2002)


def scheduled(configuration, **changes):
    return replace(configuration, schedule=replace(configuration.schedule, **{"epochs": 4, **changes}))


def rows(folder, name="log.csv"):
    with (folder / name).open(newline="") as file:
        return [{name: float(v) for name, v in row.items() if v} for row in csv.DictReader(file)]


def weights(folder):
    return read_checkpoint(folder).network().state_dict()


def test_losses_fall_scores_beat_chance_and_both_are_reported_and_logged(trained):
    model, reports = trained
    log, logged = rows(model.folder), rows(model.folder, "steps.csv")
    assert [row["epoch"] for row in log] == [1, 2, 3, 4]
    assert log[-1]["loss"] < 0.7 * log[0]["loss"]
    assert log[-1]["accuracy"] > 0.5
    assert log[-1]["miou"] > log[0]["miou"]
    per_class = [value for name, value in log[-1].items() if name.startswith("iou_")]
    assert len(per_class) >= 4
    assert log[-1]["miou"] == pytest.approx(np.mean(per_class))
    steps = [(share, figures["loss"]) for stage, share, figures in reports if stage == "training"]
    assert [share for share, _ in steps] == pytest.approx([step / 32 for step in range(1, 33)])
    assert [share for stage, share, _ in reports if stage == "epoch"] == [0.25, 0.5, 0.75, 1.0]
    assert [(row["step"], row["loss"]) for row in logged] == [(n, loss) for n, (_, loss) in enumerate(steps, 1)]
    assert all(row["samples_per_second"] > 0 and 0 <= row["waiting"] < 1 for row in logged)


def test_the_card_says_how_the_model_came_about(trained, tiny):
    card, decision = trained[0].card, trained[0].decision
    assert (card["name"], card["training"]["epochs"], card["split"]["seed"]) == ("tiny", 4, 0)
    assert card["training"]["configuration"]["schedule"]["epochs"] == 4
    assert card["data"]["pairs"] == [[2000, 2000]]
    assert set(card["versions"]) >= {"torch", "numpy", "xarray"}
    assert trained[0].inputs == tiny[0].inputs
    assert not any(value for code, value in enumerate(decision) if code not in LAND_CLASSES)


def test_a_model_reads_no_other_static_fields_than_those_of_its_training_unless_asked_for(trained):
    coarse, static, _ = tiny_world((2000,))
    here = {"model": trained[0], "region": (-60, -60, 60, 60)}
    with pytest.raises(StaticError, match=r"static predictors of its own \(in memory\): give them with static="):
        downscale(coarse, **here)
    own = downscale(coarse, static=static.astype("float16"), **here)["land_use"].compute()
    lower = static.assign(elevation=static["elevation"] / 2)
    with pytest.raises(StaticError, match=r"trained with: elevation differ at \d+ of \d+ places; .* other_static=True"):
        downscale(coarse, static=lower, **here)["land_use"].compute()
    other = downscale(coarse, static=lower, other_static=True, **here)["land_use"].compute()
    assert bool((own != other).any())


def test_the_kept_weights_are_those_of_the_best_epoch(trained, tiny):
    data = make_dataset(tiny[0], tiny[1], Part.VALIDATION, take_census(tiny[1].source))
    figures = score_pairs(count_pairs(trained[0].network(), data, 3, Group()))
    best = rows(trained[0].folder)[trained[0].card["training"]["best_epoch"] - 1]
    assert figures["accuracy"] == pytest.approx(best["accuracy"])
    assert figures["miou"] == pytest.approx(best["miou"])


def test_resuming_a_finished_training_changes_nothing(tiny, trained):
    model = trained[0]
    files = {path.name: path.read_bytes() for path in model.folder.iterdir() if path.is_file()}
    assert fit(scheduled(tiny[0]), tiny[1], model.folder, resume=True) == model
    assert {path.name: path.read_bytes() for path in model.folder.iterdir() if path.is_file()} == files
    assert set(files) == {CARD, WEIGHTS, APPLICABILITY, STATE, PREVIOUS, "log.csv", "steps.csv"}


def test_a_model_or_state_of_another_training_is_never_overwritten_nor_resumed(tiny, trained, tmp_path):
    folder, other = trained[0].folder, scheduled(tiny[0], learning_rate=0.05)
    with pytest.raises(
        ConfigurationError, match="holds a training state: pass resume=True to go on, or choose another folder"
    ):
        fit(scheduled(tiny[0]), tiny[1], folder)
    finished = tiny_checkpoint(tmp_path / "model")
    with pytest.raises(ConfigurationError, match="holds a model, which is not replaced: remove it, or choose another"):
        fit(scheduled(tiny[0]), tiny[1], finished.folder)
    with pytest.raises(CheckpointError, match=r"schedule\.learning_rate \(0\.02 there, 0\.05 here\)$"):
        fit(other, tiny[1], folder, resume=True)
    data = replace(tiny[1], description={**tiny[1].description, "pairs": [[1999, 1999]]})
    with pytest.raises(CheckpointError, match=r"sources\.pairs \(\[\[2000, 2000\]\] there, \[\[1999, 1999\]\] here\)"):
        fit(scheduled(tiny[0]), data, folder, resume=True)


@pytest.mark.usefixtures("uncalibrated")
def test_the_best_epoch_is_kept_and_not_the_last(tiny, tmp_path, monkeypatch):
    merits = iter([0.5, 0.75, 0.25])
    monkeypatch.setattr(loop, "score_pairs", lambda _: {"accuracy": next(merits), "miou": 0.0})
    card = fit(scheduled(tiny[0], epochs=3), tiny[1], tmp_path).card
    assert (card["training"]["best_epoch"], card["validation"]["accuracy"]) == (2, 0.75)


@pytest.mark.usefixtures("uncalibrated")
def test_seeds_fix_the_weights_and_test_cells_are_never_learned_from_nor_judged(tiny, tmp_path):
    """Nonsense in the test cells of the target leaves the weights as they are."""
    configuration, material = tiny
    target = material.source.target.copy()
    test = expand(material.part == Part.TEST, FACTOR)
    target[:, test] = np.where(target[:, test] == 255, 255, 4)
    changed = replace(material, source=replace(material.source, target=target))
    fit(scheduled(configuration, epochs=1), material, tmp_path / "true")
    fit(scheduled(configuration, epochs=1), changed, tmp_path / "nonsense")
    fit(scheduled(configuration, epochs=3, validate_every=2, seed=1), material, tmp_path / "other")
    first, second, other = (weights(tmp_path / name) for name in ("true", "nonsense", "other"))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)
    assert rows(tmp_path / "true")[0]["miou"] == rows(tmp_path / "nonsense")[0]["miou"]
    assert ["accuracy" in row for row in rows(tmp_path / "other")] == [False, True, True], "the end is never missed"


@pytest.mark.usefixtures("uncalibrated")
@pytest.mark.parametrize(
    ("inputs", "rollout", "architecture"),
    [
        (("code", (0, -1)), Rollout(), Architecture(kind="unet", width=4, depth=1, head=6)),
        (("one_hot",), Rollout(years=2, own_maps=1.0), Architecture(width=4, depth=1, members=2)),
    ],
)
def test_inputs_of_several_steps_and_samples_of_several_years_train_on_drawn_points(
    tmp_path, inputs, rollout, architecture
):
    configuration = tiny_configuration(tiny_inputs(*inputs), epochs=1, samples=6, points=50)
    objective = Objective(class_weight_power=0.5, label_smoothing=0.05)
    configuration = replace(configuration, rollout=rollout, architecture=architecture, objective=objective)
    data = given((2000, *YEARS))
    maps = data.pop("target")
    made = gather(paired(configuration, YEARS), **data, target=maps[1:], prior=maps)
    model = fit(*made, tmp_path)
    assert (model.inputs.prior, len(model.network().bodies)) == (inputs[0], architecture.members)
    assert np.isfinite(training_cells(made[1])[0]).all()
    assert 0 < rows(tmp_path)[0]["loss"] < 4


def test_class_weights_are_those_of_the_training_cells(tiny, tmp_path):
    configuration = replace(scheduled(tiny[0], batch=12, accumulate=6), objective=Objective(class_weight_power=1.0))
    training = loop._Training(configuration, tiny[1], tmp_path, Group(), None)
    assert training.share == 2, "samples in memory at once"
    counts = take_census(tiny[1].source)[:, tiny[1].part == Part.TRAIN].sum(axis=1)
    present = counts > 0
    shares = training.stepper.class_weights.numpy()[present] * counts[present]
    np.testing.assert_allclose(shares, shares[0], rtol=1e-4)


@pytest.mark.parametrize("part", [Part.TRAIN, Part.VALIDATION])
def test_a_split_without_a_part_is_named(tiny, tmp_path, part):
    material = replace(tiny[1], part=np.where(tiny[1].part == part, np.int8(Part.NONE), tiny[1].part))
    with pytest.raises(ConfigurationError, match=f"no {part.name.lower()} cell of the split holds a pixel of a land"):
        fit(tiny[0], material, tmp_path)


def test_a_loss_that_is_not_finite_names_the_patches_with_the_bad_cell(tiny, tmp_path):
    """One coarse cell of the forcing is NaN, where a patch has a pixel to learn from."""
    configuration, material = scheduled(tiny[0], batch=1), tiny[1]
    dataset = make_dataset(configuration, material, Part.TRAIN, take_census(material.source))
    rows, columns = dataset.patches.slices(0)
    row, column = np.argwhere(dataset[0]["target"].numpy() != 255)[0] + (rows.start, columns.start)
    coarse = material.source.coarse.copy()
    coarse[0, :, row // FACTOR, column // FACTOR] = np.nan
    with pytest.raises(TrainingError, match="the loss is nan") as caught:
        fit(configuration, replace(material, source=replace(material.source, coarse=coarse)), tmp_path)
    named = re.search(r"patches rows (\d+)-(\d+), columns (\d+)-(\d+), 2000\.", str(caught.value))
    top, bottom, west, east = map(int, named.groups())
    assert top <= row <= bottom
    assert west <= column <= east
