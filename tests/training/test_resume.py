"""A training that is stopped, killed or spoilt at any step, and goes on."""

from __future__ import annotations

import errno
import os
import signal
import sys
from contextlib import suppress
from dataclasses import replace
from multiprocessing import get_context

import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.killing import kill_this_process
from tests.training import conftest as training
from tests.training.conftest import paired
from tests.waiting import PATIENCE, wait_until
from tests.worlds import tiny_configuration, tiny_inputs
from xland.errors import CheckpointError, TrainingError, TrainingStoppedError
from xland.models.checkpoint import read_checkpoint
from xland.models.networks.unet import Architecture
from xland.training.data.material import gather
from xland.training.learn import loop
from xland.training.learn.loop import fit
from xland.training.learn.steps import Stepper

pytestmark = pytest.mark.usefixtures("uncalibrated")
without_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="torch cannot learn in a forked process on a GPU")

EPOCHS, STEPS_AN_EPOCH = 3, 4
STEPS = EPOCHS * STEPS_AN_EPOCH
TIMES = ["seconds", "samples_per_second", "waiting", "seconds_per_step"]


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
    raise KeyboardInterrupt


def terminate():
    signal.raise_signal(signal.SIGTERM)


@pytest.fixture(scope="module")
def prepared():
    """A training in which everything is drawn: patches, their changes, points, and what is dropped."""
    schedule = {"epochs": EPOCHS, "batch": 3, "samples": 11, "candidates": 8, "points": 60, "checkpoint_every": 3}
    configuration = tiny_configuration(tiny_inputs("one_hot"), **schedule)
    network = Architecture(kind="context", width=4, depth=1, head=6, dropout=0.2, context_dropout=0.3)
    configuration, data = paired(replace(configuration, architecture=network), (2001,)), training.given()
    return gather(configuration, **data, prior=data["target"].sel(time=[2000]))


@pytest.fixture(scope="module")
def undisturbed(prepared, tmp_path_factory):
    torch.set_num_threads(1)
    folder, losses = tmp_path_factory.mktemp("undisturbed"), Losses()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "fit_card", lambda *_, **__: None)
        fit(*prepared, folder, report=losses)
    assert sorted(losses) == list(range(1, STEPS + 1))
    return folder, losses


def resumed(prepared, folder, after, undisturbed):
    """Resume a training that has its last state after some step, and compare all with an undisturbed one."""
    losses = Losses()
    fit(*prepared, folder, resume=True, report=losses)
    assert losses == {step: loss for step, loss in undisturbed[1].items() if step > after}
    assert_same(folder, undisturbed[0])


def assert_same(folder, undisturbed):
    for name in ("log.csv", "steps.csv"):
        one, other = (pd.read_csv(each / name).drop(columns=TIMES, errors="ignore") for each in (folder, undisturbed))
        pd.testing.assert_frame_equal(one, other, check_exact=True)
    own, expected = read_checkpoint(folder), read_checkpoint(undisturbed)
    assert own.digest == expected.digest
    assert own.card["validation"] == expected.card["validation"]
    assert own.card["training"]["steps"] == expected.card["training"]["steps"]
    assert not list(folder.glob("*.tmp")) + list(folder.glob(".*"))


@given(
    st.lists(st.integers(1, STEPS), min_size=1, max_size=2, unique=True).map(sorted),
    st.lists(st.sampled_from([crash, terminate]), min_size=2, max_size=2),
    st.integers(0, 5),
    st.integers(1, 4),
)
@settings(max_examples=3, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_losses_and_weights_are_those_of_an_undisturbed_run(
    undisturbed, prepared, tmp_path_factory, stops, events, checkpoint_every, report_every
):
    folder, losses = tmp_path_factory.mktemp("stopped"), {}
    configuration, material = prepared
    schedule = replace(configuration.schedule, checkpoint_every=checkpoint_every, report_every=report_every)
    prepared = replace(configuration, schedule=schedule), material
    for step, event in zip(stops, events, strict=False):
        seen = Losses(step, event)
        # a later stop may lie in the steps that an earlier one still finished
        with suppress(KeyboardInterrupt, TrainingStoppedError):
            fit(*prepared, folder, resume=True, report=seen)
            assert losses, "the first stop always comes"
        losses |= seen
    seen = Losses()
    fit(*prepared, folder, resume=True, report=seen)
    assert losses | seen == undisturbed[1]
    assert_same(folder, undisturbed[0])


@pytest.mark.parametrize(("stop", "done"), [(2, 0), (STEPS, STEPS - 3)])
def test_a_crash_costs_the_steps_since_the_last_state_and_no_more(prepared, undisturbed, tmp_path, stop, done):
    """States are written after steps 3, 4 (an epoch), 6, 8, 9 and 12; a crash at 12 comes before that."""
    with pytest.raises(KeyboardInterrupt):
        fit(*prepared, tmp_path, report=Losses(stop, crash))
    resumed(prepared, tmp_path, done, undisturbed)


def test_a_request_to_end_during_validation_is_answered_before_the_next_batch(
    prepared, tmp_path, monkeypatch, undisturbed
):
    judged, whole = [], loop.count_pairs

    def asked_meanwhile(*arguments, check, **options):
        def counted():
            judged.append(len(judged))
            if len(judged) == 2:
                terminate()
            check()

        return whole(*arguments, check=counted, **options)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "count_pairs", asked_meanwhile)
        with pytest.raises(TrainingStoppedError, match="after step 4 of 12"):
            fit(*prepared, tmp_path)
    assert judged == [0, 1]
    resumed(prepared, tmp_path, 4, undisturbed)


def in_a_process_of_its_own(work, *arguments, **options):
    """Start it as a copy of this process, in which all is imported."""
    process = get_context("fork").Process(target=work, args=arguments, kwargs=options)
    process.start()
    return process


def learn_as_a_job(configuration, material, folder, ready, go):
    os.setsid()

    def wait():
        ready.set()
        go.wait(PATIENCE)

    schedule, status = replace(configuration.schedule, workers=2, checkpoint_every=0), 0
    try:
        fit(replace(configuration, schedule=schedule), material, folder, report=Losses(5, wait))
    except TrainingStoppedError as stop:
        status = stop.status
    sys.exit(status)  # here, where nothing refers to the loader any more: its processes do not listen to SIGTERM


@without_gpu
def test_a_job_whose_time_ends_writes_its_state_and_one_that_is_killed_goes_on(prepared, tmp_path, undisturbed):
    """The signal goes to all processes of a job, to those that load the batches too."""
    ready, go = get_context("fork").Event(), get_context("fork").Event()
    process = in_a_process_of_its_own(learn_as_a_job, *prepared, tmp_path, ready, go)
    wait_until(lambda: ready.is_set() or not process.is_alive())
    os.killpg(process.pid, signal.SIGTERM)
    go.set()
    process.join(PATIENCE)
    assert process.exitcode == TrainingStoppedError.status == 128 + signal.SIGTERM
    again = Losses(10, kill_this_process)
    process = in_a_process_of_its_own(fit, *prepared, tmp_path, resume=True, report=again)
    process.join(PATIENCE)
    assert process.exitcode == -signal.SIGKILL
    resumed(prepared, tmp_path, 9, undisturbed)


@pytest.mark.parametrize(
    ("factors", "what"), [((torch.nan, 1.0), "the loss is nan"), ((1.0, torch.inf), "the norm of the gradient is inf")]
)
def test_a_loss_or_gradient_that_is_not_finite_is_named_and_the_state_before_it_is_good(
    prepared, tmp_path, monkeypatch, undisturbed, factors, what
):
    configuration, material = prepared
    schedule = replace(configuration.schedule, checkpoint_every=1, report_every=5)
    whole = Stepper.take

    def spoil(self, samples, *, step, **options):
        values = whole(self, samples, step=step, **options)
        return values * torch.tensor(factors) if step == 5 else values

    place = r"rows \d+-\d+, columns \d+-\d+, 2001"
    message = rf"{what} in epoch 2, step 6, on the patches {place}; {place}; {place}\. Look at the data there"
    with monkeypatch.context() as patch:
        patch.setattr(Stepper, "take", spoil)
        with pytest.raises(TrainingError, match=message):
            fit(replace(configuration, schedule=schedule), material, tmp_path)
    resumed(prepared, tmp_path, 5, undisturbed)


def test_a_full_disk_is_named_and_the_training_resumes_when_there_is_room(prepared, tmp_path, monkeypatch, undisturbed):
    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        report = Losses(6, lambda: patch.setattr("os.fsync", full))
        with pytest.raises(CheckpointError, match=r"state\.safetensors was not written: the disk of .* is full"):
            fit(*prepared, tmp_path, report=report)
    assert not list(tmp_path.glob(".*"))
    resumed(prepared, tmp_path, 4, undisturbed)
