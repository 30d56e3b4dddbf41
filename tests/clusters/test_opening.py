"""Clusters of this machine give the same maps and leave nothing; those that cannot be had say why."""

from __future__ import annotations

import itertools
import os
import signal
import socket
import ssl
import subprocess
import sys
from contextlib import contextmanager
from types import SimpleNamespace

import dask
import psutil
import pytest
import torch
from dask.utils import parse_timedelta
from distributed import LocalCluster, Security
from distributed.utils import LoopRunner

from tests.clusters.conftest import free_port
from tests.clusters.stores import digest
from tests.waiting import PATIENCE, local_cluster, python_processes_below, wait_until
from xland.clusters import Kind, Profile, open_cluster, opening, register_cluster
from xland.clusters.opening import running_loop
from xland.errors import ClusterError, MissingDependencyError, WorkerError
from xland.store.writing import write


@pytest.fixture(scope="module")
def running():
    """A scheduler with one worker, as someone else would have started it, which may take its time to answer."""
    options = {"n_workers": 1, "processes": False, "protocol": "tcp://", "dashboard_address": "127.0.0.1:0"}
    with pytest.MonkeyPatch.context() as patch, running_loop() as loop, LocalCluster(**options, loop=loop) as cluster:
        patch.setattr(opening, "ANSWER", PATIENCE)
        yield cluster.scheduler_address


@pytest.fixture(scope="module")
def workers():
    """Two workers of this machine, which may be too slow for the event loop of distributed, and end afterwards."""
    start = LoopRunner._start_unlocked

    def started_in_time(runner):
        assert runner._loop is not None, "an event loop did not start within 10 s"
        start(runner)

    before = python_processes_below()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LoopRunner, "_start_unlocked", started_in_time)
        with open_cluster("local", workers=2, threads=2, memory="2GB", progress=False) as client:
            yield client
    wait_until(lambda: python_processes_below() <= before)


def test_local_workers_write_the_same_store(workers, maps, tmp_path):
    few = maps.isel(time=[0])
    with dask.config.set(scheduler="threads"):
        write(few, tmp_path / "threads.zarr", progress=False)
    assert set(workers.run(os.getpid).values()) <= python_processes_below()
    assert list(workers.nthreads().values()) == [2, 2]
    assert {each["memory_limit"] for each in workers.scheduler_info()["workers"].values()} == {2 * 10**9}
    write(few, tmp_path / "cluster.zarr", progress=False)
    assert digest(tmp_path / "cluster.zarr") == digest(tmp_path / "threads.zarr")
    given = dask.config.get("distributed.deploy.lost-worker-timeout")
    assert parse_timedelta(given) == opening.TIMEOUT, "a worker has as long to start again as to start"


def test_local_workers_are_reachable_from_this_machine_alone_and_take_no_code_from_others(workers):
    """Scheduler, nannies and workers: neither without keys nor with other keys."""
    everyone = [os.getpid(), *python_processes_below()]
    connections = [each for process in everyone for each in psutil.Process(process).net_connections("inet")]
    assert {each.laddr.ip for each in connections if each.status == psutil.CONN_LISTEN} == {"127.0.0.1"}
    known = workers.scheduler_info()["workers"]
    for address in (workers.scheduler.address, *known, *(each["nanny"] for each in known.values())):
        assert address.startswith("tls://127.0.0.1:")
        assert answer(address, workers.security), "who has the keys hears the greeting of dask"
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


SCRIPT = """
import pathlib, time
from distributed import as_completed
from xland.clusters import open_cluster
def work(mark):
    pathlib.Path(mark).touch()
    time.sleep(3000)
if __name__ == "__main__":
    with open_cluster("local", workers=1, progress=False) as client:
        next(as_completed([client.submit(work, "working")]))
"""


def test_ctrl_c_of_a_terminal_stops_all_quietly(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
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


def test_a_cluster_without_any_worker_ends_a_write_by_name(maps, tmp_path):
    with (
        local_cluster(n_workers=0, processes=False),
        dask.config.set({"distributed.scheduler.no-workers-timeout": "0.2s"}),
        pytest.raises(
            WorkerError, match=r"had no worker for 0.2 s, with \d+ tasks left: look .*0 of \d+ blocks are safe"
        ),
    ):
        write(maps, tmp_path / "maps.zarr", progress=False)


def refused(spec, message, **options):
    """Open a cluster that cannot be had."""
    with (
        pytest.raises((ClusterError, MissingDependencyError), match=message),
        open_cluster(spec, progress=False, **options),
    ):
        raise AssertionError("it cannot be opened")


def test_local_workers_that_do_not_come_in_time_are_counted_and_ended(monkeypatch):
    before = python_processes_below()
    monkeypatch.setattr("distributed.Client.nthreads", lambda _: {})
    refused("local", r"0 of 1 workers came within 0\.001 s: the machine is too busy", workers=1, timeout=0.001)
    wait_until(lambda: python_processes_below() <= before)


def test_a_running_scheduler_is_joined_and_left_running(running, monkeypatch):
    for _ in range(2):
        with open_cluster(running, progress=False) as client:
            assert client.submit(sum, [1, 2]).result() == 3
    with monkeypatch.context() as patch:
        patch.setattr(opening, "version", lambda _: "0.0.0")
        patch.setattr("distributed.Client.run", lambda *_: {"one": "0.0.1"})
        refused(running, r"1 of 1 workers of tcp.* have another xland than 0\.0\.0, such as 0\.0\.1")
    clock = itertools.count(step=100)
    monkeypatch.setattr(opening, "time", SimpleNamespace(monotonic=lambda: next(clock), sleep=lambda _: None))
    said = f"1 of 2 workers came within 240 s: start workers with `dask worker {running}"
    refused(running, said, workers=2, timeout=240)


def test_a_scheduler_that_does_not_answer_is_given_up_in_time():
    before, address = dask.config.get("scheduler", None), f"tcp://127.0.0.1:{free_port()}"
    with dask.config.set({"distributed.comm.timeouts.connect": "3000s"}):
        refused(address, f"no dask scheduler answers at {address} within 1 s: check host and port", timeout=1)
    assert dask.config.get("scheduler", None) == before, "dask computes where it did"


@pytest.mark.parametrize(
    ("spec", "options", "message"),
    [
        ("laptop", {}, r"unknown cluster 'laptop'\. Known are local, cuda, slurm, tcp://host:port"),
        ("locale", {}, "unknown cluster 'locale': did you mean 'local'"),
        ("local", {"workers": 0}, "workers must be a whole number of at least 1 or None, not 0"),
        ("local", {"workers": 2, "minimum": 3}, "minimum=3 is more than workers=2"),
        ("local", {"profile": "marenostrum5-acc"}, "profile is for the clusters 'slurm', but the cluster is 'local'"),
        ("slurm", {"threads": 2}, "threads is for the clusters 'local' and 'cuda', but the cluster is 'slurm'"),
        ("slurm", {}, "SLURM jobs need a profile"),
        ("tcp://nonsense", {}, "no dask scheduler answers at tcp://nonsense"),
        ("tls://127.0.0.1:9", {}, r"needs certificates: set distributed\.comm\.tls"),
    ],
)
def test_what_cannot_be_meant_is_refused(spec, options, message):
    refused(spec, message, **options)


def test_a_kind_of_cluster_is_added_by_registration(monkeypatch):
    monkeypatch.setattr(opening, "KINDS", dict(opening.KINDS))

    @contextmanager
    def lab(wanted):
        yield wanted

    register_cluster("lab", Kind(lab, ("memory",)))
    with open_cluster("lab", workers=3, memory="1GB") as wanted:
        assert (wanted.spec, wanted.workers, wanted.memory) == ("lab", 3, "1GB")
    refused("lab", "threads is for the clusters 'local' and 'cuda'", threads=2)
    refused("labb", "unknown cluster 'labb': did you mean 'lab'")
    with pytest.raises(ClusterError, match="there is a kind of cluster 'local' already"):
        register_cluster("local", Kind(lab))


def test_clusters_of_gpus_say_what_is_missing_and_get_one_worker_of_two_threads_for_each(monkeypatch):
    def cluster(**options):
        raise RuntimeError(options["n_workers"], options["threads_per_worker"], options["protocol"])

    monkeypatch.setitem(sys.modules, "dask_cuda", None)
    refused("cuda", "need dask-cuda.*pip install dask-cuda")
    monkeypatch.setitem(sys.modules, "dask_cuda", SimpleNamespace(LocalCUDACluster=cluster))
    monkeypatch.setattr(torch.version, "cuda", None)
    refused("cuda", "is built without CUDA")
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    refused("cuda", "there is no GPU here: nvidia-smi")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    refused("cuda", r"cannot be started on this machine: \(1, 2, 'tls://'\)\. In a script")
    refused("cuda", "2 CUDA workers need as many GPUs, but this machine has 1", workers=2)


def test_a_machine_without_slurm_is_told_from_one_without_dask_jobqueue(monkeypatch, tmp_path):
    profile = Profile(folder=str(tmp_path / "logs"))
    monkeypatch.setenv("PATH", str(tmp_path))
    refused("slurm", "sbatch, squeue, scancel not found", profile=profile)
    monkeypatch.setitem(sys.modules, "dask_jobqueue", None)
    refused("slurm", "pip install dask-jobqueue", profile=profile)
    assert not list(tmp_path.iterdir())
