"""The meter of a training's electricity: what it tells, and that it never stands in the way."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace

import pytest

from xland.training.learn import watching
from xland.training.learn.watching import EnergyMeter


class Tracker:
    """Stands for codecarbon's: what it reads, and where it fails, is set by the test."""

    readings: tuple = ()
    fails_at = ""

    def __init__(self, **options):
        type(self).options = options
        self._may_fail("init")

    def start(self):
        self._may_fail("start")
        self._hand_over("live_out")

    def stop(self):
        self._may_fail("stop")
        self._hand_over("out")

    def _hand_over(self, how):
        for reading in self.readings:
            for handler in self.options["output_handlers"]:
                getattr(handler, how)(reading, None)

    def _may_fail(self, where):
        if self.fails_at == where:
            raise RuntimeError(f"no {where}")


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
    """codecarbon, whether it is installed or not, with a tracker that obeys the test."""

    class Obedient(Tracker):
        pass

    modules = {
        name: ModuleType(name) for name in ("codecarbon", "codecarbon.core", "codecarbon.core.cpu", "codecarbon.output")
    }
    modules["codecarbon"].OfflineEmissionsTracker = Obedient
    modules["codecarbon.core.cpu"].is_rapl_available = lambda: False
    modules["codecarbon.output"].BaseOutput = object
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(watching, "version", lambda _: "3.3.2")
    return Obedient


def test_energy_emissions_and_how_they_were_found(tracker):
    tracker.readings = (reading(),)
    with EnergyMeter(country="ESP") as meter:
        assert meter.used()["energy_kwh"] == 2.0
    assert meter.used() == {
        "energy_kwh": 2.0,
        "co2_kg": 0.5,
        "method": "codecarbon 3.3.2, whole machine of the first process: GPU by NVML, CPU estimated, memory estimated; "
        "electricity of Spain",
        "hardware": "Some CPU (20 CPUs), 1 x NVIDIA H100",
    }
    assert tracker.options["country_iso_code"] == "ESP"
    assert tracker.options["output_methods"] == [], "no file, and nothing sent"


def test_a_machine_without_gpu_and_with_rapl_is_told_as_such(tracker, monkeypatch):
    monkeypatch.setattr(sys.modules["codecarbon.core.cpu"], "is_rapl_available", lambda: True)
    tracker.readings = (reading(gpus=0),)
    with EnergyMeter(country="ESP") as meter:
        used = meter.used()
    assert "first process: CPU by RAPL, memory estimated" in used["method"]
    assert used["hardware"] == "Some CPU (20 CPUs)"


@pytest.mark.parametrize(
    ("country", "reason"), [(None, "no country was given"), ("XXX", "codecarbon knows no country 'XXX'")]
)
def test_emissions_are_not_guessed(tracker, country, reason):
    """codecarbon would take the average of the world."""
    tracker.readings = (reading(country=None),)
    with EnergyMeter(country=country) as meter:
        used = meter.used()
    assert (used["energy_kwh"], used["co2_kg"]) == (2.0, None)
    assert used["method"].endswith(f"emissions not known ({reason})")
    assert ("country_iso_code" in tracker.options) == (country is not None), "else codecarbon's own setting counts"


def test_the_last_reading_counts(tracker):
    with EnergyMeter(country="ESP") as meter:
        tracker.readings = (reading(3.0), reading(4.0))
    assert meter.used()["energy_kwh"] == 4.0


def test_a_resumed_training_adds_to_what_was_used_before(tracker):
    tracker.readings = (reading(2.0, 0.5),)
    before = None
    for _ in range(3):
        with EnergyMeter(before, country="ESP") as meter:
            pass
        before = meter.used()
    assert (before["energy_kwh"], before["co2_kg"]) == (6.0, 1.5)
    assert before["hardware"] == "Some CPU (20 CPUs), 1 x NVIDIA H100"
    assert before["method"].count("codecarbon") == 1


def test_a_training_resumed_elsewhere_names_both(tracker):
    tracker.readings = (reading(2.0, 0.5),)
    with EnergyMeter(country="ESP") as first:
        pass
    tracker.readings = (reading(1.0, None, country=None, gpus=0),)
    with EnergyMeter(first.used()) as second:
        pass
    used = second.used()
    assert (used["energy_kwh"], used["co2_kg"]) == (3.0, 0.5)
    assert used["hardware"] == "Some CPU (20 CPUs), 1 x NVIDIA H100; then Some CPU (20 CPUs)"
    assert "electricity of Spain; then codecarbon" in used["method"]


@pytest.mark.parametrize("where", ["init", "start"])
def test_a_meter_that_does_not_start_is_told_and_lets_the_training_go_on(tracker, where, caplog):
    tracker.fails_at = where
    with EnergyMeter() as meter:
        trained = True
    assert trained
    assert meter.used() == {
        "energy_kwh": None,
        "co2_kg": None,
        "method": f"not measured: codecarbon failed (RuntimeError: no {where})",
        "hardware": None,
    }
    assert f"not measured: codecarbon failed (RuntimeError: no {where})" in caplog.text


def test_a_meter_that_fails_at_the_end_keeps_its_last_reading(tracker):
    tracker.readings = (reading(),)
    with EnergyMeter(country="ESP") as meter:
        tracker.fails_at = "stop"
    assert meter.used()["energy_kwh"] == 2.0
    assert meter.used()["method"].endswith("electricity of Spain: codecarbon failed (RuntimeError: no stop)")


def test_errors_of_the_training_come_through(tracker):
    tracker.fails_at = "stop"
    with pytest.raises(KeyError, match="of the training"), EnergyMeter():
        raise KeyError("of the training")


def test_a_meter_without_readings_says_so(tracker):
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
    with EnergyMeter(country="ESP") as meter:
        first = meter.used()["energy_kwh"]
        assert sum(range(10**7)) > 0
    used = meter.used()
    assert used["energy_kwh"] > first >= 0
    assert 0 < used["co2_kg"] / used["energy_kwh"] < 1.5, "kg a kWh, in any country"
    assert used["method"].endswith("; electricity of Spain")
    assert " CPUs)" in used["hardware"]
    assert not list(tmp_path.iterdir()), "it writes no files of its own"
    assert capfd.readouterr() == ("", "")


def test_codecarbon_does_not_know_every_country():
    pytest.importorskip("codecarbon")
    with EnergyMeter(country="XXX") as meter:
        pass
    assert meter.used()["energy_kwh"] > 0
    assert meter.used()["co2_kg"] is None
