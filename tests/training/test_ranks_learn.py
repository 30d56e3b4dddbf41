"""The command line trains in one process, under torchrun, and on Dask workers, with the same losses."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import psutil
import pytest

from tests.conftest import PROJECT
from tests.training.commands import losses, write_files
from tests.waiting import PATIENCE, wait_until
from xland.cli import main

pytestmark = pytest.mark.usefixtures("uncalibrated")

STEPS = 20
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m")


@pytest.fixture(scope="module")
def arguments(tmp_path_factory):
    """Configuration and store, as the command line takes them."""
    folder = tmp_path_factory.mktemp("store")
    configuration, store = write_files(folder), folder / "store.zarr"
    assert main(["prepare", str(configuration), str(store)]) == 0
    return lambda output: ["train", str(configuration), str(output), "--store", str(store), "--device", "cpu"]


@pytest.fixture
def alone(arguments, tmp_path_factory):
    """Losses of one process."""
    output = tmp_path_factory.mktemp("alone")
    assert main(arguments(output)) == 0
    found = losses(output)
    assert len(found) == STEPS
    return found


def test_ranks_under_torchrun_and_on_dask_workers_learn_as_one_process(arguments, alone, tmp_path):
    """Those under torchrun are asked to end (SIGTERM) and write their state, and workers of Dask go on from it."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(PROJECT)}
    command = [*TORCHRUN, "tests.training.two_ranks", *arguments(tmp_path)]
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    wait_until(lambda: len(list(tmp_path.glob("waiting-*"))) == 2 or process.poll() is not None)
    ranks = [] if process.poll() is not None else psutil.Process(process.pid).children()
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=PATIENCE)
    assert len(list(tmp_path.glob("waiting-*"))) == 2, said[-3000:]
    assert process.returncode != 0
    assert not any(rank.is_running() for rank in ranks)
    taken = losses(tmp_path)
    assert 0 < len(taken) < STEPS
    assert taken == pytest.approx(alone[: len(taken)], rel=1e-3)
    assert main([*arguments(tmp_path), "--resume", "--cluster", "local", "--workers", "2"]) == 0
    assert losses(tmp_path) == pytest.approx(alone, rel=1e-3)
    assert (tmp_path / "card.json").exists()
