"""One rank of a training in a process of its own, started by :mod:`xland.training.ranks.worker` on a Dask worker.

It reads its job from the first line of its standard input, and ends as soon as that is closed, which it is
when the worker dies, however it dies. On its standard output it says, a JSON object a line, how far it has
come and how it ended; what is printed goes to standard error.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from collections.abc import Mapping
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from threading import Thread
from typing import Any, TextIO

from xland.errors import TrainingStoppedError, XlandError

CALL = "xland.training.ranks.process:learn_as_rank"
"""What a rank calls."""

LOGS = "ranks"
"""Folder below the output for what ranks print."""


def learn_as_rank(configuration: Mapping[str, Any], output: Path, **options: Any) -> None:
    """Train as one rank of several."""
    from xland.training.configuration import parse_configuration
    from xland.training.learn.loop import learn

    learn(parse_configuration(configuration), output, given={}, progress=False, **options)


def main() -> int:
    """Train as the job on standard input says; return the status for the shell."""
    events = os.fdopen(os.dup(1), "w", buffering=1, encoding="utf-8")
    os.dup2(2, 1)
    with open(0, "rb", buffering=0, closefd=False) as lifeline:
        job = json.loads(lifeline.readline())
    Thread(target=_die_with_the_worker, name="xland-lifeline", daemon=True).start()
    outcome = {"rank": int(os.environ["RANK"]), **_train(job, events)}
    with suppress(OSError):  # a full disk may be what it has to tell
        last_words(job["output"], job["attempt"], outcome["rank"]).write_text(json.dumps(outcome), encoding="utf-8")
    try:
        events.write(json.dumps(outcome) + "\n")
    except BrokenPipeError:  # the worker is gone, and with it who would end the processes that load for this rank
        os.killpg(os.getpid(), signal.SIGKILL)
    return {"finished": 0, "stopped": TrainingStoppedError.status}.get(outcome["outcome"], 1)


def last_words(output: str, attempt: str, rank: int) -> Path:
    """File in which a rank leaves how it ended: its worker may be gone before it can pass that on."""
    return Path(output, LOGS, f"{attempt}-{rank}.json")


def _train(job: dict[str, Any], events: TextIO) -> dict[str, Any]:
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
        return {"outcome": kind, "error": type(error).__name__, "message": str(error)}
    return {"outcome": "finished", "error": "", "message": ""}


def _die_with_the_worker() -> None:
    """Wait for the end of standard input, and end this process and those that load for it."""
    while os.read(0, 1):
        pass
    os.killpg(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main())
