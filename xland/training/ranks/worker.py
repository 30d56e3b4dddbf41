"""What the launcher has Dask workers do: say what they have, start a rank, and answer for it until it ends.

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
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Thread
from typing import Any

from xland.atomic import open_to_append
from xland.errors import ClusterError
from xland.training.ranks.process import LOGS

LOOK = 0.1
"""Seconds between two looks at a rank."""

EVERY = 1.0
"""Seconds between two reports of steps: all of them would fill the scheduler's memory."""

SHARED = 10.0
"""Seconds that a file may take to appear on another node."""

LEAVE = 30.0
"""Seconds that a process may take to end once it has said how."""

_LINES = 5

_ENDING = ("stopping", "stopped", "closing_gracefully", "closing", "closed", "failed")


@dataclass(frozen=True)
class Seat:
    """What a worker has for a rank.

    Parameters
    ----------
    worker : str
        Its address.
    machine : str
        Name of its machine.
    gpu : str
        The first GPU that it sees, as CUDA_VISIBLE_DEVICES names it; empty if it sees none.
    host, port : str, int
        Where ranks meet; port 0 if not here.
    """

    worker: str
    machine: str
    gpu: str
    host: str
    port: int = 0


@dataclass
class _Held:
    """What a worker holds for one attempt: the place to meet, and its rank."""

    output: str
    store: Any = None
    process: subprocess.Popen[bytes] | None = None
    end: dict[str, Any] = field(default_factory=dict)


_HELD: dict[str, _Held] = {}


def take_seat(attempt: str, job: Mapping[str, Any], mark: str, *, meet: bool) -> Seat:
    """Make this worker ready for a rank, and end one that still writes to the same output.

    Parameters
    ----------
    attempt : str
        Name of this start of the group.
    job : mapping
        What the ranks will read.
    mark : str
        Name of a file that the launcher has written into the output.
    meet : bool
        Whether the ranks meet here.

    Raises
    ------
    ClusterError
        If this worker does not see the launcher's files, or no port can be opened.
    """
    from distributed import get_worker

    worker = get_worker()
    for old in [name for name, held in _HELD.items() if held.output == job["output"]]:
        leave_seat(old)
    _check_files(worker.address, Path(job["output"], mark), job["store"])
    host = _host(worker.address)
    held = _HELD[attempt] = _Held(job["output"])
    if meet:
        held.store = _open_store(worker.address, host)
    gpu = "" if job["device"] == "cpu" else _gpu()
    return Seat(worker.address, socket.gethostname(), gpu, host, held.store.port if meet else 0)


def ask_to_stop(attempt: str) -> None:
    """Send SIGTERM to the rank of an attempt on this worker; one that has not begun will not."""
    held = _HELD.get(attempt)
    if held is not None and held.process is not None:
        held.process.terminate()
    else:
        leave_seat(attempt)


def leave_seat(attempt: str) -> None:
    """End what is left of an attempt on this worker, at once."""
    held = _HELD.pop(attempt, None)
    if held is not None:
        _end(held)


def run_rank(attempt: str, rank: int, job: Mapping[str, Any], variables: Mapping[str, str]) -> None:
    """Run a rank to its end, as a task of this worker.

    Events under the name of the attempt say how far it has come, and how it ended.

    Parameters
    ----------
    attempt : str
    rank : int
    job : mapping
        What the process gets to read.
    variables : mapping of str to str
        Environment variables that tell the rank of its group.
    """
    from distributed import get_worker

    worker = get_worker()
    held = _HELD.get(attempt)
    if held is None:  # dask gave the task to a worker that was started in place of the lost one
        worker.log_event(attempt, _outcome(rank, "lost", "its worker was started anew"))
        return
    log = Path(job["output"], LOGS, f"rank-{rank}.log")
    environment = {**os.environ, **_own_variables(worker), **variables, "RANK": str(rank), "LOCAL_RANK": "0"}
    try:
        log.parent.mkdir(exist_ok=True)
        with _started(held, log, environment) as process:
            reader = Thread(target=_forward, args=(worker, attempt, rank, process, held), daemon=True)
            reader.start()
            _tell(process, job)
            _attend(worker, worker.get_current_task(), held, process)
        reader.join(timeout=SHARED)
    except OSError as error:
        worker.log_event(attempt, _outcome(rank, "broken", f"its process cannot be started: {error}"))
        return
    worker.log_event(attempt, held.end or _sudden_end(rank, process.returncode, log))


@contextmanager
def _started(held: _Held, log: Path, environment: Mapping[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    with open_to_append(log) as printed:
        held.process = subprocess.Popen(
            [sys.executable, "-m", "xland.training.ranks.process"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=printed,
            env=dict(environment),
            start_new_session=True,
        )
    try:
        yield held.process
    finally:
        _end(held)


def _tell(process: subprocess.Popen[bytes], job: Mapping[str, Any]) -> None:
    """Give a rank its job; the stream stays open, as the rank ends with it."""
    if process.stdin is not None:
        with suppress(BrokenPipeError):
            process.stdin.write(json.dumps(dict(job)).encode() + b"\n")
            process.stdin.flush()


def _attend(worker: Any, task: str, held: _Held, process: subprocess.Popen[bytes]) -> None:
    """Wait for a rank; end it if nobody wants it any more, and tell it if the worker is about to end."""
    told = False
    while process.poll() is None:
        state = worker.state.tasks.get(task)
        if worker.status.name in _ENDING:
            if not told:
                process.terminate()
            told = True
        elif state is None or state.state == "cancelled":
            return
        elif held.end:
            with suppress(subprocess.TimeoutExpired):
                process.wait(LEAVE)
            return
        time.sleep(LOOK)


def _forward(worker: Any, attempt: str, rank: int, process: subprocess.Popen[bytes], held: _Held) -> None:
    """Pass on what a rank says of its progress, steps not too often, and keep what it says of its end."""
    last = 0.0
    for line in process.stdout or ():
        try:
            event = json.loads(line)
        except ValueError:  # of a rank that was killed while it spoke
            continue
        if "outcome" in event:
            held.end = event
        elif event["stage"] != "training" or time.monotonic() - last >= EVERY:
            last = time.monotonic()
            worker.log_event(attempt, {"rank": rank, **event})


def _outcome(rank: int, outcome: str, message: str) -> dict[str, Any]:
    return {"rank": rank, "outcome": outcome, "error": "", "message": message}


def _sudden_end(rank: int, status: int, log: Path) -> dict[str, Any]:
    """Say how a rank ended that could not say it."""
    if status < 0:
        return _outcome(rank, "lost", f"its process was ended by {signal.Signals(-status).name}")
    with suppress(OSError):
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-_LINES:]
        return _outcome(rank, "crashed", f"its process ended with status {status}: {' / '.join(lines)}")
    return _outcome(rank, "crashed", f"its process ended with status {status}")


def _end(held: _Held) -> None:
    """End a rank and all that it started, and the place where ranks met."""
    held.store = None
    process = held.process
    if process is None:
        return
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    if process.stdin is not None:
        with suppress(BrokenPipeError):
            process.stdin.close()


def _own_variables(worker: Any) -> dict[str, str]:
    """Return threads and network interface of this worker's ranks; what is set for the interface stays."""
    variables = {"OMP_NUM_THREADS": str(worker.state.nthreads)}
    interface = interface_of(_host(worker.address))
    if interface is not None:
        for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
            variables[name] = os.environ.get(name, interface)
    return variables


def _host(address: str) -> str:
    from distributed.comm import get_address_host

    return str(get_address_host(address))


def interface_of(host: str) -> str | None:
    """Name of the network interface that has an address; None behind an address translation."""
    import psutil

    for name, addresses in psutil.net_if_addrs().items():
        if any(each.address == host for each in addresses):
            return name
    return None


def _open_store(worker: str, host: str) -> Any:
    """Open torch's store, where ranks meet, at a port that the system chooses: no two trainings share one."""
    from torch.distributed import TCPStore

    try:
        # torch would listen on all networks of the machine
        listener = socket.create_server((host, 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
        port = listener.getsockname()[1]
        return TCPStore(host, port, is_master=True, wait_for_workers=False, master_listen_fd=listener.detach())
    except (RuntimeError, OSError) as error:
        raise ClusterError(f"the ranks cannot meet at worker {worker}: no port can be opened there: {error}") from error


def _gpu() -> str:
    import torch

    if torch.version.cuda is None or not torch.cuda.device_count():
        return ""
    return os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]


def _check_files(worker: str, mark: Path, store: str | None) -> None:
    end = time.monotonic() + SHARED
    while not mark.exists():
        if time.monotonic() > end:
            raise ClusterError(
                f"worker {worker} does not see {mark.parent} as the launcher does: put the output on a file system "
                "that all nodes share, under the same path"
            )
        time.sleep(LOOK)
    if store is not None and not Path(store).exists():
        raise ClusterError(
            f"worker {worker} does not see the training store {store}: put it on a file system that all nodes share, "
            "under the same path"
        )
