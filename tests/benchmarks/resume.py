"""Runs that are killed at random moments and resumed, watched from what the network is given.

The static fields of this world hold each pixel's row and column, and the age of its forests the year.
So a log of the windows that the network got says which block-years were computed, whatever the code
around it. A window of 40 cells that begins where a block of 40 cells does belongs to this block alone.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import time
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.benchmarks.harness import PROJECT, Result, command, tell

YEARS = (2000, 2001, 2002, 2003)
BLOCK = 40
BLOCKS = (5, 9)
AGE = 100.0
ROW, COLUMN = (90.0, 60.0), (180.0, 100.0)  # mean and scale of the channels

BlockYear = tuple[int, int, int]


def prepare(folder: str) -> Result:
    """Write the world, the map before its first year, and a model that reads a prior and one that does not."""
    import numpy as np

    from tests.worlds import FINE, tiny_checkpoint, tiny_inputs, tiny_world
    from xland.inputs import Channel

    coarse, static, maps = tiny_world((YEARS[0] - 1, *YEARS))
    forcing = coarse.isel(time=slice(1, None))
    number = (forcing["time"] - YEARS[0] + 1).astype(np.float32)
    forcing["secma"] = (number * AGE).where(forcing["urban"].notnull()).transpose(*forcing["urban"].dims)
    forcing["secma"].attrs["units"] = "years"
    static["row"] = static["elevation"].copy(data=np.indices(FINE.shape, np.float32)[0])
    static["column"] = static["elevation"].copy(data=np.indices(FINE.shape, np.float32)[1])
    channels = (
        Channel("row", ("row",), mean=ROW[0], scale=ROW[1]),
        Channel("column", ("column",), mean=COLUMN[0], scale=COLUMN[1]),
        Channel("land_share", ("land_share",)),
    )
    for kind, prior in (("independent", "none"), ("rollout", "one_hot")):
        tiny_checkpoint(Path(folder, kind), replace(tiny_inputs(prior=prior), static=channels))
    forcing.chunk(time=1).to_zarr(Path(folder, "forcing.zarr"), consolidated=False)
    static.to_zarr(Path(folder, "static.zarr"), consolidated=False)
    maps.isel(time=[0]).to_dataset(name="land_use").to_zarr(Path(folder, "prior.zarr"), consolidated=False)
    return {}


def attempt(folder: str, kind: str, store: str, log: str) -> Result:
    """Write the store, or go on with it; say when the work begins, and at the end what is in the store."""
    import torch  # noqa: F401 - imported before the work begins

    from xland.inference.downscale import downscale
    from xland.store import open_store, write

    forcing, static, prior = (open_store(f"{folder}/{name}.zarr") for name in ("forcing", "static", "prior"))
    _watch(Path(log))
    Path(f"{log}.begun").touch()
    started = time.perf_counter()
    fine = downscale(
        forcing,
        model=f"{folder}/{kind}",
        static=static,
        prior=prior["land_use"] if kind == "rollout" else None,
        chunks=BLOCK,
    )
    write(fine, store, resume=True, progress=False)
    return {"seconds": time.perf_counter() - started, "digest": digest(open_store(store))}


def trials(folder: Path, kind: str, count: int, seed: int) -> Result:
    """Kill ``count`` runs at random moments, some of them once or twice more as they go on, and finish each."""
    draw = random.Random(seed)  # noqa: S311 - moments to kill at, not secrets
    whole = _run(folder, kind, f"{kind}-whole", None)
    if whole is None:
        raise RuntimeError("the undisturbed run was killed, and not by this benchmark")
    with_land = len(computed(folder / f"{kind}-whole.log"))
    total = len(YEARS) * BLOCKS[0] * BLOCKS[1]
    kills: list[list[int]] = []
    again = different = begun = 0
    while len(kills) < count:
        begun += 1
        trial = _trial(folder, kind, f"{kind}-{begun}", draw, whole)
        again += trial["again"]
        different += trial["digest"] != whole["digest"]
        if trial["finished"]:
            kills.append(trial["finished"])
            tell(f"  {kind} {len(kills)}/{count}: killed with {trial['finished']} of {total} block-years finished")
    return {
        "different": different,
        "computed_again": again,
        "kills": sum(map(len, kills)),
        "finished_at_kills": kills,
        "block_years": total,
        "block_years_with_land": with_land,
        "seconds_undisturbed": round(whole["seconds"], 2),
    }


def _trial(folder: Path, kind: str, name: str, draw: random.Random, whole: Result) -> Result:
    moments = [draw.uniform(0, whole["seconds"]) for _ in range(draw.choice((1, 1, 2, 3)))]
    finished: set[BlockYear] = set()
    counts, again = [], 0
    for moment in (*moments, None):
        log = folder / f"{name}.log"
        log.unlink(missing_ok=True)
        end = _run(folder, kind, name, moment)
        again += len(computed(log) & finished)
        if end is not None:
            # a run that was through before its first moment came was not killed, and does not count
            return {"finished": counts, "again": again, "digest": end["digest"]}
        finished = _finished(folder / f"{name}.zarr", finished)
        counts.append(len(finished))
    raise RuntimeError(f"{name} was killed, and not by this benchmark")


def _run(folder: Path, kind: str, name: str, moment: float | None) -> Result | None:
    """Begin or go on; None if it was killed, ``moment`` seconds after the work began."""
    log = folder / f"{name}.log"
    begun = Path(f"{log}.begun")
    begun.unlink(missing_ok=True)
    arguments = {"folder": str(folder), "kind": kind, "store": str(folder / f"{name}.zarr"), "log": str(log)}
    with subprocess.Popen(command(attempt, arguments), cwd=PROJECT, stdout=subprocess.PIPE, text=True) as process:
        if moment is not None:
            while not begun.exists() and process.poll() is None:
                time.sleep(0.005)
            time.sleep(moment)
            process.kill()
        answer, _ = process.communicate()
    if process.returncode == -signal.SIGKILL:
        return None
    if process.returncode:
        raise RuntimeError(f"{name} ended with status {process.returncode}")
    result: Result = json.loads(answer.splitlines()[-1])
    return result


def _watch(log: Path) -> None:
    """Note year, row and column of each window that the network gets, before it is computed."""
    import numpy as np

    from xland.models.unet import DownscalingNetwork

    original = DownscalingNetwork.forward
    age = [channel.name for channel in tiny_channels()].index("secma")
    journal = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)

    def forward(self: Any, coarse: Any, static: Any, *arguments: Any, **named: Any) -> Any:
        ages = np.expm1(coarse[:, age].amax(dim=(1, 2)).double().numpy() + 3.5)
        corners = static[:, :2, 0, 0].double().numpy() * (ROW[1], COLUMN[1]) + (ROW[0], COLUMN[0])
        lines = [
            f"{round(year / AGE) - 1} {round(row)} {round(column)}\n"
            for year, (row, column) in zip(ages, corners, strict=True)
        ]
        os.write(journal, "".join(lines).encode())
        return original(self, coarse, static, *arguments, **named)

    DownscalingNetwork.forward = forward  # type: ignore[method-assign]


def tiny_channels() -> tuple[Any, ...]:
    """Coarse channels of the tiny world."""
    from tests.worlds import tiny_inputs

    return tiny_inputs().coarse


def computed(log: Path) -> set[BlockYear]:
    """Block-years of which the network got the window that begins where the block does."""
    if not log.exists():
        return set()
    windows = (map(int, row.split()) for row in log.read_text(encoding="ascii").splitlines())
    return {
        (year, row // BLOCK, column // BLOCK)
        for year, row, column in windows
        if row % BLOCK == 0 and column % BLOCK == 0
    }


def _finished(store: Path, before: set[BlockYear]) -> set[BlockYear]:
    """Block-years that the journal of a store calls finished; all that were before if it is complete.

    Read by hand: each line is a checksum, ``GROUP:YEAR.ROW.COLUMN`` and blanks; a line cut off does not count.
    """
    journal = store.with_name(f"{store.name}.partial") / "journal"
    if not journal.is_dir():
        return before
    found = set()
    for file in journal.iterdir():
        for line in file.read_text(encoding="utf-8", errors="replace").split("\n")[:-1]:
            checksum, _, key = line.rstrip().partition(" ")
            if checksum == f"{zlib.crc32(key.encode()):08x}":
                year, row, column = map(int, key.partition(":")[2].split("."))
                found.add((year, row, column))
    return found


def digest(fine: Any) -> str:
    """SHA-256 of all arrays of a Dataset."""
    digest = hashlib.sha256()
    for name in sorted(map(str, fine.variables)):
        values = fine[name].values
        digest.update(f"{name} {values.dtype} {values.shape}".encode() + values.tobytes())
    return digest.hexdigest()
