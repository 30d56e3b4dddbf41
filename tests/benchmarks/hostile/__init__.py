"""Seeded campaigns of damaged inputs and killed runs: each case ends right or with a named error, within seconds."""

from __future__ import annotations

import multiprocessing
import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Tally:
    """What the cases of a campaign came to: silent faults, errors that are not ours, and the slowest case."""

    kinds: Counter[str] = field(default_factory=Counter)
    silent: list[str] = field(default_factory=list)
    bare: list[str] = field(default_factory=list)
    slowest: tuple[float, str] = (0.0, "")

    def judge(self, kind: str, label: str, case: Callable[[], str | None]) -> None:
        """Run a case, which says what is wrong; where a named error is right, the case says so itself."""
        begun = time.monotonic()
        try:
            wrong = case()
        except Exception as error:  # noqa: BLE001 - errors that are not ours are what is looked for
            self.bare.append(f"{label}: {type(error).__name__}: {error}"[:300])
            wrong = None
        if wrong:
            self.silent.append(f"{label}: {wrong}"[:300])
        self.slowest = max(self.slowest, (round(time.monotonic() - begun, 2), label))
        self.kinds[kind] += 1

    def line(self, name: str, value: float, target: float, examples: list[Any] | None = None) -> dict[str, Any]:
        """Return a line of the campaign."""
        sizes = {"cases": self.kinds.total(), "kinds": dict(sorted(self.kinds.items()))}
        return {"name": name, "value": value, "target": target, "sizes": sizes, "examples": (examples or [])[:20]}


def in_new_process(function: Callable[..., Any], *arguments: Any, seconds: float | None = None) -> Any:
    """Call a function in a process that is forked from one with all modules loaded; None if it was killed.

    Raises
    ------
    RuntimeError
        With the error of the function; or if the process was stuck for so many seconds, or ended otherwise.
    """
    context = multiprocessing.get_context("forkserver")
    loaded = ("torch", "xland.downscaling.call", "xland.store.writing", "distributed", "tests.worlds")
    context.set_forkserver_preload([function.__module__, *loaded])
    mine, its = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(its, function, arguments))
    process.start()
    its.close()
    try:
        stuck = not mine.poll(seconds)
        answer, error = (None, f"stuck for {seconds} s") if stuck else mine.recv()
    except EOFError:
        stuck, answer, error = False, None, None
    if stuck:
        process.kill()
    process.join()
    if error is not None:
        raise RuntimeError(error)
    if answer is None and process.exitcode != -signal.SIGKILL:
        raise RuntimeError(f"the process ended with status {process.exitcode}")
    return answer


def _answer(pipe: Any, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    try:
        answer = (function(*arguments), None)
    except BaseException as error:  # noqa: BLE001 - to be told
        answer = (None, f"{type(error).__name__}: {error}")
    pipe.send(answer)
