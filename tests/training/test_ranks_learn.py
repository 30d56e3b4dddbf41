"""The command line trains in one process, under torchrun, and on Dask workers, with the same losses."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.conftest import PROJECT
from tests.worlds import tiny_world
from xland.cli import main

CONFIGURATION = """
name = "tiny"
title = "A model of the tests"
[data]
forcing = "{folder}/states.nc"
target = "{folder}/maps.nc"
static = "{folder}/static.nc"
[inputs]
factor = 4
resolution = 1.0
window = 40
stride = 20
coarse = [{{ name = "forest", sources = ["primf", "secdf"] }}, {{ name = "has_data", sources = [] }}]
static = [{{ name = "elevation", sources = ["elevation"], transform = "signed_sqrt" }}]
[architecture]
width = 4
depth = 2
[schedule]
epochs = 2
batch = 4
patch = 40
patch_stride = 20
candidates = 20
checkpoint_every = 2
"""
STEPS = 20
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "xland.cli")


@pytest.fixture(scope="module")
def arguments(tmp_path_factory):
    """Configuration and store, as the command line takes them."""
    folder = tmp_path_factory.mktemp("store")
    coarse, static, maps = tiny_world()
    for name, each in (("states", coarse), ("static", static), ("maps", maps)):
        each.to_netcdf(folder / f"{name}.nc")
    configuration, store = folder / "tiny.toml", folder / "store.zarr"
    configuration.write_text(CONFIGURATION.format(folder=folder))
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


def losses(output: Path) -> list[float]:
    with (output / "steps.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == list(range(1, len(rows) + 1))
    return [float(row["loss"]) for row in rows]


def started(arguments: list[str]) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(PROJECT)}
    return subprocess.Popen([*TORCHRUN, *arguments], env=environment, stderr=subprocess.PIPE, text=True)


def test_two_ranks_under_torchrun_learn_as_one_process(arguments, alone, tmp_path):
    process = started(arguments(tmp_path))
    _, said = process.communicate(timeout=120)
    assert process.returncode == 0, said
    assert len(alone) == STEPS
    assert losses(tmp_path) == pytest.approx(alone, rel=1e-3)
    assert (tmp_path / "card.json").exists()


def test_two_dask_workers_learn_as_one_process(arguments, alone, tmp_path):
    assert main([*arguments(tmp_path), "--cluster", "local", "--workers", "2"]) == 0
    assert losses(tmp_path) == pytest.approx(alone, rel=1e-3)


def test_ranks_under_torchrun_write_their_state_on_sigterm_and_go_on(arguments, alone, tmp_path):
    process = started(arguments(tmp_path))
    while not (tmp_path / "steps.csv").exists():
        assert process.poll() is None
        time.sleep(0.02)
    ranks = psutil.Process(process.pid).children()
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode != 0
    assert not any(rank.is_running() for rank in ranks)
    taken = len(losses(tmp_path))
    assert 0 < taken < STEPS
    assert main([*arguments(tmp_path), "--resume"]) == 0
    assert losses(tmp_path) == pytest.approx(alone, rel=1e-3)
