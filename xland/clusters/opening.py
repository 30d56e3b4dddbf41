"""One door to every kind of cluster: a context manager that yields a client and cleans up."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from xland.arguments import Count, Positive, checked, unknown
from xland.clusters.existing import connect
from xland.clusters.local import cuda_workers, local_workers
from xland.clusters.profile import Profile
from xland.clusters.slurm import slurm_workers
from xland.clusters.waiting import KINDS, Kind, Wanted, register_cluster
from xland.errors import ClusterError

if TYPE_CHECKING:
    from distributed import Client

register_cluster("local", Kind(local_workers, ("threads", "memory")))
register_cluster("cuda", Kind(cuda_workers, ("threads", "memory")))
register_cluster("slurm", Kind(slurm_workers, ("profile",)))

SCHEMES = ("tcp://", "tls://")


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

    While it is open, the client is dask's default: lazy results that are computed or written run on
    the workers. Workers are separate processes in the same environment as the caller; where they
    run on other machines, they must see the same files under the same paths.

    Parameters
    ----------
    spec : str
        ``local`` (processes on this machine, reachable from it alone), ``cuda`` (one worker for each
        GPU of this machine, extra ``cuda``), ``slurm`` (jobs, extra ``slurm``), or ``tcp://host:port`` or
        ``tls://host:port`` of a scheduler that runs already; or a kind added by
        :func:`~xland.clusters.register_cluster`.
    workers : int, optional
        Worker processes. By default one for each core (``local``) or GPU (``cuda``), those of one
        job (``slurm``); of a scheduler that runs already, how many to wait for (1).
    minimum : int, optional
        How many workers to wait for; all by default. Those that come later join.
    threads : int, optional
        Threads of each worker: how many blocks it computes at once. By default 1 (``local``),
        2 (``cuda``, so that one block is read while another is computed) or what the profile says.
    memory : str, optional
        Memory of each worker of ``local`` and ``cuda``, such as ``"8GB"``; by default its share of
        this machine's.
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
    kind = Kind(connect) if isinstance(spec, str) and spec.startswith(SCHEMES) else None
    if kind is None and (not isinstance(spec, str) or spec not in KINDS):
        raise ClusterError(unknown("cluster", spec, [*KINDS, "tcp://host:port of a scheduler"]))
    kind = kind or KINDS[spec]
    options = {"threads": threads, "memory": memory, "profile": profile}
    for name, value in options.items():
        if value is not None and name not in kind.takes:
            takers = " and ".join(repr(each) for each, other in KINDS.items() if name in other.takes)
            raise ClusterError(f"{name} is for the clusters {takers}, but the cluster is {spec!r}: leave it out")
    wanted = Wanted(spec, workers, minimum, threads, memory, profile, timeout, progress)
    with kind.open(wanted) as client:
        yield client
