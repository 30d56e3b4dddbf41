"""The torch dataset of patches cut from a source, and the loader of a rank's batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from xland.batches.masking import MASKED, mask_prior
from xland.batches.patches import Patches
from xland.batches.sampling import RankSampler, Sample
from xland.batches.source import PatchSource, Place
from xland.errors import ConfigurationError, GridError
from xland.grid import expand
from xland.records import Limits, Share, check_entries


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
    prior_dropped : float
        Share of samples whose whole prior is hidden, so that a model can begin without one.
    """

    flip: bool = True
    flip_north_south: bool = False
    coarse_noise: Annotated[float, Limits(0)] = 0.0
    channel_dropout: Share = 0.0
    prior_masked: Share = 0.6
    prior_block: Annotated[int, Limits(1, 2**14)] = 1
    prior_dropped: Share = 0.0

    def __post_init__(self) -> None:
        check_entries(self, ConfigurationError)


NO_AUGMENTATION = Augmentation(flip=False, prior_masked=0.0)


class PatchDataset(Dataset[dict[str, Tensor]]):
    """Patches of a source as torch tensors.

    Item ``i`` is patch ``i % len(patches)`` of sequence ``i // len(patches)``; its random changes
    depend on ``seed``, epoch and ``i`` alone, so that any number of workers gives the same batches.

    Parameters
    ----------
    source : PatchSource
    patches : Patches
    cells : (coarse rows, coarse columns) array of bool, optional
        Coarse cells whose pixels count, normally those of one part of the split; all by default.
    sequences : (count, years) array of int, optional
        Positions of consecutive maps that make one sample; by default each map alone.
    augmentation : Augmentation
    seed : int
    """

    def __init__(
        self,
        source: PatchSource,
        patches: Patches,
        *,
        cells: NDArray[np.bool_] | None = None,
        sequences: NDArray[np.intp] | None = None,
        augmentation: Augmentation = NO_AUGMENTATION,
        seed: int = 0,
    ) -> None:
        factor = source.inputs.factor
        coarse = (source.shape[0] // factor, source.shape[1] // factor)
        if cells is not None and cells.shape != coarse:
            raise GridError(f"{cells.shape} cells that count for {coarse} coarse cells")
        self.source = source
        self.patches = patches
        self.cells = np.ones(coarse, dtype=bool) if cells is None else cells
        self.sequences = np.arange(len(source.years))[:, None] if sequences is None else sequences
        self.augmentation = augmentation
        self.seed = seed

    def __len__(self) -> int:
        """Return patches times sequences."""
        return len(self.patches) * len(self.sequences)

    def __getitem__(self, sample: Sample | int) -> dict[str, Tensor]:
        """Return one sample; see :meth:`__getitems__`."""
        return self.__getitems__([sample])[0]

    def __getitems__(self, samples: Sequence[Sample | int]) -> list[dict[str, Tensor]]:
        """Return several samples, from one look at the source.

        Parameters
        ----------
        samples : list of (epoch, item), or of items of epoch 0

        Returns
        -------
        list of dict
            ``coarse``, ``static``, ``target`` and, where the model reads one, ``prior``, as the source gives
            them; for sequences of several years, ``coarse``, ``target`` and ``prior`` have a first dimension of
            years. ``corner``, where patches are no multiple of the factor: fine cells of the first coarse
            row and column that lie outside of the patch, two int64.
        """
        chosen = [sample if isinstance(sample, tuple) else Sample(0, sample) for sample in samples]
        places = [place for sample in chosen for place in self.places(sample.item)]
        read = self.source.read(places)
        years = self.sequences.shape[1]
        return [
            self._finish(sample, places[first : first + years], read[first : first + years])
            for sample, first in zip(chosen, range(0, len(read), years), strict=True)
        ]

    def places(self, item: int) -> list[Place]:
        """Return the place of each year of an item."""
        if not 0 <= item < len(self):
            raise IndexError(item)
        sequence, patch = divmod(item, len(self.patches))
        rows, columns = self.patches.slices(patch)
        return [Place(int(year), rows, columns) for year in self.sequences[sequence]]

    def _finish(self, drawn: Sample, places: list[Place], read: list[dict[str, NDArray[Any]]]) -> dict[str, Tensor]:
        place, factor, size = places[0], self.source.inputs.factor, self.patches.size
        counts = expand(self.cells[place.coarse(factor)], factor)[:size, :size]
        sample: dict[str, NDArray[Any]] = {
            "coarse": np.stack([each["coarse"] for each in read]),
            "static": read[0]["static"],
            "target": np.stack([np.where(counts, each["target"], np.uint8(MASKED)) for each in read]),
        }
        random = np.random.default_rng((self.seed, drawn.epoch, drawn.item))
        if "prior" in read[0]:
            sample["prior"] = np.stack([self._hide(each["prior"], random) for each in read])
        sample = _augment(sample, self.augmentation, random, size % factor and factor - size % factor)
        if len(read) == 1:
            sample = {name: values[0] if name in _YEARLY else values for name, values in sample.items()}
        return {name: torch.from_numpy(np.ascontiguousarray(values)) for name, values in sample.items()}

    def _hide(self, prior: NDArray[np.uint8], random: np.random.Generator) -> NDArray[np.uint8]:
        changes = self.augmentation
        if changes.prior_dropped and random.random() < changes.prior_dropped:
            return np.full_like(prior, MASKED)
        return mask_prior(prior, changes.prior_masked, random, changes.prior_block)


_YEARLY = ("coarse", "target", "prior")


def make_loader(
    dataset: PatchDataset,
    batches: RankSampler | list[list[Sample]],
    *,
    workers: int = 0,
    pinned: bool = False,
    prepare_worker: Callable[[int], None] | None = None,
) -> DataLoader[dict[str, Tensor]]:
    """Return the loader of some batches; iterate it once for each epoch that their sampler is set to.

    The samples and their random changes do not depend on the number of loader processes, which live on
    from one epoch to the next.

    Parameters
    ----------
    dataset : PatchDataset
    batches : RankSampler, or list of lists of Sample
    workers : int
        Loader processes, each two batches ahead; 0 loads when a batch is asked for.
    pinned : bool
        Put batches into memory from which a GPU can fetch them while it works.
    prepare_worker : callable, optional
        Called with its number in each loader process before it begins.
    """
    return DataLoader(
        dataset,
        batch_sampler=batches,
        num_workers=workers,
        pin_memory=pinned,
        persistent_workers=workers > 0,
        prefetch_factor=2 if workers else None,
        worker_init_fn=prepare_worker,
    )


def _augment(
    sample: dict[str, NDArray[Any]], augmentation: Augmentation, random: np.random.Generator, spare: int
) -> dict[str, NDArray[Any]]:
    """Change a sample; ``spare`` fine cells of its last coarse row and column lie outside of the patch."""
    corner = np.zeros(2, dtype=np.int64)
    if augmentation.flip and random.random() < 0.5:
        sample = {name: values[..., ::-1] for name, values in sample.items()}
        corner[1] = spare
    if augmentation.flip_north_south and random.random() < 0.5:
        sample = {name: values[..., ::-1, :] for name, values in sample.items()}
        corner[0] = spare
    if augmentation.coarse_noise:
        noise = random.normal(0, augmentation.coarse_noise, (sample["coarse"].shape[1], 1, 1)).astype(np.float32)
        sample["coarse"] = sample["coarse"] + noise
    if augmentation.channel_dropout:
        for name in ("coarse", "static"):
            kept = random.random((sample[name].shape[-3], 1, 1)) >= augmentation.channel_dropout
            sample[name] = sample[name] * kept.astype(sample[name].dtype)
    return {**sample, "corner": corner} if spare else sample
