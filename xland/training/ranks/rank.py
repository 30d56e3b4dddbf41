"""One rank of a training: a process of its own below a Dask worker, and what the launcher has the worker do for it.

The process has a main thread, so that SIGTERM reaches it, and may start loader processes, which a Dask worker may not;
and it leaves neither process group nor CUDA context behind. It leads a process group, so that all that belongs to it
can be ended. It reads its job from the first line of its standard input, and ends as soon as that is closed, which it
is when the worker dies, however it dies. On its standard output it says, a JSON object a line, how far it has come and
how it ended; what is printed goes to standard error.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from threading import Thread
from typing import Any, TextIO

from xland.errors import ClusterError, TrainingStoppedError, XlandError
from xland.paths import open_to_append
from xland.training.machine import interface_of

LOGS = "ranks"  # folder below the output for what ranks print

LOOK = 0.1  # seconds between two looks at a rank
EVERY = 1.0  # seconds between two reports of steps: all of them would fill the scheduler's memory
SHARED = 10.0  # seconds that a file may take to appear on another node
LEAVE = 30.0  # seconds that a process may take to end once it has said how
_ENDING = ("stopping", "stopped", "closing_gracefully", "closing", "closed", "failed")


def last_words(output: str, attempt: str, rank: int) -> Path:
    """File in which a rank leaves how it ended: its worker may be gone before it can pass that on."""
    return Path(output, LOGS, f"{attempt}-{rank}.json")


def outcome(rank: int, kind: str, message: str, error: str = "") -> dict[str, Any]:
    """How a rank ended: finished, stopped, failed, crashed, broken or lost."""
    return {"rank": rank, "outcome": kind, "error": error, "message": message}


# the worker


@dataclass
class Attempt:
    """What a worker has of one start of the group: the place where ranks meet, its rank, and how that ended."""

    output: str
    store: Any = None
    process: subprocess.Popen[bytes] | None = None
    end: dict[str, Any] = field(default_factory=dict)

    def close(self) -> None:
        """End the rank and all that it started, and the place where ranks meet."""
        self.store = None
        if self.process is None:
            return
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        with suppress(BrokenPipeError):
            self.process.stdin.close()  # type: ignore[union-attr]


_ATTEMPTS: dict[str, Attempt] = {}


def get_ready(attempt: str, job: Mapping[str, Any], mark: str, *, meet: bool) -> tuple[str, int]:
    """Make this worker ready for a rank, and return its host and, if ranks meet here, the port (else 0).

    ``mark`` is a file that the launcher has written into the output: the worker must see it.
    """
    from distributed import get_worker

    address = get_worker().address
    for old in [name for name, each in _ATTEMPTS.items() if each.output == job["output"]]:
        leave(old)
    shared = "on a file system that all nodes share, under the same path"
    end = time.monotonic() + SHARED
    while not Path(job["output"], mark).exists():
        if time.monotonic() > end:
            raise ClusterError(
                f"worker {address} does not see {job['output']} as the launcher does: put the output {shared}"
            )
        time.sleep(LOOK)
    if job["store"] is not None and not Path(job["store"]).exists():
        raise ClusterError(f"worker {address} does not see the training store {job['store']}: put it {shared}")
    own = _ATTEMPTS[attempt] = Attempt(job["output"])
    host = _host(address)
    if meet:
        own.store = open_meeting(address, host)
    return host, own.store.port if meet else 0


def ask_to_stop(attempt: str) -> None:
    """Send SIGTERM to the rank of an attempt on this worker; one that has not begun will not."""
    own = _ATTEMPTS.get(attempt)
    if own is not None and own.process is not None:
        own.process.terminate()
    else:
        leave(attempt)


def leave(attempt: str) -> None:
    """End what is left of an attempt on this worker, at once."""
    own = _ATTEMPTS.pop(attempt, None)
    if own is not None:
        own.close()


def run_rank(attempt: str, rank: int, job: Mapping[str, Any], variables: Mapping[str, str]) -> None:
    """Run a rank to its end, as a task of this worker; events under the name of the attempt say how far it has come."""
    from distributed import get_worker

    worker, own = get_worker(), _ATTEMPTS.get(attempt)
    if own is None:  # dask gave the task to a worker that was started in place of the lost one
        end = outcome(rank, "lost", "its worker was started again")
    else:
        try:
            end = _run(worker, own, attempt, rank, job, variables)
        except OSError as error:
            end = outcome(rank, "broken", f"its process cannot be started: {error}")
    worker.log_event(attempt, end)


def _run(
    worker: Any, own: Attempt, attempt: str, rank: int, job: Mapping[str, Any], variables: Mapping[str, str]
) -> dict[str, Any]:
    """Run a rank and return how it ended."""
    log = Path(job["output"], LOGS, f"rank-{rank}.log")
    environment = {**os.environ, "OMP_NUM_THREADS": str(worker.state.nthreads)}
    interface = interface_of(_host(worker.address))
    if interface is not None:
        environment = {"GLOO_SOCKET_IFNAME": interface, "NCCL_SOCKET_IFNAME": interface, **environment}
    try:
        log.parent.mkdir(exist_ok=True)
        with open_to_append(log) as printed:
            process = own.process = subprocess.Popen(
                [sys.executable, "-m", "xland.training.ranks.rank"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=printed,
                env={**environment, **variables, "RANK": str(rank), "LOCAL_RANK": "0"},
                start_new_session=True,
            )
        reader = Thread(target=forward, args=(worker, attempt, rank, own), daemon=True)
        reader.start()
        with suppress(BrokenPipeError):  # the stream stays open, as the rank ends with it
            process.stdin.write(json.dumps(dict(job)).encode() + b"\n")  # type: ignore[union-attr]
            process.stdin.flush()  # type: ignore[union-attr]
        _attend(worker, own, process)
    finally:
        own.close()
    reader.join(timeout=SHARED)
    if own.end:
        return own.end
    status = process.returncode
    if status < 0:
        return outcome(rank, "lost", f"its process was ended by {signal.Signals(-status).name}")
    lines: list[str] = []
    with suppress(OSError):
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-5:]
    return outcome(rank, "crashed", f"its process ended with status {status}: {' / '.join(lines)}")


def _attend(worker: Any, own: Attempt, process: subprocess.Popen[bytes]) -> None:
    """Wait for a rank; end it if nobody wants it any more, and tell it if the worker is about to end."""
    task, told = worker.get_current_task(), False
    while process.poll() is None:
        state = worker.state.tasks.get(task)
        if worker.status.name in _ENDING:
            if not told:
                process.terminate()
            told = True
        elif state is None or state.state == "cancelled":
            return
        elif own.end:
            with suppress(subprocess.TimeoutExpired):
                process.wait(LEAVE)
            return
        time.sleep(LOOK)


def forward(worker: Any, attempt: str, rank: int, own: Attempt) -> None:
    """Pass on what a rank says of its progress, steps not too often, and keep what it says of its end."""
    last = 0.0
    for line in own.process.stdout or ():  # type: ignore[union-attr]
        try:
            event = json.loads(line)
        except ValueError:  # of a rank that was killed while it wrote
            continue
        if "outcome" in event:
            own.end = event
        elif event["stage"] != "training" or time.monotonic() - last >= EVERY:
            last = time.monotonic()
            worker.log_event(attempt, {"rank": rank, **event})


def _host(address: str) -> str:
    from distributed.comm import get_address_host

    return str(get_address_host(address))


def open_meeting(worker: str, host: str) -> Any:
    """Open torch's store, where ranks meet, at a port that the system chooses: no two trainings share one."""
    from torch.distributed import TCPStore

    try:
        # torch would listen on all networks of the machine
        listener = socket.create_server((host, 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
        port = listener.getsockname()[1]
        return TCPStore(host, port, is_master=True, wait_for_workers=False, master_listen_fd=listener.detach())
    except (RuntimeError, OSError) as error:
        raise ClusterError(f"the ranks cannot meet at worker {worker}: no port can be opened there: {error}") from error


# the process of the rank


def main() -> int:
    """Train as the job on standard input says; return the status for the shell."""
    events = os.fdopen(os.dup(1), "w", buffering=1, encoding="utf-8")
    os.dup2(2, 1)
    with open(0, "rb", buffering=0, closefd=False) as lifeline:
        job = json.loads(lifeline.readline())
    Thread(target=_die_with_the_worker, name="xland-lifeline", daemon=True).start()
    rank = int(os.environ["RANK"])
    end = _train(job, rank, events)
    with suppress(OSError):  # a full disk may be what it has to tell
        last_words(job["output"], job["attempt"], rank).write_text(json.dumps(end), encoding="utf-8")
    try:
        events.write(json.dumps(end) + "\n")
    except BrokenPipeError:  # the worker is gone, and with it who would end the processes that load for this rank
        os.killpg(os.getpid(), signal.SIGKILL)
    return {"finished": 0, "stopped": TrainingStoppedError.status}.get(end["outcome"], 1)


def learn_as_rank(configuration: Mapping[str, Any], output: Path, **options: Any) -> None:
    """Train as one rank of several."""
    from xland.training.configuration import parse_configuration
    from xland.training.learn.loop import learn

    learn(parse_configuration(configuration), output, given={}, progress=False, **options)


CALL = f"xland.training.ranks.rank:{learn_as_rank.__name__}"  # what a rank calls


def _train(job: dict[str, Any], rank: int, events: TextIO) -> dict[str, Any]:
    """Call what the job names, and return how the rank ended."""

    def report(stage: str, done: float, figures: dict[str, float]) -> None:
        events.write(json.dumps({"stage": stage, "done": done, "figures": figures}) + "\n")

    module, _, name = job["call"].partition(":")
    store = None if job["store"] is None else Path(job["store"])
    options = {"store": store, "device": job["device"], "resume": job["resume"], "report": report}
    try:
        getattr(import_module(module), name)(job["configuration"], Path(job["output"]), **options)
    except Exception as error:  # noqa: BLE001 - whatever it is, the launcher must hear of it
        if isinstance(error, TrainingStoppedError):
            kind = "stopped"
        elif isinstance(error, XlandError):
            kind = "failed"
        else:
            traceback.print_exc()
            # what a rank meets whose neighbour was lost, or whose disk or network was away for a moment
            kind = "broken" if isinstance(error, RuntimeError | OSError) else "crashed"
        return outcome(rank, kind, str(error), type(error).__name__)
    return outcome(rank, "finished", "")


def _die_with_the_worker() -> None:
    """Wait for the end of standard input, and end this process and those that load for it."""
    while os.read(0, 1):
        pass
    os.killpg(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main())
