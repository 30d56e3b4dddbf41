"""What a training tells of its steps: their pace, ``steps.csv`` and TensorBoard."""

from __future__ import annotations

import csv
import errno
import logging
import math
import os
import subprocess
import sys
import textwrap
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.killing import PROJECT
from tests.waiting import wait_until
from xland.errors import CheckpointError, ConfigurationError, MissingDependencyError
from xland.training.learn import watching
from xland.training.learn.watching import STEPS, TENSORBOARD, Step, Watch

LOGGER = watching.__name__


class Clock:
    """Time that passes only when it is told to."""

    def __init__(self, monkeypatch):
        self.now = 100.0
        monkeypatch.setattr(watching.time, "perf_counter", lambda: self.now)

    def batches(self, count, seconds):
        for number in range(count):
            self.now += seconds
            yield number


def step(number, epoch=1, loss=None):
    return Step(number, epoch, number / 3 if loss is None else loss, 0.01, 1.5)


def rows(folder):
    with (folder / STEPS).open(newline="") as file:
        return list(csv.DictReader(file))


def told(folder):
    """Losses by step, as exact as they were given."""
    return {int(row["step"]): float(row["loss"]) for row in rows(folder)}


def train(folder, first, last, **watch):
    """Report steps one by one, as a training does that begins after the step before ``first``."""
    with Watch(folder, after=first - 1, tensorboard="off", **watch) as watched:
        for number in range(first, last + 1):
            watched.report([step(number)])


def scalars(folder):
    accumulators = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    found = accumulators.EventAccumulator(str(folder / TENSORBOARD))
    found.Reload()
    return {name: [(event.step, event.value) for event in found.Scalars(name)] for name in found.Tags()["scalars"]}


def test_the_share_of_time_waiting_is_that_between_batches(tmp_path, monkeypatch):
    clock = Clock(monkeypatch)
    with Watch(tmp_path, tensorboard="off") as watch:
        for _ in watch.waiting(clock.batches(4, seconds=1.0)):
            clock.now += 3.0
            watch.step(samples=8)
        figures = watch.report([step(4)])
    assert figures == {"samples_per_second": 2.0, "waiting": 0.25, "seconds_per_step": 4.0}


def test_each_report_tells_of_the_time_since_the_one_before(tmp_path, monkeypatch):
    clock, waits = Clock(monkeypatch), []
    with Watch(tmp_path, tensorboard="off") as watch:
        for number in watch.waiting(clock.batches(3, seconds=1.0)):
            clock.now += number
            watch.step(samples=1)
            waits.append(watch.report([step(number + 1)])["waiting"])
        whole = watch.epoch(3, {})
    assert waits == pytest.approx([1, 1 / 2, 1 / 3])
    assert whole == {"samples_per_second": 0.5, "waiting": 0.5, "seconds_per_step": 2.0}


def test_reading_the_loss_counts_and_validation_does_not(tmp_path, monkeypatch):
    clock = Clock(monkeypatch)
    with Watch(tmp_path, tensorboard="off") as watch:
        for epoch in range(2):
            for _ in watch.waiting(clock.batches(1, seconds=1.0)):
                watch.step(samples=1)
                clock.now += 1.0  # the device finishes, and the loss is read
                assert watch.report([step(epoch + 1)])["seconds_per_step"] == 2.0
            clock.now += 500.0  # validation
            assert watch.epoch(epoch + 1, {})["seconds_per_step"] == 2.0


def test_several_batches_can_make_one_step(tmp_path, monkeypatch):
    clock = Clock(monkeypatch)
    with Watch(tmp_path, tensorboard="off") as watch:
        for number in watch.waiting(clock.batches(4, seconds=1.0)):
            if number % 2:
                watch.step(samples=16)
        assert watch.epoch(2, {}) == {"samples_per_second": 8.0, "waiting": 1.0, "seconds_per_step": 2.0}


def test_the_clock_is_the_real_one(tmp_path):
    def slow():
        for number in range(3):
            time.sleep(0.05)
            yield number

    begin = time.perf_counter()
    with Watch(tmp_path, tensorboard="off") as watch:
        for _ in watch.waiting(slow()):
            watch.step(samples=1)
        figures = watch.report([step(3)])
    seconds = time.perf_counter() - begin
    assert 0.05 <= figures["seconds_per_step"] <= seconds / 3
    assert 3 * 0.05 / seconds <= figures["waiting"] <= 1


def test_figures_of_no_step_are_not_numbers(tmp_path):
    with Watch(tmp_path, tensorboard="off") as watch:
        assert all(math.isnan(value) for value in watch.report([]).values())
        assert all(math.isnan(value) for value in watch.epoch(0, {}).values())


def test_errors_of_the_loader_come_through(tmp_path):
    def broken():
        yield 1
        raise RuntimeError("a worker died")

    with Watch(tmp_path, tensorboard="off") as watch, pytest.raises(RuntimeError, match="a worker died"):
        list(watch.waiting(broken()))


def test_every_step_has_a_row(tmp_path):
    with Watch(tmp_path, tensorboard="off") as watch:
        for _ in watch.waiting(range(2)):
            watch.step(samples=3)
        figures = watch.report([step(1, loss=0.1 + 0.2), step(2, epoch=2)])
    first, second = rows(tmp_path)
    assert list(first) == [*Step._fields, "samples_per_second", "waiting"]
    assert float(first["loss"]) == 0.1 + 0.2
    assert (second["step"], second["epoch"], second["learning_rate"], second["gradient_norm"]) == (
        "2",
        "2",
        "0.01",
        "1.5",
    )
    assert {float(row["samples_per_second"]) for row in (first, second)} == {figures["samples_per_second"]}


def test_rows_can_be_read_while_the_training_runs(tmp_path):
    with Watch(tmp_path, tensorboard="off") as watch:
        watch.report([step(1)])
        assert list(told(tmp_path)) == [1]


@given(
    st.integers(1, 9),
    st.integers(0, 9),
    st.binary(max_size=40).filter(lambda tail: b"\n" not in tail and b"\r" not in tail),
)
@settings(max_examples=40, deadline=None)
def test_a_resumed_training_leaves_the_steps_of_one_without_a_pause(tmp_path_factory, killed, lost, torn):
    """It is killed some steps after the state that it is resumed from, maybe while it writes a row."""
    folder, whole = tmp_path_factory.mktemp("resumed"), tmp_path_factory.mktemp("whole")
    train(whole, 1, 12)
    train(folder, 1, killed)
    with (folder / STEPS).open("ab") as file:
        file.write(torn)
    train(folder, max(0, killed - lost) + 1, 12)
    assert told(folder) == told(whole)


@pytest.mark.parametrize("bytes_left", range(1, 60, 7))
def test_a_row_that_was_cut_anywhere_is_taken_out(tmp_path, bytes_left):
    train(tmp_path, 1, 3)
    path = tmp_path / STEPS
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-1]) + lines[-1][: min(bytes_left, len(lines[-1]) - 1)])
    train(tmp_path, 4, 4)
    assert list(told(tmp_path)) == [1, 2, 4]


def test_a_process_killed_in_the_middle_leaves_whole_rows(tmp_path):
    script = textwrap.dedent(
        """
        import sys
        from pathlib import Path
        from xland.training.learn.watching import Step, Watch
        with Watch(Path(sys.argv[1]), tensorboard="off") as watch:
            for number in range(1, 10**9):
                watch.report([Step(number, 1, number / 3, 0.01, 1.5)])
        """
    )
    path = tmp_path / STEPS
    process = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], cwd=PROJECT)
    try:
        wait_until(lambda: path.exists() and path.stat().st_size > 20_000)
    finally:
        process.kill()
        process.wait()
    train(tmp_path, 201, 202)
    assert told(tmp_path) == {number: number / 3 for number in range(1, 203)}


def test_a_new_training_does_not_keep_the_steps_of_an_old_one(tmp_path):
    train(tmp_path, 1, 5)
    train(tmp_path, 1, 2)
    assert list(told(tmp_path)) == [1, 2]


def test_resuming_without_another_step_leaves_the_file_alone(tmp_path):
    train(tmp_path, 1, 3)
    before = (tmp_path / STEPS).read_bytes(), (tmp_path / STEPS).stat().st_mtime_ns
    train(tmp_path, 4, 3)
    assert ((tmp_path / STEPS).read_bytes(), (tmp_path / STEPS).stat().st_mtime_ns) == before


def test_only_the_first_process_writes(tmp_path):
    with Watch(tmp_path, main=False, tensorboard="on") as watch:
        watch.step(samples=1)
        watch.report([step(1)])
        watch.epoch(1, {"loss": 1.0})
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_named(tmp_path, monkeypatch):
    with Watch(tmp_path, tensorboard="off") as watch:
        monkeypatch.setattr(watching, "_table", full)
        with pytest.raises(
            CheckpointError, match=r"steps\.csv was not written: the disk of .* is full.*What was there before is kept"
        ):
            watch.report([step(1)])


def full(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_tensorboard_gets_steps_and_scores(tmp_path):
    pytest.importorskip("tensorboard")
    with Watch(tmp_path) as watch:
        for _ in watch.waiting(range(3)):
            watch.step(samples=2)
        figures = watch.report([step(1, loss=1.0), step(2, loss=2.0), step(3, loss=6.0)])
        watch.epoch(3, {"accuracy": 0.75, "miou": 0.5, "iou_2": 0.25, "iou_4": math.nan})
    found = scalars(tmp_path)
    assert found["training/loss"] == [(3, 3.0)]
    assert found["training/learning_rate"] == [(3, pytest.approx(0.01))]
    assert found["training/samples_per_second"] == [(3, pytest.approx(figures["samples_per_second"]))]
    assert "training/waiting" in found
    assert {name: found[f"epoch/{name}"] for name in ("accuracy", "miou", "iou_2")} == {
        "accuracy": [(3, 0.75)],
        "miou": [(3, 0.5)],
        "iou_2": [(3, 0.25)],
    }
    assert "epoch/iou_4" not in found


def test_tensorboard_forgets_the_steps_after_the_one_that_is_resumed_from(tmp_path):
    pytest.importorskip("tensorboard")
    for first, last, loss in ((1, 6, 1.0), (4, 8, 2.0)):
        with Watch(tmp_path, after=first - 1) as watch:
            for number in range(first, last + 1):
                watch.report([step(number, loss=loss)])
    assert scalars(tmp_path)["training/loss"] == [(n, 1.0) for n in (1, 2, 3)] + [(n, 2.0) for n in (4, 5, 6, 7, 8)]


def test_tensorboard_is_not_written_where_it_is_not_wanted_or_nothing_happened(tmp_path):
    train(tmp_path, 1, 2)
    with Watch(tmp_path, after=2, tensorboard="auto"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == [STEPS]


def test_a_full_disk_is_named_for_tensorboard_too(tmp_path, monkeypatch):
    pytest.importorskip("tensorboard")
    monkeypatch.setattr("torch.utils.tensorboard.SummaryWriter.add_scalar", full)
    with Watch(tmp_path) as watch, pytest.raises(CheckpointError, match=r"tensorboard was not written: the disk of"):
        watch.epoch(1, {"loss": 1.0})


def test_without_tensorboard_the_log_says_so_once(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(watching.importlib.util, "find_spec", lambda _: None)
    with caplog.at_level(logging.WARNING, LOGGER), Watch(tmp_path) as watch:
        watch.report([step(1)])
        watch.epoch(1, {"loss": 1.0})
    (message,) = [record.getMessage() for record in caplog.records]
    assert message.endswith("(pip install 'xland[logging]'): the training is logged in steps.csv and log.csv only")
    assert list(told(tmp_path)) == [1]


def test_tensorboard_that_is_asked_for_and_missing_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(watching.importlib.util, "find_spec", lambda _: None)
    with (
        pytest.raises(MissingDependencyError, match=r"pip install 'xland\[logging\]'"),
        Watch(tmp_path, tensorboard="on"),
    ):
        pass


def test_other_wishes_for_tensorboard_are_refused(tmp_path):
    with pytest.raises(ConfigurationError, match="tensorboard is 'yes'; it can be 'auto', 'on' or 'off'"):
        Watch(tmp_path, tensorboard="yes").__enter__()


@pytest.mark.parametrize("planted", ["link", "pipe"])
def test_rows_are_never_added_to_what_is_not_a_plain_file(tmp_path, planted):
    other, steps = tmp_path / "other", tmp_path / STEPS
    other.write_text("mine\n")
    with Watch(tmp_path, tensorboard="off") as watch:
        steps.unlink(missing_ok=True)
        if planted == "link":
            steps.symlink_to(other)
        else:
            os.mkfifo(steps)
        with pytest.raises(CheckpointError, match=r"steps\.csv was not written: .*it is a (link|pipe)"):
            watch.report([Step(1, 1, 0.5, 1e-3, 1.0)])
    assert other.read_text() == "mine\n"


def test_a_pipe_in_place_of_the_steps_is_named_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / STEPS)
    with pytest.raises(CheckpointError, match="not a plain file"), Watch(tmp_path, tensorboard="off"):
        pass
