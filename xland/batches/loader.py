"""Training arrays, and the torch dataset of patches cut from them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, WeightedRandomSampler

from xland.batches.masking import mask_prior
from xland.batches.patches import Patches
from xland.errors import GridError
from xland.inputs import InputSpec


@dataclass(frozen=True)
class TrainingArrays:
    """All that a model learns from, in memory, coarse fields at their own resolution.

    Parameters
    ----------
    coarse : (years, coarse channels, rows / factor, columns / factor) float32
    static : (static channels, rows, columns) float16
    target : (years, rows, columns) uint8
        Class codes; 255 where a pixel does not count.
    prior : (years, rows, columns) uint8 or None
        The map of the adjacent year of each target.
    """

    coarse: NDArray[np.float32]
    static: NDArray[np.float16]
    target: NDArray[np.uint8]
    prior: NDArray[np.uint8] | None = None

    def __post_init__(self) -> None:
        years, rows, columns = self.target.shape
        if self.static.shape[1:] != (rows, columns) or len(self.coarse) != years:
            raise GridError(
                f"target {self.target.shape} does not fit static {self.static.shape} or {self.coarse.shape}"
            )
        if self.prior is not None and self.prior.shape != self.target.shape:
            raise GridError(f"target {self.target.shape} does not fit prior {self.prior.shape}")
        if rows % self.coarse.shape[2] or columns % self.coarse.shape[3]:
            raise GridError(f"target {self.target.shape} does not nest in coarse {self.coarse.shape}")


@dataclass(frozen=True)
class Augmentation:
    """Random changes of a training patch.

    Parameters
    ----------
    flip : bool
        Mirror east and west.
    flip_north_south : bool
        Mirror north and south too (``cos_aspect`` would change its sign; leave it out then).
    coarse_noise : float
        Standard deviation of the noise added to each normalised coarse channel, one value a patch.
    channel_dropout : float
        Share of coarse and static channels set to 0, their mean, a patch.
    prior_masked : float
        Share of the prior that is hidden.
    prior_block : int
        Size in pixels of the hidden blocks.
    """

    flip: bool = True
    flip_north_south: bool = False
    coarse_noise: float = 0.0
    channel_dropout: float = 0.0
    prior_masked: float = 0.6
    prior_block: int = 1


NO_AUGMENTATION = Augmentation(flip=False)


class PatchDataset(Dataset[dict[str, Tensor]]):
    """Patches of the training arrays as torch tensors.

    Item ``i`` is patch ``i % len(patches)`` of year ``i // len(patches)``; its random changes
    depend on ``seed``, epoch and ``i`` alone, so that any number of workers gives the same batches.
    """

    def __init__(
        self,
        arrays: TrainingArrays,
        patches: Patches,
        inputs: InputSpec,
        augmentation: Augmentation = NO_AUGMENTATION,
        seed: int = 0,
    ) -> None:
        self.arrays = arrays
        self.patches = patches
        self.inputs = inputs
        self.augmentation = augmentation
        self.seed = seed
        self.epoch = 0

    def __len__(self) -> int:
        """Return patches times years."""
        return len(self.patches) * len(self.arrays.target)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """Return ``coarse``, ``static``, ``target`` and, where the model reads one, ``prior``."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        year, patch = divmod(index, len(self.patches))
        rows, columns = self.patches.slices(patch)
        coarse_rows, coarse_columns = self.patches.slices(patch, self.inputs.factor)
        sample: dict[str, NDArray[Any]] = {
            "coarse": self.arrays.coarse[year, :, coarse_rows, coarse_columns],
            "static": self.arrays.static[:, rows, columns],
            "target": self.arrays.target[year, rows, columns],
        }
        random = np.random.default_rng((self.seed, self.epoch, index))
        if self.inputs.prior != "none" and self.arrays.prior is not None:
            prior = self.arrays.prior[year, rows, columns]
            sample["prior"] = mask_prior(prior, self.augmentation.prior_masked, random, self.augmentation.prior_block)
        sample = _augment(sample, self.augmentation, random)
        return {name: torch.from_numpy(np.ascontiguousarray(values)) for name, values in sample.items()}


def make_loader(
    dataset: PatchDataset,
    batch: int,
    *,
    weights: NDArray[np.float64] | None = None,
    samples: int | None = None,
    workers: int = 0,
    shuffle: bool = True,
) -> DataLoader[dict[str, Tensor]]:
    """Return the batches of one epoch; the order depends on the dataset's seed and epoch alone.

    Parameters
    ----------
    dataset : PatchDataset
    batch : int
        Patches a batch.
    weights : (items,) array, optional
        Relative frequency with which each item is drawn, with replacement; else all once.
    samples : int, optional
        Number of items an epoch, where weights are given.
    workers : int
        Loader processes.
    shuffle : bool
        Whether items come in random order.
    """
    generator = torch.Generator().manual_seed(dataset.seed * 100_003 + dataset.epoch)
    sampler = (
        WeightedRandomSampler(weights.tolist(), samples or len(dataset), generator=generator)
        if weights is not None
        else None
    )
    return DataLoader(
        dataset,
        batch_size=batch,
        sampler=sampler,
        shuffle=shuffle and sampler is None,
        generator=generator,
        num_workers=workers,
    )


def _augment(
    sample: dict[str, NDArray[Any]], augmentation: Augmentation, random: np.random.Generator
) -> dict[str, NDArray[Any]]:
    if augmentation.flip and random.random() < 0.5:
        sample = {name: values[..., ::-1] for name, values in sample.items()}
    if augmentation.flip_north_south and random.random() < 0.5:
        sample = {name: values[..., ::-1, :] for name, values in sample.items()}
    if augmentation.coarse_noise:
        noise = random.normal(0, augmentation.coarse_noise, (len(sample["coarse"]), 1, 1)).astype(np.float32)
        sample["coarse"] = sample["coarse"] + noise
    if augmentation.channel_dropout:
        for name in ("coarse", "static"):
            kept = random.random((len(sample[name]), 1, 1)) >= augmentation.channel_dropout
            sample[name] = sample[name] * kept.astype(sample[name].dtype)
    return sample
