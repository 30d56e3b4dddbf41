"""The published configuration on one GPU, fed from a training store; and a Dask worker of dask-cuda as a rank."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from tests.benchmarks.cuda import PEAK
from tests.benchmarks.harness import Result, fresh, line, skipped
from tests.benchmarks.published import FULL, PATCH, QUICK, Size, configuration, dataset, write_store

BATCH = 64
PUBLISHED = 51
"""Samples a second of one H100 of the published system (arXiv 2606.11793)."""


def gpu(folder: Path, store: str | None = None, *, quick: bool) -> Iterator[Result]:
    """Samples a second, share of the peak and share of waiting; and a training through LocalCUDACluster and NCCL."""
    if not torch.cuda.is_available():
        yield skipped("gpu", "there is no GPU here")
        return
    size = QUICK if quick else FULL
    store = store or write_store(folder, size)
    common = {"store": store, "size": asdict(size), "steps": 20 if quick else 200}
    runs = [fresh(learn, **common, workers=8) for _ in range(2 if quick else 5)]
    speed = sorted(run["samples_per_second"] for run in runs)[len(runs) // 2]
    yield line(
        "gpu",
        speed,
        f"samples a second; published: {PUBLISHED}",
        ">= 1000",
        runs=len(runs),
        sizes={**asdict(size), "patch": PATCH, "batch": BATCH, "width": 32, "channels": 35},
        waiting=[run["waiting"] for run in runs],
        share_of_peak=[run["share_of_peak"] for run in runs],
        device=runs[0]["device"],
    )
    found = fresh(train_on_workers, store=store, size=asdict(size), folder=str(folder / "model"))
    yield line(
        "gpu_dask_cuda", found["ranks"], "GPUs of this machine", f"== {found['gpus']}", runs=1, sizes=asdict(size)
    )


def learn(store: str, size: dict[str, int], steps: int, workers: int) -> Result:
    """Take steps of a U-Net of width 32 in bfloat16."""
    from torch.utils.flop_counter import FlopCounterMode

    from xland.models.networks.unet import DownscalingNetwork
    from xland.training.data.loader import make_loader
    from xland.training.data.sampling import Order, RankSampler
    from xland.training.data.stored import CACHE_BYTES
    from xland.training.learn.group import Group
    from xland.training.learn.steps import Stepper, make_optimizer

    device = torch.device("cuda", 0)
    data = dataset(store, CACHE_BYTES)
    settings = configuration(
        Size(**size), 32, batch=BATCH, workers=workers, precision="bfloat16", channels_last=True, compile=True
    )
    network = DownscalingNetwork(data.source.inputs, settings.architecture).to(device)
    stepper = Stepper(
        network, make_optimizer(network, 1e-3, 0.02), settings, torch.ones(8, device=device), Group(device=device)
    )
    sampler = RankSampler(Order(len(data), 0), BATCH)
    loader = iter(make_loader(data, sampler, workers=workers, pinned=True))
    plain = Stepper(network, stepper.optimizer, _uncompiled(settings), stepper.class_weights, stepper.group)
    with FlopCounterMode(display=False) as counter:
        plain.take(next(loader), whole=BATCH, step=0)
    for step, samples in enumerate(islice(loader, 10), 1):
        stepper.take(samples, whole=BATCH, step=step)
    torch.cuda.synchronize()
    started, waited = time.perf_counter(), 0.0
    for step in range(steps):
        asked = time.perf_counter()
        samples = next(loader)
        waited += time.perf_counter() - asked
        stepper.take(samples, whole=BATCH, step=step)
    torch.cuda.synchronize()
    seconds = time.perf_counter() - started
    name = torch.cuda.get_device_name(device)
    peak = next((value for key, value in PEAK.items() if key in name), float("nan"))
    return {
        "samples_per_second": steps * BATCH / seconds,
        "waiting": waited / seconds,
        "share_of_peak": counter.get_total_flops() * steps / seconds / peak,
        "device": name,
    }


def train_on_workers(store: str, size: dict[str, int], folder: str) -> Result:
    """Train one epoch on LocalCUDACluster, one rank a GPU, through NCCL."""
    import xland

    settings = configuration(Size(**size), batch=8 * torch.cuda.device_count(), candidates=64)
    model = xland.train(settings, folder, store=store, cluster="cuda", device="cuda", progress=False)
    return {"ranks": model.card["training"]["ranks"], "gpus": torch.cuda.device_count()}


def _uncompiled(settings: Any) -> Any:
    return replace(settings, schedule=replace(settings.schedule, compile=False))
