from __future__ import annotations

import csv
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.worlds import FACTOR, tiny_configuration, tiny_inputs, tiny_world
from xland.errors import CheckpointError, ConfigurationError
from xland.geo.grid import expand
from xland.geo.split import Part
from xland.models.checkpoint import APPLICABILITY, CARD, WEIGHTS, read_checkpoint
from xland.models.networks.unet import Architecture
from xland.training.data.material import gather
from xland.training.data.samples import make_dataset, take_census
from xland.training.learn.loop import fit
from xland.training.learn.state import PREVIOUS, STATE
from xland.training.learn.validation import collect_scores, count_pairs, score_pairs
from xland.training.objective import Objective
from xland.training.ranks.group import Group
from xland.vocabulary import LAND_CLASSES

TIMES = {"seconds", "samples_per_second", "waiting", "seconds_per_step"}


class InterruptedTrainingError(Exception):
    pass


def gathered(configuration=None, years=(2000,)):
    coarse, static, maps = tiny_world(years)
    return gather(configuration or tiny_configuration(), forcing=coarse, static=static, target=maps)


@pytest.fixture(scope="module")
def tiny():
    return gathered()


@pytest.fixture(scope="module")
def finished(tiny, tmp_path_factory):
    """An uninterrupted training of four epochs and what it reported."""
    torch.set_num_threads(1)
    configuration = longer(tiny[0])
    reports = []
    folder = tmp_path_factory.mktemp("finished")
    fit(configuration, tiny[1], folder, report=lambda *call: reports.append(call))
    return folder, reports


def longer(configuration, **changes):
    return replace(configuration, schedule=replace(configuration.schedule, **{"epochs": 4, **changes}))


def log(folder):
    with (folder / "log.csv").open(newline="") as file:
        return [{name: float(v) for name, v in row.items() if v} for row in csv.DictReader(file)]


def weights(folder):
    return read_checkpoint(folder).network().state_dict()


def stop_at(stage, done):
    """A report that ends the training, as a killed process would, at a share of it."""

    def report(found, share, _):
        if found == stage and share >= done - 1e-9:
            raise InterruptedTrainingError

    return report


def test_the_loss_falls_and_the_scores_beat_chance(finished):
    rows = log(finished[0])
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4]
    assert rows[-1]["loss"] < 0.7 * rows[0]["loss"]
    assert rows[-1]["accuracy"] > 0.5
    assert rows[-1]["miou"] > rows[0]["miou"]


def test_the_log_tells_every_epoch_and_class(finished):
    for row in log(finished[0]):
        assert {"epoch", "loss", "accuracy", "miou", "seconds"} <= set(row)
        per_class = [value for name, value in row.items() if name.startswith("iou_")]
        assert len(per_class) >= 4
        assert all(0 <= value <= 1 for value in per_class)
        assert row["miou"] == pytest.approx(np.mean(per_class))


def test_progress_is_reported_step_by_step_and_epoch_by_epoch(finished):
    reports = finished[1]
    steps = [share for stage, share, _ in reports if stage == "training"]
    assert steps == sorted(steps)
    assert steps[-1] == pytest.approx(1)
    epochs = [(share, figures) for stage, share, figures in reports if stage == "epoch"]
    assert [share for share, _ in epochs] == [0.25, 0.5, 0.75, 1.0]
    assert all(np.isfinite(figures["loss"]) for _, figures in epochs)


def test_every_step_is_logged_with_its_pace(finished):
    with (finished[0] / "steps.csv").open(newline="") as file:
        rows = [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]
    assert [row["step"] for row in rows] == list(range(1, 33))
    assert [row["loss"] for row in rows] == [
        figures["loss"] for stage, _, figures in finished[1] if stage == "training"
    ]
    assert all(row["samples_per_second"] > 0 and 0 <= row["waiting"] < 1 for row in rows)


def test_the_card_says_how_the_model_came_about(finished, tiny):
    card = read_checkpoint(finished[0]).card
    assert card["name"] == "tiny"
    assert card["training"]["epochs"] == 4
    assert card["training"]["configuration"]["schedule"]["epochs"] == 4
    assert card["data"]["pairs"] == [[2000, 2000]]
    assert card["split"]["seed"] == 0
    assert 0 < card["validation"]["accuracy"] <= 1
    assert set(card["versions"]) >= {"torch", "numpy", "xarray"}
    assert read_checkpoint(finished[0]).inputs == tiny[0].inputs
    assert len(card["decision"]) == 8
    assert not np.array(card["decision"])[[c for c in range(8) if c not in LAND_CLASSES]].any()
    assert card["calibration"]["method"] in ("temperature", "vector")
    assert read_checkpoint(finished[0]).applicability is not None


def test_offsets_for_the_decision_leave_weights_and_probabilities_alone(finished, tiny):
    """The kept weights are those of the best epoch: their validation scores are those that the log tells."""
    checkpoint = read_checkpoint(finished[0])
    data = make_dataset(tiny[0], tiny[1], Part.VALIDATION, take_census(tiny[1].source))
    figures = score_pairs(count_pairs(checkpoint.network(), data, 3, Group()))
    best = log(finished[0])[checkpoint.card["training"]["best_epoch"] - 1]
    assert figures["accuracy"] == pytest.approx(best["accuracy"])
    assert figures["miou"] == pytest.approx(best["miou"])


def test_the_best_epoch_is_kept_and_not_the_last(tiny, tmp_path):
    """A rate far too high spoils the network after a first gentle epoch."""
    configuration = longer(tiny[0], epochs=3, warmup=0.4, learning_rate=3.0, averaging=0.0)
    checkpoint = fit(configuration, tiny[1], tmp_path)
    rows = log(tmp_path)
    merit = [row["accuracy"] + row["miou"] for row in rows]
    assert checkpoint.card["training"]["best_epoch"] == rows[int(np.argmax(merit))]["epoch"]
    assert checkpoint.card["validation"]["accuracy"] + checkpoint.card["validation"]["miou"] >= max(merit) - 0.02


@pytest.mark.parametrize(("stage", "done"), [("epoch", 0.25), ("epoch", 0.75), ("training", 0.6)])
def test_a_resumed_training_gives_the_same_weights_as_one_without_a_pause(tiny, finished, tmp_path, stage, done):
    configuration = longer(tiny[0])
    with pytest.raises(InterruptedTrainingError):
        fit(configuration, tiny[1], tmp_path, report=stop_at(stage, done))
    before = log(tmp_path)
    assert 1 <= len(before) < 4
    fit(configuration, tiny[1], tmp_path, resume=True)
    expected = weights(finished[0])
    for name, value in weights(tmp_path).items():
        assert torch.equal(value, expected[name]), name
    for own, whole in zip(log(tmp_path), log(finished[0]), strict=True):
        assert {n: v for n, v in own.items() if n not in TIMES} == {n: v for n, v in whole.items() if n not in TIMES}


def test_resuming_a_finished_training_changes_nothing(tiny, finished):
    folder = finished[0]
    files = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    assert fit(longer(tiny[0]), tiny[1], folder, resume=True) == read_checkpoint(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()} == files
    assert set(files) == {CARD, WEIGHTS, APPLICABILITY, STATE, PREVIOUS, "log.csv", "steps.csv"}


def test_resuming_without_a_state_starts_from_the_beginning(tiny, finished, tmp_path):
    fit(longer(tiny[0]), tiny[1], tmp_path / "new", resume=True)
    expected = weights(finished[0])
    assert all(torch.equal(value, expected[name]) for name, value in weights(tmp_path / "new").items())


def test_a_folder_with_a_state_is_not_overwritten_unasked(tiny, finished):
    with pytest.raises(ConfigurationError, match="holds a training state: resume it, or choose another folder"):
        fit(longer(tiny[0]), tiny[1], finished[0])


def test_a_state_of_another_configuration_is_refused(tiny, finished):
    with pytest.raises(
        CheckpointError,
        match=r"other data: schedule\.learning_rate \(0\.02 there, 0\.05 here\)\. Choose another output",
    ):
        fit(longer(tiny[0], learning_rate=0.05), tiny[1], finished[0], resume=True)


def test_a_state_of_other_data_is_refused(tiny, finished):
    other = replace(tiny[1], description={**tiny[1].description, "pairs": [[1999, 1999]]})
    with pytest.raises(CheckpointError, match=r"sources\.pairs \(\[\[2000, 2000\]\] there, \[\[1999, 1999\]\] here\)"):
        fit(longer(tiny[0]), other, finished[0], resume=True)


def test_a_damaged_state_is_refused(tiny, tmp_path):
    (tmp_path / STATE).write_bytes(b"\x08\0\0\0")
    with pytest.raises(CheckpointError, match="is damaged"):
        fit(tiny[0], tiny[1], tmp_path, resume=True)


def test_seeds_fix_the_weights_and_others_change_them(tiny, tmp_path):
    def trained(name, seed):
        fit(longer(tiny[0], epochs=1, seed=seed), tiny[1], tmp_path / name)
        return weights(tmp_path / name)

    first, again, other = trained("a", 1), trained("b", 1), trained("c", 2)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


@pytest.mark.parametrize("kind", ["unet", "context"])
@pytest.mark.parametrize("prior", ["code", "one_hot"])
def test_inputs_with_a_prior_and_two_steps_train(tmp_path, kind, prior):
    configuration = tiny_configuration(tiny_inputs(prior, (0, -1)), epochs=1, points=200)
    configuration = replace(
        configuration,
        architecture=Architecture(kind=kind, width=4, depth=1, head=6),
        objective=Objective(class_weight_power=0.5, label_smoothing=0.05),
        data=replace(configuration.data, forcing_years=(2001,), target_years=(2001,)),
    )
    coarse, static, maps = tiny_world((2000, 2001))
    prepared = gather(configuration, forcing=coarse, static=static, target=maps, prior=maps.sel(time=[2000]))
    checkpoint = fit(*prepared, tmp_path)
    assert checkpoint.inputs.prior == prior
    assert checkpoint.inputs.steps == (0, -1)
    assert np.isfinite(log(tmp_path)[0]["loss"])


def test_drawn_patches_and_points_train_too(tiny, tmp_path):
    fit(longer(tiny[0], epochs=2, samples=24, points=100), tiny[1], tmp_path)
    assert log(tmp_path)[1]["loss"] < log(tmp_path)[0]["loss"]


def test_validation_can_be_less_frequent_but_never_misses_the_end(tiny, tmp_path):
    fit(longer(tiny[0], epochs=3, validate_every=2), tiny[1], tmp_path)
    assert ["accuracy" in row for row in log(tmp_path)] == [False, True, True]


def test_class_weights_raise_the_recall_of_the_rare_class(tiny, tmp_path):
    """Urban is the rarest class; with weights of power 1 the loss cannot ignore it."""

    def urban(power):
        configuration = replace(longer(tiny[0]), objective=Objective(class_weight_power=power))
        checkpoint = fit(configuration, tiny[1], tmp_path / str(power))
        data = make_dataset(configuration, tiny[1], Part.VALIDATION, take_census(tiny[1].source))
        scores = collect_scores(checkpoint.network(), data, 8, Group()).scores
        return torch.from_numpy(scores).softmax(1)[:, 1].mean().item()

    assert urban(1.0) > 1.3 * urban(0.0)


@pytest.mark.parametrize("part", [Part.TRAIN, Part.VALIDATION])
def test_a_split_without_a_part_is_named(tiny, tmp_path, part):
    material = replace(tiny[1], part=np.where(tiny[1].part == part, np.int8(Part.NONE), tiny[1].part))
    with pytest.raises(ConfigurationError, match=f"no {part.name.lower()} cell of the split holds a pixel of a land"):
        fit(tiny[0], material, tmp_path)


def test_test_cells_are_never_learned_from_nor_judged(tiny, tmp_path):
    """Nonsense in the test cells of the target leaves the weights as they are."""
    configuration, material = tiny
    target = material.source.target.copy()
    test = expand(material.part == Part.TEST, FACTOR)
    target[:, test] = np.where(target[:, test] == 255, 255, 4)
    changed = replace(material, source=replace(material.source, target=target))
    fit(longer(configuration, epochs=1), material, tmp_path / "true")
    fit(longer(configuration, epochs=1), changed, tmp_path / "nonsense")
    first, second = weights(tmp_path / "true"), weights(tmp_path / "nonsense")
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert log(tmp_path / "true")[0]["miou"] == log(tmp_path / "nonsense")[0]["miou"]
