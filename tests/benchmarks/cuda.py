"""The whole world on one GPU: a synthetic globe, a network of the shipped size, a rollout.

Land is where boxes stand for the continents (33 % of all cells, as on the real 0.05 degree grid);
all other static fields and the first prior are constant and take no room on disk, so that what is
measured is computing, blending, checking and writing, and reading only as far as its cost does not
depend on the disk.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.benchmarks.harness import Bench, Result, fresh, line, skipped, tell

WORLD = {"resolution": 0.01, "factor": 25, "window": 400, "stride": 300}

CONTINENTS = (
    (10, 72, -10, 140),
    (-35, 10, 10, 40),
    (25, 72, -130, -65),
    (-40, 8, -75, -40),
    (-38, -12, 115, 150),
    (-90, -75, -180, 180),
)
"""South, north, west and east of the land."""

PEAK = {"H100 PCIe": 756e12, "H100": 989e12, "H200": 989e12, "A100": 312e12}
"""FLOP a second of dense bfloat16 matrix products, from the makers' data sheets."""


def lines(bench: Bench) -> Iterator[Result]:
    """Speed of the whole way beside the bare network, share of the peak, global years, a cluster."""
    if not fresh(available)["gpu"]:
        yield skipped("cuda", "no CUDA device")
        return
    folder, years, runs = str(bench.folder), 2 if bench.quick else 6, 1 if bench.quick else 5
    tell("writing a synthetic globe")
    windows = fresh(prepare, folder=folder, years=list(range(1850, 1850 + years)), **WORLD)["land_windows"]
    store = str(bench.folder / "globe.zarr")
    found = fresh(measure, folder=folder, store=store, years=years, runs=runs, seconds=float(runs))
    whole, bare = windows * years / found["seconds"], found["bare_windows_per_second"]
    pixels = WORLD["stride"] ** 2
    common = {"runs": runs, "sizes": f"{WORLD}, {windows} windows a year with land, {years} years", "measured": found}
    yield line(
        "cuda_overhead",
        whole / bare,
        "pixels a second of the whole run, each window of the lattice counted once, / of the bare network",
        ">= 0.85",
        pixels_per_second={"whole": whole * pixels, "bare": bare * pixels},
        **common,
    )
    minutes = found["seconds"] / years * 251 / 60
    yield line(
        "cuda_251_years", minutes, "minutes for 251 years of the globe, from those that were run", "<= 15", **common
    )
    if found["peak_flop_per_second"] is not None:
        share = found["flop_per_window"] * whole / found["peak_flop_per_second"]
        yield line("cuda_flop", share, "share of the dense bfloat16 peak, whole run", ">= 0", **common)
    try:
        clustered = fresh(run_whole, folder=folder, store=str(bench.folder / "cluster.zarr"), cluster="cuda")
    except RuntimeError as error:
        yield skipped("cuda_cluster", f"{error}: see standard error")
        return
    differs = clustered["digest"] != fresh(digest_of, store=store)["digest"]
    versus = "whether the maps of one dask-cuda worker a GPU differ from those of threads"
    yield line("cuda_cluster", int(differs), versus, "== 0", runs=1, sizes=WORLD, seconds=clustered["seconds"])


def available() -> Result:
    """Whether there is a GPU."""
    import torch

    return {"gpu": torch.cuda.is_available()}


def prepare(folder: str, resolution: float, factor: int, window: int, stride: int, years: list[int]) -> Result:
    """Write the model and its inputs."""
    import dask.array as da
    import torch
    import xarray as xr

    from tests.benchmarks.graph import write_empty
    from xland.geo.grid import Grid
    from xland.models import find_model
    from xland.models.checkpoint import save_checkpoint
    from xland.models.networks.unet import DownscalingNetwork

    shipped = find_model("luh2-0p05")
    inputs = replace(
        shipped.inputs, factor=factor, resolution=resolution, window=window, stride=stride, prior="one_hot"
    )
    torch.manual_seed(0)
    network = DownscalingNetwork(inputs, shipped.architecture)
    save_checkpoint(Path(folder, "model"), network.eval(), {"name": "synthetic", "licence": "Apache-2.0"})
    fine = Grid.world(resolution)
    coarse = fine.coarsen(factor)
    share = 1 / len(inputs.coarse_variables)
    states = {
        name: (("time", "lat", "lon"), da.full((len(years), *coarse.shape), share, dtype="f4", chunks=(1, -1, -1)))
        for name in inputs.coarse_variables
    }
    axes = {"time": years, "lat": coarse.latitude, "lon": coarse.longitude}
    xr.Dataset(states, axes).to_zarr(Path(folder, "forcing.zarr"), consolidated=False)
    write_empty(Path(folder, "static.zarr"), fine, dict.fromkeys(inputs.static_variables, "float32"))
    write_empty(Path(folder, "prior.zarr"), fine, {"land_use": "uint8"})
    return {"land_windows": _write_land(Path(folder, "static.zarr"), fine, inputs)}


def _write_land(static: Path, fine: Any, inputs: Any) -> int:
    """Write the share of land, strip by strip, and count the windows that touch some."""
    import numpy as np
    import zarr

    target: Any = zarr.open_array(static, path=inputs.domain, mode="r+")
    rows, columns = np.zeros((len(CONTINENTS), fine.rows), bool), np.zeros((len(CONTINENTS), fine.columns), bool)
    for number, (south, north, west, east) in enumerate(CONTINENTS):
        rows[number] = (fine.latitude > south) & (fine.latitude < north)
        columns[number] = (fine.longitude > west) & (fine.longitude < east)
    for first in range(0, fine.rows, 1200):
        strip = slice(first, min(first + 1200, fine.rows))
        target[strip] = (rows[:, strip].T.astype(np.float32) @ columns.astype(np.float32)).clip(0, 1)
    windows = 0
    size, stride = inputs.window, inputs.stride
    for top in range(((0 - size) // stride + 1) * stride, fine.rows, stride):
        touched = rows[:, max(top, 0) : top + size].any(axis=1)
        for left in range(0, fine.columns, stride):
            inside = np.take(columns[touched], np.arange(left, left + size), axis=1, mode="wrap")
            windows += bool(inside.any())
    return windows


def measure(folder: str, store: str, years: int, runs: int, seconds: float) -> Result:
    """Run the bare network and the whole way in turns, once compiled, and count FLOP."""
    import torch

    from xland.downscaling.engine import engine_of
    from xland.models import find_model

    checkpoint = find_model(f"{folder}/model")
    engine = engine_of(checkpoint, "cuda")
    tensors = _batch(engine)
    started = time.perf_counter()
    _bare(engine, tensors, 1.0)
    compiled = time.perf_counter() - started
    bare, whole = [], []
    for number in range(runs):
        bare.append(_bare(engine, tensors, seconds))
        whole.append(run_whole(folder, store)["seconds"])
        tell(f"  run {number + 1}/{runs}: bare {bare[-1]:.4g} windows/s, {years} years {whole[-1]:.4g} s")
    return {
        "bare_windows_per_second": statistics.median(bare),
        "seconds": statistics.median(whole),
        "seconds_to_compile": compiled,
        "batch": engine.batch,
        "flop_per_window": _flop(engine, tensors),
        "peak_flop_per_second": peak(torch.cuda.get_device_name()),
    }


def run_whole(folder: str, store: str, cluster: str | None = None) -> Result:
    """Zarr in, Zarr out, on this process's threads or on a cluster."""
    import shutil
    from contextlib import nullcontext

    from tests.benchmarks.hostile.kills import digest
    from xland.clusters import open_cluster
    from xland.downscaling.call import downscale
    from xland.store.reading import open_store
    from xland.store.writing import write

    shutil.rmtree(store, ignore_errors=True)
    with nullcontext() if cluster is None else open_cluster(cluster, progress=False):
        started = time.perf_counter()
        forcing, static, prior = (open_store(f"{folder}/{name}.zarr") for name in ("forcing", "static", "prior"))
        fine = downscale(forcing, model=f"{folder}/model", static=static, prior=prior["land_use"], device="cuda")
        write(fine, store, progress=False)
        seconds = time.perf_counter() - started
    return {"seconds": seconds} | ({} if cluster is None else {"digest": digest(open_store(store))})


def digest_of(store: str) -> Result:
    """Digest of a store."""
    from tests.benchmarks.hostile.kills import digest
    from xland.store.reading import open_store

    return {"digest": digest(open_store(store))}


def _batch(engine: Any) -> tuple[Any, ...]:
    """One full batch of windows on the device."""
    import torch

    inputs = engine.network.inputs
    size, small = inputs.window, inputs.window // inputs.factor
    made = torch.Generator().manual_seed(0)
    coarse = torch.randn(engine.batch, inputs.coarse_channels, small, small, generator=made)
    static = torch.randn(engine.batch, len(inputs.static), size, size, generator=made).half()
    prior = torch.randint(0, len(inputs.classes), (engine.batch, size, size), generator=made, dtype=torch.uint8)
    return tuple(tensor.to(engine.device) for tensor in (coarse, static, prior))


def _bare(engine: Any, tensors: tuple[Any, ...], seconds: float) -> float:
    """Windows a second, over at least some seconds."""
    import torch

    def run(batches: int) -> int:
        with torch.inference_mode(), torch.autocast("cuda", torch.bfloat16):
            for _ in range(batches):
                (engine.call or engine.network)(*tensors).float().softmax(dim=1)
        torch.cuda.synchronize()
        return batches * int(engine.batch)

    run(1)
    started, done = time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        done += run(4)
    return done / (time.perf_counter() - started)


def _flop(engine: Any, tensors: tuple[Any, ...]) -> float:
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        engine.network(*(tensor[:1].float() if tensor.is_floating_point() else tensor[:1] for tensor in tensors))
    return float(counter.get_total_flops())


def peak(name: str) -> float | None:
    """FLOP a second at most of a GPU by its name; None if it is not known."""
    return next((value for key, value in PEAK.items() if key in name), None)
