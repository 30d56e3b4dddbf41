"""What a training reports of its steps: their pace, ``steps.csv``, TensorBoard and the energy that it takes."""

from __future__ import annotations

import csv
import errno
import logging
import math
import os
import sys
from types import ModuleType, SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xland.errors import CheckpointError
from xland.training.learn import watching
from xland.training.learn.watching import STEPS, TENSORBOARD, EnergyMeter, Step, Watch


def step(number, loss=None):
    return Step(number, 1, number / 3 if loss is None else loss, 0.01, 1.5)


def rows(folder):
    with (folder / STEPS).open(newline="") as file:
        return list(csv.DictReader(file))


def losses(folder):
    """Losses by step, as exact as they were given."""
    return {int(row["step"]): float(row["loss"]) for row in rows(folder)}


def train(folder, first, last, loss=None, *, draw=False):
    """Report steps one by one, as a training does that begins after the step before ``first``."""
    with Watch(folder, after=first - 1) as watch:
        watch._drawing = draw
        for number in range(first, last + 1):
            watch.report([step(number, loss)])


def full(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_waiting_for_batches_and_reading_the_loss_count_and_validation_does_not(tmp_path, monkeypatch):
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(watching.time, "perf_counter", lambda: clock.now)

    def batches():
        for number in range(2):
            clock.now += 1.0
            yield number

    with Watch(tmp_path, main=False) as watch:
        for epoch in (1, 2):
            for number in watch.waiting(batches()):
                watch.step(samples=8)
                clock.now += 1.0 + 2 * number  # the device finishes, and the loss is read
                found = watch.report([step(1)])
                seconds = 2.0 + 2 * number
                assert found == {"samples_per_second": 8 / seconds, "waiting": 1 / seconds, "seconds_per_step": seconds}
            clock.now += 500.0  # validation
            whole = watch.epoch(epoch, {})
            assert whole == {"samples_per_second": 16 / 6, "waiting": 2 / 6, "seconds_per_step": 3.0}
    assert not list(tmp_path.iterdir()), "only the first process writes"


@given(
    st.integers(1, 9),
    st.integers(0, 9),
    st.one_of(
        st.binary(max_size=40).filter(lambda tail: not {*b"\r\n"} & {*tail}),
        st.integers(0, 60).map(lambda size: b"10,1,0.123456789,0.01,1.5,123.25,0.5"[:size]),
    ),
)
@settings(max_examples=12, deadline=None)
def test_a_resumed_training_leaves_the_steps_of_one_without_a_pause(tmp_path_factory, killed, lost, torn):
    """It is killed some steps after the state that it is resumed from, maybe while it writes a row."""
    folder = tmp_path_factory.mktemp("resumed")
    train(folder, 1, killed)
    with (folder / STEPS).open("ab") as file:
        file.write(torn)
    train(folder, max(0, killed - lost) + 1, 12)
    assert losses(folder) == {number: number / 3 for number in range(1, 13)}
    assert list(rows(folder)[0]) == [*Step._fields, "samples_per_second", "waiting"]
    before = (folder / STEPS).read_bytes(), (folder / STEPS).stat().st_mtime_ns
    train(folder, 13, 12)
    assert ((folder / STEPS).read_bytes(), (folder / STEPS).stat().st_mtime_ns) == before
    assert [path.name for path in folder.iterdir()] == [STEPS], "nothing is drawn before there is something to show"


def test_tensorboard_receives_steps_and_scores_and_forgets_those_after_the_step_that_is_resumed_from(tmp_path):
    accumulators = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    train(tmp_path, 1, 6, 1.0, draw=True)
    train(tmp_path, 4, 8, 2.0, draw=True)
    with Watch(tmp_path, after=8) as watch:
        watch.step(samples=2)
        watch.report([step(9, loss=1.0), step(10, loss=6.0)])
        watch.epoch(10, {"accuracy": 0.75, "iou_4": math.nan})
    events = accumulators.EventAccumulator(str(tmp_path / TENSORBOARD))
    events.Reload()
    found = {name: [(e.step, e.value) for e in events.Scalars(name)] for name in events.Tags()["scalars"]}
    expected = [(n, 1.0) for n in (1, 2, 3)] + [(n, 2.0) for n in (4, 5, 6, 7, 8)] + [(10, 3.5)]
    assert found["training/loss"] == expected
    assert found["training/learning_rate"][-1] == (10, pytest.approx(0.01))
    assert found["epoch/accuracy"] == [(10, 0.75)]
    assert "epoch/iou_4" not in found


def test_without_tensorboard_the_log_says_so_once(tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with caplog.at_level(logging.WARNING, watching.__name__), Watch(tmp_path) as watch:
        watch.report([step(1)])
        watch.epoch(1, {"loss": 1.0})
    (message,) = [record.getMessage() for record in caplog.records]
    assert message.endswith("(pip install tensorboard): the training is logged in steps.csv and log.csv only")
    assert list(losses(tmp_path)) == [1]


@pytest.mark.parametrize("where", ["steps.csv", "tensorboard"])
def test_a_full_disk_is_named(tmp_path, monkeypatch, where):
    if where == "steps.csv":
        monkeypatch.setattr(watching, "_table", lambda rows: full() if (2 / 3) in rows[0] else b"")
    else:
        pytest.importorskip("tensorboard")
        monkeypatch.setattr("torch.utils.tensorboard.SummaryWriter.add_scalar", full)
    message = rf"{where} was not written: the disk of .* is full.*is kept"
    with Watch(tmp_path) as watch, pytest.raises(CheckpointError, match=message):
        watch.report([step(2)])


def test_rows_are_never_added_to_a_file_that_is_not_plain_and_pipes_are_not_waited_for(tmp_path):
    other, steps = tmp_path / "other", tmp_path / STEPS
    other.write_text("mine\n")
    with Watch(tmp_path) as watch:
        for plant in (lambda: steps.symlink_to(other), lambda: os.mkfifo(steps)):
            steps.unlink()
            plant()
            with pytest.raises(CheckpointError, match=r"steps\.csv was not written: .*it is a (link|pipe)"):
                watch.report([step(1)])
    with pytest.raises(CheckpointError, match="not a plain file"), Watch(tmp_path):
        pass
    assert other.read_text() == "mine\n"


# energy


@pytest.fixture
def tracker(monkeypatch):
    """codecarbon, whether it is installed or not, whose tracker reads, and fails, as the test says."""

    class Tracker:
        readings: tuple = ()
        fails_at = ""

        def __init__(self, **options):
            Tracker.options = options
            self.act("init", None)

        def start(self):
            self.act("start", "live_out")

        def stop(self):
            self.act("stop", "out")

        def act(self, where, how):
            if self.fails_at == where:
                raise RuntimeError(f"no {where}")
            for each in self.readings if how else ():
                getattr(self.options["output_handlers"][0], how)(each, None)

    modules = {f"codecarbon{name}": ModuleType(name) for name in ("", ".core", ".core.cpu", ".output")}
    modules["codecarbon"].OfflineEmissionsTracker = Tracker
    modules["codecarbon.core.cpu"].is_rapl_available = lambda: False
    modules["codecarbon.output"].BaseOutput = object
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(watching, "version", lambda _: "3.3.2")
    return Tracker


def reading(kwh=2.0, kg=0.5, country="Spain", gpus=1):
    figures = {"energy_consumed": kwh, "emissions": kg, "country_name": country, "gpu_count": gpus}
    return SimpleNamespace(gpu_model="NVIDIA H100" if gpus else "", cpu_model="Some CPU", cpu_count=20, **figures)


def metered(before=None):
    with EnergyMeter(before) as meter:
        pass
    return meter.used()


def test_energy_and_emissions_add_up_over_resumed_trainings_and_say_how_they_were_found(tracker, monkeypatch):
    tracker.readings = (reading(),)
    with EnergyMeter() as meter:
        assert meter.used()["energy_kwh"] == 2.0
        tracker.readings = (reading(3.0), reading(4.0))
    assert meter.used() == {
        "energy_kwh": 4.0,
        "co2_kg": 0.5,
        "method": "codecarbon 3.3.2, whole machine of the first process: GPU by NVML, CPU estimated, memory estimated; "
        "electricity of Spain",
        "hardware": "Some CPU (20 CPUs), NVIDIA H100",
    }
    assert tracker.options["output_methods"] == [], "no file, and nothing sent"
    again = metered(meter.used())
    assert again["method"].count("codecarbon") == 1
    monkeypatch.setattr(sys.modules["codecarbon.core.cpu"], "is_rapl_available", lambda: True)
    tracker.readings = (reading(1.0, None, country=None, gpus=0),)
    used = metered(again)
    assert (used["energy_kwh"], used["co2_kg"]) == (9.0, 1.0), "emissions are not guessed"
    assert used["hardware"] == "Some CPU (20 CPUs), NVIDIA H100; then Some CPU (20 CPUs)"
    assert "electricity of Spain; then codecarbon" in used["method"]
    assert "first process: CPU by RAPL, memory estimated; emissions not known (set CODECARBON_" in used["method"]


@pytest.mark.parametrize("where", ["init", "start", "stop"])
def test_a_meter_that_fails_is_reported_and_the_training_goes_on(tracker, where, caplog):
    tracker.fails_at, tracker.readings = where, (reading(),)
    with pytest.raises(KeyError, match="of the training"), EnergyMeter() as meter:
        raise KeyError("of the training")
    used = meter.used()
    assert used["energy_kwh"] == (2.0 if where == "stop" else None), "the last reading is kept"
    assert used["method"].endswith(f": codecarbon failed (RuntimeError: no {where})")
    assert f"not measured: codecarbon failed (RuntimeError: no {where})" in caplog.text
    tracker.fails_at, tracker.readings = "", ()
    assert metered()["method"] == "not measured: codecarbon gave no reading"


def test_codecarbon_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "codecarbon", None)
    earlier = {"energy_kwh": 1.0, "co2_kg": None, "method": "by hand", "hardware": "x"}
    reason = "codecarbon is not installed (pip install codecarbon)"
    assert metered(earlier) == {**earlier, "method": f"by hand; then not measured: {reason}"}


def test_codecarbon_measures_this_machine_in_silence(tmp_path, monkeypatch, capfd):
    pytest.importorskip("codecarbon")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CODECARBON_COUNTRY_ISO_CODE", "ESP")
    used = metered()
    assert used["energy_kwh"] > 0
    assert 0 < used["co2_kg"] / used["energy_kwh"] < 1.5, "kg a kWh, in any country"
    assert used["method"].endswith("; electricity of Spain")
    assert not list(tmp_path.iterdir()), "it writes no files of its own"
    assert capfd.readouterr() == ("", "")
