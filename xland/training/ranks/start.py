"""One start of a group of ranks on Dask workers: it takes seats, runs the ranks, and hears how each ended."""

from __future__ import annotations

import json
import math
import secrets
import time
import uuid
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from typing import TYPE_CHECKING, Any

from xland import errors
from xland.errors import ClusterError, TrainingStoppedError, XlandError
from xland.training.ranks.process import LOGS, SECRET, Report, last_words
from xland.training.ranks.worker import Seat, ask_to_stop, leave_seat, run_rank, take_seat
from xland.training.stopping import Termination

if TYPE_CHECKING:
    from distributed import Client, Future

LOOK = 0.2
"""Seconds between two looks at the ranks."""

READY = 120.0
"""Seconds that workers may take to get ready: torch is slow to import from shared disks."""

SETTLE = 10.0
"""Seconds that the other ranks have for ending by themselves, and for saying why, once one has ended."""

WORDS = 10.0
"""Seconds in which ranks whose workers are gone may leave a word of their end, once all others have ended."""

STOPPING = 120.0
"""Seconds that ranks have for finishing the step in hand and writing the state."""

ANSWER = 10.0
"""Seconds that workers may take to hear that they are no longer needed."""


@dataclass
class RankGroup:
    """Ranks that learn together until the first of them ends.

    Parameters
    ----------
    client : distributed.Client
    job : mapping
        What each rank reads: what to call, configuration, output, store, device, resume.
    workers : list of str
        Addresses of the workers, in the order of their ranks.
    request : Termination
        Whether this process was asked to end.
    report : callable
    """

    client: Client
    job: dict[str, Any]
    workers: list[str]
    request: Termination
    report: Report
    name: str = field(default_factory=lambda: f"xland-{uuid.uuid4().hex[:12]}")
    outcomes: dict[int, dict[str, Any]] = field(default_factory=dict)
    _gone: set[int] = field(default_factory=set)
    _events: SimpleQueue[dict[str, Any]] = field(default_factory=SimpleQueue)

    @property
    def count(self) -> int:
        """How many ranks there are."""
        return len(self.workers)

    def run(self) -> None:
        """Run the ranks until all have ended; :attr:`outcomes` then says how the first of them did.

        Raises
        ------
        ClusterError
            If workers do not see the files, have no GPU of their own, or are not ready in time.
        XlandError
            What a rank raised, unless another rank was lost, of which it may have come; that a rank
            stopped only if this process was asked to.
        """
        output = self.job["output"]
        mark = Path(output, f".{self.name}")
        self.client.subscribe_topic(self.name, self._hear)
        futures: list[Future] = []
        try:
            mark.touch()
            seats = self._take_seats(futures, mark.name)
            if seats is not None:
                self._start(futures, seats)
                self._follow(futures)
            for rank in self._gone:
                self._note(rank, "lost", "its worker is gone")
        finally:
            for left in (mark, *(last_words(output, self.name, rank) for rank in range(self.count))):
                left.unlink(missing_ok=True)
            if self.client.status == "running":
                self._command(leave_seat)
                self.client.cancel(futures, force=True)
                self.client.unsubscribe_topic(self.name)
        self._raise_error()

    @property
    def finished(self) -> bool:
        """Whether all ranks have come to their end."""
        return len(self.outcomes) == self.count and self._ended("finished") == list(range(self.count))

    @property
    def announced(self) -> bool:
        """Whether ranks were told of their end (SIGTERM), and have written the state."""
        return bool(self._ended("stopped"))

    @property
    def reason(self) -> str:
        """Why the ranks ended."""
        for kind in ("lost", "broken", "stopped"):
            for rank in self._ended(kind):
                return self._describe(rank)
        return "a worker was lost before the training began"

    def _take_seats(self, futures: list[Future], mark: str) -> list[Seat] | None:
        """Make the workers ready; None if one of them is lost meanwhile."""
        call = (take_seat, self.name, self.job, mark)
        for rank, worker in enumerate(self.workers):
            meet = self.count > 1 and rank == 0
            futures.append(self.client.submit(*call, meet=meet, **_only_on(worker)))
        end = time.monotonic() + READY
        while not all(future.done() for future in futures):
            if self._notice_gone() or self.request.asked:
                return None
            if time.monotonic() > end:
                late = [worker for worker, future in zip(self.workers, futures, strict=True) if not future.done()]
                raise ClusterError(
                    f"{len(late)} of {self.count} workers, such as {late[0]}, are not ready within {READY:g} s: "
                    "see that nothing else runs on them"
                )
            time.sleep(LOOK)
        try:
            return [future.result(timeout=ANSWER) for future in futures]
        except TimeoutError:  # of a worker that was lost right now
            return None

    def _start(self, futures: list[Future], seats: list[Seat]) -> None:
        job = {**self.job, "device": choose_device(self.job["device"], seats), "attempt": self.name}
        variables = {
            "WORLD_SIZE": str(self.count),
            "LOCAL_WORLD_SIZE": "1",
            "MASTER_ADDR": seats[0].host,
            "MASTER_PORT": str(seats[0].port),
            SECRET: secrets.token_hex(16),
            "TORCHELASTIC_USE_AGENT_STORE": "True",  # all ranks find the store there, and none opens it
        }
        futures[:] = [
            self.client.submit(run_rank, self.name, rank, job, variables, **_only_on(worker))
            for rank, worker in enumerate(self.workers)
        ]

    def _follow(self, futures: list[Future]) -> None:
        """Wait for the ranks; once one has ended too early, or all are asked to, bound the time of the others."""
        end, told = math.inf, False
        while len(self.outcomes) < self.count and time.monotonic() < end:
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
            if self._gone | self.outcomes.keys() == set(range(self.count)):
                end = min(end, time.monotonic() + WORDS)

    def _look(self, futures: list[Future]) -> None:
        """Take in what has been said of the ranks, and notice those that are silent for ever."""
        done = [future.status for future in futures]
        self._notice_gone()
        self._take_in(LOOK)
        for rank, status in enumerate(done):
            if status in ("error", "cancelled", "lost") and rank not in self.outcomes:
                self._note(rank, "lost", f"its task ended as {status}")

    def _take_in(self, seconds: float) -> None:
        """Handle the events of some time."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            try:
                event = self._events.get(timeout=left)
            except Empty:
                return
            if "outcome" in event:
                self.outcomes.setdefault(event["rank"], event)
            else:
                self.report(event["stage"], event["done"], event["figures"])

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

    def _note(self, rank: int, outcome: str, message: str) -> None:
        self.outcomes.setdefault(rank, {"rank": rank, "outcome": outcome, "error": "", "message": message})

    def _raise_error(self) -> None:
        if self._ended("lost"):
            return
        for rank in self._ended("failed"):
            failed = self.outcomes[rank]
            kind = getattr(errors, failed["error"], XlandError)
            raise kind(failed["message"])
        for rank in self._ended("stopped"):
            if self.request.asked:
                raise TrainingStoppedError(self.outcomes[rank]["message"])
        for rank in self._ended("crashed"):
            raise ClusterError(f"{self._describe(rank)}; its log is in {Path(self.job['output'], LOGS)}")

    def _ended(self, kind: str) -> list[int]:
        return sorted(rank for rank, each in self.outcomes.items() if each["outcome"] == kind)

    def _describe(self, rank: int) -> str:
        ended = self.outcomes[rank]
        what = f"{ended['error']}: {ended['message']}" if ended["error"] else ended["message"]
        return f"rank {rank} on worker {self.workers[rank]} ended: {what}"

    def _command(self, what: Callable[[str], None]) -> None:
        """Have the workers that are there do something; a node that went dark would keep us waiting."""

        def run() -> None:
            with suppress(OSError, ValueError, KeyError):
                here = set(self.client.nthreads()).intersection(self.workers)
                if here:
                    self.client.run(what, self.name, workers=sorted(here), on_error="ignore")

        thread = Thread(target=run, name="xland-command", daemon=True)
        thread.start()
        thread.join(ANSWER)

    def _hear(self, event: tuple[float, dict[str, Any]]) -> None:
        self._events.put(event[1])


def choose_device(wanted: str, seats: Iterable[Seat]) -> str:
    """Return ``cpu`` or ``cuda``: GPUs if they are asked for, or if nothing is and there are any.

    Raises
    ------
    ClusterError
        If GPUs are to be used, and a worker has none or two would share one; the message names them.
    """
    seats = list(seats)
    bare = [seat.worker for seat in seats if not seat.gpu]
    if wanted == "cpu" or (wanted == "auto" and len(bare) == len(seats)):
        return "cpu"
    if bare:
        raise ClusterError(
            f"{len(bare)} of {len(seats)} workers, such as {bare[0]}, see no GPU: start them on nodes that have one, "
            "or train on the device cpu"
        )
    owners: dict[tuple[str, str], str] = {}
    for seat in seats:
        other = owners.setdefault((seat.machine, seat.gpu), seat.worker)
        if other != seat.worker:
            raise ClusterError(
                f"workers {other} and {seat.worker} would share GPU {seat.gpu} of {seat.machine}: use the cluster "
                "'cuda', whose workers have one each, or train on the device cpu"
            )
    return "cuda"


def present_workers(client: Client) -> set[str]:
    """Addresses of all workers.

    Raises
    ------
    ClusterError
        If the scheduler is gone.
    """
    try:
        if client.status == "running":
            return set(client.nthreads())
        reason = f"its client is {client.status}"
    except OSError as error:
        reason = str(error)
    raise ClusterError(f"the scheduler of the training's workers cannot be reached any more: {reason}")


def running_workers(client: Client) -> list[str]:
    """Addresses of the workers that are not about to end, those of a machine next to each other.

    Raises
    ------
    ClusterError
        If the scheduler is gone.
    """
    present = present_workers(client)  # of a scheduler that is gone, dask tells what it knew last
    known = client.scheduler_info(n_workers=-1)["workers"]
    return sorted(each for each in present if known.get(each, {}).get("status") in ("running", "paused"))


def _only_on(worker: str) -> dict[str, Any]:
    return {"workers": [worker], "allow_other_workers": False, "pure": False, "retries": 0}
