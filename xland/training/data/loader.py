"""The torch dataset of patches, where their values come from, and the loader of a rank's batches."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from xland.geo.grid import count_classes, expand
from xland.models.inputs import MASKED, InputSpec, mask_prior
from xland.training.configuration import NO_AUGMENTATION, Augmentation
from xland.training.data.patches import Patches
from xland.training.data.sampling import RankSampler, Sample
from xland.training.machine import ignore_termination


class PatchDataset(Dataset[dict[str, Tensor]]):
    """Patches of a source as torch tensors; item ``i`` is patch ``i % len(patches)`` of sequence ``i // len(patches)``.

    Random changes depend on ``seed``, epoch and item alone. Only pixels in ``cells`` (coarse rows, coarse columns)
    count; ``sequences`` (count, years) are positions of consecutive maps that make one sample, by default each map
    alone.
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
        self.source = source
        self.patches = patches
        coarse = tuple(cells // source.inputs.factor for cells in source.shape)
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
        """Return several samples of an epoch (epoch 0 for plain items), from one look at the source.

        Those of several years have a first dimension of years, but for ``static``. ``corner``, where patches are not a
        multiple of the factor: fine cells of the first coarse row and column that lie outside of the patch, two int64.
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
            sample["prior"] = np.stack([_hide(each["prior"], self.augmentation, random) for each in read])
        sample = _augment(sample, self.augmentation, random, size % factor and factor - size % factor)
        if len(read) == 1:
            sample = {name: values[0] if name in _YEARLY else values for name, values in sample.items()}
        return {name: torch.from_numpy(np.ascontiguousarray(values)) for name, values in sample.items()}


def _hide(prior: NDArray[np.uint8], changes: Augmentation, random: np.random.Generator) -> NDArray[np.uint8]:
    if changes.prior_dropped and random.random() < changes.prior_dropped:
        return np.full_like(prior, MASKED)
    if changes.history_dropped and random.random() < changes.history_dropped:
        prior = np.concatenate([prior[:1], np.full_like(prior[1:], MASKED)])
    return mask_prior(prior, changes.prior_masked, random, changes.prior_block)


_YEARLY = ("coarse", "target", "prior")


def make_loader(
    dataset: PatchDataset,
    batches: RankSampler | list[list[Sample]],
    *,
    workers: int = 0,
    pinned: bool = False,
) -> DataLoader[dict[str, Tensor]]:
    """Return the loader of some batches; iterate it once for each epoch that their sampler is set to.

    ``workers`` processes live on from one epoch to the next, two batches ahead; SIGTERM does not end them.
    """
    return DataLoader(
        dataset,
        batch_sampler=batches,
        num_workers=workers,
        pin_memory=pinned,
        persistent_workers=workers > 0,
        prefetch_factor=2 if workers else None,
        worker_init_fn=ignore_termination,
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


class Place(NamedTuple):
    """A patch of one map: position of the map in the source, fine rows and columns, which begin at a coarse cell."""

    year: int
    rows: slice
    columns: slice

    def coarse(self, factor: int) -> tuple[slice, slice]:
        """Rows and columns of the coarse cells that the patch touches."""
        rows, columns = (slice(each.start // factor, -(-each.stop // factor)) for each in (self.rows, self.columns))
        return rows, columns


class PatchSource(Protocol):
    """What a training reads its patches from; it can be pickled, and gives the same values every time.

    ``chunk`` are rows and columns that are read as a whole, None where reading less costs less; ``hashes`` are SHA-256
    of the content.
    """

    inputs: InputSpec
    years: tuple[int, ...]
    intervals: tuple[int, ...]
    shape: tuple[int, int]
    chunk: tuple[int, int] | None

    @property
    def hashes(self) -> dict[str, str]: ...  # noqa: D102

    def read(self, places: Sequence[Place]) -> list[dict[str, NDArray[Any]]]:
        """Return the arrays of each place.

        ``coarse`` (coarse channels, coarse rows, coarse columns) float32, ``static`` (channels, rows, columns) float16,
        ``target`` (rows, columns) uint8 with 255 where it does not count, and, where the inputs read one, ``prior``
        (rows, columns) uint8 with 255 where it is not known; with a history (1 + history, rows, columns).
        """

    def class_counts(self, year: int) -> NDArray[np.int64]:
        """Pixels of the target that count, ``(classes, coarse rows, coarse columns)``, of the map at a position."""


class MapSample(NamedTuple):
    """A map to learn: the year of the forcing, that of the map, and the years from its prior map."""

    forcing: int
    mapped: int
    interval: int


def list_samples(
    inputs: InputSpec, pairs: Sequence[tuple[int, int]], forcing: Collection[int], priors: Collection[int]
) -> list[MapSample]:
    """Return all maps with all intervals whose states and prior map are there, of pairs of years of forcing and map."""
    return [
        MapSample(year, mapped, interval)
        for interval in inputs.intervals
        for year, mapped in pairs
        if {*inputs.states_of(year, interval)} <= {*forcing}
        and (inputs.prior == "none" or inputs.maps_of(mapped, interval)[0] in priors)
    ]


@dataclass
class TrainingArrays:
    """All that a model learns from, in memory; a :class:`PatchSource`.

    ``coarse`` (years, coarse channels, rows / factor, columns / factor); ``static`` (static channels, rows, columns);
    ``target`` (years, rows, columns), 255 where a pixel does not count; ``prior`` (maps, rows, columns), where the
    inputs read one. ``before`` (years, 1 + history) says which of these maps each target reads, -1 where there is none;
    by default each its own. ``intervals`` are those of each target, by default the first of the inputs.
    """

    inputs: InputSpec
    years: tuple[int, ...]
    coarse: NDArray[np.float32]
    static: NDArray[np.float16]
    target: NDArray[np.uint8]
    prior: NDArray[np.uint8] | None = None
    before: NDArray[np.intp] | None = None
    intervals: tuple[int, ...] = ()
    chunk: tuple[int, int] | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self.shape: tuple[int, int] = self.target.shape[1:]
        self.intervals = self.intervals or self.inputs.intervals[:1] * len(self.years)

    @cached_property
    def hashes(self) -> dict[str, str]:
        """SHA-256 of each array."""
        names = ("coarse", "static", "target", "prior", "before")
        arrays = {name: getattr(self, name) for name in names}
        return {
            name: hashlib.sha256(np.ascontiguousarray(array).data).hexdigest()
            for name, array in arrays.items()
            if array is not None
        }

    def read(self, places: Sequence[Place]) -> list[dict[str, NDArray[Any]]]:
        """Return views of the arrays at each place."""
        samples = []
        for place in places:
            rows, columns = place.coarse(self.inputs.factor)
            sample: dict[str, NDArray[Any]] = {
                "coarse": self.coarse[place.year, :, rows, columns],
                "static": self.static[:, place.rows, place.columns],
                "target": self.target[place.year, place.rows, place.columns],
            }
            if self.prior is not None and self.inputs.prior != "none":
                window = self.prior[:, place.rows, place.columns]
                if self.before is None:
                    sample["prior"] = window[place.year]
                else:
                    unknown = np.full(window.shape[1:], MASKED, np.uint8)
                    maps = [window[at] if at >= 0 else unknown for at in self.before[place.year]]
                    sample["prior"] = np.stack(maps) if self.inputs.history else maps[0]
            samples.append(sample)
        return samples

    def class_counts(self, year: int) -> NDArray[np.int64]:
        """Count the pixels of each class in coarse cells."""
        return count_classes(self.target[year], self.inputs.factor, len(self.inputs.classes))
