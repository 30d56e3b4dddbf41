"""Workers on this machine, and workers of a scheduler that runs already."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from xland.clusters.waiting import Wanted, running_loop, wait_for_workers
from xland.errors import ClusterError, MissingDependencyError

if TYPE_CHECKING:
    from distributed import Client
    from tornado.ioloop import IOLoop


ANSWER = 10.0
"""Seconds that a scheduler may take to answer."""

TIMEOUT = 120.0
"""Seconds to wait for its workers."""


@contextmanager
def connect(wanted: Wanted, address: str) -> Iterator[Client]:
    """Yield a client of the scheduler at an address; arguments as in :func:`xland.clusters.open_cluster`."""
    with running_loop() as loop, _reach(address, wanted.timeout, loop) as client:
        wait_for_workers(client, wanted, 1, TIMEOUT, f"start workers with `dask worker {address}`")
        _check_versions(client, address)
        yield client


def _reach(address: str, timeout: float | None, loop: IOLoop) -> Client:
    from distributed import Client
    from distributed.comm import connect as call
    from distributed.security import Security

    limit = min(timeout or ANSWER, ANSWER)

    async def ring() -> None:
        comm = await call(address, timeout=limit, **Security().get_connection_args("client"))
        await comm.close()

    try:
        # a client that cannot connect would leave dask without any scheduler, so hear first whether somebody answers
        asyncio.run_coroutine_threadsafe(ring(), loop.asyncio_loop).result()  # type: ignore[attr-defined]
        return Client(address, timeout=limit, loop=loop)
    except (OSError, ValueError) as error:
        raise ClusterError(
            f"no dask scheduler answers at {address} within {limit:g} s: check host and port, and that it runs "
            f"(`dask scheduler`): {error}"
        ) from error
    except TypeError as error:
        raise ClusterError(
            f"{address} needs certificates: set distributed.comm.tls in dask's configuration: {error}"
        ) from error


def _check_versions(client: Client, address: str) -> None:
    """Refuse workers of another environment: they would fail, or give other maps."""
    own = version("xland")
    try:
        found = client.run(version, "xland")
    except PackageNotFoundError as error:
        raise ClusterError(
            f"xland is not installed where the workers of {address} run: start them in this environment"
        ) from error
    other = {worker: each for worker, each in found.items() if each != own}
    if other:
        worker, each = next(iter(other.items()))
        raise ClusterError(
            f"{len(other)} of {len(found)} workers of {address} have another xland than {own}, "
            f"such as {each} on {worker}: start them in this environment"
        )


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
    from distributed import Client, Security

    with running_loop() as loop:
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
