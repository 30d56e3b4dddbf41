"""One door to every kind of cluster: a context manager that yields a client and cleans up."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from xland.arguments import checked, is_count
from xland.clusters.existing import connect
from xland.clusters.local import cuda_workers, local_workers
from xland.clusters.profile import Profile
from xland.clusters.slurm import slurm_workers
from xland.clusters.waiting import Wanted
from xland.errors import ClusterError

if TYPE_CHECKING:
    from distributed import Client

KINDS = ("local", "cuda", "slurm")
SCHEMES = ("tcp://", "tls://")


@checked(ClusterError)
@contextmanager
def open_cluster(
    spec: str,
    *,
    workers: int | None = None,
    minimum: int | None = None,
    threads: int | None = None,
    memory: str | None = None,
    profile: str | Path | Profile | None = None,
    timeout: float | None = None,
    progress: bool = True,
) -> Iterator[Client]:
    """Start or join a cluster, wait for its workers, and stop at the end what was started.

    While it is open, the client is dask's default: lazy results that are computed or written run on
    the workers. Workers are separate processes in the same environment as the caller; where they
    run on other machines, they must see the same files under the same paths.

    Parameters
    ----------
    spec : str
        ``local`` (processes on this machine, reachable from it alone), ``cuda`` (one worker for each
        GPU of this machine, extra ``cuda``), ``slurm`` (jobs, extra ``slurm``), or ``tcp://host:port`` or
        ``tls://host:port`` of a scheduler that runs already.
    workers : int, optional
        Worker processes. By default one for each core (``local``) or GPU (``cuda``), those of one
        job (``slurm``); of a scheduler that runs already, how many to wait for (1).
    minimum : int, optional
        How many workers to wait for; all by default. Those that come later join.
    threads : int, optional
        Threads of each worker: how many blocks it has in hand at once. By default 1 (``local``),
        2 (``cuda``, so that one block is read while another is computed) or what the profile says.
    memory : str, optional
        Memory of each worker of ``local`` and ``cuda``, such as ``"8GB"``; by default its share of
        this machine's.
    profile : str, path or Profile, optional
        For ``slurm``, and needed there: a shipped profile or a TOML file, which say what a job asks for.
    timeout : float, optional
        Seconds to wait for the workers; by default 120, or 3600 for ``slurm``.
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
    _check_counts(workers=workers, minimum=minimum, threads=threads)
    if timeout is not None and timeout <= 0:
        raise ClusterError(f"timeout must be more than 0 seconds, not {timeout}; leave it out for the usual time")
    if workers is not None and minimum is not None and minimum > workers:
        raise ClusterError(f"minimum={minimum} is more than workers={workers}: no more than those will come")
    if not isinstance(spec, str):
        raise ClusterError(f"a cluster is named by text: {', '.join(KINDS)} or tcp://host:port, not {spec!r:.80}")
    if spec != "slurm" and profile is not None:
        raise ClusterError(f"a profile describes SLURM jobs, but the cluster is {spec!r}: leave it out, or use 'slurm'")
    if spec not in ("local", "cuda") and (threads, memory) != (None, None):
        raise ClusterError(f"threads and memory are for 'local' and 'cuda': the workers of {spec!r} have their own")
    wanted = Wanted(workers, minimum, timeout, progress)
    opened: AbstractContextManager[Client]
    if spec == "local":
        opened = local_workers(wanted, threads, memory)
    elif spec == "cuda":
        opened = cuda_workers(wanted, threads, memory)
    elif spec == "slurm":
        opened = slurm_workers(wanted, profile)
    elif spec.startswith(SCHEMES):
        opened = connect(wanted, spec)
    else:
        raise ClusterError(f"unknown cluster {spec!r}: choose {', '.join(KINDS)} or tcp://host:port of a scheduler")
    with opened as client:
        yield client


def _check_counts(**counts: int | None) -> None:
    for name, count in counts.items():
        if count is not None and not is_count(count):
            raise ClusterError(f"{name} must be a whole number of at least 1, not {count!r}")
