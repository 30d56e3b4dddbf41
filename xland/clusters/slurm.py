"""Workers as SLURM jobs: the job script, the cluster around it, and what it leaves behind (nothing)."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xland.addresses import local_path
from xland.atomic import make_folder
from xland.clusters.keys import security_of, temporary_keys
from xland.clusters.loop import running_loop
from xland.clusters.profile import Profile, load_profile
from xland.clusters.waiting import Wanted, wait_for_workers
from xland.clusters.watching import JobWatch
from xland.errors import ClusterError, MissingDependencyError

if TYPE_CHECKING:
    from distributed import Client

TIMEOUT = 3600.0
"""Seconds to wait for jobs to start: queues are long."""

LOST_SCHEDULER = 120
"""Seconds after which workers that cannot reach the scheduler end their job."""

LOST_WORKER = "60s"
"""How long a worker may take to come back before its job is cancelled; Python starts slowly on shared disks."""

CPU_WORKER = "distributed.cli.dask_worker"
GPU_WORKER = "dask cuda worker"


@contextmanager
def slurm_workers(wanted: Wanted, profile: str | Path | Profile | None) -> Iterator[Client]:
    """Yield a client of workers in SLURM jobs; arguments as in :func:`xland.clusters.open_cluster`.

    Jobs that end while they are needed are submitted anew.
    """
    import dask
    from distributed import Client

    chosen = load_profile(profile)
    module = _jobqueue()
    if missing := [name for name in ("sbatch", "squeue", "scancel") if shutil.which(name) is None]:
        raise ClusterError(
            f"{', '.join(missing)} not found: run on a machine that submits jobs to SLURM, or print the job script "
            "with --dry-run"
        )
    folder = local_path(chosen.folder, what="the folder of SLURM jobs")
    make_folder(folder, ClusterError)
    refusals: list[str] = []
    with (
        dask.config.set({"distributed.deploy.lost-worker-timeout": LOST_WORKER}),
        _cluster(module, chosen, folder, refusals) as cluster,
        Client(cluster) as client,
        JobWatch(cluster, chosen.jobs(wanted.workers), refusals, folder, stop=client.close) as watch,
    ):
        try:
            hint = f"squeue shows what the jobs wait for, {folder} holds their logs"
            wait_for_workers(client, wanted, chosen.processes, TIMEOUT, hint, watch.check)
            yield client
        except Exception as error:
            watch.check(error)
            raise


def job_script(profile: str | Path | Profile | None) -> str:
    """Return the script of the jobs that a profile submits, without submitting anything.

    Address of the scheduler, name of the worker and paths of the keys, which are known only when a
    cluster runs, are written in capitals.

    Parameters
    ----------
    profile : str, path or Profile

    Returns
    -------
    str

    Raises
    ------
    ClusterError
        If there is no such profile, or it holds unknown or wrong entries.
    MissingDependencyError
        If dask-jobqueue is not installed.
    """
    chosen = load_profile(profile)
    module = _jobqueue()
    options = _job_options(chosen, local_path(chosen.folder, what="the folder of SLURM jobs"))
    if chosen.encrypted:
        options |= {"protocol": "tls://", "security": security_of("CERTIFICATE", "KEY")}
    address = f"{'tls' if chosen.encrypted else 'tcp'}://SCHEDULER"
    return str(module.slurm.SLURMJob(address, name="WORKER", **options).job_script())


def _job_options(profile: Profile, folder: Path) -> dict[str, Any]:
    """Return what dask-jobqueue needs to write the job script."""
    threads = profile.processes * profile.threads
    variables = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", **profile.environment}
    return {
        "job_name": "xland",
        "queue": profile.partition or None,
        "account": profile.account or None,
        "walltime": profile.walltime,
        "cores": threads,
        "processes": profile.processes,
        "job_cpu": profile.cores or threads,
        "memory": profile.memory,
        "job_directives_skip": [] if profile.ask_memory else ["--mem="],
        "job_extra_directives": [
            f"-o {folder}/%x-%j.log",
            *([f"--gres=gpu:{profile.gpus}"] if profile.gpus else []),
            *profile.directives,
        ],
        "job_script_prologue": [*(f'export {name}="{value}"' for name, value in variables.items()), *profile.setup],
        "worker_command": GPU_WORKER if profile.gpus else CPU_WORKER,
        "worker_extra_args": [
            *("--no-dashboard", "--dashboard-address", "127.0.0.1:0"),
            *(("--host", profile.host) if profile.host else ()),
        ],
        "interface": profile.interface or None,
        "local_directory": profile.local_directory or None,
        "death_timeout": LOST_SCHEDULER,
    }


@contextmanager
def _cluster(module: Any, profile: Profile, folder: Path, refusals: list[str]) -> Iterator[Any]:
    """Yield a running scheduler without jobs; at the end, jobs are cancelled and keys removed."""
    from distributed.core import Status

    class RecordedJob(module.slurm.SLURMJob):  # type: ignore[misc]
        async def start(self) -> None:
            try:
                await super().start()
            except RuntimeError as error:
                refusals.append(str(error).partition("stderr:")[2].strip() or str(error))
                self.status = Status.running

        async def close(self) -> None:
            await super().close()
            self.status = Status.closed

    class NumberedCluster(module.SLURMCluster):  # type: ignore[misc]
        job_cls = RecordedJob
        numbers = count()

        def _new_worker_name(self, worker_number: int) -> str:  # noqa: ARG002
            # never twice: the scheduler may still know the old worker of a node that went dark
            return f"xland-{next(self.numbers)}"

    scheduler: dict[str, Any] = {"dashboard_address": "127.0.0.1:0"}
    if profile.host:
        scheduler["host"] = profile.host
    with temporary_keys(folder) if profile.encrypted else nullcontext() as security, running_loop() as loop:
        options = {**_job_options(profile, folder), "scheduler_options": scheduler, "security": security, "loop": loop}
        try:
            cluster = NumberedCluster(**options)
        except (RuntimeError, ValueError, OSError) as error:
            raise ClusterError(f"no scheduler for SLURM workers can be started here: {error}") from error
        with cluster:
            yield cluster


def _jobqueue() -> Any:
    handler = signal.getsignal(signal.SIGINT)
    try:
        import dask_jobqueue
        import dask_jobqueue.slurm
    except ImportError as error:
        raise MissingDependencyError(
            f"SLURM jobs need dask-jobqueue ({error}): install xland with the extra 'slurm'"
        ) from error
    finally:
        # its import makes Ctrl-C end the process with status 0
        signal.signal(signal.SIGINT, handler)
    return dask_jobqueue
