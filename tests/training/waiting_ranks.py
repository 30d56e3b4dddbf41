"""The command line, whose trainings wait in their fourth step until they are asked to end."""

from __future__ import annotations

import itertools
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from xland.cli import main
from xland.training.learn import loop
from xland.training.learn.watching import Watch
from xland.training.stopping import Termination, deferred_termination

requests: list[Termination] = []
steps = itertools.count(1)
take = Watch.step


@contextmanager
def noted() -> Iterator[Termination]:
    with deferred_termination() as request:
        requests.append(request)
        yield request


def step(watch: Watch, samples: int) -> None:
    take(watch, samples)
    if next(steps) == 4:
        (watch.folder / f"waiting-{os.environ['RANK']}").touch()
        while not requests[-1].asked:
            time.sleep(0.01)


if __name__ == "__main__":
    loop.deferred_termination = noted
    Watch.step = step
    sys.exit(main())
