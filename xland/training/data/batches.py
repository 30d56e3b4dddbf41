"""The batches of a training for people who bring their own model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from xland.arguments import checked
from xland.errors import ConfigurationError, TimeError
from xland.geo.split import Part
from xland.models import DEFAULT_MODEL, find_model
from xland.models.checkpoint import Checkpoint
from xland.models.inputs import InputSpec
from xland.models.networks.architecture import Architecture
from xland.training.augmentation import NO_AUGMENTATION, Augmentation
from xland.training.configuration import Configuration, Data, Schedule
from xland.training.data.labelled import LabelledBatches
from xland.training.data.material import Material, gather
from xland.training.data.patches import make_patches, patches_from
from xland.training.data.samples import make_dataset, make_order, take_census
from xland.training.data.sampling import Order, RankSampler
from xland.training.rollout import Rollout

PartName = Literal["train", "validation", "test"]


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
    augmentation: Augmentation = NO_AUGMENTATION,
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
        :func:`xland.train`. Values are held in memory.
    inputs : InputSpec, optional
        Channels; their normalisation is measured on the training cells.
    model : str, path or Checkpoint, optional
        A model whose channels are taken instead; by default the shipped one.
    patch, stride : int, optional
        Fine cells along a patch, and from one to the next (in "validation" and "test" patches do not
        overlap); by default those of the inputs' windows.
    generator : xbatcher.BatchGenerator, optional
        Over fields on the fine grid: its batches are the patches, in place of those; see
        :func:`xland.training.data.patches.patches_from`. Patches without a pixel that counts are left out.
    batch : int
        Samples a batch, of all ranks together; batches of an epoch differ by one at most.
    part : "train", "validation", "test" or None
        Whose cells count, see :func:`xland.geo.split.assign_cells`; None counts all cells with data.
    years : int or sequence of int, optional
        Calendar years of the maps; by default all that forcing and target share.
    seed, epoch : int
        Of the order of training samples and of random changes.
    split_seed : int
        Seed of the split.
    candidates, samples : int
        Patches to choose evenly from all with training pixels, and how many samples to draw an epoch, 0 for
        each once, as in ``[schedule]`` of a configuration.
    rare_classes : float
        How much more often samples with rare classes are drawn, from 0 to 1.
    augmentation : Augmentation
        Random changes of training samples; in "validation" and "test", only the prior is hidden. None by
        default.
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
    wanted = _whole(years)
    # a generator makes patches of its own; the smallest are always in order
    own = (
        (2 * inputs.factor, inputs.factor)
        if generator is not None
        else (patch or inputs.window, stride or inputs.stride)
    )
    configuration = Configuration(
        name="batches",
        title="Batches for another model",
        data=Data(forcing="given", target="given", static="given", forcing_years=wanted, target_years=wanted),
        inputs=inputs,
        architecture=Architecture(depth=1),
        augmentation=augmentation,
        schedule=Schedule(
            batch=batch,
            patch=own[0],
            patch_stride=own[1],
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

    Parameters
    ----------
    configuration : Configuration
        With normalised inputs. Years that it rolls out over come one by one.
    material : Material
        What it learns from, in memory (:func:`xland.training.data.material.gather`) or in a training store
        (:func:`xland.training.data.gathering.stored_material`).
    part, generator, rank, ranks
        As for :func:`make_batches`.
    """
    if part is not None and (not isinstance(part, str) or part not in _PARTS):
        raise ConfigurationError(f"there is no part {part!r} of the split: choose one of {', '.join(_PARTS)}, or None")
    schedule, factor = configuration.schedule, configuration.inputs.factor
    patches = None
    if generator is not None:
        patches = patches_from(generator, material.grid, factor)
    elif part is None:
        patches = make_patches(material.grid, schedule.patch, schedule.patch_stride, factor)
    if part is None:
        material = replace(material, part=np.full_like(material.part, Part.TRAIN))
    configuration = replace(configuration, rollout=Rollout())
    chosen = Part.TRAIN if part is None else _PARTS[part]
    dataset = make_dataset(configuration, material, chosen, take_census(material.source), patches)
    order = make_order(configuration, dataset) if part == "train" else _InOrder(len(dataset))
    return LabelledBatches(dataset, material.grid, RankSampler(order, schedule.batch, rank=rank, ranks=ranks))


_PARTS = {"train": Part.TRAIN, "validation": Part.VALIDATION, "test": Part.TEST}


@dataclass(frozen=True)
class _InOrder(Order):
    """Samples as they come."""

    def epoch(self, number: int) -> NDArray[np.intp]:  # noqa: ARG002
        return np.arange(self.items)


def _whole(years: int | Sequence[int] | None) -> tuple[int, ...]:
    values = np.atleast_1d([] if years is None else np.asarray("" if isinstance(years, xr.Dataset) else years))
    if values.size and values.dtype.kind not in "iu":
        raise TimeError(f"years={years!r}: give calendar years as a whole number or a list of them")
    return tuple(values.tolist())
