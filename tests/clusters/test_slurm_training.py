"""Two ranks on two SLURM nodes: jobs and processes that are killed are replaced, and the losses stay the same."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from threading import Thread

import psutil
import pytest

from tests.clusters.conftest import ROOT, scancel, squeue
from tests.training.commands import QUICK, STEPS, hold, losses, taken_steps, write_files
from tests.waiting import PATIENCE, wait_until
from xland.clusters import open_cluster
from xland.training.configuration import read_configuration
from xland.training.ranks import launching
from xland.training.ranks.launching import launch, training_profile

pytestmark = pytest.mark.slurm

SCRIPT = """#!/usr/bin/env bash
#SBATCH --nodes 2
#SBATCH --ntasks-per-node 1
export OMP_NUM_THREADS=1 PYTHONPATH={project} MASTER_ADDR=127.0.0.1 MASTER_PORT=$((20000 + SLURM_JOB_ID % 10000))
srun bash -c 'RANK=$SLURM_PROCID WORLD_SIZE=$SLURM_NTASKS LOCAL_RANK=$SLURM_LOCALID exec {python} -m {command} "$@"' \\
    xland train {configuration} {output} --device cpu --resume
"""
"""As the page on clusters has it for sites without Dask."""


@pytest.fixture(scope="module")
def submit(slurm, tmp_path_factory):
    """A configuration, and a function that submits a training with it to both nodes, without Dask."""
    folder = tmp_path_factory.mktemp("data")
    configuration, script = write_files(folder), folder / "train.sh"

    def submitted(output: Path) -> str:
        options = {"python": sys.executable, "command": "tests.training.commands", "configuration": configuration}
        script.write_text(SCRIPT.format(project=ROOT, output=output, **options))
        command = ["sbatch", "--parsable", "--output", f"{output}.log", str(script)]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    return configuration, submitted


def rank_processes() -> dict[int, psutil.Process]:
    """Processes of ranks on this machine, by rank."""
    found = {}
    for process in psutil.process_iter(["cmdline", "environ"]):
        environment = process.info["environ"] or {}
        if "xland.training.ranks.rank" in (process.info["cmdline"] or ()) and "RANK" in environment:
            found[int(environment["RANK"])] = process
    return found


def wait_for_the_end(job: str) -> None:
    command = ["squeue", "--me", "-h", "-o", "%A"]  # also while it ends
    wait_until(lambda: job not in subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())


def test_trainings_on_two_nodes_outlive_lost_ranks_and_lost_jobs(submit, profile, tmp_path, caplog, monkeypatch):
    """With Dask, a rank is killed, then the job of a node is cancelled; without, the job is, and submitted again.

    Each is lost after another step, and the losses are the same.
    """
    monkeypatch.setattr(launching, "CALL", QUICK)
    output = tmp_path / "dask"
    waiting = hold(output, 3)

    def kill() -> None:
        wait_until(lambda: taken_steps(output) == 3)
        os.kill(rank_processes()[1].pid, signal.SIGKILL)
        hold(output, 6)
        wait_until(lambda: taken_steps(output) == 6)
        rank, ((job,),) = rank_processes()[1], squeue("%A", "-w", "n1")
        scancel(job)
        wait_until(lambda: (output / "asked-1").exists() or not rank.is_running())
        waiting.unlink()

    killer = Thread(target=kill, daemon=True)
    killer.start()
    wanted = training_profile(profile)
    with open_cluster("slurm", workers=2, profile=wanted, timeout=PATIENCE, progress=False) as client:
        launch(client, read_configuration(submit[0]), output, device="cpu", workers=2, timeout=PATIENCE)
    killer.join()
    assert caplog.text.count("starting again from the last state") >= 2
    with_dask = losses(output)
    assert len(with_dask) == STEPS
    wait_until(lambda: not rank_processes())

    output = tmp_path / "model"
    waiting, first = hold(output, 4), submit[1](output)
    wait_until(lambda: taken_steps(output) == 4)
    scancel(first)
    wait_for_the_end(first)
    waiting.unlink()
    assert 4 <= len(losses(output)) < STEPS
    wait_for_the_end(submit[1](output))
    assert losses(output) == with_dask, Path(f"{output}.log").read_text()
