"""A training on Dask workers: each becomes one rank, and the group starts again where one is lost."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from xland.addresses import local_path
from xland.atomic import make_folder
from xland.clusters import Profile, job_script, load_profile, open_cluster, slurm
from xland.errors import CheckpointError, ClusterError, TrainingStoppedError
from xland.models.checkpoint import Checkpoint, read_checkpoint
from xland.training.configuration import Configuration
from xland.training.ranks.group import Device
from xland.training.ranks.process import CALL, LOGS, Report
from xland.training.ranks.start import LOOK, RankGroup, running_workers
from xland.training.stopping import Termination, deferred_termination

if TYPE_CHECKING:
    from distributed import Client

logger = logging.getLogger(__name__)

PROFILES = Path(__file__).parent / "profiles"
"""Folder of the profiles whose jobs fit trainings."""

RETURN = 300.0
"""Seconds to wait for workers in place of those that were lost."""


@dataclass(frozen=True)
class TrainingJob:
    """What ranks are to do.

    Parameters
    ----------
    configuration : Configuration
    output : path
        Folder for model, log and states, on a file system that all workers see.
    store : path, optional
        Training store, which all workers see; without it, each rank reads what the configuration names.
    device : {"auto", "cpu", "cuda"}
        ``auto`` takes GPUs if each worker has one.
    resume : bool
        Go on from the last state in `output`.
    """

    configuration: Configuration
    output: Path
    store: Path | None = None
    device: Device = "auto"
    resume: bool = False


def launch(
    client: Client,
    job: TrainingJob,
    *,
    workers: int | None = None,
    restarts: int = 3,
    timeout: float | None = None,
    report: Report | None = None,
    call: str = CALL,
) -> Checkpoint:
    """Train with one rank on each Dask worker.

    Every rank is a process of its own below its worker. When one is lost, with its worker or without, the
    others are ended, workers are waited for, and all start again from the last state.

    Parameters
    ----------
    client : distributed.Client
    job : TrainingJob
    workers : int, optional
        Ranks; all workers that are there by default.
    restarts : int
        How often the group may start again because ranks were lost. An end that was announced to the
        ranks (SIGTERM at the end of a job's time), and before which the state was written, does not count.
    timeout : float, optional
        Seconds to wait for workers in place of lost ones; 300 by default.
    report : callable, optional
        Called with a stage, its finished share and the latest figures, about once a second.
    call : str
        What a rank calls, ``module:function``; a training by default.

    Returns
    -------
    Checkpoint
        The model that validated best.

    Raises
    ------
    ClusterError
        If there are fewer workers than ranks, workers do not see the files or have no GPU of their own
        where one is asked for, or if more ranks are lost than `restarts` allow.
    TrainingStoppedError
        If this process was asked to end (SIGTERM, Ctrl-C): the ranks have written their state.
    XlandError
        What the training itself raised, as :func:`xland.training.run.train` says. It is not tried again.
    """
    count = _count(client, workers, restarts)
    output = local_path(job.output, what="the folder of a training")
    make_folder(output, CheckpointError)
    work = {
        "call": call,
        "configuration": job.configuration.to_dict(),
        "output": str(output),
        "store": None if job.store is None else str(local_path(job.store, what="a training store")),
        "device": job.device,
        "resume": job.resume,
    }
    left = restarts
    with deferred_termination() as request:
        while True:
            chosen = _choose_workers(client, count, timeout or RETURN, request, output)
            group = RankGroup(client, work, chosen, request, report or _silent)
            group.run()
            if group.finished:
                return read_checkpoint(output)
            if request.asked:
                raise _stopped(output)
            if not group.announced:
                if not left:
                    raise ClusterError(
                        f"{group.reason}, after {restarts} restarts; {output} holds the last state, from which "
                        f"--resume goes on, and logs in {LOGS}"
                    )
                left -= 1
            logger.warning("%s; starting again from the last state, %d restarts left", group.reason, left)
            work["resume"] = True


def train_on_cluster(
    job: TrainingJob,
    cluster: str,
    *,
    workers: int | None = None,
    profile: str | Path | Profile | None = None,
    restarts: int = 3,
    timeout: float | None = None,
    progress: bool = True,
    report: Report | None = None,
) -> Checkpoint:
    """Open a cluster and train on it with :func:`launch`.

    Parameters
    ----------
    job : TrainingJob
    cluster : str
        ``local``, ``cuda``, ``slurm``, or the address of a scheduler; see :func:`xland.clusters.open_cluster`.
    workers : int, optional
        Ranks; by default one for each core, GPU, or worker of a SLURM job.
    profile : str, path or Profile, optional
        For ``slurm``; see :func:`training_profile`.
    restarts, timeout, report
        As in :func:`launch`; the cluster's own workers are waited for as long.
    progress : bool
        Show how many workers have come.

    Returns
    -------
    Checkpoint

    Raises
    ------
    XlandError
        As :func:`launch` and :func:`xland.clusters.open_cluster`.
    """
    wanted = None if profile is None else training_profile(profile)
    with open_cluster(cluster, workers=workers, profile=wanted, timeout=timeout, progress=progress) as client:
        limit = timeout or (slurm.TIMEOUT if cluster == "slurm" else None)
        return launch(client, job, workers=workers, restarts=restarts, timeout=limit, report=report)


def training_profile(profile: str | Path | Profile) -> Profile:
    """Read a profile as :func:`xland.clusters.load_profile` does; shipped ones that fit trainings come first."""
    return load_profile(profile, PROFILES)


def training_script(profile: str | Path | Profile | None) -> str:
    """Return the script of the jobs in which a training's workers run; see :func:`xland.clusters.job_script`."""
    return job_script(None if profile is None else training_profile(profile))


def _count(client: Client, workers: int | None, restarts: int) -> int:
    if restarts < 0 or (workers is not None and workers < 1):
        raise ClusterError(f"workers must be at least 1 and restarts at least 0, not {workers} and {restarts}")
    here = len(running_workers(client))
    if not here or (workers is not None and workers > here):
        raise ClusterError(
            f"{workers or 'all'} ranks need as many workers, but the cluster has {here}: start more, or ask for fewer"
        )
    return workers or here


def _choose_workers(client: Client, count: int, timeout: float, request: Termination, output: Path) -> list[str]:
    """Wait until there are so many workers, and return their addresses."""
    end = time.monotonic() + timeout
    while len(workers := running_workers(client)) < count:
        if request.asked:
            raise _stopped(output)
        if time.monotonic() > end:
            raise ClusterError(
                f"{len(workers)} of {count} workers were there within {timeout:g} s: those that were lost did not come "
                f"back; {output} holds the last state, from which --resume goes on"
            )
        time.sleep(LOOK)
    return workers[:count]


def _stopped(output: Path) -> TrainingStoppedError:
    return TrainingStoppedError(f"the training was asked to end; {output} holds its last state: resume it to go on")


def _silent(_stage: str, _done: float, _figures: dict[str, float]) -> None:
    """Report nothing."""
