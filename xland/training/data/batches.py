"""The batches of a training for people who bring their own model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from xland.arguments import checked
from xland.errors import ConfigurationError, TimeError
from xland.geo.grid import Grid
from xland.geo.split import Part
from xland.models import DEFAULT_MODEL, find_model
from xland.models.checkpoint import Checkpoint
from xland.models.inputs import MASKED, InputSpec
from xland.models.networks.architecture import Architecture
from xland.training.configuration import NO_AUGMENTATION, Augmentation, Configuration, Data, Schedule
from xland.training.data.loader import PatchDataset
from xland.training.data.material import Material, gather
from xland.training.data.patches import make_patches, patches_from
from xland.training.data.samples import make_dataset, make_order, take_census
from xland.training.data.sampling import Order, RankSampler, Sample
from xland.training.rollout import Rollout
from xland.vocabulary import flag_attributes

PartName = Literal["train", "validation", "test"]

_DIMS = {
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
    one, ``prior`` (sample, y, x). Coarse and static channels are normalised; target and prior are class
    codes, 255 where a pixel does not count or is not known. Coordinates give the ``year`` of each sample,
    the names of channels, ``lat`` and ``lon`` of its cells and ``coarse_lat`` and ``coarse_lon`` of its
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
            variables = {
                name: (dims, np.stack([each[name].numpy() for each in samples]), {} if "channel" in dims[1] else codes)
                for name, dims in _DIMS.items()
                if name in samples[0]
            }
            yield xr.Dataset(variables, self._coordinates(batch))

    def _coordinates(self, batch: Sequence[Sample]) -> dict[str, Any]:
        inputs, changes = self.inputs, self.dataset.augmentation
        places = [self.dataset.places(sample.item)[0] for sample in batch]
        coarse = [place.coarse(inputs.factor) for place in places]
        low = self.grid.coarsen(inputs.factor)
        steps = [(channel.name, step) for step in inputs.steps for channel in inputs.coarse]
        coordinates: dict[str, Any] = {
            "coarse_channel": [f"{name}{step:+d}" if step else name for name, step in steps],
            "channel": [channel.name for channel in inputs.static],
            "year": ("sample", [self.dataset.source.years[place.year] for place in places]),
        }

        latitude = {"standard_name": "latitude", "units": "degrees_north"}
        longitude = {"standard_name": "longitude", "units": "degrees_east"}
        labels: list[tuple[str, str, NDArray[np.float64], list[slice], dict[str, str]]] = []
        if not changes.flip_north_south:
            labels += [
                ("lat", "y", self.grid.latitude, [place.rows for place in places], latitude),
                ("coarse_lat", "coarse_y", low.latitude, [rows for rows, _ in coarse], latitude),
            ]
        if not changes.flip:
            labels += [
                ("lon", "x", self.grid.longitude, [place.columns for place in places], longitude),
                ("coarse_lon", "coarse_x", low.longitude, [columns for _, columns in coarse], longitude),
            ]
        for name, dim, along, cells, attributes in labels:
            coordinates[name] = (("sample", dim), np.stack([along[each] for each in cells]), attributes)
        return coordinates
