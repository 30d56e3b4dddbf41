"""Workers on this machine: processes on its cores, or one for each of its GPUs."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from xland.clusters.waiting import Wanted, running_loop, wait_for_workers
from xland.errors import ClusterError, MissingDependencyError

if TYPE_CHECKING:
    from distributed import Client

TIMEOUT = 120.0
"""Seconds that the workers of one machine may take to start, or to start again."""

LOOPBACK = "127.0.0.1"


@contextmanager
def local_workers(wanted: Wanted, threads: int | None, memory: str | None) -> Iterator[Client]:
    """Yield a client of new worker processes; arguments as in :func:`xland.clusters.open_cluster`."""
    from dask.system import CPU_COUNT
    from distributed import LocalCluster

    count = wanted.workers or CPU_COUNT
    with _client(LocalCluster, _options(count, threads or 1, memory), wanted) as client:
        yield client


@contextmanager
def cuda_workers(wanted: Wanted, threads: int | None, memory: str | None) -> Iterator[Client]:
    """Yield a client of one worker for each GPU; arguments as in :func:`xland.clusters.open_cluster`."""
    cluster = _cuda_cluster()
    devices = _gpus()
    if wanted.workers is not None and wanted.workers > devices:
        raise ClusterError(f"{wanted.workers} CUDA workers need as many GPUs, but this machine shows {devices}")
    with _client(cluster, _options(wanted.workers or devices, threads or 2, memory), wanted) as client:
        yield client


def _options(workers: int, threads: int, memory: str | None) -> dict[str, Any]:
    return {
        "n_workers": workers,
        "threads_per_worker": threads,
        "memory_limit": memory or "auto",
        "host": LOOPBACK,
        "protocol": "tls://",
        "dashboard_address": f"{LOOPBACK}:0",
    }


@contextmanager
def _client(cluster: Any, options: dict[str, Any], wanted: Wanted) -> Iterator[Client]:
    from dask import config
    from distributed import Client, Security

    # by default a worker that was lost has 15 s to come back: too few for a machine that is busy
    with config.set({"distributed.deploy.lost-worker-timeout": f"{TIMEOUT:g}s"}), running_loop() as loop:
        try:
            # every user of the machine reaches its loopback address; keys for this run keep the others out
            started = cluster(**options, security=Security.temporary(), loop=loop)
        except (ValueError, RuntimeError) as error:
            raise ClusterError(
                f"{options['n_workers']} workers cannot be started on this machine: {error}. In a script, open the "
                "cluster below `if __name__ == '__main__':`, as workers import the script"
            ) from error
        with started, Client(started) as client:
            wait_for_workers(client, wanted, options["n_workers"], TIMEOUT, "the machine is too busy, or out of memory")
            client.run(_leave_interrupts)
            yield client


def _leave_interrupts() -> None:
    """Let Ctrl-C, which a terminal sends to every process, be the caller's, who then stops the workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _cuda_cluster() -> Any:
    try:
        from dask_cuda import LocalCUDACluster
    except ImportError as error:
        raise MissingDependencyError(
            f"workers on GPUs need dask-cuda ({error}): install xland with the extra 'cuda', or use the cluster 'local'"
        ) from error
    return LocalCUDACluster


def _gpus() -> int:
    import torch

    if torch.version.cuda is None:
        raise ClusterError(f"torch {torch.__version__} is built without CUDA: install a CUDA build to use GPUs")
    count = int(torch.cuda.device_count())
    if not count:
        raise ClusterError(
            "there is no GPU here: nvidia-smi lists those of the machine, CUDA_VISIBLE_DEVICES may hide them; "
            "or use the cluster 'local'"
        )
    return count
