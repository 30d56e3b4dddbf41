"""Short trainings with the recipe of a configuration, and scores of what they learned, cell by cell of the split."""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray

from xland.geo.grid import aggregate
from xland.geo.split import CELL_COLUMNS, Part, cell_of
from xland.models.inputs import MASKED, InputSpec
from xland.models.networks.unet import DownscalingNetwork
from xland.training.configuration import Configuration
from xland.training.data.loader import Place, TrainingArrays, make_loader
from xland.training.data.material import Material, gather
from xland.training.data.patches import Patches
from xland.training.data.samples import make_dataset, make_order, sample_pixels, take_census
from xland.training.data.sampling import RankSampler
from xland.training.learn.group import Group
from xland.training.learn.steps import Stepper, call, make_optimizer, one_cycle, set_rate, update_average

EVERY = 7
"""Of the pixels that count, one in so many is judged: no multiple of a patch's width or of the factor."""

_AT_ONCE = 4
"""Static fields that are read together, each three times in memory until it is normalised."""


class Counted(TrainingArrays):
    """Arrays in memory whose classes are counted once for all trainings."""

    @cached_property
    def _counts(self) -> list[NDArray[np.int64]]:
        return [TrainingArrays.class_counts(self, year) for year in range(len(self.years))]

    def class_counts(self, year: int) -> NDArray[np.int64]:
        return self._counts[year].copy()


@dataclass(frozen=True)
class Narrowed:
    """A source of which only some channels are read."""

    whole: TrainingArrays
    inputs: InputSpec

    chunk = None

    @property
    def years(self) -> tuple[int, ...]:
        return self.whole.years

    @property
    def shape(self) -> tuple[int, int]:
        return self.whole.shape

    @property
    def hashes(self) -> Mapping[str, str]:
        return self.whole.hashes

    def read(self, places: Sequence[Place]) -> list[dict[str, NDArray[Any]]]:
        coarse, static = (_positions(self.whole.inputs, self.inputs, kind) for kind in ("coarse", "static"))
        steps = np.arange(len(self.inputs.steps))[:, None] * len(self.whole.inputs.coarse)
        samples = self.whole.read(places)
        for sample in samples:
            sample["coarse"] = sample["coarse"][(steps + coarse).ravel()]
            sample["static"] = sample["static"][static]
        return samples

    def class_counts(self, year: int) -> NDArray[np.int64]:
        return self.whole.class_counts(year)


@dataclass(frozen=True)
class Judged:
    """What a network says of a sample of pixels."""

    scores: NDArray[np.float32]
    target: NDArray[np.uint8]
    place: NDArray[np.int64]
    prior: NDArray[np.uint8] | None = None


def load(configuration: Configuration, opened: Mapping[str, Any]) -> tuple[Configuration, Material]:
    """Gather what a configuration learns from, a few static fields at a time, so that many need little memory."""
    inputs = configuration.inputs
    fields: NDArray[np.float16] | None = None
    normalised: dict[str, tuple[float, float]] = {}
    for first in range(0, len(inputs.static), _AT_ONCE):
        some = replace(inputs, static=inputs.static[first : first + _AT_ONCE])
        part, material = gather(replace(configuration, inputs=some), **opened)
        source = material.source
        assert isinstance(source, TrainingArrays)
        if fields is None:
            fields = np.empty((len(inputs.static), *source.shape), dtype=np.float16)
        fields[first : first + _AT_ONCE] = source.static
        normalised |= {each.name: (each.mean, each.scale) for each in (*part.inputs.coarse, *part.inputs.static)}
    inputs = inputs.normalised(normalised)
    assert fields is not None
    whole = Counted(inputs, source.years, source.coarse, fields, source.target, source.prior)
    return replace(configuration, inputs=inputs), replace(material, source=whole)


def narrow(material: Material, inputs: InputSpec) -> Material:
    """Return the material with some of its channels only."""
    source = material.source
    assert isinstance(source, TrainingArrays)
    return replace(material, source=Narrowed(source, _normalised_as(source.inputs, inputs)))


def coarsened(forcing: xr.Dataset, factor: int, area: NDArray[np.float64]) -> xr.Dataset:
    """Average a forcing of fractions over blocks of cells; NaN where all of a block are."""

    def mean(values: NDArray[Any]) -> NDArray[np.float32]:
        known = aggregate(np.isfinite(values), factor) > 0
        means = aggregate(np.nan_to_num(values), factor, area[:, None])
        return np.where(known, means, np.nan).astype(np.float32)

    place = {name: forcing[name].values.reshape(-1, factor).mean(axis=1).astype(np.float64) for name in ("lat", "lon")}
    dims = ("time", "lat", "lon")
    return xr.Dataset(
        {
            str(name): (dims, mean(values.transpose(*dims).values), values.attrs)
            for name, values in forcing.data_vars.items()
            if set(dims) <= set(values.dims)
        },
        {"time": forcing["time"], **place},
    )


def choose_patches(configuration: Configuration, material: Material) -> Patches:
    """Choose the patches that the schedule learns from, once for all trainings."""
    return make_dataset(configuration, material, Part.TRAIN, take_census(material.source)).patches


def learn(
    configuration: Configuration, material: Material, patches: Patches, *, steps: int, seed: int = 0
) -> tuple[DownscalingNetwork, float]:
    """Train as :func:`xland.training.learn.loop.fit` does, but for so many steps in one epoch."""
    started = time.process_time()
    schedule = replace(configuration.schedule, samples=steps * configuration.schedule.batch, seed=seed)
    configuration = replace(configuration, schedule=schedule)
    census = take_census(material.source)
    train = make_dataset(configuration, material, Part.TRAIN, census, patches)
    sampler = RankSampler(make_order(configuration, train), schedule.batch)
    torch.manual_seed(seed)
    network = DownscalingNetwork(configuration.inputs, configuration.architecture)
    if network.needs_bins:
        network.fit_bins(*sample_pixels(train, seed))
    average = copy.deepcopy(network)
    optimizer = make_optimizer(network, schedule.learning_rate, schedule.weight_decay)
    weights = configuration.objective.class_weights(census[:, material.part == Part.TRAIN].sum(axis=1))
    stepper = Stepper(network, optimizer, configuration, weights, Group())
    for step, samples in enumerate(make_loader(train, sampler)):
        set_rate(optimizer, schedule.learning_rate * one_cycle(step / steps, schedule.warmup))
        loss, _ = stepper.take(samples, whole=sampler.batch_size(step), step=step)
        assert torch.isfinite(loss), f"the loss is {loss} in step {step}"
        update_average(average, network, min(schedule.averaging, (2 + step) / (11 + step)))
    return average.eval(), time.process_time() - started


def judge(
    network: DownscalingNetwork,
    configuration: Configuration,
    material: Material,
    cells: NDArray[np.bool_],
    *,
    every: int = EVERY,
) -> Judged:
    """Let a network say what some coarse cells hold, at one in ``every`` of the pixels that count."""
    part = np.where(cells, np.int8(Part.VALIDATION), np.int8(Part.NONE))
    dataset = make_dataset(configuration, replace(material, part=part), Part.VALIDATION, take_census(material.source))
    grid, size = material.grid, dataset.patches.size
    cell_rows, _ = cell_of(grid.latitude, np.zeros(grid.rows))
    _, cell_columns = cell_of(np.zeros(grid.columns), grid.longitude)
    found: list[tuple[NDArray[Any], ...]] = []
    network.eval()
    for item in range(len(dataset)):
        sample = dataset[item]
        target = sample["target"].numpy().ravel()
        chosen = np.flatnonzero(target != MASKED)[::every]
        if not chosen.size:
            continue
        batch = {name: values[None] for name, values in sample.items()} | {"points": torch.from_numpy(chosen)[None]}
        with torch.inference_mode():
            scores = call(network, batch)[0].T.float().numpy()
        place = dataset.places(item)[0]
        row, column = place.rows.start + chosen // size, place.columns.start + chosen % size
        prior = sample["prior"].numpy().ravel()[chosen] if "prior" in sample else np.zeros(0, np.uint8)
        found.append((scores, target[chosen], cell_rows[row] * CELL_COLUMNS + cell_columns[column], prior))
    scores, target, where, prior = (np.concatenate(each) for each in zip(*found, strict=True))
    return Judged(scores, target, where, prior if prior.size else None)


def _positions(whole: InputSpec, some: InputSpec, kind: str) -> NDArray[np.intp]:
    names = [channel.name for channel in getattr(whole, kind)]
    return np.array([names.index(channel.name) for channel in getattr(some, kind)], dtype=np.intp)


def _normalised_as(whole: InputSpec, some: InputSpec) -> InputSpec:
    return some.normalised({each.name: (each.mean, each.scale) for each in (*whole.coarse, *whole.static)})
