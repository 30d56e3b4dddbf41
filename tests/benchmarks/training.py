"""What keeps a training busy: one JSON object a line, one line a promise.

Run as ``python -m tests.benchmarks.training [--quick] [--only NAME ...]``. Each run is a fresh process (but for
``rollout``); sides that are compared take turns; figures are of the medians. Content, where no other is named:
a synthetic world of 40 years at 0.01 degree with the 35 published channels. ``rollout`` reads the maps of Plum
Island in ``../shared/data`` or ``XLAND_TEST_DATA``. Linux only.
"""

from __future__ import annotations

import statistics
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from itertools import chain
from pathlib import Path

import torch

import xland
from tests.benchmarks import feeding, harness, rollout
from tests.benchmarks.harness import (
    Bench,
    Result,
    fresh,
    line,
    median,
    ratio,
    show,
    side,
    skipped,
    take_turns,
    tell,
)
from tests.benchmarks.published import FULL, PATCH, QUICK, Size, configuration, write_expanded, write_store
from tests.benchmarks.ranks import largest_difference, train_ranks

GPU_BATCH = 64
PUBLISHED = 51
"""Samples a second of one H100 of the published system (arXiv 2606.11793)."""


@dataclass(frozen=True)
class TrainingBench(Bench):
    """The training stores, made when they are asked for."""

    @property
    def size(self) -> Size:
        """How large the world is."""
        return QUICK if self.quick else FULL

    @property
    def sizes(self) -> dict[str, int]:
        """The world and the patch, for the lines."""
        return {**asdict(self.size), "patch": PATCH}

    @cached_property
    def store(self) -> str:
        """The training store."""
        tell("preparing the training store")
        return write_store(self.folder, self.size)

    @cached_property
    def expanded(self) -> dict[str, str]:
        """The same content expanded."""
        tell("writing the same content expanded")
        return write_expanded(self.folder, self.store)


def loader_vs_xbatcher(bench: TrainingBench) -> Iterator[Result]:
    """Samples a second of the loader / those of xbatcher's MapDataset."""
    ours, theirs = (96, 6) if bench.quick else (400, 16)
    results = take_turns(
        {
            "xland": side(feeding.read_xland, store=bench.store, samples=ours),
            "xbatcher": side(feeding.read_xbatcher, path=bench.expanded["variables"], samples=theirs),
        },
        bench.runs,
    )
    yield _speeds("loader_vs_xbatcher", results, "xbatcher", "an array a variable, expanded; MapDataset", 20, bench)


def loader_vs_raw(bench: TrainingBench) -> Iterator[Result]:
    """Samples a second and bytes a sample of the loader, and of plain reads of one stacked array."""
    ours, theirs = (96, 32) if bench.quick else (400, 96)
    xland = partial(side, feeding.read_xland, store=bench.store)
    raw = partial(side, feeding.read_raw, path=bench.expanded["stacked"], samples=theirs)
    results = take_turns(
        {
            "xland": xland(samples=ours),
            "without_reuse": xland(samples=ours // 2, cache=0, grouped=False),
            "raw": raw(),
            "raw_anywhere": raw(aligned=False),
        },
        bench.runs,
    )
    what = "zarr reads of one stacked array, each exactly one chunk"
    yield _speeds("loader_vs_raw", results, "raw", what, 3, bench)
    figure = ratio(results, "xland", "raw", "kilobytes")
    yield bench.line("loader_vs_raw_bytes", figure, what, "<= 0.2", results, "kilobytes", sizes=bench.sizes)


def _speeds(
    name: str, results: dict[str, list[Result]], other: str, what: str, least: int, bench: TrainingBench
) -> Result:
    figure = ratio(results, "xland", other, "samples_per_second")
    return bench.line(name, figure, what, f">= {least}", results, "samples_per_second", sizes=bench.sizes)


def feed(bench: TrainingBench) -> Iterator[Result]:
    """Share of time that the training of the U-Net of width 16 waits for data, with one loader process."""
    steps = 3 if bench.quick else 12
    common = {"store": bench.store, "size": asdict(bench.size), "batch": 4}
    run = side(feeding.feed_network, steps=steps, workers=1, width=16, **common)
    results = take_turns({"xland": run}, bench.runs)
    sizes = {**bench.sizes, "batch": 4, "steps": steps, "width": 16}
    waiting, versus = median(results["xland"], "waiting"), "wall time of the training steps"
    yield bench.line("feed", waiting, versus, "<= 0.05", results, "waiting", "samples_per_second", sizes=sizes)


def ddp_equal(bench: TrainingBench) -> Iterator[Result]:
    """Largest difference of the parameters of two ranks and of one process after 20 steps.

    The figure is that of stochastic gradient descent. The steps of AdamW have about the same size whatever that
    of the gradient, so where a gradient is all but 0, rounding decides in which direction its first steps go: then
    one process that adds up the samples of each batch in another order differs from itself as much as from two ranks.
    """
    common = {"store": bench.store, "size": asdict(bench.size), "batch": 4, "steps": 20, "patch": 128, "width": 8}
    train = partial(train_ranks, bench.folder, **common)
    alone, both = (train(ranks, adam=False) for ranks in (1, 2))
    adam, double = (train(1, double=each) for each in (False, True))
    others = {
        "adamw": (adam, train(2)),
        "adamw_one_process_backwards": (adam, train(1, backwards=True)),
        "adamw_in_double_precision": (double, train(2, double=True)),
    }
    taken = Counter(chain.from_iterable(chain.from_iterable(both["items"])))
    expected = Counter(chain.from_iterable(alone["items"][0]))
    yield line(
        "ddp_equal",
        largest_difference(alone["folder"], both["folder"]),
        "one process with the same batches",
        "<= 1e-5",
        runs=1,
        sizes={**bench.sizes, "patch": 128, "batch": 4, "steps": 20, "width": 8},
        samples_twice=sum(count - 1 for count in taken.values()),
        samples_missing=len(expected - taken),
        running_statistics=largest_difference(alone["folder"], both["folder"], buffers=True),
        **{name: largest_difference(own["folder"], other["folder"]) for name, (own, other) in others.items()},
    )


def weak_scaling(bench: TrainingBench) -> Iterator[Result]:
    """Samples a second of two ranks / twice those of one, one thread each: the median of the ratios of each turn.

    Once as in plain data-parallel training, where ranks wait for each other once a step, and once with common batch
    statistics, for which they do in every layer, forward and backward.
    """
    steps = 6 if bench.quick else 12
    common = {
        "store": bench.store, "size": asdict(bench.size), "batch": 2, "steps": steps, "patch": PATCH, "width": 16,
        "weak": True,
    }  # fmt: skip
    train = partial(train_ranks, bench.folder, **common)
    results = take_turns(
        {
            "one": partial(train, 1),
            "two": partial(train, 2, common=False),
            "two_common": partial(train, 2),
            "two_apart": partial(train, 1, at_once=2),
        },
        bench.runs,
    )
    speeds = {name: [run["samples_per_second"] for run in runs] for name, runs in results.items()}
    sizes = {**bench.sizes, "batch of a rank": 2, "steps": steps, "width": 16}
    versus = "twice one rank alone on the machine"
    for name, ranks in (("weak_scaling", "two"), ("weak_scaling_common_statistics", "two_common")):
        figure = _efficiency(speeds[ranks], speeds["one"])
        apart = round(_efficiency(speeds[ranks], speeds["two_apart"]), 3)
        more = {"sizes": sizes, "versus_two_trainings_at_once": apart}
        yield bench.line(name, figure, versus, ">= 0.9", results, "samples_per_second", **more)


def _efficiency(two: list[float], one: list[float]) -> float:
    return statistics.median(both / (2 * alone) for both, alone in zip(two, one, strict=True))


def rollouts(bench: TrainingBench) -> Iterator[Result]:
    """Accuracy lost over free rollouts, with and without scheduled sampling."""
    for world in rollout.WORLDS:
        yield from rollout.lines(world, quick=bench.quick)


def on_gpu(bench: TrainingBench) -> Iterator[Result]:
    """The published configuration on one GPU: speed, share of the peak and of waiting; and one rank a GPU by NCCL."""
    if not torch.cuda.is_available():
        yield skipped("gpu", "there is no GPU here")
        return
    size = asdict(bench.size)
    common = {"store": bench.store, "size": size, "batch": GPU_BATCH, "steps": 20 if bench.quick else 200}
    run = side(feeding.feed_network, workers=8, width=32, device="cuda", **common)
    results = take_turns({"gpu": run}, bench.runs)
    speed, versus = median(results["gpu"], "samples_per_second"), f"samples a second; published: {PUBLISHED}"
    sizes = {**bench.sizes, "batch": GPU_BATCH, "width": 32, "channels": 35}
    more = {"sizes": sizes, "device": results["gpu"][0]["device"]}
    yield bench.line("gpu", speed, versus, ">= 1000", results, "waiting", "share_of_peak", **more)
    ranks = fresh(train_on_workers, store=bench.store, size=size, folder=str(bench.folder / "model"))["ranks"]
    gpus = torch.cuda.device_count()
    yield line("gpu_dask_cuda", ranks, "GPUs of this machine", f"== {gpus}", runs=1, sizes=bench.sizes)


def train_on_workers(store: str, size: dict[str, int], folder: str) -> Result:
    """Train one epoch on LocalCUDACluster, one rank a GPU, through NCCL."""
    settings = configuration(Size(**size), batch=8 * torch.cuda.device_count(), candidates=64)
    model = xland.train(settings, folder, store=store, cluster="cuda", device="cuda", progress=False)
    return {"ranks": model.card["training"]["ranks"]}


LINES: dict[str, Callable[[TrainingBench], Iterator[Result]]] = {
    "loader_vs_xbatcher": loader_vs_xbatcher,
    "loader_vs_raw": loader_vs_raw,
    "feed": feed,
    "ddp_equal": ddp_equal,
    "weak_scaling": weak_scaling,
    "rollout": rollouts,
    "gpu": on_gpu,
}


def main() -> None:
    options = harness.options(__doc__, LINES)
    with tempfile.TemporaryDirectory() as folder:
        bench = TrainingBench(Path(folder), options.quick)
        for name in options.only:
            for result in LINES[name](bench):
                show(result)


if __name__ == "__main__":
    main()
