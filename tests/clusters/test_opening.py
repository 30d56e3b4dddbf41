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
from contextlib import contextmanager
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
from tests.waiting import PATIENCE, local_cluster, python_processes_below, wait_until
from xland.clusters import Kind, Profile, existing, local, open_cluster, opening, register_cluster, waiting
from xland.clusters.waiting import running_loop
from xland.errors import ClusterError, MissingDependencyError, WorkerError
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
    assert parse_timedelta(given) == local.TIMEOUT, "a worker has as long to start again as to start"


@pytest.mark.usefixtures("workers")
def test_local_workers_are_reachable_from_this_machine_alone():
    everyone = [os.getpid(), *python_processes_below()]
    open_to = {
        each.laddr.ip
        for process in everyone
        for each in psutil.Process(process).net_connections("inet")
        if each.status == psutil.CONN_LISTEN
    }
    assert open_to == {"127.0.0.1"}


def test_local_workers_take_no_code_from_others(workers):
    """Scheduler, nannies and workers: neither without keys nor with other keys."""
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


def test_workers_that_do_not_come_in_time_are_counted(monkeypatch):
    before = python_processes_below()
    monkeypatch.setattr("distributed.Client.nthreads", lambda _: {"one": 1})
    with (
        pytest.raises(ClusterError, match=r"1 of 2 workers came within 0\.001 s: the machine"),
        open_cluster("local", workers=2, timeout=0.001, progress=False),
    ):
        raise AssertionError("there is one")
    wait_until(lambda: python_processes_below() <= before)


def test_a_cluster_without_any_worker_ends_a_write_by_name(maps, tmp_path):
    with (
        local_cluster(n_workers=0, processes=False),
        dask.config.set({"distributed.scheduler.no-workers-timeout": "0.2s"}),
        pytest.raises(
            WorkerError, match=r"had no worker for 0.2 s, with \d+ tasks left: look .*0 of \d+ blocks are safe"
        ),
    ):
        write(maps, tmp_path / "maps.zarr", progress=False)


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
    begin, before = time.monotonic(), dask.config.get("scheduler", None)
    address = f"tcp://127.0.0.1:{free_port()}"
    with (
        pytest.raises(ClusterError, match=f"no dask scheduler answers at {address} within 1 s: check host and port"),
        dask.config.set({"distributed.comm.timeouts.connect": "300s"}),
        open_cluster(address, timeout=1, progress=False),
    ):
        raise AssertionError("nobody is there")
    assert time.monotonic() - begin < 250
    assert dask.config.get("scheduler", None) == before, "dask computes where it did"


def test_certificates_that_are_missing_are_asked_for():
    with (
        pytest.raises(ClusterError, match=r"needs certificates: set distributed\.comm\.tls"),
        open_cluster("tls://127.0.0.1:9", progress=False),
    ):
        raise AssertionError("nobody is there")


@pytest.mark.parametrize(
    ("spec", "options", "message"),
    [
        ("laptop", {}, "unknown cluster 'laptop'. Known are local, cuda, slurm, tcp://host:port"),
        ("locale", {}, "unknown cluster 'locale': did you mean 'local'"),
        ("local", {"workers": 0}, "workers must be a whole number of at least 1 or None, not 0"),
        ("local", {"minimum": -1}, "minimum must be a whole number of at least 1 or None, not -1"),
        ("local", {"workers": 2, "minimum": 3}, "minimum=3 is more than workers=2"),
        ("local", {"profile": "marenostrum5-acc"}, "profile is for the clusters 'slurm', but the cluster is 'local'"),
        ("slurm", {"threads": 2}, "threads is for the clusters 'local' and 'cuda', but the cluster is 'slurm'"),
        ("slurm", {}, "SLURM jobs need a profile"),
        ("tcp://nonsense", {}, "no dask scheduler answers at tcp://nonsense"),
    ],
)
def test_what_cannot_be_meant_is_refused(spec, options, message):
    with pytest.raises(ClusterError) as raised, open_cluster(spec, progress=False, **options):
        raise AssertionError("it cannot be opened")
    assert message in str(raised.value)


def test_a_kind_of_cluster_is_added_by_registration(monkeypatch):
    monkeypatch.setattr(waiting, "KINDS", dict(waiting.KINDS))
    monkeypatch.setattr(opening, "KINDS", waiting.KINDS)

    @contextmanager
    def lab(wanted):
        yield wanted

    register_cluster("lab", Kind(lab, ("memory",)))
    with open_cluster("lab", workers=3, memory="1GB") as wanted:
        assert (wanted.spec, wanted.workers, wanted.memory) == ("lab", 3, "1GB")
    with pytest.raises(ClusterError, match="threads is for the clusters 'local' and 'cuda'"):
        open_cluster("lab", threads=2).__enter__()
    with pytest.raises(ClusterError, match="unknown cluster 'labb': did you mean 'lab'"):
        open_cluster("labb").__enter__()
    with pytest.raises(ClusterError, match="there is a kind of cluster 'local' already"):
        register_cluster("local", Kind(lab))


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
    class RecordedError(Exception):
        pass

    def cluster(**options):
        raise RecordedError(options["n_workers"], options["threads_per_worker"], options["protocol"])

    monkeypatch.setattr(local, "_gpus", lambda: 1)
    monkeypatch.setattr(sys.modules["dask_cuda"], "LocalCUDACluster", cluster)
    with pytest.raises(RecordedError) as recorded:
        open_cluster("cuda", progress=False).__enter__()
    assert recorded.value.args == (1, 2, "tls://")


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
