"""How well a network does on the samples of a part that it does not learn from."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from xland.models.inputs import MASKED
from xland.scores.measures import iou
from xland.training.data.loader import PatchDataset, make_loader
from xland.training.data.sampling import Sample
from xland.training.learn.steps import call
from xland.training.ranks.group import Group
from xland.training.rollout import unroll
from xland.training.stopping import ignore_termination
from xland.vocabulary import LAND_CLASSES

_MORE = 4
"""Times as many pixels are predicted as are kept, so that they come from many samples."""


def count_pairs(
    network: nn.Module,
    dataset: PatchDataset,
    batch: int,
    group: Group,
    *,
    workers: int = 0,
    check: Callable[[], None] | None = None,
) -> NDArray[np.int64]:
    """Count the pixels of every target and predicted class over the whole dataset, shared out to the ranks.

    Samples of several years are free rollouts: each map but the first is made from the network's own.

    Parameters
    ----------
    network : Module
    dataset : PatchDataset
    batch : int
        Samples a rank predicts at once.
    group : Group
    workers : int
        Loader processes of this rank.
    check : callable, optional
        Called by all ranks before each batch; what it raises ends the work.

    Returns
    -------
    (classes, classes) array
        Targets by predictions, the same in all ranks.
    """
    count = len(dataset.source.inputs.classes)
    pairs = torch.zeros(count * count, dtype=torch.int64, device=group.device)
    for scores, target in _predictions(network, dataset, batch, group, workers, check):
        counted = target != MASKED
        flat = target[counted].long() * count + scores.argmax(dim=1)[counted]
        pairs += torch.bincount(flat, minlength=count * count)
    return np.asarray(group.sum(pairs).reshape(count, count).cpu().numpy())


class ScoredPixels(NamedTuple):
    """Pixels that count, in the order of samples.

    Parameters
    ----------
    scores : (pixels, classes) float32 array
    target : (pixels,) array of class codes
    row, column : (pixels,) arrays of int
        Place on the fine grid.
    """

    scores: NDArray[np.float32]
    target: NDArray[np.uint8]
    row: NDArray[np.intp]
    column: NDArray[np.intp]


def collect_scores(
    network: nn.Module,
    dataset: PatchDataset,
    batch: int,
    group: Group,
    *,
    workers: int = 0,
    most: int = 4_000_000,
) -> ScoredPixels:
    """Scores, targets and places of the pixels that count, predicted by one process.

    Parameters
    ----------
    network, dataset, batch, group, workers
        As in :func:`count_pairs`; but this rank alone predicts, while the others wait.
    most : int
        About how many pixels to keep: of more, an even part of the samples and of the pixels of each.
    """
    alone = Group(device=group.device)
    pixels = len(dataset) * dataset.sequences.shape[1] * dataset.patches.size**2
    items = range(0, len(dataset), max(1, pixels // (_MORE * most)))
    every = max(1, -(-pixels * len(items) // (len(dataset) * most)))
    parts = []
    for number, (output, target) in enumerate(_predictions(network, dataset, batch, alone, workers, None, items)):
        counted = target != MASKED
        places = [place for item in items[number * batch :][:batch] for place in dataset.places(item)]
        first = np.array([(place.rows.start, place.columns.start) for place in places])
        which, row, column = (index[::every] for index in np.nonzero(counted.cpu().numpy()))
        parts.append(
            ScoredPixels(
                output.movedim(1, -1)[counted][::every].float().cpu().numpy(),
                target[counted][::every].cpu().numpy(),
                first[which, 0] + row,
                first[which, 1] + column,
            )
        )
    return ScoredPixels(*(np.concatenate(each) for each in zip(*parts, strict=True)))


def score_pairs(pairs: NDArray[np.int64]) -> dict[str, float]:
    """Accuracy, mean IoU over land classes and IoU per class on the pixels whose target is land.

    Parameters
    ----------
    pairs : (classes, classes) array
        Targets by predictions.
    """
    land = np.zeros_like(pairs)
    land[list(LAND_CLASSES)] = pairs[list(LAND_CLASSES)]
    by_class = {f"iou_{code}": float(iou(land)[code]) for code in LAND_CLASSES if land[code].any()}
    accuracy = float(np.trace(land) / max(int(land.sum()), 1))
    mean = float(np.mean(list(by_class.values()))) if by_class else float("nan")
    return {"accuracy": accuracy, "miou": mean, **by_class}


def _predictions(
    network: nn.Module,
    dataset: PatchDataset,
    batch: int,
    group: Group,
    workers: int,
    check: Callable[[], None] | None,
    items: range | None = None,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Scores and targets of this rank's share of the samples, in their order, batch by batch."""
    network.eval()
    items = range(len(dataset)) if items is None else items
    rounds = -(-len(items) // (batch * group.ranks))
    own = [
        [Sample(0, item) for item in items[first : first + batch]]
        for first in range(group.rank * batch, len(items), group.ranks * batch)
    ]
    pinned = group.device.type == "cuda"
    loader = iter(make_loader(dataset, own, workers=workers, pinned=pinned, prepare_worker=ignore_termination))
    for _ in range(rounds):
        if check is not None:
            check()
        samples = next(loader, None)
        if samples is None:
            continue
        samples = {name: tensor.to(group.device, non_blocking=True) for name, tensor in samples.items()}
        with torch.inference_mode():
            if dataset.sequences.shape[1] == 1:
                yield call(network, samples), samples["target"]
            else:
                yield unroll(network, samples, 1.0).flatten(0, 1), samples["target"].flatten(0, 1)
