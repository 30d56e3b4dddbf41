"""A SLURM of two nodes on this machine, and a world in files that any worker can open."""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path

import pytest

from tests.worlds import tiny_checkpoint, tiny_world
from xland.clusters import Profile
from xland.downscaling.call import downscale

ROOT = Path(__file__).resolve().parents[2]
YEARS = (2000, 2001)


@pytest.fixture(scope="session")
def slurm(tmp_path_factory):
    """One for these tests alone, unless make slurm or .ci/run started one; never that of a site."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{os.environ['PATH']}:/usr/sbin:/sbin")
        required = os.environ.get("XLAND_TEST_SLURM") == "required"
        missing = [name for name in ("slurmctld", "slurmd", "munged", "sbatch") if shutil.which(name) is None]
        if missing:
            assert not required, missing
            pytest.skip(f"{', '.join(missing)} not installed: .ci/slurm install brings them on Debian")
        if required:
            yield
            return
        patch.setenv("XLAND_SLURM", str(tmp_path_factory.mktemp("slurm")))
        patch.setenv("XLAND_SLURM_PORT", str(free_port()))
        started = subprocess.run([ROOT / ".ci" / "slurm", "start"], capture_output=True, text=True, check=False)
        assert started.returncode == 0, started.stderr
        patch.setenv("SLURM_CONF", started.stdout.strip().partition("=")[2])
        try:
            yield
        finally:
            subprocess.run([ROOT / ".ci" / "slurm", "stop"], check=True)


@pytest.fixture(autouse=True)
def turn(request, monkeypatch):
    """Let one test at a time have the two nodes, as tests run in several processes, and ask SLURM often."""
    if request.node.get_closest_marker("slurm") is None:
        yield
        return
    monkeypatch.setattr("xland.clusters.slurm.INTERVAL", 0.2)
    with Path(tempfile.gettempdir(), f"xland-tests-slurm-{os.getuid()}.lock").open("a") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


@pytest.fixture
def profile(slurm, tmp_path):
    """Jobs of one worker each, which find these tests."""
    folder, environment = str(tmp_path / "logs"), {"PYTHONPATH": str(ROOT)}
    return Profile(walltime="00:05:00", memory="2GB", host="127.0.0.1", folder=folder, environment=environment)


@pytest.fixture(scope="session")
def files(tmp_path_factory):
    """Folder with states.nc, static.nc and a model."""
    folder = tmp_path_factory.mktemp("world")
    coarse, static, _ = tiny_world(YEARS)
    coarse.to_netcdf(folder / "states.nc")
    static.to_netcdf(folder / "static.nc")
    tiny_checkpoint(folder / "model")
    return folder


@pytest.fixture(scope="session")
def maps(files):
    """Lazy maps of two years in 18 blocks each."""
    coarse, static, _ = tiny_world(YEARS)
    return downscale(coarse, model=files / "model", static=static, chunks=60)


def squeue(columns: str, *options: str) -> list[list[str]]:
    """Columns of one's jobs that wait or run."""
    command = ["squeue", "--me", "-h", "-t", "PD,R", "-o", columns, *options]
    for _ in range(5):  # its controller does not always answer in time on a busy machine
        answer = subprocess.run(command, capture_output=True, text=True, check=False)
        if answer.returncode == 0:
            return [line.split() for line in answer.stdout.splitlines()]
    raise AssertionError(answer.stderr)


def scancel(job: str) -> None:
    subprocess.run(["scancel", job], check=True)  # noqa: S607


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
