"""Opening any kind of cluster: this machine's cores or GPUs, a running scheduler, or a kind that was registered."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any

from xland.arguments import Count, Positive, checked, unknown
from xland.clusters.profile import Profile
from xland.errors import ClusterError, MissingDependencyError

if TYPE_CHECKING:
    from distributed import Client
    from tornado.ioloop import IOLoop

# seconds
ANSWER = 10.0  # for a scheduler to answer
TIMEOUT = 120.0  # for workers to start, or to start again
INTERVAL = 0.2  # between two looks at the workers

LOOPBACK = "127.0.0.1"


@dataclass(frozen=True)
class Wanted:
    """What is asked of a cluster, as in :func:`xland.clusters.open_cluster`; ``spec`` is its name or address."""

    spec: str
    workers: int | None = None
    minimum: int | None = None
    threads: int | None = None
    memory: str | None = None
    profile: Any = None
    timeout: float | None = None
    progress: bool = False


@dataclass(frozen=True)
class Kind:
    """A kind of cluster: how it is opened, and which of ``threads``, ``memory`` and ``profile`` it takes."""

    open: Callable[[Wanted], AbstractContextManager[Client]]
    takes: tuple[str, ...] = ()


KINDS: dict[str, Kind] = {}
"""Kinds by name: what :func:`register_cluster` has added."""


def register_cluster(name: str, kind: Kind) -> None:
    """Add a kind of cluster, which :func:`xland.clusters.open_cluster` and ``--cluster`` then know by its name.

    Its ``open`` takes a :class:`Wanted` and gives a context manager that yields a `distributed.Client`; it waits for
    the workers (:func:`wait_for_workers`), and stops at the end what it started.

    Raises
    ------
    ClusterError
        If there is another kind of that name.
    """
    if KINDS.setdefault(name, kind) != kind:
        raise ClusterError(f"there is a kind of cluster {name!r} already: choose another name")


@checked(ClusterError)
@contextmanager
def open_cluster(
    spec: str,
    *,
    workers: Count | None = None,
    minimum: Count | None = None,
    threads: Count | None = None,
    memory: str | None = None,
    profile: str | Path | Profile | None = None,
    timeout: Positive | None = None,
    progress: bool = True,
) -> Iterator[Client]:
    """Start or join a cluster, wait for its workers, and stop at the end what was started.

    While it is open, the client is dask's default: lazy results are computed and written on the workers. These are
    separate processes in the same environment; on other machines, they must see the same files under the same paths.

    Parameters
    ----------
    spec : str
        ``local`` (processes on this machine, reachable from it alone), ``cuda`` (one worker for each GPU of this
        machine, extra ``cuda``), ``slurm`` (jobs, extra ``slurm``), ``tcp://host:port`` or ``tls://host:port`` of a
        running scheduler, or a kind added by :func:`~xland.clusters.register_cluster`.
    workers : int, optional
        Worker processes. By default one for each core (``local``) or GPU (``cuda``), or those of one job
        (``slurm``); of a running scheduler, how many to wait for (1).
    minimum : int, optional
        How many workers to wait for; all by default. Those that come later join.
    threads : int, optional
        Threads of each worker: how many blocks it computes at once. By default 1 (``local``) or 2 (``cuda``, so that
        one block is read while another is computed).
    memory : str, optional
        Memory of each worker, such as ``"8GB"``; by default its share of this machine's.
    profile : str, path or Profile, optional
        For ``slurm``, and needed there: a shipped profile or a TOML file, which say what a job asks for.
    timeout : float, optional
        Seconds to wait for the workers, also when none is left; by default 120, or 3600 for ``slurm``.
    progress : bool
        Show how many workers have come.

    Yields
    ------
    distributed.Client

    Raises
    ------
    ClusterError
        If the cluster cannot be started or reached, if too few workers come in time, or if SLURM
        jobs end again and again.
    MissingDependencyError
        If the package for this kind of cluster is not installed.

    Examples
    --------
    >>> with open_cluster("local", workers=4) as client:  # doctest: +SKIP
    ...     hr.ai4land.to_zarr("land_use.zarr")
    """
    if workers is not None and minimum is not None and minimum > workers:
        raise ClusterError(f"minimum={minimum} is more than workers={workers}: no more than those will come")
    if isinstance(spec, str) and spec.startswith(("tcp://", "tls://")):
        kind = Kind(_running_scheduler)
    elif isinstance(spec, str) and spec in KINDS:
        kind = KINDS[spec]
    else:
        raise ClusterError(unknown("cluster", spec, [*KINDS, "tcp://host:port of a scheduler"]))
    for name, value in {"threads": threads, "memory": memory, "profile": profile}.items():
        if value is not None and name not in kind.takes:
            takers = " and ".join(repr(each) for each, other in KINDS.items() if name in other.takes)
            raise ClusterError(f"{name} is for the clusters {takers}, but the cluster is {spec!r}: leave it out")
    with kind.open(Wanted(spec, workers, minimum, threads, memory, profile, timeout, progress)) as client:
        yield client


def patience(lost: float, alone: float) -> Any:
    """Seconds for a lost worker to come back, and for a cluster without workers to get one, as a context manager."""
    from dask import config

    key = "distributed.scheduler.no-workers-timeout"
    kept = config.get(key, None) or f"{alone:g}s"
    return config.set({"distributed.deploy.lost-worker-timeout": f"{lost:g}s", key: kept})


def wait_for_workers(
    client: Client, wanted: Wanted, usual: int, seconds: float, hint: str, check: Callable[[], None] = lambda: None
) -> None:
    """Return when enough workers have come; :class:`ClusterError` with the hint if they do not come in time.

    ``usual`` workers and ``seconds`` count where `wanted` does not say. ``check`` is called at every look, and raises
    if waiting has become useless.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn

    from xland.progress import Bar

    count = wanted.minimum or wanted.workers or usual
    limit = wanted.timeout or seconds
    end = time.monotonic() + limit
    columns = (TextColumn("workers"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Bar(*columns, transient=True, disable=not wanted.progress) as bar:
        task = bar.add_task("workers", total=count)
        while (here := len(client.nthreads())) < count:
            bar.update(task, completed=here)
            check()
            if time.monotonic() > end:
                raise ClusterError(f"{here} of {count} workers came within {limit:g} s: {hint}")
            time.sleep(INTERVAL)


@contextmanager
def running_loop() -> Iterator[IOLoop]:
    """Yield an event loop in a thread of its own; that of distributed gives up after ten seconds."""
    from tornado.ioloop import IOLoop

    started: Future[tuple[IOLoop, asyncio.Event]] = Future()

    async def run() -> None:
        stopped = asyncio.Event()
        started.set_result((IOLoop.current(), stopped))
        await stopped.wait()

    thread = Thread(target=asyncio.run, args=(run(),), name="xland cluster", daemon=True)
    thread.start()
    loop, stopped = started.result()
    try:
        yield loop
    finally:
        loop.add_callback(stopped.set)
        thread.join()


@contextmanager
def _local_workers(wanted: Wanted) -> Iterator[Client]:
    from dask.system import CPU_COUNT
    from distributed import LocalCluster

    with _started(LocalCluster, wanted, wanted.workers or CPU_COUNT, wanted.threads or 1) as client:
        yield client


@contextmanager
def _cuda_workers(wanted: Wanted) -> Iterator[Client]:
    try:
        from dask_cuda import LocalCUDACluster
    except ImportError as error:
        raise MissingDependencyError(
            f"workers on GPUs need dask-cuda ({error}): pip install dask-cuda, or use the cluster 'local'"
        ) from error
    devices = count_gpus()
    if wanted.workers is not None and wanted.workers > devices:
        raise ClusterError(f"{wanted.workers} CUDA workers need as many GPUs, but this machine has {devices}")
    with _started(LocalCUDACluster, wanted, wanted.workers or devices, wanted.threads or 2) as client:
        yield client


def count_gpus() -> int:
    """GPUs of this machine; a ClusterError says why there are none."""
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
            client.run(_ignore_interrupts)
            yield client


def _ignore_interrupts() -> None:
    """Leave Ctrl-C, which a terminal sends to every process, to the caller, who then stops the workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@contextmanager
def _running_scheduler(wanted: Wanted) -> Iterator[Client]:
    """Yield a client of a scheduler that runs already, and goes on running afterwards."""
    address, own = wanted.spec, version("xland")
    with running_loop() as loop, _reach(address, min(wanted.timeout or ANSWER, ANSWER), loop) as client:
        wait_for_workers(client, wanted, 1, TIMEOUT, f"start workers with `dask worker {address}`")
        try:
            found = client.run(version, "xland")
        except PackageNotFoundError as error:
            raise ClusterError(
                f"xland is not installed where the workers of {address} run: start them in this environment"
            ) from error
        other = [f"{each} on {worker}" for worker, each in found.items() if each != own]
        if other:  # they would fail, or give other maps
            raise ClusterError(
                f"{len(other)} of {len(found)} workers of {address} have another xland than {own}, "
                f"such as {other[0]}: start them in this environment"
            )
        yield client


def _reach(address: str, limit: float, loop: IOLoop) -> Client:
    from distributed import Client
    from distributed.comm import connect
    from distributed.security import Security

    async def ring() -> None:
        comm = await connect(address, timeout=limit, **Security().get_connection_args("client"))
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


register_cluster("local", Kind(_local_workers, ("threads", "memory")))
register_cluster("cuda", Kind(_cuda_workers, ("threads", "memory")))
