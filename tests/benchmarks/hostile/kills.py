"""Runs that are killed and resumed: what comes out, whether they are resumed, and what is computed twice.

Each run is a process forked from one that has all modules loaded. It kills itself at a moment that is drawn: not a
time, but the n-th of all that it does to its files, before or after it. So each kind of moment comes up however fast
a machine is. What is computed is watched from what the network is given:

the static fields of this world hold each pixel's row and column, and the age of its forests the year.
So a log of the windows that the network got says which block-years were computed, whatever the code
around it. A window of 40 cells that begins where a block of 40 cells does belongs to this block alone.
"""

from __future__ import annotations

import hashlib
import inspect
import itertools
import multiprocessing
import os
import random
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import tests.store.elsewhere  # noqa: F401
from tests.benchmarks.harness import Result, tell
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
    count = 1 if quick else 10
    faults: dict[str, list[str]] = {"kills_differ": [], "resumes_refused": []}
    kills: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as folder:
        in_new_process(prepare, folder)
        for number, kind in enumerate(KINDS):
            found = trials(Path(folder), kind, count, seed + number, finished_only=False)
            kills[kind] = found["kills"]
            faults["kills_differ"] += [f"{kind}, {each}" for each in found["differ"]]
            faults["resumes_refused"] += [f"{kind}, {each}" for each in found["refused"]]
    for name, found_of in faults.items():
        sizes = {"kills": sum(kills.values()), "kinds": kills}
        yield {"name": name, "value": len(found_of), "target": 0, "sizes": sizes, "examples": found_of[:10]}


def attempt(folder: str, kind: str, store: str, log: str, moment: int | None) -> Result:
    """Write the store, or go on with it, and kill this process at a moment; return what is in it and all moments."""
    from xland.downscaling.call import downscale
    from xland.store.reading import open_store, verify
    from xland.store.writing import write

    how = KINDS[kind]
    forcing, static, prior = (open_store(f"{folder}/{name}.zarr") for name in ("forcing", "static", "prior"))
    if how.loaded:
        forcing, static = forcing.load(), static.load()
        os.chdir(tempfile.mkdtemp(dir=folder))
    _watch(Path(log))
    moments = _kill_at(moment)
    started = time.perf_counter()
    with _workers() if how.cluster else nullcontext():
        fine = downscale(
            forcing,
            model=f"{folder}/{how.model}",
            static=static,
            prior=prior["land_use"] if how.model == "rollout" else None,
            chunks=BLOCK,
            **how.options,
        )
        write(fine, store, resume=True, progress=False, **how.layout)
    seconds = time.perf_counter() - started
    verify(store)
    return {"seconds": seconds, "digest": digest(open_store(store)), "moments": next(moments)}


def _workers() -> AbstractContextManager[Any]:
    from tests.waiting import local_cluster

    return local_cluster(n_workers=1, threads_per_worker=2, processes=False)


def _kill_at(moment: int | None) -> Iterator[int]:
    """Kill this process before or after the n-th thing that it does to a file; return the count of these."""
    from zarr.storage import FsspecStore, LocalStore

    from xland.store import blocks, storage

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
        (storage.LocalFiles, ("put", "fill", "remove")),
        (storage.RemoteFiles, ("put", "fill", "remove", "create")),
        (blocks, ("note",)),
        (Path, ("rename", "replace")),
    ]
    for owner, names in places:
        for name in names:
            setattr(owner, name, around(getattr(owner, name)))
    return moments


def in_new_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function in a process that is forked from one with all modules loaded; None if it was killed.

    Raises
    ------
    RuntimeError
        With the error of the function.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        [__name__, "torch", "xland.downscaling.call", "xland.store.writing", "distributed", "tests.worlds"]
    )
    mine, its = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(its, function, arguments))
    process.start()
    its.close()
    try:
        answer, error = mine.recv()
    except EOFError:
        answer, error = None, None
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


def trials(folder: Path, kind: str, count: int, seed: int, *, finished_only: bool = True) -> Result:
    """Kill ``count`` runs, some of them once or twice more as they go on, and finish each."""
    draw = random.Random(seed)  # noqa: S311 - moments to kill at, not secrets
    whole = _run(folder, kind, f"{kind}-whole", None)
    if whole is None:
        raise RuntimeError("the undisturbed run was killed, and not by this benchmark")
    with_land = len(computed(folder / f"{kind}-whole.log"))
    total = len(YEARS) * BLOCKS[0] * BLOCKS[1]
    kills: list[list[int]] = []
    differ, refused = [], []
    again = begun = 0
    while len(kills) < count:
        begun += 1
        moments = [draw.randrange(whole["moments"]) for _ in range(draw.choice((1, 1, 2, 3)))]
        try:
            trial = _trial(folder, kind, f"{kind}-{begun}", moments)
        except RuntimeError as error:
            refused.append(f"killed at {moments} of {whole['moments']}: {error}")
            kills.append([0] * len(moments))
            continue
        again += trial["again"]
        if trial["digest"] != whole["digest"]:
            differ.append(f"killed at {moments} of {whole['moments']}")
        if trial["finished"] and (any(trial["finished"]) or not finished_only):
            kills.append(trial["finished"])
            tell(f"  {kind} {len(kills)}/{count}: killed with {trial['finished']} of {total} block-years finished")
    return {
        "different": len(differ) + len(refused),
        "differ": differ,
        "refused": refused,
        "computed_again": again,
        "kills": sum(map(len, kills)),
        "finished_at_kills": kills,
        "block_years": total,
        "block_years_with_land": with_land,
        "seconds_undisturbed": round(whole["seconds"], 2),
    }


def _trial(folder: Path, kind: str, name: str, moments: list[int]) -> Result:
    finished: set[BlockYear] = set()
    counts, again = [], 0
    for moment in (*moments, None):
        log = folder / f"{name}.log"
        log.unlink(missing_ok=True)
        end = _run(folder, kind, name, moment)
        again += len(computed(log) & finished)
        if end is not None:
            # a run that was through before its moment came was not killed, and does not count
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


def _watch(log: Path) -> None:
    """Note year, row and column of each window that the network gets, before it is computed."""
    import numpy as np

    from xland.models.networks.unet import DownscalingNetwork

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
