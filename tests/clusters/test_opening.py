"""Clusters of this machine give the same maps and leave nothing; those that cannot be had say why."""

from __future__ import annotations

import itertools
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from types import ModuleType, SimpleNamespace

import dask
import psutil
import pytest
import torch
from dask.utils import parse_timedelta
from distributed import LocalCluster, Security
from distributed.utils import LoopRunner

from tests.clusters.conftest import free_port, path_to_tests
from tests.clusters.stores import digest
from tests.waiting import PATIENCE, python_processes_below, wait_until
from xland.clusters import Profile, existing, local, open_cluster, waiting
from xland.clusters.waiting import running_loop
from xland.errors import ClusterError, MissingDependencyError
from xland.store.writing import write


@pytest.fixture
def fake_dask_cuda(monkeypatch):
    module = ModuleType("dask_cuda")
    module.LocalCUDACluster = None
    monkeypatch.setitem(sys.modules, "dask_cuda", module)


@pytest.fixture(scope="module")
def running():
    """A scheduler with one worker, as someone else would have started it, which may take its time to answer."""
    options = {"n_workers": 1, "threads_per_worker": 1, "dashboard_address": "127.0.0.1:0"}
    with pytest.MonkeyPatch.context() as patch, running_loop() as loop, LocalCluster(**options, loop=loop) as cluster:
        patch.setattr(existing, "ANSWER", PATIENCE)
        yield cluster.scheduler_address


def test_local_workers_write_the_same_store(maps, tmp_path):
    few = maps.isel(time=slice(2))
    write(few, tmp_path / "threads.zarr", progress=False)
    before = python_processes_below()
    with open_cluster("local", workers=2, memory="2GB", progress=False) as client:
        assert set(client.run(os.getpid).values()) <= python_processes_below()
        assert set(client.nthreads().values()) == {1}
        assert {each["memory_limit"] for each in client.scheduler_info()["workers"].values()} == {2 * 10**9}
        write(few, tmp_path / "cluster.zarr", progress=False)
    assert digest(tmp_path / "cluster.zarr") == digest(tmp_path / "threads.zarr")
    wait_until(lambda: python_processes_below() <= before)


def test_a_local_worker_has_as_long_to_start_again_as_to_start():
    with open_cluster("local", workers=1, progress=False):
        given = dask.config.get("distributed.deploy.lost-worker-timeout")
    assert parse_timedelta(given) == local.TIMEOUT


def test_local_workers_are_reachable_from_this_machine_alone():
    with open_cluster("local", workers=1, threads=2, progress=False) as client:
        assert set(client.nthreads().values()) == {2}
        everyone = [os.getpid(), *python_processes_below()]
        open_to = {
            each.laddr.ip
            for process in everyone
            for each in psutil.Process(process).net_connections("inet")
            if each.status == psutil.CONN_LISTEN
        }
    assert open_to == {"127.0.0.1"}


def test_local_workers_take_no_code_from_others():
    """Scheduler, nannies and workers: neither without keys nor with other keys."""
    with open_cluster("local", workers=1, progress=False) as client:
        workers = client.scheduler_info()["workers"]
        addresses = [client.scheduler.address, *workers, *(each["nanny"] for each in workers.values())]
        assert len(addresses) == 3

        for address in addresses:
            assert address.startswith("tls://127.0.0.1:")
            assert answer(address, client.security), "who has the keys hears the greeting of dask"
            for stranger in (None, Security.temporary()):
                with pytest.raises(OSError, match=r"(?i)alert|certificate|reset|closed"):
                    assert answer(address, stranger), "closed without a word"


def answer(address, security):
    """Return the first bytes that a port of dask sends to who calls it with these keys, or without any."""
    host, port = address.removeprefix("tls://").split(":")
    if security is None:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    else:
        context = security.get_connection_args("client")["ssl_context"]
    with socket.create_connection((host, int(port)), timeout=PATIENCE) as plain, context.wrap_socket(plain) as line:
        return line.recv(8)


def test_ctrl_c_of_a_terminal_stops_all_quietly(tmp_path):
    program = (
        "import pathlib, time\nfrom distributed import as_completed\nfrom xland.clusters import open_cluster\n"
        "def work(mark):\n"
        "    pathlib.Path(mark).touch()\n"
        "    time.sleep(3000)\n"
        "if __name__ == '__main__':\n"
        "    with open_cluster('local', workers=1, progress=False) as client:\n"
        "        next(as_completed([client.submit(work, 'working')]))\n"
    )
    (tmp_path / "script.py").write_text(program)
    # a group of its own, all of which gets the signal, as in a terminal
    process = subprocess.Popen(
        [sys.executable, "script.py"], cwd=tmp_path, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    wait_until(lambda: (tmp_path / "working").exists() or process.poll() is not None)
    below = psutil.Process(process.pid).children(recursive=True)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == -signal.SIGINT
    assert errors.count("Traceback") == 1
    assert not psutil.wait_procs(below, timeout=PATIENCE)[1]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_workers_end_with_an_error_too(error):
    before = python_processes_below()
    with pytest.raises(error), open_cluster("local", workers=1, progress=False):
        raise error
    wait_until(lambda: python_processes_below() <= before)


def test_workers_that_do_not_come_in_time_are_counted(monkeypatch):
    before = python_processes_below()
    monkeypatch.setattr("distributed.Client.nthreads", lambda _: {"one": 1})
    with (
        pytest.raises(ClusterError, match=r"1 of 2 workers came within 0\.001 s: the machine"),
        open_cluster("local", workers=2, timeout=0.001, progress=False),
    ):
        raise AssertionError("there is one")
    wait_until(lambda: python_processes_below() <= before)


def test_a_running_scheduler_is_joined_and_left_running(running):
    for _ in range(2):
        with open_cluster(running, progress=False) as client:
            assert client.submit(sum, [1, 2]).result() == 3


def test_too_few_workers_of_a_running_scheduler_are_counted(running, monkeypatch):
    clock = itertools.count(step=100)
    monkeypatch.setattr(waiting, "time", SimpleNamespace(monotonic=lambda: next(clock), sleep=lambda _: None))
    with (
        pytest.raises(
            ClusterError, match=f"1 of 2 workers came within 240 s: start workers with `dask worker {running}"
        ),
        open_cluster(running, workers=2, timeout=240, progress=False),
    ):
        raise AssertionError("there is one")


def test_workers_with_another_xland_are_refused(running, monkeypatch):
    monkeypatch.setattr(existing, "version", lambda _: "0.0.0")
    monkeypatch.setattr("distributed.Client.run", lambda *_: {"one": "0.0.1"})
    with (
        pytest.raises(ClusterError, match=r"1 of 1 workers of tcp.* have another xland than 0\.0\.0, such as 0\.0\.1"),
        open_cluster(running, progress=False),
    ):
        raise AssertionError("it is another one")


def test_a_scheduler_that_does_not_answer_is_given_up_in_time():
    begin = time.monotonic()
    address = f"tcp://127.0.0.1:{free_port()}"
    with (
        pytest.raises(ClusterError, match=f"no dask scheduler answers at {address} within 1 s: check host and port"),
        dask.config.set({"distributed.comm.timeouts.connect": "300s"}),
        open_cluster(address, timeout=1, progress=False),
    ):
        raise AssertionError("nobody is there")
    assert time.monotonic() - begin < 250
    assert not dask.config.get("scheduler", None), "dask computes on threads again"


def test_certificates_that_are_missing_are_asked_for():
    with (
        pytest.raises(ClusterError, match=r"needs certificates: set distributed\.comm\.tls"),
        open_cluster("tls://127.0.0.1:9", progress=False),
    ):
        raise AssertionError("nobody is there")


@pytest.mark.parametrize(
    ("spec", "options", "message"),
    [
        ("laptop", {}, "unknown cluster 'laptop': choose local, cuda, slurm or tcp://host:port"),
        ("local", {"workers": 0}, "workers must be a whole number of at least 1, not 0"),
        ("local", {"minimum": -1}, "minimum must be a whole number of at least 1, not -1"),
        ("local", {"workers": 2, "minimum": 3}, "minimum=3 is more than workers=2"),
        ("local", {"profile": "marenostrum5-acc"}, "a profile describes SLURM jobs, but the cluster is 'local'"),
        ("slurm", {"threads": 2}, "threads and memory are for 'local' and 'cuda'"),
        ("slurm", {}, "SLURM jobs need a profile"),
        ("tcp://nonsense", {}, "no dask scheduler answers at tcp://nonsense"),
    ],
)
def test_what_cannot_be_meant_is_refused(spec, options, message):
    with pytest.raises(ClusterError) as raised, open_cluster(spec, progress=False, **options):
        raise AssertionError("it cannot be opened")
    assert message in str(raised.value)


def test_a_machine_too_slow_for_the_loop_of_distributed_has_its_workers_all_the_same(monkeypatch):
    start = LoopRunner._start_unlocked

    def started_in_time(runner):
        assert runner._loop is not None, "an event loop did not start within 10 s"
        start(runner)

    monkeypatch.setattr(LoopRunner, "_start_unlocked", started_in_time)
    with open_cluster("local", workers=1, progress=False) as client:
        assert client.submit(sum, [1, 2]).result() == 3


def test_dask_cuda_that_is_missing_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "dask_cuda", None)
    with pytest.raises(MissingDependencyError, match=r"need dask-cuda.*with the extra 'cuda'"), open_cluster("cuda"):
        raise AssertionError("it is not there")


@pytest.mark.usefixtures("fake_dask_cuda")
def test_a_torch_without_cuda_and_a_machine_without_gpus_are_told_apart(monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", None)
    with pytest.raises(ClusterError, match="is built without CUDA"), open_cluster("cuda"):
        raise AssertionError("there is no CUDA")
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(ClusterError, match="there is no GPU here: nvidia-smi"), open_cluster("cuda"):
        raise AssertionError("there is no GPU")


@pytest.mark.usefixtures("fake_dask_cuda")
def test_a_gpu_gets_one_worker_of_two_threads(monkeypatch):
    monkeypatch.setattr(local, "_gpus", lambda: 1)
    monkeypatch.setattr(sys.modules["dask_cuda"], "LocalCUDACluster", LocalCluster)
    with open_cluster("cuda", progress=False) as client:
        assert list(client.nthreads().values()) == [2]


@pytest.mark.usefixtures("fake_dask_cuda")
def test_more_workers_than_gpus_are_refused(monkeypatch):
    monkeypatch.setattr(local, "_gpus", lambda: 1)
    with pytest.raises(ClusterError, match="2 CUDA workers need as many GPUs, but this machine shows 1"):
        open_cluster("cuda", workers=2).__enter__()


def test_a_machine_without_slurm_is_told_from_one_without_dask_jobqueue(monkeypatch, tmp_path):
    profile = Profile(folder=str(tmp_path / "logs"), environment=path_to_tests())
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ClusterError, match="sbatch, squeue, scancel not found"), open_cluster("slurm", profile=profile):
        raise AssertionError("there is no SLURM")
    monkeypatch.setitem(sys.modules, "dask_jobqueue", None)
    with pytest.raises(MissingDependencyError, match="the extra 'slurm'"), open_cluster("slurm", profile=profile):
        raise AssertionError("it is not there")
    assert not list(tmp_path.iterdir())
