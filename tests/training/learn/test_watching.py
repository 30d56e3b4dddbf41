"""What a training tells of its steps: their pace, ``steps.csv``, TensorBoard and the energy that it takes."""

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

LOGGER = watching.__name__


@pytest.fixture
def clock(monkeypatch):
    """Time that passes only when it is told to."""
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(watching.time, "perf_counter", lambda: clock.now)
    return clock


def batches(clock, count, seconds=1.0):
    for number in range(count):
        clock.now += seconds
        yield number


def step(number, epoch=1, loss=None):
    return Step(number, epoch, number / 3 if loss is None else loss, 0.01, 1.5)


def rows(folder):
    with (folder / STEPS).open(newline="") as file:
        return list(csv.DictReader(file))


def losses(folder):
    """Losses by step, as exact as they were given."""
    return {int(row["step"]): float(row["loss"]) for row in rows(folder)}


def train(folder, first, last):
    """Report steps one by one, as a training does that begins after the step before ``first``."""
    with Watch(folder, after=first - 1) as watch:
        watch._drawing = False
        for number in range(first, last + 1):
            watch.report([step(number)])


def scalars(folder):
    accumulators = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    found = accumulators.EventAccumulator(str(folder / TENSORBOARD))
    found.Reload()
    return {name: [(event.step, event.value) for event in found.Scalars(name)] for name in found.Tags()["scalars"]}


def full(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_each_report_tells_of_the_time_since_the_one_before_and_of_waiting_between_batches(tmp_path, clock):
    waits = []
    with Watch(tmp_path, main=False) as watch:
        for number in watch.waiting(batches(clock, 3)):
            clock.now += number
            watch.step(samples=1)
            waits.append(watch.report([step(number + 1)])["waiting"])
        whole = watch.epoch(3, {})
    assert waits == pytest.approx([1, 1 / 2, 1 / 3])
    assert whole == {"samples_per_second": 0.5, "waiting": 0.5, "seconds_per_step": 2.0}


def test_reading_the_loss_counts_and_validation_does_not(tmp_path, clock):
    with Watch(tmp_path, main=False) as watch:
        for epoch in range(2):
            for _ in watch.waiting(batches(clock, 1)):
                watch.step(samples=8)
                clock.now += 1.0  # the device finishes, and the loss is read
                figures = watch.report([step(epoch + 1)])
                assert figures == {"samples_per_second": 4.0, "waiting": 0.5, "seconds_per_step": 2.0}
            clock.now += 500.0  # validation
            assert watch.epoch(epoch + 1, {})["seconds_per_step"] == 2.0


def test_errors_of_the_loader_come_through_and_figures_of_no_step_are_not_numbers(tmp_path):
    def broken():
        yield 1
        raise RuntimeError("a worker died")

    with Watch(tmp_path, main=False) as watch, pytest.raises(RuntimeError, match="a worker died"):
        list(watch.waiting(broken()))
    assert all(math.isnan(value) for value in (*watch.report([]).values(), *watch.epoch(0, {}).values()))


def test_every_step_has_a_row_that_can_be_read_at_once_and_only_the_first_process_writes(tmp_path):
    with Watch(tmp_path, main=False) as other:
        other.step(samples=1)
        other.report([step(1)])
        other.epoch(1, {"loss": 1.0})
    assert not list(tmp_path.iterdir())
    with Watch(tmp_path) as watch:
        watch._drawing = False
        for _ in watch.waiting(range(2)):
            watch.step(samples=3)
        figures = watch.report([step(1, loss=0.1 + 0.2), step(2, epoch=2)])
        first, second = rows(tmp_path)
    assert list(first) == [*Step._fields, "samples_per_second", "waiting"]
    assert float(first["loss"]) == 0.1 + 0.2
    assert [second[name] for name in ("step", "epoch", "learning_rate", "gradient_norm")] == ["2", "2", "0.01", "1.5"]
    assert {float(row["samples_per_second"]) for row in (first, second)} == {figures["samples_per_second"]}


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


def test_resuming_without_another_step_leaves_the_file_alone(tmp_path):
    train(tmp_path, 1, 3)
    before = (tmp_path / STEPS).read_bytes(), (tmp_path / STEPS).stat().st_mtime_ns
    with Watch(tmp_path, after=3):
        pass
    assert ((tmp_path / STEPS).read_bytes(), (tmp_path / STEPS).stat().st_mtime_ns) == before
    assert [path.name for path in tmp_path.iterdir()] == [STEPS], "nothing is drawn before there is something to tell"


def test_tensorboard_receives_steps_and_scores_and_forgets_those_after_the_step_that_is_resumed_from(tmp_path):
    pytest.importorskip("tensorboard")
    for first, last, loss in ((1, 6, 1.0), (4, 8, 2.0)):
        with Watch(tmp_path, after=first - 1) as watch:
            for number in range(first, last + 1):
                watch.report([step(number, loss=loss)])
    with Watch(tmp_path, after=8) as watch:
        watch.step(samples=2)
        figures = watch.report([step(9, loss=1.0), step(10, loss=6.0)])
        watch.epoch(10, {"accuracy": 0.75, "iou_4": math.nan})
    found = scalars(tmp_path)
    expected = [(n, 1.0) for n in (1, 2, 3)] + [(n, 2.0) for n in (4, 5, 6, 7, 8)] + [(10, 3.5)]
    assert found["training/loss"] == expected
    assert found["training/learning_rate"][-1] == (10, pytest.approx(0.01))
    assert math.isnan(figures["waiting"]) or found["training/waiting"][-1][0] == 10
    assert found["epoch/accuracy"] == [(10, 0.75)]
    assert "epoch/iou_4" not in found


def test_without_tensorboard_the_log_says_so_once(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(watching.importlib.util, "find_spec", lambda _: None)
    with caplog.at_level(logging.WARNING, LOGGER), Watch(tmp_path) as watch:
        watch.report([step(1)])
        watch.epoch(1, {"loss": 1.0})
    (message,) = [record.getMessage() for record in caplog.records]
    assert message.endswith("(pip install 'xland[logging]'): the training is logged in steps.csv and log.csv only")
    assert list(losses(tmp_path)) == [1]


@pytest.mark.parametrize("where", ["steps.csv", "tensorboard"])
def test_a_full_disk_is_named(tmp_path, monkeypatch, where):
    if where == "steps.csv":
        monkeypatch.setattr(watching, "_table", lambda rows: full() if (2 / 3) in rows[0] else b"")
    else:
        pytest.importorskip("tensorboard")
        monkeypatch.setattr("torch.utils.tensorboard.SummaryWriter.add_scalar", full)
    with (
        Watch(tmp_path) as watch,
        pytest.raises(CheckpointError, match=rf"{where} was not written: the disk of .* is full.*is kept"),
    ):
        watch.report([step(2)])


@pytest.mark.parametrize("planted", ["link", "pipe"])
def test_rows_are_never_added_to_what_is_not_a_plain_file(tmp_path, planted):
    other, steps = tmp_path / "other", tmp_path / STEPS
    other.write_text("mine\n")
    with Watch(tmp_path) as watch:
        steps.unlink(missing_ok=True)
        if planted == "link":
            steps.symlink_to(other)
        else:
            os.mkfifo(steps)
        with pytest.raises(CheckpointError, match=r"steps\.csv was not written: .*it is a (link|pipe)"):
            watch.report([step(1)])
    assert other.read_text() == "mine\n"


def test_a_pipe_in_place_of_the_steps_is_named_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / STEPS)
    with pytest.raises(CheckpointError, match="not a plain file"), Watch(tmp_path):
        pass


def reading(kwh=2.0, kg=0.5, country="Spain", gpus=1):
    return SimpleNamespace(
        energy_consumed=kwh,
        emissions=kg,
        country_name=country,
        gpu_count=gpus,
        gpu_model="1 x NVIDIA H100" if gpus else "",
        cpu_model="Some CPU",
        cpu_count=20,
    )


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


def test_energy_emissions_and_how_they_were_found(tracker):
    tracker.readings = (reading(),)
    with EnergyMeter() as meter:
        assert meter.used()["energy_kwh"] == 2.0
        tracker.readings = (reading(3.0), reading(4.0))
    assert meter.used() == {
        "energy_kwh": 4.0,
        "co2_kg": 0.5,
        "method": "codecarbon 3.3.2, whole machine of the first process: GPU by NVML, CPU estimated, memory estimated; "
        "electricity of Spain",
        "hardware": "Some CPU (20 CPUs), 1 x NVIDIA H100",
    }
    assert tracker.options["output_methods"] == [], "no file, and nothing sent"


def test_a_training_resumed_elsewhere_adds_up_and_names_both(tracker, monkeypatch):
    tracker.readings = (reading(),)
    before = None
    for _ in range(2):
        with EnergyMeter(before) as meter:
            pass
        before = meter.used()
    assert before["method"].count("codecarbon") == 1
    monkeypatch.setattr(sys.modules["codecarbon.core.cpu"], "is_rapl_available", lambda: True)
    tracker.readings = (reading(1.0, None, country=None, gpus=0),)
    with EnergyMeter(before) as meter:
        pass
    used = meter.used()
    assert (used["energy_kwh"], used["co2_kg"]) == (5.0, 1.0), "emissions are not guessed"
    assert used["hardware"] == "Some CPU (20 CPUs), 1 x NVIDIA H100; then Some CPU (20 CPUs)"
    assert "electricity of Spain; then codecarbon" in used["method"]
    assert "first process: CPU by RAPL, memory estimated; emissions not known (set CODECARBON_" in used["method"]


@pytest.mark.parametrize("where", ["init", "start", "stop"])
def test_a_meter_that_fails_is_told_and_lets_the_training_go_on(tracker, where, caplog):
    tracker.fails_at, tracker.readings = where, (reading(),)
    with pytest.raises(KeyError, match="of the training"), EnergyMeter() as meter:
        raise KeyError("of the training")
    used = meter.used()
    assert used["energy_kwh"] == (2.0 if where == "stop" else None), "the last reading is kept"
    assert used["method"].endswith(f": codecarbon failed (RuntimeError: no {where})")
    assert f"not measured: codecarbon failed (RuntimeError: no {where})" in caplog.text
    tracker.fails_at, tracker.readings = "", ()
    with EnergyMeter() as meter:
        pass
    assert meter.used()["method"] == "not measured: codecarbon gave no reading"


def test_codecarbon_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "codecarbon", None)
    with EnergyMeter({"energy_kwh": 1.0, "co2_kg": None, "method": "by hand", "hardware": "x"}) as meter:
        pass
    assert meter.used() == {
        "energy_kwh": 1.0,
        "co2_kg": None,
        "method": "by hand; then not measured: codecarbon is not installed (pip install 'xland[logging]')",
        "hardware": "x",
    }


def test_codecarbon_measures_this_machine_in_silence(tmp_path, monkeypatch, capfd):
    pytest.importorskip("codecarbon")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CODECARBON_COUNTRY_ISO_CODE", "ESP")
    with EnergyMeter() as meter:
        assert sum(range(10**5)) > 0
    used = meter.used()
    assert used["energy_kwh"] > 0
    assert 0 < used["co2_kg"] / used["energy_kwh"] < 1.5, "kg a kWh, in any country"
    assert used["method"].endswith("; electricity of Spain")
    assert not list(tmp_path.iterdir()), "it writes no files of its own"
    assert capfd.readouterr() == ("", "")
