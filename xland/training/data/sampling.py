"""Which samples an epoch takes, in which order, and which of them each rank of a training takes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from xland.arguments import unknown
from xland.errors import ConfigurationError

_ORDER = 1
"""Keeps the random numbers of the order apart from those of a sample of the same seed and epoch."""


class Sample(NamedTuple):
    """One sample of one epoch: its random changes depend on both."""

    epoch: int
    item: int


@dataclass(frozen=True)
class Order:
    """What the epochs of a training take from its samples, and in which order.

    An epoch is fixed by seed and number alone, so that every rank finds the same one. Without ``weights`` it holds
    every sample once.

    Parameters
    ----------
    items : int
        Number of samples there are.
    seed : int
    weights : (items,) array of float, optional
        How often samples are drawn, relative to each other, as from :func:`rare_class_weights`. Draws lie evenly along
        the summed weights (systematic sampling, Madow 1949, doi 10.1214/aoms/1177729988), so that each sample comes as
        often as it should, rounded up or down by chance, and so does every run of consecutive samples.
    draws : int, optional
        Draws an epoch, where weights are given; else as many as there are samples.
    groups : (items,) array of int, optional
        Samples of the same group are near each other, so that one read can serve several of them, as
        from :func:`~xland.training.data.patches.chunk_groups`.
    locality : int
        Groups that are mixed with each other: groups come in random order, and all samples of so many consecutive ones
        in random order before those of the next. With 1, the samples of a batch resemble each other; with more, less.

    Raises
    ------
    ConfigurationError
        If there is no sample, weights or groups do not fit the samples, weights are negative, not finite or all 0, or
        numbers are too small.
    """

    items: int
    seed: int = 0
    weights: NDArray[np.float64] | None = None
    draws: int | None = None
    groups: NDArray[np.intp] | None = None
    locality: int = 1

    def __post_init__(self) -> None:
        if self.items < 1 or self.seed < 0:
            raise ConfigurationError(f"{self.items} samples and seed {self.seed}: at least 1 and 0 are needed")
        for name, values in (("weights", self.weights), ("groups", self.groups)):
            if values is not None and values.shape != (self.items,):
                raise ConfigurationError(f"{name} of shape {values.shape} for {self.items} samples; give one a sample")
        if self.weights is not None:
            _check_weights(self.weights, "weights")
        if self.draws is not None and (self.weights is None or self.draws < 1):
            raise ConfigurationError(f"draws per epoch is {self.draws}: give weights, and at least 1 draw")
        if self.locality < 1:
            raise ConfigurationError(f"locality is {self.locality}; at least 1 group is needed")

    def __len__(self) -> int:
        """Return the number of samples of an epoch."""
        return self.draws or self.items

    def epoch(self, number: int) -> NDArray[np.intp]:
        """Return the samples of an epoch in their order, shape ``(len(self),)``."""
        random = np.random.default_rng(np.random.SeedSequence((self.seed, number), spawn_key=(_ORDER,)))
        drawn = np.arange(self.items) if self.weights is None else _draw(self.weights, len(self), random)
        if self.groups is None:
            return random.permutation(drawn)
        found, group = np.unique(self.groups[drawn], return_inverse=True)
        mixed_with = random.permutation(len(found))[group] // self.locality
        return drawn[np.lexsort((random.random(len(drawn)), mixed_with))]


class RankSampler:
    """The batches of one rank of a training: the ``batch_sampler`` of its torch ``DataLoader``.

    The samples of an epoch are cut into batches, and every batch into one share a rank. So:

    - Over all ranks, an epoch holds every sample of its order exactly once.
    - An epoch has ``min(ceil(samples / batch), samples // ranks)`` batches, whose sizes differ by 1
      at most: no small batch is left over at its end, and none is larger than asked for. (Only where
      a batch has fewer than two samples a rank, up to ``ranks - 1`` more may join it.)
    - The shares of a batch differ by 1 at most, and none is empty: every rank takes the same number
      of steps, as ``DistributedDataParallel`` needs.
    - The batches are the same for every number of ranks up to half a batch.
    - With groups, those of a batch are dealt out one after the other, so that few are shared by ranks.

    Parameters
    ----------
    order : Order
    batch : int
        Samples a batch, of all ranks together.
    rank, ranks : int
        Number of this rank, from 0, and how many there are.

    Raises
    ------
    ConfigurationError
        If samples or batch are fewer than the ranks, or the rank is not one of them.
    """

    def __init__(self, order: Order, batch: int, *, rank: int = 0, ranks: int = 1) -> None:
        if not 0 <= rank < ranks:
            raise ConfigurationError(f"rank {rank} is not one of {ranks} ranks, which count from 0")
        if len(order) < ranks:
            raise ConfigurationError(f"an epoch of {len(order)} samples is too short for {ranks} ranks; use fewer")
        if batch < ranks:
            raise ConfigurationError(f"a batch of {batch} samples is too small for {ranks} ranks; give each at least 1")
        self.order, self.rank, self.ranks = order, rank, ranks
        self.steps = min(-(-len(order) // batch), len(order) // ranks)
        self._epoch, self._first_step = 0, 0

    def set_epoch(self, epoch: int, first_step: int = 0) -> None:
        """Choose the epoch that is iterated next, and the step it continues from after an interruption."""
        if epoch < 0 or not 0 <= first_step <= self.steps:
            raise ConfigurationError(f"no step {first_step} in epoch {epoch}; an epoch has {self.steps} steps")
        self._epoch, self._first_step = epoch, first_step

    def __len__(self) -> int:
        """Return the number of steps that the next iteration takes."""
        return self.steps - self._first_step

    def __iter__(self) -> Iterator[list[Sample]]:
        """Yield this rank's share of every batch."""
        epoch, samples = self._epoch, self.order.epoch(self._epoch)
        for step in range(self._first_step, self.steps):
            batch = self._batch(samples, step)
            own = batch[slice(*_part(self.rank, self.ranks, len(batch)))]
            yield [Sample(epoch, item) for item in own.tolist()]

    def batch_size(self, step: int) -> int:
        """Return the samples of a step, those of all ranks together."""
        first, end = _part(step, self.steps, len(self.order))
        return end - first

    def batch(self, epoch: int, step: int) -> list[int]:
        """Return the samples of one step, those of all ranks together."""
        items: list[int] = self._batch(self.order.epoch(epoch), step).tolist()
        return items

    def _batch(self, samples: NDArray[np.intp], step: int) -> NDArray[np.intp]:
        batch = samples[slice(*_part(step, self.steps, len(self.order)))]
        if self.order.groups is not None:
            batch = batch[self.order.groups[batch].argsort(kind="stable")]
        return batch


def rare_class_weights(counts: NDArray[np.int64], strength: float = 0.5) -> NDArray[np.float64]:
    """Weigh samples so that those with pixels of rare classes are drawn more often.

    A pixel counts ``share ** -strength``, where ``share`` is that of its class among all pixels, and
    a sample the sum of its pixels.

    Parameters
    ----------
    counts : (samples, classes) array
        Pixels of each class in each sample.
    strength : float
        Between 0, where samples weigh as much as they hold pixels that count, and 1, where all classes have the same
        part in the draws. Near 1, a class that few samples hold makes these come very often.

    Returns
    -------
    (samples,) array of float
        Weights that sum to 1; 0 for samples without pixels.

    Raises
    ------
    ConfigurationError
        If counts are not of samples and classes, are negative, not finite or all 0, or the strength
        is not between 0 and 1.
    """
    if not 0 <= strength <= 1:
        raise ConfigurationError(f"strength {strength} of rare classes must be between 0 and 1")
    if counts.ndim != 2:
        raise ConfigurationError(f"counts of shape {counts.shape}; give pixels by samples and classes")
    _check_weights(counts, "counts")
    total = counts.sum(axis=0)
    pixel = np.zeros(len(total))
    np.power(total / total.sum(), -strength, out=pixel, where=total > 0)
    weights = counts @ pixel
    return weights / weights.sum()


SamplingRule = Callable[[NDArray[np.int64], float], NDArray[np.float64]]

SAMPLING_RULES: dict[str, SamplingRule] = {"rare_classes": rare_class_weights}
"""How samples are weighed where they are drawn, by the name in ``[schedule] sampling``.

Each takes the pixels of each class in each sample, ``(samples, classes)``, and the ``rare_classes`` of the schedule,
and returns a weight for each sample. Another rule is added by putting it here.
"""


def sampling_rule(name: str) -> SamplingRule:
    """Return a rule by its name; ConfigurationError if it is not known."""
    if name not in SAMPLING_RULES:
        raise ConfigurationError(unknown("sampling rule", name, SAMPLING_RULES))
    return SAMPLING_RULES[name]


def _check_weights(values: NDArray[np.float64] | NDArray[np.int64], name: str) -> None:
    wrong = int((~np.isfinite(values) | (values < 0)).sum())
    if wrong:
        raise ConfigurationError(f"{wrong} of {values.size} {name} are negative or not finite; give 0 or more")
    if not values.any():
        raise ConfigurationError(f"all {values.size} {name} are 0: there is no sample to draw")


def _draw(weights: NDArray[np.float64], draws: int, random: np.random.Generator) -> NDArray[np.intp]:
    possible = np.flatnonzero(weights)
    summed = np.cumsum(weights[possible] / weights.max())
    places = (np.arange(draws) + random.random()) / draws * summed[-1]
    # the last place may be rounded up to the end of the last sample
    return possible[np.minimum(summed.searchsorted(places), len(possible) - 1)]


def _part(number: int, parts: int, length: int) -> tuple[int, int]:
    """First and end of one of so many parts of a length, as even as can be."""
    return number * length // parts, (number + 1) * length // parts
