"""The command line trains in one process, under torchrun, and on Dask workers, with the same losses."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import psutil
import pytest

from tests.conftest import PROJECT
from tests.training.commands import QUICK, STEPS, fitted_by, hold, losses, taken_steps, write_files
from tests.waiting import PATIENCE, wait_until
from xland.cli import main

TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m")


@pytest.mark.usefixtures("uncalibrated")
def test_ranks_under_torchrun_and_on_dask_workers_learn_as_one_process(tmp_path, monkeypatch):
    """Those under torchrun are asked to end (SIGTERM) and write their state, and workers of Dask go on from it.

    Before, with batch statistics of their own, they come to the end of another training: near to one process, not the
    same.
    """
    monkeypatch.setattr("xland.training.ranks.launching.CALL", QUICK)
    configuration, store, own = write_files(tmp_path), tmp_path / "store.zarr", tmp_path / "own.toml"
    own.write_text(configuration.read_text() + "common_statistics = false\n")
    assert main(["prepare", str(configuration), str(store)]) == 0

    def arguments(output, configuration=configuration):
        return [str(configuration), str(output), "--store", str(store), "--device", "cpu"]

    assert main(["train", *arguments(tmp_path / "alone")]) == 0
    alone, output = losses(tmp_path / "alone"), tmp_path / "ranks"
    assert len(alone) == STEPS
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(PROJECT)}
    monkeypatch.setenv("PYTHONPATH", str(PROJECT))  # for the ranks of the workers
    waiting = hold(output, 4)
    command = [*TORCHRUN, "tests.training.two_ranks", *arguments(tmp_path / "own", own), *arguments(output)]
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    wait_until(lambda: taken_steps(output) == 4 or process.poll() is not None)
    ranks = [] if process.poll() is not None else psutil.Process(process.pid).children()
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=PATIENCE)
    assert len(list(output.glob("asked-*"))) == 2, said[-3000:]
    assert process.returncode != 0
    assert not any(rank.is_running() for rank in ranks)
    assert fitted_by(tmp_path / "own") == 1
    assert losses(tmp_path / "own") != pytest.approx(alone, rel=1e-3)
    assert losses(tmp_path / "own") == pytest.approx(alone, rel=0.5)
    waiting.unlink()
    taken = losses(output)
    assert 4 <= len(taken) < STEPS
    assert taken == pytest.approx(alone[: len(taken)], rel=1e-3)
    assert main(["train", *arguments(output), "--resume", "--cluster", "local", "--workers", "2"]) == 0
    assert losses(output) == pytest.approx(alone, rel=1e-3)
    assert fitted_by(output) == 1
