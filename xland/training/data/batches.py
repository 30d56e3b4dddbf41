"""The samples that a training takes from its material, and their batches for people who bring their own model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from torch import Tensor

from xland.arguments import checked
from xland.errors import ConfigurationError, TimeError
from xland.geo.conventions import listed
from xland.geo.grid import Grid
from xland.geo.split import Part
from xland.models import DEFAULT_MODEL, find_model
from xland.models.checkpoint import Checkpoint
from xland.models.inputs import MASKED, InputSpec
from xland.models.networks.architecture import Architecture
from xland.training.configuration import NO_AUGMENTATION, Augmentation, Configuration, Data, Schedule
from xland.training.data.loader import PatchDataset, PatchSource
from xland.training.data.material import Material, gather
from xland.training.data.patches import (
    Patches,
    chunk_groups,
    count_in_patches,
    farthest_points,
    make_patches,
    patches_from,
    sphere_points,
)
from xland.training.data.sampling import Order, RankSampler, Sample, sampling_rule
from xland.training.rollout import Rollout
from xland.vocabulary import CLASS_NAMES, LAND_CLASSES, flag_attributes

PartName = Literal["train", "validation", "test"]

_DIMS: dict[str, tuple[str, ...]] = {
    "coarse": ("sample", "coarse_channel", "coarse_y", "coarse_x"),
    "static": ("sample", "channel", "y", "x"),
    "target": ("sample", "y", "x"),
    "prior": ("sample", "y", "x"),
}


@checked(ConfigurationError)
def make_batches(
    forcing: xr.Dataset,
    *,
    target: xr.DataArray,
    static: xr.Dataset,
    prior: xr.DataArray | None = None,
    inputs: InputSpec | None = None,
    model: str | Path | Checkpoint | None = None,
    patch: int | None = None,
    stride: int | None = None,
    generator: Any = None,
    batch: int = 8,
    part: PartName | None = "train",
    years: int | Sequence[int] | None = None,
    seed: int = 0,
    epoch: int = 0,
    split_seed: int = 0,
    candidates: int = Schedule.candidates,
    samples: int = 0,
    rare_classes: float = 0.0,
    augmentation: Augmentation | None = None,
    rank: int = 0,
    ranks: int = 1,
) -> LabelledBatches:
    """Return the batches that :func:`xland.train` would learn from, as xarray Datasets.

    The samples of the part "train" and their order are those of a training with the same data, inputs,
    seeds, patches and numbers. Batches of other parts come in the order of years and places.

    Parameters
    ----------
    forcing, target, static, prior
        Coarse states, fine maps of class codes, fine predictors and the maps of adjacent years, as for
        :func:`xland.train`; they are read into memory.
    inputs : InputSpec, optional
        Channels; their normalisation is measured on the training cells.
    model : str, path or Checkpoint, optional
        A model whose channels are taken instead; by default the shipped one.
    patch, stride : int, optional
        Fine cells along a patch, and from one to the next (outside of "train" patches do not overlap); by default
        those of the inputs' windows.
    generator : xbatcher.BatchGenerator, optional
        Over fields on the fine grid: its batches are the patches; see
        :func:`xland.training.data.patches.patches_from`. Patches without a pixel that counts are left out.
    batch : int
        Samples a batch, of all ranks together; batches of an epoch differ by one at most.
    part : "train", "validation", "test" or None
        Whose cells count, see :func:`xland.geo.split.assign_cells`; None counts all cells with data.
    years : int or sequence of int, optional
        Calendar years of the maps; by default all that forcing and target share.
    seed, epoch, split_seed : int
        Of the order of training samples and of random changes, and of the split.
    candidates, samples, rare_classes
        Patches to choose evenly, samples of an epoch (0: each once), and how much more often rare classes are drawn,
        as in ``[schedule]`` of a configuration.
    augmentation : Augmentation, optional
        Random changes of training samples; in other parts only the prior is hidden. None by default.
    rank, ranks : int
        Which share of each batch to return, of how many.

    Returns
    -------
    LabelledBatches
        To be iterated as often as wanted; ``set_epoch`` chooses another epoch.

    Raises
    ------
    XlandError
        If data do not fit each other or the inputs, or no patch holds a pixel of the part.
    """
    if inputs is not None and model is not None:
        raise ConfigurationError("inputs and model both say which channels to take: give one of them")
    inputs = inputs or find_model(DEFAULT_MODEL if model is None else model).inputs
    given = np.atleast_1d([] if years is None else np.asarray("" if isinstance(years, xr.Dataset) else years))
    if given.size and given.dtype.kind not in "iu":
        raise TimeError(f"years={years!r}: give calendar years as a whole number or a list of them")
    wanted = tuple(given.tolist())
    if generator is not None:  # it makes patches of its own; the smallest are always in order
        patch, stride = 2 * inputs.factor, inputs.factor
    configuration = Configuration(
        name="batches",
        title="Batches for another model",
        data=Data(forcing="given", target="given", static="given", forcing_years=wanted, target_years=wanted),
        inputs=inputs,
        architecture=Architecture(depth=1),
        augmentation=augmentation or NO_AUGMENTATION,
        schedule=Schedule(
            batch=batch,
            patch=patch or inputs.window,
            patch_stride=stride or inputs.stride,
            candidates=candidates,
            samples=samples,
            rare_classes=rare_classes,
            seed=seed,
        ),
        split_seed=split_seed,
    )
    configuration, material = gather(configuration, forcing=forcing, target=target, static=static, prior=prior)
    batches = label_batches(configuration, material, part=part, generator=generator, rank=rank, ranks=ranks)
    batches.set_epoch(epoch)
    return batches


@checked(ConfigurationError)
def label_batches(
    configuration: Configuration,
    material: Material,
    *,
    part: PartName | None = "train",
    generator: Any = None,
    rank: int = 0,
    ranks: int = 1,
) -> LabelledBatches:
    """Return the batches of a configuration's training as xarray Datasets; see :func:`make_batches`.

    The configuration has normalised inputs; years that it rolls out over come one by one. The material is in memory
    (:func:`xland.training.data.material.gather`) or in a training store
    (:func:`xland.training.data.material.stored_material`).
    """
    schedule, factor = configuration.schedule, configuration.inputs.factor
    patches = None
    if generator is not None:
        patches = patches_from(generator, material.grid, factor)
    elif part is None:
        patches = make_patches(material.grid, schedule.patch, schedule.patch_stride, factor)
    if part is None:
        material = replace(material, part=np.full_like(material.part, Part.TRAIN))
    configuration = replace(configuration, rollout=Rollout())
    chosen = Part[(part or "train").upper()]
    dataset = make_dataset(configuration, material, chosen, take_census(material.source), patches)
    order = make_order(configuration, dataset) if part == "train" else _InOrder(len(dataset))
    return LabelledBatches(dataset, material.grid, RankSampler(order, schedule.batch, rank=rank, ranks=ranks))


class _InOrder(Order):
    """Samples as they come."""

    def epoch(self, number: int) -> NDArray[np.intp]:  # noqa: ARG002
        return np.arange(self.items)


class LabelledBatches:
    """The batches of one epoch as xarray Datasets, read when they are asked for.

    Each is a Dataset of some samples, a patch of one year each: ``coarse`` (sample, coarse_channel,
    coarse_y, coarse_x), ``static`` (sample, channel, y, x), ``target`` (sample, y, x) and, for inputs with
    one, ``prior`` (sample, y, x), with a history (sample, map, y, x). Coarse and static channels are normalised; target
    and prior are class codes, 255 where a pixel does not count or is not known. Coordinates give the ``year`` of each
    sample, the names of channels, ``lat`` and ``lon`` of its cells and ``coarse_lat`` and ``coarse_lon`` of its
    coarse cells. (Where samples are mirrored at random, the coordinates of that direction are left out.)

    ``inputs`` are the channels and their normalisation; ``grid`` is the fine grid of the ``dataset``, whose samples are
    single years; the ``sampler`` says what each batch takes.
    """

    def __init__(self, dataset: PatchDataset, grid: Grid, sampler: RankSampler) -> None:
        self.dataset, self.grid, self.sampler = dataset, grid, sampler
        self.inputs = dataset.source.inputs

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that is iterated next: the order of its samples, and their random changes."""
        self.sampler.set_epoch(epoch)

    def __len__(self) -> int:
        """Return the number of batches."""
        return len(self.sampler)

    def __iter__(self) -> Iterator[xr.Dataset]:
        """Yield one Dataset a batch."""
        for batch in self.sampler:
            samples = self.dataset.__getitems__(batch)
            codes = {**flag_attributes(self.inputs.classes), "missing_value": np.uint8(MASKED)}
            names = _DIMS | ({"prior": ("sample", "map", "y", "x")} if self.inputs.history else {})
            variables = {
                name: (dims, np.stack([each[name].numpy() for each in samples]), {} if "channel" in dims[1] else codes)
                for name, dims in names.items()
                if name in samples[0]
            }
            yield xr.Dataset(variables, self._coordinates(batch))

    def _coordinates(self, batch: Sequence[Sample]) -> dict[str, Any]:
        inputs, changes = self.inputs, self.dataset.augmentation
        places = [self.dataset.places(sample.item)[0] for sample in batch]
        steps = [(channel.name, step) for step in inputs.steps for channel in inputs.coarse]
        interval = ["interval"] if len(inputs.intervals) > 1 else []
        coordinates: dict[str, Any] = {
            "coarse_channel": [f"{name}{step:+d}" if step else name for name, step in steps] + interval,
            "channel": [channel.name for channel in inputs.static],
            "year": ("sample", [self.dataset.source.years[place.year] for place in places]),
        }
        latitude = {"standard_name": "latitude", "units": "degrees_north"}
        longitude = {"standard_name": "longitude", "units": "degrees_east"}
        fine = [(place.rows, place.columns) for place in places]
        coarse = [place.coarse(inputs.factor) for place in places]
        for prefix, grid, windows in (("", self.grid, fine), ("coarse_", self.grid.coarsen(inputs.factor), coarse)):
            if not changes.flip_north_south:
                labels = np.stack([grid.latitude[rows] for rows, _ in windows])
                coordinates[f"{prefix}lat"] = (("sample", f"{prefix}y"), labels, latitude)
            if not changes.flip:
                labels = np.stack([grid.longitude[columns] for _, columns in windows])
                coordinates[f"{prefix}lon"] = (("sample", f"{prefix}x"), labels, longitude)
        return coordinates


def take_census(source: PatchSource) -> NDArray[np.int64]:
    """Add up the pixels that count over all maps, ``(classes, coarse rows, coarse columns)``."""
    census = source.class_counts(0)
    for year in range(1, len(source.years)):
        census += source.class_counts(year)
    return census


def check_parts(census: NDArray[np.int64], part: NDArray[np.int8]) -> None:
    """Refuse a split without land for training or validation, or whose training cells lack a class of others."""
    held = {each: census[:, part == each].sum(axis=1) for each in Part}
    for each in (Part.TRAIN, Part.VALIDATION):
        if not held[each][list(LAND_CLASSES)].any():
            raise ConfigurationError(f"no {each.name.lower()} cell of the split holds a pixel of a land class")
    elsewhere = held[Part.VALIDATION] + held[Part.TEST]
    missing = [code for code in LAND_CLASSES if code < len(census) and elsewhere[code] and not held[Part.TRAIN][code]]
    if missing:
        named = ", ".join(f"{CLASS_NAMES[code]} ({elsewhere[code]} pixels)" for code in missing)
        raise ConfigurationError(
            f"the split leaves {named} out of the training: validation and test cells hold what no training cell does. "
            "Choose another split_seed, a larger region or more years"
        )


def make_dataset(
    configuration: Configuration,
    material: Material,
    part: Part,
    census: NDArray[np.int64],
    patches: Patches | None = None,
) -> PatchDataset:
    """Return the samples of one part of the split.

    Training patches overlap, are chosen evenly and are changed at random; those of other parts do not overlap, so that
    no pixel is judged twice, and only their prior is hidden. ``patches`` replace those of the schedule.
    """
    schedule, factor = configuration.schedule, configuration.inputs.factor
    cells = material.part == part
    training = part == Part.TRAIN
    # a patch that ends within a coarse cell would leave a gap to the next, or overlap it
    size = schedule.patch if training or not schedule.patch % factor else configuration.inputs.window
    given = patches is not None
    if patches is None:
        patches = make_patches(material.grid, size, schedule.patch_stride if training else size, factor)
    patches = patches[count_in_patches(census.sum(axis=0) * cells, patches, factor) > 0]
    if not len(patches):
        raise ConfigurationError(f"no patch of {patches.size} cells holds a pixel for {part.name.lower()}")
    augmentation = configuration.augmentation
    if training and not given:
        rows, columns = (
            np.minimum(first + patches.size // 2, cells - 1)
            for first, cells in zip((patches.rows, patches.columns), material.grid.shape, strict=True)
        )
        points = sphere_points(material.grid.latitude[rows], material.grid.longitude[columns])
        patches = patches[farthest_points(points, schedule.candidates, schedule.seed)]
    if not training:
        augmentation = replace(
            NO_AUGMENTATION, prior_masked=augmentation.prior_masked, prior_block=augmentation.prior_block
        )
    return PatchDataset(
        material.source,
        patches,
        cells=cells,
        sequences=_sequences(material.source, configuration.rollout.years),
        augmentation=augmentation,
        seed=schedule.seed,
    )


def make_order(configuration: Configuration, dataset: PatchDataset) -> Order:
    """Return the order of the epochs of a training; where the source has chunks, their samples come together."""
    schedule, source = configuration.schedule, dataset.source
    weights = None
    if schedule.samples or schedule.rare_classes or schedule.sampling != "rare_classes":
        weights = sampling_rule(schedule.sampling)(count_samples(dataset), schedule.rare_classes)
    groups = None
    if source.chunk is not None:
        # maps of all years of a place share its static fields, and each is the target of one and the prior of another
        groups = np.tile(chunk_groups(dataset.patches, source.chunk), len(dataset.sequences))
    return Order(
        len(dataset),
        schedule.seed,
        weights=weights,
        draws=(schedule.samples or len(dataset)) if weights is not None else None,
        groups=groups,
        locality=schedule.locality,
    )


def count_samples(dataset: PatchDataset) -> NDArray[np.int64]:
    """Count the pixels of each class in each sample, ``(samples, classes)``; coarse cells count whole."""
    factor = dataset.source.inputs.factor
    source, patches = dataset.source, dataset.patches
    by_year = np.stack(
        [
            [count_in_patches(counts * dataset.cells, patches, factor) for counts in source.class_counts(year)]
            for year in range(len(source.years))
        ]
    )
    by_sequence = by_year[dataset.sequences].sum(axis=1)
    return np.moveaxis(by_sequence, 1, 2).reshape(len(dataset), -1)


def sample_pixels(dataset: PatchDataset, seed: int, count: int = 100_000) -> tuple[Tensor, Tensor]:
    """Coarse and static channels at random pixels that count, ``(channels, about count)`` each."""
    random = np.random.default_rng(seed)
    factor = dataset.source.inputs.factor
    items = random.permutation(len(dataset))[:400]
    each = -(-count // len(items))
    coarse, static = [], []
    for item in items.tolist():
        place = dataset.places(item)[0]
        (values,) = dataset.source.read([place])
        cells = dataset.cells[place.coarse(factor)].repeat(factor, axis=0).repeat(factor, axis=1)
        counted = (values["target"] != MASKED) & cells[: dataset.patches.size, : dataset.patches.size]
        row, column = np.nonzero(counted)
        chosen = random.permutation(len(row))[:each]
        row, column = row[chosen], column[chosen]
        coarse.append(values["coarse"][:, row // factor, column // factor])
        static.append(values["static"][:, row, column])
    return torch.from_numpy(np.concatenate(coarse, axis=1)), torch.from_numpy(np.concatenate(static, axis=1))


def describe_items(dataset: PatchDataset, items: list[int]) -> str:
    """Name patches by their rows and columns on the fine grid, counted from the north-west, and their years."""
    named = []
    for item in items:
        places = dataset.places(item)
        (rows, columns), years = places[0][1:], listed([dataset.source.years[place.year] for place in places])
        named.append(f"rows {rows.start}-{rows.stop - 1}, columns {columns.start}-{columns.stop - 1}, {years}")
    return "; ".join(named)


def _sequences(source: PatchSource, length: int) -> NDArray[np.intp]:
    """Positions of maps that follow each other at one interval, in the direction in which a prior leads on."""
    position = {each: number for number, each in enumerate(zip(source.years, source.intervals, strict=True))}
    step = -source.inputs.prior_step
    runs = [
        [(year + step * interval * ahead, interval) for ahead in range(length)]
        for year, interval in zip(source.years, source.intervals, strict=True)
    ]
    found = [[position[each] for each in run] for run in runs if all(each in position for each in run)]
    if not found:
        raise TimeError(
            f"samples of {length} consecutive maps need as many years in a row; there are {listed(source.years)}"
        )
    return np.array(found, dtype=np.intp)
