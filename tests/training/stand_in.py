"""What ranks do in the tests of the launcher: steps taken together, without torch, and ends as asked for."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil

from xland.errors import TrainingError, TrainingStoppedError
from xland.training.machine import Termination, deferred_termination

STEPS = 15
LONG = 3000
CALL = "tests.training.stand_in:practise"
VARIABLES = (
    *("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"),
    *("OMP_NUM_THREADS", "GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"),
)


def practise(configuration, output, *, store, device, resume, report):
    """Take steps; the configuration's notes say how they end, a file in the output after which one to wait."""
    rank, count = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    helper = subprocess.Popen([sys.executable, "-S", "-c", f"import time; time.sleep({LONG})"])
    facts = {name: os.environ.get(name) for name in VARIABLES}
    facts |= {"pid": os.getpid(), "worker": os.getppid(), "helper": helper.pid, "device": device}
    note(output / f"rank-{rank}.json", json.dumps(facts))
    state = output / "step"
    stop = output / f"stop-{place(count)}"
    step = int(state.read_text()) if resume and state.exists() else 0
    meet(output, rank, count, step + 0.1)
    with deferred_termination() as request:
        while step < STEPS:
            step += 1
            misbehave(configuration["notes"], rank, step)
            wait_if_told_to(output, step, request)
            if request.asked:
                note(stop, str(step))
            meet(output, rank, count, step)
            if rank == 0:
                note(state, str(step))
                with (output / "steps").open("a") as steps:
                    steps.write(f"{step}\n")
                report("training", step / STEPS, {"loss": 1 / step})
            meet(output, rank, count, step + 0.5)
            # a neighbour may be at the next step already, and stop there
            if stop.exists() and int(stop.read_text()) <= step:
                raise TrainingStoppedError(f"stopped after step {step}")
    if rank == 0:
        report("epoch", 1.0, {"loss": 0.0})
    sys.stdout.write("printed at the end\n")


def place(count: int) -> str:
    """What is common to the ranks of this start, and to no other."""
    return os.environ["MASTER_PORT"] if count > 1 else str(os.getpid())


def meet(output: Path, rank: int, count: int, step: float) -> None:
    """Wait for the other ranks of this start, or fail as torch does when one of them is gone."""
    note(output / f"at-{place(count)}-{rank}", f"{step} {os.getpid()}")
    for other in range(count):
        path, gone = output / f"at-{place(count)}-{other}", False
        while not path.exists() or float(path.read_text().split()[0]) < step:
            if gone:
                raise RuntimeError("connection closed by peer")
            # one that has ended may have come here first: its step is read once more
            gone = path.exists() and not is_alive(int(path.read_text().split()[1]))
            time.sleep(0.01)


def wait_if_told_to(output: Path, step: int, request: Termination) -> None:
    """Wait as long as the file names an earlier step, or until an end is asked for."""
    end = time.monotonic() + LONG
    with suppress(FileNotFoundError):
        while int((output / "hold").read_text()) < step and not request.asked:
            assert time.monotonic() < end
            time.sleep(0.01)


def is_alive(process: int) -> bool:
    try:
        return psutil.Process(process).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def misbehave(how: str, rank: int, step: int) -> None:
    if step == 3 and rank == 1:
        if how == "not finite":
            raise TrainingError("the loss is nan in step 3")
        if how == "bug":
            raise KeyError("no such thing")
        if how == "lost":
            os.kill(os.getpid(), 9)


def note(path: Path, text: str) -> None:
    """Write a file at once, so that nobody reads half of it."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    temporary.write_text(text)
    temporary.replace(path)
