"""The batches of one epoch, from any of its steps on, and which patches each of them holds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from xland.batches.loader import PatchDataset, make_loader
from xland.batches.masking import MASKED
from xland.batches.patches import count_in_patches
from xland.training.configuration import Schedule
from xland.training.stopping import ignore_termination


class Order(Sampler[list[int]]):
    """The items of every batch of an epoch; those before ``first`` are passed over, and nothing is read for them.

    Parameters
    ----------
    batches : sized iterable of list of int
        Items of all batches of the epoch.
    first : int
        Batches that are done already.
    """

    def __init__(self, batches: Iterable[list[int]], first: int) -> None:
        self.batches = batches
        self.first = first
        self.items: list[list[int]] = []

    def __iter__(self) -> Iterator[list[int]]:
        for items in self.batches:
            self.items.append(items)
            if len(self.items) > self.first:
                yield items


def epoch_batches(dataset: PatchDataset, schedule: Schedule, first: int) -> tuple[DataLoader[dict[str, Tensor]], Order]:
    """Return the batches of the dataset's epoch without the first ones, and the order of all.

    Parameters
    ----------
    dataset : PatchDataset
    schedule : Schedule
    first : int
        Steps of this epoch that are done.
    """
    weights = None
    if schedule.samples:
        counted = dataset.arrays.target != MASKED
        weights = np.concatenate([count_in_patches(year, dataset.patches) for year in counted]).astype(np.float64)
    whole = make_loader(dataset, schedule.batch, weights=weights, samples=schedule.samples or None)
    assert whole.batch_sampler is not None  # noqa: S101 - for mypy: there is a batch size
    order = Order(whole.batch_sampler, first)
    loader = DataLoader(
        dataset,
        batch_sampler=order,
        generator=whole.generator,
        num_workers=schedule.workers,
        worker_init_fn=ignore_termination,
    )
    return loader, order


def describe_items(dataset: PatchDataset, items: list[int], years: list[int]) -> str:
    """Name patches by their rows and columns on the fine grid, counted from the north-west, and their year."""
    named = []
    for item in items:
        year, patch = divmod(item, len(dataset.patches))
        rows, columns = dataset.patches.slices(patch)
        named.append(f"rows {rows.start}-{rows.stop - 1}, columns {columns.start}-{columns.stop - 1}, {years[year]}")
    return "; ".join(named)
