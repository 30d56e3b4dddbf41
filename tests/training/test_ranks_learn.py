"""The command line trains in one process, under torchrun, and on Dask workers, with the same losses."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.conftest import PROJECT
from tests.training.commands import losses, write_files
from tests.waiting import PATIENCE, wait_until
from xland.cli import main

STEPS = 20
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m")


@pytest.fixture(scope="module")
def arguments(tmp_path_factory):
    """Configuration and store, as the command line takes them."""
    folder = tmp_path_factory.mktemp("store")
    configuration, store = write_files(folder), folder / "store.zarr"
    assert main(["prepare", str(configuration), str(store)]) == 0
    return lambda output: [
        *("train", str(configuration), str(output)),
        *("--store", str(store), "--device", "cpu"),
    ]


@pytest.fixture(scope="module")
def alone(arguments, tmp_path_factory):
    """Losses of one process."""
    output = tmp_path_factory.mktemp("alone")
    assert main(arguments(output)) == 0
    return losses(output)


def started(arguments: list[str], command: str = "xland.cli") -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(PROJECT)}
    return subprocess.Popen([*TORCHRUN, command, *arguments], env=environment, stderr=subprocess.PIPE, text=True)


def test_two_ranks_under_torchrun_learn_as_one_process(arguments, alone, tmp_path):
    process = started(arguments(tmp_path))
    _, said = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, said
    assert len(alone) == STEPS
    assert losses(tmp_path) == pytest.approx(alone, rel=1e-3)
    assert (tmp_path / "card.json").exists()


def test_two_dask_workers_learn_as_one_process(arguments, alone, tmp_path):
    assert main([*arguments(tmp_path), "--cluster", "local", "--workers", "2"]) == 0
    assert losses(tmp_path) == pytest.approx(alone, rel=1e-3)


def test_ranks_under_torchrun_write_their_state_on_sigterm_and_go_on(arguments, alone, tmp_path):
    process = started(arguments(tmp_path), "tests.training.waiting_ranks")
    wait_until(lambda: len(list(tmp_path.glob("waiting-*"))) == 2 or process.poll() is not None)
    ranks = psutil.Process(process.pid).children()
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=PATIENCE)
    assert process.returncode != 0
    assert not any(rank.is_running() for rank in ranks)
    taken = len(losses(tmp_path))
    assert 0 < taken < STEPS
    assert main([*arguments(tmp_path), "--resume"]) == 0
    assert losses(tmp_path) == pytest.approx(alone, rel=1e-3)


def test_ranks_with_batch_statistics_of_their_own_learn_too(arguments, alone, tmp_path):
    """Without common statistics: near to one process, and not the same."""
    name, configuration, *rest = arguments(tmp_path / "model")
    own = tmp_path / "own.toml"
    own.write_text(Path(configuration).read_text() + "common_statistics = false\n")
    process = started([name, str(own), *rest])
    _, said = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, said
    found = losses(tmp_path / "model")
    assert found != pytest.approx(alone, rel=1e-3)
    assert found == pytest.approx(alone, rel=0.5)
