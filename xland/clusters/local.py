"""Workers on this machine: processes on its cores, or one for each of its GPUs."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from xland.clusters.waiting import Wanted, patience, running_loop, wait_for_workers
from xland.errors import ClusterError, MissingDependencyError

if TYPE_CHECKING:
    from distributed import Client

TIMEOUT = 120.0
"""Seconds that the workers of one machine may take to start, or to start again."""

LOOPBACK = "127.0.0.1"


@contextmanager
def local_workers(wanted: Wanted) -> Iterator[Client]:
    """Yield a client of new worker processes."""
    from dask.system import CPU_COUNT
    from distributed import LocalCluster

    with _started(LocalCluster, wanted, wanted.workers or CPU_COUNT, wanted.threads or 1) as client:
        yield client


@contextmanager
def cuda_workers(wanted: Wanted) -> Iterator[Client]:
    """Yield a client of one worker for each GPU."""
    try:
        from dask_cuda import LocalCUDACluster
    except ImportError as error:
        raise MissingDependencyError(
            f"workers on GPUs need dask-cuda ({error}): install xland with the extra 'cuda', or use the cluster 'local'"
        ) from error
    devices = _gpus()
    if wanted.workers is not None and wanted.workers > devices:
        raise ClusterError(f"{wanted.workers} CUDA workers need as many GPUs, but this machine shows {devices}")
    with _started(LocalCUDACluster, wanted, wanted.workers or devices, wanted.threads or 2) as client:
        yield client


@contextmanager
def _started(cluster: Any, wanted: Wanted, workers: int, threads: int) -> Iterator[Client]:
    from distributed import Client, Security

    with patience(TIMEOUT, wanted.timeout or TIMEOUT), running_loop() as loop:
        try:
            started = cluster(
                n_workers=workers,
                threads_per_worker=threads,
                memory_limit=wanted.memory or "auto",
                host=LOOPBACK,
                protocol="tls://",
                dashboard_address=f"{LOOPBACK}:0",
                # every user of the machine reaches its loopback address; keys for this run keep the others out
                security=Security.temporary(),
                loop=loop,
            )
        except (ValueError, RuntimeError) as error:
            raise ClusterError(
                f"{workers} workers cannot be started on this machine: {error}. In a script, open the cluster below "
                "`if __name__ == '__main__':`, as workers import the script"
            ) from error
        with started, Client(started) as client:
            wait_for_workers(client, wanted, workers, TIMEOUT, "the machine is too busy, or out of memory")
            client.run(_leave_interrupts)
            yield client


def _leave_interrupts() -> None:
    """Let Ctrl-C, which a terminal sends to every process, be the caller's, who then stops the workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


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
