"""Keeping an eye on SLURM jobs: those that end too early are submitted anew, but not for ever.

dask-jobqueue notices lost workers, not lost jobs: a job that ends before its worker came, and a job of
several workers, would never be replaced.
"""

from __future__ import annotations

import logging
import subprocess
from collections.abc import Callable
from pathlib import Path
from threading import Event, Thread
from types import TracebackType
from typing import Any

from xland.errors import ClusterError, XlandError

logger = logging.getLogger(__name__)

INTERVAL = 5.0
"""Seconds between two questions to SLURM; twice as many after each job that fails."""

TRIES = 3
"""Jobs in a row that may end without a worker."""


class JobWatch:
    """Keep a number of jobs in the queue while the context is open.

    Parameters
    ----------
    cluster : dask_jobqueue.SLURMCluster
    jobs : int
        How many.
    refusals : list of str
        What sbatch says when it refuses a job; grows while the cluster runs.
    folder : path
        Where the logs of the jobs are, for messages.
    stop : callable
        Called when no job is left and none can be had, so that nobody waits for ever.
    """

    def __init__(
        self, cluster: Any, jobs: int, refusals: list[str], folder: Path, *, stop: Callable[[], object]
    ) -> None:
        self.error: str | None = None
        self._cluster, self._jobs, self._refusals, self._folder, self._stop = cluster, jobs, refusals, folder, stop
        self._arrived: set[str] = set()
        self._failures = 0
        self._over = Event()
        self._thread = Thread(target=self._watch, name="xland-slurm-watch", daemon=True)

    def __enter__(self) -> JobWatch:
        self._cluster.scale(jobs=self._jobs)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()

    def check(self, cause: Exception | None = None) -> None:
        """Raise if the jobs were given up, which `cause` may have come of.

        Raises
        ------
        ClusterError
        """
        if self.error is not None:
            raise ClusterError(f"{self.error} ({cause})" if isinstance(cause, XlandError) else self.error) from cause

    def _watch(self) -> None:
        while not self._over.wait(INTERVAL * 2 ** min(self._failures, 6)):
            queued = _queued()
            if queued is not None:
                self._replace(queued)
            if self.error is not None:
                self._stop()
                return

    def _replace(self, queued: set[str]) -> None:
        observed = {str(name) for name in self._cluster.observed}
        known = {name: job.job_id for name, job in list(self._cluster.workers.items())}
        for name in known:
            if name not in self._arrived and any(each == name or each.startswith(f"{name}-") for each in observed):
                self._arrived.add(name)
                self._failures = 0
        lost = [name for name, identity in known.items() if identity not in queued]
        self._failures += sum(name not in self._arrived for name in lost)
        if self._failures >= TRIES and len(lost) == len(known):
            self.error = self._reason()
            return
        for name in lost:
            logger.warning("SLURM job %s of worker %s has ended; submitting another", known[name], name)
            self._cluster.worker_spec.pop(name, None)
        self._cluster.scale(jobs=self._jobs)

    def _reason(self) -> str:
        if self._refusals:
            return f"SLURM refuses the jobs: {self._refusals[-1]}; change the profile"
        return f"{self._failures} SLURM jobs in a row ended before a worker came: their logs in {self._folder} say why"


def _queued() -> set[str] | None:
    """Return the numbers of one's jobs that wait or run; None if SLURM does not answer."""
    try:
        answer = subprocess.run(
            ["squeue", "--me", "--noheader", "--format=%A %t"],  # noqa: S607 - where it is differs from site to site
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    lines = (line.split() for line in answer.stdout.splitlines())
    return {number for number, state in lines if state != "CG"}
