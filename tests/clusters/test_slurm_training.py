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
from tests.training.commands import losses, write_files
from tests.waiting import PATIENCE, wait_until
from xland.clusters import open_cluster
from xland.training.configuration import read_configuration
from xland.training.ranks.launching import launch, training_profile

pytestmark = pytest.mark.slurm

KILL_AT = 8
"""Step of 20 after which something is killed; a state is written after every second."""

SCRIPT = """#!/usr/bin/env bash
#SBATCH --nodes 2
#SBATCH --ntasks-per-node 1
export OMP_NUM_THREADS=1 PYTHONPATH={project} MASTER_ADDR=127.0.0.1 MASTER_PORT=$((20000 + SLURM_JOB_ID % 10000))
srun bash -c 'RANK=$SLURM_PROCID WORLD_SIZE=$SLURM_NTASKS LOCAL_RANK=$SLURM_LOCALID exec {python} -m xland.cli "$@"' \\
    xland train {configuration} {output} --device cpu --resume
"""
"""As the page on clusters has it for sites without Dask."""


@pytest.fixture(scope="module")
def configuration(tmp_path_factory):
    return write_files(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def undisturbed(configuration, tmp_path_factory):
    """Losses of all steps of two ranks that nothing happens to."""
    output = tmp_path_factory.mktemp("undisturbed")
    with open_cluster("local", workers=2, progress=False) as client:
        launch(client, read_configuration(configuration), output, device="cpu")
    return losses(output)


def rank_processes() -> dict[int, psutil.Process]:
    """Processes of ranks on this machine, by rank."""
    found = {}
    for process in psutil.process_iter(["cmdline", "environ"]):
        environment = process.info["environ"] or {}
        if "xland.training.ranks.process" in (process.info["cmdline"] or ()) and "RANK" in environment:
            found[int(environment["RANK"])] = process
    return found


def wait_for_steps(output: Path) -> None:
    wait_until(lambda: (output / "steps.csv").exists() and len(losses(output)) >= KILL_AT)


def kill_rank_1() -> None:
    os.kill(rank_processes()[1].pid, signal.SIGKILL)


def cancel_the_job_on_n1() -> None:
    ((job,),) = squeue("%A", "-w", "n1")
    scancel(job)


def submit(script: Path) -> str:
    command = ["sbatch", "--parsable", "--output", f"{script}.log", str(script)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def wait_for_the_end(job: str) -> None:
    command = ["squeue", "--me", "-h", "-o", "%A"]  # also while it ends
    wait_until(lambda: job not in subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())


@pytest.mark.parametrize("kill", [cancel_the_job_on_n1, kill_rank_1])
def test_a_training_on_two_nodes_outlives_the_loss_of_one(configuration, undisturbed, profile, tmp_path, caplog, kill):
    output, wanted = tmp_path / "model", training_profile(profile)
    killer = Thread(target=lambda: (wait_for_steps(output), kill()), daemon=True)
    killer.start()
    with open_cluster("slurm", workers=2, profile=wanted, timeout=PATIENCE, progress=False) as client:
        launch(client, read_configuration(configuration), output, device="cpu", workers=2, timeout=PATIENCE)
    killer.join()
    assert "starting again from the last state" in caplog.text
    assert len(undisturbed) == 20
    assert losses(output) == undisturbed
    wait_until(lambda: not rank_processes())


@pytest.mark.usefixtures("slurm")
def test_a_job_of_two_nodes_without_dask_is_cancelled_and_submitted_again(configuration, undisturbed, tmp_path):
    script, output = tmp_path / "train.sh", tmp_path / "model"
    script.write_text(SCRIPT.format(project=ROOT, python=sys.executable, configuration=configuration, output=output))
    first = submit(script)
    wait_for_steps(output)
    scancel(first)
    wait_for_the_end(first)
    assert KILL_AT <= len(losses(output)) < 20
    wait_for_the_end(submit(script))
    assert losses(output) == undisturbed, Path(f"{script}.log").read_text()
