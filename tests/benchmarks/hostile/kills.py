"""Runs that are killed and resumed: what comes out, whether they are resumed, and what is computed twice.

Each run is a process forked from one that has all modules loaded. It kills itself at a moment that is drawn: not a
time, but the n-th of all that it does to its files, before or after it. So each kind of moment comes up however fast
a machine is. The static fields of this world hold each pixel's row and column, and the age of its forests the year. So
a log of the windows that the network got says which block-years were computed, whatever the code around it. A window
of 40 cells that begins where a block of 40 cells does belongs to this block alone.
"""

from __future__ import annotations

import hashlib
import inspect
import itertools
import os
import random
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import tests.store.elsewhere  # noqa: F401
from tests.benchmarks.harness import Result, tell
from tests.benchmarks.hostile import Tally, in_new_process
from xland.store.workplace import notes
from xland.untrusted.folders import LocalFiles

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
    from xland.models.inputs import Channel

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


@dataclass(frozen=True)
class Kind:
    """How the store of one trial is written."""

    model: str = "independent"
    options: dict[str, Any] = field(default_factory=dict)
    layout: dict[str, Any] = field(default_factory=dict)
    behind: str = ""
    cluster: bool = False
    loaded: bool = False


KINDS = {
    "independent": Kind(),
    "rollout": Kind("rollout"),
    "memory": Kind(loaded=True),
    "cluster": Kind(cluster=True),
    "cluster rollout": Kind("rollout", cluster=True),
    "totals": Kind(options={"totals": "map"}),
    "totals rollout": Kind("rollout", {"totals": "map"}),
    "shards": Kind(options={"outputs": ("land_use", "probability")}, layout={"shards": True, "chunks": {"lat": 20}}),
    "url": Kind(behind="elsewhere://"),
    "url rollout": Kind("rollout", {"outputs": ("land_use", "confidence")}, {"shards": True}, "elsewhere://"),
}


def campaign(quick: bool, seed: int = 0) -> Iterator[dict[str, Any]]:
    """Kill 100 runs of ten kinds, resume them, and compare each store with that of an undisturbed run."""
    tally = Tally()
    differ: list[str] = []
    refused: list[str] = []
    again: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        in_new_process(prepare, folder)
        for number, kind in enumerate(KINDS):
            draw = random.Random(seed + number)  # noqa: S311 - moments to kill at, not secrets
            whole = _run(Path(folder), kind, f"{kind}-whole", None)
            if whole is None:
                raise RuntimeError("the undisturbed run was killed, and not by this benchmark")
            for trial in range(1 if quick else 10):
                moments = [draw.randrange(whole["moments"]) for _ in range(draw.choice((1, 1, 2, 3)))]
                label = f"{kind}, killed at {moments} of {whole['moments']}"
                try:
                    found = _trial(Path(folder), kind, f"{kind}-{trial}", moments)
                except RuntimeError as error:
                    refused.append(f"{label}: {error}")
                else:
                    tell(f"  {label}: {found['finished']} block-years finished")
                    again += [label] * found["again"]
                    differ += [label] * (found["digest"] != whole["digest"])
                tally.kinds[kind] += len(moments)
    yield tally.line("kills_differ", len(differ), 0, differ)
    yield tally.line("resumes_refused", len(refused), 0, refused)
    yield tally.line("kills_computed_again", len(again), 0, again)


def attempt(folder: str, kind: str, store: str, log: str, moment: int | None) -> Result:
    """Write the store, or go on with it, and kill this process at a moment; return what is in it and all moments."""
    from tests.waiting import local_cluster
    from xland.downscaling.call import downscale
    from xland.store.reading import open_store, verify
    from xland.store.writing import write

    how = KINDS[kind]
    forcing, static, prior = (open_store(f"{folder}/{name}.zarr") for name in ("forcing", "static", "prior"))
    if how.loaded:
        forcing, static = forcing.load(), static.load()
        os.chdir(tempfile.mkdtemp(dir=folder))
    watch(Path(log))
    moments = _kill_at(moment)
    with local_cluster(n_workers=1, threads_per_worker=2, processes=False) if how.cluster else nullcontext():
        fine = downscale(
            forcing,
            model=f"{folder}/{how.model}",
            static=static,
            prior=prior["land_use"] if how.model == "rollout" else None,
            chunks=BLOCK,
            **how.options,
        )
        write(fine, store, resume=True, progress=False, **how.layout)
    verify(store)
    return {"digest": digest(open_store(store)), "moments": next(moments)}


def _kill_at(moment: int | None) -> Iterator[int]:
    """Kill this process before or after the n-th thing that it does to a file; return the count of these."""
    from zarr.storage import FsspecStore, LocalStore

    from xland.store import blocks
    from xland.untrusted import folders

    moments = itertools.count()

    def tick() -> None:
        if next(moments) == moment:
            os.kill(os.getpid(), signal.SIGKILL)

    def around(method: Any) -> Any:
        def plain(*arguments: Any, **named: Any) -> Any:
            tick()
            result = method(*arguments, **named)
            tick()
            return result

        async def awaited(*arguments: Any, **named: Any) -> Any:
            tick()
            result = await method(*arguments, **named)
            tick()
            return result

        return awaited if inspect.iscoroutinefunction(method) else plain

    places: list[tuple[Any, tuple[str, ...]]] = [
        *((store, ("set", "delete")) for store in (LocalStore, FsspecStore)),
        (folders.LocalFiles, ("put", "remove")),
        (folders.RemoteFiles, ("put", "remove", "create")),
        (blocks, ("note",)),
        (Path, ("rename", "replace")),
    ]
    for owner, names in places:
        for name in names:
            setattr(owner, name, around(getattr(owner, name)))
    return moments


def _trial(folder: Path, kind: str, name: str, moments: list[int]) -> Result:
    finished: set[BlockYear] = set()
    counts, again = [], 0
    for moment in (*moments, None):
        log = folder / f"{name}.log"
        log.unlink(missing_ok=True)
        end = _run(folder, kind, name, moment)
        again += len(computed(log) & finished)
        if end is not None:
            shutil.rmtree(folder / f"{name}.zarr")
            return {"finished": counts, "again": again, "digest": end["digest"]}
        finished = _finished(folder / f"{name}.zarr", finished)
        counts.append(len(finished))
    raise RuntimeError(f"{name} was killed, and not by this benchmark")


def _run(folder: Path, kind: str, name: str, moment: int | None) -> Result | None:
    """Begin or go on; None if it was killed at the moment."""
    store = f"{KINDS[kind].behind}{folder / name}.zarr"
    result: Result | None = in_new_process(attempt, str(folder), kind, store, str(folder / f"{name}.log"), moment)
    return result


def watch(log: Path) -> None:
    """Note year, row and column of each window that the network gets, before it is computed."""
    import numpy as np

    from tests.worlds import tiny_inputs
    from xland.models.networks.unet import DownscalingNetwork

    original = DownscalingNetwork.forward
    age = [channel.name for channel in tiny_inputs().coarse].index("secma")
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
    """Block-years that the journal of a store calls finished; all that were before if it is complete."""
    files = LocalFiles(str(store.with_name(f"{store.name}.partial")))
    if not files.exists("journal"):
        return before
    keys = [key.rpartition(":")[2].split(".") for key in notes(files) if key.startswith("time,latitude,longitude:")]
    return {(int(year), int(row), int(column)) for year, row, column in keys}


def digest(fine: Any) -> str:
    """SHA-256 of all arrays of a Dataset."""
    digest = hashlib.sha256()
    for name in sorted(map(str, fine.variables)):
        values = fine[name].values
        digest.update(f"{name} {values.dtype} {values.shape}".encode() + values.tobytes())
    return digest.hexdigest()
