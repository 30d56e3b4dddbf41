"""Two ranks on two SLURM nodes: jobs and processes that are killed are replaced, and the losses stay the same."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path
from threading import Thread

import psutil
import pytest

from tests.worlds import tiny_configuration, tiny_world
from xland.clusters import watching
from xland.training.configuration import Data
from xland.training.launching import TrainingJob, train_on_cluster

pytestmark = pytest.mark.slurm

KILL_AT = 8
"""Step of 24 after which something is killed; a state is written after every second."""


@pytest.fixture(autouse=True)
def look_often(monkeypatch):
    monkeypatch.setattr(watching, "INTERVAL", 0.5)


@pytest.fixture(scope="module")
def configuration(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    coarse, static, maps = tiny_world()
    data = {"forcing": coarse, "static": static, "target": maps}
    for name, each in data.items():
        each.to_netcdf(folder / f"{name}.nc")
    tiny = tiny_configuration(batch=4, checkpoint_every=2)
    return replace(tiny, data=Data(**{name: str(folder / f"{name}.nc") for name in data}))


@pytest.fixture(scope="module")
def undisturbed(configuration, tmp_path_factory):
    """Losses of all steps of two ranks that nothing happens to."""
    job = TrainingJob(configuration, tmp_path_factory.mktemp("undisturbed"), device="cpu")
    train_on_cluster(job, "local", workers=2, progress=False)
    return losses(job.output)


def losses(output: Path) -> list[tuple[str, str]]:
    with (output / "steps.csv").open(newline="") as file:
        return [(row["step"], row["loss"]) for row in csv.DictReader(file)]


def rank_processes() -> dict[int, psutil.Process]:
    """Processes of ranks on this machine, by rank."""
    found = {}
    for process in psutil.process_iter(["cmdline"]):
        if "xland.training.rank_process" in (process.info["cmdline"] or ()):
            found[int(process.environ()["RANK"])] = process
    return found


def in_the_middle(output: Path, act) -> Thread:
    """Do something once some steps are taken and a state is written."""

    def wait():
        end = time.monotonic() + 120
        while not (output / "steps.csv").exists() or len(losses(output)) < KILL_AT:
            assert time.monotonic() < end, "the training did not begin"
            time.sleep(0.05)
        act()

    thread = Thread(target=wait, daemon=True)
    thread.start()
    return thread


def cancel_the_job_on_n1() -> None:
    command = ["squeue", "--me", "-h", "-w", "n1", "-o", "%A"]
    job = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    command = ["scancel", job]
    subprocess.run(command, check=True)


def kill_rank_1() -> None:
    os.kill(rank_processes()[1].pid, signal.SIGKILL)


@pytest.mark.parametrize("kill", [cancel_the_job_on_n1, kill_rank_1])
def test_a_training_on_two_nodes_outlives_the_loss_of_one(configuration, undisturbed, profile, tmp_path, caplog, kill):
    job = TrainingJob(configuration, tmp_path / "model", device="cpu")
    killer = in_the_middle(job.output, kill)
    train_on_cluster(job, "slurm", workers=2, profile=profile, timeout=120, progress=False)
    killer.join()
    assert "starting again from the last state" in caplog.text
    assert len(undisturbed) == 24
    assert losses(job.output) == undisturbed
    assert not rank_processes()
