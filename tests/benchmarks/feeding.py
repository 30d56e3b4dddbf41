"""Sides of the loader benchmarks: samples a second and bytes a sample, each in a fresh process."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from tests.benchmarks.cuda import peak
from tests.benchmarks.harness import Result
from tests.benchmarks.published import PATCH, Size, configuration, dataset
from xland.models.networks.unet import DownscalingNetwork
from xland.training.data.loader import PatchDataset, make_loader
from xland.training.data.patches import chunk_groups
from xland.training.data.sampling import Order, RankSampler
from xland.training.data.stored import CACHE_BYTES
from xland.training.learn.group import Group
from xland.training.learn.steps import Stepper, make_optimizer

BATCH = 8


def read_xland(store: str, samples: int, *, cache: int = CACHE_BYTES, grouped: bool = True) -> Result:
    """Batches of xland's loader in this process, priors masked and ready for the network."""
    data = dataset(store, cache)
    sampler = _grouped(data, BATCH) if grouped else RankSampler(Order(len(data), 0, locality=64), BATCH)
    return _measured(len(batch["target"]) for batch in islice(make_loader(data, sampler), samples // BATCH))


def read_raw(path: str, samples: int, *, aligned: bool = True) -> Result:
    """Plain reads of one stacked array with zarr, collated as torch does it; aligned, each is one chunk."""
    import zarr

    array = zarr.open_array(path, mode="r")
    random = np.random.default_rng(0)

    def read() -> torch.Tensor:
        if aligned:
            row, column = (int(random.integers(length // PATCH)) * PATCH for length in array.shape[2:])
        else:
            row, column = (int(random.integers((length - PATCH) // 25 + 1)) * 25 for length in array.shape[2:])
        year = int(random.integers(array.shape[0]))
        return torch.from_numpy(array[year, :, row : row + PATCH, column : column + PATCH])

    return _measured(len(torch.stack([read() for _ in range(BATCH)])) for _ in range(samples // BATCH))


def read_xbatcher(path: str, samples: int) -> Result:
    """Batches of torch's loader over xbatcher's own MapDataset, an array a variable."""
    import xarray as xr
    import xbatcher
    from torch.utils.data import DataLoader
    from xbatcher.loaders.torch import MapDataset

    def tensor(patch: Any) -> torch.Tensor:
        return torch.tensor(patch.to_array().data)

    ds = xr.open_zarr(path)
    sizes = {"time": 1, "lat": PATCH, "lon": PATCH}
    inputs, target = (
        xbatcher.BatchGenerator(part, input_dims=sizes, preload_batch=False)
        for part in (ds.drop_vars("target"), ds[["target"]])
    )
    loader = DataLoader(MapDataset(inputs, target, tensor, tensor), batch_size=2, shuffle=True)
    return _measured(len(batch[0]) for batch in islice(loader, samples // 2))


def feed_network(
    store: str, size: dict[str, int], steps: int, batch: int, workers: int, width: int, device: str = "cpu"
) -> Result:
    """Train a U-Net on batches of the loader: samples a second, and the share of time that it waits for them.

    On a GPU in bfloat16, channels last and compiled, with the share of its peak.
    """
    gpu = device == "cuda"
    torch.manual_seed(0)
    data = dataset(store, CACHE_BYTES)
    fast = {"precision": "bfloat16", "channels_last": True, "compile": True} if gpu else {}
    settings = configuration(Size(**size), width, batch=batch, workers=workers, **fast)
    network = DownscalingNetwork(data.source.inputs, settings.architecture).to(device)
    common = (torch.ones(8, device=device), Group(device=torch.device(device)))
    stepper = Stepper(network, make_optimizer(network, 1e-3, 0.0), settings, *common)
    plain = replace(settings, schedule=replace(settings.schedule, compile=False))
    loader = iter(make_loader(data, _grouped(data, batch), workers=workers, pinned=gpu))
    with FlopCounterMode(display=False) as counter:  # starts the loader's processes, and torch
        Stepper(network, stepper.optimizer, plain, *common).take(next(loader), whole=batch, step=0)
    for samples in islice(loader, 10 if gpu else 0):
        stepper.take(samples, whole=batch, step=1)
    wait = torch.cuda.synchronize if gpu else int
    wait()
    started, waited = time.perf_counter(), 0.0
    for step in range(steps):
        asked = time.perf_counter()
        samples = next(loader)
        waited += time.perf_counter() - asked
        stepper.take(samples, whole=batch, step=step)
    wait()
    seconds = time.perf_counter() - started
    found: Result = {"waiting": waited / seconds, "samples_per_second": steps * batch / seconds, "steps": steps}
    if gpu:
        found["device"] = torch.cuda.get_device_name()
        found["share_of_peak"] = counter.get_total_flops() * steps / seconds / (peak(found["device"]) or float("nan"))
    return found


def _grouped(data: PatchDataset, batch: int) -> RankSampler:
    """Patches in the order of a training: those of 64 chunks together."""
    groups = np.tile(chunk_groups(data.patches, data.source.chunk), len(data.sequences))
    return RankSampler(Order(len(data), 0, groups=groups, locality=64), batch)


def _measured(counts: Iterator[int]) -> Result:
    """Samples a second after the first of batches whose sizes are given, and bytes a sample of all of them."""
    torch.set_num_threads(1)  # as torch does in loader processes
    before = _bytes_read()
    first, started = next(counts), time.perf_counter()
    samples = sum(counts)
    seconds = time.perf_counter() - started
    return {
        "samples_per_second": samples / seconds,
        "kilobytes": (_bytes_read() - before) / (first + samples) / 1000,
        "samples": samples,
    }


def _bytes_read() -> int:
    """Bytes that this process has read through the system, from disk or its cache."""
    rows = Path("/proc/self/io").read_text(encoding="ascii").splitlines()
    return int(rows[0].partition(":")[2])
