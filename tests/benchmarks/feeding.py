"""Sides of the loader benchmarks: samples a second and bytes a sample, each in a fresh process."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.benchmarks.harness import Result
from tests.benchmarks.published import PATCH, Size, configuration, dataset
from xland.training.data.loader import make_loader
from xland.training.data.patches import chunk_groups
from xland.training.data.sampling import Order, RankSampler
from xland.training.data.stored import CACHE_BYTES
from xland.training.learn.group import Group
from xland.training.learn.steps import Stepper, make_optimizer
from xland.training.learn.watching import Watch

BATCH = 8


def read_xland(store: str, samples: int, *, cache: int = CACHE_BYTES, grouped: bool = True) -> Result:
    """Batches of xland's loader in this process, priors masked and ready for the network."""
    data = dataset(store, cache)
    groups = np.tile(chunk_groups(data.patches, data.source.chunk), len(data.sequences)) if grouped else None
    sampler = RankSampler(Order(len(data), 0, groups=groups, locality=64), BATCH)
    return _measured(batch["target"].shape[0] for batch in _first(make_loader(data, sampler), samples))


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


def feed_network(store: str, size: dict[str, int], steps: int, batch: int, workers: int) -> Result:
    """Train the U-Net of width 16 on batches of the loader, and measure how long it waits for them."""
    import tempfile

    from xland.models.networks.unet import DownscalingNetwork

    torch.manual_seed(0)
    data = dataset(store, CACHE_BYTES)
    settings = configuration(Size(**size), batch=batch, workers=workers)
    network = DownscalingNetwork(data.source.inputs, settings.architecture)
    optimizer = make_optimizer(network, 1e-3, 0.0)
    stepper = Stepper(network, optimizer, settings, torch.ones(8), Group())
    groups = np.tile(chunk_groups(data.patches, data.source.chunk), len(data.sequences))
    sampler = RankSampler(Order(len(data), 0, groups=groups, locality=64), batch)
    loader = iter(make_loader(data, sampler, workers=workers))
    stepper.take(next(loader), whole=batch, step=0)  # starts the loader's process, and torch
    with tempfile.TemporaryDirectory() as folder, Watch(Path(folder), main=False) as watch:
        for number, samples in enumerate(islice(watch.waiting(loader), steps), 1):
            stepper.take(samples, whole=batch, step=number)
            watch.step(batch)
        figures = watch.report([])
    return {"waiting": figures["waiting"], "samples_per_second": figures["samples_per_second"], "steps": steps}


def _first(batches: Any, samples: int) -> Iterator[Any]:
    return islice(iter(batches), samples // BATCH)


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


Side = Callable[[], Result]
