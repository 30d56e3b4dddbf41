"""Published packages of land change beside ours, in Brazil from 2008 to 2012: one JSON object a line.

Run as ``python -m tests.benchmarks.change_peers --python PEERS/bin/python``, an interpreter that has clumpy and
disslucc (``pip install disslucc clumpy optbinning tqdm scikit-image``). All are given the same maps: they learn from
2004 and 2008 outside of the held-out blocks, and know the class areas of 2012 in cells of 25 x 25 pixels.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tests.benchmarks import harness
from tests.benchmarks.change import (
    CODES,
    EXCHANGE,
    FILE,
    FIRST_ROLLED,
    JUDGED,
    LAST_FITTED,
    MODELS,
    Brazil,
)
from tests.benchmarks.harness import PROJECT, Result, line, megabytes, missing, rounded, show, side, skipped, tell
from tests.benchmarks.land_change import neighbourhood
from tests.benchmarks.plum_island import Step
from xland.totals.modes import Totals
from xland.vocabulary import CLASS_NAMES, OCEAN

FACTOR = 25
PEERS = ("disslucc", "clumpy")
SCALES = 5  # windows in the features of each class; the logarithm of the distance follows them
LIMIT = 1500  # seconds that a peer may take


def features_of(codes: np.ndarray) -> np.ndarray:
    """Return for each class its share in windows of two pixels around, and the logarithm of the distance to it."""
    around = neighbourhood(codes, {}, CODES)
    first = 1 + (SCALES + 1) * np.arange(len(CODES))
    return around[..., np.concatenate([first + 1, first + SCALES])]


def given_to_peers() -> dict[str, np.ndarray]:
    """Return what peers are given; see :mod:`tests.benchmarks.change_peers_run`."""
    area = Brazil(FACTOR)
    first, start, end = (area.codes(year) for year in (FIRST_ROLLED, LAST_FITTED, JUDGED))
    blocks = end.reshape(end.shape[0] // FACTOR, FACTOR, end.shape[1] // FACTOR, FACTOR)
    counts = np.stack([(blocks == code).sum(axis=(1, 3)) for code in range(len(CLASS_NAMES))])
    features = {"first_features": features_of(first), "start_features": features_of(start)}
    maps = {"first": first, "second": start, "start": start}
    return {**maps, "within": ~area.held_out & (first != OCEAN), **features, "end_counts": counts}


def run_peer(python: Path, peer: str, folder: Path) -> Result:
    """Run a peer in its own environment; what it says of itself, and the file with its answer."""
    found = folder / f"{peer}.npz"
    script = PROJECT / "tests" / "benchmarks" / "change_peers_run.py"
    command = [str(python), str(script), peer, str(folder / "given.npz"), str(found)]
    try:
        done = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, text=True, check=False, timeout=LIMIT)
    except subprocess.TimeoutExpired:
        return {"stopped": f"not done after {LIMIT} seconds"}
    if done.returncode:
        return {"stopped": f"ended with status {done.returncode}"}
    said: Result = json.loads(done.stdout.splitlines()[-1])
    return said


def run_ours() -> Result:
    """Predict with the shipped model; what it took."""
    area = Brazil(FACTOR)
    area.maps.load(), area.forcing.load(), area.static.load()  # made before the clock runs, as for the peers
    before, started, cpu = megabytes("VmHWM"), time.perf_counter(), time.process_time()
    maps = area.predict(MODELS[FACTOR], LAST_FITTED, [JUDGED], totals=Totals("map", exchange=EXCHANGE), flips=True)
    merits = _merits(area, maps["land_use"].values[0])
    took = {"seconds": time.perf_counter() - started, "processor_seconds": time.process_time() - cpu}
    return {**merits, **took, "megabytes": megabytes("VmHWM"), "megabytes_of_the_maps": before}


def peer_lines(python: Path) -> Iterator[Result]:
    """Yield one line a peer: its own map where it can keep totals, and its probabilities allocated as ours are."""
    tell("ours")
    ours = side(run_ours)()
    area = Brazil(FACTOR)
    step = Step(area.codes(LAST_FITTED), area.codes(JUDGED), FACTOR)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        np.savez(folder / "given.npz", **given_to_peers())
        for peer in PEERS:
            tell(peer)
            said = run_peer(python, peer, folder)
            if "stopped" in said:
                yield skipped(f"change_{peer}", said["stopped"]) | {"ours": rounded(ours)}
                continue
            with np.load(folder / f"{peer}.npz") as found:
                merits = {"allocated": _merits(area, step.allocate(found["probability"] + 1e-6))}
                if "map" in found.files:
                    made = found["map"]
                    merits["map"] = _merits(area, made) | {"totals_missed": _missed(step, made)}
            best = max(each["all"] for each in merits.values())
            figures: dict[str, Any] = {kind: rounded(each) for kind, each in merits.items()}
            versus = "figure of merit of ours / of the peer, 2008 to 2012, cells of 25 x 25"
            more = {"peer": figures, "peer_took": rounded(said), "ours": rounded(ours)}
            yield line(f"change_{peer}", ours["all"] / best, versus, ">= 1", runs=1, sizes="354607 cells", **more)


def _merits(area: Brazil, made: np.ndarray) -> Result:
    parts = {"all": area.land, "held_out_blocks": area.held_out}
    return {name: area.judge(made, LAST_FITTED, JUDGED, where).figure_of_merit for name, where in parts.items()}


def _missed(step: Step, made: np.ndarray) -> float:
    """Share of the land that is of another class than the totals of its cell ask for."""
    pixels = (step.start != OCEAN).sum()
    return float(np.abs(step.shares(made) - step.shares(step.end)).sum() * FACTOR**2 / 2 / pixels)


def main() -> None:
    python = {"type": Path, "required": True, "help": "an interpreter that has the peers"}
    options = harness.options(__doc__, python=python)
    if not FILE.exists():
        show(missing("change_peers", FILE))
        return
    if not options.python.exists():
        show(skipped("change_peers", f"there is no interpreter {options.python.name}: give one that has the peers"))
        return
    for each in peer_lines(options.python.absolute()):
        show(each)


if __name__ == "__main__":
    main()
