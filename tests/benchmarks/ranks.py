"""Ranks of one training on this machine: the same parameters as one process, and what each rank costs the other.

Started by torchrun, or alone: ``python -m tests.benchmarks.ranks OUTPUT ARGUMENTS``.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from tests.benchmarks.harness import PROJECT, THREADS, Result
from tests.benchmarks.published import Size, configuration, dataset
from xland.models.networks.unet import DownscalingNetwork
from xland.training.data.loader import make_loader
from xland.training.data.sampling import Order, RankSampler
from xland.training.data.stored import CACHE_BYTES
from xland.training.learn.group import join_group
from xland.training.learn.steps import Stepper, make_optimizer

WARM = 2
"""Steps before the clock starts."""


def train_ranks(folder: Path, ranks: int, at_once: int = 1, **arguments: Any) -> Result:
    """Train with a number of ranks, one thread each; several such trainings may run at once, below a folder."""
    environment = {key: value for key, value in os.environ.items() if key not in THREADS}
    environment |= dict.fromkeys(THREADS, "1")
    folders = [tempfile.mkdtemp(dir=folder) for _ in range(at_once)]
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    processes = [
        subprocess.Popen(
            [*(start if ranks > 1 else start[:1]), "-m", "tests.benchmarks.ranks", folder, json.dumps(arguments)],
            cwd=PROJECT,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for folder in folders
    ]
    for process in processes:
        _, errors = process.communicate()
        if process.returncode:
            raise RuntimeError(f"{ranks} ranks ended with status {process.returncode}: {errors[-2000:]}")
    told = [json.loads((Path(folder) / "told-0.json").read_text()) for folder in folders]
    items = [json.loads(path.read_text())["items"] for path in sorted(Path(folders[-1]).glob("told-*.json"))]
    slowest = min(each["samples_per_second"] for each in told)
    return {"samples_per_second": slowest, "folder": folders[-1], "items": items}


def largest_difference(first: str, second: str, *, buffers: bool = False) -> float:
    """Largest difference of any parameter of two trainings, or of any of their running statistics."""
    own, other = (load_file(Path(folder) / "network.safetensors") for folder in (first, second))
    names = [name for name in own if ("running_" in name) == buffers]
    return max(float((own[name].double() - other[name].double()).abs().max()) for name in names)


def _rank(
    folder: Path,
    *,
    store: str,
    size: dict[str, int],
    batch: int,
    steps: int,
    patch: int,
    width: int,
    weak: bool = False,
    adam: bool = True,
    common: bool = True,
    double: bool = False,
    backwards: bool = False,
) -> None:
    """Take steps as one rank, and tell how fast and on which samples.

    The batch is that of each rank if ``weak``, else of all; with ``backwards``, its samples stand the other way
    round, which changes nothing but the order in which numbers are added up.
    """
    torch.set_num_threads(1)
    with join_group("cpu") as group:
        torch.manual_seed(0)
        data = dataset(store, CACHE_BYTES, patch)
        settings = configuration(
            Size(**size), width, batch=batch * (group.ranks if weak else 1), patch=patch, common_statistics=common
        )
        network = DownscalingNetwork(data.source.inputs, settings.architecture)
        if double:
            network.double()
        optimizer = make_optimizer(network, 1e-3, 0.02) if adam else torch.optim.SGD(network.parameters(), 1e-3)
        stepper = Stepper(network, optimizer, settings, torch.ones(8), group)
        sampler = RankSampler(Order(len(data), 0), settings.schedule.batch, rank=group.rank, ranks=group.ranks)
        items = [[sample.item for sample in share] for share in islice(sampler, steps)]
        ends = []
        for number, samples in enumerate(islice(make_loader(data, sampler), steps)):
            if backwards:
                samples = {name: tensor.flip(0) for name, tensor in samples.items()}
            stepper.take(samples, whole=sampler.batch_size(number), step=number)
            ends.append(time.perf_counter())
        # half of the steps are quicker: what disturbs some of them on a shared machine does not count
        seconds = statistics.median(later - sooner for sooner, later in pairwise(ends[WARM:]))
        told = {"samples_per_second": settings.schedule.batch / seconds, "items": items}
        (folder / f"told-{group.rank}.json").write_text(json.dumps(told))
        if group.main:
            save_file(network.state_dict(), folder / "network.safetensors")


if __name__ == "__main__":
    _rank(Path(sys.argv[1]), **json.loads(sys.argv[2]))
