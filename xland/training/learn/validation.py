"""How well a network does on the samples of a part that it does not learn from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from xland.models.inputs import MASKED
from xland.scores.measures import iou
from xland.training.data.loader import PatchDataset, make_loader
from xland.training.data.sampling import Sample
from xland.training.learn.group import Group
from xland.training.learn.steps import predict
from xland.vocabulary import CLASS_NAMES, LAND_CLASSES

MOST_PIXELS = 4_000_000
"""About the most pixels whose scores are collected."""


def count_pairs(
    network: nn.Module,
    dataset: PatchDataset,
    batch: int,
    group: Group,
    *,
    workers: int = 0,
    check: Callable[[], None] = lambda: None,
) -> NDArray[np.int64]:
    """Count the pixels of every target (rows) and predicted class over the whole dataset, for all ranks.

    Samples of several years are free rollouts. All ranks call ``check`` before each batch; what it raises ends the
    work.
    """
    count = len(dataset.source.inputs.classes)
    pairs = torch.zeros(count * count, dtype=torch.int64, device=group.device)
    for scores, target in _predictions(network, dataset, batch, group, workers, range(len(dataset)), check):
        counted = target != MASKED
        flat = target[counted].long() * count + scores.argmax(dim=1)[counted]
        pairs += torch.bincount(flat, minlength=count * count)
    return np.asarray(group.sum(pairs).reshape(count, count).cpu().numpy())


def collect_scores(
    network: nn.Module,
    dataset: PatchDataset,
    batch: int,
    device: torch.device,
    *,
    workers: int = 0,
    most: int = MOST_PIXELS,
    whole: bool = False,
) -> tuple[NDArray[Any], ...]:
    """Scores (pixels, classes), targets, rows and columns of pixels that count, in the order of samples.

    Of more than about ``most`` pixels, an even part of the samples and of the pixels of each is taken, or with
    ``whole`` all pixels of fewer samples.
    """
    pixels = count_pixels(dataset)
    items = range(0, len(dataset), max(1, -(-pixels // most) if whole else pixels // (4 * most)))
    every = 1 if whole else max(1, -(-pixels * len(items) // (len(dataset) * most)))
    parts = []
    predictions = _predictions(network, dataset, batch, Group(device=device), workers, items)
    for number, (output, target) in enumerate(predictions):
        counted = target != MASKED
        places = [place for item in items[number * batch :][:batch] for place in dataset.places(item)]
        first = np.array([(place.rows.start, place.columns.start) for place in places])
        which, row, column = (index[::every] for index in np.nonzero(counted.cpu().numpy()))
        scores = output.movedim(1, -1)[counted][::every].float().cpu().numpy()
        codes = target[counted][::every].cpu().numpy()
        parts.append((scores, codes, first[which, 0] + row, first[which, 1] + column))
    return tuple(np.concatenate(each) for each in zip(*parts, strict=True))


def count_pixels(dataset: PatchDataset) -> int:
    """Return how many pixels all samples have, those that do not count included."""
    return int(len(dataset) * dataset.sequences.shape[1] * dataset.patches.size**2)


def score_pairs(pairs: NDArray[np.int64] | NDArray[np.float64]) -> dict[str, float]:
    """Return accuracy, mean IoU (NaN without land) and IoU of each land class, from pixels (targets by predictions)."""
    land = np.zeros(pairs.shape)
    land[list(LAND_CLASSES)] = pairs[list(LAND_CLASSES)]
    found = iou(land)
    by_class = {f"iou_{CLASS_NAMES[code]}": float(found[code]) for code in LAND_CLASSES if land[code].any()}
    accuracy = float(np.trace(land) / max(int(land.sum()), 1))
    mean = float(np.mean(list(by_class.values()))) if by_class else float("nan")
    return {"accuracy": accuracy, "miou": mean, **by_class}


def _predictions(
    network: nn.Module,
    dataset: PatchDataset,
    batch: int,
    group: Group,
    workers: int,
    items: Sequence[int],
    check: Callable[[], None] = lambda: None,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Scores and targets of this rank's share of the samples, in their order, batch by batch."""
    network.eval()
    own = [
        [Sample(0, item) for item in items[first : first + batch]]
        for first in range(group.rank * batch, len(items), group.ranks * batch)
    ]
    pinned = group.device.type == "cuda"
    loader = iter(make_loader(dataset, own, workers=workers, pinned=pinned))
    for _ in range(-(-len(items) // (batch * group.ranks))):
        check()
        samples = next(loader, None)
        if samples is None:
            continue
        samples = {name: tensor.to(group.device, non_blocking=True) for name, tensor in samples.items()}
        with torch.inference_mode():
            yield predict(network, samples, dataset.sequences.shape[1])
