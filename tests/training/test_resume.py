"""A training that is stopped, killed or spoilt at any step, and goes on."""

from __future__ import annotations

import csv
import errno
import os
import re
import signal
import subprocess
import sys
import textwrap
from contextlib import suppress
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.killing import PROJECT, run_until_killed
from tests.waiting import PATIENCE
from tests.worlds import tiny_configuration, tiny_inputs, tiny_world
from xland.errors import CheckpointError, CheckpointWarning, TrainingError, TrainingStoppedError
from xland.geo.split import Part
from xland.models.checkpoint import read_checkpoint
from xland.models.networks.unet import Architecture
from xland.training.data.material import gather
from xland.training.data.samples import make_dataset, take_census
from xland.training.learn import loop
from xland.training.learn.loop import fit
from xland.training.learn.state import PREVIOUS, STATE
from xland.training.learn.steps import Stepper

EPOCHS, STEPS_AN_EPOCH = 3, 4
STEPS = EPOCHS * STEPS_AN_EPOCH
TIMES = {"seconds", "samples_per_second", "waiting", "seconds_per_step"}


class InterruptedTrainingError(Exception):
    pass


def learnable(**schedule):
    """A training in which everything is drawn: patches, their changes, points, and what is dropped."""
    usual = {"epochs": EPOCHS, "batch": 3, "samples": 11, "candidates": 8, "points": 60, "checkpoint_every": 3}
    configuration = replace(
        tiny_configuration(tiny_inputs("one_hot"), **{**usual, **schedule}),
        architecture=Architecture(kind="context", width=4, depth=1, head=6, dropout=0.2, context_dropout=0.3),
    )
    coarse, static, maps = tiny_world((2000, 2001))
    data = replace(configuration.data, forcing_years=(2001,), target_years=(2001,))
    configuration = replace(configuration, data=data)
    return gather(configuration, forcing=coarse, static=static, target=maps, prior=maps.sel(time=[2000]))


class Losses(dict):
    """Loss of every step, as a training reports them; something can happen at one of them."""

    def __init__(self, at=0, event=None):
        super().__init__()
        self.at, self.event = at, event

    def __call__(self, stage, done, figures):
        if stage == "training":
            step = round(done * STEPS)
            assert self.get(step) in (None, figures["loss"])
            self[step] = figures["loss"]
            if step == self.at:
                self.event()


def crash():
    raise InterruptedTrainingError


def terminate():
    signal.raise_signal(signal.SIGTERM)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    torch.set_num_threads(1)
    folder, losses = tmp_path_factory.mktemp("undisturbed"), Losses()
    fit(*learnable(), folder, report=losses)
    assert sorted(losses) == list(range(1, STEPS + 1))
    return folder, losses


def assert_same(folder, undisturbed):
    def log(path):
        with path.open(newline="") as file:
            return [{name: v for name, v in row.items() if name not in TIMES} for row in csv.DictReader(file)]

    for name in ("log.csv", "steps.csv"):
        assert log(folder / name) == log(undisturbed / name)
    own, expected = read_checkpoint(folder), read_checkpoint(undisturbed)
    assert own.digest == expected.digest
    assert own.card["validation"] == expected.card["validation"]
    assert own.card["training"]["steps"] == expected.card["training"]["steps"]
    assert not list(folder.glob("*.tmp")) + list(folder.glob(".*"))


@given(
    st.lists(st.integers(1, STEPS), min_size=1, max_size=3, unique=True).map(sorted),
    st.lists(st.sampled_from([crash, terminate]), min_size=3, max_size=3),
    st.integers(0, 5),
    st.integers(1, 4),
)
@settings(max_examples=12, deadline=None)
def test_losses_and_weights_are_those_of_an_undisturbed_run(
    undisturbed, tmp_path_factory, stops, events, checkpoint_every, report_every
):
    folder, losses = tmp_path_factory.mktemp("stopped"), {}
    prepared = learnable(checkpoint_every=checkpoint_every, report_every=report_every)
    for number, (step, event) in enumerate(zip(stops, events, strict=False)):
        seen = Losses(step, event)
        # a later stop may lie in the steps that an earlier one still finished
        with (
            pytest.raises((InterruptedTrainingError, TrainingStoppedError))
            if number == 0
            else suppress(InterruptedTrainingError, TrainingStoppedError)
        ):
            fit(*prepared, folder, resume=True, report=seen)
        losses |= seen
    seen = Losses()
    fit(*prepared, folder, resume=True, report=seen)
    losses |= seen
    assert losses == undisturbed[1]
    assert_same(folder, undisturbed[0])


@pytest.mark.parametrize(("stop", "done"), [(2, 0), (3, 0), (7, 6), (STEPS, STEPS - 3)])
def test_a_crash_costs_the_steps_since_the_last_state_and_no_more(tmp_path, stop, done):
    """States are written after steps 3, 4 (an epoch), 6, 8, 9 and 12; a crash at 12 comes before that."""
    prepared = learnable()
    with pytest.raises(InterruptedTrainingError):
        fit(*prepared, tmp_path, report=Losses(stop, crash))
    seen = Losses()
    fit(*prepared, tmp_path, resume=True, report=seen)
    assert sorted(seen) == list(range(done + 1, STEPS + 1))


def test_a_request_to_end_costs_no_step_and_says_how_to_go_on(tmp_path):
    prepared, before = learnable(checkpoint_every=0), Losses(5, terminate)
    handler = signal.getsignal(signal.SIGTERM)
    with pytest.raises(TrainingStoppedError, match=r"stopped after step 6 of 12; its state is in .*resume it to go on"):
        fit(*prepared, tmp_path, report=before)
    assert signal.getsignal(signal.SIGTERM) is handler
    after = Losses()
    fit(*prepared, tmp_path, resume=True, report=after)
    assert sorted([*before, *after]) == list(range(1, STEPS + 1))


def test_a_request_to_end_during_validation_is_heeded_before_the_next_batch(tmp_path, monkeypatch, undisturbed):
    prepared, judged = learnable(), []
    whole = loop.count_pairs

    def asked_meanwhile(*arguments, check, **options):
        def counted():
            judged.append(len(judged))
            if len(judged) == 2:
                terminate()
            check()

        return whole(*arguments, check=counted, **options)

    monkeypatch.setattr(loop, "count_pairs", asked_meanwhile)
    with pytest.raises(TrainingStoppedError, match="after step 4 of 12"):
        fit(*prepared, tmp_path)
    assert judged == [0, 1]
    monkeypatch.undo()
    fit(*prepared, tmp_path, resume=True)
    assert_same(tmp_path, undisturbed[0])


def test_a_killed_process_resumes_to_the_same_losses(tmp_path, undisturbed):
    run_until_killed(
        """
        import torch
        from pathlib import Path
        from tests.killing import kill_this_process
        from tests.training.test_resume import Losses, fit, learnable

        torch.set_num_threads(1)
        fit(*learnable(), Path(sys.argv[1]), report=Losses(8, kill_this_process))
        """,
        tmp_path,
    )
    (tmp_path / f".{STATE}.{99999:032x}.partial").write_bytes(b"a write that was killed")
    losses = Losses()
    fit(*learnable(), tmp_path, resume=True, report=losses)
    assert losses == {step: loss for step, loss in undisturbed[1].items() if step > 6}
    assert_same(tmp_path, undisturbed[0])


TERMINATED = """
import sys
sys.path.insert(0, sys.argv[2])
import torch
from pathlib import Path
from tests.training.test_resume import Losses, fit, learnable
from xland.errors import TrainingStoppedError

def wait():
    print("five steps are done", flush=True)
    sys.stdin.readline()

torch.set_num_threads(1)
try:
    fit(*learnable(workers=2, checkpoint_every=0), Path(sys.argv[1]), report=Losses(5, wait))
except TrainingStoppedError as stop:
    print(stop, file=sys.stderr)
    sys.exit(stop.status)
"""


def test_a_job_whose_time_ends_writes_its_state_and_ends_with_a_status_of_its_own(tmp_path, undisturbed):
    """The signal goes to all processes of a job, to those that load the batches too."""
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(TERMINATED), str(tmp_path), str(PROJECT)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    with process:
        assert process.stdout.readline() == "five steps are done\n"
        os.killpg(process.pid, signal.SIGTERM)
        _, said = process.communicate("go on\n", timeout=PATIENCE)
    assert process.returncode == TrainingStoppedError.status == 128 + signal.SIGTERM
    assert "asked to end (SIGTERM) and stopped after step 6 of 12" in said
    losses = Losses()
    fit(*learnable(), tmp_path, resume=True, report=losses)
    assert losses == {step: loss for step, loss in undisturbed[1].items() if step > 6}
    assert_same(tmp_path, undisturbed[0])


def test_a_damaged_state_costs_the_steps_since_the_one_before(tmp_path, undisturbed):
    prepared = learnable()
    with pytest.raises(InterruptedTrainingError):
        fit(*prepared, tmp_path, report=Losses(7, crash))
    path, losses = tmp_path / STATE, Losses()
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.warns(CheckpointWarning, match="the training goes on after step 4"):
        fit(*prepared, tmp_path, resume=True, report=losses)
    assert sorted(losses) == list(range(5, STEPS + 1))
    assert_same(tmp_path, undisturbed[0])


def test_two_damaged_states_are_refused(tmp_path):
    prepared = learnable()
    with pytest.raises(InterruptedTrainingError):
        fit(*prepared, tmp_path, report=Losses(7, crash))
    for name in (STATE, PREVIOUS):
        (tmp_path / name).write_bytes(b"\x08\0\0\0")
    with pytest.raises(CheckpointError, match="delete both to start again"):
        fit(*prepared, tmp_path, resume=True)


@pytest.mark.parametrize("report_every", [1, 5])
def test_a_loss_that_is_not_finite_is_named_with_its_step_and_patches(tmp_path, monkeypatch, report_every):
    configuration, material = learnable(checkpoint_every=1, report_every=report_every)
    whole, taken = Stepper.take, []

    def spoil(self, samples, **options):
        taken.append(samples)
        if len(taken) == 6:
            samples = {**samples, "coarse": samples["coarse"] * torch.nan}
        return whole(self, samples, **options)

    monkeypatch.setattr(Stepper, "take", spoil)
    place = r"rows \d+-\d+, columns \d+-\d+, 2001"
    message = rf"the loss is nan in epoch 2, step 6, on the patches {place}; {place}; {place}\. Look at the data there"
    with pytest.raises(TrainingError, match=message):
        fit(configuration, material, tmp_path)
    monkeypatch.undo()
    losses = Losses()
    fit(configuration, material, tmp_path, resume=True, report=losses)
    assert sorted(losses) == list(range(6, STEPS + 1)), "the state of step 5 is the last, and good"


def test_the_patches_named_hold_the_bad_cell(tmp_path):
    """One coarse cell of the forcing is NaN, where a patch has a pixel to learn from."""
    configuration, material = learnable(batch=1, samples=0, points=0)
    configuration = replace(configuration, architecture=Architecture(width=4, depth=1))
    dataset = make_dataset(configuration, material, Part.TRAIN, take_census(material.source))
    rows, columns = dataset.patches.slices(0)
    row, column = np.argwhere(dataset[0]["target"].numpy() != 255)[0] + (rows.start, columns.start)
    coarse = material.source.coarse.copy()
    coarse[0, :, row // 4, column // 4] = np.nan
    with pytest.raises(TrainingError, match="the loss is nan") as caught:
        fit(configuration, replace(material, source=replace(material.source, coarse=coarse)), tmp_path)
    named = re.search(r"patches rows (\d+)-(\d+), columns (\d+)-(\d+), 2001\.", str(caught.value))
    top, bottom, west, east = map(int, named.groups())
    assert top <= row <= bottom
    assert west <= column <= east


def test_a_gradient_that_is_not_finite_is_named(tmp_path, monkeypatch):
    whole = Stepper.take

    def spoil(*arguments, **options):
        return whole(*arguments, **options) * torch.tensor([1.0, torch.inf])

    monkeypatch.setattr(Stepper, "take", spoil)
    with pytest.raises(TrainingError, match="the norm of the gradient is inf in epoch 1, step 1, on the patches rows"):
        fit(*learnable(), tmp_path)


def test_a_full_disk_is_named_and_the_training_resumes_when_there_is_room(tmp_path, monkeypatch, undisturbed):
    prepared = learnable()
    whole, written = loop.save_state, []

    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def save(*arguments):
        written.append(arguments)
        if len(written) == 3:
            monkeypatch.setattr("os.fsync", full)
        whole(*arguments)

    monkeypatch.setattr(loop, "save_state", save)
    with pytest.raises(CheckpointError, match=r"state\.safetensors was not written: the disk of .* is full"):
        fit(*prepared, tmp_path)
    monkeypatch.undo()
    assert not list(tmp_path.glob(".*"))
    losses = Losses()
    fit(*prepared, tmp_path, resume=True, report=losses)
    assert sorted(losses) == list(range(5, STEPS + 1))
    assert_same(tmp_path, undisturbed[0])
