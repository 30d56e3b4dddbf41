"""Files that a training on the command line takes, and the losses that it leaves."""

from __future__ import annotations

import csv
from pathlib import Path

from tests.worlds import tiny_world

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
depth = {depth}
[schedule]
{schedule}
"""

SCHEDULE = {"epochs": 2, "batch": 4, "patch": 40, "patch_stride": 20, "candidates": 20, "checkpoint_every": 2}


def write_files(folder: Path, years: tuple[int, ...] = (2000, 2001), *, depth: int = 2, **schedule: int | str) -> Path:
    """Write the tiny world and a configuration that learns from it in 20 steps, with a state after every second.

    What is said of the schedule takes the place of what stands there.
    """
    coarse, static, maps = tiny_world(years)
    for name, each in (("states", coarse), ("static", static), ("maps", maps)):
        each.to_netcdf(folder / f"{name}.nc")
    path = folder / "tiny.toml"
    lines = "\n".join(f"{name} = {value}" for name, value in {**SCHEDULE, **schedule}.items())
    path.write_text(CONFIGURATION.format(folder=folder, depth=depth, schedule=lines))
    return path


def losses(output: Path) -> list[float]:
    """Loss of every step, none of which is missing or there twice."""
    with (output / "steps.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == list(range(1, len(rows) + 1))
    return [float(row["loss"]) for row in rows]
