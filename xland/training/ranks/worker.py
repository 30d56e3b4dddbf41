"""What the launcher has Dask workers do: get ready, run a rank, and end it.

A rank is a process of its own (:mod:`xland.training.ranks.process`). It has a main thread, so that SIGTERM
reaches it, and may start loader processes, which a Dask worker may not; and it leaves neither process group
nor CUDA context behind. It is the leader of a process group, so that all that belongs to it can be ended.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Thread
from typing import Any

from xland.atomic import open_to_append
from xland.errors import ClusterError
from xland.training.machine import interface_of
from xland.training.ranks.process import LOGS

LOOK = 0.1  # seconds between two looks at a rank
EVERY = 1.0  # seconds between two reports of steps: all of them would fill the scheduler's memory
SHARED = 10.0  # seconds that a file may take to appear on another node
LEAVE = 30.0  # seconds that a process may take to end once it has said how
_ENDING = ("stopping", "stopped", "closing_gracefully", "closing", "closed", "failed")


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
    """Make this worker ready for a rank of an attempt, and end one that still writes to the same output.

    ``mark`` is a file that the launcher has written into the output. Returned are the worker's host and, if ranks meet
    here, the port (else 0). A :class:`ClusterError` says that the worker does not see the launcher's files, or that no
    port can be opened.
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
    """Run a rank to its end, as a task of this worker; environment variables tell it of its group.

    Events under the name of the attempt say how far it has come, and how it ended.
    """
    from distributed import get_worker

    worker = get_worker()
    worker.log_event(attempt, _run(worker, attempt, rank, job, variables))


def _run(worker: Any, attempt: str, rank: int, job: Mapping[str, Any], variables: Mapping[str, str]) -> dict[str, Any]:
    """Run a rank and return how it ended."""
    own = _ATTEMPTS.get(attempt)
    if own is None:  # dask gave the task to a worker that was started in place of the lost one
        return outcome(rank, "lost", "its worker was started again")
    log = Path(job["output"], LOGS, f"rank-{rank}.log")
    environment = {**os.environ, "OMP_NUM_THREADS": str(worker.state.nthreads)}
    interface = interface_of(_host(worker.address))
    if interface is not None:
        for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
            environment.setdefault(name, interface)
    try:
        log.parent.mkdir(exist_ok=True)
        with open_to_append(log) as printed:
            process = own.process = subprocess.Popen(
                [sys.executable, "-m", "xland.training.ranks.process"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=printed,
                env={**environment, **variables, "RANK": str(rank), "LOCAL_RANK": "0"},
                start_new_session=True,
            )
        reader = Thread(target=forward, args=(worker, attempt, rank, process, own), daemon=True)
        reader.start()
        with suppress(BrokenPipeError):  # the stream stays open, as the rank ends with it
            process.stdin.write(json.dumps(dict(job)).encode() + b"\n")  # type: ignore[union-attr]
            process.stdin.flush()  # type: ignore[union-attr]
        _attend(worker, own, process)
    except OSError as error:
        return outcome(rank, "broken", f"its process cannot be started: {error}")
    finally:
        own.close()
    reader.join(timeout=SHARED)
    return own.end or _sudden_end(rank, process.returncode, log)


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


def forward(worker: Any, attempt: str, rank: int, process: subprocess.Popen[bytes], own: Attempt) -> None:
    """Pass on what a rank says of its progress, steps not too often, and keep what it says of its end."""
    last = 0.0
    for line in process.stdout or ():
        try:
            event = json.loads(line)
        except ValueError:  # of a rank that was killed while it wrote
            continue
        if "outcome" in event:
            own.end = event
        elif event["stage"] != "training" or time.monotonic() - last >= EVERY:
            last = time.monotonic()
            worker.log_event(attempt, {"rank": rank, **event})


def outcome(rank: int, kind: str, message: str) -> dict[str, Any]:
    """Say how a rank ended that could not say it."""
    return {"rank": rank, "outcome": kind, "error": "", "message": message}


def _sudden_end(rank: int, status: int, log: Path) -> dict[str, Any]:
    if status < 0:
        return outcome(rank, "lost", f"its process was ended by {signal.Signals(-status).name}")
    lines: list[str] = []
    with suppress(OSError):
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-5:]
    return outcome(rank, "crashed", f"its process ended with status {status}: {' / '.join(lines)}")


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
