"""Batches as xarray Datasets, for models that are not ours."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from torch import Tensor

from xland.errors import ConfigurationError
from xland.geo.grid import Grid
from xland.models.inputs import MASKED, InputSpec
from xland.training.data.loader import PatchDataset
from xland.training.data.sampling import RankSampler, Sample

_DIMS = {
    "coarse": ("sample", "coarse_channel", "coarse_y", "coarse_x"),
    "static": ("sample", "channel", "y", "x"),
    "target": ("sample", "y", "x"),
    "prior": ("sample", "y", "x"),
}
_LATITUDE = {"standard_name": "latitude", "units": "degrees_north"}
_LONGITUDE = {"standard_name": "longitude", "units": "degrees_east"}


class LabelledBatches:
    """The batches of one epoch, read when they are asked for.

    Each is a Dataset of some samples, a patch of one year each: ``coarse`` (sample, coarse_channel,
    coarse_y, coarse_x), ``static`` (sample, channel, y, x), ``target`` (sample, y, x) and, for inputs with
    one, ``prior`` (sample, y, x). Coarse and static channels are normalised; target and prior are class
    codes, 255 where a pixel does not count or is not known. Coordinates tell the ``year`` of each sample,
    the names of channels, ``lat`` and ``lon`` of its cells and ``coarse_lat`` and ``coarse_lon`` of its
    coarse cells. (Where samples are mirrored at random, the coordinates of that direction are left out.)

    Parameters
    ----------
    dataset : PatchDataset
        Of single years.
    grid : Grid
        Its fine grid.
    sampler : RankSampler
        What each batch takes.

    Raises
    ------
    ConfigurationError
        If samples are of several years.
    """

    def __init__(self, dataset: PatchDataset, grid: Grid, sampler: RankSampler) -> None:
        if dataset.sequences.shape[1] != 1:
            raise ConfigurationError(
                f"samples of {dataset.sequences.shape[1]} years have no labels; take each year alone"
            )
        self.dataset = dataset
        self.grid = grid
        self.sampler = sampler

    @property
    def inputs(self) -> InputSpec:
        """Channels and their normalisation."""
        return self.dataset.source.inputs

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that is iterated next: the order of its samples, and their random changes."""
        self.sampler.set_epoch(epoch)

    def __len__(self) -> int:
        """Return the number of batches."""
        return len(self.sampler)

    def __iter__(self) -> Iterator[xr.Dataset]:
        """Yield one Dataset a batch."""
        for batch in self.sampler:
            yield self._label(batch)

    def _label(self, batch: Sequence[Sample]) -> xr.Dataset:
        samples = self.dataset.__getitems__(batch)
        stacked = {name: _stack([sample[name] for sample in samples]) for name in _DIMS if name in samples[0]}
        codes = {
            "flag_values": np.arange(len(self.inputs.classes), dtype=np.uint8),
            "flag_meanings": " ".join(self.inputs.classes),
            "missing_value": np.uint8(MASKED),
        }
        attributes: dict[str, dict[str, Any]] = {"target": codes, "prior": codes}
        variables = {name: (_DIMS[name], values, attributes.get(name, {})) for name, values in stacked.items()}
        return xr.Dataset(variables, self._coordinates(batch))

    def _coordinates(self, batch: Sequence[Sample]) -> dict[str, Any]:
        inputs, source = self.inputs, self.dataset.source
        steps = [(channel.name, step) for step in inputs.steps for channel in inputs.coarse]
        places = [self.dataset.places(sample.item)[0] for sample in batch]
        coordinates: dict[str, Any] = {
            "coarse_channel": [f"{name}{step:+d}" if step else name for name, step in steps],
            "channel": [channel.name for channel in inputs.static],
            "year": ("sample", [source.years[place.year] for place in places]),
        }
        coarse = [place.coarse(inputs.factor) for place in places]
        coarse_grid = self.grid.coarsen(inputs.factor)
        changes = self.dataset.augmentation
        if not changes.flip_north_south:
            lines = _cut(self.grid.latitude, [place.rows for place in places])
            coordinates["lat"] = (("sample", "y"), lines, _LATITUDE)
            lines = _cut(coarse_grid.latitude, [rows for rows, _ in coarse])
            coordinates["coarse_lat"] = (("sample", "coarse_y"), lines, _LATITUDE)
        if not changes.flip:
            lines = _cut(self.grid.longitude, [place.columns for place in places])
            coordinates["lon"] = (("sample", "x"), lines, _LONGITUDE)
            lines = _cut(coarse_grid.longitude, [columns for _, columns in coarse])
            coordinates["coarse_lon"] = (("sample", "coarse_x"), lines, _LONGITUDE)
        return coordinates


def _stack(samples: list[Tensor]) -> NDArray[Any]:
    return np.stack([sample.numpy() for sample in samples])


def _cut(labels: NDArray[np.float64], cells: list[slice]) -> NDArray[np.float64]:
    return np.stack([labels[each] for each in cells])
