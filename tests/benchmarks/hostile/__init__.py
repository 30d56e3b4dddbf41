"""Seeded campaigns of damaged and hostile files: each case ends right or with a named error, within seconds."""

from __future__ import annotations

import multiprocessing
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
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


def mutate(tree: Any, random_: random.Random, value: Callable[[Any], Any]) -> str:
    """Replace an entry of nested data by a value, rename it or drop it; say what was done."""
    found = list(_places(tree))
    if not found:
        return "nothing"
    place = random_.choice(found)
    parent, key, name = tree, place[-1], ".".join(map(str, place))[:60]
    for each in place[:-1]:
        parent = parent[each]
    action = random_.random()
    new = value(parent[key])
    if action < 0.15:
        del parent[key]
        return f"without {name}"
    if action < 0.3 and isinstance(parent, dict):
        parent[new if isinstance(new, str | int) else str(new)] = parent.pop(key)
        return f"{name} is called {new!r:.60}"
    parent[key] = new
    return f"{name} = {new!r:.60}"


def _places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in items:
        yield (*at, key)
        yield from _places(each, (*at, key))


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
