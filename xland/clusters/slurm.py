"""Workers as SLURM jobs: their script, the cluster, and jobs that are submitted again."""

from __future__ import annotations

import logging
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event, Thread
from typing import TYPE_CHECKING, Any

from xland.clusters.opening import Wanted, patience, running_loop, wait_for_workers
from xland.clusters.profile import Profile, load_profile
from xland.errors import ClusterError, MissingDependencyError, XlandError
from xland.paths import local_path, make_folder

if TYPE_CHECKING:
    from distributed import Client

# seconds
TIMEOUT = 3600.0  # to wait for jobs to start: queues are long
LOST_SCHEDULER = 120  # after which workers that cannot reach the scheduler end their job
LOST_WORKER = 60.0  # for a worker to come back before its job is cancelled; Python starts slowly on shared disks
INTERVAL = 5.0  # between two questions to SLURM; twice as many after each job that fails

TRIES = 3  # jobs in a row that may end without a worker

logger = logging.getLogger(__name__)


@contextmanager
def slurm_workers(wanted: Wanted) -> Iterator[Client]:
    """Yield a client of workers in SLURM jobs; jobs that end while they are needed are submitted again."""
    from distributed import Client

    chosen, module = load_profile(wanted.profile), _jobqueue()
    if missing := [name for name in ("sbatch", "squeue", "scancel") if shutil.which(name) is None]:
        raise ClusterError(
            f"{', '.join(missing)} not found: run on a machine that submits jobs to SLURM, or print the job script "
            "with --dry-run"
        )
    folder = local_path(chosen.folder, what="the folder of SLURM jobs")
    make_folder(folder, ClusterError)
    refusals: list[str] = []
    with (
        patience(LOST_WORKER, wanted.timeout or TIMEOUT),
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

    What only a running cluster knows is in capitals: the scheduler's address, the worker's name, the paths of the keys.

    Raises
    ------
    ClusterError
        If there is no such profile, or it has unknown or wrong entries.
    MissingDependencyError
        If dask-jobqueue is not installed.
    """
    chosen, module = load_profile(profile), _jobqueue()
    options = _job_options(chosen, local_path(chosen.folder, what="the folder of SLURM jobs"))
    if chosen.encrypted:
        options |= {"protocol": "tls://", "security": _security_of("CERTIFICATE", "KEY")}
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
        "worker_command": "dask cuda worker" if profile.gpus else "distributed.cli.dask_worker",
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

    host = {"host": profile.host} if profile.host else {}
    scheduler = {"dashboard_address": "127.0.0.1:0", **host}
    with _temporary_keys(folder) if profile.encrypted else nullcontext() as security, running_loop() as loop:
        options = {**_job_options(profile, folder), "scheduler_options": scheduler, "security": security, "loop": loop}
        try:
            cluster = NumberedCluster(**options)
        except (RuntimeError, ValueError, OSError) as error:
            raise ClusterError(f"no scheduler for SLURM workers can be started here: {error}") from error
        with cluster:
            yield cluster


@contextmanager
def _temporary_keys(folder: Path) -> Iterator[Any]:
    """Yield a `distributed.Security` of new keys in files that only the user can read; they are removed at the end."""
    from distributed import Security

    made = Security.temporary()
    with TemporaryDirectory(prefix=".keys-", dir=folder) as place:
        certificate, key = Path(place, "certificate.pem"), Path(place, "key.pem")
        for path, text in ((certificate, made.tls_client_cert), (key, made.tls_client_key)):
            path.touch(mode=0o600)
            path.write_text(text, encoding="ascii")
        yield _security_of(certificate, key)


def _security_of(certificate: Path | str, key: Path | str) -> Any:
    """Return a `distributed.Security` in which client, scheduler and workers share one certificate and its key."""
    from distributed import Security

    roles = ("client", "scheduler", "worker")
    files = {f"tls_{role}_cert": str(certificate) for role in roles} | {f"tls_{role}_key": str(key) for role in roles}
    return Security(require_encryption=True, tls_ca_file=str(certificate), **files)


def _jobqueue() -> Any:
    handler = signal.getsignal(signal.SIGINT)
    try:
        import dask_jobqueue
        import dask_jobqueue.slurm
    except ImportError as error:
        raise MissingDependencyError(f"SLURM jobs need dask-jobqueue ({error}): pip install dask-jobqueue") from error
    finally:
        # its import makes Ctrl-C end the process with status 0
        signal.signal(signal.SIGINT, handler)
    return dask_jobqueue


class JobWatch:
    """Keep a number of jobs of a `dask_jobqueue.SLURMCluster` in the queue while the context is open.

    ``refusals``, which grows, is what sbatch says when it refuses a job; ``stop`` is called when no job is left.
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

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def check(self, cause: Exception | None = None) -> None:
        """Raise a :class:`ClusterError` if the jobs were given up, which may be the reason for `cause`."""
        if self.error is not None:
            raise ClusterError(f"{self.error} ({cause})" if isinstance(cause, XlandError) else self.error) from cause

    def _watch(self) -> None:
        while self.error is None and not self._over.wait(INTERVAL * 2 ** min(self._failures, 6)):
            queued = _queued()
            if queued is not None:
                self._replace(queued)
        if self.error is not None:
            self._stop()

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
            self.error = (
                f"SLURM refuses the jobs: {self._refusals[-1]}; change the profile"
                if self._refusals
                else f"{self._failures} SLURM jobs in a row ended before a worker came: their logs in {self._folder} "
                "say why"
            )
            return
        for name in lost:
            logger.warning("SLURM job %s of worker %s has ended; submitting another", known[name], name)
            self._cluster.worker_spec.pop(name, None)
        self._cluster.scale(jobs=self._jobs)


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
