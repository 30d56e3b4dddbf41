"""Files that a training on the command line takes, its losses, and processes that train and wait where a test says.

``python -m tests.training.commands train ...`` is the command line of such a process.
"""

from __future__ import annotations

import csv
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tests.worlds import tiny_world
from xland.models.checkpoint import Checkpoint
from xland.paths import replace_file
from xland.training.machine import Termination, deferred_termination
from xland.training.ranks.rank import learn_as_rank

CONFIGURATION = """
name = "tiny"
title = "A model of the tests"
[data]
forcing = "{folder}/states.nc"
target = "{folder}/maps.nc"
static = "{folder}/static.nc"
[inputs]
factor = 4
resolution = 1.0
window = 40
stride = 20
coarse = [{{ name = "forest", sources = ["primf", "secdf"] }}, {{ name = "has_data", sources = [] }}]
static = [{{ name = "elevation", sources = ["elevation"], transform = "signed_sqrt" }}]
[architecture]
width = 4
depth = 1
[schedule]
{schedule}
"""

SCHEDULE = {"epochs": 2, "batch": 4, "patch": 40, "patch_stride": 20, "candidates": 20, "checkpoint_every": 2}
STEPS = 10
QUICK = "tests.training.commands:learn_quickly"


def write_files(folder: Path, **schedule: int | str) -> Path:
    """Write the tiny world and a configuration that learns from it in ten steps, with a state after every second."""
    coarse, static, maps = tiny_world((2000,))
    for name, each in (("states", coarse), ("static", static), ("maps", maps)):
        each.to_netcdf(folder / f"{name}.nc")
    path = folder / "tiny.toml"
    lines = "\n".join(f"{name} = {value}" for name, value in {**SCHEDULE, **schedule}.items())
    path.write_text(CONFIGURATION.format(folder=folder, schedule=lines))
    return path


def losses(output: Path) -> list[float]:
    """Loss of every step, none of which is missing or there twice."""
    with (output / "steps.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == list(range(1, len(rows) + 1))
    return [float(row["loss"]) for row in rows]


def taken_steps(output: Path) -> int:
    """How many steps a training has logged that may be under way."""
    return len(losses(output)) if (output / "steps.csv").exists() else 0


def fitted_by(output: Path) -> int:
    """How many ranks have fitted the card of a model, see :func:`prepare_process`."""
    return int(json.loads((output / "card.json").read_text())["fitted_by"])


def hold(output: Path, step: int) -> Path:
    """Let ranks of :func:`prepare_process` wait after a step, until the file is gone or they are asked to end."""
    output.mkdir(exist_ok=True)
    replace_file(output / "hold", str(step))
    return output / "hold"


def prepare_process() -> None:
    """Leave out codecarbon, TensorBoard and the fit of the card, and let trainings wait where the test says.

    The card only notes how many ranks would have fitted it at their end.
    """
    from xland.models.checkpoint import update_card
    from xland.training.learn import loop
    from xland.training.learn.watching import Watch

    sys.modules["codecarbon"] = sys.modules["tensorboard"] = None  # type: ignore[assignment]
    requests, report = [], Watch.report

    @contextmanager
    def noted() -> Iterator[Termination]:
        with deferred_termination() as request:
            requests.append(request)
            yield request

    def report_and_wait(watch: Watch, steps: Sequence[Any]) -> dict[str, float]:
        figures = report(watch, steps)
        with suppress(FileNotFoundError):
            while steps and steps[-1].step >= int((watch.folder / "hold").read_text()):
                if requests[-1].asked:
                    (watch.folder / f"asked-{os.environ['RANK']}").touch()
                    break
                time.sleep(0.01)
        return figures

    def note_fit(best: Checkpoint, *_: Any, **__: Any) -> Checkpoint:
        return update_card(best.folder, {"fitted_by": best.card.get("fitted_by", 0) + 1})

    loop.deferred_termination, loop.fit_card = noted, note_fit
    Watch.report = report_and_wait  # type: ignore[method-assign]


def learn_quickly(*arguments: Any, **options: Any) -> None:
    """What a rank of the launcher calls, in a process of its own."""
    prepare_process()
    learn_as_rank(*arguments, **options)


if __name__ == "__main__":
    from xland.cli import main

    prepare_process()
    sys.exit(main())
