"""Runs in fresh processes, one after the other in turns, and the lines that say what came out.

``python -m tests.benchmarks.harness MODULE:FUNCTION ARGUMENTS`` is the fresh process of one run: it calls the function
with a JSON object of arguments and prints what it returns as the last line.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("XLAND_TEST_DATA", PROJECT.parent / "shared" / "data"))
LUH2 = DATA / "luh2_2015" / "states_2015.nc"
LUH2 = LUH2 if LUH2.exists() else PROJECT / "xland" / "datasets" / "luh2_2015.nc"
PLUM_ISLAND = DATA / "plum_island"

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
"""Taken from the environment of the runs: each side has torch's own number of threads or chooses one."""

Result = dict[str, Any]


@dataclass(frozen=True)
class Bench:
    """Where the runs put their files, and how much is run."""

    folder: Path
    quick: bool = False

    @property
    def runs(self) -> int:
        """Runs of each side."""
        return 2 if self.quick else 5

    def line(
        self,
        name: str,
        figure: float,
        versus: str,
        target: str,
        results: Mapping[str, list[Result]],
        *entries: str,
        **more: Any,
    ) -> Result:
        """One line of sides that took turns, with some entries of every run."""
        every = {entry: all_of(results, entry) for entry in entries}
        return line(name, figure, versus, target, runs=self.runs, **every, **more)


def options(doc: str, names: Iterable[str] = (), **more: dict[str, Any]) -> argparse.Namespace:
    """Parse ``--quick``, ``--only`` if there are parts to choose from, and further options."""
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="smaller sizes and fewer runs, for a look")
    if names:
        parser.add_argument("--only", nargs="+", choices=list(names), default=list(names), help="these parts alone")
    for name, how in more.items():
        parser.add_argument(f"--{name}", **how)
    return parser.parse_args()


def fresh(function: Callable[..., Result], project: str | Path = PROJECT, **arguments: Any) -> Result:
    """Call a function in a process of its own and return its answer; as it is in this project or another checkout."""
    environment = {key: value for key, value in os.environ.items() if key not in THREADS}
    environment["PYTHONPATH"] = str(project)
    module = function.__module__
    if module == "__main__":  # of a benchmark that was started as a module
        module = sys.modules[module].__spec__.name  # type: ignore[union-attr]
    target = f"{module}:{function.__qualname__}"
    command = [sys.executable, "-m", "tests.benchmarks.harness", target, json.dumps(arguments)]
    done = subprocess.run(command, cwd=project, env=environment, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{function.__name__} in a fresh process ended with status {done.returncode}")
    answer: Result = json.loads(done.stdout.splitlines()[-1])
    return answer


def side(function: Callable[..., Result], **arguments: Any) -> Callable[[], Result]:
    """One of the sides that are compared: each call is a fresh process."""
    return partial(fresh, function, **arguments)


def take_turns(sides: Mapping[str, Callable[[], Result]], runs: int) -> dict[str, list[Result]]:
    """Run the sides in turns, A B A B: what slows the machine down for a while slows down all of them."""
    results: dict[str, list[Result]] = {name: [] for name in sides}
    for number in range(runs):
        for name, run in sides.items():
            result = run()
            results[name].append(result)
            numbers = [f"{key} {value:.6g}" for key, value in result.items() if isinstance(value, int | float)]
            tell(f"  run {number + 1}/{runs} {name}: {', '.join(numbers)}")
    return results


def median(results: list[Result], entry: str) -> float:
    """Median of one entry over the runs of a side."""
    return statistics.median(result[entry] for result in results)


def ratio(results: Mapping[str, list[Result]], above: str, below: str, entry: str) -> float:
    """Median of one side / of another one."""
    return median(results[above], entry) / median(results[below], entry)


def all_of(results: Mapping[str, list[Result]], entry: str) -> dict[str, list[float]]:
    """Every run's value of one entry, by side."""
    return {name: [round(result[entry], 3) for result in each] for name, each in results.items()}


def line(name: str, figure: float, versus: str, target: str, *, runs: int, sizes: Any, **more: Any) -> Result:
    """One line of the benchmark; ``target`` is ``<= LIMIT``, ``>= LIMIT`` or ``== VALUE``."""
    sign, limit = target.split()
    met = {"<=": figure <= float(limit), ">=": figure >= float(limit), "==": figure == float(limit)}[sign]
    stated = {"name": name, "figure": round(figure, 6), "versus": versus, "target": target, "met": met}
    return {**stated, "sizes": sizes, "runs": runs, **more, "hardware": hardware()}


def skipped(name: str, why: str) -> Result:
    """Line of a benchmark that cannot be run here."""
    return {"name": name, "skipped": why, "hardware": hardware()}


def missing(name: str, path: Path) -> Result:
    """Line of a benchmark whose data are not there."""
    return skipped(name, f"{path.name} is not at hand: set XLAND_TEST_DATA")


def rounded(values: Mapping[str, Any], digits: int = 4) -> Result:
    """The same with floats of a few digits."""
    return {name: round(value, digits) if isinstance(value, float) else value for name, value in values.items()}


def show(result: Result) -> None:
    """Print a line."""
    print(json.dumps(result), flush=True)


def tell(text: str) -> None:
    """Say on standard error how far it is."""
    print(text, file=sys.stderr, flush=True)


def import_packages() -> None:
    """Import what downscaling and writing import when they are called."""
    for name in ("cf_xarray", "distributed", "rioxarray", "torch", "zarr"):
        importlib.import_module(name)


def megabytes(entry: str) -> float:
    """Resident memory of this process: ``VmRSS`` now, ``VmHWM`` at its peak.

    Not ``ru_maxrss``, in which a process that was forked from a larger one starts at that one's size.
    """
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(next(row.split()[1] for row in status.splitlines() if row.startswith(f"{entry}:"))) / 1024


@lru_cache(maxsize=1)
def hardware() -> str:
    """Processor, cores and memory."""
    rows = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    named = [row.partition(":")[2].strip() for row in rows if row.startswith("model name")]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{named[0] if named else platform.machine()}, {os.cpu_count()} cores, {memory:.0f} GiB"


if __name__ == "__main__":
    module, _, name = sys.argv[1].partition(":")
    show(getattr(importlib.import_module(module), name)(**json.loads(sys.argv[2])))
