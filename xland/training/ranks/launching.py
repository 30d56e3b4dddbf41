"""A training on Dask workers: each becomes one rank, and the group starts again where one is lost."""

from __future__ import annotations

import json
import logging
import math
import secrets
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from typing import TYPE_CHECKING, Any

from xland import errors
from xland.clusters import Profile, load_profile
from xland.errors import CheckpointError, ClusterError, TrainingStoppedError, XlandError
from xland.models.checkpoint import Checkpoint, read_checkpoint
from xland.paths import local_path, make_folder
from xland.training.configuration import Configuration
from xland.training.learn.group import SECRET, Device
from xland.training.learn.loop import Report
from xland.training.machine import Termination, deferred_termination
from xland.training.ranks.rank import CALL, LOGS, ask_to_stop, get_ready, last_words, leave, outcome, run_rank

if TYPE_CHECKING:
    from distributed import Client, Future

logger = logging.getLogger(__name__)

PROFILES = Path(__file__).parents[1] / "profiles"  # those whose jobs fit trainings

# seconds
RETURN = 300.0  # to wait for workers in place of those that were lost
LOOK = 0.2  # between two looks at the ranks
READY = 120.0  # until workers must be ready: torch is slow to import from shared disks
SETTLE = 10.0  # for the other ranks to end by themselves, and to say why, once one has ended
WORDS = 10.0  # for ranks whose workers are gone to leave a word of their end, once all others have ended
STOPPING = 120.0  # for ranks to finish the current step and write the state
ANSWER = 10.0  # for workers to hear that they are no longer needed


def launch(
    client: Client,
    configuration: Configuration,
    output: str | Path,
    *,
    store: str | Path | None = None,
    device: Device = "auto",
    resume: bool = False,
    workers: int | None = None,
    restarts: int = 3,
    timeout: float = RETURN,
    report: Report | None = None,
) -> Checkpoint:
    """Train with one rank on each Dask worker, on all of them by default; see :func:`xland.training.run.train`.

    When a rank is lost, the others are ended, workers are waited for (``timeout`` seconds), and all start again from
    the last state. An end that was announced to the ranks does not count as one of the ``restarts``. What the training
    itself raised is raised here and not tried again.
    """
    if restarts < 0 or (workers is not None and workers < 1):
        raise ClusterError(f"workers must be at least 1 and restarts at least 0, not {workers} and {restarts}")
    here = len(running_workers(client))
    if not here or (workers is not None and workers > here):
        raise ClusterError(
            f"{workers or 'all'} ranks need as many workers, but the cluster has {here}: start more, or ask for fewer"
        )
    output = local_path(output, what="the folder of a training")
    make_folder(output, CheckpointError)
    job = {
        "call": CALL,
        "configuration": configuration.to_dict(),
        "output": str(output),
        "store": None if store is None else str(local_path(store, what="a training store")),
        "device": device,
        "resume": resume,
    }
    stopped = TrainingStoppedError(f"the training was asked to end; {output} holds its last state: resume it to go on")
    left = restarts
    with deferred_termination() as request:
        while True:
            end = time.monotonic() + timeout
            while len(there := running_workers(client)) < (workers or here) and not request.asked:
                if time.monotonic() > end:
                    raise ClusterError(
                        f"only {len(there)} of {workers or here} workers connected within {timeout:g} s: lost workers "
                        f"were not replaced; {output} holds the last state, from which --resume goes on"
                    )
                time.sleep(LOOK)
            if request.asked:
                raise stopped
            group = RankGroup(client, job, there[: workers or here], request, report or (lambda *_: None))
            group.run()
            if len(group.ended("finished")) == len(group.workers):
                return read_checkpoint(output)
            if request.asked:
                raise stopped
            if not group.ended("stopped"):
                if not left:
                    raise ClusterError(
                        f"{group.reason}, after {restarts} restarts; {output} holds the last state, from which "
                        f"--resume goes on, and logs in {LOGS}"
                    )
                left -= 1
            logger.warning("%s; starting again from the last state, %d restarts left", group.reason, left)
            job["resume"] = True


def training_profile(profile: str | Path | Profile | None) -> Profile:
    """Read a profile as :func:`xland.clusters.load_profile` does; shipped ones that fit trainings come first."""
    return load_profile(profile, PROFILES)


class RankGroup:
    """One start of the ranks, which learn together; each reads the job, and the workers are in the order of ranks."""

    def __init__(
        self, client: Client, job: dict[str, Any], workers: list[str], request: Termination, report: Report
    ) -> None:
        self.client, self.job, self.workers, self.request, self.report = client, job, workers, request, report
        self.name = f"xland-{uuid.uuid4().hex[:12]}"
        self.outcomes: dict[int, dict[str, Any]] = {}
        self._gone: set[int] = set()
        self._events: SimpleQueue[dict[str, Any]] = SimpleQueue()

    def run(self) -> None:
        """Run the ranks until all have ended; ``outcomes`` then says how.

        What a rank raised is raised, unless another was lost, from which it may have come.
        """
        output = self.job["output"]
        mark = Path(output, f".{self.name}")
        self.client.subscribe_topic(self.name, lambda event: self._events.put(event[1]))
        futures: list[Future] = []
        try:
            mark.touch()
            meeting = self._get_ready(futures, mark.name)
            if meeting is not None:
                variables = {
                    "WORLD_SIZE": str(len(self.workers)),
                    "LOCAL_WORLD_SIZE": "1",
                    "MASTER_ADDR": meeting[0],
                    "MASTER_PORT": str(meeting[1]),
                    SECRET: secrets.token_hex(16),
                    "TORCHELASTIC_USE_AGENT_STORE": "True",  # all ranks find the store there, and none opens it
                }
                job = {**self.job, "attempt": self.name}
                futures[:] = [self._submit(run_rank, rank, rank, job, variables) for rank in range(len(self.workers))]
                self._follow(futures)
            for rank in self._gone:
                self.outcomes.setdefault(rank, outcome(rank, "lost", "its worker is gone"))
        finally:
            for left in (mark, *(last_words(output, self.name, rank) for rank in range(len(self.workers)))):
                left.unlink(missing_ok=True)
            if self.client.status == "running":
                self._command(leave)
                self.client.cancel(futures, force=True)
                self.client.unsubscribe_topic(self.name)
        if self.ended("lost"):
            return
        for rank in self.ended("failed"):
            raise getattr(errors, self.outcomes[rank]["error"], XlandError)(self.outcomes[rank]["message"])
        for rank in self.ended("stopped") if self.request.asked else []:
            raise TrainingStoppedError(self.outcomes[rank]["message"])
        for rank in self.ended("crashed"):
            raise ClusterError(f"{self._describe(rank)}; its log is in {Path(output, LOGS)}")

    def ended(self, kind: str) -> list[int]:
        """Ranks that ended so; see :func:`~xland.training.ranks.rank.outcome`."""
        return sorted(rank for rank, each in self.outcomes.items() if each["outcome"] == kind)

    @property
    def reason(self) -> str:
        """Why the ranks ended."""
        ranks = [*self.ended("lost"), *self.ended("broken"), *self.ended("stopped")]
        return self._describe(ranks[0]) if ranks else "a worker was lost before the training began"

    def _describe(self, rank: int) -> str:
        end = self.outcomes[rank]
        what = f"{end['error']}: {end['message']}" if end["error"] else end["message"]
        return f"rank {rank} on worker {self.workers[rank]} ended: {what}"

    def _submit(self, call: Callable[..., Any], rank: int, *arguments: Any, **options: Any) -> Future:
        """Let the worker of a rank, and no other, do something once."""
        place = {"workers": [self.workers[rank]], "allow_other_workers": False, "pure": False, "retries": 0}
        return self.client.submit(call, self.name, *arguments, **options, **place)

    def _get_ready(self, futures: list[Future], mark: str) -> tuple[str, int] | None:
        """Make the workers ready and return where they meet; None if one of them is lost meanwhile."""
        count = len(self.workers)
        futures += [
            self._submit(get_ready, rank, self.job, mark, meet=count > 1 and rank == 0) for rank in range(count)
        ]
        end = time.monotonic() + READY
        while late := [worker for worker, future in zip(self.workers, futures, strict=True) if not future.done()]:
            if self._notice_gone() or self.request.asked:
                return None
            if time.monotonic() > end:
                raise ClusterError(
                    f"{len(late)} of {len(futures)} workers, such as {late[0]}, are not ready within {READY:g} s: "
                    "see that nothing else runs on them"
                )
            time.sleep(LOOK)
        try:
            places: list[tuple[str, int]] = [future.result(timeout=ANSWER) for future in futures]
        except TimeoutError:  # of a worker that was lost right now
            return None
        return places[0]

    def _follow(self, futures: list[Future]) -> None:
        """Wait for the ranks; once one has ended too early, or all are asked to, bound the time of the others."""
        end, told, count = math.inf, False, len(self.workers)
        while len(self.outcomes) < count and time.monotonic() < end:
            try:
                if self.request.asked and not told:
                    told, end = True, time.monotonic() + STOPPING
                    self._command(ask_to_stop)
                self._look(futures)
            except KeyboardInterrupt:
                if self.request.asked:
                    raise
                self.request.asked = True
            early = {each["outcome"] for each in self.outcomes.values()} - {"finished"}
            if early or self._gone:
                end = min(end, time.monotonic() + (STOPPING if early == {"stopped"} and not self._gone else SETTLE))
            if len(self._gone | self.outcomes.keys()) == count:
                end = min(end, time.monotonic() + WORDS)

    def _look(self, futures: list[Future]) -> None:
        """Take in what has been said of the ranks, and notice those that are silent for ever."""
        done = [future.status for future in futures]
        self._notice_gone()
        end = time.monotonic() + LOOK
        with suppress(Empty):
            while (left := end - time.monotonic()) > 0:
                event = self._events.get(timeout=left)
                if "outcome" in event:
                    self.outcomes.setdefault(event["rank"], event)
                else:
                    self.report(event["stage"], event["done"], event["figures"])
        for rank, status in enumerate(done):
            if status in ("error", "cancelled", "lost"):
                self.outcomes.setdefault(rank, outcome(rank, "lost", f"its task ended as {status}"))

    def _notice_gone(self) -> bool:
        """Notice workers that are gone, and what their ranks left in a file; return whether there are any."""
        here = present_workers(self.client)
        for rank, worker in enumerate(self.workers):
            if worker not in here and rank not in self.outcomes:
                self._gone.add(rank)
                with suppress(OSError, ValueError):
                    words = last_words(self.job["output"], self.name, rank).read_text(encoding="utf-8")
                    self.outcomes[rank] = json.loads(words)
        return bool(self._gone)

    def _command(self, what: Callable[[str], None]) -> None:
        """Have the workers that are there do something; a node that does not answer would keep us waiting."""

        def run() -> None:
            with suppress(OSError, ValueError, KeyError):
                here = set(self.client.nthreads()).intersection(self.workers)
                if here:
                    self.client.run(what, self.name, workers=sorted(here), on_error="ignore")

        thread = Thread(target=run, name="xland-command", daemon=True)
        thread.start()
        thread.join(ANSWER)


def present_workers(client: Client) -> set[str]:
    """Addresses of all workers; a :class:`ClusterError` if the scheduler is gone."""
    try:
        if client.status == "running":
            return set(client.nthreads())
        reason = f"its client is {client.status}"
    except OSError as error:
        reason = str(error)
    raise ClusterError(f"the scheduler of the training's workers cannot be reached any more: {reason}")


def running_workers(client: Client) -> list[str]:
    """Addresses of the workers that are not about to end, those of a machine next to each other."""
    present = present_workers(client)  # of a scheduler that is gone, dask tells what it knew last
    known = client.scheduler_info(n_workers=-1)["workers"]
    return sorted(each for each in present if known.get(each, {}).get("status") in ("running", "paused"))
